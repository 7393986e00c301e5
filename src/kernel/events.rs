//! What the kernel tells of changes: links, addresses, routes, neighbours, parameters of forwarding and queueing of the host
//! and of every namespace that it has a number for (a veth's other end gives it one, else netrec does), the host's firewall,
//! and names of namespaces that come and go.
//!
//! What is told says which part of the picture may be another now, not what it is: a burst that does not fit into the receive
//! buffer is lost as a whole, some changes are told along with others only, and reading tells what there is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::ReadError;
use super::netlink::link::{self, RawKind};
use super::netlink::{Attributes, ip_of, u16_at, u32_at};
use super::netns::Id;
use super::nfnetlink::socket::Socket as Nfnetlink;
use super::nftables;
use super::transport::messages;
use crate::state::Mac;

/// `enum rtnetlink_groups`: links, queueing, addresses and routes of both families, what decides on routes, parameters of both
/// families.
const GROUPS: [u32; 11] = [
    1,  // RTNLGRP_LINK
    4,  // RTNLGRP_TC
    5,  // RTNLGRP_IPV4_IFADDR
    7,  // RTNLGRP_IPV4_ROUTE
    8,  // RTNLGRP_IPV4_RULE
    9,  // RTNLGRP_IPV6_IFADDR
    11, // RTNLGRP_IPV6_ROUTE
    19, // RTNLGRP_IPV6_RULE
    24, // RTNLGRP_IPV4_NETCONF
    25, // RTNLGRP_IPV6_NETCONF
    32, // RTNLGRP_NEXTHOP
];
/// `RTNLGRP_NSID`: namespaces get numbers, and are gone with them.
const NUMBERS: u32 = 28;
/// `RTNLGRP_NEIGH`, of the host alone: netrec has neighbours and forwarding databases nowhere else.
const NEIGHBOURS: u32 = 3;
/// Room for a burst; the kernel uses it up only as far as needed.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Bytes of one message at most: the kernel makes one for each change.
const DATAGRAM: usize = 32 * 1024;

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
/// Queueing disciplines, classes, filters, actions, chains of filters.
const TRAFFIC: [std::ops::RangeInclusive<u16>; 3] = [36..=45, 48..=50, 100..=102];
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;
const RTM_NEWNSID: u16 = 88;
const RTM_DELNSID: u16 = 89;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
/// Other names of devices.
const RTM_NEWLINKPROP: u16 = 108;
const RTM_DELLINKPROP: u16 = 109;
const IFF_UP: u32 = 1;
/// `NETCONFA_IFINDEX` (`linux/netconf.h`); negative for all devices, or those to come.
const NETCONFA_IFINDEX: u16 = 1;
/// `NETNSA_NSID` (`linux/net_namespace.h`).
const NETNSA_NSID: u16 = 1;
/// `struct ndmsg`, and where `ndm_state` and `ndm_flags` stand in it.
const NDMSG: usize = 12;
const NDM_STATE: usize = 8;
const NDM_FLAGS: usize = 10;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
const NTF_EXT_LEARNED: u8 = 0x10;
/// `AF_BRIDGE`: a forwarding database's.
const AF_BRIDGE: u8 = 7;
/// `NUD_PERMANENT`, `NUD_NOARP`: entries that somebody made, and not traffic.
const NUD_MADE: u16 = 0x80 | 0x40;

/// Ears on the kernel, from their opening on: one thread waits by them, another takes what was heard when it reads.
#[derive(Debug)]
pub struct Events {
    told: Mutex<Told>,
    /// What is waited for: the sockets, and the table of mounts.
    waited: Vec<OwnedFd>,
}

/// Ears on the host's own namespace, for as long as somebody knows of everything else what becomes of it. Of its firewall and of
/// its neighbours they hear nothing.
#[derive(Debug)]
pub(super) struct HostEars {
    route: Socket,
    buffer: Vec<u8>,
}

impl HostEars {
    /// Begins to listen, in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { route: subscribe(&GROUPS)?, buffer: vec![0; DATAGRAM] })
    }

    /// What may be another than it was when that was last asked, or than at the opening.
    pub(super) fn heard(&mut self) -> Heard {
        let (mut heard, mut known) = (Heard::default(), Known::default());
        if take_from(&self.route, &mut self.buffer, &mut heard, &mut known).is_err() {
            heard.all = true;
        }
        heard
    }
}

