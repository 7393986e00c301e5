//! What goes wrong with etcd, and what is in it that should not be: one clear line, and nothing applied from it.

use crate::bed::{Bed, ETCD, Watching, in_bed, routes};
use crate::lab::{Output, until};
use crate::lease::peer;

/// What a plan says of an error.
fn error(said: &Output) -> &str {
    assert_eq!(said.status, 1, "{}{}", said.stdout, said.stderr);
    said.stderr.trim_end()
}

#[test]
fn an_etcd_that_is_not_there_or_not_as_it_should_be() {
    in_bed(1, |bed| {
        let host = &bed.hosts[0];
        let file = Bed::file("a1");
        let plan = |file: &str| host.try_netrec(file, &["plan"]);
        let nothing = "; nothing is known of the cluster's hosts from before";
        // Nobody listens, at any of two.
        let two = format!("[\"http://192.0.2.90:9\", \"{}\"]", ETCD.replace("2379", "7"));
        let said = plan(&file.replace(&format!("\"{ETCD}\""), &two));
        assert_eq!(
            error(&said),
            format!(
                "error: etcd cannot be asked (http://192.0.2.90:9: nobody listens there; http://192.0.2.90:7: nobody listens there){nothing}"
            )
        );
        // The second one answers.
        let second = file.replace(&format!("\"{ETCD}\""), &format!("[\"http://192.0.2.90:9\", \"{ETCD}\"]"));
        assert_eq!(host.plan(&second).warnings(), ["lease", "cluster-config", "forwarding-enabled"]);
        // A configuration that is not this network's.
        bed.etcd.put("/coreos.com/network/config", r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan"}}"#);
        assert_eq!(
            error(&plan(&file)),
            format!(
                "error: `/coreos.com/network/config` in etcd has `Network` 10.6.0.0/16, and network `wide` of the file 10.5.0.0/16: they have to agree{nothing}"
            )
        );
        bed.etcd.put("/coreos.com/network/config", "\u{1b}[31m{");
        let said = plan(&file);
        assert!(error(&said).starts_with(
            "error: `/coreos.com/network/config` in etcd is no configuration of flannel's: it is no JSON ("
        ));
        bed.etcd.ctl(&["del", "/coreos.com/network/config"]);
        // A user who is none, a password that all can read, and the right one.
        for args in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
        {
            bed.etcd.try_ctl(args);
        }
        assert_eq!(
            error(&plan(&file)),
            format!("error: etcd at {ETCD} refuses: etcdserver: user name is empty{nothing}")
        );
        let path = host.write("password", "wrong\n");
        let user = file.replace("[cluster]\n", &format!("[cluster]\nuser = \"root\"\npassword_file = \"{path}\"\n"));
        assert_eq!(
            error(&plan(&user)),
            format!("error: {path} holds a password, and anybody can read it: chmod 600 it{nothing}")
        );
        host.sh(&format!("chmod 600 {path}"));
        assert_eq!(
            error(&plan(&user)),
            format!(
                "error: etcd at {ETCD} refuses: etcdserver: authentication failed, invalid user ID or password{nothing}"
            )
        );
        host.sh(&format!("echo secret >{path}"));
        assert_eq!(host.plan(&user).warnings(), ["lease", "cluster-config", "forwarding-enabled"]);
        host.apply(&user);
        // Nothing of all that was lost or changed.
        assert_eq!(host.plan(&user).actions(), [""; 0]);
        host.sh(&format!("echo wrong >{path}"));
        let plan = host.plan(&user);
        assert_eq!((plan.actions(), plan.warnings()), (vec![], vec!["cluster-away".to_owned()]));
    });
}

#[test]
fn a_certificate_that_is_none() {
    in_bed(1, |bed| {
        let host = &bed.hosts[0];
        // An authority, and certificates of etcd's that hold and that have run out.
        host.sh(
            "cd /run/lab
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=ca 2>/dev/null
             printf 'subjectAltName=IP:192.0.2.90\\nextendedKeyUsage=serverAuth,clientAuth\\n' >ext
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout etcd.key -out etcd.csr -subj /CN=etcd 2>/dev/null
             openssl x509 -req -in etcd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out good.pem -days 30 -extfile ext 2>/dev/null
             faketime -f -400d openssl x509 -req -in etcd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out old.pem -days 30 -extfile ext 2>/dev/null",
        );
        for name in ["ca.pem", "etcd.key", "good.pem", "old.pem"] {
            std::fs::copy(host.path(format!("/run/lab/{name}")), bed.etcd.machine.path(format!("/run/lab/{name}")))
                .unwrap();
        }
        let tls =
            Bed::file("a1").replace(&format!("\"{ETCD}\""), "\"https://192.0.2.90:2479\"\nca = \"/run/lab/ca.pem\"");
        for (certificate, said) in [("old", Some("invalid peer certificate: certificate expired")), ("good", None)] {
            let _etcd = bed.etcd.second(&[
                "--listen-client-urls",
                "https://192.0.2.90:2479",
                "--advertise-client-urls",
                "https://192.0.2.90:2479",
                "--cert-file",
                &format!("/run/lab/{certificate}.pem"),
                "--key-file",
                "/run/lab/etcd.key",
                "--client-cert-auth",
                "--trusted-ca-file",
                "/run/lab/ca.pem",
            ]);
            let identity = "ca = \"/run/lab/ca.pem\"\ncert = \"/run/lab/good.pem\"\nkey = \"/run/lab/etcd.key\"";
            let file = tls.replace("ca = \"/run/lab/ca.pem\"", identity);
            if let Some(words) = said {
                let said = host.try_netrec(&file, &["plan"]);
                assert!(error(&said).contains(words), "{}", said.stderr);
                continue;
            }
            host.apply(&file);
            assert_eq!(routes(host).len(), 0);
            // Who says nothing of himself is not let in.
            for file in std::fs::read_dir(host.path("/run/netrec")).unwrap().map(|file| file.unwrap().path()) {
                if file.file_name().unwrap().to_string_lossy().starts_with("cluster-") {
                    std::fs::remove_file(file).unwrap();
                }
            }
            assert_eq!(host.try_netrec(&tls, &["plan"]).status, 1);
        }
    });
}

/// What anybody may have written into etcd changes nothing for those who are what they should be.
#[test]
fn hostile_entries_are_named_and_not_used() {
    in_bed(2, |bed| {
        bed.apply_on_all();
        bed.apply_on_all();
        let (a, file) = (&bed.hosts[0], Bed::file("a1"));
        let before = routes(a);
        let (own, others) = (bed.etcd.members()[&bed.etcd.key_of("192.0.2.1")].clone(), bed.etcd.key_of("192.0.2.2"));
        let own_mac = own.split("VtepMAC\":\"").nth(1).unwrap().split('"').next().unwrap();
        let vxlan = |ip: &str, mac: &str| {
            format!(
                r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
            )
        };
        let long = format!("{{\"PublicIP\":\"{}\"}}", "9".repeat(100_000));
        for (key, value) in [
            ("10.5.210.0-24", vxlan("192.0.2.210", own_mac)),
            ("10.5.211.0-24", vxlan("0.0.0.0", "02:00:00:00:00:01")),
            ("10.5.212.0-24", long),
            ("10.5.213.0-24", "[".repeat(20_000)),
            ("0.0.0.0-0", vxlan("192.0.2.214", "02:00:00:00:00:02")),
            ("10.5.215.0-24&fc00::-64", vxlan("192.0.2.215", "02:00:00:00:00:03")),
            ("\u{1b}[2J10.5.216.0-24", vxlan("192.0.2.216", "02:00:00:00:00:04")),
            ("10.5.217.0-24/../../x", vxlan("192.0.2.217", "02:00:00:00:00:05")),
            ("10.5.218.0-24", vxlan("10.5.9.9", "02:00:00:00:00:06")),
            ("10.5.219.0-24", vxlan("192.0.2.219", "01:00:5e:00:00:01")),
        ] {
            bed.etcd.put(&format!("/coreos.com/network/subnets/{key}"), &value);
        }
        let plan = a.plan(&file);
        assert_eq!(plan.actions(), [""; 0]);
        assert_eq!(plan.warnings(), ["cluster-entry"; 9], "eight, and how many more");
        let text = a.try_netrec(&file, &["plan"]);
        assert!(!text.stdout.contains('\u{1b}') && text.stdout.lines().all(|line| line.len() < 300), "{}", text.stdout);
        assert_eq!(routes(a), before);
        assert!(before.contains_key(&others.replace('-', "/")));
        bed.all_pairs();
        // A good one among them is used.
        bed.etcd.put("/coreos.com/network/subnets/10.5.220.0-24", &vxlan("192.0.2.220", "02:00:00:00:00:20"));
        a.apply(&file);
        assert_eq!(routes(a).len(), before.len() + 1);
    });
}

/// A host whose piece is the file's own, with addresses of it in the file.
#[test]
fn a_fixed_piece_holds_fixed_addresses() {
    in_bed(1, |bed| {
        let host = &bed.hosts[0];
        let container = "[containers.a1]\nnetworks.wide = { address = \"10.5.50.9\" }\n";
        let loose = format!("{}{container}", Bed::network(""));
        let said = host.try_netrec(&loose, &["plan"]);
        assert!(
            error(&said).contains("this host's piece of network `wide` is 10.5.")
                && said.stderr.contains("and it is not in it: leave `address` out"),
            "{}",
            said.stderr
        );
        let fixed = format!(
            "{}{container}",
            Bed::network("subnet = \"10.5.50.0/24\"\npublic_address = \"192.0.2.1\"\nsubnet_env = \"/run/lab/env\"")
        );
        host.apply(&fixed);
        assert_eq!(bed.etcd.key_of("192.0.2.1"), "10.5.50.0-24");
        assert_eq!(bed.address("a1"), "10.5.50.9");
        let env = std::fs::read_to_string(host.path("/run/lab/env")).unwrap();
        assert_eq!(
            env,
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.50.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        // What is shown is a file that wants the same.
        let shown = host.try_netrec(&fixed, &["show"]).stdout;
        assert_eq!(host.plan(&shown).actions(), [""; 0], "{shown}");
        // What the file had before is given up, in etcd, too.
        host.apply(&fixed.replace("10.5.50.", "10.5.51."));
        assert_eq!(bed.etcd.members().into_keys().collect::<Vec<_>>(), ["10.5.51.0-24"]);
    });
}

/// Values that are too large for one answer, or all together are, keep nobody from the others.
#[test]
fn large_values_blind_nobody() {
    in_bed(2, |bed| {
        bed.etcd.machine.sh(
            "for n in $(seq 10 22); do
                 head -c 1300000 /dev/zero | tr '\\0' x | etcdctl put /coreos.com/network/subnets/10.5.2$n.0-24 >/dev/null
             done",
        );
        bed.apply_on_all();
        bed.apply_on_all();
        let (a, file) = (&bed.hosts[0], Bed::file("a1"));
        let plan = a.plan(&file);
        assert_eq!(plan.actions(), [""; 0]);
        assert_eq!(plan.warnings(), ["cluster-entry"; 9], "eight, and how many more");
        let first = plan.json["warnings"][0]["message"].as_str().unwrap();
        let words =
            "the entry `/coreos.com/network/subnets/10.5.210.0-24` in etcd is not used: it is longer than 65536 bytes";
        assert_eq!(first, words);
        bed.all_pairs();
        // What comes while it is followed, too.
        let watch = Watching::start(a, &file);
        watch.says("cluster-entry");
        bed.etcd
            .machine
            .sh("head -c 1300000 /dev/zero | tr '\\0' x | etcdctl put /coreos.com/network/subnets/junk >/dev/null");
        watch.says("subnets/junk` in etcd is not used: its key names no subnet");
        bed.etcd.put("/coreos.com/network/subnets/10.5.70.0-24", &peer(70));
        until("it is known", || routes(a).contains_key("10.5.70.0/24"));
    });
}

/// Where no host of another one's can be, as far as this one's links tell.
#[test]
fn nobody_is_at_this_hosts_other_addresses() {
    in_bed(1, |bed| {
        let (host, file) = (&bed.hosts[0], Bed::file("a1"));
        host.apply(&file);
        host.sh("ip addr add 192.0.2.61/24 dev eth0; ip addr add 198.51.100.9/31 dev eth0");
        let put = |piece: u8, ip: &str| {
            bed.etcd.put(
                &format!("/coreos.com/network/subnets/10.5.{piece}.0-24"),
                &peer(piece).replace(&format!("192.0.2.{piece}"), ip),
            );
        };
        for (piece, ip) in [
            (201, "192.0.2.61"),
            (202, "192.0.2.255"),
            (203, "192.0.2.0"),
            (204, "255.255.255.255"),
            (205, "224.0.0.1"),
            (206, "0.0.0.0"),
            (207, "127.0.0.1"),
        ] {
            put(piece, ip);
        }
        let plan = host.plan(&file);
        assert_eq!(plan.actions(), [""; 0]);
        let said: Vec<&str> =
            plan.json["warnings"].as_array().unwrap().iter().map(|w| w["message"].as_str().unwrap()).collect();
        let wanted: Vec<String> = [
            "its address 192.0.2.61 is one of this host's own",
            "its address 192.0.2.255 is that of a whole network",
            "its address 192.0.2.0 is that of a whole network",
            "its `PublicIP` is `255.255.255.255`, where no host can be reached",
            "its `PublicIP` is `224.0.0.1`, where no host can be reached",
            "its `PublicIP` is `0.0.0.0`, where no host can be reached",
            "its `PublicIP` is `127.0.0.1`, where no host can be reached",
        ]
        .iter()
        .zip(201..)
        .map(|(why, n)| format!("the entry `/coreos.com/network/subnets/10.5.{n}.0-24` in etcd is not used: {why}"))
        .collect();
        assert_eq!(said, wanted);
        // The other one on a link of two is a host like all others.
        put(208, "198.51.100.8");
        host.apply(&file);
        assert_eq!(routes(host).into_keys().collect::<Vec<_>>(), ["10.5.208.0/24"]);
    });
}

/// A user who may do no more than the documentation says.
#[test]
fn a_user_with_the_rights_that_are_needed() {
    in_bed(2, |bed| {
        for args in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "members"],
            &["role", "grant-permission", "members", "--prefix=true", "readwrite", "/coreos.com/network/"],
            &["user", "add", "netrec:word"],
            &["user", "grant-role", "netrec", "members"],
            &["auth", "enable"],
        ] {
            bed.etcd.ctl(args);
        }
        let file = |host: &crate::lab::Machine, name: &str| {
            let path = host.write("password", "word\n");
            host.sh(&format!("chmod 600 {path}"));
            Bed::file(name)
                .replace("[cluster]\n", &format!("[cluster]\nuser = \"netrec\"\npassword_file = \"{path}\"\n"))
        };
        let _watches: Vec<Watching> =
            bed.hosts.iter().zip(["a1", "b1"]).map(|(host, name)| Watching::start(host, &file(host, name))).collect();
        until("each knows the other", || bed.hosts.iter().all(|host| routes(host).len() == 1));
        bed.all_pairs();
        let plan = bed.hosts[0].plan(&file(&bed.hosts[0], "a1"));
        assert_eq!((plan.actions(), plan.warnings()), (vec![], vec![]));
    });
}
