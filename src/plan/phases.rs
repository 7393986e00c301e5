//! The order of things. It is a property of the kind: each action becomes one or more steps, each in its phase, and each
//! step takes the object from one value to the next.
//!
//! Nothing is reachable before its rules stand: containers' ends come up after the firewall's transaction, and what goes
//! takes its rules with it only after its links are gone. What cannot be undone comes after all that can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use ipnetwork::IpNetwork;

use super::{Action, Op};
use crate::state::{BridgePort, Claim, Device, Entry, InterfaceName, Key, Link, LinkKind, Netns, Object, Step, facts};

/// The phases, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Links on their way out that are wanted after all stay: whatever link goes takes all of these along.
    Keep,
    /// Container ends whose name another one needs get a name out of the way.
    MoveAside,
    /// Namespaces are made.
    Namespaces,
    /// Links that cannot change in place go, and tunnels whose place another one takes. Plugins' devices are given back.
    Unlink,
    /// Containers leave plugins' networks.
    Part,
    /// Plugins' networks go.
    Dissolve,
    /// Plugins' networks are made.
    Networks,
    /// Containers that ask for an address join plugins' networks: else one that takes any could get it.
    Claim,
    /// The others join plugins' networks.
    Join,
    /// Links are made, bridges and VLANs first: down, with what only the creating message can set.
    Bridges,
    /// What may be a bridge's port or is on another link is made: veth pairs, both ends down, VXLAN devices, macvlans.
    Pairs,
    /// Links get the rest of their attributes, and their names.
    Attributes,
    /// Kernel parameters of all devices are set: they overwrite those of single ones.
    Switches,
    /// All other kernel parameters are set.
    Parameters,
    /// The firewall's additions and changes, and ranges of ports that go, in one transaction. Rules name devices, so none
    /// need be there yet.
    Firewall,
    /// Bridges, VXLAN devices, what traffic waits at and hosts' ends come up.
    Raise,
    /// IPv6 addresses that come back with another prefix length go: a device has each of them once (EEXIST). And addresses
    /// that are in the way of what is made next, or would take it along.
    Yield,
    /// Addresses are added, of each subnet the first of IPv4.
    Addresses,
    /// IPv4 addresses go that stand before the one that is to be the first of their subnet.
    StepBack,
    /// The others of a subnet are added, behind its first.
    Followers,
    /// Queueing disciplines are set, before anything can pass.
    Shape,
    /// Forwarding is turned on.
    Forwarding,
    /// Containers' ends come up.
    Up,
    /// Neighbours and entries of forwarding databases are added: after the links are up, since what goes down loses its
    /// neighbours.
    Reach,
    /// Routes are added.
    Routes,
    /// From here on things only go. Routes first: a device's last address would take them along.
    Unroute,
    /// Neighbours and entries of forwarding databases go.
    Unreach,
    /// Queueing disciplines go: before the devices that they send packets to.
    Unshape,
    /// Addresses go.
    Detach,
    /// Links go.
    Remove,
    /// Namespaces go, and links stop to promote secondary addresses.
    Unname,
    /// The firewall's removals, in one transaction.
    Unguard,
}

impl Phase {
    /// Whether this phase only removes, and so comes after what was made was verified.
    pub fn removes(self) -> bool {
        self >= Self::Unroute
    }
}

/// The steps of some actions, by phase, in order.
pub fn phases(actions: &[Action]) -> Vec<(Phase, Vec<Step>)> {
    let (aside, claims, again) = (in_the_way(actions), new_claims(actions), coming_again(actions));
    // Within a phase in the order of keys, as the actions are.
    let mut steps: BTreeMap<Phase, Vec<Step>> = BTreeMap::new();
    for action in actions.iter().filter(|a| !a.implied) {
        let displaced = claim(action.before.as_ref()).is_some_and(|claim| claims.contains(&claim));
        let in_the_way = aside.contains(&action.key);
        stage(action, &aside, &mut |phase, before, after| {
            let yields = address(&action.key).is_some_and(|a| again.contains(&a));
            // The kernel has one tunnel of an id, whatever its name, and one macvlan of an Ethernet address on a device.
            let phase = match phase {
                Phase::Detach if yields || action.early => Phase::Yield,
                Phase::Remove if displaced || in_the_way && !action.key.netns().is_host() => Phase::Unlink,
                phase => phase,
            };
            if before != after {
                steps.entry(phase).or_default().push(Step::new(action.key.clone(), before, after));
            }
        });
    }
    steps.into_iter().collect()
}

/// Whether a container on a plugin's network asks for addresses.
fn asks_for_addresses(entry: Option<&Entry>) -> bool {
    matches!(entry.map(|e| &e.object), Some(Object::Endpoint(endpoint)) if !endpoint.addresses.is_empty())
}

