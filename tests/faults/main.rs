//! Death and failure at kernel writes: a killed apply costs nothing, a failed one leaves the host as it was, and one that
//! cannot be taken back either says what is left. The files make one object of every kind there is, and the change touches
//! each of them.
//!
//! `cargo test --features fault-injection` tries a fixed sample. `NETREC_EVERY=1` tries every write and `NETREC_EVERY=3` every
//! third, `NETREC_FROM=2` those from the second on (so that a sweep can be shared out), `NETREC_CODES=5` as many error
//! numbers at each, `NETREC_KILLS=500` as many deaths at random instants, and `NETREC_SEED=1` others than usual.

#![cfg(feature = "fault-injection")]
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod files;
#[path = "../lab/mod.rs"]
mod lab;

use std::process::{Command, Stdio};
use std::time::Instant;

use lab::{Lab, NETREC, Output};

/// How many writes of a change are tried in a sample.
const SAMPLE: usize = 3;
/// What the kernel may answer.
const ERRNOS: [&str; 5] = ["EPERM", "EBUSY", "ENOBUFS", "EEXIST", "ENOENT"];

/// A number of the environment's.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// The writes that are tried, of so many.
fn tried(n: usize) -> impl Iterator<Item = usize> {
    let every = number("NETREC_EVERY").and_then(|n| usize::try_from(n).ok());
    let every = every.unwrap_or_else(|| n.div_ceil(SAMPLE));
    // A sample is not to begin with the first, which is much like the second.
    let from = number("NETREC_FROM").and_then(|n| usize::try_from(n).ok());
    (from.unwrap_or_else(|| every.div_ceil(2))..=n).step_by(every)
}

/// How many writes a change takes when nothing goes wrong.
fn writes(lab: &Lab, toml: &str) -> usize {
    let n = lab.host.apply(toml).json["writes"].as_u64().expect("writes");
    usize::try_from(n).expect("a small number")
}

/// The host as a foreign apply finds it: forwarding is on already, since it stays on, and others are there too.
fn prepare(lab: &Lab) {
    lab.host.set_sysctl("net/ipv4/ip_forward", "1");
    lab.host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    lab.host.sh(&files::host());
}

/// The host as the file before the change has it, and nothing of what the change leaves for good, so that each time it takes
/// all writes that it took at first: those that make the folder of names, and a mount point of it, and parameters that the file
/// does not name.
fn begin(lab: &Lab, before: &str) {
    lab.host.apply(before);
    if before.is_empty() {
        lab.host.sh("! mountpoint -q /run/netns || umount /run/netns; ! test -d /run/netns || rmdir /run/netns");
        return;
    }
    for (name, device) in files::STAYING {
        let path = format!("net/ipv4/conf/{device}/rp_filter");
        match name {
            "" => lab.host.set_sysctl(&path, "0"),
            name => lab.container(name).set_sysctl(&path, "0"),
        }
    }
}

/// Applies a file with faults.
fn faulty(lab: &Lab, file: &str, env: &[(&str, &str)], fault: &str) -> Output {
    let file = lab.host.write("faulty.toml", file);
    let env = [env, &[("NETREC_FAULT", fault)]].concat();
    lab.host.netrec_with_env(&env, &["-c", &file, "apply", "-y"])
}

/// netrec dies at each write of a change that is tried; the next apply makes what an undisturbed one would have made.
fn dies(lab: &Lab, before: &str, after: &str) {
    prepare(lab);
    let bare = lab.at_rest();
    begin(lab, before);
    let n = writes(lab, after);
    let wanted = lab.at_rest();
    let mut deaths = 0;
    for at in tried(n) {
        begin(lab, before);
        let died = faulty(lab, after, &[], &format!("die:{at}"));
        // How many writes there are differs by what the kernel has done by itself.
        if died.status == 0 && at + 5 > n {
            break;
        }
        assert_eq!(died.status, 137, "write {at} of {n}: {}", died.stderr);
        lab.host.apply(after);
        assert_eq!(lab.host.plan(after).actions(), [""; 0], "write {at} of {n}: the plan is not empty");
        assert_eq!(wanted.diff(&lab.at_rest()), "", "write {at} of {n}: another state than without a crash");
        deaths += 1;
    }
    lab.host.destroy(after);
    assert_eq!(bare.diff(&lab.at_rest()), "", "destroy leaves something");
    println!("\ntried: {deaths} deaths, all converged, of {n} writes");
    assert!(deaths >= SAMPLE.min(n) - 1, "only {deaths} deaths");
}

#[test]
fn death_at_a_write_costs_nothing_when_all_comes() {
    lab::in_lab(|lab| dies(lab, "", &files::first()));
}

