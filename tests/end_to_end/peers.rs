//! What the tests of other engines ask for and the rest of these do not; docs/peers.md has the list. The names there are
//! theirs, the outcomes here are netrec's.

use std::collections::BTreeMap;
use std::thread;

use crate::changes::veth;
use crate::lab::{self, Snapshot, Space, assert_same, until};
use crate::ports::listen;
use crate::traffic::{route_loopback, set_bridge_nf};

/// One network of both families with `web` on it, and these ports.
fn shop(ports: &str) -> String {
    format!(
        "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
         [containers.web]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'] }}\nports = [{ports}]\n"
    )
}

/// A second container on the network of [`shop`].
const API: &str = "[containers.api]\nnetworks.front = { address = ['10.20.0.11', 'fd20::11'] }\n";

fn link_local(space: &Space, device: &str) -> String {
    let text = space.run(["ip", "-o", "-6", "addr", "show", "dev", device, "scope", "link"]);
    let address = text.split_whitespace().skip_while(|w| *w != "inet6").nth(1).expect("a link-local address");
    address.split('/').next().unwrap_or_default().to_owned()
}

/// The answer in words.
fn who(reply: lab::Reply) -> String {
    reply.map_or_else(|no| no.to_string(), |answer| answer.to_string())
}

// Containers of one network, and of networks that are closed.

#[test]
fn neighbours_ping_each_other_by_link_local_addresses_unless_kept_apart() {
    lab::in_lab(|lab| {
        let file = format!(
            "{}{API}[networks.quiet]\nsubnet = ['10.22.0.0/24', 'fd22::/64']\nicc = false\n\
             [containers.one]\nnetworks = ['quiet']\n[containers.two]\nnetworks = ['quiet']\n",
            shop("")
        );
        for nf in ["0", "1"] {
            set_bridge_nf(lab, nf);
            lab.host.apply(&file);
            drop(lab.host.settle());
            let of = |name: &str| link_local(&lab.container(name), "eth0");
            lab.expect(&format!(
                "api ping {}%eth0 -> answer\nweb ping {}%eth0 -> answer\none ping {}%eth0 -> blocked",
                of("web"),
                of("api"),
                of("two")
            ));
        }
    });
}

#[test]
fn an_internal_container_has_no_route_to_the_world_and_reaches_the_gateway() {
    lab::in_lab(|lab| {
        let file = "[networks.shut]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\ninternal = true\n\
                    [containers.web]\nnetworks = ['shut']\n";
        lab.host.apply(file);
        drop(lab.host.settle());
        let web = lab.container("web");
        for family in ["-4", "-6"] {
            assert_eq!(web.run(["ip", family, "route", "show", "default"]), "");
        }
        lab.expect(
            "
            web ping 10.20.0.1              -> answer
            web ping fd20::1                -> answer
            web ping 192.0.2.9              -> unreachable (Network is unreachable)
            web ping 2001:db8::9            -> unreachable (Network is unreachable)
            web tcp  192.0.2.9:443          -> unreachable (Network is unreachable)
            web udp  [2001:db8::9]:53       -> unreachable (Network is unreachable)
            ",
        );
    });
}

#[test]
fn the_bridge_of_an_isolated_network_has_no_address_at_all() {
    lab::in_lab(|lab| {
        lab.host.apply(
            "[networks.lone]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\nmode = 'isolated'\n[containers.web]\nnetworks = ['lone']\n",
        );
        drop(lab.host.settle());
        assert_eq!(lab.host.run(["ip", "-o", "addr", "show", "dev", "nr-lone"]), "");
    });
}

/// The first network of the file is eth0, and the first that leads out gives the default route.
#[test]
fn interfaces_and_default_routes_follow_the_order_of_the_file() {
    lab::in_lab(|lab| {
        let file = |order: &str| {
            format!(
                "[networks.shut]\nsubnet = '10.19.0.0/24'\ninternal = true\n[networks.front]\nsubnet = '10.20.0.0/24'\n\
                 [networks.back]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\n[containers.web]\nnetworks = [{order}]\nports = ['8080:80']\n"
            )
        };
        let subnets = [("shut", "10.19.0"), ("front", "10.20.0"), ("back", "10.21.0")];
        for (order, ipv4, ipv6) in [
            (["shut", "front", "back"], "eth1", "eth2"),
            (["back", "front", "shut"], "eth0", "eth0"),
            (["front", "shut", "back"], "eth0", "eth2"),
        ] {
            lab.host.apply(&file(&order.map(|name| format!("'{name}'")).join(", ")));
            drop(lab.host.settle());
            let web = lab.container("web");
            for (index, name) in order.iter().enumerate() {
                let subnet = subnets.iter().find(|(n, _)| n == name).expect("its subnet").1;
                let text = web.run(["ip", "-o", "-4", "addr", "show", "dev", &format!("eth{index}")]);
                assert!(text.contains(&format!("inet {subnet}.")), "{order:?}: {text}");
            }
            for (family, device) in [("-4", ipv4), ("-6", ipv6)] {
                let text = web.run(["ip", family, "route", "show", "default"]);
                assert!(text.contains(&format!("dev {device} ")) && text.lines().count() == 1, "{order:?}: {text}");
            }
            let _web = listen(&web, &[80], &[]);
            lab.expect(
                "world tcp 192.0.2.1:8080 -> web sees 192.0.2.9\nworld tcp [2001:db8::1]:8080 -> web sees 2001:db8::9",
            );
        }
    });
}

