//! Who is not in the file does not get in.

use std::net::UdpSocket;
use std::time::Duration;

use super::{file, in_cluster};
use crate::lab::{Machine, Space};

/// What a container's interface is called, by which others know it.
fn mac(container: &Space) -> [u8; 6] {
    let text = container.sh("ip -o link show dev eth0 | grep -o 'link/ether [0-9a-f:]*' | cut -d' ' -f2");
    let mut bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    std::array::from_fn(|_| bytes.next().unwrap())
}

/// A VXLAN packet (RFC 7348) around a datagram from 10.30.0.200 to a container's port 80.
fn forged(vni: u32, to: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    packet.extend(to);
    packet.extend([2, 0, 0, 0, 0, 0x99, 0x08, 0x00]);
    let payload = b"forged";
    let udp = 8 + payload.len();
    let mut header = vec![0x45, 0, 0, u8::try_from(20 + udp).unwrap(), 0, 1, 0, 0, 64, 17, 0, 0, 10, 30, 0, 200];
    header.extend(ip);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(header);
    packet.extend([0x12, 0x34, 0, 80]);
    packet.extend(u16::try_from(udp).unwrap().to_be_bytes());
    packet.extend([0, 0]); // IPv4 needs no checksum of UDP's
    packet.extend(payload);
    packet
}

#[test]
fn a_forged_packet_of_a_stranger_does_not_arrive() {
    in_cluster(2, |cluster| {
        cluster.apply(&file("switched", 2, 1));
        let stranger = Machine::new("stranger");
        cluster.plug_in(&stranger, 66);
        let container = cluster.space("a1");
        let ip = container.sh("ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1");
        let ip: std::net::Ipv4Addr = ip.trim().parse().unwrap();
        let listening = container.enter(|| UdpSocket::bind((ip, 80)).unwrap());
        let packet = forged(4100, mac(&container), ip.octets());
        let send = |from: &Space| {
            let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
            socket.send_to(&packet, "192.0.2.1:4789").unwrap();
        };
        let arrives = |limit| {
            listening.set_read_timeout(Some(limit)).unwrap();
            listening.recv(&mut [0; 64]).is_ok()
        };
        // The same packet from a host of the file arrives: it is well made.
        send(&cluster.space("b"));
        assert!(arrives(Duration::from_secs(30)));
        send(&stranger);
        // What the file's host sends after it arrives, so the other one would have.
        send(&cluster.space("b"));
        assert!(arrives(Duration::from_secs(30)));
        assert!(!arrives(Duration::from_millis(300)));
        // Nor one that a container sends.
        send(&cluster.space("a1"));
        assert!(!arrives(Duration::from_millis(300)));
    });
}
