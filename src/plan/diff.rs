//! The one difference: two maps of objects, walked side by side.
//!
//! Before the walk, live state is seen as it will be once the links have changed: what hangs on a link that is renamed
//! goes by its new name, and what hangs on a link that goes is gone with it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::addresses::{Others, behind, early, in_the_way, of_others, yields};
use super::{Action, Conflict, Op};
use crate::state::{
    Claim, ClusterNetwork, Endpoint, Entry, Fdb, Health, InterfaceName, Key, Link, LinkKind, MacvlanMode, Member,
    Netns, Object, Owner, PluginNetwork, PluginSubnet, Route, Standing, State, Warning, device_of, of_all_devices,
    of_renamed,
};

/// The actions that make live state the desired one, in the order of their keys, and what stands in their way.
pub fn diff(desired: &State, live_state: &State) -> Diff {
    let fate = Fate::of(desired, live_state);
    let mut walk = Diff::default();
    let (mut renamed, mut others) = (Vec::new(), Vec::new());
    let mut live: Vec<Found<'_>> = Vec::with_capacity(live_state.len());
    for (key, entry) in live_state {
        let falls = fate.takes(key, &entry.object);
        others.extend(of_others(key, entry));
        match fate.new_key(key) {
            Some(new) if falls.is_none() => renamed.push((new, fate.adjust(key, entry))),
            _ => live.push(Found { key, entry, falls }),
        }
    }
    live.extend(renamed.iter().map(|(key, entry)| Found { key, entry, falls: None }));
    // Nearly in order already. What a device brings along under its new name counts, not what goes with the device that
    // had the name before.
    live.sort_by(|a, b| a.key.cmp(b.key).then(a.falls.is_some().cmp(&b.falls.is_some())));
    live.dedup_by(|later, first| later.key == first.key);
    walk.ends_taken(desired, live_state);
    let places = Order::of(desired, &live);
    let mut wanted = desired.into_iter().peekable();
    let mut found = live.into_iter().peekable();
    loop {
        let order = match (wanted.peek(), found.peek()) {
            (Some((key, _)), Some(found)) => (*key).cmp(found.key),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        match order {
            Ordering::Less => walk.missing(wanted.next(), &others),
            Ordering::Greater => walk.extra(found.next(), &fate),
            Ordering::Equal => {
                if let (Some((key, after)), Some(before)) = (wanted.next(), found.next()) {
                    walk.both(key, before, after, (&fate, &places));
                }
            }
        }
    }
    walk.mark_coming_again();
    walk
}

/// A live object as the changes of the links leave it.
#[derive(Clone, Copy)]
struct Found<'a> {
    key: &'a Key,
    entry: &'a Entry,
    /// Whether it goes by itself, mostly with what it hangs on.
    falls: Option<Falls>,
}

/// What is to be done about IPv4 addresses so that of each subnet on a device the right one is the first. The kernel goes
/// by the order in which they were added, and the next one takes the place of a first that goes. (Which one is the next
/// cannot be seen, so that all go that might be it.)
#[derive(Default)]
struct Order {
    /// Addresses that stand before the one that is to be the first, or may come to, and that are added anew behind it, with the
    /// address that is to be the first.
    behind: BTreeMap<Key, Ipv4Addr>,
    /// Addresses whose place is to be seen only when one is gone that nobody wants.
    waiting: BTreeSet<Key>,
}

