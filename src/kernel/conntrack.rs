//! Connection tracking over nfnetlink: the flows that a change leaves behind are forgotten, so that their next packet is
//! judged anew.
//!
//! All entries are listed once, and each is judged here: the kernel can leave out entries by protocol, port and status,
//! but which of the rules ask for what says too little of that. An entry is deleted by its tuple, zone and number together,
//! so that none is hit that took its place. Message formats are those of `linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

use ipnetwork::IpNetwork;
use nix::libc;

use super::StepError;
use super::fault::Writes;
use super::netlink::ip_of;
use super::nfnetlink::socket::{Socket, Trouble, in_words};
use super::nfnetlink::wire::{Attribute, Attributes, Fault, Message, NESTED, Writer};
use crate::state::{End, Flow};

/// `NFNL_SUBSYS_CTNETLINK`, the high byte of its messages' types.
const SUBSYSTEM: u16 = 1 << 8;
const CT_NEW: u16 = SUBSYSTEM;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;

// enum ctattr_type
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
// enum ctattr_tuple
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
// enum ctattr_ip
const IPV4_SRC: u16 = 1;
const IPV4_DST: u16 = 2;
const IPV6_SRC: u16 = 3;
const IPV6_DST: u16 = 4;
// enum ctattr_l4proto
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
// enum ip_conntrack_status
const EXPECTED: u32 = 1;
const SEEN_REPLY: u32 = 1 << 1;

/// How often it is tried when answers were lost, a call was interrupted or a dump torn. What was deleted before stays so.
const TRIES: usize = 5;
/// Messages per send.
const BATCH: usize = 128;

/// The addresses that packets to this host have.
#[derive(Debug, Default)]
pub(super) struct Local {
    addresses: HashSet<IpAddr>,
    prefixes: Vec<IpNetwork>,
}

impl Local {
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip) || self.prefixes.iter().any(|net| net.contains(ip))
    }
}

impl FromIterator<IpNetwork> for Local {
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(nets: I) -> Self {
        let mut local = Self::default();
        for net in nets {
            if net.prefix() == if net.is_ipv6() { 128 } else { 32 } {
                local.addresses.insert(net.ip());
            } else {
                local.prefixes.push(net);
            }
        }
        local
    }
}

/// All flows with what it takes to delete them, which a thread of its own lists: the kernel looks through a table of hundreds
/// of thousands of places for them, full or not.
#[derive(Debug)]
pub(super) struct Listing(JoinHandle<Result<Vec<(Flow, Doomed)>, Trouble>>);

impl Listing {
    /// Begins to list the flows of the calling thread's network namespace; none where there is no thread to be had.
    pub(super) fn begin() -> Option<Self> {
        thread::Builder::new()
            .name("flows".into())
            .spawn(|| open()?.map_or(Ok(Vec::new()), |mut s| list(&mut s)))
            .ok()
            .map(Self)
    }

