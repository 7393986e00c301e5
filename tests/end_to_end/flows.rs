//! What a change does to flows that are there: those end that would go elsewhere now or are forbidden now, and no others.
//! The program `conntrack` is the witness, since a flow that is not rewritten goes on without its entry, too.

use std::collections::BTreeSet;

use crate::lab::{self, Lab, Listener, Machine, NoAnswer, Space};

/// The entries of the host, each as `tcp 192.0.2.1:8080 number`, or without a port.
fn entries(host: &Space) -> BTreeSet<String> {
    let list = ["ipv4", "ipv6"].map(|family| host.run(["conntrack", "-L", "-f", family, "-o", "id"])).concat();
    let entry = |line: &str| {
        let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
        let protocol = line.split_whitespace().next()?;
        let port = value("dport=").map(|port| format!(":{port}")).unwrap_or_default();
        // A ping has a number of its own, which comes first.
        let number = line.split_whitespace().rev().find_map(|word| word.strip_prefix("id="))?;
        Some(format!("{protocol} {}{port} {number}", value("dst=")?))
    };
    list.lines().filter_map(entry).collect()
}

/// What is gone, without the numbers.
fn gone(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    before.difference(after).filter_map(|e| Some(e.rsplit_once(' ')?.0.to_owned())).collect()
}

fn file(ports: &str) -> String {
    format!(
        "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
         [containers.web]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'] }}\nports = [{ports}]\n"
    )
}

/// A machine behind the host, which routes to it.
fn far(lab: &Lab) -> Machine {
    let far = Machine::new("far");
    lab.host.link(&far, "down0", "f0");
    for (machine, link, nets) in [
        (&lab.host, "down0", ["198.51.100.1/24", "2001:db8:f::1/64"]),
        (&far, "f0", ["198.51.100.7/24", "2001:db8:f::7/64"]),
    ] {
        for net in nets {
            machine.add_address(link, net);
        }
    }
    far.sh("ip route add default via 198.51.100.1 && ip -6 route add default via 2001:db8:f::1");
    lab.world.sh("ip route add 198.51.100.0/24 via 192.0.2.1 && ip -6 route add 2001:db8:f::/64 via 2001:db8::1");
    far
}

fn both(space: &Space, port: u16) -> [Listener; 2] {
    let at = format!("[::]:{port}");
    [space.listen_tcp(space.name(), &at), space.listen_udp(space.name(), &at)]
}

#[test]
fn flows_to_the_same_port_elsewhere_live_on() {
    lab::in_lab(|lab| {
        let far = far(lab);
        lab.host.apply(&file(""));
        drop(lab.host.settle());
        let web = lab.container("web");
        let _listeners = [both(&far, 8080), both(&lab.world, 8080), both(&web, 8080)];
        let host_service = lab.host.listen_tcp("host", "[::]:8080");
        let name = |answer: lab::Reply| answer.map(|a| a.name);
        let mut flows = Vec::new();
        let mut kept_udp = Vec::new();
        for (from, to, who) in [
            // In transit, both ways; straight to the container.
            (&*lab.world, "198.51.100.7:8080", "far"),
            (&*lab.world, "[2001:db8:f::7]:8080", "far"),
            (&web, "192.0.2.9:8080", "world"),
            (&web, "[2001:db8::9]:8080", "world"),
            (&*lab.host, "10.20.0.10:8080", "web"),
            (&*lab.host, "[fd20::10]:8080", "web"),
        ] {
            let connection = from.connect(to).expect("a connection");
            assert_eq!(connection.answer.name, who, "{to}");
            flows.push(connection);
            let datagrams = from.udp_flow(to).expect("a socket");
            assert_eq!(name(datagrams.ask()).as_deref(), Ok(who), "{to}");
            kept_udp.push(datagrams);
        }
        // The host's own service keeps its connections, but not its UDP clients: there was none to serve them.
        for to in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            flows.push(lab.world.connect(to).expect("a connection"));
        }
        let stale: Vec<_> = ["192.0.2.1:8080", "[2001:db8::1]:8080"]
            .into_iter()
            .map(|to| {
                let client = lab.world.udp_flow(to).expect("a socket");
                assert_eq!(name(client.ask()), Err(NoAnswer::Refused), "{to}");
                client
            })
            .collect();

        let before = entries(&lab.host);
        lab.host.apply(&file("'8080:8080', '8080:8080/udp'"));
        let with = entries(&lab.host);
        assert_eq!(gone(&before, &with), ["udp 192.0.2.1:8080", "udp 2001:db8::1:8080"]);

        for client in &stale {
            assert_eq!(name(client.ask()).as_deref(), Ok("web"));
        }
        drop(host_service);
        let mapped: Vec<_> = ["192.0.2.2:8080", "[2001:db8::2]:8080"]
            .into_iter()
            .map(|to| lab.world.connect(to).expect("a connection"))
            .collect();
        assert!(mapped.iter().all(|c| c.answer.name == "web"));
        let with = entries(&lab.host);
        lab.host.apply(&file(""));
        let wanted = ["tcp 192.0.2.2:8080", "tcp 2001:db8::2:8080", "udp 192.0.2.1:8080", "udp 2001:db8::1:8080"];
        assert_eq!(gone(&with, &entries(&lab.host)), wanted);
        for connection in flows.iter_mut().take(6) {
            assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        }
    });
}