impl Order {
    fn of(desired: &State, live: &[Found<'_>]) -> Self {
        let mut order = Self::default();
        let stay = |found: &&Found<'_>| found.falls.is_none() && found.entry.standing.is_ours();
        let found = live.iter().filter(stay).filter_map(|found| Some((found.key.ipv4_subnet()?, found)));
        let mut subnets: BTreeMap<_, Vec<&Found<'_>>> = BTreeMap::new();
        for (subnet, found) in found {
            subnets.entry(subnet).or_default().push(found);
        }
        if subnets.is_empty() {
            return order;
        }
        let is_first = |entry: &Entry| matches!(&entry.object, Object::Address(address) if !address.secondary);
        let wanted = desired.iter().filter(|(_, entry)| is_first(entry));
        for (subnet, first) in wanted.filter_map(|(key, _)| Some((key.ipv4_subnet()?, key))) {
            let found = subnets.get(&subnet).map_or(&[][..], Vec::as_slice);
            let out_of_place = |leads: &&&Found<'_>| leads.key != first || yields(desired, leads.key, leads.entry);
            let Some(leads) = found.iter().find(|found| is_first(found.entry)).filter(out_of_place) else { continue };
            let Key::Address { ip: IpNetwork::V4(ip), .. } = first else { continue };
            let stays =
                |other: &Found<'_>| desired.get(other.key).is_some() && !yields(desired, other.key, other.entry);
            let others = found.iter().filter(|other| other.key != first && stays(other));
            let others: Vec<Key> = others.map(|other| other.key.clone()).collect();
            if desired.get(leads.key).is_none() {
                order.waiting.extend(others.iter().chain([first]).cloned());
            }
            order.behind.extend(others.into_iter().map(|other| (other, ip.ip())));
        }
        order
    }
}

/// How something goes by itself.
#[derive(Clone, Copy)]
enum Falls {
    /// Before anything is made in its place; with the reason why it is made anew, if it is.
    AtOnce(&'static str),
    /// With what goes last, so that it may as well change in place.
    InTheEnd,
}

/// One end of a link: where it is and what it is called there.
pub(super) type End = (Netns, InterfaceName);

/// What becomes of the live links and namespaces, and so of what hangs on them.
#[derive(Default)]
struct Fate {
    /// Ends of links that are deleted, or deleted and made anew.
    lost: BTreeSet<End>,
    /// Links among them, by their name in the host, that are deleted first and then made anew.
    remade: BTreeSet<InterfaceName>,
    /// Ends that get another name.
    renamed: BTreeMap<End, InterfaceName>,
    /// Links of the host that lose their neighbours: the kernel drops them all, permanent ones too, when the device's MAC
    /// address or its wish to be asked for one changes (`neigh_changeaddr`).
    flushed: BTreeSet<InterfaceName>,
    /// Links that lose their last IPv4 address for a while: with it the kernel drops all that they reach by IPv4, permanent
    /// neighbours too (`fib_disable_ip`). Of IPv6 it drops nothing.
    bared: BTreeSet<End>,
    /// Addresses that go before things are made: a link's last of IPv4, and those in the way of routes or of other addresses.
    early: BTreeSet<Key>,
    /// Links that are deleted first, as another one takes what the kernel gives out but once.
    displaced: BTreeSet<Key>,
    /// Ports that leave their bridge, which forgets all about them.
    unplugged: BTreeSet<InterfaceName>,
    /// Parameters of devices that are right, until the one for all devices is set.
    overwritten: BTreeSet<Key>,
    /// Namespaces that go.
    emptied: BTreeSet<Netns>,
    /// Networks of plugins that are made anew.
    networks: BTreeSet<std::sync::Arc<str>>,
    /// Whether the firewall table goes, and the sets that do.
    table: bool,
    sets: BTreeSet<std::sync::Arc<str>>,
}

impl Fate {
    fn of(desired: &State, live: &State) -> Self {
        let mut fate = Self { table: desired.get(&Key::Table).is_none(), ..Self::default() };
        let ours = || live.into_iter().filter(|(_, e)| e.standing.is_ours());
        let claims: BTreeSet<Claim> = desired.iter().filter_map(|(_, entry)| claim(&entry.object)).collect();
        for (key, entry) in ours() {
            if !matches!(key, Key::Link { .. } | Key::Netns { .. } | Key::Set { .. } | Key::Network { .. }) {
                continue;
            }
            let wanted = desired.get(key).map(|e| &e.object);
            match (key, &entry.object, wanted) {
                (Key::Link { netns, name }, before, Some(after)) if forced(before, after).is_empty() => {
                    if netns.is_host() {
                        fate.note_change(*name, before, after);
                    }
                    let (Some((netns, old)), Some((_, new))) = (peer(before), peer(after)) else { continue };
                    if old != new {
                        fate.renamed.insert((netns.clone(), old), new);
                    }
                }
                (Key::Link { netns, name }, before, wanted) => {
                    if wanted.is_some() && netns.is_host() {
                        fate.remade.insert(*name);
                    }
                    if claim(before).is_some_and(|claim| claims.contains(&claim)) {
                        fate.displaced.insert(key.clone());
                    }
                    fate.lost.insert((netns.clone(), *name));
                    fate.lost.extend(peer(before).map(|(netns, name)| (netns.clone(), name)));
                }
                (Key::Netns { netns }, _, None) => {
                    fate.emptied.insert(netns.clone());
                }
                (Key::Set { name }, _, None) => {
                    fate.sets.insert(name.clone());
                }
                (Key::Network { network }, before, Some(after)) if !forced(before, after).is_empty() => {
                    fate.networks.insert(network.clone());
                }
                _ => {}
            }
        }
        let fallen = ours().filter(|(key, entry)| fate.falls_with_parent(key, &entry.object));
        let fallen: Vec<End> = fallen.filter_map(|(key, _)| link_end(key)).collect();
        fate.lost.extend(fallen);
        (fate.early, fate.bared) = early(desired, live);
        fate.overwritten = overwritten(desired, live);
        fate
    }

