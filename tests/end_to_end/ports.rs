//! Ports in ranges, with lists of who may use them, and by another network than the default route's; devices that are
//! trusted, and bridges of others.

use crate::lab::{self, Events, Lab, Listener, NoAnswer, Space};

/// Listens at ports of both families.
pub(crate) fn listen(space: &Space, tcp: &[u16], udp: &[u16]) -> Vec<Listener> {
    let name = space.name();
    let tcp = tcp.iter().map(|p| space.listen_tcp(name, &format!("[::]:{p}")));
    let udp = udp.iter().map(|p| space.listen_udp(name, &format!("[::]:{p}")));
    tcp.chain(udp).collect()
}

#[test]
fn ranges_keep_their_numbers_or_shift_them() {
    lab::in_lab(|lab| {
        let file = |ports: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[containers.web]\nnetworks = ['front']\n\
                 ports = [{ports}]\n"
            )
        };
        let done = lab.host.apply(&file("'8000-8009:8000-8009', '192.0.2.2:9000-9009:9000-9009', '7000-7003:70-73'"));
        let elements: Vec<_> = done.actions().into_iter().filter(|a| a.contains("element port")).collect();
        lab::assert_same(
            "a kept range is one element",
            &[
                "create element port4-any-range { tcp . 8000-8009 }",
                "create element port6-any-range { tcp . 8000-8009 }",
                "create element port4-range { 192.0.2.2 . tcp . 9000-9009 }",
                "create element port4-any { tcp . 7000 }",
                "create element port4-any { tcp . 7001 }",
                "create element port4-any { tcp . 7002 }",
                "create element port4-any { tcp . 7003 }",
                "create element port6-any { tcp . 7000 }",
                "create element port6-any { tcp . 7001 }",
                "create element port6-any { tcp . 7002 }",
                "create element port6-any { tcp . 7003 }",
            ],
            &elements,
        );
        drop(lab.host.settle());
        let web = lab.container("web");
        let _listeners = listen(&web, &[8000, 8009, 9000, 9001, 9009, 9010, 70, 73], &[8000]);
        lab.expect(
            "
            world tcp 192.0.2.1:8000       -> web sees 192.0.2.9
            world tcp 192.0.2.1:8009       -> web sees 192.0.2.9
            world tcp [2001:db8::1]:8009   -> web sees 2001:db8::9
            world udp 192.0.2.1:8000       -> refused
            world tcp 192.0.2.1:8010       -> refused
            world tcp 192.0.2.1:7999       -> refused
            world tcp 192.0.2.2:9000       -> web sees 192.0.2.9
            world tcp 192.0.2.2:9009       -> web sees 192.0.2.9
            world tcp 192.0.2.2:9010       -> refused
            world tcp 192.0.2.1:9000       -> refused
            world tcp 192.0.2.1:7000       -> web sees 192.0.2.9
            world tcp [2001:db8::1]:7003   -> web sees 2001:db8::9
            host  tcp 127.0.0.1:8009       -> web sees 10.20.0.1
            ",
        );
        // A range that grows and one that shrinks, in one transaction.
        let done = lab.host.apply(&file("'8000-8010:8000-8010', '192.0.2.2:9001-9009:9001-9009', '7000-7003:70-73'"));
        assert!(done.actions().contains(&"create element port4-any-range { tcp . 8000-8010 }".to_owned()));
        lab.expect(
            "
            world tcp 192.0.2.1:8009       -> web sees 192.0.2.9
            world tcp 192.0.2.2:9000       -> refused
            world tcp 192.0.2.2:9001       -> web sees 192.0.2.9
            ",
        );
        lab.host.apply(&file(""));
        assert!(!lab.host.run(["nft", "list", "table", "inet", "netrec"]).contains("range"), "nothing is left");
    });
}

