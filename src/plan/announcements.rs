//! Which addresses neighbours have to be told of: they remember the Ethernet address of one that they have spoken with, and
//! would send to the old one for up to a minute.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Op};
use crate::state::{Announcement, Entry, InterfaceName, Key, Link, LinkKind, Mac, Neighbour, Netns, Object, State};

/// One end of a link that has an Ethernet address.
type End = (Netns, InterfaceName);

/// The addresses that came, and those of devices that got another Ethernet address; on bridges that were there before,
/// since on a new one nobody has spoken with anybody, and on links outside, which are older than what netrec puts there. What is behind a tunnel does not get through it by itself: the host
/// tells its own containers.
pub fn announcements(actions: &[Action], desired: &State) -> Vec<Announcement> {
    let mut fresh = BTreeSet::new();
    let mut changed = BTreeSet::new();
    let mut made = BTreeSet::new();
    for action in actions {
        match (&action.key, action.op) {
            (key @ Key::Address { .. }, Op::Create | Op::Replace) | (key @ Key::Neighbour { .. }, _) => {
                fresh.insert(key);
            }
            (Key::Link { netns: Netns::HOST, name }, Op::Create | Op::Replace) => {
                made.insert(*name);
            }
            (Key::Link { .. }, Op::Update) => {
                let [before, after] =
                    [&action.before, &action.after].map(|entry| entry.as_ref().and_then(|e| end(&action.key, e)));
                if let (Some((_, old)), Some((end, new))) = (before, after)
                    && old != new
                {
                    changed.insert(end);
                }
            }
            _ => {}
        }
    }
    if fresh.is_empty() && changed.is_empty() {
        return Vec::new();
    }
    let mut ends: BTreeMap<End, (Mac, InterfaceName)> = BTreeMap::new();
    let mut bridges = BTreeSet::new();
    for (key, entry) in desired {
        if let (Some((end, mac)), Object::Link(link)) = (end(key, entry), &entry.object)
            && !link.is_born_without_arp()
        {
            if matches!(link.kind, LinkKind::Bridge { .. }) {
                bridges.insert(end.1);
            }
            let bridge = link.master.unwrap_or(end.1);
            ends.insert(end, (mac, bridge));
        }
    }
    let told = |key: &Key, entry: &Entry| match (key, &entry.object) {
        (Key::Address { netns, link, ip, .. }, _) => {
            let end = (netns.clone(), *link);
            let (mac, bridge) = ends.get(&end)?;
            let news = !made.contains(bridge) && (fresh.contains(key) || changed.contains(&end));
            news.then(|| Announcement { netns: end.0, link: end.1, mac: *mac, address: ip.ip() })
        }
        (Key::Neighbour { netns, link, ip }, Object::Neighbour(Neighbour { mac })) => {
            let news = bridges.contains(link) && !made.contains(link) && fresh.contains(key);
            news.then(|| Announcement { netns: netns.clone(), link: *link, mac: *mac, address: *ip })
        }
        _ => None,
    };
    desired.iter().filter_map(|(key, entry)| told(key, entry)).collect()
}

/// The end of a link that has addresses: a bridge, or the container's end of a pair.
fn end(key: &Key, entry: &Entry) -> Option<(End, Mac)> {
    let (Key::Link { netns, name }, Object::Link(Link { kind, device, .. })) = (key, &entry.object) else {
        return None;
    };
    Some(match kind {
        LinkKind::Veth { peer } => ((peer.netns.clone(), peer.name), peer.device.mac),
        _ => ((netns.clone(), *name), device.mac),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::diff;
    use crate::state::{Address, Device, Owner, Peer};

    fn link(kind: LinkKind, mac: u8, master: Option<&str>) -> Object {
        let master = master.map(|name| name.parse().unwrap());
        Object::Link(Link { kind, device: device(mac), master, port: None, leaving: false })
    }

    fn device(mac: u8) -> Device {
        let mac = Mac([2, 0, 0, 0, 0, mac]);
        Device { mac, mtu: 1500, up: true, link_local: true, promote_secondaries: true, no_arp: false }
    }

    /// A bridge with this Ethernet address, and containers with these, by name and last byte.
    fn state(bridge: u8, containers: &[(&str, u8, &str)]) -> State {
        let name = |name: &str| Key::Link { netns: Netns::HOST, name: name.parse().unwrap() };
        let address = |netns: &Netns, link: &str, ip: &str| {
            let key = Key::address(netns.clone(), link.parse().unwrap(), ip.parse().unwrap());
            (key, Object::Address(Address::lasting()))
        };
        let mut all = vec![
            (name("br0"), link(LinkKind::Bridge { stp: false }, bridge, None)),
            address(&Netns::HOST, "br0", "10.0.0.1/24"),
        ];
        for (container, mac, ip) in containers {
            let netns = Netns::new(*container);
            let peer = Peer { netns: netns.clone(), name: "eth0".parse().unwrap(), device: device(*mac) };
            all.push((name(&format!("ve-{container}")), link(LinkKind::Veth { peer }, 99, Some("br0"))));
            all.push(address(&netns, "eth0", ip));
        }
        all.into_iter().map(|(key, object)| (key, Entry::new(object, Owner::netrec()))).collect()
    }

    /// The same with a container on another host, known by this Ethernet address.
    fn with_neighbour(mut state: State, mac: u8) -> State {
        let key = Key::Neighbour { netns: Netns::HOST, link: "br0".parse().unwrap(), ip: "10.0.0.9".parse().unwrap() };
        let neighbour = Neighbour { mac: Mac([2, 0, 0, 0, 0, mac]) };
        state.want(key, Object::Neighbour(neighbour), &Owner::netrec());
        state
    }

    fn told(live: &State, desired: &State) -> Vec<String> {
        let all = announcements(&diff(desired, live).actions, desired);
        all.iter().map(|a| format!("{} {} {} is {}", a.netns, a.link, a.address, a.mac)).collect()
    }

    #[test]
    fn only_what_neighbours_may_know_otherwise_is_told() {
        let (web, api) = (("web", 2, "10.0.0.2/24"), ("api", 3, "10.0.0.3/24"));
        let both = state(1, &[web, api]);
        assert_eq!(told(&State::new(), &both), [""; 0], "nobody has spoken with anybody on a new bridge");
        assert_eq!(told(&both, &both), [""; 0]);
        assert_eq!(told(&state(1, &[api]), &both), ["web eth0 10.0.0.2 is 02:00:00:00:00:02"]);
        assert_eq!(
            told(&state(1, &[("web", 2, "10.0.0.7/24"), api]), &both),
            ["web eth0 10.0.0.2 is 02:00:00:00:00:02"]
        );
        assert_eq!(
            told(&state(1, &[("web", 7, "10.0.0.2/24"), api]), &both),
            ["web eth0 10.0.0.2 is 02:00:00:00:00:02"]
        );
        assert_eq!(told(&state(7, &[web, api]), &both), ["host br0 10.0.0.1 is 02:00:00:00:00:01"]);
        let far = with_neighbour(both.clone(), 9);
        assert_eq!(told(&both, &far), ["host br0 10.0.0.9 is 02:00:00:00:00:09"]);
        assert_eq!(told(&with_neighbour(both.clone(), 8), &far), ["host br0 10.0.0.9 is 02:00:00:00:00:09"]);
        assert_eq!(told(&far, &both), [""; 0]);
        assert_eq!(told(&State::new(), &far), [""; 0]);
    }
}
