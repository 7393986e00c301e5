//! What was changed by hand: the plan shows it and nothing else, and one apply makes the host what it was.

use std::panic::catch_unwind;
use std::process::Command;
use std::thread;

use crate::SHOP;
use crate::changes::veth;
use crate::lab::{self, Lab, Snapshot, assert_same, until};

/// What is done to the host by hand, and the plan that mends it.
const DAMAGE: &[(&str, &str)] = &[
    (
        "ip link set VE-WEB down",
        "update link VE-WEB",
    ),
    // A bridge's MTU follows the smallest of its ports'.
    ("ip link set VE-WEB mtu 1400", "update link VE-WEB\nupdate link nr-front"),
    ("ip link set VE-WEB address 02:00:00:00:00:07", "update link VE-WEB"),
    ("ip link set VE-WEB nomaster", "update link VE-WEB"),
    ("ip link set VE-WEB master nr-back", "update link VE-WEB"),
    ("ip link set VE-WEB alias mine", "update link VE-WEB"),
    ("bridge link set dev VE-WEB hairpin off", "update link VE-WEB"),
    ("bridge link set dev VE-WEB isolated on locked on", "update link VE-WEB"),
    ("bridge link set dev VE-WEB learning off flood off", "update link VE-WEB"),
    ("bridge link set dev VE-WEB mcast_flood off bcast_flood off", "update link VE-WEB"),
    ("ip link set nr-front arp off", "update link nr-front"),
    ("ip link set VE-WEB arp off; ip -n web link set eth0 arp off", "update link VE-WEB"),
    ("ip -n web link set eth0 mtu 1400", "update link VE-WEB"),
    ("ip -n web link set eth0 address 02:00:00:00:00:07", "update link VE-WEB"),
    ("ip -n web link set eth0 name lan0", "update link VE-WEB"),
    (
        // The kernel drops a device's routes when it goes down, and its IPv6 addresses.
        "ip -n web link set eth0 down",
        "update link VE-WEB\ncreate address fd20::10/64 dev eth0 in web
        create route default in web\ncreate route default (ipv6) in web",
    ),
    (
        "ip link del VE-WEB",
        "create link VE-WEB\ncreate address 10.20.0.10/24 dev eth0 in web\ncreate address fd20::10/64 dev eth0 in web
        create route default in web\ncreate route default (ipv6) in web\ncreate sysctl net/ipv6/conf/eth0/accept_ra in web",
    ),
    (
        "ip link set VE-WEB name mine",
        "create link VE-WEB\ndelete link mine
        replace address 10.20.0.10/24 dev eth0 in web\nreplace address fd20::10/64 dev eth0 in web
        replace route default in web\nreplace route default (ipv6) in web
        replace sysctl net/ipv6/conf/eth0/accept_ra in web",
    ),
    ("ip link set nr-front mtu 1400", "update link nr-front"),
    ("ip link set nr-front address 02:00:00:00:00:07", "update link nr-front"),
    ("ip link set nr-front type bridge stp_state 1", "update link nr-front"),
    (
        // Without an address of IPv6's own choice left, the gateway's is gone.
        "ip link set nr-front down",
        "update link nr-front\ncreate address fd20::1/64 dev nr-front",
    ),
    (
        "ip link del nr-front",
        "create link nr-front\ncreate address 10.20.0.1/24 dev nr-front\ncreate address fd20::1/64 dev nr-front
        create sysctl net/ipv4/conf/nr-front/forwarding\ncreate sysctl net/ipv4/conf/nr-front/route_localnet
        create sysctl net/ipv6/conf/nr-front/accept_dad\ncreate sysctl net/ipv6/conf/nr-front/accept_ra
        create sysctl net/ipv6/conf/nr-front/forwarding
        update link VE-WEB\nupdate link VE-API",
    ),
    ("ip addr del 10.20.0.1/24 dev nr-front", "create address 10.20.0.1/24 dev nr-front"),
    ("ip addr add 10.20.0.77/24 dev nr-front", "delete address 10.20.0.77/24 dev nr-front"),
    ("ip -n web addr add fd20::77/64 dev eth0 nodad", "delete address fd20::77/64 dev eth0 in web"),
    ("ip -n web addr del fd20::10/64 dev eth0", "create address fd20::10/64 dev eth0 in web"),
    // The routes that come with the addresses.
    ("ip route del 10.21.0.0/24 dev nr-back", "update address 10.21.0.1/24 dev nr-back"),
    ("ip -6 route del fd21::/64 dev nr-back", "update address fd21::1/64 dev nr-back"),
    ("ip -n db route del 10.21.0.0/24", "update address 10.21.0.10/24 dev eth0 in db"),
    ("ip -n db -6 route del fd21::/64", "update address fd21::10/64 dev eth0 in db"),
    ("ip -n web route del default", "create route default in web"),
    ("ip -n web -6 route del default", "create route default (ipv6) in web"),
    ("ip -n web route replace default via 10.20.0.11 proto 78", "update route default in web"),
    ("ip -n web route add 10.7.0.0/16 via 10.20.0.1 proto 78", "delete route 10.7.0.0/16 in web"),
    ("ip route add 10.7.0.0/16 via 192.0.2.9 proto 78", "delete route 10.7.0.0/16"),
    ("sysctl -qw net.ipv4.conf.nr-front.route_localnet=0", "update sysctl net/ipv4/conf/nr-front/route_localnet"),
    (
        "sysctl -qw net.ipv4.ip_forward=0",
        "update sysctl net/ipv4/conf/nr-back/forwarding\nupdate sysctl net/ipv4/conf/nr-front/forwarding
        update sysctl net/ipv4/ip_forward",
    ),
    ("sysctl -qw net.ipv4.conf.nr-back.forwarding=0", "update sysctl net/ipv4/conf/nr-back/forwarding"),
    ("sysctl -qw net.ipv6.conf.nr-back.accept_ra=2", "update sysctl net/ipv6/conf/nr-back/accept_ra"),
    (
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        "update sysctl net/ipv6/conf/all/forwarding\nupdate sysctl net/ipv6/conf/nr-back/forwarding
        update sysctl net/ipv6/conf/nr-front/forwarding",
    ),
    ("ip netns exec web sysctl -qw net.ipv6.conf.eth0.accept_ra=1", "update sysctl net/ipv6/conf/eth0/accept_ra in web"),
    ("ip -n web link set lo down", "update netns web"),
    ("ip netns del web; while ip link show VE-WEB 2>/dev/null; do sleep 0.05; done", WEB_ANEW),
    // The name stays as an empty file.
    ("umount /run/netns/web; while ip link show VE-WEB 2>/dev/null; do sleep 0.05; done", WEB_BOUND_ANEW),
    ("nft flush chain inet netrec forward", "update chain forward"),
    ("nft add rule inet netrec input tcp dport 22 drop", "update chain input"),
    ("nft insert rule inet netrec ports counter", "update chain ports"),
    ("nft add chain inet netrec mine", "delete chain mine"),
    ("nft 'add chain inet netrec forward { policy drop; }'", "update chain forward"),
    ("nft delete element inet netrec port4-any '{ tcp . 8080 }'", "create element port4-any { tcp . 8080 }"),
    (
        "nft delete element inet netrec port4-any '{ tcp . 8080 }'
        nft add element inet netrec port4-any '{ tcp . 8080 : 10.20.0.11 . 80 }'",
        "update element port4-any { tcp . 8080 }",
    ),
    (
        "nft add element inet netrec port4-any '{ tcp . 9 : 10.20.0.11 . 9 }'",
        "delete element port4-any { tcp . 9 }",
    ),
    (
        // A set goes only when no rule asks it.
        "nft flush chain inet netrec input; nft delete set inet netrec gateway4",
        "create set gateway4\ncreate element gateway4 { 10.20.0.1 }\ncreate element gateway4 { 10.21.0.1 }
        update chain input",
    ),
    ("nft add set inet netrec mine '{ type ipv4_addr; }'", "delete set mine"),
    ("nft add table inet netrec '{ flags dormant; }'", "update table inet netrec"),
    ("nft add counter inet netrec foo", "update table inet netrec"),
    (
        // What the table made anew cannot have is gone before its turn to go.
        "nft add counter inet netrec foo
        nft add set inet netrec bar '{ type ipv4_addr; flags interval,timeout; }'
        nft add chain inet netrec evil '{ type filter hook forward priority 5; policy drop; }'
        nft add rule inet netrec evil ip saddr @bar accept",
        "update table inet netrec\ndelete set bar\ndelete chain evil",
    ),
];