    /// Whether a link goes with the one that it is on, which is made anew.
    fn falls_with_parent(&self, key: &Key, object: &Object) -> bool {
        let remade = |parent: &InterfaceName| self.remade.contains(parent);
        matches!((key, object), (Key::Link { .. }, Object::Link(link)) if link.parent().as_ref().is_some_and(remade))
    }

    /// Notes what the change of a link in place does to what hangs on it.
    fn note_change(&mut self, name: InterfaceName, before: &Object, after: &Object) {
        let (Object::Link(before), Object::Link(after)) = (before, after) else { return };
        if (before.device.mac, before.device.no_arp) != (after.device.mac, after.device.no_arp) {
            self.flushed.insert(name);
        }
        if before.master.is_some() && before.master != after.master {
            self.unplugged.insert(name);
        }
    }

    /// The key under which an object is to be compared, where that is another one.
    fn new_key(&self, key: &Key) -> Option<Key> {
        if self.renamed.is_empty() {
            return None;
        }
        match key {
            Key::Address { netns, link, ip, peer } => {
                let link = *self.renamed.get(&(netns.clone(), *link))?;
                Some(Key::Address { netns: netns.clone(), link, ip: *ip, peer: *peer })
            }
            Key::Neighbour { netns, link, ip } => {
                let link = *self.renamed.get(&(netns.clone(), *link))?;
                Some(Key::Neighbour { netns: netns.clone(), link, ip: *ip })
            }
            Key::Qdisc { netns, link, hook } => {
                let link = *self.renamed.get(&(netns.clone(), *link))?;
                Some(Key::Qdisc { netns: netns.clone(), link, hook: *hook })
            }
            Key::Sysctl { netns, path } => {
                let device = device_of(path)?;
                let new = self.renamed.get(&(netns.clone(), device))?;
                Some(Key::Sysctl { netns: netns.clone(), path: of_renamed(path, *new)?.into() })
            }
            // The key does not name the device, the route does.
            Key::Route { .. } => Some(key.clone()),
            _ => None,
        }
    }

    /// An object as the renaming of its device leaves it.
    fn adjust(&self, key: &Key, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if let Object::Route(Route { dev: Some(dev), .. }) = &mut entry.object
            && let Some(new) = self.renamed.get(&(key.netns().clone(), *dev))
        {
            *dev = *new;
        }
        entry
    }

