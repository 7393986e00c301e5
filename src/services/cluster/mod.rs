//! Membership of a cluster by etcd, in flannel's format: who is a member, and how this host becomes one.

mod choose;
mod etcd;
mod flannel;
mod follow;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrIn;

use self::choose::{Choice, How, Local, Own, choose, peers};
use self::etcd::{Current, Etcd, Fault, Listing, Unless};
use self::flannel::{Entry, Pools};
pub use self::follow::{Follower, Turn, View};
use crate::state::{Cluster, Member, Membership, Note};

/// How long a lease lives that nobody renews, in seconds: as long as flannel's.
const LIFETIME: i64 = 24 * 60 * 60;
/// How long a host tries to get a piece while others get theirs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pauses between, which grow.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Who is a member could not be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody could tell: what was known before may still be true.
    Unknown(String),
    /// It is known that this host can be none.
    None(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Unknown(fault.text())
    }
}

/// What a host remembers of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The piece that it held last, by all that it knows.
    pub held: Option<Member>,
    /// Pieces that it had before, as files tell.
    pub before: Vec<Vec<IpNetwork>>,
}

/// Asks who is a member, and which piece this host would take. Changes nothing.
pub fn look(cluster: &Cluster, memory: &Memory) -> Result<Membership, Trouble> {
    let etcd = Etcd::new(cluster, Current::default()).map_err(Trouble::Unknown)?;
    let own = own(cluster, memory)?;
    let listing = etcd.list(&below(cluster))?;
    let seen = Seen::of(cluster, listing, own.local.clone())?;
    let choice = choose(cluster, seen.pools, &seen.entries, &own).map_err(Trouble::None)?;
    let held = choice.how != How::New;
    let lost = seen.loss(cluster, memory, &choice, "is gone: nobody else has it, and apply leases it again");
    let mut found = seen.membership(cluster, choice.member, held);
    found.notes.extend(lost);
    if seen.unwritten {
        let text = format!("`{}` is not in etcd yet: apply writes it, by what the file says", cluster.config_key());
        found.notes.insert(Note::Unconfigured(text));
    }
    Ok(found)
}

/// Becomes a member, if this host is none yet, and asks who the others are.
pub fn join(cluster: &Cluster, memory: &Memory) -> Result<Membership, Trouble> {
    let etcd = Etcd::new(cluster, Current::default()).map_err(Trouble::Unknown)?;
    let joined = Joined::new(&etcd, cluster, memory, &|| true)?;
    Ok(joined.membership(cluster))
}

