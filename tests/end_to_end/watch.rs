//! `netrec watch`: what happens to the file and to the kernel, and what it says and does about it.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::SHOP;
use crate::lab::{self, Lab, NETREC, until};

/// Far more than it takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// A watch under way, and what it has said that was not asked for yet.
pub(crate) struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    /// Starts it, in a way that it fails where what it keeps of the kernel is not what there is.
    pub(crate) fn start(lab: &Lab, args: &[&str]) -> Self {
        Self::start_with(lab, args, &[("NETREC_CHECK_PICTURE", "1")])
    }

    pub(crate) fn start_with(lab: &Lab, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(NETREC);
        command.arg("watch").args(args).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = lab.host.spawn(&mut command).expect("netrec");
        let stderr = BufReader::new(child.stderr.take().expect("standard error"));
        let (sender, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Waits for the next line, which is this one but for its figures.
    pub(crate) fn says(&self, wanted: &str) {
        let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("{error} before `{wanted}`"));
        assert_eq!(without_figures(&line), wanted);
    }

    /// Waits for the next line that begins so.
    pub(crate) fn says_some_time(&self, wanted: &str) -> String {
        let start = Instant::now();
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            if line.trim_start().starts_with(wanted) {
                return line;
            }
            said.push(line);
        }
        panic!("no `{wanted}` in:\n{}", said.join("\n"))
    }

    /// How often its threads have gone to sleep or been put to sleep so far.
    pub(crate) fn switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("its threads");
        let of = |status: String| -> u64 {
            let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
            lines.map(|(_, count)| count.trim().parse::<u64>().expect("a number")).sum()
        };
        tasks
            .map(|task| of(fs::read_to_string(task.expect("a thread").path().join("status")).unwrap_or_default()))
            .sum()
    }

    /// How many descriptors it has open, and its resident memory in KiB, once it is at rest.
    fn size(&self) -> (usize, usize) {
        let mut sizes = Vec::new();
        until("it is at rest", || {
            sizes.push(self.size_now());
            thread::sleep(Duration::from_millis(20));
            matches!(&sizes[..], [.., a, b, c, d, e] if [a, b, c, d].iter().all(|size| **size == *e))
        });
        sizes[sizes.len() - 1]
    }

    fn size_now(&self) -> (usize, usize) {
        let folder = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{folder}/status")).expect("a status");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
        let memory = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number");
        (fs::read_dir(format!("{folder}/fd")).expect("descriptors").count(), memory)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")), signal).expect("it is there");
    }

    /// Ends it, and yields what it had said beside what was asked for.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}");
        let rest: Vec<String> = self.lines.iter().collect();
        let (last, rest) = rest.split_last().expect("a last word");
        assert_eq!(last, " INFO stopping; the network stays as it is");
        rest.to_vec()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `INFO repaired link nr-front changes=1` of `INFO repaired link nr-front changes=1 ms=4`.
fn without_figures(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| !word.starts_with("ms="));
    words.collect::<Vec<_>>().join(" ")
}

/// Waits until the kernel is what the file wants.
pub(crate) fn converged(lab: &Lab, file: &str) {
    until("it has converged", || lab.host.netrec(&["-c", file, "plan", "--detailed-exitcode"]).status == 0);
}

pub(crate) const FRONT: &str =
    "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nnetworks = ['front']\nports = ['8080:80']\n";

/// Forwarding is on, so that no word is lost over it.
pub(crate) fn forwarding(lab: &Lab) {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        lab.host.set_sysctl(path, "1");
    }
}