/// An IPv6 address on a device, whatever its prefix length.
fn address(key: &Key) -> Option<(&Netns, InterfaceName, Ipv6Addr)> {
    match key {
        Key::Address { netns, link, ip: IpNetwork::V6(ip), .. } => Some((netns, *link, ip.ip())),
        _ => None,
    }
}

/// The IPv6 addresses that are to be there with a prefix length that they do not have yet.
fn coming_again(actions: &[Action]) -> BTreeSet<(&Netns, InterfaceName, Ipv6Addr)> {
    actions.iter().filter(|a| a.op == Op::Create).filter_map(|a| address(&a.key)).collect()
}

/// Splits one action into steps.
fn stage(action: &Action, aside: &Aside, emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>)) {
    let (before, after) = (action.before.clone(), action.after.clone());
    match (&action.key, action.op) {
        (Key::Link { .. }, Op::Create) => create_link(&action.key, after, emit),
        (Key::Link { .. }, Op::Replace) => {
            emit(Phase::Unlink, before, None);
            create_link(&action.key, after, emit);
        }
        (Key::Link { .. }, Op::Update) => {
            let kept = keep(before, after.as_ref(), emit);
            let moved = move_aside(&action.key, kept, aside, emit);
            raise_link(&action.key, moved, after, emit);
        }
        // What the plugin removes with its endpoint has to be in its place by then.
        (Key::Link { .. }, Op::Delete) if is_plugins(before.as_ref()) => emit(Phase::Unlink, before, None),
        (Key::Link { .. }, Op::Delete) => {
            let moved = move_aside(&action.key, before, aside, emit);
            emit(Phase::Remove, moved, None);
        }
        (Key::Network { .. }, op) => again(op, (before, after), (Phase::Dissolve, Phase::Networks), emit),
        (Key::Endpoint { .. }, op) => {
            let joins = if asks_for_addresses(after.as_ref()) { Phase::Claim } else { Phase::Join };
            again(op, (before, after), (Phase::Part, joins), emit);
        }
        (Key::Netns { .. }, Op::Delete) => emit(Phase::Unname, before, None),
        (Key::Netns { .. }, _) => emit(Phase::Namespaces, before, after),
        (Key::Address { .. }, Op::Delete) => emit(Phase::Detach, before, None),
        (Key::Address { .. }, op) => {
            let leaves = match (action.early, action.replace.is_empty()) {
                (true, _) => Some(Phase::StepBack),
                (false, false) => Some(Phase::Yield),
                _ => None,
            };
            address_steps(op, leaves, (before, after), emit);
        }
        (Key::Route { .. }, Op::Delete) => emit(Phase::Unroute, before, None),
        // The route in its place, if it is there, goes by a device that goes, perhaps under another name.
        (Key::Route { .. }, Op::Replace) => emit(Phase::Routes, before.map(without_device), after),
        (Key::Route { .. }, _) => emit(Phase::Routes, before, after),
        (Key::Neighbour { .. } | Key::Fdb { .. }, Op::Delete) => emit(Phase::Unreach, before, None),
        (Key::Neighbour { .. } | Key::Fdb { .. }, Op::Replace) => emit(Phase::Reach, None, after),
        (Key::Neighbour { .. } | Key::Fdb { .. }, _) => emit(Phase::Reach, before, after),
        (Key::Qdisc { .. }, Op::Delete) => emit(Phase::Unshape, before, None),
        // Where no attribute forces it, it is its link that is made anew.
        (Key::Qdisc { .. }, Op::Replace) => emit(Phase::Shape, before.filter(|_| !action.replace.is_empty()), after),
        (Key::Qdisc { .. }, _) => emit(Phase::Shape, before, after),
        (Key::Sysctl { netns, path }, op) => {
            let phase = if opens(netns, path, after.as_ref()) {
                Phase::Forwarding
            } else if is_switch(path) {
                Phase::Switches
            } else {
                Phase::Parameters
            };
            emit(phase, before.filter(|_| op != Op::Replace), after);
        }
        // It may overlap one that comes, which the kernel takes only where both are in one transaction.
        (Key::Element { key, .. }, Op::Delete) if key.has_range() => emit(Phase::Firewall, before, None),
        (Key::Table | Key::Set { .. } | Key::Chain { .. } | Key::Element { .. }, Op::Delete) => {
            emit(Phase::Unguard, before, None);
        }
        (Key::Table | Key::Set { .. } | Key::Chain { .. } | Key::Element { .. }, _) => {
            emit(Phase::Firewall, before, after);
        }
    }
}