/// What makes the container `web` anew, when its devices went with its namespace.
const WEB_ANEW: &str = "create netns web\ncreate link VE-WEB
    create address 10.20.0.10/24 dev eth0 in web\ncreate address fd20::10/64 dev eth0 in web
    create route default in web\ncreate route default (ipv6) in web\ncreate sysctl net/ipv6/conf/eth0/accept_ra in web";

/// The name is still there, so its namespace is put back behind it.
const WEB_BOUND_ANEW: &str = "update netns web\ncreate link VE-WEB
    create address 10.20.0.10/24 dev eth0 in web\ncreate address fd20::10/64 dev eth0 in web
    create route default in web\ncreate route default (ipv6) in web\ncreate sysctl net/ipv6/conf/eth0/accept_ra in web";

/// The text with the veths' names in it.
fn named(text: &str) -> String {
    [("VE-WEB", veth("front", "web")), ("VE-API", veth("front", "api"))]
        .iter()
        .fold(text.to_owned(), |text, (name, veth)| text.replace(name, veth))
}

fn lines(text: &str) -> Vec<String> {
    named(text).lines().map(|l| l.trim().to_owned()).collect()
}

fn mends(lab: &Lab, before: &Snapshot, damage: &str, actions: &[String]) {
    lab.host.sh(&named(damage));
    assert_same(damage, actions, &lab.host.plan(SHOP).actions());
    lab.host.apply(SHOP);
    assert_same::<String, _>(&format!("{damage}: after apply"), &[], &lab.host.plan(SHOP).actions());
    // Link states follow a little later.
    let mut left = String::new();
    let _ = catch_unwind(std::panic::AssertUnwindSafe(|| {
        until(damage, || {
            left = before.diff(&Snapshot::of_machine(&lab.host));
            left.is_empty()
        });
    }));
    assert_eq!(left, "", "{damage}: left after apply");
}

