//! Plans in files: what is carried out is what would be planned now, or nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::SHOP;
use crate::lab::{self, Lab, NETREC, Output, Snapshot};

/// Where the tests' plans are.
const PLAN: &str = "/run/lab/plan";

/// One container with one port.
const SMALL: &str = "[networks.front]\nsubnet = \"10.20.0.0/24\"\n\n[containers.web]\n\
                     networks.front = { address = \"10.20.0.10\" }\nports = [\"8080:80\"]\n";

/// Saves a plan of the file, which must succeed.
fn save(lab: &Lab, toml: &str) {
    let output = lab.host.try_netrec(toml, &["plan", "-o", PLAN]);
    assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{}", output.stdout);
}

fn apply(lab: &Lab) -> Output {
    lab.host.netrec(&["apply", PLAN])
}

/// The plan is out of date; what is said of it after the first line.
fn news(lab: &Lab) -> String {
    // Link-local addresses may still be on their way.
    drop(lab.host.settle());
    let before = Snapshot::of_machine(&lab.host);
    let output = apply(lab);
    assert_eq!((output.status, output.stdout.as_str()), (6, ""), "{}", output.stderr);
    assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "", "nothing was done");
    let first = "error: the plan is out of date, nothing was done: look at a new one (`netrec plan`)\n";
    output.stderr.strip_prefix(first).expect(&output.stderr).to_owned()
}

#[test]
fn a_saved_plan_is_carried_out_once() {
    lab::in_lab(|lab| {
        save(lab, SHOP);
        let mode = fs::metadata(lab.host.path(PLAN)).expect("the plan").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        // It needs neither a terminal nor -y, and shows what it does.
        let planned = lab.host.try_netrec(SHOP, &["plan"]);
        let output = lab.host.netrec(&["apply", PLAN, "--detailed-exitcode"]);
        assert_eq!(output.status, 2, "{}", output.stderr);
        assert_eq!(output.stdout, planned.stdout);
        assert_eq!(lab.host.plan(SHOP).actions(), [""; 0]);
        let _web = lab.container("web").listen_tcp("web", "0.0.0.0:80");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        let said = news(lab);
        assert!(said.starts_with("the plan then and now:\n  address 10.20.0.1/24 dev nr-front: create, now nothing\n"));
        assert!(said.ends_with(" more objects\nthere is nothing left to do\n"), "{said}");
        assert_eq!(said.lines().count(), 23, "{said}");
        // What has nothing to do does nothing, as often as one likes. The file before is a plan, so it is replaced.
        save(lab, SHOP);
        for _ in 0..2 {
            let output = apply(lab);
            assert_eq!(output.status, 0, "{}", output.stderr);
            assert_eq!(output.stdout, "No changes. host matches /run/lab/netrec.toml.\n");
        }
        // A removal too, and as a document.
        let output = lab.host.netrec(&["plan", "--destroy", "--json", "-o", PLAN]);
        let removal: Value = serde_json::from_str(&output.stdout).expect("one JSON document");
        let output = lab.host.netrec(&["apply", PLAN, "--json"]);
        let done: Value = serde_json::from_str(&output.stdout).expect("one JSON document");
        assert_eq!((output.status, &done["applied"]), (0, &true.into()), "{}", output.stderr);
        assert_eq!(done["summary"], removal["summary"]);
        assert_eq!(lab.host.netrec(&["plan", "--destroy", "--detailed-exitcode"]).status, 0);
        let output = lab.host.netrec(&["apply", PLAN, "--json"]);
        let document: Value = serde_json::from_str(&output.stdout).expect("one JSON document");
        assert_eq!((output.status, &document["exit_status"]), (6, &6.into()));
    });
}

