//! `apply --confirm`: a change that is taken back unless somebody confirms it, whatever becomes of who made it.

use crate::SHOP;
use crate::lab::{self, Lab, NETREC, Snapshot, until};
use crate::watch::Watching;

/// Another network, another port, and one container less.
const AFTER: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.other]
subnet = "10.25.0.0/24"

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
networks.other = {}
ports = ["8080:81"]
"#;

/// Applies the file before, and then the one after for so long. Yields the state before.
fn try_for(lab: &Lab, time: &str) -> Snapshot {
    lab.host.apply(SHOP);
    let before = lab.at_rest();
    let file = lab.host.write("after.toml", AFTER);
    let applied = lab.host.netrec(&["-c", &file, "apply", "-y", "--confirm", time]);
    assert_eq!(applied.status, 0, "{}", applied.stderr);
    before
}

/// The guard's pid, as the machine sees it.
fn guard(lab: &Lab) -> Option<i32> {
    let found = lab.host.sh("grep -lz '^guard$' /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 || true");
    found.split_whitespace().next().map(|pid| pid.parse().expect("a pid"))
}

fn no_guard(lab: &Lab) {
    until("the guard ends", || guard(lab).is_none());
}

/// What there was before is back, and the rest of netrec knows.
fn is_back(lab: &Lab, before: &Snapshot) {
    until("what there was before is back", || lab.host.try_netrec(SHOP, &["plan", "--detailed-exitcode"]).status == 0);
    no_guard(lab);
    assert_eq!(before.diff(&lab.at_rest()), "");
    let plan = lab.host.try_netrec(SHOP, &["plan"]);
    assert_eq!(plan.stderr, "/run/lab/after.toml was not confirmed, and was taken back\n");
    let late = lab.host.netrec(&["confirm"]);
    let told = "error: /run/lab/after.toml was not confirmed in time, and was taken back: apply it again\n";
    assert_eq!((late.status, late.stderr.as_str()), (1, told));
}

#[test]
fn what_nobody_confirms_is_taken_back() {
    lab::in_lab(|lab| {
        let before = try_for(lab, "1s");
        is_back(lab, &before);
        // A person who applies it again means it.
        lab.host.apply(AFTER);
        assert_eq!(lab.host.try_netrec(AFTER, &["plan"]).stderr, "");
    });
}

#[test]
fn what_is_confirmed_stays() {
    lab::in_lab(|lab| {
        try_for(lab, "1h");
        let after = lab.at_rest();
        let confirmed = lab.host.netrec(&["confirm"]);
        let told = "/run/lab/after.toml is confirmed: it stays.\n";
        assert_eq!((confirmed.status, confirmed.stderr.as_str()), (0, told));
        no_guard(lab);
        assert_eq!(after.diff(&lab.at_rest()), "");
        assert_eq!(lab.host.sh("cat /var/lib/netrec/confirmed.toml"), AFTER);
        assert_eq!(lab.host.sh("stat -c %a /var/lib/netrec/confirmed.toml"), "600\n");
        // From then on whatever somebody applies for good is the last confirmed one.
        lab.host.apply(SHOP);
        assert_eq!(lab.host.sh("cat /var/lib/netrec/confirmed.toml"), SHOP);
        for command in ["confirm", "rollback"] {
            let again = lab.host.netrec(&[command]);
            let told = "error: nothing waits to be confirmed on this host\n";
            assert_eq!((again.status, again.stderr.as_str()), (1, told), "{command}");
        }
    });
}

#[test]
fn while_one_waits_no_other_is_applied() {
    lab::in_lab(|lab| {
        let before = try_for(lab, "1h");
        let after = lab.at_rest();
        for command in [vec!["apply", "-y"], vec!["apply", "-y", "--confirm", "5s"], vec!["destroy", "-y"]] {
            let refused = lab.host.try_netrec(SHOP, &command);
            assert_eq!((refused.status, refused.stdout.as_str()), (1, ""), "{command:?}");
            let (first, rest) = refused.stderr.split_once("confirmed, ").expect("a time");
            assert_eq!(first, "error: /run/lab/after.toml was applied and waits to be ");
            let (seconds, rest) = rest.split_once(" s more").expect("seconds");
            assert!((3500..=3600).contains(&seconds.parse().unwrap_or(0)), "{seconds}");
            assert_eq!(rest, ": `netrec confirm` keeps it, `netrec rollback` takes it back\n");
        }
        assert_eq!(after.diff(&lab.at_rest()), "");
        let back = lab.host.netrec(&["rollback"]);
        let told = "/run/lab/after.toml is taken back: the host is as it was before.\n";
        assert_eq!((back.status, back.stderr.as_str()), (0, told));
        is_back(lab, &before);
    });
}

