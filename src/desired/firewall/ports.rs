//! Published ports: the elements of their maps, and the rules that look them up.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{ALLOW, FAMILIES, LINK_LOCAL_NET, accept, differs, drop, equals, ip, names, net, of_family, rule};
use crate::config::{Mode, Network, Port, PortAddress, PortRange};
use crate::desired::container::Member;
use crate::desired::{Build, Whole};
use crate::state::Owner;
use crate::state::firewall::{Concat, Datum, ElementData, Expr, Family, Field, Rule, Verdict};

/// What published ports need of the rest of the table.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The maps that hold anything.
    pub(super) maps: BTreeSet<&'static str>,
    /// The networks (by index) that a port of 127/8 leads into.
    pub(super) localnet: BTreeSet<usize>,
    /// The networks that ports lead into, each with the other networks of those containers: who asks from one of these is
    /// known to the container, and would be answered past the host.
    pub(super) shared: BTreeSet<(usize, usize)>,
    /// The maps whose packets are counted.
    pub(super) counted: BTreeSet<&'static str>,
}

/// The set that counts what a map is for.
pub(super) fn counter_of(map: &str) -> String {
    format!("count-{map}")
}

/// What leads to a port: protocol and numbers.
fn service(protocol: u8, ports: PortRange) -> [Datum; 2] {
    let PortRange { first, last } = ports;
    let ports = if ports.is_one() { Datum::InetService(first) } else { Datum::ServiceRange(first, last) };
    [Datum::InetProto(protocol), ports]
}

impl Published {
    /// Whether any port is not everybody's to use.
    pub(super) fn limits(&self) -> bool {
        FAMILIES.iter().any(|names| self.maps.contains(names.allow) || self.maps.contains(names.allow_any))
    }

    /// The rules that ask who may use a published port, the exact address first.
    pub(super) fn allow_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for names in &FAMILIES {
            let vmap = |fields: &[Field], map: &str| Expr::Vmap { fields: fields.to_vec(), map: map.into() };
            if self.maps.contains(names.allow) {
                rules.push(Rule(vec![vmap(&[names.daddr, Field::L4Proto, Field::ThDport], names.allow)]));
            }
            if self.maps.contains(names.allow_any) {
                let any = vmap(&[Field::L4Proto, Field::ThDport], names.allow_any);
                rules.push(rule(of_family(names.family == Family::Ipv6), [any]));
            }
        }
        rules
    }

    /// The rules that count the packets of flows to published ports, both ways, by where a flow's first packet was sent to:
    /// by their second argument those that have been translated, the exact address first, or those to containers' own
    /// addresses. What has been counted is done with.
    pub(super) fn count_rules(&self, translated: bool) -> Vec<Rule> {
        let mut rules = Vec::new();
        for names in &FAMILIES {
            let service = vec![Field::L4Proto, Field::CtOriginalProtoDst];
            let exact = [vec![names.original_daddr], service.clone()].concat();
            let look_up = |fields: &[Field], map: &'static str| {
                let set = counter_of(map).into();
                let look_up = Expr::InSet { fields: fields.to_vec(), negate: false, set };
                self.counted.contains(map).then_some([look_up, Expr::Verdict(Verdict::Return)])
            };
            let maps = if translated { [names.exact, names.exact_range] } else { [names.open, names.open_range] };
            rules.extend(maps.into_iter().filter_map(|map| look_up(&exact, map)).map(|exprs| Rule(exprs.into())));
            let any = [names.any, names.any_range].into_iter().filter(|_| translated);
            let any = any.filter_map(|map| look_up(&service, map));
            rules.extend(any.map(|exprs| rule(of_family(names.family == Family::Ipv6), exprs)));
        }
        rules
    }

    /// The rules that translate a local destination, the exact address first.
    pub(super) fn port_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for names in &FAMILIES {
            let service = [Field::L4Proto, Field::ThDport];
            let exact: Vec<Field> = std::iter::once(names.daddr).chain(service).collect();
            let look_up = |fields: &[Field], map: &'static str, keep_port: bool| {
                // Maps of single ports are always there.
                let there = !keep_port || self.maps.contains(map);
                let (family, fields) = (names.family, fields.to_vec());
                there.then(|| Expr::DnatMap { family, fields, map: map.into(), keep_port })
            };
            rules.extend(look_up(&exact, names.exact, false).map(|expr| Rule(vec![expr])));
            rules.extend(look_up(&exact, names.exact_range, true).map(|expr| Rule(vec![expr])));
            for (map, keep_port) in [(names.any, false), (names.any_range, true)] {
                let Some(look_up) = look_up(&service, map, keep_port) else { continue };
                let mut any = Vec::new();
                if names.family == Family::Ipv6 {
                    // The kernel cannot forward what was sent to ::1 or from a link-local address; left out, such clients
                    // are refused at once instead of waiting.
                    any.push(differs(names.daddr, Datum::Ipv6Addr(Ipv6Addr::LOCALHOST)));
                    any.push(differs(names.daddr, LINK_LOCAL_NET));
                }
                any.push(look_up);
                rules.push(Rule(any));
            }
        }
        rules
    }
}

