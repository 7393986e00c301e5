//! A host of flannel's among netrec's: a stand-in that does in the kernel and in etcd what flannel documents that it does, by
//! the programs of a shell.

use std::collections::BTreeMap;

use crate::bed::{Bed, Watching, in_bed, routes};
use crate::lab::{Machine, until};

/// A host of flannel's with a pod: its pieces, and the MACs of its tunnels.
struct Flannel<'a> {
    bed: &'a Bed,
    host: &'a Machine,
    number: u8,
    ipv6: bool,
}

const MACS: [&str; 2] = ["c6:d2:32:6f:8f:44", "c6:d2:32:6f:8f:45"];
/// As the administrator of a network of flannel's writes it, with all that may be left out left out.
const CONFIG: &str = r#"{ "Network": "10.5.0.0/16", "Backend": { "Type": "vxlan" } }"#;
const BOTH: &str =
    r#"{ "Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fc00::/48", "Backend": { "Type": "vxlan" } }"#;

impl<'a> Flannel<'a> {
    /// Starts it: devices, a bridge with a pod, and its entry in etcd.
    fn start(bed: &'a Bed, number: u8, ipv6: bool) -> Self {
        let host = &bed.hosts[usize::from(number) - 1];
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip link add flannel.1 mtu 1450 address {} type vxlan id 1 local 192.0.2.{number} dev eth0 dstport 8472 nolearning
             ip addr add 10.5.72.0/32 dev flannel.1
             ip link set flannel.1 up
             ip link add cni0 mtu 1450 type bridge
             ip link set cni0 up
             ip addr add 10.5.72.1/24 dev cni0
             ip netns add pod
             ip link add pod0 mtu 1450 type veth peer name eth0 netns pod
             ip link set pod0 master cni0 up
             ip -n pod link set eth0 up
             ip -n pod addr add 10.5.72.10/24 dev eth0
             ip -n pod route add default via 10.5.72.1",
            MACS[0]
        ));
        if ipv6 {
            host.sh(&format!(
                "ip link add flannel-v6.1 mtu 1430 address {} type vxlan id 1 local 2001:db8::{number} dev eth0 dstport 8472 nolearning
                 ip link set flannel-v6.1 up
                 ip addr add fc00:0:0:72::/128 dev flannel-v6.1 nodad
                 ip addr add fc00:0:0:72::1/64 dev cni0 nodad
                 ip -n pod addr add fc00:0:0:72::10/64 dev eth0 nodad
                 ip -n pod route add default via fc00:0:0:72::1",
                MACS[1]
            ));
        }
        let flannel = Self { bed, host, number, ipv6 };
        flannel.lease();
        flannel
    }

    fn key(&self) -> String {
        let ipv6 = if self.ipv6 { "&fc00:0:0:72::-64" } else { "" };
        format!("10.5.72.0-24{ipv6}")
    }

    /// Its entry, under a new lease of a day: at its start, and every 23 hours again.
    fn lease(&self) {
        let etcd = &self.bed.etcd;
        let granted = etcd.ctl(&["lease", "grant", "86400"]);
        let lease = granted.split_whitespace().nth(1).unwrap();
        let (address, more) = if self.ipv6 {
            (
                format!("\"2001:db8::{}\"", self.number),
                format!(r#","BackendV6Data":{{"VNI":1,"VtepMAC":"{}"}}"#, MACS[1]),
            )
        } else {
            ("null".to_owned(), String::new())
        };
        let value = format!(
            r#"{{"PublicIP":"192.0.2.{}","PublicIPv6":{address},"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}{more}}}"#,
            self.number, MACS[0]
        );
        etcd.ctl(&["put", "--lease", lease, &format!("/coreos.com/network/subnets/{}", self.key()), &value]);
    }

    /// What it does about each other's entry: a neighbour, an entry of the tunnel, a route, in that order.
    fn take_in(&self) {
        for (key, value) in self.bed.etcd.members().into_iter().filter(|(key, _)| *key != self.key()) {
            let value: serde_json::Value = serde_json::from_str(&value).unwrap();
            assert_eq!(value["BackendType"], "vxlan");
            for (piece, device, mac, to) in key
                .split('&')
                .zip([
                    ("flannel.1", &value["BackendData"]["VtepMAC"], &value["PublicIP"]),
                    ("flannel-v6.1", &value["BackendV6Data"]["VtepMAC"], &value["PublicIPv6"]),
                ])
                .map(|(piece, (device, mac, to))| (piece, device, mac.as_str().unwrap(), to.as_str().unwrap()))
            {
                let (router, length) = piece.rsplit_once('-').unwrap();
                self.host.sh(&format!(
                    "ip neigh replace {router} lladdr {mac} nud permanent dev {device}
                     bridge fdb append {mac} dst {to} dev {device} self permanent
                     ip route replace {router}/{length} via {router} dev {device} onlink"
                ));
            }
        }
    }
}

