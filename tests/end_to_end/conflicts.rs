//! What is somebody else's stays as it is: netrec names what is in the way, says how to go on, and writes nothing.

use std::process::Command;
use std::thread;

use crate::lab::{self, Lab, NETREC, Snapshot};

const FILE: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80"]
"#;

/// A namespace that is not netrec's, with a device that is not netrec's.
const FOREIGN_WEB: &str = "ip netns add web; ip -n web link set lo up
    ip link add x0 type veth peer name x1 netns web; ip link set x0 up; ip -n web link set x1 up
    ip -n web addr add 10.9.0.2/24 dev x1;";

/// Plans and applies, both of which must fail in the same words and write nothing. Returns the words.
fn refused(lab: &Lab, file: &str) -> String {
    let events = lab.host.settle();
    let before = Snapshot::of_machine(&lab.host);
    let [plan, apply] = [&["plan"][..], &["apply", "-y"]].map(|args| {
        let output = lab.host.try_netrec(file, args);
        assert_eq!((output.status, output.stdout.as_str()), (1, ""), "netrec {}: {}", args[0], output.stderr);
        output.stderr
    });
    events.quiet();
    assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
    assert_eq!(plan, apply);
    apply
}

/// Refused with a text in which all of these words are.
fn refused_saying(case: &str, lab: &Lab, file: &str, words: &[&str]) {
    let text = refused(lab, file);
    for word in words {
        assert!(text.contains(word), "{case}: `{word}` is missing in:\n{text}");
    }
}

#[test]
fn foreign_objects_in_the_way_are_named_with_the_ways_out() {
    lab::sandbox(|| {
        let cases: [(&str, String, &[&str]); 5] = [
            (
                "a bridge of the network's name",
                "ip link add nr-front type bridge".into(),
                &["nr-front", "networks.front", "rename", "adopt", "remove"],
            ),
            (
                "a device of another kind",
                "ip link add nr-front type veth peer name x1".into(),
                &["nr-front", "networks.front", "rename", "remove"],
            ),
            (
                "a namespace of the container's name",
                FOREIGN_WEB.into(),
                &["netns web", "containers.web", "rename", "adopt", "remove"],
            ),
            (
                "a device inside the container's namespace",
                FOREIGN_WEB.replace("x1", "eth0"),
                &["link eth0 in /run/netns/web", "containers.web.networks.front", "rename", "remove"],
            ),
            (
                "a default route inside the container's namespace",
                format!("{FOREIGN_WEB} ip -n web route add default via 10.9.0.1"),
                &["route default in /run/netns/web", "containers.web.networks.front", "remove"],
            ),
        ];
        thread::scope(|s| {
            for (case, prepare, words) in &cases {
                s.spawn(move || {
                    let lab = Lab::new();
                    lab.host.sh(prepare);
                    let inside = case.contains("inside");
                    let adopted = FILE.replace("[containers.web]", "[containers.web]\nnetns = '/run/netns/web'");
                    refused_saying(case, &lab, if inside { &adopted } else { FILE }, words);
                });
            }
        });
    });
}

#[test]
fn a_foreign_object_that_appears_later_is_not_replaced() {
    lab::in_lab(|lab| {
        lab.host.apply(FILE);
        // Ours is removed, and somebody puts a thing of their own there.
        lab.host.sh("ip link del nr-front; ip link add nr-front type bridge");
        refused_saying("a bridge", lab, FILE, &["nr-front", "rename", "adopt", "remove"]);
        lab.host.sh("ip link del nr-front");
        lab.host.apply(FILE);
        lab.host.sh("ip -n web route del default; ip -n web route add default via 10.20.0.99");
        refused_saying("a route", lab, FILE, &["route default in web", "rename", "adopt", "remove"]);
        lab.host.sh("ip -n web route del default");
        lab.host.apply(FILE);
        assert_eq!(lab.host.plan(FILE).actions(), [""; 0]);
    });
}

