//! What commands cost as a file grows: with containers, and with published ports. Whole processes, each size in turn within a
//! round, in namespaces of its own.
//!
//! ```text
//! cargo bench --bench size                 # as root
//! cargo bench --bench size -- --rounds 1
//! ```

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "../shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use shared::{Row, median};

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
/// Set where this program runs again in namespaces of its own: what grows there, and to how many.
const ROLE: &str = "NETREC_BENCH_ROLE";
const FILE: &str = "/run/netrec.toml";
const CONTAINERS: [usize; 5] = [1, 10, 100, 1_000, 5_000];
const PORTS: [usize; 5] = [10, 100, 1_000, 10_000, 50_000];
/// A no-op plan and a validation are short: so many of them a round, after one that finds cold caches.
const SHORT: usize = 3;

/// Containers, 100 on a network, each with a published port.
fn containers(count: usize) -> String {
    let mut text = String::new();
    // A network stays as it is when one more container joins.
    for network in 0..=count / 100 {
        let _ = writeln!(text, "[networks.net-{network}]\nsubnet = \"10.{network}.0.0/16\"\n");
    }
    for n in 0..count {
        let (network, port) = (n / 100, 20_000 + n);
        let _ = writeln!(text, "[containers.c-{n:05}]\nnetworks = [\"net-{network}\"]\nports = [\"{port}:80\"]\n");
    }
    text
}

/// One container with ports of which the last leads elsewhere.
fn ports(count: usize, last: usize) -> String {
    let port = |n| format!("\"{}:{}\"", 10_000 + n, if n + 1 == count { last } else { 80 });
    let ports = (0..count).map(port).collect::<Vec<_>>().join(", ");
    format!("[networks.net]\nsubnet = \"10.0.0.0/16\"\n\n[containers.web]\nnetworks = [\"net\"]\nports = [{ports}]\n")
}

/// Runs netrec, says how long it took, and returns its output.
fn netrec(what: &str, args: &[&str]) -> String {
    let start = Instant::now();
    let output = Command::new(NETREC).args(args).stdin(Stdio::null()).output().unwrap();
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    if !what.is_empty() {
        println!("{what} {milliseconds}");
    }
    String::from_utf8(output.stdout).unwrap()
}

fn short(what: &str, args: &[&str]) {
    netrec("", args);
    for _ in 0..SHORT {
        netrec(what, args);
    }
}

fn no_op(what: &str) {
    let text = netrec("", &["plan", "-c", FILE]);
    // Warnings may come before it.
    assert!(text.lines().any(|line| line.starts_with("No changes.")), "it must find nothing to do:\n{text}");
    short(what, &["plan", "-c", FILE]);
}

fn apply(what: &str, text: &str) {
    fs::write(FILE, text).unwrap();
    netrec(what, &["apply", "-y", "-c", FILE]);
}

/// Prints a name and the milliseconds of all that was measured, and the most memory (MiB) that a command took.
fn play(what: &str, count: usize) {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    match what {
        "containers" => {
            apply("apply", &containers(count));
            no_op("no-op plan");
            #[allow(clippy::cast_precision_loss)] // KiB
            let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() as f64 / 1024.0;
            println!("peak memory {peak}");
            apply("one container added", &containers(count + 1));
            netrec("destroy", &["destroy", "-y"]);
        }
        "ports" => {
            apply("", &ports(1, 80));
            apply("ports added", &ports(count, 80));
            no_op("no-op plan with ports");
            apply("one port changed", &ports(count, 81));
            netrec("", &["destroy", "-y"]);
        }
        "file" => {
            fs::write(FILE, containers(count)).unwrap();
            short("validate", &["validate", "-c", FILE]);
        }
        other => panic!("no such role: {other}"),
    }
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        let (what, count) = role.split_once(' ').unwrap();
        return play(what, count.parse().unwrap());
    }
    assert!(nix::unistd::geteuid().is_root(), "only root can make thousands of namespaces");
    let mut args = std::env::args().skip_while(|arg| arg != "--rounds").skip(1);
    let rounds: usize = args.next().map_or(5, |n| n.parse().unwrap());
    let mut roles: Vec<(&str, usize)> = vec![("file", 10_000)];
    roles.extend(CONTAINERS.map(|count| ("containers", count)));
    roles.extend(PORTS.map(|count| ("ports", count)));
    let mut values: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for (what, count) in &roles {
            eprintln!("round {round} of {rounds}: {count} {what}");
            let mut again = Command::new(std::env::current_exe().unwrap());
            let output = again.env(ROLE, format!("{what} {count}")).stderr(Stdio::inherit()).output().unwrap();
            assert!(output.status.success(), "{count} {what} failed");
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                let (name, value) = line.rsplit_once(' ').unwrap();
                values.entry((name.to_owned(), *count)).or_default().push(value.parse().unwrap());
            }
        }
        roles.rotate_left(1);
    }
    println!("{:<24} {:>8} {:>12} {:>12} {:>12}", "", "of", "median", "least", "most");
    let mut kept = Vec::new();
    for ((what, size), mut all) in values {
        all.sort_by(f64::total_cmp);
        let (middle, least, most) = (median(all.clone()), all[0], all[all.len() - 1]);
        let unit = if what == "peak memory" { "MiB" } else { "ms" };
        println!("{what:<24} {size:>8} {middle:>8.2} {unit:<3} {least:>8.2} {unit:<3} {most:>8.2} {unit:<3}");
        kept.push(Row { what, size, value: middle, unit });
    }
    #[allow(clippy::cast_precision_loss)] // a few MiB
    let binary = fs::metadata(NETREC).unwrap().len() as f64 / 1e6;
    println!("the binary: {binary:.2} MB");
    kept.push(Row { what: "binary".into(), size: 1, value: binary, unit: "MB" });
    shared::keep("size", &kept);
}
