//! VXLAN devices, neighbours and forwarding databases, over IPv4 and IPv6.

use std::net::IpAddr;

use netrec::kernel::{Backend, Linux, StepError};
use netrec::plan::{Diff, Op, Plan, diff};
use netrec::reconcile::{Prepared, apply, unwatched};
use netrec::state::{
    BridgePort, Device, Entry, Fdb, Key, Link, LinkKind, Mac, Neighbour, Netns, Object, Route, Scope, State, Step,
};
use serde_json::Value;

use super::lab::*;

/// What a tunnel's port on a bridge is like where nothing is to be flooded.
pub(crate) const QUIET: BridgePort = BridgePort {
    hairpin: false,
    isolated: false,
    locked: false,
    no_learning: true,
    no_flood: true,
    no_mcast_flood: true,
    no_bcast_flood: true,
    neigh_suppress: true,
};

pub(crate) fn ip_of(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vtep(v6: bool, host: u8) -> IpAddr {
    ip_of(&if v6 { format!("2001:db8::{host}") } else { format!("192.0.2.{host}") })
}

/// Two devices to run a tunnel over, and an address of each family.
fn underlay() {
    sh("ip link add u0 mtu 1600 type veth peer name u1 mtu 1600 && ip link set u0 up && ip link set u1 up && \
        ip addr add 192.0.2.1/24 dev u0 && ip -6 addr add 2001:db8::1/64 dev u0 nodad");
}

pub(crate) fn vxlan(local: IpAddr, master: Option<&str>) -> (Key, Entry) {
    let kind = LinkKind::Vxlan { vni: 4100, udp_port: 4789, local, underlay: None, learning: false };
    let master = master.map(name);
    let link = Link { kind, device: device(7), master, port: master.map(|_| QUIET), leaving: false };
    (link_key("vx-wide"), Entry::new(Object::Link(link), owner("networks.wide")))
}

pub(crate) fn wide_bridge() -> (Key, Entry) {
    let (key, mut entry) = bridge("nr-wide");
    entry.owners = vec![owner("networks.wide")];
    (key, entry)
}

pub(crate) fn neighbour(link: &str, ip: &str, mac: Mac) -> (Key, Entry) {
    let key = Key::Neighbour { netns: Netns::HOST, link: name(link), ip: ip_of(ip) };
    (key, Entry::new(Object::Neighbour(Neighbour { mac }), owner("networks.wide")))
}

pub(crate) fn fdb(link: &str, mac: Mac, fdb: Fdb) -> (Key, Entry) {
    let key = Key::Fdb { netns: Netns::HOST, link: name(link), mac };
    (key, Entry::new(Object::Fdb(fdb), owner("networks.wide")))
}

pub(crate) fn wide_address(link: &str, ip: &str) -> (Key, Entry) {
    address(&Netns::HOST, link, ip, "networks.wide")
}

/// A bridge, a tunnel, and two containers on other hosts.
fn switched(v6: bool) -> State {
    let mut all = vec![wide_bridge(), vxlan(vtep(v6, 1), Some("nr-wide"))];
    all.extend([wide_address("nr-wide", "10.30.0.1/16"), wide_address("nr-wide", "fd30::1/64")]);
    for host in [2, 3] {
        let there = mac(0x50 + host);
        all.push(neighbour("nr-wide", &format!("10.30.0.{host}"), there));
        all.push(neighbour("nr-wide", &format!("fd30::{host}"), there));
        all.push(fdb("vx-wide", there, Fdb::behind(vtep(v6, host))));
        all.push(fdb("nr-wide", there, Fdb::by(name("vx-wide"))));
    }
    all.into_iter().collect()
}

pub(crate) fn prepare(linux: &mut Linux, desired: &State) -> Prepared {
    let scope = Scope::of(desired);
    let live = linux.live(&scope).unwrap();
    let Diff { actions, conflicts } = diff(desired, &live);
    assert_eq!(conflicts, []);
    Prepared { desired: desired.clone(), live, scope, plan: Plan { actions, ..Plan::default() }, ..Prepared::default() }
}

/// Makes live state the desired one, as `apply` does, and says what was done in the words of the plan.
#[track_caller]
pub(crate) fn reconcile(linux: &mut Linux, desired: &State) -> Vec<String> {
    let prepared = prepare(linux, desired);
    let told = prepared.plan.actions.iter().filter(|a| !a.implied).map(|action| {
        let verb = match action.op {
            Op::Create => "create",
            Op::Update => "update",
            Op::Replace => "replace",
            Op::Delete => "delete",
        };
        format!("{verb} {}", action.key)
    });
    let told = told.collect();
    if let Err(error) = apply(linux, &prepared, &mut unwatched) {
        panic!("{error}\n{}", prepared.plan.to_text());
    }
    let writes = linux.writes();
    let again = prepare(linux, desired);
    assert_eq!(again.plan.actions, [], "{}", again.plan.to_text());
    assert_eq!(again.live, *desired);
    apply(linux, &again, &mut unwatched).unwrap();
    assert_eq!(linux.writes(), writes);
    told
}

/// What `bridge` shows of the permanent entries for unicast of a device that somebody made.
fn entries(device: &str) -> Vec<String> {
    let all = json(&format!("bridge -j fdb show dev {device}"));
    let made = |e: &&Value| e["mac"].as_str().unwrap().starts_with("02:00:00:00:00:5");
    let words = |e: &Value| {
        let part = |name: &str| e[name].as_str().map(|value| format!(" {name} {value}")).unwrap_or_default();
        format!("{}{}{}{}", e["mac"].as_str().unwrap(), part("dst"), part("master"), part("state"))
    };
    let mut all: Vec<String> = all.as_array().unwrap().iter().filter(made).map(words).collect();
    all.sort();
    all
}

/// What `ip` shows of a device's permanent neighbours: address, MAC address and protocol.
fn neighbours(device: &str) -> Vec<String> {
    let shown = sh(&format!("ip neigh show dev {device} nud permanent"));
    let mut all: Vec<String> = shown.lines().map(|line| line.trim().to_owned()).collect();
    all.sort();
    all
}

#[test]
fn a_vxlan_device_is_made_in_one_message() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(wide_bridge())]);
        for (v6, link) in [(false, "local"), (true, "local6")] {
            let (key, mut entry) = vxlan(vtep(v6, 1), Some("nr-wide"));
            let bare = Device { up: false, link_local: true, promote_secondaries: false, ..device(7) };
            let full = entry.clone();
            entry.owners.clear();
            (link_of(&mut entry).device, link_of(&mut entry).port) = (bare, Some(BridgePort::default()));
            if let LinkKind::Vxlan { underlay, .. } = &mut link_of(&mut entry).kind {
                *underlay = Some(name("u0"));
            }
            let writes = linux.writes();
            run(&mut linux, [create((key.clone(), entry.clone()))]);
            assert_eq!(linux.writes(), writes + 1, "all of it in one message");
            assert_eq!(found(&mut linux, &key).unwrap(), entry);
            let shown = ip("link show vx-wide");
            let data = &shown["linkinfo"]["info_data"];
            assert_eq!((&data["id"], &data["port"], &data["learning"]), (&4100.into(), &4789.into(), &false.into()));
            assert_eq!(
                (data[link].as_str(), data["link"].as_str()),
                (Some(vtep(v6, 1).to_string().as_str()), Some("u0"))
            );
            assert_eq!((&shown["group"], &shown["master"]), (&"20050".into(), &"nr-wide".into()));
            assert_eq!((&shown["address"], &shown["mtu"]), (&"02:00:00:00:00:07".into(), &1400.into()));
            // Alias and switches of the port go together; the device comes up in a third.
            let mut after = full;
            link_of(&mut after).kind = link_of(&mut entry).kind.clone();
            run(&mut linux, [Step::new(key.clone(), Some(entry), Some(after.clone()))]);
            assert_eq!(linux.writes(), writes + 3);
            assert_eq!(found(&mut linux, &key).unwrap(), after);
            let port = json("bridge -j -d link show dev vx-wide")[0].clone();
            let floods = ["learning", "flood", "mcast_flood", "bcast_flood"].map(|name| port[name].clone());
            assert_eq!((floods, &port["neigh_suppress"]), ([false; 4].map(Value::from), &true.into()));
            assert_eq!(ip("link show vx-wide")["ifalias"], "netrec networks.wide");
            run(&mut linux, [delete((key, after))]);
        }
    });
}

