//! What others change of tunnels is seen and mended; what the file changes of other hosts is changed in place.

use super::cluster::{Cluster, hosts};
use super::{in_cluster, wide};

/// The other host's IPv6 router.
const ROUTER_OF_B: &str = "create neighbour fe80::72:5cff:fe3a:6779 dev vx-wide";

/// What the bridge of host `a` knows of the other container, and of the other host.
const FDB_OF_B1: &str = "create fdb 02:00:00:00:00:b1 dev nr-wide";
const FDB_OF_B: &str = "create fdb 02:b3:20:80:17:e2 dev nr-wide";

/// Two hosts with a container each, which say where they are.
fn pair(topology: &str) -> String {
    let (a, b) = match topology {
        "switched" => ("10.30.0.11\", \"fd30::11", "10.30.0.12\", \"fd30::12"),
        _ => ("10.30.1.11\", \"fd30:0:0:1::11", "10.30.2.12\", \"fd30:0:0:2::12"),
    };
    let container = |host: &str, address: &str| {
        let mac = format!("02:00:00:00:00:{host}1");
        format!(
            "[containers.{host}1]\nhost = \"{host}\"\n[containers.{host}1.networks.wide]\naddress = [\"{address}\"]\nmac = \"{mac}\"\n"
        )
    };
    format!("{}{}{}{}", hosts(2, false), wide(topology), container("a", a), container("b", b))
}

/// Does something on host `a`, looks at what that host would change, has it changed, and tries that all is well.
fn drifts(cluster: &Cluster, file: &str, cases: &[(&str, &[&str])]) {
    let host = &cluster.hosts[0];
    for (command, actions) in cases {
        host.sh(command);
        assert_eq!(host.plan(file).actions(), *actions, "{command}");
        assert_eq!(host.apply(file).actions(), *actions, "{command}");
        assert_eq!(host.plan(file).actions(), [""; 0], "{command}");
        talk(cluster, file);
    }
}

/// The two containers reach each other.
fn talk(cluster: &Cluster, file: &str) {
    let [a, b] = if file.contains("switched") {
        [["10.30.0.11", "fd30::11"], ["10.30.0.12", "fd30::12"]]
    } else {
        [["10.30.1.11", "fd30:0:0:1::11"], ["10.30.2.12", "fd30:0:0:2::12"]]
    };
    let line = |from: &str, to: &str| format!("{from} ping {to} -> answer\n");
    let lines = b.map(|to| line("a1", to)).into_iter().chain(a.map(|to| line("b1", to)));
    cluster.expect(&lines.collect::<String>());
}

#[test]
fn drift_of_a_switched_network_is_mended() {
    in_cluster(2, |cluster| {
        let file = pair("switched");
        cluster.apply(&file);
        talk(cluster, &file);
        drifts(
            cluster,
            &file,
            &[
                (
                    "bridge fdb del 02:00:00:00:00:b1 dev vx-wide dst 192.0.2.2",
                    &["create fdb 02:00:00:00:00:b1 dev vx-wide"],
                ),
                (
                    "bridge fdb replace 02:00:00:00:00:b1 dev vx-wide dst 192.0.2.77",
                    &["update fdb 02:00:00:00:00:b1 dev vx-wide"],
                ),
                ("bridge fdb del 02:00:00:00:00:b1 dev vx-wide master", &["create fdb 02:00:00:00:00:b1 dev nr-wide"]),
                (
                    "bridge fdb replace 02:00:00:00:00:b1 dev vx-wide master static",
                    &["update fdb 02:00:00:00:00:b1 dev nr-wide"],
                ),
                (
                    "bridge fdb add 02:00:00:00:00:99 dev vx-wide dst 192.0.2.2",
                    &["delete fdb 02:00:00:00:00:99 dev vx-wide"],
                ),
                ("ip neigh del 10.30.0.12 dev nr-wide", &["create neighbour 10.30.0.12 dev nr-wide"]),
                ("ip neigh del fd30::12 dev nr-wide", &["create neighbour fd30::12 dev nr-wide"]),
                ("ip link set vx-wide mtu 1400", &["update link vx-wide"]),
                ("ip link set vx-wide type vxlan id 4100 learning", &["update link vx-wide"]),
                ("bridge link set dev vx-wide neigh_suppress off flood on", &["update link vx-wide"]),
                ("ip link set vx-wide nomaster", &["update link vx-wide", FDB_OF_B1, FDB_OF_B]),
                ("ip link set vx-wide down && ip link set vx-wide up", &[]),
                ("ip link set vx-wide down", &["update link vx-wide"]),
                (
                    "ip link set nr-wide down && ip link set nr-wide up",
                    &[
                        "create address fd30::1/128 dev nr-wide",
                        "create address fd30::b10a:d0f:f43f:6865/48 dev nr-wide",
                        "create neighbour 10.30.0.12 dev nr-wide",
                        "create neighbour 10.30.30.152 dev nr-wide",
                        "create neighbour fd30::12 dev nr-wide",
                        "create neighbour fd30::b10a:100f:f43f:6d7e dev nr-wide",
                    ],
                ),
                (
                    "ip link del vx-wide",
                    &[
                        "create link vx-wide",
                        FDB_OF_B1,
                        FDB_OF_B,
                        "create fdb 02:00:00:00:00:b1 dev vx-wide",
                        "create fdb 02:b3:20:80:17:e2 dev vx-wide",
                    ],
                ),
            ],
        );
    });
}

