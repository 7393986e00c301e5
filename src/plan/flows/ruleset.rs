//! What the rules of the firewall table do with the first packet of a flow, as far as connection tracking tells enough
//! of it: its source and destination, not the devices of the world that it came or left by. Where the answer depends on
//! more, every way that it may take is followed. That the kernel tracks flows is taken for granted: where nothing needs it,
//! chains that translate are not asked.

use std::collections::HashMap;
use std::net::IpAddr;

use super::places::{Device, Places, is_for_many};
use super::sets::{Answer, Found, Lookup, Value};
use crate::state::firewall::{
    CT_STATUS_DNAT, Chain, ChainKind, Concat, Datum, ElementData, Expr, Family, Field, Hook, PRIORITY_DSTNAT,
    PRIORITY_SRCNAT, Policy, RTN_LOCAL, Rule, Verdict,
};
use crate::state::{End, Flow, InterfaceName, Key, Object, State};

/// How deep chains may call each other: the kernel allows less (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 17;
/// `NF_IP_PRI_CONNTRACK`: chains that are called before see no flow yet.
const PRIORITY_CONNTRACK: i32 = -200;
/// `NF_CT_STATE_BIT()` of invalid, related and new.
const STATE_INVALID: u32 = 1;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;
/// `IPS_EXPECTED` and `IPS_CONFIRMED`.
const STATUS_EXPECTED: u32 = 1;
const STATUS_CONFIRMED: u32 = 1 << 3;
/// Protocols with ports where tcp has them.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Says whether an address is the host's own.
pub type Local<'a> = &'a dyn Fn(IpAddr) -> bool;

/// The firewall table of a state, made ready for many packets.
#[derive(Debug)]
pub struct Ruleset<'a> {
    pub(super) places: Places,
    /// Base chains in the order in which they are called.
    bases: Vec<Base<'a>>,
    chains: HashMap<&'a str, &'a [Rule]>,
    sets: HashMap<&'a str, Lookup<'a>>,
}

#[derive(Debug)]
struct Base<'a> {
    hook: Hook,
    priority: i32,
    nat: bool,
    policy: Policy,
    rules: &'a [Rule],
}

impl Base<'_> {
    /// A packet as the chain sees it. What comes back by the loopback device brings its flow along.
    fn shown(&self, packet: &Packet) -> Packet {
        let translates = matches!(self.hook, Hook::Prerouting | Hook::Output);
        let back = packet.iif == Device::Named(InterfaceName::LO);
        if translates && self.priority < PRIORITY_CONNTRACK && !back {
            Packet { state: STATE_INVALID, status: None, ..*packet }
        } else {
            *packet
        }
    }
}

/// The ways that a packet may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Each once, sorted.
    pub ways: Vec<Way>,
    /// Whether there may be others, of which nothing is known.
    pub unclear: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Where a rule of the table sends it instead of where it was sent to.
    pub translated: Option<End>,
    /// Whether it is dropped.
    pub dropped: bool,
}

impl Fate {
    fn add(&mut self, way: Way) {
        if let Err(place) = self.ways.binary_search(&way) {
            self.ways.insert(place, way);
        }
    }

    /// Whether it is dropped whatever is not known.
    pub fn is_dropped(&self) -> bool {
        !self.unclear && !self.ways.is_empty() && self.ways.iter().all(|way| way.dropped)
    }

    /// Whether a rule that is known may send it there.
    pub fn may_lead_to(&self, end: End) -> bool {
        self.ways.iter().any(|way| way.translated == Some(end))
    }

