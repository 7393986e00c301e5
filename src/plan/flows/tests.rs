use std::net::{IpAddr, SocketAddr};
use std::slice;

use ipnetwork::IpNetwork;

use super::*;
use crate::config::{Source, Sources, parse};
use crate::desired::desired;
use crate::state::firewall::{
    BaseChain, CT_ESTABLISHED_RELATED, CT_STATUS_DNAT, Chain, ChainKind, Concat, DataType, Datum, Element, ElementData,
    Expr, Family, Field, Hook, Policy, RTN_LOCAL, Rule, Set, SetData, TCP_SYN, Table, Verdict,
};
use crate::state::{
    Address, Device, Entry, Facts, InterfaceName, Link, LinkKind, Mac, Netns, Owner, Peer, Standing, facts,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const HOST: &str = "192.0.2.1:8080";
const OTHER_HOST: &str = "192.0.2.2:8080";
const TRANSIT: &str = "198.51.100.7:8080";
const WORLD: &str = "192.0.2.9";
const WEB: &str = "10.20.0.10:80";
const API: &str = "10.20.0.11:80";

fn local(ip: IpAddr) -> bool {
    let host = ["192.0.2.1", "192.0.2.2", "127.0.0.1", "2001:db8::1", "::1", "fe80::1"];
    host.contains(&ip.to_string().as_str())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An end with a port or without.
fn end(text: &str) -> End {
    text.parse::<SocketAddr>().map_or_else(|_| End { ip: ip(text), port: None }, End::from)
}

fn datum(text: &str) -> Datum {
    match ip(text) {
        IpAddr::V4(a) => Datum::Ipv4Addr(a),
        IpAddr::V6(a) => Datum::Ipv6Addr(a),
    }
}

fn name(text: &str) -> Datum {
    Datum::Ifname(text.parse().unwrap())
}

fn net(text: &str) -> Datum {
    match text.parse().unwrap() {
        IpNetwork::V4(net) => Datum::Ipv4Net(net.ip(), net.prefix()),
        IpNetwork::V6(net) => Datum::Ipv6Net(net.ip(), net.prefix()),
    }
}

/// A flow that was answered, from the world, or where that is of another family its like.
fn flow(protocol: u8, to: &str, answers: &str) -> Flow {
    let (to, answers) = (end(to), end(answers));
    let from = if to.ip.is_ipv6() { ip("2001:db8::9") } else { ip(WORLD) };
    Flow { protocol, from, to, answers, answered: true, related: false }
}

fn from(from: &str, protocol: u8, to: &str) -> Flow {
    Flow { from: ip(from), ..flow(protocol, to, to) }
}

/// Part of a state.
type Part = (Key, Object);

fn table(parts: impl IntoIterator<Item = Part>) -> State {
    let all = std::iter::once((Key::Table, Object::Table(Table::default()))).chain(parts);
    all.map(|(key, object)| (key, Entry::new(object, Owner::netrec()))).collect()
}

fn base(hook: Hook, priority: i32) -> BaseChain {
    let kind = if priority == -100 { ChainKind::Nat } else { ChainKind::Filter };
    BaseChain { kind, hook, priority, policy: Policy::Accept }
}

fn chain(name: &str, base: Option<BaseChain>, rules: &[&[Expr]]) -> Part {
    let rules = rules.iter().map(|exprs| Rule(exprs.to_vec())).collect();
    (Key::Chain { name: name.into() }, Object::Chain(Chain { base, rules }))
}

fn set(name: &str, key: &[DataType], data: Option<SetData>) -> Part {
    (Key::Set { name: name.into() }, Object::Set(Set { key: key.to_vec(), data, counted: false }))
}

fn element(set: &str, key: &[Datum], data: Option<ElementData>) -> Part {
    (Key::Element { set: set.into(), key: Concat(key.to_vec()) }, Object::Element(Element { data }))
}

fn to(values: &[Datum]) -> ElementData {
    ElementData::Values(Concat(values.to_vec()))
}

fn is(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: false, value }
}

fn is_not(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: true, value }
}

fn jump(name: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(name.into()))
}

fn goto(name: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(name.into()))
}

const ACCEPT: Expr = Expr::Verdict(Verdict::Accept);
const DROP: Expr = Expr::Verdict(Verdict::Drop);
const RETURN: Expr = Expr::Verdict(Verdict::Return);

/// What becomes of a flow, in short: `pass`, `drop`, `10.0.0.2:80`, `drop 10.0.0.2:80`; several where it depends.
fn shown(fate: &Fate) -> String {
    let way = |way: &Way| match (way.translated, way.dropped) {
        (None, false) => "pass".to_owned(),
        (None, true) => "drop".to_owned(),
        (Some(to), false) => to.to_string(),
        (Some(to), true) => format!("drop {to}"),
    };
    let ways = fate.ways.iter().map(way).chain(fate.unclear.then(|| "?".to_owned()));
    ways.collect::<Vec<_>>().join(" or ")
}

fn fate(state: &State, flow: &Flow) -> String {
    shown(&Ruleset::of(state).first_packet(flow, &local))
}

// Published ports: what was found by comparing port maps is found by asking the rules that use them.

/// A published port: the host's address or `any`, protocol, port or first and last of several, and where it leads.
type Port<'a> = (&'a str, u8, (u16, u16), &'a str);

