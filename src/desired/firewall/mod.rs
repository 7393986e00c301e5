//! The firewall table: what may talk to what, and published ports.
//!
//! Every hook has one base chain of a few rules whose number does not grow: published ports and networks are look-ups in
//! maps. Policies stay `accept`, since the hooks are shared; what is to be dropped is dropped by a rule that names one of
//! netrec's devices or addresses. A network has chains of its own, called by the name of its bridge:
//!
//! | hook | base chain | asks |
//! |---|---|---|
//! | prerouting, raw | `guard` | is it a 127/8 address from outside? (only where `route_localnet` is set) |
//! | prerouting, before dstnat | `allow` | may this source use the published port? (only where there are such lists) |
//! | prerouting, dstnat | `prerouting` | is it a published port of this host? |
//! | output, dstnat | `output` | the same for the host's own connections |
//! | input, filter | `input` | is it a tunnel's packet from a stranger? is it a gateway address asked for from outside? |
//! | forward, mangle | `clamp` | does a connection begin that goes through a tunnel? (only where its segments are kept small) |
//! | forward, filter | `forward` | may it leave its network (`forward-from.NET`), and enter this one (`forward-to.NET`)? |
//! | postrouting, mangle; input, mangle | `count`, `count-input` | is it of a flow to a published port? (only with `accounting`) |
//! | postrouting, srcnat | `postrouting` | does it leave its network (`nat-from.NET`), or turn back into it (`nat-to.NET`)? |

mod ports;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use self::ports::{Published, counter_of};
use super::{Build, ChosenNetwork, Whole};
use crate::config::{Mode, Network, Subnet};
use crate::state::firewall::{
    BaseChain, CT_ESTABLISHED_RELATED, CT_STATUS_DNAT, Chain, ChainKind, Concat, DataType, Datum, Element, ElementData,
    Expr, Family, Field, Hook, PRIORITY_DSTNAT, PRIORITY_FILTER, PRIORITY_MANGLE, PRIORITY_RAW, PRIORITY_SRCNAT,
    Policy, RTN_LOCAL, Rule, Set, SetData, TCP_SYN, Table, Verdict,
};
use crate::state::{InterfaceName, Key, Netns, Object, Owner};

/// `NF_IP_PRI_NAT_DST` less 10: after connection tracking, and while the destination is still the one that was asked for.
const PRIORITY_ALLOW: i32 = -110;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Verdict maps from bridges to their networks' chains, which are named after the map: `forward-to.front`.
const FORWARD_FROM: &str = "forward-from";
const FORWARD_TO: &str = "forward-to";
const INPUT_FROM: &str = "input-from";
const NAT_FROM: &str = "nat-from";
const NAT_TO: &str = "nat-to";
/// The ports of tunnels, the devices that no packet of a tunnel comes by, and the chain that asks who sent one.
const TUNNEL_PORT: &str = "tunnel-port";
const INSIDE: &str = "inside";
const TUNNEL: &str = "tunnel";
/// The chain that asks what leaves by links that hosts share.
const LINKS: &str = "links";
/// The devices behind which a tunnel begins.
const CLAMPED: &str = "clamped";
/// The chain that looks published ports up.
const PORTS: &str = "ports";
/// The base chain that asks who may use a published port, the chain that looks it up, and the prefix of the chains that
/// hold the lists.
const ALLOW: &str = "allow";
const ALLOW_PORTS: &str = "allow-ports";

/// The base chains that count, behind each other's backs: what is sent on or sent out, and what comes back to the host
/// itself. And the chain that asks for ports of the host's.
const COUNT: &str = "count";
const COUNT_INPUT: &str = "count-input";
const COUNT_PORTS: &str = "count-ports";

/// The names that differ between the families. Maps of ranges are there only where there are ranges.
struct Names {
    family: Family,
    daddr: Field,
    saddr: Field,
    original_daddr: Field,
    address: DataType,
    icmp: u8,
    /// Published ports of one host address, and of any, each alone and in ranges that keep the port's number.
    exact: &'static str,
    any: &'static str,
    exact_range: &'static str,
    any_range: &'static str,
    /// Published ports of routed networks, by the container's address.
    open: &'static str,
    open_range: &'static str,
    /// Published ports that not everybody may use, of one host address and of any.
    allow: &'static str,
    allow_any: &'static str,
    gateway: &'static str,
    /// Where tunnels from other hosts come from.
    peer: &'static str,
}