#[test]
fn a_change_of_the_file_is_applied_and_a_change_of_the_kernel_is_repaired() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: netns web, link nr-front, "));
        let web = lab.container("web");
        let _listener = web.listen_tcp("web", "0.0.0.0:80");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        let mut connection = lab.world.connect("192.0.2.1:8080").expect("the published port");

        // One kind of object after the other, in the host and in the container, is put right before the next.
        for (break_it, what) in [
            ("ip -n web route del default", "route default in web"),
            ("ip -n web addr flush dev eth0", "address "),
            ("ip link set nr-front mtu 1400", "link nr-front"),
            ("ip link set nr-front down", "link nr-front"),
            ("nft delete element inet netrec port4-any '{ tcp . 8080 }'", "element port4-any"),
            ("nft flush ruleset", "table inet netrec"),
            // That of the host comes first, and those of its devices follow while it is told: one of them or both are seen.
            ("echo 0 >/proc/sys/net/ipv4/ip_forward", "sysctl net/ipv4/"),
        ] {
            lab.host.sh(break_it);
            watching.says_some_time(&format!("INFO repaired {what}"));
            converged(lab, &file);
        }
        assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));

        // The file: written in place, replaced, and a part of a folder that is made later is no part of it.
        lab.host.write("net/front.toml", &FRONT.replace("8080", "8081"));
        watching.says(&format!(
            "INFO applied {file}: element port4-any {{ tcp . 8080 }}, element port4-any {{ tcp . 8081 }} changes=2"
        ));
        let next = lab.host.write("net/next", &FRONT.replace("8080", "8082"));
        lab.host.run(["mv", &next, &file]);
        watching.says(&format!(
            "INFO applied {file}: element port4-any {{ tcp . 8081 }}, element port4-any {{ tcp . 8082 }} changes=2"
        ));
        let before = lab.host.netrec(&["-c", &file, "plan"]).stdout;
        assert!(before.starts_with("No changes."), "{before}");
        assert_eq!(watching.stop(), Vec::<String>::new());
        // What it made stays.
        lab.expect("world tcp 192.0.2.1:8082 -> web sees 192.0.2.9");
    });
}

#[test]
fn a_bad_file_is_told_once_and_the_last_good_one_stays_in_force() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        lab.host.write("net/front.toml", &format!("{FRONT}bad = 1\n"));
        watching.says("ERROR unknown key `bad`");
        watching.says_some_time("the last good file stays in force");
        // It is repaired by the last good one, and told of no more.
        lab.host.sh("ip -n web route del default");
        watching.says("INFO repaired route default in web changes=1");
        lab.host.run(["rm", &file]);
        watching.says(&format!("ERROR cannot read {file}: No such file or directory (os error 2)"));
        watching.says_some_time("the last good file stays in force");
        lab.host.sh("ip -n web route del default");
        watching.says("INFO repaired route default in web changes=1");
        // Back as it was: nothing to do, and nothing to say.
        lab.host.write("net/front.toml", FRONT);
        watching.signal(Signal::SIGHUP);
        watching.says("INFO reloading");
        lab.host.write("net/front.toml", &FRONT.replace("8080", "8081"));
        watching.says_some_time(&format!("INFO applied {file}: element"));
        assert_eq!(watching.stop(), Vec::<String>::new());
    });
}

#[test]
fn links_are_followed_as_those_who_mount_a_configuration_swap_them() {
    lab::in_lab(|lab| {
        forwarding(lab);
        lab.host.write("net/..1/netrec.toml", FRONT);
        lab.host.write("net/..2/netrec.toml", &FRONT.replace("8080", "8081"));
        let folder = "/run/lab/net";
        lab.host.sh(&format!("cd {folder} && ln -s ..1 ..data && ln -s ..data/netrec.toml netrec.toml"));
        let file = format!("{folder}/netrec.toml");
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        lab.host.sh(&format!("cd {folder} && ln -s ..2 ..tmp && mv -T ..tmp ..data"));
        watching.says(&format!(
            "INFO applied {file}: element port4-any {{ tcp . 8080 }}, element port4-any {{ tcp . 8081 }} changes=2"
        ));
        watching.stop();

        // A folder, to which one more file comes.
        let (networks, containers) = FRONT.split_once("[containers").expect("two parts");
        lab.host.write("conf.d/10.toml", networks);
        let watching = Watching::start(lab, &["-c", "/run/lab/conf.d"]);
        watching.says_some_time("INFO applied /run/lab/conf.d/10.toml: ");
        lab.host.write("conf.d/20.toml", &format!("[containers{containers}"));
        watching.says_some_time("INFO applied /run/lab/conf.d/10.toml and 1 more: netns web, ");
        assert_eq!(watching.stop(), Vec::<String>::new());
    });
}

#[test]
fn twenty_saves_at_once_are_applied_once() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        for port in 8100..8120 {
            lab.host.write("net/front.toml", &FRONT.replace("8080", &port.to_string()));
        }
        converged(lab, &file);
        let rounds = watching.stop();
        // On a busy machine the saves may take longer than a pause between them is.
        assert!((1..=3).contains(&rounds.len()), "{rounds:?}");
        assert!(rounds[rounds.len() - 1].contains("{ tcp . 8119 }"), "{rounds:?}");
    });
}

