//! The evaluator of rules (`plan/flows`) against the kernel: random rulesets are put into it and datagrams sent from,
//! through and to the host, and each must end where the evaluator says that it may.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::*;
use netrec::plan::flows::{Fate, Ruleset};
use netrec::state::{Address, End, Flow, Netns};
use nix::sched::{CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

const ROUNDS: u64 = 500;
const PROBES: usize = 40;
/// A port that every ruleset lets through: what was sent before a datagram to it has arrived when that has.
const LAST: u16 = 9;
const PORTS: [u16; 3] = [53, 80, 8080];
/// The host, a machine on its `b0`, and one on its `c0`.
const MACHINES: [&[&str]; 3] = [
    &["10.1.0.1", "10.2.0.1", "fd01::1", "fd02::1"],
    &["10.1.0.2", "fd01::2"],
    &["10.2.0.2", "10.2.0.3", "fd02::2", "fd02::3"],
];
const DEVICES: [&str; 4] = ["lo", "b0", "c0", "x9"];

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// The host and the two machines, each a network namespace; the thread is in the host's.
struct Net {
    spaces: Vec<File>,
    listeners: Vec<(SocketAddr, UdpSocket)>,
    /// Of each address the next port that nobody has sent from, so that every datagram is the first of its flow.
    unused: BTreeMap<IpAddr, u16>,
}

pub(super) fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    fn new() -> Self {
        let here = || File::open("/proc/thread-self/ns/net").unwrap();
        let mut spaces = vec![here()];
        for _ in 0..2 {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            spaces.push(here());
        }
        let mut net = Self { spaces, listeners: Vec::new(), unused: BTreeMap::new() };
        net.enter(0);
        // Rules may stop what asks for neighbours, so all know each other.
        for (machine, device) in [(1, "b0"), (2, "c0")] {
            let far = format!("/proc/{}/fd/{}", std::process::id(), net.spaces[machine].as_raw_fd());
            ip(&format!(
                "link add {device} address 02:00:00:00:00:0{machine} type veth peer name e0 address 02:00:00:00:01:0{machine} netns {far}"
            ));
            let neighbours = |addresses: &[&str], device: &str, mac: &str| {
                for address in addresses {
                    ip(&format!("neigh replace {address} lladdr {mac} dev {device} nud permanent"));
                }
            };
            ip(&format!("link set {device} up"));
            net.enter(machine);
            ip("link set lo up");
            ip("link set e0 up");
            for address in MACHINES[machine] {
                let (prefix, nodad) = if address.contains(':') { (64, " nodad") } else { (24, "") };
                ip(&format!("addr add {address}/{prefix} dev e0{nodad}"));
            }
            let gateways = [format!("10.{machine}.0.1"), format!("fd0{machine}::1")];
            for gateway in &gateways {
                ip(&format!("route add default via {gateway} dev e0"));
                neighbours(&[gateway], "e0", &format!("02:00:00:00:00:0{machine}"));
            }
            net.enter(0);
            for gateway in &gateways {
                let (prefix, nodad) = if gateway.contains(':') { (64, " nodad") } else { (24, "") };
                ip(&format!("addr add {gateway}/{prefix} dev {device}{nodad}"));
            }
            neighbours(MACHINES[machine], device, &format!("02:00:00:00:01:0{machine}"));
        }
        ip("link set lo up");
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
        }
        for (machine, addresses) in MACHINES.iter().enumerate() {
            net.enter(machine);
            for (address, port) in addresses.iter().flat_map(|a| PORTS.iter().chain([&LAST]).map(move |p| (a, *p))) {
                let at = SocketAddr::new(address.parse().unwrap(), port);
                let socket = UdpSocket::bind(at).unwrap();
                socket.set_nonblocking(true).unwrap();
                net.listeners.push((at, socket));
            }
        }
        net.enter(0);
        net.wait();
        net
    }

    fn enter(&self, machine: usize) {
        setns(&self.spaces[machine], CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Sends a datagram with a number. That a rule of the host's own refuses it is no matter.
    fn send(&mut self, machine: usize, from: IpAddr, to: SocketAddr, number: u32) {
        self.enter(machine);
        let port = self.unused.entry(from).or_insert(10_000);
        let socket = UdpSocket::bind((from, *port)).unwrap();
        *port += 1;
        let _ = socket.send_to(&number.to_ne_bytes(), to);
        self.enter(0);
    }

    /// Sends datagrams that every ruleset lets through, on every way that others may have taken; how many.
    fn send_last(&mut self) -> usize {
        let ways = [(0, 0), (0, 2), (1, 0), (1, 2), (2, 1)];
        let mut count = 0;
        for (machine, other) in ways {
            for ipv6 in [false, true] {
                let address = |m: usize| MACHINES[m].iter().find(|a| a.contains(':') == ipv6).unwrap().parse().unwrap();
                self.send(machine, address(machine), SocketAddr::new(address(other), LAST), u32::MAX - count);
                count += 1;
            }
        }
        usize::try_from(count).unwrap()
    }

    /// Takes what has arrived.
    fn take(&mut self, arrived: &mut BTreeMap<u32, SocketAddr>) {
        for (at, socket) in &self.listeners {
            let mut buffer = [0; 4];
            while socket.recv(&mut buffer).is_ok() {
                arrived.insert(u32::from_ne_bytes(buffer), *at);
            }
        }
    }

    /// Waits until datagrams get through: a device is ready for IPv6 only some time after it came up.
    fn wait(&mut self) {
        let begin = Instant::now();
        loop {
            let (count, mut arrived) = (self.send_last(), BTreeMap::new());
            std::thread::sleep(Duration::from_millis(5));
            self.take(&mut arrived);
            if arrived.len() == count {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{arrived:?}");
        }
    }

    /// Where each of the datagrams that were sent has arrived.
    fn arrived(&mut self) -> BTreeMap<u32, SocketAddr> {
        let (count, mut arrived, begin) = (self.send_last(), BTreeMap::new(), Instant::now());
        while arrived.range(u32::MAX / 2..).count() < count {
            assert!(begin.elapsed() < Duration::from_secs(10), "{arrived:?}");
            self.take(&mut arrived);
        }
        // A listener may have been looked at before the last came, which another one got.
        self.take(&mut arrived);
        arrived
    }
}

fn address(text: &str) -> Datum {
    if text.contains(':') { ip6(text) } else { ip4(text) }
}

fn any_address(random: &mut Random, ipv6: bool, machines: &[usize]) -> &'static str {
    let all: Vec<&str> = machines.iter().flat_map(|m| MACHINES[*m]).copied().collect();
    let of_family: Vec<&str> = all.into_iter().filter(|a| a.contains(':') == ipv6).collect();
    random.of(&of_family)
}

fn condition(random: &mut Random, ipv6: bool) -> Expr {
    let negate = random.one_in(3);
    let fields = |v4, v6| if ipv6 { v6 } else { v4 };
    let (saddr, daddr) = (fields(Field::IpSaddr, Field::Ip6Saddr), fields(Field::IpDaddr, Field::Ip6Daddr));
    let (field, value) = match random.below(15) {
        0 | 13 => (Field::Iifname, ifname(random.of(&DEVICES))),
        1 | 14 => (Field::Oifname, ifname(random.of(&DEVICES))),
        2 => (Field::NfProto, Datum::NfProto(if ipv6 { Family::Ipv6 } else { Family::Ipv4 })),
        3 => (Field::L4Proto, random.of(&[TCP, UDP])),
        4 => (saddr, address(any_address(random, ipv6, &[0, 1, 2]))),
        5 => (daddr, address(any_address(random, ipv6, &[0, 1, 2]))),
        6 => (
            random.of(&[saddr, daddr]),
            match address(any_address(random, ipv6, &[1, 2])) {
                Datum::Ipv4Addr(a) => {
                    let prefix = random.of(&[0, 8, 16, 24, 30, 32]);
                    Datum::Ipv4Net(
                        a & std::net::Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)),
                        prefix,
                    )
                }
                Datum::Ipv6Addr(a) => {
                    let prefix = random.of(&[8, 16, 64, 127, 128]);
                    Datum::Ipv6Net(a & std::net::Ipv6Addr::from_bits(u128::MAX << (128 - u32::from(prefix))), prefix)
                }
                other => other,
            },
        ),
        7 | 8 => (Field::ThDport, port(random.of(&PORTS))),
        9 => (Field::FibDaddrType, Datum::FibType(RTN_LOCAL)),
        10 => return Expr::AnyBit { field: Field::CtState, bits: random.of(&[8, CT_ESTABLISHED_RELATED]) },
        11 => return Expr::AnyBit { field: Field::CtStatus, bits: random.of(&[CT_STATUS_DNAT, 8, 2]) },
        _ if ipv6 => (Field::NfProto, Datum::NfProto(Family::Ipv6)),
        _ => {
            let fields = vec![Field::IpDaddr, Field::ThDport];
            return Expr::InSet { fields, negate, set: name("pairs") };
        }
    };
    Expr::Match { field, negate, value }
}

