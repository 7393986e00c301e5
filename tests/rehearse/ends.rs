//! However a rehearsal ends, nothing of it stays: no process, no namespace, no mount, no file.
//!
//! That a namespace is gone is told by the kernel: a pair of devices that is half in there and half here goes with it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Folder, Ordinary, QUICKSTART, lab, uncounted};

/// What a rehearsal might leave on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    names: Option<BTreeSet<String>>,
    mounts: String,
    devices: String,
}

impl Machine {
    fn look() -> Self {
        let names = fs::read_dir("/run/netns").ok();
        let names = names.map(|dir| dir.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect());
        Self { names, mounts: fs::read_to_string("/proc/self/mountinfo").unwrap(), devices: run("ip -o link") }
    }
}

/// A rehearsal whose world stands.
struct Rehearsal {
    child: Child,
    says: BufReader<ChildStderr>,
    /// Where it would put its files.
    temporary: Folder,
    before: Machine,
    _ordinary: Ordinary,
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Rehearsal {
    /// Starts one. Only in a sandbox.
    fn start(toml: &str, args: &[&str]) -> Self {
        let before = Machine::look();
        let (ordinary, temporary) = (Ordinary::new(), Folder::new());
        let mut command = ordinary.command();
        let (hears, said) = small_pipe();
        command.args(["-c", "-"]).args(args).env("TMPDIR", &temporary.0);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(said).spawn().unwrap();
        drop(command); // it holds the other end of the pipe
        child.stdin.take().unwrap().write_all(toml.as_bytes()).unwrap();
        Self { child, says: BufReader::new(hears), temporary, before, _ordinary: ordinary }
    }

    /// One of a file with so many places that is kept when all was tried, and how they are entered, by their names.
    fn kept(toml: &str, places: usize) -> (Self, Vec<(String, String)>) {
        let mut rehearsal = Self::start(toml, &["rehearse", "--keep"]);
        let pid = rehearsal.child.id();
        let mut lines = rehearsal.says.by_ref().lines().map(Result::unwrap);
        let head = format!("the world stays up until this process ({pid}) is interrupted; to enter it:");
        assert_eq!(lines.next(), Some(head));
        let ways = lines.take(places).map(|line| {
            let (command, name) = line.split_once("  # ").unwrap();
            (name.to_owned(), command.trim().to_owned())
        });
        let ways = ways.collect();
        rehearsal.plant();
        (rehearsal, ways)
    }

    /// One that waits in the middle, while the file is applied, until its words are read.
    fn in_the_middle() -> Self {
        let mut toml = QUICKSTART.to_owned();
        for number in 0..20 {
            writeln!(toml, "[containers.c{number}]\nnetworks = ['front']").unwrap();
        }
        let mut rehearsal = Self::start(&toml, &["-v", "rehearse"]);
        // The first of its words is the plan that was carried out, and there is no room for all of it.
        assert!(!rehearsal.says.fill_buf().unwrap().is_empty());
        rehearsal.plant();
        rehearsal
    }

    /// Puts a sign into each of its namespaces, which goes with that.
    fn plant(&mut self) {
        let pid = self.child.id();
        let within = |folder: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let world = PathBuf::from(format!("/proc/{pid}/root/run"));
        let folders = within(&world.join("hosts")).into_iter().chain([world.join("netns")]);
        let names = folders.flat_map(|folder| within(&folder));
        let mut namespaces: Vec<_> = names.map(|path| path.display().to_string()).collect();
        assert!(namespaces.len() >= 4, "{namespaces:?}");
        namespaces.push(format!("/proc/{pid}/ns/net"));
        for (number, namespace) in namespaces.iter().enumerate() {
            run(&format!("ip link add sign{number} type veth peer name sign netns '{namespace}'"));
        }
        assert_eq!(children(pid), Vec::<String>::new(), "it has processes beside itself");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for the end, and asserts that nothing is left: by the exit status or the signal, and the result.
    fn end(mut self) -> (Option<i32>, Option<i32>, String) {
        let mut words = String::new();
        self.says.read_to_string(&mut words).unwrap();
        let mut result = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut result).unwrap();
        let status = self.child.wait().unwrap();
        // The kernel takes namespaces apart on its own time, and tells nobody.
        lab::until("its namespaces are gone", || !run("ip -o link").contains("sign"));
        assert_eq!(Machine::look(), self.before);
        assert_eq!(self.temporary.names(), Vec::<String>::new());
        (status.code(), status.signal(), result)
    }
}

/// A pipe with the least room, so that who writes a plan into it waits for its reader.
fn small_pipe() -> (ChildStderr, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: plain arguments.
    #[allow(unsafe_code)]
    let room = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(room, 4096);
    (OwnedFd::from(reader).into(), writer.into())
}

/// The processes that one has started.
fn children(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    lists.filter(|list| !list.is_empty()).collect()
}

/// What a command of the shell says.
fn run(command: &str) -> String {
    said(Command::new("sh").args(["-c", command]))
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The rows of a table without their times.
fn whats(table: &str) -> Vec<String> {
    table.lines().map(|line| uncounted(line.split_once(" ms  ").map_or(line, |(_, what)| what))).collect()
}

#[test]
fn killed_in_the_middle_nothing_of_it_stays() {
    lab::sandbox(|| {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
            let rehearsal = Rehearsal::in_the_middle();
            rehearsal.signal(signal);
            assert_eq!(rehearsal.end(), (None, Some(signal as i32), String::new()), "{signal}");
        }
    });
}

#[test]
fn killed_while_it_is_kept_nothing_of_it_stays() {
    lab::sandbox(|| {
        let (rehearsal, _) = Rehearsal::kept(QUICKSTART, 4);
        rehearsal.signal(Signal::SIGKILL);
        let (status, signal, result) = rehearsal.end();
        assert_eq!((status, signal), (None, Some(libc::SIGKILL)));
        // What was found before is told at once.
        assert_eq!(whats(&result).last().map(String::as_str), Some("world -/> db:5432"));
    });
}

#[test]
fn interrupted_while_it_is_kept_it_removes_the_world_and_ends_as_usual() {
    lab::sandbox(|| {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let (rehearsal, _) = Rehearsal::kept(QUICKSTART, 4);
            rehearsal.signal(signal);
            let (status, by, result) = rehearsal.end();
            assert_eq!((status, by), (Some(0), None), "{signal}");
            assert_eq!(
                whats(&result),
                [
                    "make the world",
                    "apply  (N changes)",
                    "plan again  (no changes)",
                    "listen  (3 services)",
                    "world -> host:8080",
                    "world -/> host:9000/udp",
                    "host -> host:9000/udp",
                    "world -/> web:80",
                    "web -> db:5432",
                    "world -/> db:5432",
                    "destroy  (N changes)",
                    "look for what is left  (nothing is left)",
                    "12 ok, 0 failed, 0 not tried",
                ]
            );
        }
    });
}

