//! Namespaces to measure in, and what runs in them.

use std::process::{Command, Stdio};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::ROLE;

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// Runs this program again in a role, and gives what it printed.
pub(crate) fn again(role: &str) -> Vec<(String, f64)> {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).env(ROLE, role).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{role} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (what, value) = line.rsplit_once(' ').unwrap();
        (what.to_owned(), value.parse().unwrap())
    };
    text.lines().map(line).collect()
}

pub(crate) fn say(what: &str, value: f64) {
    println!("{what} {value}");
}

/// Milliseconds.
pub(crate) fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

/// Puts this process into new network and mount namespaces with a `/run` of their own.
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    sh("ip link set lo up");
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn sh(script: &str) {
    run(Command::new("sh").args(["-ec", script]));
}

/// Runs netrec.
pub(crate) fn netrec(args: &[&str]) -> String {
    run(Command::new(NETREC).args(args))
}