/// A rule of a chain from which these others may be called.
fn rule(random: &mut Random, callable: &[&str], nat: bool) -> Vec<Expr> {
    // No packet is of both families, and a rule that asks for both is none.
    let ipv6 = random.one_in(3);
    let count = if nat && random.one_in(2) { 0 } else { random.of(&[0, 1, 1, 1, 2, 2, 3]) };
    let mut exprs: Vec<Expr> = (0..count).map(|_| condition(random, ipv6)).collect();
    let call = |random: &mut Random| name(random.of(callable));
    let dnat = |family, map: &str, keep_port| Expr::DnatMap {
        family,
        fields: vec![Field::L4Proto, Field::ThDport],
        map: name(map),
        keep_port,
    };
    match random.below(12) {
        0 if !nat || count > 0 => exprs.push(ACCEPT),
        1 | 2 if count > 1 || count > 0 && random.one_in(2) => exprs.push(DROP),
        3 if count > 0 => exprs.push(Expr::Verdict(Verdict::Return)),
        4 if !callable.is_empty() => exprs.push(Expr::Verdict(Verdict::Jump(call(random)))),
        5 if !callable.is_empty() => exprs.push(Expr::Verdict(Verdict::Goto(call(random)))),
        6 => exprs.push(Expr::Vmap { fields: vec![random.of(&[Field::Iifname, Field::Oifname])], map: name("from") }),
        7 if !ipv6 => {
            exprs.push(Expr::Vmap { fields: vec![Field::IpDaddr, Field::L4Proto, Field::ThDport], map: name("open") });
        }
        8..=11 if nat => exprs.push(match random.below(3) {
            _ if ipv6 => dnat(Family::Ipv6, "any6", false),
            0 => dnat(Family::Ipv4, "range4", true),
            _ => dnat(Family::Ipv4, "any4", false),
        }),
        _ if exprs.is_empty() => exprs.push(condition(random, ipv6)),
        _ => {}
    }
    exprs
}