#[test]
fn a_host_of_flannels_is_a_peer_both_ways() {
    in_bed(3, |bed| {
        bed.etcd.put("/coreos.com/network/config", CONFIG);
        let flannel = Flannel::start(bed, 3, false);
        let watches: Vec<Watching> =
            bed.hosts[..2].iter().map(|host| Watching::start(host, &Bed::file(&format!("{}1", host.name())))).collect();
        until("both know it", || bed.hosts[..2].iter().all(|host| routes(host).len() == 2));
        flannel.take_in();
        let pod = bed.hosts[2].named("pod");
        let _there = [pod.listen_tcp("pod", "0.0.0.0:80"), bed.hosts[2].listen_tcp("host", "0.0.0.0:81")];
        let _here = bed.listen(&["a1", "b1"]);
        let (a, b) = (bed.address("a1"), bed.address("b1"));
        let space = |name: &str| if name == "pod" { pod.clone() } else { bed.space(name) };
        let table = format!(
            "a1 tcp 10.5.72.10:80 -> pod sees {a}
             b1 tcp 10.5.72.10:80 -> pod sees {b}
             pod tcp {a}:80 -> a1 sees 10.5.72.10
             pod tcp {b}:80 -> b1 sees 10.5.72.10
             pod ping {a} -> answer
             a1 ping 10.5.72.10 -> answer
             a1 tcp {b}:80 -> b1 sees {a}
             c tcp {a}:80 -> a1 sees 10.5.72.0
             a1 tcp 10.5.72.0:81 -> host sees {a}"
        );
        crate::lab::expect(&space, &table);
        // A renewal is nothing new, and what it says of others is theirs.
        let before: BTreeMap<String, String> = bed.etcd.members();
        flannel.lease();
        assert_eq!(bed.etcd.members(), before);
        // It comes back with another MAC, as it does after every boot: nothing of the old one is left.
        let key = format!("/coreos.com/network/subnets/{}", flannel.key());
        bed.etcd.put(&key, &before[&flannel.key()].replace(MACS[0], "c6:d2:32:6f:8f:99"));
        bed.hosts[2].sh("ip link set flannel.1 address c6:d2:32:6f:8f:99");
        let fdb = |host: &Machine| host.run(["bridge", "fdb", "show", "dev", "vx-wide"]);
        // The new one comes before the old one goes.
        let knows = |text: String| text.contains("c6:d2:32:6f:8f:99") && !text.contains(MACS[0]);
        until("they know", || bed.hosts[..2].iter().all(|host| knows(fdb(host))));
        // The kernel has taken its neighbours with the old address.
        flannel.take_in();
        crate::lab::expect(&space, &table);
        drop(watches);
    });
}