/// An address is added where its place in its subnet is, which changes with what comes and goes before it alone. One that is
/// made anew leaves in some phase, if it does not go by itself.
fn address_steps(
    op: Op,
    leaves: Option<Phase>,
    (before, mut after): (Option<Entry>, Option<Entry>),
    emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>),
) {
    let secondary = |entry: &Option<Entry>| match entry.as_ref().map(|e| &e.object) {
        Some(Object::Address(address)) => Some(address.secondary),
        _ => None,
    };
    let comes = if secondary(&after) == Some(true) { Phase::Followers } else { Phase::Addresses };
    if op == Op::Replace {
        if let Some(phase) = leaves {
            emit(phase, before, None);
        }
        emit(comes, None, after);
        return;
    }
    if let (Some(place), Some(Object::Address(address))) = (secondary(&before), after.as_mut().map(|e| &mut e.object)) {
        address.secondary = place;
    }
    emit(comes, before, after);
}

/// What goes in one phase and comes in another.
fn again(
    op: Op,
    (before, after): (Option<Entry>, Option<Entry>),
    (goes, comes): (Phase, Phase),
    emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>),
) {
    match op {
        Op::Update => emit(comes, before, after),
        Op::Create => emit(comes, None, after),
        Op::Delete => emit(goes, before, None),
        Op::Replace => {
            emit(goes, before, None);
            emit(comes, None, after);
        }
    }
}

/// Whether a link is a plugin's device.
fn is_plugins(entry: Option<&Entry>) -> bool {
    matches!(entry.map(|e| &e.object), Some(Object::Link(link)) if link.source().is_some())
}

/// Whether a parameter is that of no single device.
fn is_switch(path: &str) -> bool {
    !path.contains("/conf/") || path.contains("/conf/all/") || path.contains("/conf/default/")
}

/// Whether a parameter of the host lets packets through that only the firewall keeps in check.
fn opens(netns: &Netns, path: &str, after: Option<&Entry>) -> bool {
    let forwards = path == facts::IPV4_FORWARDING || path.ends_with("/forwarding");
    let on = || matches!(after.map(|e| &e.object), Some(Object::Sysctl(sysctl)) if sysctl.value != "0");
    netns.is_host() && (forwards || path.ends_with("/route_localnet") && on())
}

fn without_device(mut entry: Entry) -> Entry {
    if let Object::Route(route) = &mut entry.object {
        route.dev = None;
    }
    entry
}

/// A link comes to be down and bare, since the kernel ignores an alias, a port's settings and the address generation mode
/// in the creating message; then it gets those, and comes up.
fn create_link(key: &Key, after: Option<Entry>, emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>)) {
    let Some(after) = after else { return };
    let mut bare = with_up(after.clone(), false, false);
    // A plugin's device comes with its mark, since it was somebody else's before.
    if !is_plugins(Some(&bare)) {
        bare.owners.clear();
    }
    let mut phase = Phase::Bridges;
    if let Object::Link(link) = &mut bare.object {
        link.device = Device { no_arp: link.is_born_without_arp(), ..as_created(&link.device) };
        link.port = link.port.map(|_| BridgePort::default());
        if let LinkKind::Veth { peer } = &mut link.kind {
            peer.device = as_created(&peer.device);
        }
        if !matches!(link.kind, LinkKind::Bridge { .. } | LinkKind::Vlan { .. }) {
            phase = Phase::Pairs;
        }
    }
    emit(phase, None, Some(bare.clone()));
    raise_link(key, Some(bare), Some(after), emit);
}

/// A device with what the kernel gives to a new one.
fn as_created(device: &Device) -> Device {
    Device { link_local: true, promote_secondaries: false, no_arp: false, ..device.clone() }
}

/// A link that is there gets its attributes, then its host's end comes up, and last its peer.
fn raise_link(
    key: &Key,
    before: Option<Entry>,
    after: Option<Entry>,
    emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>),
) {
    let (Some(before), Some(last)) = (before, after) else { return };
    let after = promoting(&before, last.clone());
    let (near, far) = up(&before);
    let attributes = with_up(after.clone(), near, far);
    let raised = with_up(after.clone(), up(&after).0, far);
    emit(Phase::Attributes, Some(before), Some(attributes.clone()));
    // A container's end comes up with the others, also where it has none in the host. What traffic waits at is no end, and
    // is up before anything is sent there.
    let waits = matches!(&after.object, Object::Link(Link { kind: LinkKind::Ifb, .. }));
    let raise = if key.netns().is_host() || waits { Phase::Raise } else { Phase::Up };
    emit(raise, Some(attributes), Some(raised.clone()));
    emit(Phase::Up, Some(raised), Some(after.clone()));
    emit(Phase::Unname, Some(after), Some(last));
}

