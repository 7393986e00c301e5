//! What bridge networks do, overlay networks do too.

use super::cluster::hosts;
use super::{in_cluster, wide};

#[test]
fn a_held_vni_is_told_in_the_kernels_words() {
    in_cluster(2, |cluster| {
        let host = &cluster.hosts[0];
        host.sh("ip link add theirs type vxlan id 4100 dstport 4789 local 192.0.2.1 && ip netns add far && ip link set theirs netns far");
        let file = format!("{}{}", hosts(2, false), wide("switched"));
        let applied = host.try_netrec(&file, &["apply", "-y"]);
        assert_eq!(applied.status, 4, "{}", applied.stderr);
        assert_eq!(
            applied.stderr,
            "error: create link vx-wide in host: File exists (kernel: A VXLAN device with the specified VNI already exists)\n\
             what had been done was taken back: the host is as it was before\n"
        );
    });
}

#[test]
fn ports_modes_and_walls_are_those_of_a_bridge() {
    in_cluster(2, |cluster| {
        for topology in ["switched", "routed", "direct"] {
            let file = format!(
                "{}{}[networks.inner]\ndriver = \"overlay\"\ntopology = \"{topology}\"\n{}subnet = [\"10.31.0.0/16\", \
                 \"fd31::/48\"]\ninternal = true\n\
                 [networks.local]\nsubnet = \"10.32.0.0/24\"\n\
                 [containers.a1]\nhost = \"a\"\nnetworks.wide = {{ address = [\"10.30.1.11\", \"fd30:0:0:1::11\"] }}\n\
                 networks.inner = {{ address = [\"10.31.1.11\", \"fd31:0:0:1::11\"] }}\nports = [\"8080:80\", \"127.0.0.1:8081:80\"]\n\
                 [containers.b1]\nhost = \"b\"\nnetworks.wide = {{ address = [\"10.30.2.11\", \"fd30:0:0:2::11\"] }}\nports = [\"8080:80\"]\n\
                 [containers.b2]\nhost = \"b\"\nnetworks.inner = {{ address = [\"10.31.2.12\", \"fd31:0:0:2::12\"] }}\n\
                 [containers.b3]\nhost = \"b\"\nnetworks.local = {{ address = \"10.32.0.13\" }}\n",
                hosts(2, false),
                wide(topology),
                if topology == "direct" { "" } else { "vni = 4101\n" },
            );
            cluster.apply(&file);
            assert_eq!(cluster.plans(&file), [[""; 0]; 2]);
            let _listening = cluster.listen(&["a1", "b1", "b2", "b3", "world"]);
            let own =
                "ip -4 -o addr show dev nr-wide scope global | awk '$4 !~ /\\/32$/ {split($4, a, \"/\"); print a[1]}'";
            let gateway = cluster.hosts[0].sh(own);
            cluster.world.sh("ip route replace 10.30.2.0/24 via 192.0.2.2; ip route replace 10.31.2.0/24 via 192.0.2.2; ip -6 route replace fd30:0:0:2::/64 via 2001:db8::2");
            cluster.expect(
                "
                # ports, on the container's own host
                world tcp 192.0.2.1:8080 -> a1 sees 192.0.2.99
                world tcp [2001:db8::2]:8080 -> b1 sees 2001:db8::99
                world tcp 192.0.2.1:8081 -> refused
                b1 tcp 192.0.2.1:8080 -> a1 sees 192.0.2.2
                a tcp 127.0.0.1:8081 -> a1 sees GATEWAY
                a1 tcp 192.0.2.2:8080 -> b1 sees 192.0.2.1
                # between hosts, both families, the source kept
                a1 tcp 10.30.2.11:80 -> b1 sees 10.30.1.11
                b1 tcp [fd30:0:0:1::11]:80 -> a1 sees fd30:0:0:2::11
                # to the world by the own host's address
                a1 tcp 192.0.2.99:80 -> world sees 192.0.2.1
                b1 tcp [2001:db8::99]:80 -> world sees 2001:db8::2
                # an internal network: its own only
                a1 tcp 10.31.2.12:80 -> b2 sees 10.31.1.11
                a1 tcp [fd31:0:0:2::12]:80 -> b2 sees fd31:0:0:1::11
                b2 tcp 10.31.1.11:80 -> a1 sees 10.31.2.12
                b2 tcp 192.0.2.99:80 -> NOWHERE
                world tcp 10.31.2.12:80 -> blocked
                # walls
                b1 tcp 10.31.2.12:80 -> blocked
                b3 tcp 10.30.2.11:80 -> blocked
                b3 tcp 10.30.1.11:80 -> blocked
                world tcp 10.30.2.11:80 -> blocked
                world tcp [fd30:0:0:2::11]:80 -> blocked
                a1 tcp 10.32.0.13:80 -> blocked
                "
                .replace("GATEWAY", gateway.trim())
                .replace("NOWHERE", "unreachable (Network is unreachable)")
                .as_str(),
            );
            for host in &cluster.hosts {
                host.destroy(&file);
            }
        }
    });
}

