//! The one vocabulary: what there is to want and to find. Plain data, no I/O.

mod announcement;
mod cluster;
pub mod facts;
pub mod firewall;
mod flow;
mod names;
mod object;
mod rate;
mod remote;
mod ruleset;
mod shown;
mod source;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use announcement::Announcement;
pub use cluster::{Away, Cluster, ClusterBackend, ClusterNetwork, Member, Membership, Note};
pub use facts::{Asked, Facts};
pub use flow::{End, Flow, Stale, Traffic};
pub(crate) use names::hash;
pub use names::{INTERFACE_NAME_MAX, InterfaceName, Mac, Netns, ObjectName, Owner};
pub use object::{
    Address, BridgePort, Claim, Device, Fdb, GROUP, GROUP_LEAVING, Hook, IP6_RT_PRIO_ADDRCONF, IpvlanMode, Key, Kind,
    Link, LinkKind, MacvlanMode, Neighbour, NetnsObject, Object, PROTOCOL, Peer, Qdisc, RT_TABLE_MAIN, Route,
    RouteType, Sysctl, WAY_METRIC, device_of, of_all_devices, of_renamed, usual_metric,
};
pub use rate::Rate;
pub use remote::{Answer, Endpoint, Health, PluginNetwork, PluginPort, PluginRoute, PluginSubnet};
pub use ruleset::Ruleset;
pub(crate) use shown::{clean, push_visible};
pub use source::{Lead, OTHER_KIND, SearchedFor, Source, SourceKind, Whereabouts};
pub use surroundings::{
    At, Condition, ForeignChain, ForeignRule, ForeignTable, ForeignVerdict, Listener, OneOf, Process, Published,
    Surroundings, TableFamily,
};

/// The least MTU in bytes of a device that IPv6 runs over (RFC 8200, 5). With less the kernel takes IPv6 off it.
pub const IPV6_MIN_MTU: u32 = 1280;

/// An object with what is known of whom it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The object.
    pub object: Object,
    /// Desired: the places in the file it exists for, in file order; the first is written into the kernel as its mark.
    /// Live: the one the mark names, or that of the link it hangs on; empty where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
    /// Live: whether it is netrec's to change. Desired: always `Ours`.
    #[serde(default, skip_serializing_if = "Standing::is_ours")]
    pub standing: Standing,
}

impl Entry {
    /// An object of netrec's with one owner.
    pub fn new(object: Object, owner: Owner) -> Self {
        Self { object, owners: vec![owner], standing: Standing::Ours }
    }

    /// The first owner.
    pub fn owner(&self) -> Option<&Owner> {
        self.owners.first()
    }
}

/// Whose a live object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It carries netrec's mark, or hangs on something that does.
    #[default]
    Ours,
    /// Somebody else's; with a few words on what tells so, such as `group 0` or `protocol boot`.
    Foreign(String),
}

impl Standing {
    /// Whether netrec may change it.
    pub fn is_ours(&self) -> bool {
        *self == Self::Ours
    }
}

/// Objects by key, in the order of kinds, namespaces and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    entries: BTreeMap<Key, Entry>,
}

impl State {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds or replaces an object.
    pub fn insert(&mut self, key: Key, entry: Entry) -> Option<Entry> {
        self.entries.insert(key, entry)
    }

    /// Adds an object for an owner; one that is there already gets one more owner.
    pub fn want(&mut self, key: Key, object: Object, owner: &Owner) {
        match self.entries.entry(key) {
            btree_map::Entry::Vacant(free) => {
                free.insert(Entry::new(object, owner.clone()));
            }
            btree_map::Entry::Occupied(mut there) => {
                let there = there.get_mut();
                if !there.owners.contains(owner) {
                    there.owners.push(owner.clone());
                }
            }
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All objects, in order.
    pub fn iter(&self) -> btree_map::Iter<'_, Key, Entry> {
        self.entries.iter()
    }

    /// The entries from a key on, in the order of keys.
    pub fn iter_from(&self, key: &Key) -> btree_map::Range<'_, Key, Entry> {
        self.entries.range(key..)
    }
}

