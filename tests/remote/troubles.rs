//! What goes wrong though nobody means ill: netrec is killed, plugins are restarted or away, people remove devices.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::lab::{self, Lab};
use crate::plugin::Plugin;
use crate::scripted::{Reply, Scripted};
use crate::{IPAM, SHOP};

const MEMORY: &str = "/run/lab/memory";

/// What the plugin remembers: how many networks, endpoints and pools, and all addresses that it has given.
fn memory(lab: &Lab) -> (usize, usize, usize, BTreeSet<String>) {
    let text = fs::read_to_string(lab.host.path(MEMORY)).unwrap_or_else(|_| "{}".to_owned());
    let memory: Value = serde_json::from_str(&text).expect("its memory");
    let count = |what: &str| memory[what].as_object().map_or(0, serde_json::Map::len);
    let given = memory["pools"].as_object().into_iter().flatten();
    let given = given.flat_map(|(_, pool)| pool["given"].as_array().cloned().unwrap_or_default());
    let given = given.filter_map(|ip| ip.as_str().map(str::to_owned));
    (count("networks"), count("endpoints"), count("pools"), given.collect())
}

fn addresses<const N: usize>(all: [&str; N]) -> BTreeSet<String> {
    all.map(str::to_owned).into()
}

/// Kills netrec before every third of the writes of a command in turn, calls and files among them (`NETREC_EVERY=1` before
/// each), and has the next one go on. Yields how many there are.
fn killed_before_each_write(lab: &Lab, plugin: &Plugin<'_>, file: &str, command: &str, go_on: &dyn Fn(usize)) -> usize {
    let every = std::env::var("NETREC_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for n in (1..).step_by(every) {
        let path = lab.host.write("netrec.toml", file);
        let env = [("NETREC_SINGLE", "1"), ("NETREC_FAULT", &*format!("die:{n}"))];
        let output = lab.host.netrec_with_env(&env, &["-c", &path, command, "-y"]);
        let died = output.status == 128 + 9;
        assert!(died || output.status == 0, "{n}: {}", output.stderr);
        let begun = lab.host.sh("ls /run/netrec/remote 2>/dev/null | wc -l").trim() != "0";
        if command == "destroy" || begun {
            go_on(n);
        }
        plugin.calls();
        if !died {
            return n;
        }
    }
    0
}

/// A file of two containers, one of which says its address.
#[cfg(feature = "fault-injection")]
fn two_containers() -> String {
    IPAM.replace(", \"fd50::/64\"", "").replace("range = \"10.50.0.128/25\"\n", "")
}

/// The one whose address is the plugin's choice.
#[cfg(feature = "fault-injection")]
fn one_container() -> String {
    let file = two_containers();
    let web = file.find("[containers.web]").unwrap()..file.find("[containers.db]").unwrap();
    file.replace(&file[web], "")
}

/// Neither the plugin nor the records nor the host know of anything.
#[cfg(feature = "fault-injection")]
fn nothing_is_left(lab: &Lab, n: usize) {
    assert_eq!(memory(lab), (0, 0, 0, addresses([])), "{n}");
    let left = "ls /run/netrec/remote; ip -br link | grep -e pb- -e pv- -e pc- || true";
    assert_eq!(lab.host.sh(left), "", "{n}");
}

#[test]
#[cfg(feature = "fault-injection")]
fn killed_while_it_applies_it_loses_no_call() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        let file = one_container();
        let tried = killed_before_each_write(lab, &plugin, &file, "apply", &|n| {
            lab.host.apply(&file);
            assert_eq!(memory(lab), (1, 1, 1, addresses(["10.50.0.1", "10.50.0.2"])), "{n}");
            lab.host.destroy(&file);
            nothing_is_left(lab, n);
        });
        println!("\ntried: {tried} writes of an apply");
        assert!(tried > 25, "{tried}");
    });
}

/// A container comes to a network that another one is on.
#[test]
#[cfg(feature = "fault-injection")]
fn killed_while_a_container_comes_it_loses_no_call() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        let (one, two) = (one_container().replace("db", "api"), two_containers().replace("db", "api"));
        let both = format!("{two}\n[containers.late]\nnetworks = [\"wide\"]\n");
        lab.host.apply(&one);
        let tried = killed_before_each_write(lab, &plugin, &both, "apply", &|n| {
            lab.host.apply(&both);
            let expected = addresses(["10.50.0.1", "10.50.0.2", "10.50.0.3", "10.50.0.9"]);
            assert_eq!(memory(lab), (1, 3, 1, expected), "{n}");
            lab.expect("late ping 10.50.0.2 -> answer\nweb ping 10.50.0.2 -> answer");
            lab.host.apply(&one);
            assert_eq!(memory(lab), (1, 1, 1, addresses(["10.50.0.1", "10.50.0.2"])), "{n}");
        });
        println!("\ntried: {tried} writes of an apply that adds");
        assert!(tried > 25, "{tried}");
    });
}