    /// Whether it may go where it was sent to.
    pub fn may_stay(&self) -> bool {
        self.unclear || self.ways.iter().any(|way| way.translated.is_none() && !way.dropped)
    }
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
struct Packet {
    protocol: u8,
    from: IpAddr,
    to: End,
    iif: Device,
    oif: Device,
    state: u32,
    /// None before it belongs to a flow.
    status: Option<u32>,
    /// Where a rule of the table sent it.
    translated: Option<End>,
    /// Whether a rule has decided on its destination, so that no other is asked.
    settled: bool,
}

/// What a chain may do with a packet.
#[derive(Debug, Default)]
struct Outcome {
    accept: bool,
    drop: bool,
    unclear: bool,
    translate: Vec<End>,
}

/// Where a packet may be after a rule or an expression that it has not ended with.
#[derive(Clone, Copy, Debug, Default)]
struct Exits {
    /// Behind the expression.
    on: bool,
    /// At the next rule.
    next: bool,
    /// Out of the chain.
    leave: bool,
}

impl Exits {
    const NEXT: Self = Self { on: false, next: true, leave: false };

    /// After a condition.
    fn when(answer: Answer) -> Self {
        Self { on: answer != Answer::No, next: answer != Answer::Yes, leave: false }
    }
}

impl<'a> Ruleset<'a> {
    /// The rules of a state, and where its addresses are.
    pub fn of(state: &'a State) -> Self {
        let mut ruleset =
            Self { places: Places::of(state), bases: Vec::new(), chains: HashMap::new(), sets: HashMap::new() };
        if !matches!(state.get(&Key::Table).map(|e| &e.object), Some(Object::Table(table)) if !table.dormant) {
            return ruleset;
        }
        // Sets come before elements.
        for (key, entry) in state {
            match (key, &entry.object) {
                (Key::Chain { name }, Object::Chain(chain)) => ruleset.add_chain(name, chain),
                (Key::Set { name }, Object::Set(set)) => drop(ruleset.sets.insert(name, Lookup::of(set))),
                (Key::Element { set, key }, Object::Element(element)) => {
                    if let Some(lookup) = ruleset.sets.get_mut(&**set) {
                        lookup.add(key, element, &ruleset.places);
                    }
                }
                _ => {}
            }
        }
        ruleset.sets.values_mut().for_each(Lookup::sort);
        ruleset.bases.sort_by_key(|base| base.priority);
        ruleset
    }

    fn add_chain(&mut self, name: &'a str, chain: &'a Chain) {
        self.chains.insert(name, &chain.rules);
        if let Some(base) = chain.base {
            let nat = base.kind == ChainKind::Nat;
            let priority = match base.hook {
                Hook::Prerouting | Hook::Output if nat => PRIORITY_DSTNAT,
                Hook::Input if nat => PRIORITY_SRCNAT,
                _ => base.priority,
            };
            self.bases.push(Base { hook: base.hook, priority, nat, policy: base.policy, rules: &chain.rules });
        }
    }

    /// What becomes of the first packet of a flow. One that was rewritten was sent to an address that was the host's own
    /// then, and is sent on to where it went whoever rewrote it.
    pub fn first_packet(&self, flow: &Flow, local: Local<'_>) -> Fate {
        let mut walk = Walk { rules: self, flow, local, fate: Fate::default() };
        if self.bases.is_empty() {
            walk.fate.add(Way { translated: None, dropped: false });
        } else {
            walk.all();
        }
        walk.fate
    }
}

/// One packet on its way through the hooks.
struct Walk<'a> {
    rules: &'a Ruleset<'a>,
    flow: &'a Flow,
    local: Local<'a>,
    fate: Fate,
}

