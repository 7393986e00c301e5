//! Two hosts and a container on each, joined by a tunnel: real packets, and none that is not known to have a place to go.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netrec::kernel::Linux;
use netrec::state::{BridgePort, Entry, Fdb, Key, LinkKind, Mac, Netns, Object, State};

use super::lab::*;
use super::overlay::{fdb, ip_of, neighbour, reconcile, vxlan, wide_address, wide_bridge};

/// Does something in a namespace, on a thread that ends there.
fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Does something on a host: the first is where the test runs.
fn on<T: Send>(host: u8, work: impl FnOnce() -> T + Send) -> T {
    if host == 1 { work() } else { within("hostb", work) }
}

fn vtep(v6: bool, host: u8) -> IpAddr {
    ip_of(&if v6 { format!("2001:db8::{host}") } else { format!("192.0.2.{host}") })
}

// MAC addresses of a host's bridge, tunnel and container.
fn bridge_mac(host: u8) -> Mac {
    mac(0x10 + host)
}
fn tunnel_mac(host: u8) -> Mac {
    mac(0x20 + host)
}
fn container_mac(host: u8) -> Mac {
    mac(0x50 + host)
}

/// The second host, and what lies between the two.
fn underlay() {
    sh("ip netns add hostb && ip link add u0 mtu 1600 type veth peer name u0 mtu 1600 netns hostb");
    for host in [1, 2] {
        on(host, || {
            sh(&format!(
                "ip link set lo up && ip link set u0 up && ip addr add 192.0.2.{host}/24 dev u0 && \
                 ip -6 addr add 2001:db8::{host}/64 dev u0 nodad && echo 1 > /proc/sys/net/ipv4/ip_forward && \
                 echo 1 > /proc/sys/net/ipv6/conf/all/forwarding && echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad && \
                 nft 'add table inet seen; add chain inet seen out {{ type filter hook output priority 0; }}; \
                 add rule inet seen out udp dport 4789 counter; \
                 add table bridge seen; add chain bridge seen out {{ type filter hook postrouting priority 0; }}; \
                 add rule bridge seen out oifname vx-wide ether saddr {} counter'",
                container_mac(host)
            ));
        });
    }
}

/// A bridge with a container of its own, and a tunnel that is a port of it or not.
fn host(v6: bool, host: u8, switched: bool) -> Vec<(Key, Entry)> {
    let container = Netns::new(format!("c{host}"));
    let (key, mut entry) = veth(&format!("ve-c{host}"), &container, host);
    (link_of(&mut entry).master, link_of(&mut entry).port) = (Some(name("nr-wide")), Some(BridgePort::default()));
    peer_of(&mut entry).device.mac = container_mac(host);
    let mut bridge = wide_bridge();
    link_of(&mut bridge.1).device.mac = bridge_mac(host);
    // Without it a router of IPv6 has no address to ask for the neighbours from whom it hands packets on to.
    link_of(&mut bridge.1).device.link_local = true;
    let mut tunnel = vxlan(vtep(v6, host), switched.then_some("nr-wide"));
    link_of(&mut tunnel.1).device.mac = tunnel_mac(host);
    vec![namespace(&container), bridge, tunnel, (key, entry)]
}

/// One subnet over both hosts.
fn switched(v6: bool, here: u8) -> State {
    let there = 3 - here;
    let container = Netns::new(format!("c{here}"));
    let mut all = host(v6, here, true);
    for subnet in [("10.30.0.", "/16"), ("fd30::", "/64")] {
        let ip = |last: u8| format!("{}{last}{}", subnet.0, subnet.1);
        all.push(wide_address("nr-wide", &ip(here)));
        all.push(address(&container, "eth0", &ip(10 + here), "containers.web"));
        for (last, mac) in [(there, bridge_mac(there)), (10 + there, container_mac(there))] {
            all.push(neighbour("nr-wide", &format!("{}{last}", subnet.0), mac));
        }
    }
    for mac in [bridge_mac(there), container_mac(there)] {
        all.push(fdb("vx-wide", mac, Fdb::behind(vtep(v6, there))));
        all.push(fdb("nr-wide", mac, Fdb::by(name("vx-wide"))));
    }
    all.into_iter().collect()
}

