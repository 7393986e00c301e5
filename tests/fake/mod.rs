//! A kernel made of a map. It knows what the real one refuses (adding what exists, deleting or changing what is absent,
//! a route by a device that is down, a name or a tunnel's id twice, an entry by a port that is none) and what it does on its
//! own (routes and neighbours go when their device goes down, neighbours with its MAC address, addresses with their
//! device, a bridge's entries with their port), and refuses everything else that a step could get wrong: a value
//! before that is not the present one, a link that is born up.

#![allow(unreachable_pub)] // a module of a test is private to it

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netrec::kernel::{Backend, ReadError, StepError};
use netrec::state::firewall::{Concat, Datum, ElementData, Expr, SetData, Verdict};
use netrec::state::{
    Address, Asked, BridgePort, Claim, Entry, Facts, Fdb, Flow, Hook, InterfaceName, Key, Link, LinkKind, Netns,
    Object, Owner, Qdisc, Route, Scope, Stale, Standing, State, Step,
};

/// The kernel.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    pub facts: Facts,
    pub state: State,
    pub writes: u64,
    /// The number of the step (from 1) that fails, and how many fail from there on.
    pub fail: Option<(u64, u64)>,
    /// A ruleset change by somebody else happens before this many firewall transactions.
    pub races: u32,
    /// What connection tracking knows, by protocol and original destination; none where nobody sends anything.
    pub flows: Option<BTreeMap<(u8, SocketAddr), Flow>>,
    /// How often connection tracking was asked.
    pub asked: u64,
    /// When addresses came: of a subnet the next one takes the place of a first that goes.
    pub born: BTreeMap<Key, u64>,
}

/// The host's own addresses, as far as flows go.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ["192.0.2.1", "2001:db8::1"].contains(&ip.to_string().as_str())
}

type Refusal = Result<(), String>;

fn refuse(condition: bool, why: impl FnOnce() -> String) -> Refusal {
    if condition { Err(why()) } else { Ok(()) }
}

impl Fake {
    fn get(&self, key: &Key) -> Option<&Entry> {
        self.state.get(key)
    }

    /// Whether a namespace is there: netrec's, or by its path somebody else's.
    fn has(&self, netns: &Netns) -> bool {
        let theirs = netns.label().is_none_or(|label| label.starts_with('/'));
        theirs || self.get(&Key::Netns { netns: netns.clone() }).is_some()
    }

    /// The link that has this end, with the end's up.
    fn end(&self, netns: &Netns, name: InterfaceName) -> Option<(Key, bool)> {
        self.state.iter().find_map(|(key, entry)| {
            let (Key::Link { netns: n, name: own }, Object::Link(link)) = (key, &entry.object) else { return None };
            if n == netns && *own == name {
                return Some((key.clone(), link.device.up));
            }
            match &link.kind {
                LinkKind::Veth { peer } if peer.netns == *netns && peer.name == name => {
                    Some((key.clone(), peer.device.up))
                }
                _ => None,
            }
        })
    }

    fn ends(key: &Key, entry: &Entry) -> Vec<(Netns, InterfaceName, bool)> {
        let (Key::Link { netns, name }, Object::Link(link)) = (key, &entry.object) else { return Vec::new() };
        let mut ends = vec![(netns.clone(), *name, link.device.up)];
        if let LinkKind::Veth { peer } = &link.kind {
            ends.push((peer.netns.clone(), peer.name, peer.device.up));
        }
        ends
    }

    fn drop_where(&mut self, gone: impl Fn(&Key, &Entry) -> bool) {
        let keys: Vec<Key> = self.state.iter().filter(|(k, e)| gone(k, e)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            self.state.remove(&key);
        }
    }

    /// What the kernel does when an end goes down: its routes and neighbours go.
    fn went_down(&mut self, netns: &Netns, name: InterfaceName) {
        self.drop_where(|k, e| {
            matches!((k, &e.object), (Key::Route { netns: n, .. }, Object::Route(Route { dev: Some(d), .. })) if n == netns && *d == name)
        });
        self.flushed(netns, name);
    }