#[test]
fn segments_fit_through_a_tunnel() {
    in_cluster(2, |cluster| {
        cluster.world.sh("ip route add 10.30.0.0/16 via 192.0.2.1; ip -6 route add fd30::/48 via 2001:db8::1");
        for (clamp, sizes) in [("true", [1410, 1390]), ("false", [1460, 1440])] {
            let file = format!(
                "{}{}mss_clamp = {clamp}\nmode = \"routed\"\n[containers.b1]\nhost = \"b\"\n\
                 networks.wide = {{ address = [\"10.30.2.11\", \"fd30:0:0:2::11\"] }}\nports = [\"80:80\"]\n",
                hosts(2, false),
                wide("switched"),
            );
            cluster.apply(&file);
            let container = cluster.space("b1");
            let _listening = cluster.listen(&["b1"]);
            container.sh(&format!(
                "nft 'table inet seen {{ counter small {{ }}; counter other {{ }}; chain in {{ type filter hook input priority 0; \
                 tcp flags syn tcp option maxseg size {{ {}, {} }} counter name small accept; tcp flags syn counter name other; }}; }}'",
                sizes[0], sizes[1]
            ));
            // By way of the other host, since the world takes it for the router; the answer comes straight.
            cluster.expect(
                "world tcp 10.30.2.11:80 -> b1 sees 192.0.2.99\nworld tcp [fd30:0:0:2::11]:80 -> b1 sees 2001:db8::99",
            );
            let counted = container.sh("nft list counters table inet seen | grep packets | awk '{print $2}'");
            assert_eq!(counted.split_whitespace().collect::<Vec<_>>(), ["2", "0"], "mss_clamp = {clamp}");
            for host in &cluster.hosts {
                host.destroy(&file);
            }
        }
    });
}

#[test]
fn a_tunnel_bound_to_a_device_goes_and_comes_with_it() {
    in_cluster(2, |cluster| {
        let file = format!(
            "{}{}underlay = \"eth0\"\n[containers.a1]\nhost = \"a\"\nnetworks = [\"wide\"]\n[containers.b1]\nhost = \"b\"\n\
             networks.wide = {{ address = [\"10.30.2.11\", \"fd30:0:0:2::11\"], mac = \"02:00:00:00:00:b1\" }}\n",
            hosts(2, false),
            wide("switched"),
        );
        cluster.apply(&file);
        cluster.expect("a1 ping 10.30.2.11 -> answer");
        let host = &cluster.hosts[0];
        host.sh("ip link del eth0");
        let away = host.try_netrec(&file, &["plan"]);
        assert_eq!((away.status, away.stdout.as_str()), (1, ""));
        assert_eq!(
            away.stderr,
            "error: network `wide` (/run/lab/netrec.toml:7) runs over `eth0`, which is no device of this host: bring it up \
             first, or leave out `underlay` to follow the routes\n"
        );
        cluster.plug_in(host, 1);
        let mut planned = host.plan(&file).actions();
        planned.sort();
        let mut missing = vec!["create link vx-wide".to_owned()];
        for mac in ["02:00:00:00:00:b1", "02:b3:20:80:17:e2"] {
            missing.extend(["nr-wide", "vx-wide"].map(|device| format!("create fdb {mac} dev {device}")));
        }
        missing.sort();
        assert_eq!(planned, missing);
        host.apply(&file);
        assert_eq!(host.plan(&file).actions(), [""; 0]);
        cluster.expect("a1 ping 10.30.2.11 -> answer\na1 ping fd30:0:0:2::11 -> answer");
    });
}

