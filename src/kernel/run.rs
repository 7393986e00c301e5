//! Steps to kernel writes. Steps of a phase do not depend on each other, but one step may take several messages: they go
//! out in stages, each for all steps and in as few sends as possible before the next.

use std::collections::{BTreeMap, HashSet};
use std::mem::discriminant;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::libc;

use super::StepError;
use super::fault::Writes;
use super::netlink::address::Ends;
use super::netlink::change::{self, Abilities, Change, End, Stage};
use super::netlink::link::{Mark, RawKind, RawLink, Related};
use super::netlink::neighbour::{self, Place};
use super::netlink::qdisc::Way;
use super::netlink::route::NewRoute;
use super::netlink::{address, link, qdisc, route};
use super::netns::{self, Id, Namespaces};
use super::sources;
use super::sysctl::{Proc, Procs};
use super::transport::{BATCH, Refusal, Request, Socket};
use crate::state::{
    Address, Entry, Fdb, GROUP, Hook, InterfaceName, Key, Link, LinkKind, Mac, MacvlanMode, Netns, Object, Owner,
    PROTOCOL, Qdisc, Step, of_all_devices,
};

type Outcomes = Vec<Result<(), Refusal>>;

/// How long what a removed namespace leaves behind is waited for: it is gone within some tens of milliseconds, on a busy machine
/// within some hundreds.
const TIDYING: Duration = Duration::from_secs(2);
const TIDYING_PAUSE: Duration = Duration::from_millis(20);

/// Carries out steps and says of each how it went.
pub(super) struct Runner<'a> {
    pub namespaces: &'a mut Namespaces,
    pub writes: &'a mut Writes,
    /// What the kernel can do.
    can: Abilities,
    /// Devices of the host's of which the first address takes the other ones of its subnet along, which are somebody else's.
    taking: HashSet<InterfaceName>,
}

/// One message of a step's.
struct Operation<'a> {
    stage: Stage,
    netns: &'a Netns,
    /// Error numbers that mean the wanted state is there already.
    accept: &'static [i32],
    /// Makes the message, when those before it have done their work; with a descriptor that it names.
    build: Box<Build<'a>>,
}

type Build<'a> = dyn Fn(&mut Namespaces) -> Result<(Request, Option<OwnedFd>), Refusal> + 'a;

/// Errors that mean an address, a route or a neighbour is gone: with its device, by itself, with its table.
const GONE: &[i32] = &[libc::ENODEV, libc::EADDRNOTAVAIL, libc::ESRCH, libc::ENOENT];

/// In how many namespaces links are deleted at the same time.
const AT_ONCE: usize = 128;

/// The prefix length of link-local addresses (RFC 4291, 2.5.6).
const LINK_LOCAL_PREFIX: u8 = 64;

impl<'n> Runner<'n> {
    pub(super) fn new(namespaces: &'n mut Namespaces, writes: &'n mut Writes, can: Abilities) -> Self {
        Self { namespaces, writes, can, taking: HashSet::new() }
    }

    /// Looks which devices that are not netrec's lose more than the addresses that go.
    fn look_at_adopted(&mut self, steps: &[Step]) {
        for step in steps {
            if let (Key::Address { netns: Netns::HOST, link, ip: IpNetwork::V4(_), .. }, None) =
                (&step.key, &step.after)
                && let Ok(found) = link::get_by_name(self.namespaces.host(), *link)
                && !found.is_marked()
                && !found.device.promote_secondaries
            {
                self.taking.insert(*link);
            }
        }
    }

