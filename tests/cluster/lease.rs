//! A host's own piece: another one by the file, one that is taken away, and what is said of it.

use std::thread;
use std::time::Duration;

use crate::bed::{Bed, Watching, in_bed, routes};
use crate::lab::until;

/// A member that is not there: its value.
pub(crate) fn peer(number: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{number}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:01:{number:02x}"}}}}"#
    )
}

/// Once the file asks for another piece nobody writes the one before any more, and nothing was lost.
#[test]
fn a_file_that_asks_for_another_piece_gets_it_once() {
    in_bed(1, |bed| {
        let host = &bed.hosts[0];
        let file = |piece: &str| {
            let more = format!("subnet = \"10.5.{piece}.0/24\"");
            format!("{}[containers.a1]\nnetworks = [\"wide\"]\n", Bed::network(&more))
        };
        let watch = Watching::start(host, &file("50"));
        watch.says(" applied ");
        let first = bed.etcd.revision();
        host.write("netrec.toml", &file("51"));
        let said = watch.says(" applied ");
        until("it has the other one", || bed.etcd.members().into_keys().collect::<Vec<_>>() == ["10.5.51.0-24"]);
        until("the container has moved", || bed.address("a1").starts_with("10.5.51."));
        // Time for whoever would write it back.
        thread::sleep(Duration::from_millis(700));
        assert_eq!(bed.etcd.revision(), first + 2, "one key came and one went");
        // The third piece, and at once the fourth.
        host.write("netrec.toml", &file("52"));
        host.write("netrec.toml", &file("53"));
        until("it has the last one", || bed.etcd.members().into_keys().collect::<Vec<_>>() == ["10.5.53.0-24"]);
        let last = bed.etcd.revision();
        thread::sleep(Duration::from_millis(700));
        assert_eq!(bed.etcd.revision(), last);
        let all = [said, watch.said_so_far().join("\n")].join("\n");
        assert!(!all.contains("lease-lost") && !all.contains("was this host's"), "{all}");
    });
}

/// A lease that is taken away is leased again, and that is told: once, and by whoever finds it.
#[test]
fn a_lease_that_is_taken_away_is_told_once() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        host.apply(&file);
        let key = bed.etcd.key_of("192.0.2.1");
        let piece = key.replace('-', "/");
        let full = format!("/coreos.com/network/subnets/{key}");
        let revoke = || {
            let text = bed.etcd.ctl(&["get", &full, "-w", "fields"]);
            let lease =
                text.lines().find_map(|line| line.strip_prefix("\"Lease\" : ")).unwrap().parse::<i64>().unwrap();
            bed.etcd.ctl(&["lease", "revoke", &format!("{lease:x}")]);
        };
        // A plan says so, and so does `status`, and nothing of it is done.
        revoke();
        let plan = host.plan(&file);
        assert_eq!((plan.actions(), plan.warnings()), (vec![], vec!["lease".to_owned(), "lease-lost".to_owned()]));
        let words =
            format!("! {piece} was this host's, and its lease is gone: nobody else has it, and apply leases it again");
        let status = host.try_netrec(&file, &["status"]).stdout;
        assert!(status.lines().any(|line| line == words), "{status}");
        assert!(bed.etcd.members().is_empty());
        let done = host.apply(&file);
        let said = done.json["warnings"][0]["message"].as_str().unwrap().to_owned();
        assert_eq!(
            said,
            format!("{piece} was this host's, and its lease was gone: nobody else has it, and it is leased again")
        );
        assert_eq!(bed.etcd.key_of("192.0.2.1"), key);
        // Under watch.
        let watch = Watching::start(host, &file);
        watch.says("matches");
        for _ in 0..2 {
            let before = bed.etcd.revision();
            revoke();
            let said = watch.says("lease-lost");
            assert!(said.contains(&format!("{piece} was this host's, and its lease was gone")), "{said}");
            until("it has it again", || bed.etcd.members().contains_key(&key));
            assert_eq!(bed.etcd.revision(), before + 2);
        }
        // Others that come and go do not have it said again.
        bed.etcd.put("/coreos.com/network/subnets/10.5.70.0-24", &peer(70));
        until("it is known", || routes(host).contains_key("10.5.70.0/24"));
        let all = watch.said_so_far().join("\n");
        assert!(!all.contains("lease-lost"), "{all}");
    });
}