impl<'a> IntoIterator for &'a State {
    type Item = (&'a Key, &'a Entry);
    type IntoIter = btree_map::Iter<'a, Key, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl IntoIterator for State {
    type Item = (Key, Entry);
    type IntoIter = btree_map::IntoIter<Key, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Extend<(Key, Entry)> for State {
    fn extend<I: IntoIterator<Item = (Key, Entry)>>(&mut self, items: I) {
        self.entries.extend(items);
    }
}

impl Serialize for State {
    /// As a list of objects, each with its key.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Item<'a> {
            key: &'a Key,
            #[serde(flatten)]
            entry: &'a Entry,
        }
        s.collect_seq(self.iter().map(|(key, entry)| Item { key, entry }))
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Item {
            key: Key,
            #[serde(flatten)]
            entry: Entry,
        }
        Ok(Vec::<Item>::deserialize(d)?.into_iter().map(|item| (item.key, item.entry)).collect())
    }
}

impl FromIterator<(Key, Entry)> for State {
    fn from_iter<I: IntoIterator<Item = (Key, Entry)>>(items: I) -> Self {
        Self { entries: items.into_iter().collect() }
    }
}

/// One change of one object: from a value to the next. Creating is from none, deleting is to none.
///
/// An object that comes to life in parts (a link that goes up only after the firewall stands) passes through several
/// steps, with the values between as its `before` and `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which object.
    pub key: Key,
    /// What it is before; none when it is absent.
    pub before: Option<Entry>,
    /// What it is after; none when it is absent then.
    pub after: Option<Entry>,
}

impl Step {
    /// A step.
    pub fn new(key: Key, before: Option<Entry>, after: Option<Entry>) -> Self {
        Self { key, before, after }
    }
}

/// Something that a person should know before a plan is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A stable word for programs: `forwarding-enabled`.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// Whom it concerns.
    pub owner: Option<Owner>,
}

/// Where owners stand in the file.
#[derive(Clone, Debug, Default)]
pub struct Places(HashMap<Owner, (usize, String)>);

impl Places {
    /// Where an owner stands: `netrec.toml:14`.
    pub fn line(&self, owner: &Owner) -> Option<&str> {
        self.0.get(owner).map(|(_, line)| line.as_str())
    }

    /// All that stand in the file.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.0.keys()
    }

    /// The place of an owner in the order of the file.
    pub fn rank(&self, owner: &Owner) -> Option<usize> {
        self.0.get(owner).map(|(rank, _)| *rank)
    }
}

impl FromIterator<(Owner, String)> for Places {
    /// From owners and their lines, in file order.
    fn from_iter<I: IntoIterator<Item = (Owner, String)>>(items: I) -> Self {
        Self(items.into_iter().enumerate().map(|(rank, (owner, line))| (owner, (rank, line))).collect())
    }
}

/// What a reader of live state must look at beside the host's own objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The namespaces that the desired state names, the host left out.
    pub namespaces: BTreeSet<Netns>,
    /// The kernel parameters that the desired state sets, by namespace, the host's too.
    #[serde(with = "pairs")]
    pub sysctls: BTreeMap<Netns, BTreeSet<Arc<str>>>,
    /// The names that devices are to have, at both ends: a foreign device of one is reported too.
    pub ends: BTreeSet<(Netns, InterfaceName)>,
    /// Devices of the host that are to have addresses: on a foreign one, all that it has are reported.
    pub addressed: BTreeSet<InterfaceName>,
    /// Devices of the host that are to have neighbours or entries in their forwarding database: those of netrec's are
    /// looked at for such. (So are VXLAN devices and their bridges, whether named or not.)
    pub reaching: BTreeSet<InterfaceName>,
    /// Devices that are to have queueing disciplines: on those of netrec's, somebody else's in the way are reported.
    #[serde(default)]
    pub shaped: BTreeSet<(Netns, InterfaceName)>,
}

/// Maps whose keys are no text, as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, K: Serialize, V: Serialize>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, K: Deserialize<'de> + Ord, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The parameters that netrec sets for a bridge, below `net/FAMILY/conf/DEVICE`.
const BRIDGE_PARAMETERS: [&str; 6] = [
    "ipv4/forwarding",
    "ipv4/route_localnet",
    "ipv4/rp_filter",
    "ipv6/accept_dad",
    "ipv6/accept_ra",
    "ipv6/forwarding",
];
/// Those for a container's end.
const END_PARAMETERS: [&str; 2] = ["ipv4/rp_filter", "ipv6/accept_ra"];