    /// Whether an object goes by itself.
    fn takes(&self, key: &Key, object: &Object) -> Option<Falls> {
        match (key, object) {
            _ if self.goes_along(key, object) => Some(Falls::AtOnce("its link is made anew")),
            _ if self.falls_with_parent(key, object) => Some(Falls::AtOnce("its parent is made anew")),
            (Key::Endpoint { network, .. }, _) if self.networks.contains(network) => {
                Some(Falls::AtOnce("its network is made anew"))
            }
            (Key::Neighbour { netns, link, .. }, _) if netns.is_host() && self.flushed.contains(link) => {
                Some(Falls::AtOnce("a new MAC address of its link, or another ARP flag, drops it"))
            }
            _ if behind(key, object).is_some_and(|(netns, link)| self.bares(netns, link)) => {
                Some(Falls::AtOnce("the last IPv4 address of its link takes it along"))
            }
            (_, Object::Fdb(Fdb { port: Some(port), .. })) if self.lost.contains(&(key.netns().clone(), *port)) => {
                let displaced = || self.displaced.contains(&Key::Link { netns: key.netns().clone(), name: *port });
                let at_once = self.remade.contains(port) || displaced();
                Some(if at_once { Falls::AtOnce("its port is made anew") } else { Falls::InTheEnd })
            }
            (_, Object::Fdb(Fdb { port: Some(port), .. })) if self.unplugged.contains(port) => {
                Some(Falls::AtOnce("its port leaves the bridge"))
            }
            (Key::Sysctl { .. }, _) if self.overwritten.contains(key) => {
                Some(Falls::AtOnce("the parameter of all devices overwrites it"))
            }
            _ => None,
        }
    }

    /// Whether a link loses its last IPv4 address for a while.
    fn bares(&self, netns: &Netns, link: InterfaceName) -> bool {
        !self.bared.is_empty() && self.bared.contains(&(netns.clone(), link))
    }

    /// Whether an object goes because what it hangs on goes.
    fn goes_along(&self, key: &Key, object: &Object) -> bool {
        let lost = |netns: &Netns, device| !self.lost.is_empty() && self.lost.contains(&(netns.clone(), device));
        match (key, object) {
            (Key::Element { set, .. }, _) => self.table || self.sets.contains(set),
            (Key::Set { .. } | Key::Chain { .. }, _) => self.table,
            (Key::Netns { .. } | Key::Link { .. } | Key::Table | Key::Network { .. } | Key::Endpoint { .. }, _) => {
                false
            }
            (
                Key::Address { netns, link, .. }
                | Key::Neighbour { netns, link, .. }
                | Key::Fdb { netns, link, .. }
                | Key::Qdisc { netns, link, .. },
                _,
            ) => self.emptied.contains(netns) || lost(netns, *link),
            (Key::Route { netns, .. }, Object::Route(Route { dev: Some(dev), .. })) => {
                self.emptied.contains(netns) || lost(netns, *dev)
            }
            (Key::Route { netns, .. }, _) => self.emptied.contains(netns),
            (Key::Sysctl { .. }, _) if self.lost.is_empty() => false,
            (Key::Sysctl { netns, path }, _) => device_of(path).is_some_and(|device| lost(netns, device)),
        }
    }