// Host addresses of published ports.

#[test]
fn one_port_on_two_loopback_addresses_leads_to_two_containers() {
    lab::in_lab(|lab| {
        let file = format!("{}{API}ports = ['127.0.1.3:5000:80']\n", shop("'127.0.1.2:5000:80'"));
        lab.host.apply(&file);
        drop(lab.host.settle());
        let _listeners = ["web", "api"].map(|name| listen(&lab.container(name), &[80], &[]));
        lab.expect(
            "
            host  tcp 127.0.1.2:5000        -> web sees 10.20.0.1
            host  tcp 127.0.1.3:5000        -> api sees 10.20.0.1
            host  tcp 127.0.0.1:5000        -> refused
            host  tcp 192.0.2.1:5000        -> refused
            world tcp 192.0.2.1:5000        -> refused
            ",
        );
    });
}

/// `route_localnet` would let a packet for 127/8 in from everywhere; netrec's guard does not.
#[test]
fn a_port_of_127_0_0_2_is_closed_to_neighbours_that_route_there() {
    lab::in_lab(|lab| {
        let file = format!("{}{API}", shop("'127.0.0.2:5000:80', '127.0.0.2:5000:80/udp'"));
        lab.host.apply(&file);
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[80]);
        route_loopback(&lab.world, "w0", "192.0.2.1");
        route_loopback(&lab.container("api"), "eth0", "10.20.0.1");
        lab.host.set_sysctl("net/ipv4/conf/uplink/route_localnet", "1");
        lab.expect(
            "
            world tcp 127.0.0.2:5000        -> blocked
            world udp 127.0.0.2:5000        -> blocked
            api   tcp 127.0.0.2:5000        -> blocked
            api   udp 127.0.0.2:5000        -> blocked
            host  tcp 127.0.0.2:5000        -> web sees 10.20.0.1
            host  udp 127.0.0.2:5000        -> web sees 10.20.0.1
            ",
        );
    });
}

#[test]
fn wildcard_addresses_on_networks_of_one_family_and_of_both() {
    lab::in_lab(|lab| {
        lab.host.apply(
            "[networks.four]\nsubnet = '10.20.0.0/24'\n[networks.six]\nsubnet = 'fd21::/64'\n\
             [networks.both]\nsubnet = ['10.22.0.0/24', 'fd22::/64']\n\
             [containers.four]\nnetworks = ['four']\nports = ['0.0.0.0:8004:80', '8014:80']\n\
             [containers.six]\nnetworks = ['six']\nports = ['[::]:8006:80', '8016:80']\n\
             [containers.both]\nnetworks = ['both']\nports = ['0.0.0.0:8024:80', '[::]:8026:80', '8020:80']\n",
        );
        drop(lab.host.settle());
        let _listeners = ["four", "six", "both"].map(|name| listen(&lab.container(name), &[80], &[]));
        let wanted = BTreeMap::from([
            (8004, ["four", ""]),
            (8014, ["four", ""]),
            (8006, ["", "six"]),
            (8016, ["", "six"]),
            (8024, ["both", ""]),
            (8026, ["", "both"]),
            (8020, ["both", "both"]),
        ]);
        let mut table = String::new();
        for (port, names) in wanted {
            for (index, hosts, seen) in
                [(0, ["192.0.2.1", "192.0.2.2"], "192.0.2.9"), (1, ["[2001:db8::1]", "[2001:db8::2]"], "2001:db8::9")]
            {
                for host in hosts {
                    let outcome = match names[index] {
                        "" => "refused".to_owned(),
                        name => format!("{name} sees {seen}"),
                    };
                    table += &format!("world tcp {host}:{port} -> {outcome}\n");
                }
            }
        }
        lab.expect(&table);
    });
}

