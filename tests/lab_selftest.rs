//! The lab, tried with set-ups made by hand: its probes must tell an open way from a closed one, its snapshots and events
//! must see a change, and nothing of it may stay behind.

mod lab;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use lab::{Machine, NoAnswer, Snapshot, ruleset_generation};

/// A bridge, a container on it, a published port for each protocol, and masquerade, as people make them by hand.
const BY_HAND: &str = "
    ip netns add web
    ip -n web link set lo up
    ip link add br0 type bridge
    ip addr add 10.20.0.1/24 dev br0
    ip addr add fd20::1/64 dev br0 nodad
    ip link set br0 up
    ip link add veweb master br0 type veth peer name eth0 netns web
    ip link set veweb up
    ip -n web addr add 10.20.0.2/24 dev eth0
    ip -n web addr add fd20::2/64 dev eth0 nodad
    ip -n web link set eth0 up
    ip -n web route add default via 10.20.0.1
    ip -n web -6 route add default via fd20::1
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    nft -f - <<N
    table inet hand {
        chain pre {
            type nat hook prerouting priority dstnat
            fib daddr type local meta l4proto { tcp, udp, sctp } th dport 8080 dnat ip to 10.20.0.2:80
            fib daddr type local meta l4proto { tcp, udp, sctp } th dport 8080 dnat ip6 to [fd20::2]:80
        }
        chain post {
            type nat hook postrouting priority srcnat
            oifname uplink masquerade
        }
        chain forward {
            type filter hook forward priority filter
            iifname uplink ct status dnat accept
            iifname uplink ct state established accept
            iifname uplink drop
        }
    }
N
";

#[test]
fn probes_tell_open_from_closed_ways() {
    lab::in_lab(|lab| {
        lab.host.sh(BY_HAND);
        lab.host.sh("ip route add unreachable 203.0.113.0/24");
        let web = lab.container("web");
        let _web = [web.listen_tcp("web", "[::]:80"), web.listen_udp("web", "[::]:80")];
        let _sctp = web.listen_sctp("web", 80);
        let _world = [lab.world.listen_tcp("world", "[::]:443"), lab.world.listen_udp("world", "[::]:53")];
        lab.expect(
            "
            world tcp  192.0.2.1:8080        -> web sees 192.0.2.9
            world tcp  [2001:db8::2]:8080    -> web sees 2001:db8::9
            world udp  192.0.2.2:8080        -> web sees 192.0.2.9
            world udp  [2001:db8::1]:8080    -> web sees 2001:db8::9
            world sctp 192.0.2.1:8080        -> web sees 192.0.2.9
            world sctp [2001:db8::1]:8080    -> web sees 2001:db8::9
            web   tcp  192.0.2.9:443         -> world sees 192.0.2.1
            web   tcp  [2001:db8::9]:443     -> world sees 2001:db8::1
            web   udp  192.0.2.9:53          -> world sees 192.0.2.1
            host  tcp  10.20.0.2:80          -> web sees 10.20.0.1
            web   ping 192.0.2.9             -> answer
            web   ping 2001:db8::9           -> answer
            host  ping fd20::2               -> answer
            world tcp  10.20.0.2:80          -> blocked   # there is a route
            world udp  [fd20::2]:80          -> blocked
            world sctp 10.20.0.2:80          -> blocked
            world ping 10.20.0.2             -> blocked
            world tcp  192.0.2.1:81          -> refused
            world udp  [2001:db8::1]:81      -> refused
            host  tcp  203.0.113.1:1         -> unreachable (No route to host)
            ",
        );
    });
}

#[test]
fn a_failed_expectation_names_its_line() {
    lab::in_lab(|lab| {
        let failed = std::panic::catch_unwind(|| {
            lab.expect("world tcp 192.0.2.1:81 -> host sees 192.0.2.9\nworld ping 192.0.2.1 -> answer");
        });
        let message = failed.expect_err("nobody listens there");
        assert_eq!(
            message.downcast_ref::<String>().expect("a message"),
            "expected (-) and tried (+):\n- world tcp 192.0.2.1:81 -> host sees 192.0.2.9\n+ world tcp 192.0.2.1:81 -> refused\n"
        );
    });
}

