//! The firewall table: what may talk to what, and published ports.
//!
//! Every hook has one base chain of a few rules whose number does not grow: published ports and networks are look-ups in
//! maps. Policies stay `accept`, since the hooks are shared; what is to be dropped is dropped by a rule that names one of
//! netrec's devices or addresses. A network has chains of its own, called by the name of its bridge:
//!
//! | hook | base chain | asks |
//! |---|---|---|
//! | prerouting, raw | `guard` | is it a 127/8 address from outside? (only where `route_localnet` is set) |
//! | prerouting, dstnat | `prerouting` | is it a published port of this host? |
//! | output, dstnat | `output` | the same for the host's own connections |
//! | input, filter | `input` | is it a gateway address asked for from outside? |
//! | forward, filter | `forward` | may it enter this network? (`forward-to.NET`) |
//! | postrouting, srcnat | `postrouting` | does it leave its network (`nat-from.NET`), or turn back into it (`nat-to.NET`)? |

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Build;
use super::container::Member;
use crate::config::{Network, Port, PortAddress};
use crate::state::firewall::{
    BaseChain, CT_ESTABLISHED_RELATED, CT_STATUS_DNAT, Chain, ChainKind, Concat, DataType, Datum, Element, ElementData,
    Expr, Family, Field, Hook, Policy, RTN_LOCAL, Rule, Set, SetData, Table, Verdict,
};
use crate::state::{InterfaceName, Key, Netns, Object, Owner};

/// `NF_IP_PRI_RAW`: before connection tracking.
const PRIORITY_RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`
const PRIORITY_DSTNAT: i32 = -100;
/// `NF_IP_PRI_FILTER`
const PRIORITY_FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`
const PRIORITY_SRCNAT: i32 = 100;

/// Verdict maps from bridges to their networks' chains, which are named after the map: `forward-to.front`.
const FORWARD_TO: &str = "forward-to";
const INPUT_FROM: &str = "input-from";
const NAT_FROM: &str = "nat-from";
const NAT_TO: &str = "nat-to";
/// The chain that looks published ports up.
const PORTS: &str = "ports";

/// The names that differ between the families.
struct Names {
    family: Family,
    daddr: Field,
    saddr: Field,
    address: DataType,
    /// Published ports of one host address, and of any.
    exact: &'static str,
    any: &'static str,
    gateway: &'static str,
}

const FAMILIES: [Names; 2] = [
    Names {
        family: Family::Ipv4,
        daddr: Field::IpDaddr,
        saddr: Field::IpSaddr,
        address: DataType::Ipv4Addr,
        exact: "port4",
        any: "port4-any",
        gateway: "gateway4",
    },
    Names {
        family: Family::Ipv6,
        daddr: Field::Ip6Daddr,
        saddr: Field::Ip6Saddr,
        address: DataType::Ipv6Addr,
        exact: "port6",
        any: "port6-any",
        gateway: "gateway6",
    },
];

fn names(ipv6: bool) -> &'static Names {
    &FAMILIES[usize::from(ipv6)]
}

fn equals(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: false, value }
}

fn differs(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: true, value }
}

fn established() -> Expr {
    Expr::AnyBit { field: Field::CtState, bits: CT_ESTABLISHED_RELATED }
}

fn was_dnat() -> Expr {
    Expr::AnyBit { field: Field::CtStatus, bits: CT_STATUS_DNAT }
}

fn vmap(field: Field, map: &str) -> Rule {
    Rule(vec![Expr::Vmap { fields: vec![field], map: map.into() }])
}

fn accept() -> Expr {
    Expr::Verdict(Verdict::Accept)
}

fn drop() -> Expr {
    Expr::Verdict(Verdict::Drop)
}

