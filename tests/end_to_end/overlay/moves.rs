//! What moves in the file is changed in place on the others.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::cluster::{Cluster, containers, hosts};
use super::{in_cluster, wide};
use crate::lab::{self, until};

/// Three hosts, and a container with an address and a MAC of its own, which lives on one of them.
fn with_rover(host: &str, more: &str) -> String {
    let (list, _) = containers(3, 1);
    let rover = "\"10.30.0.200\", \"fd30::200\"";
    format!(
        "{}{}{list}[containers.rover]\nhost = \"{host}\"\n[containers.rover.networks.wide]\naddress = [{rover}]\n{more}",
        hosts(3, false),
        wide("switched")
    )
}

/// Every entry of a host that has something to do with an address: of its databases and neighbours.
fn entries(cluster: &Cluster, host: usize, what: &[&str]) -> Vec<String> {
    let all = cluster.hosts[host].sh("bridge fdb show; ip neigh show nud permanent");
    let about = |line: &&str| what.iter().any(|what| line.contains(what));
    let mut lines: Vec<String> = all.lines().filter(about).map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[test]
fn a_container_that_moves_to_another_host_is_reached_there() {
    in_cluster(3, |cluster| {
        let mac = "mac = \"02:00:00:00:00:aa\"";
        let (before, after) = (with_rover("a", mac), with_rover("b", mac));
        cluster.apply(&before);
        let reached = |from: &[&str]| {
            let lines = from
                .iter()
                .flat_map(|from| ["10.30.0.200", "fd30::200"].map(|to| format!("{from} ping {to} -> answer\n")));
            cluster.expect(&lines.collect::<String>());
        };
        reached(&["a1", "b1", "c1", "a", "b", "c"]);
        // To the third it is somewhere else, and nothing more.
        assert_eq!(cluster.hosts[2].plan(&after).actions(), ["update fdb 02:00:00:00:00:aa dev vx-wide"]);
        cluster.apply(&after);
        assert_eq!(cluster.plans(&after), [[""; 0]; 3]);
        reached(&["a1", "b1", "c1", "a", "b", "c"]);
        let known = |vtep: &str| {
            vec![
                "02:00:00:00:00:aa dev vx-wide dst VTEP self permanent".replace("VTEP", vtep),
                "02:00:00:00:00:aa dev vx-wide sticky master nr-wide static".to_owned(),
                "10.30.0.200 dev nr-wide lladdr 02:00:00:00:00:aa PERMANENT proto 78".to_owned(),
                "fd30::200 dev nr-wide lladdr 02:00:00:00:00:aa PERMANENT proto 78".to_owned(),
            ]
        };
        let what = ["02:00:00:00:00:aa", "10.30.0.200", "fd30::200"];
        assert_eq!(entries(cluster, 0, &what), known("192.0.2.2"));
        assert_eq!(entries(cluster, 2, &what), known("192.0.2.2"));
        // Where it lives it is behind its own port, as far as the bridge has seen it.
        let own = entries(cluster, 1, &what);
        assert!(own.iter().all(|line| line.contains("dev ve-rover")), "{own:?}");
        assert_eq!(cluster.hosts[0].netns_names(), ["a1"]);
    });
}

#[test]
fn a_container_that_sends_while_it_moves_does_not_hinder_its_old_host() {
    in_cluster(3, |cluster| {
        let mac = "mac = \"02:00:00:00:00:aa\"";
        let (before, after) = (with_rover("a", mac), with_rover("b", mac));
        cluster.apply(&before);
        let host = &cluster.hosts[0];
        let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
        let sending = host.named("rover").enter(|| UdpSocket::bind("10.30.0.200:0").unwrap());
        thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Its device goes meanwhile.
                    if sending.send_to(b"here", "10.30.0.1:9").is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            until("it sends", || sent.load(Ordering::Relaxed) > 0);
            let moved = host.try_netrec(&after, &["apply", "-y"]);
            stop.store(true, Ordering::Relaxed);
            assert_eq!(moved.status, 0, "{}", moved.stderr);
        });
        cluster.apply(&after);
        assert_eq!(cluster.plans(&after), [[""; 0]; 3]);
        cluster.expect("a1 ping 10.30.0.200 -> answer\nc1 ping fd30::200 -> answer");
    });
}