#[test]
fn every_damage_is_shown_and_mended() {
    lab::sandbox(|| {
        // Each on a host of its own, so that one that is not mended does not show up in the next; a few at a time.
        let wrong: Vec<&str> = DAMAGE
            .chunks(8)
            .flat_map(|some| {
                thread::scope(|s| {
                    let running: Vec<_> = some
                        .iter()
                        .map(|(damage, actions)| {
                            let try_it = move || {
                                let lab = Lab::new();
                                lab.host.apply(SHOP);
                                drop(lab.host.settle());
                                mends(&lab, &Snapshot::of_machine(&lab.host), damage, &lines(actions));
                            };
                            (*damage, s.spawn(try_it))
                        })
                        .collect();
                    running.into_iter().filter_map(|(damage, t)| t.join().err().map(|_| damage)).collect::<Vec<_>>()
                })
            })
            .collect();
        assert_same("damages that went wrong", &[""; 0], &wrong);
    });
}

#[test]
fn the_plan_says_what_is_wrong_with_the_table() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        lab.host.sh("nft add table inet netrec '{ flags dormant; }'
            nft add counter inet netrec foo; nft add quota inet netrec bar '{ 1 mbytes }'");
        let plan = lab.host.try_netrec(SHOP, &["plan"]).stdout;
        let shown =
            "~   table inet netrec\n      dormant: true -> (none)\n      foreign: counter foo, quota bar -> (none)\n\n";
        assert!(plan.contains(shown), "{plan}");
    });
}

#[test]
fn a_lost_firewall_is_made_anew_in_one_transaction() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        let made = lab.host.plan(SHOP);
        assert_eq!(made.actions(), [""; 0]);
        for damage in ["nft delete table inet netrec", "nft flush ruleset"] {
            lab.host.sh(damage);
            let plan = lab.host.plan(SHOP);
            let kinds: std::collections::BTreeSet<String> =
                plan.actions().iter().map(|a| a.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
            assert_eq!(
                kinds.into_iter().collect::<Vec<_>>(),
                ["create chain", "create element", "create set", "create table"]
            );
            let generation = lab::ruleset_generation(&lab.host);
            lab.host.apply(SHOP);
            assert_eq!(lab::ruleset_generation(&lab.host), generation + 1, "{damage}");
            assert_same::<String, _>(damage, &[], &lab.host.plan(SHOP).actions());
            drop(lab.host.settle());
            assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "", "{damage}");
        }
    });
}

/// A process keeps the namespace and its devices alive, though it has no name any more.
#[test]
fn a_namespace_that_lost_its_name_is_found_by_its_processes() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        let old = lab.container("web");
        let mut inside = old.spawn(Command::new("sleep").arg("600")).expect("a process");
        lab.host.run(["ip", "netns", "del", "web"]);
        lab.host.apply(SHOP);
        assert_same::<String, _>("after apply", &[], &lab.host.plan(SHOP).actions());
        drop(lab.host.settle());
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
        assert_eq!(old.run(["ip", "-o", "link"]).lines().count(), 1, "only lo is left");
        inside.kill().expect("its end");
        inside.wait().expect("its end");
        let _web = lab.container("web").listen_tcp("web", "0.0.0.0:80");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
    });
}
