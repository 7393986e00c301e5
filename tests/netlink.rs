//! Links, addresses, routes, namespaces and parameters: written by steps, read back as state, and seen by `ip` and
//! `bridge` as an independent witness.
//!
//! Each test runs in network and mount namespaces of its own: it starts itself again under `unshare`, as root or, for
//! others, in a user namespace.

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