#[test]
fn a_host_of_flannels_with_both_families_is_a_peer_of_both() {
    in_bed(2, |bed| {
        bed.etcd.put("/coreos.com/network/config", BOTH);
        let flannel = Flannel::start(bed, 2, true);
        let file = Bed::file("a1")
            .replace("\"10.5.0.0/16\"", "[\"10.5.0.0/16\", \"fc00::/48\"]")
            .replace("[cluster]\n", "[cluster]\npublic_address = [\"192.0.2.1\", \"2001:db8::1\"]\n");
        let host = &bed.hosts[0];
        host.apply(&file);
        assert_eq!(host.plan(&file).actions(), [""; 0]);
        flannel.take_in();
        let pod = bed.hosts[1].named("pod");
        let _there = pod.listen_tcp("pod", "[::]:80");
        let _here = bed.listen(&["a1"]);
        let key = bed.etcd.key_of("192.0.2.1");
        let (v4, v6) = (bed.address("a1"), crate::bed::address_of_ipv6(&bed.space("a1")));
        let piece: ipnetwork::IpNetwork = key.split('&').nth(1).unwrap().replace('-', "/").parse().unwrap();
        assert!(piece.contains(v6.parse().unwrap()), "{piece} {v6}");
        let space = |name: &str| if name == "pod" { pod.clone() } else { bed.space(name) };
        crate::lab::expect(
            &space,
            &format!(
                "a1 tcp 10.5.72.10:80 -> pod sees {v4}
                 a1 tcp [fc00:0:0:72::10]:80 -> pod sees {v6}
                 pod tcp {v4}:80 -> a1 sees 10.5.72.10
                 pod tcp [{v6}]:80 -> a1 sees fc00:0:0:72::10"
            ),
        );
        // Each family by a tunnel over its own.
        assert!(host.run(["bridge", "fdb", "show", "dev", "vx-wide"]).contains(&format!("{} dst 192.0.2.2", MACS[0])));
        assert!(
            host.run(["bridge", "fdb", "show", "dev", "v6-wide"]).contains(&format!("{} dst 2001:db8::2", MACS[1]))
        );
        let env = std::fs::read_to_string(host.path("/run/flannel/subnet.env")).unwrap();
        let (own4, own6) = key.split_once('&').unwrap();
        let gateway = |piece: &str, one: &str| {
            piece.rsplit_once('-').map(|(net, length)| format!("{net}{one}/{length}")).unwrap()
        };
        let (gateway4, gateway6) = (gateway(own4, "").replace(".0/", ".1/"), gateway(own6, "1"));
        assert_eq!(
            env,
            format!(
                "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={gateway4}\nFLANNEL_IPV6_NETWORK=fc00::/48\n\
                 FLANNEL_IPV6_SUBNET={gateway6}\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
            )
        );
        host.destroy(&file);
        assert_eq!(host.run(["ip", "-o", "link", "show", "type", "vxlan"]), "");
    });
}

/// flannel's host-gw, and entries of backends that this network has not.
#[test]
fn plain_routes_and_backends_of_others() {
    in_bed(3, |bed| {
        let gw = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
        bed.etcd.put("/coreos.com/network/config", gw);
        let file = |name: &str| {
            Bed::file(name).replace("topology = \"routed\"\nvni = 1\nport = 8472\n", "topology = \"direct\"\n")
        };
        for (host, name) in bed.hosts[..2].iter().zip(["a1", "b1"]).chain([(&bed.hosts[0], "a1")]) {
            host.apply(&file(name));
        }
        let members = bed.etcd.members();
        let values: Vec<&str> = members.values().map(String::as_str).collect();
        for n in 1..=2 {
            let value = format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
            assert!(values.contains(&value.as_str()), "{values:?}");
        }
        let via: Vec<String> = routes(&bed.hosts[0]).into_values().collect();
        assert_eq!(via.len(), 1);
        assert!(via[0].starts_with("via 192.0.2.2 dev eth0"), "{via:?}");
        let _here = bed.listen(&["a1", "b1"]);
        let (a, b) = (bed.address("a1"), bed.address("b1"));
        bed.expect(&format!("a1 tcp {b}:80 -> b1 sees {a}\nb1 tcp {a}:80 -> a1 sees {b}"));
        // Others of the same network: by a router, of another backend, and of none.
        let put = |piece: &str, value: &str| bed.etcd.put(&format!("/coreos.com/network/subnets/{piece}"), value);
        bed.hosts[0].sh("ip route add 198.51.100.0/24 via 192.0.2.99");
        put("10.5.201.0-24", r#"{"PublicIP":"198.51.100.1","PublicIPv6":null,"BackendType":"host-gw"}"#);
        put(
            "10.5.202.0-24",
            r#"{"PublicIP":"192.0.2.202","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"x","Port":51820}}"#,
        );
        put("10.5.203.0-24", r#"{"PublicIP":"192.0.2.203","PublicIPv6":null}"#);
        let plan = bed.hosts[0].plan(&file("a1"));
        assert_eq!(plan.actions(), [""; 0]);
        let warnings: Vec<&str> =
            plan.json["warnings"].as_array().unwrap().iter().map(|w| w["message"].as_str().unwrap()).collect();
        assert_eq!(
            warnings,
            [
                "the entry `/coreos.com/network/subnets/10.5.202.0-24` in etcd is not used: its backend is `wireguard`, and this network's `host-gw`",
                "the entry `/coreos.com/network/subnets/10.5.203.0-24` in etcd is not used: its backend is none, and this network's `host-gw`",
                "cluster.\"198.51.100.1\" is on no link of this host: 198.51.100.1 is reached by 192.0.2.99, and network `wide` is `direct`",
            ]
        );
    });
}