#[test]
#[cfg(feature = "fault-injection")]
fn killed_while_it_destroys_it_loses_no_call() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        let file = one_container();
        lab.host.apply(&file);
        let tried = killed_before_each_write(lab, &plugin, &file, "destroy", &|n| {
            lab.host.destroy(&file);
            nothing_is_left(lab, n);
            lab.host.apply(&file);
        });
        println!("\ntried: {tried} writes of a destroy");
        assert!(tried > 15, "{tried}");
    });
}

/// A write that fails takes all back, what plugins were told too, or it was a plugin's, and all else is done.
#[test]
#[cfg(feature = "fault-injection")]
fn a_failure_leaves_nothing_half_made() {
    lab::in_lab(|lab| {
        let _plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        let other = "[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.api]\nnetworks = [\"front\"]\n";
        let file = one_container() + other;
        let path = lab.host.write("netrec.toml", &file);
        let (mut back, mut apart) = (0, 0);
        let every = std::env::var("NETREC_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
        for n in (2..).step_by(every) {
            let env = [("NETREC_SINGLE", "1"), ("NETREC_FAULT", &*format!("fail:{n}:EBUSY"))];
            let output = lab.host.netrec_with_env(&env, &["-c", &path, "apply", "-y"]);
            match output.status {
                0 => break,
                4 => {
                    back += 1;
                    assert_eq!(memory(lab), (0, 0, 0, addresses([])), "{n}: {}", output.stderr);
                    assert_eq!(lab.host.netns_names(), Vec::<String>::new(), "{n}");
                }
                status => {
                    apart += 1;
                    assert_eq!(status, 1, "{n}: {}", output.stderr);
                    assert!(output.stderr.contains("Device or resource busy"), "{n}: {}", output.stderr);
                    lab.expect("api ping 10.20.0.1 -> answer");
                    lab.host.destroy(&file);
                    assert_eq!(memory(lab), (0, 0, 0, addresses([])), "{n}: {}", output.stderr);
                }
            }
            assert_eq!(lab.host.sh("ls /run/netrec/remote 2>/dev/null || true"), "", "{n}");
        }
        println!("\ntried: {back} failures taken back as a whole, {apart} with the container or the network alone");
        assert!(back > 2 && apart > 2, "{back} {apart}");
    });
}

/// The plugin is restarted and knows nothing any more: all is made anew.
#[test]
fn a_plugin_that_has_forgotten_is_told_again() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &[]);
        lab.host.apply(SHOP);
        plugin.end();
        let plugin = Plugin::start(lab, "example", &[]);
        let plan = lab.host.try_netrec(SHOP, &["plan"]).stdout;
        assert!(plan.contains("-/+ endpoint web on wide") && plan.contains("# the plugin has forgotten it"), "{plan}");
        plugin.calls();
        lab.host.apply(SHOP);
        let changes = plugin.changes();
        let again =
            ["CreateNetwork", "CreateEndpoint", "Join", "ProgramExternalConnectivity", "CreateEndpoint", "Join"];
        assert!(
            changes.join(" ").contains(&again.map(|call| format!("NetworkDriver.{call}")).join(" ")),
            "{changes:?}"
        );
        lab.expect("web ping 10.50.0.11 -> answer\nweb ping fd50::11 -> answer");
        assert!(lab.host.apply(SHOP).actions().is_empty());
        lab.host.destroy(SHOP);
    });
}

/// Somebody removes the device in the container, and a whole container.
#[test]
fn a_device_that_is_gone_is_had_anew() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &[]);
        lab.host.apply(SHOP);
        plugin.calls();
        lab.container("web").sh("ip link del lan");
        let plan = lab.host.try_netrec(SHOP, &["plan"]).stdout;
        assert!(plan.contains("-/+ endpoint web on wide") && plan.contains("# its device is gone"), "{plan}");
        lab.host.apply(SHOP);
        let expected = [
            "RevokeExternalConnectivity",
            "Leave",
            "DeleteEndpoint",
            "CreateEndpoint",
            "Join",
            "ProgramExternalConnectivity",
        ];
        assert_eq!(plugin.changes(), expected.map(|call| format!("NetworkDriver.{call}")));
        lab.expect("web ping 10.50.0.11 -> answer");
        lab.host.sh("ip netns del db");
        lab.host.apply(SHOP);
        assert_eq!(plugin.changes(), expected.map(|call| format!("NetworkDriver.{call}")));
        lab.expect("web ping fd50::11 -> answer");
        // An address and a route are put back without the plugin.
        lab.container("web").sh("ip addr del 10.50.0.10/24 dev lan");
        lab.host.apply(SHOP);
        assert_eq!(plugin.changes(), Vec::<String>::new());
        lab.expect("web ping 10.50.0.11 -> answer");
    });
}

