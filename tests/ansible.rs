//! The Ansible collection, by Ansible itself: changes and no changes, the plan as diff, what netrec says of a wrong file, a
//! change that must be confirmed by a new connection, the role; and what Ansible's own checks say of it.

#![allow(clippy::expect_used)] // a helper of the test is a test too

mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Lab, Machine, NETREC, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// What tests/ansible/setup.sh made.
const MADE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/ansible");

const SHOP: &str = r#"[networks.front]
subnet = "10.20.0.0/24"

[containers.web]
networks.front = { address = "10.20.0.10" }
ports = ["8080:80"]
"#;

/// Runs a test's body in a lab, where there is an Ansible. To be called from the test function itself.
fn tried<F: FnOnce(&Lab)>(what: &str, body: F) {
    if Path::new(MADE).join("stamp").exists() {
        lab::run_test(std::any::type_name::<F>(), || body(&Lab::new()));
    } else {
        lab::kernel::not_tried(what, "target/ansible is missing (sh tests/ansible/setup.sh makes it)");
    }
}

/// A command of Ansible's in a folder of a machine's, with nothing of the user's own.
fn ansible(folder: &str, program: &str, home: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["-C", folder]).arg(format!("{MADE}/venv/bin/{program}")).env_clear();
    command.env("PATH", format!("{MADE}/venv/bin:{}", std::env::var("PATH").unwrap_or_default()));
    command.envs([
        ("HOME", home),
        ("LC_ALL", "C.UTF-8"),
        ("ANSIBLE_COLLECTIONS_PATH", "/run/lab/collections"),
        ("ANSIBLE_PYTHON_INTERPRETER", concat!(env!("CARGO_MANIFEST_DIR"), "/target/ansible/venv/bin/python")),
        ("ANSIBLE_NOCOLOR", "1"),
        ("ANSIBLE_PIPELINING", "1"),
        ("ANSIBLE_LOCALHOST_WARNING", "false"),
        ("ANSIBLE_DEPRECATION_WARNINGS", "false"),
    ]);
    command
}

/// Builds the collection and installs what was built, on a machine where Ansible is to run.
fn install(machine: &Machine) {
    fs::create_dir_all(machine.path("/run/lab/home")).expect("a home");
    let mut build = ansible("/run/lab", "ansible-galaxy", "/run/lab/home");
    build.args(["collection", "build", &format!("{ROOT}/ansible"), "--output-path", "/run/lab"]);
    let mut install = ansible("/run/lab", "ansible-galaxy", "/run/lab/home");
    install.args(["collection", "install", "/run/lab/netrec-netrec-0.1.0.tar.gz", "--offline"]);
    install.args(["-p", "/run/lab/collections"]);
    for command in [&mut build, &mut install] {
        let output = machine.output(command);
        assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    }
}

/// Runs a playbook of these tasks.
fn play(machine: &Machine, hosts: &str, body: &str, options: &[&str]) -> Output {
    let playbook = machine.write("play.yml", &format!("- hosts: all\n  gather_facts: false\n{body}"));
    let mut command = ansible("/run/lab", "ansible-playbook", "/run/lab/home");
    machine.output(command.args(["-i", hosts, &playbook]).args(options))
}

/// `ok=1 changed=0 …` of the only host, without what is 0.
fn recap(output: &Output) -> String {
    let line = output.stdout.lines().rfind(|line| line.contains("unreachable="));
    assert!(line.is_some(), "no recap: {}{}", output.stdout, output.stderr);
    let line = line.unwrap_or_default();
    let (_, counts) = line.split_once(" : ").expect("counts");
    let counts: Vec<&str> = counts.split_whitespace().filter(|count| !count.ends_with("=0")).collect();
    counts.join(" ")
}

/// A netrec that notes how it was called.
fn noted(machine: &Machine) -> String {
    let path = machine.write("netrec", &format!("#!/bin/sh\necho \"$*\" >>/run/lab/calls\nexec {NETREC} \"$@\"\n"));
    machine.run(["chmod", "755", &path]);
    path
}

