//! What of a plan has been done at a moment, for a process that has to end in the middle of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kernel::{Backend, ReadError, StepError};
use crate::state::{
    Announcement, Asked, Entry, Facts, Flow, InterfaceName, Key, Link, LinkKind, Netns, Object, Published, Scope,
    SearchedFor, Stale, State, Step, Surroundings, Traffic, Whereabouts, device_of,
};

/// The objects that differ from what they were when the work began. What is taken back is struck out, but for addresses and
/// routes of devices that got another name meanwhile, which may stay.
#[derive(Debug, Default)]
pub struct Books(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    touched: BTreeMap<Key, Touched>,
    /// The containers' ends of links, by all the names they have had.
    ends: BTreeMap<Key, BTreeSet<(Netns, InterfaceName)>>,
    under_way: usize,
}

#[derive(Debug)]
struct Touched {
    before: Option<Entry>,
    now: Option<Entry>,
}

impl Books {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects that differ from before, and the number of steps under way, of which nothing is known yet.
    pub fn standing(&self) -> (Vec<Key>, usize) {
        let pages = self.pages();
        (pages.touched.keys().cloned().collect(), pages.under_way)
    }
}

impl Pages {
    fn enter(&mut self, step: &Step, before: Option<&Entry>) {
        let touched =
            self.touched.entry(step.key.clone()).or_insert_with(|| Touched { before: before.cloned(), now: None });
        touched.now.clone_from(&step.after);
        for entry in [&step.before, &step.after].into_iter().flatten() {
            if let Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) = &entry.object {
                self.ends.entry(step.key.clone()).or_default().insert((peer.netns.clone(), peer.name));
            }
        }
        if touched.now.as_ref().map(|e| &e.object) == touched.before.as_ref().map(|e| &e.object) {
            self.touched.remove(&step.key);
        }
    }

    /// Strikes out what came and went with its device or its namespace, or its set, without a step of its own.
    fn fall(&mut self, steps: &[&Step]) {
        let gone = steps.iter().filter(|step| step.after.is_none());
        let mut namespaces = BTreeSet::new();
        let mut devices = BTreeSet::new();
        let (mut table, mut sets) = (false, BTreeSet::new());
        for step in gone {
            match &step.key {
                Key::Netns { netns } => {
                    namespaces.insert(netns.clone());
                }
                Key::Link { netns, name } => {
                    devices.insert((netns.clone(), *name));
                    devices.extend(self.ends.get(&step.key).into_iter().flatten().cloned());
                }
                Key::Set { name } => {
                    sets.insert(name.clone());
                }
                Key::Table => table = true,
                _ => {}
            }
        }
        if namespaces.is_empty() && devices.is_empty() && sets.is_empty() && !table {
            return;
        }
        let on = |key: &Key, link| devices.contains(&(key.netns().clone(), link));
        self.touched.retain(|key, touched| {
            let falls = match key {
                Key::Element { set, .. } => table || sets.contains(set),
                key if key.kind().is_firewall() => table,
                key => {
                    namespaces.contains(key.netns())
                        || device(key, touched.now.as_ref()).is_some_and(|device| on(key, device))
                }
            };
            !falls || (touched.before.is_some() && !matches!(key, Key::Sysctl { .. }))
        });
    }
}

/// The device that an object goes with.
fn device(key: &Key, now: Option<&Entry>) -> Option<InterfaceName> {
    match (key, now.map(|e| &e.object)) {
        (
            Key::Address { link, .. } | Key::Neighbour { link, .. } | Key::Fdb { link, .. } | Key::Qdisc { link, .. },
            _,
        ) => Some(*link),
        (Key::Route { .. }, Some(Object::Route(route))) => route.dev,
        (Key::Sysctl { path, .. }, _) => device_of(path),
        _ => None,
    }
}

/// A backend whose steps are written down.
pub struct Kept<'a> {
    inner: &'a mut dyn Backend,
    before: &'a State,
    books: &'a Books,
}

impl<'a> Kept<'a> {
    /// This backend, with what there is before the first step, and the books.
    pub fn new(inner: &'a mut dyn Backend, before: &'a State, books: &'a Books) -> Self {
        Self { inner, before, books }
    }
}

impl Backend for Kept<'_> {
    fn facts(&mut self, asked: &Asked) -> Result<Facts, ReadError> {
        self.inner.facts(asked)
    }

    fn search(&mut self, wanted: &[SearchedFor]) -> BTreeMap<Netns, Whereabouts> {
        self.inner.search(wanted)
    }

    fn endpoints(&mut self) -> Result<State, ReadError> {
        self.inner.endpoints()
    }

    fn lasting(&self, netns: &Netns) -> Option<(u64, u64)> {
        self.inner.lasting(netns)
    }

    fn unseen(&self) -> &[PathBuf] {
        self.inner.unseen()
    }

    fn surroundings(&mut self, facts: &Facts, published: &[Published]) -> Surroundings {
        self.inner.surroundings(facts, published)
    }

    fn traffic(&mut self) -> Result<Vec<(Key, Traffic)>, ReadError> {
        self.inner.traffic()
    }

    fn flows(&mut self) -> Result<Vec<Flow>, ReadError> {
        self.inner.flows()
    }

    fn live(&mut self, scope: &Scope) -> Result<State, ReadError> {
        self.inner.live(scope)
    }

    fn read_back(&mut self, scope: &Scope, touched: &BTreeSet<Netns>) -> Result<State, ReadError> {
        self.inner.read_back(scope, touched)
    }

    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        self.books.pages().under_way = steps.len();
        let results = self.inner.run(steps);
        let mut pages = self.books.pages();
        let done: Vec<&Step> =
            steps.iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(step, _)| step).collect();
        for step in &done {
            pages.enter(step, self.before.get(&step.key));
        }
        pages.fall(&done);
        pages.under_way = 0;
        results
    }

    fn look_at_flows(&mut self) {
        self.inner.look_at_flows();
    }

    fn forget(&mut self, stale: Stale<'_>) -> Result<u64, StepError> {
        self.inner.forget(stale)
    }

    fn announce(&mut self, all: &[Announcement]) {
        self.inner.announce(all);
    }

    fn writes(&self) -> u64 {
        self.inner.writes()
    }
}