    /// The neighbours of a device go, permanent ones too.
    fn flushed(&mut self, netns: &Netns, name: InterfaceName) {
        self.drop_where(|k, _| matches!(k, Key::Neighbour { netns: n, link, .. } if n == netns && *link == name));
    }

    /// A bridge forgets a port that leaves it.
    fn unplugged(&mut self, name: InterfaceName) {
        self.drop_where(|_, e| matches!(&e.object, Object::Fdb(Fdb { port: Some(port), .. }) if *port == name));
    }

    fn went_away(&mut self, netns: &Netns, name: InterfaceName) {
        self.went_down(netns, name);
        let conf = format!("/conf/{name}/");
        self.drop_where(|k, _| match k {
            Key::Address { netns: n, link, .. }
            | Key::Fdb { netns: n, link, .. }
            | Key::Qdisc { netns: n, link, .. } => n == netns && *link == name,
            Key::Sysctl { netns: n, path } => n == netns && path.contains(&conf),
            _ => false,
        });
        // A filter stays without the device that it leads to.
        let leads_here: Vec<Key> = self
            .state
            .iter()
            .filter(|(k, e)| k.netns() == netns && e.object == Object::Qdisc(Qdisc::Clsact { redirect: Some(name) }))
            .map(|(k, _)| k.clone())
            .collect();
        for key in leads_here {
            let object = Object::Qdisc(Qdisc::Clsact { redirect: None });
            self.state.insert(key, Entry { object, owners: Vec::new(), standing: Standing::Ours });
        }
        if netns.is_host() {
            self.unplugged(name);
            let orphans: Vec<(Key, Entry)> = self
                .state
                .iter()
                .filter(|(_, e)| matches!(&e.object, Object::Link(l) if l.master == Some(name)))
                .map(|(k, e)| (k.clone(), e.clone()))
                .collect();
            for (key, mut entry) in orphans {
                if let Object::Link(link) = &mut entry.object {
                    (link.master, link.port) = (None, None);
                }
                self.state.insert(key, entry);
            }
        }
    }

    fn renamed(&mut self, netns: &Netns, old: InterfaceName, new: InterfaceName) {
        let all: Vec<(Key, Entry)> = std::mem::take(&mut self.state).into_iter().collect();
        for (mut key, mut entry) in all {
            match (&mut key, &mut entry.object) {
                (Key::Address { netns: n, link, .. }, _) if n == netns && *link == old => {
                    let born = self.born.remove(&key);
                    if let Key::Address { link, .. } = &mut key {
                        *link = new;
                    }
                    self.born.extend(born.map(|born| (key.clone(), born)));
                }
                (Key::Route { netns: n, .. }, Object::Route(Route { dev: Some(dev), .. }))
                    if n == netns && *dev == old =>
                {
                    *dev = new;
                }
                (Key::Sysctl { netns: n, path }, _) if n == netns => {
                    *path = path.replace(&format!("/conf/{old}/"), &format!("/conf/{new}/")).into();
                }
                _ => {}
            }
            self.state.insert(key, entry);
        }
    }

    fn step(&mut self, step: &Step) -> Refusal {
        let Step { key, before, after } = step;
        let present = self.get(key).cloned();
        // A route may be replaced by one that takes its place; only that may name a value that is no longer there.
        // And what goes may have lost its bridge in the same phase.
        if !matches!(key, Key::Route { .. } | Key::Sysctl { .. }) && after.is_some() {
            // The owner of what has no mark is its link's when it is read.
            let same = match (&present, before) {
                (Some(present), Some(before)) if !key.kind().is_marked() => present.object == before.object,
                // A mark names the first of several.
                (Some(present), Some(before)) => {
                    (&present.object, present.owner()) == (&before.object, before.owner())
                        && present.standing == before.standing
                }
                (present, before) => present == before,
            };
            refuse(!same, || format!("{key}: the step's value before {before:?} is not the present {present:?}"))?;
        }
        refuse(present.as_ref().is_some_and(|e| !e.standing.is_ours()), || format!("{key} is foreign"))?;
        match (before, after) {
            (_, Some(after)) => self.put(key, present.as_ref(), after),
            (Some(before), None) => self.take(key, before),
            (None, None) => Err(format!("{key}: an empty step")),
        }
    }