/// A text in a playbook.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[test]
fn a_playbook_changes_what_is_to_be_changed_once() {
    tried("the modules", |lab| {
        let host = &lab.host;
        install(host);
        let netrec = noted(host);
        let task = |more: &str| {
            format!(
                "  tasks:\n    - netrec.netrec.netrec:\n        executable: {netrec}\n        content: {}\n{more}",
                quoted(SHOP)
            )
        };
        let run = |more: &str, options: &[&str]| {
            let output = play(host, "host,", &task(more), &[&["-c", "local"], options].concat());
            (recap(&output), output.stdout)
        };
        let plan =
            |more: &[&str]| host.try_netrec(SHOP, &[&["plan"], more].concat()).stdout.replace("lab/netrec.toml", "");

        let wanted = plan(&[]).replace("/run/", "<stdin>");
        let (counts, said) = run("", &["--check", "--diff"]);
        assert_eq!(counts, "ok=1 changed=1");
        assert!(said.contains(&wanted), "{said}\nlacks\n{wanted}");
        assert!(!host.sh("ip -br link").contains("nr-front"), "a check writes nothing");

        let (counts, said) = run("", &["--diff"]);
        assert_eq!(counts, "ok=1 changed=1");
        assert!(said.contains(&wanted), "{said}\nlacks\n{wanted}");
        assert!(host.sh("ip -br link").contains("nr-front"));

        for options in [&["--diff"][..], &["--check", "--diff"]] {
            let (counts, said) = run("", options);
            assert_eq!(counts, "ok=1");
            assert!(!said.contains("No changes"), "{said}");
        }
        let gone = plan(&["--destroy"]);
        let (counts, said) = run("        state: absent\n", &["--diff"]);
        assert_eq!(counts, "ok=1 changed=1");
        assert!(said.contains(&gone), "{said}\nlacks\n{gone}");
        assert!(!host.sh("ip -br link").contains("nr-front"));

        // Each task is one process.
        let calls = host.sh("cat /run/lab/calls");
        let wanted = [
            "-c - plan --json",
            "-c - apply -y --json",
            "-c - apply -y --json",
            "-c - plan --json",
            "-c - destroy -y --json",
        ];
        assert_eq!(calls.lines().collect::<Vec<_>>(), wanted);
    });
}

#[test]
fn a_task_returns_what_netrec_says() {
    tried("the modules", |lab| {
        let host = &lab.host;
        install(host);
        let file = host.write("shop.toml", SHOP);
        let wrong = SHOP.replace("subnet", "subnett");
        let body = format!(
            r"  module_defaults:
    netrec.netrec.netrec: {{ executable: {NETREC} }}
    netrec.netrec.netrec_info: {{ executable: {NETREC} }}
  tasks:
    - netrec.netrec.netrec: {{ content: {wrong} }}
      register: wrong
      ignore_errors: true
    - netrec.netrec.netrec: {{ config: {file}, target: [networks.front] }}
      register: part
    - netrec.netrec.netrec: {{ config: [{file}], state: planned }}
      register: rest
    - netrec.netrec.netrec: {{ state: absent, target: [networks.front] }}
      register: target
      ignore_errors: true
    - netrec.netrec.netrec: {{ state: confirmed }}
      register: nothing
      ignore_errors: true
    - netrec.netrec.netrec_info: {{ config: {file} }}
      register: status
    - netrec.netrec.netrec_info: {{ config: {file}, gather: show }}
      register: show
    - netrec.netrec.netrec: {{ state: absent }}
      check_mode: true
      register: would_go
    - netrec.netrec.netrec: {{ state: absent }}
      register: gone
    - netrec.netrec.netrec: {{ state: absent }}
      register: nothing_there
    - copy:
        dest: /run/lab/returned
        content: {returned}
",
            wrong = quoted(&wrong),
            returned = quoted(
                "{{ {'wrong': wrong, 'part': part, 'rest': rest, 'target': target, 'nothing': nothing, 'status': status, \
                 'show': show, 'would_go': would_go, 'gone': gone, 'nothing_there': nothing_there} | to_json }}"
            ),
        );
        let output = play(host, "host,", &body, &["-c", "local"]);
        assert_eq!(recap(&output), "ok=11 changed=5 ignored=3", "{}", output.stdout);
        let returned: Value = serde_json::from_str(&host.sh("cat /run/lab/returned")).expect("JSON");

        let invalid = host.try_netrec(&wrong, &["validate"]).stderr.replace("/run/lab/netrec.toml", "<stdin>");
        let invalid = invalid.strip_prefix("error: ").expect("an error").trim_end();
        assert!(invalid.contains("did you mean `subnet`?"), "{invalid}");
        assert_eq!((returned["wrong"]["msg"].as_str(), returned["wrong"]["rc"].as_i64()), (Some(invalid), Some(3)));
        assert_eq!(returned["target"]["msg"], "target is not for state=absent");
        assert_eq!(returned["nothing"]["msg"], "nothing waits to be confirmed on this host");
        assert_eq!(returned["nothing"]["rc"], 1);

        let part = &returned["part"];
        assert_eq!(
            (&part["changed"], &part["plan"]["applied"], &part["waits"]),
            (&true.into(), &true.into(), &false.into())
        );
        assert_eq!(part["summary"], part["plan"]["summary"]);
        assert!(part["diff"].is_object() && part["plan"]["diff"].is_null());
        // What was left out is what comes next.
        assert_eq!(returned["rest"]["plan"]["left_out"], 0);
        let left_out = part["plan"]["left_out"].as_u64().expect("a number");
        let rest = returned["rest"]["plan"]["actions"].as_array().expect("actions");
        assert_eq!(left_out, rest.len() as u64);
        let forwarding = returned["part"]["warnings"].to_string();
        assert!(forwarding.contains("forwarding-enabled: "), "{forwarding}");

        let summaries = ["would_go", "gone", "nothing_there"].map(|task| returned[task]["summary"]["delete"].as_u64());
        assert_eq!(summaries, [summaries[0], summaries[0], Some(0)]);
        assert_ne!(summaries[0], Some(0));

        let status = &returned["status"]["status"];
        assert_eq!((&status["matches"], &status["networks"][0]["name"]), (&false.into(), &"front".into()));
        let shown = &returned["show"]["show"];
        assert_eq!(shown["containers"]["web"]["networks"]["front"]["address"], serde_json::json!(["10.20.0.10"]));
    });
}