impl Build<'_> {
    /// The elements of published ports.
    pub(super) fn ports(&mut self) -> Published {
        let mut published = Published::default();
        for member in self.members() {
            for port in &member.container.ports {
                self.warn_of_port(member, port);
                let verdict = self.allow_chain(member, port);
                for ipv6 in [false, true] {
                    let Some((attachment, network, target)) = member.port_target(port, ipv6) else { continue };
                    if network.mode(ipv6) == Some(Mode::Routed) {
                        let verdict = verdict.clone().unwrap_or(Verdict::Accept);
                        let (map, key) = self.open(port, target, verdict, &mut published);
                        self.count(map, key, &port.owner, &mut published);
                        continue;
                    }
                    self.translate(port, target, &mut published);
                    let attachments = &member.container.attachments;
                    let into = attachments[attachment].network;
                    let others = attachments.iter().map(|a| a.network).filter(|other| *other != into);
                    published.shared.extend(others.map(|other| (into, other)));
                    if let Some(verdict) = &verdict {
                        self.limit(port, ipv6, verdict, &mut published);
                    }
                    let loopback = match port.address {
                        PortAddress::One(host) => host.is_loopback(),
                        _ => true,
                    };
                    // It would take a parameter of the bridge, which on somebody else's nobody would take back.
                    if loopback && !ipv6 && !network.adopt {
                        published.localnet.insert(member.container.attachments[attachment].network);
                    }
                }
            }
        }
        self.open_elsewhere(&mut published);
        published
    }

    /// Ports of routed networks that are bridged to other hosts: the world may come to their containers by this one.
    fn open_elsewhere(&mut self, published: &mut Published) {
        for member in self.whole.into_iter().flat_map(Whole::elsewhere) {
            for port in &member.container.ports {
                for ipv6 in [false, true] {
                    let Some((_, network, target)) = member.port_target(port, ipv6) else { continue };
                    if network.is_switched() && network.mode(ipv6) == Some(Mode::Routed) {
                        let verdict = self.allow_chain(member, port).unwrap_or(Verdict::Accept);
                        self.open(port, target, verdict, published);
                    }
                }
            }
        }
    }

    /// What a person should know of a port: that its host's number means nothing, or that the host lacks its address.
    fn warn_of_port(&mut self, member: Member<'_>, port: &Port) {
        let networks: Vec<(bool, &Network)> = [false, true]
            .into_iter()
            .filter_map(|ipv6| member.port_target(port, ipv6).map(|(_, network, _)| (ipv6, network)))
            .collect();
        let routed = |(ipv6, network): &(bool, &Network)| network.mode(*ipv6) == Some(Mode::Routed);
        if networks.iter().all(routed) {
            if port.host != port.container || port.address != PortAddress::Any {
                let text = format!(
                    "network `{}` is routed: {} is reached at the container's own address and port {}, not at the host's",
                    networks.first().map_or("", |(_, network)| network.name.as_str()),
                    port.owner,
                    port.container
                );
                self.warn("routed-port", text, Some(&port.owner));
            }
            return;
        }
        if let PortAddress::One(host) = port.address
            && !host.is_loopback()
            && !self.is_own(host)
        {
            let text = format!("{} is published on {host}, which is no address of this host", port.owner);
            self.warn("address-missing", text, Some(&port.owner));
        }
    }

    /// The way from a host's address and port to a container's. What keeps its number is one element; else there is one
    /// for each port, as the kernel knows no difference between numbers.
    fn translate(&mut self, port: &Port, target: IpAddr, published: &mut Published) {
        let names = names(target.is_ipv6());
        let one = matches!(port.address, PortAddress::One(_));
        let (single, range) = if one { (names.exact, names.exact_range) } else { (names.any, names.any_range) };
        if port.host == port.container && !port.host.is_one() {
            published.maps.insert(range);
            let data = ElementData::Values(Concat(vec![ip(target)]));
            self.element(range, port_key(port, port.host), Some(data), &port.owner);
            self.count(range, port_key(port, port.host), &port.owner, published);
            return;
        }
        for (host, container) in port.host.ports().zip(port.container.ports()) {
            let data = ElementData::Values(Concat(vec![ip(target), Datum::InetService(container)]));
            self.element(single, port_key(port, PortRange::one(host)), Some(data), &port.owner);
            self.count(single, port_key(port, PortRange::one(host)), &port.owner, published);
        }
    }

    /// Counts what is found for a key of a map, where that is asked for.
    fn count(&mut self, map: &'static str, key: Vec<Datum>, owner: &Owner, published: &mut Published) {
        if self.config.settings.accounting {
            published.counted.insert(map);
            self.element(&counter_of(map), key, None, owner);
        }
    }

    /// Lets a container's port be reached by the container's address. Yields what tells it, and the map.
    fn open(
        &mut self,
        port: &Port,
        target: IpAddr,
        verdict: Verdict,
        published: &mut Published,
    ) -> (&'static str, Vec<Datum>) {
        let names = names(target.is_ipv6());
        let map = if port.container.is_one() { names.open } else { names.open_range };
        published.maps.insert(map);
        let key: Vec<Datum> =
            std::iter::once(ip(target)).chain(service(port.protocol.number(), port.container)).collect();
        self.element(map, key.clone(), Some(ElementData::Verdict(verdict)), &port.owner);
        (map, key)
    }

    /// Lets a host's port be used by those on its list alone.
    fn limit(&mut self, port: &Port, ipv6: bool, verdict: &Verdict, published: &mut Published) {
        let names = names(ipv6);
        let one = matches!(port.address, PortAddress::One(_));
        let map = if one { names.allow } else { names.allow_any };
        published.maps.insert(map);
        for host in port.host.ports() {
            let data = ElementData::Verdict(verdict.clone());
            self.element(map, port_key(port, PortRange::one(host)), Some(data), &port.owner);
        }
    }

    /// The chain that holds a port's list, and the way there; none where everybody may use it.
    fn allow_chain(&mut self, member: Member<'_>, port: &Port) -> Option<Verdict> {
        if port.allow.is_empty() {
            return None;
        }
        let name: Arc<str> = format!("{ALLOW}.{}.{}", member.container.name, port.index).into();
        let allowed = port.allow.iter();
        let mut rules: Vec<Rule> =
            allowed.map(|from| Rule(vec![equals(self::names(from.is_ipv6()).saddr, net(*from)), accept()])).collect();
        rules.push(Rule(vec![drop()]));
        self.chain(&name, None, rules, &port.owner);
        Some(Verdict::Jump(name))
    }
}

/// The key of a host's port or ports: with the address, where it is of one.
fn port_key(port: &Port, ports: PortRange) -> Vec<Datum> {
    let address = match port.address {
        PortAddress::One(host) => Some(ip(host)),
        _ => None,
    };
    address.into_iter().chain(service(port.protocol.number(), ports)).collect()
}