#[test]
fn death_at_a_write_costs_nothing_when_all_changes() {
    lab::in_lab(|lab| dies(lab, &files::first(), &files::second()));
}

#[test]
fn death_and_then_destroy_leaves_nothing() {
    lab::in_lab(|lab| {
        let first = files::first();
        prepare(lab);
        let bare = lab.at_rest();
        let n = writes(lab, &first);
        lab.host.destroy(&first);
        let mut deaths = 0;
        for at in tried(n) {
            begin(lab, "");
            let died = faulty(lab, &first, &[], &format!("die:{at}"));
            lab.host.destroy(&first);
            assert_eq!(bare.diff(&lab.at_rest()), "", "write {at} of {n}");
            deaths += usize::from(died.status == 137);
        }
        println!("\ntried: {deaths} deaths, nothing left, of {n} writes");
        assert!(deaths >= SAMPLE.min(n) - 1, "only {deaths} deaths");
    });
}

/// netrec is killed at random instants of a change, from its start to a little after its usual end; the next apply makes
/// what an undisturbed one would have made, or a destroy leaves nothing.
fn is_killed(lab: &Lab, part: u64, before: &str, after: &str) {
    prepare(lab);
    let bare = lab.at_rest();
    let file = lab.host.write("after.toml", after);
    let start = || {
        let mut command = Command::new(NETREC);
        command.args(["-c", &file, "apply", "-y"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        lab.host.spawn(&mut command).expect("netrec")
    };
    lab.host.apply(before);
    let begin = Instant::now();
    assert!(start().wait().expect("its end").success());
    let usual = begin.elapsed();
    let wanted = lab.at_rest();
    let seed = number("NETREC_SEED").unwrap_or(0);
    // xorshift64*, so that a failure can be had again by its seed.
    let mut random = (seed + part).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let kills = number("NETREC_KILLS").unwrap_or(6).div_ceil(2);
    let (mut died, mut converged) = (0, 0);
    for n in 0..kills {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let share = random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let instant = usual.mul_f64(f64::from(u32::try_from(share).expect("32 bits")) / f64::from(u32::MAX));
        lab.host.apply(before);
        let mut netrec = start();
        std::thread::sleep(instant);
        let _ = netrec.kill();
        died += u64::from(netrec.wait().expect("its end").code().is_none());
        let what = format!("seed {seed}, kill {n} of {kills} after {instant:?} of {usual:?}");
        if n % 4 == 3 {
            lab.host.destroy(after);
            assert_eq!(bare.diff(&lab.at_rest()), "", "{what}: destroy leaves something");
        } else {
            lab.host.apply(after);
            assert_eq!(lab.host.plan(after).actions(), [""; 0], "{what}: the plan is not empty");
            assert_eq!(wanted.diff(&lab.at_rest()), "", "{what}: another state than without a crash");
        }
        converged += 1;
    }
    lab.host.destroy(after);
    assert_eq!(bare.diff(&lab.at_rest()), "", "destroy leaves something");
    println!("\ntried: {converged} of {kills} converged, {died} of them killed before their end, seed {seed}");
    assert!(died > 0 || kills == 0, "all had ended before they were killed: {usual:?} is too long");
}

#[test]
fn death_at_a_random_instant_costs_nothing_when_all_comes() {
    lab::in_lab(|lab| is_killed(lab, 1, "", &files::first()));
}

#[test]
fn death_at_a_random_instant_costs_nothing_when_all_changes() {
    lab::in_lab(|lab| is_killed(lab, 2, &files::first(), &files::second()));
}

const AS_BEFORE: &str = "what had been done was taken back: the host is as it was before\n";

/// A write fails, of each that is tried; what had been done is taken back.
fn fails(lab: &Lab, before: &str, after: &str, env: &[(&str, &str)]) {
    prepare(lab);
    begin(lab, before);
    let n = writes(lab, after);
    begin(lab, before);
    let was = lab.at_rest();
    let (mut failed, mut needless) = (0, 0);
    let codes = number("NETREC_CODES").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    for (at, code) in tried(n).flat_map(|at| (at..at + codes).map(move |code| (at, code))) {
        let fault = format!("fail:{at}:{}", ERRNOS[code % ERRNOS.len()]);
        let output = faulty(lab, after, env, &fault);
        // An address or a device that is gone already is as good as removed.
        if output.status == 0 {
            assert_eq!(lab.host.plan(after).actions(), [""; 0], "{fault} of {n}: {}", output.stderr);
            begin(lab, before);
            needless += 1;
            continue;
        }
        assert_eq!((output.status, output.stderr.ends_with(AS_BEFORE)), (4, true), "{fault} of {n}: {}", output.stderr);
        assert_eq!(was.diff(&lab.at_rest()), "", "{fault} of {n}: {}", output.stderr);
        begin(lab, before);
        failed += 1;
    }
    println!("\ntried: {failed} failures, all taken back, and {needless} that did not matter, of {n} writes");
    assert!(failed >= SAMPLE.min(n) / 2, "only {failed} failures");
}

#[test]
fn failure_at_a_write_takes_back_what_came() {
    lab::in_lab(|lab| fails(lab, "", &files::first(), &[]));
}

/// In batches, with the failing message among others.
#[test]
fn failure_at_a_write_puts_back_what_there_was() {
    lab::in_lab(|lab| fails(lab, &files::first(), &files::second(), &[]));
}

/// One message per send.
#[test]
fn failure_of_a_single_write_puts_back_what_there_was() {
    lab::in_lab(|lab| fails(lab, &files::first(), &files::second(), &[("NETREC_SINGLE", "1")]));
}

/// The first address of a subnet becomes another, and a write of each sort fails: all are in their order again.
#[test]
fn failure_at_a_write_puts_addresses_back_in_their_order() {
    lab::in_lab(|lab| {
        let file = |list: &str| {
            format!("[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web.networks.front]\naddress = [{list}]\n")
        };
        let (before, after) = (file("'10.20.0.30', '10.20.0.10'"), file("'10.20.0.10', '10.20.0.30', '10.20.0.20'"));
        prepare(lab);
        lab.host.apply(&before);
        let n = writes(lab, &after);
        lab.host.apply(&before);
        let was = lab.at_rest();
        assert!(was.text().contains("\"secondary\":true"), "{}", was.text());
        for at in 1..=n {
            let output = faulty(lab, &after, &[("NETREC_SINGLE", "1")], &format!("fail:{at}:EBUSY"));
            assert_eq!(
                (output.status, output.stderr.ends_with(AS_BEFORE)),
                (4, true),
                "{at} of {n}: {}",
                output.stderr
            );
            assert_eq!(was.diff(&lab.at_rest()), "", "{at} of {n}: {}", output.stderr);
        }
        assert_eq!(n, 3, "one goes, and two come");
    });
}

/// What an apply says is left is what there is to do to get back, each with what is amiss, and then why it was not done.
fn says_what_is_left(lab: &Lab, before: &str, stderr: &str, what: &str) {
    let head = "what had been done could not all be taken back; left to do:\n";
    let tail = "`netrec apply` brings the host to the file, `netrec destroy` removes all that is netrec's\n";
    let (_, left) = stderr.split_once(head).unwrap_or_else(|| panic!("{what}: {stderr}"));
    let left = left.strip_suffix(tail).unwrap_or_else(|| panic!("{what}: {stderr}"));
    let mut lines: Vec<&str> = left.lines().map(|line| line.strip_prefix("  ").expect("a line of the list")).collect();
    let mut actions = lab.host.plan(before).actions();
    // Each file knows its own parameters of devices, which come back with the devices.
    let of_device = |key: &str| key.starts_with("sysctl net/") && key.contains("/conf/");
    actions.retain(|action| !action.split_once(' ').is_some_and(|(_, key)| of_device(key)));
    lines.retain(|line| !of_device(line));
    assert!(!actions.is_empty(), "{what}: nothing is left, but it says {left}");
    for action in actions {
        let (op, key) = action.split_once(' ').expect("an action");
        let said = match op {
            "create" => format!("{key} is missing"),
            "delete" => format!("{key} is still there"),
            _ => key.to_owned(),
        };
        let found = lines.iter().position(|line| match line.strip_prefix(&said) {
            Some(rest) if op == "create" || op == "delete" => rest.is_empty(),
            Some(rest) => rest.starts_with(": ") || rest.starts_with(" has ") || rest.starts_with(" is "),
            None => false,
        });
        lines.remove(found.unwrap_or_else(|| panic!("{what}: no word of `{action}` in\n{left}")));
    }
    // One refusal may be the reason of the next: what was not renamed has not its new name.
    let refused = |line: &&str| {
        ["create ", "change ", "update ", "replace ", "delete "].iter().any(|verb| line.starts_with(verb))
    };
    assert!(lines.iter().all(refused), "{what}: not left, and no reason either: {lines:#?}");
    assert!(lines.iter().any(|line| line.contains(": Operation not permitted")), "{what}: no reason: {lines:#?}");
}

/// A write fails, of each that is tried, and of what takes it back one fails, or all from one on. One is tried again, and
/// all is as before; else it is said what is left, and neither the next apply nor a destroy minds.
fn fails_twice(lab: &Lab, before: &str, after: &str) {
    prepare(lab);
    let bare = lab.at_rest();
    begin(lab, before);
    let n = writes(lab, after);
    let wanted = lab.at_rest();
    begin(lab, before);
    let was = lab.at_rest();
    let (mut mended, mut stuck) = (0, 0);
    for at in tried(n) {
        let once = format!("fail:{at}:EBUSY");
        let file = lab.host.write("faulty.toml", after);
        let failed = lab.host.netrec_with_env(&[("NETREC_FAULT", &once)], &["-c", &file, "apply", "-y", "--json"]);
        if failed.status == 0 {
            begin(lab, before);
            continue;
        }
        let json: serde_json::Value = serde_json::from_str(&failed.stdout).expect("one JSON document");
        let all = json["writes"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("writes");
        assert!(all >= at, "{once}: {all} writes");
        if all == at {
            // Nothing had been done.
            assert_eq!(was.diff(&lab.at_rest()), "", "{once}");
            continue;
        }
        // Another one of them each time, the last one too.
        let second = all - (at * 7) % (all - at);
        begin(lab, before);
        let twice = format!("{once},fail:{second}:EPERM");
        let output = faulty(lab, after, &[], &twice);
        let what = format!("{twice} of {n} and {all}");
        assert_eq!((output.status, output.stderr.ends_with(AS_BEFORE)), (4, true), "{what}: {}", output.stderr);
        assert_eq!(was.diff(&lab.at_rest()), "", "{what}: {}", output.stderr);
        mended += 1;

        begin(lab, before);
        let for_good = format!("{once},fail:{second}+:EPERM");
        let output = faulty(lab, after, &[], &for_good);
        let what = format!("{for_good} of {n} and {all}");
        assert_eq!(output.status, 1, "{what}: {}", output.stderr);
        says_what_is_left(lab, before, &output.stderr, &what);
        stuck += 1;
        if stuck % 2 == 1 {
            lab.host.apply(after);
            assert_eq!(lab.host.plan(after).actions(), [""; 0], "{what}: the plan is not empty");
            assert_eq!(wanted.diff(&lab.at_rest()), "", "{what}: another state than without failures");
        } else {
            lab.host.destroy(after);
            assert_eq!(bare.diff(&lab.at_rest()), "", "{what}: destroy leaves something");
            begin(lab, before);
            lab.host.apply(after);
        }
        begin(lab, before);
    }
    lab.host.destroy(before);
    assert_eq!(bare.diff(&lab.at_rest()), "", "destroy leaves something");
    println!("\ntried: {mended} ways back that failed once, {stuck} that failed for good, of {n} writes");
    assert!(stuck >= SAMPLE.min(n) / 2, "only {stuck} ways back failed");
}

#[test]
fn failure_of_the_way_back_when_all_comes() {
    lab::in_lab(|lab| fails_twice(lab, "", &files::first()));
}

#[test]
fn failure_of_the_way_back_when_all_changes() {
    lab::in_lab(|lab| fails_twice(lab, &files::first(), &files::second()));
}

/// A network gets another device and another subnet under a container that runs: at no moment, and after no crash, does
/// the world reach a port that is not published.
#[test]
fn nothing_is_reachable_before_its_rules_stand() {
    lab::in_lab(|lab| {
        let file = |bridge: &str, net: &str| {
            format!(
                "[networks.front]\nbridge = '{bridge}'\nsubnet = '{net}.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = '{net}.10' }}\nports = ['8080:80']\n"
            )
        };
        let (before, after) = (file("nr-one", "10.20.0"), file("nr-two", "10.22.0"));
        lab.host.apply(&before);
        let n = writes(lab, &after);
        for at in tried(n + 1) {
            lab.host.apply(&before);
            let web = lab.container("web");
            let _listeners = [80, 81].map(|port| web.listen_tcp("web", &format!("0.0.0.0:{port}")));
            let died = faulty(lab, &after, &[], &format!("die:{at}"));
            let asked = ["10.20.0.10:80", "10.20.0.10:81", "10.22.0.10:80", "10.22.0.10:81"];
            let answers = std::thread::scope(|scope| {
                let asking = asked.map(|to| scope.spawn(move || lab.world.tcp(to).is_ok()));
                asking.map(|thread| thread.join().expect("an answer or none"))
            });
            assert_eq!(answers, [false; 4], "write {at}: the world reached one of {asked:?}");
            assert!(died.status == 137 || at + 5 > n, "write {at} of {n}: {}", died.stderr);
            lab.host.destroy(&after);
        }
        // It is the rules that keep it out: what is published answers.
        lab.host.apply(&after);
        let _listener = lab.container("web").listen_tcp("web", "0.0.0.0:80");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
    });
}
