//! Namespaces to test in, and a small shop to put into them.

use std::process::Command;

use netrec::kernel::{Backend, Linux};
use netrec::state::{
    Address, BridgePort, Device, Entry, InterfaceName, Key, Link, LinkKind, Mac, Netns, NetnsObject, Object, Owner,
    Peer, RT_TABLE_MAIN, Route, Scope, State, Step,
};
use serde_json::Value;

/// Set inside of a test's namespaces, to the test's name.
const INSIDE: &str = "NETREC_TEST_INSIDE";
/// Set when the test runs once more inside of them.
const AGAIN: &str = "NETREC_TEST_AGAIN";

/// Runs a test's body in namespaces of its own. The test's name is found in that of the closure's type,
/// `netlink::MODULE::TEST::{{closure}}`.
pub(crate) fn lab<F: FnOnce()>(body: F) {
    let path = std::any::type_name::<F>();
    let name = path.strip_prefix("netlink::").and_then(|p| p.strip_suffix("::{{closure}}")).unwrap();
    if std::env::var_os(INSIDE).is_some() {
        sh("mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up");
        return body();
    }
    let flags = if nix::unistd::geteuid().is_root() { "-mn" } else { "-Urmn" };
    let output = Command::new("unshare")
        .arg(flags)
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Runs a shell script that must succeed, and gives its output.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn json(script: &str) -> Value {
    serde_json::from_str(&sh(script)).unwrap()
}

/// The one object that `ip -j` shows.
pub(crate) fn ip(arguments: &str) -> Value {
    json(&format!("ip -j -d {arguments}")).as_array().unwrap()[0].clone()
}

pub(crate) fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

pub(crate) fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

pub(crate) fn web() -> Netns {
    Netns::new("web")
}

pub(crate) fn owner(path: &str) -> Owner {
    Owner::new(path)
}

pub(crate) fn device(last: u8) -> Device {
    Device { mac: mac(last), mtu: 1400, up: true, link_local: false, promote_secondaries: true, no_arp: false }
}

pub(crate) fn link_key(text: &str) -> Key {
    Key::Link { netns: Netns::HOST, name: name(text) }
}

pub(crate) fn bridge(text: &str) -> (Key, Entry) {
    let link =
        Link { kind: LinkKind::Bridge { stp: false }, device: device(1), master: None, port: None, leaving: false };
    (link_key(text), Entry::new(Object::Link(link), owner("networks.front")))
}

pub(crate) fn veth_link(netns: &Netns, last: u8) -> Link {
    Link {
        kind: LinkKind::Veth { peer: Peer { netns: netns.clone(), name: name("eth0"), device: device(last + 100) } },
        device: device(last),
        master: Some(name("nr-front")),
        port: Some(BridgePort { hairpin: true, ..BridgePort::default() }),
        leaving: false,
    }
}

pub(crate) fn veth(text: &str, netns: &Netns, last: u8) -> (Key, Entry) {
    (link_key(text), Entry::new(Object::Link(veth_link(netns, last)), owner("containers.web")))
}

pub(crate) fn namespace(netns: &Netns) -> (Key, Entry) {
    let object = Object::Netns(NetnsObject { lo_up: true, lo_bare: false, unbound: false });
    (Key::Netns { netns: netns.clone() }, Entry::new(object, owner("containers.web")))
}

pub(crate) fn address(netns: &Netns, link: &str, ip: &str, path: &str) -> (Key, Entry) {
    let key = Key::address(netns.clone(), name(link), ip.parse().unwrap());
    (key, Entry::new(Object::Address(Address::lasting()), owner(path)))
}

pub(crate) fn route(netns: &Netns, to: &str, via: Option<&str>, dev: &str, metric: u32) -> (Key, Entry) {
    let key = Key::Route { netns: netns.clone(), table: RT_TABLE_MAIN, to: to.parse().unwrap(), metric };
    let via = via.map(|v| v.parse().unwrap());
    let object = Object::Route(Route::new(name(dev), via));
    (key, Entry::new(object, owner("containers.web")))
}

pub(crate) fn create((key, entry): (Key, Entry)) -> Step {
    Step::new(key, None, Some(entry))
}

pub(crate) fn delete((key, entry): (Key, Entry)) -> Step {
    Step::new(key, Some(entry), None)
}

pub(crate) fn run(linux: &mut Linux, steps: impl IntoIterator<Item = Step>) {
    for outcome in linux.run(&steps.into_iter().collect::<Vec<_>>()) {
        outcome.unwrap();
    }
}

pub(crate) fn link_of(entry: &mut Entry) -> &mut Link {
    match &mut entry.object {
        Object::Link(link) => link,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn peer_of(entry: &mut Entry) -> &mut Peer {
    match &mut link_of(entry).kind {
        LinkKind::Veth { peer } => peer,
        other => panic!("{other:?}"),
    }
}

/// A bridge, a namespace, a veth, addresses and routes of both families, in the phases they are made in.
pub(crate) fn small_shop() -> Vec<Vec<(Key, Entry)>> {
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

pub(crate) fn make(linux: &mut Linux, phases: &[Vec<(Key, Entry)>]) -> State {
    for phase in phases {
        run(linux, phase.iter().cloned().map(create));
    }
    phases.iter().flatten().cloned().collect()
}

/// A lab with the small shop's namespace, bridge and veth in it.
pub(crate) fn with_veth(linux: &mut Linux) -> (Key, Entry) {
    let phases = small_shop();
    make(linux, &phases[..2]);
    phases[1][1].clone()
}

/// Reads one object back.
pub(crate) fn found(linux: &mut Linux, key: &Key) -> Option<Entry> {
    let scope = Scope::of(&State::from_iter([(
        key.clone(),
        Entry::new(Object::Netns(NetnsObject { lo_up: true, lo_bare: false, unbound: false }), owner("x")),
    )]));
    linux.live(&scope).unwrap().remove(key)
}

/// Makes one change and reads it back.
pub(crate) fn change(linux: &mut Linux, key: &Key, entry: &mut Entry, with: impl FnOnce(&mut Entry)) {
    let before = entry.clone();
    with(entry);
    run(linux, [Step::new(key.clone(), Some(before), Some(entry.clone()))]);
    assert_eq!(found(linux, key).as_ref(), Some(&*entry));
}

pub(crate) fn is_again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// Runs the test once more, inside the same namespaces, by a wrapper or with variables.
pub(crate) fn again(wrapper: &str, variables: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().unwrap();
    let name = std::env::var(INSIDE).unwrap();
    let script = format!("{wrapper} {} {name} --exact --nocapture --test-threads=1 2>&1", program.display());
    let variables = variables.iter().copied();
    let output = Command::new("sh").args(["-c", &script]).env(AGAIN, "1").envs(variables).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