    /// Runs all steps but the firewall's, whose places in the answer are left at success.
    pub(super) fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut outcomes: Outcomes = vec![Ok(()); steps.len()];
        self.make_namespaces(steps, &mut outcomes);
        self.look_at_adopted(steps);
        self.send_operations(steps, &mut outcomes);
        self.set_sysctls(steps, &mut outcomes);
        self.delete_links(steps, &mut outcomes);
        self.delete_namespaces(steps, &mut outcomes);
        let explained = steps.iter().zip(outcomes).map(|(step, outcome)| {
            outcome.map_err(|mut refusal| {
                if refusal.text.is_none() && refusal.errno == libc::EINVAL {
                    refusal.text = self.holder(step);
                }
                explain(step, &refusal)
            })
        });
        explained.collect()
    }

    /// Who has the device as a whole that a step was to make a macvlan on, or on which it was to have it so: the kernel says
    /// `EINVAL` to that, and nothing more.
    fn holder(&mut self, step: &Step) -> Option<String> {
        let after = step.after.as_ref().filter(|_| step.before.is_none())?;
        let Object::Link(Link { kind: LinkKind::Macvlan { parent, mode }, .. }) = &after.object else { return None };
        let below = self.namespaces.index(&Netns::HOST, *parent).ok()?;
        let wants_whole = *mode == MacvlanMode::Passthru;
        let holds = |link: &RawLink| match link.kind {
            RawKind::Macvlan(mode) => link.peer == Some(below) && (wants_whole || mode == MacvlanMode::Passthru),
            _ => false,
        };
        let mut found = link::dump(self.namespaces.host()).ok().and_then(|links| {
            let link = links.iter().find(|link| link.peer_nsid.is_none() && holds(link))?;
            Some((Netns::HOST, link.name))
        });
        if found.is_none() {
            sources::for_each_other(
                self.namespaces,
                &mut HashSet::new(),
                &mut netns::everywhere(),
                |_, _, path, socket| {
                    let links = link::dump(socket).unwrap_or_default();
                    // Of this host's device, which is in another namespace than the link.
                    let held = links.iter().find(|link| link.peer_nsid.is_some() && holds(link));
                    if let (None, Some(link)) = (&found, held) {
                        found = Some((Netns::new(path.to_string_lossy()), link.name));
                    }
                },
            );
        }
        let whole = if wants_whole {
            "has a macvlan on it already, where type passthru wants all of it"
        } else {
            "is held as a whole (type passthru)"
        };
        let Some((netns, name)) = found else {
            return Some(format!("{parent} {whole}, by a device that was not found: name another `parent`"));
        };
        let ip = netns.label().map_or_else(|| "ip".to_owned(), |path| format!("nsenter --net={path} ip"));
        Some(format!(
            "{parent} {whole}: {name} in {netns}; remove that (`{ip} link del {name}`), or name another `parent`"
        ))
    }

    fn make_namespaces(&mut self, steps: &[Step], outcomes: &mut Outcomes) {
        for (step, outcome) in steps.iter().zip(outcomes) {
            if let (Key::Netns { netns }, Some(after)) = (&step.key, &step.after) {
                *outcome = self.make_namespace(netns, step.before.as_ref(), after);
            }
        }
    }

    fn make_namespace(&mut self, netns: &Netns, before: Option<&Entry>, after: &Entry) -> Result<(), Refusal> {
        let owner = after.owner().cloned().unwrap_or_else(Owner::netrec);
        let mark = Mark::new(owner, Some(self.namespaces.host_id().1));
        let Object::Netns(wanted) = &after.object else { return Err(mismatch()) };
        if before.is_none_or(|b| matches!(&b.object, Object::Netns(found) if found.unbound)) {
            return self.namespaces.create(netns, &mark, wanted.lo_up, self.writes);
        }
        let mut requests = vec![link::mark_lo(GROUP, &mark, Some(wanted.lo_up))];
        let was_bare = before.is_some_and(|b| matches!(&b.object, Object::Netns(found) if found.lo_bare));
        match (was_bare, wanted.lo_bare) {
            (true, false) => requests.push(address::add_loopback()),
            (false, true) => requests.push(address::delete_loopback()),
            _ => {}
        }
        self.namespaces.socket(netns)?.batch(requests, self.writes).into_iter().collect()
    }

    fn send_operations(&mut self, steps: &[Step], outcomes: &mut Outcomes) {
        let mut all: Vec<(usize, Operation<'_>)> = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            match self.operations(step) {
                Ok(operations) => all.extend(operations.into_iter().map(|o| (i, o))),
                Err(refusal) => outcomes[i] = Err(refusal),
            }
        }
        // Stable: within a stage and a namespace in the order of the steps.
        all.sort_by(|(_, a), (_, b)| (a.stage, a.netns).cmp(&(b.stage, b.netns)));
        for chunk in all.chunk_by(|(_, a), (_, b)| (a.stage, a.netns) == (b.stage, b.netns)) {
            for batch in chunk.chunks(BATCH) {
                self.send_batch(steps, batch, outcomes);
            }
        }
    }

    /// Sends messages of one stage to one namespace; a step that has failed sends no more.
    fn send_batch(&mut self, steps: &[Step], batch: &[(usize, Operation<'_>)], outcomes: &mut Outcomes) {
        let mut sent = Vec::new();
        let mut requests = Vec::new();
        let mut descriptors = Vec::new();
        for (i, operation) in batch {
            if outcomes[*i].is_err() && operation.stage != Stage::Restore {
                continue;
            }
            match (operation.build)(self.namespaces) {
                Ok((request, descriptor)) => {
                    sent.push((*i, operation));
                    requests.push(request);
                    descriptors.push(descriptor);
                }
                Err(refusal) => settle(&mut outcomes[*i], Err(refusal), operation.accept),
            }
        }
        let Some((_, first)) = sent.first() else { return };
        if first.stage == Stage::Rename {
            self.namespaces.forget_indices();
        }
        let answers = match self.namespaces.socket(first.netns) {
            Ok(socket) => socket.batch(requests, self.writes),
            Err(refusal) => vec![Err(refusal); sent.len()],
        };
        let until = Instant::now() + TIDYING;
        for ((i, operation), answer) in sent.into_iter().zip(answers) {
            let answer = self.insist(operation, answer, until);
            let answer = self.with_ipv6(&steps[i], operation, answer);
            settle(&mut outcomes[i], answer, operation.accept);
        }
    }

    /// Sends a message again whose address or port another device has: that may be one in a namespace which is removed, and
    /// which the kernel has not tidied away yet.
    fn insist(
        &mut self,
        operation: &Operation<'_>,
        mut answer: Result<(), Refusal>,
        until: Instant,
    ) -> Result<(), Refusal> {
        while matches!(&answer, Err(refusal) if refusal.errno == libc::EADDRINUSE) && Instant::now() < until {
            thread::sleep(TIDYING_PAUSE);
            let (request, _descriptor) = (operation.build)(self.namespaces)?;
            answer = self.namespaces.socket(operation.netns)?.batch(vec![request], self.writes).into_iter().collect();
        }
        answer
    }

    /// Sends an address again that was refused since IPv6 is off on its device: where somebody turned it off there, or on all
    /// devices to come, as Docker does in containers without a network of its own.
    fn with_ipv6(
        &mut self,
        step: &Step,
        operation: &Operation<'_>,
        answer: Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let (Err(refusal), Key::Address { netns, link, ip, .. }, Some(_)) = (&answer, &step.key, &step.after) else {
            return answer;
        };
        if refusal.errno != libc::EACCES || ip.is_ipv4() {
            return answer;
        }
        let path = format!("net/ipv6/conf/{link}/disable_ipv6");
        self.namespaces.within(netns, || Proc::SYSTEM.write(&path, "0", self.writes))??;
        let (request, _descriptor) = (operation.build)(self.namespaces)?;
        self.namespaces.socket(netns)?.batch(vec![request], self.writes).into_iter().collect()
    }

    /// The messages of a step about a link or what hangs on it; links are deleted elsewhere, together.
    fn operations<'a>(&self, step: &'a Step) -> Result<Vec<Operation<'a>>, Refusal> {
        match &step.key {
            Key::Link { netns, name } => match &step.after {
                Some(after) => self.link_operations(netns, *name, step, after),
                None => {
                    Ok(source_of(step).map(|source| give_back_operation(netns, *name, source)).into_iter().collect())
                }
            },
            Key::Address { netns, link, ip, peer } => {
                let takes = netns.is_host() && self.taking.contains(link);
                address_operations(netns, *link, (*ip, *peer), step, takes)
            }
            Key::Route { netns, .. } => route_operation(netns, step).map(|o| vec![o]),
            Key::Neighbour { netns, link, ip } => neighbour_operation(netns, *link, *ip, step).map(|o| vec![o]),
            Key::Fdb { netns, link, mac } => fdb_operations(netns, *link, *mac, step),
            Key::Qdisc { netns, link, hook } => qdisc_operations(netns, *link, *hook, step),
            _ => Ok(Vec::new()),
        }
    }

    fn link_operations<'a>(
        &self,
        netns: &'a Netns,
        name: InterfaceName,
        step: &'a Step,
        after: &'a Entry,
    ) -> Result<Vec<Operation<'a>>, Refusal> {
        let inode = self.namespaces.host_id().1;
        let Object::Link(wanted) = &after.object else { return Err(mismatch()) };
        let inside = (!netns.is_host()).then_some(inode);
        let near = End::near(name, wanted, after.owner(), inside);
        let far = far_end(wanted).map(|peer| (&peer.netns, End::far(peer, wanted, after.owner(), inode)));
        let mut list = Vec::new();
        let (near_before, far_before) = match &step.before {
            None => {
                list.push(match wanted.source() {
                    Some(source) => {
                        take_in_operation(netns, name, wanted, source, near.alias.clone().unwrap_or_default())
                    }
                    None => create_operation(netns, name, wanted),
                });
                (near.as_created(wanted), far.as_ref().map(|(_, end)| end.as_created(wanted)))
            }
            Some(before) => {
                let Object::Link(found) = &before.object else { return Err(mismatch()) };
                if !changeable(found, wanted) {
                    return Err(Refusal::new(
                        libc::EOPNOTSUPP,
                        "a link of another kind, namespace or tunnel must be made anew",
                    ));
                }
                let far = far_end(found).map(|peer| End::far(peer, found, before.owner(), inode));
                (End::near(name, found, before.owner(), inside), far)
            }
        };
        list.extend(self.changes(netns, &near_before, &near));
        list.extend(self.link_local(netns, &near_before, &near));
        if let (Some((netns, far)), Some(before)) = (far, far_before) {
            list.extend(self.changes(netns, &before, &far));
            list.extend(self.link_local(netns, &before, &far));
        }
        Ok(list)
    }

    fn changes<'a>(&self, netns: &'a Netns, before: &End, after: &End) -> Vec<Operation<'a>> {
        let changes = change::changes(before, after, self.can);
        let operation = |change: Change| Operation {
            stage: change.stage,
            netns,
            accept: change.accept,
            build: Box::new(move |namespaces| Ok((change.request(|name| namespaces.index(netns, name))?, None))),
        };
        changes.into_iter().map(operation).collect()
    }

    /// The kernel makes a link-local address when a device goes up, and keeps it when the device's own address changes. The
    /// old one goes after the new one has come, so that the route to their subnet stays; and both before the device's own
    /// address changes, which shows whether it has been done. It makes one, too, when a larger MTU brings IPv6 to a device.
    fn link_local<'a>(&self, netns: &'a Netns, before: &End, after: &End) -> Vec<Operation<'a>> {
        if !self.can.ipv6 {
            return Vec::new();
        }
        let name = after.name;
        let operation = |stage, mac: Mac, accept, request: fn(u32, IpNetwork) -> Request| {
            let ip = IpNetwork::new(mac.link_local().into(), LINK_LOCAL_PREFIX).ok()?;
            let build = move |namespaces: &mut Namespaces| Ok((request(namespaces.index(netns, name)?, ip), None));
            Some(Operation { stage, netns, accept, build: Box::new(build) })
        };
        let has_one = |end: &End| end.device.link_local && end.device.up;
        if before.device.mac != after.device.mac && has_one(before) && has_one(after) {
            let come = operation(Stage::Own, after.device.mac, &[libc::EEXIST][..], address::add_link_local);
            let gone = operation(Stage::Own, before.device.mac, GONE, address::delete_link_local);
            return come.into_iter().chain(gone).collect();
        }
        if change::gets_ipv6(before, after) && !after.device.link_local {
            return operation(Stage::Clear, after.device.mac, GONE, address::delete_link_local).into_iter().collect();
        }
        Vec::new()
    }

    fn set_sysctls(&mut self, steps: &[Step], outcomes: &mut Outcomes) {
        let mut wanted: Vec<_> =
            steps.iter().enumerate().filter_map(|(i, step)| Some((i, parameter_of(step)?))).collect();
        let mut procs = Procs::new();
        for of_one in wanted.chunk_by_mut(|(_, a), (_, b)| a.netns == b.netns) {
            // What is said for all devices sets it for each, and each has the last word.
            of_one.sort_by_key(|(_, parameter)| of_all_devices(parameter.path).is_none());
            let Some((_, Parameter { netns, .. })) = of_one.first() else { continue };
            let proc = if netns.is_host() { &Proc::SYSTEM } else { procs.next() };
            let set = |(_, p): &(usize, Parameter<'_>)| proc.write(p.path, p.value, self.writes);
            let done: Outcomes = match self.namespaces.within(netns, || of_one.iter().map(set).collect()) {
                Ok(done) => done,
                Err(refusal) => vec![Err(refusal); of_one.len()],
            };
            for ((i, _), done) in of_one.iter().zip(done) {
                outcomes[*i] = done;
            }
        }
    }

    /// Links go together: each into the group of those that leave, then the group with one message. One by one a
    /// thousand of them would take 20 s.
    fn delete_links(&mut self, steps: &[Step], outcomes: &mut Outcomes) {
        let mut leaving: BTreeMap<&Netns, Vec<usize>> = BTreeMap::new();
        for (i, step) in steps.iter().enumerate() {
            if let (Key::Link { netns, .. }, None) = (&step.key, &step.after)
                && source_of(step).is_none()
            {
                leaving.entry(netns).or_default().push(i);
            }
        }
        self.namespaces.forget_indices();
        let (host, inside): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|(netns, _)| netns.is_host());
        let at_once = if self.writes.single() { 1 } else { AT_ONCE };
        for some in host.chunks(1).chain(inside.chunks(at_once)) {
            let marked: Vec<Outcomes> = some.iter().map(|(netns, indices)| self.doom(netns, indices, steps)).collect();
            let any: Vec<bool> = marked.iter().map(|outcomes| outcomes.iter().any(Result::is_ok)).collect();
            let netns: Vec<&Netns> = some.iter().zip(&any).filter(|(_, any)| **any).map(|((n, _), _)| *n).collect();
            let mut deleted = self.delete_doomed(&netns).into_iter();
            for (((_, indices), marked), any) in some.iter().zip(marked).zip(any) {
                let deleted = if any { deleted.next().unwrap_or(Ok(())) } else { Ok(()) };
                for (i, marked) in indices.iter().zip(marked) {
                    settle(&mut outcomes[*i], marked.and_then(|()| deleted.clone()), GONE);
                }
            }
        }
    }

    /// Puts links of a namespace into the group of those that leave.
    fn doom(&mut self, netns: &Netns, indices: &[usize], steps: &[Step]) -> Outcomes {
        let names = indices.iter().filter_map(|i| match &steps[*i].key {
            Key::Link { name, .. } => Some(link::doom(*name)),
            _ => None,
        });
        match self.namespaces.socket(netns) {
            Ok(socket) => socket.batch(names.collect(), self.writes),
            Err(refusal) => vec![Err(refusal); indices.len()],
        }
    }

    /// Deletes what leaves in the host or in each of some containers. Each such message takes the kernel some 20 ms of waiting for all
    /// processors, so they are sent at the same time.
    fn delete_doomed(&mut self, all: &[&Netns]) -> Outcomes {
        let delete = |socket: &mut Socket, writes: &mut Writes| {
            socket.batch(vec![link::delete_doomed()], writes).pop().unwrap_or(Ok(()))
        };
        if let [netns] = all {
            return vec![self.namespaces.socket(netns).and_then(|socket| delete(socket, self.writes))];
        }
        let lent = all.iter().map(|netns| {
            self.writes.admit().map_err(Refusal::plain)?;
            self.namespaces.lend(netns)
        });
        let mut lent: Vec<Result<(Id, Socket), Refusal>> = lent.collect();
        let outcomes = thread::scope(|scope| {
            let waiting: Vec<_> = lent
                .iter_mut()
                .map(|lent| match lent {
                    // They are counted already.
                    Ok((_, socket)) => thread::Builder::new()
                        .spawn_scoped(scope, move || delete(socket, &mut Writes::default()))
                        .map_err(|error| Refusal::new(error.raw_os_error().unwrap_or(0), "no thread to delete it in")),
                    Err(refusal) => Err(refusal.clone()),
                })
                .collect();
            let lost = || Err(Refusal::new(libc::EIO, "the thread that deletes ended"));
            waiting.into_iter().map(|waiting| waiting.and_then(|t| t.join().unwrap_or_else(|_| lost()))).collect()
        });
        for (netns, lent) in all.iter().zip(lent) {
            if let Ok((id, socket)) = lent {
                self.namespaces.keep(netns, id, socket);
            }
        }
        outcomes
    }

    fn delete_namespaces(&mut self, steps: &[Step], outcomes: &mut Outcomes) {
        for (step, outcome) in steps.iter().zip(outcomes) {
            if let (Key::Netns { netns }, None) = (&step.key, &step.after) {
                *outcome = self.namespaces.delete(netns, self.writes);
            }
        }
    }
}

