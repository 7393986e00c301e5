//! Signals at a write of an apply or a destroy, at the question, and at the lock.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};

use crate::SHOP;
use crate::lab::{self, Lab, NETREC, Snapshot, until};

const FIRST: &str = "interrupted: the batch under way ends, then what was done is taken back; once more ends at once and \
                     leaves it as it is\n";
const WAYS: &str = "`netrec apply` brings the host to the file, `netrec destroy` removes all that is netrec's\n";
const AS_BEFORE: &str = "what had been done was taken back: the host is as it was before\n";

/// Forwarding stays on, whoever turned it on.
fn prepare(lab: &Lab) -> Snapshot {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        lab.host.set_sysctl(path, "1");
    }
    lab.at_rest()
}

/// Without the numbers, which are not the file's alone.
fn steps(text: &str) -> String {
    let words = text.split(' ').map(|w| if w.parse::<u32>().is_ok() { "N" } else { w });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_interrupted_apply_is_taken_back() {
    lab::in_lab(|lab| {
        let before = prepare(lab);
        let file = lab.host.write("shop.toml", SHOP);
        lab.host.apply(SHOP); // now there is a /run/netns
        lab.host.destroy(SHOP);
        let writes = lab.host.apply(SHOP).json["writes"].as_u64().expect("writes");
        let writes = usize::try_from(writes).expect("a small number");
        lab.host.destroy(SHOP);
        for (signal, at) in [(SIGINT, 1), (SIGTERM, writes / 3), (SIGINT, writes / 2), (SIGTERM, writes)] {
            let mut netrec = lab.host.netrec_paused(&[at], &["-c", &file, "apply", "-y"]);
            netrec.signal(signal);
            netrec.says(FIRST);
            netrec.go_on();
            let output = netrec.end();
            let said = format!("{FIRST}error: interrupted after N of N steps\n{AS_BEFORE}");
            assert_eq!((output.status, steps(&output.stderr)), (4, said), "{signal} at write {at} of {writes}");
            assert_eq!(before.diff(&lab.at_rest()), "", "{signal} at write {at} of {writes}");
        }
        let mut netrec = lab.host.netrec_paused(&[writes / 2], &["-c", &file, "apply", "-y", "--json"]);
        netrec.signal(SIGTERM);
        netrec.says(FIRST);
        netrec.go_on();
        let output = netrec.end();
        let json: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON document");
        assert_eq!((output.status, &json["applied"]), (4, &false.into()));
        let said = format!("interrupted after N of N steps\n{}", AS_BEFORE.trim_end());
        assert_eq!(json["error"].as_str().map(steps), Some(said));
    });
}

#[test]
fn an_interrupted_change_and_an_interrupted_destroy_are_taken_back() {
    lab::in_lab(|lab| {
        prepare(lab);
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        let other = SHOP
            .replace("8080:80", "8081:80")
            .replace("10.20.", "10.30.")
            .replace("[containers.db]", "[containers.base]");
        let file = lab.host.write("other.toml", &other);
        for (command, at) in [("apply", 1), ("apply", 10), ("apply", 20), ("destroy", 1), ("destroy", 3)] {
            let mut netrec = lab.host.netrec_paused(&[at], &["-c", &file, command, "-y"]);
            netrec.signal(SIGINT);
            netrec.says(FIRST);
            netrec.go_on();
            let output = netrec.end();
            let said = format!("{FIRST}error: interrupted after N of N steps\n{AS_BEFORE}");
            assert_eq!((output.status, steps(&output.stderr)), (4, said), "{command} at write {at}");
            assert_eq!(before.diff(&lab.at_rest()), "", "{command} at write {at}");
        }
    });
}

#[test]
fn a_second_interrupt_ends_at_once_and_says_what_is_left() {
    lab::in_lab(|lab| {
        let before = prepare(lab);
        let file = lab.host.write("shop.toml", SHOP);
        lab.host.apply(SHOP); // now there is a /run/netns
        lab.host.destroy(SHOP);
        // A mount, then a file, a mark and a mount for each of three namespaces, and then the devices.
        let namespaces = "netns api, netns db, netns web";
        for (at, left) in [
            (1, "no object of the plan differs from before\n3 steps more may have been done, or not\n".to_owned()),
            (10, "no object of the plan differs from before\n3 steps more may have been done, or not\n".to_owned()),
            (
                11,
                format!(
                    "3 objects of the plan differ from before: {namespaces}\n2 steps more may have been done, or not\n"
                ),
            ),
            (
                13,
                format!(
                    "5 objects of the plan differ from before: {namespaces}, link nr-back, link nr-front\n\
                     3 steps more may have been done, or not\n"
                ),
            ),
            (
                20,
                format!(
                    "8 objects of the plan differ from before: {namespaces}, link nr-back, link nr-front and 3 more\n\
                     5 steps more may have been done, or not\n"
                ),
            ),
        ] {
            let mut netrec = lab.host.netrec_paused(&[at], &["-c", &file, "apply", "-y"]);
            netrec.signal(SIGTERM);
            netrec.says(FIRST);
            netrec.signal(SIGINT);
            let output = netrec.end();
            let said = format!("{FIRST}error: interrupted again, and ended at once: {left}{WAYS}");
            assert_eq!((output.status, output.stderr), (1, said), "at write {at}");
            lab.host.destroy(SHOP);
            assert_eq!(before.diff(&lab.at_rest()), "", "at write {at}");
        }
        // While it is taken back: the first of the three namespaces is gone already, but what of the batch is done is not known.
        let mut netrec = lab.host.netrec_paused(&[5, 13], &["-c", &file, "apply", "-y", "--json"]);
        netrec.signal(SIGINT);
        netrec.says(FIRST);
        netrec.go_on();
        netrec.stands();
        netrec.signal(SIGINT);
        let output = netrec.end();
        let left = "interrupted again, and ended at once: 3 objects of the plan differ from before: netns api, netns db, \
                    netns web\n3 steps more may have been done, or not\n";
        assert_eq!((output.status, &*output.stderr), (1, &*format!("{FIRST}error: {left}{WAYS}")));
        let json: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON document");
        assert_eq!((&json["exit_status"], &json["error"]), (&1.into(), &format!("{left}{}", WAYS.trim_end()).into()));
        lab.host.apply(SHOP);
        assert_eq!(lab.host.plan(SHOP).actions(), [""; 0]);
        lab.host.destroy(SHOP);
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}

#[test]
fn an_apply_whose_terminal_goes_away_goes_on() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", SHOP);
        let pty = openpty(None, None).expect("a terminal");
        let mut command = Command::new("setsid");
        command.args(["--ctty", NETREC, "-c", &file, "apply", "-y"]);
        let end = || Stdio::from(pty.slave.try_clone().expect("its other end"));
        command.stdin(end()).stdout(end()).stderr(Stdio::piped());
        let netrec = lab.host.paused(&[20], &mut command);
        drop(command);
        drop(pty.slave);
        // The kernel sends SIGHUP to the session's leader, and writing fails.
        drop(File::from(pty.master));
        netrec.signal(SIGHUP);
        netrec.go_on();
        let output = netrec.end();
        assert_eq!(output.status, 0, "{}", output.stderr);
        assert!(output.stderr.starts_with("Done in "), "{}", output.stderr);
        assert_eq!(lab.host.plan(SHOP).actions(), [""; 0]);
    });
}

