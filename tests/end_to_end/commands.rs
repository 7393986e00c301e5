//! Exit statuses, streams, the question, the lock.

use std::process::Command;

use crate::SHOP;
use crate::lab::{self, Lab, NETREC, until};

/// The exit status and the last line on standard error.
fn ending(lab: &Lab, args: &[&str]) -> (i32, String) {
    let output = lab.host.netrec(args);
    (output.status, output.stderr.trim_end().lines().last().unwrap_or_default().to_owned())
}

/// Whether an error is coloured: on a terminal, for whom colours are no trouble, unless it is said.
#[test]
fn colours_are_for_terminals() {
    lab::in_lab(|lab| {
        let coloured = "\x1b[1;31merror\x1b[0m: cannot read /nowhere.toml: No such file or directory (os error 2)\n";
        let plain = "error: cannot read /nowhere.toml: No such file or directory (os error 2)\n";
        let said = |script: &str| lab.host.try_run(["sh", "-c", script]).stdout.replace('\r', "");
        for (env, option, expected) in [
            ("TERM=xterm", "", coloured),
            ("TERM=xterm NO_COLOR=", "", coloured),
            ("TERM=xterm NO_COLOR=1", "", plain),
            ("TERM=dumb", "", plain),
            ("TERM=xterm", "--color never", plain),
            ("TERM=dumb NO_COLOR=1", "--color always", coloured),
        ] {
            let typed = format!("{env} {NETREC} {option} -c /nowhere.toml validate");
            assert_eq!(said(&format!("script -qec '{typed}' /dev/null")), expected, "{typed}");
        }
        assert_eq!(said(&format!("TERM=xterm {NETREC} -c /nowhere.toml validate 2>&1 | cat")), plain);
    });
}

#[test]
fn every_ending_has_its_exit_status() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", SHOP);
        let broken = lab.host.write("broken.toml", "[networks.front]\nsubnet = \"10.20.0.1/24\"\n");
        let shop = ["-c", file.as_str()];
        let with = |args: &[&str]| lab.host.netrec(&[&shop[..], args].concat()).status;
        assert_eq!(with(&["validate"]), 0);
        assert_eq!(with(&["plan"]), 0);
        assert_eq!(with(&["plan", "--detailed-exitcode"]), 2);
        assert_eq!(with(&["apply", "-y", "--detailed-exitcode"]), 2);
        assert_eq!(with(&["apply", "-y", "--detailed-exitcode"]), 0);
        assert_eq!(with(&["plan", "--detailed-exitcode"]), 0);
        assert_eq!(with(&["plan", "--destroy", "--detailed-exitcode"]), 2);
        for command in ["validate", "plan", "apply", "show"] {
            let args: &[&str] = if command == "apply" { &["apply", "-y"] } else { &[command] };
            let output = lab.host.netrec(&[&["-c", broken.as_str()], args].concat());
            assert_eq!((output.status, output.stdout.as_str()), (3, ""), "{command}");
            assert!(output.stderr.starts_with("error: "), "{command}: {}", output.stderr);
        }
        // For programs an error is a document too, and the only one.
        for (command, args, status) in [
            ("plan", &["plan", "--json"][..], 3),
            ("show", &["show", "--json"], 3),
            ("apply", &["apply", "--json"], 64),
        ] {
            let from = if status == 3 { &broken } else { &file };
            let output = lab.host.netrec(&[&["-c", from.as_str()], args].concat());
            let json: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON document");
            assert_eq!((output.status, &json["exit_status"]), (status, &status.into()), "{command}");
            assert!(json["error"].as_str().is_some_and(|text| !text.is_empty()), "{command}");
        }
        assert_eq!(lab.host.try_run(["sh", "-c", &format!("{NETREC} -c {file} plan >/dev/full")]).status, 1);
        assert_eq!(
            ending(lab, &["-c", "/nowhere.toml", "plan"]),
            (3, "error: cannot read /nowhere.toml: No such file or directory (os error 2)".to_owned())
        );
        assert_eq!(
            ending(lab, &["-c", &file, "apply"]),
            (64, "error: nobody to ask: `netrec apply` needs -y when it is not on a terminal".to_owned())
        );
        assert_eq!(ending(lab, &["destroy"]).0, 64);
        assert_eq!(lab.host.netrec(&["plan", "--no-such-option"]).status, 64);
        let output = lab.host.netrec(&["-c", &file, "apply", "--confirm", "5"]);
        let why = "`5` is not a duration; the unit is missing; a duration is a whole number and a unit: `500ms`, `10s`, `5m`, `1h`";
        let told = format!("error: invalid value '5' for '--confirm <DURATION>': {why}");
        assert_eq!((output.status, output.stderr.lines().next()), (64, Some(told.as_str())));
        assert_eq!(lab.host.netrec(&["--help"]).status, 0);
        assert_eq!(with(&["destroy", "-y"]), 0);
    });
}

