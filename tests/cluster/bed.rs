//! etcd, hosts that ask it, and what they say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::hosts::Cluster;
use crate::lab::{self, Listener, Machine, NETREC, Space, until};

/// Where it is asked.
pub(crate) const ETCD: &str = "http://192.0.2.90:2379";
/// Far more than it takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// Hosts on one link (`a` with `192.0.2.1`, `b` …), and etcd at `192.0.2.90`.
pub(crate) struct Bed {
    cluster: Cluster,
    pub(crate) etcd: Etcd,
}

impl Deref for Bed {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// Runs a test's body with as many hosts and an empty etcd.
pub(crate) fn in_bed<F: FnOnce(&mut Bed)>(count: usize, body: F) {
    lab::run_test(std::any::type_name::<F>(), || {
        let cluster = Cluster::new(count);
        let machine = Machine::new("etcd");
        cluster.plug_in(&machine, 90);
        let etcd = Etcd::start(machine, "etcd", &[]);
        body(&mut Bed { cluster, etcd });
    });
}

impl Bed {
    /// A host's file: a container of this name on network `wide`.
    pub(crate) fn file(container: &str) -> String {
        format!("{}[containers.{container}]\nnetworks = [\"wide\"]\n", Self::network(""))
    }

    /// The network, with more keys of the cluster's.
    pub(crate) fn network(more: &str) -> String {
        format!(
            "[cluster]\netcd = \"{ETCD}\"\n{more}\n\
             [networks.wide]\ndriver = \"overlay\"\ntopology = \"routed\"\nvni = 1\nport = 8472\nsubnet = \"10.5.0.0/16\"\n"
        )
    }

    /// Applies a file with one container on each host, on all at once: `a1` on `a`.
    pub(crate) fn apply_on_all(&self) {
        thread::scope(|scope| {
            for host in &self.hosts {
                scope.spawn(|| host.apply(&Self::file(&format!("{}1", host.name()))));
            }
        });
    }

    /// Starts a watch on each host, on all at once.
    pub(crate) fn watch_on_all(&self) -> Vec<Watching> {
        let start = |host: &Machine| Watching::start(host, &Self::file(&format!("{}1", host.name())));
        self.hosts.iter().map(start).collect()
    }

    /// A container's IPv4 address.
    pub(crate) fn address(&self, container: &str) -> String {
        address_of(&self.space(container))
    }

    /// Whether each container gets an answer from each other one, by its own address.
    pub(crate) fn all_pairs(&self) {
        let names: Vec<String> = self.hosts.iter().map(|host| format!("{}1", host.name())).collect();
        let addresses: Vec<String> = names.iter().map(|name| self.address(name)).collect();
        let listening: Vec<Listener> = names.iter().map(|name| self.space(name).listen_tcp(name, "[::]:80")).collect();
        let mut table = String::new();
        for (from, own) in names.iter().zip(&addresses) {
            for (to, address) in names.iter().zip(&addresses).filter(|(to, _)| *to != from) {
                let _ = writeln!(table, "{from} tcp {address}:80 -> {to} sees {own}");
            }
        }
        self.expect(&table);
        drop(listening);
    }
}

/// The IPv4 address of a container's `eth0`.
pub(crate) fn address_of(space: &Space) -> String {
    let text = space.run(["ip", "-4", "-o", "addr", "show", "dev", "eth0"]);
    text.split_whitespace().nth(3).expect("an address").split('/').next().expect("an address").to_owned()
}

/// The IPv6 address of a container's `eth0` that is not the link's alone.
pub(crate) fn address_of_ipv6(space: &Space) -> String {
    let text = space.run(["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"]);
    text.split_whitespace().nth(3).expect("an address").split('/').next().expect("an address").to_owned()
}

/// The routes of a host into the network, without its own piece: `10.5.72.0/24` to the device or the router.
pub(crate) fn routes(host: &Space) -> BTreeMap<String, String> {
    let text = host.run(["ip", "-4", "route", "show", "proto", "78"]);
    let routes = text.lines().filter(|line| !line.starts_with("unreachable"));
    let route = |line: &str| {
        let (to, rest) = line.split_once(' ').expect("a route");
        (to.to_owned(), rest.trim().to_owned())
    };
    routes.map(route).collect()
}

/// etcd on a machine.
pub(crate) struct Etcd {
    pub(crate) machine: Machine,
    name: String,
    more: Vec<String>,
    child: Child,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
    }
}

impl Etcd {
    /// Starts one, and waits until it answers where it is alone.
    pub(crate) fn start(machine: Machine, name: &str, more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        let child = Self::spawn(&machine, name, &more);
        let etcd = Self { machine, name: name.to_owned(), more, child };
        if etcd.more.is_empty() {
            etcd.answers();
        }
        etcd
    }