#[test]
fn connections_live_and_datagrams_keep_their_port() {
    lab::in_lab(|lab| {
        let host = lab.host.listen_tcp("host", "192.0.2.1:80");
        let mut conn = lab.world.connect("192.0.2.1:80").expect("a connection").impatient();
        assert_eq!(conn.echo("one").as_deref(), Ok("one"));
        lab.host
            .sh("nft add table inet t; nft add chain inet t in '{ type filter hook input priority 0; policy drop; }'");
        assert_eq!(conn.echo("two"), Err(NoAnswer::Blocked));
        lab.host.sh("nft flush ruleset");
        drop(host);
        // What was kept back is sent again, or the end of the listener is seen first.
        assert!(matches!(conn.echo("three").as_deref(), Ok("two") | Err(NoAnswer::Broken)));

        let _udp = lab.host.listen_udp("host", "192.0.2.1:53");
        lab.host
            .sh("nft add table inet t; nft add chain inet t in '{ type filter hook input priority 0; policy drop; }'");
        lab.host.sh("nft add rule inet t in udp sport 5353 accept");
        let flow = lab.world.udp_flow_from(5353, "192.0.2.1:53").expect("a socket");
        assert_eq!(flow.ask().expect("an answer").to_string(), "host sees 192.0.2.9");
        assert_eq!(lab.world.udp("192.0.2.1:53"), Err(NoAnswer::Blocked));
    });
}

#[test]
fn a_snapshot_sees_every_change_and_nothing_else() {
    lab::in_lab(|lab| {
        lab.host.sh(BY_HAND);
        let _quiet = lab.host.settle();
        let before = Snapshot::of_machine(&lab.host);
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
        // Traffic leaves neighbours, conntrack entries and counters behind, none of which is set-up.
        lab.host.ping("10.20.0.2").expect("an answer");
        lab.container("web").ping("2001:db8::9").expect("an answer");
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
        // Each of these is seen, and gone again when undone.
        for (change, undo, seen) in [
            ("ip link set br0 mtu 1400", "ip link set br0 mtu 1500", "address link sysctl"),
            ("ip -n web addr add 10.9.9.9/32 dev lo", "ip -n web addr del 10.9.9.9/32 dev lo", "address route"),
            ("ip route add 10.9.0.0/16 dev uplink", "ip route del 10.9.0.0/16", "route"),
            ("ip rule add pref 9 table 9", "ip rule del pref 9", "rule"),
            ("ip neigh add 10.20.0.9 lladdr 02:00:00:00:00:09 dev br0", "ip neigh del 10.20.0.9 dev br0", "neighbour"),
            (
                "bridge fdb add 02:00:00:00:00:09 dev veweb master static",
                "bridge fdb del 02:00:00:00:00:09 dev veweb master",
                "fdb",
            ),
            ("nft add table inet x", "nft delete table inet x", "nft"),
            ("tc qdisc add dev uplink root pfifo", "tc qdisc del dev uplink root", "address link qdisc"),
            ("sysctl -qw net.ipv4.conf.br0.rp_filter=2", "sysctl -qw net.ipv4.conf.br0.rp_filter=0", "sysctl"),
        ] {
            lab.host.sh(change);
            let diff = before.diff(&Snapshot::of_machine(&lab.host));
            let mut sections: Vec<&str> =
                diff.lines().filter_map(|l| l[2..].trim_start_matches("in web: ").split(' ').next()).collect();
            sections.sort_unstable();
            sections.dedup();
            assert_eq!(sections.join(" "), seen, "{change}:\n{diff}");
            lab.host.sh(undo);
            assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "", "{undo}");
        }
        lab.host.sh("ip netns add other");
        let diff = before.diff(&Snapshot::of_machine(&lab.host));
        assert!(diff.starts_with("+ namespace other\n"), "{diff}");
    });
}

#[test]
fn events_tell_of_changes_in_every_place() {
    lab::in_lab(|lab| {
        lab.host.sh(BY_HAND);
        let events = lab.host.settle();
        let generation = ruleset_generation(&lab.host);
        lab.host.run(["nft", "list", "ruleset"]);
        lab.host.run(["ip", "link"]);
        events.quiet();
        assert_eq!(ruleset_generation(&lab.host), generation);
        for (change, told) in [
            ("ip link set br0 alias x", "NewLink"),
            ("ip addr add 10.9.9.9/32 dev lo", "NewAddress"),
            ("ip -n web route add 10.9.0.0/16 dev eth0", "NewRoute"),
            ("ip neigh add 10.20.0.9 lladdr 02:00:00:00:00:09 dev br0", "NewNeighbour"),
            ("sysctl -qw net.ipv4.conf.br0.forwarding=0", "rtnetlink message 80"),
            ("nft add table inet x", "nftables message 15"),
        ] {
            lab.host.sh(change);
            let lines = events.take();
            assert!(lines.iter().any(|l| l.contains(told)), "{change}: {lines:#?}");
        }
        assert_eq!(ruleset_generation(&lab.host), generation + 1);
    });
}

