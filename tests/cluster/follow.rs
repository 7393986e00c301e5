//! What a watch makes of members that come and go, and of an etcd that does.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bed::{Bed, Watching, in_bed, routes};
use crate::lab::{Events, until};

#[test]
fn members_come_and_go_and_come_again() {
    in_bed(5, |bed| {
        let begun = Instant::now();
        let mut watches = bed.watch_on_all();
        until("each has a piece", || bed.etcd.members().len() == 5);
        let leased = begun.elapsed();
        until("each knows all", || bed.hosts.iter().all(|host| routes(host).len() == 4));
        bed.all_pairs();
        let reached = begun.elapsed();
        // Two seconds on a machine that does nothing else.
        println!(
            "five hosts leased after {} ms, reached each other after {} ms",
            leased.as_millis(),
            reached.as_millis()
        );
        assert!(reached < Duration::from_secs(20), "{} ms", reached.as_millis());
        for watch in &watches {
            watch.says(" applied ");
        }
        // One leaves: its lease is gone.
        let key = bed.etcd.key_of("192.0.2.5");
        drop(watches.pop());
        bed.etcd.ctl(&["del", &format!("/coreos.com/network/subnets/{key}")]);
        until("nobody knows it", || bed.hosts[..4].iter().all(|host| routes(host).len() == 3));
        for host in &bed.hosts[..4] {
            assert!(!routes(host).contains_key(&key.replace('-', "/")));
            assert!(!host.run(["bridge", "fdb", "show", "dev", "vx-wide"]).contains("192.0.2.5"));
            assert_eq!(host.run(["ip", "neigh", "show", "dev", "vx-wide", "nud", "permanent"]).lines().count(), 3);
        }
        // It returns, and has what it had.
        watches.push(Watching::start(&bed.hosts[4], &Bed::file("e1")));
        until("each knows all again", || bed.hosts.iter().all(|host| routes(host).len() == 4));
        assert_eq!(bed.etcd.key_of("192.0.2.5"), key);
        bed.all_pairs();
    });
}

#[test]
fn an_etcd_that_goes_away_takes_nobody_along() {
    in_bed(2, |bed| {
        let watches = bed.watch_on_all();
        until("each knows the other", || bed.hosts.iter().all(|host| routes(host).len() == 1));
        for watch in &watches {
            watch.says(" applied ");
        }
        // Nothing comes for minutes: whether etcd is still there is asked for now and then.
        let asked = || bed.hosts[0].run(["ss", "-tnoH", "dst", "192.0.2.90"]).contains("timer:(keepalive,");
        until("the connection is kept alive", asked);
        bed.etcd.stop();
        let said = watches[0].says("stay in force");
        assert!(said.ends_with("etcd cannot be asked (http://192.0.2.90:2379: nobody listens there); the peers that are known stay in force code=\"cluster-away\""), "{said}");
        let before = watches[0].ticks();
        let begun = Instant::now();
        let file = Bed::file("a1");
        let plan = bed.hosts[0].plan(&file);
        assert_eq!(plan.actions(), [""; 0]);
        assert_eq!(plan.warnings(), ["cluster-away"]);
        let status = bed.hosts[0].try_netrec(&file, &["status"]);
        let since = status.stdout.lines().find(|line| line.contains("are those that were known at 20"));
        assert!(since.is_some_and(|line| line.ends_with(" UTC")), "{}", status.stdout);
        // What others break is mended meanwhile.
        bed.hosts[0].sh("ip route del $(ip -o route show proto 78 | grep onlink | cut -d' ' -f1)");
        until("it is mended", || routes(&bed.hosts[0]).len() == 1);
        bed.all_pairs();
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        let used = watches[0].ticks() - before;
        assert!(used < 60, "{used} ticks in {} ms", begun.elapsed().as_millis());
        bed.etcd.start_again();
        watches[0].says("etcd answers again");
        // What happens from now on is heard; what happened before it is forgotten by etcd, too.
        let config = bed.etcd.ctl(&["get", "--print-value-only", "/coreos.com/network/config"]);
        for _ in 0..3 {
            bed.etcd.put("/coreos.com/network/config", config.trim());
        }
        let third = r#"{"PublicIP":"192.0.2.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}"#;
        bed.etcd.put("/coreos.com/network/subnets/10.5.77.0-24", third);
        until("both know a third", || bed.hosts.iter().all(|host| routes(host).contains_key("10.5.77.0/24")));
    });
}