    fn spawn(machine: &Machine, name: &str, more: &[String]) -> Child {
        let mut command = Command::new("etcd");
        command.args(["--name", name, "--data-dir", "/run/lab/etcd", "--unsafe-no-fsync", "--log-level", "error"]);
        command.args(["--logger", "zap", "--heartbeat-interval", "20", "--election-timeout", "200"]);
        if more.is_empty() {
            command.args(["--listen-client-urls", "http://0.0.0.0:2379", "--advertise-client-urls", ETCD]);
            command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        }
        command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        machine.spawn(&mut command).expect("etcd")
    }

    /// Another one beside it on the same machine, that listens elsewhere.
    pub(crate) fn second(&self, more: &[&str]) -> Second {
        let mut command = Command::new("etcd");
        command.args(["--data-dir", "/run/lab/second", "--log-level", "error", "--logger", "zap", "--unsafe-no-fsync"]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2480"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let second = Second(self.machine.spawn(&mut command).expect("etcd"));
        until("it listens", || self.machine.sh("ss -ltn").contains(":2479"));
        second
    }

    /// Waits until it answers.
    pub(crate) fn answers(&self) {
        until("etcd answers", || self.try_ctl(&["get", "x"]).status == 0);
    }

    pub(crate) fn try_ctl(&self, args: &[&str]) -> lab::Output {
        self.machine.try_run([&["etcdctl", "--command-timeout", "5s"], args].concat())
    }

    /// Runs etcdctl, which must succeed.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let said = self.try_ctl(args);
        assert_eq!(said.status, 0, "etcdctl {}: {}{}", args.join(" "), said.stdout, said.stderr);
        said.stdout
    }

    /// Writes a key.
    pub(crate) fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", "--", key, value]);
    }

    /// How often anything was written.
    pub(crate) fn revision(&self) -> i64 {
        let said = self.ctl(&["get", "x", "-w", "fields"]);
        let revision = said.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        revision.expect("a revision").parse().expect("a number")
    }

    /// The members' keys, without what comes before, and their values.
    pub(crate) fn members(&self) -> BTreeMap<String, String> {
        let text = self.ctl(&["get", "--prefix", "/coreos.com/network/subnets/"]);
        let lines: Vec<&str> = text.lines().collect();
        let pairs = lines.chunks(2).map(|pair| (pair[0], pair[1]));
        pairs.map(|(key, value)| (key["/coreos.com/network/subnets/".len()..].to_owned(), value.to_owned())).collect()
    }

    /// The key of the member at an address.
    pub(crate) fn key_of(&self, address: &str) -> String {
        let whose = format!("{{\"PublicIP\":\"{address}\",");
        let found: Vec<String> =
            self.members().into_iter().filter(|(_, value)| value.starts_with(&whose)).map(|(key, _)| key).collect();
        let [key] = &found[..] else { panic!("the entries of {address} are {found:?}") };
        key.clone()
    }

    fn end(&mut self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        let _ = self.child.wait();
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Has it stand still, or go on.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("etcd is there");
    }

    /// Starts it again with what it had.
    pub(crate) fn start_again(&mut self) {
        self.child = Self::spawn(&self.machine, &self.name, &self.more);
        self.answers();
    }
}

/// Another etcd, until this is dropped.
pub(crate) struct Second(Child);

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A watch under way, and what it has said.
pub(crate) struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watching {
    /// Starts it on a file.
    pub(crate) fn start(host: &Machine, toml: &str) -> Self {
        let file = host.write("netrec.toml", toml);
        // For figures another build of it is of use, and one that does not compare what it keeps with what there is.
        let other = std::env::var("NETREC_OTHER").ok();
        let mut command = Command::new(other.as_deref().unwrap_or(NETREC));
        command.args(["watch", "-c", &file]);
        if other.is_none() {
            command.env("NETREC_CHECK_PICTURE", "1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = host.spawn(&mut command).expect("netrec");
        let stderr = BufReader::new(child.stderr.take().expect("standard error"));
        let (sender, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits for the next line that has these words in it.
    pub(crate) fn says(&self, words: &str) -> String {
        let start = Instant::now();
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            if line.contains(words) {
                return line;
            }
            said.push(line);
        }
        panic!("no `{words}` in:\n{}", said.join("\n"))
    }

    /// The lines that nobody has waited for yet.
    pub(crate) fn said_so_far(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("netrec is there");
    }

    /// What it has used of a processor so far, in ticks of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its state");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
    }
}
