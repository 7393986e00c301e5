//! What the kernel tells of changes: a second apply must be followed by silence.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{MsgFlags, NetlinkAddr, SockProtocol, bind, recv, send, setsockopt, sockopt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::probe::netlink;
use super::space::{Machine, Space};
use super::volatile;

/// The groups of rtnetlink (`enum rtnetlink_groups`) that tell of set-up: links, neighbours, qdiscs, addresses, routes,
/// rules, parameters (netconf), namespace ids, nexthops. Left out are multicast group memberships, prefixes and such.
const GROUPS: [i32; 14] = [1, 3, 4, 5, 6, 7, 8, 9, 11, 19, 24, 25, 28, 32];
/// `NFNLGRP_NFTABLES`.
const NFTABLES: i32 = 7;
/// A link's state is told at most once a second (linkwatch), so silence must be longer than that.
const SILENCE: Duration = Duration::from_millis(1200);
/// IPv6 addresses take up to two seconds until they are found to be free, on a busy machine more.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Listens to a machine's namespace and all that are linked to it, from the moment it is made.
#[derive(Debug)]
pub struct Events {
    route: OwnedFd,
    nftables: OwnedFd,
}

impl Events {
    /// Starts to listen.
    pub fn of(space: &Space) -> Self {
        space.enter(|| {
            let route = subscribe(SockProtocol::NetlinkRoute, &GROUPS);
            // SAFETY: an int of the size told.
            unsafe {
                let on = 1_i32;
                let done = libc::setsockopt(
                    route.as_raw_fd(),
                    libc::SOL_NETLINK,
                    libc::NETLINK_LISTEN_ALL_NSID,
                    (&raw const on).cast(),
                    4,
                );
                assert_eq!(done, 0, "NETLINK_LISTEN_ALL_NSID: {}", io::Error::last_os_error());
            }
            Self { route, nftables: subscribe(SockProtocol::NetlinkNetFilter, &[NFTABLES]) }
        })
    }

    /// What has arrived since the last call, one line each.
    pub fn take(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        for (fd, what) in [(&self.route, "rtnetlink"), (&self.nftables, "nftables")] {
            loop {
                match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(n) => lines.extend(messages(&buffer[..n]).filter_map(|m| describe(what, m))),
                    Err(nix::errno::Errno::EAGAIN) => break,
                    Err(e) => lines.push(format!("{what}: {}", e.desc())), // ENOBUFS: too many
                }
            }
        }
        lines
    }

    /// Asserts that nothing has arrived. What a process changes is told before the call that changes it returns.
    pub fn quiet(&self) {
        let events = self.take();
        assert!(events.is_empty(), "the kernel told of changes:\n{}", events.join("\n"));
    }

    /// Whether nothing comes for as long as [`SILENCE`].
    fn silent(&self) -> bool {
        let start = Instant::now();
        while let Some(left) = SILENCE.checked_sub(start.elapsed()) {
            if self.wait(left) && !self.take().is_empty() {
                return false;
            }
        }
        true
    }

    /// Waits until something arrives, be it volatile; false when nothing does in time.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut fds = [&self.route, &self.nftables].map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: two valid entries.
        unsafe { libc::poll(fds.as_mut_ptr(), 2, i32::try_from(limit.as_millis()).unwrap()) > 0 }
    }
}

impl Machine {
    /// Waits until the kernel's own after-work is over (link states, duplicate address detection), on the machine and in
    /// its named namespaces. Returns the events of a machine at rest.
    pub fn settle(&self) -> Events {
        let start = Instant::now();
        let events = Events::of(self);
        loop {
            // Looked for first: when they end, events follow.
            assert!(start.elapsed() < SETTLE_LIMIT, "no rest within {SETTLE_LIMIT:?}: {:?}", events.take());
            let waits = self.has_tentative();
            events.take();
            if !waits && events.silent() {
                return events;
            }
        }
    }

    /// Whether there is an address that may not be used yet, or a device that has a carrier and does not know it yet.
    fn has_tentative(&self) -> bool {
        let named = self.netns_names().into_iter().map(|n| self.named(&n));
        let spaces: Vec<Space> = named.chain(Some((**self).clone())).collect();
        spaces.iter().any(Space::has_tentative_address)
            || spaces.iter().any(|s| {
                let links = s.run(["ip", "-o", "link", "show", "type", "veth"]);
                links.lines().any(|link| link.contains(",LOWER_UP") && link.contains(" state UNKNOWN "))
            })
    }
}

impl Space {
    /// Whether an address here is not known to be free yet: `IFA_F_TENTATIVE` in the fifth column of `/proc/net/if_inet6`.
    fn has_tentative_address(&self) -> bool {
        const IFA_F_TENTATIVE: u32 = 0x40;
        let addresses = self.enter(|| fs::read_to_string("/proc/thread-self/net/if_inet6")).expect("addresses");
        addresses.lines().any(|address| {
            let flags = address.split_whitespace().nth(4).expect("flags");
            u32::from_str_radix(flags, 16).expect("hexadecimal flags") & IFA_F_TENTATIVE != 0
        })
    }
}

fn subscribe(protocol: SockProtocol, groups: &[i32]) -> OwnedFd {
    let fd = netlink(protocol);
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).expect("binding a netlink socket");
    let _ = setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20));
    for group in groups {
        // SAFETY: an int of the size told.
        let done = unsafe {
            let (level, option) = (libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP);
            libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(group).cast(), 4)
        };
        assert_eq!(done, 0, "netlink group {group}: {}", io::Error::last_os_error());
    }
    fd
}

/// The messages of one datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let message = bytes.get(..length).filter(|m| m.len() >= 16)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// What a message says; none when that is volatile.
fn describe(what: &str, message: &[u8]) -> Option<String> {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    if what == "rtnetlink"
        && let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
    {
        return volatile::is_passing_event(&inner).is_none().then(|| format!("{inner:?}"));
    }
    let text: String = message[16..].iter().map(|b| if b.is_ascii_graphic() { *b as char } else { '.' }).collect();
    Some(format!("{what} message {}: {text}", kind & 0xff))
}

/// The number of the ruleset, which every nftables transaction changes (`NFT_MSG_GETGEN`).
pub fn ruleset_generation(space: &Space) -> u32 {
    const GETGEN: u16 = 10 << 8 | 16;
    let mut request = Vec::new();
    request.extend(20_u32.to_ne_bytes());
    request.extend(GETGEN.to_ne_bytes());
    request.extend(1_u16.to_ne_bytes()); // NLM_F_REQUEST
    request.extend([0; 12]); // sequence, port, nfgenmsg
    let mut answer = [0; 256];
    space.enter(|| {
        let fd = netlink(SockProtocol::NetlinkNetFilter);
        send(fd.as_raw_fd(), &request, MsgFlags::empty()).expect("asking for the ruleset's generation");
        recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("the ruleset's generation");
    });
    // nlmsghdr, nfgenmsg, then NFTA_GEN_ID: big-endian.
    assert_eq!(u16::from_ne_bytes([answer[22], answer[23]]) & 0x3fff, 1, "NFTA_GEN_ID comes first");
    u32::from_be_bytes(answer[24..28].try_into().unwrap())
}