#[test]
fn a_port_of_loopback_takes_its_clients_along() {
    lab::in_lab(|lab| {
        let file = |address: &str, ports: &str| {
            format!(
                "[networks.front]\nsubnet = '10.20.0.0/24'\n\
                 [containers.web]\nnetworks.front = {{ address = '{address}' }}\nports = [{ports}]\n"
            )
        };
        lab.host.apply(&file("10.20.0.10", ""));
        let _web = lab.container("web").listen_udp("web", "0.0.0.0:53");
        let client = lab.host.udp_flow("127.0.0.1:8053").expect("a socket");
        let who = || client.ask().map(|a| a.name);
        assert_eq!(who(), Err(NoAnswer::Refused), "nobody yet");
        let first = file("10.20.0.10", "'127.0.0.1:8053:53/udp'");
        lab.host.apply(&first);
        assert_eq!(who().as_deref(), Ok("web"));
        assert_eq!(lab.host.apply(&first).json["writes"], 0, "a second apply writes");
        let moved = file("10.20.0.77", "'127.0.0.1:8053:53/udp'");
        lab.host.apply(&moved);
        assert_eq!(who().as_deref(), Ok("web"), "the container's address is another one");
        lab.host.destroy(&moved);
        assert_eq!(who(), Err(NoAnswer::Refused), "nobody any more");
    });
}

#[test]
fn flows_end_with_the_address_or_the_network_that_they_led_to() {
    lab::in_lab(|lab| {
        let front = |address: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n[containers.web]\n\
                 networks.front = {{ address = ['10.20.0.{address}', 'fd20::{address}'] }}\nports = ['8080:80']\n"
            )
        };
        let back = "[networks.back]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\n[containers.api]\n\
                    networks.back = { address = ['10.21.0.10', 'fd21::10'] }\nports = ['8081:80']\n";
        lab.host.apply(&(front("10") + back));
        drop(lab.host.settle());
        let _listeners = ["web", "api"].map(|c| lab.container(c).listen_tcp(c, "[::]:80"));
        let connect = |port: u16| {
            ["192.0.2.1", "[2001:db8::1]"].map(|host| {
                let connection = lab.world.connect(&format!("{host}:{port}"));
                connection.unwrap_or_else(|e| panic!("{host}:{port}: {e}"))
            })
        };
        let mut to_api = connect(8081);
        let to_web = connect(8080);
        let before = entries(&lab.host);
        lab.host.apply(&(front("77") + back));
        let moved = entries(&lab.host);
        assert_eq!(gone(&before, &moved), ["tcp 192.0.2.1:8080", "tcp 2001:db8::1:8080"]);
        for connection in to_web {
            assert!(connection.impatient().echo("anybody").is_err(), "the address is gone");
        }
        for connection in &mut to_api {
            assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        }

        let mut to_web = connect(8080);
        let before = entries(&lab.host);
        lab.host.apply(&front("77"));
        assert_eq!(gone(&before, &entries(&lab.host)), ["tcp 192.0.2.1:8081", "tcp 2001:db8::1:8081"]);
        for connection in &mut to_web {
            assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        }
        let before = entries(&lab.host);
        lab.host.destroy(&front("77"));
        assert_eq!(gone(&before, &entries(&lab.host)), ["tcp 192.0.2.1:8080", "tcp 2001:db8::1:8080"]);
    });
}

