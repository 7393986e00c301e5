//! Addresses in each other's way: which go before others come, which of somebody else's cannot be beside netrec's, and what a
//! link loses with its last one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

use super::diff::{End, forced};
use crate::state::{Entry, InterfaceName, Key, Netns, Object, Route, Standing, State};

/// A link by its name in a namespace.
type LinkOf<'a> = (&'a Netns, InterfaceName);

/// The link that something is reached by over IPv4.
pub(super) fn behind<'a>(key: &'a Key, object: &Object) -> Option<LinkOf<'a>> {
    match (key, object) {
        (Key::Neighbour { netns, link, ip: IpAddr::V4(_) }, _) => Some((netns, *link)),
        (Key::Route { netns, to: IpNetwork::V4(_), .. }, Object::Route(route)) => route.dev.map(|dev| (netns, dev)),
        _ => None,
    }
}

/// The router of a route.
fn router<'a>(key: &'a Key, object: &Object) -> Option<(&'a Netns, Ipv4Addr)> {
    match (key, object) {
        (Key::Route { netns, .. }, Object::Route(Route { via: Some(IpAddr::V4(via)), .. })) => Some((netns, *via)),
        _ => None,
    }
}

/// The link of an IPv4 address.
fn link_of(key: &Key) -> Option<LinkOf<'_>> {
    match key {
        Key::Address { netns, link, ip: IpNetwork::V4(_), .. } => Some((netns, *link)),
        _ => None,
    }
}

/// An address of somebody else's, and what tells that it is.
pub(super) type Others<'a> = (&'a Key, &'a Entry, &'a str);

/// What there is as an address of somebody else's on a device that is to have one of netrec's, if it is such.
pub(super) fn of_others<'a>(key: &'a Key, entry: &'a Entry) -> Option<Others<'a>> {
    match (&entry.standing, key) {
        (Standing::Foreign(why), Key::Address { .. }) => Some((key, entry, why)),
        _ => None,
    }
}

/// Those of somebody else's, which are in the order of keys, because of which the kernel refuses an address.
pub(super) fn in_the_way<'o, 'a>(
    key: &'o Key,
    wanted: &'o Entry,
    others: &'o [Others<'a>],
) -> impl Iterator<Item = &'o Others<'a>> {
    let device = |key: &'o Key| if let Key::Address { netns, link, .. } = key { Some((netns, *link)) } else { None };
    let of = device(key);
    let first = others.partition_point(|(other, ..)| device(other) < of);
    let rest = others.get(first..).unwrap_or_default().iter();
    rest.take_while(move |(other, ..)| device(other) == of).filter(move |other| is_refused(key, wanted, other))
}

/// Whether the kernel refuses an address because of one of somebody else's on its device.
fn is_refused(key: &Key, wanted: &Entry, (other, found, _): &Others<'_>) -> bool {
    let (Key::Address { ip, .. }, Key::Address { ip: there, .. }) = (key, other) else { return false };
    let same_subnet = key.ipv4_subnet().is_some() && key.ipv4_subnet() == other.ipv4_subnet();
    // Of IPv6 a device has each address once, whatever its prefix length and its other end.
    let same_address = there.ip() == ip.ip() && (same_subnet || ip.is_ipv6());
    same_address || same_subnet && scope_of(found) != scope_of(wanted)
}

/// The addresses of a link, with what there is of them.
fn addresses_of<'a>(
    state: &'a State,
    netns: &Netns,
    link: InterfaceName,
) -> impl Iterator<Item = (&'a Key, &'a Entry)> + use<'a> {
    let first = Key::address(netns.clone(), link, Ipv4Network::from(Ipv4Addr::UNSPECIFIED).into());
    let of_it = {
        let first = first.clone();
        move |key: &Key| match (key, &first) {
            (Key::Address { netns, link, .. }, Key::Address { netns: n, link: l, .. }) => (netns, link) == (n, l),
            _ => false,
        }
    };
    state.iter_from(&first).take_while(move |(key, _)| of_it(key))
}

fn scope_of(entry: &Entry) -> Option<u8> {
    if let Object::Address(address) = &entry.object { address.scope } else { None }
}

/// Whether a live IPv4 address goes before others of its subnet come: the kernel refuses those that have another scope, and
/// the same address once more.
pub(super) fn yields(desired: &State, key: &Key, live: &Entry) -> bool {
    let Key::Address { ip, .. } = key else { return false };
    let Some((netns, link, subnet)) = key.ipv4_subnet() else { return false };
    if let Some(wanted) = desired.get(key) {
        return !forced(&live.object, &wanted.object).is_empty();
    }
    let mut of_subnet =
        addresses_of(desired, netns, link).filter(|(key, _)| key.ipv4_subnet() == Some((netns, link, subnet)));
    of_subnet.any(|(key, wanted)| {
        let is_same = matches!(key, Key::Address { ip: other, .. } if other.ip() == ip.ip());
        is_same || scope_of(wanted) != scope_of(live)
    })
}

/// The IPv4 addresses that go before things are made, and the links that are left without any by then.
pub(super) fn early<'a>(desired: &'a State, live: &'a State) -> (BTreeSet<Key>, BTreeSet<End>) {
    let goes = |key: &Key, entry: &Entry| {
        entry.standing.is_ours() && (desired.get(key).is_none() || yields(desired, key, entry))
    };
    let mut going: BTreeMap<LinkOf<'a>, Vec<(&Key, bool)>> = BTreeMap::new();
    let found = live.into_iter().filter(|(key, _)| link_of(key).is_some()).filter(|(key, entry)| goes(key, entry));
    let found: Vec<(&Key, &Entry)> = found.collect();
    if found.is_empty() {
        return Default::default();
    }
    let routers: BTreeSet<_> = desired.into_iter().filter_map(|(key, entry)| router(key, &entry.object)).collect();
    for (key, entry) in found {
        let (Some((netns, link, network)), Object::Address(address)) = (key.ipv4_subnet(), &entry.object) else {
            continue;
        };
        let Key::Address { ip: IpNetwork::V4(ip), .. } = key else { continue };
        let route = Key::route(netns.clone(), network.into());
        let comes = desired.get(&route).is_some() && live.get(&route).is_none();
        // In the way of a route: as its router, which a machine cannot be itself, or by the kernel's own to its subnet.
        let blocks = (comes && !address.no_prefix_route) || routers.contains(&(netns, ip.ip()));
        going.entry((netns, link)).or_default().push((key, blocks || yields(desired, key, entry)));
    }
    let links = |(key, _): (&'a Key, &Entry)| link_of(key);
    let stay: BTreeSet<_> = live.into_iter().filter(|(key, entry)| !goes(key, entry)).filter_map(links).collect();
    let come: BTreeSet<_> = desired.into_iter().filter_map(links).collect();
    let reaching: BTreeSet<_> = desired.into_iter().filter_map(|(key, entry)| behind(key, &entry.object)).collect();
    let (mut keys, mut bared) = (BTreeSet::new(), BTreeSet::new());
    for (link, addresses) in going {
        let none_left = !stay.contains(&link) && (!come.contains(&link) || addresses.iter().all(|(_, blocks)| *blocks));
        let last_goes = none_left && reaching.contains(&link);
        if last_goes {
            bared.insert((link.0.clone(), link.1));
        }
        keys.extend(addresses.into_iter().filter(|(_, blocks)| last_goes || *blocks).map(|(key, _)| key.clone()));
    }
    (keys, bared)
}
