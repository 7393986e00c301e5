//! Queueing disciplines: written, read back, and seen by `tc`.

use netrec::kernel::{Backend, Linux};
use netrec::state::{Device, Entry, Hook, Key, Link, LinkKind, Netns, Object, Owner, Qdisc, Scope, State, Step};
use serde_json::Value;

use crate::lab::{create, delete, found, json, lab, link_key, link_of, mac, name, owner, run, sh, with_veth};

const VETH: &str = "ve-web-1a2b3c";

fn qdisc(link: &str, hook: Hook, qdisc: Qdisc) -> (Key, Entry) {
    let key = Key::Qdisc { netns: Netns::HOST, link: name(link), hook };
    (key, Entry::new(Object::Qdisc(qdisc), owner("containers.web")))
}

fn bucket(rate: &str, burst_us: u32, limit: u32) -> Qdisc {
    Qdisc::Tbf { rate: rate.parse().unwrap(), burst_us, limit }
}

fn redirect(to: Option<&str>) -> Qdisc {
    Qdisc::Clsact { redirect: to.map(name) }
}

fn ifb(text: &str) -> (Key, Entry) {
    let device =
        Device { mac: mac(9), mtu: 1400, up: true, link_local: false, promote_secondaries: true, no_arp: true };
    let link = Link { kind: LinkKind::Ifb, device, master: None, port: None, leaving: false };
    (link_key(text), Entry::new(Object::Link(link), owner("containers.web")))
}

/// The one discipline of a device that `tc` shows at a place.
fn tc(link: &str, place: &str) -> Value {
    let all = json(&format!("tc -j qdisc show dev {link}"));
    let here = |one: &&Value| if place == "root" { one["root"] == true } else { one["parent"] == "ffff:fff1" };
    all.as_array().unwrap().iter().find(here).cloned().unwrap_or_default()
}

/// What is read back of netrec's disciplines, without asking for any.
fn all(linux: &mut Linux) -> Vec<(String, Object)> {
    let live = linux.live(&Scope::default()).unwrap();
    let shaping = live.into_iter().filter(|(key, _)| matches!(key, Key::Qdisc { .. }));
    shaping.map(|(key, entry)| (key.to_string(), entry.object)).collect()
}

#[test]
fn buckets_of_every_size_are_read_as_they_were_written() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        with_veth(&mut linux);
        let (key, mut entry) = qdisc(VETH, Hook::Root, bucket("128kbit", 4_294_967, 32_768));
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(found(&mut linux, &key), Some(entry.clone()));
        // In place, on both sides of what 32 bits of bytes per second hold.
        for (rate, burst_us, limit) in [
            ("128008bit", 131_073, 20_000),
            ("10mbit", 13_108, 78_885),
            ("1gbit", 10_000, 7_500_000),
            ("34359738360bit", 10_001, 1 << 30),
            ("34359738368bit", 9_999, u32::MAX),
            ("100gbit", 10_000, 750_000_000),
        ] {
            let before = entry.clone();
            entry.object = Object::Qdisc(bucket(rate, burst_us, limit));
            run(&mut linux, [Step::new(key.clone(), Some(before), Some(entry.clone()))]);
            assert_eq!(found(&mut linux, &key), Some(entry.clone()), "{rate}");
        }
        let shown = tc(VETH, "root");
        assert_eq!((&shown["kind"], &shown["handle"]), (&"tbf".into(), &"6e72:".into()));
        assert_eq!(shown["options"]["rate"], 12_500_000_000_u64);
        assert_eq!(all(&mut linux), [(format!("qdisc root dev {VETH}"), entry.object.clone())]);
        run(&mut linux, [delete((key.clone(), entry.clone()))]);
        assert_eq!(tc(VETH, "root")["kind"], "noqueue");
        // Gone already is gone.
        run(&mut linux, [delete((key, entry))]);
    });
}