/// Somebody takes the rules away, and flows come up that they forbid. They end when the rules are back.
#[test]
fn flows_that_the_rules_forbid_end_and_all_others_live_on() {
    lab::in_lab(|lab| {
        let file = file("'8080:80'");
        lab.host.apply(&file);
        drop(lab.host.settle());
        let web = lab.container("web");
        let _listeners = [both(&web, 80), both(&lab.world, 443), both(&lab.host, 22)];
        let mut kept = vec![lab.world.connect("192.0.2.1:8080").expect("a connection")];
        // Not the whole table: nothing tracks flows where no rule needs that.
        lab.host.sh("nft flush chain inet netrec forward; nft flush chain inet netrec input");
        for (from, to) in [
            (&*lab.host, "10.20.0.10:80"),
            (&*lab.host, "[fd20::10]:80"),
            (&web, "192.0.2.9:443"),
            (&web, "[2001:db8::9]:443"),
            (&web, "10.20.0.1:22"),
            (&*lab.world, "192.0.2.1:22"),
            (&*lab.world, "[2001:db8::1]:22"),
        ] {
            kept.push(from.connect(to).unwrap_or_else(|e| panic!("{to}: {e}")));
            assert!(from.udp(to).is_ok(), "{to}");
        }
        web.ping("192.0.2.9").expect("an answer");
        lab.host.ping("fd20::10").expect("an answer");
        let forbidden = ["10.20.0.10:80", "[fd20::10]:80", "10.20.0.1:22", "[fd20::1]:22"];
        let connections = forbidden.map(|to| lab.world.connect(to).unwrap_or_else(|e| panic!("{to}: {e}")));
        assert!(lab.world.udp("10.20.0.10:80").is_ok());
        for to in ["10.20.0.10", "fd20::10"] {
            lab.world.ping(to).expect("an answer");
        }

        let before = entries(&lab.host);
        lab.host.apply(&file);
        let mut wanted = vec!["tcp 10.20.0.10:80", "tcp fd20::10:80", "tcp 10.20.0.1:22", "tcp fd20::1:22"];
        wanted.extend(["udp 10.20.0.10:80", "icmp 10.20.0.10", "icmpv6 fd20::10"]);
        lab::assert_same("ended", &wanted, &gone(&before, &entries(&lab.host)));
        let [first, ..] = connections;
        assert!(first.impatient().echo("anybody").is_err());
        for connection in &mut kept {
            assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        }
    });
}

/// Who began a flow, and where it leads.
type Flow<'a> = (&'a Space, &'a str);

