//! Links, addresses, routes, namespaces and parameters: written by steps, read back as state, and seen by `ip` and
//! `bridge` as an independent witness.
//!
//! Each test runs in network and mount namespaces of its own: it starts itself again under `unshare`, as root or, for
//! others, in a user namespace.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use netrec::kernel::{Backend, Linux, ReadError, StepError};
use netrec::state::{
    Address, BridgePort, Device, Entry, InterfaceName, Key, Link, LinkKind, Mac, Netns, NetnsObject, Object, Owner,
    Peer, RT_TABLE_MAIN, Route, Scope, Standing, State, Step, Sysctl,
};
use serde_json::Value;

/// Runs a test's body in namespaces of its own. `name` is the test's.
fn lab(name: &str, body: impl FnOnce()) {
    const INSIDE: &str = "NETREC_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        sh("mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up");
        return body();
    }
    let flags = if nix::unistd::geteuid().is_root() { "-mn" } else { "-Urmn" };
    let output = Command::new("unshare")
        .arg(flags)
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Runs a shell script that must succeed, and gives its output.
fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn json(script: &str) -> Value {
    serde_json::from_str(&sh(script)).unwrap()
}

/// The one object that `ip -j` shows.
fn ip(arguments: &str) -> Value {
    json(&format!("ip -j -d {arguments}")).as_array().unwrap()[0].clone()
}

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn web() -> Netns {
    Netns::new("web")
}

fn owner(path: &str) -> Owner {
    Owner::new(path)
}

fn device(last: u8) -> Device {
    Device { mac: mac(last), mtu: 1400, up: true, link_local: false }
}

fn link_key(text: &str) -> Key {
    Key::Link { netns: Netns::HOST, name: name(text) }
}

fn bridge(text: &str) -> (Key, Entry) {
    let link =
        Link { kind: LinkKind::Bridge { stp: false }, device: device(1), master: None, port: None, leaving: false };
    (link_key(text), Entry::new(Object::Link(link), owner("networks.front")))
}

fn veth_link(netns: &Netns, last: u8) -> Link {
    Link {
        kind: LinkKind::Veth { peer: Peer { netns: netns.clone(), name: name("eth0"), device: device(last + 100) } },
        device: device(last),
        master: Some(name("nr-front")),
        port: Some(BridgePort { hairpin: true }),
        leaving: false,
    }
}

fn veth(text: &str, netns: &Netns, last: u8) -> (Key, Entry) {
    (link_key(text), Entry::new(Object::Link(veth_link(netns, last)), owner("containers.web")))
}

fn namespace(netns: &Netns) -> (Key, Entry) {
    let object = Object::Netns(NetnsObject { lo_up: true });
    (Key::Netns { netns: netns.clone() }, Entry::new(object, owner("containers.web")))
}

fn address(netns: &Netns, link: &str, ip: &str, path: &str) -> (Key, Entry) {
    let key = Key::Address { netns: netns.clone(), link: name(link), ip: ip.parse().unwrap() };
    (key, Entry::new(Object::Address(Address { permanent: true }), owner(path)))
}

fn route(netns: &Netns, to: &str, via: Option<&str>, dev: &str, metric: u32) -> (Key, Entry) {
    let key = Key::Route { netns: netns.clone(), table: RT_TABLE_MAIN, to: to.parse().unwrap(), metric };
    let via = via.map(|v| v.parse().unwrap());
    let object = Object::Route(Route { via, dev: Some(name(dev)), protocol: 78 });
    (key, Entry::new(object, owner("containers.web")))
}

fn create((key, entry): (Key, Entry)) -> Step {
    Step::new(key, None, Some(entry))
}

fn delete((key, entry): (Key, Entry)) -> Step {
    Step::new(key, Some(entry), None)
}

fn run(linux: &mut Linux, steps: impl IntoIterator<Item = Step>) {
    for outcome in linux.run(&steps.into_iter().collect::<Vec<_>>()) {
        outcome.unwrap();
    }
}

fn link_of(entry: &mut Entry) -> &mut Link {
    match &mut entry.object {
        Object::Link(link) => link,
        other => panic!("{other:?}"),
    }
}

fn peer_of(entry: &mut Entry) -> &mut Peer {
    match &mut link_of(entry).kind {
        LinkKind::Veth { peer } => peer,
        other => panic!("{other:?}"),
    }
}

/// A bridge, a namespace, a veth, addresses and routes of both families, in the phases they are made in.
fn small_shop() -> Vec<Vec<(Key, Entry)>> {
    let web = web();
    vec![
        vec![namespace(&web)],
        vec![bridge("nr-front"), veth("ve-web-1a2b3c", &web, 2)],
        vec![
            address(&Netns::HOST, "nr-front", "10.20.0.1/24", "networks.front"),
            address(&Netns::HOST, "nr-front", "fd20::1/64", "networks.front"),
            address(&web, "eth0", "10.20.0.2/24", "containers.web"),
            address(&web, "eth0", "fd20::2/64", "containers.web"),
        ],
        vec![
            route(&web, "0.0.0.0/0", Some("10.20.0.1"), "eth0", 0),
            route(&web, "::/0", Some("fd20::1"), "eth0", 1024),
            route(&web, "192.0.2.0/24", Some("10.20.0.1"), "eth0", 7),
            route(&web, "2001:db8::/32", Some("fd20::1"), "eth0", 7),
        ],
    ]
}

