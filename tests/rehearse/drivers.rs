//! Networks on devices of the hosts, which a rehearsal stands in for; the host's own stack, and none; and plugins', which are
//! left out.

use super::{Ordinary, rows, uncounted};

/// Two hosts that meet on a link, one network that the kernel may lack, and a container with the host's own stack.
const FILE: &str = r#"
expect = [
  "x -> y:80",
  "x -> world:81",
  "world -> y",
  "host.a -/> x",
  "agent -> world:81",
  "both -> agent:90",
  "l -> m",
  "both -/> 10.50.0.9:80",
]

[hosts.a]
id = 1
address = "192.0.2.1"

[hosts.b]
id = 2
address = "192.0.2.2"

[networks.front]
subnet = "10.20.0.0/24"

[networks.lan]
driver = "macvlan"
parent = "uplink"
subnet = ["10.60.0.0/24", "fd60::/64"]

[networks.vlan]
driver = "macvlan"
parent = "eth5.7"
subnet = "10.61.0.0/24"
gateway = false

[networks.l3]
driver = "ipvlan"
type = "l3"
parent = "eth6"
subnet = "10.50.0.0/24"

[networks.own]
driver = "host"

[containers.x]
host = "a"
networks = ["lan"]

[containers.y]
host = "b"
networks = ["lan", "vlan"]

[containers.agent]
host = "a"
networks = ["own"]

[containers.both]
host = "b"
networks = ["front"]

[containers.l]
host = "a"
networks = ["l3"]

[containers.m]
host = "a"
networks = ["l3"]
"#;

#[test]
fn devices_are_stood_in_for_and_hosts_meet_on_them() {
    let output = Ordinary::new().rehearse(FILE, &[], &["--json"]);
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let table: Vec<String> = rows(&output)
        .iter()
        .map(|row| uncounted(&format!("{}: {} ({})", text(row, "verdict"), text(row, "what"), text(row, "note"))))
        .collect();
    let has_ipvlan = !table.iter().any(|row| row.contains("this kernel has no ipvlan"));
    let ipvlan = |what: &str| {
        if has_ipvlan { format!("ok: {what} ()") } else { format!("not-tried: {what} (this kernel has no ipvlan)") }
    };
    let mut steps = vec![
        "ok: make the world ()".to_owned(),
        "ok: device `uplink` that network `lan` is on, with the world and all hosts on its link (stood in for)".into(),
        "ok: VLAN 7 of `eth5` that network `vlan` is on, with the world and all hosts on its link (stood in for)"
            .into(),
        "ok: device `eth6` that network `l3` is on, with the world and all hosts on its link (stood in for)".into(),
    ];
    if !has_ipvlan {
        steps.push(ipvlan("ipvlan network `l3`"));
    }
    let rest = [
        "ok: apply (host a) (N changes)",
        "ok: apply (host b) (N changes)",
        "ok: plan again (host a) (no changes)",
        "ok: plan again (host b) (no changes)",
        "ok: listen (4 services)",
        "ok: x -> y:80 ()",
        "ok: x -> world:81 ()",
        "ok: world -> y ()",
        "ok: host.a -/> x ()",
        "ok: agent -> world:81 ()",
        "ok: both -> agent:90 ()",
    ];
    steps.extend(rest.map(str::to_owned));
    steps.extend([ipvlan("l -> m"), ipvlan("both -/> 10.50.0.9:80")]);
    for what in ["destroy (host a) (N changes)", "destroy (host b) (N changes)"] {
        steps.push(format!("ok: {what}"));
    }
    for host in ["a", "b"] {
        steps.push(format!("ok: look for what is left (host {host}) (nothing is left)"));
    }
    assert_eq!(table, steps);
    assert_eq!(output.status.code(), Some(0));
}

/// A plugin's network is left out and said to be; so are the lines about containers that would be on it.
#[test]
fn networks_of_plugins_are_not_tried() {
    let file = r#"
expect = ["api -> world:80", "web -> world:81", "api -/> db:82"]

[networks.front]
subnet = "10.20.0.0/24"

[networks.wide]
driver = "remote"
plugin = "nobody"
subnet = "10.50.0.0/24"

[containers.web]
networks = ["front", "wide"]

[containers.db]
networks = ["wide"]

[containers.api]
networks = ["front"]
"#;
    let output = Ordinary::new().rehearse(file, &[], &["--json"]);
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let table: Vec<String> = rows(&output)
        .iter()
        .map(|row| uncounted(&format!("{}: {} ({})", text(row, "verdict"), text(row, "what"), text(row, "note"))))
        .collect();
    let why = "a plugin serves this machine's own networks only";
    let expected = [
        "ok: make the world ()".to_owned(),
        format!("not-tried: remote network `wide` ({why})"),
        "ok: apply (N changes)".into(),
        "ok: plan again (no changes)".into(),
        "ok: listen (3 services)".into(),
        "ok: api -> world:80 ()".into(),
        format!("not-tried: web -> world:81 ({why})"),
        format!("not-tried: api -/> db:82 ({why})"),
        "ok: destroy (N changes)".into(),
        "ok: look for what is left (nothing is left)".into(),
    ];
    assert_eq!(table, expected);
    assert_eq!(output.status.code(), Some(0));
}