fn settle(outcome: &mut Result<(), Refusal>, answer: Result<(), Refusal>, accept: &[i32]) {
    match answer {
        Err(refusal) if !accept.contains(&refusal.errno) => *outcome = Err(refusal),
        _ => {}
    }
}

/// A kernel parameter and the value it is to have.
struct Parameter<'a> {
    netns: &'a Netns,
    path: &'a str,
    value: &'a str,
}

/// The parameter that a step sets; those that go stay as they are.
fn parameter_of(step: &Step) -> Option<Parameter<'_>> {
    match (&step.key, &step.after.as_ref()?.object) {
        (Key::Sysctl { netns, path }, Object::Sysctl(wanted)) => Some(Parameter { netns, path, value: &wanted.value }),
        _ => None,
    }
}

/// A key and an object of different kinds, or a new key in another namespace: no step that a planner makes.
fn mismatch() -> Refusal {
    Refusal::new(libc::EINVAL, "the step's key and object do not fit")
}

fn far_end(link: &Link) -> Option<&crate::state::Peer> {
    match &link.kind {
        LinkKind::Veth { peer } => Some(peer),
        _ => None,
    }
}

fn changeable(before: &Link, after: &Link) -> bool {
    match (&before.kind, &after.kind) {
        (LinkKind::Bridge { .. }, LinkKind::Bridge { .. }) => true,
        (LinkKind::Veth { peer: a }, LinkKind::Veth { peer: b }) => a.netns == b.netns,
        (LinkKind::Vxlan { .. }, LinkKind::Vxlan { .. }) => before.claim() == after.claim(),
        (LinkKind::Macvlan { mode: a, .. }, LinkKind::Macvlan { mode: b, .. }) => {
            let whole = |mode: &MacvlanMode| *mode == MacvlanMode::Passthru;
            before.parent() == after.parent() && whole(a) == whole(b)
        }
        (LinkKind::Ipvlan { .. }, LinkKind::Ipvlan { .. }) => before.parent() == after.parent(),
        (LinkKind::Vlan { .. }, LinkKind::Vlan { .. }) => before.claim() == after.claim(),
        (LinkKind::Ifb, LinkKind::Ifb) => true,
        (LinkKind::Plugin { source: a }, LinkKind::Plugin { source: b }) => a == b,
        (LinkKind::Other { name: a }, LinkKind::Other { name: b }) => a == b,
        _ => false,
    }
}