#[test]
fn an_interrupt_before_the_work_changes_nothing() {
    lab::in_lab(|lab| {
        let before = prepare(lab);
        let file = lab.host.write("shop.toml", SHOP);
        lab.host.plan(SHOP);
        // At the question: on a terminal of its own, whose ^C is SIGINT.
        let pty = openpty(None, None).expect("a terminal");
        let mut command = Command::new("setsid");
        command.args(["--ctty", NETREC, "-c", &file, "apply"]);
        let end = || Stdio::from(pty.slave.try_clone().expect("its other end"));
        command.stdin(end()).stdout(end()).stderr(Stdio::piped());
        let netrec = lab.host.spawn(&mut command).expect("netrec");
        let mut terminal = File::from(pty.master);
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).ends_with("Apply this plan? Only `yes` goes on: ") {
            let mut some = [0; 4096];
            let n = terminal.read(&mut some).expect("what it shows");
            shown.extend(&some[..n]);
        }
        terminal.write_all(b"\x03").expect("a key");
        let output = netrec.wait_with_output().expect("its end");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(130), "error: interrupted: nothing was changed\n"));
        // At the lock.
        let inode = lab.host.sh("stat -Lc %i /proc/self/ns/net");
        let lock = format!("/run/netrec/lock-{}", inode.trim());
        lab.host.sh("mkdir -m 755 /run/netrec");
        let mut holder =
            lab.host.spawn(Command::new("flock").args(["--no-fork", &lock, "sleep", "60"])).expect("flock");
        until("the lock is held", || lab.host.try_run(["flock", "-n", &lock, "true"]).status != 0);
        for (signal, status) in [(SIGINT, 130), (SIGTERM, 143)] {
            let mut command = Command::new(NETREC);
            command.args(["-c", &file, "apply", "-y", "--json"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let netrec = lab.host.spawn(&mut command).expect("netrec");
            let pid = netrec.id();
            let waits = || {
                std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten().any(|fd| {
                    std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains("/run/netrec/lock-"))
                })
            };
            until("it has the lock's file open", waits);
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).expect("netrec is there");
            let output = netrec.wait_with_output().expect("its end");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), &*stderr), (Some(status), "error: interrupted: nothing was changed\n"));
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
            assert_eq!(
                (&json["exit_status"], &json["error"]),
                (&status.into(), &"interrupted: nothing was changed".into())
            );
        }
        holder.kill().expect("kill");
        holder.wait().ok();
        lab.host.sh("rm -r /run/netrec");
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}