#[test]
fn a_list_says_who_may_use_a_port() {
    lab::in_lab(|lab| {
        lab.world.add_address("w0", "192.0.2.10/24");
        lab.world.add_address("w0", "2001:db8::a/64");
        let allow = "allow = ['192.0.2.10/32', '10.20.0.0/28', '2001:db8::a']";
        let file = format!(
            "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
             [networks.direct]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\nmode = 'routed'\n\
             [containers.web]\nnetworks.front = {{ address = ['10.20.0.20', 'fd20::20'] }}\n\
             ports = [{{ host = 8080, container = 80, {allow} }}, {{ host = '9000-9001', container = '90-91', {allow} }},\n\
             {{ host = 8081, container = 80, allow = '192.0.2.10' }}, '8082:80']\n\
             [containers.near]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'] }}\n\
             [containers.far]\nnetworks.front = {{ address = ['10.20.0.30', 'fd20::30'] }}\n\
             [containers.open]\nnetworks.direct = {{ address = ['10.21.0.10', 'fd21::10'] }}\n\
             ports = [{{ host = 80, container = 80, {allow} }}]\n"
        );
        lab.host.apply(&file);
        drop(lab.host.settle());
        let _listeners = [
            listen(&lab.container("web"), &[80, 90, 91], &[]),
            listen(&lab.container("open"), &[80], &[]),
            vec![lab.host.listen_tcp("host", "[::]:8083")],
        ];
        let from = |source: &str, target: &str| {
            let (host, own) =
                if source.contains(':') { ("2001:db8::1", "fd00::/8") } else { ("192.0.2.1", "10.0.0.0/8") };
            lab.world.run(["ip", "route", "replace", host, "dev", "w0", "src", source]);
            lab.world.run(["ip", "route", "replace", own, "via", host, "src", source]);
            lab.world.tcp(target).map_or_else(|no| no.to_string(), |answer| answer.to_string())
        };
        for (source, target, outcome) in [
            ("192.0.2.10", "192.0.2.1:8080", "web sees 192.0.2.10"),
            ("192.0.2.9", "192.0.2.1:8080", "blocked"),
            ("192.0.2.10", "192.0.2.1:9001", "web sees 192.0.2.10"),
            ("192.0.2.9", "192.0.2.1:9001", "blocked"),
            ("192.0.2.9", "192.0.2.1:8082", "web sees 192.0.2.9"),
            ("192.0.2.10", "10.21.0.10:80", "open sees 192.0.2.10"),
            ("192.0.2.9", "10.21.0.10:80", "blocked"),
            ("2001:db8::a", "[2001:db8::1]:8080", "web sees 2001:db8::a"),
            ("2001:db8::9", "[2001:db8::1]:8080", "blocked"),
            ("2001:db8::a", "[fd21::10]:80", "open sees 2001:db8::a"),
            ("2001:db8::9", "[fd21::10]:80", "blocked"),
            // A list of IPv4 only lets nobody in by IPv6.
            ("192.0.2.10", "192.0.2.1:8081", "web sees 192.0.2.10"),
            ("2001:db8::a", "[2001:db8::1]:8081", "blocked"),
        ] {
            assert_eq!(from(source, target), outcome, "{source} to {target}");
        }
        lab.expect(
            "
            host tcp 192.0.2.1:8080        -> web sees 192.0.2.1    # the host itself passes
            host tcp 127.0.0.1:8081        -> web sees 10.20.0.1
            near tcp 192.0.2.1:8080        -> web sees 10.20.0.1    # on the list
            far  tcp 192.0.2.1:8080        -> blocked
            near tcp [2001:db8::1]:8080    -> blocked
            far  tcp 192.0.2.1:8082        -> web sees 10.20.0.1
            far  tcp 10.20.0.20:80         -> web sees 10.20.0.30   # the container's own address
            far  tcp 192.0.2.1:8083        -> host sees 10.20.0.30  # a service of the host's on another port
            ",
        );
        assert_eq!(lab.host.plan(&file).actions(), [""; 0]);
    });
}

