//! Networks without a bridge: macvlan, host and null. What of ipvlan and VLANs this kernel lacks is tried in messages alone
//! (src/kernel/netlink/link.rs).

use std::panic::catch_unwind;
use std::process::Command;
use std::thread;

use crate::changes::veth;
use crate::lab::{self, Lab, Snapshot, assert_same, until};

/// A network on the host's uplink, whose router is the machine outside, beside one with a bridge.
const LAN: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.lan]
driver = "macvlan"
parent = "uplink"
subnet = ["10.40.0.0/24", "fd40::/64"]

[networks.second]
driver = "macvlan"
parent = "uplink"
subnet = "10.41.0.0/24"
gateway = false

[networks.none]
driver = "null"

[networks.own]
driver = "host"

[containers.both]
networks = { front = { address = ["10.20.0.10", "fd20::10"] }, lan = { address = ["10.40.0.10", "fd40::10"] } }
ports = ["8080:80"]

[containers.db]
networks.lan = { address = ["10.40.0.11", "fd40::11"], interface = "lan0", mac = "02:00:00:00:40:11" }

[containers.web]
networks = { lan = { address = ["10.40.0.12", "fd40::12"] }, second = { address = "10.41.0.12" } }

[containers.third]
networks.second = { address = "10.41.0.13" }

[containers.quiet]
networks = ["none"]

[containers.agent]
networks = ["own"]
"#;

/// The router of the network on the uplink: the machine outside.
fn router(lab: &Lab) {
    for net in ["10.40.0.1/24", "fd40::1/64"] {
        lab.world.add_address("w0", net);
    }
}

#[test]
fn packets_go_by_the_parents_link() {
    lab::in_lab(|lab| {
        router(lab);
        lab.host.apply(LAN);
        assert_same::<String, _>("a second plan", &[], &lab.host.plan(LAN).actions());
        let (both, db, web) = (lab.container("both"), lab.container("db"), lab.container("web"));
        let _open = [
            both.listen_tcp("both", "[::]:80"),
            db.listen_tcp("db", "[::]:80"),
            web.listen_tcp("web", "[::]:80"),
            lab.world.listen_tcp("world", "[::]:81"),
            lab.host.listen_tcp("host", "[::]:82"),
        ];
        let _third = lab.container("third").listen_tcp("third", "0.0.0.0:80");
        // The host is none of the network's, and its own devices do not see each other (macvlan.rst).
        lab.expect(
            "web tcp 10.40.0.11:80 -> db sees 10.40.0.12
             web tcp [fd40::11]:80 -> db sees fd40::12
             db tcp 10.40.0.10:80 -> both sees 10.40.0.11
             world tcp 10.40.0.11:80 -> db sees 10.40.0.1
             world tcp [fd40::12]:80 -> web sees fd40::1
             db tcp 10.40.0.1:81 -> world sees 10.40.0.11
             db tcp 192.0.2.9:81 -> world sees 10.40.0.11
             web tcp [2001:db8::9]:81 -> world sees fd40::12
             web tcp 10.41.0.13:80 -> third sees 10.41.0.12
             world tcp 192.0.2.1:8080 -> both sees 192.0.2.9
             world tcp [2001:db8::1]:8080 -> both sees 2001:db8::9
             both tcp 192.0.2.9:81 -> world sees 192.0.2.1
             db tcp 192.0.2.1:82 -> blocked",
        );
        // The router has spoken with the old Ethernet address, and hears of the new one at once.
        lab.host.apply(&LAN.replace("02:00:00:00:40:11", "02:00:00:00:40:99"));
        lab.expect("world tcp 10.40.0.11:80 -> db sees 10.40.0.1\nworld tcp [fd40::11]:80 -> db sees fd40::1");
        // The host's own stack, and none at all.
        assert_eq!(
            lab.container("quiet").sh("ip -br link | tr -s ' '").trim(),
            "lo UNKNOWN 00:00:00:00:00:00 <LOOPBACK,UP,LOWER_UP>"
        );
        assert_eq!(lab.host.netns_names(), ["both", "db", "quiet", "third", "web"]);
        let ends = lab.host.sh("ip -o link show type veth | grep -c ': ve-'");
        assert_eq!(ends.trim(), "1");
    });
}

/// What another Ethernet address takes: the kernel would keep the link-local address of the old one.
const ANEW: &str = "replace link lan0 in db\nreplace address 10.40.0.11/24 dev lan0 in db\nreplace address fd40::11/64 dev lan0 in db
        replace route default in db\nreplace route default (ipv6) in db\nreplace sysctl net/ipv6/conf/lan0/accept_ra in db";