    /// A bridge that is made anew leaves its ports without one meanwhile.
    fn orphaned(&self, before: &Entry) -> Option<Entry> {
        let Object::Link(Link { master: Some(master), .. }) = &before.object else { return None };
        if !self.remade.contains(master) {
            return None;
        }
        let mut entry = before.clone();
        if let Object::Link(link) = &mut entry.object {
            (link.master, link.port) = (None, None);
        }
        Some(entry)
    }
}

/// What the kernel sets on every device when it is set for all (`inet_forward_change`, `addrconf_fixup_forwarding` and their
/// like), as family and name.
const PASSED_ON: [(&str, &str); 6] = [
    ("ipv4", "forwarding"),
    ("ipv6", "forwarding"),
    ("ipv6", "disable_ipv6"),
    ("ipv6", "addr_gen_mode"),
    ("ipv6", "disable_policy"),
    ("ipv6", "ignore_routes_with_linkdown"),
];

/// Parameters of devices that are as they should be, and that the change of one for all devices makes something else.
fn overwritten(desired: &State, live: &State) -> BTreeSet<Key> {
    let is_there = |key: &Key, entry: &Entry| live.get(key).is_some_and(|found| found.object == entry.object);
    let changes = desired.iter().filter_map(|(key, entry)| {
        let Key::Sysctl { netns, path } = key else { return None };
        let passed_on = of_all_devices(path).filter(|parameter| PASSED_ON.contains(parameter))?;
        (!is_there(key, entry)).then_some((netns, passed_on, &entry.object))
    });
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return BTreeSet::new();
    }
    let loses = |(key, entry): &(&Key, &Entry)| {
        let Key::Sysctl { netns, path } = key else { return false };
        let Some(device) = device_of(path) else { return false };
        let is_made_another = |(of, (family, name), value): &(&Netns, (&str, &str), &Object)| {
            *of == netns && **value != entry.object && **path == *format!("net/{family}/conf/{device}/{name}")
        };
        changes.iter().any(is_made_another) && is_there(key, entry)
    };
    desired.iter().filter(loses).map(|(key, _)| key.clone()).collect()
}

/// What a link has of which there is one only.
fn claim(object: &Object) -> Option<Claim> {
    if let Object::Link(link) = object { link.claim() } else { None }
}

fn link_end(key: &Key) -> Option<End> {
    if let Key::Link { netns, name } = key { Some((netns.clone(), *name)) } else { None }
}

/// The far end of a link that has one.
fn peer(object: &Object) -> Option<(&Netns, InterfaceName)> {
    match object {
        Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) => Some((&peer.netns, peer.name)),
        _ => None,
    }
}

/// The attributes that differ and cannot change in place.
pub(super) fn forced(before: &Object, after: &Object) -> Vec<&'static str> {
    match (before, after) {
        (Object::Link(b), Object::Link(a)) => match (&b.kind, &a.kind) {
            (LinkKind::Bridge { .. }, LinkKind::Bridge { .. }) => vec![],
            (LinkKind::Veth { peer: b }, LinkKind::Veth { peer: a }) if b.netns == a.netns => vec![],
            (LinkKind::Veth { .. }, LinkKind::Veth { .. }) => vec!["peer.netns"],
            (LinkKind::Vxlan { .. }, LinkKind::Vxlan { .. }) => fixed_of_tunnel(&b.kind, &a.kind),
            (LinkKind::Macvlan { .. }, LinkKind::Macvlan { .. })
            | (LinkKind::Ipvlan { .. }, LinkKind::Ipvlan { .. })
            | (LinkKind::Vlan { .. }, LinkKind::Vlan { .. }) => fixed_on_parent(b, a),
            (LinkKind::Ifb, LinkKind::Ifb) => vec![],
            (LinkKind::Plugin { source: b }, LinkKind::Plugin { source: a }) if b == a => vec![],
            (LinkKind::Plugin { .. }, LinkKind::Plugin { .. }) => vec!["source"],
            _ => vec!["type"],
        },
        (Object::Address(b), Object::Address(a)) if b.scope != a.scope => vec!["scope"],
        (Object::Network(b), Object::Network(a)) => fixed_of_network(b, a),
        (Object::Endpoint(b), Object::Endpoint(a)) => fixed_of_endpoint(b, a),
        (Object::Qdisc(b), Object::Qdisc(a)) if discriminant(b) != discriminant(a) => vec!["type"],
        (Object::Set(b), Object::Set(a)) if a != b => vec!["type"],
        (Object::Chain(b), Object::Chain(a)) => match (&b.base, &a.base) {
            (Some(b), Some(a)) => {
                let mut paths = Vec::new();
                if b.kind != a.kind {
                    paths.push("type");
                }
                if b.hook != a.hook {
                    paths.push("hook");
                }
                if b.priority != a.priority {
                    paths.push("priority");
                }
                paths
            }
            (None, None) => vec![],
            _ => vec!["hook"],
        },
        _ => vec![],
    }
}

