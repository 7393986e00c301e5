//! Which piece of a network is a host's, and who its peers are: functions of what etcd holds, and of nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::flannel::{self, Entry, Pool, Pools, number, shortened};
use crate::state::{Cluster, ClusterBackend, Mac, Member, Note, hash};

/// How a host comes to its piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It has it: its entry is as it should be.
    Held(Entry),
    /// It has it, but the entry says something else of it: it is written again where nobody else has done so.
    Rewritten(Entry),
    /// Nobody has it: it is written where nobody has written one meanwhile.
    New,
}

/// A host's piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) member: Member,
    pub(super) how: How,
    /// Other entries of the host's, of pieces that it has given up.
    pub(super) given_up: Vec<Entry>,
}

/// What a host brings along.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// Where its peers reach it.
    pub(super) addresses: Vec<IpAddr>,
    /// Pieces that it has had before, the last first.
    pub(super) before: Vec<Vec<IpNetwork>>,
    /// The member that it was last.
    pub(super) was: Option<Member>,
    /// The addresses of its links that are no peer's.
    pub(super) local: Local,
}

/// Addresses of a host's links where no peer of its can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    /// All of its own.
    pub(super) own: BTreeSet<IpAddr>,
    /// Those of networks as a whole, and of all who are on one.
    pub(super) whole: BTreeSet<IpAddr>,
}

impl Local {
    /// Why an address is no peer's: a few words.
    fn why_not(&self, ip: IpAddr) -> Option<String> {
        if self.own.contains(&ip) {
            Some(format!("its address {ip} is one of this host's own"))
        } else if self.whole.contains(&ip) {
            Some(format!("its address {ip} is that of a whole network"))
        } else {
            None
        }
    }
}

impl Own {
    /// What tells it from all others.
    fn id(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })
    }
}

/// Chooses a host's piece: the one that it has; else one that it had before, if nobody has it now; else by its address, so that
/// the same host comes to the same one, the first that is free.
///
/// # Errors
/// Why there is none for it: a sentence.
pub(super) fn choose(cluster: &Cluster, pools: Pools, entries: &[Entry], own: &Own) -> Result<Choice, String> {
    let id = own.id();
    let (mut mine, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let Ok(pieces) = flannel::read_key(&entry.key, cluster) else { continue };
        let whose = flannel::whose(&entry.value);
        if whose.is_some() && whose == id {
            mine.push((pieces, entry));
        } else {
            // What is larger than the network, or elsewhere, takes nothing of it.
            let inside: Vec<IpNetwork> = pieces.into_iter().filter(|piece| is_inside(cluster, *piece)).collect();
            others.push((inside, whose, entry));
        }
    }
    // A host whose address is another one now is known by what it wrote.
    if let Some(was) = own.was.as_ref().filter(|_| mine.is_empty()) {
        let is_own = |(pieces, _, entry): &(Vec<IpNetwork>, _, &Entry)| {
            *pieces == was.pieces && flannel::read_value(&entry.value, pieces, &cluster.network).as_ref() == Ok(was)
        };
        if let Some(index) = others.iter().position(is_own) {
            let (pieces, _, entry) = others.remove(index);
            mine.push((pieces, entry));
        }
    }
    let fits = |pieces: &[IpNetwork]| {
        let each = pools.iter().zip([false, true]).all(|(pool, ipv6)| {
            match (pool, pieces.iter().find(|piece| piece.is_ipv6() == ipv6)) {
                (Some(pool), Some(piece)) => pool.has(*piece),
                (pool, piece) => pool.is_none() && piece.is_none(),
            }
        });
        each && cluster.pieces.iter().all(|fixed| pieces.contains(fixed))
    };
    let is_others =
        |piece: &IpNetwork| others.iter().find(|(pieces, ..)| pieces.iter().any(|other| meet(*piece, *other)));
    // A piece that two have, by keys that differ in the other family, is that of the older entry.
    let lost = |own: &Entry, pieces: &[IpNetwork]| {
        let older = others.iter().filter(|(.., other)| other.created < own.created);
        older.flat_map(|(pieces, ..)| pieces).any(|piece| pieces.contains(piece))
    };
    // Of several the last that was written.
    mine.sort_by_key(|(_, entry)| entry.modified);
    let held = mine.iter().rposition(|(pieces, entry)| fits(pieces) && !lost(entry, pieces));
    if let Some(index) = held {
        let (pieces, entry) = mine.remove(index);
        let member = member(cluster, own, pieces);
        let said = flannel::read_value(&entry.value, &member.pieces, &cluster.network);
        let how = if said.as_ref() == Ok(&member) { How::Held(entry.clone()) } else { How::Rewritten(entry.clone()) };
        return Ok(Choice { member, how, given_up: mine.into_iter().map(|(_, entry)| entry.clone()).collect() });
    }
    // Somebody else may have the address that it had.
    let given_up = mine.iter().map(|(_, entry)| *entry).filter(|entry| flannel::whose(&entry.value) == id);
    let given_up = given_up.cloned().collect();
    // One's own that do not fit are still there until they are taken away.
    let taken: Vec<IpNetwork> = others
        .iter()
        .map(|(pieces, ..)| pieces)
        .chain(mine.iter().map(|(pieces, _)| pieces))
        .flatten()
        .copied()
        .collect();
    let before =
        own.before.iter().find(|pieces| fits(pieces) && !pieces.iter().any(|p| taken.iter().any(|t| meet(*p, *t))));
    let mut pieces = Vec::new();
    for pool in pools.into_iter().flatten() {
        let fixed = cluster.pieces.iter().copied().find(|piece| piece.is_ipv6() == pool.ipv6);
        let known = before.and_then(|pieces| pieces.iter().copied().find(|piece| piece.is_ipv6() == pool.ipv6));
        pieces.push(match (fixed, known) {
            (Some(fixed), _) => {
                if !pool.has(fixed) {
                    return Err(format!("`subnet = \"{fixed}\"` is none of the pieces that the configuration in etcd has"));
                }
                if let Some((_, whose, _)) = is_others(&fixed) {
                    let whose = whose.map_or_else(|| "somebody".to_owned(), |ip| ip.to_string());
                    return Err(format!(
                        "`subnet = \"{fixed}\"` is leased to {whose}: wait until it is free, or leave `subnet` out to have \
                         another piece leased"
                    ));
                }
                fixed
            }
            (None, Some(known)) => known,
            (None, None) => free(pool, &taken, id).ok_or_else(|| {
                format!("all {} pieces of network `{}` are leased: none is left for this host", pool.count(), cluster.network.name)
            })?,
        });
    }
    Ok(Choice { member: member(cluster, own, pieces), how: How::New, given_up })
}