    fn put(&mut self, key: &Key, present: Option<&Entry>, after: &Entry) -> Refusal {
        match (key, &after.object) {
            (Key::Link { .. }, Object::Link(link)) => return self.put_link(key, present, link, after),
            (Key::Address { netns, link, ip, .. }, Object::Address(Address { .. })) => {
                refuse(present.is_some_and(|p| p.object == after.object), || format!("{key} exists"))?;
                refuse(self.end(netns, *link).is_none(), || format!("{key}: no such device"))?;
                let _ = ip;
            }
            (Key::Route { netns, .. }, Object::Route(Route { via: None, dev: None, kind, .. })) => {
                refuse(!self.has(netns) || kind.is_unicast(), || format!("{key}: no such namespace, or no way"))?;
            }
            (Key::Route { netns, .. }, Object::Route(Route { via, dev: Some(dev), onlink, src, .. })) => {
                let up = self.end(netns, *dev).ok_or_else(|| format!("{key}: no device {dev}"))?.1;
                refuse(!up, || format!("{key}: {dev} is down"))?;
                let is_own = |ip| {
                    self.state.iter().any(
                        |(k, _)| matches!(k, Key::Address { netns: n, ip: own, .. } if n == netns && own.ip() == ip),
                    )
                };
                refuse(!src.is_none_or(is_own), || format!("{key}: {src:?} is no address of {netns}"))?;
                let reachable = *onlink || via.is_none_or(|via| {
                    self.state.iter().any(|(k, _)| {
                        matches!(k, Key::Address { netns: n, link, ip, .. } if n == netns && link == dev && ip.contains(via))
                    })
                });
                refuse(!reachable, || format!("{key}: network of {via:?} is unreachable"))?;
            }
            (Key::Neighbour { netns, link, .. }, Object::Neighbour(_)) => {
                refuse(self.end(netns, *link).is_none(), || format!("{key}: no such device"))?;
            }
            (Key::Fdb { link, .. }, Object::Fdb(fdb)) => self.check_entry(key, *link, fdb)?,
            (Key::Qdisc { netns, link, hook }, Object::Qdisc(qdisc)) => {
                refuse(self.end(netns, *link).is_none(), || format!("{key}: no such device"))?;
                let to = match (hook, qdisc) {
                    (Hook::Root, Qdisc::Tbf { burst_us, .. }) => {
                        refuse(*burst_us > 4_294_967, || format!("{key}: a bucket of more than the kernel keeps"))?;
                        None
                    }
                    (Hook::Ingress, Qdisc::Clsact { redirect }) => *redirect,
                    _ => return Err(format!("{key}: netrec makes no {qdisc:?} there")),
                };
                let there = to.is_none_or(|to| self.end(netns, to).is_some_and(|(_, up)| up));
                refuse(!there, || format!("{key}: {to:?} is not there or down"))?;
            }
            (Key::Sysctl { netns, path }, _) => {
                if let Some(name) = path.split_once("/conf/").and_then(|(_, rest)| rest.split('/').next()) {
                    let known = name == "all" || name.parse().is_ok_and(|name| self.end(netns, name).is_some());
                    refuse(!known, || format!("{key}: no such file"))?;
                }
            }
            (Key::Netns { .. }, Object::Netns(_)) => {}
            _ => return Err(format!("{key}: {after:?} is no such thing")),
        }
        refuse(!self.has(netns_of(key)) && !matches!(key, Key::Netns { .. }), || format!("{key}: no such namespace"))?;
        let mut entry = after.clone();
        // Only marked kinds remember whose they are; the reader gives the others their link's.
        if !key.kind().is_marked() {
            entry.owners.clear();
        }
        entry.owners.truncate(1);
        if let Object::Address(address) = &mut entry.object {
            address.secondary = match present.map(|present| &present.object) {
                Some(Object::Address(present)) => present.secondary,
                _ => self.of_subnet(key).next().is_some(),
            };
            if present.is_none() {
                self.born.insert(key.clone(), self.writes);
            }
        }
        self.state.insert(key.clone(), entry);
        Ok(())
    }

