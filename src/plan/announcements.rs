//! Which addresses neighbours have to be told of: they remember the Ethernet address of one that they have spoken with, and
//! would send to the old one for up to a minute.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Op};
use crate::state::{Announcement, Entry, InterfaceName, Key, Link, LinkKind, Mac, Netns, Object, State};

/// One end of a link that has an Ethernet address.
type End = (Netns, InterfaceName);

/// The addresses that came, and those of devices that got another Ethernet address; on bridges that were there before,
/// since on a new one nobody has spoken with anybody.
pub fn announcements(actions: &[Action], desired: &State) -> Vec<Announcement> {
    let mut fresh = BTreeSet::new();
    let mut changed = BTreeSet::new();
    let mut made = BTreeSet::new();
    for action in actions {
        match (&action.key, action.op) {
            (key @ Key::Address { .. }, Op::Create | Op::Replace) => {
                fresh.insert(key);
            }
            (Key::Link { name, .. }, Op::Create | Op::Replace) => {
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
    let mut ends: BTreeMap<End, (Mac, Option<InterfaceName>)> = BTreeMap::new();
    for (key, entry) in desired {
        if let (Some((end, mac)), Object::Link(link)) = (end(key, entry), &entry.object) {
            let bridge = link.master.or(Some(end.1));
            ends.insert(end, (mac, bridge));
        }
    }
    let told = |key: &Key| {
        let Key::Address { netns, link, ip } = key else { return None };
        let end = (netns.clone(), *link);
        let (mac, bridge) = ends.get(&end)?;
        let of_old = bridge.is_none_or(|bridge| !made.contains(&bridge));
        let news = of_old && (fresh.contains(key) || changed.contains(&end));
        news.then(|| Announcement { netns: end.0, link: end.1, mac: *mac, address: ip.ip() })
    };
    desired.iter().filter_map(|(key, _)| told(key)).collect()
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