#[test]
fn the_file_comes_from_a_folder_or_from_standard_input_too() {
    lab::in_lab(|lab| {
        let folder = lab.host.sh("mkdir -p /run/conf.d; echo /run/conf.d");
        let folder = folder.trim();
        let (networks, containers) = SHOP.split_once("[containers.web]").expect("two parts");
        lab.host.sh(&format!(
            "cat >{folder}/10-networks.toml <<'E'\n{networks}\nE\ncat >{folder}/20-containers.toml <<'E'\n[containers.web]{containers}\nE\n\
             echo 'not toml' >{folder}/README"
        ));
        let file = lab.host.write("shop.toml", SHOP);
        let whole = lab.host.netrec(&["-c", &file, "plan", "--json"]).stdout;
        let parts = lab.host.netrec(&["-c", folder, "plan", "--json"]).stdout;
        let piped = lab.host.sh(&format!("{NETREC} -c - plan --json <{file}"));
        let actions = |text: &str| {
            let json: serde_json::Value = serde_json::from_str(text).expect("one JSON document");
            json["actions"].clone()
        };
        assert_eq!(actions(&whole), actions(&parts));
        assert_eq!(actions(&whole), actions(&piped));
    });
}

#[test]
fn on_a_terminal_only_yes_goes_on() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", SHOP);
        // script(1) gives it a terminal.
        let answer = |text: &str| {
            let line = format!("printf '{text}\\n' | script -qec '{NETREC} -c {file} apply' /dev/null");
            lab.host.output(Command::new("sh").args(["-c", &line]))
        };
        for no in ["no", "y", "YES", ""] {
            let output = answer(no);
            assert_eq!(output.status, 1, "{no}: {}", output.stdout);
            assert!(output.stdout.contains("Apply this plan? Only `yes` goes on: "), "{}", output.stdout);
            assert!(output.stdout.contains("Nothing was changed."), "{}", output.stdout);
            assert_eq!(lab.host.run(["ip", "netns"]), "");
        }
        let output = answer("yes");
        assert_eq!(output.status, 0, "{}", output.stdout);
        assert!(output.stdout.contains("Done in "), "{}", output.stdout);
        assert_eq!(lab.host.plan(SHOP).actions(), [""; 0]);
    });
}

#[test]
fn lost_words_lose_no_work() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", SHOP);
        // Nobody reads, and nothing can be written.
        for sink in [">/dev/full 2>/dev/full", ">&- 2>&-", "2>/dev/full | true"] {
            lab.host.sh(&format!("{NETREC} -c {file} apply -y {sink} || exit 1"));
            assert_eq!(lab.host.plan(SHOP).actions(), [""; 0], "{sink}");
            lab.host.destroy(SHOP);
        }
    });
}

#[test]
fn a_second_netrec_waits_and_then_names_the_first() {
    lab::in_lab(|lab| {
        let quick = format!("[settings]\nlock_timeout = \"200ms\"\n{SHOP}");
        lab.host.apply(&quick);
        let inode = lab.host.sh("stat -Lc %i /proc/self/ns/net");
        let lock = format!("/run/netrec/lock-{}", inode.trim());
        let held = || lab.host.try_run(["flock", "-n", &lock, "true"]).status != 0;
        let started = lab.host.spawn(Command::new("flock").args(["--no-fork", &lock, "sleep", "60"]));
        let mut holder = started.expect("flock");
        until("the lock is held", held);
        let output = lab.host.try_netrec(&quick, &["apply", "-y"]);
        assert_eq!(output.status, 5, "{}", output.stderr);
        assert!(output.stderr.starts_with("error: another netrec (process "), "{}", output.stderr);
        assert!(output.stderr.contains("did not finish within 200 ms"), "{}", output.stderr);
        // Planning waits for nobody.
        assert_eq!(lab.host.plan(&quick).actions(), [""; 0]);
        holder.kill().expect("kill");
        holder.wait().ok();
        until("the lock is free", || !held());
        lab.host.apply(&quick);
    });
}

