//! What may talk to what. Each test runs with bridged packets passing the firewall (`bridge-nf-call-*` 1) and not (0),
//! since containers of one network are bridged in the one case and routed in the other.

use crate::lab::{self, Lab, Listener, NoAnswer, Space};

const FILE: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[networks.back]
subnet = ["10.21.0.0/24", "fd21::/64"]

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = [
  "8080:80", "8053:53/udp", "8036:36/sctp",
  "192.0.2.2:8081:81", "[2001:db8::2]:8081:81",
  "127.0.0.1:8082:82", "127.0.0.1:8054:54/udp",
  "0.0.0.0:8083:83", "[::]:8084:84",
]

[containers.api]
networks.front = { address = ["10.20.0.11", "fd20::11"] }
ports = ["8090:80", "8090:80/udp"]

[containers.other]
networks.back = { address = ["10.21.0.10", "fd21::10"] }

[containers.sly]
networks.front = { address = ["10.20.0.12", "fd20::12"] }
"#;

#[test]
fn ports_networks_and_services_with_bridge_nf_off() {
    lab::in_lab(|lab| all_ways(lab, "0"));
}

#[test]
fn ports_networks_and_services_with_bridge_nf_on() {
    lab::in_lab(|lab| all_ways(lab, "1"));
}

pub(crate) fn set_bridge_nf(lab: &Lab, value: &str) {
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        lab.host.set_sysctl(&format!("net/bridge/{name}"), value);
    }
}

fn listen(space: &Space, tcp: &[u16], udp: &[u16]) -> Vec<Listener> {
    let name = space.name();
    let tcp = tcp.iter().map(|p| space.listen_tcp(name, &format!("[::]:{p}")));
    let udp = udp.iter().map(|p| space.listen_udp(name, &format!("[::]:{p}")));
    tcp.chain(udp).collect()
}

