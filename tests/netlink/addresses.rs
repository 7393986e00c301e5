//! Addresses and routes of both families.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command};
use std::sync::Arc;

use netrec::kernel::{Backend, Events, Linux};
use netrec::plan::diff;
use netrec::state::{Address, Entry, Key, Netns, Object, Scope, Standing, State, Step};
use serde_json::Value;

use super::lab::*;

#[test]
fn addresses_of_both_families_come_and_go() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(bridge("nr-front"))]);
        let mine = |ip: &str| address(&Netns::HOST, "nr-front", ip, "networks.front");
        let all = ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.1/16", "fd00::1/64", "fd00::2/128"].map(mine);
        run(&mut linux, all.iter().cloned().map(create));
        let shown = ip("addr show nr-front");
        let nodad = shown["addr_info"].as_array().unwrap().iter().find(|a| a["local"] == "fd00::1").unwrap();
        assert_eq!((&nodad["nodad"], &nodad["tentative"]), (&true.into(), &Value::Null));
        let error = linux.run(&[create(mine("fd00::1/64"))]).remove(0).unwrap_err();
        assert_eq!(error.errno, 17);
        assert!(error.message.starts_with("create address fd00::1/64 dev nr-front in host: File exists"), "{error}");
        // The address that others are secondary to goes alone.
        assert_eq!(sh("cat /proc/sys/net/ipv4/conf/nr-front/promote_secondaries").trim(), "1");
        run(&mut linux, [delete(all[0].clone()), delete(all[4].clone())]);
        let rest = [bridge("nr-front"), all[1].clone(), all[2].clone(), all[3].clone()];
        assert_eq!(linux.live(&Scope::default()).unwrap(), rest.into_iter().collect());
        // One that runs out becomes permanent.
        sh("ip addr add fd00::9/64 dev nr-front valid_lft 1000 preferred_lft 1000; \
            ip addr add 10.9.0.1/24 dev nr-front valid_lft 1000 preferred_lft 1000");
        for ip in ["fd00::9/64", "10.9.0.1/24"] {
            let (key, after) = mine(ip);
            let mut before = after.clone();
            before.object = Object::Address(Address { permanent: false, ..Address::lasting() });
            assert_eq!(found(&mut linux, &key).unwrap(), before);
            run(&mut linux, [Step::new(key.clone(), Some(before), Some(after.clone()))]);
            assert_eq!(found(&mut linux, &key).unwrap(), after);
        }
    });
}

/// Ends with the test, however that ends.
struct Hammer(Child);

impl Drop for Hammer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of an IPv6 address that it does not probe for the kernel tells some time after it is there; it is read back at once.
#[test]
fn an_address_that_is_told_late_is_read_back() {
    lab(|| {
        run(&mut Linux::open().unwrap(), [create(bridge("nr-front"))]);
        sh("ip link set nr-front up");
        let late = address(&Netns::HOST, "nr-front", "fd00::1/64", "networks.front");
        let nothing = BTreeSet::new();
        // What is done late waits for who has the lock (`rtnl_mutex`).
        let hammer = "while ip link add h0 type veth peer name h1 && ip link del h0; do :; done";
        let _hammer = Hammer(Command::new("sh").args(["-c", hammer]).spawn().unwrap());
        sh("until ip link show h0 >/dev/null 2>&1; do :; done");
        for ears in [false, true] {
            let mut linux = Linux::open().unwrap();
            if ears {
                linux = linux.listening(Arc::new(Events::open().unwrap()));
            }
            let without = linux.live(&Scope::default()).unwrap();
            for _ in 0..100 {
                run(&mut linux, [create(late.clone())]);
                let with = linux.read_back(&Scope::default(), &nothing).unwrap();
                assert_eq!(with.get(&late.0), Some(&late.1), "with ears of a watch: {ears}");
                run(&mut linux, [delete(late.clone())]);
                assert_eq!(linux.read_back(&Scope::default(), &nothing).unwrap(), without);
            }
        }
    });
}

