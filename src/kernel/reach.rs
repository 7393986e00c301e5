//! How the host's links reach others: neighbours and forwarding databases as state. Looked at are VXLAN devices of
//! netrec's, the bridges that they are ports of, and what the scope asks for; a host without pays nothing.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};

use super::ReadError;
use super::live::dump_error;
use super::netlink::link::{self, RawKind, RawLink};
use super::netlink::neighbour::{self, Databases, RawFdb};
use super::picture::Picture;
use super::transport::Socket;
use crate::state::{Entry, Fdb, InterfaceName, Key, Mac, Neighbour, Netns, Object, Scope, Standing};

/// Reads those that are not in the picture by a socket in the host's namespace, which has the devices `links`. `inode` is its
/// inode number.
pub(super) fn read(
    socket: &mut Socket,
    picture: &mut Picture,
    links: &[RawLink],
    inode: u64,
    scope: &Scope,
) -> Result<Vec<(Key, Entry)>, ReadError> {
    let devices = devices(links, inode, scope);
    let mut entries = Vec::new();
    for device in &devices {
        let found = match picture.neighbours.entry(device.index) {
            MapEntry::Occupied(kept) => kept.into_mut(),
            MapEntry::Vacant(free) => {
                let found = neighbour::dump(socket, device.index);
                free.insert(found.map_err(|e| dump_error("neighbours", &Netns::HOST, e))?)
            }
        };
        entries.extend(found.iter().map(|raw| {
            let key = Key::Neighbour { netns: Netns::HOST, link: device.name, ip: raw.ip };
            (key, entry(device, Object::Neighbour(Neighbour { mac: raw.mac })))
        }));
    }
    let mut databases: BTreeMap<(InterfaceName, Mac), (&RawLink, Fdb)> = BTreeMap::new();
    for device in &devices {
        let of = match (&device.kind, device.master) {
            (RawKind::Bridge { .. }, _) => Databases::OfBridge(device.index),
            // Listed with its bridge's.
            (_, Some(master)) if devices.iter().any(|other| other.index == master) => continue,
            _ => Databases::OfDevice(device.index),
        };
        let found = match picture.databases.entry(of) {
            MapEntry::Occupied(kept) => kept.into_mut(),
            MapEntry::Vacant(free) => {
                let found = neighbour::dump_fdb(socket, of);
                free.insert(found.map_err(|e| dump_error("forwarding databases", &Netns::HOST, e))?)
            }
        };
        for raw in &*found {
            let Some(owner) = database(raw, &devices).filter(|owner| !made_by_kernel(raw, owner, links)) else {
                continue;
            };
            let Some(part) = object(raw, links) else { continue };
            match databases.get_mut(&(owner.name, raw.mac)) {
                // Several destinations, in as many messages.
                Some((_, whole)) => {
                    whole.extra.extend(part.dst.map(|dst| format!("dst {dst}")));
                    whole.extra.extend(part.extra);
                }
                None => drop(databases.insert((owner.name, raw.mac), (owner, part))),
            }
        }
    }
    entries.extend(databases.into_iter().map(|((link, mac), (owner, fdb))| {
        let key = Key::Fdb { netns: Netns::HOST, link, mac };
        (key, entry(owner, Object::Fdb(fdb)))
    }));
    Ok(entries)
}

/// Whether there is any device to look at.
pub(super) fn is_of_interest(links: &[RawLink], inode: u64, scope: &Scope) -> bool {
    !devices(links, inode, scope).is_empty()
}

/// The devices to look at, by their indices.
fn devices<'a>(links: &'a [RawLink], inode: u64, scope: &Scope) -> Vec<&'a RawLink> {
    let is_tunnel = |link: &RawLink| matches!(link.kind, RawKind::Vxlan { .. });
    let is_ours = |link: &RawLink| link.standing(inode).is_ours();
    let tunnels = || links.iter().filter(|link| is_tunnel(link) && is_ours(link));
    let bridges: BTreeSet<u32> = tunnels().filter_map(|link| link.master).collect();
    let wanted = |link: &RawLink| match link.kind {
        RawKind::Vxlan { .. } => true,
        RawKind::Bridge { .. } => bridges.contains(&link.index) || scope.reaching.contains(&link.name),
        _ => false,
    };
    links.iter().filter(|link| wanted(link) && is_ours(link)).collect()
}

/// The device whose database an entry is in, where that is one to look at.
fn database<'a>(raw: &RawFdb, devices: &[&'a RawLink]) -> Option<&'a RawLink> {
    let index = raw.bridge.unwrap_or(raw.index);
    // A bridge listens to addresses of its own beside its database.
    let own = |device: &&&RawLink| raw.bridge.is_some() || matches!(device.kind, RawKind::Vxlan { .. });
    devices.iter().find(|device| device.index == index).filter(own).copied()
}

/// Whether the kernel made an entry of a bridge's: one for the address of the bridge or of a port.
fn made_by_kernel(raw: &RawFdb, bridge: &RawLink, links: &[RawLink]) -> bool {
    let mut members = links.iter().filter(|link| link.index == bridge.index || link.master == Some(bridge.index));
    raw.local && members.any(|link| link.device.mac == raw.mac)
}

fn object(raw: &RawFdb, links: &[RawLink]) -> Option<Fdb> {
    let local = raw.local.then(|| "local".to_owned());
    let extra = local.into_iter().chain(raw.extra.iter().cloned()).collect();
    // A device that came after the links were listed is not yet there.
    let device = link::by_index(links, raw.index)?;
    Some(Fdb { dst: raw.dst, port: raw.bridge.map(|_| device.name), sticky: raw.sticky, extra })
}

fn entry(link: &RawLink, object: Object) -> Entry {
    let owners = link.mark.iter().map(|mark| mark.owner.clone()).collect();
    Entry { object, owners, standing: Standing::Ours }
}