/// What a plugin cannot change of a network: all that it is asked for, and what is amiss.
fn fixed_of_network(before: &PluginNetwork, after: &PluginNetwork) -> Vec<&'static str> {
    fn differ<'a, T: PartialEq>(
        (before, after): (&'a PluginNetwork, &'a PluginNetwork),
        of: impl Fn(&'a PluginSubnet) -> T,
    ) -> bool {
        !before.subnets.iter().map(&of).eq(after.subnets.iter().map(&of))
    }
    let both = (before, after);
    let all = [
        (before.plugin != after.plugin, "plugin"),
        (before.ipam != after.ipam, "ipam"),
        (differ(both, |subnet| subnet.subnet), "subnet"),
        (differ(both, |subnet| subnet.range), "range"),
        (differ(both, |subnet| (subnet.gateway, subnet.says_gateway)), "gateway"),
        (differ(both, |subnet| &subnet.reserve), "reserve"),
        (before.options != after.options, "options"),
        (before.health != after.health, "health"),
    ];
    all.into_iter().filter(|(differs, _)| *differs).map(|(_, path)| path).collect()
}

/// The same of a container on it.
fn fixed_of_endpoint(before: &Endpoint, after: &Endpoint) -> Vec<&'static str> {
    let all = [
        (before.netns != after.netns, "netns"),
        (before.addresses != after.addresses, "addresses"),
        (before.mac != after.mac, "mac"),
        (before.ports != after.ports, "ports"),
        (before.health != after.health, "health"),
    ];
    all.into_iter().filter(|(differs, _)| *differs).map(|(_, path)| path).collect()
}

/// What is amiss with something that a plugin has made.
fn ill(object: &Object) -> Option<Health> {
    let health = match object {
        Object::Network(network) => network.health,
        Object::Endpoint(endpoint) => endpoint.health,
        _ => return None,
    };
    (!health.is_whole()).then_some(health)
}

/// The attributes of a VXLAN device that differ and that the kernel lets nobody change (`vxlan_changelink`); a device
/// below it takes, but never gives up.
fn fixed_of_tunnel(before: &LinkKind, after: &LinkKind) -> Vec<&'static str> {
    let (
        LinkKind::Vxlan { vni, udp_port, local, underlay, .. },
        LinkKind::Vxlan { vni: v, udp_port: p, local: l, underlay: u, .. },
    ) = (before, after)
    else {
        return vec![];
    };
    let all = [
        (vni != v, "vni"),
        (udp_port != p, "udp_port"),
        (local.is_ipv4() != l.is_ipv4(), "local"),
        (underlay.is_some() && u.is_none(), "underlay"),
    ];
    all.into_iter().filter(|(differs, _)| *differs).map(|(_, path)| path).collect()
}

/// The attributes of a device on another one that differ and that the kernel lets nobody change: which one that is, a
/// VLAN's id, and whether a macvlan has the whole of it (`macvlan_changelink`). And a macvlan's Ethernet address: with it the
/// kernel keeps the link-local address that it made of the old one, of which another device may then be refused its own.
fn fixed_on_parent(before: &Link, after: &Link) -> Vec<&'static str> {
    let mut paths = Vec::new();
    if before.parent() != after.parent() {
        paths.push("parent");
    }
    match (&before.kind, &after.kind) {
        (LinkKind::Vlan { vid: b, .. }, LinkKind::Vlan { vid: a, .. }) if a != b => paths.push("vid"),
        (LinkKind::Macvlan { mode: b, .. }, LinkKind::Macvlan { mode: a, .. })
            if (*b == MacvlanMode::Passthru) != (*a == MacvlanMode::Passthru) =>
        {
            paths.push("mode");
        }
        _ => {}
    }
    if matches!(after.kind, LinkKind::Macvlan { .. }) && before.device.mac != after.device.mac {
        paths.push("mac");
    }
    paths
}