#[test]
fn a_vxlan_device_changes_in_place_where_the_kernel_lets_it() {
    fn tunnel(entry: &mut Entry) -> (&mut IpAddr, &mut Option<netrec::state::InterfaceName>, &mut bool) {
        match &mut link_of(entry).kind {
            LinkKind::Vxlan { local, underlay, learning, .. } => (local, underlay, learning),
            other => panic!("{other:?}"),
        }
    }
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(wide_bridge()), create(bridge("nr-other"))]);
        for v6 in [false, true] {
            let (key, mut e) = vxlan(vtep(v6, 1), Some("nr-wide"));
            run(&mut linux, [create((key.clone(), e.clone()))]);
            let index = ip("link show vx-wide")["ifindex"].clone();
            let mut change = |with: &dyn Fn(&mut Entry)| change(&mut linux, &key, &mut e, with);
            change(&|e| *tunnel(e).0 = vtep(v6, 9));
            change(&|e| *tunnel(e).2 = true);
            change(&|e| *tunnel(e).2 = false);
            change(&|e| *tunnel(e).1 = Some(name("u0")));
            change(&|e| *tunnel(e).1 = Some(name("u1")));
            change(&|e| link_of(e).device.mac = mac(8));
            change(&|e| link_of(e).device.mtu = 1300);
            // What is a tunnel's own, and the MTU, cannot go in one message either.
            change(&|e| (*tunnel(e).0, link_of(e).device.mtu) = (vtep(v6, 8), 1350));
            change(&|e| (*tunnel(e).1, link_of(e).device.mtu) = (Some(name("u0")), 1500));
            change(&|e| (*tunnel(e).2, link_of(e).device.mtu, link_of(e).device.mac) = (true, 1300, mac(9)));
            change(&|e| (*tunnel(e).2, link_of(e).device.mtu) = (false, 1310));
            change(&|e| link_of(e).device.up = false);
            change(&|e| link_of(e).device.up = true);
            change(&|e| link_of(e).master = Some(name("nr-other")));
            // Both parts about the device, which cannot go in one message.
            change(&|e| (*tunnel(e).2, link_of(e).port) = (true, Some(BridgePort::default())));
            change(&|e| (*tunnel(e).0, link_of(e).port) = (vtep(v6, 1), Some(QUIET)));
            change(&|e| (link_of(e).master, link_of(e).port) = (None, None));
            change(&|e| e.owners = vec![owner("networks.other")]);
            assert_eq!(ip("link show vx-wide")["ifindex"], index);
            run(&mut linux, [delete((key, e))]);
        }
    });
}

