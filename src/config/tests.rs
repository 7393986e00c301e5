//! Good files: what they mean, the defaults, and spellings that mean the same. Bad ones are in `tests/bad`.

#![allow(clippy::format_push_string, clippy::format_collect)] // short beats fast here

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::ports::Mapping;
use super::{
    Config, ContainerNetns, Invalid, Node, Overlap, PortAddress, PortRange, Protocol, Source, Sources, Target, ports,
};
use crate::state::{Netns, Owner};

fn sources(texts: &[&str]) -> Sources {
    let source = |(i, text): (usize, &&str)| Source { name: format!("{i}.toml"), text: (*text).to_owned() };
    Sources(texts.iter().enumerate().map(source).collect())
}

fn parse(text: &str) -> Config {
    super::parse(sources(&[text])).unwrap_or_else(|invalid| panic!("{invalid}"))
}

const SHOP: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = "10.21.0.0/24"

[containers.web]
networks = ["front", "back"]
ports    = ["8080:80", "127.0.0.1:9000:9000/udp"]

[containers.db]
networks.back = { address = "10.21.0.10" }
"#;

/// All that a configuration says, without places.
fn meaning(config: &Config) -> String {
    let mut text = format!("{:?}\n", config.settings);
    for n in &config.networks {
        text += &format!("{} {:?} {:?} {:?}\n", n.owner, n.reserve, n.bridge, n.mtu);
        for s in &n.subnets {
            text += &format!("  {} of {}, gateway {:?}, range {}\n", s.net, s.whole, s.gateway, s.range);
        }
    }
    for c in &config.containers {
        text += &format!("{} {:?} {:?}\n", c.owner, c.netns, c.sysctls);
        for a in &c.attachments {
            let network = &config.network(a).name;
            text += &format!("  {} {network} {:?} {:?} {}\n", a.owner, a.addresses, a.mac, a.interface);
        }
        for p in &c.ports {
            text += &format!("  {} {:?} {} {} {}\n", p.owner, p.address, p.host, p.container, p.protocol.as_str());
        }
    }
    for e in &config.expect {
        text += &format!("expect {:?} {:?} {:?} {}\n", e.from, e.to, e.port, e.reach);
    }
    text
}

#[test]
fn defaults_are_filled_in() {
    let expected = r"Settings { forwarding: true, overlap: Refuse, lock_timeout: 10s, accounting: false }
networks.front [] None None
  10.20.0.0/24 of 10.20.0.0/24, gateway Some(10.20.0.1), range 10.20.0.0/24
  fd20::/64 of fd20::/64, gateway Some(fd20::1), range fd20::/64
networks.back [] None None
  10.21.0.0/24 of 10.21.0.0/24, gateway Some(10.21.0.1), range 10.21.0.0/24
containers.web Named(web) []
  containers.web.networks.front front [] None eth0
  containers.web.networks.back back [] None eth1
  containers.web.ports[0] Any 8080 80 tcp
  containers.web.ports[1] One(127.0.0.1) 9000 9000 udp
containers.db Named(db) []
  containers.db.networks.back back [10.21.0.10] None eth0
";
    assert_eq!(meaning(&parse(SHOP)), expected);
}

#[test]
fn an_empty_file_is_good() {
    for config in [parse(""), parse("[networks]\n[containers]\n"), super::parse(Sources::default()).unwrap()] {
        assert_eq!((config.networks.len(), config.containers.len()), (0, 0));
    }
}

#[test]
fn settings() {
    let config = parse("[settings]\nforwarding = false\noverlap = \"warn\"\nlock_timeout = \"500ms\"\n");
    assert!(!config.settings.forwarding);
    assert_eq!(config.settings.overlap, Overlap::Warn);
    for (text, milliseconds) in [("0s", 0), ("500ms", 500), ("90s", 90_000), ("5m", 300_000), ("1h", 3_600_000)] {
        let config = parse(&format!("settings.lock_timeout = {text:?}"));
        assert_eq!(config.settings.lock_timeout, Duration::from_millis(milliseconds), "{text}");
    }
}

