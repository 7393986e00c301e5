//! Kernel parameters, facts, missing rights and torn dumps.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netrec::kernel::{Backend, Linux, ReadError};
use netrec::state::{Asked, Entry, Key, Netns, Object, Scope, State, Sysctl};

use super::lab::*;

#[test]
fn sysctls_are_written_and_read_inside_their_namespace() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web()))]);
        let sysctl = |netns: &Netns, path: &str, value: &str| {
            let key = Key::Sysctl { netns: netns.clone(), path: Arc::from(path) };
            (key, Entry { owners: vec![], ..Entry::new(Object::Sysctl(Sysctl { value: value.into() }), owner("x")) })
        };
        let inside = sysctl(&web(), "net/ipv4/ip_local_port_range", "2000 3000");
        let host = sysctl(&Netns::HOST, "net/ipv4/ip_forward", "1");
        run(&mut linux, [create(inside.clone()), create(host.clone())]);
        assert_eq!(sh("ip netns exec web cat /proc/sys/net/ipv4/ip_local_port_range"), "2000\t3000\n");
        assert_ne!(sh("cat /proc/sys/net/ipv4/ip_local_port_range"), "2000\t3000\n");
        let absent = sysctl(&web(), "net/ipv4/nothing", "1");
        let wanted: State = [inside.clone(), host.clone(), absent.clone()].into_iter().collect();
        let live = linux.live(&Scope::of(&wanted)).unwrap();
        assert_eq!(live, [namespace(&web()), inside.clone(), host.clone()].into_iter().collect());
        // What is right already is not written, and a value stays when its object goes.
        let writes = linux.writes();
        run(&mut linux, [create(host.clone()), delete(inside)]);
        assert_eq!(linux.writes(), writes);
        assert_eq!(sh("ip netns exec web cat /proc/sys/net/ipv4/ip_local_port_range"), "2000\t3000\n");
        let error = linux.run(&[create(absent)]).remove(0).unwrap_err();
        assert_eq!(error.errno, 2);
        assert!(error.message.contains("/proc/sys/net/ipv4/nothing: wanted 1, found nothing"), "{error}");
        let refused = linux.run(&[create(sysctl(&Netns::HOST, "net/ipv4/ip_forward", "many"))]).remove(0).unwrap_err();
        assert_eq!(
            refused.message,
            "create sysctl net/ipv4/ip_forward in host: /proc/sys/net/ipv4/ip_forward: wanted many, found 1: Invalid argument"
        );
        // `01` is taken and stored as `1`: what was found is said.
        let other = linux.run(&[create(sysctl(&Netns::HOST, "net/ipv4/ip_default_ttl", "064"))]).remove(0);
        assert!(other.is_err());
    });
}

/// More namespaces than one `/proc` is used for, each with a value of its own.
#[test]
fn each_of_many_namespaces_has_its_own_parameters() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let procs = "grep ' - proc ' /proc/self/mountinfo";
        let before = sh(procs);
        let all: Vec<Netns> = (0..130).map(|i| Netns::new(format!("c-{i:03}"))).collect();
        run(&mut linux, all.iter().map(|netns| create(namespace(netns))));
        let wanted: State = (1..)
            .zip(&all)
            .map(|(value, netns): (u32, _)| {
                let key = Key::Sysctl { netns: netns.clone(), path: "net/ipv4/ip_unprivileged_port_start".into() };
                let object = Object::Sysctl(Sysctl { value: value.to_string() });
                (key, Entry { owners: vec![], ..Entry::new(object, owner("x")) })
            })
            .collect();
        run(&mut linux, wanted.clone().into_iter().map(create));
        let live = linux.live(&Scope::of(&wanted)).unwrap();
        assert_eq!(live.into_iter().filter(|(key, _)| matches!(key, Key::Sysctl { .. })).collect::<State>(), wanted);
        let seen =
            sh("for i in /run/netns/c-*; do nsenter --net=$i cat /proc/sys/net/ipv4/ip_unprivileged_port_start; done");
        assert_eq!(seen, sh("seq 130"));
        assert_eq!(sh(procs), before);
    });
}

/// What comes with the listing of devices is what `/proc/sys` says, each value another than the parameter starts with.
#[test]
fn parameters_of_devices_are_told_as_proc_has_them() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web()))]);
        let values = [
            ("ipv4/forwarding", "1"),
            ("ipv4/route_localnet", "1"),
            ("ipv6/accept_dad", "2"),
            ("ipv6/accept_ra", "-1"),
            ("ipv6/forwarding", "1"),
            ("ipv4/rp_filter", "2"),
            ("ipv4/arp_ignore", "3"),
        ];
        let values = values.map(|(path, value)| (path.split_once('/').unwrap(), value));
        for (netns, at) in [(Netns::HOST, ""), (web(), "ip netns exec web ")] {
            sh(&format!("{at}ip link add eth7 type bridge"));
            let path = |(family, name): (&str, &str)| format!("net/{family}/conf/eth7/{name}");
            let cat = |what| sh(&format!("{at}cat /proc/sys/{}", path(what)));
            let wanted = values.map(|(what, value)| {
                assert_ne!(cat(what), format!("{value}\n"));
                sh(&format!("{at}sh -c 'echo {value} > /proc/sys/{}'", path(what)));
                let key = Key::Sysctl { netns: netns.clone(), path: path(what).into() };
                (
                    key,
                    Entry { owners: vec![], ..Entry::new(Object::Sysctl(Sysctl { value: value.into() }), owner("x")) },
                )
            });
            let wanted: State = wanted.into_iter().collect();
            let live = linux.live(&Scope::of(&wanted)).unwrap();
            let found = live.into_iter().filter(|(key, _)| matches!(key, Key::Sysctl { .. })).collect();
            assert_eq!(wanted, found);
        }
    });
}