#[test]
fn an_equal_route_of_somebody_else_is_left_alone() {
    lab::in_lab(|lab| {
        lab.host.apply(FILE);
        lab.host.sh("ip -n web route replace default via 10.20.0.1 proto static");
        let events = lab.host.settle();
        assert_eq!(lab.host.plan(FILE).actions(), [""; 0]);
        assert_eq!(lab.host.apply(FILE).json["writes"], 0);
        events.quiet();
    });
}

#[test]
fn a_namespace_that_is_adopted_by_its_path_is_used_and_stays() {
    lab::in_lab(|lab| {
        let file = &FILE.replace("[containers.web]", "[containers.web]\nnetns = '/run/netns/web'");
        lab.host.sh(FOREIGN_WEB);
        drop(lab.host.settle());
        let before = Snapshot::of(&lab.container("web"));
        let done = lab.host.apply(file).actions();
        assert!(!done.iter().any(|a| a.contains(" netns ")), "{done:#?}");
        lab.container("web").ping("192.0.2.9").expect("an answer");
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        lab.host.destroy(file);
        assert_eq!(lab.host.netns_names(), ["web"]);
        assert_eq!(before.diff(&Snapshot::of(&lab.container("web"))), "");
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_refused_with_both_named() {
    const OLD: &str = "[networks.old]\nsubnet = '172.17.5.0/24'\n";
    lab::sandbox(|| {
        let cases: [(&str, &str, &[&str]); 5] = [
            ("ip addr add 172.17.0.1/16 dev uplink", OLD, &["172.17.5.0/24", "172.17.0.1/16", "uplink"]),
            ("ip route add 172.16.0.0/12 via 192.0.2.9", OLD, &["172.17.5.0/24", "172.16.0.0/12", "uplink"]),
            ("ip route add blackhole 172.16.0.0/12", OLD, &["172.17.5.0/24", "172.16.0.0/12", "route"]),
            ("ip route add 172.16.0.0/12 via 192.0.2.9 table 7", OLD, &["172.17.5.0/24", "172.16.0.0/12", "uplink"]),
            (
                "ip -6 route add fd17::/48 via 2001:db8::9",
                "[networks.old]\nsubnet = 'fd17::/64'\n",
                &["fd17::/64", "fd17::/48", "uplink"],
            ),
        ];
        thread::scope(|s| {
            for (prepare, file, words) in cases {
                s.spawn(move || {
                    let lab = Lab::new();
                    lab.host.sh(prepare);
                    let words = [words, &["`old`", "overlap = \"warn\""]].concat();
                    refused_saying(prepare, &lab, file, &words);

                    let warned = format!("[settings]\noverlap = 'warn'\n{file}");
                    let done = lab.host.apply(&warned);
                    let all = done.json["warnings"].as_array().expect("warnings");
                    let said: Vec<_> = all.iter().filter(|w| w["code"] == "overlap").collect();
                    let [one] = said[..] else { panic!("{prepare}: not one warning of an overlap: {all:?}") };
                    let message = one["message"].as_str().expect("a message");
                    for word in &words[..3] {
                        assert!(message.contains(word), "{prepare}: `{word}` is missing in: {message}");
                    }
                    assert_eq!(lab.host.plan(&warned).actions(), [""; 0], "{prepare}");
                });
            }
        });
    });
}

/// A process in a user namespace of its own, where it is nobody, has no rights over the machine's network, whoever runs
/// the test.
#[test]
fn without_rights_one_sentence_says_so() {
    lab::in_lab(|lab| {
        let as_nobody = |args: &[&str]| {
            let file = lab.host.write("netrec.toml", FILE);
            let mut command = Command::new("unshare");
            lab.host.output(command.args(["--user", "--", NETREC, "-c", &file]).args(args))
        };
        let all_refused = || {
            let events = lab.host.settle();
            for args in [&["plan"][..], &["apply", "-y"], &["destroy", "-y"]] {
                let output = as_nobody(args);
                assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{args:?}: {}", output.stderr);
                assert_eq!(output.stderr.lines().count(), 1, "{args:?}: {}", output.stderr);
                assert!(output.stderr.contains("root"), "{args:?}: {}", output.stderr);
            }
            assert_eq!(as_nobody(&["validate"]).status, 0, "the file can be checked by everybody");
            assert_eq!(as_nobody(&["show"]).status, 0);
            events.quiet();
        };
        all_refused();
        lab.host.apply(FILE); // now there is a namespace that cannot be entered
        all_refused();
    });
}

/// Namespaces that a file takes from elsewhere have to be there, each for one container, and never the host's own.
#[test]
fn namespaces_of_others_are_told_apart() {
    lab::in_lab(|lab| {
        lab.host.sh("ip netns add foo; ln -s /run/netns/foo /run/foo; touch /run/plain");
        let file = |a: &str, b: &str| {
            format!(
                "[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.a]\nnetns = \"{a}\"\nnetworks = [\"front\"]\n\
                 [containers.b]\nnetns = \"{b}\"\nnetworks = [\"front\"]\n"
            )
        };
        for (a, b, wanted) in [
            (
                "/proc/self/ns/net",
                "b",
                "container `a` (FILE:3) is to live in /proc/self/ns/net, which is this host's own network namespace: name one of its own",
            ),
            (
                "/run/netns/foo",
                "/run/foo",
                "container `b` (FILE:6) is to live in /run/foo, which is the namespace of container `a` too",
            ),
            (
                "a",
                "/run/nowhere",
                "container `b` (FILE:6) is to live in /run/nowhere, where there is no network namespace: start what makes it first",
            ),
            (
                "a",
                "/run/plain",
                "container `b` (FILE:6) is to live in /run/plain, where there is no network namespace: start what makes it first",
            ),
        ] {
            let output = lab.host.try_netrec(&file(a, b), &["plan"]);
            let path = lab.host.write("netrec.toml", &file(a, b));
            assert_eq!((output.status, output.stdout.as_str()), (1, ""), "{a} {b}");
            assert_eq!(output.stderr.trim_end(), format!("error: {}", wanted.replace("FILE", &path)));
        }
        lab.host.apply(&file("a", "/run/foo"));
    });
}

/// A parameter that the file gives a container, and that netrec needs otherwise.
#[test]
fn a_parameter_that_is_to_be_two_values_is_refused() {
    lab::in_lab(|lab| {
        let file = |value: u8| {
            format!(
                "[networks.front]\nsubnet = '10.20.0.0/24'\n[networks.back]\nsubnet = '10.21.0.0/24'\n[containers.web]\n\
                 networks = ['front', 'back']\nports = [{{ host = 8080, container = 80, network = 'back' }}]\n\
                 sysctl = {{ 'net.ipv4.conf.eth1.rp_filter' = {value}, 'net.ipv6.conf.eth0.accept_ra' = 2 }}\n"
            )
        };
        let output = lab.host.try_netrec(&file(1), &["plan"]);
        assert_eq!((output.status, output.stdout.as_str()), (1, ""));
        assert_eq!(
            output.stderr,
            "error: sysctl net/ipv4/conf/eth1/rp_filter in web is to be 2 for containers.web.ports[0], and 1 for \
             containers.web: it can be one only\n"
        );
        // What is as loose, and what netrec would only set for want of the file's word, is the file's.
        lab.host.apply(&file(0));
        let value = |path: &str| lab.container("web").sysctl(path);
        assert_eq!(
            (value("net/ipv4/conf/eth1/rp_filter"), value("net/ipv6/conf/eth0/accept_ra")),
            ("0".into(), "2".into())
        );
    });
}

/// A network on a bridge of somebody else's.
const ON_A_BRIDGE: &str = r#"
[networks.lan]
subnet = ["10.20.0.0/24", "fd20::/64"]
bridge = "br0"
adopt = true

[containers.web]
networks.lan = { address = ["10.20.0.10", "fd20::10"] }
"#;

#[test]
fn foreign_addresses_because_of_which_the_kernel_refuses_one_are_named() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add br0 type bridge; ip link set br0 up");
        for (address, remove) in [
            ("10.20.0.5/24 dev br0 scope link", "10.20.0.5/24 dev br0"),
            ("10.20.0.1 peer 10.20.0.9/24 dev br0", "10.20.0.1 peer 10.20.0.9/24 dev br0"),
            ("fd20::1/128 dev br0 nodad", "fd20::1/128 dev br0"),
            ("fd20::1 peer fd20::5/64 dev br0 nodad", "fd20::1 peer fd20::5/64 dev br0"),
        ] {
            lab.host.sh(&format!("ip addr add {address}"));
            let remove = format!("`ip addr del {remove}`");
            refused_saying(address, lab, ON_A_BRIDGE, &["not made by netrec", "networks.lan", &remove]);
            // And the way out that is named is one.
            lab.host.sh(remove.trim_matches('`'));
            lab.host.apply(ON_A_BRIDGE);
            lab.host.destroy(ON_A_BRIDGE);
        }
    });
}