#[test]
fn drift_of_a_routed_network_is_mended() {
    in_cluster(2, |cluster| {
        let file = pair("routed");
        cluster.apply(&file);
        talk(cluster, &file);
        drifts(
            cluster,
            &file,
            &[
                ("ip route del 10.30.2.0/24", &["create route 10.30.2.0/24"]),
                ("ip route del unreachable 10.30.0.0/16", &["create route 10.30.0.0/16"]),
                ("ip route change blackhole 10.30.0.0/16 proto 78", &["update route 10.30.0.0/16"]),
                ("ip -6 route del unreachable fd30::/48", &["create route fd30::/48"]),
                (
                    "ip -6 route replace fd30:0:0:2::/64 via 2001:db8::2 dev eth0 proto 78",
                    &["update route fd30:0:0:2::/64"],
                ),
                ("ip -6 route del fd30:0:0:2::/64", &["create route fd30:0:0:2::/64"]),
                ("ip neigh del 10.30.2.1 dev vx-wide", &["create neighbour 10.30.2.1 dev vx-wide"]),
                ("ip link set vx-wide mtu 1400", &["update link vx-wide"]),
                (
                    "ip link set vx-wide address 02:00:00:00:00:01",
                    &["update link vx-wide", "create neighbour 10.30.2.1 dev vx-wide", ROUTER_OF_B],
                ),
                // The kernel forgets what was permanent.
                (
                    "ip link set vx-wide down && ip link set vx-wide up",
                    &[
                        "create address fd30:0:0:1::1/128 dev vx-wide",
                        "create route 10.30.2.0/24",
                        "create route fd30:0:0:2::/64",
                        "create neighbour 10.30.2.1 dev vx-wide",
                        ROUTER_OF_B,
                    ],
                ),
                (
                    "ip link del vx-wide",
                    &[
                        "create link vx-wide",
                        "create address 10.30.1.1/32 dev vx-wide",
                        "create address fd30:0:0:1::1/128 dev vx-wide",
                        "create route 10.30.2.0/24",
                        "create route fd30:0:0:2::/64",
                        "create neighbour 10.30.2.1 dev vx-wide",
                        ROUTER_OF_B,
                        "create fdb 02:72:5c:3a:67:79 dev vx-wide",
                        "create sysctl net/ipv4/conf/vx-wide/forwarding",
                        "create sysctl net/ipv6/conf/vx-wide/accept_ra",
                        "create sysctl net/ipv6/conf/vx-wide/forwarding",
                    ],
                ),
                ("ip -n a1 route del 10.30.0.0/16", &["create route 10.30.0.0/16 metric 1024 in a1"]),
            ],
        );
    });
}

#[test]
fn drift_of_a_direct_network_is_mended() {
    in_cluster(2, |cluster| {
        let file = pair("direct");
        cluster.apply(&file);
        talk(cluster, &file);
        drifts(
            cluster,
            &file,
            &[
                ("ip route del 10.30.2.0/24", &["create route 10.30.2.0/24"]),
                ("ip route change 10.30.2.0/24 via 192.0.2.99 proto 78", &["update route 10.30.2.0/24"]),
                ("ip -6 route del fd30:0:0:2::/64", &["create route fd30:0:0:2::/64"]),
                // The link goes and comes back, and with it all routes by it go.
                (
                    "ip link set eth0 down && ip link set eth0 up && ip addr add 2001:db8::1/64 dev eth0 nodad",
                    &["create route 10.30.2.0/24", "create route fd30:0:0:2::/64"],
                ),
            ],
        );
    });
}
