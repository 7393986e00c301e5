//! What the kernel tells of changes: links, addresses, routes, neighbours, parameters of forwarding and queueing of the host
//! and of every namespace that it has a number for (a veth's other end gives it one), and the host's firewall.
//!
//! What is told says that something may be different now, not what: a burst that does not fit into the receive buffer is
//! lost as a whole, and only reading tells what there is.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

use super::ReadError;
use super::netlink::u16_at;
use super::transport::messages;

/// `enum rtnetlink_groups`: links, neighbours, queueing, addresses and routes of both families, parameters of both, namespace
/// ids.
const GROUPS: [u32; 10] = [
    1,  // RTNLGRP_LINK
    3,  // RTNLGRP_NEIGH
    4,  // RTNLGRP_TC
    5,  // RTNLGRP_IPV4_IFADDR
    7,  // RTNLGRP_IPV4_ROUTE
    9,  // RTNLGRP_IPV6_IFADDR
    11, // RTNLGRP_IPV6_ROUTE
    24, // RTNLGRP_IPV4_NETCONF
    25, // RTNLGRP_IPV6_NETCONF
    28, // RTNLGRP_NSID
];
/// `NFNLGRP_NFTABLES`.
const NFTABLES: u32 = 7;
/// Room for a burst; the kernel uses it up only as far as needed.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Bytes of one message at most: the kernel makes one for each change.
const DATAGRAM: usize = 32 * 1024;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// Where `ndm_state` and `ndm_flags` stand in `struct ndmsg`.
const NDM_STATE: usize = 8;
/// `NUD_PERMANENT`, `NUD_NOARP`: entries that somebody made, and not traffic.
const NUD_MADE: u16 = 0x80 | 0x40;
const NUD_FAILED: u16 = 0x20;

/// Ears on the kernel, from their opening on.
#[derive(Debug)]
pub struct Events {
    route: Socket,
    nftables: Socket,
}

impl Events {
    /// Begins to listen, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses a socket or a group, and without root `NETLINK_LISTEN_ALL_NSID` (`CAP_NET_BROADCAST`).
    pub fn open() -> Result<Self, ReadError> {
        Self::subscribed().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                ReadError::Permission { what: "the kernel's notifications".to_owned(), reason: error.to_string() }
            }
            _ => ReadError::Other(format!("listen to the kernel's notifications: {error}")),
        })
    }

    fn subscribed() -> io::Result<Self> {
        let route = subscribe(NETLINK_ROUTE, &GROUPS)?;
        route.set_listen_all_namespaces(true)?;
        Ok(Self { route, nftables: subscribe(NETLINK_NETFILTER, &[NFTABLES])? })
    }

    /// Waits for whatever the kernel tells next, and says whether it may matter. What was lost for want of room may.
    pub fn wait(&self) -> io::Result<bool> {
        let mut fds = [&self.route, &self.nftables].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => self.take(),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes all that has been told.
    fn take(&self) -> io::Result<bool> {
        let mut heard = false;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        for (socket, matters) in [(&self.route, of_route as fn(u16, &[u8]) -> bool), (&self.nftables, |_, _| true)] {
            loop {
                buffer.clear();
                match socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                    Ok(_) => heard |= messages(&buffer).any(|(header, body)| matters(header.kind, body)),
                    Err(error) => match error.raw_os_error() {
                        Some(libc::EAGAIN) => break,
                        Some(libc::EINTR) => {}
                        Some(libc::ENOBUFS) => heard = true,
                        _ => return Err(error),
                    },
                }
            }
        }
        Ok(heard)
    }
}

/// Whether a message of the route socket tells of something that somebody did, and not of what traffic leaves behind.
fn of_route(kind: u16, body: &[u8]) -> bool {
    let state = u16_at(body, NDM_STATE).unwrap_or(0);
    match kind {
        RTM_NEWNEIGH => state & NUD_MADE != 0,
        // One that somebody removes has failed first.
        RTM_DELNEIGH => state & (NUD_MADE | NUD_FAILED) != 0,
        _ => true,
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    // Beyond the system's limit only with CAP_NET_ADMIN; without, as much as it gives.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    groups.iter().try_for_each(|group| socket.add_membership(*group))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn what_traffic_leaves_behind_is_not_heard() {
        let neighbour = |kind, state: u16| {
            let mut body = vec![0; 12];
            body[8..10].copy_from_slice(&state.to_ne_bytes());
            message(kind, &body)
        };
        let (reachable, stale, failed, permanent) = (0x02, 0x04, 0x20, 0x80);
        let all = [
            (neighbour(RTM_NEWNEIGH, reachable), false),
            (neighbour(RTM_NEWNEIGH, permanent), true),
            (neighbour(RTM_NEWNEIGH, failed), false),
            (neighbour(RTM_DELNEIGH, stale), false),
            (neighbour(RTM_DELNEIGH, failed), true),
            (neighbour(RTM_DELNEIGH, permanent), true),
            (message(16, &[0; 16]), true),
        ];
        let datagram: Vec<u8> = all.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let heard: Vec<bool> = messages(&datagram).map(|(header, body)| of_route(header.kind, body)).collect();
        assert_eq!(heard, all.map(|(_, wanted)| wanted));
        for cut in 0..datagram.len() {
            messages(&datagram[..cut]).map(|(header, body)| of_route(header.kind, body)).for_each(drop);
        }
    }
}