/// A piece that somebody else has now: what is said of the containers' addresses is what has moved them.
#[test]
fn a_piece_that_is_anothers_now_is_told_before_it_is_left() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        host.apply(&file);
        let (key, old) = (bed.etcd.key_of("192.0.2.1"), bed.address("a1"));
        let piece = key.replace('-', "/");
        let full = format!("/coreos.com/network/subnets/{key}");
        bed.etcd.ctl(&["del", &full]);
        bed.etcd.put(&full, &peer(55));
        let plan = host.plan(&file);
        assert_eq!(plan.warnings(), ["lease", "lease-lost", "address-moved"]);
        let message = |index: usize| plan.json["warnings"][index]["message"].as_str().unwrap().to_owned();
        let lease = message(0);
        let new = lease.strip_prefix("this host has no piece of network `wide` yet: apply leases ").unwrap();
        assert_eq!(
            message(1),
            format!("{piece} was this host's, and is leased to 192.0.2.55 now: {new} is its piece instead")
        );
        let moved = message(2);
        assert!(moved.starts_with(&format!("the address of `eth0` in a1 moves from {old} to ")), "{moved}");
        assert!(moved.ends_with(&format!(" because this host's piece of network `wide` is {new} now")), "{moved}");
        assert!(host.try_netrec(&file, &["status"]).stdout.contains(&message(1)));
        host.apply(&file);
        assert_eq!(bed.etcd.key_of("192.0.2.1").replace('-', "/"), new);
        assert_eq!(host.plan(&file).warnings(), [""; 0], "it is over");
        // The file's own doing: the address goes with the piece, and nothing is lost.
        let fixed = file.replace("[cluster]\n", "[cluster]\nsubnet = \"10.5.201.0/24\"\n");
        let plan = host.plan(&fixed);
        assert_eq!(plan.warnings(), ["lease", "address-moved"]);
        let moved = plan.json["warnings"][1]["message"].as_str().unwrap();
        assert!(moved.ends_with(" because this host's piece of network `wide` is 10.5.201.0/24 now"), "{moved}");
    });
}

/// A host whose own address is another one keeps its piece, and all know where it is.
#[test]
fn a_host_whose_address_changes_keeps_its_piece() {
    in_bed(2, |bed| {
        let mut watches = bed.watch_on_all();
        until("each knows the other", || bed.hosts.iter().all(|host| routes(host).len() == 1));
        let (a, b) = (bed.etcd.key_of("192.0.2.1"), bed.etcd.key_of("192.0.2.2"));
        let address = bed.address("a1");
        // One that follows.
        bed.hosts[0].sh("ip addr del 192.0.2.1/24 dev eth0; ip addr add 192.0.2.51/24 dev eth0");
        let said = watches[0].says("cluster-address");
        assert!(said.contains("other hosts reach this one at 192.0.2.51 now, and not at 192.0.2.1 any more"), "{said}");
        // One that was asleep meanwhile.
        drop(watches.pop());
        bed.hosts[1].sh("ip addr del 192.0.2.2/24 dev eth0; ip addr add 192.0.2.52/24 dev eth0");
        watches.push(Watching::start(&bed.hosts[1], &Bed::file("b1")));
        let leads = |host: usize, to: &str| {
            let fdb = bed.hosts[host].run(["bridge", "fdb", "show", "dev", "vx-wide"]);
            fdb.contains(&format!(" dst {to} ")) && fdb.matches(" dst ").count() == 1
        };
        until("each knows where the other is", || leads(0, "192.0.2.52") && leads(1, "192.0.2.51"));
        assert_eq!((bed.etcd.key_of("192.0.2.51"), bed.etcd.key_of("192.0.2.52")), (a, b));
        assert_eq!(bed.etcd.members().len(), 2);
        assert_eq!(bed.address("a1"), address);
        bed.all_pairs();
    });
}

/// A plan leaves no trace, and a destroy takes along what tells other programs of the piece, where it still does.
#[test]
fn plans_leave_nothing_and_so_does_a_destroy() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        let memory = || {
            let files = std::fs::read_dir(host.path("/run/netrec")).into_iter().flatten().flatten();
            files.filter(|file| file.file_name().to_string_lossy().starts_with("cluster-")).count()
        };
        let env = host.path("/run/flannel/subnet.env");
        host.plan(&file);
        host.try_netrec(&file, &["status"]);
        host.try_netrec(&file, &["show"]);
        assert_eq!((memory(), env.exists(), bed.etcd.revision()), (0, false, 1));
        host.apply(&file);
        assert_eq!((memory(), env.exists()), (1, true));
        host.destroy(&file);
        assert_eq!((memory(), env.exists()), (0, false));
        // One that another program has written since is that one's; and a file of no cluster is an end, too.
        host.apply(&file);
        std::fs::write(&env, "FLANNEL_SUBNET=10.5.250.1/24\n").unwrap();
        host.apply("");
        assert_eq!((memory(), env.exists()), (0, true));
    });
}

/// Several who do the same for one host at once come to one entry.
#[test]
fn apply_beside_watch_is_one_member() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        let watch = Watching::start(host, &file);
        watch.says(" applied ");
        let key = bed.etcd.key_of("192.0.2.1");
        let before = bed.etcd.revision();
        for round in 0..3_i64 {
            bed.etcd.ctl(&["del", &format!("/coreos.com/network/subnets/{key}")]);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| host.apply(&file));
                }
            });
            until("it has it", || bed.etcd.members().into_keys().eq([key.clone()]));
            assert_eq!(bed.etcd.revision(), before + 2 * (round + 1), "one took it");
        }
        assert_eq!(host.plan(&file).actions(), [""; 0]);
    });
}
