//! netrec's own probes, between real namespaces: what is answered, by whom, and what comes of a question that is not; and
//! by which rule a packet was dropped.

// Clippy does not take the helpers of tests for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod lab;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lab::Machine;
use netrec::kernel::nftables::{Flow, Trace};
use netrec::kernel::probe::{Listener, Outcome, STRANGER, Space, Transport, connect, ping};
use nix::libc;

/// Long enough for a busy machine to answer, and for a lost SYN to be sent again.
const LIMIT: Duration = Duration::from_secs(2);

fn space(machine: &Machine) -> Space {
    Space::open(Path::new(&format!("/proc/{}/ns/net", machine.holder()))).unwrap()
}

/// `tcp 192.0.2.1:80`, `ping 192.0.2.1`.
fn ask(from: &Space, question: &str, limit: Duration) -> Outcome {
    let (how, to) = question.split_once(' ').unwrap();
    match how {
        "ping" => ping(from, to.parse().unwrap(), limit),
        "tcp" => connect(from, to.parse().unwrap(), Transport::Tcp, limit),
        "udp" => connect(from, to.parse().unwrap(), Transport::Udp, limit),
        "sctp" => connect(from, to.parse().unwrap(), Transport::Sctp, limit),
        _ => panic!("{question}"),
    }
}