fn make(linux: &mut Linux, phases: &[Vec<(Key, Entry)>]) -> State {
    for phase in phases {
        run(linux, phase.iter().cloned().map(create));
    }
    phases.iter().flatten().cloned().collect()
}

#[test]
fn what_was_written_is_read_back() {
    lab("what_was_written_is_read_back", || {
        let mut linux = Linux::open().unwrap();
        let wanted = make(&mut linux, &small_shop());
        assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), wanted);
        // Without a scope the marks alone tell.
        assert_eq!(linux.live(&Scope::default()).unwrap(), wanted);
        for phase in small_shop().into_iter().rev() {
            run(&mut linux, phase.into_iter().map(delete));
        }
        assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), State::new());
        assert_eq!(json("ip -j link").as_array().unwrap().len(), 1);
        assert_eq!(sh("ls /run/netns"), "");
    });
}

/// A lab with the small shop's namespace, bridge and veth in it.
fn with_veth(linux: &mut Linux) -> (Key, Entry) {
    let phases = small_shop();
    make(linux, &phases[..2]);
    phases[1][1].clone()
}

/// Reads one object back.
fn found(linux: &mut Linux, key: &Key) -> Option<Entry> {
    let scope = Scope::of(&State::from_iter([(
        key.clone(),
        Entry::new(Object::Netns(NetnsObject { lo_up: true }), owner("x")),
    )]));
    linux.live(&scope).unwrap().remove(key)
}

/// Makes one change and reads it back.
fn change(linux: &mut Linux, key: &Key, entry: &mut Entry, with: impl FnOnce(&mut Entry)) {
    let before = entry.clone();
    with(entry);
    run(linux, [Step::new(key.clone(), Some(before), Some(entry.clone()))]);
    assert_eq!(found(linux, key).as_ref(), Some(&*entry));
}

#[test]
fn a_created_link_is_marked_and_down() {
    lab("a_created_link_is_marked_and_down", || {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web())), create(bridge("nr-front"))]);
        let (key, mut entry) = veth("ve-web-1a2b3c", &web(), 2);
        entry.owners.clear();
        link_of(&mut entry).device = Device { up: false, link_local: true, ..device(2) };
        link_of(&mut entry).port = Some(BridgePort { hairpin: false });
        peer_of(&mut entry).device = Device { up: false, link_local: true, ..device(102) };
        let writes = linux.writes();
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(linux.writes(), writes + 1, "all of it in one message");
        assert_eq!(found(&mut linux, &key).unwrap(), entry);
        let host = ip("link show ve-web-1a2b3c");
        assert_eq!(
            (&host["group"], &host["master"], &host["mtu"]),
            (&"20050".into(), &"nr-front".into(), &1400.into())
        );
        assert_eq!((&host["num_tx_queues"], &host["num_rx_queues"]), (&1.into(), &1.into()));
        let inside = ip("-n web link show eth0");
        assert_eq!((&inside["group"], &inside["address"]), (&"20050".into(), &"02:00:00:00:00:66".into()));
        assert_eq!((&inside["num_tx_queues"], &inside["operstate"]), (&1.into(), &"DOWN".into()));
    });
}

#[test]
fn every_attribute_of_a_veth_changes_in_place() {
    lab("every_attribute_of_a_veth_changes_in_place", || {
        let mut linux = Linux::open().unwrap();
        let (key, mut e) = with_veth(&mut linux);
        let index = ip("link show ve-web-1a2b3c")["ifindex"].clone();
        run(&mut linux, [create(bridge("nr-back"))]);
        let mut change = |with: fn(&mut Entry)| change(&mut linux, &key, &mut e, with);
        change(|e| link_of(e).device.up = false);
        change(|e| peer_of(e).device.up = false);
        change(|e| link_of(e).device.link_local = true);
        change(|e| peer_of(e).device.link_local = true);
        change(|e| link_of(e).device.up = true);
        change(|e| peer_of(e).device.up = true);
        change(|e| link_of(e).device.mac = mac(9));
        change(|e| peer_of(e).device.mac = mac(10));
        change(|e| link_of(e).device.mtu = 1300);
        change(|e| peer_of(e).device.mtu = 9000);
        // The flag must move along to the new bridge's port.
        change(|e| link_of(e).master = Some(name("nr-back")));
        change(|e| link_of(e).port = Some(BridgePort { hairpin: false }));
        change(|e| (link_of(e).master, link_of(e).port) = (None, None));
        change(|e| (link_of(e).master, link_of(e).port) = (Some(name("nr-front")), Some(BridgePort { hairpin: true })));
        change(|e| e.owners = vec![owner("containers.db")]);
        change(|e| link_of(e).leaving = true);
        change(|e| link_of(e).leaving = false);
        let (host, inside) = (ip("link show ve-web-1a2b3c"), ip("-n web link show eth0"));
        assert_eq!(host["ifindex"], index);
        assert_eq!(host["ifalias"], "netrec containers.db");
        assert!(inside["ifalias"].as_str().unwrap().starts_with("netrec containers.db @"));
        assert_eq!(host["linkinfo"]["info_slave_data"]["hairpin"], true);
        assert_eq!(json("bridge -j -d link show dev ve-web-1a2b3c")[0]["hairpin"], true);
        assert_eq!((&host["mtu"], &host["address"]), (&1300.into(), &"02:00:00:00:00:09".into()));
        assert_eq!((&inside["mtu"], &inside["address"]), (&9000.into(), &"02:00:00:00:00:0a".into()));
        assert_eq!((&host["group"], &inside["group"]), (&"20050".into(), &"20050".into()));
    });
}