#[test]
fn what_the_kernel_cannot_change_of_a_tunnel_forces_replacement() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        let mut desired = switched(false);
        reconcile(&mut linux, &desired);
        let key = link_key("vx-wide");
        let over = |linux: &mut Linux, desired: &mut State, with: &dyn Fn(&mut LinkKind), path: &'static str| {
            let mut entry = desired.get(&key).unwrap().clone();
            with(&mut link_of(&mut entry).kind);
            desired.insert(key.clone(), entry);
            let plan = prepare(linux, desired).plan;
            let action = plan.actions.iter().find(|a| a.key == key).unwrap();
            let why = format!("{path} cannot change in place");
            assert_eq!(
                (action.op, &action.replace[..], action.reason.as_ref()),
                (Op::Replace, &[path][..], Some(&why))
            );
            let text = plan.to_text();
            assert!(text.contains("# forces replacement") && text.contains(&format!("      {path}: ")), "{text}");
            let told = reconcile(linux, desired);
            let all: Vec<String> = ["52 dev nr-wide", "53 dev nr-wide", "52 dev vx-wide", "53 dev vx-wide"]
                .map(|rest| format!("replace fdb 02:00:00:00:00:{rest}"))
                .to_vec();
            assert_eq!(told, [vec!["replace link vx-wide".to_owned()], all].concat());
        };
        let set = |kind: &mut LinkKind,
                   with: &dyn Fn(&mut u32, &mut u16, &mut Option<netrec::state::InterfaceName>)| {
            if let LinkKind::Vxlan { vni, udp_port, underlay, .. } = kind {
                with(vni, udp_port, underlay);
            }
        };
        over(&mut linux, &mut desired, &|kind| set(kind, &|vni, _, _| *vni = 4101), "vni");
        over(&mut linux, &mut desired, &|kind| set(kind, &|_, port, _| *port = 8472), "udp_port");
        let mut with = desired.get(&key).unwrap().clone();
        set(&mut link_of(&mut with).kind, &|_, _, underlay| *underlay = Some(name("u0")));
        desired.insert(key.clone(), with);
        assert_eq!(reconcile(&mut linux, &desired), ["update link vx-wide"]);
        over(&mut linux, &mut desired, &|kind| set(kind, &|_, _, underlay| *underlay = None), "underlay");
        // The other family has other VTEPs too.
        let told = reconcile(&mut linux, &switched(true));
        assert_eq!(told[0], "replace link vx-wide");
        assert_eq!(ip("link show vx-wide")["linkinfo"]["info_data"]["local6"], "2001:db8::1");
    });
}