/// The host as a member with these pieces.
fn member(cluster: &Cluster, own: &Own, pieces: Vec<IpNetwork>) -> Member {
    let mut macs = [None; 2];
    if let (ClusterBackend::Vxlan { .. }, Some(id)) = (cluster.network.backend, own.id()) {
        // The same after every boot, so that what peers know of it stays true.
        for (piece, end) in pieces.iter().zip(["", "@ipv6"]) {
            let text = format!("{id}/{}{end}", cluster.network.name);
            macs[usize::from(piece.is_ipv6())] = Some(Mac::hashed(&text));
        }
    }
    Member { addresses: own.addresses.clone(), pieces, macs }
}

/// The first piece that is free, from the one that the host's address leads to on, wrapping around.
fn free(pool: Pool, taken: &[IpNetwork], id: Option<Ipv4Addr>) -> Option<IpNetwork> {
    let id = id.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let start = pool.first + u128::from(hash(&id.to_string())) % pool.count() * pool.step();
    let mut ranges: Vec<(u128, u128)> = taken
        .iter()
        .filter(|net| net.is_ipv6() == pool.ipv6)
        .map(|net| (number(net.network()), number(net.broadcast())))
        .collect();
    ranges.sort_unstable();
    // Each step is over a range, of which there are as many as entries.
    let upwards = |from: u128, to: u128| {
        let mut at = from;
        for (first, last) in &ranges {
            if *last < at {
                continue;
            }
            if *first > at + (pool.step() - 1) {
                break;
            }
            let over = last.checked_add(1)?;
            at = pool.first + (over.checked_sub(pool.first)?).div_ceil(pool.step()) * pool.step();
        }
        (at <= to).then(|| pool.piece(at)).flatten()
    };
    upwards(start, pool.last).or_else(|| upwards(pool.first, pool.last))
}

/// Whether a piece is within the network.
fn is_inside(cluster: &Cluster, piece: IpNetwork) -> bool {
    let subnet = cluster.network.subnets[usize::from(piece.is_ipv6())];
    subnet.is_some_and(|subnet| subnet.contains(piece.network()) && subnet.prefix() <= piece.prefix())
}