/// The sockets, and what has been taken from them.
#[derive(Debug)]
struct Told {
    route: Socket,
    neighbours: Socket,
    nftables: Nfnetlink,
    mounts: Option<File>,
    buffer: Vec<u8>,
    heard: Heard,
    known: Known,
    /// How often more was told than there was room for.
    losses: u64,
}

/// What may be another than it was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Anything: something was lost, or is not understood.
    pub all: bool,
    /// Which names and mounts of namespaces there are.
    pub names: bool,
    /// What netrec may have in namespaces that no name leads to.
    pub others: bool,
    /// All of these namespaces, or they are gone; none of them is the host's.
    pub spaces: BTreeSet<Id>,
    /// The host's devices of these indices.
    pub links: BTreeSet<u32>,
    /// The host's addresses.
    pub addresses: bool,
    /// The host's routes.
    pub routes: bool,
    /// The host's parameters.
    pub parameters: bool,
    /// Neighbours behind the host's devices of these indices, and their forwarding databases.
    pub neighbours: BTreeSet<u32>,
    /// The host's queueing.
    pub queueing: bool,
    /// The host's ruleset; which it is is told by its generation, too.
    pub ruleset: bool,
}

impl Heard {
    /// Whether all is as it was read.
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose a number of a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The host's own.
    Host,
    /// Of one that is read.
    Space(Id),
    /// Of one in which netrec has nothing.
    Nobody,
}