#[test]
fn an_id_that_somebody_has_is_said_in_the_kernels_words() {
    lab(|| {
        underlay();
        sh("ip link add flannel.1 type vxlan id 4100 dstport 4789 local 192.0.2.1");
        let mut linux = Linux::open().unwrap();
        let error = linux.run(&[create(vxlan(vtep(false, 1), None))]).remove(0).unwrap_err();
        let message =
            "create link vx-wide in host: File exists (kernel: A VXLAN device with the specified VNI already exists)";
        assert_eq!(error, StepError { errno: 17, message: message.into() });
        // Over the other family it is another tunnel.
        run(&mut linux, [create(vxlan(vtep(true, 1), None))]);
    });
}

#[test]
fn an_id_moves_to_a_device_of_another_name() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        let first = switched(false);
        reconcile(&mut linux, &first);
        let other = |text: &netrec::state::InterfaceName| if *text == name("vx-wide") { name("vx-far") } else { *text };
        let renamed = first.into_iter().map(|(mut key, mut entry)| {
            match &mut key {
                Key::Link { name, .. } => *name = other(name),
                Key::Fdb { link, .. } => *link = other(link),
                _ => {}
            }
            if let Object::Fdb(Fdb { port: Some(port), .. }) = &mut entry.object {
                *port = other(port);
            }
            (key, entry)
        });
        reconcile(&mut linux, &renamed.collect());
    });
}

#[test]
fn what_reaches_others_is_made_changed_and_removed() {
    lab(|| {
        underlay();
        for v6 in [false, true] {
            let mut linux = Linux::open().unwrap();
            let mut desired = switched(v6);
            reconcile(&mut linux, &desired);
            assert_eq!(
                entries("vx-wide"),
                [2, 3]
                    .map(|host| {
                        let mac = mac(0x50 + host);
                        [
                            format!("{mac} dst {} state permanent", vtep(v6, host)),
                            format!("{mac} master nr-wide state static"),
                        ]
                    })
                    .concat()
            );
            assert_eq!(
                neighbours("nr-wide"),
                [("10.30.0.2", 2), ("10.30.0.3", 3), ("fd30::2", 2), ("fd30::3", 3)]
                    .map(|(ip, host)| format!("{ip} lladdr {} PERMANENT proto 78", mac(0x50 + host)))
            );
            // A container moves to another host, and another gets a new MAC address.
            let moved = fdb("vx-wide", mac(0x52), Fdb::behind(vtep(v6, 9)));
            desired.insert(moved.0.clone(), moved.1);
            let renewed = neighbour("nr-wide", "10.30.0.3", mac(0x59));
            desired.insert(renewed.0.clone(), renewed.1);
            let told = reconcile(&mut linux, &desired);
            assert_eq!(told, ["update neighbour 10.30.0.3 dev nr-wide", "update fdb 02:00:00:00:00:52 dev vx-wide"]);
            let one = format!("02:00:00:00:00:52 dst {} state permanent", vtep(v6, 9));
            assert_eq!(entries("vx-wide").into_iter().filter(|e| e.contains("dst")).collect::<Vec<_>>()[0], one);
            assert_eq!(entries("vx-wide").len(), 4);
            // Gone from the other host: nothing is left of it, and what is gone already is deleted.
            let gone: Vec<Key> = desired
                .iter()
                .map(|(key, _)| key.clone())
                .filter(|key| key.name().starts_with("02:00:00:00:00:53") || matches!(key, Key::Neighbour { .. }))
                .collect();
            let steps: Vec<Step> = gone.iter().map(|key| delete((key.clone(), desired.remove(key).unwrap()))).collect();
            assert_eq!(reconcile(&mut linux, &desired).len(), 6);
            assert_eq!((entries("vx-wide").len(), neighbours("nr-wide").len()), (2, 0));
            run(&mut linux, steps.clone());
            // All of it with the devices.
            let told = reconcile(&mut linux, &State::new());
            assert_eq!(told, ["delete link nr-wide", "delete link vx-wide"]);
            run(&mut linux, steps);
        }
    });
}