    /// The IPv4 addresses of a device in the subnet of one of them.
    fn of_subnet<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Key> {
        self.state.iter().map(|(k, _)| k).filter(|k| k.ipv4_subnet().is_some() && k.ipv4_subnet() == key.ipv4_subnet())
    }

    /// The next address of a subnet takes the place of the first.
    fn promoted(&mut self, gone: &Key) {
        let next = self.of_subnet(gone).min_by_key(|key| (self.born.get(*key).copied(), *key)).cloned();
        let Some(mut entry) = next.as_ref().and_then(|key| self.get(key)).cloned() else { return };
        if let Object::Address(address) = &mut entry.object {
            address.secondary = false;
        }
        self.state.extend(next.map(|key| (key, entry)));
    }

    fn link(&self, name: InterfaceName) -> Option<&Link> {
        match &self.get(&Key::Link { netns: Netns::HOST, name })?.object {
            Object::Link(link) => Some(link),
            _ => None,
        }
    }

    fn check_entry(&self, key: &Key, link: InterfaceName, fdb: &Fdb) -> Refusal {
        let device = self.link(link).ok_or_else(|| format!("{key}: no such device"))?;
        refuse(!fdb.extra.is_empty(), || format!("{key}: netrec makes no {:?}", fdb.extra))?;
        refuse(fdb.sticky && fdb.port.is_none(), || format!("{key}: a tunnel's entries have no port to stay on"))?;
        match (&device.kind, fdb.dst, fdb.port) {
            (LinkKind::Vxlan { local, .. }, Some(dst), None) => {
                refuse(local.is_ipv4() != dst.is_ipv4(), || format!("{key}: a VTEP of the other family"))
            }
            (LinkKind::Bridge { .. }, None, Some(port)) => {
                let there = self.link(port).is_some_and(|port| port.master == Some(link));
                refuse(!there, || format!("{key}: {port} is no port of {link}"))
            }
            _ => Err(format!("{key}: {fdb:?} on {:?}", device.kind)),
        }
    }

    /// A tunnel has an id that no other has, and never gets another; of a device no two macvlans have one Ethernet address.
    fn check_claim(&self, key: &Key, present: Option<&Entry>, link: &Link) -> Refusal {
        let underlay = |link: &Link| matches!(&link.kind, LinkKind::Vxlan { underlay: Some(_), .. });
        let wanted = link.claim();
        let moves = matches!(wanted, Some(Claim::Mac { .. }));
        if let Some(Object::Link(present)) = present.map(|e| &e.object) {
            refuse(present.claim() != wanted && !moves || present.parent() != link.parent(), || {
                format!("{key}: cannot change {:?} to {wanted:?}", present.claim())
            })?;
            refuse(underlay(present) && !underlay(link), || format!("{key}: cannot take its underlay away"))?;
            if !moves {
                return Ok(());
            }
        }
        let mut others = self.state.iter().filter(|(k, _)| *k != key).filter_map(|(_, e)| match &e.object {
            Object::Link(other) => other.claim(),
            _ => None,
        });
        refuse(wanted.is_some() && others.any(|other| Some(other) == wanted), || {
            format!("{key}: somebody has {wanted:?} already")
        })
    }