#[test]
fn what_comes_in_is_redirected_and_the_way_is_read_back() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        with_veth(&mut linux);
        let (first, second) = (ifb("if-web-1a2b3c"), ifb("if-web-2b3c4d"));
        for (key, entry) in [&first, &second] {
            let mut bare = entry.clone();
            (link_of(&mut bare).device.up, link_of(&mut bare).device.no_arp) = (false, false);
            (link_of(&mut bare).device.link_local, bare.owners) = (true, Vec::<Owner>::new());
            link_of(&mut bare).device.promote_secondaries = false;
            run(&mut linux, [create((key.clone(), bare.clone()))]);
            run(&mut linux, [Step::new(key.clone(), Some(bare), Some(entry.clone()))]);
            assert_eq!(found(&mut linux, key).as_ref(), Some(entry));
        }
        let (key, mut entry) = qdisc(VETH, Hook::Ingress, redirect(Some("if-web-1a2b3c")));
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(found(&mut linux, &key), Some(entry.clone()));
        assert_eq!(tc(VETH, "ingress")["kind"], "clsact");
        let shown = sh(&format!("tc filter show dev {VETH} ingress"));
        assert!(shown.contains("filter protocol all pref 20050 u32"), "{shown}");
        assert!(shown.contains("match 00000000/00000000 at 0"), "{shown}");
        assert!(shown.contains("mirred (Egress Redirect to device if-web-1a2b3c) stolen"), "{shown}");
        // To another device, nowhere, and back.
        for to in [Some("if-web-2b3c4d"), None, Some("if-web-1a2b3c")] {
            let before = entry.clone();
            entry.object = Object::Qdisc(redirect(to));
            run(&mut linux, [Step::new(key.clone(), Some(before), Some(entry.clone()))]);
            assert_eq!(found(&mut linux, &key), Some(entry.clone()), "{to:?}");
        }
        // What others make of the filter is none of netrec's any more.
        let nowhere = |linux: &mut Linux| assert_eq!(found(linux, &key).unwrap().object, Object::Qdisc(redirect(None)));
        for damage in [
            "tc filter del dev VETH ingress pref 20050",
            "tc filter replace dev VETH ingress pref 20050 protocol all u32 match u32 0 0 action mirred egress mirror \
             dev if-web-1a2b3c",
            "tc filter replace dev VETH ingress pref 20050 protocol all u32 match u32 1 1 action mirred egress redirect \
             dev if-web-1a2b3c",
            "tc filter replace dev VETH ingress pref 20050 protocol all u32 match u32 0 0 action mirred ingress redirect \
             dev if-web-1a2b3c",
        ] {
            sh(&format!("tc filter del dev {VETH} ingress pref 20050 2>/dev/null || true"));
            if damage.contains("replace") {
                sh(&damage.replace("VETH", VETH));
            }
            nowhere(&mut linux);
            let broken = Entry { object: Object::Qdisc(redirect(None)), ..entry.clone() };
            run(&mut linux, [Step::new(key.clone(), Some(broken), Some(entry.clone()))]);
            assert_eq!(found(&mut linux, &key), Some(entry.clone()), "{damage}");
        }
        sh("ip link del if-web-1a2b3c");
        nowhere(&mut linux);
        run(&mut linux, [delete((key.clone(), entry.clone()))]);
        assert_eq!(found(&mut linux, &key), None);
        assert_eq!(tc(VETH, "ingress"), Value::Null);
    });
}

#[test]
fn those_of_others_are_seen_only_where_one_is_to_be() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        with_veth(&mut linux);
        sh(&format!(
            "ip link add mine type ifb; tc qdisc add dev mine root handle 6e72: tbf rate 1mbit burst 16k limit 32k
             tc qdisc add dev {VETH} root tbf rate 1mbit burst 16k limit 32k; tc qdisc add dev {VETH} clsact
             tc filter add dev {VETH} ingress pref 7 protocol all u32 match u32 0 0 flowid 1:1"
        ));
        assert_eq!(all(&mut linux), []);
        let other = |kind: &str| Object::Qdisc(Qdisc::Other { name: kind.into() });
        let wanted = [
            qdisc(VETH, Hook::Root, bucket("1mbit", 131_072, 32_768)),
            qdisc(VETH, Hook::Ingress, redirect(None)),
            qdisc("mine", Hook::Root, bucket("1mbit", 131_072, 32_768)),
        ];
        let scope = Scope::of(&State::from_iter(wanted.clone()));
        let live = linux.live(&scope).unwrap();
        let seen: Vec<_> = wanted.iter().map(|(key, _)| live.get(key).map(|entry| entry.object.clone())).collect();
        assert_eq!(seen, [Some(other("tbf")), Some(Object::Qdisc(redirect(None))), None]);
        // One is put in the place of another; the filter of somebody else stays.
        let found = Entry { object: other("tbf"), ..wanted[0].1.clone() };
        run(&mut linux, [Step::new(wanted[0].0.clone(), Some(found), Some(wanted[0].1.clone()))]);
        assert_eq!(tc(VETH, "root")["handle"], "6e72:");
        assert!(sh(&format!("tc filter show dev {VETH} ingress")).contains("pref 7 "));
        // One with netrec's handle that is no bucket.
        sh(&format!("tc qdisc del dev {VETH} root; tc qdisc add dev {VETH} root handle 6e72: htb"));
        assert_eq!(all(&mut linux), [(format!("qdisc root dev {VETH}"), other("htb"))]);
        let found = Entry { object: other("htb"), ..wanted[0].1.clone() };
        run(&mut linux, [Step::new(wanted[0].0.clone(), Some(found), Some(wanted[0].1.clone()))]);
        assert_eq!(all(&mut linux), [(format!("qdisc root dev {VETH}"), wanted[0].1.object.clone())]);
        // netrec makes none of these.
        let refused = Entry { object: other("htb"), ..wanted[0].1.clone() };
        let error = linux.run(&[create((wanted[0].0.clone(), refused))]).remove(0).unwrap_err();
        assert_eq!(
            error.message,
            format!(
                "create qdisc root dev {VETH} in host: netrec makes no queueing disciplines of kind htb: Operation not \
                 supported on transport endpoint"
            )
        );
    });
}

/// A container that netrec made, with a device of its own inside.
#[test]
fn inside_of_a_container_they_are_read_where_its_devices_tell_of_them() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        with_veth(&mut linux);
        let key = Key::Qdisc { netns: crate::lab::web(), link: name("eth0"), hook: Hook::Root };
        let entry = Entry::new(Object::Qdisc(bucket("10mbit", 13_108, 78_885)), owner("containers.web"));
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(all(&mut linux), [("qdisc root dev eth0 in web".to_owned(), entry.object.clone())]);
        run(&mut linux, [delete((key, entry))]);
        assert_eq!(all(&mut linux), []);
    });
}
