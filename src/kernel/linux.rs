//! The kernel as the backend: where reads and steps of all subsystems come together.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc;
use nix::sys::utsname::uname;

use super::announce;
use super::conntrack::{self, Local};
use super::events::{Events, HostEars};
use super::fault::Writes;
use super::live::{Live, dump_error, read_error};
use super::netlink::change::Abilities;
use super::netlink::link::{self, Mark, RawKind};
use super::netlink::route;
use super::netns::{self, Namespaces};
use super::nftables::Firewall;
use super::picture::Picture;
use super::run::Runner;
use super::space::Ahead;
use super::transport::Socket;
use super::{Backend, ReadError, StepError, facts, foreign, live, sockets, sources};
use crate::state::{
    Announcement, Asked, Device, Facts, Flow, InterfaceName, Key, Mac, Netns, Published, Scope, SearchedFor, Stale,
    State, Step, Surroundings, Traffic, Whereabouts,
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
    /// What tells what of the picture is another now; without, all of it may be.
    events: Option<Arc<Events>>,
    picture: Picture,
    /// What is heard of the host since all was read, where nothing is heard of all.
    ears: Option<HostEars>,
    /// The flows as they are after the last step.
    flows: Option<conntrack::Listing>,
    /// The last facts, and what they were asked for.
    facts: Option<(Asked, Facts)>,
}

impl Linux {
    /// Opens the host's namespace. Reading it needs no rights; reading other namespaces and writing need root.
    pub fn open() -> Result<Self, ReadError> {
        let namespaces = Namespaces::open().map_err(|refusal| read_error("the host's network namespace", &refusal))?;
        Ok(Self {
            namespaces,
            ahead: None,
            firewall: None,
            writes: Writes::new(),
            can: None,
            unseen: Vec::new(),
            events: None,
            picture: Picture::default(),
            ears: None,
            flows: None,
            facts: None,
        })
    }

    /// The same with ears: what is read is kept, and read again when it is told of. Parameters are mostly told of by nobody,
    /// so that from time to time all is to be read ([`Self::doubt`]).
    #[must_use]
    pub fn listening(self, events: Arc<Events>) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Whether something may be another than it was read. Without ears it always is.
    pub fn has_stirred(&self) -> bool {
        self.events.as_ref().is_none_or(|events| events.stirred())
    }

    /// How often more was told than there was room for, so that all was read.
    pub fn losses(&self) -> u64 {
        self.events.as_ref().map_or(0, |events| events.losses())
    }

    /// Has all be read anew.
    pub fn doubt(&mut self) {
        (self.picture, self.facts, self.firewall) = (Picture::default(), None, None);
        if let Some(events) = &self.events {
            events.forget_numbers();
        }
    }

    /// Gives up the namespaces that are open, which would live on for that.
    pub fn rest(&mut self) {
        self.namespaces.forget();
        self.namespaces.release(|_| true);
    }

    /// Gives up what was told of since it was read.
    fn catch_up(&mut self) {
        let Some(events) = self.events.clone() else {
            (self.picture, self.facts) = (Picture::default(), None);
            return;
        };
        let mut heard = events.heard();
        // Once the host has a number itself, it is told of by that; until that is known it is taken for a stranger.
        let own = if heard.names { self.namespaces.own_number().ok().flatten() } else { None };
        heard.all |= own.is_some_and(|number| !events.is_host(number));
        if heard.all {
            self.doubt();
        }
        if heard.names || heard.addresses || heard.routes || heard.parameters || !heard.links.is_empty() {
            self.facts = None;
        }
        self.picture.forget(&heard);
    }

    /// Reads what is not in the picture.
    fn read(&mut self, scope: &Scope) -> Result<State, ReadError> {
        // While all else is read ahead.
        let everywhere = (!self.picture.has_others()).then(netns::everywhere);
        if let Some(ahead) = self.ahead.take() {
            let (ears, spaces, firewall) = ahead.found();
            (self.ears, self.picture, self.firewall) = (ears, Picture::of(spaces), firewall);
        }
        let firewall = match self.firewall() {
            Ok(firewall) => firewall.read(),
            Err(error) => Err(error),
        };
        self.namespaces.release(|netns| netns.source().is_none());
        let events = self.events.as_deref();
        let read = live::read(&mut self.namespaces, &mut self.picture, everywhere, events, scope);
        if read.as_ref().is_ok_and(|live| live.doubtful) {
            self.doubt();
            // What is gone but for an open socket is there to be told of yet.
            return self.read(scope);
        }
        // A name may stand for another namespace soon, and an open socket would keep a removed one alive.
        self.namespaces.forget();
        let Live { mut entries, unseen, .. } = read?;
        self.unseen = unseen;
        entries.extend(firewall?);
        Ok(entries.into_iter().collect())
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
        self.namespaces.enter(netns).map_err(|refusal| match refusal.errno {
            libc::EINVAL => ReadError::OtherKind(netns.clone()),
            _ => read_error(&netns::whose(netns), &refusal),
        })
    }

