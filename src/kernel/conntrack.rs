//! Connection tracking over nfnetlink: the flows that a change of published ports leaves behind are forgotten, so that
//! their next packet is looked up anew.
//!
//! Each family that a change concerns is dumped once. The kernel leaves out what differs from all that is sought in
//! protocol, port or status, as far as it can filter; what it hands out is judged here by one look-up per entry. An entry
//! is deleted by its tuple, zone and number together, so that none is hit that took its place. Message formats are those
//! of `linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use nix::libc;

use super::StepError;
use super::fault::Writes;
use super::netlink::ip_of;
use super::nfnetlink::socket::{Socket, Trouble, in_words};
use super::nfnetlink::wire::{Attribute, Attributes, Fault, Message, NESTED, Writer};
use crate::state::{Flow, Mapping, Mappings};

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
const FILTER: u16 = 25;
const STATUS_MASK: u16 = 26;
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
// enum ctattr_filter, and the flags that nf_conntrack_netlink.c gives to the parts of a tuple
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;
// enum ip_conntrack_status
const SEEN_REPLY: u32 = 1 << 1;
const DST_NAT: u32 = 1 << 5;

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
    fn contains(&self, ip: IpAddr) -> bool {
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

/// Forgets what a change leaves behind, in the network namespace of the calling thread, and says how many flows that
/// were. Every deletion is a write. A kernel without connection tracking, or without a way to ask it, has no flows.
///
/// # Errors
/// When the kernel refuses to list or to delete; an entry that is gone already is none.
pub(super) fn forget(mappings: &[Mapping], local: &Local, writes: &mut Writes) -> Result<u64, StepError> {
    let failed = |trouble: &Trouble| StepError {
        errno: trouble.errno(),
        message: format!("flush conntrack entries of published ports that changed: {trouble}"),
    };
    let mut socket = match Socket::open() {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        Err(error) => return Err(failed(&error.into())),
    };
    let sought = Mappings::new(mappings);
    let mut forgotten = 0;
    for (family, ipv6) in [(libc::AF_INET, false), (libc::AF_INET6, true)] {
        let Some(filter) = Filter::of(&mappings.iter().filter(|m| m.at.is_ipv6() == ipv6)) else { continue };
        let mut flush = Flush { socket: &mut socket, family: u8::try_from(family).unwrap_or(0), writes, count: 0 };
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            outcome = flush.run(filter, &|flow| sought.leave(flow, |ip| local.contains(ip)));
            match &outcome {
                Err(Trouble::Changed) => {}
                Err(trouble) if matches!(trouble.errno(), libc::ENOBUFS | libc::EINTR) => {}
                _ => break,
            }
        }
        outcome.map_err(|trouble| failed(&trouble))?;
        forgotten += flush.count;
    }
    Ok(forgotten)
}

/// What all entries sought have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filter {
    protocol: Option<u8>,
    /// Only with a protocol.
    port: Option<u16>,
    /// Whether their destination was rewritten.
    rewritten: Option<bool>,
}