/// A piece of the subnet on each host.
fn routed(v6: bool, here: u8) -> State {
    let there = 3 - here;
    let container = Netns::new(format!("c{here}"));
    let mut all = host(v6, here, false);
    let piece = |host: u8| {
        [
            (format!("10.30.{host}."), "24", "32", "0", "0.0.0.0/0", 0),
            (format!("fd30:{host}::"), "64", "128", "", "::/0", 1024),
        ]
    };
    for ((own, prefix, single, first, default, metric), (other, ..)) in piece(here).into_iter().zip(piece(there)) {
        all.push(wide_address("nr-wide", &format!("{own}1/{prefix}")));
        all.push(wide_address("vx-wide", &format!("{own}{first}/{single}")));
        all.push(address(&container, "eth0", &format!("{own}10/{prefix}"), "containers.web"));
        all.push(route(&container, default, Some(&format!("{own}1")), "eth0", metric));
        let router = format!("{other}{first}");
        let (key, mut entry) = route(&Netns::HOST, &format!("{router}/{prefix}"), Some(&router), "vx-wide", metric);
        if let Object::Route(route) = &mut entry.object {
            route.onlink = true;
        }
        entry.owners = vec![owner("networks.wide")];
        all.push((key, entry));
        all.push(neighbour("vx-wide", &router, tunnel_mac(there)));
    }
    all.push(fdb("vx-wide", tunnel_mac(there), Fdb::behind(vtep(v6, there))));
    all.into_iter().collect()
}

fn apply_to(host: u8, desired: &State) -> Vec<String> {
    on(host, || reconcile(&mut Linux::open().unwrap(), desired))
}

/// Sends much there and back by TCP, and says whom the server took the client for.
fn talk(client: &str, server: &str, to: &str) -> IpAddr {
    const SIZE: usize = 300_000;
    let to = SocketAddr::new(ip_of(to), 7000);
    let listener = within(server, || TcpListener::bind(to).unwrap());
    let serve = move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut all = vec![0; SIZE];
        stream.read_exact(&mut all).unwrap();
        stream.write_all(&all).unwrap();
        from.ip()
    };
    let server = std::thread::spawn(serve);
    let ask = || {
        let mut stream =
            TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap_or_else(|e| panic!("{to}: {e}"));
        let all = vec![7; SIZE];
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&all).unwrap();
        let mut back = vec![0; SIZE];
        stream.read_exact(&mut back).unwrap();
        assert!(all == back);
    };
    if client == "hosta" {
        ask();
    } else {
        within(client, ask);
    }
    server.join().unwrap()
}

/// How many packets the first host sent through the tunnel, and how many frames of its containers the bridge handed to
/// the tunnel's device.
fn seen() -> (u64, u64) {
    let counted = |family: &str| {
        let rules = json(&format!("nft -j list chain {family} seen out"));
        rules["nftables"][2]["rule"]["expr"].as_array().unwrap().last().unwrap()["counter"]["packets"].as_u64().unwrap()
    };
    (counted("inet"), counted("bridge"))
}

/// The same once nothing more comes.
fn settled() -> (u64, u64) {
    let mut now = seen();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        if std::mem::replace(&mut now, seen()) == now {
            return now;
        }
    }
}

fn datagram(from: &str, to: &str) {
    let to = SocketAddr::new(ip_of(to), 9);
    let send = || {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_broadcast(true).unwrap();
        // A port that nobody listens at may have been told already.
        let _ = socket.send_to(b"hello", to);
    };
    if from == "hosta" { send() } else { within(from, send) }
}

