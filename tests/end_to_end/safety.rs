//! Files that others may write, folders that are not netrec's, and namespaces that are none.

use std::process::Command;

use crate::SHOP;
use crate::lab::{self, Lab, NETREC};

const HEAD: &str = "error: others than root and the one who runs netrec could write this host's networks:\n";
const TAIL: &str = "`--insecure` goes on all the same\n";

/// Refuses with these lines, writes nothing, and goes on with `--insecure`, with the same lines as warnings; commands that
/// only talk say nothing.
fn doubts(lab: &Lab, file: &str, lines: &[&str]) {
    let refused = lab.host.netrec(&["-c", file, "apply", "-y"]);
    let said: String = lines.iter().flat_map(|line| ["  ", line, "\n"]).collect();
    assert_eq!((refused.status, refused.stderr), (3, format!("{HEAD}{said}{TAIL}")), "{file}");
    assert_eq!(lab.host.run(["ip", "netns"]), "");
    for command in ["plan", "show"] {
        let output = lab.host.netrec(&["-c", file, command]);
        assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{command}");
    }
    let gone_on = lab.host.netrec(&["-c", file, "apply", "-y", "--insecure"]);
    let said: String = lines.iter().flat_map(|line| ["warning: ", line, "\n"]).collect();
    assert_eq!((gone_on.status, gone_on.stderr.starts_with(&said)), (0, true), "{file}: {}", gone_on.stderr);
    assert_eq!(lab.host.plan(SHOP).actions(), [""; 0]);
    lab.host.destroy(SHOP);
}

/// Applies, and says nothing but that it is done.
fn trusts(lab: &Lab, file: &str) {
    let output = lab.host.netrec(&["-c", file, "apply", "-y"]);
    assert_eq!((output.status, output.stderr.starts_with("Done in ")), (0, true), "{file}: {}", output.stderr);
    lab.host.destroy(SHOP);
}

#[test]
fn a_file_that_others_may_write_is_not_applied() {
    lab::in_lab(|lab| {
        let shop = lab.host.write("shop.toml", SHOP);
        lab.host.sh(&format!(
            "cd /run/lab; mkdir -p tight open/below sticky; for d in tight open open/below sticky; do cp {shop} $d/net.toml; done
             chmod 644 */net.toml open/below/net.toml; chmod 775 open; chmod 1777 sticky
             for m in 664 646 666; do install -m $m {shop} $m.toml; done
             ln -s /run/lab/open/below/net.toml tight/link.toml; ln -s ../tight/net.toml open/link.toml"
        ));
        let open = "the folder /run/lab/open can be written by its group (mode 775): `chmod go-w /run/lab/open`";
        trusts(lab, "/run/lab/tight/net.toml");
        trusts(lab, "/run/lab/sticky/net.toml");
        for (file, who) in [("664", "its group"), ("646", "others"), ("666", "its group and others")] {
            let path = format!("/run/lab/{file}.toml");
            let line = format!("{path} can be written by {who} (mode {file}): `chmod go-w {path}`");
            doubts(lab, &path, &[&line]);
        }
        doubts(lab, "/run/lab/open/net.toml", &[open]);
        doubts(lab, "/run/lab/open/below/net.toml", &[open]);
        // A link is as good as what it leads to, and as the folder that it is in.
        doubts(lab, "/run/lab/tight/link.toml", &[open]);
        doubts(lab, "/run/lab/open/link.toml", &[open]);
        // What a folder holds is looked at like any other file, and all is said at once.
        let (networks, containers) = SHOP.split_once("[containers.web]").expect("two parts");
        lab.host.sh("mkdir /run/lab/conf.d");
        lab.host.write("conf.d/10.toml", networks);
        lab.host.write("conf.d/20.toml", &format!("[containers.web]{containers}"));
        trusts(lab, "/run/lab/conf.d");
        lab.host.sh("chmod 666 /run/lab/conf.d/20.toml; chmod 777 /run/lab/conf.d");
        doubts(
            lab,
            "/run/lab/conf.d",
            &[
                "the folder /run/lab/conf.d can be written by its group and others (mode 777): `chmod go-w /run/lab/conf.d`",
                "/run/lab/conf.d/20.toml can be written by its group and others (mode 666): `chmod go-w /run/lab/conf.d/20.toml`",
            ],
        );
        // Standard input and descriptors are whose they are.
        lab.host.sh(&format!("{NETREC} -c - apply -y -q </run/lab/664.toml >/dev/null"));
        lab.host.destroy(SHOP);
        lab.host.sh(&format!("cat /run/lab/664.toml | {NETREC} -c /dev/stdin apply -y -q >/dev/null"));
        lab.host.destroy(SHOP);
    });
}

#[test]
fn a_file_of_somebody_else_is_not_applied() {
    lab::in_lab(|lab| {
        let shop = lab.host.write("shop.toml", SHOP);
        lab.host.sh(&format!(
            "mkdir /run/lab/theirs; install -m 644 {shop} /run/lab/theirs/net.toml; cp {shop} /run/lab/their.toml"
        ));
        let taken = lab.host.try_run(["chown", "1234", "/run/lab/theirs", "/run/lab/their.toml"]);
        if taken.status != 0 {
            println!("not tried: a user namespace with one user has no files of another's");
            return;
        }
        let whose = "belongs to user 1234, who is neither root nor the one who runs netrec";
        doubts(
            lab,
            "/run/lab/their.toml",
            &[&format!("/run/lab/their.toml {whose}: `chown root /run/lab/their.toml`")],
        );
        doubts(
            lab,
            "/run/lab/theirs/net.toml",
            &[&format!("the folder /run/lab/theirs {whose}: `chown root /run/lab/theirs`")],
        );
        // By sudo it is the same person.
        let sudo =
            |user| lab.host.netrec_with_env(&[("SUDO_UID", user)], &["-c", "/run/lab/their.toml", "apply", "-y"]);
        assert_eq!((sudo("1235").status, sudo("1234").status), (3, 0));
        lab.host.destroy(SHOP);
    });
}

