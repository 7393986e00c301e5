//! What has been read of the kernel, part by part, as it was listed. A command reads all of it; a watch keeps it, and reads
//! again what it was told of.
//!
//! What is told says which part may be another, and the part is read anew: nothing is concluded from the order or the content
//! of what is told, of which there can be too much, and of which the kernel leaves some out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;

use super::ReadError;
use super::events::{Events, Heard, Whose};
use super::live::{dump_error, read_error};
use super::netlink::link::{self, RawKind, RawLink};
use super::netlink::neighbour::{Databases, RawFdb, RawNeighbour};
use super::netlink::qdisc::{Filters, RawQdisc};
use super::netns::{self, Everywhere, Handle, Id, Namespaces, whose};
use super::sources;
use super::space::Space;
use super::sysctl::Proc;
use super::transport::{Refusal, Socket};
use crate::state::{Key, Link, LinkKind, Mac, Netns, Object, Step, device_of};

/// Devices that are read one by one, rather than all.
const ONE_BY_ONE: usize = 64;

/// What has been read, as far as it is still taken for true.
#[derive(Default)]
pub(super) struct Picture {
    /// Names of namespaces.
    names: Option<Vec<Netns>>,
    spaces: HashMap<Netns, Arc<Space>>,
    others: Option<Others>,
    /// What of the host's space is to be read again.
    stale: Stale,
    /// Parameters that the listing of devices does not tell of; none for those that the kernel does not have.
    pub parameters: HashMap<Netns, HashMap<Arc<str>, Option<String>>>,
    /// Permanent neighbours behind the host's devices, by their indices.
    pub neighbours: BTreeMap<u32, Vec<RawNeighbour>>,
    pub databases: BTreeMap<Databases, Vec<RawFdb>>,
    /// Queueing disciplines, with what hangs on them.
    pub queueing: HashMap<Netns, Vec<(RawQdisc, Filters)>>,
}

/// What of the host's space may be another.
#[derive(Default)]
struct Stale {
    links: BTreeSet<u32>,
    addresses: bool,
    routes: bool,
}

/// Namespaces that no name leads to, as far as netrec may have something in them.
pub(super) struct Others {
    pub spaces: Vec<Arc<Space>>,
    /// Those that cannot be entered.
    pub unseen: Vec<PathBuf>,
    /// Why the first of those that cannot be read cannot.
    pub unread: Option<ReadError>,
    /// Whether netrec has something in one of them: then they are held open, and looked for each time.
    held: bool,
}

impl Picture {
    /// One to which all these have been read.
    pub(super) fn of(spaces: HashMap<Netns, Space>) -> Self {
        Self { spaces: spaces.into_iter().map(|(netns, space)| (netns, Arc::new(space))).collect(), ..Self::default() }
    }

    /// Gives up what may be another than it was read.
    pub(super) fn forget(&mut self, heard: &Heard) {
        if heard.all {
            *self = Self::default();
            return;
        }
        let gone: Vec<Netns> = self
            .spaces
            .iter()
            .filter(|(netns, space)| {
                heard.spaces.contains(&space.id) || may_move(netns, heard.names) && !is_still(netns, space.id)
            })
            .map(|(netns, _)| netns.clone())
            .collect();
        for netns in &gone {
            self.forget_space(netns);
        }
        if heard.names {
            self.names = None;
        }
        if heard.names || heard.others || self.others.as_ref().is_some_and(|others| others.held) {
            self.forget_others();
        }
        if heard.parameters || !heard.links.is_empty() {
            self.parameters.remove(&Netns::HOST);
        }
        if heard.queueing {
            self.queueing.remove(&Netns::HOST);
        }
        for index in heard.neighbours.iter().chain(&heard.links) {
            self.forget_reach(*index);
        }
        // A port's entries are listed with its bridge's.
        let bridges: Vec<u32> = self
            .host()
            .iter()
            .flat_map(|host| heard.neighbours.iter().filter_map(|index| link::by_index(&host.links, *index)?.master))
            .collect();
        for bridge in bridges {
            self.forget_reach(bridge);
        }
        self.stale.links.extend(&heard.links);
        self.stale.addresses |= heard.addresses;
        self.stale.routes |= heard.routes;
    }