#[test]
fn gateways_and_ranges_go_to_their_subnets() {
    let config = parse(
        r#"
        [networks.front]
        subnet = ["10.20.0.0/24", "fd20::/64", "10.22.0.0/16"]
        gateway = ["fd20::ffff", "10.20.0.254"]
        range = ["10.22.128.0/17", "fd20::1:0/112"]
        reserve = ["10.20.0.9", "fd20::9"]
        bridge = "br-front"
        mtu = 9000

        [networks.back]
        subnet = ["10.21.0.0/24", "fd21::/64"]
        gateway = false
        reserve = []
        "#,
    );
    let subnets = |i: usize| -> Vec<_> {
        let text = |s: &super::Subnet| format!("{} {:?} {}", s.net, s.gateway, s.range);
        config.networks[i].subnets.iter().map(text).collect()
    };
    assert_eq!(
        subnets(0),
        [
            "10.20.0.0/24 Some(10.20.0.254) 10.20.0.0/24",
            "fd20::/64 Some(fd20::ffff) fd20::1:0/112",
            "10.22.0.0/16 Some(10.22.0.1) 10.22.128.0/17",
        ]
    );
    assert_eq!(subnets(1), ["10.21.0.0/24 None 10.21.0.0/24", "fd21::/64 None fd21::/64"]);
    assert_eq!(format!("{:?}", config.networks[0].reserve), "[10.20.0.9, fd20::9]");
    assert_eq!(
        format!("{:?} {:?}", config.networks[0].bridge, config.networks[0].mtu),
        "Some(\"br-front\") Some(9000)"
    );
}

#[test]
fn spellings_mean_the_same() {
    let spelt = r#"
        networks = { front = { driver = "bridge", subnet = ["10.20.0.0/24", "fd20:0::/64"] }, back.subnet = ["10.21.0.0/24"] }
        containers.web.networks = { front = {}, back = { } }
        containers.web.ports = [
            { host = 8080, container = "80", protocol = "tcp" },
            { host = "9000", container = 9000, protocol = "udp", address = "127.0.0.1" },
        ]
        containers.web.netns = "web"
        [containers.db.networks.back]
        address = ["10.21.0.10"]
    "#;
    assert_eq!(meaning(&parse(spelt)), meaning(&parse(SHOP)));
    assert_eq!(meaning(&parse(&format!("\u{feff}{}", SHOP.replace('\n', "\r\n")))), meaning(&parse(SHOP)));
}

#[test]
fn sources_are_joined_in_their_order() {
    let (networks, containers) = SHOP.split_at(SHOP.find("[containers.web]").unwrap());
    let joined = super::parse(sources(&[networks, containers])).unwrap();
    assert_eq!(meaning(&joined), meaning(&parse(SHOP)));
    // A container may stand before its network.
    assert!(super::parse(sources(&[containers, networks])).is_ok());
}

#[test]
fn places_name_the_line_of_every_owner() {
    let (networks, containers) = SHOP.split_at(SHOP.find("[containers.web]").unwrap());
    let config = super::parse(sources(&["[settings]\n", networks, containers])).unwrap();
    let places: Vec<_> = config.places().into_iter().map(|(owner, place)| format!("{owner} {place}")).collect();
    assert_eq!(
        places,
        [
            "settings 0.toml:1",
            "networks 1.toml:2",
            "networks.front 1.toml:2",
            "networks.back 1.toml:5",
            "containers 2.toml:1",
            "containers.web 2.toml:1",
            "containers.web.networks.front 2.toml:2",
            "containers.web.networks.back 2.toml:2",
            "containers.web.ports[0] 2.toml:3",
            "containers.web.ports[1] 2.toml:3",
            "containers.db 2.toml:5",
            "containers.db.networks.back 2.toml:6",
        ]
    );
    assert_eq!(config.sources.line(&config.containers[1].place), "2.toml:5");
}

#[test]
fn names_with_dots_are_quoted_in_owners() {
    let config = parse("[networks.\"a.b\"]\nsubnet = \"10.20.0.0/24\"\n[containers.\"c.d\"]\nnetworks = [\"a.b\"]\n");
    assert_eq!(config.networks[0].owner, Owner::new("networks.\"a.b\""));
    assert_eq!(config.containers[0].attachments[0].owner, Owner::new("containers.\"c.d\".networks.\"a.b\""));
    assert_eq!(config.containers[0].netns.netns(), &Netns::new("c.d"));
}

#[test]
fn interfaces_without_a_name_get_the_first_free_one() {
    let config = parse(
        r#"
        networks.a.subnet = "10.1.0.0/24"
        networks.b.subnet = "10.2.0.0/24"
        networks.c.subnet = "10.3.0.0/24"
        networks.d.subnet = "10.4.0.0/24"
        [containers.web.networks]
        a = {}
        b = { interface = "eth0", mac = "02:00:00:00:00:0A" }
        c = { interface = "lan" }
        d = {}
        "#,
    );
    let names: Vec<_> = config.containers[0].attachments.iter().map(|a| a.interface.to_string()).collect();
    assert_eq!(names, ["eth1", "eth0", "lan", "eth2"]);
    assert_eq!(config.containers[0].attachments[1].mac.unwrap().to_string(), "02:00:00:00:00:0a");
}

