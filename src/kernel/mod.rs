//! Linux: one file per subsystem, its reading and its writing side by side. The only place with sockets, message formats
//! and `unsafe`.

mod announce;
mod conntrack;
mod disown;
mod events;
mod facts;
pub mod fault;
mod foreign;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod linux;
mod live;
mod netlink;
mod netns;
mod nfnetlink;
pub mod nftables;
mod picture;
pub mod probe;
mod reach;
mod run;
pub mod sandbox;
mod shaping;
mod sockets;
mod sources;
mod space;
mod sysctl;
mod transport;

pub use disown::disown;
pub use events::Events;
pub use linux::{HostDevice, Linux};
pub use netns::path as namespace_path;
pub use space::Ahead;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::state::{
    Announcement, Asked, Facts, Flow, Key, Netns, OTHER_KIND, Published, Scope, SearchedFor, Stale, State, Step,
    Surroundings, Traffic, Whereabouts,
};

/// Where state is read from and steps go to: the kernel, or in tests a stand-in that refuses illegal steps.
pub trait Backend {
    /// Reads the facts.
    fn facts(&mut self, asked: &Asked) -> Result<Facts, ReadError>;

    /// Opens the namespaces that others made, and keeps them open until the next search: objects in them are read and
    /// written there, whatever becomes of what they were made for.
    fn search(&mut self, wanted: &[SearchedFor]) -> BTreeMap<Netns, Whereabouts> {
        let _ = wanted;
        BTreeMap::new()
    }

    /// Reads what plugins were asked for, and answered; with the search behind it. It is part of the live state too.
    fn endpoints(&mut self) -> Result<State, ReadError> {
        Ok(State::new())
    }

    /// What tells a namespace of others from every other that there was or will be until the machine starts anew; none where
    /// the kernel tells nothing that lasts, or there is none.
    fn lasting(&self, netns: &Netns) -> Option<(u64, u64)> {
        let _ = netns;
        None
    }

    /// Paths of the namespaces that the last reading of live state could not look into.
    fn unseen(&self) -> &[PathBuf] {
        &[]
    }

    /// Reads what else is there that a desired state meets: other programs' firewalls, and sockets at the ports that it
    /// publishes. What cannot be read is said in the result; no plan fails for it.
    fn surroundings(&mut self, facts: &Facts, published: &[Published]) -> Surroundings {
        let _ = published;
        facts.surroundings.clone()
    }

    /// Reads the live state: all that carries netrec's mark, and those foreign objects that are in the way of the scope.
    fn live(&mut self, scope: &Scope) -> Result<State, ReadError>;

    /// The same after steps that touched nothing in other namespaces than the host's and these: what there is there is as it was
    /// last read.
    fn read_back(&mut self, scope: &Scope, _touched: &BTreeSet<Netns>) -> Result<State, ReadError> {
        self.live(scope)
    }

    /// Carries out steps of one phase, which do not depend on each other, and says of each how it went, in their order.
    /// A failed step does not keep the others from being tried; firewall steps succeed or fail together.
    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;

    /// Begins to look at the tracked flows, where [`Self::forget`] is what comes next but for reading: it takes a while.
    fn look_at_flows(&mut self) {}

    /// Ends the tracked flows that are stale after a change which has been carried out. Says how many there were. Doing it
    /// again does no harm.
    fn forget(&mut self, stale: Stale<'_>) -> Result<u64, StepError>;

    /// The flows that connection tracking knows in the host's namespace.
    fn flows(&mut self) -> Result<Vec<Flow>, ReadError> {
        Ok(Vec::new())
    }

    /// What the firewall has counted, by the elements of its sets that count.
    fn traffic(&mut self) -> Result<Vec<(Key, Traffic)>, ReadError> {
        Ok(Vec::new())
    }

    /// Tells the neighbours of addresses by which Ethernet address they are reached now. They find out by themselves after
    /// a while, so that it is no failure where it cannot be done.
    fn announce(&mut self, _: &[Announcement]) {}

    /// How many messages or files were written since the beginning.
    fn writes(&self) -> u64;
}

/// Live state could not be read. A part of it is never handed out: what is missing from it would be made anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The kernel lets only root read this.
    #[error("root is needed to read {what} ({reason})")]
    Permission {
        /// What was to be read: `namespace web`.
        what: String,
        /// The kernel's words: `Operation not permitted`.
        reason: String,
    },
    /// The kernel said after each of several tries that objects came or went meanwhile (`NLM_F_DUMP_INTR`). Trying again
    /// later can help.
    #[error("the {what} kept changing while they were read")]
    Torn {
        /// What was to be read: `routes of web`.
        what: String,
    },
    /// The namespace that a name leads to is none of a network.
    #[error("read namespace {0}: {OTHER_KIND}")]
    OtherKind(Netns),
    /// The kernel was built without something that netrec needs.
    #[error("{0}")]
    Missing(String),
    /// Everything else.
    #[error("{0}")]
    Other(String),
}

/// A step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// The kernel's error number, 0 where there is none.
    pub errno: i32,
    /// Operation, object and the kernel's own text.
    pub message: String,
}