/// The rules of published ports, with ranges that keep their ports too, as far as these ports need them.
fn published(mappings: &[Port<'_>]) -> State {
    use DataType::{InetProto, InetService, Ipv4Addr, Ipv6Addr, ServiceRange};
    let local = || is(Field::FibDaddrType, Datum::FibType(RTN_LOCAL));
    let mut parts = vec![
        chain("prerouting", Some(base(Hook::Prerouting, -100)), &[&[local(), jump("ports")]]),
        chain("output", Some(base(Hook::Output, -100)), &[&[local(), jump("ports")]]),
    ];
    let mut rules: Vec<Vec<Expr>> = Vec::new();
    for (family, daddr, kind, n) in
        [(Family::Ipv4, Field::IpDaddr, Ipv4Addr, 4), (Family::Ipv6, Field::Ip6Daddr, Ipv6Addr, 6)]
    {
        let service = vec![Field::L4Proto, Field::ThDport];
        let look_up = |fields: Vec<Field>, map: &str, keep_port| Expr::DnatMap {
            family,
            fields,
            map: format!("{map}{n}").into(),
            keep_port,
        };
        let guarded = |expr| match family {
            Family::Ipv4 => vec![expr],
            Family::Ipv6 => {
                vec![is_not(daddr, datum("::1")), is_not(daddr, net("fe80::/10")), expr]
            }
        };
        rules.push(vec![look_up([vec![daddr], service.clone()].concat(), "port", false)]);
        rules.push(guarded(look_up(service.clone(), "any", false)));
        rules.push(guarded(look_up(service, "range", true)));
        let values = |types: &[DataType]| Some(SetData::Values(types.to_vec()));
        parts.push(set(&format!("port{n}"), &[kind, InetProto, InetService], values(&[kind, InetService])));
        parts.push(set(&format!("any{n}"), &[InetProto, InetService], values(&[kind, InetService])));
        parts.push(set(&format!("range{n}"), &[InetProto, ServiceRange], values(&[kind])));
    }
    parts.push(chain("ports", None, &rules.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    for (at, protocol, (first, last), target) in mappings {
        let (target, protocol) = (end(target), Datum::InetProto(*protocol));
        let n = if target.ip.is_ipv6() { 6 } else { 4 };
        let ip = datum(&target.ip.to_string());
        let service = [protocol, Datum::InetService(*first)];
        parts.push(match target.port {
            None => element(&format!("range{n}"), &[protocol, Datum::ServiceRange(*first, *last)], Some(to(&[ip]))),
            Some(port) if *at == "any" => {
                element(&format!("any{n}"), &service, Some(to(&[ip, Datum::InetService(port)])))
            }
            Some(port) => {
                let key = [vec![datum(at)], service.to_vec()].concat();
                element(&format!("port{n}"), &key, Some(to(&[ip, Datum::InetService(port)])))
            }
        });
    }
    table(parts)
}

/// The same port for both protocols.
fn mapping<'a>(at: &'a str, target: &'a str) -> Vec<Port<'a>> {
    [TCP, UDP].map(|protocol| (at, protocol, (8080, 8080), target)).to_vec()
}

/// The stale ones among flows of either protocol, all of them answered.
fn stale(before: &[Port<'_>], after: &[Port<'_>], flows: &[(&str, &str)]) -> Vec<String> {
    let (before, after) = (published(before), published(after));
    let change = Change::between(&before, &after).expect("a change");
    let mut left = Vec::new();
    for (name, protocol) in [("tcp", TCP), ("udp", UDP)] {
        for (to, answers) in flows {
            if change.leaves(&flow(protocol, to, answers), &local) {
                left.push(format!("{name} {to} -> {answers}"));
            }
        }
    }
    left
}

const FLOWS: [(&str, &str); 8] = [
    (HOST, HOST),
    (HOST, WEB),
    (HOST, API),
    (OTHER_HOST, WEB),
    (TRANSIT, TRANSIT),
    (TRANSIT, WEB),          // rewritten by somebody
    ("192.0.2.1:8081", WEB), // another mapping to the same port
    (WEB, WEB),
];

#[test]
fn a_mapping_that_comes_leaves_what_udp_clients_sent_before() {
    let wanted = ["udp 192.0.2.1:8080 -> 192.0.2.1:8080"];
    assert_eq!(stale(&[], &mapping("any", WEB), &FLOWS), wanted);
    assert_eq!(stale(&[], &mapping("192.0.2.1", WEB), &[(HOST, HOST), (OTHER_HOST, OTHER_HOST)]), wanted);
    let elsewhere = mapping("198.51.100.7", WEB);
    assert_eq!(stale(&[], &elsewhere, &FLOWS), [""; 0], "an address that is not the host's, yet");
    assert_eq!(stale(&[], &[("any", UDP, (8000, 8999), "10.20.0.10")], &FLOWS), wanted, "a range");
}

#[test]
fn a_mapping_that_comes_leaves_what_nobody_answered() {
    let (before, after) = (published(&[]), published(&mapping("any", WEB)));
    let change = Change::between(&before, &after).unwrap();
    let unanswered = Flow { answered: false, ..flow(TCP, HOST, HOST) };
    assert!(change.leaves(&unanswered, &local));
    assert!(!change.leaves(&unanswered, &|_| false));
}

#[test]
fn udp_clients_that_a_mapping_would_not_take_end_too() {
    let before = published(&[]);
    let mut after = published(&mapping("any", WEB));
    // Only what comes by one device is mapped, and all else dropped: which one it was is not known, nor does it matter.
    let rules: &[&[Expr]] = &[&[is_not(Field::Iifname, name("eth1")), DROP]];
    let (key, object) = chain("only", Some(base(Hook::Prerouting, -150)), rules);
    after.insert(key, Entry::new(object, Owner::netrec()));
    let change = Change::between(&before, &after).unwrap();
    assert_eq!(fate(&after, &flow(UDP, HOST, HOST)), format!("drop or {WEB}"));
    assert!(change.leaves(&flow(UDP, HOST, HOST), &local));
    assert!(!change.leaves(&flow(TCP, HOST, HOST), &local));
}

#[test]
fn a_mapping_that_goes_or_moves_leaves_the_flows_that_followed_it() {
    let of_tcp = |all: Vec<String>| all.into_iter().filter(|f| f.starts_with("tcp")).collect::<Vec<_>>();
    let wanted = [
        "tcp 192.0.2.1:8080 -> 10.20.0.10:80",
        "tcp 192.0.2.2:8080 -> 10.20.0.10:80",
        // What leaves an address that is no longer the host's has followed it too.
        "tcp 198.51.100.7:8080 -> 10.20.0.10:80",
    ];
    for after in [vec![], mapping("any", API)] {
        assert_eq!(of_tcp(stale(&mapping("any", WEB), &after, &FLOWS)), wanted);
    }
    assert_eq!(of_tcp(stale(&mapping("192.0.2.1", WEB), &[], &FLOWS)), wanted[..1]);
    let direct = mapping("any", "10.20.0.10:8080");
    assert_eq!(stale(&direct, &[], &[("10.20.0.10:8080", "10.20.0.10:8080")]), [""; 0], "straight to the container");
}

#[test]
fn one_address_comes_before_every_address() {
    let one = |target| mapping("192.0.2.1", target);
    let any = |target| mapping("any", target);
    let flows = [(HOST, WEB), (HOST, API), (OTHER_HOST, WEB)];
    let both = |flow: &str| ["tcp", "udp"].map(|p| format!("{p} {flow}"));
    let takes_over = stale(&any(WEB), &[any(WEB), one(API)].concat(), &flows);
    assert_eq!(takes_over, both("192.0.2.1:8080 -> 10.20.0.10:80"));
    let hands_over = stale(&[any(WEB), one(API)].concat(), &any(WEB), &flows);
    assert_eq!(hands_over, both("192.0.2.1:8080 -> 10.20.0.11:80"));
    let same_target = stale(&[any(WEB), one(WEB)].concat(), &one(WEB), &flows);
    assert_eq!(same_target, both("192.0.2.2:8080 -> 10.20.0.10:80"));
}

#[test]
fn loopback_is_mapped_in_ipv4_only() {
    let comes = [mapping("any", WEB), mapping("any", "[fd20::10]:80")].concat();
    let flows = ["127.0.0.1:8080", "[2001:db8::1]:8080", "[::1]:8080", "[fe80::1]:8080"].map(|a| (a, a));
    let wanted = ["udp 127.0.0.1:8080 -> 127.0.0.1:8080", "udp [2001:db8::1]:8080 -> [2001:db8::1]:8080"];
    assert_eq!(stale(&[], &comes, &flows), wanted);
}

#[test]
fn only_the_mapping_of_that_protocol_port_and_family_counts() {
    let before = [
        ("any", TCP, (80, 80), "10.0.0.2:80"),
        ("any", TCP, (80, 80), "[fd00::2]:80"),
        ("192.0.2.1", TCP, (80, 80), "10.0.0.3:80"),
        ("any", UDP, (80, 80), "10.0.0.2:80"),
        ("127.0.0.1", TCP, (81, 81), "10.0.0.2:81"),
    ];
    let mut after = before;
    after[2] = ("192.0.2.1", TCP, (80, 80), "10.0.0.4:80");
    after[4] = ("127.0.0.1", TCP, (82, 82), "10.0.0.2:81");
    let flows = [
        ("192.0.2.2:80", "10.0.0.2:80"),
        ("192.0.2.1:80", "10.0.0.3:80"),
        ("192.0.2.1:80", "10.0.0.2:80"),
        ("[2001:db8::1]:80", "[fd00::2]:80"),
        ("127.0.0.1:81", "10.0.0.2:81"),
        ("127.0.0.1:82", "127.0.0.1:82"),
    ];
    let wanted = ["tcp 192.0.2.1:80 -> 10.0.0.3:80", "tcp 127.0.0.1:81 -> 10.0.0.2:81"];
    assert_eq!(stale(&before, &after, &flows), wanted);
}

#[test]
fn a_range_that_shrinks_or_moves_leaves_the_flows_of_the_ports_that_it_lost() {
    let range = |first, last, to| [("any", TCP, (first, last), to), ("any", TCP, (9000, 9009), "10.20.0.12")];
    let flows = ["8000", "8005", "8009", "9000"].map(|port| {
        let to = if port == "9000" { "10.20.0.12" } else { "10.20.0.10" };
        (format!("192.0.2.1:{port}"), format!("{to}:{port}"))
    });
    let flows = flows.each_ref().map(|(to, answers)| (to.as_str(), answers.as_str()));
    let before = range(8000, 8009, "10.20.0.10");
    let shrunk = stale(&before, &range(8001, 8008, "10.20.0.10"), &flows);
    assert_eq!(shrunk, ["tcp 192.0.2.1:8000 -> 10.20.0.10:8000", "tcp 192.0.2.1:8009 -> 10.20.0.10:8009"]);
    assert_eq!(stale(&before, &range(8000, 8009, "10.20.0.11"), &flows).len(), 3);
    assert_eq!(stale(&before, &range(7000, 8999, "10.20.0.10"), &flows), [""; 0], "one that grows");
}

#[test]
fn nothing_is_asked_where_nothing_has_changed_that_concerns_flows() {
    let state = published(&mapping("any", WEB));
    assert!(Change::between(&state, &state).is_none());
    let mut other = state.clone();
    for (key, entry) in &state {
        other.insert(key.clone(), Entry { owners: vec![Owner::new("somebody")], ..entry.clone() });
    }
    let link = Key::Link { netns: Netns::HOST, name: InterfaceName::LO };
    other.insert(link.clone(), Entry::new(bridge(), Owner::netrec()));
    assert!(Change::between(&state, &other).is_none(), "owners, a device without addresses");
    let address = Key::address(Netns::new("web"), InterfaceName::LO, "10.0.0.1/24".parse().unwrap());
    let object = |no_prefix_route| Object::Address(Address { no_prefix_route, ..Address::lasting() });
    other.insert(address.clone(), Entry::new(object(false), Owner::netrec()));
    assert!(Change::between(&state, &other).is_some(), "an address");
    let mut mended = other.clone();
    mended.insert(address.clone(), Entry::new(object(true), Owner::netrec()));
    assert!(Change::between(&other, &mended).is_none(), "its route");
    let foreign =
        Entry { standing: Standing::Foreign("of another host".into()), ..Entry::new(object(false), Owner::netrec()) };
    other.insert(address, foreign);
    assert!(Change::between(&state, &other).is_none(), "a foreign address");
}

// The evaluator, expression by expression.

fn device() -> Device {
    Device { mac: Mac([2; 6]), mtu: 1500, up: true, link_local: false, promote_secondaries: true, no_arp: false }
}

fn bridge() -> Object {
    let kind = LinkKind::Bridge { stp: false };
    Object::Link(Link { kind, device: device(), master: None, port: None, leaving: false })
}

/// The bridges `br0` and `br1` with a container each: 10.1.0.10 (and fd01::10) and 10.2.0.10, the first with a gateway.
fn networks() -> Vec<Part> {
    let mut parts = Vec::new();
    for (n, container) in [(0, "a"), (1, "b")] {
        let bridge_name = format!("br{n}").parse().unwrap();
        parts.push((Key::Link { netns: Netns::HOST, name: bridge_name }, bridge()));
        let peer = Peer { netns: Netns::new(container), name: "eth0".parse().unwrap(), device: device() };
        let link = Link {
            kind: LinkKind::Veth { peer },
            device: device(),
            master: Some(bridge_name),
            port: None,
            leaving: false,
        };
        let veth = Key::Link { netns: Netns::HOST, name: format!("ve{n}").parse().unwrap() };
        parts.push((veth, Object::Link(link)));
    }
    let address = |netns: Netns, link: &str, ip: &str| {
        let key = Key::address(netns, link.parse().unwrap(), ip.parse().unwrap());
        (key, Object::Address(Address::lasting()))
    };
    parts.extend([
        address(Netns::HOST, "br0", "10.1.0.1/24"),
        address(Netns::new("a"), "eth0", "10.1.0.10/24"),
        address(Netns::new("a"), "eth0", "fd01::10/64"),
        address(Netns::new("b"), "eth0", "10.2.0.10/24"),
    ]);
    parts
}

/// The fate of a flow where the forward hook has these rules.
fn forwarded(rules: &[&[Expr]], flow: &Flow) -> String {
    fate(&table(networks().into_iter().chain([chain("forward", Some(base(Hook::Forward, 0)), rules)])), flow)
}

#[test]
fn fields_are_compared() {
    let v4 = from("10.1.0.10", TCP, "198.51.100.7:443");
    let v6 = from("fd01::10", UDP, "[2001:db8:f::7]:53");
    let related = Flow { related: true, ..v4 };
    let port = |n| Datum::InetService(n);
    for (flow, expr, matches) in [
        (v4, is(Field::L4Proto, Datum::InetProto(6)), true),
        (v6, is(Field::L4Proto, Datum::InetProto(6)), false),
        (v6, is_not(Field::L4Proto, Datum::InetProto(6)), true),
        (v4, is(Field::ThDport, port(443)), true),
        (v4, is_not(Field::ThDport, port(443)), false),
        (v4, is(Field::NfProto, Datum::NfProto(Family::Ipv4)), true),
        (v6, is(Field::NfProto, Datum::NfProto(Family::Ipv4)), false),
        (v4, is(Field::IpSaddr, datum("10.1.0.10")), true),
        (v4, is(Field::IpSaddr, net("10.0.0.0/8")), true),
        (v4, is(Field::IpSaddr, net("10.1.0.0/29")), false),
        (v4, is_not(Field::IpSaddr, net("10.1.0.0/29")), true),
        (v4, is(Field::IpSaddr, net("0.0.0.0/0")), true),
        (v4, is(Field::IpDaddr, net("198.51.100.7/32")), true),
        (v6, is(Field::Ip6Saddr, net("fd01::/64")), true),
        (v6, is(Field::Ip6Saddr, net("fd01::/127")), false),
        (v6, is(Field::Ip6Daddr, net("::/0")), true),
        // A packet of the other family has no such field, whatever it is compared with.
        (v6, is(Field::IpDaddr, datum("10.0.0.1")), false),
        (v6, is_not(Field::IpDaddr, datum("10.0.0.1")), false),
        (v4, is_not(Field::Ip6Daddr, net("fe80::/10")), false),
        (v4, is(Field::Iifname, name("br0")), true),
        (v4, is(Field::Iifname, name("br1")), false),
        (v4, is_not(Field::Iifname, name("lo")), true),
        (v4, is(Field::Oifname, name("br1")), false),
        (v4, is_not(Field::Oifname, name("br1")), true),
        (v4, is(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)), false),
        (v4, is_not(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)), true),
        (v4, Expr::AnyBit { field: Field::CtState, bits: 8 }, true),
        (v4, Expr::AnyBit { field: Field::CtState, bits: CT_ESTABLISHED_RELATED }, false),
        (related, Expr::AnyBit { field: Field::CtState, bits: CT_ESTABLISHED_RELATED }, true),
        (v4, Expr::AnyBit { field: Field::CtStatus, bits: CT_STATUS_DNAT }, false),
        (v4, Expr::ClampMss, true),
    ] {
        let wanted = if matches { "drop" } else { "pass" };
        assert_eq!(forwarded(&[&[expr.clone(), DROP]], &flow), wanted, "{expr} of {flow:?}");
    }
    // Which packet of a flow is the first that the kernel sees is not known.
    let syn = Expr::AnyBit { field: Field::TcpFlags, bits: TCP_SYN };
    let clamped = |flow| forwarded(&[&[is(Field::L4Proto, Datum::InetProto(6)), syn.clone(), Expr::ClampMss]], flow);
    assert_eq!((clamped(&v4), clamped(&v6)), ("pass".into(), "pass".into()));
    assert_eq!(forwarded(&[&[is(Field::L4Proto, Datum::InetProto(6)), syn.clone(), DROP]], &v4), "pass or drop");
    assert_eq!(forwarded(&[&[is(Field::L4Proto, Datum::InetProto(6)), syn, DROP]], &v6), "pass");
}

#[test]
fn sets_and_verdict_maps_are_looked_up() {
    use DataType::{InetProto, Ipv4Addr, ServiceRange};
    let verdict = |v| Some(ElementData::Verdict(v));
    let sets = [
        set("nets", &[Ipv4Addr, InetProto], None),
        element("nets", &[datum("10.2.0.10"), Datum::InetProto(6)], None),
        set("open", &[Ipv4Addr, InetProto, ServiceRange], Some(SetData::Verdict)),
        element(
            "open",
            &[datum("10.2.0.10"), Datum::InetProto(6), Datum::ServiceRange(80, 89)],
            verdict(Verdict::Accept),
        ),
        element(
            "open",
            &[datum("10.2.0.10"), Datum::InetProto(6), Datum::ServiceRange(95, 95)],
            verdict(Verdict::Drop),
        ),
        element(
            "open",
            &[datum("10.2.0.10"), Datum::InetProto(17), Datum::ServiceRange(1, 9)],
            verdict(Verdict::Jump("sub".into())),
        ),
        chain("sub", None, &[&[is(Field::ThDport, Datum::InetService(5)), DROP]]),
    ];
    let asked = |exprs: &[&[Expr]], flow: &Flow| {
        let forward = chain("forward", Some(base(Hook::Forward, 0)), exprs);
        fate(&table(networks().into_iter().chain(sets.clone()).chain([forward])), flow)
    };
    let in_set = |negate| Expr::InSet { fields: vec![Field::IpDaddr, Field::L4Proto], negate, set: "nets".into() };
    let vmap = Expr::Vmap { fields: vec![Field::IpDaddr, Field::L4Proto, Field::ThDport], map: "open".into() };
    let (tcp, udp) = (from(WORLD, TCP, "10.2.0.10:80"), from(WORLD, UDP, "10.2.0.10:80"));
    assert_eq!(asked(&[&[in_set(false), DROP]], &tcp), "drop");
    assert_eq!(asked(&[&[in_set(false), DROP]], &udp), "pass");
    assert_eq!(asked(&[&[in_set(true), DROP]], &tcp), "pass");
    assert_eq!(asked(&[&[in_set(true), DROP]], &udp), "drop");
    assert_eq!(asked(&[&[in_set(true), DROP]], &from("fd01::10", UDP, "[fd02::1]:80")), "pass");
    // Behind the map all is dropped: accepted is what an element accepts.
    for (flow, wanted) in [
        (tcp, "pass"),
        (udp, "drop"),
        (from(WORLD, TCP, "10.2.0.10:79"), "drop"),
        (from(WORLD, TCP, "10.2.0.10:89"), "pass"),
        (from(WORLD, TCP, "10.2.0.10:90"), "drop"),
        (from(WORLD, TCP, "10.2.0.11:80"), "drop"),
    ] {
        assert_eq!(asked(&[slice::from_ref(&vmap), &[DROP]], &flow), wanted, "{flow:?}");
    }
    for (port, wanted) in [(95, "drop"), (94, "pass"), (96, "pass")] {
        assert_eq!(asked(&[slice::from_ref(&vmap)], &from(WORLD, TCP, &format!("10.2.0.10:{port}"))), wanted, "{port}");
    }
    for (port, wanted) in [(5, "drop"), (6, "pass")] {
        assert_eq!(asked(&[slice::from_ref(&vmap)], &from(WORLD, UDP, &format!("10.2.0.10:{port}"))), wanted, "{port}");
    }
    // What a map does not know ends the rule, and so does what it knows.
    assert_eq!(asked(&[&[vmap.clone(), DROP]], &udp), "pass");
    let unknown = Expr::InSet { fields: vec![Field::IpDaddr], negate: false, set: "none".into() };
    assert_eq!(asked(&[&[unknown, DROP]], &tcp), "pass or drop", "a set that is not there");
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let flow = from("10.1.0.10", TCP, "198.51.100.7:443");
    let fates = |sub: &[&[Expr]], rules: &[&[Expr]]| {
        let parts = [chain("sub", None, sub), chain("side", None, &[&[goto("sub")], &[DROP]])];
        let forward = chain("forward", Some(base(Hook::Forward, 0)), rules);
        fate(&table(networks().into_iter().chain(parts).chain([forward])), &flow)
    };
    for (sub, rules, wanted) in [
        (&[][..], &[&[jump("sub")][..], &[DROP]][..], "drop"),
        (&[&[RETURN][..], &[ACCEPT]], &[&[jump("sub")], &[DROP]], "drop"),
        (&[&[ACCEPT]], &[&[jump("sub")], &[DROP]], "pass"),
        (&[&[DROP]], &[&[jump("sub")], &[ACCEPT]], "drop"),
        (&[], &[&[goto("sub")], &[DROP]], "pass"),
        (&[&[RETURN]], &[&[goto("sub")], &[DROP]], "pass"),
        (&[&[DROP]], &[&[goto("sub")], &[ACCEPT]], "drop"),
        // What goes to a chain from another comes back to where that one was called.
        (&[], &[&[jump("side")], &[ACCEPT]], "pass"),
        (&[&[RETURN]], &[&[jump("side")], &[DROP]], "drop"),
        (&[], &[&[RETURN], &[DROP]], "pass"),
        // A rule ends with its verdict.
        (&[], &[&[jump("sub"), DROP]], "pass"),
    ] {
        assert_eq!(fates(sub, rules), wanted, "{sub:?} {rules:?}");
    }
    let around =
        [chain("sub", None, &[&[jump("sub")]]), chain("forward", Some(base(Hook::Forward, 0)), &[&[jump("sub")]])];
    assert_eq!(fate(&table(around), &flow), "pass or ?", "a circle, which the kernel refuses");
    let nowhere = chain("forward", Some(base(Hook::Forward, 0)), &[&[jump("nowhere")]]);
    assert_eq!(fate(&table([nowhere]), &flow), "pass or ?");
}

#[test]
fn base_chains_are_called_in_order_and_all_must_agree() {
    let flow = from(WORLD, TCP, "192.0.2.1:80");
    let asked = |parts: Vec<Part>, flow: &Flow| fate(&table(parts), flow);
    let filter = |name: &str, hook, priority, rules: &[&[Expr]]| chain(name, Some(base(hook, priority)), rules);
    assert_eq!(
        asked(vec![filter("a", Hook::Input, 0, &[&[ACCEPT]]), filter("b", Hook::Input, 1, &[&[DROP]])], &flow),
        "drop"
    );
    assert_eq!(asked(vec![filter("a", Hook::Forward, 0, &[&[DROP]])], &flow), "pass", "another hook");
    let policy =
        |policy, rules: &[&[Expr]]| vec![chain("a", Some(BaseChain { policy, ..base(Hook::Input, 0) }), rules)];
    assert_eq!(asked(policy(Policy::Drop, &[]), &flow), "drop");
    assert_eq!(asked(policy(Policy::Drop, &[&[RETURN]]), &flow), "drop");
    assert_eq!(asked(policy(Policy::Drop, &[&[ACCEPT]]), &flow), "pass");
    assert_eq!(asked(vec![], &flow), "pass", "a table without chains");
    assert_eq!(fate(&State::new(), &flow), "pass", "no table");
    let mut dormant = table(policy(Policy::Drop, &[]));
    let object = Object::Table(Table { dormant: true, ..Table::default() });
    dormant.insert(Key::Table, Entry::new(object, Owner::netrec()));
    assert_eq!(fate(&dormant, &flow), "pass", "a dormant one");

    // Before the destination is rewritten the old one is seen, and behind that the new one.
    let with = |more: Part| {
        let mut state = published(&mapping("any", WEB));
        state.insert(more.0, Entry::new(more.1, Owner::netrec()));
        state
    };
    let dropped = |hook, priority, field, value| {
        let rules: &[&[Expr]] = &[&[is(field, value), DROP]];
        let state = with(filter("more", hook, priority, rules));
        fate(&state, &flow_to(HOST))
    };
    let (old, new) = (Datum::InetService(8080), Datum::InetService(80));
    assert_eq!(dropped(Hook::Prerouting, -300, Field::ThDport, old), "drop");
    assert_eq!(dropped(Hook::Prerouting, -300, Field::ThDport, new), WEB);
    assert_eq!(dropped(Hook::Prerouting, 0, Field::ThDport, old), WEB);
    assert_eq!(dropped(Hook::Prerouting, 0, Field::ThDport, new), format!("drop {WEB}"));
    assert_eq!(dropped(Hook::Forward, 0, Field::IpDaddr, datum("10.20.0.10")), format!("drop {WEB}"));
    assert_eq!(dropped(Hook::Input, 0, Field::ThDport, new), WEB, "it is forwarded");
    let bit = Expr::AnyBit { field: Field::CtStatus, bits: CT_STATUS_DNAT };
    let state = with(filter("more", Hook::Forward, 0, &[&[bit, DROP]]));
    assert_eq!(fate(&state, &flow_to(HOST)), format!("drop {WEB}"));
    assert_eq!(fate(&state, &flow_to(TRANSIT)), "pass");
}

fn flow_to(to: &str) -> Flow {
    from(WORLD, TCP, to)
}

#[test]
fn the_hosts_own_flows_go_out_and_come_back_by_the_loopback_device() {
    let lo = |negate| Expr::Match { field: Field::Iifname, negate, value: name("lo") };
    let filter = |hook, priority, rules: &[&[Expr]]| table([chain("a", Some(base(hook, priority)), rules)]);
    let (to_self, away) = (from("192.0.2.1", UDP, "192.0.2.1:53"), from("192.0.2.1", UDP, "198.51.100.7:53"));
    for hook in [Hook::Prerouting, Hook::Input] {
        assert_eq!(fate(&filter(hook, 0, &[&[lo(false), DROP]]), &to_self), "drop", "{hook:?}");
        assert_eq!(fate(&filter(hook, 0, &[&[lo(true), DROP]]), &to_self), "pass", "{hook:?}");
        assert_eq!(fate(&filter(hook, 0, &[&[DROP]]), &away), "pass", "{hook:?}");
    }
    assert_eq!(fate(&filter(Hook::Forward, 0, &[&[DROP]]), &away), "pass");
    let out = |device| filter(Hook::Output, 0, &[&[is(Field::Oifname, name(device)), DROP]]);
    assert_eq!(fate(&out("lo"), &to_self), "drop");
    assert_eq!(fate(&out("lo"), &away), "pass");
    assert_eq!(fate(&out("eth0"), &away), "pass or drop");
    // There is no incoming device at output, and no outgoing one before it is known.
    assert_eq!(fate(&filter(Hook::Output, 0, &[&[is(Field::Iifname, name("lo")), DROP]]), &to_self), "pass");
    assert_eq!(fate(&filter(Hook::Input, 0, &[&[is_not(Field::Oifname, name("lo")), DROP]]), &to_self), "drop");
    // What output has sent elsewhere is not rewritten again.
    let both = published(&[("any", UDP, (53, 53), "192.0.2.2:54"), ("any", UDP, (54, 54), WEB)]);
    assert_eq!(fate(&both, &to_self), "192.0.2.2:54");
    assert_eq!(fate(&both, &from("192.0.2.1", UDP, "192.0.2.2:54")), WEB);
}

#[test]
fn what_cannot_be_known_goes_both_ways() {
    let from_world = from(WORLD, TCP, "10.1.0.10:80");
    let pings = |to| Flow { protocol: ICMP, ..flow(ICMP, to, to) };
    let trusted = |device| [is(Field::Iifname, name(device)), ACCEPT];
    assert_eq!(forwarded(&[&trusted("eth0"), &[DROP]], &from_world), "pass or drop");
    assert_eq!(forwarded(&[&trusted("br1"), &[DROP]], &from_world), "drop", "a device of netrec's");
    assert_eq!(forwarded(&[&trusted("ve0"), &[DROP]], &from_world), "drop");
    assert_eq!(forwarded(&[&trusted("lo"), &[DROP]], &from_world), "drop");
    assert_eq!(forwarded(&[&[is_not(Field::Iifname, name("eth0")), DROP]], &from_world), "pass or drop");
    assert_eq!(forwarded(&[&[is(Field::Oifname, name("br0")), DROP]], &from_world), "drop");
    // Both ways of it end the same way.
    assert_eq!(forwarded(&[&trusted("eth0"), &[ACCEPT]], &from_world), "pass");
    assert_eq!(forwarded(&[&[is(Field::Iifname, name("eth0")), DROP], &[DROP]], &from_world), "drop");
    let link_local = from("fe80::9", UDP, "[fd01::10]:53");
    assert_eq!(forwarded(&[&trusted("br1"), &[DROP]], &link_local), "pass or drop", "it may be behind any device");
    assert_eq!(forwarded(&[&[Expr::Unknown("counter".into())], &[DROP]], &from_world), "drop or ?");
    assert_eq!(forwarded(&[&[Expr::Unknown("counter".into()), DROP]], &from_world), "pass or drop or ?");
    // The ports of what has none.
    assert_eq!(forwarded(&[&[is(Field::ThDport, Datum::InetService(80)), DROP]], &pings("10.1.0.10")), "pass or drop");
    let multicast = from("10.1.0.10", UDP, "224.0.0.251:5353");
    assert_eq!(forwarded(&[&[DROP]], &multicast), "pass or drop", "the host takes it, too");

    let verdict = |v| Some(ElementData::Verdict(v));
    let vmap = |elements: &[(&str, Verdict)], flow: &Flow| {
        let mut parts = networks();
        parts.push(set("from", &[DataType::Ifname], Some(SetData::Verdict)));
        parts.extend(elements.iter().map(|(device, v)| element("from", &[name(device)], verdict(v.clone()))));
        let rule = Expr::Vmap { fields: vec![Field::Iifname], map: "from".into() };
        parts.push(chain("forward", Some(base(Hook::Forward, 0)), &[&[rule], &[DROP]]));
        fate(&table(parts), flow)
    };
    let inside = from("10.2.0.10", TCP, "10.1.0.10:80");
    let all = [("br1", Verdict::Accept), ("eth0", Verdict::Accept)];
    assert_eq!(vmap(&all, &inside), "pass");
    assert_eq!(vmap(&all, &from_world), "pass or drop");
    assert_eq!(vmap(&all[..1], &from_world), "drop");
    assert_eq!(vmap(&[("eth0", Verdict::Return)], &from_world), "pass or drop");
    assert_eq!(vmap(&[("eth0", Verdict::Drop)], &from_world), "drop");

    // A map of devices and ports: what does not fit in the known part does not come into question.
    let key = [DataType::Ifname, DataType::InetProto, DataType::InetService];
    let rule =
        Expr::InSet { fields: vec![Field::Iifname, Field::L4Proto, Field::ThDport], negate: false, set: "of".into() };
    let by_device = |port| {
        let parts = [
            set("of", &key, None),
            element("of", &[name("eth0"), Datum::InetProto(6), Datum::InetService(port)], None),
            chain("forward", Some(base(Hook::Forward, 0)), &[&[rule.clone(), DROP]]),
        ];
        fate(&table(networks().into_iter().chain(parts)), &from_world)
    };
    assert_eq!((by_device(80), by_device(81)), ("pass or drop".into(), "pass".into()));
}

#[test]
fn a_set_that_is_more_than_can_be_said_could_hold_anything() {
    let parts = [
        set("odd", &[DataType::Ipv4Addr, DataType::Other(1)], None),
        chain(
            "forward",
            Some(base(Hook::Forward, 0)),
            &[&[Expr::InSet { fields: vec![Field::IpDaddr], negate: false, set: "odd".into() }, DROP]],
        ),
    ];
    assert_eq!(fate(&table(parts), &flow_to(TRANSIT)), "pass or drop");
}

// What a change forbids.

/// The state that a file wants of a host.
fn wanted(file: &str) -> State {
    let mut host = Facts { host: "host".into(), ..Facts::default() };
    for path in [facts::IPV4_FORWARDING, facts::IPV6_FORWARDING] {
        host.sysctls.insert(path.into(), "1".into());
    }
    let config = parse(Sources(vec![Source { name: "test.toml".into(), text: file.into() }])).unwrap();
    desired(&config, &host, None).unwrap().state
}

const SHOP: &str = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
    [networks.back]\nsubnet = '10.21.0.0/24'\n\
    [containers.web]\nnetworks.front = { address = ['10.20.0.10', 'fd20::10'] }\nports = ['8080:80', '127.0.0.1:9000:9000/udp']\n\
    [containers.api]\nnetworks.front = { address = ['10.20.0.11', 'fd20::11'] }\n\
    [containers.db]\nnetworks.back = { address = '10.21.0.10' }\n";

/// The table of docs/firewall.md.
#[test]
fn the_rules_of_a_file_mean_what_the_documentation_says() {
    let state = wanted(SHOP);
    for (source, to, fates) in [
        ("10.20.0.10", "10.20.0.11:80", "pass"),
        ("10.20.0.10", "10.21.0.10:80", "drop"),
        ("10.20.0.10", "198.51.100.7:443", "pass"),
        ("10.20.0.10", HOST, WEB),
        ("10.21.0.10", HOST, WEB),
        ("10.20.0.10", "10.20.0.1:22", "pass"),
        ("10.20.0.10", "192.0.2.1:22", "pass"),
        (WORLD, "10.20.0.1:22", "drop"),
        ("2001:db8::9", "[fd20::1]:22", "drop"),
        (WORLD, HOST, WEB),
        ("2001:db8::9", "[2001:db8::1]:8080", "[fd20::10]:80"),
        (WORLD, WEB, "drop"),
        (WORLD, TRANSIT, "pass"),
        ("2001:db8::9", "[fd20::10]:80", "drop"),
        ("192.0.2.1", WEB, "pass"),
        ("192.0.2.1", HOST, WEB),
        ("127.0.0.1", "127.0.0.1:8080", WEB),
        (WORLD, "127.0.0.1:9000", "drop"),
        ("10.20.0.11", "127.0.0.1:22", "drop"),
        ("127.0.0.1", "192.0.2.1:22", "pass"),
    ] {
        let ruleset = Ruleset::of(&state);
        let host = |ip| local(ip) || ruleset.places.is_own(ip);
        assert_eq!(shown(&ruleset.first_packet(&from(source, TCP, to), &host)), fates, "{source} -> {to}");
    }
}

/// The stale ones among flows of all kinds, by their names.
fn ended(before: &State, after: &State) -> Vec<&'static str> {
    let change = Change::between(before, after).expect("a change");
    let rewritten = |flow: Flow, answers: &str| Flow { answers: end(answers), ..flow };
    let flows = [
        ("web -> api", from("10.20.0.10", TCP, "10.20.0.11:80")),
        ("web -> api by IPv6", from("fd20::10", TCP, "[fd20::11]:80")),
        ("web pings api", from("10.20.0.10", ICMP, "10.20.0.11")),
        ("web -> world", from("10.20.0.10", TCP, "198.51.100.7:443")),
        ("web -> resolver", from("10.20.0.10", UDP, "198.51.100.7:53")),
        ("db -> world", from("10.21.0.10", TCP, "198.51.100.7:443")),
        ("db pings world", from("10.21.0.10", ICMP, "198.51.100.7")),
        ("db -> host", from("10.21.0.10", TCP, "10.21.0.1:22")),
        ("db -> published web", rewritten(from("10.21.0.10", TCP, HOST), WEB)),
        ("world -> published web", rewritten(from(WORLD, TCP, HOST), WEB)),
        ("world -> api", from(WORLD, TCP, "10.20.0.11:80")),
        ("world -> api by another's DNAT", rewritten(from(WORLD, TCP, "192.0.2.1:4444"), "10.20.0.11:80")),
        ("world -> host", from(WORLD, TCP, "192.0.2.1:22")),
        ("world -> world", from(WORLD, TCP, "198.51.100.7:443")),
        ("host -> web", from("10.20.0.1", TCP, WEB)),
        ("host pings db", from("10.21.0.1", ICMP, "10.21.0.10")),
    ];
    flows.iter().filter(|(_, flow)| change.leaves(flow, &local)).map(|(name, _)| *name).collect()
}

