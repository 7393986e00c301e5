//! Packets: between two containers on two hosts, over netrec's switched network, over the same without netrec's firewall
//! table, over one made by hand that never had any, and over one made by hand with the rules that a person would write for
//! the same. All are there all the time, each on two hosts of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{Values, lab};

/// What a round sends each way, and how often the contenders take turns in it: what else the machine does is then spread
/// over all.
const BYTES: u32 = 1 << 30;
const ROUND_TRIPS: u32 = 20_000;
const TURNS: u32 = 4;
const PIECE: u32 = 256 << 10;
const MAKERS: [&str; 4] = ["netrec", "tableless", "handnat", "hand"];
/// The processors that clients and servers run on: for a stream one each; for single bytes the same one, so that the time is
/// that of the packet's way and not that of waking the other.
const APART: [usize; 2] = [0, 1];
const TOGETHER: [usize; 2] = [0, 0];

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
            lab::inside(place, apply).join().unwrap();
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
                let value =
                    if what == "stream" { 8.0 * f64::from(BYTES) / seconds } else { seconds / f64::from(ROUND_TRIPS) };
                lab::say(&format!("{what} {maker}"), value);
            }
        }
    }
}

/// Listens in the second container, with a port for each, and says which.
fn serve(maker: &str, cpu: usize, work: impl FnOnce(TcpStream) + Send + 'static) -> (u16, JoinHandle<()>) {
    let (tell, port) = mpsc::channel();
    let server = lab::inside(&format!("{maker}-b"), move || {
        pin(cpu);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        tell.send(listener.local_addr().unwrap().port()).unwrap();
        work(listener.accept().unwrap().0);
    });
    (port.recv().unwrap(), server)
}

/// Works with a connection between the containers.
fn connected<T: Send + 'static>(
    maker: &str,
    [client_cpu, server_cpu]: [usize; 2],
    server: impl FnOnce(TcpStream) + Send + 'static,
    client: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> T {
    let (port, server) = serve(maker, server_cpu, server);
    let connect = move || {
        pin(client_cpu);
        client(TcpStream::connect((Ipv4Addr::new(10, 30, 0, 12), port)).unwrap())
    };
    let result = lab::inside(&format!("{maker}-a"), connect).join().unwrap();
    server.join().unwrap();
    result
}

fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu % thread::available_parallelism().unwrap().get()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// Seconds of one stream, until the last byte is said to be there.
fn stream(maker: &str) -> f64 {
    let server = |mut stream: TcpStream| {
        let mut piece = vec![0; PIECE as usize];
        while stream.read(&mut piece).unwrap() > 0 {}
        stream.write_all(&[1]).unwrap();
    };
    connected(maker, APART, server, |mut stream| {
        let piece = vec![0; PIECE as usize];
        let start = Instant::now();
        for _ in 0..BYTES / PIECE / TURNS {
            stream.write_all(&piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        start.elapsed().as_secs_f64()
    })
}

/// Seconds of single bytes there and back.
fn round_trip(maker: &str) -> f64 {
    let server = |mut stream: TcpStream| {
        stream.set_nodelay(true).unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() > 0 {
            stream.write_all(&byte).unwrap();
        }
    };
    connected(maker, TOGETHER, server, |mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut byte = [0];
        let start = Instant::now();
        for _ in 0..ROUND_TRIPS / TURNS {
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
        }
        start.elapsed().as_secs_f64()
    })
}

pub(crate) fn report(rounds: usize) {
    let modes = MODES.into_iter().filter(|(to_firewall, _)| *to_firewall == "0" || Path::new(BRIDGE_NF).exists());
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
        }
        println!();
    }
}