#[test]
fn what_cannot_be_reached_that_way_is_refused_in_words() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        run(&mut linux, [create(wide_bridge()), create(vxlan(vtep(false, 1), None))]);
        let mut refused = |step| linux.run(&[step]).remove(0).unwrap_err().message;
        assert_eq!(
            refused(create(fdb("nr-wide", mac(0x52), Fdb::by(name("vx-wide"))))),
            "create fdb 02:00:00:00:00:52 dev nr-wide in host: vx-wide is no port of a bridge: Operation not supported on \
             transport endpoint"
        );
        assert_eq!(
            refused(create(fdb("vx-none", mac(0x52), Fdb::behind(vtep(false, 2))))),
            "create fdb 02:00:00:00:00:52 dev vx-none in host: there is no device vx-none in host: No such device"
        );
        assert_eq!(
            refused(create(fdb("vx-wide", mac(0x52), Fdb::behind(vtep(true, 2))))),
            "create fdb 02:00:00:00:00:52 dev vx-wide in host: Address family not supported by protocol"
        );
        assert_eq!(
            refused(create(neighbour("vx-none", "10.30.0.2", mac(0x52)))),
            "create neighbour 10.30.0.2 dev vx-none in host: there is no device vx-none in host: No such device"
        );
    });
}

#[test]
fn drift_of_what_reaches_others_is_mended() {
    lab(|| {
        underlay();
        // Somebody else's port, later on our bridge.
        sh("ip link add p0 mtu 1400 type veth peer name p1 && ip link set p0 up && ip link set p1 up");
        for v6 in [false, true] {
            let mut linux = Linux::open().unwrap();
            let desired = switched(v6);
            reconcile(&mut linux, &desired);
            let (there, nowhere) = (vtep(v6, 2), vtep(v6, 77));
            let alter = |script: &str| {
                sh(&script.replace("THERE", &there.to_string()).replace("NOWHERE", &nowhere.to_string()));
            };
            let nr = |rest: &str| format!("fdb 02:00:00:00:00:{rest} dev nr-wide");
            let vx = |rest: &str| format!("fdb 02:00:00:00:00:{rest} dev vx-wide");
            let cases: &[(&str, Vec<String>)] = &[
                ("bridge fdb del 02:00:00:00:00:52 dev vx-wide self", vec![format!("create {}", vx("52"))]),
                ("bridge fdb del 02:00:00:00:00:52 dev vx-wide master", vec![format!("create {}", nr("52"))]),
                ("ip neigh del 10.30.0.2 dev nr-wide", vec!["create neighbour 10.30.0.2 dev nr-wide".into()]),
                ("bridge fdb replace 02:00:00:00:00:52 dev vx-wide dst NOWHERE", vec![format!("update {}", vx("52"))]),
                (
                    "bridge fdb replace 02:00:00:00:00:52 dev vx-wide dst THERE port 9999",
                    vec![format!("update {}", vx("52"))],
                ),
                (
                    "bridge fdb replace 02:00:00:00:00:52 dev vx-wide dst THERE vni 7",
                    vec![format!("update {}", vx("52"))],
                ),
                (
                    "bridge fdb replace 02:00:00:00:00:52 dev vx-wide dst THERE via u1",
                    vec![format!("update {}", vx("52"))],
                ),
                // That it is the host's own.
                (
                    "bridge fdb replace 02:00:00:00:00:52 dev vx-wide master permanent",
                    vec![format!("update {}", nr("52"))],
                ),
                // That it may move to another port.
                (
                    "bridge fdb replace 02:00:00:00:00:52 dev vx-wide master static",
                    vec![format!("update {}", nr("52"))],
                ),
                // That it is behind another port.
                (
                    "ip link set p0 master nr-wide && bridge fdb replace 02:00:00:00:00:52 dev p0 master static",
                    vec![format!("update {}", nr("52"))],
                ),
                (
                    "bridge fdb replace 02:00:00:00:00:52 dev p0 master static sticky",
                    vec![format!("update {}", nr("52"))],
                ),
                (
                    "ip neigh replace fd30::3 lladdr 02:00:00:00:00:99 dev nr-wide nud permanent",
                    vec!["update neighbour fd30::3 dev nr-wide".into()],
                ),
                // Dropped with the old MAC address.
                (
                    "ip neigh add 10.30.0.9 lladdr 02:00:00:00:00:99 dev nr-wide nud permanent",
                    vec!["delete neighbour 10.30.0.9 dev nr-wide".into()],
                ),
                (
                    "ip neigh add fd30::9 lladdr 02:00:00:00:00:99 dev vx-wide nud permanent",
                    vec!["delete neighbour fd30::9 dev vx-wide".into()],
                ),
                ("bridge fdb add 02:00:00:00:00:59 dev vx-wide dst NOWHERE", vec![format!("delete {}", vx("59"))]),
                ("bridge fdb add 02:00:00:00:00:59 dev vx-wide master static", vec![format!("delete {}", nr("59"))]),
                ("bridge fdb add 02:00:00:00:00:59 dev p0 master static", vec![format!("delete {}", nr("59"))]),
                ("bridge fdb add 02:00:00:00:00:59 dev nr-wide self permanent", vec![format!("delete {}", nr("59"))]),
                // Where all goes that is not known.
                (
                    "bridge fdb append 00:00:00:00:00:00 dev vx-wide dst NOWHERE && \
                  bridge fdb append 00:00:00:00:00:00 dev vx-wide dst THERE",
                    vec!["delete fdb 00:00:00:00:00:00 dev vx-wide".into()],
                ),
                // The kernel takes this for nothing, as it is no address for many.
                ("bridge fdb append 02:00:00:00:00:52 dev vx-wide dst NOWHERE", vec![]),
            ];
            for (script, expected) in cases {
                alter(script);
                assert_eq!(reconcile(&mut linux, &desired), *expected, "{script}");
            }
            // What is learned is no object, nor in the way of one.
            sh(
                "bridge fdb del 02:00:00:00:00:52 dev vx-wide master; bridge fdb add 02:00:00:00:00:52 dev p0 master dynamic; \
                bridge fdb add 02:00:00:00:00:58 dev p0 master dynamic; ip neigh replace 10.30.0.8 lladdr 02:00:00:00:00:58 dev nr-wide nud reachable; \
                ip neigh replace 10.30.0.2 lladdr 02:00:00:00:00:58 dev nr-wide nud stale",
            );
            let told = reconcile(&mut linux, &desired);
            assert_eq!(told, ["create neighbour 10.30.0.2 dev nr-wide".into(), format!("create {}", nr("52"))]);
            // The bridge's MAC address and its being down cost it the neighbours, its port the entries.
            sh("ip link set nr-wide address 02:00:00:00:00:44");
            assert_eq!(reconcile(&mut linux, &desired).len(), 5);
            sh("ip link set nr-wide down");
            let told = reconcile(&mut linux, &desired);
            assert_eq!(told.iter().filter(|line| line.contains("neighbour")).count(), 4, "{told:?}");
            sh("ip link set vx-wide nomaster");
            assert_eq!(
                reconcile(&mut linux, &desired),
                ["update link vx-wide".into(), format!("create {}", nr("52")), format!("create {}", nr("53"))]
            );
            sh("ip link del vx-wide");
            assert_eq!(reconcile(&mut linux, &desired).len(), 5);
            sh("ip link del nr-wide");
            reconcile(&mut linux, &desired);
            sh("ip link set p0 nomaster");
            reconcile(&mut linux, &State::new());
        }
    });
}