/// The shop with rules put before those that a chain has.
fn with(rules: &[(&str, &[Expr])]) -> State {
    let mut state = wanted(SHOP);
    for (name, exprs) in rules {
        let key = Key::Chain { name: (*name).into() };
        let mut entry = state.get(&key).unwrap().clone();
        if let Object::Chain(chain) = &mut entry.object {
            chain.rules.insert(0, Rule(exprs.to_vec()));
        }
        state.insert(key, entry);
    }
    state
}

#[test]
fn what_is_forbidden_now_ends_and_nothing_else() {
    let open = wanted(SHOP);
    let (front, back) = (name("nr-front"), name("nr-back"));
    let (by, out) = (|n| is(Field::Iifname, n), |n| is(Field::Oifname, n));
    // No flows between containers.
    let apart = with(&[("forward-to.front", &[by(front), is_not(Field::NfProto, Datum::NfProto(Family::Ipv6)), DROP])]);
    assert_eq!(ended(&open, &apart), ["web -> api", "web pings api"]);
    assert_eq!(ended(&apart, &open), [""; 0], "what is allowed again");
    // A network without a way out: its containers reach each other and the host.
    let internal = with(&[("forward", &[by(back), is_not(Field::Oifname, back), DROP])]);
    assert_eq!(ended(&open, &internal), ["db -> world", "db pings world", "db -> published web"]);
    let closed = with(&[("input", &[by(back), DROP]), ("output", &[out(back), DROP])]);
    assert_eq!(ended(&open, &closed), ["db -> host", "host pings db"]);
    // A port that only some may ask for.
    let list = [
        is(Field::FibDaddrType, Datum::FibType(RTN_LOCAL)),
        is(Field::ThDport, Datum::InetService(8080)),
        is_not(Field::IpSaddr, net("10.0.0.0/8")),
        DROP,
    ];
    assert_eq!(ended(&open, &with(&[("prerouting", &list)])), ["world -> published web"]);
    // A device whose packets were let through, and which is no longer trusted; another flow may have come by it.
    let trusting = |device| with(&[("forward-to.front", &[by(name(device)), ACCEPT])]);
    assert_eq!(ended(&trusting("eth1"), &open), ["world -> api"]);
    assert_eq!(ended(&open, &trusting("eth1")), [""; 0]);
    assert_eq!(ended(&trusting("eth0"), &trusting("eth1")), [""; 0], "it may have come by either");
    // Flows through the host to elsewhere are ended by rules that forbid them, too.
    assert_eq!(ended(&open, &with(&[("forward", &[by(front), DROP])])).len(), 5);
}

#[test]
fn the_first_rules_end_what_they_forbid_and_the_last_nothing_more_than_mappings() {
    let (none, open) = (State::new(), wanted(SHOP));
    assert_eq!(ended(&none, &open), ["world -> api"]);
    assert_eq!(ended(&open, &none), ["db -> published web", "world -> published web"]);
    // Only the rules are lost, not the addresses.
    let bare: State =
        open.iter().filter(|(k, _)| !k.kind().is_firewall()).map(|(k, e)| (k.clone(), e.clone())).collect();
    assert_eq!(ended(&bare, &open), ["world -> api"]);
}

#[test]
fn a_network_that_goes_or_moves_ends_what_led_there_by_published_ports() {
    let open = wanted(SHOP);
    let moved = wanted(&SHOP.replace("10.20.0.10'", "10.20.0.77'"));
    let published = ["db -> published web", "world -> published web"];
    assert_eq!(ended(&open, &moved), published, "web has another address");
    let small = wanted(
        "[networks.back]\nsubnet = '10.21.0.0/24'\n[containers.db]\nnetworks.back = { address = '10.21.0.10' }\n",
    );
    assert_eq!(ended(&open, &small), published, "web's network is gone");
}