/// Changes of the file that forbid flows: what is forbidden ends, what is not lives on.
#[test]
fn what_a_key_forbids_ends_and_nothing_else() {
    lab::in_lab(|lab| {
        lab.world.add_address("w0", "192.0.2.10/24");
        let file = |front: &str, direct: &str, web: &str, api: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n{front}\n\
                 [networks.direct]\nsubnet = ['10.21.0.0/24', 'fd21::/64']\nmode = 'routed'\n{direct}\n\
                 [containers.web]\nnetworks.front = {{ address = ['10.20.0.10', 'fd20::10'] }}\nports = [{web}]\n\
                 [containers.api]\nnetworks.direct = {{ address = ['10.21.0.10', 'fd21::10'] }}\nports = [{api}]\n"
            )
        };
        let (web, api) = ("'8080:80', '8081:80'", "'80:80', '81:81'");
        lab.host.apply(&file("", "", web, api));
        drop(lab.host.settle());
        let (in_web, in_api) = (lab.container("web"), lab.container("api"));
        let _listeners = [both(&in_web, 80), both(&in_api, 80), both(&in_api, 81), both(&lab.world, 443)];
        // A change, the flows that it ends, and some that it does not.
        let (world, host) = (&*lab.world, &*lab.host);
        let cases: [(&str, String, &[Flow<'_>], &[Flow<'_>]); 6] = [
            (
                "an internal network",
                file("internal = true", "", "", api),
                &[(&in_web, "192.0.2.9:443"), (&in_web, "[2001:db8::9]:443"), (world, "192.0.2.1:8080")],
                &[(host, "10.20.0.10:80"), (world, "10.21.0.10:80")],
            ),
            (
                "an isolated family",
                file("mode = { ipv6 = 'isolated' }", "", web, api),
                &[(&in_web, "[2001:db8::9]:443"), (world, "[2001:db8::1]:8080")],
                &[(&in_web, "192.0.2.9:443"), (world, "192.0.2.1:8080")],
            ),
            (
                "a port of a routed network that goes",
                file("", "", web, "'80:80'"),
                &[(world, "10.21.0.10:81"), (world, "[fd21::10]:81"), (&in_web, "10.21.0.10:81")],
                &[(world, "10.21.0.10:80"), (&in_web, "[fd21::10]:80")],
            ),
            (
                "a list of others",
                file("", "", "{ host = 8080, container = 80, allow = '192.0.2.77' }, '8081:80'", api),
                &[(world, "192.0.2.1:8080"), (world, "[2001:db8::1]:8080")],
                &[(world, "192.0.2.1:8081"), (host, "192.0.2.1:8080")],
            ),
            (
                "a list that one is on",
                file("", "", "{ host = 8080, container = 80, allow = '192.0.2.0/28' }, '8081:80'", api),
                &[(world, "[2001:db8::1]:8080")],
                &[(world, "192.0.2.1:8080"), (world, "[2001:db8::1]:8081")],
            ),
            (
                "nothing but a source address",
                file("snat = '192.0.2.2'", "", web, api),
                &[],
                &[(&in_web, "192.0.2.9:443"), (world, "192.0.2.1:8080"), (world, "10.21.0.10:80")],
            ),
        ];
        for (what, after, end, go_on) in cases {
            let open = |flows: &[Flow<'_>]| -> Vec<_> {
                let connect = |(from, to): &Flow<'_>| from.connect(to).unwrap_or_else(|e| panic!("{what}: {to}: {e}"));
                flows.iter().map(|flow| (flow.1.to_owned(), connect(flow))).collect()
            };
            let (ended, living) = (open(end), open(go_on));
            lab.host.apply(&after);
            for (to, connection) in ended {
                assert!(connection.impatient().echo("a").is_err(), "{what}: the flow to {to} goes on");
            }
            for (to, mut connection) in living {
                assert_eq!(connection.echo("b").as_deref(), Ok("b"), "{what}: the flow to {to} has ended");
            }
            lab.host.apply(&file("", "", web, api));
        }
        // A device that is no longer trusted.
        lab.host.apply(&file("trusted = 'uplink'", "", web, api));
        let (mut direct, mut published) = (
            world.connect("10.20.0.10:80").expect("trusted").impatient(),
            world.connect("192.0.2.1:8080").expect("published"),
        );
        assert_eq!(direct.echo("c").as_deref(), Ok("c"));
        lab.host.apply(&file("", "", web, api));
        assert!(direct.echo("d").is_err(), "the flow of a device that is no longer trusted goes on");
        assert_eq!(published.echo("e").as_deref(), Ok("e"));
    });
}
