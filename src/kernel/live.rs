//! The kernel's devices, addresses, routes, namespaces and parameters as state. Neighbours and forwarding databases are
//! in `reach`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::ReadError;
use super::events::Events;
use super::netlink::address::RawAddress;
use super::netlink::link::{self, ANOTHER_HOST, Mark, RawKind, RawLink};
use super::netlink::route::{self, RTPROT_KERNEL, RawRoute};
use super::netns::{self, Everywhere, Id, Namespaces, whose};
use super::picture::Picture;
use super::reach;
use super::shaping;
use super::space::{Space, namespace_mark};
use super::sysctl::{Proc, Procs};
use super::transport::{DumpError, Refusal};
use crate::state::{
    Address, Device, Entry, GROUP_LEAVING, InterfaceName, Key, Link, LinkKind, Mac, Netns, NetnsObject, Object, Owner,
    PROTOCOL, Peer, RT_TABLE_MAIN, Route, Scope, Standing, Sysctl,
};

/// The other ends of the host's veths that are in containers, by the index of the host's end.
type FarEnds = HashMap<u32, FarEnd>;

/// The end of a veth in a container, with the mark that it carries.
type FarEnd = (Peer, Option<Mark>);

/// Yields all that carries netrec's mark, and what the scope asks for. What is not in the picture is read; with ears, so that
/// it is told of from then on. The objects are little out of order, and of one key the last counts.
pub(super) fn read(
    namespaces: &mut Namespaces,
    picture: &mut Picture,
    everywhere: Option<Everywhere>,
    events: Option<&Events>,
    scope: &Scope,
) -> Result<Live, ReadError> {
    let inode = namespaces.host_id().1;
    let mut reader = Reader {
        inode,
        namespaces,
        picture,
        events,
        scope,
        entries: Vec::new(),
        sysctls: Vec::new(),
        spaces: Vec::new(),
        procs: Procs::new(),
        unread: None,
    };
    let (seen, second) = reader.read_namespaces()?;
    let was_known = reader.picture.has_others();
    let others = reader.picture.others(reader.namespaces, &seen.keys().copied().collect(), everywhere);
    let unseen = others.unseen.clone();
    reader.spaces.extend(others.spaces.iter().cloned());
    reader.unread = reader.unread.take().or_else(|| others.unread.clone());
    let host = reader.picture.read_host(reader.namespaces, events)?;
    for (netns, first) in second {
        reader.add_second_name(&netns, &first, &host);
    }
    reader.add_sysctls(&host)?;
    let complete = reader.add_links(&host)?;
    let mut spaces = std::mem::take(&mut reader.spaces);
    for space in &mut spaces {
        reader.add_inner_links(space, &host)?;
        reader.add_foreign_links(space);
    }
    for space in std::iter::once(&host).chain(&spaces) {
        reader.add_addresses(space);
    }
    for space in std::iter::once(&host).chain(&spaces) {
        reader.add_routes(space);
    }
    reader.add_reach(&host)?;
    for space in std::iter::once(&host).chain(&spaces) {
        reader.add_shaping(space)?;
    }
    let Reader { mut entries, mut sysctls, .. } = reader;
    entries.append(&mut sysctls);
    Ok(Live { entries, unseen, doubtful: was_known && !complete })
}

/// What was read.
pub(super) struct Live {
    pub entries: Vec<(Key, Entry)>,
    /// Paths of the namespaces that cannot be entered.
    pub unseen: Vec<PathBuf>,
    /// Whether something is missing that may be where it was not looked for this time.
    pub doubtful: bool,
}

struct Reader<'a> {
    namespaces: &'a mut Namespaces,
    picture: &'a mut Picture,
    events: Option<&'a Events>,
    scope: &'a Scope,
    /// The inode number of the host's namespace.
    inode: u64,
    entries: Vec<(Key, Entry)>,
    sysctls: Vec<(Key, Entry)>,
    spaces: Vec<Arc<Space>>,
    /// For what is not told along with the devices.
    procs: Procs,
    /// Why the first of the namespaces that nobody asked for and that could not be read could not. It is no matter unless
    /// something is missing that may be in it.
    unread: Option<ReadError>,
}