#[test]
fn a_new_mac_address_of_the_bridge_takes_its_neighbours_along() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        let mut desired = switched(false);
        reconcile(&mut linux, &desired);
        let (key, mut entry) = wide_bridge();
        link_of(&mut entry).device.mac = mac(0x41);
        desired.insert(key, entry);
        let plan = prepare(&mut linux, &desired).plan;
        let reasons: Vec<&str> = plan.actions.iter().filter_map(|a| a.reason.as_deref()).collect();
        assert_eq!(reasons, ["a new MAC address of its link, or another ARP flag, drops it"; 4]);
        assert_eq!(reconcile(&mut linux, &desired).len(), 5);
        assert_eq!(neighbours("nr-wide").len(), 4);
    });
}

#[test]
fn the_last_ipv4_address_of_the_bridge_takes_its_neighbours_along() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        let full = switched(false);
        reconcile(&mut linux, &full);
        let key = |ip| wide_address("nr-wide", ip).0;
        let mut bare = full.clone();
        bare.remove(&key("10.30.0.1/16"));
        bare.remove(&key("fd30::1/64"));
        let plan = prepare(&mut linux, &bare).plan;
        let reasons: Vec<&str> = plan.actions.iter().filter_map(|a| a.reason.as_deref()).collect();
        assert_eq!(reasons, ["the last IPv4 address of its link takes it along"; 2]);
        let early = |ip| plan.actions.iter().find(|a| a.key == key(ip)).unwrap().early;
        assert_eq!([early("10.30.0.1/16"), early("fd30::1/64")], [true, false]);
        let replaced = [2, 3].map(|host| format!("replace neighbour 10.30.0.{host} dev nr-wide"));
        let told = reconcile(&mut linux, &bare);
        assert_eq!(told[..2], ["delete address 10.30.0.1/16 dev nr-wide", "delete address fd30::1/64 dev nr-wide"]);
        assert_eq!(told[2..], replaced);
        assert_eq!(neighbours("nr-wide").len(), 4);
        let told = reconcile(&mut linux, &full);
        assert_eq!(told, ["create address 10.30.0.1/16 dev nr-wide", "create address fd30::1/64 dev nr-wide"]);
        // One that comes, or that is somebody else's, keeps them.
        let mut other = bare.clone();
        let (new, entry) = wide_address("nr-wide", "10.30.0.4/16");
        other.insert(new, entry);
        assert_eq!(reconcile(&mut linux, &other).len(), 3);
        // Neighbours that somebody removed meanwhile are made after it is gone, too.
        reconcile(&mut linux, &full);
        sh("ip neigh del 10.30.0.2 dev nr-wide && ip neigh del 10.30.0.3 dev nr-wide");
        assert_eq!(reconcile(&mut linux, &bare).len(), 4);
        assert_eq!(neighbours("nr-wide").len(), 4);
        // Where nothing is to be reached any more, the address goes last as ever.
        reconcile(&mut linux, &full);
        let nobody = bare.into_iter().filter(|(key, _)| !matches!(key, Key::Neighbour { .. })).collect();
        assert!(prepare(&mut linux, &nobody).plan.actions.iter().all(|action| !action.early));
        reconcile(&mut linux, &nobody);
        assert_eq!(neighbours("nr-wide").len(), 0);
    });
}

