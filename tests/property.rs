//! For any file, any file before it and any drift in between: apply makes the difference empty, every step is legal, a
//! failure at any step puts back what there was, and destroy leaves nothing.

#![allow(clippy::unwrap_used, clippy::panic)] // tests, helpers of tests too

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::ControlFlow;

use fake::Fake;
use netrec::config::{Config, Source, Sources, parse};
use netrec::kernel::Backend;
use netrec::plan::diff;
use netrec::reconcile::{Books, Kept, Undo, apply, prepare, prepare_destroy, prepare_part, unwatched};
use netrec::state::facts::HostDevice;
use netrec::state::firewall::{Expr, Rule, Verdict};
use netrec::state::{
    End, Entry, Facts, Flow, Hook, Key, Link, LinkKind, Mac, MacvlanMode, Netns, Object, Owner, Qdisc, Route, Scope,
    State, facts,
};

/// xorshift64*, so that a failure can be had again by its seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A valid file. Names come from a small pool, so that two files share some and differ in others.
fn file(random: &mut Random) -> String {
    let mut text = if random.one_in(3) { "[settings]\naccounting = true\n".to_owned() } else { String::new() };
    let networks: Vec<usize> = (0..4).filter(|_| !random.one_in(3)).collect();
    for n in &networks {
        let v4 = format!("\"10.{}.0.0/24\"", 20 + n + 10 * random.below(2));
        let v6 = format!("\"fd{}::/64\"", 20 + n);
        let subnet = match random.below(3) {
            0 => v4,
            1 => format!("{v4}, {v6}"),
            _ => v6,
        };
        writeln!(text, "[networks.n{n}]\nsubnet = [{subnet}]").unwrap();
        if random.one_in(4) {
            writeln!(text, "gateway = false").unwrap();
        }
        if random.one_in(4) {
            writeln!(text, "mtu = {}", 1400 + random.below(100)).unwrap();
        }
        if random.one_in(4) {
            writeln!(text, "bridge = \"br{}\"", n + 10 * random.below(2)).unwrap();
        }
    }
    let networks = [networks, without_a_bridge(random, &mut text)].concat();
    for c in 0..5 {
        if random.one_in(3) {
            continue;
        }
        writeln!(text, "[containers.c{c}]").unwrap();
        if random.one_in(8) {
            writeln!(text, "networks = [\"{}\"]", ["none", "own"][random.below(2)]).unwrap();
            continue;
        }
        match random.below(8) {
            0 => writeln!(text, "netns = \"other{}\"", c * 10 + random.below(2)).unwrap(),
            1 => writeln!(text, "netns = \"/run/netns/theirs{c}\"").unwrap(),
            _ => {}
        }
        let mut mine: Vec<usize> = networks.iter().copied().filter(|_| !random.one_in(2)).collect();
        if random.one_in(2) {
            mine.reverse();
        }
        let list: Vec<String> = mine.iter().map(|n| format!("n{n}")).collect();
        if !list.is_empty() && random.one_in(2) {
            writeln!(text, "ports = [\"{}:80\", \"127.0.0.1:{}:53/udp\"]", 8000 + c + 10 * random.below(3), 9000 + c)
                .unwrap();
        }
        if random.one_in(4) {
            writeln!(text, "sysctl = {{ \"net.ipv4.ip_default_ttl\" = {} }}", 60 + random.below(5)).unwrap();
        }
        if random.one_in(2) {
            for (i, n) in list.iter().enumerate() {
                writeln!(text, "[containers.c{c}.networks.{n}]\ninterface = \"if{}\"", (i + random.below(2)) * 2 + i)
                    .unwrap();
                settings(random, i, &mut text);
                several_addresses(random, (n, c), &mut text);
            }
        } else {
            writeln!(text, "networks = {list:?}").unwrap();
        }
    }
    text
}