impl Filter {
    /// Of the mappings of one family; none where nothing changes.
    fn of<'a>(mappings: &(impl Iterator<Item = &'a Mapping> + Clone)) -> Option<Self> {
        let first = mappings.clone().find(|m| m.changes())?;
        let all = |same: fn(&Mapping, &Mapping) -> bool| mappings.clone().all(|m| same(m, first));
        let protocol = all(|a, b| a.protocol == b.protocol).then_some(first.protocol);
        let port = (protocol.is_some() && all(|a, b| a.port == b.port)).then_some(first.port);
        let followed = mappings.clone().any(|m| m.before.is_some());
        let comes = mappings.clone().any(|m| m.changes() && m.after.is_some());
        Some(Self { protocol, port, rewritten: (followed != comes).then_some(followed) })
    }

    /// A kernel that knows no filter by tuple (before 5.8) or by status ignores it.
    fn put(self, w: &mut Writer) {
        if let Some(rewritten) = self.rewritten {
            w.put_u32(STATUS, if rewritten { DST_NAT } else { 0 });
            w.put_u32(STATUS_MASK, DST_NAT);
        }
        let Some(protocol) = self.protocol else { return };
        let mut flags = FILTER_PROTO_NUM;
        w.nest(TUPLE_ORIG, |w| {
            w.nest(TUPLE_PROTO, |w| {
                w.put(PROTO_NUM, &[protocol]);
                if let Some(port) = self.port {
                    w.put(PROTO_DST_PORT, &port.to_be_bytes());
                    flags |= FILTER_PROTO_DST_PORT;
                }
            });
        });
        // Unlike all other numbers of conntrack's, these flags are in host byte order.
        w.nest(FILTER, |w| w.put(FILTER_ORIG_FLAGS, &flags.to_ne_bytes()));
    }
}

/// An entry to be deleted: the attributes that name it, as the kernel wrote them.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    tuple: Box<[u8]>,
    id: [u8; 4],
    zone: Option<[u8; 2]>,
    /// For messages.
    to: SocketAddr,
}

