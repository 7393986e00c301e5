//! How long a watch takes from a change to its answer: of the file to traffic that flows, of the kernel to the repair that the
//! log tells of (after it was read back), from when the kernel tells of the change and from when the command begins that makes it
//! (`nft` reads the ruleset first); how much processor time the repair takes it; that other containers' connections go on. And
//! what a watch costs while nothing happens.
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
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use nix::unistd::Pid;

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
/// Set where this program runs again in namespaces of its own: for how many containers and how often.
const ROLE: &str = "NETREC_BENCH_ROLE";
/// Containers on a network.
const OF_A_NETWORK: usize = 100;
/// How long nothing happens while it is looked at.
const IDLE: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_mins(2);

/// What is broken by hand, with the name of what is repaired. What the first script prints is `$1` of the second, which alone is
/// timed.
const BREAKS: [(&str, &str, &str); 9] = [
    ("", "ip -n c7 route del default", "a container's route"),
    ("", "ip -n c7 addr flush dev eth0", "a container's address"),
    ("", "ip -n c7 link set eth0 down", "a container's link, down"),
    ("", "ip -n c7 link del eth0", "a container's link, gone"),
    ("", "ip link set nr-n0 mtu 1400", "a bridge"),
    (
        "bridge fdb show dev vx-wide | awk '/dst 192.0.2.9/ { print $1; exit }'",
        "bridge fdb del $1 dev vx-wide",
        "an FDB entry",
    ),
    ("", "nft delete element inet netrec port4-any '{ tcp . 20007 }'", "a published port"),
    (
        "nft -a list chain inet netrec forward | sed -n 's/.* handle //p' | tail -n 1",
        "nft delete rule inet netrec forward handle $1",
        "a rule",
    ),
    ("", "nft flush ruleset", "the ruleset"),
];