/// What is known when something is heard.
#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<u32, Whose>,
    /// Neighbours and entries of forwarding databases that somebody made: what is told of these matters though it be that
    /// traffic has them now.
    neighbours: HashSet<(u32, IpAddr)>,
    macs: HashSet<Mac>,
    /// Whether neighbours are listened to.
    listening: bool,
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
        let route = subscribe(&GROUPS)?;
        route.add_membership(NUMBERS)?;
        route.set_listen_all_namespaces(true)?;
        let neighbours = subscribe(&[])?;
        let nftables = nftables::generations()?;
        // The system tells of mounts that come and go by the file that lists them (proc_pid_mountinfo(5)).
        let mounts = File::open("/proc/thread-self/mountinfo").ok();
        let mut waited = vec![copy(&route)?, copy(&neighbours)?, nftables.descriptor()?];
        waited.extend(mounts.as_ref().map(copy).transpose()?);
        let (heard, known) = (Heard { all: true, ..Heard::default() }, Known::default());
        let buffer = vec![0; DATAGRAM];
        Ok(Self {
            told: Mutex::new(Told { route, neighbours, nftables, mounts, buffer, heard, known, losses: 0 }),
            waited,
        })
    }

    /// Waits for whatever the kernel tells next, and says whether it may matter. What was lost for want of room may.
    pub fn wait(&self) -> io::Result<bool> {
        let wanted = [PollFlags::POLLIN, PollFlags::POLLIN, PollFlags::POLLIN, PollFlags::POLLPRI];
        let mut fds: Vec<PollFd<'_>> =
            self.waited.iter().zip(wanted).map(|(fd, events)| PollFd::new(fd.as_fd(), events)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mounts = fds.get(3).is_some_and(|fd| fd.any() == Some(true));
        let mut told = self.told();
        told.heard.names |= mounts;
        Ok(told.take()? || mounts)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something may be another than it was read.
    pub(super) fn stirred(&self) -> bool {
        let mut told = self.told();
        told.catch_up();
        !told.heard.is_nothing()
    }

    /// What may be another than it was read: all that has been told up to now. It is taken for read then.
    pub(super) fn heard(&self) -> Heard {
        let mut told = self.told();
        told.catch_up();
        std::mem::take(&mut told.heard)
    }

    /// How often more was told than there was room for.
    pub(super) fn losses(&self) -> u64 {
        self.told().losses
    }

    /// Whose a number is from now on.
    pub(super) fn know(&self, number: u32, whose: Whose) {
        self.told().known.numbers.insert(number, whose);
    }

    /// Whether a number is known to be the host's own.
    pub(super) fn is_host(&self, number: u32) -> bool {
        self.told().known.numbers.get(&number) == Some(&Whose::Host)
    }

    /// Forgets whose numbers are.
    pub(super) fn forget_numbers(&self) {
        self.told().known.numbers.clear();
    }

    /// Listens to neighbours and forwarding databases from now on, or no longer. Says whether it is new.
    pub(super) fn listen_to_neighbours(&self, wanted: bool) -> io::Result<bool> {
        let mut told = self.told();
        if told.known.listening == wanted {
            return Ok(false);
        }
        if wanted {
            told.neighbours.add_membership(NEIGHBOURS)?;
        } else {
            told.neighbours.drop_membership(NEIGHBOURS)?;
        }
        told.known.listening = wanted;
        Ok(wanted)
    }

    /// Which neighbours and entries there are.
    pub(super) fn know_neighbours(&self, neighbours: HashSet<(u32, IpAddr)>, macs: HashSet<Mac>) {
        let known = &mut self.told().known;
        (known.neighbours, known.macs) = (neighbours, macs);
    }
}

impl Told {
    /// Takes all that has been told. A socket that fails is a doubt.
    fn catch_up(&mut self) {
        if let Some(mounts) = &self.mounts {
            let mut fds = [PollFd::new(mounts.as_fd(), PollFlags::POLLPRI)];
            self.heard.names |= poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        }
        if self.take().is_err() {
            self.heard.all = true;
        }
    }

    /// Takes all that has been told by the sockets. Says whether it may matter.
    fn take(&mut self) -> io::Result<bool> {
        let Self { route, neighbours, nftables, buffer, heard, known, losses, .. } = self;
        let mut ruleset = false;
        ruleset |= !nftables.heard(|_| ruleset = true);
        heard.ruleset |= ruleset;
        let mut matters = ruleset;
        for socket in [&*route, &*neighbours] {
            let taken = take_from(socket, buffer, heard, known)?;
            *losses += taken.losses;
            matters |= taken.matters;
        }
        Ok(matters)
    }
}

/// What came of taking what has been told.
#[derive(Default)]
struct Taken {
    /// Whether it may matter.
    matters: bool,
    /// How often more was told than there was room for.
    losses: u64,
}

/// Takes all that has been told by a socket.
fn take_from(socket: &Socket, buffer: &mut [u8], heard: &mut Heard, known: &mut Known) -> io::Result<Taken> {
    let mut taken = Taken::default();
    while let Some(datagram) = receive(socket, buffer)? {
        let Some((number, length)) = datagram else {
            taken.losses += 1;
            (heard.all, taken.matters) = (true, true);
            continue;
        };
        let whose = number.map_or(Some(Whose::Host), |number| known.numbers.get(&number).copied());
        for (header, body) in messages(buffer.get(..length).unwrap_or_default()) {
            taken.matters |= heard.note(known, (number, whose), header.kind, body);
        }
    }
    Ok(taken)
}

/// A datagram that waits: the number of the namespace that it tells of (none for the host's) and its length, or none of
/// these where something was lost.
type Datagram = Option<(Option<u32>, usize)>;

/// Receives a datagram, if one waits.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut control = nix::cmsg_space!(libc::c_int);
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) if message.flags.contains(MsgFlags::MSG_TRUNC) => return Ok(Some(None)),
            Ok(message) => {
                let number = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::Unknown(unknown)
                        if unknown.cmsg_header.cmsg_level == libc::SOL_NETLINK
                            && unknown.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID =>
                    {
                        u32_at(&unknown.data_bytes, 0)
                    }
                    _ => None,
                });
                return Ok(Some(Some((number, message.bytes))));
            }
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => return Ok(Some(None)),
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl Heard {
    /// Notes what a message tells of a namespace: by its number, none for the host's, and whose that is as far as it is known.
    /// Says whether it may matter.
    fn note(
        &mut self,
        known: &mut Known,
        (number, whose): (Option<u32>, Option<Whose>),
        kind: u16,
        body: &[u8],
    ) -> bool {
        match (whose, number) {
            (Some(Whose::Host), _) => self.note_host(known, kind, body),
            (Some(Whose::Space(id)), _) => {
                self.spaces.insert(id);
                true
            }
            // A device of netrec's, or an end of one that has no mark, may have come there.
            (Some(Whose::Nobody), _) => {
                let may_be_ours = matches!(kind, RTM_NEWLINK | RTM_DELLINK)
                    && link::parse(body).is_none_or(|link| link.is_marked() || link.kind == RawKind::Veth);
                self.others |= may_be_ours;
                may_be_ours
            }
            (None, number) => {
                // Once it has been looked for, nobody's.
                known.numbers.extend(number.map(|number| (number, Whose::Nobody)));
                (self.names, self.others) = (true, true);
                true
            }
        }
    }

    fn note_host(&mut self, known: &mut Known, kind: u16, body: &[u8]) -> bool {
        let index = |at| u32_at(body, at);
        match kind {
            RTM_NEWLINK | RTM_DELLINK => {
                self.links.extend(index(4));
                // With a device that goes down the kernel drops routes and addresses, some of them without a word.
                if kind == RTM_DELLINK || u32_at(body, 8).is_none_or(|flags| flags & IFF_UP == 0) {
                    (self.addresses, self.routes) = (true, true);
                }
            }
            RTM_NEWLINKPROP | RTM_DELLINKPROP => self.links.extend(index(4)),
            // The routes of an address go with it.
            RTM_NEWADDR | RTM_DELADDR => (self.addresses, self.routes) = (true, true),
            RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWRULE | RTM_DELRULE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
                self.routes = true;
            }
            RTM_NEWNEIGH | RTM_DELNEIGH => return self.note_neighbour(known, body),
            RTM_NEWNETCONF | RTM_DELNETCONF => {
                self.parameters = true;
                let attributes = Attributes::new(body.get(4..).unwrap_or_default());
                self.links.extend(attributes.value(NETCONFA_IFINDEX).and_then(|v| u32_at(v, 0)));
            }
            RTM_NEWNSID | RTM_DELNSID => return self.note_number(known, kind, body),
            kind if TRAFFIC.iter().any(|kinds| kinds.contains(&kind)) => {
                self.queueing = true;
                // Whether there is a filter is told along with a device.
                self.links.extend(index(4));
            }
            _ => self.all = true,
        }
        true
    }

    fn note_neighbour(&mut self, known: &Known, body: &[u8]) -> bool {
        let (Some(index), Some(state)) = (u32_at(body, 4), u16_at(body, NDM_STATE)) else { return false };
        let attributes = || Attributes::new(body.get(NDMSG..).unwrap_or_default());
        let mac = || attributes().value(NDA_LLADDR).and_then(|value| value.try_into().ok()).map(Mac);
        let is_known = || match body.first() {
            Some(&AF_BRIDGE) => mac().is_some_and(|mac| known.macs.contains(&mac)),
            _ => attributes().value(NDA_DST).and_then(ip_of).is_some_and(|ip| known.neighbours.contains(&(index, ip))),
        };
        let is_made = state & NUD_MADE != 0 || body.get(NDM_FLAGS).is_some_and(|flags| flags & NTF_EXT_LEARNED != 0);
        if !is_made && !is_known() {
            return false;
        }
        self.neighbours.insert(index);
        self.neighbours.extend(attributes().value(NDA_MASTER).and_then(|value| u32_at(value, 0)));
        true
    }

    /// Notes that a namespace got a number, or is gone along with its number.
    fn note_number(&mut self, known: &mut Known, kind: u16, body: &[u8]) -> bool {
        let attributes = Attributes::new(body.get(4..).unwrap_or_default());
        let Some(number) = attributes.value(NETNSA_NSID).and_then(|value| u32_at(value, 0)) else { return false };
        if kind == RTM_NEWNSID {
            // The number that netrec has just given to one that it knows is no news.
            if known.numbers.contains_key(&number) {
                return false;
            }
            (self.names, self.others) = (true, true);
            return true;
        }
        match known.numbers.remove(&number) {
            Some(Whose::Nobody) => return false,
            Some(Whose::Space(id)) => drop(self.spaces.insert(id)),
            Some(Whose::Host) | None => {}
        }
        (self.names, self.others) = (true, true);
        true
    }
}