#[test]
fn facts_tell_the_uplink_and_what_is_not_netrecs() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        assert_eq!(linux.facts(&Asked::default()).unwrap().uplink, None);
        sh("ip link add eth9 mtu 1450 type veth peer name far && ip link set eth9 up && ip link set far up && \
            ip addr add 192.0.2.7/24 dev eth9 && ip -6 addr add 2001:db8::7/64 dev eth9 nodad && \
            ip route add default via 192.0.2.1 metric 100 && ip -6 route add default via fe80::1 dev eth9 proto ra && \
            ip route add 10.8.0.0/16 via 192.0.2.2 && ip route add 10.9.0.0/16 via 192.0.2.2 table 7 && \
            ip route add blackhole 10.10.0.0/16 && ip route add unreachable 10.11.0.0/16 table 7 && \
            ip -6 route add prohibit 2001:db8:1::/48 && ip route add throw 10.12.0.0/16 && \
            ip route add default dev far table 7 && ip -6 route add unreachable default metric 1 && echo 1 > /proc/sys/net/ipv6/conf/eth9/accept_ra");
        make(&mut linux, &small_shop());
        let facts = linux.facts(&Asked::default()).unwrap();
        assert_eq!(facts.host, sh("uname -n").trim());
        let uplink = facts.uplink.unwrap();
        assert_eq!((uplink.name, uplink.mtu), (name("eth9"), 1450));
        let addresses: Vec<String> = facts.addresses.iter().map(|a| format!("{} {}", a.link, a.ip)).collect();
        assert_eq!(addresses, ["eth9 192.0.2.7/24", "eth9 2001:db8::7/64"]);
        let routes: Vec<String> = facts.routes.iter().map(|r| format!("{} {:?}", r.to, r.dev)).collect();
        assert_eq!(
            routes,
            [
                "10.8.0.0/16 Some(\"eth9\")",
                "10.9.0.0/16 Some(\"eth9\")",
                "10.10.0.0/16 None",
                "10.11.0.0/16 None",
                "192.0.2.0/24 Some(\"eth9\")",
                "2001:db8::/64 Some(\"eth9\")",
                "2001:db8:1::/48 None",
            ]
        );
        assert_eq!(facts.ra_uplinks, [name("eth9")]);
        assert_eq!(facts.sysctls["net/ipv4/ip_forward"], "0");
        assert!(facts.sysctls.contains_key("net/ipv6/conf/all/forwarding"));
        sh("echo 2 > /proc/sys/net/ipv6/conf/eth9/accept_ra && ip route del default");
        let facts = linux.facts(&Asked::default()).unwrap();
        assert_eq!((facts.ra_uplinks, facts.uplink.unwrap().name), (vec![], name("eth9")));
    });
}

