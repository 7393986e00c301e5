//! How long a watch takes from a change to its answer: of the file to traffic that flows, of the kernel to the repair that the
//! log tells of (after it was read back). And what a watch costs while nothing happens.
//!
//! ```text
//! cargo bench --bench watch                              # as root
//! cargo bench --bench watch -- --rounds 50 --only 1000   # one size
//! ```

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
/// Set where this program runs again in namespaces of its own: for how many containers and how often.
const ROLE: &str = "NETREC_BENCH_ROLE";
/// Containers on a network.
const OF_A_NETWORK: usize = 100;
/// How long nothing happens while it is looked at.
const IDLE: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_mins(2);

/// What is broken by hand, with the name of what is repaired.
const BREAKS: [(&str, &str); 6] = [
    ("ip -n c7 route del default", "a container's route"),
    ("ip -n c7 addr flush dev eth0", "a container's address"),
    ("ip -n c7 link set eth0 down", "a container's link"),
    ("ip link set nr-n0 mtu 1400", "a bridge"),
    ("nft delete element inet netrec port4-any '{ tcp . 20007 }'", "a published port"),
    ("nft flush ruleset", "the ruleset"),
];

/// A port for each container, which moves up by `shift`.
fn file(containers: usize, shift: usize) -> String {
    let mut text = String::new();
    for network in 0..containers.div_ceil(OF_A_NETWORK) {
        let _ = writeln!(text, "[networks.n{network}]\nsubnet = \"10.{}.0.0/16\"", 20 + network);
    }
    // The one that is looked at is always there.
    for container in 7..containers + 7 {
        let network = (container - 7) / OF_A_NETWORK;
        let port = 20000 + container + if container == 7 { shift } else { 0 };
        let _ = writeln!(text, "[containers.c{container}]\nnetworks = [\"n{network}\"]\nports = [\"{port}:80\"]");
    }
    text
}

struct Watch {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Watch {
    fn start() -> Self {
        let mut command = Command::new(NETREC);
        let mut child = command
            .args(["-c", "/run/conf/netrec.toml", "watch"])
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send((Instant::now(), line)))
        });
        Self { child, lines }
    }

    /// When it next says so.
    fn says(&self, wanted: &str) -> Instant {
        loop {
            let (at, line) = self.lines.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("{error} before `{wanted}`"));
            if line.contains(wanted) {
                return at;
            }
            assert!(!line.contains("ERROR") && !line.contains("undoes"), "{line}");
        }
    }

    /// Waits until it has nothing to say.
    fn rest(&self) {
        while self.lines.recv_timeout(Duration::from_millis(300)).is_ok() {}
    }

    /// How often its threads have been woken, its processor time in clock ticks, and its resident memory in KiB.
    fn costs(&self) -> [u64; 3] {
        let folder = format!("/proc/{}", self.child.id());
        let tasks = fs::read_dir(format!("{folder}/task")).unwrap();
        let switches = tasks.map(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            value(&status, "voluntary_ctxt_switches:")
        });
        let switches = switches.sum();
        let stat = fs::read_to_string(format!("{folder}/stat")).unwrap();
        let ticks =
            stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
        [switches, ticks, value(&fs::read_to_string(format!("{folder}/status")).unwrap(), "VmRSS:")]
    }
}

fn value(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

/// Measures with so many containers, in namespaces of this process's own.
fn play(containers: usize, rounds: usize) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    sh(
        "ip link set lo up; mkdir -p /run/conf; ip link add up0 type veth peer name up1 netns $$; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up",
    );
    fs::write("/run/conf/netrec.toml", file(containers, 0)).unwrap();
    let watch = Watch::start();
    watch.says("applied");
    watch.rest();
    for (script, what) in BREAKS {
        for _ in 0..rounds {
            let start = Instant::now();
            sh(script);
            println!("{what}\t{}", ms(start, watch.says("repaired")));
            // Otherwise it is taken for a fight.
            thread::sleep(Duration::from_millis(3100).saturating_sub(start.elapsed()));
            watch.rest();
        }
    }
    let netns = File::open("/run/netns/c7").unwrap();
    thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        for stream in TcpListener::bind("0.0.0.0:80").unwrap().incoming() {
            drop(stream);
        }
    });
    for round in 1..=rounds {
        fs::write("/run/conf/next", file(containers, 20000 + round)).unwrap();
        let port = u16::try_from(40007 + round).unwrap();
        let address = SocketAddr::from(([192, 0, 2, 1], port));
        let start = Instant::now();
        fs::rename("/run/conf/next", "/run/conf/netrec.toml").unwrap();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < LIMIT, "no traffic");
            thread::sleep(Duration::from_millis(1));
        }
        println!("the file to traffic\t{}", ms(start, Instant::now()));
        watch.says("applied");
        watch.rest();
    }
    watch.rest();
    let before = watch.costs();
    thread::sleep(IDLE);
    let after = watch.costs();
    println!("idle: wake-ups in {} s\t{}", IDLE.as_secs(), after[0] - before[0]);
    println!("idle: processor ms in {} s\t{}", IDLE.as_secs(), 10 * (after[1] - before[1]));
    println!("resident memory, MB\t{}", after[2] / 1000);
    kill(Pid::from_raw(i32::try_from(watch.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let mut child = watch.child;
    assert!(child.wait().unwrap().success());
    sh(&format!("{NETREC} destroy -y"));
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        let (containers, rounds) = role.split_once(' ').unwrap();
        return play(containers.parse().unwrap(), rounds.parse().unwrap());
    }
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let rounds = option("--rounds").map_or(5, |text| text.parse().unwrap());
    let sizes = option("--only").map_or(vec![1, 100, 1000], |text| vec![text.parse().unwrap()]);
    for containers in sizes {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        let output = command.env(ROLE, format!("{containers} {rounds}")).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{containers} containers failed");
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let text = String::from_utf8(output.stdout).unwrap();
        for line in text.lines() {
            let (what, value) = line.split_once('\t').unwrap();
            values.entry(what).or_default().push(value.parse().unwrap());
        }
        println!("{containers} containers, {rounds} rounds\n{:<28} {:>9} {:>9} {:>9}", "", "least", "median", "most");
        for (what, mut values) in values {
            values.sort_by(f64::total_cmp);
            let shown = [values[0], values[values.len() / 2], values[values.len() - 1]].map(|v| format!("{v:>9.1}"));
            println!("{what:<28} {}", shown.join(" "));
        }
        println!();
    }
}