/// Of a plugin's device that goes, its name in the host.
fn source_of(step: &Step) -> Option<InterfaceName> {
    match step.before.as_ref().map(|entry| &entry.object) {
        Some(Object::Link(link)) if step.after.is_none() => link.source(),
        _ => None,
    }
}

fn take_in_operation<'a>(
    netns: &'a Netns,
    name: InterfaceName,
    wanted: &'a Link,
    source: InterfaceName,
    alias: String,
) -> Operation<'a> {
    Operation {
        stage: Stage::Create,
        netns: &Netns::HOST,
        accept: &[],
        build: Box::new(move |namespaces| {
            let found = link::get_by_name(namespaces.host(), source)?;
            if found.loopback || found.is_marked() {
                return Err(Refusal::new(libc::EPERM, format!("{source} is none of a plugin's devices")));
            }
            let netns = namespaces.descriptor(netns)?.ok_or_else(mismatch)?;
            Ok((link::take_in(&found, name, wanted, &alias, &netns), Some(netns)))
        }),
    }
}

fn give_back_operation<'a>(netns: &'a Netns, name: InterfaceName, source: InterfaceName) -> Operation<'a> {
    Operation {
        stage: Stage::Create,
        netns,
        accept: GONE,
        build: Box::new(move |namespaces| {
            namespaces.forget_indices();
            let index = namespaces.index(netns, name)?;
            let host = namespaces.host_descriptor()?;
            Ok((link::give_back(index, source, &host), Some(host)))
        }),
    }
}