#[test]
fn a_host_address_that_is_missing_is_warned_about_and_serves_when_it_comes() {
    lab::in_lab(|lab| {
        let file = shop("'192.0.2.3:8080:80', '[2001:db8::3]:8080:80', '192.0.2.2:8081:80'");
        let done = lab.host.apply(&file);
        let said: Vec<_> = done.json["warnings"].as_array().expect("warnings").iter().collect();
        let missing: Vec<_> = said.iter().filter(|w| w["code"] == "address-missing").collect();
        assert_eq!(missing.len(), 2, "{said:?}");
        for (warning, (port, address)) in missing.iter().zip([(0, "192.0.2.3"), (1, "2001:db8::3")]) {
            let owner = format!("containers.web.ports[{port}]");
            let message = format!("{owner} is published on {address}, which is no address of this host");
            assert_eq!((&warning["owner"], &warning["message"]), (&owner.into(), &message.into()));
        }
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[]);
        lab.expect("world tcp 192.0.2.2:8081 -> web sees 192.0.2.9");
        for net in ["192.0.2.3/24", "2001:db8::3/64"] {
            lab.host.add_address("uplink", net);
        }
        lab.expect(
            "world tcp 192.0.2.3:8080 -> web sees 192.0.2.9\nworld tcp [2001:db8::3]:8080 -> web sees 2001:db8::9",
        );
        let plan = lab.host.plan(&file);
        assert_eq!((plan.actions(), plan.warnings()), (vec![], vec![]));
    });
}

/// A service of the host's own on a published port: the port leads to the container, by the addresses it is published on.
#[test]
fn a_published_port_goes_before_a_service_of_the_host() {
    lab::in_lab(|lab| {
        let _host = [lab.host.listen_tcp("host", "[::]:8080"), lab.host.listen_udp("host", "192.0.2.2:8080")];
        lab.host.apply(&shop("'192.0.2.2:8080:80', '192.0.2.2:8080:80/udp'"));
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[80]);
        lab.expect(
            "
            world tcp 192.0.2.2:8080        -> web sees 192.0.2.9
            world udp 192.0.2.2:8080        -> web sees 192.0.2.9
            world tcp 192.0.2.1:8080        -> host sees 192.0.2.9
            world tcp [2001:db8::1]:8080    -> host sees 2001:db8::9
            ",
        );
        lab.host.apply(&shop(""));
        lab.expect("world tcp 192.0.2.2:8080 -> host sees 192.0.2.9\nworld udp 192.0.2.2:8080 -> host sees 192.0.2.9");
    });
}

// Ranges, protocols, and how many.

#[test]
fn a_range_of_every_protocol_kept_and_shifted() {
    lab::in_lab(|lab| {
        let ports = ["tcp", "udp", "sctp"]
            .map(|protocol| format!("'8000-8002:8000-8002/{protocol}', '7000-7002:70-72/{protocol}'"));
        lab.host.apply(&shop(&ports.join(", ")));
        drop(lab.host.settle());
        let web = lab.container("web");
        let inner = [8000, 8001, 8002, 70, 71, 72];
        let _listeners = listen(&web, &inner, &inner);
        let _sctp: Vec<_> = inner.iter().flat_map(|port| web.listen_sctp("web", *port)).collect();
        let mut table = String::new();
        for (host, seen) in [("192.0.2.1", "192.0.2.9"), ("[2001:db8::2]", "2001:db8::9")] {
            for protocol in ["tcp", "udp", "sctp"] {
                for port in [8000, 8001, 8002, 7000, 7001, 7002] {
                    table += &format!("world {protocol} {host}:{port} -> web sees {seen}\n");
                }
            }
            for port in [6999, 7003, 7999, 8003, 70] {
                table += &format!("world tcp {host}:{port} -> refused\nworld udp {host}:{port} -> refused\n");
            }
        }
        lab.expect(&table);
    });
}

#[test]
fn one_port_of_two_protocols_goes_one_protocol_at_a_time() {
    lab::in_lab(|lab| {
        lab.host.apply(&shop("'8080:80', '8080:80/udp'"));
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[80]);
        let done = lab.host.apply(&shop("'8080:80/udp'"));
        let gone = ["delete element port4-any { tcp . 8080 }", "delete element port6-any { tcp . 8080 }"];
        assert_same("tcp goes", &gone, &done.actions());
        lab.expect(
            "
            world tcp 192.0.2.1:8080        -> refused
            world tcp [2001:db8::1]:8080    -> refused
            world udp 192.0.2.1:8080        -> web sees 192.0.2.9
            world udp [2001:db8::1]:8080    -> web sees 2001:db8::9
            ",
        );
        lab.host.apply(&shop(""));
        lab.expect("world udp 192.0.2.1:8080 -> refused\nworld udp [2001:db8::1]:8080 -> refused");
    });
}

