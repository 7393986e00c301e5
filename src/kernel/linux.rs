//! The kernel as the backend: where reads and steps of all subsystems come together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::utsname::uname;

use super::announce;
use super::conntrack::{self, Local};
use super::fault::Writes;
use super::live::{dump_error, read_error};
use super::netlink::change::Abilities;
use super::netlink::route;
use super::netns::{self, Namespaces};
use super::nftables::Firewall;
use super::run::Runner;
use super::space::Ahead;
use super::{Backend, ReadError, StepError, facts, foreign, live, sockets, sources};
use crate::state::{
    Announcement, Asked, Facts, Flow, Key, Netns, Published, Scope, SearchedFor, Stale, State, Step, Surroundings,
    Traffic, Whereabouts,
};

/// The running kernel, seen from the network namespace that the opening thread is in. All calls must come from threads
/// in that namespace.
pub struct Linux {
    namespaces: Namespaces,
    /// What the first reading finds done.
    ahead: Option<Ahead>,
    firewall: Option<Firewall>,
    writes: Writes,
    /// Asked for when something is first written: to look for a file under `/proc/sys` takes a millisecond where there are
    /// a thousand namespaces.
    can: Option<Abilities>,
    /// Paths of the namespaces that the last reading could not look into.
    unseen: Vec<PathBuf>,
}

impl Linux {
    /// Opens the host's namespace. Reading it needs no rights; reading other namespaces and writing need root.
    pub fn open() -> Result<Self, ReadError> {
        let namespaces = Namespaces::open().map_err(|refusal| read_error("the host's network namespace", &refusal))?;
        Ok(Self { namespaces, ahead: None, firewall: None, writes: Writes::new(), can: None, unseen: Vec::new() })
    }

    /// The same, where reading has begun already: its first live state is as old as that.
    #[must_use]
    pub fn with(self, ahead: Option<Ahead>) -> Self {
        Self { ahead, ..self }
    }

    /// The firewall, opened when it is first needed: facts are read without the rights that it takes.
    fn firewall(&mut self) -> Result<&mut Firewall, ReadError> {
        match &mut self.firewall {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(Firewall::open()?)),
        }
    }

    fn transaction(&mut self, steps: &[Step]) -> Result<(), StepError> {
        let mut writes = std::mem::take(&mut self.writes);
        let outcome = match self.firewall() {
            Ok(firewall) => firewall.run(steps, &mut writes),
            Err(error) => Err(StepError { errno: 0, message: error.to_string() }),
        };
        self.writes = writes;
        outcome
    }

    /// Moves the calling thread into a namespace, for good: what it becomes by `execve` lives there. One that was searched
    /// for is found as it was. False where there is none.
    pub fn enter(self, netns: &Netns) -> Result<bool, ReadError> {
        self.namespaces.enter(netns).map_err(|refusal| read_error(&netns::whose(netns), &refusal))
    }

    /// The device and inode number of the host's namespace, which tell it from all others while it lives.
    pub fn host_id(&self) -> (u64, u64) {
        self.namespaces.host_id()
    }
}

impl Backend for Linux {
    fn facts(&mut self, asked: &Asked) -> Result<Facts, ReadError> {
        facts::read(&mut self.namespaces, asked)
    }

    fn surroundings(&mut self, _: &Facts, published: &[Published]) -> Surroundings {
        let mut notes = Vec::new();
        let tables = self.firewall().and_then(Firewall::others);
        let mut tables = tables.unwrap_or_else(|error| {
            notes.push(error.to_string());
            Vec::new()
        });
        notes.extend(foreign::read_rules(&mut tables));
        let listeners = sockets::shadowed(published).unwrap_or_else(|trouble| {
            notes.push(format!("sockets at published ports could not be read: {trouble}"));
            Vec::new()
        });
        Surroundings { tables, listeners, notes }
    }

    fn search(&mut self, wanted: &[SearchedFor]) -> BTreeMap<Netns, Whereabouts> {
        sources::find(&mut self.namespaces, wanted)
    }

    fn unseen(&self) -> &[PathBuf] {
        // In a user namespace of its own, or without root, netrec can have made nothing in namespaces that it cannot enter.
        if self.unseen.is_empty() || !netns::may_enter_all() { &[] } else { &self.unseen }
    }

    fn live(&mut self, scope: &Scope) -> Result<State, ReadError> {
        let firewall = match self.firewall() {
            Ok(firewall) => firewall.read(),
            Err(error) => Err(error),
        };
        // While others are read ahead.
        let mut everywhere = netns::everywhere();
        let ahead = self.ahead.take().map(Ahead::found).unwrap_or_default();
        self.namespaces.release(|netns| netns.source().is_none());
        let read = live::read(&mut self.namespaces, ahead, &mut everywhere, scope);
        self.unseen = everywhere.unseen;
        // A name may stand for another namespace soon, and an open socket would keep a removed one alive.
        self.namespaces.forget();
        let mut entries = read?;
        entries.extend(firewall?);
        Ok(entries.into_iter().collect())
    }

    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let Self { namespaces, writes, can, .. } = self;
        let can = *can.get_or_insert_with(abilities);
        let mut outcomes = Runner { namespaces, writes, can }.run(steps);
        let of_firewall = |step: &&Step| step.key.kind().is_firewall();
        let transaction: Vec<Step> = steps.iter().filter(of_firewall).cloned().collect();
        if !transaction.is_empty() {
            let outcome = self.transaction(&transaction);
            for (step, slot) in steps.iter().zip(&mut outcomes) {
                if of_firewall(&step) {
                    slot.clone_from(&outcome);
                }
            }
        }
        outcomes
    }

    fn forget(&mut self, stale: Stale<'_>) -> Result<u64, StepError> {
        let local: Local = route::dump_local(self.namespaces.host())
            .map_err(|error| StepError {
                errno: 0,
                message: dump_error("local addresses", &Netns::HOST, error).to_string(),
            })?
            .into_iter()
            .collect();
        conntrack::forget(&|flow| stale(flow, &|ip| local.contains(ip)), &mut self.writes)
    }

    fn flows(&mut self) -> Result<Vec<Flow>, ReadError> {
        conntrack::flows().map_err(|trouble| match trouble.errno() {
            libc::EPERM => {
                ReadError::Permission { what: "tracked connections".to_owned(), reason: trouble.to_string() }
            }
            _ => ReadError::Other(format!("read tracked connections: {trouble}")),
        })
    }

    fn traffic(&mut self) -> Result<Vec<(Key, Traffic)>, ReadError> {
        self.firewall()?.traffic()
    }

    fn announce(&mut self, all: &[Announcement]) {
        for of_one in all.chunk_by(|a, b| a.netns == b.netns) {
            if let Some(first) = of_one.first() {
                let _ = self.namespaces.within(&first.netns, || announce::send(of_one.iter()));
            }
        }
    }

    fn writes(&self) -> u64 {
        self.writes.count()
    }
}

/// What the running kernel can do. Before 6.2 it refuses to rename devices that are up, with EBUSY.
fn abilities() -> Abilities {
    let release = uname().map(|system| system.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Abilities { live_rename: version >= (6, 2), ipv6: Path::new("/proc/sys/net/ipv6").exists() }
}