#[test]
fn without_a_link_local_address_none_appears() {
    lab("without_a_link_local_address_none_appears", || {
        let mut linux = Linux::open().unwrap();
        let (key, mut entry) = with_veth(&mut linux);
        let addresses = || sh("ip -n web -6 -o addr show eth0");
        assert_eq!(addresses(), "");
        change(&mut linux, &key, &mut entry, |e| peer_of(e).device.up = false);
        change(&mut linux, &key, &mut entry, |e| {
            peer_of(e).device.up = true;
            peer_of(e).device.link_local = true;
        });
        assert!(addresses().contains("fe80::ff:fe00:66/64"), "{}", addresses());
        // The kernel made it, so it is not reported.
        let live = linux.live(&Scope::default()).unwrap();
        assert!(!live.iter().any(|(key, _)| matches!(key, Key::Address { .. })));
    });
}

#[test]
fn an_mtu_too_small_for_ipv6_is_no_error() {
    lab("an_mtu_too_small_for_ipv6_is_no_error", || {
        let mut linux = Linux::open().unwrap();
        let (key, mut entry) = bridge("nr-front");
        link_of(&mut entry).device.mtu = 1000;
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(found(&mut linux, &key).unwrap(), entry);
    });
}

#[test]
fn a_bridge_changes_in_place() {
    lab("a_bridge_changes_in_place", || {
        let mut linux = Linux::open().unwrap();
        let (key, mut entry) = bridge("nr-front");
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        change(&mut linux, &key, &mut entry, |e| link_of(e).kind = LinkKind::Bridge { stp: true });
        assert_eq!(ip("link show nr-front")["linkinfo"]["info_data"]["stp_state"], 1);
        change(&mut linux, &key, &mut entry, |e| link_of(e).device.mac = mac(7));
        change(&mut linux, &key, &mut entry, |e| link_of(e).device.mtu = 1280);
        change(&mut linux, &key, &mut entry, |e| link_of(e).kind = LinkKind::Bridge { stp: false });
        assert_eq!(ip("link show nr-front")["linkinfo"]["info_data"]["stp_state"], 0);
    });
}

#[test]
fn both_ends_are_renamed_while_up() {
    lab("both_ends_are_renamed_while_up", || {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        let (key, before) = phases[1][1].clone();
        let mut after = before.clone();
        peer_of(&mut after).name = name("net0");
        let new = link_key("ve-shop");
        let step = Step { key, renamed: Some(Box::new(new.clone())), before: Some(before), after: Some(after.clone()) };
        run(&mut linux, [step.clone()]);
        let live = linux.live(&Scope::default()).unwrap();
        assert_eq!(live.get(&new), Some(&after));
        // Nothing was lost on the way.
        for (key, entry) in [
            address(&web(), "net0", "10.20.0.2/24", "containers.web"),
            address(&web(), "net0", "fd20::2/64", "containers.web"),
            route(&web(), "::/0", Some("fd20::1"), "net0", 1024),
        ] {
            assert_eq!(live.get(&key), Some(&entry));
        }
        run(&mut linux, [step.inverse()]);
        assert_eq!(linux.live(&Scope::default()).unwrap(), phases.into_iter().flatten().collect());
    });
}

#[test]
fn two_links_swap_names() {
    lab("two_links_swap_names", || {
        let mut linux = Linux::open().unwrap();
        let (a, b, free) = (bridge("nr-a"), bridge("nr-b"), link_key("nr-free"));
        let mut b = b;
        link_of(&mut b.1).device.mac = mac(2);
        run(&mut linux, [create(a.clone()), create(b.clone())]);
        let rename = |from: &Key, to: &Key, e: &Entry| Step {
            key: from.clone(),
            renamed: Some(Box::new(to.clone())),
            before: Some(e.clone()),
            after: Some(e.clone()),
        };
        let error = linux.run(&[rename(&a.0, &b.0, &a.1)]).remove(0).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (17, "change link nr-a in host: File exists"));
        for step in [rename(&a.0, &free, &a.1), rename(&b.0, &a.0, &b.1), rename(&free, &b.0, &a.1)] {
            run(&mut linux, [step]);
        }
        assert_eq!(found(&mut linux, &link_key("nr-a")).unwrap(), b.1);
        assert_eq!(found(&mut linux, &link_key("nr-b")).unwrap(), a.1);
    });
}

#[test]
fn a_foreign_link_of_the_name_is_reported_and_kept() {
    lab("a_foreign_link_of_the_name_is_reported_and_kept", || {
        sh("ip link add nr-front type bridge && ip link add other type bridge");
        let mut linux = Linux::open().unwrap();
        let wanted: State = [bridge("nr-front")].into_iter().collect();
        let live = linux.live(&Scope::of(&wanted)).unwrap();
        assert_eq!(live.len(), 1);
        let entry = live.get(&link_key("nr-front")).unwrap();
        assert_eq!(entry.standing, Standing::Foreign("group 0".into()));
        assert!(matches!(&entry.object, Object::Link(Link { kind: LinkKind::Bridge { stp: false }, .. })));
        let error = linux.run(&[create(bridge("nr-front"))]).remove(0).unwrap_err();
        assert_eq!(error, StepError { errno: 17, message: "create link nr-front in host: File exists".into() });
    });
}