#[test]
fn each_way_of_saving_a_file_is_answered_once() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let path = lab.host.path(&file);
        let with = |port: u16| FRONT.replace("8080", &port.to_string());
        let watching = Watching::start(lab, &["-c", "/run/lab/net"]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        let last = Cell::new(8080_u16);
        let saved = |how: &dyn Fn(&str)| {
            let (old, new) = (last.get(), last.get() + 1);
            how(&with(new));
            let element = |port: u16| format!("element port4-any {{ tcp . {port} }}");
            watching.says(&format!("INFO applied {file}: {}, {} changes=2", element(old), element(new)));
            last.set(new);
        };
        // Deleted and made again.
        saved(&|text| {
            fs::remove_file(&path).expect("it is there");
            fs::write(&path, text).expect("a file");
        });
        // Half of it, and then the rest.
        saved(&|text| {
            let mut file = fs::File::create(&path).expect("a file");
            for part in text.as_bytes().chunks(20) {
                file.write_all(part).and_then(|()| file.sync_all()).expect("a part");
            }
        });
        // With a copy of the old one beside it.
        saved(&|text| {
            fs::rename(&path, path.with_extension("toml~")).expect("a copy");
            fs::write(path.with_extension("new"), text).expect("a file");
            fs::rename(path.with_extension("new"), &path).expect("its name");
        });
        // Another file of the folder, which comes and goes.
        let drop_in = lab.host.path("/run/lab/net/more.toml");
        fs::write(&drop_in, "[networks.more]\nsubnet = '10.21.0.0/24'\n").expect("a file");
        let both = format!("{file} and 1 more");
        assert!(watching.says_some_time(&format!("INFO applied {both}: ")).contains("link nr-more"));
        fs::remove_file(&drop_in).expect("it is there");
        assert!(watching.says_some_time(&format!("INFO applied {file}: ")).contains("link nr-more"));
        // What is no file of the configuration's, and the same text again.
        fs::write(lab.host.path("/run/lab/net/notes.txt"), "nothing").expect("a file");
        fs::write(&path, with(last.get())).expect("a file");
        saved(&|text| fs::write(&path, text).expect("a file"));
        assert_eq!(watching.stop(), Vec::<String>::new());
    });
}

#[test]
fn what_is_lost_for_want_of_room_is_found_by_reading_all() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        // Room for a message or two.
        let watching = Watching::start_with(lab, &["-v", "-c", &file], &[("NETREC_EARS", "1")]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        converged(lab, &file);
        // While it does not listen.
        watching.signal(Signal::SIGSTOP);
        let burst: String =
            (1..=20).fold(String::new(), |batch, n| batch + &format!("addr add 10.99.0.{n}/32 dev lo\n"));
        let batch = lab.host.write("burst", &burst);
        lab.host.sh(&format!("ip -batch {batch}; ip -n web route del default"));
        watching.signal(Signal::SIGCONT);
        watching.says_some_time("DEBUG more was told than could be heard; all of the kernel was read");
        watching.says("INFO repaired route default in web changes=1");
        converged(lab, &file);
        watching.stop();
    });
}

#[test]
fn containers_to_which_no_veth_leads_are_heard() {
    lab::in_lab(|lab| {
        forwarding(lab);
        // One by its name, and one by a path, which somebody else has made.
        lab.host.sh("ip netns add theirs");
        let text = "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '192.0.2.0/24'\n\
                    [containers.own]\nnetworks = ['lan']\n\
                    [containers.other]\nnetns = '/run/netns/theirs'\nnetworks = ['lan']\n";
        let file = lab.host.write("net/lan.toml", text);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        for (netns, name) in [("own", "own"), ("theirs", "/run/netns/theirs")] {
            lab.host.sh(&format!("ip -n {netns} route del default"));
            watching.says_some_time(&format!("INFO repaired route default in {name} "));
            lab.host.sh(&format!("ip -n {netns} link set eth0 mtu 1400"));
            watching.says_some_time(&format!("INFO repaired link eth0 in {name} "));
            converged(lab, &file);
        }
        assert_eq!(watching.stop(), Vec::<String>::new());
    });
}

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