fn all_ways(lab: &Lab, bridge_nf: &str) {
    set_bridge_nf(lab, bridge_nf);
    lab.host.apply(FILE);
    drop(lab.host.settle());
    let web = lab.container("web");
    let _listeners = [
        listen(&web, &[80, 81, 82, 83, 84, 85], &[53, 54]),
        web.listen_sctp("web", 36),
        listen(&lab.container("api"), &[80], &[80]),
        listen(&lab.container("other"), &[80], &[]),
        listen(&lab.host, &[7000], &[]),
        // Bound, so that answers come from the address that was asked.
        ["10.20.0.1", "[fd20::1]", "192.0.2.1"].map(|a| lab.host.listen_udp("host", &format!("{a}:7000"))).into(),
        listen(&lab.world, &[443], &[53]),
        vec![lab.host.listen_tcp("host", "127.0.0.1:7001"), lab.host.listen_udp("host", "127.0.0.1:7001")],
    ];
    // A published port, from outside: the source address is kept.
    lab.expect(
        "
        world tcp  192.0.2.1:8080       -> web sees 192.0.2.9
        world tcp  192.0.2.2:8080       -> web sees 192.0.2.9
        world tcp  [2001:db8::1]:8080   -> web sees 2001:db8::9
        world udp  192.0.2.1:8053       -> web sees 192.0.2.9
        world udp  [2001:db8::2]:8053   -> web sees 2001:db8::9
        world sctp 192.0.2.1:8036       -> web sees 192.0.2.9
        world sctp [2001:db8::1]:8036   -> web sees 2001:db8::9
        world tcp  192.0.2.2:8081       -> web sees 192.0.2.9
        world tcp  192.0.2.1:8081       -> refused                 # published on the other address
        world tcp  [2001:db8::2]:8081   -> web sees 2001:db8::9
        world tcp  [2001:db8::1]:8081   -> refused
        world tcp  192.0.2.1:8082       -> refused                 # published on 127.0.0.1
        world udp  192.0.2.1:8054       -> refused
        world tcp  192.0.2.1:8083       -> web sees 192.0.2.9
        world tcp  [2001:db8::1]:8083   -> refused                 # 0.0.0.0 is IPv4
        world tcp  192.0.2.1:8084       -> refused                 # :: is IPv6
        world tcp  [2001:db8::1]:8084   -> web sees 2001:db8::9
        world tcp  192.0.2.1:80         -> refused                 # the container's port, not the host's
        world udp  192.0.2.1:8080       -> refused                 # the other protocol
        world tcp  192.0.2.1:8053       -> refused
        world udp  192.0.2.1:8090       -> api sees 192.0.2.9
        ",
    );
    // Containers and what is behind the gateway address, from outside.
    lab.expect(
        "
        world tcp  10.20.0.10:80        -> blocked
        world tcp  10.20.0.10:85        -> blocked
        world udp  10.20.0.10:53        -> blocked
        world sctp 10.20.0.10:36        -> blocked
        world ping 10.20.0.10           -> blocked
        world tcp  [fd20::10]:80        -> blocked
        world tcp  [fd20::10]:85        -> blocked
        world udp  [fd20::10]:53        -> blocked
        world ping fd20::10             -> blocked
        world tcp  10.20.0.1:7000       -> blocked
        world udp  10.20.0.1:7000       -> blocked
        world tcp  [fd20::1]:7000       -> blocked
        world udp  [fd20::1]:7000       -> blocked
        world tcp  192.0.2.1:7000       -> host sees 192.0.2.9     # the host's own business
        world tcp  [2001:db8::1]:7000   -> host sees 2001:db8::9
        ",
    );
    // From containers: out with the host's address, to their own network, to the host; not to another network.
    lab.expect(
        "
        web   tcp  192.0.2.9:443        -> world sees 192.0.2.1
        web   tcp  [2001:db8::9]:443    -> world sees 2001:db8::1
        web   udp  192.0.2.9:53         -> world sees 192.0.2.1
        web   udp  [2001:db8::9]:53     -> world sees 2001:db8::1
        web   ping 192.0.2.9            -> answer
        web   ping 2001:db8::9          -> answer
        api   tcp  10.20.0.10:85        -> web sees 10.20.0.11
        api   tcp  [fd20::10]:85        -> web sees fd20::11
        api   ping 10.20.0.10           -> answer
        api   ping fd20::10             -> answer
        web   tcp  10.21.0.10:80        -> blocked
        web   tcp  [fd21::10]:80        -> blocked
        web   ping 10.21.0.10           -> blocked
        web   ping fd21::10             -> blocked
        other tcp  10.20.0.10:80        -> blocked
        other tcp  [fd20::10]:80        -> blocked
        web   tcp  10.20.0.1:7000       -> host sees 10.20.0.10
        web   tcp  [fd20::1]:7000       -> host sees fd20::10
        web   udp  10.20.0.1:7000       -> host sees 10.20.0.10
        web   udp  [fd20::1]:7000       -> host sees fd20::10
        web   tcp  192.0.2.1:7000       -> host sees 10.20.0.10
        web   udp  192.0.2.1:7000       -> host sees 10.20.0.10
        web   tcp  [2001:db8::1]:7000   -> host sees fd20::10
        web   ping 10.20.0.1            -> answer
        web   ping fd20::1              -> answer
        ",
    );
    // A published port, from containers: the gateway's address is seen, as otherwise the answer to a container of the same
    // network would take the short way back, and one of another network leaves its own by masquerade.
    lab.expect(
        "
        web   tcp  192.0.2.1:8080       -> web sees 10.20.0.1
        web   tcp  [2001:db8::1]:8080   -> web sees fd20::1
        web   udp  192.0.2.1:8053       -> web sees 10.20.0.1
        web   udp  [2001:db8::1]:8053   -> web sees fd20::1
        web   sctp 192.0.2.1:8036       -> web sees 10.20.0.1
        web   sctp [2001:db8::1]:8036   -> web sees fd20::1
        web   tcp  192.0.2.2:8081       -> web sees 10.20.0.1
        web   tcp  10.20.0.1:8080       -> web sees 10.20.0.1
        api   tcp  192.0.2.1:8080       -> web sees 10.20.0.1
        api   tcp  [2001:db8::1]:8080   -> web sees fd20::1
        api   udp  192.0.2.1:8053       -> web sees 10.20.0.1
        api   sctp 192.0.2.1:8036       -> web sees 10.20.0.1
        web   tcp  192.0.2.2:8090       -> api sees 10.20.0.1
        web   udp  [2001:db8::2]:8090   -> api sees fd20::1
        other tcp  192.0.2.1:8080       -> web sees 10.20.0.1
        other tcp  [2001:db8::1]:8080   -> web sees fd20::1
        other udp  192.0.2.1:8053       -> web sees 10.20.0.1
        web   tcp  192.0.2.1:8082       -> refused
        ",
    );
    // From the host.
    lab.expect(
        "
        host  tcp  10.20.0.10:85        -> web sees 10.20.0.1
        host  tcp  [fd20::10]:85        -> web sees fd20::1
        host  ping 10.20.0.10           -> answer
        host  ping fd20::10             -> answer
        host  tcp  127.0.0.1:8080       -> web sees 10.20.0.1
        host  udp  127.0.0.1:8053       -> web sees 10.20.0.1
        host  sctp 127.0.0.1:8036       -> web sees 10.20.0.1
        host  tcp  127.0.0.1:8082       -> web sees 10.20.0.1
        host  udp  127.0.0.1:8054       -> web sees 10.20.0.1
        host  tcp  127.0.0.1:8083       -> web sees 10.20.0.1
        host  tcp  127.0.0.1:8081       -> refused
        host  tcp  192.0.2.1:8080       -> web sees 192.0.2.1
        host  tcp  [2001:db8::1]:8080   -> web sees 2001:db8::1
        host  tcp  [::1]:8080           -> refused                 # the kernel cannot DNAT it
        host  tcp  192.0.2.9:443        -> world sees 192.0.2.1
        ",
    );
    loopback_is_this_machine_only(lab);
}