#[test]
fn a_failing_message_fails_its_own_step_only() {
    lab("a_failing_message_fails_its_own_step_only", || {
        sh("ip link add nr-3 type bridge");
        let mut linux = Linux::open().unwrap();
        let bridges: Vec<_> = (0..300).map(|i| bridge(&format!("nr-{i}"))).collect();
        let outcomes = linux.run(&bridges.iter().cloned().map(create).collect::<Vec<_>>());
        let failed: Vec<usize> = (0..300).filter(|i| outcomes[*i].is_err()).collect();
        assert_eq!(failed, [3]);
        // A dump of several parts, beyond one receive.
        let live = linux.live(&Scope::default()).unwrap();
        assert_eq!(live, bridges.into_iter().filter(|(key, _)| *key != link_key("nr-3")).collect());
        assert_eq!(ip("link show nr-3")["group"], "default");
    });
}

#[test]
fn two_hundred_veths_go_at_once() {
    lab("two_hundred_veths_go_at_once", || {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web())), create(bridge("nr-front"))]);
        let veths: Vec<_> = (0..200u8)
            .map(|i| {
                let (key, mut entry) = veth(&format!("ve-{i}"), &web(), 2);
                peer_of(&mut entry).name = name(&format!("eth{i}"));
                link_of(&mut entry).device.mac = Mac([2, 0, 0, 0, 1, i]);
                (key, entry)
            })
            .collect();
        run(&mut linux, veths.iter().cloned().map(create));
        assert_eq!(linux.live(&Scope::default()).unwrap().len(), 202);
        // One that somebody else removed is no failure.
        sh("ip link del ve-7");
        let start = Instant::now();
        run(&mut linux, veths.into_iter().map(delete));
        assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
        let left: State = [namespace(&web()), bridge("nr-front")].into_iter().collect();
        assert_eq!(linux.live(&Scope::default()).unwrap(), left);
    });
}

#[test]
fn what_is_gone_already_is_deleted() {
    lab("what_is_gone_already_is_deleted", || {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        let steps: Vec<Step> = phases.into_iter().flatten().map(delete).collect();
        run(&mut linux, steps.clone());
        assert_eq!(linux.live(&Scope::default()).unwrap(), State::new());
        // Without the namespace there is nothing to look into for the rest.
        run(&mut linux, steps);
    });
}

#[test]
fn addresses_of_both_families_come_and_go() {
    lab("addresses_of_both_families_come_and_go", || {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(bridge("nr-front"))]);
        let mine = |ip: &str| address(&Netns::HOST, "nr-front", ip, "networks.front");
        let all = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.1/16", "fd00::1/64", "fd00::2/128"].map(mine);
        run(&mut linux, all.iter().cloned().map(create));
        let shown = ip("addr show nr-front");
        let nodad = shown["addr_info"].as_array().unwrap().iter().find(|a| a["local"] == "fd00::1").unwrap();
        assert_eq!((&nodad["nodad"], &nodad["tentative"]), (&true.into(), &Value::Null));
        let error = linux.run(&[create(mine("fd00::1/64"))]).remove(0).unwrap_err();
        assert_eq!(error.errno, 17);
        assert!(error.message.starts_with("create address fd00::1/64 dev nr-front in host: File exists"), "{error}");
        // The address that others are secondary to goes alone.
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/nr-front/promote_secondaries").trim(), "0");
        run(&mut linux, [delete(all[0].clone()), delete(all[4].clone())]);
        let rest = [bridge("nr-front"), all[1].clone(), all[2].clone(), all[3].clone()];
        assert_eq!(linux.live(&Scope::default()).unwrap(), rest.into_iter().collect());
        // Without others in the subnet nothing is written but the deletion itself.
        let writes = linux.writes();
        run(&mut linux, [delete(all[1].clone())]);
        assert_eq!(linux.writes(), writes + 1);
        // One that runs out becomes permanent.
        sh("ip addr add fd00::9/64 dev nr-front valid_lft 1000 preferred_lft 1000; \
            ip addr add 10.9.0.1/24 dev nr-front valid_lft 1000 preferred_lft 1000");
        for ip in ["fd00::9/64", "10.9.0.1/24"] {
            let (key, after) = mine(ip);
            let mut before = after.clone();
            before.object = Object::Address(Address { permanent: false });
            assert_eq!(found(&mut linux, &key).unwrap(), before);
            run(&mut linux, [Step::new(key.clone(), Some(before), Some(after.clone()))]);
            assert_eq!(found(&mut linux, &key).unwrap(), after);
        }
    });
}