/// Whether two pieces share an address.
fn meet(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv6() == b.is_ipv6() && (a.contains(b.network()) || b.contains(a.network()))
}

/// A host's peers, in the order of their addresses, and what is said of entries that are no peers'.
///
/// Two that contradict each other are settled as by all others: of one address the entry that was written last counts, of one
/// piece or one Ethernet address the one that has been there longest.
pub(super) fn peers(
    cluster: &Cluster,
    pools: Pools,
    entries: &[Entry],
    own: &Member,
    local: &Local,
) -> (Vec<Member>, BTreeSet<Note>) {
    let mut notes = BTreeSet::new();
    let mut ignored = |entry: &Entry, why: &str| {
        let key = shortened(&String::from_utf8_lossy(&entry.key));
        notes.insert(Note::Ignored(format!("the entry `{key}` in etcd is not used: {why}")));
    };
    let mut last: BTreeMap<IpAddr, (Member, &Entry)> = BTreeMap::new();
    let mut by_age: Vec<&Entry> = entries.iter().collect();
    by_age.sort_by_key(|entry| entry.modified);
    for entry in by_age {
        let read = flannel::read_key(&entry.key, cluster)
            .and_then(|pieces| flannel::read_value(&entry.value, &pieces, &cluster.network));
        let member = match read {
            Ok(member) => member,
            Err(why) => {
                ignored(entry, &why);
                continue;
            }
        };
        let Some(id) = member.address(false) else { continue };
        // One's own, or what is left of it.
        if own.addresses.contains(&id) {
            continue;
        }
        if let Some(why) = member.addresses.iter().find_map(|ip| local.why_not(*ip)) {
            ignored(entry, &why);
            continue;
        }
        let misfit =
            member.pieces.iter().find(|piece| !pools[usize::from(piece.is_ipv6())].is_some_and(|p| p.has(**piece)));
        if let Some(piece) = misfit {
            ignored(entry, &format!("{piece} is no piece of network `{}`", cluster.network.name));
        } else if let Some((_, other)) = last.insert(id, (member, entry)) {
            ignored(other, &format!("{id} has another one that is newer"));
        }
    }
    let mut by_age: Vec<(Member, &Entry)> = last.into_values().collect();
    by_age.sort_by_key(|(_, entry)| entry.created);
    let mut pieces: BTreeMap<(bool, u128), String> = BTreeMap::new();
    let mut macs: HashMap<(bool, Mac), String> = HashMap::new();
    let mut addresses: HashMap<IpAddr, String> = HashMap::new();
    let claims = |member: &Member| {
        let pieces: Vec<_> = member.pieces.iter().map(|piece| (piece.is_ipv6(), number(piece.network()))).collect();
        let macs: Vec<_> =
            [false, true].into_iter().filter_map(|v6| Some((v6, member.macs[usize::from(v6)]?))).collect();
        (pieces, macs)
    };
    let (own_pieces, own_macs) = claims(own);
    pieces.extend(own_pieces.into_iter().map(|piece| (piece, "this host".to_owned())));
    macs.extend(own_macs.into_iter().map(|mac| (mac, "this host".to_owned())));
    addresses.extend(own.addresses.iter().map(|ip| (*ip, "this host".to_owned())));
    let mut peers = Vec::new();
    for (member, entry) in by_age {
        let (own_pieces, own_macs) = claims(&member);
        let first = |claim: &str, whose: &String| format!("{claim} is that of {whose}");
        let clash = own_pieces
            .iter()
            .find_map(|piece| pieces.get(piece).map(|whose| first("its piece", whose)))
            .or_else(|| own_macs.iter().find_map(|mac| macs.get(mac).map(|whose| first("its `VtepMAC`", whose))))
            .or_else(|| {
                member.addresses.iter().find_map(|ip| addresses.get(ip).map(|whose| first("its address", whose)))
            });
        if let Some(why) = clash {
            ignored(entry, &why);
            continue;
        }
        let Some(id) = member.address(false) else { continue };
        pieces.extend(own_pieces.into_iter().map(|piece| (piece, id.to_string())));
        macs.extend(own_macs.into_iter().map(|mac| (mac, id.to_string())));
        addresses.extend(member.addresses.iter().map(|ip| (*ip, id.to_string())));
        peers.push(member);
    }
    peers.sort_by_key(|member| member.address(false));
    (peers, notes)
}

#[cfg(test)]
mod tests;