/// A file of two hosts with so many containers on this one, some left out, with other ports and another MTU as chance has it.
fn stormy(containers: usize, random: &mut Random) -> String {
    let mut text = "[hosts.a]\nid = 1\naddress = '192.0.2.1'\n[hosts.b]\nid = 2\naddress = '192.0.2.9'\n\
                    [networks.wide]\ndriver = 'overlay'\nsubnet = ['10.30.0.0/16', 'fd30::/64']\nvni = 4100\n\
                    [networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '198.51.100.0/24'\n\
                    [containers.far]\nhost = 'b'\nnetworks = ['wide']\n"
        .to_owned();
    let mtu = 1400 + 10 * random.below(10);
    text += &format!("[networks.front]\nsubnet = ['10.20.0.0/16', 'fd20::/64']\nmtu = {mtu}\n");
    for n in 0..containers {
        if random.below(10) == 0 {
            continue;
        }
        let port = 10000 + 10 * n + random.below(5);
        text += &match n % 4 {
            0 => format!("[containers.c{n}]\nhost = 'a'\nnetworks = ['wide']\n"),
            1 => format!("[containers.c{n}]\nhost = 'a'\nnetworks = ['lan']\n"),
            2 => format!(
                "[containers.c{n}]\nhost = 'a'\nports = ['{port}:80']\n[containers.c{n}.networks.front]\n\
                 ingress = '10mbit'\negress = '10mbit'\n"
            ),
            _ => format!("[containers.c{n}]\nhost = 'a'\nnetworks = ['front']\nports = ['{port}:80']\n"),
        };
    }
    text
}

/// What somebody else does: breaks something of netrec's, or something of his own. It may be that it is not there.
fn foreign_change(containers: usize, random: &mut Random) -> String {
    let n = random.below(containers);
    match random.below(26) {
        0 | 1 => format!("ip -n c{n} route del default"),
        2 => format!("ip -n c{n} addr flush dev eth0"),
        3 => format!("ip -n c{n} link set eth0 down"),
        4 => format!("ip -n c{n} link del eth0"),
        5 => format!("ip -n c{n} link set eth0 mtu 1300"),
        6 => format!("ip -n c{n} addr add 10.77.0.{}/24 dev eth0", 1 + n % 200),
        7 => format!("ip -n c{n} -6 addr flush dev eth0"),
        8 => format!("ip netns del c{n}"),
        9 => format!("ip -n c{n} link set eth0 address 02:00:00:00:00:{:02x}", 1 + n % 200),
        10 => "ip link set nr-front mtu 1350".to_owned(),
        11 => "ip link set nr-front down".to_owned(),
        12 => "ip addr flush dev nr-front".to_owned(),
        13 => "ip link set \"$(ls /sys/class/net/nr-front/brif | head -n 1)\" nomaster".to_owned(),
        14 => "bridge link set dev vx-wide learning on flood on".to_owned(),
        15 => {
            "bridge fdb del \"$(bridge fdb show dev vx-wide | awk '/dst/ { print $1; exit }')\" dev vx-wide".to_owned()
        }
        16 => "set -- $(ip neigh show dev nr-wide nud permanent | head -n 1); ip neigh del $1 dev nr-wide".to_owned(),
        17 => "set -- $(ip neigh show dev nr-wide nud permanent | head -n 1); \
               ip neigh change $1 lladdr $3 dev nr-wide nud reachable"
            .to_owned(),
        18 => "tc qdisc del dev \"$(tc qdisc show | awk '/tbf/ { print $5; exit }')\" root".to_owned(),
        19 => format!("nft delete element inet netrec port4-any '{{ tcp . {} }}'", 10000 + 10 * n),
        20 => "nft flush chain inet netrec forward".to_owned(),
        21 => "nft delete table inet netrec".to_owned(),
        // What is nobody's business.
        22 => format!("ip netns add x{n} && ip link add x{n} type veth peer name y netns x{n}"),
        23 => format!("ip netns del x{n}"),
        24 => format!("nft add table ip theirs{n}; ip route replace 10.88.{}.0/24 via 192.0.2.9", n % 200),
        _ => format!("ip link add foreign{n} type bridge && ip addr add 10.89.{}.1/24 dev foreign{n}", n % 200),
    }
}