#[test]
fn deprecated_addresses_are_mended_in_place() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let deprecated = |ip: &str| {
            let (key, mut entry) = address(&Netns::HOST, "nr-front", ip, "networks.front");
            entry.object = Object::Address(Address { deprecated: true, ..Address::lasting() });
            (key, entry)
        };
        let all = ["10.0.0.1/24", "fd00::1/64"].map(deprecated);
        run(&mut linux, [create(bridge("nr-front"))]);
        let others = ["10.9.0.1/24", "fd09::1/64"].map(|ip| address(&Netns::HOST, "nr-front", ip, "networks.front"));
        run(&mut linux, all.iter().chain(&others).cloned().map(create));
        sh("ip route add 198.51.100.0/24 via 10.0.0.9 && ip -6 route add 2001:db8::/32 via fd00::9");
        let wanted: State = all.iter().chain(&others).cloned().chain([bridge("nr-front")]).collect();
        let plan = |linux: &mut Linux, wanted: &State| -> Vec<String> {
            let live = linux.live(&Scope::of(wanted)).unwrap();
            diff(wanted, &live).actions.iter().map(|action| format!("{:?} {}", action.op, action.key)).collect()
        };
        assert_eq!(plan(&mut linux, &wanted), [""; 0]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let shown = || -> Vec<(String, bool, bool, u64)> {
            let shown = ip("addr show nr-front");
            let all = shown["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] == "global");
            let on = |a: &Value, flag: &str| a[flag].as_bool().unwrap_or(false);
            let told = |a: &Value| {
                (text(&a["local"]), on(a, "deprecated"), on(a, "dynamic"), a["valid_life_time"].as_u64().unwrap())
            };
            all.map(told).collect()
        };
        let forever = u64::from(u32::MAX);
        let told = |ip: &str, deprecated| (ip.to_owned(), deprecated, false, forever);
        let right = [told("10.0.0.1", true), told("10.9.0.1", false), told("fd00::1", true), told("fd09::1", false)];
        let sorted = |mut all: Vec<(String, bool, bool, u64)>| {
            all.sort();
            all
        };
        assert_eq!(sorted(shown()), right);
        let source = |to: &str| text(&json(&format!("ip -j route get {to}"))[0]["prefsrc"]);
        // Of IPv6 another one is the source, even of what goes to its own subnet; IPv4 does not care.
        assert_eq!([source("2001:db8::1"), source("fd00::9")], ["fd09::1", "fd09::1"]);
        assert_eq!([source("198.51.100.1"), source("10.0.0.9")], ["10.0.0.1", "10.0.0.1"]);

        // Somebody makes them ordinary ones, or lets them run out.
        let drifts = [
            ("preferred_lft forever", Address::lasting()),
            ("valid_lft 1000 preferred_lft 0", Address { permanent: false, deprecated: true, ..Address::lasting() }),
            ("valid_lft 1000 preferred_lft 1000", Address { permanent: false, ..Address::lasting() }),
        ];
        for (by_hand, found_then) in drifts {
            for (key, after) in &all {
                let Key::Address { ip, .. } = key else { panic!() };
                let routes = || sh("ip route; ip -6 route show dev nr-front");
                let before_all = routes();
                sh(&format!("ip addr change {ip} dev nr-front {by_hand}"));
                let before = found(&mut linux, key).unwrap();
                assert_eq!(before.object, Object::Address(found_then.clone()), "{by_hand}");
                assert_eq!(plan(&mut linux, &wanted), [format!("Update {key}")], "{by_hand}");
                run(&mut linux, [Step::new(key.clone(), Some(before.clone()), Some(after.clone()))]);
                assert_eq!(plan(&mut linux, &wanted), [""; 0], "{by_hand}");
                // The routes that need the address are still there: it was never gone.
                assert_eq!(routes(), before_all, "{by_hand}");
            }
        }
        assert_eq!(sorted(shown()), right);
        // And ordinary ones on purpose.
        for (key, before) in &all {
            let (_, after) = address(&Netns::HOST, "nr-front", "10.0.0.1/24", "networks.front");
            run(&mut linux, [Step::new(key.clone(), Some(before.clone()), Some(after.clone()))]);
            assert_eq!(found(&mut linux, key).unwrap().object, Object::Address(Address::lasting()));
        }
    });
}

#[test]
fn the_route_that_comes_with_an_address_is_its_own() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        make(&mut linux, &small_shop());
        // A second one in the subnet has no route of its own, nor has one without a subnet, nor one on a device that is
        // down.
        let mine = |ip: &str| address(&Netns::HOST, "nr-front", ip, "networks.front");
        run(&mut linux, ["10.20.0.3/24", "10.20.0.4/32", "fd20::4/128"].map(mine).map(create));
        sh("ip link add nr-off group 20050 type bridge && ip addr add 10.9.0.1/24 dev nr-off");
        let routes =
            || sh("ip route show dev nr-front; ip -6 route show dev nr-front; ip -n web route; ip -n web -6 route");
        let before = routes();
        assert!(before.contains("10.20.0.0/24 proto kernel scope link src 10.20.0.1"), "{before}");
        let lacking = |linux: &mut Linux| -> Vec<String> {
            let live = linux.live(&Scope::default()).unwrap();
            let lacks = |e: &Entry| matches!(&e.object, Object::Address(a) if a.no_prefix_route);
            live.iter().filter(|(_, e)| lacks(e)).map(|(key, _)| key.to_string()).collect()
        };
        assert_eq!(lacking(&mut linux), [""; 0]);
        sh("ip route del 10.20.0.0/24 dev nr-front && ip -6 route del fd20::/64 dev nr-front && \
            ip -n web route del 10.20.0.0/24 && ip -n web -6 route del fd20::/64");
        let gone = routes();
        let all = ["10.20.0.1/24 dev nr-front", "fd20::1/64 dev nr-front", "10.20.0.2/24 dev eth0 in web"];
        let all = [all[0], all[1], all[2], "fd20::2/64 dev eth0 in web"].map(|text| format!("address {text}"));
        assert_eq!(lacking(&mut linux), all);
        let steps = |mended: bool| {
            small_shop().remove(2).into_iter().map(move |(key, with)| {
                let mut without = with.clone();
                without.object = Object::Address(Address { no_prefix_route: true, ..Address::lasting() });
                let (before, after) = if mended { (without, with) } else { (with, without) };
                Step::new(key, Some(before), Some(after))
            })
        };
        run(&mut linux, steps(true));
        assert_eq!(lacking(&mut linux), [""; 0]);
        assert_eq!(routes(), before);
        // And back, as after a failure; once more, with addresses that are to come without the route.
        run(&mut linux, steps(false));
        assert_eq!((lacking(&mut linux), routes()), (all.to_vec(), gone));
        sh("ip addr del 10.20.0.3/24 dev nr-front"); // it would be the first of the subnet
        run(&mut linux, steps(false).map(|step| Step { after: None, ..step }));
        run(&mut linux, steps(false).map(|step| Step { before: None, ..step }));
        assert_eq!(lacking(&mut linux), all);
        run(&mut linux, steps(true));
        assert_eq!(lacking(&mut linux), [""; 0]);
    });
}