    fn end(self) -> Result<Vec<(Flow, Doomed)>, Trouble> {
        self.0.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Forgets the flows that are stale, in the network namespace of the calling thread, and says how many they were. Every
/// deletion is a write. A kernel without connection tracking, or without a way to ask it, has no flows. What has been listed
/// already is not listed again, unless it was torn.
///
/// # Errors
/// When the kernel refuses to list or to delete; an entry that is gone already is none.
pub(super) fn forget(
    stale: &dyn Fn(&Flow) -> bool,
    mut listing: Option<Listing>,
    writes: &mut Writes,
) -> Result<u64, StepError> {
    let failed = |trouble: Trouble| StepError {
        errno: trouble.errno(),
        message: format!("flush conntrack entries that the change leaves behind: {trouble}"),
    };
    let Some(mut socket) = open().map_err(failed)? else { return Ok(0) };
    let mut flush = Flush { socket: &mut socket, writes, count: 0 };
    insist(|| flush.run(listing.take(), stale)).map_err(failed)?;
    Ok(flush.count)
}

/// The flows of the calling thread's network namespace, of both families. A kernel without connection tracking, or without a
/// way to ask it, has none.
pub(super) fn flows() -> Result<Vec<Flow>, Trouble> {
    let Some(mut socket) = open()? else { return Ok(Vec::new()) };
    let listed = insist(|| list(&mut socket))?;
    Ok(listed.into_iter().map(|(flow, _)| flow).collect())
}

/// A socket to ask by, where this kernel has a way to ask.
fn open() -> Result<Option<Socket>, Trouble> {
    match Socket::open() {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Tries some more when entries came and went meanwhile, or answers were lost.
fn insist<T>(mut run: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
    for _ in 1..TRIES {
        match run() {
            Err(Trouble::Changed) => {}
            Err(trouble) if matches!(trouble.errno(), libc::ENOBUFS | libc::EINTR) => {}
            outcome => return outcome,
        }
    }
    run()
}

/// Lists all entries.
fn list(socket: &mut Socket) -> Result<Vec<(Flow, Doomed)>, Trouble> {
    let mut listed = Vec::new();
    let mut read = |message: Message<'_>| {
        if message.kind == CT_NEW {
            listed.extend(parse(message.attributes()));
        }
    };
    // Of both families.
    match socket.dump((CT_GET, 0), |_| {}, &mut read) {
        // nfnetlink has no such subsystem.
        Err(trouble) if matches!(trouble.errno(), libc::EINVAL | libc::EOPNOTSUPP) => Ok(Vec::new()),
        outcome => outcome.map(|()| listed),
    }
}

/// An entry to be deleted: the attributes that name it, as the kernel wrote them.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    tuple: Box<[u8]>,
    id: [u8; 4],
    zone: Option<[u8; 2]>,
    /// For messages.
    to: End,
}

impl Doomed {
    fn put(&self, w: &mut Writer, sequence: u32) {
        let family = u8::try_from(if self.to.ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or(0);
        // A message without a tuple would delete all entries; this one is not empty, as it was read.
        w.message(CT_DELETE, 0, sequence, (family, 0), |w| {
            w.put(TUPLE_ORIG | NESTED, &self.tuple);
            w.put(ID, &self.id);
            if let Some(zone) = &self.zone {
                w.put(ZONE, zone);
            }
        });
    }
}

/// The work.
struct Flush<'a> {
    socket: &'a mut Socket,
    writes: &'a mut Writes,
    /// How many entries are gone.
    count: u64,
}

impl Flush<'_> {
    fn run(&mut self, listing: Option<Listing>, stale: &dyn Fn(&Flow) -> bool) -> Result<(), Trouble> {
        let listed = listing.map_or_else(|| list(self.socket), Listing::end)?;
        let doomed: Vec<Doomed> = listed.into_iter().filter(|(flow, _)| stale(flow)).map(|(_, entry)| entry).collect();
        self.delete(&doomed)
    }

    fn delete(&mut self, doomed: &[Doomed]) -> Result<(), Trouble> {
        for entries in doomed.chunks(if self.writes.single() { 1 } else { BATCH }) {
            let mut w = Writer::default();
            let first = self.socket.sequence(u32::try_from(entries.len()).unwrap_or(0));
            for (sequence, entry) in (first..).zip(entries) {
                self.writes.admit().map_err(|errno| Trouble::Refused(about(entry, &Fault::new(errno))))?;
                entry.put(&mut w, sequence);
            }
            // Only refusals are answered.
            let mut refused = None;
            let mut gone = entries.len();
            self.socket.exchange(w.bytes(), |sequence, fault| {
                gone = gone.saturating_sub(1);
                if fault.errno != libc::ENOENT
                    && let Some(entry) = entries.get(sequence.wrapping_sub(first) as usize)
                {
                    refused.get_or_insert(about(entry, &fault));
                }
            })?;
            self.count += gone as u64;
            if let Some(fault) = refused {
                return Err(Trouble::Refused(fault));
            }
        }
        Ok(())
    }
}

/// A refusal that names the entry.
fn about(entry: &Doomed, fault: &Fault) -> Fault {
    Fault { text: Some(format!("flow to {}: {}", entry.to, in_words(fault))), ..Fault::new(fault.errno) }
}

/// Whether a message tells of a flow.
#[cfg(feature = "fuzzing")]
pub(super) fn is_flow(message: super::nfnetlink::wire::Message<'_>) -> bool {
    parse(message.attributes()).is_some()
}

/// An entry, and what it takes to delete it; none where it is not whole.
fn parse(attributes: Attributes<'_>) -> Option<(Flow, Doomed)> {
    let (mut orig, mut reply, mut status, mut id, mut zone) = (None, None, 0, None, None);
    for attribute in attributes {
        match attribute.kind {
            TUPLE_ORIG => orig = Some(attribute),
            TUPLE_REPLY => reply = Some(attribute),
            STATUS => status = attribute.u32()?,
            ID => id = attribute.value.try_into().ok(),
            ZONE => zone = attribute.value.try_into().ok(),
            _ => {}
        }
    }
    let orig = orig?;
    let (protocol, to) = end(orig, [IPV4_DST, IPV6_DST], PROTO_DST_PORT)?;
    let (_, from) = end(orig, [IPV4_SRC, IPV6_SRC], PROTO_SRC_PORT)?;
    let (_, answers) = end(reply?, [IPV4_SRC, IPV6_SRC], PROTO_SRC_PORT)?;
    let flow = Flow {
        protocol,
        from: from.ip,
        to,
        answers,
        answered: status & SEEN_REPLY != 0,
        related: status & EXPECTED != 0,
    };
    Some((flow, Doomed { tuple: orig.value.into(), id: id?, zone, to }))
}

/// Protocol, and one end's address and port, of a tuple.
fn end(tuple: Attribute<'_>, addresses: [u16; 2], port: u16) -> Option<(u8, End)> {
    let find = |kind: u16| tuple.nested().find(|a| a.kind == kind).map(Attribute::nested);
    let ip = find(TUPLE_IP)?.find(|a| addresses.contains(&a.kind))?;
    let (mut protocol, mut number) = (None, None);
    for attribute in find(TUPLE_PROTO)? {
        match attribute.kind {
            PROTO_NUM => protocol = attribute.value.first().copied(),
            kind if kind == port => number = attribute.value.try_into().ok().map(u16::from_be_bytes),
            _ => {}
        }
    }
    Some((protocol?, End { ip: ip_of(ip.value)?, port: number }))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::kernel::nfnetlink::wire::messages;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tuple(w: &mut Writer, kind: u16, (from, to): (&str, &str), protocol: u8) {
        let (from, to) = (socket(from), socket(to));
        w.nest(kind, |w| {
            w.nest(TUPLE_IP, |w| match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    w.put(IPV4_SRC, &from.octets());
                    w.put(IPV4_DST, &to.octets());
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    w.put(IPV6_SRC, &from.octets());
                    w.put(IPV6_DST, &to.octets());
                }
                _ => panic!("two families"),
            });
            w.nest(TUPLE_PROTO, |w| {
                w.put(PROTO_NUM, &[protocol]);
                w.put(PROTO_SRC_PORT, &from.port().to_be_bytes());
                w.put(PROTO_DST_PORT, &to.port().to_be_bytes());
            });
        });
    }

    fn entry(orig: (&str, &str), reply: (&str, &str), more: impl FnOnce(&mut Writer)) -> Writer {
        let mut w = Writer::default();
        w.message(CT_NEW, 0, 7, (2, 0), |w| {
            tuple(w, TUPLE_ORIG, orig, 17);
            tuple(w, TUPLE_REPLY, reply, 17);
            w.put_u32(STATUS, 0x1a); // confirmed, source rewritten, answered
            more(w);
        });
        w
    }

    #[test]
    fn an_entry_is_read_and_deleted_by_its_own_words() {
        for (orig, reply) in [
            (("192.0.2.9:5000", "192.0.2.1:8053"), ("10.20.0.10:53", "192.0.2.9:5000")),
            (("[2001:db8::9]:5000", "[2001:db8::1]:8053"), ("[fd20::10]:53", "[2001:db8::9]:5000")),
        ] {
            let w = entry(orig, reply, |w| {
                w.put_u32(ID, 0x0102_0304);
                w.put(ZONE, &[0, 5]);
                w.put(99, b"more");
            });
            let (flow, doomed) = messages(w.bytes()).find_map(|m| parse(m.attributes())).unwrap();
            let wanted = Flow {
                protocol: 17,
                from: socket(orig.0).ip(),
                to: socket(orig.1).into(),
                answers: socket(reply.0).into(),
                answered: true,
                related: false,
            };
            assert_eq!(flow, wanted);

            let (mut deletes, mut by_hand) = (Writer::default(), Writer::default());
            doomed.put(&mut deletes, 9);
            let family = if flow.to.ip.is_ipv6() { 10 } else { 2 };
            by_hand.message(CT_DELETE, 0, 9, (family, 0), |w| {
                tuple(w, TUPLE_ORIG, orig, 17);
                w.put(ID, &[1, 2, 3, 4]);
                w.put(ZONE, &[0, 5]);
            });
            assert_eq!(deletes.bytes(), by_hand.bytes());
        }
    }

    #[test]
    fn entries_without_ports_are_read_and_those_without_numbers_let_be() {
        let (orig, reply) = (("192.0.2.9:1", "192.0.2.1:2"), ("192.0.2.1:2", "192.0.2.9:1"));
        let parsed = |w: &Writer| messages(w.bytes()).find_map(|m| parse(m.attributes()));
        assert_eq!(parsed(&entry(orig, reply, |_| {})), None, "no number");
        let mut icmp = Writer::default();
        icmp.message(CT_NEW, 0, 7, (2, 0), |w| {
            for (kind, from, to) in [(TUPLE_ORIG, 9, 1), (TUPLE_REPLY, 1, 9)] {
                w.nest(kind, |w| {
                    w.nest(TUPLE_IP, |w| {
                        w.put(IPV4_SRC, &[192, 0, 2, from]);
                        w.put(IPV4_DST, &[192, 0, 2, to]);
                    });
                    w.nest(TUPLE_PROTO, |w| w.put(PROTO_NUM, &[1]));
                });
            }
            w.put_u32(STATUS, 1);
            w.put_u32(ID, 1);
        });
        let to = End { ip: socket(orig.1).ip(), port: None };
        let from = socket(orig.0).ip();
        let flow = Flow { protocol: 1, from, to, answers: to, answered: false, related: true };
        assert_eq!(parsed(&icmp).map(|(flow, _)| flow), Some(flow));
        let whole = entry(orig, reply, |w| w.put_u32(ID, 1));
        for cut in 0..whole.len() {
            let _ = messages(&whole.bytes()[..cut]).find_map(|m| parse(m.attributes()));
        }
    }

    #[test]
    fn local_addresses_are_single_ones_and_prefixes() {
        let local: Local =
            ["192.0.2.1/32", "127.0.0.0/8", "2001:db8::1/128"].map(|n| n.parse().unwrap()).into_iter().collect();
        let known = ["192.0.2.1", "127.3.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"];
        assert_eq!(known.map(|ip| local.contains(ip.parse().unwrap())), [true, true, true, false, false]);
    }
}