#[test]
fn routes_of_both_families_are_replaced() {
    lab("routes_of_both_families_are_replaced", || {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        for (to, via, metric) in
            [("0.0.0.0/0", "10.20.0.9", 0), ("::/0", "fd20::9", 1024), ("2001:db8::/32", "fd20::9", 7)]
        {
            let (key, after) = route(&web(), to, Some(via), "eth0", metric);
            let before = found(&mut linux, &key).unwrap();
            run(&mut linux, [Step::new(key.clone(), Some(before), Some(after.clone()))]);
            assert_eq!(found(&mut linux, &key).unwrap(), after);
        }
        let shown = json("ip -n web -j route show default");
        assert_eq!(shown.as_array().unwrap().len(), 1);
        assert_eq!((&shown[0]["gateway"], &shown[0]["protocol"]), (&"10.20.0.9".into(), &"78".into()));
        assert_eq!(json("ip -n web -j -6 route show default")[0]["gateway"], "fd20::9");
        let lost = linux.run(&[create(route(&web(), "198.51.100.0/24", Some("203.0.113.1"), "eth0", 0))]).remove(0);
        assert_eq!(
            lost.unwrap_err().message,
            "create route 198.51.100.0/24 in web: Network is unreachable (kernel: Nexthop has invalid gateway)"
        );
        // In the host, without a router, in a table of its own.
        let (mut key, entry) = route(&Netns::HOST, "198.51.100.0/24", None, "nr-front", 5);
        let Key::Route { table, .. } = &mut key else { panic!() };
        *table = 1000;
        run(&mut linux, [create((key.clone(), Entry { owners: vec![owner("networks.front")], ..entry.clone() }))]);
        assert_eq!(found(&mut linux, &key).unwrap().object, entry.object);
        assert_eq!(json("ip -j route show table 1000")[0]["scope"], "link");
        run(&mut linux, [delete((key, entry))]);
        assert_eq!(sh("ip route show table 1000"), "");
    });
}

#[test]
fn routes_of_others_are_told_apart_and_kept() {
    lab("routes_of_others_are_told_apart_and_kept", || {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases[..3]);
        sh(
            "ip -n web route add default via 10.20.0.1 && ip -n web -6 route add 2001:db8::/32 via fd20::1 proto static && \
            ip route add 198.51.100.0/24 dev nr-front && ip -n web route add 198.51.100.0/24 dev eth0 table 7",
        );
        let live = linux.live(&Scope::default()).unwrap();
        let routes: BTreeMap<String, Standing> = live
            .iter()
            .filter(|(key, _)| matches!(key, Key::Route { .. }))
            .map(|(key, entry)| (key.to_string(), entry.standing.clone()))
            .collect();
        let foreign = |text: &str| Standing::Foreign(text.into());
        assert_eq!(
            routes,
            BTreeMap::from([
                ("route default in web".into(), foreign("protocol boot")),
                ("route 2001:db8::/32 metric 1024 in web".replace(" metric 1024", ""), foreign("protocol static")),
            ])
        );
        let ours = route(&web(), "0.0.0.0/0", Some("10.20.0.1"), "eth0", 0);
        assert_eq!(linux.run(&[create(ours.clone())]).remove(0).unwrap_err().errno, 17);
        // One that somebody took over is not deleted.
        run(&mut linux, [delete(ours)]);
        assert_eq!(json("ip -n web -j route show default")[0]["protocol"], Value::Null);
    });
}

#[test]
fn namespaces_are_made_as_iproute2_makes_them() {
    lab("namespaces_are_made_as_iproute2_makes_them", || {
        let mut linux = Linux::open().unwrap();
        let (key, entry) = namespace(&web());
        // What a crash between the file and the mount leaves.
        sh("mkdir -p /run/netns && touch /run/netns/web");
        assert_eq!(
            linux.live(&Scope::of(&[(key.clone(), entry.clone())].into_iter().collect())).unwrap(),
            State::new()
        );
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(json("ip -j netns")[0]["name"], "web");
        assert!(sh("grep ' /run/netns ' /proc/self/mountinfo").contains(" shared:"));
        let lo = ip("-n web link show lo");
        let inode = linux.host_id().1;
        assert_eq!(lo["group"], "20050");
        assert_eq!(lo["ifalias"], format!("netrec containers.web @{inode}"));
        assert_eq!(lo["operstate"], "UNKNOWN");
        let again = linux.run(&[create((key.clone(), entry.clone()))]).remove(0).unwrap_err();
        assert_eq!(again.message, "create netns web: a namespace of that name is there already: File exists");
        let mut entry = entry;
        change(&mut linux, &key, &mut entry, |e| e.object = Object::Netns(NetnsObject { lo_up: false }));
        change(&mut linux, &key, &mut entry, |e| e.owners = vec![owner("containers.db")]);
        // The directory is a mount already, and is used as it is.
        let second = namespace(&Netns::new("db"));
        Linux::open().unwrap().run(&[create(second.clone())]).remove(0).unwrap();
        assert_eq!(sh("grep -c ' /run/netns ' /proc/self/mountinfo").trim(), "1");
        run(&mut linux, [delete((key, entry)), delete(second)]);
        assert_eq!(sh("ls /run/netns"), "");
        let bad = linux.run(&[create(namespace(&Netns::new("/run/elsewhere")))]).remove(0).unwrap_err();
        assert!(bad.message.contains("only namespaces under /run/netns"), "{bad}");
        sh("echo x > /run/netns/note");
        let note = linux.run(&[create(namespace(&Netns::new("note")))]).remove(0).unwrap_err();
        assert_eq!(note.message, "create netns note: /run/netns/note is a file of somebody else's: File exists");
    });
}