/// The loopback device.
const LO: Datum = Datum::Ifname(InterfaceName::LO);
/// 127.0.0.0/8
const LOOPBACK_NET: Datum = Datum::Ipv4Net(Ipv4Addr::new(127, 0, 0, 0), 8);
/// fe80::/10
const LINK_LOCAL_NET: Datum = Datum::Ipv6Net(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

impl Build<'_> {
    /// The table, if there is any network.
    pub(super) fn firewall(&mut self) {
        if self.config.networks.is_empty() {
            return;
        }
        self.want(Key::Table, Object::Table(Table::default()), &Owner::netrec());
        let localnet = self.ports();
        self.networks(&localnet);
        self.base_chains(!localnet.is_empty());
        self.sets();
    }

    fn sets(&mut self) {
        use DataType::{Ifname, InetProto, InetService};
        for names in &FAMILIES {
            let to = Some(SetData::Values(vec![names.address, InetService]));
            self.set(names.exact, vec![names.address, InetProto, InetService], to.clone());
            self.set(names.any, vec![InetProto, InetService], to);
            self.set(names.gateway, vec![names.address], None);
        }
        for map in [FORWARD_TO, INPUT_FROM, NAT_FROM, NAT_TO] {
            self.set(map, vec![Ifname], Some(SetData::Verdict));
        }
    }

    fn base_chains(&mut self, guard: bool) {
        if guard {
            let foreign = || differs(Field::Iifname, LO);
            self.base_chain(
                "guard",
                (ChainKind::Filter, Hook::Prerouting, PRIORITY_RAW),
                vec![
                    Rule(vec![foreign(), equals(Field::IpDaddr, LOOPBACK_NET), drop()]),
                    Rule(vec![foreign(), equals(Field::IpSaddr, LOOPBACK_NET), drop()]),
                ],
            );
        }
        let local = || {
            let jump = Expr::Verdict(Verdict::Jump(PORTS.into()));
            Rule(vec![equals(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)), jump])
        };
        self.base_chain("prerouting", (ChainKind::Nat, Hook::Prerouting, PRIORITY_DSTNAT), vec![local()]);
        self.base_chain("output", (ChainKind::Nat, Hook::Output, PRIORITY_DSTNAT), vec![local()]);
        self.chain(PORTS, None, port_rules(), &Owner::netrec());
        let mut input = vec![
            Rule(vec![established(), accept()]),
            Rule(vec![equals(Field::Iifname, LO), accept()]),
            vmap(Field::Iifname, INPUT_FROM),
        ];
        input.extend(FAMILIES.iter().map(|names| {
            Rule(vec![Expr::InSet { fields: vec![names.daddr], negate: false, set: names.gateway.into() }, drop()])
        }));
        self.base_chain("input", (ChainKind::Filter, Hook::Input, PRIORITY_FILTER), input);
        self.base_chain(
            "forward",
            (ChainKind::Filter, Hook::Forward, PRIORITY_FILTER),
            vec![Rule(vec![established(), accept()]), vmap(Field::Oifname, FORWARD_TO)],
        );
        self.base_chain(
            "postrouting",
            (ChainKind::Nat, Hook::Postrouting, PRIORITY_SRCNAT),
            vec![vmap(Field::Oifname, NAT_TO), vmap(Field::Iifname, NAT_FROM)],
        );
    }

    /// Each network's chains, and the look-ups that lead to them.
    fn networks(&mut self, localnet: &BTreeSet<usize>) {
        let (config, chosen) = (self.config, self.chosen);
        for (index, (network, names)) in config.networks.iter().zip(&chosen.networks).enumerate() {
            let bridge = names.bridge;
            let from_outside = differs(Field::Oifname, Datum::Ifname(bridge));
            self.network_chain(
                FORWARD_TO,
                network,
                bridge,
                vec![
                    Rule(vec![equals(Field::Iifname, Datum::Ifname(bridge)), accept()]),
                    Rule(vec![was_dnat(), accept()]),
                    Rule(vec![drop()]),
                ],
            );
            self.network_chain(NAT_FROM, network, bridge, vec![Rule(vec![from_outside, Expr::Masquerade])]);
            self.network_chain(NAT_TO, network, bridge, turning_back(network, localnet.contains(&index)));
            self.element(
                INPUT_FROM,
                vec![Datum::Ifname(bridge)],
                Some(ElementData::Verdict(Verdict::Accept)),
                &network.owner,
            );
            for gateway in network.subnets.iter().filter_map(|s| s.gateway) {
                let set = self::names(gateway.is_ipv6()).gateway;
                self.element(set, vec![ip(gateway)], None, &network.owner);
            }
            if network.has_family(false) {
                // Stated where it is off, too: it must not outlive the last port that needed it, and its guard.
                let value = if localnet.contains(&index) { "1" } else { "0" };
                self.want_sysctl(&Netns::HOST, format!("net/ipv4/conf/{bridge}/route_localnet"), value, &network.owner);
            }
        }
    }

    /// An element of a verdict map, and the chain that it leads to.
    fn network_chain(&mut self, map: &str, network: &Network, bridge: InterfaceName, rules: Vec<Rule>) {
        let name: Arc<str> = format!("{map}.{}", network.name).into();
        self.chain(&name, None, rules, &network.owner);
        let jump = ElementData::Verdict(Verdict::Jump(name));
        self.element(map, vec![Datum::Ifname(bridge)], Some(jump), &network.owner);
    }

    /// The elements of published ports. Yields the networks (by index) that a port of 127/8 leads into.
    fn ports(&mut self) -> BTreeSet<usize> {
        let mut localnet = BTreeSet::new();
        for member in self.members() {
            for port in &member.container.ports {
                for ipv6 in [false, true] {
                    if let Some(network) = self.port(member, port, ipv6) {
                        localnet.insert(network);
                    }
                }
            }
        }
        localnet
    }

    fn port(&mut self, member: Member<'_>, port: &Port, ipv6: bool) -> Option<usize> {
        let names = names(ipv6);
        let (attachment, target) = member.port_target(ipv6)?;
        let service = [Datum::InetProto(port.protocol.number()), Datum::InetService(port.host)];
        let (set, key) = match port.address {
            PortAddress::Any => (names.any, service.to_vec()),
            PortAddress::AnyIpv4 if !ipv6 => (names.any, service.to_vec()),
            PortAddress::AnyIpv6 if ipv6 => (names.any, service.to_vec()),
            PortAddress::One(host) if host.is_ipv6() == ipv6 => {
                (names.exact, std::iter::once(ip(host)).chain(service).collect())
            }
            _ => return None,
        };
        let data = ElementData::Values(Concat(vec![ip(target), Datum::InetService(port.container)]));
        self.element(set, key, Some(data), &port.owner);
        let loopback = match port.address {
            PortAddress::One(host) => host.is_loopback(),
            _ => true,
        };
        (loopback && !ipv6).then(|| member.container.attachments[attachment].network)
    }

    fn base_chain(&mut self, name: &str, (kind, hook, priority): (ChainKind, Hook, i32), rules: Vec<Rule>) {
        let base = BaseChain { kind, hook, priority, policy: Policy::Accept };
        self.chain(name, Some(base), rules, &Owner::netrec());
    }

    fn chain(&mut self, name: &str, base: Option<BaseChain>, rules: Vec<Rule>, owner: &Owner) {
        self.want(Key::Chain { name: name.into() }, Object::Chain(Chain { base, rules }), owner);
    }

    fn set(&mut self, name: &str, key: Vec<DataType>, data: Option<SetData>) {
        self.want(Key::Set { name: name.into() }, Object::Set(Set { key, data }), &Owner::netrec());
    }

    fn element(&mut self, set: &str, key: Vec<Datum>, data: Option<ElementData>, owner: &Owner) {
        let key = Key::Element { set: set.into(), key: Concat(key) };
        self.want(key, Object::Element(Element { data }), owner);
    }
}