/// Asks all questions at once; a line is `QUESTION -> OUTCOME`.
fn expect(from: &Space, limit: Duration, table: &str) {
    let lines: Vec<&str> = table.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let got: Vec<String> = thread::scope(|s| {
        let question = |line: &str| line.split_once(" -> ").unwrap().0.trim().to_owned();
        let asked: Vec<_> = lines
            .iter()
            .map(|line| s.spawn(move || format!("{0} -> {1}", question(line), ask(from, &question(line), limit))))
            .collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert_eq!(lines.join("\n"), got.join("\n"));
}

#[test]
fn answers_name_the_listener_and_the_source() {
    lab::in_lab(|lab| {
        let (host, world) = (space(&lab.host), space(&lab.world));
        // A port that is listed twice is one.
        let ports = [(Transport::Tcp, 80), (Transport::Udp, 53), (Transport::Udp, 53)];
        let host_listens = Listener::open_all(&host, "the host", &ports).unwrap();
        let _world = Listener::open_all(&world, "world", &ports).unwrap();
        let table = "
            tcp 192.0.2.1:80 -> answered by the host, asked from 192.0.2.9
            udp 192.0.2.1:53 -> answered by the host, asked from 192.0.2.9
            tcp [2001:db8::1]:80 -> answered by the host, asked from 2001:db8::9
            udp [2001:db8::1]:53 -> answered by the host, asked from 2001:db8::9
            tcp 192.0.2.2:80 -> answered by the host, asked from 192.0.2.9
            udp 192.0.2.2:53 -> answered by the host, asked from 192.0.2.9
            udp [2001:db8::2]:53 -> answered by the host, asked from 2001:db8::9
            tcp 127.0.0.1:80 -> answered by world, asked from 127.0.0.1
            udp [::1]:53 -> answered by world, asked from ::1
            udp 192.0.2.9:53 -> answered by world, asked from 192.0.2.9
            ping 192.0.2.1 -> answered by 192.0.2.1, asked from 192.0.2.9
            ping 2001:db8::2 -> answered by 2001:db8::2, asked from 2001:db8::9
            ping 127.0.0.1 -> answered by 127.0.0.1, asked from 127.0.0.1
            ping ::1 -> answered by ::1, asked from ::1
            ";
        expect(&world, LIMIT, table);
        // What is translated on the way is seen as translated.
        lab.host.sh(
            "nft 'table ip t { chain c { type nat hook output priority -100; ip daddr 198.51.100.1 dnat to 192.0.2.9; };
                chain d { type nat hook postrouting priority 100; ip daddr 192.0.2.9 snat to 192.0.2.2; }; }'",
        );
        let translated = "
            tcp 198.51.100.1:80 -> answered by world, asked from 192.0.2.2
            udp 198.51.100.1:53 -> answered by world, asked from 192.0.2.2
            ";
        expect(&host, LIMIT, translated);
        // With the listener its ports are gone, and can be had again at once.
        drop(host_listens);
        expect(&world, LIMIT, "tcp 192.0.2.1:80 -> refused\nudp 192.0.2.1:53 -> refused");
        let _again = Listener::open(&host, "again", Transport::Tcp, 80).unwrap();
        expect(&world, LIMIT, "tcp 192.0.2.1:80 -> answered by again, asked from 192.0.2.9");
    });
}

#[test]
fn udp_is_answered_from_a_link_local_address() {
    lab::in_lab(|lab| {
        let _listener = Listener::open(&space(&lab.host), "host", Transport::Udp, 53).unwrap();
        // The kernel gives one as soon as it notices that the link is up.
        let address = |machine: &Machine, link: &str| {
            let show =
                format!("ip -6 -o addr show dev {link} scope link -tentative | sed -E 's|.*inet6 ([^/]*)/.*|\\1|'");
            machine.sh(&show).trim().to_owned()
        };
        let addresses = || [address(&lab.host, "uplink"), address(&lab.world, "w0")];
        lab::until("both ends have a link-local address", || addresses().iter().all(|address| !address.is_empty()));
        let [host, _] = addresses();
        let index = lab.world.sh("ip -o link show w0 | cut -d: -f1");
        let to = format!("[{host}%{}]:53", index.trim());
        let outcome = connect(&space(&lab.world), to.parse().unwrap(), Transport::Udp, LIMIT);
        let Outcome::Answered { by, seen_from: IpAddr::V6(from) } = outcome else { panic!("{outcome}") };
        assert!(by == "host" && from.is_unicast_link_local(), "{by} {from}");
    });
}

#[test]
fn what_is_not_answered_says_why() {
    lab::in_lab(|lab| {
        let (host, world) = (space(&lab.host), space(&lab.world));
        let _listener = Listener::open_all(&host, "host", &[(Transport::Tcp, 80), (Transport::Udp, 53)]).unwrap();
        expect(
            &world,
            LIMIT,
            "
            tcp 192.0.2.1:81 -> refused
            udp 192.0.2.1:81 -> refused
            tcp [2001:db8::1]:81 -> refused
            udp [2001:db8::1]:81 -> refused
            tcp 203.0.113.1:80 -> unreachable (Network is unreachable)
            udp 203.0.113.1:53 -> unreachable (Network is unreachable)
            ping 203.0.113.1 -> unreachable (Network is unreachable)
            tcp [2001:db8:1::1]:80 -> unreachable (Network is unreachable)
            ping 2001:db8:1::1 -> unreachable (Network is unreachable)
            ",
        );
        // A router on the way says so.
        lab.host.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0");
        lab.host.sh(
            "nft 'table inet r { chain c { type filter hook forward priority 0; ip6 daddr fd08::/64 reject with icmpv6 type admin-prohibited;
                meta nfproto ipv6 reject with icmpv6 type addr-unreachable; reject with icmp type host-unreachable; }; }'",
        );
        expect(
            &world,
            LIMIT,
            "
            tcp 10.9.0.1:80 -> unreachable (No route to host)
            udp 10.9.0.1:53 -> unreachable (No route to host)
            ping 10.9.0.1 -> unreachable (No route to host)
            tcp [fd09::1]:80 -> unreachable (No route to host)
            udp [fd09::1]:53 -> unreachable (No route to host)
            ping fd09::1 -> unreachable (No route to host)
            udp [fd08::1]:53 -> unreachable (Permission denied)
            ",
        );
        // What is dropped takes the limit, all together.
        lab.host.sh("nft 'table inet t { chain c { type filter hook input priority 0;
                meta l4proto { tcp, udp, icmp } drop; icmpv6 type echo-request drop; }; }'");
        let start = Instant::now();
        let limit = Duration::from_millis(700);
        expect(
            &world,
            limit,
            "
            tcp 192.0.2.1:80 -> no answer
            udp 192.0.2.1:53 -> no answer
            tcp [2001:db8::1]:80 -> no answer
            udp [2001:db8::1]:53 -> no answer
            ping 192.0.2.1 -> no answer
            ping 2001:db8::1 -> no answer
            ",
        );
        let took = start.elapsed();
        assert!((limit..3 * limit).contains(&took), "{took:?}");
        // And what the own firewall does not let out.
        lab.world.sh("nft 'table inet t { chain c { type filter hook output priority 0; drop; }; }'");
        expect(
            &world,
            limit,
            "
            tcp 192.0.2.1:80 -> no answer
            udp 192.0.2.1:53 -> no answer
            ping 192.0.2.1 -> no answer
            ",
        );
    });
}