    /// Gives up what a step may have changed and nobody tells of, or not at once: parameters, addresses, and whatever is in a
    /// container.
    pub(super) fn touched(&mut self, step: &Step) {
        let far = [&step.before, &step.after].into_iter().flatten().find_map(|entry| match &entry.object {
            Object::Link(Link { kind: LinkKind::Veth { peer }, .. }) => Some(peer.netns.clone()),
            _ => None,
        });
        for netns in far.into_iter().chain([step.key.netns().clone()]).filter(|netns| !netns.is_host()) {
            self.forget_space(&netns);
        }
        match &step.key {
            Key::Netns { .. } => {
                self.names = None;
                // One that goes may be held by somebody; one that is made was nowhere before.
                if step.before.is_some() {
                    self.forget_others();
                }
            }
            Key::Sysctl { netns, path } if netns.is_host() => {
                self.parameters.remove(netns);
                let device = device_of(path);
                let index = self.host().and_then(|host| host.links.iter().find(|link| Some(link.name) == device));
                let index = index.map(|link| link.index);
                self.stale.links.extend(index);
            }
            // Of an IPv6 address that is not to be probed for (`IFA_F_NODAD`) the kernel tells some time after it is there
            // (`addrconf_dad_work`).
            Key::Address { netns, .. } if netns.is_host() => (self.stale.addresses, self.stale.routes) = (true, true),
            Key::Route { netns, .. } if netns.is_host() => self.stale.routes = true,
            _ => {}
        }
    }

    /// Gives up what is of these namespaces, and what was heard of the host's; all of that where nothing was.
    pub(super) fn keep_untouched(&mut self, touched: &BTreeSet<Netns>, host: Option<&Heard>) {
        for netns in touched.iter().filter(|netns| !netns.is_host()) {
            self.forget_space(netns);
        }
        self.neighbours.clear();
        self.databases.clear();
        self.names = None;
        if self.others.as_ref().is_some_and(|others| others.held) {
            self.forget_others();
        }
        if let Some(heard) = host.filter(|heard| !heard.all) {
            self.forget(heard);
        } else {
            self.forget_space(&Netns::HOST);
            self.stale = Stale::default();
        }
    }

    /// Gives up the namespaces of a name that now leads elsewhere.
    pub(super) fn keep_only(&mut self, netns: &Netns, id: Option<Id>) {
        if self.spaces.get(netns).is_some_and(|space| Some(space.id) != id) {
            self.forget_space(netns);
        }
    }

    fn forget_space(&mut self, netns: &Netns) {
        if let Some(space) = self.spaces.remove(netns) {
            self.stale.links.extend(near_ends(&space));
        }
        self.parameters.remove(netns);
        self.queueing.remove(netns);
    }

    fn forget_others(&mut self) {
        for space in self.others.take().into_iter().flat_map(|others| others.spaces) {
            self.stale.links.extend(near_ends(&space));
        }
    }

    fn forget_reach(&mut self, index: u32) {
        self.neighbours.remove(&index);
        self.databases.remove(&Databases::OfBridge(index));
        self.databases.remove(&Databases::OfDevice(index));
    }

    fn host(&self) -> Option<&Arc<Space>> {
        self.spaces.get(&Netns::HOST)
    }

    /// Whether something that was taken for true has not just been read.
    pub(super) fn has_others(&self) -> bool {
        self.others.is_some()
    }

    /// The namespaces under `/run/netns`.
    pub(super) fn names(&mut self) -> Result<&[Netns], ReadError> {
        if self.names.is_none() {
            self.names = Some(netns::names().map_err(|e| read_error(netns::RUN_NETNS, &e.into()))?);
        }
        Ok(self.names.as_deref().unwrap_or_default())
    }