/// Networks on devices of the host's and on VLANs of them, and those that give a container no interface. Yields the numbers
/// of those that give one.
fn without_a_bridge(random: &mut Random, text: &mut String) -> Vec<usize> {
    text.push_str("[networks.none]\ndriver = \"null\"\n[networks.own]\ndriver = \"host\"\n");
    let numbers: Vec<usize> = (4..7).filter(|_| random.one_in(2)).collect();
    for n in &numbers {
        let parent = ["up0", "up1", "up0.10", "up1.11"][random.below(4)];
        let kind = ["bridge", "private", "vepa", "passthru"][random.below(4)];
        let v6 = if random.one_in(2) { format!(", \"fd{}::/64\"", 20 + n) } else { String::new() };
        let (driver, subnet) = ("macvlan", format!("[\"10.{}.0.0/24\"{v6}]", 20 + n));
        let network = format!("driver = \"{driver}\"\nparent = \"{parent}\"\ntype = \"{kind}\"\nsubnet = {subnet}");
        writeln!(text, "[networks.n{n}]\n{network}").unwrap();
    }
    numbers
}

/// Some IPv4 addresses of an attachment, in any order.
fn several_addresses(random: &mut Random, (network, container): (&str, usize), text: &mut String) {
    let of_network = text.split_once(&format!("[networks.{network}]")).and_then(|(_, rest)| rest.split('[').nth(1));
    let subnet = of_network.and_then(|list| list.split('"').find_map(|subnet| subnet.strip_suffix(".0/24")));
    let Some(subnet) = subnet.filter(|_| random.one_in(2)).map(str::to_owned) else { return };
    let mut addresses: Vec<String> = (0..4).map(|n| format!("{subnet}.{}", 100 + container * 10 + n)).collect();
    for n in (1..addresses.len()).rev() {
        addresses.swap(n, random.below(n + 1));
    }
    writeln!(text, "address = {:?}", &addresses[..=random.below(4)]).unwrap();
}

/// Settings of a container's attachment of this number.
fn settings(random: &mut Random, number: usize, text: &mut String) {
    if random.one_in(3) {
        writeln!(text, "priority = {}", random.below(3)).unwrap();
    }
    for key in ["ingress", "egress"] {
        if random.one_in(3) {
            writeln!(text, "{key} = \"{}mbit\"", 1 + random.below(3)).unwrap();
        }
    }
    if random.one_in(4) {
        writeln!(text, "sysctl = {{ \"net.ipv4.conf.IFNAME.log_martians\" = {} }}", random.below(2)).unwrap();
    }
    // A router is an address of its network, which not every draw has; such a draw is no file.
    if random.one_in(5) {
        let to = format!("10.9{number}.0.0/16");
        let route = if random.one_in(2) { "type = \"blackhole\"" } else { "via = \"10.20.0.1\"" };
        writeln!(text, "routes = [{{ to = \"{to}\", {route} }}]").unwrap();
    }
}

fn config(text: &str) -> Option<Config> {
    let source = Source { name: "test.toml".into(), text: text.to_owned() };
    // A port of a family that no network of the container has is refused; such a draw is no file.
    parse(Sources(vec![source])).ok()
}

fn host(random: &mut Random) -> Fake {
    let mut host = Fake::default();
    host.facts.host = "host".into();
    for (last, name) in (1..).zip(["up0", "up1"]) {
        let device = HostDevice {
            bridge: false,
            ours: false,
            mtu: 1500,
            mac: Mac([2, 0, 0, 0, 0, last]),
            up: true,
            port_of: None,
            vlan: None,
        };
        host.facts.devices.insert(name.parse().unwrap(), device);
    }
    for path in [facts::IPV4_FORWARDING, facts::IPV6_FORWARDING, facts::BRIDGE_NF_IPV4] {
        host.facts.sysctls.insert(path.into(), random.below(2).to_string());
    }
    host
}