impl Walk<'_> {
    fn is_local(&self, ip: IpAddr) -> bool {
        self.flow.is_rewritten() && ip == self.flow.to.ip || (self.local)(ip)
    }

    fn device(&self, ip: IpAddr) -> Device {
        if self.is_local(ip) { Device::Named(InterfaceName::LO) } else { self.rules.places.device(ip) }
    }

    fn all(&mut self) {
        let flow = self.flow;
        let packet = Packet {
            protocol: flow.protocol,
            from: flow.from,
            to: flow.to,
            iif: Device::None,
            oif: Device::None,
            state: if flow.related { STATE_RELATED } else { STATE_NEW },
            status: Some(if flow.related { STATUS_EXPECTED } else { 0 }),
            translated: None,
            settled: false,
        };
        if (self.local)(flow.from) { self.goes_out(packet) } else { self.comes_in(packet) }
    }

    fn goes_out(&mut self, packet: Packet) {
        let packet = Packet { oif: self.device(packet.to.ip), ..packet };
        for sent in self.translating(Hook::Output, packet) {
            if !self.is_local(sent.to.ip) {
                self.passes(&sent);
                continue;
            }
            // It comes back by the loopback device, with its destination decided and its flow entered.
            let back = Packet {
                iif: Device::Named(InterfaceName::LO),
                oif: Device::None,
                status: sent.status.map(|status| status | STATUS_CONFIRMED),
                settled: true,
                ..sent
            };
            for taken in self.hook(Hook::Prerouting, back, |base| !base.nat) {
                self.deliver(taken);
            }
        }
    }

    fn comes_in(&mut self, packet: Packet) {
        let packet = Packet { iif: self.rules.places.device(packet.from), ..packet };
        for packet in self.translating(Hook::Prerouting, packet) {
            let (local, many) = (self.is_local(packet.to.ip), is_for_many(packet.to.ip));
            if local || many {
                self.deliver(packet);
            }
            if !local || many {
                let packet = Packet { oif: self.rules.places.device(packet.to.ip), ..packet };
                for sent in self.hook(Hook::Forward, packet, |_| true) {
                    self.passes(&sent);
                }
            }
        }
    }

    fn deliver(&mut self, packet: Packet) {
        for taken in self.hook(Hook::Input, packet, |_| true) {
            self.passes(&taken);
        }
    }

    fn passes(&mut self, packet: &Packet) {
        self.fate.add(Way { translated: packet.translated, dropped: false });
    }

    /// A hook at which destinations are rewritten, by the table's rules or by others'.
    fn translating(&mut self, hook: Hook, packet: Packet) -> Vec<Packet> {
        let mut sent = Vec::new();
        for mut packet in self.hook(hook, packet, |base| base.priority <= PRIORITY_DSTNAT) {
            let to = if self.flow.is_rewritten() { Some(self.flow.answers) } else { packet.translated };
            if let Some(to) = to {
                packet.to = to;
                packet.status = packet.status.map(|status| status | CT_STATUS_DNAT);
                if hook == Hook::Output {
                    // The kernel looks for the way anew, and chains that follow are still shown the old device.
                    packet.oif = Device::Unknown;
                }
            }
            sent.extend(self.hook(hook, packet, |base| base.priority > PRIORITY_DSTNAT));
        }
        sent
    }

    /// The packets that a packet may be after some of a hook's base chains: one for each place that it may be sent to.
    fn hook(&mut self, hook: Hook, packet: Packet, called: impl Fn(&Base<'_>) -> bool) -> Vec<Packet> {
        let mut packets = vec![packet];
        for base in self.rules.bases.iter().filter(|base| base.hook == hook && called(base)) {
            let mut next: Vec<Packet> = Vec::with_capacity(packets.len());
            for packet in packets {
                if base.nat && packet.settled {
                    next.push(packet);
                    continue;
                }
                let mut outcome = Outcome::default();
                if self.chain(base.rules, &base.shown(&packet), 0, &mut outcome) {
                    *(if base.policy == Policy::Accept { &mut outcome.accept } else { &mut outcome.drop }) = true;
                }
                self.fate.unclear |= outcome.unclear;
                if outcome.drop {
                    self.fate.add(Way { translated: packet.translated, dropped: true });
                }
                if outcome.accept {
                    next.push(packet);
                }
                next.extend(outcome.translate.into_iter().map(|to| {
                    // To send it where it goes anyway is no rewriting.
                    Packet { translated: Some(to).filter(|to| *to != packet.to), settled: true, ..packet }
                }));
            }
            packets = next;
        }
        packets
    }

    /// Goes through a chain; says whether the packet may come out at its end.
    fn chain(&self, rules: &[Rule], packet: &Packet, depth: usize, outcome: &mut Outcome) -> bool {
        let mut leaves = false;
        for rule in rules {
            let exits = self.rule(rule, packet, depth, outcome);
            leaves |= exits.leave;
            if !exits.next {
                return leaves;
            }
        }
        true
    }

    fn rule(&self, Rule(exprs): &Rule, packet: &Packet, depth: usize, outcome: &mut Outcome) -> Exits {
        let mut all = Exits::default();
        for expr in exprs {
            let exits = self.expr(expr, packet, depth, outcome);
            all.next |= exits.next;
            all.leave |= exits.leave;
            if !exits.on {
                return all;
            }
        }
        Exits { next: true, ..all }
    }

    fn expr(&self, expr: &Expr, packet: &Packet, depth: usize, outcome: &mut Outcome) -> Exits {
        match expr {
            Expr::Match { field, negate, value } => {
                let Some(found) = self.value(*field, packet) else { return Exits::NEXT };
                let is = found.is(value, &self.rules.places);
                Exits::when(if *negate { is.not() } else { is })
            }
            Expr::AnyBit { field, bits } => Exits::when(match field {
                Field::CtState => (packet.state & bits != 0).into(),
                Field::CtStatus => match packet.status {
                    Some(status) => (status & bits != 0).into(),
                    None => return Exits::NEXT,
                },
                _ => Answer::Maybe,
            }),
            Expr::InSet { fields, negate, set } => {
                let is = match self.look_up(fields, set, packet) {
                    None => return Exits::NEXT,
                    Some(Found::Nothing) => Answer::No,
                    Some(Found::One(_)) => Answer::Yes,
                    Some(Found::Perhaps(_) | Found::Anything) => Answer::Maybe,
                };
                Exits::when(if *negate { is.not() } else { is })
            }
            Expr::Vmap { fields, map } => self.mapped(fields, map, packet, outcome, |data, outcome| {
                let Some(ElementData::Verdict(verdict)) = data else {
                    outcome.unclear = true;
                    return Exits::NEXT;
                };
                self.verdict(verdict, packet, depth, outcome)
            }),
            Expr::DnatMap { family, .. } if *family != Family::of(packet.from) => Exits::NEXT,
            Expr::DnatMap { fields, map, keep_port, .. } => {
                self.mapped(fields, map, packet, outcome, |data, outcome| {
                    match target(data, packet.to, *keep_port) {
                        Some(to) => outcome.translate.push(to),
                        None => outcome.unclear = true,
                    }
                    Exits::default()
                })
            }
            Expr::Snat(address) if Family::of(*address) != Family::of(packet.from) => Exits::NEXT,
            // Where the source is rewritten is of no interest here; that it is ends the chain.
            Expr::Masquerade | Expr::Snat(_) => self.verdict(&Verdict::Accept, packet, depth, outcome),
            Expr::ClampMss => Exits::when(Answer::Yes),
            Expr::Verdict(verdict) => self.verdict(verdict, packet, depth, outcome),
            Expr::Unknown(_) => {
                outcome.unclear = true;
                Exits::when(Answer::Maybe)
            }
        }
    }

    /// What a map may say of a packet, done.
    fn mapped(
        &self,
        fields: &[Field],
        map: &str,
        packet: &Packet,
        outcome: &mut Outcome,
        then: impl Fn(Option<&ElementData>, &mut Outcome) -> Exits,
    ) -> Exits {
        match self.look_up(fields, map, packet) {
            None | Some(Found::Nothing) => Exits::NEXT,
            Some(Found::One(data)) => then(data, outcome),
            Some(Found::Perhaps(all)) => all.into_iter().fold(Exits::NEXT, |exits, data| {
                let more = then(data, outcome);
                Exits { leave: exits.leave | more.leave, ..exits }
            }),
            Some(Found::Anything) => {
                outcome.unclear = true;
                Exits::NEXT
            }
        }
    }

    fn verdict(&self, verdict: &Verdict, packet: &Packet, depth: usize, outcome: &mut Outcome) -> Exits {
        let mut called = |name: &str| match self.rules.chains.get(name) {
            Some(rules) if depth < DEPTH => self.chain(rules, packet, depth + 1, outcome),
            _ => {
                outcome.unclear = true;
                true
            }
        };
        match verdict {
            Verdict::Accept => outcome.accept = true,
            Verdict::Drop => outcome.drop = true,
            Verdict::Return => return Exits { leave: true, ..Exits::default() },
            Verdict::Jump(name) => return Exits { next: called(name), ..Exits::default() },
            Verdict::Goto(name) => return Exits { leave: called(name), ..Exits::default() },
        }
        Exits::default()
    }

    /// None where a field does not exist in such a packet.
    fn look_up(&self, fields: &[Field], set: &str, packet: &Packet) -> Option<Found<'_>> {
        let key: Option<Vec<Value>> = fields.iter().map(|field| self.value(*field, packet)).collect();
        let key = key?;
        Some(self.rules.sets.get(set).map_or(Found::Anything, |set| set.look_up(&key, &self.rules.places)))
    }

    /// A field of a packet; none where such a packet has no such field.
    fn value(&self, field: Field, packet: &Packet) -> Option<Value> {
        if field.family().is_some_and(|family| family != Family::of(packet.from)) {
            return None;
        }
        Some(match field {
            Field::Iifname => name(packet.iif),
            Field::Oifname => name(packet.oif),
            Field::NfProto => Value::Known(Datum::NfProto(Family::of(packet.from))),
            Field::L4Proto => Value::Known(Datum::InetProto(packet.protocol)),
            Field::IpSaddr | Field::Ip6Saddr => Value::Known(address(packet.from)),
            Field::IpDaddr | Field::Ip6Daddr => Value::Known(address(packet.to.ip)),
            Field::CtOriginalIpDaddr | Field::CtOriginalIp6Daddr => {
                // What it is of another family is nothing.
                let is_ipv6 = field == Field::CtOriginalIp6Daddr;
                return (self.flow.to.ip.is_ipv6() == is_ipv6).then(|| Value::Known(address(self.flow.to.ip)));
            }
            Field::CtOriginalProtoDst => {
                self.flow.to.port.map_or(Value::Unknown, |port| Value::Known(Datum::InetService(port)))
            }
            // Of other protocols these bytes are something else.
            Field::ThDport => match packet.to.port.filter(|_| WITH_PORTS.contains(&packet.protocol)) {
                Some(port) => Value::Known(Datum::InetService(port)),
                None => Value::Unknown,
            },
            // A flow may have been entered in its midst.
            Field::TcpFlags | Field::CtState | Field::CtStatus => Value::Unknown,
            Field::FibDaddrType if self.is_local(packet.to.ip) => Value::Known(Datum::FibType(RTN_LOCAL)),
            Field::FibDaddrType => Value::NotLocal,
        })
    }
}

fn name(device: Device) -> Value {
    match device {
        Device::None => Value::Nameless,
        Device::Named(name) => Value::Known(Datum::Ifname(name)),
        Device::World => Value::World,
        Device::Unknown => Value::Unknown,
    }
}

fn address(ip: IpAddr) -> Datum {
    match ip {
        IpAddr::V4(ip) => Datum::Ipv4Addr(ip),
        IpAddr::V6(ip) => Datum::Ipv6Addr(ip),
    }
}

/// Where an element of a map of published ports leads.
fn target(data: Option<&ElementData>, to: End, keep_port: bool) -> Option<End> {
    let Some(ElementData::Values(Concat(data))) = data else { return None };
    let (ip, port) = match data[..] {
        [ip] if keep_port => (ip, to.port),
        [ip, Datum::InetService(port)] if !keep_port => (ip, Some(port)),
        _ => return None,
    };
    let ip = match ip {
        Datum::Ipv4Addr(ip) => ip.into(),
        Datum::Ipv6Addr(ip) => ip.into(),
        _ => return None,
    };
    Some(End { ip, port })
}