#[test]
fn one_port_of_two_host_addresses_goes_one_address_at_a_time() {
    lab::in_lab(|lab| {
        lab.host.apply(&shop("'192.0.2.1:8080:80', '192.0.2.2:8080:80'"));
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[]);
        let done = lab.host.apply(&shop("'192.0.2.2:8080:80'"));
        assert_eq!(
            done.actions(),
            ["delete element port4 { 192.0.2.1 . tcp . 8080 }"],
            "the owner of the one that stays has another number, which is no change"
        );
        lab.expect("world tcp 192.0.2.1:8080 -> refused\nworld tcp 192.0.2.2:8080 -> web sees 192.0.2.9");
        lab.host.apply(&shop(""));
        lab.expect("world tcp 192.0.2.2:8080 -> refused");
    });
}

#[test]
fn a_thousand_ports_in_one_range() {
    lab::in_lab(|lab| {
        let elements = |done: &lab::Done| done.actions().iter().filter(|a| a.contains("element port")).count();
        let kept = lab.host.apply(&shop("'30000-30999:30000-30999'"));
        assert_eq!(elements(&kept), 2, "one of each family");
        drop(lab.host.settle());
        let web = lab.container("web");
        let _listeners = listen(&web, &[30_000, 30_500, 30_999, 20_000, 20_500, 20_999], &[]);
        let tries = "
            world tcp 192.0.2.1:29999       -> refused
            world tcp 192.0.2.1:30000       -> web sees 192.0.2.9
            world tcp [2001:db8::1]:30500   -> web sees 2001:db8::9
            world tcp 192.0.2.1:30999       -> web sees 192.0.2.9
            world tcp 192.0.2.1:31000       -> refused
            ";
        lab.expect(tries);
        let shifted = lab.host.apply(&shop("'30000-30999:20000-20999'"));
        assert_eq!(elements(&shifted), 2 + 2000, "one of each port and family comes, and the two go");
        lab.expect(tries);
        assert_eq!(lab.host.plan(&shop("'30000-30999:20000-20999'")).actions(), [""; 0]);
        let done = lab.host.apply(&shop(""));
        assert_eq!(elements(&done), 2000);
        lab.expect("world tcp 192.0.2.1:30500 -> refused");
    });
}

#[test]
fn two_hundred_containers_come_answer_and_go() {
    lab::in_lab(|lab| {
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lab.host.set_sysctl(path, "1");
        }
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        let mut file = "[networks.front]\nsubnet = ['10.20.0.0/16', 'fd20::/64']\n".to_owned();
        for n in 0..200 {
            file += &format!("[containers.c{n:03}]\nnetworks = ['front']\nports = ['{}:80']\n", 10_000 + n);
        }
        lab.host.apply(&file);
        assert_eq!(lab.host.netns_names().len(), 200);
        let _listeners: Vec<_> = (0..200)
            .map(|n| {
                let name = format!("c{n:03}");
                lab.container(&name).listen_tcp(&name, "[::]:80")
            })
            .collect();
        let sees = |n: u32, host: &str, seen: &str| format!("world tcp {host}:{} -> c{n:03} sees {seen}\n", 10_000 + n);
        lab.expect(&(0..200).map(|n| sees(n, "192.0.2.1", "192.0.2.9")).collect::<String>());
        until("addresses are found to be free", || {
            lab.host.plan(&file).actions().is_empty() && who(lab.world.tcp("[2001:db8::1]:10199")).starts_with("c199")
        });
        assert_eq!(lab.host.apply(&file).json["writes"], 0);
        lab.host.destroy(&file);
        drop(lab.host.settle());
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
    });
}

// Sources.