#[test]
fn strangers_are_told_from_listeners() {
    lab::in_lab(|lab| {
        let world = space(&lab.world);
        let taken = lab.host.enter(|| TcpListener::bind("0.0.0.0:80").unwrap());
        let stranger = Outcome::Answered { by: STRANGER.into(), seen_from: "192.0.2.9".parse().unwrap() };
        thread::scope(|s| {
            s.spawn(|| drop(taken.accept().unwrap()));
            assert_eq!(ask(&world, "tcp 192.0.2.1:80", LIMIT), stranger);
        });
        let echo = lab.host.enter(|| std::net::UdpSocket::bind("192.0.2.1:53").unwrap());
        thread::scope(|s| {
            s.spawn(|| {
                let (len, from) = echo.recv_from(&mut [0; 64]).unwrap();
                echo.send_to(&[b'x'; 64][..len], from).unwrap();
            });
            assert_eq!(ask(&world, "udp 192.0.2.1:53", LIMIT), stranger);
        });
        let refused = Listener::open(&space(&lab.host), "host", Transport::Tcp, 80).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EADDRINUSE));
    });
}

#[test]
fn sctp_is_asked_where_the_kernel_has_it() {
    lab::in_lab(|lab| {
        let (host, world) = (space(&lab.host), space(&lab.world));
        let listener = Listener::open(&host, "host", Transport::Sctp, 36);
        if Transport::Sctp.supported() {
            let _listener = listener.unwrap();
            let table = "
                sctp 192.0.2.1:36 -> answered by host, asked from 192.0.2.9
                sctp [2001:db8::1]:36 -> answered by host, asked from 2001:db8::9
                sctp 192.0.2.1:37 -> refused
                ";
            expect(&world, LIMIT, table);
        } else {
            assert_eq!(listener.unwrap_err().raw_os_error(), Some(libc::EPROTONOSUPPORT));
            expect(&world, LIMIT, "sctp 192.0.2.1:36 -> not tried (sctp: Protocol not supported)");
        }
    });
}

#[test]
fn spaces_are_entered_by_one_thread_only() {
    lab::in_lab(|lab| {
        let links = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let here = links();
        assert!(space(&lab.world).within(links).unwrap().contains("w0:"));
        assert_eq!(Space::current().unwrap().within(links).unwrap(), here);
        assert_eq!(links(), here);
        for path in ["/run/netns/none", "/proc/self/status"] {
            assert_eq!(Space::open(Path::new(path)).unwrap_err().to_string(), "there is no such namespace");
        }
    });
}

