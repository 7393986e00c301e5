//! SCTP by hand-made packets, since many kernels come without its sockets while nftables and conntrack know it: an INIT goes
//! out, and an INIT ACK comes back whose state cookie says who answered and whom he saw (RFC 9260, 3.3.2 and 3.3.3).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use super::probe::{Answer, Listener, RawSocket, Reply, parse_target};
use super::space::Space;

const PROTOCOL: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const STATE_COOKIE: u16 = 7;
const TAG: u32 = 0x6e65_7472;
/// Common header, chunk header, and the fixed part of INIT and INIT ACK.
const FIXED: usize = 12 + 4 + 16;

impl Space {
    /// Answers every INIT to a port, of both families, with `NAME PEER` in the cookie.
    pub fn listen_sctp(&self, name: &str, port: u16) -> Vec<Listener> {
        [false, true]
            .into_iter()
            .map(|ipv6| {
                let socket = self.enter(|| RawSocket::open(ipv6, PROTOCOL));
                let name = name.to_owned();
                Listener::datagrams(move || {
                    let Some((from, packet)) = socket.receive() else { return };
                    if packet.len() >= FIXED && packet[12] == INIT && packet[2..4] == port.to_be_bytes() {
                        let client = u16::from_be_bytes([packet[0], packet[1]]);
                        let tag = u32::from_be_bytes(packet[16..20].try_into().unwrap());
                        let banner = Answer::banner(&name, from);
                        let _ = socket.send(&message(INIT_ACK, port, client, tag, banner.as_bytes()), from);
                    }
                })
            })
            .collect()
    }

    /// Sends INITs to `ADDRESS:PORT`, and says who answered.
    pub fn sctp(&self, target: &str) -> Reply {
        static PORT: AtomicU16 = AtomicU16::new(30_000);
        let target = parse_target(target);
        let own = PORT.fetch_add(1, Ordering::Relaxed);
        let socket = self.enter(|| RawSocket::open(target.is_ipv6(), PROTOCOL));
        socket.ask(&message(INIT, own, target.port(), 0, &[]), target.ip(), |from: IpAddr, packet: &[u8]| {
            let ours = packet.len() >= FIXED + 4
                && packet[12] == INIT_ACK
                && from == target.ip()
                && packet[..2] == target.port().to_be_bytes()
                && packet[2..4] == own.to_be_bytes()
                && packet[4..8] == TAG.to_be_bytes();
            let length = usize::from(u16::from_be_bytes([*packet.get(FIXED + 2)?, *packet.get(FIXED + 3)?]));
            let cookie = packet.get(FIXED + 4..FIXED + length).filter(|_| ours)?;
            Answer::parse(&String::from_utf8_lossy(cookie))
        })
    }
}

/// An SCTP packet with one INIT or INIT ACK chunk.
fn message(kind: u8, from: u16, to: u16, verification_tag: u32, cookie: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(verification_tag.to_be_bytes());
    packet.extend([0; 4]); // the checksum, below
    let parameter = if cookie.is_empty() { 0 } else { 4 + cookie.len() };
    packet.extend([kind, 0]);
    packet.extend(u16::try_from(20 + parameter).unwrap().to_be_bytes());
    packet.extend(TAG.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes()); // receiver window
    packet.extend([0, 1, 0, 1]); // streams out and in
    packet.extend(1_u32.to_be_bytes()); // initial TSN
    if !cookie.is_empty() {
        packet.extend(STATE_COOKIE.to_be_bytes());
        packet.extend(u16::try_from(parameter).unwrap().to_be_bytes());
        packet.extend(cookie);
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// RFC 9260, appendix A; conntrack calls a packet with a wrong one invalid.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1)))
    })
}
