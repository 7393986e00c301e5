//! What the kernel tells of changes: links, addresses, routes, neighbours, parameters of forwarding and queueing of the host
//! and of every namespace that it has a number for (a veth's other end gives it one), and the host's firewall.
//!
//! What is told says that something may be different now, not what: a burst that does not fit into the receive buffer is
//! lost as a whole, and only reading tells what there is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};

use super::ReadError;
use super::netlink::{u16_at, u32_at};

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

/// `struct nlmsghdr`.
const HEADER: usize = 16;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// Where `ndm_state` and `ndm_flags` stand in `struct ndmsg`.
const NDM_STATE: usize = HEADER + 8;
/// `NUD_PERMANENT`, `NUD_NOARP`: entries that somebody made, and not traffic.
const NUD_MADE: u16 = 0x80 | 0x40;
const NUD_FAILED: u16 = 0x20;

/// Ears on the kernel, from their opening on.
#[derive(Debug)]
pub struct Events {
    route: OwnedFd,
    nftables: OwnedFd,
}

/// What was heard in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// How many changes that may matter.
    pub changes: usize,
    /// Whether some were lost.
    pub lost: bool,
}

impl Events {
    /// Begins to listen, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses a socket or a group, and without root `NETLINK_LISTEN_ALL_NSID` (`CAP_NET_BROADCAST`).
    pub fn open() -> Result<Self, ReadError> {
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                ReadError::Permission { what: "the kernel's notifications".to_owned(), reason: error.to_string() }
            }
            _ => ReadError::Other(format!("listen to the kernel's notifications: {error}")),
        };
        let route = subscribe(SockProtocol::NetlinkRoute, &GROUPS).map_err(failed)?;
        option(route.as_fd(), libc::NETLINK_LISTEN_ALL_NSID, 1).map_err(failed)?;
        let nftables = subscribe(SockProtocol::NetlinkNetFilter, &[NFTABLES]).map_err(failed)?;
        Ok(Self { route, nftables })
    }

    /// Waits until something is heard that may matter, at most so long; without a limit for ever.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Heard> {
        let timeout = limit.map_or(PollTimeout::NONE, |limit| limit.try_into().unwrap_or(PollTimeout::MAX));
        let mut fds = [&self.route, &self.nftables].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => self.take(),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What has been heard since the last call, without waiting.
    pub fn take(&self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut buffer = vec![0; DATAGRAM];
        for (fd, matters) in [(&self.route, of_route as fn(&[u8]) -> bool), (&self.nftables, |_| true)] {
            loop {
                match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(len) => heard.changes += messages(&buffer[..len]).filter(|m| matters(m)).count(),
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    Err(Errno::ENOBUFS) => heard.lost = true,
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(heard)
    }
}

impl Heard {
    /// Whether nothing was heard.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Whether a message of the route socket tells of something that somebody did, and not of what traffic leaves behind.
fn of_route(message: &[u8]) -> bool {
    let state = u16_at(message, NDM_STATE).unwrap_or(0);
    match u16_at(message, 4) {
        Some(RTM_NEWNEIGH) => state & NUD_MADE != 0,
        // One that somebody removes has failed first.
        Some(RTM_DELNEIGH) => state & (NUD_MADE | NUD_FAILED) != 0,
        _ => true,
    }
}

/// The messages of one datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = bytes.get(..len).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn subscribe(protocol: SockProtocol, groups: &[u32]) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // Beyond the system's limit only with CAP_NET_ADMIN; without, as much as it gives.
    if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
    for group in groups {
        option(fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, *group)?;
    }
    Ok(fd)
}

/// Sets an option of netlink sockets.
#[allow(unsafe_code)]
fn option(fd: BorrowedFd<'_>, name: libc::c_int, value: u32) -> io::Result<()> {
    // SAFETY: the pointer is to an integer of the size that is told, which the kernel copies.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            name,
            (&raw const value).cast(),
            u32::try_from(size_of::<u32>()).unwrap_or(4),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
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
        let heard: Vec<bool> = messages(&datagram).map(of_route).collect();
        assert_eq!(heard, all.map(|(_, wanted)| wanted));
        for cut in 0..datagram.len() {
            messages(&datagram[..cut]).map(of_route).for_each(drop);
        }
    }
}