impl Doomed {
    fn put(&self, w: &mut Writer, sequence: u32, family: u8) {
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

/// The work on one family.
struct Flush<'a> {
    socket: &'a mut Socket,
    family: u8,
    writes: &'a mut Writes,
    /// How many entries are gone.
    count: u64,
}

impl Flush<'_> {
    fn run(&mut self, filter: Filter, stale: &dyn Fn(&Flow) -> bool) -> Result<(), Trouble> {
        let mut doomed = Vec::new();
        let mut take = |message: Message<'_>| {
            if message.kind == CT_NEW
                && let Some((flow, entry)) = parse(message.attributes())
                && stale(&flow)
            {
                doomed.push(entry);
            }
        };
        let kind = (CT_GET, self.family);
        let refused = |trouble: &Trouble| matches!(trouble.errno(), libc::EINVAL | libc::EOPNOTSUPP);
        let outcome = match self.socket.dump(kind, |w| filter.put(w), &mut take) {
            // It may be the filter that it does not know.
            Err(trouble) if refused(&trouble) => self.socket.dump(kind, |_| {}, &mut take),
            outcome => outcome,
        };
        match outcome {
            // nfnetlink has no such subsystem.
            Err(trouble) if refused(&trouble) => Ok(()),
            Err(trouble) => Err(trouble),
            Ok(()) => self.delete(&doomed),
        }
    }

    fn delete(&mut self, doomed: &[Doomed]) -> Result<(), Trouble> {
        for entries in doomed.chunks(if self.writes.single() { 1 } else { BATCH }) {
            let mut w = Writer::default();
            let first = self.socket.sequence(u32::try_from(entries.len()).unwrap_or(0));
            for (sequence, entry) in (first..).zip(entries) {
                self.writes.admit().map_err(|errno| Trouble::Refused(about(entry, &Fault::new(errno))))?;
                entry.put(&mut w, sequence, self.family);
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

/// An entry with ports, and what it takes to delete it; other entries are of no interest.
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
    let (_, answers) = end(reply?, [IPV4_SRC, IPV6_SRC], PROTO_SRC_PORT)?;
    let flow = Flow { protocol, to, answers, answered: status & SEEN_REPLY != 0 };
    Some((flow, Doomed { tuple: orig.value.into(), id: id?, zone, to }))
}

/// Protocol, and one end's address and port, of a tuple.
fn end(tuple: Attribute<'_>, addresses: [u16; 2], port: u16) -> Option<(u8, SocketAddr)> {
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
    Some((protocol?, SocketAddr::new(ip_of(ip.value)?, number?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nfnetlink::wire::messages;
    use crate::state::At;

    fn tuple(w: &mut Writer, kind: u16, (from, to): (&str, &str), protocol: u8) {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
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
            let wanted =
                Flow { protocol: 17, to: orig.1.parse().unwrap(), answers: reply.0.parse().unwrap(), answered: true };
            assert_eq!(flow, wanted);

            let (mut deletes, mut by_hand) = (Writer::default(), Writer::default());
            doomed.put(&mut deletes, 9, 2);
            by_hand.message(CT_DELETE, 0, 9, (2, 0), |w| {
                tuple(w, TUPLE_ORIG, orig, 17);
                w.put(ID, &[1, 2, 3, 4]);
                w.put(ZONE, &[0, 5]);
            });
            assert_eq!(deletes.bytes(), by_hand.bytes());
        }
    }

    #[test]
    fn entries_without_ports_or_numbers_are_let_be() {
        let (orig, reply) = (("192.0.2.9:1", "192.0.2.1:2"), ("192.0.2.1:2", "192.0.2.9:1"));
        let parsed = |w: &Writer| messages(w.bytes()).find_map(|m| parse(m.attributes()));
        assert_eq!(parsed(&entry(orig, reply, |_| {})), None, "no number");
        let mut icmp = Writer::default();
        icmp.message(CT_NEW, 0, 7, (2, 0), |w| {
            for kind in [TUPLE_ORIG, TUPLE_REPLY] {
                w.nest(kind, |w| {
                    w.nest(TUPLE_IP, |w| {
                        w.put(IPV4_SRC, &[192, 0, 2, 9]);
                        w.put(IPV4_DST, &[192, 0, 2, 1]);
                    });
                    w.nest(TUPLE_PROTO, |w| w.put(PROTO_NUM, &[1]));
                });
            }
            w.put_u32(ID, 1);
        });
        assert_eq!(parsed(&icmp), None, "no ports");
        let whole = entry(orig, reply, |w| w.put_u32(ID, 1));
        for cut in 0..whole.len() {
            let _ = messages(&whole.bytes()[..cut]).find_map(|m| parse(m.attributes()));
        }
    }

    #[test]
    fn filters_ask_for_what_all_have_in_common() {
        let target = |port| Some(SocketAddr::new("10.0.0.2".parse().unwrap(), port));
        let map = |protocol, port, before, after| Mapping { protocol, at: At::AnyIpv4, port, before, after };
        let of = |mappings: &[Mapping]| Filter::of(&mappings.iter());
        let filter = |protocol, port, rewritten| Some(Filter { protocol, port, rewritten });
        let (comes, goes) = (map(6, 80, None, target(80)), map(6, 80, target(80), None));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[map(6, 80, target(80), target(80))]), None);
        assert_eq!(of(&[comes]), filter(Some(6), Some(80), Some(false)));
        assert_eq!(of(&[goes]), filter(Some(6), Some(80), Some(true)));
        assert_eq!(of(&[map(6, 80, target(80), target(81))]), filter(Some(6), Some(80), None));
        assert_eq!(of(&[goes, map(6, 81, target(80), None)]), filter(Some(6), None, Some(true)));
        assert_eq!(of(&[comes, map(17, 80, None, target(80))]), filter(None, None, Some(false)));
        // One address takes over from every address: those flows were rewritten.
        let one = Mapping { at: At::One("192.0.2.1".parse().unwrap()), ..comes };
        assert_eq!(of(&[one, map(6, 80, target(81), target(81))]), filter(Some(6), Some(80), None));
    }

    #[test]
    fn local_addresses_are_single_ones_and_prefixes() {
        let local: Local =
            ["192.0.2.1/32", "127.0.0.0/8", "2001:db8::1/128"].map(|n| n.parse().unwrap()).into_iter().collect();
        let known = ["192.0.2.1", "127.3.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"];
        assert_eq!(known.map(|ip| local.contains(ip.parse().unwrap())), [true, true, true, false, false]);
    }
}
