//! `--target`: a part of the file is made, works, and leaves all else as it is.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::SHOP;
use crate::lab::{self, Lab, Output};

/// Runs `apply` or `plan` for a part of the file.
fn part(lab: &Lab, command: &[&str], toml: &str, targets: &[&str]) -> Output {
    let targets = targets.iter().flat_map(|target| ["--target", target]);
    lab.host.try_netrec(toml, &command.iter().copied().chain(targets).collect::<Vec<_>>())
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status, 0, "{}{}", output.stderr, output.stdout);
    serde_json::from_str(&output.stdout).expect("one JSON document")
}

/// Applies a part of the file, which succeeds and leaves nothing of that part to do. For whom something was changed, and how
/// many changes are left out.
fn apply(lab: &Lab, toml: &str, targets: &[&str]) -> (BTreeSet<String>, usize) {
    let done = remove(lab, toml, targets);
    let again = json(&part(lab, &["apply", "-y", "--json"], toml, targets));
    assert_eq!((&again["changed"], &again["writes"]), (&false.into(), &0.into()), "{targets:?}: {again:#}");
    assert_eq!(again["left_out"], done.1, "{targets:?}");
    done
}

/// The same for who is gone afterwards, and so cannot be named again.
fn remove(lab: &Lab, toml: &str, targets: &[&str]) -> (BTreeSet<String>, usize) {
    let done = json(&part(lab, &["apply", "-y", "--json"], toml, targets));
    let whole = lab.host.plan(toml);
    let left_out = whole.actions().len();
    assert_eq!((&done["left_out"], &whole.json["left_out"]), (&left_out.into(), &0.into()), "{targets:?}");
    let actions = done["actions"].as_array().expect("actions").iter();
    (actions.map(|action| action["owner"].as_str().expect("owner").to_owned()).collect(), left_out)
}

fn owners(list: &str) -> BTreeSet<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_owner_can_be_made_alone_on_an_empty_host() {
    // Two networks, of which one is isolated, ports with lists, of 127.0.0.1, by another network than the default route's,
    // and a parameter of a device.
    let file = r#"
        [networks.front]
        subnet = ["10.20.0.0/24", "fd20::/64"]
        [networks.back]
        subnet = "10.21.0.0/24"
        mode = "routed"
        [networks.shut]
        subnet = "10.22.0.0/24"
        mode = "isolated"
        [containers.web]
        networks = ["front", "back"]
        sysctl = { "net.ipv4.conf.eth1.arp_ignore" = 1, "net.core.somaxconn" = 99 }
        ports = [
            "8080:80", "127.0.0.1:9000:90/udp", { host = 8081, container = 81, allow = "192.0.2.0/24" },
            { host = 82, container = 82, network = "back" }, "8100-8110:8100-8110",
        ]
        [containers."a.b"]
        networks.shut = { address = "10.22.0.9" }
        [containers.solo]
    "#;
    // The container's parameter needs its second device.
    let both = "containers.web containers.web.networks.front networks.front containers.web.networks.back networks.back";
    lab::in_lab(|lab| {
        for (target, made) in [
            ("networks.front", "networks.front"),
            ("networks.back", "networks.back"),
            ("networks.shut", "networks.shut"),
            ("networks", "networks.front networks.back networks.shut"),
            ("containers.solo", "containers.solo"),
            ("containers.\"a.b\"", "networks.shut containers.\"a.b\" containers.\"a.b\".networks.shut"),
            ("containers.web.networks.front", both),
            ("containers.web.networks.back", "containers.web containers.web.networks.back networks.back"),
            ("containers.web.ports[0]", &format!("{both} containers.web.ports[0]")),
            ("containers.web.ports[1]", &format!("{both} containers.web.ports[1]")),
            ("containers.web.ports[2]", &format!("{both} containers.web.ports[2]")),
            ("containers.web.ports[3]", &format!("{both} containers.web.ports[3]")),
            ("containers.web.ports[4]", &format!("{both} containers.web.ports[4]")),
            ("netrec", ""),
        ] {
            let (changed, left_out) = apply(lab, file, &[target]);
            assert_eq!(changed, owners(&format!("netrec {made}")), "{target}");
            assert!(left_out > 0, "{target}");
            lab.host.destroy(file);
        }
    });
}

