//! Tells neighbours of an address's Ethernet address, as one who has just got it does: a gratuitous ARP request (RFC 5227,
//! 3), an unsolicited neighbour advertisement (RFC 4861, 7.2.6). By packet sockets: the kernel itself would do it only where
//! `arp_notify` and `ndisc_notify` are set, and would not send from an IPv6 address that it still looks for others of.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::state::{Announcement, Mac};

/// `ETH_P_ARP`
const ARP: u16 = 0x0806;
/// `ETH_P_IPV6`
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const BROADCAST: [u8; 6] = [0xff; 6];
/// What IPv6's all nodes have in Ethernet (RFC 2464, 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// How many sockets are closed at the same time.
const AT_ONCE: usize = 128;

/// Sockets that have sent. To close one takes 20 ms of waiting for all processors (`packet_release`): a thousand one after
/// the other would take 20 s.
#[derive(Default)]
pub(super) struct Sent(Vec<OwnedFd>);

impl Sent {
    /// Tells of addresses in the namespace that the thread is in.
    pub(super) fn send<'a>(&mut self, all: impl Iterator<Item = &'a Announcement>) -> io::Result<()> {
        if self.0.len() >= AT_ONCE {
            self.close();
        }
        // Protocol 0: it receives nothing.
        let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let sent = send(&socket, all);
        self.0.push(socket);
        sent
    }

    /// Closes them while the caller goes on.
    pub(super) fn close_meanwhile(self) {
        // Where there can be no more threads it is this one that waits.
        let _ = thread::Builder::new().name("announced".into()).spawn(move || drop(self));
    }

    fn close(&mut self) {
        // Where there can be no more threads it is this one that waits.
        let close = |socket: OwnedFd| move || drop(socket);
        thread::scope(|scope| {
            for socket in self.0.drain(..) {
                let _ = thread::Builder::new().spawn_scoped(scope, close(socket));
            }
        });
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.close();
    }
}

fn send<'a>(socket: &OwnedFd, all: impl Iterator<Item = &'a Announcement>) -> io::Result<()> {
    for one in all {
        let index = if_nametoindex(one.link.as_str())?;
        match one.address {
            IpAddr::V4(address) => transmit(socket, index, ARP, BROADCAST, &arp(address, one.mac))?,
            IpAddr::V6(address) => transmit(socket, index, IPV6, ALL_NODES_MAC, &advertisement(address, one.mac))?,
        }
    }
    Ok(())
}

/// A request for the sender's own address (RFC 826).
fn arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    // Ethernet and IPv4, addresses of 6 and 4 bytes, request.
    let mut packet = vec![0, 1, 0x08, 0, 6, 4, 0, 1];
    packet.extend(mac.0);
    packet.extend(address.octets());
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

/// An IPv6 packet with a neighbour advertisement to all nodes that overrides what they know.
fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(address.octets());
    // The option of the target's link-layer address, in units of 8 bytes.
    body.extend([2, 1]);
    body.extend(mac.0);
    let length = u8::try_from(body.len()).unwrap_or_default();
    let sum = checksum(&[&address.octets(), &ALL_NODES.octets(), &[0, 0, 0, length, 0, 0, 0, ICMPV6], &body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    // Others drop what may have been forwarded: the hop limit is 255.
    let mut packet = vec![0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    packet.extend(address.octets());
    packet.extend(ALL_NODES.octets());
    packet.extend(body);
    packet
}

/// RFC 1071, over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2)).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

fn transmit(socket: &OwnedFd, index: u32, protocol: u16, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&to);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    };
    // SAFETY: the packet and the address are valid for the lengths told.
    #[allow(unsafe_code, clippy::cast_possible_truncation)]
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_request_for_its_own_address() {
        let wanted = [
            0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, their lengths, request
            2, 0, 0, 0, 0, 7, 10, 20, 0, 10, // from
            0, 0, 0, 0, 0, 0, 10, 20, 0, 10, // to
        ];
        assert_eq!(arp(Ipv4Addr::new(10, 20, 0, 10), MAC), wanted);
    }

    #[test]
    fn an_advertisement_whose_checksum_is_right() {
        let address: Ipv6Addr = "fd20::10".parse().unwrap();
        let packet = advertisement(address, MAC);
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!((&packet[8..24], &packet[24..40]), (&address.octets()[..], &ALL_NODES.octets()[..]));
        let body = &packet[40..];
        assert_eq!(
            (&body[..2], &body[4..8]),
            (&[136, 0][..], &[0x20, 0, 0, 0][..]),
            "overrides, and was not asked for"
        );
        assert_eq!((&body[8..24], &body[24..]), (&address.octets()[..], &[2, 1, 2, 0, 0, 0, 0, 7][..]));
        // A checksum over all that it covers, itself among it, is 0.
        assert_eq!(checksum(&[&packet[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], body]), 0);
    }
}
