//! For any tunnels with their neighbours, entries and routes, any before them and any drift in between: apply makes the
//! difference empty, every step is legal, and a failure at any step puts back what there was.

#![allow(clippy::unwrap_used, clippy::panic)] // tests, helpers of tests too

mod fake;

use std::net::IpAddr;

use fake::Fake;
use netrec::kernel::Backend;
use netrec::plan::{Diff, Plan, diff};
use netrec::reconcile::{Prepared, Undo, apply, unwatched};
use netrec::state::{
    Address, BridgePort, Device, Entry, Fdb, InterfaceName, Key, Link, LinkKind, Mac, Neighbour, Netns, Object, Owner,
    RT_TABLE_MAIN, Route, Scope, State,
};

/// xorshift64*, so that a failure can be had again by its seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u8) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u8::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(n)).unwrap()
    }

    fn one_in(&mut self, n: u8) -> bool {
        self.below(n) == 0
    }
}

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const NETNS: Netns = Netns::HOST;

fn neighbour(link: InterfaceName, ip: IpAddr, mac: Mac) -> (Key, Object) {
    (Key::Neighbour { netns: NETNS, link, ip }, Object::Neighbour(Neighbour { mac }))
}

fn entry(link: InterfaceName, mac: Mac, fdb: Fdb) -> (Key, Object) {
    (Key::Fdb { netns: NETNS, link, mac }, Object::Fdb(fdb))
}

/// Up to two networks, switched or routed, over IPv4 or IPv6. Names, ids and addresses come from small pools, so that two
/// states share some and differ in others.
fn state(random: &mut Random) -> State {
    let mut state = State::new();
    let swapped = random.below(2);
    for n in (0..2).filter(|_| !random.one_in(4)).collect::<Vec<u8>>() {
        let owner = Owner::new(format!("networks.n{n}"));
        let mut all: Vec<(Key, Object)> = Vec::new();
        let v6 = random.one_in(3);
        let vtep = |host: u8| ip(&if v6 { format!("2001:db8::{host}") } else { format!("192.0.2.{host}") });
        let (vx, bridge) = (name(&format!("vx{n}{}", random.below(2))), name(&format!("br{n}{}", random.below(2))));
        let switched = random.below(2) == 0;
        let device = |mac, mtu: u8| Device {
            mac: Mac([2, 0, 0, 0, 0, mac]),
            mtu: 1400 + u32::from(mtu),
            up: true,
            link_local: false,
            promote_secondaries: true,
            no_arp: false,
        };
        let kind = LinkKind::Vxlan {
            vni: 4100 + u32::from(n ^ swapped),
            udp_port: if random.one_in(4) { 8472 } else { 4789 },
            local: vtep(1 + random.below(2)),
            underlay: (!random.one_in(3)).then(|| name(&format!("eth{}", random.below(2)))),
            learning: false,
        };
        let port = BridgePort { no_learning: true, no_flood: true, neigh_suppress: true, ..BridgePort::default() };
        let link = Link {
            kind,
            device: device(10 + n + 10 * random.below(2), random.below(2)),
            master: switched.then_some(bridge),
            port: switched.then_some(port),
            leaving: false,
        };
        all.push((Key::Link { netns: NETNS, name: vx }, Object::Link(link)));
        let home = if switched { bridge } else { vx };
        if switched {
            let link = Link {
                kind: LinkKind::Bridge { stp: false },
                device: device(20 + n + 10 * random.below(2), 0),
                master: None,
                port: None,
                leaving: false,
            };
            all.push((Key::Link { netns: NETNS, name: bridge }, Object::Link(link)));
        }
        for own in [format!("10.3{n}.0.{}/16", 1 + random.below(2)), format!("fd3{n}::{}/64", 1 + random.below(2))] {
            let own: ipnetwork::IpNetwork = own.parse().unwrap();
            let has_address = !random.one_in(4);
            if has_address {
                let address = Address::lasting();
                all.push((Key::address(NETNS, home, own), Object::Address(address)));
            }
            for host in (2..5).filter(|_| !random.one_in(3)).collect::<Vec<u8>>() {
                let to = if own.is_ipv4() { format!("10.3{n}.{host}.0/24") } else { format!("fd3{n}:{host}::/64") };
                let to: ipnetwork::IpNetwork = to.parse().unwrap();
                let via = (!switched).then(|| to.ip());
                let route = Route {
                    onlink: !switched,
                    src: (has_address && random.one_in(2)).then(|| own.ip()),
                    ..Route::new(home, via)
                };
                let metric = if to.is_ipv4() { 0 } else { 1024 };
                all.push((Key::Route { netns: NETNS, table: RT_TABLE_MAIN, to, metric }, Object::Route(route)));
                let mac = Mac([2, 0, 0, 1, n, host + 10 * random.below(2)]);
                all.push(neighbour(home, to.ip(), mac));
                all.push(entry(vx, mac, Fdb::behind(vtep(host + 10 * random.below(2)))));
                if switched {
                    all.push(entry(bridge, mac, Fdb::by(vx)));
                }
            }
        }
        for (key, object) in all {
            state.want(key, object, &owner);
        }
    }
    state
}