fn sets(random: &mut Random) -> Vec<(Key, Entry)> {
    use DataType::{Ifname, InetProto, InetService, Ipv4Addr, Ipv6Addr, ServiceRange};
    let mut all = vec![
        set("pairs", &[Ipv4Addr, InetService], None),
        set("from", &[Ifname], Some(SetData::Verdict)),
        set("open", &[Ipv4Addr, InetProto, ServiceRange], Some(SetData::Verdict)),
        set("any4", &[InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("any6", &[InetProto, InetService], values(&[Ipv6Addr, InetService])),
        set("range4", &[InetProto, ServiceRange], values(&[Ipv4Addr])),
    ];
    let judge = |random: &mut Random| match random.below(4) {
        0 => Verdict::Accept,
        1 => Verdict::Drop,
        2 => Verdict::Return,
        _ => Verdict::Jump(name("sub2")),
    };
    for device in DEVICES {
        if random.one_in(2) {
            all.push(verdict("from", vec![ifname(device)], judge(random)));
        }
    }
    for p in PORTS {
        if random.one_in(2) {
            let key = vec![address(any_address(random, false, &[0, 1, 2])), port(p)];
            all.push(element("pairs", key, None, "networks.front"));
        }
        for (map, ipv6) in [("any4", false), ("any6", true)] {
            if random.one_in(2) {
                let target = address(any_address(random, ipv6, &[0, 2]));
                all.push(element(map, vec![UDP, port(p)], to(vec![target, port(random.of(&PORTS))]), "containers.web"));
            }
        }
    }
    let range = |random: &mut Random| random.of(&[(53, 80), (80, 80), (80, 8080), (1, 52), (54, 65535)]);
    for target in MACHINES[2].iter().chain(MACHINES[0]).filter(|a| !a.contains(':')) {
        if random.one_in(2) {
            let (first, last) = range(random);
            let key = vec![ip4(target), random.of(&[UDP, TCP]), Datum::ServiceRange(first, last)];
            all.push(verdict("open", key, judge(random)));
        }
    }
    if random.one_in(2) {
        let (first, last) = range(random);
        let target = address(any_address(random, false, &[0, 2]));
        all.push(element("range4", vec![UDP, Datum::ServiceRange(first, last)], to(vec![target]), "containers.web"));
    }
    all
}

fn ruleset(random: &mut Random) -> Vec<(Key, Entry)> {
    let mut all = vec![table()];
    all.extend(sets(random));
    for (sub, callable) in [("sub0", &["sub1", "sub2"][..]), ("sub1", &["sub2"]), ("sub2", &[])] {
        // The map `from` may lead to the last of them, which so must not ask it.
        let rules = (0..random.below(3)).map(|_| rule(random, callable, false)).collect::<Vec<_>>();
        let leads_back = |rule: &Vec<Expr>| sub == "sub2" && rule.iter().any(|e| matches!(e, Expr::Vmap { .. }));
        all.push(chain(sub, None, rules.into_iter().filter(|r| !leads_back(r)).collect()));
    }
    let bases = [
        ("raw", ChainKind::Filter, Hook::Prerouting, -300),
        ("pre", ChainKind::Nat, Hook::Prerouting, -100),
        ("pre-second", ChainKind::Nat, Hook::Prerouting, -90),
        ("mangled", ChainKind::Filter, Hook::Prerouting, 0),
        ("out", ChainKind::Nat, Hook::Output, -100),
        ("out-filter", ChainKind::Filter, Hook::Output, 0),
        ("in", ChainKind::Filter, Hook::Input, 0),
        ("in-second", ChainKind::Filter, Hook::Input, 10),
        ("forward", ChainKind::Filter, Hook::Forward, 0),
    ];
    // Chains that translate are asked only where something else needs connection tracking, of both families.
    let tracks = Expr::AnyBit { field: Field::CtState, bits: CT_ESTABLISHED_RELATED };
    all.push(chain("tracks", base(ChainKind::Filter, Hook::Postrouting, 300), vec![vec![tracks, ACCEPT]]));
    for (name, kind, hook, priority) in bases {
        if random.one_in(3) {
            continue;
        }
        let mut rules = vec![vec![is(Field::ThDport, port(LAST)), ACCEPT]];
        let count = random.below(5);
        rules.extend((0..count).map(|_| rule(random, &["sub0", "sub1", "sub2"], kind == ChainKind::Nat)));
        let policy = if random.one_in(20) { Policy::Drop } else { Policy::Accept };
        all.push(chain(name, Some(BaseChain { policy, ..base(kind, hook, priority).unwrap() }), rules));
    }
    all
}

/// The host's addresses on those of its devices that are netrec's in this round.
fn addresses(devices: &[&str]) -> Vec<(Key, Entry)> {
    let all = [("b0", "10.1.0.1/24"), ("b0", "fd01::1/64"), ("c0", "10.2.0.1/24"), ("c0", "fd02::1/64")];
    all.into_iter()
        .filter(|(device, _)| devices.contains(device))
        .map(|(device, ip)| {
            let key = Key::address(Netns::HOST, device.parse().unwrap(), ip.parse().unwrap());
            (key, Entry::new(Object::Address(Address::lasting()), Owner::netrec()))
        })
        .collect()
}

/// A datagram to be sent, and what the evaluator says of it.
#[derive(Debug)]
struct Probe {
    machine: usize,
    to: SocketAddr,
    flow: Flow,
    fate: Fate,
}

impl Probe {
    fn new(random: &mut Random, rules: &Ruleset<'_>) -> Option<Self> {
        let (machine, ipv6) = (random.below(3), random.one_in(3));
        let from = any_address(random, ipv6, &[machine]).parse().unwrap();
        let others: Vec<usize> = (0..3).filter(|m| *m != machine || *m == 0).collect();
        let to = SocketAddr::new(any_address(random, ipv6, &others).parse().unwrap(), random.of(&PORTS));
        let flow = Flow { protocol: 17, from, to: to.into(), answers: to.into(), answered: false, related: false };
        let of = |machine: usize, ip: IpAddr| MACHINES[machine].iter().any(|a| a.parse() == Ok(ip));
        let fate = rules.first_packet(&flow, &|ip| of(0, ip));
        // A machine takes nothing that comes back to it with its own address as the sender's.
        let comes_back = fate.ways.iter().filter_map(|way| way.translated).any(|end| of(machine, end.ip));
        (machine == 0 || !comes_back).then_some(Self { machine, to, flow, fate })
    }

    /// Whether the evaluator says that it may arrive there, or nowhere.
    fn may_end(&self, at: Option<End>) -> bool {
        let fits = |at: End| self.fate.ways.iter().any(|w| !w.dropped && w.translated.unwrap_or(self.flow.to) == at);
        !self.fate.unclear && at.map_or_else(|| self.fate.ways.iter().any(|w| w.dropped), fits)
    }
}

isolated! {
    fn packets_end_where_the_evaluator_says() {
        let mut cpus = CpuSet::new();
        cpus.set(nix::sched::sched_getcpu().unwrap()).unwrap();
        // On one processor packets are delivered in the order in which they were sent.
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        let begin = Instant::now();
        let mut net = Net::new();
        println!("set up in {:?}", begin.elapsed());
        let mut firewall = Firewall::open().unwrap();
        let (mut packets, mut certain, mut dropped, mut translated) = (0, 0, 0, 0);
        let begin = Instant::now();
        for round in 0..ROUNDS {
            let mut random = Random((round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let table = ruleset(&mut random);
            run(&mut firewall, &create(&table));
            // The machine on `b0` is one of netrec's, or of the world.
            let ours = if random.one_in(2) { &["b0", "c0"][..] } else { &["c0"] };
            let state: State = table.iter().cloned().chain(addresses(ours)).collect();
            let rules = Ruleset::of(&state);
            let probes: Vec<Probe> = (0..PROBES).filter_map(|_| Probe::new(&mut random, &rules)).collect();
            for Probe { fate, .. } in &probes {
                packets += 1;
                certain += u32::from(fate.ways.len() == 1);
                dropped += u32::from(fate.is_dropped());
                translated += u32::from(!fate.may_stay() && !fate.is_dropped());
            }
            for (number, probe) in (0..).zip(&probes) {
                net.send(probe.machine, probe.flow.from, probe.to, number);
            }
            let arrived = net.arrived();
            for (number, probe) in (0..).zip(&probes) {
                let at = arrived.get(&number).map(|at| End::from(*at));
                assert!(probe.may_end(at), "round {round}: {probe:?} arrived at {at:?}\n{}", listing());
            }
            run(&mut firewall, &delete(&table));
        }
        println!("{packets} packets in {:?}, {certain} certain, {dropped} dropped, {translated} translated", begin.elapsed());
        assert!(certain > packets / 2 && dropped > packets / 10 && translated > packets / 20);
    }
}