#[test]
fn a_host_without_tunnels_is_asked_nothing_more() {
    if is_again() {
        let mut linux = Linux::open().unwrap();
        let writes = linux.writes();
        linux.live(&Scope::default()).unwrap();
        assert_eq!(linux.writes(), writes);
        return;
    }
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        make(&mut linux, &small_shop());
        sh("ip neigh add 10.20.0.9 lladdr 02:00:00:00:00:99 dev nr-front nud permanent && \
            bridge fdb add 02:00:00:00:00:99 dev ve-web-1a2b3c master static");
        assert_eq!(linux.live(&Scope::default()).unwrap(), small_shop().into_iter().flatten().collect());
        if sh("command -v strace || true").is_empty() {
            return;
        }
        let asked = || {
            // Where there are no processes of other tests, into whose namespaces it would look, too.
            let output = again("unshare --pid --fork --mount-proc strace -f --seccomp-bpf -e trace=sendto", &[]);
            assert!(output.contains("1 passed"), "{output}");
            (output.matches("sendto(").count(), output.matches("RTM_GETNEIGH").count())
        };
        let (all, of_neighbours) = asked();
        assert_eq!(of_neighbours, 0);
        // A tunnel and its bridge: the neighbours of each, and one listing of both databases.
        run(&mut linux, [create(wide_bridge()), create(vxlan(vtep(false, 1), Some("nr-wide")))]);
        assert_eq!(asked(), (all + 3, 3));
    });
}

