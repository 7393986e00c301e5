//! A host as the backend: the kernel, and the plugins that make networks beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::cluster::Part;
use super::remote::Remote;
use crate::kernel::{Ahead, Backend, Events, Linux, ReadError, StepError};
use crate::services::Tell;
use crate::services::cluster::Turn;
use crate::state::{
    Announcement, Asked, Facts, Flow, Key, Netns, Published, Scope, SearchedFor, Stale, State, Step, Surroundings,
    Traffic, Warning, Whereabouts,
};

/// The running kernel, seen from the network namespace that the opening thread is in, Docker's plugins, and the cluster that the
/// host is a member of.
pub struct Machine {
    linux: Linux,
    remote: Remote,
    cluster: Part,
}

impl Machine {
    /// Opens the host's namespace, as [`Linux::open`] does.
    pub fn open() -> Result<Self, ReadError> {
        Ok(Self { linux: Linux::open()?, remote: Remote::default(), cluster: Part::default() })
    }

    /// The same, where reading has begun already.
    #[must_use]
    pub fn with(self, ahead: Option<Ahead>) -> Self {
        Self { linux: self.linux.with(ahead), ..self }
    }

    /// The same with ears, as [`Linux::listening`] has it.
    #[must_use]
    pub fn listening(self, events: Arc<Events>) -> Self {
        Self { linux: self.linux.listening(events), ..self }
    }

    /// The same, which becomes a member of its cluster where it is none.
    #[must_use]
    pub fn joining(self) -> Self {
        Self { cluster: Part::Joins, ..self }
    }

    /// The same, which is a member of its cluster for as long as it lives, and calls `tell` when others come or go.
    #[must_use]
    pub fn following(self, tell: Tell) -> Self {
        Self { cluster: Part::Follows(tell, Turn::default(), None, None), ..self }
    }

    /// What is to be said of the cluster, each once.
    pub fn cluster_news(&self) -> Vec<Warning> {
        self.cluster.news()
    }

    /// Whether something of the kernel's may be another than it was read. What plugins do is heard by nobody.
    pub fn has_stirred(&self) -> bool {
        self.linux.has_stirred()
    }

    /// How often more was told than there was room for, so that all was read.
    pub fn losses(&self) -> u64 {
        self.linux.losses()
    }

    /// Has all be read anew.
    pub fn doubt(&mut self) {
        self.linux.doubt();
    }

    /// Gives up the namespaces that are open, and plugins, of which another round may think otherwise, and writes down what has
    /// waited for the end of the round.
    pub fn rest(&mut self) {
        self.linux.rest();
        self.remote = Remote::default();
        self.cluster.rest();
    }

    /// The device and inode number of the host's namespace, which tell it from all others while it lives.
    pub fn host_id(&self) -> (u64, u64) {
        self.linux.host_id()
    }
}

impl Backend for Machine {
    fn facts(&mut self, asked: &Asked) -> Result<Facts, ReadError> {
        let Some(cluster) = &asked.cluster else {
            self.cluster.leave();
            return self.linux.facts(asked);
        };
        let members = self.cluster.members(cluster, self.linux.host_id().1)?;
        let mut asked = asked.clone();
        let all = std::iter::once(&members.own).chain(&members.peers);
        asked.peers.extend(all.flat_map(|member| &member.addresses));
        Ok(Facts { members: Some(members), ..self.linux.facts(&asked)? })
    }

    fn search(&mut self, wanted: &[SearchedFor]) -> BTreeMap<Netns, Whereabouts> {
        self.linux.search(wanted)
    }

    fn lasting(&self, netns: &Netns) -> Option<(u64, u64)> {
        self.linux.lasting(netns)
    }

    fn endpoints(&mut self) -> Result<State, ReadError> {
        self.remote.read_anew(&mut self.linux)
    }

    fn unseen(&self) -> &[PathBuf] {
        self.linux.unseen()
    }

    fn surroundings(&mut self, facts: &Facts, published: &[Published]) -> Surroundings {
        self.linux.surroundings(facts, published)
    }

    fn live(&mut self, scope: &Scope) -> Result<State, ReadError> {
        let mut state = self.linux.live(scope)?;
        state.extend(self.remote.read(&mut self.linux)?);
        Ok(state)
    }

    fn read_back(&mut self, scope: &Scope, touched: &BTreeSet<Netns>) -> Result<State, ReadError> {
        let mut state = self.linux.read_back(scope, touched)?;
        state.extend(self.remote.read(&mut self.linux)?);
        Ok(state)
    }

    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        // A phase is of the kernel's or of plugins'.
        if !steps.iter().any(|step| step.key.kind().is_of_plugin()) {
            return self.linux.run(steps);
        }
        steps.iter().map(|step| self.remote.run(step, &mut self.linux)).collect()
    }

    fn look_at_flows(&mut self) {
        self.linux.look_at_flows();
    }

    fn forget(&mut self, stale: Stale<'_>) -> Result<u64, StepError> {
        self.linux.forget(stale)
    }

    fn flows(&mut self) -> Result<Vec<Flow>, ReadError> {
        self.linux.flows()
    }

    fn traffic(&mut self) -> Result<Vec<(Key, Traffic)>, ReadError> {
        self.linux.traffic()
    }

    fn announce(&mut self, all: &[Announcement]) {
        self.linux.announce(all);
    }

    fn writes(&self) -> u64 {
        self.linux.writes()
    }
}