/// Whether two objects are the same to the kernel.
fn same(key: &Key, before: &Entry, after: &Entry) -> bool {
    let marked = || before.owner().map(Owner::stem) == after.owner().map(Owner::stem);
    match (&before.object, &after.object) {
        // What a plugin answered is not for the file to want.
        (Object::Endpoint(b), Object::Endpoint(a)) => {
            let ways = |endpoint: &Endpoint| (endpoint.external, endpoint.ipv6_elsewhere);
            fixed_of_endpoint(b, a).is_empty() && ways(b) == ways(a)
        }
        (b, a) => b == a && (!key.kind().is_marked() || marked()),
    }
}

/// Whether a foreign object does what is wanted; only addresses and routes may be somebody else's.
fn serves(before: &Object, after: &Object) -> bool {
    match (before, after) {
        (Object::Address(b), Object::Address(a)) => b == a,
        (Object::Route(b), Object::Route(a)) => {
            (b.via, b.dev, b.src, b.scope, b.kind) == (a.via, a.dev, a.src, a.scope, a.kind)
        }
        _ => false,
    }
}

/// A difference.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// The changes.
    pub actions: Vec<Action>,
    /// Foreign objects that stand where netrec's are to be.
    pub conflicts: Vec<Conflict>,
}

impl Diff {
    fn push(&mut self, op: Op, key: &Key, before: Option<Entry>, after: Option<Entry>) -> &mut Action {
        self.actions.push(Action {
            op,
            key: key.clone(),
            before,
            after,
            replace: Vec::new(),
            reason: None,
            implied: false,
            early: false,
            waits: false,
        });
        // Just pushed, so there is a last one.
        let last = self.actions.len() - 1;
        &mut self.actions[last]
    }

    /// Foreign devices inside containers that have the name of an end to be; the end has no key of its own.
    fn ends_taken(&mut self, desired: &State, live: &State) {
        let foreign = live.iter().filter_map(|(key, entry)| match (key, &entry.standing) {
            (Key::Link { netns, name }, Standing::Foreign(why)) => Some(((netns, *name), (key, why))),
            _ => None,
        });
        let foreign: BTreeMap<(&Netns, InterfaceName), (&Key, &String)> = foreign.collect();
        for after in desired.into_iter().map(|(_, entry)| entry) {
            if let Some((key, why)) = peer(&after.object).and_then(|end| foreign.get(&end)) {
                let owner = after.owner().cloned().unwrap_or_else(Owner::netrec);
                self.conflicts.push(Conflict { key: (*key).clone(), why: (*why).clone(), owner });
            }
        }
    }

    /// Says of what hangs on an endpoint of a plugin's that is made anew, that it goes for a while only.
    fn mark_coming_again(&mut self) {
        let anew = |action: &&Action| action.op == Op::Replace && matches!(action.key, Key::Endpoint { .. });
        let owners: BTreeSet<Owner> = self.actions.iter().filter(anew).map(Action::owner).collect();
        let goes = |action: &&mut Action| action.op == Op::Delete && owners.contains(&action.owner());
        for action in self.actions.iter_mut().filter(goes) {
            action.reason = Some("it comes again with the endpoint, which is made anew".into());
        }
    }