#[test]
fn what_show_prints_is_a_file_that_wants_the_same() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", &format!("expect = [\"world -> host:8080\", \"db-/>world\"]\n{SHOP}"));
        lab.host.apply(SHOP);
        let shown = lab.host.netrec(&["-c", &file, "show"]);
        assert_eq!(shown.status, 0, "{}", shown.stderr);
        assert_eq!(lab.host.plan(&shown.stdout).actions(), [""; 0], "{}", shown.stdout);
        let json: serde_json::Value =
            serde_json::from_str(&lab.host.netrec(&["-c", &file, "show", "--json"]).stdout).expect("JSON");
        assert_eq!(json["expect"], serde_json::json!(["world -> host:8080", "db -/> world"]));
        assert_eq!(json["networks"]["front"]["bridge"], "nr-front");
        assert_eq!(json["containers"]["web"]["networks"]["front"]["interface"], "eth0");
        // Every key that there is, in one example or another.
        for example in [
            include_str!("../../examples/policies.toml"),
            include_str!("../../examples/addresses.toml"),
            include_str!("../../examples/attachments.toml"),
            "[networks.front]\nsubnet = ['10.78.0.0/24', 'fd78::/64']\n[containers.web]\nnetworks = ['front']\n\
             ports = [{ host = 80, container = 80, address = ['192.0.2.1', '2001:db8::1'] }, '81:80', { host = 82,\
             container = 80, address = ['192.0.2.1', '192.0.2.2'], allow = '192.0.2.0/24' }]\n",
            "[networks.mixed]\nsubnet = ['10.77.0.0/24', 'fd77::/64']\nmode = { ipv4 = 'isolated', ipv6 = 'nat' }\n\
             snat = '2001:db8::2'\ntrusted = 'uplink'\n[containers.web]\nnetworks = ['mixed']\nports = ['8080:80']\n",
        ] {
            let file = lab.host.write("example.toml", example);
            lab.host.apply(example);
            let shown = lab.host.netrec(&["-c", &file, "show"]);
            assert_eq!(lab.host.plan(&shown.stdout).actions(), [""; 0], "{}", shown.stdout);
        }
    });
}

#[test]
fn names_and_addresses_are_shown_as_lines_of_hosts() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[networks.back]\nsubnet = '10.21.0.0/24'\n\
                    [networks.own]\ndriver = 'host'\n[containers.agent]\nnetworks = ['own']\n\
                    [containers.web.networks]\nfront = { address = ['10.20.0.10', 'fd20::10'] }\n\
                    back = { address = '10.21.0.10' }\n[containers.db]\nnetworks.back = { address = '10.21.0.11' }\n";
        let shown = lab.host.try_netrec(file, &["show", "--hosts"]);
        assert_eq!((shown.status, shown.stderr.as_str()), (0, ""));
        let lines = "10.20.0.10\tweb web.front\nfd20::10\tweb web.front\n10.21.0.10\tweb web.back\n\
                     10.21.0.11\tdb db.back\n";
        assert_eq!(shown.stdout, lines);
        assert_eq!(lab.host.try_netrec(file, &["show", "--hosts", "--json"]).status, 64);
    });
}

#[test]
fn a_command_runs_in_the_namespace_of_a_container() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let exec = |args: &[&str]| lab.host.try_netrec(SHOP, &[&["exec"], args].concat());
        let inside = exec(&["web", "--", "ip", "-4", "-brief", "address", "show", "eth0"]);
        assert_eq!((inside.status, inside.stderr.as_str()), (0, ""));
        assert_eq!(inside.stdout, lab.container("web").run(["ip", "-4", "-brief", "address", "show", "eth0"]));
        assert!(inside.stdout.contains("10.20.0.10/24"), "{}", inside.stdout);
        // The command's own exit status, options and streams.
        let status = exec(&["web", "--", "sh", "-c", "echo out; echo err >&2; exit 7", "-y"]);
        assert_eq!((status.status, &*status.stdout, &*status.stderr), (7, "out\n", "err\n"));
        let fails = |args: &[&str]| {
            let output = exec(args);
            (output.status, output.stdout + &output.stderr)
        };
        let text = "error: `/no/such` cannot be run: No such file or directory (os error 2)\n";
        assert_eq!(fails(&["web", "--", "/no/such"]), (1, text.to_owned()));
        let text = "error: the file has no container `wep`: did you mean `web`?\n";
        assert_eq!(fails(&["wep", "--", "true"]), (1, text.to_owned()));
        assert_eq!(exec(&["web"]).status, 64);
        // Nothing is said but errors.
        let quiet = lab.host.try_netrec(SHOP, &["destroy", "-y", "-q"]);
        assert_eq!((quiet.status, quiet.stdout.as_str(), quiet.stderr.as_str()), (0, "", ""));
        let text = "error: container `web` lives in namespace web, which is not there: `netrec apply` makes it\n";
        assert_eq!(fails(&["web", "--", "true"]), (1, text.to_owned()));
        let other = "[hosts.a]\nid = 1\naddress = '192.0.2.1'\n[hosts.b]\nid = 2\naddress = '192.0.2.2'\n\
                     [networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nhost = 'b'\nnetworks = ['front']\n";
        let output = lab.host.try_netrec(other, &["--host", "a", "exec", "web", "--", "true"]);
        let text = "error: container `web` lives on host `b`, and this is `a`\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, text));
    });
}