/// A port for each container, which moves up by `shift`; and a tunnel to another host.
fn file(containers: usize, shift: usize) -> String {
    let mut text = String::new();
    for (id, (host, address)) in [("a", "192.0.2.1"), ("b", "192.0.2.9")].into_iter().enumerate() {
        let _ = writeln!(text, "[hosts.{host}]\nid = {}\naddress = \"{address}\"", id + 1);
    }
    text += "[networks.wide]\ndriver = \"overlay\"\nsubnet = \"10.250.0.0/16\"\nvni = 4100\n";
    text += "[containers.far]\nhost = \"b\"\nnetworks = [\"wide\"]\n";
    for network in 0..containers.div_ceil(OF_A_NETWORK) {
        let _ = writeln!(text, "[networks.n{network}]\nsubnet = \"10.{}.0.0/16\"", 20 + network);
    }
    // The one that is looked at is always there.
    for container in 7..containers + 7 {
        let network = (container - 7) / OF_A_NETWORK;
        let port = 20000 + container + if container == 7 { shift } else { 0 };
        let also = if container == 7 { ", \"wide\"" } else { "" };
        let _ = writeln!(text, "[containers.c{container}]\nhost = \"a\"\nnetworks = [\"n{network}\"{also}]");
        let _ = writeln!(text, "ports = [\"{port}:80\"]");
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
            .args(["-c", "/run/conf/netrec.toml", "--host", "a", "watch"])
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

    /// The processor time of all its threads, in milliseconds.
    fn worked(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_task = |task: PathBuf| {
            let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
        };
        tasks.map(|task| of_task(task.unwrap().path())).sum()
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

fn sh(script: &str, argument: &str) -> String {
    let output = Command::new("sh").args(["-ec", script, "sh", argument]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Answers at port 80 of a container: with what it is sent.
fn serve(container: &str) {
    let netns = File::open(format!("/run/netns/{container}")).unwrap();
    let (ready, waits) = channel();
    thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        let listener = TcpListener::bind("0.0.0.0:80").unwrap();
        ready.send(()).unwrap();
        for stream in listener.incoming() {
            thread::spawn(|| {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 1];
                while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
            });
        }
    });
    waits.recv().unwrap();
}

/// `RTMGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`
const ROUTE_GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40;
/// `NFNLGRP_NFTABLES`
const NFTABLES: u32 = 1 << 6;

/// When the kernel tells of changes, in this namespace and a container's.
fn ears(container: &str) -> Receiver<Instant> {
    let (sender, told) = channel();
    for (netns, protocol, groups) in [
        (None, SockProtocol::NetlinkRoute, ROUTE_GROUPS),
        (None, SockProtocol::NetlinkNetFilter, NFTABLES),
        (Some(container), SockProtocol::NetlinkRoute, ROUTE_GROUPS),
    ] {
        let netns = netns.map(|name| File::open(format!("/run/netns/{name}")).unwrap());
        let (sender, (ready, waits)) = (sender.clone(), channel());
        thread::spawn(move || {
            if let Some(netns) = netns {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            }
            let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).unwrap();
            ready.send(()).unwrap();
            let mut buffer = vec![0; 1 << 16];
            loop {
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    // More than there is room for is news, too.
                    Ok(_) | Err(Errno::ENOBUFS) => {}
                    Err(errno) => panic!("{errno}"),
                }
                if sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        waits.recv().unwrap();
    }
    told
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
        "ip link set lo up; mkdir -p /run/conf; ip link add up0 type veth peer name up1 netns $$; \
         ip addr add 192.0.2.1/24 dev up0; ip link set up0 up; ip link set up1 up",
        "",
    );
    fs::write("/run/conf/netrec.toml", file(containers, 0)).unwrap();
    let watch = Watch::start();
    watch.says("applied");
    watch.rest();
    // A container's connection goes on whatever happens to another one.
    let mut other = (containers > 1).then(|| {
        serve("c8");
        TcpStream::connect("192.0.2.1:20008").unwrap()
    });
    let mut goes_on = || {
        if let Some(other) = &mut other {
            let mut bytes = [0; 1];
            other.set_read_timeout(Some(LIMIT)).unwrap();
            other.write_all(b"x").and_then(|()| other.read_exact(&mut bytes)).expect("the connection goes on");
        }
    };
    let ears = ears("c7");
    for (before, script, what) in BREAKS {
        for _ in 0..rounds {
            let argument = sh(before, "");
            let (start, worked) = (Instant::now(), watch.worked());
            while ears.try_recv().is_ok() {}
            sh(script, &argument);
            let (told, repaired) = (ears.recv_timeout(LIMIT).unwrap(), watch.says("repaired"));
            println!("{what}\t{}", ms(told, repaired));
            println!("{what}, with the command\t{}", ms(start, repaired));
            goes_on();
            // Otherwise it is taken for a fight.
            thread::sleep(Duration::from_millis(3100).saturating_sub(start.elapsed()));
            watch.rest();
            println!("{what}, processor\t{}", watch.worked() - worked);
        }
    }
    serve("c7");
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
    // Bridges settle for half a minute after their ports have come.
    let mut last = watch.costs();
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(20));
        let now = watch.costs();
        if std::mem::replace(&mut last, now)[0] == now[0] {
            break;
        }
    }
    let before = watch.costs();
    thread::sleep(IDLE);
    let after = watch.costs();
    println!("idle: wake-ups in {} s\t{}", IDLE.as_secs(), after[0] - before[0]);
    println!("idle: processor ms in {} s\t{}", IDLE.as_secs(), 10 * (after[1] - before[1]));
    println!("resident memory, MB\t{}", after[2] / 1000);
    kill(Pid::from_raw(i32::try_from(watch.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let mut child = watch.child;
    assert!(child.wait().unwrap().success());
    sh(&format!("{NETREC} destroy -y"), "");
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
        println!(
            "{containers} containers, {rounds} rounds\n{:<42} {:>9} {:>9} {:>9} {:>9}",
            "", "least", "median", "9 of 10", "most"
        );
        for (what, mut values) in values {
            values.sort_by(f64::total_cmp);
            let places = [0, values.len() / 2, values.len() * 9 / 10, values.len() - 1];
            let shown = places.map(|at| format!("{:>9.1}", values[at]));
            println!("{what:<42} {}", shown.join(" "));
        }
        println!();
    }
}