#[test]
fn the_folder_of_the_lock_is_netrecs_own() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", SHOP);
        let inode = lab.host.sh("stat -Lc %i /proc/self/ns/net");
        let lock = format!("/run/netrec/lock-{}", inode.trim());
        let refused = |prepare: &str, why: &str| {
            lab.host.sh(prepare);
            let output = lab.host.netrec(&["-c", &file, "apply", "-y"]);
            assert_eq!((output.status, output.stderr), (1, format!("error: cannot lock {lock}: {why}\n")), "{prepare}");
            assert_eq!(
                (lab.host.run(["ip", "netns"]), lab.host.sh("ls /run/lab")),
                (String::new(), "shop.toml\n".into())
            );
            lab.host.sh("rm -rf /run/netrec");
        };
        let own = "remove it, netrec makes its own";
        refused("ln -s /run/lab /run/netrec", &format!("/run/netrec is a symbolic link: {own}"));
        refused("touch /run/netrec", &format!("/run/netrec is no folder: {own}"));
        refused("mkdir -m 777 /run/netrec", &format!("/run/netrec can be written by others (mode 777): {own}"));
        refused(
            &format!("mkdir -m 755 /run/netrec; ln -s /run/lab/target {lock}"),
            "Too many levels of symbolic links (os error 40)",
        );
        if lab.host.try_run(["sh", "-c", "mkdir -m 755 /run/netrec; chown 1234 /run/netrec"]).status == 0 {
            refused("true", &format!("/run/netrec belongs to user 1234: {own}"));
        } else {
            println!("not tried: a user namespace with one user has no folders of another's");
            lab.host.sh("rm -r /run/netrec");
        }
        let mut open = Command::new("sh");
        open.args(["-c", &format!("umask 0; {NETREC} -c {file} apply -y -q >/dev/null")]);
        assert_eq!(lab.host.output(&mut open).status, 0);
        assert_eq!(lab.host.sh(&format!("stat -c %a {lock} /run/netrec")), "600\n755\n");
    });
}

#[test]
fn a_path_that_is_no_network_namespace_is_refused_before_anything_is_written() {
    lab::in_lab(|lab| {
        lab.host.sh("cd /run/lab; touch file; mkdir folder; mkfifo pipe; ln -s /run/lab/nowhere gone; ln -s loop loop");
        let text = |netns: &str| {
            format!(
                "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.a]\nnetns = '{netns}'\nnetworks = ['front']\n"
            )
        };
        let none = "where there is no network namespace: start what makes it first";
        let kind = "which cannot be used: it is a namespace of another kind, not of a network";
        let events = lab.host.settle();
        for (netns, why) in [
            ("/run/lab/file", none),
            ("/run/lab/folder", none),
            ("/run/lab/pipe", none),
            ("/run/lab/gone", none),
            ("/dev/null", none),
            ("/run/lab/file/below", "which cannot be opened: Not a directory (os error 20)"),
            ("/run/lab/loop", "which cannot be opened: Too many levels of symbolic links (os error 40)"),
            ("/proc/self/ns/mnt", kind),
            ("/proc/self/ns/uts", kind),
            ("/proc/self/ns/pid", kind),
        ] {
            let file = lab.host.write("netrec.toml", &text(netns));
            let output = lab.host.netrec(&["-c", &file, "apply", "-y"]);
            let said = format!("error: container `a` ({file}:3) is to live in {netns}, {why}\n");
            assert_eq!((output.status, output.stderr), (1, said.clone()), "{netns}");
            if why == kind {
                let output = lab.host.netrec(&["-c", &file, "exec", "a", "--", "true"]);
                assert_eq!((output.status, output.stderr), (1, said), "{netns}");
            }
        }
        // A name is no path, and stays in its folder.
        for netns in ["../x", "..", ".", "a/b", "/run/netns/../x", "-x", ""] {
            let output = lab.host.try_netrec(&text(netns), &["apply", "-y"]);
            assert_eq!(output.status, 3, "{netns}: {}", output.stderr);
        }
        events.quiet();
        // Another kind under a name.
        lab.host.sh("mkdir -p /run/netns; touch /run/netns/a; mount --bind /proc/self/ns/uts /run/netns/a");
        let output = lab.host.try_netrec(&text("a"), &["apply", "-y"]);
        let said = output.stderr.split_once(" (").and_then(|(who, rest)| Some((who, rest.split_once(".toml:3) ")?.1)));
        let wanted = ("error: container `a`", &*format!("is to live in a, {kind}\n"));
        assert_eq!((output.status, said), (1, Some(wanted)), "{}", output.stderr);
        // All else has its line.
        let more = text("a") + "[containers.b]\nnetworks = ['front']\n";
        let shown = lab.host.try_netrec(&more, &["status", "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).expect("a document");
        let states = [0, 1].map(|n| (&shown["containers"][n]["hindered"], &shown["containers"][n]["state"]["missing"]));
        assert!(states[0].0["refused"].as_str().is_some_and(|why| why.ends_with(kind)), "{shown}");
        assert_eq!(states[1], (&serde_json::Value::Null, &5.into()), "{shown}");
    });
}