/// Where a bridge does not promote secondary addresses, its first address takes the others of the subnet along.
#[test]
fn foreign_addresses_outlive_netrecs_on_the_same_bridge() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add br0 type bridge; ip link set br0 up");
        lab.host.set_sysctl("net/ipv4/conf/br0/promote_secondaries", "0");
        lab.host.apply(ON_A_BRIDGE);
        lab.host.sh("ip addr add 10.20.0.3/24 dev br0");
        let others = || {
            let text = lab.host.run(["ip", "-4", "-brief", "address", "show", "br0"]);
            let promotes = lab.host.sysctl("net/ipv4/conf/br0/promote_secondaries");
            (text.split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>(), promotes)
        };
        assert_eq!(others().0, ["10.20.0.1/24", "10.20.0.3/24"]);
        lab.host.apply(&ON_A_BRIDGE.replace("adopt = true", "adopt = true\ngateway = ['10.20.0.2', 'fd20::1']"));
        assert_eq!(others(), (vec!["10.20.0.3/24".to_owned(), "10.20.0.2/24".to_owned()], "0".to_owned()));
        lab.host.apply(ON_A_BRIDGE);
        assert_eq!(others(), (vec!["10.20.0.3/24".to_owned(), "10.20.0.1/24".to_owned()], "0".to_owned()));
        lab.host.destroy(ON_A_BRIDGE);
        assert_eq!(others(), (vec!["10.20.0.3/24".to_owned()], "0".to_owned()));
        // It may be the first, too.
        lab.host.sh("ip addr flush dev br0");
        lab.host.apply(ON_A_BRIDGE);
        lab.host.sh("ip addr add 10.20.0.3/24 dev br0");
        lab.host.destroy(ON_A_BRIDGE);
        assert_eq!(others(), (vec!["10.20.0.3/24".to_owned()], "0".to_owned()));
    });
}

/// Somebody takes the host's end of a pair into another namespace.
#[test]
fn an_end_that_was_taken_elsewhere_is_made_anew() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = '10.20.0.0/24'\n\
                    [containers.web]\nnetworks.front = { address = '10.20.0.10' }\n";
        lab.host.sh("ip netns add elsewhere");
        // It stays on.
        lab.host.set_sysctl("net/ipv4/ip_forward", "1");
        let before = lab.at_rest();
        lab.host.apply(file);
        let made = lab.at_rest();
        for again in [true, false] {
            lab.host
                .sh("end=$(ip -brief link | sed -n 's/^\\(ve-[^@ ]*\\).*/\\1/p'); ip link set $end netns elsewhere");
            if again {
                lab.host.apply(file);
                assert_eq!(lab.host.plan(file).actions(), [""; 0]);
                assert_eq!(made.diff(&lab.at_rest()), "");
            }
        }
        lab.host.destroy(file);
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}