fn create_operation<'a>(netns: &'a Netns, name: InterfaceName, wanted: &'a Link) -> Operation<'a> {
    // What is on a device of the host's is made from there, and in its own namespace at once.
    let from = if wanted.parent().is_some() { &Netns::HOST } else { netns };
    Operation {
        stage: if wanted.master.is_none() { Stage::Create } else { Stage::CreatePort },
        netns: from,
        accept: &[],
        build: Box::new(move |namespaces| {
            let underlay = if let LinkKind::Vxlan { underlay, .. } = wanted.kind { underlay } else { None };
            let mut index = |device: Option<_>| device.map(|device| namespaces.index(from, device)).transpose();
            let related = Related {
                master: index(wanted.master)?,
                underlay: index(underlay)?,
                parent: index(wanted.parent())?,
                netns: if from == netns { None } else { namespaces.descriptor(netns)? },
                peer_netns: match far_end(wanted) {
                    Some(peer) if peer.netns != *netns => namespaces.descriptor(&peer.netns)?,
                    _ => None,
                },
            };
            Ok((link::create(name, wanted, &related)?, related.netns.or(related.peer_netns)))
        }),
    }
}

fn address_operations<'a>(
    netns: &'a Netns,
    link: InterfaceName,
    (ip, peer): Ends,
    step: &'a Step,
    takes_others: bool,
) -> Result<Vec<Operation<'a>>, Refusal> {
    let operation = |accept, request: Box<dyn Fn(u32) -> Request + 'a>| Operation {
        stage: Stage::Rest,
        netns,
        accept,
        build: Box::new(move |namespaces| Ok((request(namespaces.index(netns, link)?), None))),
    };
    let (before, after) = (address_of(step.before.as_ref())?, address_of(step.after.as_ref())?);
    let Some(after) = after else {
        let mut list = vec![operation(GONE, Box::new(move |index| address::delete(index, (ip, peer))))];
        if takes_others {
            let promote = |stage, on| {
                let request = Box::new(move |index| change::promote(index, on));
                Operation { stage, ..operation(GONE, request) }
            };
            list.extend([promote(Stage::Clear, true), promote(Stage::Restore, false)]);
        }
        return Ok(list);
    };
    let replace = before.is_some();
    let mut list = vec![operation(&[], Box::new(move |index| address::add(index, (ip, peer), after, replace)))];
    match before {
        // Of an IPv4 address that is there already the kernel leaves the route as it is.
        Some(before) if ip.is_ipv4() && before.no_prefix_route != after.no_prefix_route => {
            list.push(if after.no_prefix_route {
                operation(
                    GONE,
                    Box::new(move |index| route::delete(&route::connected(index, address::subnet(ip, peer)))),
                )
            } else {
                operation(
                    &[libc::EEXIST],
                    Box::new(move |index| route::restore_connected(index, address::subnet(ip, peer), ip.ip())),
                )
            });
        }
        _ => {}
    }
    Ok(list)
}

