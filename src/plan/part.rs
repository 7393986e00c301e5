//! A part of a plan: what belongs to some owners, and what that builds on.
//!
//! What a partial apply wants is a state like any other: live state, with the chosen objects as the file wants them. So the
//! difference, the order, the reading back and the way back know nothing of parts. Which objects are chosen goes by their
//! owners: those that were asked for with all below them, and what these need. Where that would leave something without what
//! it hangs on, or two with what only one can have, the owners concerned are chosen too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use similar::{ChangeTag, TextDiff};

use super::{Action, Op, diff};
use crate::state::firewall::{Chain, Element, ElementData, Rule, Verdict};
use crate::state::{
    Claim, Entry, Fdb, InterfaceName, Key, Link, LinkKind, Netns, Object, Owner, Qdisc, Route, State, device_of,
};

/// The part of a desired state that is to be made.
#[derive(Debug)]
pub struct Part {
    /// What is wanted: the chosen objects, and all others as they are.
    pub state: State,
    /// What a whole plan would still do after it, by its owners, each once.
    pub left_out: Vec<Owner>,
    /// How many changes that are.
    pub left_out_changes: usize,
    targets: Vec<Owner>,
    owners: BTreeSet<Owner>,
}

impl Part {
    /// The part that belongs to the targets, with what it needs. `needs` are pairs of an owner and another that it builds
    /// on. Live state holds what the whole desired state is compared with.
    pub fn of(desired: &State, live: &State, needs: &[(&Owner, &Owner)], targets: &[Owner]) -> Self {
        let mut choice = Choice {
            desired,
            live,
            targets,
            owners: BTreeSet::new(),
            keys: BTreeSet::new(),
            unmarked: unmarked(desired, live),
            alone: false,
        };
        choice.close(needs);
        let old = |action: &Action| action.op != Op::Create && !is_own(action.owners());
        choice.alone = !choice.rest(&choice.state()).iter().any(old);
        let state = choice.state();
        let rest = choice.rest(&state);
        let mut left_out = Vec::new();
        let mut seen = BTreeSet::new();
        left_out.extend(rest.iter().map(Action::owner).filter(|owner| seen.insert(owner.clone())));
        let left_out_changes = rest.len();
        Self { state, left_out, left_out_changes, targets: targets.to_vec(), owners: choice.owners }
    }

    /// Whether an owner's objects are in it.
    pub fn covers(&self, owner: &Owner) -> bool {
        covers(&self.targets, &self.owners, owner)
    }
}

fn covers(targets: &[Owner], owners: &BTreeSet<Owner>, owner: &Owner) -> bool {
    owners.contains(owner) || targets.iter().any(|target| owner.is_within(target))
}

/// Whether something is there for netrec itself, or nothing tells for whom.
fn is_own(owners: &[Owner]) -> bool {
    owners.first().is_none_or(|owner| *owner == Owner::netrec())
}

/// What there is one of, and what other things hang on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Netns(Netns),
    /// A device's name; also that of a container's end of a pair.
    End(Netns, InterfaceName),
    Claim(Claim),
    /// A container's address.
    Address(IpAddr),
    Chain(Arc<str>),
    /// A network of a plugin's.
    Network(Arc<str>),
}

/// The places that an object takes.
fn takes(key: &Key, entry: &Entry) -> Vec<Place> {
    match (key, &entry.object) {
        (Key::Netns { netns }, _) => vec![Place::Netns(netns.clone())],
        (Key::Link { netns, name }, Object::Link(link)) => {
            let far = match &link.kind {
                LinkKind::Veth { peer } => Some(Place::End(peer.netns.clone(), peer.name)),
                _ => None,
            };
            let claim = link.claim().map(Place::Claim);
            std::iter::once(Place::End(netns.clone(), *name)).chain(far).chain(claim).collect()
        }
        (Key::Address { netns, ip, .. }, _) if !netns.is_host() => vec![Place::Address(ip.ip())],
        (Key::Chain { name }, _) => vec![Place::Chain(name.clone())],
        (Key::Network { network }, _) => vec![Place::Network(network.clone())],
        _ => vec![],
    }
}