#[test]
fn namespaces_of_others_are_told_apart() {
    lab("namespaces_of_others_are_told_apart", || {
        sh("ip netns add plain && ip netns add theirs && ip netns add quiet && touch /run/hostns && \
            mount --bind /proc/self/ns/net /run/hostns && touch /run/alias && mount --bind /run/netns/plain /run/alias && \
            ip -n theirs link set lo group 20050 alias 'netrec containers.x @1'");
        let mut linux = Linux::open().unwrap();
        assert_eq!(linux.live(&Scope::default()).unwrap(), State::new());
        let scope = Scope {
            namespaces: ["plain", "theirs", "absent", "/run/hostns", "/run/alias"].map(Netns::new).into(),
            ..Scope::default()
        };
        let live = linux.live(&scope).unwrap();
        let standings: Vec<(String, Standing)> =
            live.iter().map(|(key, entry)| (key.to_string(), entry.standing.clone())).collect();
        let foreign = |text: &str| Standing::Foreign(text.into());
        assert_eq!(
            standings,
            [
                ("netns /run/alias".into(), foreign("not made by netrec")),
                ("netns /run/hostns".into(), foreign("the host's own")),
                ("netns plain".into(), foreign("the same as /run/alias")),
                ("netns theirs".into(), foreign("made by netrec for another host")),
            ]
        );
    });
}

#[test]
fn a_netrec_in_a_container_leaves_its_devices_alone() {
    lab("a_netrec_in_a_container_leaves_its_devices_alone", || {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        drop(linux);
        let file = std::fs::File::open("/run/netns/web").unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut inside = Linux::open().unwrap();
        let live = inside.live(&Scope { host_links: [name("eth0")].into(), ..Scope::default() }).unwrap();
        let eth0 = live.get(&link_key("eth0")).unwrap();
        assert_eq!(eth0.standing, Standing::Foreign("made by netrec for another host".into()));
        assert!(live.iter().all(|(_, entry)| !entry.standing.is_ours()), "{live:?}");
        let facts = inside.facts().unwrap();
        assert_eq!((facts.addresses.len(), facts.routes.len()), (2, 4));
        assert_eq!(facts.uplink.unwrap().name, name("eth0"));
    });
}

#[test]
fn a_peer_whose_name_was_removed_is_found_elsewhere() {
    lab("a_peer_whose_name_was_removed_is_found_elsewhere", || {
        let mut linux = Linux::open().unwrap();
        let (key, mut wanted) = with_veth(&mut linux);
        let mut sleeper = Command::new("ip").args(["netns", "exec", "web", "sleep", "60"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", sleeper.id());
        let inode = |path: &str| sh(&format!("stat -Lc %i {path}"));
        while inode(&path) != inode("/run/netns/web") {}
        let held = std::fs::File::open("/run/netns/web").unwrap();
        sh(
            "touch '/run/o ther' && mount --bind /run/netns/web '/run/o ther' && umount -l /run/netns/web && rm /run/netns/web",
        );
        // A mount of another name, then a process, then nothing but an open file.
        peer_of(&mut wanted).netns = Netns::new("/run/o ther");
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
        sh("umount -l '/run/o ther'");
        peer_of(&mut wanted).netns = Netns::new(path);
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let peer = peer_of(&mut wanted);
        (peer.netns, peer.name) = (Netns::new("?"), InterfaceName::UNKNOWN);
        peer.device = Device { mac: Mac([0; 6]), mtu: 0, up: false, link_local: false };
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
        run(&mut linux, [delete((key.clone(), wanted))]);
        assert_eq!(found(&mut linux, &key), None);
        drop(held);
    });
}

#[test]
fn peers_with_equal_indices_are_told_by_namespace() {
    lab("peers_with_equal_indices_are_told_by_namespace", || {
        let mut linux = Linux::open().unwrap();
        let (key, entry) = with_veth(&mut linux);
        let index = ip("link show ve-web-1a2b3c")["ifindex"].clone();
        // The same pair of indices in a namespace that is read before the right one.
        sh(&format!(
            "ip netns add aaa && ip netns add bbb && ip -n bbb link add x index {index} type veth peer name eth0 index 2 netns aaa"
        ));
        assert_eq!(ip("-n aaa link show eth0")["link_index"], index);
        assert_eq!(found(&mut linux, &key).unwrap(), entry);
    });
}

#[test]
fn sysctls_are_written_and_read_inside_their_namespace() {
    lab("sysctls_are_written_and_read_inside_their_namespace", || {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web()))]);
        let sysctl = |netns: &Netns, path: &str, value: &str| {
            let key = Key::Sysctl { netns: netns.clone(), path: Arc::from(path) };
            (key, Entry { owners: vec![], ..Entry::new(Object::Sysctl(Sysctl { value: value.into() }), owner("x")) })
        };
        let inside = sysctl(&web(), "net/ipv4/ip_local_port_range", "2000 3000");
        let host = sysctl(&Netns::HOST, "net/ipv4/ip_forward", "1");
        run(&mut linux, [create(inside.clone()), create(host.clone())]);
        assert_eq!(sh("ip netns exec web cat /proc/sys/net/ipv4/ip_local_port_range"), "2000\t3000\n");
        assert_ne!(sh("cat /proc/sys/net/ipv4/ip_local_port_range"), "2000\t3000\n");
        let absent = sysctl(&web(), "net/ipv4/nothing", "1");
        let wanted: State = [inside.clone(), host.clone(), absent.clone()].into_iter().collect();
        let live = linux.live(&Scope::of(&wanted)).unwrap();
        assert_eq!(live, [namespace(&web()), inside.clone(), host.clone()].into_iter().collect());
        // What is right already is not written, and a value stays when its object goes.
        let writes = linux.writes();
        run(&mut linux, [create(host.clone()), delete(inside)]);
        assert_eq!(linux.writes(), writes);
        assert_eq!(sh("ip netns exec web cat /proc/sys/net/ipv4/ip_local_port_range"), "2000\t3000\n");
        let error = linux.run(&[create(absent)]).remove(0).unwrap_err();
        assert_eq!(error.errno, 2);
        assert!(error.message.contains("/proc/sys/net/ipv4/nothing: wanted 1, found nothing"), "{error}");
        let refused = linux.run(&[create(sysctl(&Netns::HOST, "net/ipv4/ip_forward", "many"))]).remove(0).unwrap_err();
        assert_eq!(
            refused.message,
            "create sysctl net/ipv4/ip_forward in host: /proc/sys/net/ipv4/ip_forward: wanted many, found 1: Invalid argument"
        );
        // `01` is taken and stored as `1`: what was found is said.
        let other = linux.run(&[create(sysctl(&Netns::HOST, "net/ipv4/ip_default_ttl", "064"))]).remove(0);
        assert!(other.is_err());
    });
}