/// An sshd on the host, and the world's key for it.
fn secure_shell(lab: &Lab) {
    lab.host.sh("mkdir -p /run/sshd /run/lab/ssh && cd /run/lab/ssh && ssh-keygen -q -t ed25519 -N '' -f host && \
                 ssh-keygen -q -t ed25519 -N '' -f user && chmod 600 user.pub");
    lab.host.write(
        "ssh/config",
        "HostKey /run/lab/ssh/host\nAuthorizedKeysFile /run/lab/ssh/user.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
         PermitRootLogin prohibit-password\nListenAddress 192.0.2.1\nSubsystem sftp internal-sftp\n",
    );
    lab.host.sh("$(command -v sshd || echo /usr/sbin/sshd) -f /run/lab/ssh/config");
    let key = lab.host.sh("cat /run/lab/ssh/user");
    let key = lab.world.write("key", &key);
    lab.world.run(["chmod", "600", &key]);
}

#[test]
fn a_new_connection_confirms_and_none_takes_it_back() {
    if let Some(why) = lab::kernel::obstacle(&["/usr/sbin/sshd", "ssh-keygen"]) {
        lab::kernel::not_tried("confirming by a new connection", &why);
        return;
    }
    tried("confirming by a new connection", |lab| {
        install(&lab.world);
        secure_shell(lab);
        let inventory = lab.world.write(
            "inventory",
            "shop ansible_host=192.0.2.1 ansible_user=root ansible_ssh_private_key_file=/run/lab/key \
             ansible_ssh_common_args='-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2 \
             -o ServerAliveInterval=1 -o ServerAliveCountMax=2'\n",
        );
        let run = |content: &str| {
            let body = format!(
                r"  module_defaults:
    netrec.netrec.netrec: {{ executable: {NETREC} }}
  tasks:
    - netrec.netrec.netrec:
        content: {}
        confirm_timeout: 10m
      register: network
    - meta: reset_connection
    - netrec.netrec.netrec:
        state: confirmed
      when: network.waits
",
                quoted(content)
            );
            let output = play(&lab.world, &inventory, &body, &["-v"]);
            (recap(&output), output.stdout)
        };
        let matches = |content: &str| lab.host.try_netrec(content, &["plan", "--detailed-exitcode"]).status == 0;

        let (counts, said) = run(SHOP);
        assert_eq!(counts, "ok=2 changed=2", "{said}");
        assert!(said.contains("is confirmed: it stays."), "{said}");
        assert!(matches(SHOP));
        assert_eq!(run(SHOP).0, "ok=1 skipped=1", "nothing was changed, and so nothing waits");

        // This one has Ansible's own port, which only another network may use.
        let away = format!(
            "{SHOP}\n[containers.thief]\nnetworks = [\"front\"]\n\
                            ports = [{{ host = 22, container = 22, allow = \"203.0.113.0/24\" }}]\n"
        );
        let (counts, said) = run(&away);
        assert_eq!(counts, "ok=1 changed=1 unreachable=1", "{said}");
        assert!(matches(&away));
        // As when the time is over.
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        assert!(matches(SHOP));
        assert_eq!(run(SHOP).0, "ok=1 skipped=1", "the host is reached again");
    });
}