fn address_of(entry: Option<&Entry>) -> Result<Option<&Address>, Refusal> {
    match entry.map(|e| &e.object) {
        None => Ok(None),
        Some(Object::Address(address)) => Ok(Some(address)),
        Some(_) => Err(mismatch()),
    }
}

fn route_operation<'a>(netns: &'a Netns, step: &'a Step) -> Result<Operation<'a>, Refusal> {
    let Key::Route { table, to, metric, .. } = step.key else { return Err(mismatch()) };
    let (create, delete) = (step.before.is_none(), step.after.is_none());
    let entry = step.after.as_ref().or(step.before.as_ref());
    let Some(Object::Route(wanted)) = entry.map(|e| &e.object) else { return Err(mismatch()) };
    Ok(Operation {
        stage: Stage::Rest,
        netns,
        accept: if delete { GONE } else { &[] },
        build: Box::new(move |namespaces| {
            let index = wanted.dev.map(|dev| namespaces.index(netns, dev)).transpose()?;
            let route = NewRoute {
                to,
                table,
                metric,
                protocol: PROTOCOL,
                via: wanted.via,
                index,
                onlink: wanted.onlink,
                src: wanted.src,
                scope: wanted.scope,
                kind: wanted.kind,
            };
            Ok((if delete { route::delete(&route) } else { route::add(&route, !create) }, None))
        }),
    })
}

fn neighbour_operation<'a>(
    netns: &'a Netns,
    link: InterfaceName,
    ip: IpAddr,
    step: &'a Step,
) -> Result<Operation<'a>, Refusal> {
    let mac = match step.after.as_ref().map(|e| &e.object) {
        None => None,
        Some(Object::Neighbour(neighbour)) => Some(neighbour.mac),
        Some(_) => return Err(mismatch()),
    };
    Ok(Operation {
        stage: Stage::Rest,
        netns,
        accept: if mac.is_none() { GONE } else { &[] },
        build: Box::new(move |namespaces| {
            let index = namespaces.index(netns, link)?;
            let request = mac.map_or_else(|| neighbour::delete(index, ip), |mac| neighbour::set(index, ip, mac));
            Ok((request, None))
        }),
    })
}