/// The first names of namespaces, and others of the same.
type Names = (HashMap<Id, Netns>, Vec<(Netns, Netns)>);

impl Reader<'_> {
    /// Reads the namespaces of the scope and of `/run/netns`.
    fn read_namespaces(&mut self) -> Result<Names, ReadError> {
        let listed = self.picture.names()?.to_vec();
        let scope = self.scope;
        let others = listed.iter().filter(|netns| !scope.namespaces.contains(*netns));
        let there = |netns: &&Netns| !netns::is_name(netns) || listed.binary_search(netns).is_ok();
        let mut seen: HashMap<Id, Netns> = HashMap::from([(self.namespaces.host_id(), Netns::HOST)]);
        let mut second = Vec::new();
        for netns in scope.namespaces.iter().filter(there).chain(others) {
            let wanted = scope.namespaces.contains(netns);
            let space = match self.picture.space(self.namespaces, netns, wanted, self.events) {
                Ok(Some(space)) => space,
                Ok(None) => {
                    if netns::left_by_crash(netns) {
                        let object = Object::Netns(NetnsObject { lo_up: false, lo_bare: false, unbound: true });
                        self.add(Key::Netns { netns: netns.clone() }, object, None, Standing::Ours);
                    }
                    continue;
                }
                Err(error) if !wanted => {
                    self.unread.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(first) = seen.get(&space.id) {
                second.push((netns.clone(), first.clone()));
                continue;
            }
            seen.insert(space.id, netns.clone());
            self.add_sysctls(&space)?;
            self.add_namespace(&space);
            self.spaces.push(space);
        }
        Ok((seen, second))
    }

    /// Adds the parameters of a namespace that the scope asks for.
    fn add_sysctls(&mut self, space: &Space) -> Result<(), ReadError> {
        let netns = &space.netns;
        let mut others = Vec::new();
        for path in self.scope.sysctls.get(netns).into_iter().flatten() {
            match told(&space.links, path) {
                Some(value) => self.sysctls.push(parameter(netns, path, value)),
                None => others.push(path),
            }
        }
        if !others.is_empty() {
            let proc = if netns.is_host() { &Proc::SYSTEM } else { self.procs.next() };
            let known = self.picture.parameters(self.namespaces, proc, netns, &others)?;
            let found = others.iter().filter_map(|path| Some(parameter(netns, path, known.get(*path)?.clone()?)));
            self.sysctls.extend(found);
        }
        Ok(())
    }

    /// A second name of a namespace holds nothing of its own; what is in it is read under the first.
    fn add_second_name(&mut self, netns: &Netns, first: &Netns, host: &Space) {
        if !self.scope.namespaces.contains(netns) {
            return;
        }
        let links = self.spaces.iter().find(|s| s.netns == *first).map_or(&host.links, |s| &s.links);
        let lo_up = links.iter().any(|l| l.loopback && l.device.up);
        let why = if first.is_host() { "the host's own".to_owned() } else { format!("the same as {first}") };
        self.add(
            Key::Netns { netns: netns.clone() },
            Object::Netns(NetnsObject { lo_up, lo_bare: false, unbound: false }),
            None,
            Standing::Foreign(why),
        );
    }

    /// Adds a namespace by the mark on its `lo`: netrec's, or a foreign one of a wanted name. What the file calls otherwise
    /// is somebody else's to make and to remove, also where netrec once made it by a name.
    fn add_namespace(&mut self, space: &Space) {
        let netns = &space.netns;
        let Some(lo) = space.links.iter().find(|l| l.loopback) else { return };
        let mark = namespace_mark(lo);
        let standing = match mark {
            Some(mark) if mark.inode == Some(self.inode) && netns::is_name(netns) => Standing::Ours,
            Some(mark) if mark.inode == Some(self.inode) => Standing::Foreign("not called by its name".into()),
            Some(_) => Standing::Foreign(ANOTHER_HOST.into()),
            None => Standing::Foreign("not made by netrec".into()),
        };
        if standing.is_ours() || self.scope.namespaces.contains(netns) {
            let object =
                Object::Netns(NetnsObject { lo_up: lo.device.up, lo_bare: is_bare(lo, space), unbound: false });
            self.add(Key::Netns { netns: netns.clone() }, object, mark, standing);
        }
    }

    /// Adds the host's links: netrec's, and foreign ones of wanted names. Says whether all of their other ends were found.
    fn add_links(&mut self, host: &Space) -> Result<bool, ReadError> {
        let far_ends = self.far_ends(host)?;
        let inode = self.inode;
        let mut ours = host.links.iter().filter(|l| l.standing(inode).is_ours());
        let lost = ours.any(|l| far_end_key(l).is_some() && !far_ends.contains_key(&l.index));
        // It may be in the one that could not be read.
        if let Some(error) = self.unread.take_if(|_| lost) {
            return Err(error);
        }
        // In the order of their keys.
        let mut links: Vec<&RawLink> = host.links.iter().collect();
        links.sort_by_key(|link| link.name);
        for raw in links {
            let standing = raw.standing(self.inode);
            if !standing.is_ours() && !self.scope.ends.contains(&(Netns::HOST, raw.name)) {
                continue;
            }
            // A veth with both ends in the host is one link, and this is its far end.
            let inner = raw.peer_nsid.is_none() && raw.kind == RawKind::Veth;
            if inner && standing.is_ours() && raw.mark.as_ref().is_some_and(|m| m.inode.is_some()) {
                continue;
            }
            let mut mark = raw.mark.clone();
            let kind = match &raw.kind {
                RawKind::Bridge { stp } => LinkKind::Bridge { stp: *stp },
                RawKind::Vxlan { vni, udp_port, local, underlay, learning } => LinkKind::Vxlan {
                    vni: *vni,
                    udp_port: *udp_port,
                    local: *local,
                    underlay: underlay.and_then(|index| link::by_index(&host.links, index)).map(|l| l.name),
                    learning: *learning,
                },
                RawKind::Veth if standing.is_ours() => {
                    let far = far_end(raw, &host.links, &far_ends);
                    if let Some((_, far_mark)) = &far {
                        // A crash can leave a mark on one end alone: the pair has one when both do.
                        mark = mark.filter(|near| far_mark.as_ref().is_some_and(|far| far.owner == near.owner));
                    }
                    LinkKind::Veth { peer: far.map_or_else(unknown_peer, |(peer, _)| peer) }
                }
                RawKind::Veth => LinkKind::Other { name: "veth".into() },
                RawKind::Macvlan(_) | RawKind::Ipvlan(_) | RawKind::Vlan(_) => on_parent(raw, &host.links),
                RawKind::Ifb => LinkKind::Ifb,
                RawKind::Other(name) => LinkKind::Other { name: name.clone() },
            };
            let link = Link {
                kind,
                device: raw.device.clone(),
                master: raw.master.and_then(|index| link::by_index(&host.links, index)).map(|l| l.name),
                port: raw.port,
                leaving: raw.group == GROUP_LEAVING,
            };
            let key = Key::Link { netns: Netns::HOST, name: raw.name };
            self.add(key, Object::Link(link), mark.as_ref(), standing);
        }
        Ok(!lost)
    }

    /// Finds the other ends of netrec's veths among what was read. The two indices alone do not tell: they are small
    /// numbers, and two containers can hold ends of one index that lead to the same index of two hosts. The mark of this
    /// host's tells too; only without it, or with two that say so, is the kernel asked, which goes through all
    /// namespaces to answer.
    fn far_ends(&mut self, host: &Space) -> Result<FarEnds, ReadError> {
        let mut candidates: HashMap<(u32, u32), Vec<(&Space, &RawLink)>> = HashMap::new();
        for space in &self.spaces {
            for end in space.links.iter().filter(|l| l.kind == RawKind::Veth) {
                let Some(near) = end.peer else { continue };
                candidates.entry((end.index, near)).or_default().push((space, end));
            }
        }
        let mut found = FarEnds::new();
        for near in host.links.iter().filter(|l| l.standing(self.inode).is_ours()) {
            let Some((nsid, index)) = far_end_key(near) else { continue };
            let ends = candidates.remove(&(index, near.index)).unwrap_or_default();
            let alone = ends.len() == 1;
            for (space, end) in ends {
                let marked = end.mark.as_ref().is_some_and(|mark| mark.inode == Some(self.inode));
                let number = |namespaces: &mut Namespaces| match space.number {
                    Some(number) => Ok(number),
                    None => namespaces.nsid(&space.netns).map_err(|r| read_error(&whose(&space.netns), &r)),
                };
                if alone && marked || number(self.namespaces)? == nsid {
                    found.insert(near.index, far_end_of(&space.netns, end));
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Adds the links that netrec made inside a container's namespace. The ends of veth pairs are told of along with the
    /// host's.
    fn add_inner_links(&mut self, space: &mut Arc<Space>, host: &Space) -> Result<(), ReadError> {
        let is_on_parent = |link: &RawLink| matches!(link.kind, RawKind::Macvlan(_) | RawKind::Ipvlan(_));
        let inode = self.inode;
        let says_us = |link: &RawLink| {
            let marked = link.is_marked() || namespace_mark(link).is_some();
            marked && link.mark.as_ref().is_some_and(|mark| mark.inode == Some(inode))
        };
        // Those on a device of the host's first: one without a name tells whose the rest is once it is known.
        let (first, rest): (Vec<usize>, Vec<usize>) =
            (0..space.links.len()).partition(|at| is_on_parent(&space.links[*at]));
        for at in first.into_iter().chain(rest) {
            let raw = &space.links[at];
            let source = raw.mark.as_ref().and_then(|mark| mark.source);
            // A pair of netrec's own is told of by its end in the host, unless somebody took that elsewhere.
            if !raw.is_marked() || (raw.kind == RawKind::Veth && source.is_none() && has_end_in(raw, host)) {
                continue;
            }
            let is_on_parent = is_on_parent(raw);
            match (&raw.mark, raw.peer_nsid.filter(|_| is_on_parent)) {
                (Some(mark), _) if mark.inode == Some(self.inode) => {}
                // A crash leaves one without a name. Its company tells whose it is, or where its parent is.
                (None, _) if raw.kind == RawKind::Ifb && space.links.iter().any(says_us) => {}
                (None, Some(nsid)) => {
                    let of_host = self.namespaces.nsid_of_host(&space.netns);
                    if of_host.map_err(|r| read_error(&whose(&space.netns), &r))? != nsid {
                        let mark = Mark::new(Owner::netrec(), Some(0));
                        Arc::make_mut(space).links[at].mark = Some(mark);
                        continue;
                    }
                }
                // Of a netrec in there, or of another host's.
                _ => continue,
            }
            let kind = match (&raw.kind, source) {
                (_, Some(source)) => LinkKind::Plugin { source },
                _ if is_on_parent => on_parent(raw, &host.links),
                (RawKind::Ifb, None) => LinkKind::Ifb,
                (other, None) => LinkKind::Other { name: other.name().to_owned() },
            };
            let leaving = raw.group == GROUP_LEAVING;
            let link = Link { kind, device: raw.device.clone(), master: None, port: None, leaving };
            let key = Key::Link { netns: space.netns.clone(), name: raw.name };
            self.add(key, Object::Link(link), raw.mark.as_ref(), Standing::Ours);
            // What is on one without a name is netrec's as it is.
            if raw.mark.is_none() {
                let mark = Mark::new(Owner::netrec(), Some(self.inode));
                Arc::make_mut(space).links[at].mark = Some(mark);
            }
        }
        Ok(())
    }

    /// Adds foreign devices inside a container's namespace that have the name of an end to be.
    fn add_foreign_links(&mut self, space: &Space) {
        let inode = self.inode;
        for raw in space.links.iter().filter(|l| !l.standing(inode).is_ours()) {
            let end = (space.netns.clone(), raw.name);
            if !self.scope.ends.contains(&end) {
                continue;
            }
            let kind = LinkKind::Other { name: raw.kind.name().to_owned() };
            let link = Link { kind, device: raw.device.clone(), master: None, port: None, leaving: false };
            let key = Key::Link { netns: end.0, name: end.1 };
            self.add(key, Object::Link(link), raw.mark.as_ref(), raw.standing(inode));
        }
    }

    /// Adds the addresses of netrec's links, all of which are netrec's but those that the kernel makes.
    fn add_addresses(&mut self, space: &Space) {
        let netns = &space.netns;
        let connected = space.routes.iter().filter(|route| route.is_connected());
        let connected: BTreeSet<(Option<u32>, IpNetwork)> = connected.map(|route| (route.index, route.to)).collect();
        let has_route = |raw: &RawAddress| connected.contains(&(Some(raw.index), raw.subnet()));
        for raw in space.addresses.iter().filter(|a| !a.kernel_made) {
            let of_interest = |link: &&RawLink| netns.is_host() || link.is_marked();
            let Some(link) = link::by_index(&space.links, raw.index).filter(of_interest) else { continue };
            let mut standing = link.standing(self.inode);
            if netns.is_host() && !standing.is_ours() {
                // On a bridge that somebody else made, an address says itself whose it is; on an end of another host's
                // netrec it is that one's.
                standing = match raw.protocol {
                    PROTOCOL if !link.is_marked() => Standing::Ours,
                    _ if self.scope.addressed.contains(&link.name) => Standing::Foreign("not made by netrec".into()),
                    _ => continue,
                };
            }
            let key = Key::Address { netns: netns.clone(), link: link.name, ip: raw.ip, peer: raw.peer };
            let routed = link.device.up && !raw.secondary && !raw.is_single();
            let address = Address {
                permanent: raw.permanent,
                no_prefix_route: routed && !has_route(raw),
                deprecated: raw.deprecated,
                // On a device of somebody else's the order is theirs.
                secondary: raw.secondary && link.is_marked(),
                scope: raw.scope,
            };
            self.add(key, Object::Address(address), link.mark.as_ref(), standing);
        }
    }

    /// Adds netrec's routes, and in a container those of others in the main table, which may be in the way.
    fn add_routes(&mut self, space: &Space) {
        let netns = &space.netns;
        let dev_of = |raw: &RawRoute| link::by_index(&space.links, raw.index?);
        let (ours, others): (Vec<_>, Vec<_>) =
            space.routes.iter().partition(|raw| raw.is_ours(dev_of(raw), self.inode));
        let in_the_way =
            |raw: &RawRoute| !netns.is_host() && raw.table == RT_TABLE_MAIN && raw.protocol != RTPROT_KERNEL;
        // IPv6 lets several routes share a key; one of netrec's is what counts then, so these come last.
        let others = others.into_iter().filter(|raw| in_the_way(raw)).map(|raw| (raw, false));
        let general = if netns.is_host() { None } else { self.general_owner(space) };
        for (raw, ours) in others.chain(ours.into_iter().map(|raw| (raw, true))) {
            let dev = dev_of(raw);
            let key = Key::Route { netns: netns.clone(), table: raw.table, to: raw.to, metric: raw.metric };
            let standing = match raw.protocol {
                PROTOCOL if ours => Standing::Ours,
                PROTOCOL => Standing::Foreign(ANOTHER_HOST.into()),
                other => Standing::Foreign(format!("protocol {}", route::protocol_name(other))),
            };
            let object = Object::Route(Route {
                via: raw.via,
                // IPv6 says `lo` of one that refuses.
                dev: dev.filter(|_| raw.kind.is_unicast()).map(|l| l.name),
                protocol: raw.protocol,
                onlink: raw.onlink,
                src: raw.src,
                scope: raw.unusual_scope(),
                kind: raw.kind,
            });
            // One that refuses has no device that would tell.
            let mark = if raw.kind.is_unicast() { dev.and_then(|l| l.mark.as_ref()) } else { general.as_ref() };
            self.add(key, object, mark.filter(|_| ours), standing);
        }
    }

    /// Whose all is that netrec has in a container's namespace, as far as its devices there have that in common.
    fn general_owner(&self, space: &Space) -> Option<Mark> {
        let ours = space.links.iter().filter(|link| link.is_marked() && link.standing(self.inode).is_ours());
        let marks = ours.filter_map(|link| link.mark.clone()).filter(|mark| mark.owner != Owner::netrec());
        let common = |a: Mark, b: Mark| {
            let owner =
                std::iter::once(a.owner.clone()).chain(a.owner.ancestors()).find(|above| b.owner.is_within(above));
            Mark { owner: owner.unwrap_or_else(Owner::netrec), ..a }
        };
        marks.reduce(common).or_else(|| {
            let lo = space.links.iter().find(|link| link.loopback)?;
            namespace_mark(lo).filter(|mark| mark.inode == Some(self.inode)).cloned()
        })
    }

    /// Adds the host's neighbours and forwarding databases. They are told of where there are some to look at.
    fn add_reach(&mut self, host: &Space) -> Result<(), ReadError> {
        if let Some(events) = self.events {
            let wanted = reach::is_of_interest(&host.links, self.inode, self.scope);
            let listening = events.listen_to_neighbours(wanted);
            if listening.map_err(|e| read_error("the kernel's notifications", &e.into()))? {
                self.picture.neighbours.clear();
                self.picture.databases.clear();
            }
        }
        let reached = reach::read(self.namespaces.host(), self.picture, &host.links, self.inode, self.scope)?;
        self.entries.extend(reached);
        if let Some(events) = self.events {
            events.know_neighbours(self.picture.neighbours_known(), self.picture.macs_known());
        }
        Ok(())
    }

    /// Adds the queueing disciplines of a namespace.
    fn add_shaping(&mut self, space: &Space) -> Result<(), ReadError> {
        let Space { netns, links, .. } = space;
        if !shaping::is_of_interest(netns, links, self.inode, self.scope) {
            return Ok(());
        }
        if !self.picture.queueing.contains_key(netns) {
            let socket = self.namespaces.socket(netns).map_err(|refusal| read_error(&whose(netns), &refusal))?;
            self.picture.queueing.insert(netns.clone(), shaping::read(socket, netns)?);
        }
        let listed = self.picture.queueing.get(netns).map_or(&[][..], Vec::as_slice);
        self.entries.extend(shaping::entries(listed, netns, links, self.inode, self.scope));
        Ok(())
    }

    fn add(&mut self, key: Key, object: Object, mark: Option<&Mark>, standing: Standing) {
        let owners = mark.map(|mark| mark.owner.clone()).into_iter().collect();
        self.entries.push((key, Entry { object, owners, standing }));
    }
}

/// Whether a namespace's `lo` has lost 127.0.0.1, and nobody gave it another of that kind.
fn is_bare(lo: &RawLink, space: &Space) -> bool {
    let is_its = |a: &RawAddress| a.index == lo.index && matches!(a.ip.ip(), IpAddr::V4(v4) if v4.is_loopback());
    lo.device.up && !space.addresses.iter().any(is_its)
}

/// The value of a parameter that the listing of devices tells along: to open its file takes longer.
fn told(links: &[RawLink], path: &str) -> Option<String> {
    let (family, rest) = path.strip_prefix("net/")?.split_once("/conf/")?;
    let (device, name) = rest.split_once('/')?;
    let link = links.iter().find(|link| link.name.as_str() == device)?;
    link.parameter(family, name).map(|value| value.to_string())
}

fn parameter(netns: &Netns, path: &Arc<str>, value: String) -> (Key, Entry) {
    let key = Key::Sysctl { netns: netns.clone(), path: path.clone() };
    let object = Object::Sysctl(Sysctl { value });
    (key, Entry { object, owners: Vec::new(), standing: Standing::Ours })
}

/// What a device is that is on another one; of those of the host's.
fn on_parent(raw: &RawLink, host: &[RawLink]) -> LinkKind {
    let parent = raw.peer.and_then(|index| link::by_index(host, index)).map_or(InterfaceName::UNKNOWN, |l| l.name);
    match raw.kind {
        RawKind::Macvlan(mode) => LinkKind::Macvlan { parent, mode },
        RawKind::Ipvlan(mode) => LinkKind::Ipvlan { parent, mode },
        RawKind::Vlan(vid) => LinkKind::Vlan { parent, vid },
        _ => LinkKind::Other { name: raw.kind.name().to_owned() },
    }
}

/// Where the other end of a veth is, if it is in another namespace: the number that this one gave to that, and the index
/// there.
fn far_end_key(link: &RawLink) -> Option<(u32, u32)> {
    if link.kind == RawKind::Veth { Some((link.peer_nsid?, link.peer?)) } else { None }
}

/// The other end of a veth of the host's.
fn far_end(raw: &RawLink, host: &[RawLink], far_ends: &FarEnds) -> Option<FarEnd> {
    match far_end_key(raw) {
        Some(_) => far_ends.get(&raw.index).cloned(),
        None => raw.peer.and_then(|index| link::by_index(host, index)).map(|other| far_end_of(&Netns::HOST, other)),
    }
}

fn far_end_of(netns: &Netns, link: &RawLink) -> FarEnd {
    (Peer { netns: netns.clone(), name: link.name, device: link.device.clone() }, link.mark.clone())
}

/// Whether the other end of a container's veth may be among these devices.
fn has_end_in(raw: &RawLink, host: &Space) -> bool {
    let near = raw.peer.and_then(|index| link::by_index(&host.links, index));
    near.is_some_and(|near| near.kind == RawKind::Veth && near.peer == Some(raw.index))
}

/// An end that is in none of the namespaces that can be seen.
fn unknown_peer() -> Peer {
    let device =
        Device { mac: Mac([0; 6]), mtu: 0, up: false, link_local: false, promote_secondaries: false, no_arp: false };
    Peer { netns: Netns::new("?"), name: InterfaceName::UNKNOWN, device }
}

/// The error for something that the kernel refused to show.
pub(super) fn read_error(what: &str, refusal: &Refusal) -> ReadError {
    use nix::libc::{EACCES, EOPNOTSUPP, EPERM};
    let reason = refusal.text.clone().unwrap_or_else(|| refusal.reason().to_owned());
    let kernel = refusal.kernel.as_ref().map(|text| format!(" (kernel: {text})")).unwrap_or_default();
    match refusal.errno {
        EPERM | EACCES => ReadError::Permission { what: what.into(), reason },
        EOPNOTSUPP => ReadError::Missing(format!("this kernel cannot list {what}: {reason}{kernel}")),
        _ => ReadError::Other(format!("read {what}: {reason}{kernel}")),
    }
}

/// The error for a dump that gave nothing.
pub(super) fn dump_error(what: &str, netns: &Netns, error: DumpError) -> ReadError {
    let what = match netns.source() {
        Some(source) => format!("{what} of {source}"),
        None => format!("{what} of {netns}"),
    };
    match error {
        DumpError::Torn => ReadError::Torn { what },
        DumpError::Refused(refusal) => read_error(&what, &refusal),
    }
}