#[test]
fn facts_tell_the_uplink_and_what_is_not_netrecs() {
    lab("facts_tell_the_uplink_and_what_is_not_netrecs", || {
        let mut linux = Linux::open().unwrap();
        assert_eq!(linux.facts().unwrap().uplink, None);
        sh("ip link add eth9 mtu 1450 type veth peer name far && ip link set eth9 up && ip link set far up && \
            ip addr add 192.0.2.7/24 dev eth9 && ip -6 addr add 2001:db8::7/64 dev eth9 nodad && \
            ip route add default via 192.0.2.1 metric 100 && ip -6 route add default via fe80::1 dev eth9 proto ra && \
            ip route add 10.8.0.0/16 via 192.0.2.2 && echo 1 > /proc/sys/net/ipv6/conf/eth9/accept_ra");
        make(&mut linux, &small_shop());
        let facts = linux.facts().unwrap();
        assert_eq!(facts.host, sh("uname -n").trim());
        let uplink = facts.uplink.unwrap();
        assert_eq!((uplink.name, uplink.mtu), (name("eth9"), 1450));
        let addresses: Vec<String> = facts.addresses.iter().map(|a| format!("{} {}", a.link, a.ip)).collect();
        assert_eq!(addresses, ["eth9 192.0.2.7/24", "eth9 2001:db8::7/64"]);
        let routes: Vec<String> = facts.routes.iter().map(|r| format!("{} {:?}", r.to, r.dev)).collect();
        assert_eq!(
            routes,
            ["10.8.0.0/16 Some(\"eth9\")", "192.0.2.0/24 Some(\"eth9\")", "2001:db8::/64 Some(\"eth9\")"]
        );
        assert_eq!(facts.ra_uplinks, [name("eth9")]);
        assert_eq!(facts.sysctls["net/ipv4/ip_forward"], "0");
        assert!(facts.sysctls.contains_key("net/ipv6/conf/all/forwarding"));
        sh("echo 2 > /proc/sys/net/ipv6/conf/eth9/accept_ra && ip route del default");
        let facts = linux.facts().unwrap();
        assert_eq!((facts.ra_uplinks, facts.uplink.unwrap().name), (vec![], name("eth9")));
    });
}

#[test]
fn without_rights_reading_works_and_writing_says_what_is_missing() {
    const NAME: &str = "without_rights_reading_works_and_writing_says_what_is_missing";
    if is_again() {
        let mut linux = Linux::open().unwrap();
        linux.facts().unwrap();
        let error = linux.live(&Scope::default()).unwrap_err();
        let expected = ReadError::Permission { what: "namespace web".into(), reason: "Operation not permitted".into() };
        assert_eq!(error, expected);
        assert_eq!(error.to_string(), "root is needed to read namespace web (Operation not permitted)");
        let error = linux.run(&[create(bridge("nr-back"))]).remove(0).unwrap_err();
        assert_eq!(
            error.message,
            "create link nr-back in host: changing networks needs root (CAP_NET_ADMIN): Operation not permitted"
        );
        return;
    }
    lab(NAME, || {
        make(&mut Linux::open().unwrap(), &small_shop());
        let output = again(NAME, "setpriv --bounding-set -all", &[]);
        assert!(output.contains("1 passed"), "{output}");
    });
}

