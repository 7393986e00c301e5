//! Files of several hosts: each is a machine of its own, and lines say which one they mean.

use super::{fail_exactly, failures, rehearse, rows, uncounted};

/// Two hosts with one network each of the same name, and containers of one namespace's name.
const TWO: &str = r#"
expect = [
  "web -> host.b:8080",
  "shop -> host.a:8080",
  "world -> host.a:8080",
  "world -> host.b:8080",
  "world -> 192.0.2.2:8080",
  "host.a -> host.b:8080",
  "host.b -> host.b:8080",
  "host.a -/> host.b:9000",
  "host.b -> host.b:9000",
  "world -> host.b:9100/udp",
  "web -> host.a:9100/udp",
  "host.a -> host.b",
  "web -> host.b",
  "web -> world:443",
  "shop -> world:443",
  "host.a -> web:80",
  "host.b -> shop:80",
  "host.a -/> shop:80",
  "web -/> shop:80",
  "world -/> shop:80",
]

[hosts.a]
id = 1
address = ["192.0.2.1", "2001:db8::1"]

[hosts.b]
id = 2
address = "192.0.2.2"

[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[containers.web]
host = "a"
netns = "app"
networks = ["front"]
ports = ["8080:80"]

[containers.shop]
host = "b"
netns = "app"
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80", "127.0.0.1:9000:90"]

[containers.agent]
networks = ["front"]
ports = ["9100:9100/udp"]
"#;

/// The table's rows.
fn table(toml: &str) -> Vec<String> {
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let line = |row| format!("{}: {} ({})", text(row, "verdict"), text(row, "what"), text(row, "note"));
    rows(&rehearse(toml, &[])).iter().map(|row| uncounted(&line(row))).collect()
}

/// The rows that failed, each with its note.
fn failed(toml: &str) -> Vec<String> {
    table(toml).into_iter().filter(|row| row.starts_with("failed")).collect()
}

#[test]
fn each_host_is_applied_and_removed_by_itself() {
    let lines: Vec<String> = TWO.lines().filter_map(|line| line.trim().strip_prefix('"')).map(str::to_owned).collect();
    let lines = lines.iter().map(|line| format!("ok: {} ()", line.trim_end_matches("\",")));
    let of = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>();
    let mut wanted = of(&[
        "ok: make the world ()",
        "ok: apply (host a) (N changes)",
        "ok: apply (host b) (N changes)",
        "ok: plan again (host a) (no changes)",
        "ok: plan again (host b) (no changes)",
        "ok: listen (7 services)",
    ]);
    wanted.extend(lines);
    wanted.extend(of(&[
        "ok: destroy (host a) (N changes)",
        "ok: destroy (host b) (N changes)",
        "ok: look for what is left (host a) (nothing is left)",
        "ok: look for what is left (host b) (nothing is left)",
    ]));
    assert_eq!(table(TWO), wanted);
}

/// A change, and the lines that fail for it.
const WRONG: &[(&str, &str, &[&str])] = &[
    (
        "networks = [\"front\"]\nports = [\"8080:80\"]",
        "networks = [\"front\"]",
        &["shop -> host.a:8080", "world -> host.a:8080"],
    ),
    (
        "\"8080:80\", \"127",
        "\"192.0.2.1:8080:80\", \"127",
        // Host b has no such address, and host a answers there.
        &[
            "web -> host.b:8080",
            "world -> host.b:8080",
            "world -> 192.0.2.2:8080",
            "host.a -> host.b:8080",
            "host.b -> host.b:8080",
        ],
    ),
    ("127.0.0.1:9000:90", "9000:90", &["host.a -/> host.b:9000"]),
    ("9100:9100/udp", "127.0.0.1:9100:9100/udp", &["world -> host.b:9100/udp", "web -> host.a:9100/udp"]),
    ("netns = \"app\"\nnetworks.front", "netns = \"other\"\nnetworks.front", &[]),
    ("host.a -/> shop:80", "host.a -> shop:80", &["host.a -> shop:80"]),
    ("web -/> shop:80", "web -> shop:80", &["web -> shop:80"]),
    ("world -/> shop:80", "world -> shop:80", &["world -> shop:80"]),
    ("world -> host.b:8080", "world -/> host.b:8080", &["world -/> host.b:8080"]),
    ("host.a -> host.b\"", "host.a -/> host.b\"", &["host.a -/> host.b"]),
];

#[test]
fn in_wrong_files_exactly_the_right_lines_fail() {
    fail_exactly(TWO, WRONG);
}

/// Each firewall on the way is asked, and named.
#[test]
fn it_is_told_which_host_dropped_it() {
    let toml = TWO
        .replace("\"8080:80\", \"127", "{ host = 8080, container = 80, allow = [\"198.51.100.0/24\"] }, \"127")
        .replace("-/> shop", "-> shop");
    let (v4, v6) = ("192.0.2.2", "2001:db8:ffff:1::2");
    let silent = |[v4, v6]: [&str; 2], told: &str| {
        format!("(no answer from {v4}\nno answer from {v6}\nto {v4}: {told}\nto {v6}: {told})")
    };
    let listed = "host.b: dropped in table inet netrec, chain allow.shop.0, by rule 2: drop";
    let unreached = |told: &str| silent(["10.20.0.10", "fd20::10"], told);
    assert_eq!(
        failed(&toml),
        [
            format!("failed: web -> host.b:8080 {}", silent([v4, v6], &format!("host.a sent it on; {listed}"))),
            format!("failed: world -> host.b:8080 {}", silent([v4, v6], listed)),
            format!("failed: world -> 192.0.2.2:8080 (no answer from {v4}\nto {v4}: {listed})"),
            format!("failed: host.a -> host.b:8080 {}", silent([v4, v6], &format!("host.a sent it on; {listed}"))),
            format!("failed: host.a -> shop:80 {}", unreached("host.a sent it on; it never came to host.b")),
            format!("failed: web -> shop:80 {}", unreached("it never came to host.a or host.b")),
            format!(
                "failed: world -> shop:80 {}",
                unreached("host.b: dropped in table inet netrec, chain forward-to.front, by rule 3: drop")
            ),
        ]
    );
}

/// An address that is one host's alone is no source for what leaves another.
#[test]
fn a_source_address_is_on_one_host() {
    let toml = TWO.replace("[networks.front]", "[networks.front]\nsnat = \"192.0.2.1\"");
    assert_eq!(failures(&rehearse(&toml, &[])), ["shop -> host.a:8080", "shop -> world:443"]);
}

/// Hosts reach each other whatever their addresses are: of one family, of no network in common, or with a network of the
/// file's between them.
#[test]
fn hosts_of_any_addresses_are_on_one_link() {
    for addresses in [
        ["192.0.2.1", "198.51.100.77", "2001:db8::c"],
        ["10.20.0.1", "10.30.0.1", "10.20.0.254"],
        ["2001:db8::a", "2001:db8::b", "fd00:1::1"],
        ["198.18.0.1", "198.18.0.2", "198.18.255.3"],
    ] {
        let mut toml = String::from("expect = [\n");
        for from in ["a", "b", "c"] {
            for to in ["a", "b", "c"].into_iter().filter(|to| *to != from) {
                toml += &format!("\"host.{from} -> host.{to}\", \"host.{from} -> host.{to}:8080\",\n");
                toml += &format!("\"on-{from} -> host.{to}\", \"on-{from} -> host.{to}:8080\",\n");
            }
            toml += &format!("\"world -> host.{from}\", \"world -> host.{from}:8080\", \"on-{from} -> world:443\",\n");
            toml += &format!("\"host.{from} -> world:443\",\n");
        }
        toml += "]\n[networks.n]\nsubnet = [\"10.25.0.0/24\", \"fd20::/64\"]\n";
        for ((host, address), id) in ["a", "b", "c"].into_iter().zip(addresses).zip(1..) {
            toml += &format!("[hosts.{host}]\nid = {id}\naddress = \"{address}\"\n");
            toml += &format!("[containers.on-{host}]\nhost = \"{host}\"\nnetworks = [\"n\"]\nports = [\"8080:80\"]\n");
        }
        assert_eq!(failed(&toml), [""; 0], "{addresses:?}");
    }
}

/// Other addresses that a machine has do not become the source of what it sends.
#[test]
fn everybody_asks_by_his_own_address() {
    let toml = r#"
        expect = [
          "world -> host.a:8080", "world -> host.b:8080", "world -> 9.9.9.9:8081", "world -> 9.9.9.9:22",
          "web -> 1.1.1.1:443", "web -> 192.0.2.200:443", "host.a -> 1.1.1.1:443", "web -> world:443",
          "host.a -> host.b:8080", "host.b -> host.a:8080", "web -> host.b:8080", "shop -> host.a:8080",
        ]
        hosts.a = { id = 1, address = "192.0.2.1" }
        hosts.b = { id = 2, address = "192.0.2.2" }
        networks.n.subnet = "10.9.0.0/24"
        [containers.web]
        host = "a"
        networks = ["n"]
        ports = ["8080:80"]
        [containers.shop]
        host = "b"
        networks = ["n"]
        ports = ["8080:80", "9.9.9.9:8081:81"]
    "#;
    assert_eq!(failed(toml), [""; 0]);
}

/// One path means another namespace on each host.
#[test]
fn namespaces_are_stood_in_for_on_each_host() {
    let toml = TWO
        .replace("netns = \"app\"", "netns = \"/proc/4242/ns/net\"")
        .replace("[containers.agent]", "[containers.agent]\nnetns = \"/run/agent/netns\"");
    let table = table(&toml);
    assert_eq!(table.iter().filter(|row| !row.starts_with("ok: ")).count(), 0, "{table:#?}");
    let stood_in: Vec<&str> = table.iter().filter(|row| row.ends_with("(stood in for)")).map(String::as_str).collect();
    assert_eq!(
        stood_in,
        [
            "ok: namespace /proc/4242/ns/net of container `web` (stood in for)",
            "ok: namespace /proc/4242/ns/net of container `shop` (stood in for)",
            "ok: namespace /run/agent/netns of container `agent` (stood in for)",
        ]
    );
}

/// One host that has a name is `host` too.
#[test]
fn of_one_host_the_name_may_be_left_out() {
    let toml = r#"
        expect = ["world -> host:8080", "host.a -> host:8080", "web -> host.a:8080", "host -> web:80"]
        hosts.a = { id = 1, address = "192.0.2.1" }
        networks.n.subnet = "10.25.0.0/24"
        [containers.web]
        networks = ["n"]
        ports = ["8080:80"]
    "#;
    let what: Vec<String> = table(toml);
    assert_eq!(
        what,
        [
            "ok: make the world ()",
            "ok: apply (host a) (N changes)",
            "ok: plan again (host a) (no changes)",
            "ok: listen (1 service)",
            "ok: world -> host:8080 ()",
            "ok: host.a -> host:8080 ()",
            "ok: web -> host.a:8080 ()",
            "ok: host -> web:80 ()",
            "ok: destroy (host a) (N changes)",
            "ok: look for what is left (host a) (nothing is left)",
        ]
    );
}