/// Something happens to live state that netrec did not do.
fn drift(host: &mut Fake, random: &mut Random) {
    for _ in 0..random.below(6) {
        let keys: Vec<Key> = host.state.iter().map(|(k, _)| k.clone()).collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[random.below(keys.len())].clone();
        let Some(entry) = host.state.get(&key).cloned() else { continue };
        let mut changed = entry.clone();
        match &mut changed.object {
            Object::Link(Link { device, kind, master, port, .. }) => match random.below(8) {
                0 => device.mtu += 1,
                1 => (*master, *port) = (None, None),
                2 => changed.owners.clear(),
                3 => device.up = false,
                4 => device.no_arp = true,
                5 => port.iter_mut().for_each(|port| (port.isolated, port.no_flood) = (true, true)),
                6 => match kind {
                    LinkKind::Veth { peer } => peer.device.link_local = !peer.device.link_local,
                    LinkKind::Macvlan { mode, .. } if *mode != MacvlanMode::Passthru => *mode = MacvlanMode::Source,
                    _ => {}
                },
                _ => {
                    if let LinkKind::Veth { peer } = kind {
                        peer.name = format!("by-hand{}", random.below(2)).parse().unwrap();
                    }
                }
            },
            Object::Chain(chain) => {
                if random.one_in(2) {
                    chain.rules.insert(0, Rule(vec![Expr::Verdict(Verdict::Drop)]));
                } else {
                    chain.rules.pop();
                }
            }
            Object::Netns(netns) => netns.lo_up = false,
            Object::Address(address) if random.one_in(2) => match random.below(2) {
                0 => address.no_prefix_route = true,
                _ => address.deprecated = true,
            },
            // Comes again, behind the others of its subnet.
            Object::Address(_) if random.one_in(2) => {
                host.remove_by_hand(&key);
                host.change_by_hand(&key, None, &changed);
                continue;
            }
            Object::Sysctl(sysctl) => sysctl.value = "7".into(),
            Object::Route(route) if random.one_in(2) => *route = Route::blackhole(),
            Object::Qdisc(qdisc) if random.one_in(2) => match qdisc {
                Qdisc::Clsact { redirect } if random.one_in(2) => *redirect = None,
                Qdisc::Tbf { burst_us, .. } if random.one_in(2) => *burst_us += 1,
                other => *other = Qdisc::Other { name: "fq".into() },
            },
            _ => {
                host.remove_by_hand(&key);
                continue;
            }
        }
        if random.one_in(3) {
            host.remove_by_hand(&key);
        } else if matches!(&entry.object, Object::Link(Link { kind: LinkKind::Veth { .. }, .. })) && random.one_in(3) {
            // The host's end gets another name, and with it the pair another key.
            host.state.remove(&key);
            let name = format!("mine{}", random.below(1000)).parse().unwrap();
            host.state.insert(Key::Link { netns: Netns::HOST, name }, entry);
            // What limits it is the device's, whatever its name.
            for hook in [Hook::Root, Hook::Ingress] {
                let of = |link| Key::Qdisc { netns: Netns::HOST, link, hook };
                let Key::Link { name: old, .. } = key else { continue };
                if let Some(qdisc) = host.state.remove(&of(old)) {
                    host.state.insert(of(name), qdisc);
                }
            }
        } else {
            host.change_by_hand(&key, Some(&entry), &changed);
        }
    }
}

/// The draws are of all sorts.
#[test]
fn files_have_all_that_a_container_can_be_on() {
    let mut random = Random::new(1);
    let all: Vec<Config> = (0..200).map(|_| files(&mut random).0).collect();
    let texts: Vec<String> = all.iter().map(|config| config.sources.0[0].text.clone()).collect();
    for part in [
        "address = [\"10.",
        "up0.10",
        "passthru",
        "[\"none\"]",
        "[\"own\"]",
        "/run/netns/theirs",
        "ingress",
        "egress",
        "blackhole",
    ] {
        let count = texts.iter().filter(|text| text.contains(part)).count();
        assert!(count > 5, "{part}: {count} of 200");
    }
    let on_parent = |config: &&Config| {
        config.containers.iter().any(|c| {
            c.attachments
                .iter()
                .any(|a| config.network(a).parent().is_some() && (a.ingress.is_some() || !a.routes.is_empty()))
        })
    };
    assert!(all.iter().filter(on_parent).count() > 20, "limits and routes on macvlans");
}

/// The objects that matter: parameters stay when they are no longer wanted.
fn without_sysctls(state: &State) -> State {
    state.iter().filter(|(k, _)| !matches!(k, Key::Sysctl { .. })).map(|(k, e)| (k.clone(), e.clone())).collect()
}

