//! From every sort of overlay network to every other: both hosts follow, everybody is reached, nothing is left.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;

use super::cluster::{Cluster, hosts};
use super::in_cluster;
use crate::lab::{Machine, Snapshot};

/// A sort of network: its topology, and lines of the file.
type Sort = (&'static str, &'static str);

const SORTS: [Sort; 12] = [
    ("switched", ""),
    ("switched", "mode = \"routed\""),
    ("switched", "mode = \"isolated\""),
    ("switched", "mode = { ipv4 = \"isolated\", ipv6 = \"nat\" }"),
    ("switched", "internal = true"),
    ("switched", "gateway = false"),
    ("routed", ""),
    ("routed", "mode = \"routed\""),
    ("routed", "internal = true"),
    ("direct", ""),
    ("direct", "mode = \"routed\""),
    ("direct", "internal = true"),
];

/// A file for two hosts with two containers each: one with addresses of its own, which fit each topology, one without.
fn file(hosts: &str, (topology, lines): Sort) -> String {
    let vni = if topology == "direct" || lines.contains("vni") { "" } else { "vni = 4100\n" };
    let mut text = format!(
        "{hosts}[networks.wide]\ndriver = \"overlay\"\ntopology = \"{topology}\"\n{vni}{lines}\n\
         subnet = [\"10.30.0.0/16\", \"fd30::/48\"]\n"
    );
    for (host, number) in [("a", 1), ("b", 2)] {
        let own = format!("address = [\"10.30.{number}.11\", \"fd30:0:0:{number}::11\"]");
        let _ = write!(
            text,
            "[containers.{host}1]\nhost = \"{host}\"\nnetworks.wide = {{ {own} }}\n\
             [containers.{host}2]\nhost = \"{host}\"\nnetworks = [\"wide\"]\n"
        );
    }
    text
}