/// A link that still promotes secondary addresses where it did: as long as addresses go, the first of a subnet is not to take
/// the others along.
fn promoting(before: &Entry, mut entry: Entry) -> Entry {
    if let (Object::Link(before), Object::Link(link)) = (&before.object, &mut entry.object) {
        link.device.promote_secondaries |= before.device.promote_secondaries;
        if let (LinkKind::Veth { peer: before }, LinkKind::Veth { peer }) = (&before.kind, &mut link.kind) {
            peer.device.promote_secondaries |= before.device.promote_secondaries;
        }
    }
    entry
}

/// Whether a link's end in the host, and its other end if it has one, are up.
fn up(entry: &Entry) -> (bool, bool) {
    match &entry.object {
        Object::Link(Link { kind: LinkKind::Veth { peer }, device, .. }) => (device.up, peer.device.up),
        Object::Link(link) => (link.device.up, false),
        _ => (false, false),
    }
}

fn with_up(mut entry: Entry, near: bool, far: bool) -> Entry {
    if let Object::Link(link) = &mut entry.object {
        link.device.up = near;
        if let LinkKind::Veth { peer } = &mut link.kind {
            peer.device.up = far;
        }
    }
    entry
}

/// Links whose container end has a name that another one is to get.
type Aside = BTreeSet<Key>;

/// A container's end of a link: of a pair the far one, else the one that it has.
fn end_inside<'a>(key: &'a Key, entry: Option<&'a Entry>) -> Option<(&'a Netns, InterfaceName)> {
    match key {
        Key::Link { netns, name } if !netns.is_host() => entry.map(|_| (netns, *name)),
        _ => peer_end(entry),
    }
}

fn peer_end(entry: Option<&Entry>) -> Option<(&Netns, InterfaceName)> {
    match entry.map(|e| &e.object) {
        Some(Object::Link(Link { kind: LinkKind::Veth { peer }, .. })) => Some((&peer.netns, peer.name)),
        _ => None,
    }
}

/// A container's end of a link before and after.
fn ends(action: &Action) -> [Option<(&Netns, InterfaceName)>; 2] {
    [&action.before, &action.after].map(|entry| end_inside(&action.key, entry.as_ref()))
}

fn in_the_way(actions: &[Action]) -> Aside {
    let links = || actions.iter().filter(|a| matches!(a.key, Key::Link { .. }));
    // Ends that are to have a name they do not have yet.
    let wanted: BTreeSet<_> =
        links().filter(|a| ends(a)[0] != ends(a)[1] || a.op == Op::Replace).filter_map(|a| ends(a)[1]).collect();
    links()
        .filter(|a| a.op != Op::Replace && ends(a)[0] != ends(a)[1])
        .filter(|a| ends(a)[0].is_some_and(|end| wanted.contains(&end)))
        .map(|a| a.key.clone())
        .collect()
}

fn claim(entry: Option<&Entry>) -> Option<Claim> {
    match entry.map(|e| &e.object) {
        Some(Object::Link(link)) => link.claim(),
        _ => None,
    }
}

/// What links come to have of which the kernel has one only.
fn new_claims(actions: &[Action]) -> BTreeSet<Claim> {
    let made = actions.iter().filter(|action| claim(action.before.as_ref()) != claim(action.after.as_ref()));
    let remade = actions.iter().filter(|action| action.op == Op::Replace);
    made.chain(remade).filter_map(|action| claim(action.after.as_ref())).collect()
}

/// Gives a container's end that is in the way another name.
fn keep(
    before: Option<Entry>,
    after: Option<&Entry>,
    emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>),
) -> Option<Entry> {
    let leaves = |entry: Option<&Entry>| matches!(entry.map(|e| &e.object), Some(Object::Link(link)) if link.leaving);
    if !leaves(before.as_ref()) || leaves(after) {
        return before;
    }
    let mut kept = before.clone();
    if let Some(Object::Link(link)) = kept.as_mut().map(|e| &mut e.object) {
        link.leaving = false;
    }
    emit(Phase::Keep, before, kept.clone());
    kept
}

fn move_aside(
    key: &Key,
    before: Option<Entry>,
    aside: &Aside,
    emit: &mut impl FnMut(Phase, Option<Entry>, Option<Entry>),
) -> Option<Entry> {
    let (Key::Link { netns: Netns::HOST, name }, true) = (key, aside.contains(key)) else { return before };
    let mut moved = before.clone();
    if let Some(Object::Link(Link { kind: LinkKind::Veth { peer }, .. })) = moved.as_mut().map(|e| &mut e.object) {
        peer.name = temporary(*name);
    }
    emit(Phase::MoveAside, before, moved.clone());
    moved
}

/// A name that no file asks for, made from the name of the pair's other end, which is unique on the host.
fn temporary(host_end: InterfaceName) -> InterfaceName {
    // Of a long name the end is kept, where the hash is.
    let tail = host_end.as_str();
    let tail = tail.get(tail.len().saturating_sub(14)..).unwrap_or(tail);
    format!("~{tail}").parse().unwrap_or(host_end)
}