/// What is done by hand, and the plan that mends it.
const DAMAGE: &[(&str, &str)] = &[
    (
        "ip -n db link del lan0",
        "create link lan0 in db\ncreate address 10.40.0.11/24 dev lan0 in db\ncreate address fd40::11/64 dev lan0 in db
        create route default in db\ncreate route default (ipv6) in db\ncreate sysctl net/ipv6/conf/lan0/accept_ra in db",
    ),
    (
        "ip -n db link set lan0 name other",
        "create link lan0 in db\ndelete link other in db
        create address 10.40.0.11/24 dev lan0 in db\ndelete address 10.40.0.11/24 dev other in db
        create address fd40::11/64 dev lan0 in db\ndelete address fd40::11/64 dev other in db
        replace route default in db\nreplace route default (ipv6) in db\ncreate sysctl net/ipv6/conf/lan0/accept_ra in db",
    ),
    ("ip -n db link set lan0 type macvlan mode private", "update link lan0 in db"),
    ("ip -n db link set lan0 type macvlan mode vepa", "update link lan0 in db"),
    (
        "ip -n db link set lan0 down",
        "update link lan0 in db\ncreate address fd40::11/64 dev lan0 in db
        create route default in db\ncreate route default (ipv6) in db",
    ),
    ("ip -n db link set lan0 address 02:00:00:00:00:07", ANEW),
    ("ip -n db link set lan0 mtu 1400", "update link lan0 in db"),
    ("ip -n db link set lan0 arp off", "update link lan0 in db"),
    // Without its name it is still known by where its parent is.
    ("ip -n db link set lan0 alias mine", "update link lan0 in db"),
    ("ip -n db link set lan0 group 20051", "update link lan0 in db"),
    ("ip -n db addr del 10.40.0.11/24 dev lan0", "create address 10.40.0.11/24 dev lan0 in db\ncreate route default in db"),
    ("ip -n db addr add 10.40.0.77/24 dev lan0", "delete address 10.40.0.77/24 dev lan0 in db"),
    ("ip -n db addr del fd40::11/64 dev lan0", "create address fd40::11/64 dev lan0 in db"),
    ("ip -n db route del default", "create route default in db"),
    ("ip -n db -6 route del default", "create route default (ipv6) in db"),
    ("ip netns exec db sysctl -qw net.ipv6.conf.lan0.accept_ra=1", "update sysctl net/ipv6/conf/lan0/accept_ra in db"),
    (
        // Two have each other's Ethernet address, and neither can have its own while the other has it.
        "ip -n db link set lan0 down; ip -n third link set eth0 down
        ip -n db link set lan0 address 02:00:00:00:00:07
        ip -n third -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/' > /run/mac
        ip -n third link set eth0 address 02:00:00:00:40:11
        ip -n db link set lan0 address $(cat /run/mac)
        ip -n db link set lan0 up; ip -n third link set eth0 up",
        "replace link lan0 in db\nreplace address 10.40.0.11/24 dev lan0 in db\ncreate address fd40::11/64 dev lan0 in db
        create route default in db\ncreate route default (ipv6) in db\nreplace sysctl net/ipv6/conf/lan0/accept_ra in db
        replace link eth0 in third\nreplace address 10.41.0.13/24 dev eth0 in third
        replace sysctl net/ipv6/conf/eth0/accept_ra in third",
    ),
    (
        "ip netns del third",
        "create netns third\ncreate link eth0 in third\ncreate address 10.41.0.13/24 dev eth0 in third
        create sysctl net/ipv6/conf/eth0/accept_ra in third",
    ),
];

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Waits until the host is as it was; link states follow a little later.
fn is_again(what: &str, lab: &Lab, before: &Snapshot) {
    let mut left = String::new();
    let _ = catch_unwind(std::panic::AssertUnwindSafe(|| {
        until(what, || {
            left = before.diff(&Snapshot::of_machine(&lab.host));
            left.is_empty()
        });
    }));
    assert_eq!(left, "", "{what}: left");
}

#[test]
fn every_damage_to_a_macvlan_is_shown_and_mended() {
    lab::sandbox(|| {
        let wrong: Vec<&str> = DAMAGE
            .chunks(6)
            .flat_map(|some| {
                thread::scope(|s| {
                    let mends = |damage: &'static str, actions: &'static str| {
                        let lab = Lab::new();
                        lab.host.apply(LAN);
                        let before = lab.at_rest();
                        lab.host.sh(damage);
                        assert_same(damage, &lines(actions), &lab.host.plan(LAN).actions());
                        lab.host.apply(LAN);
                        assert_same::<String, _>(damage, &[], &lab.host.plan(LAN).actions());
                        is_again(damage, &lab, &before);
                    };
                    let running: Vec<_> = some
                        .iter()
                        .map(|(damage, actions)| (*damage, s.spawn(move || mends(damage, actions))))
                        .collect();
                    running.into_iter().filter_map(|(damage, t)| t.join().err().map(|_| damage)).collect::<Vec<_>>()
                })
            })
            .collect();
        assert_same("damages that went wrong", &[""; 0], &wrong);
    });
}