    fn missing(&mut self, wanted: Option<(&Key, &Entry)>, others: &[Others<'_>]) {
        if let Some((key, after)) = wanted {
            for (foreign, _, why) in in_the_way(key, after, others) {
                let owner = after.owner().cloned().unwrap_or_else(Owner::netrec);
                self.conflicts.push(Conflict { key: (*foreign).clone(), why: (*why).to_owned(), owner });
            }
            self.push(Op::Create, key, None, Some(after.clone()));
        }
    }

    fn extra(&mut self, found: Option<Found<'_>>, fate: &Fate) {
        // A parameter has a value whether it is wanted or not.
        if let Some(Found { key, entry, falls }) = found
            && entry.standing.is_ours()
            && !matches!(key, Key::Sysctl { .. })
        {
            let action = self.push(Op::Delete, key, Some(entry.clone()), None);
            // What a plugin was told it has to be told again.
            action.implied = falls.is_some() && !key.kind().is_of_plugin();
            action.early = fate.early.contains(key);
        }
    }

    fn both(&mut self, key: &Key, found: Found<'_>, after: &Entry, (fate, order): (&Fate, &Order)) {
        let before = found.entry;
        if let Standing::Foreign(why) = &before.standing {
            if !serves(&before.object, &after.object) {
                let owner = after.owner().cloned().unwrap_or_else(Owner::netrec);
                self.conflicts.push(Conflict { key: key.clone(), why: why.clone(), owner });
            }
            return;
        }
        let orphaned = fate.orphaned(before);
        let before = orphaned.as_ref().unwrap_or(before);
        if let Some(Falls::AtOnce(why)) = found.falls {
            let action = self.push(Op::Replace, key, Some(before.clone()), Some(after.clone()));
            action.reason = Some(why.into());
        } else if let Some(first) = order.behind.get(key) {
            let action = self.push(Op::Replace, key, Some(before.clone()), Some(after.clone()));
            (action.early, action.reason) = (true, Some(format!("{first} is to be the first of their subnet")));
            action.replace = ordered(&before.object, &after.object);
            action.waits = order.waiting.contains(key);
        } else if !same(key, before, after) {
            let paths = forced(&before.object, &after.object);
            let op = if paths.is_empty() { Op::Update } else { Op::Replace };
            let action = self.push(op, key, Some(before.clone()), Some(after.clone()));
            if let Some(health) = ill(&before.object) {
                action.reason = Some(health.why().into());
            } else if !paths.is_empty() {
                action.reason = Some(format!("{} cannot change in place", paths.join(", ")));
            }
            action.replace = paths;
            action.waits = order.waiting.contains(key);
        }
    }
}

/// The attribute that differs where an address comes to be behind another one of its subnet.
fn ordered(before: &Object, after: &Object) -> Vec<&'static str> {
    match (before, after) {
        (Object::Address(before), Object::Address(after)) if before.secondary != after.secondary => vec!["secondary"],
        _ => vec![],
    }
}

/// Warnings about chosen addresses that replace another on the same device. `chosen` are the keys of addresses that are
/// not written in the file; `lease` is the network whose piece of it this host leases, and that piece.
pub fn moved_addresses(
    actions: &[Action],
    chosen: &BTreeSet<Key>,
    lease: Option<(&ClusterNetwork, &Member)>,
) -> Vec<Warning> {
    let mut gone: BTreeMap<(End, bool), IpAddr> = BTreeMap::new();
    for action in actions.iter().filter(|a| a.op == Op::Delete && !a.implied) {
        if let Key::Address { netns, link, ip, .. } = &action.key {
            gone.insert(((netns.clone(), *link), ip.is_ipv6()), ip.ip());
        }
    }
    let moved = |action: &Action| {
        let Key::Address { netns, link, ip, .. } = &action.key else { return None };
        if action.op != Op::Create || !chosen.contains(&action.key) {
            return None;
        }
        let old = gone.get(&((netns.clone(), *link), ip.is_ipv6()))?;
        let why = left_piece(*old, lease).unwrap_or_else(|| {
            "because the file changed; write `address` into the file to keep it (`netrec pin` writes all that are chosen, before \
             they move)"
                .to_owned()
        });
        let message = format!("the address of `{link}` in {netns} moves from {old} to {} {why}", ip.ip());
        Some(Warning { code: "address-moved", message, owner: Some(action.owner()) })
    };
    actions.iter().filter_map(moved).collect()
}

/// Why an address cannot stay that is of another host's piece now, or nobody's.
fn left_piece(old: IpAddr, lease: Option<(&ClusterNetwork, &Member)>) -> Option<String> {
    let (network, own) = lease?;
    let piece = own.piece(old.is_ipv6())?;
    let is_of_network = network.subnets.iter().flatten().any(|subnet| subnet.contains(old));
    (is_of_network && !piece.contains(old))
        .then(|| format!("because this host's piece of network `{}` is {piece} now", network.name))
}
