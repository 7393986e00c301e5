//! Everybody reaches everybody, with the whole of a packet, and nothing is asked of the underlay.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::cluster::{Cluster, containers, hosts};
use super::{in_cluster, wide};
use crate::lab::{Machine, ruleset_generation};

/// The addresses of the file's containers, as netrec shows them.
fn addresses(host: &Machine, file: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let shown = host.try_netrec(file, &["show", "--json"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let containers = shown["containers"].as_object().unwrap();
    let of = |container: &Value| {
        let addresses = container["networks"]["wide"]["address"].as_array().unwrap();
        addresses.iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
    };
    containers.iter().map(|(name, container)| (name.clone(), of(container))).collect()
}

fn target(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// Counters on each host of what leaves it: packets of the tunnel with the right number, to another port or with another
/// one, and those whose inside is a question to all: ARP, neighbour discovery, anything for many.
const WATCH: &str = "\
table inet seen {
    counter right { }
    counter wrong { }
    counter questions { }
    counter discovery { }
    counter many { }
    chain out {
        type filter hook output priority 0
        udp dport { 4789, 8472 } @th,96,24 4100 udp dport 4789 counter name right
        udp dport { 4789, 8472 } @th,96,24 != 4100 counter name wrong
        udp dport 8472 counter name wrong
        udp dport 4789 @th,224,16 0x0806 counter name questions
        udp dport 4789 @th,224,16 0x86dd @th,288,8 58 @th,560,8 133-137 counter name discovery
        udp dport 4789 @th,128,8 & 1 == 1 counter name many
    }
}";

fn watch(cluster: &Cluster) {
    for host in &cluster.hosts {
        let rules = host.write("watch.nft", WATCH);
        host.run(["nft", "-f", &rules]);
    }
}

/// What the counters say, of all hosts together.
fn seen(cluster: &Cluster) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for host in &cluster.hosts {
        let json: Value =
            serde_json::from_str(&host.run(["nft", "-j", "list", "counters", "table", "inet", "seen"])).unwrap();
        for counter in json["nftables"].as_array().unwrap().iter().filter_map(|entry| entry.get("counter")) {
            *sums.entry(counter["name"].as_str().unwrap().to_owned()).or_default() +=
                counter["packets"].as_u64().unwrap();
        }
    }
    sums
}

/// Three hosts with four containers each: all reach all by everything, and what leaves a host is what it should be.
fn all_reach_all(cluster: &Cluster, topology: &str, ipv6_first: bool, mtu: usize) {
    let (list, names) = containers(3, 4);
    let file = format!("{}{}{list}", hosts(3, ipv6_first), wide(topology));
    cluster.apply(&file);
    assert_eq!(cluster.plans(&file), [[""; 0]; 3]);
    for host in &cluster.hosts {
        let events = host.settle();
        let generation = ruleset_generation(host);
        assert_eq!(host.apply(&file).json["writes"], 0);
        events.quiet();
        assert_eq!(ruleset_generation(host), generation);
    }
    watch(cluster);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _listening = cluster.listen(&names);
    let addresses = addresses(&cluster.hosts[0], &file);
    let mut tunnelled = 0;
    for from in &names {
        let mut table = String::new();
        for to in names.iter().filter(|to| *to != from) {
            for ip in &addresses[*to] {
                let own = addresses[*from].iter().find(|own| own.is_ipv6() == ip.is_ipv6()).unwrap();
                let _ = writeln!(table, "{from} tcp {} -> {to} sees {own}", target(*ip, 80));
                let _ = writeln!(table, "{from} udp {} -> {to} sees {own}", target(*ip, 80));
                let _ = writeln!(table, "{from} ping {ip} -> answer");
                tunnelled += u64::from(from[..1] != to[..1]);
            }
        }
        cluster.expect(&table);
    }
    for ip in &addresses["c4"] {
        let (from, to) = (cluster.space("a1"), cluster.space("c4"));
        assert!(from.sends_whole(&to, *ip, mtu), "{mtu} bytes to {ip}");
        assert!(!from.sends_whole(&to, *ip, mtu + 1), "{} bytes to {ip}", mtu + 1);
    }
    let seen = seen(cluster);
    if topology == "direct" {
        assert_eq!(seen["right"], 0);
    } else {
        // Of each pair at least a ping and its answer.
        assert!(seen["right"] > 2 * tunnelled, "{seen:?}");
    }
    assert_eq!([seen["wrong"], seen["questions"], seen["discovery"], seen["many"]], [0; 4], "{seen:?}");
    // Hosts too: their own containers, and those of others.
    let mut table = String::new();
    for host in ["a", "b", "c"] {
        for to in ["a1", "b1", "c1"] {
            for ip in &addresses[to] {
                let _ = writeln!(table, "{host} ping {ip} -> answer");
            }
        }
    }
    cluster.expect(&table);
}

#[test]
fn in_a_switched_network_all_reach_all() {
    in_cluster(3, |cluster| all_reach_all(cluster, "switched", false, 1450));
}

#[test]
fn in_a_switched_network_over_ipv6_all_reach_all() {
    in_cluster(3, |cluster| all_reach_all(cluster, "switched", true, 1430));
}

#[test]
fn in_a_routed_network_all_reach_all() {
    in_cluster(3, |cluster| all_reach_all(cluster, "routed", false, 1450));
}

#[test]
fn in_a_routed_network_over_ipv6_all_reach_all() {
    in_cluster(3, |cluster| all_reach_all(cluster, "routed", true, 1430));
}

#[test]
fn in_a_direct_network_all_reach_all() {
    in_cluster(3, |cluster| all_reach_all(cluster, "direct", false, 1500));
}
