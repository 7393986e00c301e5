//! An etcd of three that loses one, one that hangs, and one that is full.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bed::{Bed, ETCD, Etcd, Watching, in_bed, routes};
use crate::lab::{Events, Machine, until};
use crate::lease::peer;

fn vxlan(ip: &str, number: usize) -> String {
    let mac = format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256);
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// Whichever of three goes, the leader too, what is written is heard.
#[test]
fn an_etcd_of_three_that_loses_its_leader() {
    in_bed(1, |bed| {
        let peers: Vec<String> = (1..=3).map(|n| format!("e{n}=http://192.0.2.{}:2380", 90 + n)).collect();
        let start = |n: usize| {
            let machine = Machine::new(&format!("etcd{n}"));
            bed.plug_in(&machine, 90 + n);
            let (client, peer) = (format!("http://192.0.2.{}:2379", 90 + n), format!("http://192.0.2.{}:2380", 90 + n));
            let clients = format!("{client},http://127.0.0.1:2379");
            let more = [
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &peers.join(","),
            ];
            Etcd::start(machine, &format!("e{n}"), &more)
        };
        let mut etcds: Vec<Etcd> = (1..=3).map(start).collect();
        etcds.iter().for_each(Etcd::answers);
        let all = "[\"http://192.0.2.91:2379\", \"http://192.0.2.92:2379\", \"http://192.0.2.93:2379\"]";
        let watch = Watching::start(&bed.hosts[0], &Bed::file("a1").replace(&format!("\"{ETCD}\""), all));
        watch.says(" applied ");
        let leader = etcds.iter().position(|etcd| {
            let status = etcd.ctl(&["endpoint", "status", "-w", "fields"]);
            let field =
                |name: &str| status.lines().find_map(|l| l.strip_prefix(&format!("\"{name}\" : ")).map(str::to_owned));
            field("MemberID").is_some() && field("MemberID") == field("Leader")
        });
        let leader = leader.expect("one of them leads");
        let third = (leader + 1) % 3;
        for (number, lost) in [leader, third].into_iter().enumerate() {
            etcds[lost].stop();
            let other = &etcds[(leader + 2) % 3];
            if number == 0 {
                other.answers();
                other.put("/coreos.com/network/subnets/10.5.70.0-24", &vxlan("192.0.2.170", 170));
                until("it is known", || routes(&bed.hosts[0]).contains_key("10.5.70.0/24"));
                etcds[lost].start_again();
                continue;
            }
            other.answers();
            other.ctl(&["del", "/coreos.com/network/subnets/10.5.70.0-24"]);
            until("it is forgotten", || routes(&bed.hosts[0]).is_empty());
        }
        // With one of three nobody decides anything, and what is known stays.
        let before = watch.ticks();
        etcds[leader].stop();
        let begun = Instant::now();
        assert_eq!(bed.hosts[0].plan(&Bed::file("a1").replace(&format!("\"{ETCD}\""), all)).actions(), [""; 0]);
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        let (used, time) = (watch.ticks() - before, begun.elapsed());
        assert!(u128::from(used) * 10 < time.as_millis() / 3, "{used} ticks in {} ms", time.as_millis());
    });
}

/// What follows an etcd of several goes on by the one that answers: nothing is listed again for a change.
#[test]
fn an_endpoint_that_is_dead_is_left() {
    in_bed(1, |bed| {
        let host = &bed.hosts[0];
        let both = format!("[\"http://192.0.2.90:9\", \"{ETCD}\"]");
        let watch = Watching::start(host, &Bed::file("a1").replace(&format!("\"{ETCD}\""), &both));
        watch.says(" applied ");
        let asked = |method: &str| -> u64 {
            let (status, text) = host.http_get("192.0.2.90:2379", "/metrics").unwrap();
            assert_eq!(status, 200);
            let method = format!("grpc_method=\"{method}\"");
            let line =
                text.lines().find(|line| line.starts_with("grpc_server_started_total") && line.contains(&method));
            line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
        };
        until("it follows", || asked("Watch") == 1);
        let before = asked("Range");
        for n in 70..73 {
            bed.etcd.put(&format!("/coreos.com/network/subnets/10.5.{n}.0-24"), &peer(n));
            until("it is known", || routes(host).contains_key(&format!("10.5.{n}.0/24")));
        }
        assert_eq!((asked("Watch"), asked("Range")), (1, before));
    });
}