#[test]
fn routes_of_both_families_are_replaced() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        for (to, via, metric) in
            [("0.0.0.0/0", "10.20.0.9", 0), ("::/0", "fd20::9", 1024), ("2001:db8::/32", "fd20::9", 7)]
        {
            let (key, after) = route(&web(), to, Some(via), "eth0", metric);
            let before = found(&mut linux, &key).unwrap();
            run(&mut linux, [Step::new(key.clone(), Some(before), Some(after.clone()))]);
            assert_eq!(found(&mut linux, &key).unwrap(), after);
        }
        let shown = json("ip -n web -j route show default");
        assert_eq!(shown.as_array().unwrap().len(), 1);
        assert_eq!((&shown[0]["gateway"], &shown[0]["protocol"]), (&"10.20.0.9".into(), &"78".into()));
        assert_eq!(json("ip -n web -j -6 route show default")[0]["gateway"], "fd20::9");
        let lost = linux.run(&[create(route(&web(), "198.51.100.0/24", Some("203.0.113.1"), "eth0", 0))]).remove(0);
        assert_eq!(
            lost.unwrap_err().message,
            "create route 198.51.100.0/24 in web: Network is unreachable (kernel: Nexthop has invalid gateway)"
        );
        // An IPv4 route by an IPv6 router.
        let mixed = route(&web(), "198.18.0.0/15", Some("fd20::9"), "eth0", 0);
        run(&mut linux, [create(mixed.clone())]);
        assert_eq!(found(&mut linux, &mixed.0).unwrap(), mixed.1);
        assert_eq!(json("ip -n web -j route show 198.18.0.0/15")[0]["via"]["host"], "fd20::9");
        run(&mut linux, [delete(mixed)]);
        // In the host, without a router, in a table of its own.
        let (mut key, entry) = route(&Netns::HOST, "198.51.100.0/24", None, "nr-front", 5);
        let Key::Route { table, .. } = &mut key else { panic!() };
        *table = 1000;
        run(&mut linux, [create((key.clone(), Entry { owners: vec![owner("networks.front")], ..entry.clone() }))]);
        assert_eq!(found(&mut linux, &key).unwrap().object, entry.object);
        assert_eq!(json("ip -j route show table 1000")[0]["scope"], "link");
        run(&mut linux, [delete((key, entry))]);
        assert_eq!(sh("ip route show table 1000"), "");
    });
}

#[test]
fn routes_of_others_are_told_apart_and_kept() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases[..3]);
        sh(
            "ip -n web route add default via 10.20.0.1 && ip -n web -6 route add 2001:db8::/32 via fd20::1 proto static && \
            ip route add 198.51.100.0/24 dev nr-front && ip -n web route add 198.51.100.0/24 dev eth0 table 7",
        );
        let live = linux.live(&Scope::default()).unwrap();
        let routes: BTreeMap<String, Standing> = live
            .iter()
            .filter(|(key, _)| matches!(key, Key::Route { .. }))
            .map(|(key, entry)| (key.to_string(), entry.standing.clone()))
            .collect();
        let foreign = |text: &str| Standing::Foreign(text.into());
        assert_eq!(
            routes,
            BTreeMap::from([
                ("route default in web".into(), foreign("protocol boot")),
                ("route 2001:db8::/32 metric 1024 in web".replace(" metric 1024", ""), foreign("protocol static")),
            ])
        );
        let ours = route(&web(), "0.0.0.0/0", Some("10.20.0.1"), "eth0", 0);
        assert_eq!(linux.run(&[create(ours.clone())]).remove(0).unwrap_err().errno, 17);
        // One that somebody took over is not deleted.
        run(&mut linux, [delete(ours)]);
        assert_eq!(json("ip -n web -j route show default")[0]["protocol"], Value::Null);
    });
}
