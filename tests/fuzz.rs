//! Nothing that comes from outside makes netrec panic, hang or eat memory: files, saved plans, expectations and ports, with
//! bytes changed, removed, doubled and mixed; messages of the kernel's with attributes of any kind in any order. Always the
//! same ones.
//!
//! `NETREC_INPUTS` says how many of each; `make fuzz` tries ten million.

#![cfg(feature = "fuzzing")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::format_push_string,
    clippy::print_stderr,
    clippy::panic
)] // a test may

use std::fs;
use std::path::Path;

use netrec::config::fuzzing::{expect, port};
use netrec::config::{self, Config, Invalid, Source, Sources};
use netrec::kernel::fuzzing::{netfilter, rtnetlink};
use netrec::reconcile::fuzzing::Example;
use netrec::services::fuzzing::plugin;

/// How many inputs are tried.
fn inputs() -> usize {
    std::env::var("NETREC_INPUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// The memory that this process has had at most, in KiB.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound.max(1) as u64)).unwrap()
    }
}

/// All small files below a folder.
fn collect(folder: &Path, texts: &mut Vec<Vec<u8>>) {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, texts);
        } else if path.extension().is_some_and(|e| e == "toml") {
            let text = fs::read(&path).unwrap();
            if text.len() < 1500 {
                texts.push(text);
            }
        }
    }
}

const GOOD: &str = r#"
expect = ["world -> host:8080", "web -> [fd20::5]:80/udp", "web -/> 10.9.0.1", "host->web"]
[settings]
lock_timeout = "5s"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]
gateway = ["10.20.0.254"]
range = "10.20.0.128/25"
reserve = ["10.20.0.9"]
mtu = 1400
bridge = "br0"
[containers.web]
networks.front = { address = ["10.20.0.5", "fd20::5"], mac = "02:00:00:00:00:01", interface = "wan" }
ports = ["8080:80", "[fd00::1]:80:80/udp", { host = 1, container = "2", address = ["127.0.0.1"], protocol = "sctp" }]
sysctl = { "net.ipv4.ip_forward" = 1, net.core.somaxconn = "1" }
netns = "/run/netns/é"
"#;

/// Names that mean something to the decoders.
const NAMES: [&str; 16] = [
    "netrec",
    "vxlan",
    "veth",
    "bridge",
    "cmp",
    "payload",
    "meta",
    "lookup",
    "immediate",
    "bitwise",
    "nat",
    "ct",
    "fib",
    "rt",
    "exthdr",
    "byteorder",
];

/// Pieces that mean something to the parser or to the painter.
const PIECES: [&str; 27] = [
    "\"",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "#",
    "\\u0000",
    "é",
    "東",
    "\u{202e}",
    "\u{feff}",
    "/128",
    ":",
    "99999999999999999999",
    "[[x]]\n",
    "->",
    "-/>",
    "/",
];