fn converge(host: &mut Fake, config: &Config, seed: u64) {
    let prepared = prepare(host, config, None).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    apply(host, &prepared, &mut unwatched).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", prepared.plan.to_text()));
    let again = prepare(host, config, None).unwrap();
    assert_eq!(again.plan.actions, [], "seed {seed}: the second plan is not empty:\n{}", again.plan.to_text());
    let writes = host.writes();
    apply(host, &again, &mut unwatched).unwrap();
    assert_eq!(host.writes(), writes, "seed {seed}: the second apply writes");
}

/// Two files that are valid.
fn files(random: &mut Random) -> (Config, Config) {
    let mut next = || loop {
        if let Some(config) = config(&file(random)) {
            return config;
        }
    };
    (next(), next())
}

#[test]
fn any_file_after_any_other_and_any_drift_converges_and_leaves_nothing() {
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let (first, second) = files(&mut random);
        let mut host = host(&mut random);
        converge(&mut host, &first, seed);
        drift(&mut host, &mut random);
        converge(&mut host, &second, seed);
        drift(&mut host, &mut random);
        let prepared = prepare_destroy(&mut host, None).unwrap();
        apply(&mut host, &prepared, &mut unwatched)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", prepared.plan.to_text()));
        assert_eq!(without_sysctls(&host.state).len(), 0, "seed {seed}: left: {:#?}", host.state);
    }
}

/// Who may be asked for: some of the file, and some that only the host has.
fn targets(random: &mut Random, config: &Config, host: &Fake) -> Vec<Owner> {
    let marks = host.state.iter().flat_map(|(_, entry)| entry.owners.clone());
    let all: BTreeSet<Owner> = config.places().into_iter().map(|(owner, _)| owner).chain(marks).collect();
    let all: Vec<Owner> = all.into_iter().collect();
    (0..=random.below(3).min(all.len())).filter_map(|_| all.get(random.below(all.len().max(1))).cloned()).collect()
}

#[test]
fn any_part_of_any_file_converges_and_leaves_the_rest_as_it_is() {
    let (mut parts, mut all) = (0, 0);
    for seed in 0..1500 {
        let mut random = Random::new(seed);
        let (first, second) = files(&mut random);
        let mut host = host(&mut random);
        if !random.one_in(3) {
            converge(&mut host, &first, seed);
            drift(&mut host, &mut random);
        }
        let targets = targets(&mut random, &second, &host);
        if targets.is_empty() {
            continue;
        }
        let before = prepare(&mut host, &second, None).unwrap();
        let prepared = prepare_part(&mut host, &second, None, &targets).unwrap();
        let said = || format!("seed {seed}, {targets:?}:\n{}", prepared.plan.to_text());
        apply(&mut host, &prepared, &mut unwatched).unwrap_or_else(|e| panic!("{e}\n{}", said()));
        let planned: BTreeSet<Owner> = prepared.plan.actions.iter().flat_map(|a| a.owners().to_vec()).collect();
        let after = prepare(&mut host, &second, None).unwrap();
        // A device under another name brings along what hangs on it.
        for (key, entry) in before.live.iter().filter(|(_, entry)| !entry.owners.iter().any(|o| planned.contains(o))) {
            let of_none = matches!(key, Key::Sysctl { .. }) || entry.owners.is_empty();
            let of_none = of_none || prepared.plan.actions.iter().any(|action| action.key == *key);
            assert!(of_none || after.live.get(key) == Some(entry), "{key} changed: {}", said());
        }
        assert_eq!(after.plan.actions.len(), prepared.plan.left_out.changes, "{}{}", said(), after.plan.to_text());
        let there: BTreeSet<&Owner> = after.live.iter().flat_map(|(_, entry)| &entry.owners).collect();
        let places = second.places();
        let known: Vec<Owner> = targets
            .iter()
            .filter(|owner| there.contains(owner) || places.iter().any(|(place, _)| place == *owner))
            .cloned()
            .collect();
        if !known.is_empty() {
            let again = prepare_part(&mut host, &second, None, &known).unwrap();
            assert_eq!(again.plan.actions, [], "the second: {}\n{}", again.plan.to_text(), said());
        }
        parts += usize::from(!prepared.plan.is_empty() && prepared.plan.left_out.changes > 0);
        all += 1;
        converge(&mut host, &second, seed);
    }
    assert!(parts > 500, "{parts} of {all} were parts");
}