/// The plugin is away when all is to go: what is left is named, and goes the next time.
#[test]
fn what_a_plugin_was_told_outlives_its_absence() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        lab.host.apply(SHOP);
        plugin.calls();
        plugin.end();
        // Nothing has changed, and nobody need be asked.
        assert!(lab.host.apply(SHOP).actions().is_empty());
        let output = lab.host.try_netrec(SHOP, &["destroy", "-y"]);
        let away = "plugin `example`: Plugin.Activate: nobody listens there";
        let expected = format!(
            "error: remove endpoint db on wide: {away}\nremove endpoint web on wide: {away}\nremove network wide: a container on it is still \
             there\n\
             all else is done; `netrec apply` tries again\n"
        );
        assert_eq!((output.status, output.stderr), (1, expected));
        assert_eq!(lab.host.netns_names(), Vec::<String>::new());
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        lab.host.destroy(SHOP);
        assert_eq!(memory(lab), (0, 0, 0, addresses([])));
        assert_eq!(plugin.changes().len(), 7);
        assert_eq!(lab.host.sh("ls /run/netrec/remote"), "");
    });
}

/// Another network is made all the same, and this one once the plugin is there.
#[test]
fn a_plugin_that_is_missing_fails_alone() {
    lab::in_lab(|lab| {
        let both =
            format!("{SHOP}\n[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.api]\nnetworks = [\"front\"]\n");
        let output = lab.host.try_netrec(&both, &["apply", "-y"]);
        let expected = "error: make network wide: there is no plugin `example`: neither /run/docker/plugins/example.sock nor \
                        example.spec or example.json in /etc/docker/plugins or /usr/lib/docker/plugins; start it first\n\
                        all else is done; `netrec apply` tries again\n";
        assert_eq!((output.status, output.stderr.as_str()), (1, expected));
        lab.expect("api ping 10.20.0.1 -> answer");
        assert_eq!(lab.host.sh("ls -A /run/netrec/remote 2>/dev/null || true"), "");
        let _plugin = Plugin::start(lab, "example", &[]);
        lab.host.apply(&both);
        lab.expect("web ping 10.50.0.11 -> answer");
    });
}

/// What was tried goes when it is rolled back: without its plugin it is named, and goes later.
#[test]
fn what_is_rolled_back_without_its_plugin_is_named() {
    lab::in_lab(|lab| {
        let front = "[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.api]\nnetworks = [\"front\"]\n";
        lab.host.apply(front);
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        let both = lab.host.write("both.toml", &format!("{front}{SHOP}"));
        let tried = lab.host.netrec(&["-c", &both, "apply", "-y", "--confirm", "1h"]);
        assert_eq!(tried.status, 0, "{}", tried.stderr);
        lab.expect("web ping 10.50.0.11 -> answer");
        plugin.end();
        let back = lab.host.netrec(&["rollback"]);
        let away = "plugin `example`: Plugin.Activate: nobody listens there";
        let expected = format!(
            "error: what had been done could not all be taken back; left to do:\n  network wide is still there\n  \
             endpoint db on wide is still there\n  endpoint web on wide is still there\n  remove endpoint db on wide: {away}\n  \
             remove endpoint web on wide: {away}\n  remove network wide: {away}\n\
             `netrec rollback` tries again, `netrec confirm` keeps what there is\n"
        );
        assert_eq!((back.status, back.stderr), (1, expected));
        assert_eq!(lab.host.netns_names(), ["api"]);
        lab.expect("api ping 10.20.0.1 -> answer");
        let _plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
        assert_eq!(lab.host.plan(front).actions(), [""; 0]);
        assert_eq!(memory(lab), (0, 0, 0, addresses([])));
        assert_eq!(lab.host.sh("ls /run/netrec/remote"), "");
    });
}

/// One that no longer answers does not hold a plan up for each container.
#[test]
fn all_questions_of_a_plan_have_one_limit() {
    lab::in_lab(|lab| {
        let plugin = Plugin::start(lab, "example", &["--state", MEMORY]);
        let more = |n| format!("[containers.c{n}]\nnetworks = [\"wide\"]\n");
        let file: String = std::iter::once(SHOP.to_owned()).chain((0..8).map(more)).collect();
        lab.host.apply(&file);
        plugin.end();
        let plugin = Scripted::start(lab, "example", &[("NetworkDriver.EndpointOperInfo", Reply::Hang)]);
        assert_eq!(lab.host.plan(&file).actions(), [""; 0]);
        let asked = plugin.calls().iter().filter(|call| call.method == "NetworkDriver.EndpointOperInfo").count();
        // Two seconds each, and five in all.
        assert!((1..=3).contains(&asked), "{asked}");
    });
}