#[test]
fn namespaces() {
    let config = parse("containers.a.netns = \"/run/netns/x\"\ncontainers.b.netns = \"y\"\n[containers.c]\n");
    let netns: Vec<_> = config.containers.iter().map(|c| c.netns.clone()).collect();
    assert_eq!(
        netns,
        [
            ContainerNetns::Path(Netns::new("/run/netns/x")),
            ContainerNetns::Named(Netns::new("y")),
            ContainerNetns::Named(Netns::new("c")),
        ]
    );
}

#[test]
fn port_strings() {
    let mapping = |address, host: u16, container: u16, protocol| {
        Ok(Mapping { address, host: PortRange::one(host), container: PortRange::one(container), protocol })
    };
    let one = |text: &str| PortAddress::One(text.parse().unwrap());
    for (text, expected) in [
        ("8080:80", mapping(PortAddress::Any, 8080, 80, Protocol::Tcp)),
        ("1:65535/sctp", mapping(PortAddress::Any, 1, 65535, Protocol::Sctp)),
        ("0.0.0.0:53:53/udp", mapping(PortAddress::AnyIpv4, 53, 53, Protocol::Udp)),
        ("[::]:53:53/tcp", mapping(PortAddress::AnyIpv6, 53, 53, Protocol::Tcp)),
        ("127.0.0.1:8080:80", mapping(one("127.0.0.1"), 8080, 80, Protocol::Tcp)),
        ("[fd00::1]:8080:80", mapping(one("fd00::1"), 8080, 80, Protocol::Tcp)),
        (
            "1-65535:1-65535/udp",
            Ok(Mapping {
                address: PortAddress::Any,
                host: PortRange { first: 1, last: 65535 },
                container: PortRange { first: 1, last: 65535 },
                protocol: Protocol::Udp,
            }),
        ),
    ] {
        assert_eq!(ports::parse(text), expected, "{text}");
    }
}

#[test]
fn a_port_on_several_addresses_is_several_ports_of_one_owner() {
    let config = parse(
        "networks.a.subnet = [\"10.1.0.0/24\", \"fd01::/64\"]\n[containers.web]\nnetworks = [\"a\"]\n\
         ports = [\"1:1\", { host = 80, container = 80, address = [\"10.9.0.1\", \"fd09::1\", \"127.0.0.1\"] }]\n",
    );
    let ports: Vec<_> = config.containers[0].ports.iter().map(|p| format!("{} {:?}", p.owner, p.address)).collect();
    assert_eq!(
        ports,
        [
            "containers.web.ports[0] Any",
            "containers.web.ports[1] One(10.9.0.1)",
            "containers.web.ports[1] One(fd09::1)",
            "containers.web.ports[1] One(127.0.0.1)",
        ]
    );
}

#[test]
fn ports_that_do_not_clash() {
    parse(
        "networks.a.subnet = [\"10.1.0.0/24\", \"fd01::/64\"]\n[containers.web]\nnetworks = [\"a\"]\n\
         ports = [\"0.0.0.0:80:80\", \"[::]:80:80\", \"80:80/udp\", \"127.0.0.1:81:80\", \"127.0.0.2:81:80\", \"[fd00::1]:81:80\"]\n",
    );
}

const EXPECT: &str = r#"expect = [
    "world -> host:8080",
    "web  ->\tdb:5432/tcp ",
    "db-/>world:443/udp",
    "world -/> web",
    "host -> 127.0.0.1:9000/sctp",
    'host -> host:8080',
    "web -> fd20::5",
    "web -> [fd20::5]:080",
    "web -/> 169.254.169.254:80",
    "alone -/> web",
    "alone -/> 10.20.0.5:1",
]
"#;

