//! Bridges and veths.

use std::time::Instant;

use netrec::kernel::{Backend, Linux, StepError};
use netrec::state::{BridgePort, Device, Entry, Key, Link, LinkKind, Mac, Object, Scope, Standing, State, Step};

use super::lab::*;

#[test]
fn a_created_link_is_marked_and_down() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web())), create(bridge("nr-front"))]);
        let (key, mut entry) = veth("ve-web-1a2b3c", &web(), 2);
        entry.owners.clear();
        link_of(&mut entry).device = Device { up: false, link_local: true, promote_secondaries: false, ..device(2) };
        link_of(&mut entry).port = Some(BridgePort::default());
        peer_of(&mut entry).device = Device { up: false, link_local: true, promote_secondaries: false, ..device(102) };
        let writes = linux.writes();
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(linux.writes(), writes + 1, "all of it in one message");
        assert_eq!(found(&mut linux, &key).unwrap(), entry);
        let host = ip("link show ve-web-1a2b3c");
        assert_eq!(
            (&host["group"], &host["master"], &host["mtu"]),
            (&"20050".into(), &"nr-front".into(), &1400.into())
        );
        assert_eq!((&host["num_tx_queues"], &host["num_rx_queues"]), (&1.into(), &1.into()));
        let inside = ip("-n web link show eth0");
        assert_eq!((&inside["group"], &inside["address"]), (&"20050".into(), &"02:00:00:00:00:66".into()));
        assert_eq!((&inside["num_tx_queues"], &inside["operstate"]), (&1.into(), &"DOWN".into()));
    });
}

/// A port with nothing as the kernel has it by default.
const ALL_ON: BridgePort = BridgePort {
    hairpin: true,
    isolated: true,
    locked: true,
    no_learning: true,
    no_flood: true,
    no_mcast_flood: true,
    no_bcast_flood: true,
    neigh_suppress: true,
};

#[test]
fn every_attribute_of_a_veth_changes_in_place() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, mut e) = with_veth(&mut linux);
        let index = ip("link show ve-web-1a2b3c")["ifindex"].clone();
        run(&mut linux, [create(bridge("nr-back"))]);
        let mut change = |with: fn(&mut Entry)| change(&mut linux, &key, &mut e, with);
        change(|e| link_of(e).device.up = false);
        change(|e| peer_of(e).device.up = false);
        change(|e| link_of(e).device.link_local = true);
        change(|e| peer_of(e).device.link_local = true);
        change(|e| link_of(e).device.up = true);
        change(|e| peer_of(e).device.up = true);
        change(|e| link_of(e).device.mac = mac(9));
        change(|e| peer_of(e).device.mac = mac(10));
        change(|e| link_of(e).device.mtu = 1300);
        change(|e| peer_of(e).device.mtu = 9000);
        // The flag must move along to the new bridge's port.
        change(|e| link_of(e).master = Some(name("nr-back")));
        change(|e| link_of(e).port = Some(BridgePort::default()));
        change(|e| (link_of(e).master, link_of(e).port) = (None, None));
        change(|e| (link_of(e).master, link_of(e).port) = (Some(name("nr-front")), Some(ALL_ON)));
        change(|e| link_of(e).port = Some(BridgePort::default()));
        change(|e| link_of(e).port = Some(ALL_ON));
        change(|e| link_of(e).device.no_arp = true);
        change(|e| peer_of(e).device.no_arp = true);
        change(|e| e.owners = vec![owner("containers.db")]);
        change(|e| link_of(e).leaving = true);
        change(|e| link_of(e).leaving = false);
        let (host, inside) = (ip("link show ve-web-1a2b3c"), ip("-n web link show eth0"));
        assert_eq!(host["ifindex"], index);
        assert_eq!(host["ifalias"], "netrec containers.db");
        assert!(inside["ifalias"].as_str().unwrap().starts_with("netrec containers.db @"));
        assert_eq!(host["linkinfo"]["info_slave_data"]["hairpin"], true);
        let port = json("bridge -j -d link show dev ve-web-1a2b3c")[0].clone();
        let on = ["hairpin", "isolated", "locked", "neigh_suppress"];
        assert_eq!(on.map(|name| port[name].clone()), [true; 4]);
        let floods = ["learning", "flood", "mcast_flood", "bcast_flood"].map(|name| port[name].clone());
        assert_eq!(floods, [false; 4]);
        for end in [&host, &inside] {
            assert!(end["flags"].as_array().unwrap().contains(&"NOARP".into()), "{end}");
        }
        change(|e| (link_of(e).device.no_arp, peer_of(e).device.no_arp) = (false, false));
        assert_eq!((&host["mtu"], &host["address"]), (&1300.into(), &"02:00:00:00:00:09".into()));
        assert_eq!((&inside["mtu"], &inside["address"]), (&9000.into(), &"02:00:00:00:00:0a".into()));
        assert_eq!((&host["group"], &inside["group"]), (&"20050".into(), &"20050".into()));
    });
}