#[test]
fn routes_onlink_and_from_an_address_are_compared() {
    lab(|| {
        underlay();
        let mut linux = Linux::open().unwrap();
        let with = |(key, mut entry): (Key, Entry), with: fn(&mut Route)| {
            let Object::Route(route) = &mut entry.object else { panic!() };
            with(route);
            entry.owners = vec![owner("networks.wide")];
            (key, entry)
        };
        let host = Netns::HOST;
        let desired: State = [
            vxlan(vtep(false, 1), None),
            wide_address("vx-wide", "10.30.1.0/32"),
            wide_address("vx-wide", "10.30.1.7/32"),
            wide_address("vx-wide", "fd30:1::/128"),
            wide_address("vx-wide", "fd30:1::7/128"),
            with(route(&host, "10.30.2.0/24", Some("10.30.2.0"), "vx-wide", 0), |r| r.onlink = true),
            with(route(&host, "10.30.3.0/24", Some("10.30.3.0"), "vx-wide", 0), |r| {
                (r.onlink, r.src) = (true, Some(ip_of("10.30.1.7")));
            }),
            with(route(&host, "10.30.4.0/24", None, "vx-wide", 7), |r| r.src = Some(ip_of("10.30.1.7"))),
            with(route(&host, "10.30.5.0/24", None, "vx-wide", 0), |r| r.scope = Some(0)),
            with(route(&host, "fd30:2::/64", Some("fd30:2::"), "vx-wide", 1024), |r| r.onlink = true),
            with(route(&host, "fd30:3::/64", Some("fd30:3::"), "vx-wide", 1024), |r| {
                (r.onlink, r.src) = (true, Some(ip_of("fd30:1::7")));
            }),
        ]
        .into_iter()
        .collect();
        reconcile(&mut linux, &desired);
        let shown = json("ip -j route show 10.30.3.0/24")[0].clone();
        assert_eq!(
            (&shown["flags"][0], &shown["prefsrc"], &shown["protocol"]),
            (&"onlink".into(), &"10.30.1.7".into(), &"78".into())
        );
        assert_eq!(json("ip -j -6 route show fd30:3::/64")[0]["flags"][0], "onlink");
        assert_eq!(json("ip -j route show 10.30.4.0/24")[0]["scope"], "link");
        for (script, what) in [
            ("ip route replace 10.30.3.0/24 via 10.30.3.0 dev vx-wide onlink proto 78", "10.30.3.0/24"),
            ("ip route replace 10.30.2.0/24 dev vx-wide proto 78", "10.30.2.0/24"),
            ("ip route replace 10.30.2.0/24 via 10.30.2.0 dev vx-wide onlink proto 78 src 10.30.1.7", "10.30.2.0/24"),
            (
                "ip route replace 10.30.4.0/24 dev vx-wide metric 7 proto 78 src 10.30.1.7 scope global",
                "10.30.4.0/24 metric 7",
            ),
            ("ip -6 route replace fd30:3::/64 via fd30:3:: dev vx-wide onlink proto 78", "fd30:3::/64"),
            ("ip -6 route replace fd30:2::/64 dev vx-wide proto 78", "fd30:2::/64"),
        ] {
            sh(script);
            assert_eq!(reconcile(&mut linux, &desired), [format!("update route {what}")], "{script}");
        }
        // Its source goes, and with it the route of IPv4; that of IPv6 stays without.
        sh("ip addr del 10.30.1.7/32 dev vx-wide && ip addr del fd30:1::7/128 dev vx-wide");
        let told = reconcile(&mut linux, &desired);
        assert_eq!(
            told,
            [
                "create address 10.30.1.7/32 dev vx-wide",
                "create address fd30:1::7/128 dev vx-wide",
                "create route 10.30.3.0/24",
                "create route 10.30.4.0/24 metric 7",
                "update route fd30:3::/64",
            ]
        );
        reconcile(&mut linux, &State::new());
    });
}