#[test]
fn hundreds_of_ports_are_asked_at_once() {
    lab::in_lab(|lab| {
        let (host, world) = (space(&lab.host), space(&lab.world));
        let start = Instant::now();
        let ports: Vec<(Transport, u16)> =
            [Transport::Tcp, Transport::Udp].into_iter().cycle().zip(1000..1200).collect();
        let _listener = Listener::open_all(&host, "host", &ports).unwrap();
        let line =
            |(transport, port)| format!("{transport} 192.0.2.1:{port} -> answered by host, asked from 192.0.2.9");
        let table = ports.iter().copied().map(line).collect::<Vec<_>>().join("\n");
        expect(&world, LIMIT, &table);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

const FILE: &str = r#"
[networks.front]
subnet = ["10.20.0.0/24", "fd20::/64"]

[containers.web]
networks.front = { address = ["10.20.0.10", "fd20::10"] }
ports = ["8080:80", "8053:53/udp"]
"#;

fn flow(question: &str) -> Flow {
    let (how, to) = question.split_once(' ').unwrap();
    let port = |transport| {
        let to: SocketAddr = to.parse().unwrap();
        Flow { from: None, to: to.ip(), port: Some((transport, to.port())) }
    };
    match how {
        "ping" => Flow { from: None, to: to.parse().unwrap(), port: None },
        "tcp" => port(Transport::Tcp),
        _ => port(Transport::Udp),
    }
}

fn said(trace: &mut Trace, flow: usize) -> String {
    trace.verdict(flow).map_or_else(|| format!("seen: {}", trace.seen(flow)), |dropped| dropped.to_string())
}

/// Asks and traces all questions at once; a line is `QUESTION -> WHAT IS SAID OF IT`.
fn expect_drops(at: &Space, from: &Space, table: &str) {
    let lines: Vec<&str> = table.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let questions: Vec<&str> = lines.iter().map(|line| line.split_once(" -> ").unwrap().0).collect();
    let flows: Vec<Flow> = questions.iter().map(|question| flow(question)).collect();
    let mut trace = Trace::open(at, &flows).unwrap();
    thread::scope(|s| {
        for question in &questions {
            s.spawn(|| ask(from, question, Duration::from_millis(500)));
        }
    });
    let mut got = Vec::new();
    for (i, question) in questions.iter().enumerate() {
        got.push(format!("{question} -> {}", said(&mut trace, i)));
    }
    assert_eq!(lines.join("\n"), got.join("\n"));
}

#[test]
fn drops_are_traced_to_their_rules() {
    lab::in_lab(|lab| {
        lab.host.apply(FILE);
        drop(lab.host.settle());
        let (host, world) = (space(&lab.host), space(&lab.world));
        let web = Space::open(&lab.host.path("/run/netns/web")).unwrap();
        let _listener = Listener::open_all(&web, "web", &[(Transport::Tcp, 80), (Transport::Udp, 53)]).unwrap();
        expect_drops(
            &host,
            &world,
            "
            tcp 10.20.0.10:80 -> dropped in table inet netrec, chain forward-to.front, by rule 3: drop
            tcp [fd20::10]:80 -> dropped in table inet netrec, chain forward-to.front, by rule 3: drop
            udp 10.20.0.10:53 -> dropped in table inet netrec, chain forward-to.front, by rule 3: drop
            ping fd20::10 -> dropped in table inet netrec, chain forward-to.front, by rule 3: drop
            ping 10.20.0.10 -> dropped in table inet netrec, chain forward-to.front, by rule 3: drop
            tcp 10.20.0.1:7000 -> dropped in table inet netrec, chain input, by rule 4: ip daddr @gateway4 drop
            udp [fd20::1]:7000 -> dropped in table inet netrec, chain input, by rule 5: ip6 daddr @gateway6 drop
            tcp 192.0.2.1:8080 -> seen: true
            udp [2001:db8::1]:8053 -> seen: true
            ping 192.0.2.1 -> seen: true
            tcp 198.51.100.1:80 -> seen: false
            ",
        );
        expect(&world, LIMIT, "tcp 192.0.2.1:8080 -> answered by web, asked from 192.0.2.9");
        // Others' tables, and what the host itself sends.
        let tables = "
            table ip filter {
              chain FORWARD { type filter hook forward priority -1; policy drop; ct state established accept; }
            }
            table ip6 mine {
              chain out {
                type filter hook output priority 0
                tcp dport 9 counter drop comment \"nine\"
                udp dport 10 reject
              }
            }";
        lab.host.sh(&format!("nft '{tables}'"));
        expect_drops(
            &host,
            &world,
            "
            tcp 192.0.2.1:8080 -> dropped in table ip filter, chain FORWARD: policy drop
            tcp [2001:db8::1]:8080 -> seen: true
            ",
        );
        expect_drops(
            &host,
            &host,
            "
            tcp [2001:db8::9]:9 -> dropped in table ip6 mine, chain out, by rule 1: tcp dport 9 # not netrec's: counter drop # not netrec's: comment
            udp [2001:db8::9]:10 -> dropped in table ip6 mine, chain out, by rule 2: udp dport 10 # not netrec's: reject
            ",
        );
        // Nothing of it stays.
        assert_eq!(lab.host.sh("nft list tables"), "table inet netrec\ntable ip filter\ntable ip6 mine\n");
        assert_eq!(lab.host.plan(FILE).actions(), Vec::<String>::new());
    });
}

#[test]
fn other_programs_traces_are_not_taken_for_own() {
    lab::in_lab(|lab| {
        let (host, world) = (space(&lab.host), space(&lab.world));
        lab.host.sh(
            "nft 'table inet t { chain c { type filter hook input priority 0; meta nftrace set 1; tcp dport 80 drop; }; }'",
        );
        let short = Duration::from_millis(300);
        let port = |from: Option<&str>, port| {
            let from = from.map(|from| from.parse().unwrap());
            Flow { from, to: "192.0.2.1".parse().unwrap(), port: Some((Transport::Tcp, port)) }
        };
        let mut trace = Trace::open(&host, &[port(None, 81)]).unwrap();
        assert_eq!(ask(&world, "tcp 192.0.2.1:80", short), Outcome::Silent);
        assert_eq!(said(&mut trace, 0), "seen: false");
        assert_eq!(ask(&world, "tcp 192.0.2.1:81", LIMIT), Outcome::Refused);
        assert_eq!(said(&mut trace, 0), "seen: true");
        // Two at a time, flows that overlap, and more flows than go into one transaction.
        let mut flows = [port(Some("192.0.2.8"), 80), port(Some("192.0.2.9"), 80), port(None, 80)].to_vec();
        flows.extend((1000..1300).map(|number| port(None, number)));
        let mut many = Trace::open(&host, &flows).unwrap();
        assert_eq!(ask(&world, "tcp 192.0.2.1:80", short), Outcome::Silent);
        assert_eq!(ask(&world, "tcp 192.0.2.1:1299", LIMIT), Outcome::Refused);
        let dropped = "dropped in table inet t, chain c, by rule 2: tcp dport 80 drop";
        assert_eq!([0, 1, 2].map(|i| said(&mut many, i)), ["seen: false", dropped, dropped]);
        assert_eq!([300, 301, 302, 999].map(|i| many.seen(i)), [false, false, true, false]);
        assert_eq!(said(&mut trace, 0), "seen: true");
    });
}

#[test]
fn hundreds_of_drops_are_traced_at_once() {
    lab::in_lab(|lab| {
        let (host, world) = (space(&lab.host), space(&lab.world));
        lab.host.sh("nft 'table inet t { chain c { type filter hook input priority 0; meta l4proto udp drop; }; }'");
        let dropped = "dropped in table inet t, chain c, by rule 1: meta l4proto udp drop";
        let table: Vec<String> = (1000..1200).map(|port| format!("udp 192.0.2.1:{port} -> {dropped}")).collect();
        expect_drops(&host, &world, &table.join("\n"));
    });
}