/// The places that an object hangs on. The table, its sets and base chains are not asked for: they are always chosen.
fn hangs_on(key: &Key, entry: &Entry) -> Vec<Place> {
    let end = |netns: &Netns, name: InterfaceName| Place::End(netns.clone(), name);
    match (key, &entry.object) {
        (Key::Link { netns, .. }, Object::Link(link @ Link { kind, master, .. })) => {
            let far = match kind {
                LinkKind::Veth { peer } => Some(Place::Netns(peer.netns.clone())),
                _ => (!netns.is_host()).then(|| Place::Netns(netns.clone())),
            };
            let below = link.parent().map(|parent| end(&Netns::HOST, parent));
            far.into_iter().chain(master.map(|master| end(netns, master))).chain(below).collect()
        }
        (Key::Fdb { netns, link, .. }, Object::Fdb(Fdb { port, .. })) => {
            std::iter::once(end(netns, *link)).chain(port.map(|port| end(netns, port))).collect()
        }
        (Key::Address { netns, link, .. } | Key::Neighbour { netns, link, .. }, _) => vec![end(netns, *link)],
        (Key::Qdisc { netns, link, .. }, object) => {
            std::iter::once(end(netns, *link)).chain(redirect(object).map(|to| end(netns, to))).collect()
        }
        (Key::Route { netns, .. }, Object::Route(Route { dev: Some(dev), .. })) => vec![end(netns, *dev)],
        (Key::Route { netns, .. }, Object::Route(Route { dev: None, .. })) if !netns.is_host() => {
            vec![Place::Netns(netns.clone())]
        }
        (Key::Sysctl { netns, path }, _) => {
            let device = device_of(path).map(|device| end(netns, device));
            std::iter::once(Place::Netns(netns.clone())).chain(device).collect()
        }
        (Key::Endpoint { network, .. }, Object::Endpoint(endpoint)) => {
            vec![Place::Netns(endpoint.netns.clone()), Place::Network(network.clone())]
        }
        (_, Object::Element(Element { data: Some(ElementData::Verdict(Verdict::Jump(chain))) })) => {
            vec![Place::Chain(chain.clone())]
        }
        _ => vec![],
    }
}

/// The device that a queueing discipline sends everything to.
fn redirect(object: &Object) -> Option<InterfaceName> {
    match object {
        Object::Qdisc(Qdisc::Clsact { redirect }) => *redirect,
        _ => None,
    }
}

/// Who takes which place.
fn takers(state: &State) -> BTreeMap<Place, Vec<&Key>> {
    let mut takers: BTreeMap<Place, Vec<&Key>> = BTreeMap::new();
    for (key, entry) in state.iter().filter(|(_, entry)| entry.standing.is_ours()) {
        for place in takes(key, entry) {
            takers.entry(place).or_default().push(key);
        }
    }
    takers
}

/// What hangs on devices that have no mark, lost or somebody else's, and that the file knows, with the devices' owners.
fn unmarked<'a>(desired: &'a State, live: &'a State) -> BTreeMap<&'a Key, &'a [Owner]> {
    let takers = takers(live);
    let unknown =
        |key: &Key, entry: &Entry| entry.standing.is_ours() && entry.owners.is_empty() && desired.get(key).is_none();
    let of_device = |place: &Place| desired.get(takers.get(place)?.first()?).map(|entry| &entry.owners[..]);
    // A bridge that somebody else made is nobody's, but its addresses are somebody's.
    let of_address = |key: &Key| {
        let Key::Address { netns, link, .. } = key else { return None };
        let same = |key: &Key| matches!(key, Key::Address { netns: n, link: l, .. } if (n, l) == (netns, link));
        desired.iter().find(|(key, _)| same(key)).map(|(_, entry)| &entry.owners[..])
    };
    let lost = live.iter().filter(|(key, entry)| unknown(key, entry));
    let owners = |key, entry| hangs_on(key, entry).iter().find_map(of_device).or_else(|| of_address(key));
    lost.filter_map(|(key, entry)| Some((key, owners(key, entry)?))).collect()
}