#[test]
fn lines_of_expect() {
    let config = parse(&format!("{EXPECT}{SHOP}[containers.alone]\n"));
    let (web, db, alone) = (Node::Container(0), Node::Container(1), Node::Container(2));
    let address = |text: &str| Target::Address(text.parse().unwrap());
    let lines: Vec<_> = config.expect.iter().map(|e| (e.text.as_str(), e.from, e.to, e.port, e.reach)).collect();
    assert_eq!(
        lines,
        [
            ("world -> host:8080", Node::World, Target::Node(Node::Host(0)), Some((8080, Protocol::Tcp)), true),
            ("web -> db:5432/tcp", web, Target::Node(db), Some((5432, Protocol::Tcp)), true),
            ("db -/> world:443/udp", db, Target::Node(Node::World), Some((443, Protocol::Udp)), false),
            ("world -/> web", Node::World, Target::Node(web), None, false),
            ("host -> 127.0.0.1:9000/sctp", Node::Host(0), address("127.0.0.1"), Some((9000, Protocol::Sctp)), true),
            ("host -> host:8080", Node::Host(0), Target::Node(Node::Host(0)), Some((8080, Protocol::Tcp)), true),
            ("web -> fd20::5", web, address("fd20::5"), None, true),
            ("web -> [fd20::5]:080", web, address("fd20::5"), Some((80, Protocol::Tcp)), true),
            ("web -/> 169.254.169.254:80", web, address("169.254.169.254"), Some((80, Protocol::Tcp)), false),
            ("alone -/> web", alone, Target::Node(web), None, false),
            ("alone -/> 10.20.0.5:1", alone, address("10.20.0.5"), Some((1, Protocol::Tcp)), false),
        ]
    );
    assert_eq!(config.sources.line(&config.expect[2].place), "0.toml:4");
}

#[test]
fn expect_is_one_line_or_a_list_and_may_stand_in_several_files() {
    let texts = |config: &Config| config.expect.iter().map(|e| e.text.clone()).collect::<Vec<_>>();
    let joined = super::parse(sources(&[
        "expect = \"web -> db\"",
        SHOP,
        "expect = []",
        "expect = [\"db -> web\", \"web -> world\"]",
    ]));
    let joined = joined.unwrap();
    assert_eq!(texts(&joined), ["web -> db", "db -> web", "web -> world"]);
    let together = parse(&format!("expect = [\"web->db\", \"db -> web\", \"web -> world\"]\n{SHOP}"));
    assert_eq!(meaning(&joined), meaning(&together));
    // What is shown of a line means the same.
    let shown = parse(&format!("expect = {:?}\n{SHOP}", texts(&joined)));
    assert_eq!(meaning(&shown), meaning(&joined));
}

#[test]
fn words_of_expect_name_containers_where_nobody_uses_them_otherwise() {
    let config = parse(
        "expect = [\"w- -> world-2:80\", \"10.0.0.1 -> w-\"]\nnetworks.a.subnet = \"10.1.0.0/24\"\n\
         containers.\"host.a\" = {}\ncontainers.host = {}\ncontainers.world = {}\n\
         containers.w-.networks = [\"a\"]\ncontainers.world-2.networks = [\"a\"]\n\
         containers.\"10.0.0.1\".networks = [\"a\"]\n",
    );
    let ends: Vec<_> = config.expect.iter().map(|e| (e.from, e.to)).collect();
    assert_eq!(
        ends,
        [
            (Node::Container(3), Target::Node(Node::Container(4))),
            (Node::Container(5), Target::Node(Node::Container(3))),
        ]
    );
}

#[test]
fn sysctl_names_in_every_spelling() {
    let config = parse(
        r#"
        [containers.web.sysctl]
        "net.ipv4.ip_unprivileged_port_start" = 0
        "net/ipv4/conf/eth0.100/rp_filter" = "2"
        "net.ipv4.conf.eth0/200.rp_filter" = true
        net.ipv4.conf."eth0.300".rp_filter = false
        net.ipv4.tcp_rmem = " 4096  131072\t6291456 "
        net.core.somaxconn = 0x1000
        net.ipv4.ping_group_range = "0x10 017"
        net.ipv4.ip_local_reserved_ports = "9000-9003,80, 9004 ,8,9002-9010,65535,65000-65534,7,"
        net.ipv4.conf.all.forwarding = 1
        "#,
    );
    let sysctls: Vec<_> = config.containers[0].sysctls.iter().map(|(path, value)| format!("{path}={value}")).collect();
    assert_eq!(
        sysctls,
        [
            "net/ipv4/ip_unprivileged_port_start=0",
            "net/ipv4/conf/eth0.100/rp_filter=2",
            "net/ipv4/conf/eth0.200/rp_filter=1",
            "net/ipv4/conf/eth0.300/rp_filter=0",
            "net/ipv4/ip_forward=1",
            "net/ipv4/tcp_rmem=4096 131072 6291456",
            "net/ipv4/ping_group_range=16 017",
            "net/ipv4/ip_local_reserved_ports=7-8,80,9000-9010,65000-65535",
            "net/core/somaxconn=4096",
        ]
    );
}

