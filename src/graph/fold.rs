//! Many networks or containers in one picture: those that are alike share a box.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::{Audience, Container, Door, Link, Network, Picture};

/// So many have a box each, whatever they are.
const SINGLE: usize = 24;
/// Fewer than these are not worth a box of their own.
const ALIKE: usize = 3;

/// The picture with networks that are alike as one, and then with containers that are: of the same host, on the same networks,
/// and with ports for the same ones. A picture of few stays as it is.
pub(super) fn folded(picture: &Picture) -> Picture {
    let mut folded = picture.clone();
    if picture.networks.len() > SINGLE {
        networks(&mut folded);
    }
    if picture.containers.len() > SINGLE {
        let groups = alike(&folded.containers, container_likeness);
        folded.containers = groups
            .into_iter()
            .flat_map(|group| match &group[..] {
                [first, _, _, ..] => vec![one_container(first, &group)],
                few => few.iter().map(|container| (*container).clone()).collect(),
            })
            .collect();
    }
    folded
}

/// Those that are alike together, in the order of the first of each; fewer than are worth it each alone.
fn alike<'a, T>(all: &'a [T], likeness: impl Fn(&T) -> String) -> Vec<Vec<&'a T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for one in all {
        let place = *known.entry(likeness(one)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    let worth = |group: Vec<&'a T>| {
        if group.len() < ALIKE { group.into_iter().map(|one| vec![one]).collect() } else { vec![group] }
    };
    groups.into_iter().flat_map(worth).collect()
}

fn text(what: impl Debug) -> String {
    format!("{what:?}")
}

fn networks(picture: &mut Picture) {
    let numbered: Vec<(usize, &Network)> = picture.networks.iter().enumerate().collect();
    let likeness = |(_, network): &(usize, &Network)| {
        let Network { host, out, pinged, trusted, apart, host_inside, ruled, .. } = network;
        let families = [false, true].map(|ipv6| network.subnets.iter().any(|subnet| subnet.is_ipv6() == ipv6));
        text((host, out, pinged, trusted, apart, host_inside, ruled, families))
    };
    let mut place: Vec<usize> = vec![0; numbered.len()];
    let mut networks = Vec::new();
    for group in alike(&numbered, likeness) {
        for (old, _) in &group {
            place[*old] = networks.len();
        }
        networks.extend(one_network(&group));
    }
    picture.networks = networks;
    for container in &mut picture.containers {
        let mut links: Vec<Link> = Vec::new();
        for link in std::mem::take(&mut container.links) {
            let network = place.get(link.network).copied().unwrap_or_default();
            match links.iter_mut().find(|first| first.network == network) {
                Some(first) => {
                    first.addresses.extend(link.addresses);
                    first.way_out |= link.way_out;
                }
                None => links.push(Link { network, ..link }),
            }
        }
        container.links = links;
    }
}

fn one_network(group: &[&(usize, &Network)]) -> Option<Network> {
    let (_, first) = group.first()?;
    if group.len() == 1 {
        return Some((*first).clone());
    }
    let all = || group.iter().map(|(_, network)| network);
    Some(Network {
        names: all().flat_map(|network| network.names.clone()).collect(),
        device: "each closed to the others".to_owned(),
        subnets: all().flat_map(|network| network.subnets.clone()).collect(),
        ..(*first).clone()
    })
}

/// What containers that are alike have in common.
fn container_likeness(container: &Container) -> String {
    let links: Vec<(usize, bool)> = container.links.iter().map(|link| (link.network, link.way_out)).collect();
    let doors: Vec<&Audience> = container.doors.iter().map(|door| &door.audience).collect();
    let own = container.links.is_empty().then_some(&container.note);
    text((container.host, links, doors, own))
}

fn one_container(first: &Container, group: &[&Container]) -> Container {
    let links = first.links.iter().map(|link| Link { interface: None, addresses: Vec::new(), ..link.clone() });
    let doors = first.doors.iter().enumerate().map(|(place, door)| Door {
        audience: door.audience.clone(),
        ports: group.iter().filter_map(|container| container.doors.get(place)).flat_map(|d| d.ports.clone()).collect(),
    });
    Container {
        names: group.iter().flat_map(|container| container.names.clone()).collect(),
        host: first.host,
        note: first.note.clone().filter(|_| group.iter().all(|container| container.note == first.note)),
        links: links.collect(),
        doors: doors.collect(),
    }
}