#[test]
fn a_source_address_of_both_families_instead_of_masquerade() {
    lab::in_lab(|lab| {
        let file = |snat: &str| shop("'8080:80'").replace("[containers", &format!("{snat}\n[containers"));
        lab.host.apply(&file("snat = ['192.0.2.2', '2001:db8::2']"));
        drop(lab.host.settle());
        let chain = || lab.host.run(["nft", "list", "chain", "inet", "netrec", "nat-from.front"]);
        let text = chain();
        for rule in ["snat ip to 192.0.2.2", "snat ip6 to 2001:db8::2"] {
            assert!(text.contains(&format!("oifname != \"nr-front\" {rule}\n")), "{text}");
        }
        assert!(!text.contains("masquerade"), "{text}");
        let _listeners = [listen(&lab.world, &[443], &[53]), listen(&lab.container("web"), &[80], &[])];
        lab.expect(
            "
            web   tcp  192.0.2.9:443        -> world sees 192.0.2.2
            web   tcp  [2001:db8::9]:443    -> world sees 2001:db8::2
            web   udp  192.0.2.9:53         -> world sees 192.0.2.2
            web   udp  [2001:db8::9]:53     -> world sees 2001:db8::2
            web   ping 192.0.2.9            -> answer
            web   ping 2001:db8::9          -> answer
            web   tcp  192.0.2.1:8080       -> web sees 10.20.0.1
            world tcp  192.0.2.1:8080       -> web sees 192.0.2.9
            ",
        );
        let mut old = ["192.0.2.9:443", "[2001:db8::9]:443"].map(|to| lab.container("web").connect(to).expect("it"));
        assert_eq!(lab.host.apply(&file("")).actions(), ["update chain nat-from.front"]);
        lab.expect(
            "web tcp 192.0.2.9:443 -> world sees 192.0.2.1\nweb tcp [2001:db8::9]:443 -> world sees 2001:db8::1",
        );
        for connection in &mut old {
            assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        }
    });
}

/// Strict reverse-path filtering everywhere, two networks, and a host address on a device of its own.
#[test]
fn two_networks_with_strict_reverse_path_filtering_and_a_third_host_address() {
    lab::in_lab(|lab| {
        for name in ["all", "default", "uplink", "lo"] {
            lab.host.set_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
        }
        lab.host.add_address("lo", "198.51.100.3/32");
        lab.world.run(["ip", "route", "add", "198.51.100.3", "via", "192.0.2.1"]);
        let file = "[networks.front]\nsubnet = '10.20.0.0/24'\n[networks.back]\nsubnet = '10.21.0.0/24'\n\
                    [containers.web]\nnetworks = ['front', 'back']\n\
                    ports = ['8080:80', { host = 8081, container = 80, network = 'back' }]\n\
                    [containers.far]\nnetworks = ['back']\n";
        lab.host.apply(file);
        drop(lab.host.settle());
        for name in ["web", "far"] {
            lab.container(name).set_sysctl("net/ipv4/conf/all/rp_filter", "1");
        }
        let _web = listen(&lab.container("web"), &[80], &[]);
        lab.expect(
            "
            world tcp 198.51.100.3:8080     -> web sees 192.0.2.9
            world tcp 198.51.100.3:8081     -> web sees 192.0.2.9
            world tcp 192.0.2.1:8080        -> web sees 192.0.2.9
            far   tcp 198.51.100.3:8080     -> web sees 10.20.0.1
            far   tcp 198.51.100.3:8081     -> web sees 10.21.0.1
            host  tcp 127.0.0.1:8080        -> web sees 10.20.0.1
            host  tcp 198.51.100.3:8081     -> web sees 198.51.100.3
            ",
        );
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
    });
}

/// A routed network that does not give the default route: the answer leaves by the other one, with its own source.
#[test]
fn a_published_port_of_a_routed_network_that_is_not_the_default_route() {
    lab::in_lab(|lab| {
        lab.host.apply(
            "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
             [networks.direct]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\nmode = 'routed'\n\
             [containers.web]\nnetworks.front = { address = ['10.20.0.10', 'fd20::10'] }\n\
             networks.direct = { address = ['10.21.0.10', 'fd21::10'] }\n\
             ports = ['8080:80', { host = 81, container = 81, network = 'direct' }]\n",
        );
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80, 81], &[]);
        lab.expect(
            "
            world tcp  10.21.0.10:81        -> web sees 192.0.2.9
            world tcp  [fd21::10]:81        -> web sees 2001:db8::9
            world tcp  10.21.0.10:80        -> blocked
            world tcp  [fd21::10]:80        -> blocked
            world tcp  10.20.0.10:80        -> blocked
            world ping 10.21.0.10           -> answer
            world tcp  192.0.2.1:8080       -> web sees 192.0.2.9
            world tcp  [2001:db8::1]:8080   -> web sees 2001:db8::9
            ",
        );
    });
}

// Other firewalls on the host.

