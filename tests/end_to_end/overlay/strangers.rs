//! Who is not in the file does not get in.

use std::io::ErrorKind;
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
        let other =
            "[networks.plain]\nsubnet = \"10.40.0.0/24\"\n[containers.b2]\nhost = \"b\"\nnetworks = [\"plain\"]\n";
        cluster.apply(&format!("{}{other}", file("switched", 2, 1)));
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
        // Nor one that a container sends: to its own host, or from another one, which would lend it its address.
        for from in ["a1", "b1", "b2"] {
            send(&cluster.space(from));
        }
        assert!(!arrives(Duration::from_millis(300)));
        // To other ports containers send as before.
        let other = container.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let at = cluster.world.enter(|| UdpSocket::bind("192.0.2.99:4789").unwrap());
        let plain = cluster.world.enter(|| UdpSocket::bind("192.0.2.99:4790").unwrap());
        other.send_to(b"tunnel", "192.0.2.99:4789").unwrap();
        other.send_to(b"plain", "192.0.2.99:4790").unwrap();
        plain.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(plain.recv(&mut [0; 64]).unwrap(), 5);
        at.set_nonblocking(true).unwrap();
        assert_eq!(at.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn what_is_on_no_host_leaves_by_no_default_route() {
    in_cluster(2, |cluster| {
        for host in &cluster.hosts {
            host.sh("ip route add default via 192.0.2.99; ip -6 route add default via 2001:db8::99");
        }
        let watch = "nft 'table inet seen { counter left { }; chain in { type filter hook prerouting priority 0; ip daddr \
                     10.30.77.5 counter name left; ip6 daddr fd30:0:0:77::5 counter name left; }; }'";
        cluster.world.sh(watch);
        for topology in ["routed", "direct"] {
            let file = file(topology, 2, 1);
            cluster.apply(&file);
            cluster.expect(
                "a1 tcp 10.30.77.5:80 -> unreachable (No route to host)
                 a1 tcp [fd30:0:0:77::5]:80 -> unreachable (Network is unreachable)
                 a tcp 10.30.77.5:80 -> unreachable (No route to host)",
            );
            for host in &cluster.hosts {
                host.destroy(&file);
            }
        }
        assert!(cluster.world.sh("nft list counters table inet seen").contains("packets 0 "));
    });
}

#[test]
fn nobody_borrows_an_address_to_enter_by_a_shared_link() {
    in_cluster(2, |cluster| {
        let more = "internal = true\n[networks.plain]\nsubnet = \"10.40.0.0/24\"\nmode = \"routed\"\n\
                    [containers.a9]\nhost = \"a\"\nnetworks = [\"plain\"]\n";
        let (list, _) = super::containers(2, 1);
        let file = format!("{}{}{more}{list}", super::hosts(2, false), super::wide("direct"));
        cluster.apply(&file);
        let target = cluster.space("b1").sh("ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1");
        let target = format!("{}:80", target.trim());
        let listening = cluster.space("b1").enter(|| UdpSocket::bind(&target).unwrap());
        listening.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let send = |from: &Space, own: &str| {
            let socket = from.enter(|| UdpSocket::bind((own, 0)).unwrap());
            socket.send_to(b"!", &target).unwrap();
        };
        let borrower = cluster.space("a9");
        borrower.sh("ip addr add 10.30.1.99/32 dev eth0");
        cluster.hosts[0].set_sysctl("net/ipv4/conf/all/rp_filter", "0");
        cluster.hosts[0].set_sysctl("net/ipv4/conf/nr-plain/rp_filter", "0");
        send(&borrower, "10.30.1.99");
        // The network's own container gets there, and so would the one before it have.
        send(&cluster.space("a1"), "0.0.0.0");
        assert!(listening.recv(&mut [0; 8]).is_ok());
        listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(listening.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}
