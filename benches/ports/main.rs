//! What a connection costs to set up through published ports: one port, ten thousand, and a range of twenty thousand, by
//! netrec's maps; and ten thousand by a rule each, as `nft -f` would write them. Takes turns, and prints ratios.
//!
//! `cargo bench --bench ports` as root. A client outside connects to the last port of each, and a server in the container
//! takes the connection; the time is that of `connect`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a bench may

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};

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

/// Runs in a thread inside of a namespace.
fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
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

/// Microseconds of each connect to a port, sorted.
fn connects(port: u16) -> Vec<f64> {
    let client = move || {
        let to: SockaddrIn = match SocketAddr::from(([192, 0, 2, 1], port)) {
            SocketAddr::V4(to) => to.into(),
            SocketAddr::V6(_) => unreachable!("it is none"),
        };
        let mut times = Vec::with_capacity(CONNECTS);
        for _ in 0..CONNECTS {
            let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
            // Ends with a reset, so that no port waits.
            setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
            let start = Instant::now();
            connect(client.as_raw_fd(), &to).unwrap();
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        times
    };
    inside("world", client).join().unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
    for port in [80, Way::Range.last()] {
        inside("web", move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            while let Ok((stream, _)) = listener.accept() {
                drop(stream);
            }
        });
    }
    let ways = [Way::One, Way::Many, Way::Range, Way::Rules];
    let mut made = [const { Vec::new() }; 4];
    let mut medians = [const { Vec::new() }; 4];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (i, way) in ways.into_iter().enumerate() {
            made[i].push(make(way).as_secs_f64() * 1e3);
            let times = connects(way.last());
            medians[i].push(times[times.len() / 2]);
        }
    }
    println!("{CONNECTS} connections each, {rounds} rounds");
    println!("{:<40} {:>12} {:>14} {:>8}", "", "made in", "set up in", "ratio");
    for (i, way) in ways.into_iter().enumerate() {
        let ratios = medians[i].iter().zip(&medians[0]).map(|(a, b)| a / b).collect();
        println!(
            "{:<40} {:>9.1} ms {:>11.1} µs {:>8.2}",
            way.says(),
            median(made[i].clone()),
            median(medians[i].clone()),
            median(ratios)
        );
    }
}
