//! The two files of the sweeps: all that netrec can make, at twenty containers, and a change that makes something of every
//! sort come, change, be made anew and go.
//!
//! A driver or a key that is new gets a part here, and nothing else: its own networks, containers, subnets (`10.N.0.0/16`,
//! `fdN::`) and host ports, at first and after the change, and what it needs of the host. Where a container has IPv6, duplicate
//! address detection is off, which takes a second or two and is waited for after every apply.

/// What a file has of one sort.
pub(crate) struct Part {
    /// What the host has already, as lines for a shell.
    pub(crate) host: &'static str,
    /// Before the change.
    pub(crate) first: &'static str,
    /// After it.
    pub(crate) second: &'static str,
}

/// All sorts.
pub(crate) const PARTS: &[Part] = &[
    // Others on the same host, with the same hooks and priorities, and tables of routes of their own.
    Part {
        host: "nft -f - <<'NFT'
               table inet theirs {
                   set known { type ipv4_addr; elements = { 203.0.113.1, 203.0.113.2 }; }
                   chain forward { type filter hook forward priority filter; policy accept; ip saddr @known counter; }
                   chain nat { type nat hook prerouting priority dstnat; policy accept; tcp dport 6000 redirect to :6001; }
                   chain out { type nat hook postrouting priority srcnat; policy accept; ip saddr 203.0.113.0/24 masquerade; }
               }
NFT
               ip route add 203.0.113.0/24 via 192.0.2.9 proto static metric 50
               ip route add blackhole 198.51.100.0/24
               ip route add default via 192.0.2.9 table 100
               ip rule add from 203.0.113.7 lookup 100 priority 1000
               ip -6 rule add from 2001:db8:7::/48 lookup 100 priority 1001",
        first: "",
        second: "",
    },
    // nat: both families, ports of all kinds, two networks of one container, a gateway and an MTU that change.
    Part {
        host: "",
        first: r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = "10.21.0.0/24"

[containers.web]
networks = ["front", "back"]
ports    = ["8080:80", "127.0.0.1:9000:9000/udp", "7000-7009:7000-7009"]
sysctl   = { "net.ipv4.ip_default_ttl" = 60, "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0, "net.ipv6.conf.eth1.accept_dad" = 0 }

[containers.db]
networks.back = { address = "10.21.0.10" }

[containers.back-2]
networks = ["back"]
"#,
        second: r#"
[networks.front]
subnet  = ["10.20.0.0/24", "fd20::/64"]
gateway = ["10.20.0.254", "fd20::254"]
mtu     = 1400

[networks.other]
subnet  = "10.22.0.0/24"
icc     = false
snat    = "192.0.2.2"
trusted = "uplink"

[containers.web]
networks = ["other", "front"]
ports    = [
  "8080:81",
  "8081:80",
  "7001-7010:7001-7010",
  "7100-7103:7200-7203/udp",
  { host = 8082, container = 82, network = "front", allow = "192.0.2.0/24" },
]
sysctl   = { "net.ipv4.ip_default_ttl" = 61, "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0, "net.ipv6.conf.eth1.accept_dad" = 0 }

[containers.cache]
networks = ["other"]

[containers.other-2]
networks = ["other"]
"#,
    },
    // routed, and a mode for each family.
    Part {
        host: "",
        first: r#"
[networks.open]
subnet = ["10.23.0.0/24", "fd23::/64"]
mode   = "routed"

[networks.half]
subnet = ["10.24.0.0/24", "fd24::/64"]
mode   = { ipv4 = "nat", ipv6 = "routed" }

[containers.open-1]
networks = ["open"]
ports    = ["8230:80", "8231:53/udp"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.open-2]
networks = ["open"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.half-1]
networks = ["half"]
ports    = ["8240:8240", "8241-8244:8241-8244"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }
"#,
        second: r#"
[networks.open]
subnet = ["10.23.0.0/24", "fd23::/64"]
mode   = "nat"

[networks.half]
subnet = ["10.24.0.0/24", "fd24::/64"]
mode   = { ipv4 = "routed", ipv6 = "nat" }

[containers.open-1]
networks = ["open"]
ports    = ["8230:80", "8232:53/udp"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.open-2]
networks = ["open"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.half-1]
networks = ["half"]
ports    = ["8240:8240", "8242-8245:8242-8245"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }
"#,
    },
    // isolated and internal networks, that are opened and closed.
    Part {
        host: "",
        first: r#"
[networks.alone]
subnet = "10.25.0.0/24"
mode   = "isolated"

[networks.inside]
subnet   = "10.26.0.0/24"
internal = true

[containers.alone-1]
networks = ["alone", "inside"]

[containers.alone-2]
networks = ["alone"]

[containers.inside-1]
networks = ["inside"]
"#,
        second: r#"
[networks.alone]
subnet   = "10.25.0.0/24"
internal = true

[networks.inside]
subnet = "10.26.0.0/24"

[containers.alone-1]
networks = ["inside", "alone"]
ports    = ["8260:80"]

[containers.alone-2]
networks = ["alone"]

[containers.inside-1]
networks = ["inside"]
"#,
    },
    // Neighbours kept apart, a source of one's own, devices that are trusted.
    Part {
        host: "",
        first: r#"
[networks.apart]
subnet = "10.27.0.0/24"
icc    = false

[networks.paid]
subnet  = "10.28.0.0/24"
snat    = "192.0.2.2"
trusted = "uplink"

[containers.apart-1]
networks = ["apart"]
ports    = ["8270:80"]

[containers.apart-2]
networks = ["apart"]

[containers.paid-1]
networks = ["paid"]

[containers.paid-2]
networks = ["paid", "apart"]
ports    = [{ host = 8280, container = 80, allow = ["192.0.2.0/24", "10.28.0.0/24"] }]
"#,
        second: r#"
[networks.apart]
subnet = "10.27.0.0/24"

[networks.paid]
subnet = "10.28.0.0/24"
icc    = false

[containers.apart-1]
networks = ["apart"]
ports    = ["192.0.2.1:8270:80"]

[containers.apart-2]
networks.apart = { address = "10.27.0.77", mac = "02:00:00:00:00:77" }

[containers.paid-1]
networks = ["paid"]

[containers.paid-2]
networks = ["apart", "paid"]
ports    = [{ host = 8280, container = 80, network = "paid", allow = ["192.0.2.9"] }]
"#,
    },
    // A bridge of somebody else's, with ports and entries of theirs.
    Part {
        host: "ip link add br-theirs address 02:00:00:00:40:00 type bridge
               ip link add th0 address 02:00:00:00:40:01 type veth peer name th1 address 02:00:00:00:40:02
               ip link set th0 master br-theirs
               for d in br-theirs th0 th1; do
                   for s in accept_dad router_solicitations; do echo 0 >/proc/sys/net/ipv6/conf/$d/$s; done
                   ip link set $d up
               done
               ip address add 10.40.0.1/16 dev br-theirs
               bridge fdb add 02:00:00:00:40:aa dev th0 master static
               bridge fdb add 02:00:00:00:40:bb dev br-theirs self permanent
               ip neigh add 10.40.0.9 lladdr 02:00:00:00:40:aa dev br-theirs nud permanent",
        first: r#"
[networks.theirs]
bridge  = "br-theirs"
adopt   = true
subnet  = "10.40.0.0/16"
range   = "10.40.4.0/24"

[containers.theirs-1]
networks = ["theirs"]
ports    = ["8400:80"]

[containers.theirs-2]
networks = ["theirs"]
"#,
        second: r#"
[networks.theirs]
bridge  = "br-theirs"
adopt   = true
subnet  = "10.40.0.0/16"
gateway = "10.40.0.1"
range   = "10.40.5.0/24"

[containers.theirs-1]
networks = ["theirs"]
ports    = ["8401:80"]

[containers.theirs-3]
networks = ["theirs"]
"#,
    },
    // A namespace of somebody else's.
    Part {
        host: "mkdir /run/theirs; touch /run/theirs/app
               unshare --net mount --bind /proc/self/ns/net /run/theirs/app",
        first: r#"
[networks.guests]
subnet = "10.41.0.0/24"

[containers.app]
netns    = "/run/theirs/app"
networks = ["guests"]
ports    = ["8410:80"]

[containers.none]
"#,
        second: r#"
[networks.guests]
subnet = "10.41.0.0/24"

[containers.app]
netns    = "/run/theirs/app"
networks.guests = { interface = "lan0" }
ports    = ["8411:80"]

[containers.none]
networks = ["guests"]
"#,
    },
    // Traffic that is limited, routes by another container and to nowhere, and parameters of an interface.
    Part {
        host: "",
        first: r#"
[networks.paced]
subnet = "10.44.0.0/24"

[containers.paced-1.networks.paced]
ingress = "20mbit"
egress  = "10mbit"
routes  = [{ to = "198.18.0.0/24", via = "10.44.0.9" }, { to = "198.18.1.0/24", type = "blackhole" }]
sysctl  = { "net.ipv4.conf.IFNAME.rp_filter" = 0 }

[containers.paced-2]
networks.paced = { egress = "5mbit" }
"#,
        second: r#"
[networks.paced]
subnet = "10.44.0.0/24"

[containers.paced-1.networks.paced]
egress = "40mbit"
routes = [{ to = "198.18.0.0/24", type = "blackhole" }, { to = "198.18.2.0/24", via = "10.44.0.9", metric = 7 }]
sysctl = { "net.ipv4.conf.IFNAME.rp_filter" = 2 }

[containers.paced-2]
networks.paced = { ingress = "5mbit" }
"#,
    },
    // Containers on a link that the host is on, and one with nothing at all. Without IPv6 where a device gets another Ethernet
    // address or is made anew: the kernel keeps the link-local address of the former, and forgets the device's parameters.
    Part {
        host: "",
        first: r#"
[networks.lan]
driver = "macvlan"
parent = "uplink"
subnet = "10.42.0.0/24"

[networks.lan6]
driver = "macvlan"
parent = "uplink"
subnet = ["10.43.0.0/24", "fd43::/64"]

[networks.nothing]
driver = "null"

[containers.lone]
networks.lan = { mac = "02:00:00:00:42:01", ingress = "20mbit", egress = "10mbit" }

[containers.lone-2]
networks = ["lan"]

[containers.lone-6]
networks = ["lan6"]
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.quiet]
networks = ["nothing"]
"#,
        second: r#"
[networks.lan]
driver = "macvlan"
type   = "private"
parent = "uplink"
subnet = "10.42.0.0/24"

[networks.lan6]
driver = "macvlan"
type   = "vepa"
parent = "uplink"
subnet = ["10.43.0.0/24", "fd43::/64"]

[containers.lone]
networks.lan = { interface = "lan0" }

[containers.lone-2]
networks.lan = { mac = "02:00:00:00:42:01" }

[containers.lone-3]
networks.lan = { egress = "5mbit" }

[containers.lone-6]
networks.lan6 = { address = ["10.43.0.9", "fd43::9"] }
sysctl   = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }
"#,
    },
    // Networks over several hosts, of every topology, each of which becomes another one.
    Part {
        host: "",
        first: r#"
[hosts.host]
id = 1
address = "192.0.2.1"

[hosts.far]
id = 2
address = "192.0.2.9"

[networks.wide]
driver = "overlay"
subnet = ["10.30.0.0/24", "fd30::/64"]
vni = 4100

[networks.round]
driver = "overlay"
topology = "routed"
subnet = ["10.31.0.0/16", "fd31::/48"]
vni = 4101

[networks.direct]
driver = "overlay"
topology = "direct"
subnet = "10.32.0.0/16"

[containers.near]
host = "host"
networks = ["wide", "round"]
sysctl = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0, "net.ipv6.conf.eth1.accept_dad" = 0 }

[containers.near-2]
host = "host"
networks = ["wide"]
ports = ["8300:80"]
sysctl = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.near-3]
host = "host"
networks = ["direct"]

