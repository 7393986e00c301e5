//! Death and failure at kernel writes: a killed apply costs nothing, a failed one leaves the host as it was. The file
//! makes one object of every kind there is, and the change touches each of them.
//!
//! `cargo test --features fault-injection`; `NETREC_EVERY=1` tries every write instead of a fixed sample.

#![cfg(feature = "fault-injection")]
#![allow(clippy::expect_used)]

mod lab;

use lab::{Lab, Snapshot};

const FIRST: &str = r#"
[hosts.host]
id = 1
address = "192.0.2.1"

[hosts.far]
id = 2
address = "192.0.2.9"

[networks.wide]
driver = "overlay"
subnet = ["10.30.0.0/24", "fd30::/64"]
vni = 4100

[networks.round]
driver = "overlay"
topology = "routed"
subnet = ["10.31.0.0/16", "fd31::/48"]
vni = 4101

[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = "10.21.0.0/24"

[networks.lan]
driver = "macvlan"
parent = "uplink"
subnet = ["10.40.0.0/24", "fd40::/64"]

[networks.none]
driver = "null"

[containers.lone]
networks.lan = { mac = "02:00:00:00:40:01" }

[containers.other]
networks = ["lan"]

[containers.quiet]
networks = ["none"]

[containers.web]
networks = ["front", "back"]
ports    = ["8080:80", "127.0.0.1:9000:9000/udp", "7000-7009:7000-7009"]
sysctl   = { "net.ipv4.ip_default_ttl" = 60 }

[containers.db]
networks.back = { address = "10.21.0.10" }

[containers.near]
host = "host"
networks = ["wide", "round"]

[containers.away]
host = "far"
networks = ["wide"]
"#;

/// Something of every kind comes, changes, is made anew, and goes.
const SECOND: &str = r#"
[hosts.host]
id = 1
address = "192.0.2.2"

[hosts.far]
id = 2
address = "192.0.2.9"

[networks.wide]
driver = "overlay"
subnet = ["10.30.0.0/24", "fd30::/64"]
vni = 4102

[networks.round]
driver = "overlay"
topology = "direct"
subnet = "10.31.0.0/16"

[networks.front]
subnet  = ["10.20.0.0/24", "fd20::/64"]
gateway = ["10.20.0.254", "fd20::254"]
mtu     = 1400

[networks.other]
subnet  = "10.22.0.0/24"
icc     = false
snat    = "192.0.2.2"
trusted = "uplink"

[networks.direct]
subnet = "fd23::/64"
mode   = "routed"

[networks.inside]
subnet   = "10.24.0.0/24"
internal = true

[networks.lan]
driver = "macvlan"
type = "private"
parent = "uplink"
subnet = ["10.40.0.0/24", "fd40::/64"]

[containers.lone]
networks = { lan = { interface = "lan0" }, inside = {} }

[containers.other]
networks.lan = { mac = "02:00:00:00:40:01" }

[containers.third]
networks = ["lan"]

[containers.web]
networks = ["other", "front"]
ports    = [
  "8080:81",
  "8081:80",
  "7001-7010:7001-7010",
  { host = 8082, container = 82, network = "front", allow = "192.0.2.0/24" },
]
sysctl   = { "net.ipv4.ip_default_ttl" = 61 }

[containers.cache]
networks = ["other", "direct", "inside"]

[containers.near]
host = "host"
networks = ["wide", "round"]

[containers.away]
host = "far"
networks.wide = { mac = "02:00:00:00:00:aa" }
"#;

/// Every how many-th write is tried.
fn every() -> usize {
    std::env::var("NETREC_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(7)
}

/// How many writes a change takes when nothing goes wrong.
fn writes(lab: &Lab, toml: &str) -> usize {
    let n = lab.host.apply(toml).json["writes"].as_u64().expect("writes");
    usize::try_from(n).expect("a small number")
}

fn at_rest(lab: &Lab) -> Snapshot {
    drop(lab.host.settle());
    Snapshot::of_machine(&lab.host)
}

/// The host as a foreign apply finds it: forwarding is on already, since it stays on.
fn prepare(lab: &Lab) {
    lab.host.set_sysctl("net/ipv4/ip_forward", "1");
    lab.host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
}

/// netrec dies at each write of a change that is tried; the next apply makes what an undisturbed one would have made.
fn dies(lab: &Lab, before: &str, after: &str) {
    prepare(lab);
    let bare = at_rest(lab);
    lab.host.apply(before);
    let n = writes(lab, after);
    let wanted = at_rest(lab);
    let mut tried = 0;
    for at in (1..).step_by(every()) {
        lab.host.destroy(after);
        lab.host.apply(before);
        let file = lab.host.write("after.toml", after);
        let died = lab.host.netrec_with_env(&[("NETREC_FAULT", &format!("die:{at}"))], &["-c", &file, "apply", "-y"]);
        if died.status == 0 && at + 5 > n {
            break; // past the last write; how many there are differs by what the kernel has done by itself
        }
        assert_eq!(died.status, 137, "write {at} of {n}: {}", died.stderr);
        lab.host.apply(after);
        assert_eq!(lab.host.plan(after).actions(), [""; 0], "write {at} of {n}: the plan is not empty");
        assert_eq!(wanted.diff(&at_rest(lab)), "", "write {at} of {n}: another state than without a crash");
        tried += 1;
    }
    lab.host.destroy(after);
    assert_eq!(bare.diff(&at_rest(lab)), "", "destroy leaves something");
    assert!(tried > 10 || every() > 7, "only {tried} deaths");
}

#[test]
fn death_at_a_write_costs_nothing_when_all_comes() {
    lab::in_lab(|lab| dies(lab, "", FIRST));
}

#[test]
fn death_at_a_write_costs_nothing_when_all_changes() {
    lab::in_lab(|lab| dies(lab, FIRST, SECOND));
}

#[test]
fn death_and_then_destroy_leaves_nothing() {
    lab::in_lab(|lab| {
        prepare(lab);
        let bare = at_rest(lab);
        let n = writes(lab, FIRST);
        lab.host.destroy(FIRST);
        let file = lab.host.write("first.toml", FIRST);
        for at in (1..=n).step_by(every()) {
            lab.host.netrec_with_env(&[("NETREC_FAULT", &format!("die:{at}"))], &["-c", &file, "apply", "-y"]);
            lab.host.destroy(FIRST);
            assert_eq!(bare.diff(&at_rest(lab)), "", "write {at} of {n}");
        }
    });
}

/// A write fails, of each that is tried; what had been done is taken back.
fn fails(lab: &Lab, before: &str, after: &str, env: &[(&str, &str)]) {
    prepare(lab);
    let errnos = ["EPERM", "EBUSY", "ENOBUFS", "EEXIST", "ENOENT"];
    lab.host.apply(before);
    let was = at_rest(lab);
    let n = writes(lab, after);
    lab.host.destroy(after);
    lab.host.apply(before);
    let file = lab.host.write("after.toml", after);
    for at in (1..=n).step_by(every()) {
        let fault = format!("fail:{at}:{}", errnos[at % errnos.len()]);
        let env = [env, &[("NETREC_FAULT", fault.as_str())]].concat();
        let failed = lab.host.netrec_with_env(&env, &["-c", &file, "apply", "-y"]);
        let whole = "what had been done was taken back: the host is as it was before";
        // An address or a device that is gone already is as good as removed.
        if failed.status == 0 {
            assert_eq!(lab.host.plan(after).actions(), [""; 0], "{fault} of {n}: {}", failed.stderr);
            lab.host.destroy(after);
            lab.host.apply(before);
            continue;
        }
        assert_eq!((failed.status, failed.stderr.contains(whole)), (4, true), "{fault} of {n}: {}", failed.stderr);
        assert_eq!(was.diff(&at_rest(lab)), "", "{fault} of {n}: {}", failed.stderr);
    }
}

#[test]
fn failure_at_a_write_takes_back_what_came() {
    lab::in_lab(|lab| fails(lab, "", FIRST, &[]));
}

/// In batches, with the failing message among others.
#[test]
fn failure_at_a_write_puts_back_what_there_was() {
    lab::in_lab(|lab| fails(lab, FIRST, SECOND, &[]));
}

/// One message per send.
#[test]
fn failure_of_a_single_write_puts_back_what_there_was() {
    lab::in_lab(|lab| fails(lab, FIRST, SECOND, &[("NETREC_SINGLE", "1")]));
}

/// A network gets another device and another subnet under a container that runs: at no moment, and after no crash, does
/// the world reach a port that is not published.
#[test]
fn nothing_is_reachable_before_its_rules_stand() {
    lab::in_lab(|lab| {
        let file = |bridge: &str, net: &str| {
            format!(
                "[networks.front]\nbridge = '{bridge}'\nsubnet = '{net}.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = '{net}.10' }}\nports = ['8080:80']\n"
            )
        };
        let (before, after) = (file("nr-one", "10.20.0"), file("nr-two", "10.22.0"));
        let path = lab.host.write("after.toml", &after);
        for at in (1..).step_by(every()) {
            lab.host.apply(&before);
            let web = lab.container("web");
            let _listeners = [80, 81].map(|port| web.listen_tcp("web", &format!("0.0.0.0:{port}")));
            let died =
                lab.host.netrec_with_env(&[("NETREC_FAULT", &format!("die:{at}"))], &["-c", &path, "apply", "-y"]);
            let asked = ["10.20.0.10:80", "10.20.0.10:81", "10.22.0.10:80", "10.22.0.10:81"];
            let answers = std::thread::scope(|scope| {
                let asking = asked.map(|to| scope.spawn(move || lab.world.tcp(to).is_ok()));
                asking.map(|thread| thread.join().expect("an answer or none"))
            });
            assert_eq!(answers, [false; 4], "write {at}: the world reached one of {asked:?}");
            if died.status == 0 {
                // It is the rules that keep it out: what is published answers.
                lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
                break;
            }
            lab.host.destroy(&after);
        }
    });
}