    /// The device and inode number of the host's namespace, which tell it from all others while it lives.
    pub fn host_id(&self) -> (u64, u64) {
        self.namespaces.host_id()
    }
}

/// A device of the host's, as somebody else made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it asks for no neighbours.
    pub no_arp: bool,
    /// Whether it is netrec's, or `lo`.
    pub ours: bool,
    /// Whether it is a bridge, which never leaves its namespace.
    pub bridge: bool,
    /// Whether it is a port of a bridge or of the like, which it would leave.
    pub port: bool,
    /// Whether a default route of the host's leads there, of either family.
    pub uplink: bool,
    /// Whether it has the Ethernet address of the device that it is on, as all on that have (`ipvlan`).
    pub shares_mac: bool,
}

/// For what is done beside the kernel.
impl Linux {
    /// Counts a write that is not the kernel's.
    ///
    /// # Errors
    /// The error number with which a test wants it to fail.
    pub fn admit(&mut self) -> Result<(), i32> {
        self.writes.admit()
    }

    /// A device of the host's; none where there is no such.
    pub fn host_device(&mut self, name: InterfaceName) -> Result<Option<HostDevice>, ReadError> {
        match link::get_by_name(self.namespaces.host(), name) {
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Err(refusal) => Err(read_error("a device of the host's", &refusal)),
            Ok(found) => {
                let Device { mac, mtu, no_arp, .. } = found.device;
                let (ours, bridge) =
                    (found.loopback || found.is_marked(), matches!(found.kind, RawKind::Bridge { .. }));
                let shares_mac = matches!(found.kind, RawKind::Ipvlan(_));
                let routes = route::dump_deciding(self.namespaces.host());
                let routes = routes.map_err(|error| dump_error("routes", &Netns::HOST, error))?;
                let uplink = facts::defaults(&routes).any(|route| route.index == Some(found.index));
                Ok(Some(HostDevice {
                    mac,
                    mtu,
                    no_arp,
                    ours,
                    bridge,
                    port: found.master.is_some(),
                    uplink,
                    shares_mac,
                }))
            }
        }
    }

    /// Whether a device that a plugin made, by its name in the host, is there: in its container, or still in the host.
    pub fn holds_plugins_device(&mut self, netns: &Netns, source: InterfaceName) -> Result<bool, ReadError> {
        let what = netns::whose(netns);
        let inode = self.host_id().1;
        if let Some(handle) = self.namespaces.find(netns).map_err(|error| read_error(&what, &error.into()))? {
            let opened = self.namespaces.visit(&handle, Socket::open);
            let opened = opened.map_err(|errno| read_error(&what, &netns::not_entered(errno)))?;
            let mut socket = opened.map_err(|error| read_error(&what, &error.into()))?;
            let links = link::dump(&mut socket).map_err(|error| dump_error("links", netns, error))?;
            let is_it = |mark: &Mark| mark.source == Some(source) && mark.inode == Some(inode);
            if links.iter().any(|link| link.is_marked() && link.mark.as_ref().is_some_and(is_it)) {
                return Ok(true);
            }
        }
        Ok(self.host_device(source)?.is_some_and(|device| !device.ours))
    }
}

#[cfg(feature = "fault-injection")]
impl Linux {
    /// How often the picture is compared with what there is until they are the same: one of the two may have been read amid a
    /// change that is told of when it is over.
    const COMPARISONS: u32 = 40;