#[test]
fn a_guard_outlives_the_terminal() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        let file = lab.host.write("after.toml", AFTER);
        // `script` gives it a terminal of its own, and takes it away with all that is on it.
        let line = format!("{NETREC} -c {file} apply -y --confirm 2s; kill -HUP -$$");
        lab.host.try_run(["script", "-qec", &line, "/dev/null"]);
        assert!(guard(lab).is_some() || lab.host.try_netrec(SHOP, &["plan", "--detailed-exitcode"]).status == 0);
        is_back(lab, &before);
    });
}

#[test]
fn a_guard_outlives_its_netrec() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        let file = lab.host.write("after.toml", AFTER);
        let fault = [("NETREC_FAULT", "die:20")];
        let died = lab.host.netrec_with_env(&fault, &["-c", &file, "apply", "-y", "--confirm", "2s"]);
        assert_eq!(died.status, 137, "{}", died.stderr);
        is_back(lab, &before);
    });
}

/// The wall clock is set back by a year while a change waits, as its guard sees it: the time goes by a clock that nobody sets.
#[test]
fn a_guard_does_not_mind_the_clock() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        let file = lab.host.write("after.toml", AFTER);
        let clock = lab.host.write("clock", "+0d\n");
        let env = [
            ("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1"),
            ("FAKETIME_TIMESTAMP_FILE", clock.as_str()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let year = || {
            let mut date = std::process::Command::new("date");
            date.arg("+%Y").envs(env).stdout(std::process::Stdio::piped());
            let output = lab.host.spawn(&mut date).expect("date").wait_with_output().expect("its end");
            String::from_utf8(output.stdout).expect("text").trim().parse::<u32>().expect("a year")
        };
        let now = year();
        let applied = lab.host.netrec_with_env(&env, &["-c", &file, "apply", "-y", "--confirm", "3s"]);
        assert_eq!(applied.status, 0, "{}", applied.stderr);
        lab.host.write("clock", "-366d\n");
        assert!(year() < now, "the clock was not set back");
        assert!(guard(lab).is_some(), "nothing waits");
        is_back(lab, &before);
    });
}

#[test]
fn what_is_confirmed_stays_also_where_no_copy_can_be_kept() {
    lab::in_lab(|lab| {
        try_for(lab, "1h");
        let after = lab.at_rest();
        lab.host.sh("mkdir /var/lib/netrec/confirmed.toml");
        let confirmed = lab.host.netrec(&["confirm"]);
        let told = "error: /run/lab/after.toml is confirmed and stays, but could not be kept as the last confirmed \
                    configuration: /var/lib/netrec/confirmed.toml: Is a directory (os error 21)\n";
        assert_eq!((confirmed.status, confirmed.stderr.as_str()), (1, told));
        no_guard(lab);
        assert_eq!(after.diff(&lab.at_rest()), "");
    });
}

#[test]
fn nothing_is_done_where_a_boot_would_not_know_of_it() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        lab.host.sh("echo > /var/lib/netrec");
        let file = lab.host.write("after.toml", AFTER);
        let refused = lab.host.netrec(&["-c", &file, "apply", "-y", "--confirm", "1h"]);
        let told = "error: /var/lib/netrec/held.json: File exists (os error 17)\n";
        assert_eq!((refused.status, refused.stderr.as_str()), (1, told));
        no_guard(lab);
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}

#[test]
fn half_a_change_is_not_confirmed() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        let file = lab.host.write("after.toml", AFTER);
        let fault = [("NETREC_FAULT", "die:20")];
        let died = lab.host.netrec_with_env(&fault, &["-c", &file, "apply", "-y", "--confirm", "1h"]);
        assert_eq!(died.status, 137, "{}", died.stderr);
        let plan = lab.host.try_netrec(AFTER, &["plan"]);
        let told =
            "/run/lab/after.toml is being applied, or its netrec died: `netrec rollback` takes back what was done\n";
        assert_eq!((plan.status, plan.stderr.as_str()), (0, told));
        let refused = lab.host.netrec(&["confirm"]);
        let told = "error: /run/lab/after.toml was not applied to the end, since its netrec died: `netrec rollback` takes \
                    back what was done\n";
        assert_eq!((refused.status, refused.stderr.as_str()), (1, told));
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        is_back(lab, &before);
    });
}