#[test]
fn hosts_out_of_reach_are_told() {
    in_cluster(2, |cluster| {
        let host = &cluster.hosts[0];
        let far = |topology| format!("{}{}", hosts(2, false).replace("192.0.2.2", "198.51.100.2"), wide(topology));
        let planned = host.plan(&far("switched"));
        assert_eq!(planned.warnings(), ["forwarding-enabled", "forwarding-enabled", "peer-unreachable"]);
        let told = planned.json["warnings"][2]["message"].as_str().unwrap().to_owned();
        assert_eq!(told, "this host has no route to hosts.b at 198.51.100.2");
        // Behind a router there is no shared link.
        host.sh("ip route add 198.51.100.0/24 via 192.0.2.99");
        let refused = host.try_netrec(&far("direct"), &["plan"]);
        assert_eq!(refused.status, 1);
        assert_eq!(
            refused.stderr,
            "error: network `wide` (/run/lab/netrec.toml:7) is `direct`, but host `b` is on no link of this host: 198.51.100.2 \
             is reached by 192.0.2.99; use the topology `routed`, which goes through a tunnel\n"
        );
        // A tunnel goes through routers.
        assert_eq!(host.plan(&far("routed")).warnings(), ["forwarding-enabled", "forwarding-enabled"]);
        let large = host.plan(&format!("{}{}mtu = 1500\n", hosts(2, false), wide("switched")));
        let told = large.json["warnings"].as_array().unwrap().last().unwrap()["message"].as_str().unwrap().to_owned();
        assert_eq!(told, "networks.wide has an MTU of 1500, of which 1450 fit between the hosts");
        let stranger = hosts(2, false).replace("192.0.2.1", "192.0.2.77");
        let planned = host.plan(&format!("{stranger}{}", wide("switched")));
        let told = planned.json["warnings"].as_array().unwrap().last().unwrap()["message"].as_str().unwrap().to_owned();
        assert_eq!(told, "hosts.a is this host, but 192.0.2.77 is no address of it");
    });
}

#[test]
fn addresses_that_two_would_have_are_refused() {
    in_cluster(2, |cluster| {
        let file = format!(
            "{}{}[containers.b1]\nhost = \"a\"\nnetworks.wide = {{ mac = \"02:b3:20:80:17:e2\" }}\n",
            hosts(2, false),
            wide("switched")
        );
        let refused = cluster.hosts[0].try_netrec(&file, &["validate"]);
        assert_eq!(refused.status, 3);
        let first = "error: the MAC address `02:b3:20:80:17:e2` is on network `wide` twice: the bridge of host `b` and container `b1`\n";
        assert!(refused.stderr.starts_with(first), "{}", refused.stderr);
    });
}

#[test]
fn devices_between_hosts_that_are_too_narrow_for_ipv6_are_told() {
    in_cluster(2, |cluster| {
        let host = &cluster.hosts[0];
        host.sh("ip link set eth0 mtu 1300");
        let refused = host.try_netrec(&format!("{}{}", hosts(2, false), wide("switched")), &["plan"]);
        assert_eq!((refused.status, refused.stdout.as_str()), (1, ""));
        assert_eq!(
            refused.stderr,
            "error: network `wide` (/run/lab/netrec.toml:7) would have an MTU of 1250, and IPv6 needs 1280: the devices between \
             the hosts are too narrow for it\n"
        );
    });
}