/// From a network behind the host's address to a routed one, and back, where iptables' own FORWARD lets it pass or not.
#[test]
fn nat_to_routed_and_back_with_either_policy_of_iptables() {
    const OPEN: &str = "
        one ping 10.21.0.10           -> answer
        one ping fd21::10             -> answer
        one tcp  10.21.0.10:80        -> two sees 10.21.0.1
        one tcp  [fd21::10]:80        -> two sees fd21::1
        one tcp  10.21.0.10:81        -> blocked
        one tcp  [fd21::10]:81        -> blocked
        two ping 10.20.0.10           -> blocked
        two ping fd20::10             -> blocked
        two tcp  10.20.0.10:80        -> blocked
        two tcp  [fd20::10]:80        -> blocked
        ";
    lab::in_lab(|lab| {
        let iptables = |rule: &str| {
            for program in ["iptables-nft", "ip6tables-nft"] {
                lab.host.sh(&format!("{program} -w {rule}"));
            }
        };
        let file = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                    [networks.direct]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\nmode = 'routed'\n\
                    [containers.one]\nnetworks.front = { address = ['10.20.0.10', 'fd20::10'] }\nports = ['8080:80']\n\
                    [containers.two]\nnetworks.direct = { address = ['10.21.0.10', 'fd21::10'] }\nports = ['80:80']\n";
        iptables("-P FORWARD ACCEPT");
        lab.host.apply(file);
        drop(lab.host.settle());
        let _listeners = ["one", "two"].map(|name| listen(&lab.container(name), &[80, 81], &[]));
        lab.expect(OPEN);
        // No table can overrule another's drop: everything between networks is blocked, and nothing else.
        iptables("-P FORWARD DROP");
        let nothing: Vec<_> =
            OPEN.lines().filter_map(|l| Some(l.split_once("->")?.0.to_owned() + "-> blocked")).collect();
        lab.expect(&nothing.join("\n"));
        lab.expect("one ping 10.20.0.1 -> answer\nhost tcp 10.20.0.10:81 -> one sees 10.20.0.1");
        // It is not netrec's to change, and no business of a plan's actions.
        // foreign-drop: once a plan warns of it, that code and these commands are what it says.
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        assert_eq!(lab.host.apply(file).json["writes"], 0);
        for bridge in ["nr-front", "nr-direct"] {
            iptables(&format!("-I FORWARD -i {bridge} -j ACCEPT"));
            iptables(&format!("-I FORWARD -o {bridge} -j ACCEPT"));
        }
        lab.expect(OPEN);
    });
}

/// As above for a rule: what others drop stays dropped until they let netrec's bridges pass.
#[test]
fn a_drop_that_others_append_to_forward_blocks_until_they_except_the_bridge() {
    lab::in_lab(|lab| {
        let file = &shop("'8080:80'");
        lab.host.apply(file);
        drop(lab.host.settle());
        let _listeners = [listen(&lab.container("web"), &[80], &[]), listen(&lab.world, &[443], &[])];
        lab.host.sh("iptables-nft -w -A FORWARD -j DROP; ip6tables-nft -w -A FORWARD -j DROP");
        lab.expect(
            "
            world tcp 192.0.2.1:8080        -> blocked
            world tcp [2001:db8::1]:8080    -> blocked
            web   tcp 192.0.2.9:443         -> blocked
            host  tcp 127.0.0.1:8080        -> web sees 10.20.0.1
            ",
        );
        let rules = || lab.host.sh("iptables-save; ip6tables-save").lines().filter(|l| !l.starts_with('#')).count();
        let before = rules();
        assert_eq!(lab.host.apply(file).json["writes"], 0);
        assert_eq!(rules(), before);
        for program in ["iptables-nft", "ip6tables-nft"] {
            lab.host.sh(&format!(
                "{program} -w -I FORWARD -o nr-front -j ACCEPT; {program} -w -I FORWARD -i nr-front -j ACCEPT"
            ));
        }
        lab.expect(
            "
            world tcp 192.0.2.1:8080        -> web sees 192.0.2.9
            world tcp [2001:db8::1]:8080    -> web sees 2001:db8::9
            web   tcp 192.0.2.9:443         -> world sees 192.0.2.1
            ",
        );
    });
}

// Changes, and what is left of what was.