#[test]
fn machines_do_not_see_each_other() {
    lab::sandbox(|| {
        let (a, b) = (Machine::new("a"), Machine::new("b"));
        a.run(["ip", "netns", "add", "web"]);
        assert_eq!(a.netns_names(), ["web"]);
        assert_eq!(b.netns_names(), [""; 0]);
        assert_eq!(b.run(["uname", "-n"]), "b\n");
        // Init and the shell.
        assert_eq!(b.sh("set -- /proc/[0-9]*; echo $#"), "2\n");
        let file = a.write("hello", "hello\n");
        assert_eq!(a.run(["cat", &file]), "hello\n");
        assert_eq!(b.try_run(["cat", &file]).status, 1);
        a.link(&b, "eth0", "eth0");
        a.add_address("eth0", "10.0.0.1/24");
        b.add_address("eth0", "10.0.0.2/24");
        a.ping("10.0.0.2").expect("an answer");
    });
}

#[test]
fn http_is_spoken() {
    lab::in_lab(|lab| {
        let listener = lab.host.enter(|| std::net::TcpListener::bind("192.0.2.1:9000")).expect("a listener");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 512];
            let n = stream.read(&mut request).expect("a request");
            stream.write_all(b"HTTP/1.0 404 Not Found\r\nX: y\r\n\r\nno\r\n\r\nsuch thing").expect("an answer");
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let answer = lab.world.http_get("192.0.2.1:9000", "/metrics").expect("an answer");
        assert_eq!(answer, (404, "no\r\n\r\nsuch thing".to_owned()));
        let request = server.join().expect("the server");
        assert_eq!(request, "GET /metrics HTTP/1.0\r\nHost: 192.0.2.1:9000\r\nConnection: close\r\n\r\n");
        assert_eq!(lab.world.http_get("192.0.2.1:9001", "/"), Err(NoAnswer::Refused));
    });
}

#[test]
fn features_are_told_apart() {
    lab::sandbox(|| {
        assert!(lab::kernel::has("bridge"));
        assert!(!lab::kernel::has("no-such-device"));
    });
}

/// A test that is killed leaves nothing: this one starts itself as a child, which says where it is and waits to be killed.
#[test]
#[allow(clippy::zombie_processes)] // if this fails, the victim is killed by nobody but its own time limit
fn nothing_outlives_a_killed_test() {
    const VICTIM: &str = "NETREC_LAB_VICTIM";
    if let Some(path) = std::env::var_os(VICTIM) {
        lab::in_lab(|lab| {
            lab.host.sh(BY_HAND);
            let child = lab.host.spawn(Command::new("sleep").arg("600")).expect("a process");
            fs::write(&path, format!("{} {}", lab.host.holder(), child.id())).expect("the victim's word");
            std::thread::park();
        });
        return;
    }
    let word = std::env::temp_dir().join(format!("netrec-lab-{}", std::process::id()));
    let mut victim = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "nothing_outlives_a_killed_test"])
        .env(VICTIM, &word)
        .stdout(Stdio::null())
        .spawn()
        .expect("the victim");
    let mine = |pid: u32| -> Vec<u32> {
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|p: &u32| descends(*p, pid)).collect()
    };
    lab::until("the victim is ready", || fs::read_to_string(&word).is_ok_and(|t| t.contains(' ')));
    let started = mine(victim.id());
    assert!(started.len() >= 5, "unshare, the test as init, two holders, sleep: {started:?}");
    victim.kill().expect("killing the victim");
    victim.wait().expect("the victim's end");
    lab::until("all that it started is gone", || !started.iter().any(|p| alive(*p)));
    fs::remove_file(&word).expect("the victim's word");
}

fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    Some((rest.next()?.to_owned(), rest.next()?.parse().ok()?))
}

fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn descends(pid: u32, from: u32) -> bool {
    let mut at = pid;
    while let Some((_, parent)) = stat(at) {
        if parent == from {
            return true;
        }
        at = parent;
    }
    false
}
