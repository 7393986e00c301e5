//! Sets and maps, made ready for many look-ups.

use std::collections::{HashMap, HashSet};

use super::places::Places;
use crate::state::InterfaceName;
use crate::state::firewall::{Concat, DataType, Datum, Element, ElementData, RTN_LOCAL, Set};

/// Yes, no, or not to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    Maybe,
}

impl Answer {
    pub(super) fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
        }
    }
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// What is known of a field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is this.
    Known(Datum),
    /// The empty name of a device that is not there.
    Nameless,
    /// The name of a device of the world.
    World,
    /// A type of address that is not `local`.
    NotLocal,
    /// Nothing.
    Unknown,
}

impl Value {
    /// Whether it is what a rule or a key asks for.
    pub(super) fn is(self, datum: &Datum, places: &Places) -> Answer {
        match (self, datum) {
            (Self::Known(value), datum) => covers(datum, &value).into(),
            (Self::Nameless, _) => Answer::No,
            (Self::World, Datum::Ifname(name)) if places.is_known(*name) => Answer::No,
            (Self::NotLocal, Datum::FibType(RTN_LOCAL)) => Answer::No,
            (Self::World | Self::NotLocal | Self::Unknown, _) => Answer::Maybe,
        }
    }
}

/// Whether a value is the other one, or one of those that it stands for.
fn covers(datum: &Datum, value: &Datum) -> bool {
    let same = |a: u128, b: u128, bits: u8, prefix: u8| {
        let rest = u32::from(bits.saturating_sub(prefix));
        a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
    };
    match (datum, value) {
        (Datum::Ipv4Net(net, prefix), Datum::Ipv4Addr(ip)) => {
            same(net.to_bits().into(), ip.to_bits().into(), 32, *prefix)
        }
        (Datum::Ipv6Net(net, prefix), Datum::Ipv6Addr(ip)) => same(net.to_bits(), ip.to_bits(), 128, *prefix),
        (Datum::ServiceRange(first, last), Datum::InetService(port)) => (first..=last).contains(&port),
        (datum, value) => datum == value,
    }
}

/// What a set says of a key.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// It is not in it.
    Nothing,
    /// It is, with what it maps to.
    One(Option<&'a ElementData>),
    /// It may be one of these, or not be in it.
    Perhaps(Vec<Option<&'a ElementData>>),
    /// There is no telling.
    Anything,
}

/// The elements of a set.
#[derive(Debug, Default)]
pub(super) struct Lookup<'a> {
    elements: Vec<(&'a [Datum], Option<&'a ElementData>)>,
    /// Elements that are equal to one key only.
    exact: HashMap<&'a [Datum], usize>,
    /// Ranges of ports by the parts before and after them: first and last port, sorted.
    ranges: HashMap<Vec<Datum>, Vec<(u16, u16, usize)>>,
    /// Where in a key the range is.
    range_at: Option<usize>,
    /// Elements of no such shape, looked at one by one.
    odd: Vec<usize>,
    /// Those that name a device which may be one of the world's.
    foreign: Vec<usize>,
    /// Where in a key the protocol is, and the protocols that there are: most look-ups need no more.
    protocol_at: Option<usize>,
    protocols: HashSet<Datum>,
    /// Whether there is more to the set than can be said here.
    opaque: bool,
}

impl<'a> Lookup<'a> {
    pub(super) fn of(set: &'a Set) -> Self {
        let at = |wanted| set.key.iter().position(|part| *part == wanted);
        Self {
            range_at: at(DataType::ServiceRange),
            protocol_at: at(DataType::InetProto),
            opaque: set.key.iter().any(|part| matches!(part, DataType::Other(_))),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, Concat(key): &'a Concat, element: &'a Element, places: &Places) {
        let index = self.elements.len();
        self.elements.push((key, element.data.as_ref()));
        match self.range_at.and_then(|at| Some((at, *key.get(at)?))) {
            Some((at, Datum::ServiceRange(first, last))) if without(key, at).iter().all(is_exact) => {
                self.ranges.entry(without(key, at)).or_default().push((first, last, index));
            }
            _ if key.iter().all(is_exact) => drop(self.exact.insert(key, index)),
            _ => self.odd.push(index),
        }
        let foreign = |name: &InterfaceName| !places.is_known(*name);
        if key.iter().any(|part| matches!(part, Datum::Ifname(name) if foreign(name))) {
            self.foreign.push(index);
        }
        self.protocols.extend(self.protocol_at.and_then(|at| key.get(at)));
    }

    /// To be called when all elements are there.
    pub(super) fn sort(&mut self) {
        for ranges in self.ranges.values_mut() {
            ranges.sort_unstable();
        }
    }

    pub(super) fn look_up(&self, key: &[Value], places: &Places) -> Found<'a> {
        if self.opaque {
            return Found::Anything;
        }
        if let Some(Value::Known(protocol)) = self.protocol_at.and_then(|at| key.get(at))
            && !self.protocols.contains(protocol)
        {
            return Found::Nothing;
        }
        let mut known = Vec::with_capacity(key.len());
        known.extend(key.iter().filter_map(|part| if let Value::Known(datum) = part { Some(*datum) } else { None }));
        if known.len() == key.len() {
            let index = self.exact.get(known.as_slice()).copied();
            let index = index.or_else(|| self.in_range(&known)).or_else(|| {
                let all = |index: &&usize| {
                    let Some((parts, _)) = self.elements.get(**index) else { return false };
                    parts.len() == known.len() && parts.iter().zip(&known).all(|(part, value)| covers(part, value))
                };
                self.odd.iter().find(all).copied()
            });
            return index.and_then(|i| self.elements.get(i)).map_or(Found::Nothing, |(_, data)| Found::One(*data));
        }
        let may_be = |(parts, _): &&(&[Datum], Option<&ElementData>)| {
            parts.len() == key.len() && parts.iter().zip(key).all(|(part, value)| value.is(part, places) != Answer::No)
        };
        let candidates: Vec<_> = if key.contains(&Value::World) {
            let foreign = self.foreign.iter().filter_map(|i| self.elements.get(*i));
            foreign.filter(may_be).map(|(_, data)| *data).collect()
        } else {
            self.elements.iter().filter(may_be).map(|(_, data)| *data).collect()
        };
        if candidates.is_empty() { Found::Nothing } else { Found::Perhaps(candidates) }
    }

    /// The element whose range a port is in. Ranges of one set do not overlap.
    fn in_range(&self, key: &[Datum]) -> Option<usize> {
        let at = self.range_at?;
        let Datum::InetService(port) = *key.get(at)? else { return None };
        let ranges = self.ranges.get(&without(key, at))?;
        let after = ranges.partition_point(|(first, _, _)| *first <= port);
        let (_, last, index) = *ranges.get(after.checked_sub(1)?)?;
        (port <= last).then_some(index)
    }
}

/// Whether it stands for itself only. Every kind is named, so that a new one is given a thought.
fn is_exact(part: &Datum) -> bool {
    match part {
        Datum::Ipv4Addr(_)
        | Datum::Ipv6Addr(_)
        | Datum::InetProto(_)
        | Datum::InetService(_)
        | Datum::Ifname(_)
        | Datum::FibType(_)
        | Datum::NfProto(_) => true,
        Datum::ServiceRange(..) | Datum::Ipv4Net(..) | Datum::Ipv6Net(..) => false,
    }
}

/// A key without one of its parts.
fn without(key: &[Datum], at: usize) -> Vec<Datum> {
    key.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, part)| *part).collect()
}