/// A list is the host's firewall too: a service of the host's own on that port is hidden behind it.
#[test]
fn a_list_holds_for_the_hosts_own_service_on_that_port() {
    lab::in_lab(|lab| {
        lab.host.apply(
            "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nnetworks = ['front']\n\
             ports = [{ host = 8080, container = 80, allow = '192.0.2.77' }]\n",
        );
        drop(lab.host.settle());
        let _host = [lab.host.listen_tcp("host", "[::]:8080"), lab.host.listen_tcp("host", "[::]:8081")];
        lab.expect(
            "
            world tcp 192.0.2.1:8080       -> blocked
            world tcp 192.0.2.1:8081       -> host sees 192.0.2.9
            world tcp [2001:db8::1]:8080   -> host sees 2001:db8::9  # the container has no IPv6, so nothing is published
            ",
        );
    });
}

/// The answer leaves by the network of the default route, another than the question came by.
#[test]
fn a_port_may_lead_to_another_network_than_the_default_routes() {
    lab::in_lab(|lab| {
        for name in ["all", "default"] {
            lab.host.set_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
        }
        lab.host.apply(
            "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[networks.back]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\n\
             [containers.web]\nnetworks = ['front', 'back']\n\
             ports = [{ host = 8080, container = 80, network = 'back' }, '8081:80']\n",
        );
        drop(lab.host.settle());
        let web = lab.container("web");
        web.set_sysctl("net/ipv4/conf/all/rp_filter", "1");
        let _listeners = listen(&web, &[80], &[]);
        lab.expect(
            "
            world tcp 192.0.2.1:8080       -> web sees 192.0.2.9
            world tcp [2001:db8::1]:8080   -> web sees 2001:db8::9
            world tcp 192.0.2.1:8081       -> web sees 192.0.2.9
            ",
        );
        assert_eq!(web.sysctl("net/ipv4/conf/eth1/rp_filter"), "2");
        assert_eq!(lab.host.sysctl("net/ipv4/conf/nr-front/rp_filter"), "2");
    });
}

#[test]
fn a_trusted_device_is_let_in() {
    lab::in_lab(|lab| {
        let file = |trusted: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n{trusted}\n[networks.back]\nsubnet = '10.21.0.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'] }}\n\
                 [containers.db]\nnetworks.back = {{ address = '10.21.0.10' }}\n"
            )
        };
        lab.host.apply(&file("trusted = ['uplink', 'wg0']"));
        drop(lab.host.settle());
        let _listeners = [listen(&lab.container("web"), &[80], &[]), listen(&lab.container("db"), &[80], &[])];
        lab.expect(
            "
            world tcp  10.20.0.10:80        -> web sees 192.0.2.9
            world tcp  [fd20::10]:80        -> web sees 2001:db8::9
            world ping 10.20.0.10           -> answer
            world tcp  10.21.0.10:80        -> blocked              # a network that does not trust it
            ",
        );
        lab.host.apply(&file(""));
        lab.expect("world tcp 10.20.0.10:80 -> blocked");
    });
}

const ADOPTS: &str = "[networks.lan]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\nbridge = 'br0'\nadopt = true\n\
                      [containers.web]\nnetworks.lan = { address = ['10.20.0.10', 'fd20::10'] }\nports = ['8080:80']\n";

/// A bridge with an address, a parameter and a port of somebody else's.
fn foreign_bridge(lab: &Lab, address: &str) {
    lab.host.sh(&format!(
        "ip link add br0 type bridge; ip link set br0 mtu 1400 up; ip addr add {address} dev br0
         ip link add tap0 address 02:00:00:00:00:01 type veth peer name tap1; ip link set tap0 master br0 up; ip link set tap1 up"
    ));
    lab.host.set_sysctl("net/ipv6/conf/br0/accept_ra", "2");
}