impl Scope {
    /// The parameters of live links of netrec's that a desired state has no place for, or another name: they go with their
    /// links or are set under the new name, and only who knows them can bring them back.
    pub fn of_going(live: &State, desired: &State) -> Self {
        let mut scope = Self::default();
        let mut parameters = |netns: &Netns, device: &InterfaceName, names: &[&str]| {
            for (family, name) in names.iter().filter_map(|name| name.split_once('/')) {
                let path = format!("net/{family}/conf/{device}/{name}").into();
                scope.sysctls.entry(netns.clone()).or_default().insert(path);
            }
        };
        let links = live.iter().filter(|(key, entry)| matches!(key, Key::Link { .. }) && entry.standing.is_ours());
        let end = |entry: &Entry| match &entry.object {
            Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) => Some((peer.netns.clone(), peer.name)),
            _ => None,
        };
        let stays = |key: &Key, entry: &Entry| {
            let renamed = |wanted| matches!((end(wanted), end(entry)), (Some(a), Some(b)) if a.0 == b.0 && a.1 != b.1);
            desired.get(key).is_some_and(|wanted| !renamed(wanted))
        };
        for (key, entry) in links.filter(|(key, entry)| !stays(key, entry)) {
            match (key, &entry.object) {
                (Key::Link { .. }, Object::Link(Link { kind: LinkKind::Veth { peer }, .. })) => {
                    parameters(&peer.netns, &peer.name, &END_PARAMETERS);
                }
                (Key::Link { netns, name }, Object::Link(_)) => {
                    let names = if netns.is_host() { &BRIDGE_PARAMETERS[..] } else { &END_PARAMETERS };
                    parameters(netns, name, names);
                }
                _ => {}
            }
        }
        // Under its new name a device keeps what the file says of it.
        let old_names: BTreeMap<(Netns, InterfaceName), InterfaceName> = live
            .iter()
            .filter_map(|(key, found)| {
                let (_, old) = end(found)?;
                let (netns, new) = end(desired.get(key)?)?;
                (new != old).then_some(((netns, new), old))
            })
            .collect();
        let wanted = desired.iter().filter(|(key, _)| !old_names.is_empty() && matches!(key, Key::Sysctl { .. }));
        for (key, _) in wanted {
            let Key::Sysctl { netns, path } = key else { continue };
            let old = device_of(path).and_then(|device| old_names.get(&(netns.clone(), device)));
            if let Some(path) = old.and_then(|old| of_renamed(path, *old)) {
                scope.sysctls.entry(netns.clone()).or_default().insert(path.into());
            }
        }
        let inside = scope.sysctls.keys().filter(|netns| !netns.is_host());
        scope.namespaces = inside.cloned().collect();
        scope
    }

    /// Whether it looks at nothing.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.sysctls.is_empty()
            && self.ends.is_empty()
            && self.addressed.is_empty()
            && self.reaching.is_empty()
            && self.shaped.is_empty()
    }

    /// With what another scope looks at too.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.namespaces.extend(other.namespaces);
        for (netns, paths) in other.sysctls {
            self.sysctls.entry(netns).or_default().extend(paths);
        }
        self.ends.extend(other.ends);
        self.addressed.extend(other.addressed);
        self.reaching.extend(other.reaching);
        self.shaped.extend(other.shaped);
        self
    }

    /// The scope of a desired state.
    pub fn of(desired: &State) -> Self {
        let mut scope = Self::default();
        // Sorted once in the end, which is quick as they come in order already, kind by kind.
        let (mut namespaces, mut ends) = (Vec::new(), Vec::new());
        for (key, entry) in desired {
            namespaces.push(key.netns());
            match (key, &entry.object) {
                (Key::Netns { netns }, _) => namespaces.push(netns),
                (Key::Link { netns, name }, object) => {
                    if let Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) = object {
                        namespaces.push(&peer.netns);
                        ends.push((peer.netns.clone(), peer.name));
                    }
                    ends.push((netns.clone(), *name));
                }
                (Key::Address { netns, link, .. }, _) if netns.is_host() => {
                    scope.addressed.insert(*link);
                }
                (Key::Neighbour { netns, link, .. } | Key::Fdb { netns, link, .. }, _) if netns.is_host() => {
                    scope.reaching.insert(*link);
                }
                (Key::Qdisc { netns, link, .. }, _) => {
                    scope.shaped.insert((netns.clone(), *link));
                }
                (Key::Sysctl { netns, path }, _) => {
                    scope.sysctls.entry(netns.clone()).or_default().insert(path.clone());
                }
                _ => {}
            }
        }
        namespaces.dedup();
        scope.namespaces = namespaces.into_iter().filter(|netns| !netns.is_host()).cloned().collect();
        scope.ends = ends.into_iter().collect();
        scope
    }
}