#[test]
fn a_switched_tunnel_carries_what_is_known_and_floods_nothing() {
    lab(|| {
        underlay();
        for v6 in [false, true] {
            for host in [1, 2] {
                apply_to(host, &switched(v6, host));
            }
            // Containers, and hosts and containers, both ways.
            for (client, server, to, from) in [
                ("c1", "c2", "10.30.0.12", "10.30.0.11"),
                ("c1", "c2", "fd30::12", "fd30::11"),
                ("c2", "c1", "10.30.0.11", "10.30.0.12"),
                ("hosta", "c2", "10.30.0.12", "10.30.0.1"),
                ("hosta", "c2", "fd30::12", "fd30::1"),
                ("c1", "hostb", "10.30.0.2", "10.30.0.11"),
                ("c1", "hostb", "fd30::2", "fd30::11"),
                ("hostb", "c1", "fd30::11", "fd30::2"),
            ] {
                assert_eq!(talk(client, server, to), ip_of(from), "{client} to {to}");
            }
            // Who is where is answered without asking the other host.
            for to in ["10.30.0.12", "fd30::12"] {
                sh("ip -n c1 neigh flush all");
                let (packets, frames) = settled();
                datagram("c1", to);
                let sent = Instant::now();
                while seen() == (packets, frames) {
                    assert!(sent.elapsed() < Duration::from_secs(30), "nothing is sent to {to}");
                }
                assert_eq!(settled(), (packets + 1, frames + 1), "{to}");
            }
            // What is not known goes nowhere: asked for, sent without asking, for many or for all.
            sh(
                "ip -n c1 neigh add 10.30.8.8 lladdr 02:00:00:00:00:ee dev eth0 && ip -n c1 route add 224.0.0.0/4 dev eth0 && \
                ip neigh add 10.30.8.9 lladdr 02:00:00:00:00:ef dev nr-wide",
            );
            let unknown = || {
                for to in ["10.30.9.9", "fd30::99", "10.30.8.8", "224.0.0.251", "10.30.255.255"] {
                    datagram("c1", to);
                }
                for to in ["10.30.9.9", "fd30::99", "10.30.8.9"] {
                    datagram("hosta", to);
                }
                std::thread::sleep(Duration::from_millis(300));
            };
            let before = seen();
            unknown();
            assert_eq!(seen(), before);
            // Twice kept: without the port's switches the device is given what the container sent, and knows nowhere to send
            // it to. (What the host itself sends to all it is given anyway: to that a bridge does not apply them.)
            sh("bridge link set dev vx-wide flood on mcast_flood on bcast_flood on");
            unknown();
            let (packets, frames) = seen();
            assert!(packets == before.0 && frames > before.1, "{packets} {frames} {before:?}");
            sh("ip -n c1 route del 224.0.0.0/4");
            assert_eq!(
                apply_to(1, &switched(v6, 1)),
                ["update link vx-wide", "delete neighbour 10.30.8.9 dev nr-wide"]
            );
            for host in [1, 2] {
                apply_to(host, &State::new());
            }
        }
    });
}

#[test]
fn a_routed_tunnel_joins_the_pieces() {
    lab(|| {
        underlay();
        for v6 in [false, true] {
            for host in [1, 2] {
                apply_to(host, &routed(v6, host));
            }
            for (client, server, to, from) in [
                ("c1", "c2", "10.30.2.10", "10.30.1.10"),
                ("c1", "c2", "fd30:2::10", "fd30:1::10"),
                ("c2", "c1", "10.30.1.10", "10.30.2.10"),
                ("c2", "c1", "fd30:1::10", "fd30:2::10"),
                ("hosta", "c2", "10.30.2.10", "10.30.1.0"),
            ] {
                assert_eq!(talk(client, server, to), ip_of(from), "{client} to {to}");
            }
            // Down and up again costs the tunnel its neighbours and routes.
            sh("ip link set vx-wide down && ip link set vx-wide up");
            let mended = apply_to(1, &routed(v6, 1));
            assert!(mended.contains(&"create route 10.30.2.0/24".to_owned()), "{mended:?}");
            assert!(mended.contains(&"create neighbour 10.30.2.0 dev vx-wide".to_owned()), "{mended:?}");
            assert_eq!(talk("c1", "c2", "fd30:2::10"), ip_of("fd30:1::10"));
            for host in [1, 2] {
                apply_to(host, &State::new());
            }
        }
    });
}

#[test]
fn a_tunnel_that_changes_its_address_goes_on() {
    lab(|| {
        underlay();
        for host in [1, 2] {
            apply_to(host, &switched(false, host));
        }
        assert_eq!(talk("c1", "c2", "10.30.0.12"), ip_of("10.30.0.11"));
        on(2, || sh("ip addr add 192.0.2.9/24 dev u0"));
        let moved = |mut state: State, local: bool| {
            let keys: Vec<Key> = state.iter().map(|(key, _)| key.clone()).collect();
            for key in keys {
                let mut entry = state.remove(&key).unwrap();
                match &mut entry.object {
                    Object::Fdb(fdb) if !local => fdb.dst = fdb.dst.map(|_| ip_of("192.0.2.9")),
                    Object::Link(link) if local => {
                        if let LinkKind::Vxlan { local, .. } = &mut link.kind {
                            *local = ip_of("192.0.2.9");
                        }
                    }
                    _ => {}
                }
                state.insert(key, entry);
            }
            state
        };
        assert_eq!(apply_to(2, &moved(switched(false, 2), true)), ["update link vx-wide"]);
        assert_eq!(apply_to(1, &moved(switched(false, 1), false)).len(), 2);
        on(2, || sh("ip addr del 192.0.2.2/24 dev u0; ip addr add 192.0.2.9/24 dev u0 2>/dev/null || true"));
        assert_eq!(talk("c1", "c2", "10.30.0.12"), ip_of("10.30.0.11"));
    });
}