[containers.away]
host = "far"
networks = ["wide"]

[containers.away-2]
host = "far"
networks = ["wide", "round", "direct"]
"#,
        second: r#"
[hosts.host]
id = 1
address = "192.0.2.2"

[hosts.far]
id = 2
address = "192.0.2.9"

[networks.wide]
driver = "overlay"
subnet = ["10.30.0.0/24", "fd30::/64"]
vni = 4102

[networks.round]
driver = "overlay"
topology = "direct"
subnet = "10.31.0.0/16"

[networks.direct]
driver = "overlay"
subnet = "10.32.0.0/16"
vni = 4103
mode = "routed"

[containers.near]
host = "host"
networks = ["wide", "round"]
sysctl = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0, "net.ipv6.conf.eth1.accept_dad" = 0 }

[containers.near-2]
host = "host"
networks = ["wide"]
ports = ["8301:80"]
sysctl = { "net.ipv6.conf.all.accept_dad" = 0, "net.ipv6.conf.eth0.accept_dad" = 0 }

[containers.near-3]
host = "host"
networks = ["direct"]

[containers.away]
host = "far"
networks.wide = { mac = "02:00:00:00:00:aa" }

[containers.away-2]
host = "far"
networks = ["direct"]
"#,
    },
];

/// Devices of which the second file sets `rp_filter` and the first says nothing, so that it stays: where there is more than one
/// network, answers may come in by another device. Each with the container that it is in, or none.
pub(crate) const STAYING: [(&str, &str); 3] = [("", "nr-apart"), ("paid-2", "eth0"), ("web", "eth0")];

/// The file before the change.
pub(crate) fn first() -> String {
    PARTS.iter().map(|part| part.first).collect()
}

/// The file after it.
pub(crate) fn second() -> String {
    PARTS.iter().map(|part| part.second).collect()
}

/// All that the files need of a host.
pub(crate) fn host() -> String {
    let lines: Vec<&str> = PARTS.iter().map(|part| part.host).filter(|lines| !lines.is_empty()).collect();
    lines.join("\n")
}