    /// In a build for tests whose environment has `NETREC_CHECK_PICTURE`: what is kept must be what a reading of all finds.
    fn checked(&mut self, scope: &Scope, mut kept: State) -> Result<State, ReadError> {
        if self.events.is_none() || std::env::var_os("NETREC_CHECK_PICTURE").is_none() {
            return Ok(kept);
        }
        let mut difference = String::new();
        for _ in 0..Self::COMPARISONS {
            let all = live::read(&mut self.namespaces, &mut Picture::default(), None, None, scope);
            self.namespaces.forget();
            let mut all: State = all?.entries.into_iter().collect();
            all.extend(Firewall::open()?.read()?);
            if all == kept {
                return Ok(kept);
            }
            let other = all.iter().filter(|(key, entry)| kept.get(key) != Some(*entry));
            let other = other.map(|(key, entry)| format!("{key}: {:?}, and there is {entry:?}", kept.get(key)));
            let gone = kept.iter().filter(|(key, _)| all.get(key).is_none()).map(|(key, _)| format!("{key} is gone"));
            difference = other.chain(gone).take(3).collect::<Vec<_>>().join("; ");
            std::thread::sleep(std::time::Duration::from_millis(5));
            self.catch_up();
            kept = self.read(scope)?;
        }
        Err(ReadError::Other(format!("the picture is not what there is: {difference}")))
    }
}

impl Backend for Linux {
    fn facts(&mut self, asked: &Asked) -> Result<Facts, ReadError> {
        self.catch_up();
        if let Some((_, facts)) = self.facts.as_ref().filter(|(what, _)| what == asked) {
            return Ok(facts.clone());
        }
        let facts = facts::read(&mut self.namespaces, asked)?;
        self.facts = Some((asked.clone(), facts.clone()));
        Ok(facts)
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
        let found = sources::find(&mut self.namespaces, wanted);
        for (netns, whereabouts) in &found {
            self.picture.keep_only(netns, whereabouts.id());
        }
        found
    }

    fn lasting(&self, netns: &Netns) -> Option<(u64, u64)> {
        self.namespaces.find(netns).ok()??.lasting()
    }

    fn unseen(&self) -> &[PathBuf] {
        // In a user namespace of its own, or without root, netrec can have made nothing in namespaces that it cannot enter.
        if self.unseen.is_empty() || !netns::may_enter_all() { &[] } else { &self.unseen }
    }

    fn live(&mut self, scope: &Scope) -> Result<State, ReadError> {
        self.catch_up();
        if self.events.is_none() {
            self.ears = HostEars::open().ok();
        }
        let live = self.read(scope);
        #[cfg(feature = "fault-injection")]
        let live = live.and_then(|live| self.checked(scope, live));
        if live.is_err() {
            self.doubt();
        }
        live
    }

    fn read_back(&mut self, scope: &Scope, touched: &BTreeSet<Netns>) -> Result<State, ReadError> {
        // With ears it is told what is another now.
        if self.events.is_some() {
            return self.live(scope);
        }
        let heard = self.ears.as_mut().map(HostEars::heard);
        self.picture.keep_untouched(touched, heard.as_ref());
        let live = self.read(scope);
        if live.is_err() {
            self.doubt();
        }
        live
    }

    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let Self { namespaces, writes, can, picture, flows, .. } = self;
        *flows = None;
        let can = *can.get_or_insert_with(abilities);
        let mut outcomes = Runner::new(namespaces, writes, can).run(steps);
        for step in steps {
            picture.touched(step);
        }
        let of_firewall = |step: &&Step| step.key.kind().is_firewall();
        // A phase is all the firewall's or not at all, mostly.
        let transaction: Cow<'_, [Step]> = if steps.iter().all(|step| of_firewall(&step)) {
            Cow::Borrowed(steps)
        } else {
            steps.iter().filter(of_firewall).cloned().collect()
        };
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

    fn look_at_flows(&mut self) {
        self.flows = conntrack::Listing::begin();
    }

    fn forget(&mut self, stale: Stale<'_>) -> Result<u64, StepError> {
        let local: Local = route::dump_local(self.namespaces.host())
            .map_err(|error| StepError {
                errno: 0,
                message: dump_error("local addresses", &Netns::HOST, error).to_string(),
            })?
            .into_iter()
            .collect();
        conntrack::forget(&|flow| stale(flow, &|ip| local.contains(ip)), self.flows.take(), &mut self.writes)
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
        let mut sent = announce::Sent::default();
        for of_one in all.chunk_by(|a, b| a.netns == b.netns) {
            if let Some(first) = of_one.first() {
                let _ = self.namespaces.within(&first.netns, || sent.send(of_one.iter()));
            }
        }
        // Who watches has other things to do than to wait until they are closed.
        if self.events.is_some() {
            sent.close_meanwhile();
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