#[test]
fn the_role_puts_all_in_its_place() {
    tried("the role", |lab| {
        let host = &lab.host;
        install(host);
        host.sh("mkdir /run/etc /run/etc.work && mount -t overlay overlay \
                 -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work /etc");
        // The real one is large.
        let program = host.write("program", &format!("#!/bin/sh\nexec {NETREC} \"$@\"\n"));
        let run = |config: &str, options: &[&str]| {
            let body = format!(
                r"  roles:
    - role: netrec.netrec.netrec
      netrec_binary: {program}
      netrec_binary_path: /run/lab/netrec
      netrec_service: none
      netrec_confirm_timeout: 600s
      netrec_config: {}
",
                quoted(config)
            );
            let output = play(host, "host,", &body, &[&["-c", "local", "--diff"], options].concat());
            (recap(&output), output.stdout)
        };
        let matches = || host.netrec(&["plan", "--detailed-exitcode"]).status == 0;

        // On a host that has nothing of it yet: what cannot be told is left out.
        let (counts, said) = run(SHOP, &["--check"]);
        assert_eq!(counts, "ok=6 changed=3 skipped=7", "{said}");
        let (counts, said) = run(SHOP, &[]);
        // Program, folder, file, networks, and that they are confirmed.
        assert_eq!(counts, "ok=8 changed=5 skipped=5", "{said}");
        assert!(matches());
        assert_eq!(host.sh("cat /etc/netrec/netrec.toml"), SHOP);
        assert_eq!(host.sh("cat /var/lib/netrec/confirmed.toml"), SHOP);
        let (counts, said) = run(SHOP, &["--check"]);
        assert_eq!(counts, "ok=7 skipped=4", "{said}");
        assert_eq!(run(SHOP, &[]).0, "ok=7 skipped=4");
        // What another file would do is told of that file.
        let other = SHOP.replace("10.20.0.10", "10.20.0.11");
        let (counts, said) = run(&other, &["--check"]);
        assert_eq!(counts, "ok=7 changed=2 skipped=5", "{said}");
        assert!(said.contains("10.20.0.11/24 dev eth0"), "{said}");
        assert!(matches());

        let wrong = SHOP.replace("10.20.0.10", "10.21.0.10");
        let (counts, said) = run(&wrong, &[]);
        assert_eq!(counts, "ok=4 failed=1 skipped=1", "{said}");
        assert!(said.contains("address `10.21.0.10` is in no subnet of network `front`"), "{said}");
        assert_eq!(host.sh("cat /etc/netrec/netrec.toml"), SHOP, "the file that was good stays");
        assert!(matches());

        let body = "  roles:\n    - role: netrec.netrec.netrec\n      netrec_service: sometimes\n";
        let output = play(host, "host,", body, &["-c", "local"]);
        assert!(output.stdout.contains("missing required arguments: netrec_config"), "{}", output.stdout);
        assert!(output.stdout.contains("netrec_service must be one of: boot, watch, none"), "{}", output.stdout);
    });
}

#[test]
fn ansible_finds_nothing_wrong_with_the_collection() {
    // The lab's machines have no way out: nothing is fetched.
    tried("ansible-test", |lab| {
        install(&lab.world);
        let version = lab.world.sh(&format!("cd {MADE}/venv/lib && echo python*"));
        let version = version.trim().strip_prefix("python").expect("a version").to_owned();
        let installed = "/run/lab/collections/ansible_collections/netrec/netrec";
        let mut sanity =
            ansible(installed, "ansible-test", concat!(env!("CARGO_MANIFEST_DIR"), "/target/ansible/home"));
        sanity.args(["sanity", "--python", &version]);
        for test in ["validate-modules", "pep8", "import", "compile"] {
            sanity.args(["--test", test]);
        }
        let output = lab.world.output(&mut sanity);
        assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
        let ran: Vec<&str> =
            output.stderr.lines().chain(output.stdout.lines()).filter(|line| line.starts_with("Running ")).collect();
        assert_eq!(ran.len(), 4, "{ran:?}");
    });
}

#[test]
fn ansible_lint_finds_nothing_wrong_with_the_collection() {
    tried("ansible-lint", |lab| {
        install(&lab.world);
        // It takes a folder for a collection only where it looks like its source.
        lab.world.run(["cp", "-R", &format!("{ROOT}/ansible"), "/run/lab/source"]);
        let mut lint = ansible("/run/lab/source", "ansible-lint", "/run/lab/home");
        let output = lab.world.output(lint.args(["--offline", "--nocolor", "--profile", "production"]));
        assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains("Passed: 0 failure(s), 0 warning(s)"), "{}", output.stderr);
    });
}