struct Choice<'a> {
    desired: &'a State,
    live: &'a State,
    targets: &'a [Owner],
    /// Owners that are chosen beside the targets, without what is below them.
    owners: BTreeSet<Owner>,
    /// Objects that are chosen though nothing tells whose they are.
    keys: BTreeSet<Key>,
    /// Whose what hangs on a device is that has lost its mark.
    unmarked: BTreeMap<&'a Key, &'a [Owner]>,
    /// Whether nothing of before is left out, so that netrec's own need not serve it any longer.
    alone: bool,
}

impl Choice<'_> {
    fn owners(&self, key: &Key) -> &[Owner] {
        // The file decides: a mark's index may be that of a port which another one was put before.
        let known = self.desired.get(key).or_else(|| self.live.get(key)).map_or(&[][..], |entry| &entry.owners);
        if known.is_empty() { self.unmarked.get(key).copied().unwrap_or_default() } else { known }
    }

    fn covers(&self, owner: &Owner) -> bool {
        covers(self.targets, &self.owners, owner)
    }

    /// Whether an object is to be as the file wants it.
    fn has(&self, key: &Key) -> bool {
        let owners = self.owners(key);
        if is_own(owners) {
            return self.alone || self.desired.get(key).is_some() || self.keys.contains(key);
        }
        owners.iter().any(|owner| self.covers(owner))
    }

    /// Whether an object that is to be somebody else's has belonged to one who is chosen.
    fn changes_hands(&self, key: &Key, entry: &Entry) -> bool {
        let old = entry.owners.iter().filter(|old| !self.owners(key).iter().any(|new| new.stem() == old.stem()));
        old.into_iter().any(|old| self.covers(old))
    }

    /// Whether a chosen device was another's, and what hangs on it by now with it: a macvlan has its name in the container,
    /// whatever its network is.
    fn is_taken_over(&self, key: &Key) -> bool {
        let old = self.live.get(key).filter(|_| matches!(key, Key::Link { .. }) && self.has(key));
        let new = self.owners(key);
        old.is_some_and(|found| found.owners.iter().any(|old| !new.iter().any(|new| new.stem() == old.stem())))
    }

    /// Chooses an object that is not, with all of its owner's; says whether that is news.
    fn add(&mut self, key: &Key) -> bool {
        match self.owners(key).first().cloned() {
            _ if self.has(key) => false,
            Some(owner) if owner != Owner::netrec() => self.owners.insert(owner),
            _ => self.keys.insert(key.clone()),
        }
    }

    /// The desired state of what is chosen.
    fn state(&self) -> State {
        let mut state = State::new();
        for (key, wanted) in self.desired {
            let found = self.live.get(key).filter(|found| found.standing.is_ours());
            if self.has(key) {
                state.insert(key.clone(), self.serving(key, wanted, found));
            } else if let Some(found) = found
                // A parameter that is another than the file's may change along with one that is chosen.
                && (!matches!(key, Key::Sysctl { .. }) || found.object == wanted.object)
            {
                state.insert(key.clone(), found.clone());
            }
        }
        let stays = |key: &Key, found: &Entry| {
            let is_parameter = matches!(key, Key::Sysctl { .. });
            found.standing.is_ours() && self.desired.get(key).is_none() && !is_parameter && !self.has(key)
        };
        let old = self.live.iter().filter(|(key, found)| stays(key, found));
        state.extend(old.map(|(key, found)| (key.clone(), found.clone())));
        state
    }

    /// An object as it is wanted by those who are chosen; while something of before is left out, netrec's chains keep the
    /// rules that may be for that.
    fn serving(&self, key: &Key, wanted: &Entry, found: Option<&Entry>) -> Entry {
        let mut entry = wanted.clone();
        // A mark names the first of all.
        if !key.kind().is_marked() && entry.owners.len() > 1 {
            entry.owners.retain(|owner| self.covers(owner));
        }
        if let (Object::Chain(wanted), Some(Entry { object: Object::Chain(found), .. })) = (&mut entry.object, found)
            && is_own(&entry.owners)
            && !self.alone
        {
            *wanted = joined(found, wanted);
        }
        entry
    }

    /// What a whole plan would still do to a state.
    fn rest(&self, state: &State) -> Vec<Action> {
        let mut found = state.clone();
        let untouched = |key: &Key, entry: &Entry| {
            state.get(key).is_none() && (!entry.standing.is_ours() || matches!(key, Key::Sysctl { .. }))
        };
        let more = self.live.iter().filter(|(key, entry)| untouched(key, entry));
        found.extend(more.map(|(key, entry)| (key.clone(), entry.clone())));
        diff(self.desired, &found).actions
    }

    /// Chooses what the chosen needs, until that is all.
    fn close(&mut self, needs: &[(&Owner, &Owner)]) {
        let (wanted, found) = (takers(self.desired), takers(self.live));
        loop {
            let mut news = false;
            for (owner, needed) in needs {
                if self.covers(owner) && !self.covers(needed) {
                    news |= self.owners.insert((*needed).clone());
                }
            }
            for key in self.lacking(&wanted, &found) {
                news |= self.add(&key);
            }
            if !news {
                return;
            }
        }
    }

    /// What has to be chosen too, so that everything has its place and what it hangs on.
    fn lacking(&self, wanted: &BTreeMap<Place, Vec<&Key>>, found: &BTreeMap<Place, Vec<&Key>>) -> Vec<Key> {
        let state = self.state();
        let there = takers(&state);
        let mut lacking: Vec<&Key> = Vec::new();
        for keys in there.values().filter(|keys| keys.len() > 1 && keys.iter().any(|key| self.has(key))) {
            lacking.extend(keys);
        }
        for (key, entry) in &state {
            let chosen = self.has(key);
            // What hangs on a chosen link, and is to be another's.
            lacking.extend((!chosen && self.changes_hands(key, entry)).then_some(key));
            for place in hangs_on(key, entry) {
                match there.get(&place) {
                    // A list of sources may have become another port's.
                    Some(by) if !chosen && matches!(place, Place::Chain(_)) && by.iter().any(|by| self.has(by)) => {
                        lacking.push(key);
                    }
                    Some(by) if !chosen && found.get(&place) != Some(by) => lacking.push(key),
                    Some(by) if !chosen && by.iter().any(|by| self.is_taken_over(by)) => lacking.push(key),
                    Some(_) => {}
                    None if chosen => lacking.extend(wanted.get(&place).into_iter().flatten()),
                    None => lacking.extend(found.contains_key(&place).then_some(key)),
                }
            }
        }
        lacking.into_iter().cloned().collect()
    }
}

/// A chain with the rules of both, each in its order.
fn joined(found: &Chain, wanted: &Chain) -> Chain {
    let texts = |chain: &Chain| chain.rules.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (old, new) = (texts(found), texts(wanted));
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.iter().map(String::as_str).collect(), new.iter().map(String::as_str).collect());
    let rule = |chain: &Chain, index: Option<usize>| index.and_then(|index| chain.rules.get(index).cloned());
    let rules: Vec<Rule> = TextDiff::from_slices(&old, &new)
        .iter_all_changes()
        .filter_map(|change| match change.tag() {
            ChangeTag::Delete => rule(found, change.old_index()),
            ChangeTag::Equal | ChangeTag::Insert => rule(wanted, change.new_index()),
        })
        .collect();
    Chain { base: wanted.base, rules }
}
