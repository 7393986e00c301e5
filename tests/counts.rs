//! What commands cost on a file of a thousand containers, in instructions of the program's own (without the kernel's):
//! counted by callgrind, which the machine's mood does not change. It is the tests' build that is counted: twice as many
//! parsed, compared or printed things are twice as many instructions there too; what the optimiser makes of them is for
//! `make bench`.
//!
//! `tests/counts.txt` keeps the numbers; `UPDATE_EXPECT=1 cargo test --all-features --test counts` writes them anew.

// Another set of features is another program.
#![cfg(all(feature = "fault-injection", feature = "fuzzing"))]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may

mod lab;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use lab::{Machine, NETREC, kernel};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/counts.txt");
const HEAD: &str = "\
# Instructions that netrec takes for a file of 1,000 containers on 10 networks, one published port each; see counts.rs.
# UPDATE_EXPECT=1 cargo test --all-features --test counts
";
/// By how many percent a count may differ. The same build differs by less than one: hash seeds, pieces of the kernel's dumps.
const TOLERANCE: f64 = 3.0;

fn file() -> String {
    let mut text = String::new();
    for network in 0..10 {
        let _ = writeln!(text, "[networks.net-{network}]\nsubnet = \"10.{network}.0.0/16\"\n");
    }
    for n in 0..1000 {
        let (network, port) = (n % 10, 20_000 + n);
        let _ = writeln!(text, "[containers.c-{n:04}]\nnetworks = [\"net-{network}\"]\nports = [\"{port}:80\"]\n");
    }
    text
}

/// What the counts hold for: another compiler makes other instructions.
fn compiler() -> String {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-V").output();
    let version = String::from_utf8(output.expect("rustc").stdout).expect("a version");
    let version = version.split(' ').nth(1).expect("a version");
    format!("rustc {version} {}", env::consts::ARCH)
}

/// Runs a command of netrec's and counts its instructions.
fn count(host: &Machine, args: &[&str], says: &str) -> u64 {
    let valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/run/lab/callgrind.out", NETREC];
    let output = host.try_run([&valgrind, args].concat());
    assert!(output.status == 0 && output.stdout.contains(says), "{args:?}: {}{}", output.stdout, output.stderr);
    let line = output.stderr.lines().find_map(|line| line.split_once("Collected : "));
    line.expect("a count").1.parse().expect("a number")
}

#[test]
fn instructions_of_a_thousand_containers_are_as_many_as_they_were() {
    let (compiler, kept) = (compiler(), fs::read_to_string(KEPT).unwrap_or_default());
    let update = env::var_os("UPDATE_EXPECT").is_some();
    let mut lines = kept.lines().filter(|line| !line.starts_with('#'));
    let kept_compiler = lines.next().unwrap_or_default();
    if let Some(why) = kernel::program_missing(&["valgrind"]) {
        return kernel::not_tried("instructions", &why);
    }
    if compiler != kept_compiler && !update {
        return kernel::not_tried("instructions", &format!("counted with {kept_compiler}, this is {compiler}"));
    }
    lab::in_lab(|lab| {
        let host = &lab.host;
        let path = host.write("netrec.toml", &file());
        let mut counts = Vec::new();
        let mut count = |name: &str, args: &[&str], says: &str| {
            counts.push((name.to_owned(), count(host, &[args, &["-c", &path]].concat(), says)));
        };
        count("validate", &["validate"], "");
        count("plan, nothing there yet", &["plan"], "Plan: ");
        host.run([NETREC, "apply", "-y", "-q", "-c", &path]);
        count("plan, nothing to do", &["plan"], "No changes.");
        if update {
            let mut text = format!("{HEAD}{compiler}\n");
            for (name, count) in &counts {
                let _ = writeln!(text, "{name}: {count}");
            }
            return fs::write(KEPT, text).expect("the numbers are kept");
        }
        let mut wrong = String::new();
        for ((name, now), line) in counts.iter().zip(lines) {
            let before: u64 =
                line.strip_prefix(name).and_then(|n| n.strip_prefix(": ")).expect(name).parse().expect(line);
            #[allow(clippy::cast_precision_loss)] // far from 2^53
            let percent = 100.0 * (*now as f64 / before as f64 - 1.0);
            println!("tried: {name}: {now} instructions, {percent:+.2} % of {before}");
            if percent.abs() > TOLERANCE {
                let _ = writeln!(wrong, "{name}: {now} instructions, {percent:+.1} % of {before}");
            }
        }
        assert!(
            wrong.is_empty(),
            "{wrong}where it should be so, or is better: UPDATE_EXPECT=1 cargo test --all-features --test counts\n\
             where they go: valgrind --tool=callgrind target/debug/netrec plan -c FILE, and callgrind_annotate"
        );
    });
}