#[test]
fn a_targeted_container_answers_and_the_others_stay_as_they_are() {
    lab::in_lab(|lab| {
        let output = part(lab, &["plan"], SHOP, &["containers.db"]);
        let end: Vec<&str> = output.stdout.lines().rev().take(2).collect();
        let left_out = "networks.front, containers.web, containers.web.networks.front, containers.web.ports[0], \
                        containers.web.ports[1], containers.web.ports[2], containers.api, containers.api.networks.front, \
                        containers.api.ports[0]";
        let made = "netrec, networks.back, containers.db, containers.db.networks.back, containers.db.ports[0]";
        let count = json(&part(lab, &["plan", "--json"], SHOP, &["containers.db"]))["left_out"].clone();
        assert_eq!(end, [format!("Left out: {count} changes for {left_out}."), format!("For: {made}")]);
        apply(lab, SHOP, &["containers.db"]);
        let _db = lab.container("db").listen_tcp("db", "[::]:5432");
        lab.expect(
            "world tcp 192.0.2.1:5432     -> db sees 192.0.2.9
             world tcp [2001:db8::1]:5432 -> db sees 2001:db8::9
             world tcp 10.21.0.10:5432    -> blocked",
        );
        assert_eq!(lab.host.netns_names(), ["db"]);
        let output = part(lab, &["apply", "-y"], SHOP, &["containers.db"]);
        assert_eq!(
            output.stdout,
            format!("No changes for containers.db.\nLeft out: {count} changes for {left_out}.\n")
        );
        // What is changed and taken out elsewhere stays, with its traffic.
        lab.host.apply(SHOP);
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        let changed = SHOP.replace("8080:80", "8090:80").replace("5432:5432", "5433:5432");
        let (all, api) = changed.split_once("[containers.api]").expect("api");
        let changed = format!("{all}[containers.db]{}", api.split_once("[containers.db]").expect("db").1);
        assert_eq!(apply(lab, &changed, &["containers.db"]).0, owners("containers.db.ports[0]"));
        lab.expect(
            "world tcp 192.0.2.1:5433 -> db sees 192.0.2.9
             world tcp 192.0.2.1:5432 -> refused
             world tcp 192.0.2.1:8080 -> web sees 192.0.2.9
             world tcp 192.0.2.1:8090 -> refused
             web   ping 10.20.0.11    -> answer",
        );
        // Who is gone from the file can be removed alone.
        assert_eq!(
            remove(lab, &changed, &["containers.api"]).0,
            owners("containers.api containers.api.networks.front containers.api.ports[0]")
        );
        assert_eq!(lab.host.netns_names(), ["db", "web"]);
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        apply(lab, &changed, &["containers.web"]);
        assert_eq!(lab.host.plan(&changed).actions(), [""; 0]);
    });
}