#[test]
fn where_the_guard_was_killed_the_next_command_says_so() {
    lab::in_lab(|lab| {
        let before = try_for(lab, "1h");
        let pid = guard(lab).expect("a guard");
        // In a session of its own (the sixth field), which no terminal ends.
        assert_eq!(lab.host.sh(&format!("cut -d' ' -f6 /proc/{pid}/stat")).trim(), pid.to_string());
        lab.host.run(["kill", "-KILL", &pid.to_string()]);
        no_guard(lab);
        let told = "/run/lab/after.toml was applied and waits to be confirmed, but its guard was killed, so that nothing takes \
                    it back by itself: `netrec confirm` keeps it, `netrec rollback` takes it back\n";
        let plan = lab.host.try_netrec(AFTER, &["plan"]);
        assert_eq!((plan.status, plan.stderr.as_str()), (0, told));
        assert!(plan.stdout.ends_with("No changes. host matches /run/lab/netrec.toml.\n"), "{}", plan.stdout);
        let refused = lab.host.try_netrec(SHOP, &["apply", "-y"]);
        assert_eq!((refused.status, refused.stderr), (1, format!("error: {told}")));
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        is_back(lab, &before);
    });
}

#[test]
fn a_change_that_fails_needs_no_guard() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let before = lab.at_rest();
        let file = lab.host.write("after.toml", AFTER);
        let fault = [("NETREC_FAULT", "fail:20:EPERM")];
        let failed = lab.host.netrec_with_env(&fault, &["-c", &file, "apply", "-y", "--confirm", "1h"]);
        assert_eq!(failed.status, 4, "{}", failed.stderr);
        no_guard(lab);
        assert_eq!(before.diff(&lab.at_rest()), "");
        assert_eq!(lab.host.try_netrec(SHOP, &["apply", "-y"]).stderr, "");
        // Nor does one that changes nothing.
        let nothing = lab.host.try_netrec(SHOP, &["apply", "-y", "--confirm", "1h"]);
        assert_eq!((nothing.status, nothing.stderr.as_str()), (0, ""));
        assert_eq!(lab.host.netrec(&["confirm"]).status, 1);
    });
}

#[test]
fn a_broken_journal_is_told() {
    lab::in_lab(|lab| {
        try_for(lab, "1h");
        let journal = lab.host.sh("ls /run/netrec/confirm-*").trim().to_owned();
        assert_eq!(lab.host.sh(&format!("stat -c %a {journal}")), "600\n");
        lab.host.sh(&format!("echo rubbish > {journal}"));
        let refused = lab.host.try_netrec(SHOP, &["apply", "-y"]);
        assert_eq!(refused.status, 1);
        assert_eq!(
            refused.stderr,
            format!(
                "error: {journal} is no journal of this netrec (expected value at line 1 column 1): if you know that nothing \
                 waits to be confirmed, remove it\n"
            )
        );
    });
}

#[test]
fn times_that_are_none_are_refused() {
    lab::in_lab(|lab| {
        for time in ["60", "soon", "-1s"] {
            let refused = lab.host.try_netrec(SHOP, &["apply", "-y", &format!("--confirm={time}")]);
            assert_eq!(refused.status, 64, "{time}: {}", refused.stderr);
        }
    });
}

/// What is left of it when a host goes down and comes up again: nothing under `/run`, and no guard.
fn reboot(lab: &Lab) {
    if let Some(pid) = guard(lab) {
        lab.host.run(["kill", "-KILL", &pid.to_string()]);
        no_guard(lab);
    }
    lab.host.sh("rm -r /run/netrec");
}

