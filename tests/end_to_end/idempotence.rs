//! Applying twice is applying once: the second time nothing is written, as the kernel's own notifications show.

use crate::SHOP;
use crate::lab::{self, ruleset_generation};

#[test]
fn a_second_apply_writes_nothing() {
    lab::in_lab(|lab| {
        let first = lab.host.apply(SHOP);
        assert!(first.json["writes"].as_u64().is_some_and(|n| n > 0), "{}", first.json["writes"]);
        let events = lab.host.settle();
        let generation = ruleset_generation(&lab.host);

        let second = lab.host.apply(SHOP);
        assert_eq!(second.json["writes"], 0);
        assert_eq!(second.json["changed"], false);
        assert_eq!(second.actions(), [""; 0]);
        let third = lab.host.try_netrec(SHOP, &["apply", "-y"]);
        assert_eq!((third.status, third.stdout.as_str()), (0, "No changes. host matches /run/lab/netrec.toml.\n"));
        let plan = lab.host.try_netrec(SHOP, &["plan", "--detailed-exitcode"]);
        assert_eq!((plan.status, plan.stdout.as_str()), (0, "No changes. host matches /run/lab/netrec.toml.\n"));
        assert_eq!(lab.host.try_netrec(SHOP, &["apply", "-y", "--detailed-exitcode"]).status, 0);

        events.quiet();
        assert_eq!(ruleset_generation(&lab.host), generation);
    });
}

#[test]
fn exit_status_2_tells_of_changes_pending_and_made() {
    lab::in_lab(|lab| {
        let events = lab.host.settle();
        assert_eq!(lab.host.try_netrec(SHOP, &["plan", "--detailed-exitcode"]).status, 2);
        assert_eq!(lab.host.try_netrec(SHOP, &["plan"]).status, 0);
        events.quiet(); // a plan writes nothing
        assert_eq!(lab.host.try_netrec(SHOP, &["apply", "-y", "--detailed-exitcode"]).status, 2);
        assert_eq!(lab.host.try_netrec(SHOP, &["plan", "--detailed-exitcode"]).status, 0);
        assert_eq!(lab.host.try_netrec(SHOP, &["destroy", "-y"]).status, 0);
        assert_eq!(lab.host.try_netrec(SHOP, &["plan", "--detailed-exitcode"]).status, 2);
    });
}

#[test]
fn an_empty_file_is_nothing_to_do() {
    lab::in_lab(|lab| {
        let events = lab.host.settle();
        assert_eq!(lab.host.apply("").json["writes"], 0);
        assert_eq!(lab.host.destroy("").json["writes"], 0);
        events.quiet();
    });
}

#[test]
fn a_host_without_ipv6_and_a_file_without_it() {
    lab::in_lab(|lab| {
        let file =
            "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nnetworks = ['front']\nports = ['8080:80']";
        for name in ["all", "default"] {
            lab.host.set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
        lab.host.apply(file);
        let events = lab.host.settle();
        assert_eq!(lab.host.apply(file).json["writes"], 0);
        events.quiet();
        assert_eq!(lab.host.sysctl("net/ipv6/conf/all/forwarding"), "0"); // nobody asked for it
        let _web = lab.container("web").listen_tcp("web", "0.0.0.0:80");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
    });
}