/// One that stands still most of the time is waited for.
#[test]
fn an_etcd_that_answers_slowly_is_waited_for() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let begun = Instant::now();
                while !done.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_mins(1) {
                    bed.etcd.signal(Signal::SIGSTOP);
                    thread::sleep(Duration::from_millis(300));
                    bed.etcd.signal(Signal::SIGCONT);
                    thread::sleep(Duration::from_millis(30));
                }
            });
            let watch = Watching::start(host, &file);
            watch.says(" applied ");
            bed.etcd.put("/coreos.com/network/subnets/10.5.70.0-24", &peer(70));
            until("it is known", || routes(host).contains_key("10.5.70.0/24"));
            let plan = host.plan(&file);
            done.store(true, Ordering::Relaxed);
            assert_eq!((plan.actions(), plan.warnings()), (vec![], vec![]));
            let said = watch.said_so_far().join("\n");
            assert!(!said.contains("cluster-away"), "{said}");
        });
    });
}

#[test]
fn an_etcd_that_hangs_is_not_waited_for() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        host.apply(&file);
        bed.etcd.signal(Signal::SIGSTOP);
        let plan = host.plan(&file);
        assert_eq!((plan.actions(), plan.warnings()), (vec![], vec!["cluster-away".to_owned()]));
        let said = plan.json["warnings"][0]["message"].as_str().unwrap();
        let words = "etcd cannot be asked (http://192.0.2.90:2379: no answer within 5 s): the hosts of network `wide` are those";
        assert!(said.starts_with(words), "{said}");
        bed.etcd.signal(Signal::SIGCONT);
        assert_eq!(host.plan(&file).warnings(), [""; 0]);
    });
}

/// All are known soon after the start, and one more soon after it came. How soon is said in the file
/// `NETREC_LEASES_REPORT`; `NETREC_LEASES` says how many.
#[test]
fn a_cluster_of_many() {
    in_bed(1, |bed| {
        let count: usize = std::env::var("NETREC_LEASES").map_or(300, |count| count.parse().unwrap());
        let host = &bed.hosts[0];
        // Where packets to them would go.
        host.sh("ip route add 172.16.0.0/12 via 192.0.2.99");
        let numbers: Vec<usize> = (1..=count).collect();
        let address = |n: usize| format!("172.16.{}.{}", n / 250, n % 250 + 1);
        let piece = |n: usize| format!("10.{}.{}.0", 64 + n / 256, n % 256);
        for some in numbers.chunks(100) {
            let mut text = "\n".to_owned();
            for n in some {
                let value = vxlan(&address(*n), *n).replace('"', "\\\"");
                let _ = writeln!(text, "put /coreos.com/network/subnets/{}-24 \"{value}\"", piece(*n));
            }
            let mut etcdctl = Command::new("sh");
            etcdctl.args(["-c", "printf %s \"$1\" | etcdctl txn >/dev/null", "sh", &format!("{text}\n\n")]);
            etcdctl.stdin(Stdio::null());
            assert!(bed.etcd.machine.spawn(&mut etcdctl).unwrap().wait().unwrap().success());
        }
        assert_eq!(bed.etcd.members().len(), count);
        let begun = Instant::now();
        let watch = Watching::start(host, &Bed::file("a1").replace("10.5.0.0/16", "10.64.0.0/10"));
        watch.says(" applied ");
        let first = begun.elapsed();
        let known = || host.run(["ip", "route", "show", "proto", "78"]).lines().count();
        assert_eq!(known(), count + 1, "and one for what is nobody's");
        let mut times = Vec::new();
        for n in count + 1..count + 6 {
            let changes = Events::of(host);
            bed.etcd.put(&format!("/coreos.com/network/subnets/{}-24", piece(n)), &vxlan(&address(n), n));
            let put = Instant::now();
            let route = format!("Destination(Inet({}))", piece(n));
            until("it is known", || changes.take().iter().any(|line| line.contains(&route)));
            times.push(put.elapsed().as_millis());
        }
        if let Ok(report) = std::env::var("NETREC_LEASES_REPORT") {
            let text = format!("{count} leases: applied after {} ms; one more after {times:?} ms\n", first.as_millis());
            std::fs::write(report, text).unwrap();
        }
        assert_eq!(known(), count + 6);
    });
}