/// The only member of a cluster that nobody knows of yet. Asks nobody.
///
/// # Errors
/// Why there is no piece for it.
pub fn alone(cluster: &Cluster) -> Result<Membership, String> {
    let known = |ipv6: bool| cluster.public.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
    let v4 = known(false).unwrap_or(IpAddr::from([192, 0, 2, 1]));
    let v6 = known(true).unwrap_or(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
    let addresses = std::iter::once(v4).chain(cluster.has_family(true).then_some(v6)).collect();
    let pools = flannel::read_configuration(flannel::configuration(cluster).as_bytes(), cluster)?;
    let choice = choose(cluster, pools, &[], &Own { addresses, ..Own::default() })?;
    Ok(Membership { own: choice.member, held: true, peers: Vec::new(), away: None, notes: BTreeSet::new() })
}

/// The key below which everything of a cluster is.
fn below(cluster: &Cluster) -> String {
    format!("{}/", cluster.prefix)
}

/// What etcd held at one revision.
struct Seen {
    revision: i64,
    pools: Pools,
    /// Those of members.
    entries: Vec<Entry>,
    /// Whether nobody has written yet what all agree on.
    unwritten: bool,
    /// Where no peer is.
    local: Local,
}

impl Seen {
    fn of(cluster: &Cluster, listing: Listing, local: Local) -> Result<Self, Trouble> {
        let (config_key, subnets_key) = (cluster.config_key(), cluster.subnets_key());
        let config = listing.entries.iter().find(|entry| entry.key == config_key.as_bytes());
        let unwritten = config.is_none();
        let own = flannel::configuration(cluster);
        let config = config.map_or(own.as_bytes(), |entry| &entry.value);
        let pools = flannel::read_configuration(config, cluster).map_err(Trouble::Unknown)?;
        let entries = listing.entries.into_iter().filter(|entry| entry.key.starts_with(subnets_key.as_bytes()));
        Ok(Self { revision: listing.revision, pools, entries: entries.collect(), unwritten, local })
    }

    fn membership(&self, cluster: &Cluster, own: Member, held: bool) -> Membership {
        let (peers, notes) = peers(cluster, self.pools, &self.entries, &own, &self.local);
        Membership { own, held, peers, away: None, notes }
    }

    /// The word of a piece that this host had, and has lost: somebody else has it now, or nobody, and then `again` says what
    /// becomes of its lease. What the file itself gives up is not lost.
    fn loss(&self, cluster: &Cluster, memory: &Memory, choice: &Choice, again: &str) -> Option<Note> {
        let pieces = &memory.held.as_ref()?.pieces;
        let piece = pieces.first()?;
        if *pieces == choice.member.pieces {
            let text = || format!("{piece} was this host's, and its lease {again}");
            return (choice.how == How::New).then(|| Note::Lost(text()));
        }
        if !cluster.pieces.iter().all(|fixed| pieces.contains(fixed)) {
            return None;
        }
        let is_there = |entry: &&Entry| flannel::read_key(&entry.key, cluster).is_ok_and(|all| all.contains(piece));
        let now = match self.entries.iter().find(is_there) {
            None => "is not any more".to_owned(),
            Some(entry) => match flannel::whose(&entry.value) {
                Some(ip) => format!("is leased to {ip} now"),
                None => "is somebody else's now".to_owned(),
            },
        };
        let instead: Vec<String> = choice.member.pieces.iter().map(ToString::to_string).collect();
        Some(Note::Lost(format!("{piece} was this host's, and {now}: {} is its piece instead", instead.join(" "))))
    }
}

/// A member's view.
struct Joined {
    seen: Seen,
    /// This host's entry.
    entry: Entry,
    own: Member,
    /// How long its lease lives when nobody renews it; none for an entry without a lease.
    lifetime: Option<Duration>,
    /// The word of what it had lost.
    lost: Option<Note>,
}

impl Joined {
    /// Becomes one, or stays one, for as long as that is `wanted`.
    fn new(etcd: &Etcd, cluster: &Cluster, memory: &Memory, wanted: &dyn Fn() -> bool) -> Result<Self, Trouble> {
        let own = own(cluster, memory)?;
        let begun = Instant::now();
        let (mut pause, longest) = PAUSES;
        loop {
            let seen = Seen::of(cluster, etcd.list(&below(cluster))?, own.local.clone())?;
            if !wanted() {
                return Err(Trouble::Unknown("it is not wanted any more".to_owned()));
            }
            if seen.unwritten {
                let config = flannel::configuration(cluster);
                etcd.put(cluster.config_key().as_bytes(), &config, 0, &Unless::Absent)?;
                continue;
            }
            let choice = choose(cluster, seen.pools, &seen.entries, &own).map_err(Trouble::None)?;
            let lost = seen.loss(cluster, memory, &choice, "was gone: nobody else has it, and it is leased again");
            if let Some(joined) = take(etcd, cluster, seen, choice)? {
                return Ok(Self { lost, ..joined });
            }
            if begun.elapsed() > PATIENCE {
                let seconds = PATIENCE.as_secs();
                return Err(Trouble::Unknown(format!(
                    "etcd changes too fast to get a piece from it within {seconds} s"
                )));
            }
            // Others get theirs at the same moment.
            thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    /// Who is a member, with what has changed for this host.
    fn membership(&self, cluster: &Cluster) -> Membership {
        let mut found = self.seen.membership(cluster, self.own.clone(), true);
        found.notes.extend(self.lost.clone());
        found
    }
}

/// Makes a choice true. None where something has changed meanwhile, so that the choice is another one.
fn take(etcd: &Etcd, cluster: &Cluster, mut seen: Seen, choice: Choice) -> Result<Option<Joined>, Trouble> {
    let value = flannel::value(&choice.member, cluster.network.backend);
    let (entry, lifetime) = match choice.how {
        How::Held(entry) | How::Rewritten(entry) if entry.lease != 0 && etcd.keep_alive(entry.lease)?.is_none() => {
            // It runs out at this moment, or has been taken away. Nothing of it is to be seen in a moment.
            drop(entry);
            return Ok(None);
        }
        How::Held(entry) => {
            let lifetime = lifetime(etcd, &entry)?;
            (entry, lifetime)
        }
        How::Rewritten(entry) => {
            let Some(revision) = etcd.put(&entry.key, &value, entry.lease, &Unless::Written(entry.modified))? else {
                return Ok(None);
            };
            let lifetime = lifetime(etcd, &entry)?;
            (Entry { value: value.into_bytes(), modified: revision, ..entry }, lifetime)
        }
        How::New => {
            let key = flannel::key(cluster, &choice.member.pieces);
            let lease = etcd.grant(LIFETIME)?;
            let unless = Unless::New(cluster.subnets_key().into_bytes(), seen.revision);
            let written = etcd.put(&key, &value, lease, &unless);
            let Ok(Some(revision)) = written else {
                etcd.revoke(lease);
                return written.map(|_| None).map_err(Trouble::from);
            };
            let entry = Entry { key, value: value.into_bytes(), created: revision, modified: revision, lease };
            (entry, Some(Duration::from_secs(LIFETIME.unsigned_abs())))
        }
    };
    // Reservations stay where they are.
    for old in choice.given_up.iter().filter(|old| old.lease != 0) {
        if etcd.delete(&old.key, old.modified)?.is_some() {
            seen.entries.retain(|entry| entry.key != old.key);
        }
    }
    seen.entries.retain(|other| other.key != entry.key);
    seen.entries.push(entry.clone());
    Ok(Some(Joined { seen, entry, own: choice.member, lifetime, lost: None }))
}

/// How long an entry lives from now on, renewed.
fn lifetime(etcd: &Etcd, entry: &Entry) -> Result<Option<Duration>, Fault> {
    if entry.lease == 0 {
        return Ok(None);
    }
    let seconds = etcd.keep_alive(entry.lease)?.unwrap_or(1);
    Ok(Some(Duration::from_secs(seconds.unsigned_abs())))
}

/// What this host brings along.
fn own(cluster: &Cluster, memory: &Memory) -> Result<Own, Trouble> {
    let held = memory.held.iter().map(|held| held.pieces.clone());
    Ok(Own {
        addresses: addresses(cluster)?,
        before: held.chain(memory.before.iter().cloned()).collect(),
        was: memory.held.clone(),
        local: local(),
    })
}

/// Where this host's peers reach it.
fn addresses(cluster: &Cluster) -> Result<Vec<IpAddr>, Trouble> {
    let mut addresses = Vec::new();
    for ipv6 in [false, true].into_iter().filter(|ipv6| cluster.has_family(*ipv6)) {
        let given = cluster.public.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
        let address = given.or_else(|| by_route(cluster, ipv6)).ok_or_else(|| {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            Trouble::None(format!(
                "there is no route that tells by which {family} address the other hosts reach this one: say it with \
                 `public_address` in [cluster]"
            ))
        })?;
        addresses.push(address);
    }
    Ok(addresses)
}

/// The addresses of this host's links that are no peer's; none where they cannot be read.
fn local() -> Local {
    let mut local = Local::default();
    for InterfaceAddress { address, netmask, .. } in getifaddrs().into_iter().flatten() {
        let Some(address) = address else { continue };
        if let Some(v6) = address.as_sockaddr_in6() {
            local.own.insert(v6.ip().into());
        }
        let Some(v4) = address.as_sockaddr_in().map(SockaddrIn::ip) else { continue };
        local.own.insert(v4.into());
        let mask = netmask.as_ref().and_then(|mask| mask.as_sockaddr_in()).map_or(u32::MAX, |mask| mask.ip().to_bits());
        // Those of two addresses, or one, have none for all (RFC 3021).
        if mask.leading_ones() < 31 {
            local
                .whole
                .extend([v4.to_bits() & mask, v4.to_bits() | !mask].map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
        }
    }
    local
}

/// The address by which this host goes out: by its default route, else to etcd.
fn by_route(cluster: &Cluster, ipv6: bool) -> Option<IpAddr> {
    // Nothing is sent: to connect is to look up the route. The addresses are for documentation (RFC 5737, RFC 3849).
    let world: SocketAddr =
        if ipv6 { ([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1], 9).into() } else { ([203, 0, 113, 1], 9).into() };
    let to = |address: SocketAddr| {
        let any: SocketAddr = if ipv6 { ([0; 8], 0).into() } else { ([0; 4], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(address).ok()?;
        let own = socket.local_addr().ok()?.ip();
        let is_link_local = matches!(own, IpAddr::V6(ip) if ip.is_unicast_link_local());
        (!own.is_loopback() && !own.is_unspecified() && !is_link_local).then_some(own)
    };
    let endpoints = cluster.etcd.iter().filter_map(|url| url.split_once("://")?.1.to_socket_addrs().ok()).flatten();
    to(world).or_else(|| endpoints.filter(|address| address.is_ipv6() == ipv6).find_map(to))
}