#[test]
fn a_bridge_may_have_another_networks_name_that_is_not_used() {
    parse(
        "networks.a = { subnet = \"10.1.0.0/24\", bridge = \"nr-b\" }\nnetworks.b = { subnet = \"10.2.0.0/24\", bridge = \"nr-a\" }",
    );
}

/// Ten thousand containers with two ports each, on ten networks, and a line of `expect` for each.
fn large() -> String {
    let mut text = "expect = [\n".to_owned();
    text.extend((0..10_000).map(|c| format!("\"world -> c{c}:80\",\n")));
    text += "]\n";
    for n in 0..10 {
        text += &format!("[networks.n{n}]\nsubnet = \"10.{n}.0.0/16\"\n");
    }
    for c in 0..10_000 {
        let (n, i) = (c / 1000, c % 1000 + 2);
        text += &format!("[containers.c{c}]\nports = [\"{}:80\", \"127.0.0.1:{}:80/udp\"]\n", c + 1, c + 1);
        text += &format!("networks.n{n} = {{ address = \"10.{n}.{}.{}\" }}\n", i / 256, i % 256);
    }
    text
}

/// How long this thread has been at work: of quadratic code that shows, and a busy machine does not.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
fn a_large_file_takes_no_time() {
    let text = large();
    let start = worked();
    let config = parse(&text);
    assert_eq!(config.places().len(), 2 + 10 + 10_000 * 4);
    let all_clash = text.replace("\"127.0.0.1:", "\"[fd00::1]:").replace(":80\", ", ":80\", \"1:1\", ");
    let Err(invalid) = super::parse(sources(&[&all_clash])) else { panic!("a large bad file is good") };
    let message = invalid.to_string();
    assert!(
        message.ends_with("... and 9900 more\n\n0.toml: 10000 errors or more"),
        "{}",
        &message[message.len() - 99..]
    );
    // A hundred times what it takes with optimization.
    let took = worked().saturating_sub(start);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn hostile_files_end() {
    let start = worked();
    let deep_table = format!("[a{}]\n", ".a".repeat(10_000));
    let wide_line = format!("networks = [{}]", "1 1,".repeat(50_000));
    let keys = (0..50_000).map(|i| format!("k{i} = 1\n")).collect::<String>();
    let duplicates = "a = 1\n".repeat(50_000);
    let unknown = format!("[containers.web]\nnetworks = [{}]", "\"x\", ".repeat(50_000));
    let arrays = "[".repeat(200_000);
    let tables = "a = { b = ".repeat(50_000);
    let long_key = format!("{} = 1", "k".repeat(1_000_000));
    let long_text = format!("networks.a.subnet = \"{}\"", "é".repeat(1_000_000));
    let sysctls = format!("containers.a.sysctl.{} = 1", ["net"; 70].join("."));
    let number = format!("networks.a.mtu = {}", "9".repeat(1_000_000));
    let arrows = format!("expect = \"{}\"", "->".repeat(500_000));
    let nobody = format!("expect = [{}]", "\"x -> y\", ".repeat(50_000));
    let again = format!("expect = [{}]", "\"host -> world\", ".repeat(50_000));
    let texts = [deep_table, wide_line, keys, duplicates, unknown, arrays, tables, long_key, long_text, number];
    for text in texts.into_iter().chain([arrows, nobody, again]) {
        let message = super::parse(sources(&[&text])).map(|_| ()).unwrap_err().to_string();
        assert!(message.len() < 200_000, "{} bytes", message.len());
    }
    parse(&sysctls);
    let took = worked().saturating_sub(start);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn one_problem_can_be_shown_alone() {
    let sources = sources(&["[networks.front]\n"]);
    let place = super::Place { source: 0, span: 10..15 };
    let problem = super::Problem::new(place, "its bridge is there already").with_label("wanted here");
    assert_eq!(
        sources.render("warning", &problem),
        "warning: its bridge is there already\n  --> 0.toml:1:11\n   |\n 1 | [networks.front]\n   |           ^^^^^ wanted here"
    );
    let nowhere = super::Problem::new(super::Place { source: 7, span: 5..9 }, "lost");
    let invalid = Invalid::new(sources, vec![nowhere]);
    assert_eq!(invalid.to_string(), "error: lost\n  --> ?\n   |\n 1 |\n   | ^\n\n1 error");
}