    /// The namespace of a name other than the host's, if there is one; all of it where it is wanted. With ears, changes in it
    /// are told from before it is read.
    pub(super) fn space(
        &mut self,
        namespaces: &mut Namespaces,
        netns: &Netns,
        wanted: bool,
        events: Option<&Events>,
    ) -> Result<Option<Arc<Space>>, ReadError> {
        if let Some(space) = self.spaces.get(netns).filter(|space| space.whole || !wanted) {
            return Ok(Some(space.clone()));
        }
        let failed = |refusal| read_error(&whose(netns), &refusal);
        let Some(handle) = namespaces.find(netns).map_err(|e| failed(e.into()))? else { return Ok(None) };
        // What has just been changed through a socket is read back through it.
        let mut socket = if let Some(socket) = namespaces.take_socket(netns, handle.id) {
            socket
        } else {
            let opened = namespaces.visit(&handle, Socket::open);
            opened
                .map_err(|errno| match errno {
                    Errno::EINVAL => ReadError::OtherKind(netns.clone()),
                    errno => failed(errno.into()),
                })?
                .map_err(|e| failed(e.into()))?
        };
        let mut number = listen(namespaces, &handle, wanted, events).map_err(failed)?;
        let inode = namespaces.host_id().1;
        let mut space = Space::read(&mut socket, netns, handle.id, inode, wanted)?;
        // Something of netrec's where nothing is wanted.
        if space.whole && number.is_none() && events.is_some() {
            number = listen(namespaces, &handle, true, events).map_err(failed)?;
            space = Space::read(&mut socket, netns, handle.id, inode, wanted)?;
        }
        space.number = number;
        self.stale.links.extend(near_ends(&space));
        let space = Arc::new(space);
        self.spaces.insert(netns.clone(), space.clone());
        Ok(Some(space))
    }

    /// Looks into the namespaces of other mounts and of processes, such as that of a container that the file no longer has.
    /// What is netrec's there is known by the path that leads there now, and the namespace is held open under it: the
    /// process whose path it is may end.
    pub(super) fn others(
        &mut self,
        namespaces: &mut Namespaces,
        seen: &HashSet<Id>,
        everywhere: Option<Everywhere>,
    ) -> &Others {
        if self.others.is_none() {
            let mut found = Others { spaces: Vec::new(), unseen: Vec::new(), unread: None, held: false };
            let inode = namespaces.host_id().1;
            let mut everywhere = everywhere.unwrap_or_else(netns::everywhere);
            let mut seen = seen.clone();
            sources::for_each_other(namespaces, &mut seen, &mut everywhere, |namespaces, handle, path, socket| {
                let netns = Netns::new(path.to_string_lossy());
                let links = link::dump(socket).map_err(|error| dump_error("links", &netns, error));
                let read = links.and_then(|links| {
                    let mut space = Space::with_links(netns.clone(), handle.id, links);
                    space.read_left_over(socket).map(|()| space)
                });
                let space = match read {
                    Ok(space) => space,
                    Err(error) => {
                        found.unread.get_or_insert(error);
                        return;
                    }
                };
                let holds = space.links.iter().any(RawLink::is_marked) || !space.routes.is_empty();
                // With the mark of another host it is none of ours.
                let may_be_ours = |link: &RawLink| {
                    link.is_marked() && link.mark.as_ref().is_none_or(|mark| mark.inode == Some(inode))
                };
                found.held |= !space.routes.is_empty() || space.links.iter().any(may_be_ours);
                if holds || space.links.iter().any(|link| link.kind == RawKind::Veth) {
                    self.stale.links.extend(near_ends(&space));
                    found.spaces.push(Arc::new(space));
                }
                if holds {
                    namespaces.hold(netns, handle);
                }
            });
            found.unseen = everywhere.unseen;
            self.others = Some(found);
        }
        self.others.get_or_insert_with(|| Others { spaces: Vec::new(), unseen: Vec::new(), unread: None, held: false })
    }

    /// The host's own namespace. To be asked for last: what the others are is told in part along with its devices.
    pub(super) fn read_host(
        &mut self,
        namespaces: &mut Namespaces,
        events: Option<&Events>,
    ) -> Result<Arc<Space>, ReadError> {
        let stale = std::mem::take(&mut self.stale);
        let (netns, id) = (&Netns::HOST, namespaces.host_id());
        let Some(mut space) = self.spaces.remove(netns) else {
            if let Some(events) = events
                && let Some(number) = namespaces.own_number().map_err(|refusal| read_error(&whose(netns), &refusal))?
            {
                events.know(number, Whose::Host);
            }
            // Into its own a thread needs no rights to come.
            let mut socket = Socket::open().map_err(|e| read_error(&whose(netns), &e.into()))?;
            let space = Arc::new(Space::read(&mut socket, netns, id, id.1, true)?);
            self.spaces.insert(Netns::HOST, space.clone());
            return Ok(space);
        };
        let socket = namespaces.host();
        if !stale.links.is_empty() {
            let host = Arc::make_mut(&mut space);
            let before: Vec<u32> = host.links.iter().map(|link| link.index).collect();
            host.links = read_links(socket, std::mem::take(&mut host.links), &stale.links)?;
            // What was said of a device is not true of another one of its index.
            if !host.links.iter().map(|link| link.index).eq(before) {
                self.queueing.remove(netns);
            }
        }
        if stale.addresses || stale.routes {
            let host = Arc::make_mut(&mut space);
            if stale.addresses {
                host.read_addresses(socket)?;
            }
            host.read_routes(socket)?;
        }
        self.spaces.insert(Netns::HOST, space.clone());
        Ok(space)
    }