const FAMILIES: [Names; 2] = [
    Names {
        family: Family::Ipv4,
        daddr: Field::IpDaddr,
        saddr: Field::IpSaddr,
        original_daddr: Field::CtOriginalIpDaddr,
        address: DataType::Ipv4Addr,
        icmp: ICMP,
        exact: "port4",
        any: "port4-any",
        exact_range: "port4-range",
        any_range: "port4-any-range",
        open: "open4",
        open_range: "open4-range",
        allow: "allow4",
        allow_any: "allow4-any",
        gateway: "gateway4",
        peer: "peer4",
    },
    Names {
        family: Family::Ipv6,
        daddr: Field::Ip6Daddr,
        saddr: Field::Ip6Saddr,
        original_daddr: Field::CtOriginalIp6Daddr,
        address: DataType::Ipv6Addr,
        icmp: ICMPV6,
        exact: "port6",
        any: "port6-any",
        exact_range: "port6-range",
        any_range: "port6-any-range",
        open: "open6",
        open_range: "open6-range",
        allow: "allow6",
        allow_any: "allow6-any",
        gateway: "gateway6",
        peer: "peer6",
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

fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}

fn of_family(ipv6: bool) -> Expr {
    equals(Field::NfProto, Datum::NfProto(names(ipv6).family))
}

fn of_protocol(protocol: u8) -> Expr {
    equals(Field::L4Proto, Datum::InetProto(protocol))
}

/// Rules that begin with the same question.
fn rule(first: Expr, rest: impl IntoIterator<Item = Expr>) -> Rule {
    Rule(std::iter::once(first).chain(rest).collect())
}

/// The loopback device.
const LO: Datum = Datum::Ifname(InterfaceName::LO);
/// 127.0.0.0/8
const LOOPBACK_NET: Datum = Datum::Ipv4Net(Ipv4Addr::new(127, 0, 0, 0), 8);
/// ff00::/8
const MULTICAST_NET: Datum = Datum::Ipv6Net(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
/// fe80::/10
const LINK_LOCAL_NET: Datum = Datum::Ipv6Net(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

impl Build<'_> {
    /// The table, if there is any network that the host has a part in.
    pub(super) fn firewall(&mut self) {
        if !self.config.networks.iter().any(Network::has_bridge) {
            return;
        }
        self.want(Key::Table, Object::Table(Table::default()), &Owner::netrec());
        let published = self.ports();
        self.networks(&published);
        let tunnels = self.tunnels();
        self.base_chains(&published, &tunnels);
        self.sets(&published, &tunnels);
    }

    /// What the guard of tunnels looks up.
    fn tunnels(&mut self) -> Tunnels {
        let (config, chosen) = (self.config, self.chosen);
        let mut tunnels = Tunnels::default();
        for (network, names) in config.networks.iter().zip(&chosen.networks) {
            let Some(overlay) = network.overlay().filter(|_| !names.tunnels.is_empty()) else { continue };
            tunnels.any = true;
            self.element(TUNNEL_PORT, vec![Datum::InetService(overlay.port)], None, &network.owner);
            if overlay.mss_clamp {
                tunnels.clamped = true;
                for tunnel in &names.tunnels {
                    let device = if network.is_switched() { names.bridge } else { tunnel.device };
                    self.element(CLAMPED, vec![Datum::Ifname(device)], None, &network.owner);
                }
            }
        }
        if !tunnels.any {
            return tunnels;
        }
        for (network, names) in config.networks.iter().zip(&chosen.networks) {
            for device in devices(network, names) {
                self.element(INSIDE, vec![Datum::Ifname(device)], None, &network.owner);
            }
        }
        let kinds: BTreeSet<Option<bool>> =
            chosen.networks.iter().flat_map(|names| &names.tunnels).map(|tunnel| tunnel.ipv6).collect();
        for (_, host) in self.whole.into_iter().flat_map(Whole::others) {
            let end = |ipv6: &Option<bool>| ipv6.map_or_else(|| host.vtep(), |ipv6| host.address(ipv6));
            for vtep in kinds.iter().filter_map(end) {
                let set = self::names(vtep.is_ipv6()).peer;
                tunnels.peers.insert(set);
                self.element(set, vec![ip(vtep)], None, &host.owner);
            }
        }
        tunnels
    }

    fn sets(&mut self, published: &Published, tunnels: &Tunnels) {
        use DataType::{Ifname, InetProto, InetService, ServiceRange};
        if tunnels.any {
            self.set(TUNNEL_PORT, vec![InetService], None);
            self.set(INSIDE, vec![Ifname], None);
        }
        if tunnels.clamped {
            self.set(CLAMPED, vec![Ifname], None);
        }
        for names in &FAMILIES {
            let to = Some(SetData::Values(vec![names.address, InetService]));
            self.set(names.exact, vec![names.address, InetProto, InetService], to.clone());
            self.set(names.any, vec![InetProto, InetService], to);
            self.set(names.gateway, vec![names.address], None);
            if tunnels.peers.contains(names.peer) {
                self.set(names.peer, vec![names.address], None);
            }
            let kept = || Some(SetData::Values(vec![names.address]));
            let more = [
                (names.exact_range, vec![names.address, InetProto, ServiceRange], kept()),
                (names.any_range, vec![InetProto, ServiceRange], kept()),
                (names.open, vec![names.address, InetProto, InetService], Some(SetData::Verdict)),
                (names.open_range, vec![names.address, InetProto, ServiceRange], Some(SetData::Verdict)),
                (names.allow, vec![names.address, InetProto, InetService], Some(SetData::Verdict)),
                (names.allow_any, vec![InetProto, InetService], Some(SetData::Verdict)),
            ];
            for name in [names.exact, names.any].into_iter().filter(|name| published.counted.contains(name)) {
                let address = (name == names.exact).then_some(names.address);
                self.counter(name, address.into_iter().chain([InetProto, InetService]).collect());
            }
            for (name, key, data) in more {
                if published.counted.contains(name) {
                    self.counter(name, key.clone());
                }
                if published.maps.contains(name) {
                    self.set(name, key, data);
                }
            }
        }
        for map in [FORWARD_FROM, FORWARD_TO, INPUT_FROM, NAT_FROM, NAT_TO] {
            self.set(map, vec![Ifname], Some(SetData::Verdict));
        }
    }

    fn base_chains(&mut self, published: &Published, tunnels: &Tunnels) {
        if !published.localnet.is_empty() {
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
        let local = |chain: &str| Rule(vec![equals(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)), jump(chain)]);
        if tunnels.clamped {
            // What most packets are not is asked first.
            let begins = Expr::AnyBit { field: Field::TcpFlags, bits: TCP_SYN };
            self.base_chain(
                "clamp",
                (ChainKind::Filter, Hook::Forward, PRIORITY_MANGLE),
                vec![Rule(vec![of_protocol(TCP), begins, is_in(Field::Oifname, CLAMPED), Expr::ClampMss])],
            );
        }
        if published.limits() {
            self.base_chain(
                ALLOW,
                (ChainKind::Filter, Hook::Prerouting, PRIORITY_ALLOW),
                vec![
                    Rule(vec![established(), accept()]),
                    Rule(vec![equals(Field::Iifname, LO), accept()]),
                    local(ALLOW_PORTS),
                ],
            );
            self.chain(ALLOW_PORTS, None, published.allow_rules(), &Owner::netrec());
        }
        if !published.counted.is_empty() {
            let translated = published.count_rules(true);
            let mut rules = Vec::new();
            if !translated.is_empty() {
                self.chain(COUNT_PORTS, None, translated, &Owner::netrec());
                rules.push(Rule(vec![was_dnat(), jump(COUNT_PORTS)]));
            }
            rules.extend(published.count_rules(false));
            self.base_chain(COUNT, (ChainKind::Filter, Hook::Postrouting, PRIORITY_MANGLE), rules.clone());
            self.base_chain(COUNT_INPUT, (ChainKind::Filter, Hook::Input, PRIORITY_MANGLE), rules);
        }
        self.base_chain("prerouting", (ChainKind::Nat, Hook::Prerouting, PRIORITY_DSTNAT), vec![local(PORTS)]);
        self.base_chain("output", (ChainKind::Nat, Hook::Output, PRIORITY_DSTNAT), vec![local(PORTS)]);
        self.chain(PORTS, None, published.port_rules(), &Owner::netrec());
        let mut input = Vec::new();
        if tunnels.any {
            // Before flows that are established: every packet shows who sent it, and most go no further than here.
            input.push(Rule(vec![of_protocol(UDP), is_in(Field::ThDport, TUNNEL_PORT), jump(TUNNEL)]));
            let mut rules = vec![Rule(vec![is_in(Field::Iifname, INSIDE), drop()])];
            let peers = FAMILIES.iter().filter(|names| tunnels.peers.contains(names.peer));
            rules.extend(peers.map(|names| Rule(vec![is_in(names.saddr, names.peer), accept()])));
            rules.push(Rule(vec![drop()]));
            self.chain(TUNNEL, None, rules, &Owner::netrec());
        }
        input.extend([
            Rule(vec![established(), accept()]),
            Rule(vec![equals(Field::Iifname, LO), accept()]),
            vmap(Field::Iifname, INPUT_FROM),
        ]);
        input.extend(FAMILIES.iter().map(|names| Rule(vec![is_in(names.daddr, names.gateway), drop()])));
        self.base_chain("input", (ChainKind::Filter, Hook::Input, PRIORITY_FILTER), input);
        let mut forward = Vec::new();
        if tunnels.any {
            // Masqueraded it would be this host's, to which its peers listen.
            let leaves = Expr::InSet { fields: vec![Field::Oifname], negate: true, set: INSIDE.into() };
            let of_tunnel = is_in(Field::ThDport, TUNNEL_PORT);
            forward.push(Rule(vec![of_protocol(UDP), of_tunnel, is_in(Field::Iifname, INSIDE), leaves, drop()]));
        }
        forward.push(Rule(vec![established(), accept()]));
        let strangers = self.strangers_of_links();
        if !strangers.is_empty() {
            self.chain(LINKS, None, strangers, &Owner::netrec());
            forward.push(Rule(vec![jump(LINKS)]));
        }
        forward.extend([vmap(Field::Iifname, FORWARD_FROM), vmap(Field::Oifname, FORWARD_TO)]);
        self.base_chain("forward", (ChainKind::Filter, Hook::Forward, PRIORITY_FILTER), forward);
        self.base_chain(
            "postrouting",
            (ChainKind::Nat, Hook::Postrouting, PRIORITY_SRCNAT),
            vec![vmap(Field::Oifname, NAT_TO), vmap(Field::Iifname, NAT_FROM)],
        );
    }

    /// What goes to other hosts by a link that they share, with the source of a container that it is not from: they take what
    /// comes by that link for their network's own.
    fn strangers_of_links(&self) -> Vec<Rule> {
        let networks = self.config.networks.iter().zip(&self.chosen.networks);
        let links = networks.flat_map(|(network, names)| {
            self.shared_links(network).into_iter().map(|(link, subnet)| (link, subnet, names.bridge))
        });
        let rule = |(link, subnet, bridge): (InterfaceName, IpNetwork, InterfaceName)| {
            let (from, of) = (differs(Field::Iifname, Datum::Ifname(bridge)), names(subnet.is_ipv6()).saddr);
            Rule(vec![by(Field::Oifname, link), from, equals(of, net(subnet)), drop()])
        };
        links.map(rule).collect()
    }

    /// Each network's chains, and the look-ups that lead to them.
    fn networks(&mut self, published: &Published) {
        let (config, chosen) = (self.config, self.chosen);
        let networks = config.networks.iter().zip(&chosen.networks).enumerate();
        for (index, (network, names)) in networks.filter(|(_, (network, _))| network.has_bridge()) {
            let (bridge, devices) = (names.bridge, devices(network, names));
            let inside = Inside { devices: &devices, links: &self.shared_links(network) };
            let localnet = published.localnet.contains(&index);
            for (map, devices, rules) in [
                (FORWARD_TO, &devices[..], forward_to(network, &inside, published)),
                (FORWARD_FROM, &devices[..], forward_from(network, &inside)),
                (NAT_FROM, &devices[..1], nat_from(network, bridge)),
                (NAT_TO, &devices[..1], nat_to(network, &self.askers(index, published), localnet)),
            ] {
                if !rules.is_empty() {
                    self.network_chain(map, network, devices, rules);
                }
            }
            let own = self.whole.and_then(|whole| names.hosts.get(whole.here));
            let own = own.into_iter().flat_map(|own| &own.addresses).map(IpNetwork::ip);
            let addresses: Vec<IpAddr> = network.subnets.iter().filter_map(|s| s.gateway).chain(own).collect();
            let input = input_from(network, &addresses);
            if input.is_empty() {
                for device in &devices {
                    let verdict = Some(ElementData::Verdict(Verdict::Accept));
                    self.element(INPUT_FROM, vec![Datum::Ifname(*device)], verdict, &network.owner);
                }
            } else {
                self.network_chain(INPUT_FROM, network, &devices, input);
            }
            for address in addresses {
                let set = self::names(address.is_ipv6()).gateway;
                self.element(set, vec![ip(address)], None, &network.owner);
            }
            // The parameters of a bridge that somebody else made are theirs.
            if network.has_family(false) && !network.adopt {
                // Stated where it is off, too: it must not outlive the last port that needed it, and its guard.
                let value = if localnet { "1" } else { "0" };
                self.want_sysctl(&Netns::HOST, format!("net/ipv4/conf/{bridge}/route_localnet"), value, &network.owner);
            }
        }
    }

    /// The subnets from which a network's containers know who asks: its own, and those of other networks that containers
    /// with published ports are on, where sources are kept.
    fn askers(&self, index: usize, published: &Published) -> Vec<IpNetwork> {
        let of = |index: usize, mode: Mode| {
            let network = &self.config.networks[index];
            network.subnets.iter().map(|s| s.net).filter(move |net| network.mode(net.is_ipv6()) == Some(mode))
        };
        let shared = published.shared.range((index, 0)..=(index, usize::MAX));
        of(index, Mode::Nat).chain(shared.flat_map(|(_, other)| of(*other, Mode::Routed))).collect()
    }

    /// The elements of a verdict map for a network's devices, and the chain that they lead to.
    fn network_chain(&mut self, map: &str, network: &Network, devices: &[InterfaceName], rules: Vec<Rule>) {
        let name: Arc<str> = format!("{map}.{}", network.name).into();
        self.chain(&name, None, rules, &network.owner);
        for device in devices {
            let jump = ElementData::Verdict(Verdict::Jump(Arc::clone(&name)));
            self.element(map, vec![Datum::Ifname(*device)], Some(jump), &network.owner);
        }
    }

    fn base_chain(&mut self, name: &str, (kind, hook, priority): (ChainKind, Hook, i32), rules: Vec<Rule>) {
        let base = BaseChain { kind, hook, priority, policy: Policy::Accept };
        self.chain(name, Some(base), rules, &Owner::netrec());
    }

    fn chain(&mut self, name: &str, base: Option<BaseChain>, rules: Vec<Rule>, owner: &Owner) {
        self.want(Key::Chain { name: name.into() }, Object::Chain(Chain { base, rules }), owner);
    }

    fn set(&mut self, name: &str, key: Vec<DataType>, data: Option<SetData>) {
        self.want(Key::Set { name: name.into() }, Object::Set(Set { key, data, counted: false }), &Owner::netrec());
    }

    /// The set that counts what a map is for, by the map's key.
    fn counter(&mut self, map: &str, key: Vec<DataType>) {
        let set = Set { key, data: None, counted: true };
        self.want(Key::Set { name: counter_of(map).into() }, Object::Set(set), &Owner::netrec());
    }

    fn element(&mut self, set: &str, key: Vec<Datum>, data: Option<ElementData>, owner: &Owner) {
        let key = Key::Element { set: set.into(), key: Concat(key) };
        self.want(key, Object::Element(Element { data }), owner);
    }
}

/// What there is of tunnels.
#[derive(Debug, Default)]
struct Tunnels {
    any: bool,
    /// Whether some keep the segments of TCP small.
    clamped: bool,
    /// The sets of peers that hold any.
    peers: BTreeSet<&'static str>,
}

/// The devices of a network that its containers' packets come by: its bridge first, and a tunnel that is no port of it.
fn devices(network: &Network, names: &ChosenNetwork) -> Vec<InterfaceName> {
    let tunnels = names.tunnels.iter().filter(|_| !network.is_switched()).map(|tunnel| tunnel.device);
    let bridge = network.has_bridge().then_some(names.bridge);
    bridge.into_iter().chain(tunnels).collect()
}

/// Where a network's containers are, as the host sees it.
struct Inside<'a> {
    /// Behind these devices.
    devices: &'a [InterfaceName],
    /// On other hosts, behind devices of all the world's: with the subnet that they are in.
    links: &'a [(InterfaceName, IpNetwork)],
}

impl Inside<'_> {
    /// Whether a packet comes from one of them, each way a rule's beginning.
    fn from(&self) -> impl Iterator<Item = Vec<Expr>> {
        let links = self.links.iter().map(|(device, subnet)| {
            vec![by(Field::Iifname, *device), equals(names(subnet.is_ipv6()).saddr, net(*subnet))]
        });
        self.devices.iter().map(|device| vec![by(Field::Iifname, *device)]).chain(links)
    }

    /// Whether it goes to one of them.
    fn to(&self) -> impl Iterator<Item = Vec<Expr>> {
        let links = self.links.iter().map(|(device, subnet)| {
            vec![by(Field::Oifname, *device), equals(names(subnet.is_ipv6()).daddr, net(*subnet))]
        });
        self.devices.iter().map(|device| vec![by(Field::Oifname, *device)]).chain(links)
    }
}