#[test]
fn without_a_link_local_address_none_appears() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, mut entry) = with_veth(&mut linux);
        let addresses = || sh("ip -n web -6 -o addr show eth0");
        assert_eq!(addresses(), "");
        change(&mut linux, &key, &mut entry, |e| peer_of(e).device.up = false);
        change(&mut linux, &key, &mut entry, |e| {
            peer_of(e).device.up = true;
            peer_of(e).device.link_local = true;
        });
        assert!(addresses().contains("fe80::ff:fe00:66/64"), "{}", addresses());
        // The kernel made it, so it is not reported.
        let live = linux.live(&Scope::default()).unwrap();
        assert!(!live.iter().any(|(key, _)| matches!(key, Key::Address { .. })));
    });
}

#[test]
fn an_mtu_too_small_for_ipv6_is_no_error() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, mut entry) = bridge("nr-front");
        link_of(&mut entry).device.mtu = 1000;
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(found(&mut linux, &key).unwrap(), entry);
    });
}

#[test]
fn a_bridge_changes_in_place() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, mut entry) = bridge("nr-front");
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        change(&mut linux, &key, &mut entry, |e| link_of(e).kind = LinkKind::Bridge { stp: true });
        assert_eq!(ip("link show nr-front")["linkinfo"]["info_data"]["stp_state"], 1);
        change(&mut linux, &key, &mut entry, |e| link_of(e).device.mac = mac(7));
        change(&mut linux, &key, &mut entry, |e| link_of(e).device.mtu = 1280);
        change(&mut linux, &key, &mut entry, |e| link_of(e).kind = LinkKind::Bridge { stp: false });
        assert_eq!(ip("link show nr-front")["linkinfo"]["info_data"]["stp_state"], 0);
    });
}

#[test]
fn a_container_end_is_renamed_while_up() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        let (key, before) = phases[1][1].clone();
        let mut after = before.clone();
        peer_of(&mut after).name = name("net0");
        run(&mut linux, [Step::new(key.clone(), Some(before.clone()), Some(after.clone()))]);
        let live = linux.live(&Scope::default()).unwrap();
        assert_eq!(live.get(&key), Some(&after));
        // Nothing was lost on the way.
        for (key, entry) in [
            address(&web(), "net0", "10.20.0.2/24", "containers.web"),
            address(&web(), "net0", "fd20::2/64", "containers.web"),
            route(&web(), "::/0", Some("fd20::1"), "net0", 1024),
        ] {
            assert_eq!(live.get(&key), Some(&entry));
        }
        run(&mut linux, [Step::new(key, Some(after), Some(before))]);
        assert_eq!(linux.live(&Scope::default()).unwrap(), phases.into_iter().flatten().collect());
    });
}