#[test]
fn what_hangs_on_what_goes_goes_too() {
    lab::in_lab(|lab| {
        lab.host.apply(SHOP);
        let (networks, containers) = SHOP.split_once("[containers.web]").expect("two parts");
        let (front, _) = networks.split_once("[networks.back]").expect("two networks");
        let (web, _) = containers.split_once("[containers.db]").expect("db");
        // The network is gone, and so are the ways to it.
        let without_back = format!("{front}[containers.web]{web}[containers.db]\n");
        let changed = remove(lab, &without_back, &["networks.back"]);
        assert_eq!(changed.0, owners("networks.back containers.db.networks.back"));
        assert_eq!(lab.host.netns_names(), ["api", "db", "web"]);
        // A bridge of another name takes its containers along.
        lab.host.apply(SHOP);
        let renamed = SHOP.replace("[networks.front]", "[networks.front]\nbridge = \"br-front\"");
        apply(lab, &renamed, &["networks.front"]);
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        lab.expect("world tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        // An address that was another's.
        lab.host.apply(SHOP);
        let moved = SHOP.replace("10.20.0.10", "10.20.0.12").replace("10.20.0.11", "10.20.0.10");
        apply(lab, &moved, &["containers.api"]);
        lab.expect("api ping 10.20.0.12 -> answer");
        // Names that are exchanged, of which one alone was asked for.
        let two = |first: &str, second: &str| {
            SHOP.replace(
                "networks.front = { address = [\"10.20.0.10\", \"fd20::10\"] }",
                &format!(
                    "networks.front = {{ interface = \"{first}\" }}\nnetworks.back = {{ interface = \"{second}\" }}"
                ),
            )
        };
        lab.host.apply(&two("eth0", "eth1"));
        apply(lab, &two("eth1", "eth0"), &["containers.web.networks.front"]);
        assert_eq!(lab.host.plan(&two("eth1", "eth0")).actions(), [""; 0]);
        // Another namespace.
        lab.host.apply(&two("eth0", "eth1"));
        let elsewhere = two("eth0", "eth1").replace("[containers.web]", "[containers.web]\nnetns = \"web2\"");
        apply(lab, &elsewhere, &["containers.web.networks.back"]);
        assert_eq!(lab.host.netns_names(), ["api", "db", "web2"]);
    });
}

#[test]
fn the_addresses_of_a_bridge_of_somebody_elses_are_its_networks() {
    lab::in_lab(|lab| {
        lab.host.run(["ip", "link", "add", "br0", "up", "type", "bridge"]);
        let file = SHOP.replace("[networks.front]", "[networks.front]\nbridge = \"br0\"\nadopt = true");
        // Else the kernel drops the other addresses of a subnet with its first.
        lab.host.set_sysctl("net/ipv4/conf/br0/promote_secondaries", "1");
        let file = file.replace("127.0.0.1:8082", "8082");
        lab.host.apply(&file);
        // That of the old gateway goes with the network's others, whatever else is left out.
        let changed = file.replace("fd20::/64\"]", "fd20::/64\"]\ngateway = [\"10.20.0.254\", \"fd20::1\"]");
        apply(lab, &changed.replace("5432:", "5433:"), &["networks.front"]);
        let addresses = lab.host.run(["ip", "-4", "-o", "address", "show", "dev", "br0"]);
        assert!(addresses.contains("10.20.0.254/24") && !addresses.contains("10.20.0.1/24"), "{addresses}");
    });
}

#[test]
fn rules_stay_while_what_is_left_out_may_need_them() {
    lab::in_lab(|lab| {
        let file = SHOP.replace("ports = [\"5432:5432\"]", "ports = [\"5432:5432\", \"7000-7009:7000-7009\"]");
        let file = file.replace("\"8036:36/sctp\"]", "{ host = 8036, container = 36, allow = \"192.0.2.0/25\" }]");
        lab.host.apply(&file);
        let _db = lab.container("db").listen_tcp("db", "[::]:7001");
        let _web = lab.container("web").listen_tcp("web", "[::]:36");
        let way = "world tcp 192.0.2.1:7001 -> db sees 192.0.2.9
                   world tcp 192.0.2.1:8036 -> web sees 192.0.2.9
                   world tcp [2001:db8::1]:8036 -> blocked";
        lab.expect(way);
        // The file has neither ranges nor lists any more, nor ports of 127.0.0.1; but only api is asked for.
        let plain = SHOP.replace(", \"8036:36/sctp\"", "").replace("127.0.0.1:8082", "192.0.2.1:8082");
        let (changed, left_out) = apply(lab, &plain, &["containers.api"]);
        assert_eq!(changed, owners("containers.api.ports[0]"));
        assert!(left_out > 0);
        lab.expect(way);
        // What is left goes with the last that used it.
        apply(lab, &plain, &["containers.db", "containers.web"]);
        assert_eq!(lab.host.plan(&plain).actions(), [""; 0]);
        lab.expect("world tcp 192.0.2.1:7001 -> refused");
    });
}

#[test]
fn a_list_of_sources_stays_with_its_port() {
    lab::in_lab(|lab| {
        let list = |ports: &str| SHOP.replace("ports = [\"5432:5432\"]", &format!("ports = [{ports}]"));
        let old = "{ host = 5432, container = 5432, allow = \"192.0.2.9\" }";
        let new = "{ host = 5433, container = 5432, allow = \"192.0.2.77\" }";
        lab.host.apply(&list(old));
        let _db = lab.container("db").listen_tcp("db", "[::]:5432");
        apply(lab, &list(&format!("{new}, {old}")), &["containers.db.ports[0]"]);
        lab.expect("world tcp 192.0.2.1:5432 -> db sees 192.0.2.9\nworld tcp 192.0.2.1:5433 -> blocked");
    });
}

#[test]
fn only_what_is_targeted_can_be_in_the_way() {
    lab::in_lab(|lab| {
        lab.host.run(["ip", "link", "add", "nr-front", "type", "bridge"]);
        lab.host.add_address("uplink", "10.20.0.77/32");
        let link = ["ip", "link", "show", "nr-front"];
        let foreign = lab.host.run(link);
        assert_eq!(part(lab, &["plan"], SHOP, &["containers.web"]).status, 1);
        let done = json(&part(lab, &["apply", "-y", "--json"], SHOP, &["containers.db"]));
        assert_eq!(done["applied"], true);
        let _db = lab.container("db").listen_tcp("db", "[::]:5432");
        lab.expect("world tcp 192.0.2.1:5432 -> db sees 192.0.2.9");
        lab.host.destroy(SHOP);
        assert_eq!(lab.host.run(link), foreign);
        for (target, hint) in [
            ("containers.wbe", "did you mean `containers.web`?"),
            ("containers.web.ports[3]", "did you mean `containers.web.ports[0]`?"),
            ("web", "write it as plans do, such as `containers.web`"),
            ("", "write it as plans do, such as `containers.web`"),
        ] {
            let output = part(lab, &["plan"], SHOP, &[target]);
            let text = format!("error: `--target {target}` is nobody that the file or this host has: {hint}\n");
            assert_eq!((output.status, output.stderr), (1, text));
        }
        assert_eq!(part(lab, &["plan", "--destroy"], SHOP, &["containers.web"]).status, 64);
    });
}