/// Something happens to live state that netrec did not do.
fn drift(host: &mut Fake, random: &mut Random) {
    for _ in 0..random.below(8) {
        let keys: Vec<Key> = host.state.iter().map(|(k, _)| k.clone()).collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[usize::from(random.below(200)) % keys.len()].clone();
        let Some(before) = host.state.get(&key).cloned() else { continue };
        let mut after = before.clone();
        match (&key, &mut after.object) {
            (_, Object::Link(link)) => match random.below(7) {
                0 => link.device.mac.0[5] += 1,
                1 => (link.master, link.port) = (None, None),
                2 => link.device.no_arp = true,
                3 => link.device.up = false,
                4 => link.port.iter_mut().for_each(|port| port.neigh_suppress = false),
                5 => {
                    if let LinkKind::Vxlan { learning, .. } = &mut link.kind {
                        *learning = true;
                    }
                }
                _ => {
                    // Made once more with another id, as one that forgot its entries.
                    let LinkKind::Vxlan { vni, .. } = &mut link.kind else { continue };
                    *vni = 7000 + u32::from(random.below(200));
                    host.remove_by_hand(&key);
                    host.state.insert(key, after);
                    continue;
                }
            },
            (_, Object::Neighbour(neighbour)) => neighbour.mac.0[5] += 1,
            (_, Object::Fdb(Fdb { dst: Some(dst), extra, .. })) => {
                if random.one_in(2) {
                    *dst = if dst.is_ipv4() { ip("192.0.2.99") } else { ip("2001:db8::99") };
                } else {
                    // No step of netrec's makes such.
                    extra.push("vni 7".into());
                    host.state.insert(key, after);
                    continue;
                }
            }
            (_, Object::Fdb(Fdb { port: Some(_), sticky, .. })) => *sticky = false,
            (_, Object::Route(route)) => route.src = None,
            _ => {}
        }
        match random.below(4) {
            0 => host.remove_by_hand(&key),
            1 => {
                // One more of the kind.
                let (mut key, mut entry) = (key.clone(), before.clone());
                match &mut key {
                    Key::Neighbour { ip: own, .. } => *own = ip("10.99.0.9"),
                    Key::Fdb { mac, .. } => mac.0[5] = 99,
                    _ => continue,
                }
                entry.owners.clear();
                host.state.insert(key, entry);
            }
            _ => host.change_by_hand(&key, Some(&before), &after),
        }
    }
}

fn prepare(host: &mut Fake, desired: &State) -> Prepared {
    let scope = Scope::of(desired);
    let live = host.live(&scope).unwrap();
    let Diff { actions, conflicts } = diff(desired, &live);
    assert_eq!(conflicts, []);
    Prepared { desired: desired.clone(), live, scope, plan: Plan { actions, ..Plan::default() }, ..Prepared::default() }
}

fn converge(host: &mut Fake, desired: &State, seed: u64) {
    let prepared = prepare(host, desired);
    apply(host, &prepared, &mut unwatched).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", prepared.plan.to_text()));
    let again = prepare(host, desired);
    assert_eq!(again.plan.actions, [], "seed {seed}: the second plan is not empty:\n{}", again.plan.to_text());
}

#[test]
fn any_tunnels_after_any_others_and_any_drift_converge_and_leave_nothing() {
    for seed in 0..5000 {
        let mut random = Random::new(seed);
        let mut host = Fake::default();
        for _ in 0..2 {
            let desired = state(&mut random);
            converge(&mut host, &desired, seed);
            drift(&mut host, &mut random);
        }
        converge(&mut host, &State::new(), seed);
        assert_eq!(host.state, State::new(), "seed {seed}");
    }
}

#[test]
fn a_failure_at_any_step_puts_back_what_there_was() {
    let mut runs = 0;
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut host = Fake::default();
        let (first, second) = (state(&mut random), state(&mut random));
        converge(&mut host, &first, seed);
        drift(&mut host, &mut random);
        host.writes = 0;
        // What undoing cannot bring back: more than netrec can make of an entry.
        let plain = |(key, mut entry): (Key, Entry)| {
            if let Object::Fdb(fdb) = &mut entry.object {
                fdb.extra.clear();
            }
            (key, entry)
        };
        let was: State = prepare(&mut host, &second).live.into_iter().map(plain).collect();
        for n in 1.. {
            let mut host = host.clone();
            // Every third time the way back fails once, too.
            host.fail = Some((n, if n % 3 == 0 { 2 } else { 1 }));
            let prepared = prepare(&mut host, &second);
            let Err(error) = apply(&mut host, &prepared, &mut unwatched) else {
                assert!(host.writes() < n, "seed {seed}: step {n} failed and nobody said so");
                break;
            };
            assert_eq!(error.errors[0].1, "injected", "seed {seed}, step {n}: {error}");
            assert!(matches!(error.undo, Undo::Done), "seed {seed}, step {n}: {error}\n{}", prepared.plan.to_text());
            let is = prepare(&mut host, &second).live.into_iter().map(plain).collect();
            assert_eq!(diff(&was, &is).actions, [], "seed {seed}, step {n}: not as before");
            runs += 1;
        }
    }
    assert!(runs > 1000, "only {runs} failures were tried");
}