fn copy(socket: &impl AsFd) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}

fn subscribe(groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let room = receive_buffer();
    // Beyond the system's limit only with CAP_NET_ADMIN; without, as much as it gives.
    if setsockopt(&socket, sockopt::RcvBufForce, &room).is_err() {
        let _ = setsockopt(&socket, sockopt::RcvBuf, &room);
    }
    groups.iter().try_for_each(|group| socket.add_membership(*group))?;
    Ok(socket)
}

/// Room for a burst, in bytes; in a build for tests as much as `NETREC_EARS` says.
fn receive_buffer() -> usize {
    #[cfg(feature = "fault-injection")]
    if let Some(room) = std::env::var("NETREC_EARS").ok().and_then(|room| room.parse().ok()) {
        return room;
    }
    RECEIVE_BUFFER
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

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes
    }

    fn noted(known: &mut Known, number: Option<u32>, kind: u16, body: &[u8]) -> Heard {
        let mut heard = Heard::default();
        let whose = number.map_or(Some(Whose::Host), |number| known.numbers.get(&number).copied());
        let matters = heard.note(known, (number, whose), kind, body);
        assert_eq!(matters, !heard.is_nothing());
        heard
    }

    #[test]
    fn what_traffic_leaves_behind_is_not_heard() {
        let ip = [10, 0, 0, 1];
        let neighbour = |state: u16| {
            let mut body = vec![0; 12];
            body[4] = 9;
            body[8..10].copy_from_slice(&state.to_ne_bytes());
            body.extend(attribute(NDA_DST, &ip));
            body
        };
        let (reachable, stale, failed, permanent) = (0x02, 0x04, 0x20, 0x80);
        let all = [
            (RTM_NEWNEIGH, neighbour(reachable), false),
            (RTM_NEWNEIGH, neighbour(permanent), true),
            (RTM_NEWNEIGH, neighbour(failed), false),
            (RTM_DELNEIGH, neighbour(stale), false),
            (RTM_DELNEIGH, neighbour(failed), false),
            (RTM_DELNEIGH, neighbour(permanent), true),
        ];
        let mut known = Known::default();
        for (kind, body, wanted) in &all {
            let neighbours = wanted.then_some(9).into_iter().collect();
            assert_eq!(noted(&mut known, None, *kind, body), Heard { neighbours, ..Heard::default() });
        }
        // One that somebody had made is traffic's now, or is removed, for which it fails first.
        known.neighbours.insert((9, ip.into()));
        for (kind, state) in [(RTM_NEWNEIGH, reachable), (RTM_DELNEIGH, failed)] {
            assert_eq!(noted(&mut known, None, kind, &neighbour(state)).neighbours, BTreeSet::from([9]));
        }
        let datagram: Vec<u8> = all.iter().flat_map(|(kind, body, _)| message(*kind, body)).collect();
        for cut in 0..datagram.len() {
            for (header, body) in messages(&datagram[..cut]) {
                Heard::default().note(&mut known, (None, Some(Whose::Host)), header.kind, body);
            }
        }
    }

    #[test]
    fn what_is_told_says_which_part_may_be_another() {
        let id = (4, 77);
        let mut known =
            Known { numbers: HashMap::from([(3, Whose::Space(id)), (4, Whose::Nobody)]), ..Known::default() };
        let space = Heard { spaces: BTreeSet::from([id]), ..Heard::default() };
        let anew = Heard { names: true, others: true, ..Heard::default() };
        let (mut up, mut down) = (vec![0; 16], vec![0; 16]);
        (up[4], up[8], down[4]) = (9, 1, 9);
        let links = BTreeSet::from([9]);
        assert_eq!(noted(&mut known, None, RTM_NEWLINK, &up), Heard { links: links.clone(), ..Heard::default() });
        let silent = Heard { links: links.clone(), addresses: true, routes: true, ..Heard::default() };
        assert_eq!(noted(&mut known, None, RTM_NEWLINK, &down), silent);
        assert_eq!(noted(&mut known, None, RTM_DELLINK, &up), silent);
        assert_eq!(noted(&mut known, None, 36, &up), Heard { links, queueing: true, ..Heard::default() });
        let routes = Heard { routes: true, ..Heard::default() };
        assert_eq!(noted(&mut known, None, RTM_DELROUTE, &[0; 12]), routes);
        assert_eq!(noted(&mut known, None, RTM_DELADDR, &[0; 8]), Heard { addresses: true, ..routes });
        // What is not known may be anything.
        assert_eq!(noted(&mut known, None, 999, &[]), Heard { all: true, ..Heard::default() });
        // Of a namespace: read, of no interest, and never heard of, which is looked for once.
        assert_eq!(noted(&mut known, Some(3), RTM_DELROUTE, &[0; 12]), space);
        assert_eq!(noted(&mut known, Some(4), RTM_DELROUTE, &[0; 12]), Heard::default());
        assert_eq!(noted(&mut known, Some(5), RTM_DELROUTE, &[0; 12]), anew);
        assert_eq!(noted(&mut known, Some(5), RTM_DELROUTE, &[0; 12]), Heard::default());
        // Numbers that are given and taken.
        let number = |number: u32| [vec![0; 4], attribute(NETNSA_NSID, &number.to_ne_bytes())].concat();
        assert_eq!(noted(&mut known, None, RTM_NEWNSID, &number(3)), Heard::default());
        assert_eq!(noted(&mut known, None, RTM_NEWNSID, &number(6)), anew);
        assert_eq!(noted(&mut known, None, RTM_DELNSID, &number(3)), Heard { spaces: space.spaces, ..anew });
        assert_eq!(known.numbers.get(&3), None);
    }
}