#[test]
fn what_is_kept_can_be_entered_as_it_says() {
    lab::sandbox(|| {
        let (rehearsal, ways) = Rehearsal::kept(QUICKSTART, 4);
        let mut seen = Vec::new();
        for (name, command) in &ways {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{command} ip -j addr show scope global")]);
            let devices: Value = serde_json::from_str(&said(&mut Ordinary::runs(shell))).unwrap();
            for device in devices.as_array().unwrap() {
                // What is left out by the scope is an empty object.
                let addresses = device["addr_info"].as_array().into_iter().flatten();
                for address in addresses.filter(|address| address["local"].is_string()) {
                    let text = |key: &str| address[key].as_str().unwrap();
                    let of = device["ifname"].as_str().unwrap();
                    seen.push(format!("{name} {of} {}/{}", text("local"), address["prefixlen"]));
                }
            }
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                "db eth0 10.21.0.10/24",
                "host nr-back 10.21.0.1/24",
                "host nr-front 10.20.0.1/24",
                "host nr-front fd20::1/64",
                "host uplink 198.18.0.1/24",
                "host uplink 2001:db8:ffff:1::1/64",
                "web eth0 10.20.0.222/24",
                "web eth0 fd20::ed3a:5e9:a764:c522/64",
                "web eth1 10.21.0.46/24",
                "world uplink 198.18.0.254/24",
                "world uplink 2001:db8:ffff:1::fe/64",
            ]
        );
        // Names of namespaces are known in there too, and packets go.
        let (_, host) = ways.iter().find(|(name, _)| name == "host").unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{host} ip -n db -br link show eth0")]);
        assert!(said(&mut Ordinary::runs(shell)).starts_with("eth0@if"));
        rehearsal.signal(Signal::SIGINT);
        assert_eq!(rehearsal.end().0, Some(0));
    });
}

/// Two containers of one namespace's name, and one that is on both hosts.
const HOSTS: &str = r#"
expect = ["web -> host.b:8080"]
hosts.a = { id = 1, address = "192.0.2.1" }
hosts.b = { id = 2, address = "192.0.2.2" }
[networks.n]
subnet = "10.9.0.0/24"
[containers.web]
host = "a"
netns = "app"
networks.n = { address = "10.9.0.10" }
[containers.shop]
host = "b"
netns = "app"
networks.n = { address = "10.9.0.20" }
ports = ["8080:80"]
[containers.agent]
networks.n = { address = "10.9.0.30" }
"#;

#[test]
fn every_host_and_what_is_on_it_can_be_entered() {
    lab::sandbox(|| {
        let (rehearsal, ways) = Rehearsal::kept(HOSTS, 7);
        let mut seen = Vec::new();
        for (name, command) in &ways {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{command} ip -4 -br addr show scope global")]);
            for line in said(&mut Ordinary::runs(shell)).lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                seen.push(format!("{name} {} {}", words[0].split('@').next().unwrap(), words[2..].join(" ")));
            }
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                "agent on host.a eth0 10.9.0.30/24",
                "agent on host.b eth0 10.9.0.30/24",
                "host.a nr-n 10.9.0.1/24",
                "host.a uplink 192.0.2.1/30",
                "host.b nr-n 10.9.0.1/24",
                "host.b uplink 192.0.2.2/30",
                "shop eth0 10.9.0.20/24",
                "web eth0 10.9.0.10/24",
                "world uplink 198.18.0.254/24",
            ]
        );
        // Nothing of a host's own says that another netrec made it.
        let (_, host) = &ways[0];
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("{host} sh -c 'ip -d link show uplink; ip -d addr show uplink; ip route; ip -6 route'"),
        ]);
        let all = said(&mut Ordinary::runs(shell));
        assert!(
            all.contains("group default") && all.contains("default via 198.18.0.254 dev uplink proto static"),
            "{all}"
        );
        assert!(!["alias", "proto 0x4e", "proto 78"].iter().any(|mark| all.contains(mark)), "{all}");
        rehearsal.signal(Signal::SIGINT);
        let (status, by, result) = rehearsal.end();
        assert_eq!((status, by), (Some(0), None));
        assert_eq!(whats(&result).last().map(String::as_str), Some("11 ok, 0 failed, 0 not tried"));
    });
}