#[test]
fn facts_tell_the_ways_to_other_hosts() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        sh("ip link set lo up && ip link add eth9 mtu 1450 type veth peer name far && ip link set eth9 up && \
            ip link set far up mtu 1300 && ip addr add 192.0.2.7/24 dev eth9 && \
            ip -6 addr add 2001:db8::7/64 dev eth9 nodad && \
            ip route add 198.51.100.0/24 via 192.0.2.1 mtu 1280 && ip -6 route add 2001:db8:5::/48 via 2001:db8::1 && \
            ip route add 10.6.0.0/16 via inet6 fe80::5 dev far && \
            ip route add 10.7.0.0/16 nexthop via 192.0.2.5 nexthop via 192.0.2.5 weight 2 && \
            ip -6 route add 2001:db8:7::/48 nexthop via 2001:db8::5 nexthop via 2001:db8::6 && \
            ip route add 10.8.0.1 dev far table 7 && ip rule add to 10.8.0.0/16 table 7 && \
            ip route add 10.1.0.0/16 via 192.0.2.1 && ip route add blackhole 10.1.1.0/24 && \
            ip route add unreachable 10.1.2.0/24 && ip route add prohibit 10.1.3.0/24 && ip route add throw 10.1.4.0/24 && \
            ip -6 route add blackhole 2001:db8:5:1::/64 && ip -6 route add unreachable 2001:db8:5:2::/64 && \
            ip -6 route add prohibit 2001:db8:5:3::/64");
        let ways = |linux: &mut Linux, peers: &[&str]| -> Vec<String> {
            let peers = peers.iter().map(|ip| ip.parse().unwrap()).collect();
            let facts = linux.facts(&Asked { peers, ..Asked::default() }).unwrap();
            let shown = |via: Option<IpAddr>| via.map_or(String::new(), |via| format!(" via {via}"));
            facts.ways.iter().map(|(ip, way)| format!("{ip}{} {} {}", shown(way.via), way.dev, way.mtu)).collect()
        };
        let there = [
            "192.0.2.9",
            "198.51.100.1",
            "10.6.0.1",
            "10.7.0.1",
            "10.8.0.1",
            "10.1.0.1",
            "2001:db8::9",
            "2001:db8:5::1",
            "192.0.2.9",
        ];
        let wanted = [
            "10.1.0.1 via 192.0.2.1 eth9 1450",
            "10.6.0.1 via fe80::5 far 1300",
            "10.7.0.1 via 192.0.2.5 eth9 1450",
            "10.8.0.1 far 1300",
            "192.0.2.9 eth9 1450",
            "198.51.100.1 via 192.0.2.1 eth9 1450",
            "2001:db8::9 eth9 1450",
            "2001:db8:5::1 via 2001:db8::1 eth9 1450",
        ];
        assert_eq!(ways(&mut linux, &there), wanted);
        // Own ones, none, those that refuse, and those for many.
        let absent = [
            "192.0.2.7",
            "127.0.0.1",
            "0.0.0.0",
            "2001:db8::7",
            "::1",
            "203.0.113.1",
            "2001:db8:9::1",
            "10.1.1.1",
            "10.1.2.1",
            "10.1.3.1",
            "10.1.4.1",
            "2001:db8:5:1::1",
            "2001:db8:5:2::1",
            "2001:db8:5:3::1",
            "192.0.2.255",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ];
        assert_eq!(ways(&mut linux, &absent), [""; 0]);
        assert_eq!(ways(&mut linux, &[&absent[..], &there[..], &absent[..]].concat()), wanted);
        // Of several routers one is told: IPv6 has none twice.
        let [way] = &ways(&mut linux, &["2001:db8:7::1"])[..] else { panic!() };
        assert!(way == "2001:db8:7::1 via 2001:db8::5 eth9 1450" || way == "2001:db8:7::1 via 2001:db8::6 eth9 1450");
        // Many more than go out in one send.
        let many: Vec<String> = (0..1000).map(|i| format!("10.1.{}.{}", i / 250, i % 250)).collect();
        let wanted: BTreeSet<String> =
            many.iter().take(250).map(|ip| format!("{ip} via 192.0.2.1 eth9 1450")).collect();
        let found = ways(&mut linux, &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
        // A host without IPv6 has no way to an address of it.
        sh("ip -6 addr flush dev eth9 && sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
        assert_eq!(ways(&mut linux, &["2001:db8::9", "192.0.2.9"]), ["192.0.2.9 eth9 1450"]);
    });
}

#[test]
fn without_rights_reading_works_and_writing_says_what_is_missing() {
    if is_again() {
        let mut linux = Linux::open().unwrap();
        let peers: Vec<IpAddr> = (0..=255).map(|i| IpAddr::from([10, 20, 0, i])).collect();
        let facts = linux.facts(&Asked { peers, ..Asked::default() }).unwrap();
        assert_eq!(facts.ways.len(), 254, "without the host's own and the one for all");
        let error = linux.live(&Scope::default()).unwrap_err();
        let expected = ReadError::Permission { what: "namespace web".into(), reason: "Operation not permitted".into() };
        assert_eq!(error, expected);
        assert_eq!(error.to_string(), "root is needed to read namespace web (Operation not permitted)");
        let error = linux.run(&[create(bridge("nr-back"))]).remove(0).unwrap_err();
        assert_eq!(
            error.message,
            "create link nr-back in host: changing networks needs root (CAP_NET_ADMIN): Operation not permitted"
        );
        return;
    }
    lab(|| {
        make(&mut Linux::open().unwrap(), &small_shop());
        let output = again("setpriv --bounding-set -all", &[]);
        assert!(output.contains("1 passed"), "{output}");
    });
}

#[test]
fn a_dump_torn_by_changes_is_never_handed_out() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let bridges: State = (0..300).map(|i| bridge(&format!("nr-{i}"))).collect();
        run(&mut linux, bridges.clone().into_iter().map(create));
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut linux = Linux::open().unwrap();
                while !done.load(Ordering::Relaxed) {
                    run(&mut linux, [create(bridge("x"))]);
                    run(&mut linux, [delete(bridge("x"))]);
                }
            });
            for _ in 0..100 {
                match linux.live(&Scope::default()) {
                    Ok(mut live) => {
                        live.remove(&link_key("x"));
                        assert_eq!(live, bridges);
                    }
                    Err(error) => assert_eq!(error, ReadError::Torn { what: "links of host".into() }),
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}