#[test]
fn a_failure_at_any_step_puts_back_what_there_was() {
    let (mut runs, mut last) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (first, second) = files(&mut random);
        let mut host = host(&mut random);
        converge(&mut host, &first, seed);
        drift(&mut host, &mut random);
        // Every second time only a part is to be made.
        let targets = if random.one_in(2) { targets(&mut random, &second, &host) } else { Vec::new() };
        host.writes = 0;
        host.flows = Some(BTreeMap::new());
        for n in 1.. {
            let mut host = host.clone();
            let before = host.clone();
            // Every third time the way back fails once, too.
            host.fail = Some((n, if n % 3 == 0 { 2 } else { 1 }));
            let prepared = prepare_part(&mut host, &second, None, &targets).unwrap();
            let result = apply(&mut host, &prepared, &mut unwatched);
            let Err(error) = result else {
                assert!(host.writes() < n, "seed {seed}: step {n} failed and nobody said so");
                last = n - 1;
                break;
            };
            assert_eq!(error.errors[0].1, "injected", "seed {seed}, step {n}: {error}");
            assert!(matches!(error.undo, Undo::Done), "seed {seed}, step {n}: {error}\n{}", prepared.plan.to_text());
            // Parameters that were not wanted before keep what they got; the rest is as it was.
            let scope = Scope::of(&prepared.desired);
            let (was, is) =
                (without_sysctls(&before.clone().live(&scope).unwrap()), without_sysctls(&host.live(&scope).unwrap()));
            let difference = diff(&was, &is).actions;
            assert_eq!(difference, [], "seed {seed}, step {n}: not as before");
            for ((protocol, to), flow) in host.flows.iter().flatten() {
                let stays = has_peer(flow) || End::from(host.translated(*protocol, *to)) == flow.answers;
                assert!(stays, "seed {seed}, step {n}: {flow:?} came up meanwhile and lives on");
            }
            runs += 1;
        }
        assert!(last < 10_000);
    }
    assert!(runs > 1000, "only {runs} failures were tried");
}

#[test]
fn an_interrupt_between_any_batches_puts_back_what_there_was() {
    let mut runs = 0;
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let (first, second) = files(&mut random);
        let mut host = host(&mut random);
        converge(&mut host, &first, seed);
        drift(&mut host, &mut random);
        for n in 0.. {
            let (mut host, before) = (host.clone(), host.clone());
            let prepared = prepare(&mut host, &second, None).unwrap();
            let (mut asked, books) = (0, Books::default());
            let mut progress = |_, _| {
                asked += 1;
                if asked > n { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let Err(error) = apply(&mut Kept::new(&mut host, &prepared.live, &books), &prepared, &mut progress) else {
                break;
            };
            assert!(error.errors[0].1.starts_with("interrupted after "), "seed {seed}, batch {n}: {error}");
            assert!(matches!(error.undo, Undo::Done), "seed {seed}, batch {n}: {error}");
            let scope = Scope::of(&prepared.desired);
            let (was, is) =
                (without_sysctls(&before.clone().live(&scope).unwrap()), without_sysctls(&host.live(&scope).unwrap()));
            assert_eq!(diff(&was, &is).actions, [], "seed {seed}, batch {n}: not as before");
            // Of a device in a container that changed its name there and back the books may say too much.
            let moves = |key: &Key| matches!(key, Key::Address { .. } | Key::Route { .. }) && !key.netns().is_host();
            let left = books.standing().0.into_iter().filter(|k| !matches!(k, Key::Sysctl { .. }) && !moves(k));
            assert_eq!(left.collect::<Vec<_>>(), [], "seed {seed}, batch {n}: the books say that this differs");
            runs += 1;
        }
    }
    assert!(runs > 1000, "only {runs} interrupts were tried");
}

/// A flow that the host's own service answers, and keeps: TCP to the host.
fn has_peer(flow: &Flow) -> bool {
    flow.answered && flow.answers == flow.to
}

#[test]
fn flows_end_exactly_when_the_port_maps_send_them_elsewhere() {
    let (mut kept, mut ended) = (0, 0);
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let (first, second) = files(&mut random);
        let mut host = host(&mut random);
        converge(&mut host, &first, seed);
        host.flows = Some(BTreeMap::new());
        host.clients_send();
        let before = host.flows.clone().unwrap();
        if random.one_in(4) {
            let prepared = prepare_destroy(&mut host, None).unwrap();
            apply(&mut host, &prepared, &mut unwatched).unwrap();
        } else {
            converge(&mut host, &second, seed);
        }
        let after = host.flows.clone().unwrap();
        for (key, flow) in before {
            let stays = has_peer(&flow) || End::from(host.translated(key.0, key.1)) == flow.answers;
            assert_eq!(after.get(&key), stays.then_some(&flow), "seed {seed}");
            *(if stays { &mut kept } else { &mut ended }) += 1;
        }
    }
    assert!(kept > 1000 && ended > 1000, "{kept} flows were kept and {ended} ended");
}