/// Errors that mean an entry of a forwarding database is gone; the last one: with its port, which is one no longer.
const FDB_GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::EOPNOTSUPP];

fn fdb_operations<'a>(
    netns: &'a Netns,
    link: InterfaceName,
    mac: Mac,
    step: &'a Step,
) -> Result<Vec<Operation<'a>>, Refusal> {
    let operation = |stage, accept, build: Box<Build<'a>>| Operation { stage, netns, accept, build };
    let (before, after) = (fdb_of(step.before.as_ref())?, fdb_of(step.after.as_ref())?);
    let mut list = Vec::new();
    // A new entry takes the place of a plain one; more than that would be left beside it.
    if let Some(before) = before.filter(|before| after.is_none() || !before.extra.is_empty()) {
        let build = move |namespaces: &mut Namespaces| {
            let place = place_of(namespaces, netns, link, before)?;
            Ok((neighbour::delete_fdb(place, mac), None))
        };
        list.push(operation(Stage::Clear, FDB_GONE, Box::new(build)));
    }
    if let Some(after) = after {
        if !after.extra.is_empty() {
            return Err(Refusal::new(libc::EOPNOTSUPP, "netrec makes no such entries"));
        }
        // The kernel moves an entry to its port first and makes it stay there after that: a frame in between takes it away
        // again, to where it then stays. The second time it stays already.
        for _ in 0..if after.sticky { 2 } else { 1 } {
            let build = move |namespaces: &mut Namespaces| {
                let place = place_of(namespaces, netns, link, after)?;
                Ok((neighbour::set_fdb(place, mac, after.dst, after.sticky), None))
            };
            list.push(operation(Stage::Rest, &[], Box::new(build)));
        }
    }
    Ok(list)
}

fn fdb_of(entry: Option<&Entry>) -> Result<Option<&Fdb>, Refusal> {
    match entry.map(|e| &e.object) {
        None => Ok(None),
        Some(Object::Fdb(fdb)) => Ok(Some(fdb)),
        Some(_) => Err(mismatch()),
    }
}

/// Where an entry of a device's database is kept.
fn place_of(namespaces: &mut Namespaces, netns: &Netns, link: InterfaceName, entry: &Fdb) -> Result<Place, Refusal> {
    let index = namespaces.index(netns, entry.port.unwrap_or(link))?;
    Ok(match entry.port {
        None => Place::Vxlan(index),
        Some(port) if port == link => Place::Bridge(index),
        Some(_) => Place::Port(index),
    })
}

/// Errors that mean a queueing discipline or its filter is gone: with its device; with what it hung on; the kernel's default in
/// its place has no handle.
const QDISC_GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::EINVAL];

fn qdisc_operations<'a>(
    netns: &'a Netns,
    link: InterfaceName,
    hook: Hook,
    step: &'a Step,
) -> Result<Vec<Operation<'a>>, Refusal> {
    let operation = |stage, accept, build: Box<Build<'a>>| Operation { stage, netns, accept, build };
    let (before, after) = (qdisc_of(step.before.as_ref())?, qdisc_of(step.after.as_ref())?);
    let mut list = Vec::new();
    let stays = matches!((before, after), (Some(before), Some(after)) if discriminant(before) == discriminant(after));
    if before.is_some() && !stays {
        let build = move |namespaces: &mut Namespaces| Ok((qdisc::delete(namespaces.index(netns, link)?, hook), None));
        list.push(operation(Stage::Clear, QDISC_GONE, Box::new(build)));
    }
    let Some(after) = after else { return Ok(list) };
    let ways: &[Way] = match before {
        Some(before) if stays && qdisc::shrinks(before, after) => &[Way::Between, Way::Change],
        _ if stays => &[Way::Change],
        _ => &[Way::New],
    };
    for &way in ways {
        let build =
            move |namespaces: &mut Namespaces| Ok((qdisc::set(namespaces.index(netns, link)?, after, way)?, None));
        list.push(operation(Stage::Rest, &[], Box::new(build)));
    }
    let Qdisc::Clsact { redirect } = after else { return Ok(list) };
    if stays {
        let build =
            move |namespaces: &mut Namespaces| Ok((qdisc::delete_redirect(namespaces.index(netns, link)?), None));
        list.push(operation(Stage::Clear, QDISC_GONE, Box::new(build)));
    }
    if let Some(to) = *redirect {
        let build = move |namespaces: &mut Namespaces| {
            let index = namespaces.index(netns, link)?;
            Ok((qdisc::add_redirect(index, namespaces.index(netns, to)?), None))
        };
        list.push(operation(Stage::Filters, &[], Box::new(build)));
    }
    Ok(list)
}