#[test]
fn a_bridge_of_somebody_else_is_used_as_it_is() {
    lab::in_lab(|lab| {
        foreign_bridge(lab, "10.20.0.7/24");
        // What is of the whole host stays when netrec goes.
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lab.host.set_sysctl(path, "1");
        }
        drop(lab.host.settle());
        let before = lab::Snapshot::of_machine(&lab.host);
        // Its peers know the bridge by its Ethernet address, which is the lowest of its ports'.
        let mac =
            || lab.host.run(["ip", "-br", "link", "show", "dev", "br0"]).split_whitespace().nth(2).map(str::to_owned);
        let mac_before = mac();
        lab.host.apply(ADOPTS);
        drop(lab.host.settle());
        assert_eq!(mac(), mac_before);
        let _listeners = listen(&lab.container("web"), &[80], &[]);
        lab.expect(
            "
            world tcp  192.0.2.1:8080       -> web sees 192.0.2.9
            world tcp  [2001:db8::1]:8080   -> web sees 2001:db8::9
            web   tcp  192.0.2.1:8080       -> web sees 10.20.0.7   # its first address
            ",
        );
        let text = lab.host.run(["ip", "-o", "addr", "show", "dev", "br0", "scope", "global"]);
        assert_eq!(text.matches("10.20.0.7/24").count() + text.matches("10.20.0.1/24").count(), 2, "{text}");
        assert!(lab.container("web").run(["ip", "link", "show", "eth0"]).contains("mtu 1400"));
        assert_eq!(lab.host.sysctl("net/ipv6/conf/br0/accept_ra"), "2");
        // Nothing more to do, and nothing of others' is anybody's business.
        let events = Events::of(&lab.host);
        assert_eq!(lab.host.apply(ADOPTS).json["writes"], 0);
        events.quiet();
        // What is netrec's on it is put right, and goes.
        lab.host.sh("ip addr del 10.20.0.1/24 dev br0");
        assert_eq!(lab.host.apply(ADOPTS).actions(), ["create address 10.20.0.1/24 dev br0"]);
        lab.host.destroy(ADOPTS);
        drop(lab.host.settle());
        lab::assert_same("what is left", &[""], &[before.diff(&lab::Snapshot::of_machine(&lab.host))]);
    });
}

/// A bridge that does not promote secondary addresses, as is the kernel's default, drops all of a subnet with its first one.
#[test]
fn the_gateway_on_a_bridge_of_somebody_else_moves() {
    lab::in_lab(|lab| {
        foreign_bridge(lab, "10.99.0.7/24");
        for promotes in ["0", "1"] {
            lab.host.set_sysctl("net/ipv4/conf/all/promote_secondaries", "0");
            lab.host.set_sysctl("net/ipv4/conf/br0/promote_secondaries", promotes);
            lab.host.apply(ADOPTS);
            let moved = ADOPTS.replace("adopt = true", "adopt = true\ngateway = ['10.20.0.254', 'fd20::fe']");
            for (file, gateway) in
                [(moved.as_str(), "10.20.0.254"), (ADOPTS, "10.20.0.1"), (moved.as_str(), "10.20.0.254")]
            {
                lab.host.apply(file);
                assert_eq!(lab.host.plan(file).actions(), [""; 0], "{gateway}, promote_secondaries={promotes}");
                let addresses = lab.host.run(["ip", "-4", "-o", "addr", "show", "dev", "br0"]);
                let addresses: Vec<&str> =
                    addresses.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
                assert_eq!(addresses, ["10.99.0.7/24", &format!("{gateway}/24")], "promote_secondaries={promotes}");
            }
            drop(lab.host.settle());
            let _listener = lab.container("web").listen_tcp("web", "0.0.0.0:80");
            lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
            lab.host.destroy(ADOPTS);
        }
    });
}

/// A container on two networks knows a neighbour of the one who asks for its port on the other, and would answer it past the
/// host.
#[test]
fn a_port_is_reached_from_the_containers_other_network() {
    lab::in_lab(|lab| {
        for bridge_nf in ["0", "1"] {
            for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                lab.host.set_sysctl(&format!("net/bridge/{name}"), bridge_nf);
            }
            let file = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                        [networks.direct]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\nmode = 'routed'\n\
                        [containers.web]\nnetworks = ['front', 'direct']\nports = ['8080:80']\n\
                        [containers.near]\nnetworks = ['direct']\n";
            lab.host.apply(file);
            drop(lab.host.settle());
            let _listeners = listen(&lab.container("web"), &[80], &[]);
            lab.expect(
                "
                near tcp 192.0.2.1:8080        -> web sees 10.20.0.1
                near tcp [2001:db8::1]:8080    -> web sees fd20::1
                world tcp 192.0.2.1:8080       -> web sees 192.0.2.9
                ",
            );
            lab.host.destroy(file);
        }
    });
}