fn by(field: Field, device: InterfaceName) -> Expr {
    equals(field, Datum::Ifname(device))
}

fn is_in(field: Field, set: &str) -> Expr {
    Expr::InSet { fields: vec![field], negate: false, set: set.into() }
}

/// The modes of the families that a network has.
fn modes(network: &Network) -> impl Iterator<Item = (bool, Mode)> + Clone {
    [false, true].into_iter().filter_map(|ipv6| Some((ipv6, network.mode(ipv6)?)))
}

/// Drops what is of the families that do not pass: all, or where one passes the other.
fn closed(network: &Network) -> Option<Rule> {
    if modes(network).all(|(_, mode)| !mode.passes()) {
        return Some(Rule(vec![drop()]));
    }
    modes(network).find(|(_, mode)| !mode.passes()).map(|(ipv6, _)| Rule(vec![of_family(ipv6), drop()]))
}

/// What may enter a network: its own, unless its containers are kept apart; what a published port let in; what comes from
/// a trusted device; and where containers are reached by their own addresses, their published ports and ICMP.
fn forward_to(network: &Network, inside: &Inside<'_>, published: &Published) -> Vec<Rule> {
    let own = |verdict: fn() -> Expr| {
        inside.from().map(move |mut rule| {
            rule.push(verdict());
            Rule(rule)
        })
    };
    let mut rules = Vec::new();
    if network.icc {
        rules.extend(own(accept));
    }
    if modes(network).any(|(_, mode)| mode.passes()) {
        rules.extend(closed(network));
        if modes(network).any(|(_, mode)| mode == Mode::Nat) {
            rules.push(Rule(vec![was_dnat(), accept()]));
        }
        let trusted = network.trusted.iter();
        let mut more: Vec<Rule> =
            trusted.map(|name| Rule(vec![equals(Field::Iifname, Datum::Ifname(*name)), accept()])).collect();
        for names in modes(network).filter(|(_, mode)| *mode == Mode::Routed).map(|(ipv6, _)| names(ipv6)) {
            for map in [names.open, names.open_range].into_iter().filter(|map| published.maps.contains(map)) {
                let fields = vec![names.daddr, Field::L4Proto, Field::ThDport];
                more.push(Rule(vec![Expr::Vmap { fields, map: map.into() }]));
            }
            more.push(Rule(vec![of_protocol(names.icmp), accept()]));
        }
        if !network.icc && !more.is_empty() {
            rules.extend(own(drop));
        }
        rules.extend(more);
    }
    rules.push(Rule(vec![drop()]));
    rules
}