#[test]
fn a_boot_applies_the_last_confirmed_configuration_while_another_is_held_back() {
    lab::in_lab(|lab| {
        let file = lab.host.write("net/netrec.toml", SHOP);
        let boot = || {
            let output = lab.host.netrec(&["-c", &file, "--quiet", "apply", "--boot", "--json"]);
            let done: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            (output.status, done["summary"]["delete"].as_u64(), output.stderr)
        };
        let matches = |toml: &str| lab.host.try_netrec(toml, &["plan", "--detailed-exitcode"]).status == 0;
        let note = || lab.host.netrec(&["-c", &file, "apply", "--boot"]).stderr;
        // A host that boots by it knows from the first boot on what there was before a change.
        assert_eq!(boot(), (0, Some(0), String::new()));
        assert_eq!(lab.host.sh("cat /var/lib/netrec/confirmed.toml"), SHOP);

        lab.host.write("net/netrec.toml", AFTER);
        assert_eq!(lab.host.netrec(&["-c", &file, "apply", "-y", "--confirm", "1h"]).status, 0);
        // The service is started again while it waits.
        assert_eq!(boot(), (0, None, String::new()));
        assert!(note().contains("waits to be confirmed"), "{}", note());
        assert!(matches(AFTER));
        reboot(lab);
        let told = format!(
            "{file} waited to be confirmed when this host went down, or was taken back: /var/lib/netrec/confirmed.toml is \
             applied in its place; `netrec apply` applies it\n"
        );
        assert!(note().starts_with(&told), "{}", note());
        assert!(matches(SHOP));
        // As often as it boots.
        assert_eq!(boot(), (0, Some(0), String::new()));
        // By another name it is the same.
        let other = lab.host.write("net/other.toml", AFTER);
        assert_eq!(lab.host.netrec(&["-c", &other, "apply", "--boot"]).status, 0);
        assert!(matches(SHOP));

        // Watched it is held back, too, until it changes.
        let watching = Watching::start(lab, &["-c", &file]);
        watching.says_some_time(&format!("WARN {}", told.trim_end()));
        let first = watching.says_some_time("INFO ");
        assert!(first.contains(" matches /var/lib/netrec/confirmed.toml changes=0"), "{first}");
        lab.container("web").run(["ip", "route", "del", "default"]);
        watching.says_some_time("INFO repaired route default in web");
        assert!(matches(SHOP));
        let next = AFTER.replace("8080:81", "8080:82");
        lab.host.write("net/netrec.toml", &next);
        watching.says_some_time(&format!("INFO applied {file}: "));
        watching.stop();
        assert!(matches(&next));
        assert_eq!(
            lab.host.sh("cat /var/lib/netrec/confirmed.toml; ls /var/lib/netrec"),
            format!("{next}confirmed.toml\n")
        );

        // One that was taken back is not applied either, before and after a boot, and another one is.
        lab.host.write("net/netrec.toml", AFTER);
        assert_eq!(lab.host.netrec(&["-c", &file, "apply", "-y", "--confirm", "1h"]).status, 0);
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        no_guard(lab);
        assert_eq!(note(), format!("{file} was not confirmed, and was taken back\n"));
        reboot(lab);
        assert!(note().starts_with(&told), "{}", note());
        assert!(matches(&next));
        // Somebody who applies it means it.
        assert_eq!(lab.host.netrec(&["-c", &file, "apply", "-y"]).status, 0);
        assert_eq!(boot(), (0, Some(0), String::new()));
        assert!(matches(AFTER));
    });
}

#[test]
fn a_boot_applies_nothing_where_none_was_confirmed_before() {
    lab::in_lab(|lab| {
        try_for(lab, "1h");
        reboot(lab);
        let boot = lab.host.netrec(&["-c", "/run/lab/after.toml", "apply", "--boot"]);
        let told = "/run/lab/after.toml waited to be confirmed when this host went down, or was taken back, and none was \
                    confirmed before: `netrec apply` applies it\n";
        assert_eq!((boot.status, boot.stdout.as_str(), boot.stderr.as_str()), (0, "", told));
        // What there is stays as it is.
        assert_eq!(lab.host.try_netrec(AFTER, &["plan", "--detailed-exitcode"]).status, 0);
        let wrong = lab.host.netrec(&["apply", "--boot", "--confirm", "1h"]);
        assert_eq!(wrong.status, 64);
    });
}

/// Where somebody has turned off that a device promotes its secondary addresses, the first that goes must not take the others
/// along on the way back.
#[test]
fn an_order_of_addresses_is_taken_back_where_secondary_ones_are_not_promoted() {
    lab::in_lab(|lab| {
        let file = |addresses: &str| {
            format!(
                "[networks.front]\nsubnet = '10.20.0.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = [{addresses}] }}\n"
            )
        };
        for after in ["'10.20.0.6', '10.20.0.5'", "'10.20.0.6'"] {
            lab.host.apply(&file("'10.20.0.5', '10.20.0.6'"));
            lab.container("web").set_sysctl("net/ipv4/conf/eth0/promote_secondaries", "0");
            let before = lab.at_rest();
            let path = lab.host.write("after.toml", &file(after));
            assert_eq!(lab.host.netrec(&["-c", &path, "apply", "-y", "--confirm", "1h"]).status, 0);
            lab.expect("web ping 10.20.0.1 -> answer");
            let back = lab.host.netrec(&["rollback"]);
            assert_eq!(back.status, 0, "{}", back.stderr);
            assert_eq!(before.diff(&lab.at_rest()), "", "{after}");
            no_guard(lab);
        }
    });
}