#[test]
fn flows_are_asked_for_only_where_rules_or_addresses_change() {
    let mut host = host(&mut Random::new(1));
    let mut asked = |settings: &str, web: &str| {
        let text = format!(
            "[networks.a]\nsubnet = \"10.1.0.0/24\"\n{settings}\n[containers.web]\nsysctl = {{ \"net.ipv4.ip_default_ttl\" = 60 }}\n\
             networks.a = {{ {web} }}\n"
        );
        let before = host.asked;
        converge(&mut host, &config(&text).unwrap(), 1);
        host.asked - before
    };
    let at = "address = \"10.1.0.10\"";
    assert_eq!(asked("", at), 1, "the first rules");
    assert_eq!(asked("", at), 0, "nothing to do");
    assert_eq!(asked("mtu = 1400", at), 0, "an MTU");
    assert_eq!(asked("", &format!("{at}, interface = \"lan0\"")), 1, "an address under another name");
    assert_eq!(asked("", "address = \"10.1.0.11\", interface = \"lan0\""), 1, "another address");
}

#[test]
fn a_ruleset_changed_by_others_between_reading_and_writing_is_no_failure() {
    let mut random = Random::new(1);
    let mut host = host(&mut random);
    host.races = 3;
    let text = "[networks.a]\nsubnet = \"10.1.0.0/24\"\n[containers.c]\nnetworks = [\"a\"]\nports = [\"80:80\"]\n";
    converge(&mut host, &config(text).unwrap(), 1);
    assert_eq!(host.races, 0);
}

#[test]
fn a_foreign_object_in_the_way_is_an_error_and_nothing_is_written() {
    let text = "[networks.a]\nsubnet = \"10.1.0.0/24\"\n[containers.c]\nnetworks = [\"a\"]\n";
    let config = config(text).unwrap();
    let mut wanted = Fake { facts: Facts::default(), ..Fake::default() };
    wanted.facts.sysctls.insert(facts::IPV4_FORWARDING.into(), "1".into());
    converge(&mut wanted, &config, 0);
    for (key, Entry { object, .. }) in &wanted.state {
        // An equal address or route serves as it is; the firewall table is netrec's by its name.
        let may_be_foreign = matches!(key, Key::Link { .. } | Key::Netns { .. });
        if !may_be_foreign {
            continue;
        }
        let mut host = Fake { facts: wanted.facts.clone(), ..Fake::default() };
        host.foreign(key.clone(), object.clone(), "group 0");
        let error = prepare(&mut host, &config, None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key} exists and is not netrec's (group 0), but ")), "{error}");
        for way in ["rename: ", "adopt: ", "remove: "] {
            assert!(error.contains(way), "{error}");
        }
        assert_eq!(host.writes(), 0);
    }
}
