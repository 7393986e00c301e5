//! `netrec watch`: what happens to the file and to the kernel, and what it says and does about it.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests are tests, too

use std::fs;
use std::io::{BufRead, BufReader};
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
    pub(crate) fn start(lab: &Lab, args: &[&str]) -> Self {
        let mut command = Command::new(NETREC);
        command.arg("watch").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
            (
                "echo 0 >/proc/sys/net/ipv4/ip_forward",
                "sysctl net/ipv4/conf/nr-front/forwarding, sysctl net/ipv4/ip_forward",
            ),
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