#[test]
fn a_dump_torn_by_changes_is_never_handed_out() {
    lab("a_dump_torn_by_changes_is_never_handed_out", || {
        let mut linux = Linux::open().unwrap();
        let bridges: State = (0..300).map(|i| bridge(&format!("nr-{i}"))).collect();
        run(&mut linux, bridges.clone().into_iter().map(create));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut linux = Linux::open().unwrap();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    run(&mut linux, [create(bridge("x"))]);
                    run(&mut linux, [delete(bridge("x"))]);
                }
            });
            for _ in 0..100 {
                match linux.live(&Scope::default()) {
                    Ok(mut live) => {
                        live.remove(&link_key("x"));
                        assert_eq!(live, bridges);
                    }
                    Err(error) => assert_eq!(error, ReadError::Torn { what: "links of host".into() }),
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

const AGAIN: &str = "NETREC_TEST_AGAIN";

fn is_again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// Runs the test once more, inside the same namespaces, by a wrapper or with variables.
fn again(name: &str, wrapper: &str, variables: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().unwrap();
    let script = format!("{wrapper} {} {name} --exact --nocapture --test-threads=1 2>&1", program.display());
    let variables = variables.iter().copied();
    let output = Command::new("sh").args(["-c", &script]).env(AGAIN, "1").envs(variables).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[cfg(feature = "fault-injection")]
mod faults {
    use super::*;

    /// Whether the test, run once more with a fault, goes through.
    fn survives(name: &str, fault: &str) -> bool {
        again(name, "", &[("NETREC_FAULT", fault)]).contains("1 passed")
    }

    #[test]
    fn a_write_that_fails_fails_its_own_step_only() {
        const NAME: &str = "faults::a_write_that_fails_fails_its_own_step_only";
        if is_again() {
            let mut linux = Linux::open().unwrap();
            let steps: Vec<Step> = (0..9).map(|i| create(bridge(&format!("nr-{i}")))).collect();
            let outcomes = linux.run(&steps);
            let failed: Vec<usize> = (0..9).filter(|i| outcomes[*i].is_err()).collect();
            assert_eq!(failed, [4]);
            let message = "create link nr-4 in host: Device or resource busy";
            assert_eq!(outcomes[4], Err(StepError { errno: 16, message: message.into() }));
            return;
        }
        lab(NAME, || {
            assert!(survives(NAME, "fail:5:EBUSY"));
            let mut linux = Linux::open().unwrap();
            let wanted = (0..9).filter(|i| *i != 4).map(|i| bridge(&format!("nr-{i}"))).collect();
            assert_eq!(linux.live(&Scope::default()).unwrap(), wanted);
        });
    }

    #[test]
    fn a_step_that_fails_half_way_changes_nothing() {
        const NAME: &str = "faults::a_step_that_fails_half_way_changes_nothing";
        let rename = |fault: &str| {
            let (key, before) = veth("ve-web-1a2b3c", &web(), 2);
            let mut after = before.clone();
            (link_of(&mut after).device.mtu, link_of(&mut after).device.up) = (1300, false);
            (peer_of(&mut after).device.mtu, peer_of(&mut after).name) = (1300, name("net0"));
            let renamed = Some(Box::new(link_key("ve-shop")));
            let step = Step { key, renamed, before: Some(before), after: Some(after) };
            let outcome = Linux::open().unwrap().run(&[step]).remove(0);
            assert_eq!(
                outcome.map_err(|e| e.message),
                Err("change link ve-web-1a2b3c in host: Device or resource busy".into()),
                "{fault}"
            );
        };
        let bridge = bridge("nr-back");
        if is_again() {
            let fault = std::env::var("NETREC_FAULT").unwrap();
            if fault == "fail:2:EBUSY" && std::env::var_os("CREATE").is_some() {
                Linux::open().unwrap().run(&[create(bridge)]).remove(0).unwrap_err();
            } else {
                rename(&fault);
            }
            return;
        }
        lab(NAME, || {
            let mut linux = Linux::open().unwrap();
            let phases = small_shop();
            let wanted = make(&mut linux, &phases[..2]);
            // Down, two names, two times settings.
            for n in 1..=5 {
                assert!(survives(NAME, &format!("fail:{n}:EBUSY")));
                assert_eq!(linux.live(&Scope::default()).unwrap(), wanted, "{n}");
            }
            let output = again(NAME, "", &[("NETREC_FAULT", "fail:2:EBUSY"), ("CREATE", "1")]);
            assert!(output.contains("1 passed"), "{output}");
            assert_eq!(linux.live(&Scope::default()).unwrap(), wanted);
        });
    }

    #[test]
    fn links_whose_deletion_fails_do_not_stay_among_the_leaving() {
        const NAME: &str = "faults::links_whose_deletion_fails_do_not_stay_among_the_leaving";
        let bridges = || (0..3).map(|i| bridge(&format!("nr-{i}")));
        if is_again() {
            for outcome in Linux::open().unwrap().run(&bridges().map(delete).collect::<Vec<_>>()) {
                assert_eq!(outcome.unwrap_err().errno, 16);
            }
            return;
        }
        lab(NAME, || {
            let mut linux = Linux::open().unwrap();
            run(&mut linux, bridges().map(create));
            assert!(survives(NAME, "fail:4:EBUSY"));
            assert_eq!(linux.live(&Scope::default()).unwrap(), bridges().collect());
        });
    }

    #[test]
    fn a_crash_at_any_write_leaves_a_marked_namespace_or_none() {
        const NAME: &str = "faults::a_crash_at_any_write_leaves_a_marked_namespace_or_none";
        if is_again() {
            return run(&mut Linux::open().unwrap(), [create(namespace(&web()))]);
        }
        lab(NAME, || {
            let wanted: State = [namespace(&web())].into_iter().collect();
            for n in 1.. {
                let finished = survives(NAME, &format!("die:{n}"));
                let mut linux = Linux::open().unwrap();
                let live = linux.live(&Scope::of(&wanted)).unwrap();
                if finished {
                    assert_eq!((live, n > 4), (wanted, true));
                    break;
                }
                assert_eq!(live, State::new(), "after a crash at write {n}");
                // What is left is in nobody's way.
                run(&mut linux, [create(namespace(&web()))]);
                assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), wanted);
                run(&mut linux, [delete(namespace(&web()))]);
                sh("umount -l /run/netns; rm -r /run/netns");
            }
        });
    }
}
