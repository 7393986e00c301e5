//! Packets: between two containers on two hosts, over netrec's switched network, over the same without netrec's firewall
//! table, over one made by hand that never had any, and over one made by hand with the rules that a person would write for
//! the same. All are there all the time, each on two hosts of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::shared::{Row, keep};
use super::traffic::{Way, inside};
use super::{Values, lab};

/// What a round sends each way, and how often the contenders take turns in it: what else the machine does is then spread
/// over all.
const BYTES: usize = 1 << 30;
const ROUND_TRIPS: u32 = 20_000;
const TURNS: u32 = 4;
const MAKERS: [&str; 4] = ["netrec", "tableless", "handnat", "hand"];
const FILE: &str = r#"
[hosts.a]
id = 1
address = "198.18.0.1"
[hosts.b]
id = 2
address = "198.18.0.2"
[networks.wide]
driver = "overlay"
subnet = "10.30.0.0/16"
vni = 4100
[containers.netrec-a]
host = "a"
networks.wide = { address = "10.30.0.11" }
[containers.netrec-b]
host = "b"
networks.wide = { address = "10.30.0.12" }
"#;

/// In what ways all are measured: with bridged packets shown to the firewall (as the module `br_netfilter` has it, which
/// Docker loads), and without.
const MODES: [(&str, &str); 2] = [("1", "bridged packets go to the firewall"), ("0", "bridged packets do not")];
const BRIDGE_NF: &str = "/proc/sys/net/bridge";

/// `a` and `b` are netrec's hosts, `c` and `d` those of the network made by hand, `e` and `f` those without a table, `g` and
/// `h` those made by hand with rules; each pair shares a link.
const HOSTS: &str = "
link() {
    ip netns add $1; ip netns add $2
    ip link add eth0 netns $1 type veth peer name eth0 netns $2
    for host in $1 $2; do ip -n $host link set lo up; ip -n $host link set eth0 up; done
    ip -n $1 addr add 198.18.0.1/24 dev eth0; ip -n $2 addr add 198.18.0.2/24 dev eth0
}
link a b; link c d; link e f; link g h
";

/// What netrec makes, without its table.
const BY_HAND: &str = "
make() { # host, number, container, number of the other
    ip -n $1 link add name br0 type bridge stp_state 0
    ip -n $1 link set br0 address 02:00:00:00:00:0$2 mtu 1450 up
    ip -n $1 addr add 10.30.1.$2/16 dev br0
    ip -n $1 link add name vx0 mtu 1450 type vxlan id 4100 local 198.18.0.$2 dstport 4789 nolearning
    ip -n $1 link set vx0 master br0 up
    bridge -n $1 link set dev vx0 learning off flood off mcast_flood off bcast_flood off neigh_suppress on
    ip netns add $3
    ip -n $1 link add name port0 mtu 1450 numtxqueues 1 numrxqueues 1 type veth \
        peer name eth0 mtu 1450 numtxqueues 1 numrxqueues 1 address 02:00:00:00:01:0$2 netns $3
    ip -n $1 link set port0 master br0 up
    ip -n $3 link set lo up; ip -n $3 link set eth0 up
    ip -n $3 addr add 10.30.0.1$2/16 dev eth0
    for mac in 02:00:00:00:01:0$4 02:00:00:00:00:0$4; do
        bridge -n $1 fdb add $mac dev vx0 dst 198.18.0.$4 self permanent
        bridge -n $1 fdb add $mac dev vx0 master static sticky
    done
    ip -n $1 neigh add 10.30.0.1$4 lladdr 02:00:00:00:01:0$4 dev br0 nud permanent
    ip -n $1 neigh add 10.30.1.$4 lladdr 02:00:00:00:00:0$4 dev br0 nud permanent
    ip netns exec $1 sysctl -qw net.ipv4.ip_forward=1
}
make c 1 hand-a 2; make d 2 hand-b 1
make g 1 handnat-a 2; make h 2 handnat-b 1
for host in g h; do
    ip netns exec $host nft 'table inet hand {
        chain in { type filter hook input priority filter
            udp dport 4789 ip saddr != { 198.18.0.1, 198.18.0.2 } drop
            ct state established,related accept
        }
        chain forward { type filter hook forward priority filter
            ct state established,related accept
            iifname \"br0\" accept
            oifname \"br0\" drop
        }
        chain leave { type nat hook postrouting priority srcnat
            ip saddr 10.30.0.0/16 oifname != \"br0\" masquerade
        }
    }'