/// The rules that translate a local destination, the exact address first.
fn port_rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for names in &FAMILIES {
        let service = [Field::L4Proto, Field::ThDport];
        let look_up = |fields: Vec<Field>, map: &str| Expr::DnatMap {
            family: names.family,
            fields,
            map: map.into(),
            keep_port: false,
        };
        rules.push(Rule(vec![look_up(std::iter::once(names.daddr).chain(service).collect(), names.exact)]));
        let mut any = Vec::new();
        if names.family == Family::Ipv6 {
            // The kernel cannot forward what was sent to ::1 or from a link-local address; left out, such clients are
            // refused at once instead of waiting.
            any.push(differs(names.daddr, Datum::Ipv6Addr(Ipv6Addr::LOCALHOST)));
            any.push(differs(names.daddr, LINK_LOCAL_NET));
        }
        any.push(look_up(service.to_vec(), names.any));
        rules.push(Rule(any));
    }
    rules
}

/// Source rewriting for flows into a network that would otherwise be answered past the host: from its own containers to
/// a published port (matched by subnet, since br_netfilter shows no incoming device here), and from 127/8.
fn turning_back(network: &Network, localnet: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    if localnet {
        rules.push(Rule(vec![equals(Field::IpSaddr, LOOPBACK_NET), Expr::Masquerade]));
    }
    for subnet in &network.subnets {
        let net = match subnet.net.network() {
            IpAddr::V4(a) => Datum::Ipv4Net(a, subnet.net.prefix()),
            IpAddr::V6(a) => Datum::Ipv6Net(a, subnet.net.prefix()),
        };
        let saddr = names(subnet.net.is_ipv6()).saddr;
        rules.push(Rule(vec![equals(saddr, net), was_dnat(), Expr::Masquerade]));
    }
    rules
}

fn ip(address: IpAddr) -> Datum {
    match address {
        IpAddr::V4(a) => Datum::Ipv4Addr(a),
        IpAddr::V6(a) => Datum::Ipv6Addr(a),
    }
}