fn qdisc_of(entry: Option<&Entry>) -> Result<Option<&Qdisc>, Refusal> {
    match entry.map(|e| &e.object) {
        None => Ok(None),
        Some(Object::Qdisc(qdisc)) => Ok(Some(qdisc)),
        Some(_) => Err(mismatch()),
    }
}

/// The sentence about a failed step: `create link ve-web-1a2b3c in host: File exists (kernel: …)`.
pub(super) fn explain(step: &Step, refusal: &Refusal) -> StepError {
    let verb = match (&step.before, &step.after) {
        (None, _) => "create",
        (_, None) => "delete",
        _ => "change",
    };
    let place = match (&step.key, step.key.netns().source()) {
        (Key::Netns { .. }, _) => String::new(),
        (_, Some(source)) => format!(" in {source}"),
        (key, None) => format!(" in {}", key.netns()),
    };
    let mut parts = vec![format!("{verb} {} {}{place}", step.key.kind(), step.key.name())];
    parts.extend(refusal.text.clone().or_else(|| advice(step, refusal)));
    if refusal.errno != 0 {
        parts.push(refusal.reason().to_owned());
    }
    let kernel = refusal.kernel.as_ref().map(|text| format!(" (kernel: {text})")).unwrap_or_default();
    let message = parts.join(": ") + &kernel;
    StepError { errno: refusal.errno, message }
}

/// What helps, where an error number alone would leave people guessing.
fn advice(step: &Step, refusal: &Refusal) -> Option<String> {
    let wanted = step.after.as_ref().map(|e| &e.object);
    match (refusal.errno, wanted) {
        // With words of its own the kernel refuses something else.
        (libc::EPERM | libc::EACCES, _) if refusal.kernel.is_none() => {
            Some("changing networks needs root (CAP_NET_ADMIN)".into())
        }
        (libc::EOPNOTSUPP, Some(Object::Link(link))) if step.before.is_none() => {
            let kind = kind_of(&link.kind);
            let module = if kind == "vlan" { "8021q" } else { kind };
            Some(format!("this kernel has no {kind} driver (modprobe {module})"))
        }
        // When it is made, or when it comes up.
        (libc::EADDRINUSE, Some(Object::Link(link))) => {
            let parent = link.parent()?;
            let mac = link.device.mac;
            Some(format!("another device on {parent} has the address {mac}: give the container another `mac`, or none"))
        }
        (errno, Some(Object::Link(link))) if step.before.is_none() => {
            let parent = link.parent()?;
            Some(match errno {
                // `netdev_rx_handler_register`
                libc::EBUSY => {
                    format!(
                        "{parent} hands its frames on already: to a bridge, a bond, or devices of another kind than {}",
                        kind_of(&link.kind)
                    )
                }
                libc::ENETDOWN => format!("{parent} is down: `ip link set {parent} up`"),
                _ => return None,
            })
        }
        (libc::EOPNOTSUPP, Some(Object::Fdb(Fdb { port: Some(port), .. }))) if refusal.kernel.is_none() => {
            Some(format!("{port} is no port of a bridge"))
        }
        (libc::ENOENT, Some(Object::Qdisc(Qdisc::Tbf { .. }))) => {
            Some("this kernel has no token bucket filter (modprobe sch_tbf)".into())
        }
        (libc::ENOENT, Some(Object::Qdisc(_))) => {
            Some("this kernel cannot redirect what comes in (modprobe sch_ingress cls_u32 act_mirred)".into())
        }
        (libc::EXFULL, Some(Object::Link(_))) => Some("a bridge has at most 1023 ports".into()),
        _ => None,
    }
}

/// The kernel's name for a kind of device.
fn kind_of(kind: &LinkKind) -> &str {
    match kind {
        LinkKind::Bridge { .. } => "bridge",
        LinkKind::Veth { .. } => "veth",
        LinkKind::Vxlan { .. } => "vxlan",
        LinkKind::Macvlan { .. } => "macvlan",
        LinkKind::Ipvlan { .. } => "ipvlan",
        LinkKind::Vlan { .. } => "vlan",
        LinkKind::Ifb => "ifb",
        LinkKind::Plugin { .. } => "plugin",
        LinkKind::Other { name } => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Device, Mac};

    #[test]
    fn a_missing_driver_is_named() {
        let device = Device {
            mac: Mac([2; 6]),
            mtu: 1500,
            up: false,
            link_local: true,
            promote_secondaries: true,
            no_arp: false,
        };
        let kind = LinkKind::Bridge { stp: false };
        let object = Object::Link(Link { kind, device, master: None, port: None, leaving: false });
        let key = Key::Link { netns: Netns::HOST, name: "nr-front".parse().unwrap() };
        let step = Step::new(key, None, Some(Entry::new(object, Owner::netrec())));
        let refusal = Refusal { errno: libc::EOPNOTSUPP, kernel: Some("Unknown device type".into()), text: None };
        assert_eq!(
            explain(&step, &refusal).message,
            "create link nr-front in host: this kernel has no bridge driver (modprobe bridge): Operation not supported \
             on transport endpoint (kernel: Unknown device type)"
        );
    }
}