/// What happened while nobody could listen is known afterwards, though etcd has forgotten how it came about.
#[test]
fn what_was_compacted_meanwhile_is_listed_again() {
    in_bed(1, |bed| {
        let watch = Watching::start(&bed.hosts[0], &Bed::file("a1"));
        watch.says(" applied ");
        let value = |n: u8| {
            format!(
                r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{n}"}}}}"#
            )
        };
        bed.etcd.put("/coreos.com/network/subnets/10.5.70.0-24", &value(70));
        until("it is known", || routes(&bed.hosts[0]).contains_key("10.5.70.0/24"));
        watch.signal(Signal::SIGSTOP);
        bed.etcd.stop();
        bed.etcd.start_again();
        bed.etcd.ctl(&["del", "/coreos.com/network/subnets/10.5.70.0-24"]);
        for n in 71..80 {
            bed.etcd.put(&format!("/coreos.com/network/subnets/10.5.{n}.0-24"), &value(n));
        }
        let said = bed.etcd.ctl(&["get", "x", "-w", "json"]);
        let revision = said.split("\"revision\":").nth(1).unwrap().split(',').next().unwrap();
        bed.etcd.ctl(&["compact", "--physical", revision]);
        watch.signal(Signal::SIGCONT);
        let wanted: Vec<String> = (71..80).map(|n| format!("10.5.{n}.0/24")).collect();
        until("all are known", || routes(&bed.hosts[0]).into_keys().collect::<Vec<_>>() == wanted);
    });
}

#[test]
fn a_piece_that_somebody_else_has_taken_is_given_up() {
    in_bed(2, |bed| {
        let watches = bed.watch_on_all();
        until("each knows the other", || bed.hosts.iter().all(|host| routes(host).len() == 1));
        let key = bed.etcd.key_of("192.0.2.1");
        let others = r#"{"PublicIP":"192.0.2.55","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:55"}}"#;
        // It sleeps while its lease ends and somebody else gets the piece.
        watches[0].signal(Signal::SIGSTOP);
        let full = format!("/coreos.com/network/subnets/{key}");
        bed.etcd.ctl(&["del", &full]);
        bed.etcd.put(&full, others);
        watches[0].signal(Signal::SIGCONT);
        let said = watches[0].says("was this host's");
        let piece = key.replace('-', "/");
        assert!(said.contains(&format!("{piece} was this host's, and is leased to 192.0.2.55 now: 10.5.")), "{said}");
        let second = bed.etcd.key_of("192.0.2.1");
        assert_ne!(second, key);
        assert_eq!(bed.etcd.members()[&key], others, "what is another's stays");
        // Both know all, and the container has moved.
        let new = second.replace('-', "/");
        until("all have moved", || {
            let (a, b) = (routes(&bed.hosts[0]), routes(&bed.hosts[1]));
            a.contains_key(&piece) && a.len() == 2 && b.contains_key(&piece) && b.contains_key(&new) && b.len() == 2
        });
        until("the container has moved", || bed.address("a1").starts_with(new.trim_end_matches("0/24")));
        bed.all_pairs();
    });
}

#[test]
fn a_lease_is_renewed_and_a_reservation_stays_one() {
    in_bed(2, |bed| {
        let flannels = |n: u8| {
            format!(
                r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:4{n}"}}}}"#
            )
        };
        // One that lives for three seconds, and one for ever, both as flannel has left them.
        let granted = bed.etcd.ctl(&["lease", "grant", "3"]);
        let lease = granted.split_whitespace().nth(1).unwrap().to_owned();
        bed.etcd.ctl(&["put", "--lease", &lease, "/coreos.com/network/subnets/10.5.41.0-24", &flannels(1)]);
        bed.etcd.put("/coreos.com/network/subnets/10.5.42.0-24", &flannels(2));
        let _watches = bed.watch_on_all();
        until("each knows the other", || bed.hosts.iter().all(|host| routes(host).len() == 1));
        let entries = || bed.etcd.ctl(&["get", "--prefix", "/coreos.com/network/subnets/", "-w", "fields"]);
        let fields = |name: &str| -> Vec<String> {
            let text = entries();
            let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("\"{name}\" : ")).map(str::to_owned));
            lines.collect()
        };
        let own = fields("Lease");
        assert_eq!(own, [i64::from_str_radix(&lease, 16).unwrap().to_string(), "0".to_owned()]);
        let written = fields("ModRevision");
        let begun = Instant::now();
        // Renewed without being written again.
        while begun.elapsed() < Duration::from_secs(5) {
            assert_eq!(fields("ModRevision"), written);
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(bed.etcd.members().into_keys().collect::<Vec<_>>(), ["10.5.41.0-24", "10.5.42.0-24"]);
        bed.all_pairs();
    });
}

/// From the moment that etcd has it, a new member is in the kernel within a tenth of a second.
#[test]
fn a_new_member_is_known_soon() {
    in_bed(1, |bed| {
        let watch = Watching::start(&bed.hosts[0], &Bed::file("a1"));
        watch.says(" applied ");
        let mut times = Vec::new();
        for n in 100..110 {
            let value = format!(
                r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:01:{}"}}}}"#,
                n - 90
            );
            let changes = Events::of(&bed.hosts[0]);
            bed.etcd.put(&format!("/coreos.com/network/subnets/10.5.{n}.0-24"), &value);
            let begun = Instant::now();
            let route = format!("Destination(Inet(10.5.{n}.0))");
            while !changes.take().iter().any(|line| line.contains(&route)) {
                assert!(begun.elapsed() < Duration::from_secs(30), "no {route}");
                thread::sleep(Duration::from_millis(1));
            }
            times.push(begun.elapsed());
        }
        times.sort();
        // Half of them on a busy machine, all of them on an idle one.
        assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    });
}