#[test]
fn the_files_are_those_of_the_plan_wherever_it_is_applied() {
    lab::in_lab(|lab| {
        lab.host.write("netrec.toml", SHOP);
        let plan = |line: &str| lab.host.sh(&format!("cd /run/lab; {NETREC} {line} plan -o {PLAN}"));
        plan("-c netrec.toml");
        assert_eq!(apply(lab).status, 0);
        // A piped text is in the plan, and a folder's files are looked for again.
        let (networks, containers) = SHOP.split_once("[containers.web]").expect("two parts");
        lab.host.sh("mkdir /run/lab/conf.d");
        lab.host.write("conf.d/10-networks.toml", networks);
        lab.host.write("containers.toml", &format!("[containers.web]{}", containers.replace("8080", "8888")));
        plan("-c conf.d -c - <containers.toml");
        lab.host.sh("rm /run/lab/containers.toml");
        lab.host.write("conf.d/20-more.toml", "[containers.more]\n");
        assert_eq!(
            news(lab),
            "/run/lab/conf.d/20-more.toml is new\nthe plan then and now:\n  netns more: nothing, now create\n"
        );
        lab.host.sh("rm /run/lab/conf.d/20-more.toml");
        let output = apply(lab);
        assert_eq!(output.status, 0, "{}", output.stderr);
        let _web = lab.container("web").listen_tcp("web", "0.0.0.0:80");
        lab.expect("world tcp 192.0.2.1:8888 -> web sees 192.0.2.9\nworld tcp 192.0.2.1:8080 -> refused");
        // Its options are its own.
        for more in [&["-c", "x.toml"][..], &["--host", "a"], &["--target", "containers.web"]] {
            let output = lab.host.netrec(&[&["apply", PLAN], more].concat());
            let text = "error: a saved plan has its own configuration and options: leave out -c, --host and --target\n";
            assert_eq!((output.status, output.stderr.as_str()), (64, text));
        }
        // Only a part.
        let file = lab.host.write("netrec.toml", &SHOP.replace("8080", "8081").replace("5432:", "5433:"));
        let output = lab.host.netrec(&["-c", &file, "plan", "-o", PLAN, "--target", "containers.db"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        assert_eq!(apply(lab).status, 0);
        lab.expect("world tcp 192.0.2.1:8888 -> web sees 192.0.2.9");
        let rest = lab.host.netrec(&["-c", &file, "plan", "--json", "--target", "containers.db"]).stdout;
        let rest: Value = serde_json::from_str(&rest).expect("one JSON document");
        assert_eq!((&rest["changed"], &rest["left_out"]), (&false.into(), &4.into()), "{rest:#}");
    });
}

#[test]
fn what_changed_since_is_shown_and_nothing_is_done() {
    lab::in_lab(|lab| {
        lab.host.apply(SMALL);
        // The text alone, and what it wants.
        save(lab, SMALL);
        lab.host.write("netrec.toml", &format!("# Mine.\n{SMALL}"));
        assert_eq!(news(lab), "/run/lab/netrec.toml changed:\n  + # Mine.\n");
        lab.host.write("netrec.toml", &SMALL.replace("8080", "8081"));
        assert_eq!(
            news(lab),
            "/run/lab/netrec.toml changed:\n  - ports = [\"8080:80\"]\n  + ports = [\"8081:80\"]\n\
             the plan then and now:\n  element port4-any { tcp . 8080 }: nothing, now remove\n  \
             element port4-any { tcp . 8081 }: nothing, now create\n"
        );
        let output = {
            lab.host.write("netrec.toml", "not toml");
            apply(lab)
        };
        assert_eq!(output.status, 3, "{}", output.stderr);
        // What somebody did to the host.
        save(lab, SMALL);
        lab.host.run(["ip", "link", "set", "nr-front", "mtu", "1400"]);
        assert_eq!(news(lab), "the plan then and now:\n  link nr-front: nothing, now change\n");
        save(lab, SMALL);
        lab.host.run(["ip", "link", "set", "nr-front", "mtu", "1300"]);
        assert_eq!(news(lab), "the plan then and now:\n  link nr-front: change with before.mtu 1400 -> 1300\n");
        lab.host.apply(SMALL);
        // What the host is beside: the uplink's MTU is that of networks without one.
        save(lab, SMALL);
        lab.host.run(["ip", "link", "set", "uplink", "mtu", "1400"]);
        let said = news(lab);
        assert!(said.contains("\n  link nr-front: nothing, now change\n"), "{said}");
        lab.host.run(["ip", "link", "set", "uplink", "mtu", "1500"]);
        // An address where a network is to be.
        lab.host.destroy(SMALL);
        save(lab, SMALL);
        lab.host.add_address("uplink", "10.20.0.77/32");
        assert_eq!(
            news(lab),
            "subnet 10.20.0.0/24 of network `front` overlaps address 10.20.0.77/32 on `uplink` of this host \
             (/run/lab/netrec.toml:1): choose another subnet, or set `overlap = \"warn\"` in [settings] if it is meant\n"
        );
        lab.host.run(["ip", "address", "del", "10.20.0.77/32", "dev", "uplink"]);
        assert_eq!(apply(lab).status, 0);
    });
}

#[test]
fn only_a_whole_plan_of_this_host_is_used() {
    lab::in_lab(|lab| {
        save(lab, SMALL);
        let good = fs::read_to_string(lab.host.path(PLAN)).expect("the plan");
        let told = |text: &str| {
            fs::write(lab.host.path(PLAN), text).expect("a file");
            let output = apply(lab);
            assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{}", output.stderr);
            output.stderr
        };
        let no_plan =
            "error: /run/lab/plan is no saved plan of netrec's: to apply a configuration use `-c /run/lab/plan`\n";
        for text in ["", SMALL, "{}", "[]", "\0\0", "{\"netrec_saved_plan\""] {
            assert_eq!(told(text), no_plan, "{text}");
        }
        let damaged = "error: /run/lab/plan is a damaged plan (";
        for text in [
            &good[..good.len() / 2],
            &good[..good.len() - 2],
            "{\"netrec_saved_plan\":1}",
            &good.replace("\"actions\":[", "\"actions\":7,\"x\":["),
            &good.replace("\"destroy\":false", "\"destroy\":\"\u{1b}[2J\""),
            &format!("{{\"netrec_saved_plan\":{}", "[".repeat(100_000)),
        ] {
            let said = told(text);
            assert!(said.starts_with(damaged), "{said}");
            assert!(said.ends_with("): make it anew with `netrec plan -o /run/lab/plan`\n"), "{said}");
            assert!(!said.contains('\u{1b}'), "{said:?}");
        }
        assert_eq!(
            told(&good.replace("\"netrec_saved_plan\":1", "\"netrec_saved_plan\":2")),
            "error: /run/lab/plan has format 2 of saved plans, and this netrec reads format 1: make the plan anew with \
             `netrec plan -o /run/lab/plan`\n"
        );
        assert_eq!(
            told(&good.replace("\"system\":\"host\"", "\"system\":\"elsewhere\"")),
            "error: /run/lab/plan is a plan for host `elsewhere`, and this is `host`: make one here\n"
        );
        lab.host.sh(&format!("chmod 660 {PLAN}"));
        let doubt = "/run/lab/plan can be written by its group (mode 660): `chmod go-w /run/lab/plan`";
        fs::write(lab.host.path(PLAN), &good).expect("a file");
        let refused = lab.host.netrec(&["apply", PLAN]);
        let text = format!(
            "error: others than root and the one who runs netrec could write this host's networks:\n  {doubt}\n`--insecure` \
             goes on all the same\n"
        );
        assert_eq!((refused.status, refused.stderr), (3, text));
        let gone_on = lab.host.netrec(&["apply", PLAN, "--insecure"]);
        let warned = gone_on.stderr.starts_with(&format!("warning: {doubt}\nDone in "));
        assert_eq!((gone_on.status, warned), (0, true), "{}", gone_on.stderr);
        lab.host.destroy(SMALL);
        lab.host.sh(&format!("chmod 600 {PLAN}"));
        // So is the configuration that it was made from.
        let file = "/run/lab/netrec.toml";
        lab.host.sh(&format!("chmod 646 {file}"));
        let refused = lab.host.netrec(&["apply", PLAN]);
        let line = format!("  {file} can be written by others (mode 646): `chmod go-w {file}`\n");
        assert_eq!((refused.status, refused.stderr.contains(&line)), (3, true), "{}", refused.stderr);
        lab.host.sh(&format!("chmod 644 {file}"));
        // What it says that it does is compared, and never done.
        fs::write(lab.host.path(PLAN), good.replace("nr-front", "uplink")).expect("a file");
        let said = news(lab);
        assert!(said.contains("  link nr-front: nothing, now create\n"), "{said}");
        assert!(said.contains("  link uplink: create, now nothing\n"), "{said}");
        assert_eq!(lab.host.netrec(&["apply", "/run/lab"]).status, 1);
        assert_eq!(
            lab.host.netrec(&["apply", "/run/lab/none"]).stderr,
            "error: cannot read /run/lab/none: No such file or directory (os error 2)\n"
        );
    });
}

#[test]
fn a_plan_replaces_nothing_but_a_plan() {
    lab::in_lab(|lab| {
        let file = lab.host.write("netrec.toml", SMALL);
        let plan = |to: &str| lab.host.netrec(&["-c", &file, "plan", "-o", to]);
        let told = |to: &str, what: &str| {
            let output = plan(to);
            let text = format!("error: {to} is {what}, so no plan is written there: name another file\n");
            assert_eq!((output.status, output.stdout, output.stderr), (1, String::new(), text));
        };
        lab.host.sh("cd /run/lab; : >empty; ln -s empty link; ln -s none dangling; mkfifo pipe; ln -s / folder");
        told(&file, "no saved plan");
        told("/run/lab/link", "a symbolic link");
        told("/run/lab/dangling", "a symbolic link");
        told("/run/lab/pipe", "no regular file");
        told("/dev/null", "no regular file");
        told("/run/lab", "a folder");
        assert_eq!(lab.host.sh(&format!("cat {file}")), SMALL);
        assert_eq!(lab.host.sh("stat -c %s /run/lab/empty"), "0\n");
        assert_eq!(
            plan("/nowhere/plan").stderr,
            "error: cannot write /nowhere/plan: No such file or directory (os error 2)\n"
        );
        // An empty file of everybody's becomes the owner's alone.
        lab.host.sh("chmod 666 /run/lab/empty");
        assert_eq!(plan("/run/lab/empty").status, 0);
        assert_eq!(lab.host.sh("stat -c %a /run/lab/empty"), "600\n");
        assert_eq!(lab.host.sh("cd /run/lab; ls -A"), "dangling\nempty\nfolder\nlink\nnetrec.toml\npipe\n");
        assert_eq!(lab.host.netrec(&["apply", "/run/lab/empty"]).status, 0);
    });
}