/// So many changes by chance, of others' and of the file; in the end all is as the file wants it, and nothing has grown.
#[test]
fn a_storm_of_changes_ends_in_what_the_file_wants() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let changes = std::env::var("NETREC_STORM").map_or(200_u32, |number| number.parse().expect("a number"));
        // Nobody is to seem to fight over one thing.
        let containers = if changes > 1000 { 100 } else { 12 };
        let mut random = Random(0x5eed_1e55 + u64::from(changes));
        let file = lab.host.write("net/storm.toml", &stormy(containers, &mut random));
        let args = ["-c", &file, "--host", "a"];
        let watching = Watching::start(lab, &args);
        watching.says_some_time(&format!("INFO applied {file}: "));
        let rest = || {
            let plan = || lab.host.netrec(&[&args[..], &["plan", "--detailed-exitcode"]].concat());
            let start = Instant::now();
            // A failure, or a fight, may have it wait for minutes at the end of a long storm.
            while plan().status != 0 {
                assert!(
                    start.elapsed() < 6 * LIMIT,
                    "{}\n{:?}",
                    plan().stdout,
                    watching.lines.try_iter().collect::<Vec<_>>()
                );
                thread::sleep(Duration::from_millis(100));
            }
        };
        rest();
        let mut before = None;
        for change in 0..changes {
            match random.below(20) {
                0 => drop(lab.host.write("net/storm.toml", &stormy(containers, &mut random))),
                1 => drop(lab.host.write("net/storm.toml", "[networks.front]\nsubnet = '10.20.0.0/16\n")),
                _ => drop(lab.host.try_run(["sh", "-c", &foreign_change(containers, &mut random)])),
            }
            if change == changes / 4 {
                lab.host.write("net/storm.toml", &stormy(containers, &mut Random(1)));
                rest();
                before = Some(watching.size());
            }
        }
        lab.host.write("net/storm.toml", &stormy(containers, &mut Random(1)));
        rest();
        let (before, after) = (before.expect("a size"), watching.size());
        assert_eq!(after.0, before.0, "descriptors");
        assert!(after.1 < before.1 + 8 * 1024, "memory: {} KiB, and then {} KiB", before.1, after.1);
        let said = watching.stop();
        let wrong: Vec<&String> = said.iter().filter(|line| line.contains("picture is not")).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn a_change_that_waits_or_was_taken_back_is_not_applied_again() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        lab.host.apply(FRONT);
        lab.host.write("net/front.toml", &FRONT.replace("8080", "8081"));
        assert_eq!(lab.host.netrec(&["-c", &file, "apply", "-y", "--confirm", "10m"]).status, 0);
        let watching = Watching::start(lab, &["-c", &file]);
        watching
            .says_some_time(&format!("WARN the file is not applied: {file} was applied and waits to be confirmed, "));
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        watching.says(&format!("WARN the file is not applied: {file} was not confirmed, and was taken back"));
        // Neither by what happens in the kernel.
        lab.host.sh("ip -n web route del default");
        lab.host.write("net/front.toml", &FRONT.replace("8080", "8082"));
        watching.says_some_time(&format!("INFO applied {file}: "));
        lab.host.sh("ip -n web route del default");
        watching.says("INFO repaired route default in web changes=1");
        assert_eq!(watching.stop(), Vec::<String>::new());
    });
}

#[test]
fn a_failure_is_told_once_and_a_way_out_taken_at_once() {
    lab::in_lab(|lab| {
        forwarding(lab);
        // A foreign device has the bridge's name.
        lab.host.sh("ip link add nr-front type ifb");
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time("ERROR link nr-front exists and is not netrec's");
        watching.says_some_time("tried again in 1 s");
        lab.host.sh("ip link del nr-front");
        watching.says_some_time(&format!("INFO applied {file}: "));
        assert_eq!(watching.stop(), Vec::<String>::new());
    });
}

#[test]
fn who_undoes_each_repair_is_named_and_not_fought_without_end() {
    lab::in_lab(|lab| {
        forwarding(lab);
        let file = lab.host.write("net/front.toml", FRONT);
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("INFO applied {file}: "));
        let web = lab.container("web");
        let mut foe = Command::new("sh");
        foe.args(["-c", "while :; do ip route del default 2>/dev/null || sleep 0.01; done"]);
        let mut foe = web.spawn(&mut foe).expect("a shell");
        let line =
            watching.says_some_time("WARN somebody undoes this each time it is repaired: route default in web; ");
        let _ = (foe.kill(), foe.wait());
        assert!(line.contains("nothing is done about it for 1 s"), "{line}");
        converged(lab, &file);
        watching.stop();
    });
}

#[test]
fn a_watch_needs_a_file_and_a_kernel_that_tells() {
    lab::in_lab(|lab| {
        let output = lab.host.netrec(&["-c", "-", "watch"]);
        let wanted = "error: standard input cannot be watched: name a file or a folder\n";
        assert_eq!((output.status, output.stderr.as_str()), (64, wanted));
        let file = lab.host.write("shop.toml", SHOP);
        // Without CAP_NET_BROADCAST nothing is told of other namespaces.
        let run = format!("setpriv --bounding-set -net_broadcast --inh-caps -net_broadcast {NETREC} -c {file} watch");
        let output = lab.host.try_run(["sh", "-c", &run]);
        let wanted =
            "error: root is needed to read the kernel's notifications (Operation not permitted (os error 1))\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, wanted));
    });
}