    /// The parameters of a namespace that no listing tells of: those of the paths that have not been read are read.
    pub(super) fn parameters(
        &mut self,
        namespaces: &Namespaces,
        proc: &Proc,
        netns: &Netns,
        paths: &[&Arc<str>],
    ) -> Result<&HashMap<Arc<str>, Option<String>>, ReadError> {
        let known = self.parameters.entry(netns.clone()).or_default();
        let missing: Vec<&Arc<str>> = paths.iter().filter(|path| !known.contains_key(**path)).copied().collect();
        if !missing.is_empty() {
            let read = || missing.iter().map(|path| Ok(((*path).clone(), proc.read(path)?))).collect();
            let read: Result<Vec<_>, Refusal> = namespaces.within(netns, read).and_then(|read| read);
            known.extend(read.map_err(|refusal| read_error(&whose(netns), &refusal))?);
        }
        Ok(known)
    }

    /// The permanent neighbours, with their devices.
    pub(super) fn neighbours_known(&self) -> HashSet<(u32, IpAddr)> {
        self.neighbours.iter().flat_map(|(index, found)| found.iter().map(|raw| (*index, raw.ip))).collect()
    }

    /// The addresses that forwarding databases have entries for.
    pub(super) fn macs_known(&self) -> HashSet<Mac> {
        self.databases.values().flatten().map(|raw| raw.mac).collect()
    }
}

/// Has changes in a namespace be told, where that can be: only of one with a number the host is told anything. Where it is to
/// have one, it gets one. Yields the number.
fn listen(
    namespaces: &mut Namespaces,
    handle: &Handle,
    may_get: bool,
    events: Option<&Events>,
) -> Result<Option<u32>, Refusal> {
    let Some(events) = events else { return Ok(None) };
    let number = namespaces.number(handle, may_get)?;
    if let Some(number) = number {
        events.know(number, Whose::Space(handle.id));
    }
    Ok(number)
}

/// Whether the namespace of a name may be another one without a word: where a name was made or taken away, and of a path at any
/// time.
fn may_move(netns: &Netns, names: bool) -> bool {
    !netns.is_host() && netns.source().is_none() && (names || !netns::is_name(netns))
}

/// Whether a name still leads to the namespace of that identity.
fn is_still(netns: &Netns, id: Id) -> bool {
    fs::metadata(netns::path(netns)).is_ok_and(|found| netns::id_of(&found) == id)
}

/// The indices of the devices whose other ends are in a namespace, in theirs.
fn near_ends(space: &Space) -> impl Iterator<Item = u32> {
    space.links.iter().filter(|link| link.kind == RawKind::Veth).filter_map(|link| link.peer)
}

/// The host's devices, those of some indices read again.
fn read_links(
    socket: &mut Socket,
    mut links: Vec<RawLink>,
    indices: &BTreeSet<u32>,
) -> Result<Vec<RawLink>, ReadError> {
    // Of all devices, or of those to come.
    let indices: Vec<u32> =
        indices.iter().filter(|index| i32::try_from(**index).is_ok_and(|i| i > 0)).copied().collect();
    if indices.len() > ONE_BY_ONE {
        return link::dump(socket).map_err(|e| dump_error("links", &Netns::HOST, e));
    }
    for index in indices {
        let at = links.binary_search_by_key(&index, |link| link.index);
        match (link::get(socket, index), at) {
            (Ok(link), Ok(at)) => links[at] = link,
            (Ok(link), Err(at)) => links.insert(at, link),
            (Err(refusal), Ok(at)) if refusal.errno == libc::ENODEV => drop(links.remove(at)),
            (Err(refusal), Err(_)) if refusal.errno == libc::ENODEV => {}
            (Err(refusal), _) => return Err(read_error("links of host", &refusal)),
        }
    }
    Ok(links)
}
