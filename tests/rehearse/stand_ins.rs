//! What a rehearsal does without, and says so.

use super::{Ordinary, answer, lab, rows, uncounted};

/// A namespace that others make, parameters that a user namespace may not set, and one that it may.
const FILE: &str = r#"
expect = ["host -> a", "a -> b:80", "c -> b:80"]

[networks.n]
subnet = "10.9.0.0/24"

[containers.a]
networks = ["n"]
netns = "/proc/4242/ns/net"

[containers.b]
networks.n = { sysctl = { "net.ipv4.neigh.IFNAME.gc_stale_time" = 90, "net.ipv4.conf.IFNAME.log_martians" = 1 } }

[containers.c]
networks = ["n"]
unit = "redis"

[containers.b.sysctl]
"net.ipv4.ip_unprivileged_port_start" = 1000
"net.ipv6.route.gc_thresh" = 2048
"net.ipv4.ping_group_range" = "0 2147483647"
"net.ipv6.neigh.eth0.gc_stale_time" = 90
"#;

/// What the table says of each row.
fn table(rows: &[serde_json::Value]) -> Vec<String> {
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| uncounted(&format!("{}: {} ({})", text(row, "verdict"), text(row, "what"), text(row, "note"))))
        .collect()
}

/// What a plan sets of the file's parameters.
fn set_in_b(plan: &str) -> Vec<&str> {
    let of_the_file = ["port_start", "gc_thresh", "ping_group", "gc_stale_time", "log_martians"];
    plan.lines().filter(|line| line.starts_with('+') && of_the_file.iter().any(|name| line.contains(name))).collect()
}

#[test]
fn namespaces_and_parameters_are_stood_in_for() {
    let output = Ordinary::new().rehearse(FILE, &[], &["--json", "-v"]);
    let steps = [
        "ok: make the world ()",
        "ok: namespace /proc/4242/ns/net of container `a` (stood in for)",
        "ok: unit `redis.service` for container `c` (stood in for)",
        "ok: sysctl net/ipv6/route/gc_thresh=2048 of container `b` (stood in for: as it is, a user namespace may not set it)",
        "ok: sysctl net/ipv4/ping_group_range=0 2147483647 of container `b` (stood in for: as it is, a user namespace may \
         not set it)",
        "ok: sysctl net/ipv6/neigh/eth0/gc_stale_time=90 of container `b` (stood in for: as it is, a user namespace may not \
         set it)",
        "ok: sysctl net/ipv4/neigh/IFNAME/gc_stale_time=90 of container `b` on network `n` (stood in for: as it is, a user \
         namespace may not set it)",
        "ok: apply (N changes)",
        "ok: plan again (no changes)",
        "ok: listen (1 service)",
        "ok: host -> a ()",
        "ok: a -> b:80 ()",
        "ok: c -> b:80 ()",
        "ok: destroy (N changes)",
        "ok: look for what is left (nothing is left)",
    ];
    assert_eq!(table(&rows(&output)), steps);
    assert_eq!(output.status.code(), Some(0));
    // Those that may be set were.
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        set_in_b(&said),
        [
            "+   sysctl net/ipv4/ip_unprivileged_port_start in b: value 1000",
            "+   sysctl net/ipv4/conf/eth0/log_martians in b: value 1"
        ]
    );
}

/// What no container may set at all fails in a rehearsal as it would on the host.
#[test]
fn what_root_may_not_set_either_is_not_stood_in_for() {
    let file = FILE.replace("\"net.ipv6.route.gc_thresh\" = 2048", "\"net.core.rmem_max\" = 4096000");
    let output = Ordinary::new().rehearse(&file, &[], &["--json"]);
    let table = table(&rows(&output));
    let failed: Vec<&String> = table.iter().filter(|row| row.starts_with("failed")).collect();
    let [failed] = failed[..] else { panic!("{table:#?}") };
    assert!(failed.starts_with("failed: apply (create sysctl net/core/rmem_max in b: /proc/sys/net/core/rmem_max: "));
    assert!(failed.ends_with("\nwhat had been done was taken back: the host is as it was before)"), "{failed}");
    assert_eq!(output.status.code(), Some(1));
}

/// Root of the machine may set all of them, and needs no stand-ins.
#[test]
fn root_sets_what_it_may() {
    lab::sandbox(|| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_netrec"));
        command.args(["-c", "-", "rehearse", "--json", "-v"]);
        let output = answer(command, FILE);
        let table = table(&rows(&output));
        if std::fs::read_to_string("/proc/self/uid_map").unwrap().split_whitespace().collect::<Vec<_>>()
            != ["0", "0", "4294967295"]
        {
            return; // root of a user namespace: what it may not set is known to be absent already
        }
        let stood_in: Vec<&String> = table.iter().filter(|row| row.contains("stood in for")).collect();
        assert_eq!(
            stood_in,
            [
                "ok: namespace /proc/4242/ns/net of container `a` (stood in for)",
                "ok: unit `redis.service` for container `c` (stood in for)",
            ]
        );
        assert_eq!(
            set_in_b(&String::from_utf8(output.stderr).unwrap()),
            [
                "+   sysctl net/ipv4/ip_unprivileged_port_start in b: value 1000",
                "+   sysctl net/ipv4/ping_group_range in b: value 0 2147483647",
                "+   sysctl net/ipv6/neigh/eth0/gc_stale_time in b: value 90",
                "+   sysctl net/ipv6/route/gc_thresh in b: value 2048",
                "+   sysctl net/ipv4/conf/eth0/log_martians in b: value 1",
                "+   sysctl net/ipv4/neigh/eth0/gc_stale_time in b: value 90"
            ]
        );
        assert_eq!(output.status.code(), Some(0));
    });
}

/// A bridge and a device that others make, and an address that this machine lacks.
#[test]
fn bridges_devices_and_source_addresses_are_stood_in_for() {
    let file = r#"
        expect = ["a -> world:443", "world -> a:80", "world -/> b:80", "world -> host:8080"]
        [networks.lan]
        subnet = "10.9.0.0/24"
        bridge = "br0"
        adopt = true
        snat = "192.0.2.77"
        trusted = ["eth0", "wg0"]
        [networks.other]
        subnet = "10.8.0.0/24"
        [containers.a]
        networks = ["lan"]
        [containers.b]
        networks = ["other"]
        ports = ["8080:80"]
    "#;
    let rows = rows(&super::rehearse(file, &[]));
    let all = table(&rows);
    assert_eq!(all.iter().filter(|row| !row.starts_with("ok: ")).count(), 0, "{all:?}");
    let stood_in: Vec<_> = all.iter().filter(|row| row.ends_with("(stood in for)")).map(String::as_str).collect();
    assert_eq!(
        stood_in,
        [
            "ok: the bridge that network `lan` adopts (stood in for)",
            "ok: device `eth0` that network `lan` trusts (stood in for)",
            "ok: device `wg0` that network `lan` trusts (stood in for)",
        ]
    );
}
