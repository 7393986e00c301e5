//! What a connection costs to set up through published ports: one port, ten thousand, and a range of twenty thousand, by
//! netrec's maps; and ten thousand by a rule each, as `nft -f` would write them. Takes turns, and prints ratios.
//!
//! `cargo bench --bench ports` as root. A client outside connects to the last port of each, and a server in the container
//! takes the connection; the time is that of `connect`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a bench may

#[path = "../shared/mod.rs"]
mod shared;
#[path = "../shared/traffic.rs"]
#[allow(dead_code)] // streams are measured elsewhere
mod traffic;

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shared::{Row, keep, median, ratio};

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
const CONNECTS: usize = 2000;
const FIRST: u16 = 20_000;
const MANY: u16 = 10_000;
const RANGE: u16 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    One,
    Many,
    Range,
    Rules,
}

impl Way {
    /// What netrec publishes.
    fn ports(self) -> String {
        match self {
            Self::One => format!("'{FIRST}:80'"),
            Self::Many => (0..MANY).map(|n| format!("'{}:80'", FIRST + n)).collect::<Vec<_>>().join(", "),
            Self::Range => format!("'{FIRST}-{0}:{FIRST}-{0}'", FIRST + RANGE - 1),
            Self::Rules => String::new(),
        }
    }

    fn last(self) -> u16 {
        match self {
            Self::One => FIRST,
            Self::Many | Self::Rules => FIRST + MANY - 1,
            Self::Range => FIRST + RANGE - 1,
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::One => "one port",
            Self::Many => "the last of 10,000 ports",
            Self::Range => "the last of a range of 20,000 ports",
            Self::Rules => "the last of 10,000 rules",
        }
    }
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

/// How long the way takes to be made, by whoever makes it.
fn make(way: Way) -> Duration {
    let file = format!(
        "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nnetworks.front = {{ address = '10.20.0.10' }}\n\
         ports = [{}]\n",
        way.ports()
    );
    fs::write("/run/netrec.toml", file).unwrap();
    let _ = Command::new("nft").args(["delete", "table", "ip", "rules"]).stderr(Stdio::null()).status();
    let start = Instant::now();
    let mut apply = Command::new(NETREC);
    apply.args(["apply", "-y", "-q", "-c", "/run/netrec.toml"]).stdout(Stdio::null());
    assert!(apply.status().unwrap().success());
    if way != Way::Rules {
        return start.elapsed();
    }
    let rule = |n| format!("tcp dport {} dnat to 10.20.0.10:80\n", FIRST + n);
    let rules: String = (0..MANY).map(rule).collect();
    let chain = format!("type nat hook prerouting priority -100;\n{rules}");
    fs::write("/run/rules.nft", format!("table ip rules {{\nchain prerouting {{\n{chain}}}\n}}\n")).unwrap();
    let start = Instant::now();
    sh("nft -f /run/rules.nft");
    start.elapsed()
}

/// Microseconds that a connection from outside takes to be set up, the median.
fn connects(way: Way) -> f64 {
    let listen = if way == Way::Range { way.last() } else { 80 };
    let [from, to] = ["world", "web"].map(str::to_owned);
    let path = traffic::Way { from, to, address: Ipv4Addr::new(192, 0, 2, 1), ports: Some([way.last(), listen]) };
    median(path.connects(CONNECTS)) * 1e6
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--rounds").skip(1);
    let rounds: usize = args.next().map_or(5, |n| n.parse().unwrap());
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    sh("ip link set lo up; ip netns add world
        ip link add uplink type veth peer name w0 netns world; ip link set uplink up; ip addr add 192.0.2.1/24 dev uplink
        ip -n world link set w0 up; ip -n world addr add 192.0.2.9/24 dev w0");
    let _ = fs::write("/proc/sys/net/netfilter/nf_conntrack_max", "1000000");
    make(Way::One);
    let ways = [Way::One, Way::Many, Way::Range, Way::Rules];
    let mut made = [const { Vec::new() }; 4];
    let mut medians = [const { Vec::new() }; 4];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (i, way) in ways.into_iter().enumerate() {
            made[i].push(make(way).as_secs_f64() * 1e3);
            medians[i].push(connects(way));
        }
    }
    println!("{CONNECTS} connections each, {rounds} rounds");
    println!("{:<40} {:>12} {:>14} {:>8}", "", "made in", "set up in", "ratio");
    let mut kept = Vec::new();
    for (i, way) in ways.into_iter().enumerate() {
        let (made, connected) = (median(made[i].clone()), median(medians[i].clone()));
        let (says, ratio) = (way.says(), ratio(&medians[i], &medians[0]));
        println!("{says:<40} {made:>9.1} ms {connected:>11.1} µs {ratio:>8.2}");
        for (what, value, unit) in
            [("made", made, "ms"), ("connection", connected, "us"), ("connection to that of one port", ratio, "times")]
        {
            kept.push(Row { what: format!("{}: {what}", says.replace(',', "")), size: 1, value, unit });
        }
    }
    keep("ports", &kept);
}