fn mutate(random: &mut Random, texts: &[Vec<u8>], pieces: &[&str]) -> String {
    let mut text = texts[random.below(texts.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(12)).min(text.len());
        match random.below(5) {
            0 => drop(text.drain(at..end)),
            1 => {
                let piece = pieces[random.below(pieces.len())];
                text.splice(at..at, piece.bytes());
            }
            2 => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            3 => {
                let piece = text[at..end].to_vec();
                let to = random.below(text.len());
                text.splice(to..to, piece);
            }
            _ => {
                let other = &texts[random.below(texts.len())];
                let from = random.below(other.len());
                text.truncate(at);
                text.extend(&other[from..]);
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn no_text_makes_the_parser_panic() {
    let mut texts = vec![GOOD.as_bytes().to_vec()];
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad"), &mut texts);
    // Good ones often enough to get behind the parser.
    texts.extend(std::iter::repeat_n(GOOD.as_bytes().to_vec(), texts.len() / 2));
    let mut random = Random(0x6e65_7472_6563);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..inputs() {
        let sources: Vec<_> = (0..=random.below(5) / 4)
            .map(|i| Source { name: format!("{i}.toml"), text: mutate(&mut random, &texts, &PIECES) })
            .collect();
        match config::parse(Sources(sources)) {
            Ok(config) => {
                config.places();
                good += 1;
            }
            Err(invalid) => {
                let message = invalid.to_string();
                assert!(!invalid.problems.is_empty() && message.starts_with("error: "), "{message}");
                bad += 1;
            }
        }
    }
    assert!(good > 100 && bad > 1000, "{good} good and {bad} bad files are too few to prove anything");
    eprintln!("{good} good and {bad} bad files; {} KiB at most", most_memory());
    assert!(most_memory() < 256 << 10);
}

/// Texts of one value, changed, are read or refused with the whole message, whatever they hold.
fn one_value(seed: u64, texts: &[&str], pieces: &[&str], read: fn(&str) -> Result<Config, Invalid>) {
    let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    for text in &texts {
        read(std::str::from_utf8(text).unwrap()).unwrap_or_else(|invalid| panic!("{invalid}"));
    }
    let mut random = Random(seed);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..inputs() {
        let text = mutate(&mut random, &texts, pieces);
        match read(&text) {
            Ok(config) => {
                config.places();
                good += 1;
            }
            Err(invalid) => {
                let message = invalid.to_string();
                assert!(!invalid.problems.is_empty() && message.starts_with("error: "), "{text:?}: {message}");
                bad += 1;
            }
        }
    }
    assert!(
        good > inputs() / 100 && bad > inputs() / 4,
        "{good} good and {bad} bad texts are too few to prove anything"
    );
    eprintln!("{good} good and {bad} bad texts; {} KiB at most", most_memory());
    assert!(most_memory() < 256 << 10);
}

#[test]
fn no_port_makes_the_parser_panic() {
    let texts = [
        "8080:80",
        "127.0.0.1:8080:80/udp",
        "[fd00::1]:8000-8009:80-89/tcp",
        "192.0.2.1:1-3:65533-65535/sctp",
        "[::]:443:443",
        "0.0.0.0:53:53/udp",
    ];
    let pieces = [
        ":",
        "-",
        "/",
        "[",
        "]",
        "::",
        "0",
        "65535",
        "65536",
        "99999999999999999999",
        "/udp",
        "/UDP",
        ".",
        "127.0.0.1",
        "%eth0",
        " ",
        "é",
        "\u{202e}",
        "\0",
        "+1",
        "::ffff:1.2.3.4",
        "\"",
        "\\",
        "\n",
    ];
    one_value(0x706f_7274, &texts, &pieces, port);
}

#[test]
fn no_expectation_makes_the_parser_panic() {
    let texts = [
        "world -> host:8080",
        "web -> [fd20::1]:80/udp",
        "web -/> 10.9.0.1",
        "host->web",
        "host -> 10.20.0.1:53/udp",
        "world -/> host:1/sctp",
    ];
    let pieces = [
        "->",
        "-/>",
        " ",
        "-",
        ">",
        ":",
        "/",
        "[",
        "]",
        "host",
        "host.",
        "world",
        "web",
        "::1",
        "127.0.0.1",
        "224.0.0.1",
        "65536",
        "/tcp",
        "é",
        "\u{202e}",
        "\0",
        "\t",
        "\"",
        "\\",
        "\n",
        "::ffff:1.2.3.4",
    ];
    one_value(0x6578_7065_6374, &texts, &pieces, expect);
}

#[test]
fn no_answer_of_a_plugins_makes_netrec_panic() {
    let texts = [
        r#"{"Implements":["NetworkDriver","IpamDriver"]}"#,
        r#"{"Scope":"local","ConnectivityScope":"global","GwAllocChecker":true}"#,
        r#"{"Options":{"a":"b"},"Err":""}"#,
        r#"{"Interface":{"Address":"10.50.0.5/24","AddressIPv6":"fd50::5/64","MacAddress":"02:42:c0:00:02:02"}}"#,
        r#"{"InterfaceName":{"SrcName":"veth0","DstPrefix":"eth"},"Gateway":"10.50.0.1","GatewayIPv6":"fd50::1","StaticRoutes":[{"Destination":"10.0.0.0/8","RouteType":0,"NextHop":"10.50.0.9"},{"Destination":"::/0","RouteType":1,"NextHop":""}]}"#,
        r#"{"PoolID":"a","Pool":"10.50.0.0/24","Data":{"com.docker.network.gateway":"10.50.0.1/24"}}"#,
        r#"{"Address":"10.50.0.5/24","Data":null}"#,
        r#"{"Err":"no such network","Error":"nor pool"}"#,
    ];
    let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "null",
        "-1",
        "1e999",
        "\\u0000",
        "\\ud800",
        "/129",
        "::",
        "\u{1b}[2J",
        "\u{202e}",
        "é",
        "\"Err\":7",
        "\"Interface\":null",
        "..",
        "/",
        "%",
        "99999999999999999999",
    ];
    let mut random = Random(0x706c_7567_696e);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..inputs() {
        let text = mutate(&mut random, &texts, &pieces);
        let status = [200, 200, 200, 404, 500][random.below(5)];
        let (read, faults) = plugin(status, text.as_bytes());
        good += read;
        bad += faults.len();
        // Each is one line, and fit for a terminal.
        let fit =
            |fault: &String| fault.starts_with("plugin `nobody`: Any.Call: ") && !fault.contains(char::is_control);
        assert!(faults.iter().all(fit), "{text:?}: {faults:?}");
        assert!(faults.iter().all(|fault| fault.len() < 1000), "{text:?}: {faults:?}");
    }
    assert!(good > inputs() / 4 && bad > inputs(), "{good} good and {bad} bad readings are too few to prove anything");
    eprintln!("{good} good and {bad} bad readings; {} KiB at most", most_memory());
    assert!(most_memory() < 256 << 10);
}

#[test]
fn no_saved_plan_makes_apply_panic() {
    let example = Example::new(GOOD).unwrap();
    let small = Example::new("[networks.n]\nsubnet = \"10.1.0.0/24\"\n").unwrap();
    let texts = [example.saved().unwrap(), small.saved().unwrap()];
    assert_eq!(example.compared(&texts[0]).as_deref(), Ok(""));
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "null",
        "true",
        "-1",
        "1e999",
        "\"op\":[]",
        "\"op\":7",
        "\"kind\":null",
        "\"netns\":{}",
        "\u{1b}[2J",
        "\u{202e}",
        "é",
        "\n",
        "99999999999999999999",
        "\"actions\":[",
    ];
    let mut random = Random(0x0070_6c61_6e73);
    let (mut stale, mut refused) = (0, 0);
    for _ in 0..inputs() {
        let text = mutate(&mut random, &texts, &pieces);
        match example.compared(text.as_bytes()) {
            Ok(news) => {
                assert!(!news.contains('\u{1b}') && news.len() < 1 << 16, "{news:?}");
                stale += usize::from(!news.is_empty());
            }
            Err(why) => {
                assert!(!why.contains('\u{1b}') && why.len() < 1 << 12, "{why:?}");
                refused += 1;
            }
        }
    }
    assert!(stale > inputs() / 100 && refused > inputs() / 4, "{stale} stale and {refused} refused plans are too few");
    eprintln!("{stale} stale and {refused} refused plans; {} KiB at most", most_memory());
    assert!(most_memory() < 256 << 10);
}

/// A netlink attribute, or several, down to a depth.
fn attributes(random: &mut Random, depth: usize, out: &mut Vec<u8>) {
    for _ in 0..=random.below(6) {
        let mut value = Vec::new();
        match random.below(if depth == 0 { 5 } else { 8 }) {
            0 => value.extend((random.below(256) as u32).to_be_bytes()),
            1 => value.extend((random.below(64) as u32).to_ne_bytes()),
            2 => value.extend((random.below(0x1_0000) as u16).to_be_bytes()),
            3 => value.extend(NAMES[random.below(NAMES.len())].bytes().chain([0])),
            4 => value.extend((0..random.below(24)).map(|_| random.below(256) as u8)),
            _ => attributes(random, depth - 1, &mut value),
        }
        // Now and then it is not as long as it says.
        let wrong = if random.below(50) == 0 { random.below(40) } else { 0 };
        out.extend(((4 + value.len() + wrong) as u16).to_ne_bytes());
        out.extend((random.below(32) as u16 | if random.below(4) == 0 { 0x8000 } else { 0 }).to_ne_bytes());
        out.extend(&value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// A message of a kind, with a header of that many bytes before its attributes.
fn message(random: &mut Random, kind: usize, header: usize, out: &mut Vec<u8>) {
    let mut body: Vec<u8> = (0..header).map(|_| random.below(16) as u8).collect();
    attributes(random, 4, &mut body);
    out.extend(((16 + body.len()) as u32).to_ne_bytes());
    out.extend((kind as u16).to_ne_bytes());
    out.extend([0; 10]);
    out.extend(&body);
}

#[test]
fn no_message_makes_a_decoder_panic() {
    let mut random = Random(0x6b65_726e_656c);
    let (mut told, mut routes) = (0, 0);
    for _ in 0..inputs() {
        // `struct ifinfomsg` has 16 bytes, `ifaddrmsg` 8, `rtmsg` and `ndmsg` 12.
        let header = [16, 8, 12, 12][random.below(4)];
        let mut body: Vec<u8> = (0..header).map(|_| [0, 1, 2, 7, 10, 24, 128, 254][random.below(8)]).collect();
        attributes(&mut random, 3, &mut body);
        routes += usize::from(rtnetlink(&body));
        let mut datagram = Vec::new();
        for index in 0..=random.below(6) {
            // Of nftables (subsystem 10) the table first; now and then of connection tracking, or anything.
            let kind = match random.below(8) {
                _ if index == 0 => 10 << 8,
                0 => 1 << 8,
                1 => random.below(0x1_0000),
                _ => (10 << 8) + random.below(26),
            };
            message(&mut random, kind, 4, &mut datagram);
        }
        told += netfilter(&datagram);
    }
    assert!(routes > inputs() / 10 && told > inputs() / 10, "{routes} and {told} of {} make sense", inputs());
    eprintln!("{routes} route messages and {told} things of netfilter's; {} KiB at most", most_memory());
    assert!(most_memory() < 256 << 10);
}