#[test]
fn a_container_that_gets_another_address_leaves_no_trace_of_the_old_one() {
    lab::in_lab(|lab| {
        let ports = "'8080:80', '8053:53/udp', '9000-9002:9000-9002'";
        lab.host.apply(&shop(ports));
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80, 9001], &[53]);
        let udp = lab.world.udp_flow("192.0.2.1:8053").expect("a socket");
        assert_eq!(who(udp.ask()), "web sees 192.0.2.9");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        lab.host.apply(&shop(ports).replace("10.20.0.10", "10.20.0.20"));
        for command in ["nft list table inet netrec", "conntrack -L", "ip addr", "ip -n web addr", "ip -n web route"] {
            let text = lab.host.sh(&format!("{command} 2>/dev/null"));
            let old =
                text.lines().find(|l| l.split(|c: char| !c.is_ascii_digit() && c != '.').any(|w| w == "10.20.0.10"));
            assert_eq!(old, None, "{command}");
        }
        assert_eq!(who(udp.ask()), "web sees 192.0.2.9", "the same client by the same socket");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9\nworld tcp 192.0.2.1:9001 -> web sees 192.0.2.9");
    });
}

/// Those that have spoken with the old owner of an address hear of the new one's Ethernet address at once.
#[test]
fn neighbours_learn_of_another_ethernet_address_at_once() {
    lab::in_lab(|lab| {
        let file = |mac: &str| {
            let file = shop("'8080:80'").replace(" }\n", &format!(", mac = '{mac}' }}\n"));
            format!("{file}{API}")
        };
        lab.host.apply(&file("02:00:00:00:00:07"));
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[]);
        let tries = "
            api   tcp 10.20.0.10:80         -> web sees 10.20.0.11
            api   tcp [fd20::10]:80         -> web sees fd20::11
            world tcp 192.0.2.1:8080        -> web sees 192.0.2.9
            world tcp [2001:db8::1]:8080    -> web sees 2001:db8::9
            ";
        lab.expect(tries);
        lab.host.apply(&file("02:00:00:00:00:08"));
        lab.expect(tries);
    });
}

#[test]
fn an_address_that_moves_to_another_container_answers_at_once() {
    lab::in_lab(|lab| {
        let file =
            |name: &str| format!("{}{API}", shop("'8080:80'").replace("containers.web", &format!("containers.{name}")));
        lab.host.apply(&file("web"));
        drop(lab.host.settle());
        let old = listen(&lab.container("web"), &[80], &[]);
        let tries = |name: &str| {
            lab.expect(&format!(
                "
                api   tcp 10.20.0.10:80         -> {name} sees 10.20.0.11
                api   tcp [fd20::10]:80         -> {name} sees fd20::11
                world tcp 192.0.2.1:8080        -> {name} sees 192.0.2.9
                world tcp [2001:db8::1]:8080    -> {name} sees 2001:db8::9
                "
            ));
        };
        tries("web");
        drop(old);
        lab.host.apply(&file("next"));
        drop(lab.host.settle()); // until then an IPv6 address is not its own
        let _next = listen(&lab.container("next"), &[80], &[]);
        tries("next");
    });
}

/// Only the prefix length of a subnet changes: the gateway's address is the same one, and so are the flows by it.
#[test]
fn another_prefix_length_keeps_the_flows() {
    lab::in_lab(|lab| {
        let wide = shop("'8080:80'").replace("10.20.0.0/24", "10.20.0.0/16").replace("fd20::/64", "fd20::/56");
        lab.host.apply(&shop("'8080:80'"));
        drop(lab.host.settle());
        let _listeners = [listen(&lab.container("web"), &[80], &[]), listen(&lab.world, &[443], &[])];
        let mut flows: Vec<_> = ["192.0.2.1:8080", "[2001:db8::1]:8080"]
            .map(|to| lab.world.connect(to).expect("a connection"))
            .into_iter()
            .chain(["192.0.2.9:443", "[2001:db8::9]:443"].map(|to| lab.container("web").connect(to).expect("one")))
            .collect();
        for file in [&wide, &shop("'8080:80'")] {
            lab.host.apply(file);
            assert_eq!(lab.host.plan(file).actions(), [""; 0]);
            for flow in &mut flows {
                assert_eq!(flow.echo("still there").as_deref(), Ok("still there"));
            }
        }
    });
}

#[test]
fn destroy_when_a_namespace_or_devices_are_gone_already() {
    lab::in_lab(|lab| {
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lab.host.set_sysctl(path, "1");
        }
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        let file = &format!("{}{API}", shop("'8080:80', '127.0.0.1:8082:82'"));
        let veths = format!("ip link del {}; ip link del {}", veth("front", "web"), veth("front", "api"));
        for gone in ["ip netns del web", "ip netns del web; ip netns del api", "ip link del nr-front", &veths] {
            lab.host.apply(file);
            lab.host.sh(gone);
            lab.host.destroy(file);
            drop(lab.host.settle());
            assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "", "{gone}");
        }
    });
}