/// The addresses of containers in a file, by name.
fn addresses(cluster: &Cluster, file: &str) -> BTreeMap<String, Vec<String>> {
    let shown = cluster.hosts[0].try_netrec(file, &["show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let of = |container: &serde_json::Value| {
        let addresses = container["networks"]["wide"]["address"].as_array().unwrap();
        addresses.iter().map(|ip| ip.as_str().unwrap().to_owned()).collect()
    };
    shown["containers"].as_object().unwrap().iter().map(|(name, c)| (name.clone(), of(c))).collect()
}

/// Every container reaches those of the other host, and its neighbour.
fn all_talk(cluster: &Cluster, file: &str) {
    let addresses = addresses(cluster, file);
    let mut table = String::new();
    for from in addresses.keys() {
        for ip in addresses.iter().filter(|(to, _)| *to != from).flat_map(|(_, all)| all) {
            let _ = writeln!(table, "{from} ping {ip} -> answer");
        }
    }
    cluster.expect(&table);
}

/// Applies one file after another on both hosts, tries each, and has all of it removed.
fn follow(cluster: &Cluster, files: &[(String, String)]) {
    let at_rest = || -> Vec<Snapshot> {
        let one = |host| {
            drop(Machine::settle(host));
            Snapshot::of_machine(host)
        };
        cluster.hosts.iter().map(one).collect()
    };
    for host in &cluster.hosts {
        host.set_sysctl("net/ipv4/ip_forward", "1");
        host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    let before = at_rest();
    let mut last = "nothing";
    for (name, file) in files {
        let change = |host: &Machine| {
            let applied = host.try_netrec(file, &["apply", "-y"]);
            assert_eq!(applied.status, 0, "host {}: from `{last}` to `{name}`: {}", host.name(), applied.stderr);
            assert_eq!(host.plan(file).actions(), [""; 0], "host {}: from `{last}` to `{name}`", host.name());
        };
        thread::scope(|s| {
            for host in &cluster.hosts {
                s.spawn(move || change(host));
            }
        });
        all_talk(cluster, file);
        last = name;
    }
    let (_, file) = files.last().unwrap();
    for host in &cluster.hosts {
        host.destroy(file);
    }
    for (before, after) in before.iter().zip(at_rest()) {
        assert_eq!(before.diff(&after), "");
    }
}

/// A walk by numbers that goes from every one to every other exactly once, and ends where it begins.
fn walk(count: usize) -> Vec<usize> {
    let pairs = (0..count).flat_map(|i| (i + 1..count).flat_map(move |j| [i, j]));
    pairs.chain([0]).collect()
}

/// One of four parts of the walk.
fn part(number: usize) -> Vec<(String, String)> {
    let walk = walk(SORTS.len());
    let length = walk.len().div_ceil(4);
    let (start, end) = (number * length, ((number + 1) * length + 1).min(walk.len()));
    let named = |sort: &usize| {
        let (topology, lines) = SORTS[*sort];
        (format!("{topology} {lines}"), file(&hosts(2, false), (topology, lines)))
    };
    walk[start..end].iter().map(named).collect()
}

#[test]
fn from_any_to_any_other_first_part() {
    in_cluster(2, |cluster| follow(cluster, &part(0)));
}

#[test]
fn from_any_to_any_other_second_part() {
    in_cluster(2, |cluster| follow(cluster, &part(1)));
}

#[test]
fn from_any_to_any_other_third_part() {
    in_cluster(2, |cluster| follow(cluster, &part(2)));
}

#[test]
fn from_any_to_any_other_fourth_part() {
    in_cluster(2, |cluster| follow(cluster, &part(3)));
}

#[test]
fn the_walk_goes_from_each_to_every_other_once() {
    let walk = walk(SORTS.len());
    let mut steps: Vec<_> = walk.windows(2).map(|step| (step[0], step[1])).collect();
    steps.sort_unstable();
    let all = (0..SORTS.len()).flat_map(|from| (0..SORTS.len()).map(move |to| (from, to)));
    assert_eq!(steps, all.filter(|(from, to)| from != to).collect::<Vec<_>>());
}

#[test]
fn each_key_and_all_of_them_change_and_change_back() {
    in_cluster(2, |cluster| {
        for (host, number) in cluster.hosts.iter().zip([1, 2]) {
            host.add_address("eth0", &format!("192.0.2.10{number}/24"));
        }
        let plain = hosts(2, false);
        let moved = plain.replace("192.0.2.", "192.0.2.10");
        let tunnel = ["vni = 4101", "port = 8472"];
        let any = ["mtu = 1300", "underlay = \"eth0\"", "bridge = \"br-other\""];
        let together = [
            "vni = 4101\nport = 8472\nmtu = 1300\nunderlay = \"eth0\"\nbridge = \"br-other\"",
            "mtu = 1300\nunderlay = \"eth0\"",
        ];
        let mut files = Vec::new();
        for topology in ["switched", "routed", "direct"] {
            let keys = if topology == "direct" { &any[..] } else { &[&tunnel[..], &any, &together].concat() };
            let mut add = |hosts: &str, lines| {
                files.push((format!("{topology} {lines}"), file(hosts, (topology, lines))));
                files.push((topology.to_owned(), file(&plain, (topology, ""))));
            };
            for lines in keys {
                add(&plain, lines);
            }
            // The tunnel's own address, too, of this family and the other.
            keys.last().into_iter().for_each(|lines| add(&moved, lines));
            add(&hosts(2, true), "");
        }
        follow(cluster, &files);
    });
}

#[test]
fn hosts_swap_their_pieces_of_the_subnet() {
    in_cluster(2, |cluster| {
        let mut files = Vec::new();
        for topology in ["routed", "direct"] {
            let first = file(&hosts(2, false), (topology, ""));
            let pairs = [("id = 1", "id = 2"), ("10.30.1.11", "10.30.2.11"), ("fd30:0:0:1::11", "fd30:0:0:2::11")];
            let swapped = pairs.iter().fold(first.clone(), |text, (one, other)| {
                text.replace(one, "ANOTHER").replace(other, one).replace("ANOTHER", other)
            });
            files.extend(
                [("first", &first), ("swapped", &swapped), ("first", &first)]
                    .map(|(name, file)| (format!("{topology} {name}"), file.clone())),
            );
        }
        follow(cluster, &files);
    });
}