/// What may not leave a network.
fn forward_from(network: &Network, inside: &Inside<'_>) -> Vec<Rule> {
    let Some(closed) = closed(network) else { return Vec::new() };
    let stays = inside.to().map(|mut rule| {
        rule.push(Expr::Verdict(Verdict::Return));
        Rule(rule)
    });
    stays.chain([closed]).collect()
}

/// What of the host a network's containers may talk to; no rules for everything. Of an internal network's that is the host's
/// addresses on it, and neighbour discovery, without which nobody finds them.
fn input_from(network: &Network, addresses: &[IpAddr]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (ipv6, _) in modes(network).filter(|(_, mode)| *mode == Mode::Internal) {
        let names = names(ipv6);
        let addresses = addresses.iter().filter(|address| address.is_ipv6() == ipv6);
        rules.extend(addresses.map(|address| Rule(vec![equals(names.daddr, ip(*address)), accept()])));
        if ipv6 {
            for net in [LINK_LOCAL_NET, MULTICAST_NET] {
                rules.push(Rule(vec![of_protocol(names.icmp), equals(names.daddr, net), accept()]));
            }
        }
    }
    let Some(closed) = closed(network) else { return rules };
    rules.push(closed);
    if modes(network).any(|(_, mode)| mode.passes()) {
        rules.push(Rule(vec![accept()]));
    }
    rules
}