    fn put_link(&mut self, key: &Key, present: Option<&Entry>, link: &Link, after: &Entry) -> Refusal {
        if let Some(master) = link.master {
            let there = matches!(
                self.get(&Key::Link { netns: Netns::HOST, name: master }).map(|e| &e.object),
                Some(Object::Link(Link { kind: LinkKind::Bridge { .. }, .. }))
            );
            refuse(!there, || format!("{key}: no bridge {master}"))?;
        }
        self.check_claim(key, present, link)?;
        match present {
            None => {
                refuse(!after.owners.is_empty(), || format!("{key}: no alias in the creating message"))?;
                refuse(link.device.up || !link.device.link_local, || {
                    format!("{key}: is born up or without link-local")
                })?;
                refuse(link.port.is_some_and(|p| p != BridgePort::default()), || {
                    format!("{key}: is born with port flags")
                })?;
                for (netns, name, up) in Self::ends(key, after) {
                    refuse(self.end(&netns, name).is_some(), || format!("{key}: {name} exists in {netns}"))?;
                    refuse(up, || format!("{key}: end {name} is born up"))?;
                    refuse(!self.has(&netns), || format!("{key}: no namespace {netns}"))?;
                }
                if let Some(parent) = link.parent() {
                    let there = self.facts.devices.contains_key(&parent) || self.link(parent).is_some();
                    refuse(!there, || format!("{key}: no device {parent}"))?;
                }
                self.state.insert(key.clone(), after.clone());
            }
            Some(present) => {
                let (old, new) = (Self::ends(key, present), Self::ends(key, after));
                refuse(old.len() != new.len(), || format!("{key}: another kind"))?;
                for ((netns, old, was_up), (new_netns, new, up)) in old.into_iter().zip(new) {
                    refuse(netns != new_netns, || format!("{key}: another namespace"))?;
                    if old != new {
                        refuse(self.end(&netns, new).is_some(), || format!("{key}: {new} exists in {netns}"))?;
                        self.renamed(&netns, old, new);
                    }
                    if was_up && !up {
                        self.went_down(&netns, new);
                    }
                }
                if let (Object::Link(before), Key::Link { netns, name }) = (&present.object, key) {
                    if (before.device.mac, before.device.no_arp) != (link.device.mac, link.device.no_arp) {
                        self.flushed(netns, *name);
                    }
                    if before.master != link.master {
                        self.unplugged(*name);
                    }
                }
                let mut entry = after.clone();
                entry.owners.truncate(1);
                self.state.insert(key.clone(), entry);
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &Key, before: &Entry) -> Refusal {
        if let (None, Object::Link(link)) = (self.get(key), &before.object)
            && let Some(parent) = link.parent()
            && !self.facts.devices.contains_key(&parent)
            && self.link(parent).is_none()
        {
            // It went along with what it was on, in the same phase.
            return Ok(());
        }
        refuse(self.get(key).is_none(), || format!("{key} does not exist"))?;
        match key {
            Key::Link { .. } => {
                for (netns, name, _) in Self::ends(key, before) {
                    self.went_away(&netns, name);
                }
                // What is on a device goes along with it.
                let on_it = |entry: &Entry| match (&entry.object, key) {
                    (Object::Link(link), Key::Link { netns, name }) => netns.is_host() && link.parent() == Some(*name),
                    _ => false,
                };
                let gone: Vec<(Key, Entry)> =
                    self.state.iter().filter(|(_, e)| on_it(e)).map(|(k, e)| (k.clone(), e.clone())).collect();
                for (key, entry) in gone {
                    self.take(&key, &entry)?;
                }
            }
            Key::Netns { netns } => {
                let inside = self.state.iter().any(|(k, e)| Self::ends(k, e).iter().any(|(n, _, _)| n == netns));
                refuse(inside, || format!("{key}: a link's end is still inside"))?;
                let netns = netns.clone();
                self.drop_where(|k, _| *netns_of(k) == netns);
            }
            // A device's last IPv4 address takes its routes and neighbours with it. That of IPv6 does not; here those by a
            // router go all the same, as nothing could put them back without the address.
            Key::Address { netns, link, ip, .. } => {
                let other = |k: &Key| {
                    matches!(k, Key::Address { netns: n, link: l, ip: other, .. }
                        if n == netns && l == link && k != key && other.is_ipv4() == ip.is_ipv4())
                };
                if !self.state.iter().any(|(k, _)| other(k)) {
                    self.drop_where(|k, e| match (k, &e.object) {
                        (Key::Route { netns: n, to, .. }, Object::Route(route)) => {
                            let goes = ip.is_ipv4() || (route.via.is_some() && !route.onlink);
                            n == netns && route.dev == Some(*link) && to.is_ipv4() == ip.is_ipv4() && goes
                        }
                        (Key::Neighbour { netns: n, link: l, ip: IpAddr::V4(_) }, _) => {
                            n == netns && l == link && ip.is_ipv4()
                        }
                        _ => false,
                    });
                }
            }
            _ => {}
        }
        let gone = self.state.remove(key);
        if let Some(Object::Address(Address { secondary: false, .. })) = gone.map(|entry| entry.object) {
            self.promoted(key);
        }
        self.sourceless_go();
        Ok(())
    }

    /// Routes from an address that is gone go; those of IPv6 lose it and stay.
    fn sourceless_go(&mut self) {
        let is_own = |netns: &Netns, ip: IpAddr| {
            self.state
                .iter()
                .any(|(k, _)| matches!(k, Key::Address { netns: n, ip: own, .. } if n == netns && own.ip() == ip))
        };
        let lost = self.state.iter().filter(
            |(k, e)| matches!(&e.object, Object::Route(Route { src: Some(src), .. }) if !is_own(k.netns(), *src)),
        );
        let lost: Vec<(Key, Entry)> = lost.map(|(k, e)| (k.clone(), e.clone())).collect();
        for (key, mut entry) in lost {
            self.state.remove(&key);
            if let (Key::Route { to, .. }, Object::Route(route)) = (&key, &mut entry.object)
                && to.is_ipv6()
            {
                route.src = None;
                self.state.insert(key, entry);
            }
        }
    }

    /// One transaction: the whole table is checked at its end.
    fn firewall(&mut self, steps: &[&Step]) -> Refusal {
        if self.races > 0 {
            self.races -= 1;
            return Err("85".into());
        }
        let mut next = self.state.clone();
        for Step { key, before, after } in steps {
            refuse(next.get(key) != before.as_ref(), || format!("{key}: {before:?} is not {:?}", next.get(key)))?;
            match after {
                Some(after) => {
                    let mut entry = after.clone();
                    entry.owners.truncate(1);
                    next.insert(key.clone(), entry);
                }
                None => drop(next.remove(key)),
            }
        }
        if next.get(&Key::Table).is_none() {
            // The table takes all with it.
            next = next.into_iter().filter(|(k, _)| !k.kind().is_firewall()).collect();
        }
        let orphans: Vec<Key> = next
            .iter()
            .filter(
                |(k, _)| matches!(k, Key::Element { set, .. } if next.get(&Key::Set { name: set.clone() }).is_none()),
            )
            .map(|(k, _)| k.clone())
            .collect();
        for key in orphans {
            refuse(steps.iter().any(|s| s.key == key && s.after.is_some()), || format!("{key}: no set"))?;
            next.remove(&key);
        }
        for (key, entry) in &next {
            check_references(&next, key, &entry.object)?;
        }
        self.state = next;
        self.clients_send();
        Ok(())
    }

    /// Every client that there could be sends a datagram: to the host's addresses, to the same ports of another machine,
    /// and to where no port is published. A flow that is tracked goes where it went before; another one goes where the
    /// port maps say.
    pub fn clients_send(&mut self) {
        let Some(mut flows) = self.flows.take() else { return };
        for ip in ["192.0.2.1", "2001:db8::1", "127.0.0.1", "198.51.100.7"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let ports = (0..3).flat_map(|ten| (0..5).map(move |c| 8000 + 10 * ten + c)).chain(9000..9005);
            for (protocol, port) in ports.flat_map(|port| [(6, port), (17, port)]) {
                let to = SocketAddr::new(ip, port);
                flows.entry((protocol, to)).or_insert_with(|| {
                    let answers = self.translated(protocol, to).into();
                    let from = match to {
                        to if to.ip().is_loopback() => to.ip(),
                        SocketAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 9).into(),
                        SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
                    };
                    Flow { protocol, from, to: to.into(), answers, answered: protocol == 6, related: false }
                });
            }
        }
        self.flows = Some(flows);
    }

    /// Where the rules send a packet.
    pub fn translated(&self, protocol: u8, to: SocketAddr) -> SocketAddr {
        if !is_local(to.ip()) {
            return to;
        }
        let (suffix, address) = match to.ip() {
            IpAddr::V4(ip) => ("4", Datum::Ipv4Addr(ip)),
            IpAddr::V6(ip) => ("6", Datum::Ipv6Addr(ip)),
        };
        let service = [Datum::InetProto(protocol), Datum::InetService(to.port())];
        let one = (format!("port{suffix}"), Concat([&[address], &service[..]].concat()));
        let any = (format!("port{suffix}-any"), Concat(service.to_vec()));
        let found = [one, any].into_iter().find_map(|(set, key)| {
            match &self.get(&Key::Element { set: set.into(), key })?.object {
                Object::Element(e) => e.data.clone(),
                _ => None,
            }
        });
        match found {
            Some(ElementData::Values(Concat(data))) => match data[..] {
                [Datum::Ipv4Addr(ip), Datum::InetService(port)] => (ip, port).into(),
                [Datum::Ipv6Addr(ip), Datum::InetService(port)] => (ip, port).into(),
                _ => panic!("{data:?}"),
            },
            _ => to,
        }
    }
}

fn check_references(table: &State, key: &Key, object: &Object) -> Refusal {
    let chain = |verdict: &Verdict| match verdict {
        Verdict::Jump(name) | Verdict::Goto(name) => {
            refuse(table.get(&Key::Chain { name: name.clone() }).is_none(), || format!("{key}: no chain {name}"))
        }
        _ => Ok(()),
    };
    let set =
        |name: &std::sync::Arc<str>, map: bool| match table.get(&Key::Set { name: name.clone() }).map(|e| &e.object) {
            Some(Object::Set(set)) => {
                refuse(set.data.is_some() != map, || format!("{key}: {name} is the wrong kind of set"))
            }
            _ => Err(format!("{key}: no set {name}")),
        };
    match object {
        Object::Element(e) => {
            let Key::Element { set: name, .. } = key else { return Err(format!("{key}: an element with another key")) };
            let of = match table.get(&Key::Set { name: name.clone() }).map(|e| &e.object) {
                Some(Object::Set(set)) => set.data.clone(),
                _ => return Err(format!("{key}: no set")),
            };
            match (&e.data, of) {
                (None, None) | (Some(ElementData::Values(_)), Some(SetData::Values(_))) => Ok(()),
                (Some(ElementData::Verdict(v)), Some(SetData::Verdict)) => chain(v),
                _ => Err(format!("{key}: the wrong data for its set")),
            }
        }
        Object::Chain(c) => c.rules.iter().flat_map(|r| &r.0).try_for_each(|expr| match expr {
            Expr::Verdict(v) => chain(v),
            Expr::InSet { set: name, .. } => set(name, false),
            Expr::Vmap { map, .. } | Expr::DnatMap { map, .. } => set(map, true),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

fn netns_of(key: &Key) -> &Netns {
    match key {
        Key::Netns { netns } => netns,
        key => key.netns(),
    }
}

impl Backend for Fake {
    fn facts(&mut self, _: &Asked) -> Result<Facts, ReadError> {
        Ok(self.facts.clone())
    }

    fn live(&mut self, scope: &Scope) -> Result<State, ReadError> {
        let owner_of = |netns: &Netns, name: InterfaceName| -> Vec<Owner> {
            let link = self.end(netns, name).and_then(|(key, _)| self.get(&key));
            link.map(|e| e.owners.clone()).unwrap_or_default()
        };
        Ok(self
            .state
            .iter()
            .filter(|(key, _)| match key {
                Key::Sysctl { netns, path } => scope.sysctls.get(netns).is_some_and(|paths| paths.contains(path)),
                _ => true,
            })
            .map(|(key, entry)| {
                let mut entry = entry.clone();
                match (key, &entry.object) {
                    (
                        Key::Address { netns, link, .. }
                        | Key::Neighbour { netns, link, .. }
                        | Key::Fdb { netns, link, .. }
                        | Key::Qdisc { netns, link, .. },
                        _,
                    ) => entry.owners = owner_of(netns, *link),
                    (Key::Route { netns, .. }, Object::Route(Route { dev: Some(dev), .. })) => {
                        entry.owners = owner_of(netns, *dev);
                    }
                    _ => {}
                }
                (key.clone(), entry)
            })
            .collect())
    }

    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut results = Vec::new();
        let firewall: Vec<&Step> = steps.iter().filter(|s| s.key.kind().is_firewall()).collect();
        let transaction = if firewall.is_empty() {
            Ok(())
        } else {
            self.writes += 1;
            if self.fails() { Err("injected".to_owned()) } else { self.firewall(&firewall) }
        };
        for step in steps {
            let result = if step.key.kind().is_firewall() {
                transaction.clone()
            } else {
                self.writes += 1;
                if self.fails() { Err("injected".to_owned()) } else { self.step(step) }
            };
            results.push(result.map_err(|message| StepError { errno: message.parse().unwrap_or(1), message }));
        }
        results
    }

    fn forget(&mut self, stale: Stale<'_>) -> Result<u64, StepError> {
        self.asked += 1;
        self.writes += 1;
        if self.fails() {
            return Err(StepError { errno: 1, message: "injected".into() });
        }
        let Some(flows) = &mut self.flows else { return Ok(0) };
        let before = flows.len();
        flows.retain(|_, flow| !stale(flow, &is_local));
        Ok((before - flows.len()) as u64)
    }

    fn writes(&self) -> u64 {
        self.writes
    }
}

impl Fake {
    fn fails(&self) -> bool {
        self.fail.is_some_and(|(first, count)| self.writes >= first && self.writes < first + count)
    }

    /// Somebody removes an object.
    pub fn remove_by_hand(&mut self, key: &Key) {
        match self.state.get(key).cloned() {
            Some(_) if *key == Key::Table => self.drop_where(|k, _| k.kind().is_firewall()),
            Some(_) if key.kind().is_firewall() => {
                self.state.remove(key);
                let (Key::Set { name } | Key::Chain { name }) = key else { return };
                // What refers to it has to go with it.
                let users: Vec<Key> = self
                    .state
                    .iter()
                    .filter(|(k, e)| matches!(k, Key::Element { set, .. } if set == name) || mentions(&e.object, name))
                    .map(|(k, _)| k.clone())
                    .collect();
                for user in users {
                    self.remove_by_hand(&user);
                }
            }
            Some(entry) => {
                if matches!(key, Key::Netns { .. }) {
                    let inside: Vec<Key> = self
                        .state
                        .iter()
                        .filter(|(k, e)| Self::ends(k, e).iter().any(|(n, _, _)| n == netns_of(key)))
                        .map(|(k, _)| k.clone())
                        .collect();
                    for link in inside {
                        self.remove_by_hand(&link);
                    }
                }
                let _ = self.take(key, &entry);
            }
            None => {}
        }
    }

    /// Somebody changes an object, as far as the kernel lets them.
    pub fn change_by_hand(&mut self, key: &Key, before: Option<&Entry>, after: &Entry) {
        let step = Step::new(key.clone(), before.cloned(), Some(after.clone()));
        let _ = if key.kind().is_firewall() { self.firewall(&[&step]) } else { self.step(&step) };
    }

    /// A foreign object of this key.
    #[allow(dead_code)] // not in every test
    pub fn foreign(&mut self, key: Key, object: Object, why: &str) {
        self.state.insert(key, Entry { object, owners: Vec::new(), standing: Standing::Foreign(why.into()) });
    }
}

/// Whether an object refers to a set or chain of this name.
fn mentions(object: &Object, name: &str) -> bool {
    match object {
        Object::Element(e) => {
            matches!(&e.data, Some(ElementData::Verdict(Verdict::Jump(n) | Verdict::Goto(n))) if **n == *name)
        }
        Object::Chain(c) => c.rules.iter().flat_map(|r| &r.0).any(|expr| match expr {
            Expr::Verdict(Verdict::Jump(n) | Verdict::Goto(n)) => **n == *name,
            Expr::InSet { set, .. } => **set == *name,
            Expr::Vmap { map, .. } | Expr::DnatMap { map, .. } => **map == *name,
            _ => false,
        }),
        _ => false,
    }
}