/// Makes a namespace send packets for 127.0.0.1 to a neighbour instead of itself.
pub(crate) fn route_loopback(space: &Space, device: &str, gateway: &str) {
    space.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"]);
    space.set_sysctl(&format!("net/ipv4/conf/{device}/route_localnet"), "1");
    space.run(["ip", "route", "add", "127.0.0.0/8", "via", gateway]);
}

/// A neighbour may route 127/8 to us, and `route_localnet` would then let it in.
fn loopback_is_this_machine_only(lab: &Lab) {
    route_loopback(&lab.world, "w0", "192.0.2.1");
    route_loopback(&lab.container("sly"), "eth0", "10.20.0.1");
    lab.host.set_sysctl("net/ipv4/conf/uplink/route_localnet", "1");
    lab.expect(
        "
        world tcp  127.0.0.1:8082       -> blocked   # published on 127.0.0.1
        world udp  127.0.0.1:8054       -> blocked
        world tcp  127.0.0.1:8080       -> blocked   # published on every address
        sly   tcp  127.0.0.1:8082       -> blocked
        sly   udp  127.0.0.1:8054       -> blocked
        sly   tcp  127.0.0.1:8080       -> blocked
        sly   tcp  127.0.0.1:7001       -> blocked   # a service of the host's
        sly   udp  127.0.0.1:7001       -> blocked
        sly   tcp  192.0.2.1:8080       -> web sees 10.20.0.1
        ",
    );
}

/// The kernel cannot ask for a container's Ethernet address while the bridge's own link-local address waits for duplicate
/// address detection, so that packets from outside would be lost for up to two seconds.
#[test]
fn ipv6_works_at_once() {
    lab::in_lab(|lab| {
        lab.host.apply(FILE);
        assert_eq!(lab.host.run(["ip", "-6", "-o", "addr", "show", "dev", "nr-front", "tentative"]), "");
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        lab.expect("world tcp [2001:db8::1]:8080 -> web sees 2001:db8::9");
    });
}

#[test]
fn loopback_is_closed_again_when_its_last_port_goes() {
    lab::in_lab(|lab| {
        let file = |ports: &str| {
            format!(
                "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nnetworks = ['front']\nports = [{ports}]\n\
                 [containers.sly]\nnetworks = ['front']\n"
            )
        };
        lab.host.apply(&file("'127.0.0.1:8082:82'"));
        lab.host.apply(&file(""));
        let _host = lab.host.listen_tcp("host", "127.0.0.1:7001");
        let sly = lab.container("sly");
        route_loopback(&sly, "eth0", sly.sh("ip route show default | cut -d' ' -f3").trim());
        lab.expect("sly tcp 127.0.0.1:7001 -> blocked");
        assert_eq!(lab.host.sysctl("net/ipv4/conf/nr-front/route_localnet"), "0");
    });
}