/// An address that is there already serves, and stays.
#[test]
fn an_address_of_somebody_else_serves_as_the_gateway() {
    lab::in_lab(|lab| {
        foreign_bridge(lab, "10.20.0.1/24");
        let done = lab.host.apply(ADOPTS);
        let addresses: Vec<_> = done.actions().into_iter().filter(|a| a.contains("dev br0")).collect();
        assert_eq!(addresses, ["create address fd20::1/64 dev br0"]);
        assert_eq!(lab.host.plan(ADOPTS).actions(), [""; 0]);
        lab.host.destroy(ADOPTS);
        assert!(lab.host.run(["ip", "addr", "show", "dev", "br0"]).contains("10.20.0.1/24"));
    });
}

#[test]
fn a_bridge_to_adopt_must_be_one_and_be_anothers() {
    lab::in_lab(|lab| {
        let refused = |file: &str, why: &str| {
            let output = lab.host.try_netrec(file, &["plan"]);
            assert_eq!(output.status, 1, "{}", output.stdout);
            assert!(output.stderr.contains(why), "{}", output.stderr);
            assert!(output.stderr.contains("netrec.toml:1) is to use the bridge `br0`, "), "{}", output.stderr);
        };
        refused(
            ADOPTS,
            "which this host does not have: create it first, leave out `adopt` to have netrec make it, or take the network out",
        );
        lab.host.sh("ip link add br0 type veth peer name other");
        refused(ADOPTS, "which is no bridge");
        lab.host.sh("ip link del br0");
        lab.host.apply(&ADOPTS.replace("adopt = true", ""));
        refused(ADOPTS, "which netrec made itself: leave out `adopt`");
    });
}

#[test]
fn what_this_host_lacks_is_warned_about() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = '10.20.0.0/24'\nsnat = '203.0.113.77'\ntrusted = ['uplink', 'wg0']\n\
                    [containers.web]\nnetworks = ['front']\nports = ['203.0.113.78:80:80']\n";
        let plan = lab.host.plan(file);
        let messages: Vec<_> = plan.json["warnings"].as_array().expect("warnings").iter().collect();
        let of = |code: &str| -> Vec<&str> {
            messages.iter().filter(|w| w["code"] == code).filter_map(|w| w["message"].as_str()).collect()
        };
        assert_eq!(of("device-missing"), ["networks.front trusts `wg0`, which is no device of this host"]);
        assert_eq!(
            of("address-missing"),
            [
                "containers.web.ports[0] is published on 203.0.113.78, which is no address of this host",
                "networks.front leaves by 203.0.113.77, which is no address of this host",
            ]
        );
    });
}

/// Bridged packets of one family pass the firewall and those of the other do not, which the network does not have; its
/// containers can give themselves addresses all the same.
#[test]
fn containers_that_are_kept_apart_are_so_by_a_family_of_their_own() {
    lab::in_lab(|lab| {
        for (name, value) in [("bridge-nf-call-iptables", "1"), ("bridge-nf-call-ip6tables", "0")] {
            lab.host.set_sysctl(&format!("net/bridge/{name}"), value);
        }
        lab.host.apply(
            "[networks.front]\nsubnet = '10.20.0.0/24'\nicc = false\n[containers.web]\nnetworks = ['front']\n\
             [containers.api]\nnetworks = ['front']\n",
        );
        for (name, address) in [("web", "fd99::1/64"), ("api", "fd99::2/64")] {
            lab.container(name).run(["ip", "addr", "add", address, "dev", "eth0", "nodad"]);
        }
        drop(lab.host.settle());
        let _listeners = listen(&lab.container("web"), &[80], &[]);
        let reply = lab.container("api").tcp("[fd99::1]:80");
        assert!(matches!(reply, Err(NoAnswer::Blocked | NoAnswer::Unreachable(_))), "{reply:?}");
    });
}