/// Source rewriting for what leaves a network.
fn nat_from(network: &Network, bridge: InterfaceName) -> Vec<Rule> {
    let outside = || differs(Field::Oifname, Datum::Ifname(bridge));
    if network.has_pieces() {
        // Other pieces are behind other devices, of the world's perhaps.
        let rule = |subnet: &Subnet| {
            let ipv6 = subnet.net.is_ipv6();
            let source = network.snat_of(ipv6).map_or(Expr::Masquerade, Expr::Snat);
            let leaves = differs(names(ipv6).daddr, net(subnet.whole));
            (network.mode(ipv6) == Some(Mode::Nat)).then(|| Rule(vec![outside(), leaves, source]))
        };
        return network.subnets.iter().filter_map(rule).collect();
    }
    let rewritten = || modes(network).filter(|(_, mode)| *mode == Mode::Nat).map(|(ipv6, _)| ipv6);
    let mut rules: Vec<Rule> = rewritten()
        .filter_map(|ipv6| network.snat_of(ipv6))
        .map(|address| Rule(vec![outside(), Expr::Snat(address)]))
        .collect();
    if rewritten().count() == modes(network).count() {
        if rewritten().any(|ipv6| network.snat_of(ipv6).is_none()) {
            rules.push(Rule(vec![outside(), Expr::Masquerade]));
        }
    } else {
        let masqueraded = rewritten().filter(|ipv6| network.snat_of(*ipv6).is_none());
        rules.extend(masqueraded.map(|ipv6| Rule(vec![outside(), of_family(ipv6), Expr::Masquerade])));
    }
    rules
}

/// Source rewriting for flows into a network that would otherwise be answered past the host: from those who know the
/// container to a published port (matched by subnet, since br_netfilter shows no incoming device here), and from 127/8.
fn nat_to(network: &Network, askers: &[IpNetwork], localnet: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    if localnet {
        rules.push(Rule(vec![equals(Field::IpSaddr, LOOPBACK_NET), Expr::Masquerade]));
    }
    for subnet in askers.iter().filter(|net| network.mode(net.is_ipv6()) == Some(Mode::Nat)) {
        let saddr = names(subnet.is_ipv6()).saddr;
        rules.push(Rule(vec![equals(saddr, net(*subnet)), was_dnat(), Expr::Masquerade]));
    }
    rules
}

/// The addresses of a network, for a comparison.
fn net(net: IpNetwork) -> Datum {
    match net.network() {
        IpAddr::V4(a) => Datum::Ipv4Net(a, net.prefix()),
        IpAddr::V6(a) => Datum::Ipv6Net(a, net.prefix()),
    }
}

fn ip(address: IpAddr) -> Datum {
    match address {
        IpAddr::V4(a) => Datum::Ipv4Addr(a),
        IpAddr::V6(a) => Datum::Ipv6Addr(a),
    }
}