#[test]
fn many_at_once_apply_one_after_the_other() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", &shop("'8080:80'"));
        let all_at_once = |files: &[&String]| -> Vec<u64> {
            thread::scope(|s| {
                let apply = |file: &str| {
                    let output = lab.host.netrec(&["-c", file, "apply", "-y", "--json"]);
                    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
                    let json: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
                    json["writes"].as_u64().expect("writes")
                };
                let running: Vec<_> = files.iter().map(|file| s.spawn(move || apply(file))).collect();
                running.into_iter().map(|t| t.join().expect("its end")).collect()
            })
        };
        let writes = all_at_once(&[&file; 8]);
        assert_eq!(
            writes.iter().filter(|n| **n > 0).count(),
            1,
            "one does it, and the others find it done: {writes:?}"
        );
        assert_eq!(lab.host.plan(&shop("'8080:80'")).actions(), [""; 0]);

        // Of two files the one that comes last is in force, as a whole.
        let other = lab.host.write("other.toml", &shop("'8081:80'").replace("front", "back").replace("10.20", "10.21"));
        all_at_once(&[&file, &other, &file, &other, &file, &other]);
        let pending = |file: &str| lab.host.netrec(&["-c", file, "plan", "--detailed-exitcode"]).status;
        let mut both = [pending(&file), pending(&other)];
        both.sort_unstable();
        assert_eq!(both, [0, 2]);
    });
}

// Parameters that cannot be set.

#[test]
fn read_only_parameters_do_no_harm_where_they_are_right() {
    lab::in_lab(|lab| {
        let file = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                    [containers.web]\nnetns = '/run/netns/web'\nnetworks = ['front']\nports = ['192.0.2.1:8080:80', '[2001:db8::1]:8080:80']\n";
        lab.host.sh("ip netns add web");
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/default/forwarding", "1"),
            ("net/ipv6/conf/default/forwarding", "1"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
        ] {
            lab.host.set_sysctl(path, value);
        }
        lab.container("web").set_sysctl("net/ipv6/conf/default/accept_ra", "0");
        lab.host.sh("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys");
        lab.host.apply(file);
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        drop(lab.host.settle());
        let _web = listen(&lab.container("web"), &[80], &[]);
        lab.expect(
            "world tcp 192.0.2.1:8080 -> web sees 192.0.2.9\nworld tcp [2001:db8::1]:8080 -> web sees 2001:db8::9",
        );
        // One that is not: it is named with what was wanted and found, and nothing is left half-made.
        let before = Snapshot::of_machine(&lab.host);
        let wrong = file.replace("'192.0.2.1:8080:80'", "'0.0.0.0:8080:80'");
        let output = lab.host.try_netrec(&wrong, &["apply", "-y"]);
        let said = "error: change sysctl net/ipv4/conf/nr-front/route_localnet in host: /proc/sys/net/ipv4/conf/nr-front/\
                    route_localnet: wanted 1, found 0: Read-only file system\n\
                    what had been done was taken back: the host is as it was before\n";
        assert_eq!((output.status, output.stderr.as_str()), (4, said));
        drop(lab.host.settle());
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
    });
}

/// Turned off for all devices, it is on those that the file wants it on.
#[test]
fn a_host_without_ipv6_and_a_file_with_it() {
    lab::in_lab(|lab| {
        for name in ["all", "default"] {
            lab.host.set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
        // These stay on.
        lab.host.set_sysctl("net/ipv4/ip_forward", "1");
        lab.host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        lab.host.apply(&shop(""));
        assert_eq!(lab.host.plan(&shop("")).actions(), [""; 0]);
        // Devices of netrec's have it, and no others.
        let off = |name: &str| lab.host.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"));
        assert_eq!(["nr-front", "uplink", "all", "default"].map(off), ["0", "1", "1", "1"]);
        lab.host.destroy(&shop(""));
        drop(lab.host.settle());
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
    });
}

/// An address of IPv6 and a parameter that forbids it: the file contradicts itself, and nothing is made.
#[test]
fn a_container_that_turns_off_the_ipv6_it_has_an_address_of() {
    lab::in_lab(|lab| {
        let file = format!("{}sysctl = {{ 'net.ipv6.conf.eth0.disable_ipv6' = 1 }}\n", shop(""));
        let output = lab.host.try_netrec(&file, &["apply", "-y"]);
        let said = "error: `disable_ipv6` would take away the container's IPv6 on `front`\n";
        assert!(output.status == 3 && output.stderr.starts_with(said), "{}: {}", output.status, output.stderr);
        assert_eq!(lab.host.run(["ip", "netns"]), "");
    });
}
