//! The way of packets through what netrec makes, beside the same made by hand, by netavark and by Docker: through a published
//! port from outside and back in from a container (hairpin), out of a container (masquerade), and over the bridge.
//!
//! Each contender has a host, a world and two containers of its own, all of them there all the time and measured in turns.
//! Overlay networks are another bench's.
//!
//! ```text
//! cargo bench --bench path                 # as root
//! cargo bench --bench path -- --rounds 31
//! ```

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "../shared/engines.rs"]
#[allow(dead_code)] // containers by the hundred are set up elsewhere
mod engines;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../shared/traffic.rs"]
#[allow(dead_code)] // single bytes are measured elsewhere
mod traffic;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shared::{Row, keep, median, ratio};
use traffic::Way;

const NETREC: &str = env!("CARGO_BIN_EXE_netrec");
/// What a round sends and sets up, and how often the contenders take turns in it.
const BYTES: usize = 512 << 20;
const CONNECTIONS: usize = 1000;
const TURNS: usize = 4;
const MAKERS: [&str; 4] = ["netrec", "hand", "netavark", "docker"];
const WAYS: [&str; 4] = ["published port", "hairpin", "masquerade", "bridge"];

const HOSTS: &str = "
for maker in \"$@\"; do
    ip netns add $maker; ip netns add $maker-world
    ip link add uplink netns $maker type veth peer name w0 netns $maker-world
    for space in $maker $maker-world; do ip -n $space link set lo up; done
    ip -n $maker link set uplink up; ip -n $maker addr add 192.0.2.1/24 dev uplink
    ip -n $maker-world link set w0 up; ip -n $maker-world addr add 192.0.2.9/24 dev w0
    ip -n $maker route add default via 192.0.2.9
done
";

const FILE: &str = r#"
[networks.front]
subnet = "10.20.0.0/24"
[containers.netrec-a]
networks.front = { address = "10.20.0.11" }
ports = ["8080:80"]
[containers.netrec-b]
networks.front = { address = "10.20.0.12" }
"#;

/// As a person would: a bridge, and the rules that the same takes.
const BY_HAND: &str = "
ip link add br0 type bridge; ip addr add 10.20.0.1/24 dev br0; ip link set br0 up
for n in a:11 b:12; do
    space=hand-${n%:*}
    ip netns add $space
    ip link add port-$space numtxqueues 1 numrxqueues 1 type veth peer name eth0 netns $space numtxqueues 1 numrxqueues 1
    ip link set port-$space master br0 up; ip link set port-$space type bridge_slave hairpin on
    ip -n $space link set lo up; ip -n $space link set eth0 up
    ip -n $space addr add 10.20.0.${n#*:}/24 dev eth0; ip -n $space route add default via 10.20.0.1
done
sysctl -qw net.ipv4.ip_forward=1
nft 'table ip hand {
    chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8080 dnat to 10.20.0.11:80; }
    chain output { type nat hook output priority -100; fib daddr type local tcp dport 8080 dnat to 10.20.0.11:80; }
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 10.20.0.0/24 oifname != \"br0\" masquerade
        ip saddr 10.20.0.0/24 ct status dnat oifname \"br0\" masquerade
    }
    chain forward {
        type filter hook forward priority filter
        ct state established,related accept
        iifname \"br0\" accept
        ct status dnat accept
        oifname \"br0\" drop
    }
}'
";

fn sh(script: &str, words: &[&str]) {
    let status = Command::new("sh").args(["-ec", script, "sh"]).args(words).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{script}");
}

/// Runs something on a host, in a thread of its own.
fn on<T: Send + 'static>(host: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    traffic::inside(host, work).join().unwrap()
}

fn way(maker: &str, way: &str) -> Way {
    let [a, b, world] = ["a", "b", "world"].map(|space| format!("{maker}-{space}"));
    let (from, to, address, ports) = match way {
        "published port" => (world, a, [192, 0, 2, 1], Some([8080, 80])),
        "hairpin" => (b, a, [192, 0, 2, 1], Some([8080, 80])),
        "masquerade" => (a, world, [192, 0, 2, 9], None),
        _ => (b, a, [10, 20, 0, 11], None),
    };
    Way { from, to, address: Ipv4Addr::from(address), ports }
}

fn main() {
    assert!(nix::unistd::geteuid().is_root(), "only root can make namespaces");
    let mut args = std::env::args().skip_while(|arg| arg != "--rounds").skip(1);
    let rounds: usize = args.next().map_or(7, |n| n.parse().unwrap());
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    sh(HOSTS, &MAKERS);
    fs::write("/run/netrec.toml", FILE).unwrap();
    on("netrec", || sh("exec $1 apply -y -q -c /run/netrec.toml >/dev/null", &[NETREC]));
    on("hand", || sh(BY_HAND, &[]));
    let mut makers = vec!["netrec", "hand"];
    let mut docker = None;
    for maker in ["netavark", "docker"] {
        let made = match (engines::obstacle(maker), maker) {
            (Some(why), _) => Err(why),
            (None, "netavark") => {
                on(maker, engines::netavark_pair);
                Ok(())
            }
            (None, _) => on(maker, engines::docker_pair).map(|running| docker = Some(running)),
        };
        match made {
            Ok(()) => makers.push(maker),
            Err(why) => println!("not measured: {maker}: {why}"),
        }
    }
    let mut values: BTreeMap<(&str, &str, &str), Vec<f64>> = BTreeMap::new();
    // The first of all finds cold caches, whosever it is.
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        for path in WAYS {
            let (mut seconds, mut times) = (BTreeMap::<_, f64>::new(), BTreeMap::<_, Vec<f64>>::new());
            for _ in 0..TURNS {
                for maker in &makers {
                    let way = way(maker, path);
                    *seconds.entry(*maker).or_default() += way.stream(BYTES / TURNS);
                    times.entry(*maker).or_default().extend(way.connects(CONNECTIONS / TURNS));
                }
                makers.rotate_left(1);
            }
            for maker in makers.iter().copied().filter(|_| round > 0) {
                #[allow(clippy::cast_precision_loss)] // a power of two
                let speed = 8.0 * BYTES as f64 / 1e9 / seconds[maker];
                values.entry((path, maker, "stream")).or_default().push(speed);
                values.entry((path, maker, "connection")).or_default().push(median(times[maker].clone()) * 1e6);
            }
        }
    }
    drop(docker);
    println!("{rounds} rounds; ratios are to the same by hand");
    println!("{:<16} {:<10} {:>20} {:>8} {:>16} {:>8}", "", "", "one TCP stream", "ratio", "connection", "ratio");
    let mut kept = Vec::new();
    for path in WAYS {
        for maker in MAKERS.into_iter().filter(|maker| makers.contains(maker)) {
            let [stream, connection] = ["stream", "connection"].map(|what| {
                let all = &values[&(path, maker, what)];
                (median(all.clone()), ratio(all, &values[&(path, "hand", what)]))
            });
            println!(
                "{path:<16} {maker:<10} {:>13.2} Gbit/s {:>8.3} {:>13.1} µs {:>8.3}",
                stream.0, stream.1, connection.0, connection.1
            );
            for (what, value, unit) in [
                ("stream", stream.0, "Gbit/s"),
                ("stream to that by hand", stream.1, "times"),
                ("connection", connection.0, "us"),
                ("connection to that by hand", connection.1, "times"),
            ] {
                kept.push(Row { what: format!("{path}: {maker}: {what}"), size: 1, value, unit });
            }
        }
    }
    keep("path", &kept);
}