#[test]
fn udp_clients_follow_a_mapping_that_comes_moves_and_goes() {
    lab::in_lab(|lab| {
        let file = |web: &str, api: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                 [containers.web]\nnetworks = ['front']\nports = [{web}]\n\
                 [containers.api]\nnetworks = ['front']\nports = [{api}]\n"
            )
        };
        lab.host.apply(&file("", ""));
        drop(lab.host.settle());
        let _listeners: Vec<_> = ["web", "api"].iter().map(|c| listen(&lab.container(c), &[], &[53])).collect();
        // Each client keeps its socket, and so its conntrack entry, all the time.
        for target in ["192.0.2.1:8053", "[2001:db8::1]:8053"] {
            let client = lab.world.udp_flow(target).expect("a socket");
            let who = |client: &lab::UdpFlow| client.ask().map(|a| a.name);
            assert_eq!(who(&client), Err(NoAnswer::Refused), "{target}: nobody yet");
            lab.host.apply(&file("'8053:53/udp'", ""));
            assert_eq!(who(&client).as_deref(), Ok("web"), "{target}");
            lab.host.apply(&file("", "'8053:53/udp'"));
            assert_eq!(who(&client).as_deref(), Ok("api"), "{target}");
            lab.host.apply(&file("", ""));
            assert_eq!(who(&client), Err(NoAnswer::Refused), "{target}: nobody any more");
        }
    });
}

#[test]
fn a_mapping_that_goes_ends_its_connections_and_no_others() {
    lab::in_lab(|lab| {
        let file = |ports: &str| {
            format!(
                "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                 [containers.web]\nnetworks = ['front']\nports = [{ports}]\n"
            )
        };
        lab.host.apply(&file("'8080:80', '8081:81', '8082:80'"));
        drop(lab.host.settle());
        let _listeners = listen(&lab.container("web"), &[80, 81], &[]);
        for address in ["192.0.2.1", "[2001:db8::1]"] {
            let connect = |port: u16| lab.world.connect(&format!("{address}:{port}")).expect("a connection");
            let (gone, kept, same_target) = (connect(8080), connect(8081), connect(8082));
            lab.host.apply(&file("'8081:81', '8082:80'"));
            let (mut gone, mut kept, mut same_target) = (gone.impatient(), kept, same_target);
            assert!(gone.echo("a").is_err(), "{address}: the flow of a mapping that went lives on");
            assert_eq!(kept.echo("b").as_deref(), Ok("b"), "{address}");
            assert_eq!(same_target.echo("c").as_deref(), Ok("c"), "{address}: another mapping to the same port");
            lab.host.apply(&file("'8080:80', '8081:81', '8082:80'"));
        }
    });
}

/// A container that advertises itself as a router (RFC 4861, 4.2) is heard by nobody: neither the host nor its neighbours,
/// on networks with IPv6 and without.
#[test]
fn no_container_becomes_the_router_of_others() {
    lab::in_lab(|lab| {
        for subnet in ["'10.20.0.0/24'", "'10.20.0.0/24', 'fd20::/64'"] {
            let file = format!(
                "[networks.front]\nsubnet = [{subnet}]\n[containers.web]\nnetworks = ['front']\n[containers.evil]\nnetworks = ['front']\n\
                 [containers.open]\nnetworks = ['front']\n"
            );
            lab.host.set_sysctl("net/ipv6/conf/all/forwarding", "0");
            lab.host.apply(&file);
            let routes = || {
                let of = |space: &lab::Space| space.run(["ip", "-6", "route", "show", "table", "all", "proto", "ra"]);
                (of(&lab.host), of(&lab.container("web")))
            };
            // One listens all the same, so that the silence of the others means something.
            let open = lab.container("open");
            open.set_sysctl("net/ipv6/conf/eth0/accept_ra", "1");
            open.run(["ip", "addr", "add", "fe80::1/64", "dev", "eth0", "nodad"]);
            lab::until("the advertisement is heard", || {
                lab.container("evil").advertise_router("eth0");
                !open.run(["ip", "-6", "route", "show", "proto", "ra"]).is_empty()
            });
            assert_eq!(routes(), (String::new(), String::new()), "{subnet}");
            lab.host.destroy(&file);
        }
    });
}