#[test]
fn a_container_with_the_mac_of_one_elsewhere_does_not_take_its_place() {
    in_cluster(2, |cluster| {
        let one = |name: &str, number: u8| {
            format!(
                "[containers.{name}]\nhost = \"{}\"\nnetworks.wide = {{ address = [\"10.30.0.{number}\", \"fd30::{number}\"], \
                 mac = \"02:00:00:00:00:{number}\" }}\n",
                &name[..1]
            )
        };
        let list = [one("a1", 11), one("a2", 12), one("b1", 21)].concat();
        let file = format!("{}{}{list}", hosts(2, false), wide("switched"));
        cluster.apply(&file);
        let (forger, witness) = (cluster.space("a1"), cluster.space("a2"));
        witness.sh("nft 'table inet seen { counter forged { }; chain in { type filter hook input priority 0; \
             ether saddr 02:00:00:00:00:21 udp dport 80 counter name forged; }; }'");
        forger.sh("ip link set dev eth0 address 02:00:00:00:00:21");
        // Answers to the forger's questions go where the address is.
        forger.sh("ip neigh replace 10.30.0.12 lladdr 02:00:00:00:00:12 dev eth0 nud permanent");
        let listening = witness.enter(|| UdpSocket::bind("10.30.0.12:80").unwrap());
        listening.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        forger.enter(|| UdpSocket::bind("10.30.0.11:0").unwrap()).send_to(b"forged", "10.30.0.12:80").unwrap();
        let mut heard = [0; 8];
        let length = listening.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"forged");
        let counted = witness.sh("nft list counter inet seen forged");
        assert!(counted.contains("packets 1 "), "{counted}");
        assert_eq!(
            entries(cluster, 0, &["02:00:00:00:00:21"]),
            [
                "02:00:00:00:00:21 dev vx-wide dst 192.0.2.2 self permanent",
                "02:00:00:00:00:21 dev vx-wide sticky master nr-wide static",
                "10.30.0.21 dev nr-wide lladdr 02:00:00:00:00:21 PERMANENT proto 78",
                "fd30::21 dev nr-wide lladdr 02:00:00:00:00:21 PERMANENT proto 78",
            ]
        );
        cluster.expect(
            "a2 ping 10.30.0.21 -> answer\na2 ping fd30::21 -> answer\na ping 10.30.0.21 -> answer\nb1 ping 10.30.0.12 -> answer",
        );
        forger.sh("ip link set dev eth0 address 02:00:00:00:00:11");
        assert_eq!(cluster.plans(&file), [[""; 0]; 2]);
    });
}

#[test]
fn a_container_with_another_mac_leaves_no_entry_of_the_old_one() {
    in_cluster(3, |cluster| {
        let before = with_rover("a", "mac = \"02:00:00:00:00:aa\"");
        let after = with_rover("a", "mac = \"02:00:00:00:00:bb\"");
        cluster.apply(&before);
        // Who has spoken with it remembers.
        cluster.expect("c1 ping 10.30.0.200 -> answer\nc1 ping fd30::200 -> answer");
        let changes = [
            "create fdb 02:00:00:00:00:bb dev nr-wide",
            "create fdb 02:00:00:00:00:bb dev vx-wide",
            "update neighbour 10.30.0.200 dev nr-wide",
            "update neighbour fd30::200 dev nr-wide",
            "delete fdb 02:00:00:00:00:aa dev nr-wide",
            "delete fdb 02:00:00:00:00:aa dev vx-wide",
        ];
        let mut planned = cluster.hosts[2].plan(&after).actions();
        planned.sort();
        let mut changes = changes.map(str::to_owned).to_vec();
        changes.sort();
        assert_eq!(planned, changes);
        cluster.apply(&after);
        assert_eq!(entries(cluster, 2, &["02:00:00:00:00:aa"]), [""; 0]);
        let known = cluster.space("c1").sh("ip neigh show dev eth0 | grep -c 02:00:00:00:00:bb");
        assert_eq!(known.trim(), "2");
        cluster.expect("c1 ping 10.30.0.200 -> answer\nc1 ping fd30::200 -> answer");
    });
}

#[test]
fn a_host_with_another_address_is_reached_there() {
    in_cluster(3, |cluster| {
        let peers = ["create element peer4 { 192.0.2.22 }", "delete element peer4 { 192.0.2.2 }"];
        for (topology, own, peers) in [
            (
                "switched",
                &["update fdb 02:0f:f4:96:8f:22 dev vx-wide", "update fdb 02:b3:20:80:17:e2 dev vx-wide"][..],
                &peers[..],
            ),
            ("routed", &["update fdb 02:72:5c:3a:67:79 dev vx-wide"], &peers),
            ("direct", &["update route 10.30.2.0/24"], &[]),
        ] {
            let (list, _) = containers(3, 1);
            let file = |hosts: &str| format!("{hosts}{}{list}", wide(topology));
            let before = file(&hosts(3, false));
            cluster.apply(&before);
            let host = &cluster.hosts[1];
            host.add_address("eth0", "192.0.2.22/24");
            let after = file(&hosts(3, false).replace("\"192.0.2.2\"", "\"192.0.2.22\""));
            let planned = cluster.hosts[2].plan(&after).actions();
            lab::assert_same(topology, &[own, peers].concat(), &planned);
            cluster.apply(&after);
            assert_eq!(cluster.plans(&after), [[""; 0]; 3]);
            let stale = cluster.hosts[2].sh("bridge fdb show; ip route show; nft list ruleset");
            assert!(!stale.contains("192.0.2.2 ") && !stale.contains("192.0.2.2,"), "{stale}");
            let shown = cluster.hosts[0].try_netrec(&after, &["show", "--json"]);
            let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
            let b1 = shown["containers"]["b1"]["networks"]["wide"]["address"][0].as_str().unwrap().to_owned();
            cluster.expect(&format!("c1 ping {b1} -> answer\na1 ping {b1} -> answer"));
            for host in &cluster.hosts {
                host.destroy(&after);
            }
            host.sh("ip addr del 192.0.2.22/24 dev eth0");
        }
    });
}