#[test]
fn two_container_ends_swap_names() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (first_key, first) = with_veth(&mut linux);
        let (second_key, mut second) = veth("ve-web-second", &web(), 3);
        peer_of(&mut second).name = name("eth1");
        run(&mut linux, [create((second_key.clone(), second.clone()))]);
        let named = |entry: &Entry, text: &str| {
            let mut entry = entry.clone();
            peer_of(&mut entry).name = name(text);
            entry
        };
        let rename = |key: &Key, entry: &Entry, from: &str, to: &str| {
            Step::new(key.clone(), Some(named(entry, from)), Some(named(entry, to)))
        };
        let error = linux.run(&[rename(&first_key, &first, "eth0", "eth1")]).remove(0).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (17, "change link ve-web-1a2b3c in host: File exists"));
        run(&mut linux, [rename(&first_key, &first, "eth0", "free")]);
        run(&mut linux, [rename(&second_key, &second, "eth1", "eth0")]);
        run(&mut linux, [rename(&first_key, &first, "free", "eth1")]);
        assert_eq!(found(&mut linux, &first_key).unwrap(), named(&first, "eth1"));
        assert_eq!(found(&mut linux, &second_key).unwrap(), named(&second, "eth0"));
    });
}

#[test]
fn a_foreign_link_of_the_name_is_reported_and_kept() {
    lab(|| {
        sh("ip link add nr-front type bridge && ip link add other type bridge");
        let mut linux = Linux::open().unwrap();
        let wanted: State = [bridge("nr-front")].into_iter().collect();
        let live = linux.live(&Scope::of(&wanted)).unwrap();
        assert_eq!(live.len(), 1);
        let entry = live.get(&link_key("nr-front")).unwrap();
        assert_eq!(entry.standing, Standing::Foreign("group 0".into()));
        assert!(matches!(&entry.object, Object::Link(Link { kind: LinkKind::Bridge { stp: false }, .. })));
        let error = linux.run(&[create(bridge("nr-front"))]).remove(0).unwrap_err();
        assert_eq!(error, StepError { errno: 17, message: "create link nr-front in host: File exists".into() });
    });
}

#[test]
fn a_failing_message_fails_its_own_step_only() {
    lab(|| {
        sh("ip link add nr-3 type bridge");
        let mut linux = Linux::open().unwrap();
        let bridges: Vec<_> = (0..300).map(|i| bridge(&format!("nr-{i}"))).collect();
        let outcomes = linux.run(&bridges.iter().cloned().map(create).collect::<Vec<_>>());
        let failed: Vec<usize> = (0..300).filter(|i| outcomes[*i].is_err()).collect();
        assert_eq!(failed, [3]);
        // A dump of several parts, beyond one receive.
        let live = linux.live(&Scope::default()).unwrap();
        assert_eq!(live, bridges.into_iter().filter(|(key, _)| *key != link_key("nr-3")).collect());
        assert_eq!(ip("link show nr-3")["group"], "default");
    });
}

#[test]
fn two_hundred_veths_go_at_once() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(namespace(&web())), create(bridge("nr-front"))]);
        let veths: Vec<_> = (0..200u8)
            .map(|i| {
                let (key, mut entry) = veth(&format!("ve-{i}"), &web(), 2);
                peer_of(&mut entry).name = name(&format!("eth{i}"));
                link_of(&mut entry).device.mac = Mac([2, 0, 0, 0, 1, i]);
                (key, entry)
            })
            .collect();
        run(&mut linux, veths.iter().cloned().map(create));
        assert_eq!(linux.live(&Scope::default()).unwrap().len(), 202);
        // One that somebody else removed is no failure.
        sh("ip link del ve-7");
        let start = Instant::now();
        run(&mut linux, veths.into_iter().map(delete));
        assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
        let left: State = [namespace(&web()), bridge("nr-front")].into_iter().collect();
        assert_eq!(linux.live(&Scope::default()).unwrap(), left);
    });
}