done
";

/// Prints the bits per second and the seconds of a round trip, of all in each round.
pub(crate) fn play(rounds: usize, to_firewall: &str) {
    lab::sh(HOSTS);
    fs::write("/run/netrec.toml", FILE).unwrap();
    fs::write("/run/tableless.toml", FILE.replace("netrec-", "tableless-")).unwrap();
    let pairs = [["a", "b", "/run/netrec.toml"], ["e", "f", "/run/tableless.toml"]];
    for [first, second, file] in pairs {
        for (place, host) in [(first, "a"), (second, "b")] {
            let apply = move || lab::netrec(&["apply", "-y", "-c", file, "--host", host]);
            inside(place, apply).join().unwrap();
        }
    }
    lab::sh("for host in e f; do ip netns exec $host nft delete table inet netrec; done");
    lab::sh(BY_HAND);
    lab::sh(&format!(
        "[ -e {BRIDGE_NF} ] || exit 0
         for host in a b c d e f g h; do for family in ip ip6 arp; do
             ip netns exec $host sysctl -qw net.bridge.bridge-nf-call-${{family}}tables={to_firewall}
         done; done"
    ));
    let mut makers = MAKERS;
    // The first of all finds cold caches, whosever it is.
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        for (what, measure) in [("stream", stream as fn(&str) -> f64), ("trip", round_trip)] {
            let mut seconds = BTreeMap::from(makers.map(|maker| (maker, 0.0)));
            for _ in 0..TURNS {
                for maker in makers {
                    *seconds.get_mut(maker).unwrap() += measure(maker);
                }
                makers.rotate_left(1);
            }
            for (maker, seconds) in seconds.into_iter().filter(|_| round > 0) {
                #[allow(clippy::cast_precision_loss)] // a power of two
                let value =
                    if what == "stream" { 8.0 * BYTES as f64 / seconds } else { seconds / f64::from(ROUND_TRIPS) };
                lab::say(&format!("{what} {maker}"), value);
            }
        }
    }
}

/// Between the two containers, seconds of a stream's share.
fn stream(maker: &str) -> f64 {
    way(maker).stream(BYTES / TURNS as usize)
}

/// Seconds of a share of single bytes there and back.
fn round_trip(maker: &str) -> f64 {
    way(maker).round_trips(ROUND_TRIPS / TURNS)
}

fn way(maker: &str) -> Way {
    let [from, to] = ["a", "b"].map(|host| format!("{maker}-{host}"));
    Way { from, to, address: Ipv4Addr::new(10, 30, 0, 12), ports: None }
}

pub(crate) fn report(rounds: usize) {
    let modes = MODES.into_iter().filter(|(to_firewall, _)| *to_firewall == "0" || Path::new(BRIDGE_NF).exists());
    let mut kept = Vec::new();
    for (to_firewall, says) in modes {
        let mut values = Values::default();
        values.add(&format!("path {rounds} {to_firewall}"));
        println!("between two containers on two hosts, {rounds} rounds; {says}");
        println!("{:<12} {:>22} {:>10} {:>22} {:>10}", "", "one TCP stream", "ratio", "a byte there and back", "ratio");
        for maker in MAKERS {
            let [stream, trip] = ["stream", "trip"].map(|what| {
                let name = format!("{what} {maker}");
                (values.median(&name), values.ratio(&name, &format!("{what} hand")))
            });
            println!(
                "{maker:<12} {:>15.2} Gbit/s {:>10.3} {:>19.2} µs {:>10.3}",
                stream.0 / 1e9,
                stream.1,
                trip.0 * 1e6,
                trip.1
            );
            for (what, value, unit) in [
                ("stream", stream.0 / 1e9, "Gbit/s"),
                ("stream to that by hand", stream.1, "times"),
                ("round trip", trip.0 * 1e6, "us"),
                ("round trip to that by hand", trip.1, "times"),
            ] {
                kept.push(Row { what: format!("{says}: {maker}: {what}"), size: 1, value, unit });
            }
        }
        println!();
    }
    keep("overlay", &kept);
}