/// What nothing of netrec's depends on is others' to set: the plan stays empty, and packets of both families pass.
#[test]
fn what_nothing_depends_on_is_no_drift() {
    const FILE: &str = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
        [networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\ntype = 'passthru'\ngateway = false\n\
        subnet = ['10.40.0.0/24', 'fd40::/64']\n\
        [containers.web.networks]\nfront.address = ['10.20.0.10', 'fd20::10']\nlan.address = ['10.40.0.10', 'fd40::10']\n\
        [containers.db]\nnetworks.front = { address = ['10.20.0.11', 'fd20::11'] }\n";
    lab::in_lab(|lab| {
        lab.world.add_address("w0", "10.40.0.9/24");
        lab.world.add_address("w0", "fd40::9/64");
        lab.host.apply(FILE);
        let web = lab.container("web");
        let _listens = web.listen_tcp("web", "[::]:99");
        for change in [
            "ip -n web link set eth1 type macvlan mode passthru nopromisc",
            "ip link set nr-front multicast off",
            "ip -n web link set eth0 multicast off; ip -n web link set eth1 multicast off",
            "ip -n web addr flush dev eth0 scope link; ip -n web addr flush dev eth1 scope link",
            "ip addr flush dev nr-front scope link",
            "ip -n web addr del 10.20.0.10/24 dev eth0
             ip -n web addr add 10.20.0.10/24 brd 10.20.0.255 label eth0:x dev eth0
             ip -n web route add default via 10.20.0.1 proto 78",
        ] {
            lab.host.sh(change);
            assert_eq!(lab.host.plan(FILE).actions(), [""; 0], "{change}");
            lab.host.sh("for n in web db; do ip netns exec $n sh -c 'ip neigh flush all; ip -6 neigh flush all'; done");
            lab.host.sh("ip neigh flush dev nr-front; ip -6 neigh flush dev nr-front");
            lab.world.sh("ip neigh flush dev w0; ip -6 neigh flush dev w0");
            lab.expect(
                "db tcp 10.20.0.10:99 -> web sees 10.20.0.11
                db tcp [fd20::10]:99 -> web sees fd20::11
                host tcp 10.20.0.10:99 -> web sees 10.20.0.1
                host tcp [fd20::10]:99 -> web sees fd20::1
                world tcp 10.40.0.10:99 -> web sees 10.40.0.9
                world tcp [fd40::10]:99 -> web sees fd40::9",
            );
        }
    });
}

/// A plan of more than a screen, most of which is the firewall's.
const LONG: &str = "…";

/// A change of the file: what is replaced by what, and the plan.
const CHANGES: &[(&str, &str, &str)] = &[
    ("parent = \"uplink\"\nsubnet = [", "parent = \"uplink\"\ntype = \"private\"\nsubnet = [",
        "update link eth0 in web\nupdate link eth1 in both\nupdate link lan0 in db"),
    ("parent = \"uplink\"\nsubnet = [", "parent = \"uplink\"\nmtu = 1400\nsubnet = [",
        "update link eth0 in web\nupdate link eth1 in both\nupdate link lan0 in db"),
    ("02:00:00:00:40:11", "02:00:00:00:40:99", ANEW),
    ("\"lan0\"", "\"lan1\"",
        "create link lan1 in db\ndelete link lan0 in db
        create address 10.40.0.11/24 dev lan1 in db\ndelete address 10.40.0.11/24 dev lan0 in db
        create address fd40::11/64 dev lan1 in db\ndelete address fd40::11/64 dev lan0 in db
        replace route default in db\nreplace route default (ipv6) in db\ncreate sysctl net/ipv6/conf/lan1/accept_ra in db"),
    ("10.40.0.11", "10.40.0.15", "create address 10.40.0.15/24 dev lan0 in db\ndelete address 10.40.0.11/24 dev lan0 in db"),
    ("subnet = [\"10.40.0.0/24\", \"fd40::/64\"]", "subnet = [\"10.40.0.0/24\", \"fd40::/64\"]\ngateway = \"10.40.0.2\"",
        "update route default in db\nupdate route default in web"),
    // Another device, and all that is on it.
    ("parent = \"uplink\"\nsubnet = \"10.41", "parent = \"spare\"\nsubnet = \"10.41",
        "replace link eth0 in third\nreplace address 10.41.0.13/24 dev eth0 in third
        replace sysctl net/ipv6/conf/eth0/accept_ra in third
        replace link eth1 in web\nreplace address 10.41.0.12/24 dev eth1 in web
        replace sysctl net/ipv6/conf/eth1/accept_ra in web"),
    // The whole of it, for one container: not to be had by a change in place, and with the device's Ethernet address.
    ("[containers.third]\nnetworks.second", "[networks.whole]\ndriver = \"macvlan\"\nparent = \"spare\"\ntype = \"passthru\"\n\
        subnet = \"10.42.0.0/24\"\n[containers.third]\nnetworks.whole = { address = \"10.42.0.3\" }\n#",
        "replace link eth0 in third\ncreate address 10.42.0.3/24 dev eth0 in third\ndelete address 10.41.0.13/24 dev eth0 in third
        create route default in third\nreplace sysctl net/ipv6/conf/eth0/accept_ra in third"),
    // A bridge network in the place of the other, under the same name and address.
    ("[networks.second]\ndriver = \"macvlan\"\nparent = \"uplink\"\nsubnet = \"10.41.0.0/24\"\ngateway = false",
        "[networks.second]\nsubnet = \"10.41.0.0/24\"\ngateway = false", LONG),
    // They change places: one on a bridge with one that is not, and two that are not.
    (
        "front = { address = [\"10.20.0.10\", \"fd20::10\"] }, lan = { address = [\"10.40.0.10\", \"fd40::10\"] }",
        "front = { address = [\"10.20.0.10\", \"fd20::10\"], interface = \"eth1\" }, lan = { address = [\"10.40.0.10\", \
         \"fd40::10\"], interface = \"eth0\" }",
        "update link VE-BOTH\ncreate link eth0 in both\ndelete link eth1 in both
        create address 10.40.0.10/24 dev eth0 in both\ndelete address 10.40.0.10/24 dev eth1 in both
        create address fd40::10/64 dev eth0 in both\ndelete address fd40::10/64 dev eth1 in both
        create sysctl net/ipv6/conf/eth0/accept_ra in both",
    ),
    (
        "networks = { lan = { address = [\"10.40.0.12\", \"fd40::12\"] }, second = { address = \"10.41.0.12\" } }",
        "networks = { second = { address = \"10.41.0.12\" }, lan = { address = [\"10.40.0.12\", \"fd40::12\"] } }",
        "replace link eth0 in web\nreplace link eth1 in web
        create address 10.40.0.12/24 dev eth1 in web\ndelete address 10.40.0.12/24 dev eth0 in web
        create address fd40::12/64 dev eth1 in web\ndelete address fd40::12/64 dev eth0 in web
        create address 10.41.0.12/24 dev eth0 in web\ndelete address 10.41.0.12/24 dev eth1 in web
        replace route default in web\nreplace route default (ipv6) in web
        replace sysctl net/ipv6/conf/eth0/accept_ra in web\nreplace sysctl net/ipv6/conf/eth1/accept_ra in web",
    ),
    // Nothing, in the place of something.
    (
        "networks = [\"none\"]",
        "networks.second = { address = \"10.41.0.14\" }",
        "create link eth0 in quiet\ncreate address 10.41.0.14/24 dev eth0 in quiet
        create sysctl net/ipv6/conf/eth0/accept_ra in quiet",
    ),
    ("networks = [\"own\"]", "networks = [\"none\"]", "create netns agent"),
    ("[containers.quiet]\nnetworks = [\"none\"]\n", "", "delete netns quiet"),
    ("[containers.agent]\nnetworks = [\"own\"]\n", "", ""),
    ("[containers.third]\nnetworks.second = { address = \"10.41.0.13\" }\n", "",
        "delete netns third\ndelete link eth0 in third\ndelete address 10.41.0.13/24 dev eth0 in third"),
];

#[test]
fn every_change_of_a_key_is_made_and_taken_back() {
    lab::sandbox(|| {
        let wrong: Vec<&str> = CHANGES
            .chunks(6)
            .flat_map(|some| {
                thread::scope(|s| {
                    let change = |old: &str, new: &str, actions: &str| {
                        let lab = Lab::new();
                        lab.host.link(&lab.world, "spare", "w1");
                        assert!(LAN.contains(old), "{old}");
                        let changed = LAN.replace(old, new);
                        lab.host.apply(LAN);
                        let before = lab.at_rest();
                        let plan = lab.host.plan(&changed).actions();
                        if actions != LONG {
                            assert_same(new, &lines(&actions.replace("VE-BOTH", &veth("front", "both"))), &plan);
                        }
                        lab.host.apply(&changed);
                        assert_same::<String, _>(new, &[], &lab.host.plan(&changed).actions());
                        lab.host.apply(LAN);
                        assert_same::<String, _>(new, &[], &lab.host.plan(LAN).actions());
                        is_again(new, &lab, &before);
                    };
                    let running: Vec<_> = some
                        .iter()
                        .map(|(old, new, actions)| (*new, s.spawn(move || change(old, new, actions))))
                        .collect();
                    running.into_iter().filter_map(|(new, t)| t.join().err().map(|_| new)).collect::<Vec<_>>()
                })
            })
            .collect();
        assert_same("changes that went wrong", &[""; 0], &wrong);
    });
}

#[test]
fn a_parent_takes_all_along_and_back_again_all_is_mended() {
    lab::in_lab(|lab| {
        lab.host.link(&lab.world, "spare", "w1");
        let file = LAN.replace("parent = \"uplink\"\nsubnet = \"10.41", "parent = \"spare\"\nsubnet = \"10.41");
        lab.host.apply(&file);
        let before = lab.host.plan(&file);
        assert_eq!(before.actions(), [""; 0]);
        lab.host.run(["ip", "link", "del", "spare"]);
        let refused = lab.host.try_netrec(&file, &["plan"]);
        assert_eq!((refused.status, refused.stdout.as_str()), (1, ""));
        assert_eq!(
            refused.stderr,
            "error: network `second` (/run/lab/netrec.toml:10) is to be on `spare`, which this host does not have: create it \
             first, or take the network out\n"
        );
        lab.host.link(&lab.world, "spare", "w1");
        let missing = "create link eth0 in third\ncreate address 10.41.0.13/24 dev eth0 in third
            create sysctl net/ipv6/conf/eth0/accept_ra in third
            create link eth1 in web\ncreate address 10.41.0.12/24 dev eth1 in web
            create sysctl net/ipv6/conf/eth1/accept_ra in web";
        assert_same("the parent is back", &lines(missing), &lab.host.plan(&file).actions());
        lab.host.apply(&file);
        assert_eq!(lab.host.plan(&file).actions(), [""; 0]);
        let _third = lab.container("third").listen_tcp("third", "0.0.0.0:80");
        lab.expect("web tcp 10.41.0.13:80 -> third sees 10.41.0.12");
    });
}

#[test]
fn destroy_finds_macvlans_in_every_namespace_that_has_a_name() {
    lab::in_lab(|lab| {
        // One that netrec did not make, and that no file names any more.
        lab.host.sh("ip netns add theirs; ip -n theirs link set lo up");
        let before = lab.at_rest();
        let file = "[networks.lan]\ndriver = \"macvlan\"\nparent = \"uplink\"\nsubnet = \"10.40.0.0/24\"\n\
            [containers.one]\nnetns = \"/run/netns/theirs\"\nnetworks = [\"lan\"]\n[containers.two]\nnetworks = [\"lan\"]\n";
        lab.host.apply(file);
        let other = "[networks.lan]\ndriver = \"macvlan\"\nparent = \"uplink\"\nsubnet = \"10.40.0.0/24\"\n";
        let gone: Vec<String> =
            lab.host.plan(other).actions().into_iter().filter(|action| action.contains(" link ")).collect();
        assert_same("what is named no longer", &["delete link eth0 in theirs", "delete link eth0 in two"], &gone);
        lab.host.apply(other);
        is_again("the containers are gone", lab, &before);
        lab.host.apply(file);
        lab.host.destroy(file);
        is_again("destroy", lab, &before);
        assert_eq!(lab.host.destroy(file).json["writes"], 0);
    });
}

/// What this kernel lacks is said in a sentence, and nothing is left behind. A kernel that has it makes it.
#[test]
fn a_driver_that_the_kernel_lacks_is_named() {
    lab::in_lab(|lab| {
        let before = lab.at_rest();
        let file = |driver: &str, parent: &str| {
            format!(
                "[networks.lan]\ndriver = \"{driver}\"\nparent = \"{parent}\"\nsubnet = \"10.40.0.0/24\"\n\
                 [containers.one]\nnetworks = [\"lan\"]\n"
            )
        };
        let kinds = [
            ("ipvlan", "ipvlan", file("ipvlan", "uplink"), "eth0 in one"),
            ("vlan", "8021q", file("macvlan", "uplink.10"), "uplink.10 in host"),
        ];
        for (kind, module, file, link) in kinds {
            let add = match kind {
                "vlan" => "ip link add link uplink name probe type vlan id 9",
                _ => "ip link add link uplink name probe type ipvlan",
            };
            let has = lab.host.output(Command::new("sh").args(["-c", add])).status == 0;
            if has {
                lab.host.run(["ip", "link", "del", "probe"]);
                lab.host.apply(&file);
                assert_eq!(lab.host.plan(&file).actions(), [""; 0]);
                lab.host.destroy(&file);
            } else {
                let failed = lab.host.try_netrec(&file, &["apply", "-y"]);
                assert_eq!(failed.status, 4, "{failed:?}");
                let said =
                    format!("create link {link}: this kernel has no {kind} driver (modprobe {module}): Operation not");
                assert!(failed.stderr.contains(&said), "{}", failed.stderr);
            }
            is_again(kind, lab, &before);
        }
    });
}

/// A device that others cannot be on, and one that is there already under a VLAN's name.
#[test]
fn parents_that_will_not_do_are_refused() {
    lab::in_lab(|lab| {
        lab.host.sh("ip link add br-x type bridge; ip link add x0 master br-x type veth peer name x1
            ip link set uplink mtu 1400; ip link add uplink.10 type bridge; ip link set x1 down");
        let said = |rest: &str| {
            let file = format!(
                "[networks.lan]\ndriver = \"macvlan\"\nsubnet = \"10.40.0.0/24\"\n{rest}\n[containers.one]\nnetworks = [\"lan\"]\n"
            );
            let refused = lab.host.try_netrec(&file, &["plan"]);
            assert_eq!(refused.status, 1);
            refused.stderr.replacen("error: network `lan` (/run/lab/netrec.toml:1) is to be on ", "", 1)
        };
        assert_eq!(
            said("parent = \"x0\""),
            "`x0`, which is a port of `br-x`, and so hands all its frames to that: name `br-x` instead\n"
        );
        assert_eq!(
            said("parent = \"uplink\"\nmtu = 1500"),
            "`uplink`, whose MTU is 1400: the network's cannot be 1500\n"
        );
        assert_eq!(
            said("parent = \"uplink.10\""),
            "`uplink.10`, which is there and is not VLAN 10 of `uplink`: give that device another name, or take the network out\n"
        );
        assert_eq!(said("parent = \"x1.7\""), "`x1.7`, but `x1` is down: bring it up with `ip link set x1 up`\n");
        assert_eq!(
            said("parent = \"none.7\""),
            "`none.7`, but this host has no `none` for VLAN 7: create it first, or take the network out\n"
        );
        // Of a network without containers nothing is made.
        let empty = "[networks.lan]\ndriver = \"macvlan\"\nparent = \"none\"\nsubnet = \"10.40.0.0/24\"\n";
        assert_eq!(lab.host.plan(empty).actions(), [""; 0]);
    });
}

/// The kernel has no IPv6 on devices of such an MTU, and none of its parameters.
#[test]
fn an_mtu_may_be_too_small_for_ipv6() {
    lab::in_lab(|lab| {
        lab.host.set_sysctl("net/ipv4/ip_forward", "1");
        let before = lab.at_rest();
        let file = |mtu: u32| {
            format!(
                "[networks.front]\nmtu = {mtu}\nsubnet = '10.20.0.0/24'\n\
                 [networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nmtu = {mtu}\nsubnet = '10.40.0.0/24'\n\
                 [containers.web]\nnetworks = ['front', 'lan']\n"
            )
        };
        for mtu in [68, 1280, 1279, 1400, 576, 1500] {
            lab.host.apply(&file(mtu));
            assert_eq!(lab.host.plan(&file(mtu)).actions(), [""; 0], "{mtu}");
        }
        // With the larger MTU no address came that nobody wants.
        lab::until("the devices are up", || {
            lab.host.sh("ip -6 -o addr show dev nr-front; ip -n web -6 -o addr show dev eth1").is_empty()
        });
        lab.host.destroy(&file(1500));
        is_again("destroy", lab, &before);
    });
}

/// A namespace is also found by its processes where something was mounted over its path.
#[test]
fn what_is_in_a_covered_namespace_is_found() {
    lab::in_lab(|lab| {
        lab.host.sh(
            "mkdir /run/theirs; touch /run/theirs/app; unshare --net mount --bind /proc/self/ns/net /run/theirs/app",
        );
        let before = lab.at_rest();
        let file = "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '10.40.0.0/24'\n\
                    [containers.one]\nnetns = '/run/theirs/app'\nnetworks = ['lan']\n";
        lab.host.apply(file);
        let mut process =
            lab.host.spawn(Command::new("nsenter").args(["--net=/run/theirs/app", "sleep", "600"])).unwrap();
        lab::until("it is there", || lab.host.try_run(["pgrep", "-x", "-f", "sleep 600"]).status == 0);
        lab.host.sh("mount -t tmpfs none /run/theirs");
        lab.host.destroy("");
        lab.host.sh("umount /run/theirs");
        process.kill().unwrap();
        process.wait().unwrap();
        is_again("destroy", lab, &before);

        // Without a process nothing leads there.
        lab.host.apply(file);
        lab.host.sh("mount -t tmpfs none /run/theirs");
        let unseen = lab.host.destroy("");
        assert_eq!(unseen.json["warnings"][0]["code"], "unseen", "{}", unseen.json);
        lab.host.sh("umount /run/theirs");
        lab.host.destroy("");
        is_again("destroy", lab, &before);
    });
}

/// What waits for a device to come up is said, and mended by nobody but its owner.
#[test]
fn a_parent_that_is_down_is_warned_about() {
    lab::in_lab(|lab| {
        let file = "[networks.lan]\ndriver = 'macvlan'\nparent = 'spare'\nsubnet = '10.40.0.0/24'\n\
                    [containers.one]\nnetworks = ['lan']\n";
        lab.host.sh("ip link add spare up type bridge");
        lab.host.apply(file);
        assert_eq!(lab.host.plan(file).json["warnings"], serde_json::json!([]));
        lab.host.sh("ip link set spare down");
        let plan = lab.host.plan(file);
        assert_eq!(plan.actions(), [""; 0]);
        let message = "networks.lan is on `spare`, which is down: nothing passes until `ip link set spare up`";
        assert_eq!(
            plan.json["warnings"],
            serde_json::json!([{ "code": "device-down", "message": message, "owner": "networks.lan" }])
        );
        let status = lab.host.try_netrec(file, &["status"]);
        assert!(status.stdout.contains(message), "{}{}", status.stdout, status.stderr);
        // An Ethernet address of the device's is refused before the kernel does.
        lab.host.sh("ip link set spare up address 02:00:00:00:40:01");
        let same = file.replace("networks = ['lan']", "networks.lan.mac = '02:00:00:00:40:01'");
        let refused = lab.host.try_netrec(&same, &["plan"]);
        let said = "error: container `one` (/run/lab/netrec.toml:5) is to have the Ethernet address 02:00:00:00:40:01 on network \
                    `lan`, which is that of `spare` itself: give it another `mac`, or none\n";
        assert_eq!((refused.status, &*refused.stderr), (1, said));
    });
}

/// An address of the host's on the device itself is no container's, be it chosen or asked for.
#[test]
fn the_hosts_own_address_is_not_given_away() {
    lab::in_lab(|lab| {
        let file = |net: &str, address: &str| {
            format!(
                "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = ['192.0.2.0/24', '2001:db8::/64']\n\
                 gateway = false\n{net}\n[containers.one]\nnetworks.lan = {{ {address} }}\n"
            )
        };
        let range = "range = ['192.0.2.0/30', '2001:db8::/64']";
        for (net, address, line, ip) in [
            ("", "address = ['192.0.2.1', '2001:db8::77']", 7, "192.0.2.1"),
            ("", "address = ['192.0.2.77', '2001:db8::1']", 7, "2001:db8::1"),
            (&*format!("{range}\nreserve = '192.0.2.2'"), "", 8, "192.0.2.1"),
        ] {
            let refused = lab.host.try_netrec(&file(net, address), &["plan"]);
            let said = format!(
                "error: container `one` (/run/lab/netrec.toml:{line}) is to have the address {ip} on network `lan`, which this \
                 host has on `uplink`: `reserve` it in the network, or give the container another\n"
            );
            assert_eq!((refused.status, &*refused.stderr), (1, &*said));
        }
        let reserved = "range = ['192.0.2.0/29', '2001:db8::/64']\nreserve = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4', '192.0.2.5']";
        let plan = lab.host.plan(&file(reserved, ""));
        assert!(
            plan.actions().contains(&"create address 192.0.2.6/24 dev eth0 in one".to_owned()),
            "{:?}",
            plan.actions()
        );
    });
}

/// A macvlan of somebody else's that has the device as a whole, in the host or in a namespace that nobody named.
#[test]
fn who_holds_a_parent_as_a_whole_is_named() {
    lab::in_lab(|lab| {
        let number = lab.host.sh("unshare -n sleep infinity >/dev/null 2>&1 & echo $!");
        let process = format!("/proc/{}/ns/net", number.trim());
        until("it is in a namespace of its own", || {
            lab.host
                .try_run(["sh", "-c", &format!("[ \"$(readlink {process})\" != \"$(readlink /proc/1/ns/net)\" ]")])
                .status
                == 0
        });
        let file = |kind: &str| {
            format!(
                "[networks.lan]\ndriver = \"macvlan\"\nparent = \"spare\"\n{kind}subnet = \"10.40.0.0/24\"\n\
                 [containers.one]\nnetworks = [\"lan\"]\n"
            )
        };
        lab.host.link(&lab.world, "spare", "w1");
        let said = |kind: &str, why: &str, place: &str| {
            let output = lab.host.try_netrec(&file(kind), &["apply", "-y"]);
            let expected = format!("error: create link eth0 in one: spare {why}: theirs in {place}; remove that (`");
            assert!(output.stderr.starts_with(&expected), "{}", output.stderr);
            assert_eq!(output.status, 4);
            let (command, rest) = output.stderr[expected.len()..].split_once('`').expect("a command");
            let after = "), or name another `parent`: Invalid argument\nwhat had been done was taken back: the host is as it was \
                         before\n";
            assert_eq!(rest, after);
            command.to_owned()
        };
        let whole = "is held as a whole (type passthru)";
        lab.host.sh("ip link add link spare name theirs type macvlan mode passthru");
        lab.host.sh(&said("", whole, "host"));
        lab.host.sh(&format!("ip link add link spare name theirs netns {} type macvlan mode passthru", number.trim()));
        lab.host.sh(&said("", whole, &process));
        lab.host.sh("ip link add link spare name theirs type macvlan mode bridge");
        let shared = "has a macvlan on it already, where type passthru wants all of it";
        lab.host.sh(&said("type = \"passthru\"\n", shared, "host"));
        lab.host.apply(&file("type = \"passthru\"\n"));
    });
}

/// What a file shows of itself is a file that wants the same, also where containers have no namespace of their own.
#[test]
fn what_is_shown_of_a_container_of_others_or_of_the_host_is_a_valid_file() {
    lab::in_lab(|lab| {
        let text = "[networks.front]\nsubnet = '10.20.0.0/24'\n[networks.own]\ndriver = 'host'\n\
                    [containers.a]\npid = 1\nnetworks = ['front']\n[containers.b]\nunit = 'web'\nnetworks = ['front']\n\
                    [containers.c]\nnetworks = ['own']\n";
        let file = lab.host.write("others.toml", text);
        let shown = lab.host.netrec(&["-c", &file, "show"]);
        assert_eq!((shown.status, shown.stderr.as_str()), (0, ""));
        let again = lab.host.write("shown.toml", &shown.stdout);
        let validated = lab.host.netrec(&["-c", &again, "validate"]);
        let valid = format!("{again} is valid: 2 networks, 3 containers\n");
        assert_eq!((validated.status, validated.stderr), (0, valid));
        assert_eq!(lab.host.netrec(&["-c", &again, "show"]).stdout, shown.stdout);
    });
}

/// A netrec that dies between making the device that inbound traffic waits at, in a container, and naming it.
#[test]
fn what_a_crash_leaves_unnamed_in_a_container_is_taken_up_again() {
    lab::in_lab(|lab| {
        let file = "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '10.40.0.0/24'\n\
                    [containers.a]\nnetworks.lan = { ingress = '10mbit' }\n";
        lab.host.apply(file);
        let a = lab.container("a");
        let name = a.sh("ip -o link show type ifb | cut -d: -f2").trim().to_owned();
        a.run(["ip", "link", "set", &name, "alias", ""]);
        assert!(!lab.host.plan(file).actions().is_empty());
        // Whose what hangs on it is, is told by who leads to it.
        let gone = lab.host.plan("");
        let tbf = gone.json["actions"].as_array().into_iter().flatten().find(|action| {
            action["kind"] == "qdisc" && action["name"].as_str().is_some_and(|text| text.contains(&name))
        });
        assert_eq!(
            tbf.map(|action| &action["owner"]),
            Some(&"containers.a.networks.lan".into()),
            "{}",
            gone.json["diff"]
        );
        lab.host.apply(file);
        assert!(a.run(["ip", "link", "show", &name]).contains("alias netrec containers.a.networks.lan @"));
        assert!(lab.host.plan(file).actions().is_empty());
        lab.host.destroy(file);
        assert_eq!(lab.host.netns_names(), Vec::<String>::new());
    });
}

/// Death at each write of an attachment with limits, in a namespace of netrec's and in somebody else's.
#[test]
#[cfg(feature = "fault-injection")]
fn a_death_while_limits_are_made_on_a_macvlan_costs_nothing() {
    lab::in_lab(|lab| {
        lab.host.sh(
            "mkdir -p /run/theirs && touch /run/theirs/a && unshare -n mount --bind /proc/self/ns/net /run/theirs/a",
        );
        for at_home in [true, false] {
            let place = if at_home { "" } else { "netns = '/run/theirs/a'\n" };
            let file = format!(
                "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '10.40.0.0/24'\ngateway = false\n\
                 [containers.a]\n{place}networks.lan = {{ ingress = '10mbit', egress = '5mbit' }}\n"
            );
            // What is the whole host's stays: it is written once.
            lab.host.apply(&file);
            lab.host.destroy(&file);
            let n = lab.host.apply(&file).json["writes"].as_u64().expect("writes");
            lab.host.destroy(&file);
            let path = lab.host.write("lan.toml", &file);
            for at in 1..=n {
                let fault = format!("die:{at}");
                let died = lab.host.netrec_with_env(&[("NETREC_FAULT", &fault)], &["-c", &path, "apply", "-y"]);
                assert_eq!(died.status, 137, "write {at} of {n}: {}", died.stderr);
                if at % 2 == 0 {
                    lab.host.apply(&file);
                    assert_eq!(lab.host.plan(&file).actions(), [""; 0], "write {at} of {n}");
                }
                lab.host.destroy(&file);
                let left = lab.host.sh("nsenter --net=/run/theirs/a ip -o link show group 20050; ip netns");
                assert_eq!(left, "", "write {at} of {n}");
            }
        }
    });
}
