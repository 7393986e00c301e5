//! Namespaces to measure in, what is measured there, and the proof that the state is the same whoever made it.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use netrec::config::{Source, Sources};
use netrec::desired::desired;
use netrec::kernel::{Backend, Linux};
use netrec::state::{Asked, State};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::ROLE;
use super::shared::{run, timed};

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
const FILE: &str = "/run/bench.toml";

/// How much there is to make.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) containers: usize,
    pub(crate) networks: usize,
    /// Published by each container.
    pub(crate) ports: usize,
    /// IPv6 beside IPv4.
    pub(crate) both: bool,
}

/// Runs this program again in a role, and gives what it measured.
pub(crate) fn again(role: &str, size: Size) -> Vec<(String, Duration)> {
    let mut again = Command::new(std::env::current_exe().unwrap());
    for (word, number) in [("--containers", size.containers), ("--networks", size.networks), ("--ports", size.ports)] {
        again.args([word, &number.to_string()]);
    }
    again.args(size.both.then_some("--both"));
    let output = again.env(ROLE, role).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{role} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (what, time) = line.rsplit_once(' ').unwrap();
        (what.to_owned(), Duration::from_nanos(time.parse().unwrap()))
    };
    text.lines().map(line).collect()
}

pub(crate) fn say(what: &str, time: Duration) {
    println!("{what} {}", time.as_nanos());
}

/// Waits until the kernel has taken down the namespaces that went, which it does in the background: a veth that leads
/// into the last of them goes after all others.
pub(crate) fn settle() {
    run(Command::new("sh").args([
        "-ec",
        "ip netns add settle; ip link add settle type veth peer name eth0 netns settle; ip netns del settle
         while ip link show settle >/dev/null 2>&1; do sleep 0.01; done",
    ]));
}

/// Namespaces of this process's own, and the file of what is to be in them.
pub(crate) struct Lab {
    text: String,
}

impl Lab {
    /// Puts this process into new network and mount namespaces with a `/run` of their own.
    pub(crate) fn enter(size: Size) -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let tmpfs = || mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        tmpfs();
        settle();
        // That has left a folder of names, and the next device would not be number 2.
        tmpfs();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
        let text = file(size);
        fs::write(FILE, &text).unwrap();
        Self { text }
    }

    /// What the file wants here.
    pub(crate) fn desired(&self) -> State {
        let config = netrec::config::parse(Sources(vec![Source { name: FILE.into(), text: self.text.clone() }]));
        let facts = Linux::open().unwrap().facts(&Asked::default()).unwrap();
        desired(&config.unwrap(), &facts, None).unwrap().state
    }

    /// Runs a command of netrec's, the whole process.
    #[allow(clippy::unused_self)] // there is no file outside of a lab
    pub(crate) fn netrec(&self, command: &str) -> Duration {
        let mut netrec = Command::new(NETREC);
        netrec.arg(command).args(match command {
            "plan" => ["-c", FILE].as_slice(),
            "apply" => &["-y", "-c", FILE],
            _ => &["-y"],
        });
        timed(|| drop(run(&mut netrec)))
    }

    /// Whoever made the state, netrec must find nothing to change in it.
    #[allow(clippy::unused_self)]
    pub(crate) fn check(&self) {
        let text = run(Command::new(NETREC).args(["plan", "-c", FILE]));
        assert!(no_changes(&text), "{}", &text[..text.len().min(4000)]);
    }

    /// The same but for one attribute of links, which `ip` has no word for.
    #[allow(clippy::unused_self)]
    pub(crate) fn check_all_but(&self, attribute: &str) {
        let text = run(Command::new(NETREC).args(["plan", "-c", FILE]));
        let others = text.lines().filter(|line| line.contains(" -> ") && !line.contains(attribute)).count();
        let only = others == 0 && text.contains("Plan: 0 to create,") && text.contains(" 0 to replace, 0 to remove.");
        assert!(only || no_changes(&text), "{}", &text[..text.len().min(4000)]);
    }

    /// Whoever removed it, nothing must be left.
    #[allow(clippy::unused_self)]
    pub(crate) fn check_nothing_left(&self) {
        let text = run(Command::new(NETREC).args(["plan", "--destroy"]));
        let last = text.lines().last().unwrap_or_default();
        assert!(no_changes(last), "{}", &text[..text.len().min(4000)]);
        assert_eq!(fs::read_dir("/run/netns").unwrap().count(), 0);
        assert_eq!(run(Command::new("ip").args(["-o", "link"])).lines().count(), 1);
    }
}

/// Warnings may come before it.
fn no_changes(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("No changes."))
}

/// Networks with the containers spread over them, each with its published ports.
fn file(size: Size) -> String {
    let mut text = String::new();
    for network in 0..size.networks {
        let second = if size.both { format!(", \"fd00:0:0:{network:x}::/64\"") } else { String::new() };
        let _ = writeln!(text, "[networks.net-{network}]\nsubnet = [\"10.{network}.0.0/16\"{second}]\n");
    }
    for container in 0..size.containers {
        let port = |n| format!("\"{}:{}\"", 20_000 + container * size.ports + n, 80 + n);
        let (network, ports) = (container % size.networks, (0..size.ports).map(port).collect::<Vec<_>>().join(", "));
        let _ = writeln!(text, "[containers.c-{container:04}]\nnetworks = [\"net-{network}\"]\nports = [{ports}]\n");
    }
    text
}
