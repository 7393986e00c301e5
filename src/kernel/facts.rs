//! What a desired state depends on, read from the host's namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::libc;
use nix::sys::utsname::uname;

use super::ReadError;
use super::live::{dump_error, read_error};
use super::netlink::link::{self, RawKind, RawLink};
use super::netlink::route::{self, RTPROT_RA, RawRoute};
use super::netlink::{address, address::RawAddress};
use super::netns::{self, Handle, Namespaces};
use super::sysctl::Proc;
use crate::state::facts::{
    Asked, BRIDGE_NF_IPV4, BRIDGE_NF_IPV6, HostAddress, HostDevice, HostRoute, IPV4_FORWARDING, IPV6_FORWARDING,
    Uplink, Way,
};
use crate::state::{Device, Facts, InterfaceName, Netns, OTHER_KIND, PROTOCOL, RT_TABLE_MAIN, State, Surroundings};

/// The device and inode number of a container's namespace.
fn identity(namespaces: &Namespaces, netns: &Netns) -> Result<Option<(u64, u64)>, String> {
    let opened = Handle::open(&netns::path(netns)).map_err(|error| format!("cannot be opened: {error}"))?;
    let Some(handle) = opened else { return Ok(None) };
    // For want of rights it cannot be found out, nor can anything be done.
    match namespaces.visit(&handle, || ()) {
        Err(Errno::EINVAL) => Err(format!("cannot be used: {OTHER_KIND}")),
        _ => Ok(Some(handle.id)),
    }
}

/// Reads the facts.
pub(super) fn read(namespaces: &mut Namespaces, asked: &Asked) -> Result<Facts, ReadError> {
    let inode = namespaces.host_id().1;
    let socket = namespaces.host();
    let addresses = address::dump(socket).map_err(|e| dump_error("addresses", &Netns::HOST, e))?;
    let routes = route::dump_deciding(socket).map_err(|e| dump_error("routes", &Netns::HOST, e))?;
    let peers = asked.peers.iter().copied().collect();
    let ways = route::ways(socket, &peers).map_err(|e| read_error("the ways to other hosts", &e))?;
    let mentioned = addresses.iter().map(|a| a.index).chain(routes.iter().filter_map(|r| r.index));
    let mentioned = mentioned.chain(ways.values().map(|(index, _)| *index)).collect();
    let links = links(namespaces, &mentioned)?;
    let system = uname().map_err(|e| read_error("the host's name", &e.into()))?;
    Ok(Facts {
        host: system.nodename().to_string_lossy().into_owned(),
        uplink: uplink(&routes, &links),
        addresses: host_addresses(&addresses, &links, inode),
        routes: host_routes(&routes, &links, inode),
        sysctls: sysctls()?,
        ra_uplinks: ra_uplinks(&routes, &links)?,
        host_namespace: namespaces.host_id(),
        devices: devices(namespaces, &asked.devices)?,
        ways: ways.into_iter().filter_map(|(ip, (index, via))| Some((ip, way(links.get(&index)?, via)))).collect(),
        namespaces: asked.namespaces.iter().map(|netns| (netns.clone(), identity(namespaces, netns))).collect(),
        sources: BTreeMap::new(),
        remote: State::new(),
        members: None,
        surroundings: Surroundings::default(),
    })
}

type Links = BTreeMap<u32, RawLink>;

/// The devices that have addresses or routes, one by one: a host has few of them beside a thousand bridge ports.
fn links(namespaces: &mut Namespaces, indices: &BTreeSet<u32>) -> Result<Links, ReadError> {
    let mut links = Links::new();
    for index in indices {
        match link::get(namespaces.host(), *index) {
            Ok(link) => {
                links.insert(*index, link);
            }
            // It went meanwhile, and its addresses and routes with it.
            Err(refusal) if refusal.errno == libc::ENODEV => {}
            Err(refusal) => return Err(read_error("links of host", &refusal)),
        }
    }
    Ok(links)
}

/// The devices that are asked for, as far as there are such.
fn devices(
    namespaces: &mut Namespaces,
    names: &[InterfaceName],
) -> Result<BTreeMap<InterfaceName, HostDevice>, ReadError> {
    let inode = namespaces.host_id().1;
    let mut found = BTreeMap::new();
    for name in names {
        match link::get_by_name(namespaces.host(), *name) {
            Ok(link) => {
                let bridge = matches!(link.kind, RawKind::Bridge { .. });
                let ours = link.standing(inode).is_ours();
                let mut name_of = |index: Option<u32>| {
                    let found = link::get(namespaces.host(), index?);
                    found.ok().map(|link| link.name)
                };
                let vlan = match link.kind {
                    RawKind::Vlan(vid) => name_of(link.peer).map(|below| (below, vid)),
                    _ => None,
                };
                let port_of = name_of(link.master.filter(|_| link.port.is_some()));
                let Device { mac, mtu, up, .. } = link.device;
                found.insert(*name, HostDevice { bridge, ours, mtu, mac, up, port_of, vlan });
            }
            Err(refusal) if refusal.errno == libc::ENODEV => {}
            Err(refusal) => return Err(read_error(&format!("link {name}"), &refusal)),
        }
    }
    Ok(found)
}

/// The device of the default route with the lowest metric, IPv4's before IPv6's.
fn uplink(routes: &[RawRoute], links: &Links) -> Option<Uplink> {
    let best = defaults(routes).min_by_key(|r| (r.to.is_ipv6(), r.metric))?;
    let link = links.get(&best.index?)?;
    Some(Uplink { name: link.name, mtu: link.device.mtu })
}

/// The default routes of the main table.
pub(super) fn defaults(routes: &[RawRoute]) -> impl Iterator<Item = &RawRoute> {
    routes.iter().filter(|r| r.to.prefix() == 0 && r.table == RT_TABLE_MAIN && r.kind.is_unicast())
}

fn way(link: &RawLink, via: Option<IpAddr>) -> Way {
    Way { dev: link.name, mtu: link.device.mtu, via }
}

fn is_local(ip: &IpNetwork) -> bool {
    match ip {
        IpNetwork::V4(v4) => v4.ip().is_loopback() || v4.ip().is_link_local(),
        IpNetwork::V6(v6) => v6.ip().is_loopback() || v6.ip().is_unicast_link_local(),
    }
}

fn host_addresses(addresses: &[RawAddress], links: &Links, inode: u64) -> Vec<HostAddress> {
    let mut found: Vec<_> = addresses
        .iter()
        .filter(|a| !is_local(&a.ip))
        .filter_map(|a| Some((links.get(&a.index)?, a)))
        .filter(|(link, a)| !link.standing(inode).is_ours() && (a.protocol != PROTOCOL || link.is_marked()))
        .map(|(link, a)| (link, a.ip))
        .map(|(link, ip)| HostAddress { link: link.name, ip })
        .collect();
    found.sort_by_key(|a| (a.link, a.ip));
    found
}

fn host_routes(routes: &[RawRoute], links: &Links, inode: u64) -> Vec<HostRoute> {
    let mut found: Vec<_> = routes
        .iter()
        .filter(|r| r.to.prefix() > 0 && !is_local(&r.to) && !r.to.ip().is_multicast())
        .map(|r| (r, r.index.and_then(|index| links.get(&index))))
        .filter(|(r, link)| !r.is_ours(*link, inode) && !link.is_some_and(|l| l.standing(inode).is_ours()))
        // One of IPv6's that refuses is by `lo`, which says nothing.
        .map(|(r, link)| HostRoute { to: r.to, dev: link.filter(|_| r.kind.is_unicast()).map(|l| l.name) })
        .collect();
    found.sort_by_key(|r| (r.to, r.dev));
    found.dedup();
    found
}

fn sysctls() -> Result<BTreeMap<Arc<str>, String>, ReadError> {
    let mut found = BTreeMap::new();
    for path in [IPV4_FORWARDING, IPV6_FORWARDING, BRIDGE_NF_IPV4, BRIDGE_NF_IPV6] {
        if let Some(value) = Proc::SYSTEM.read(path).map_err(|e| read_error(path, &e.into()))? {
            found.insert(path.into(), value);
        }
    }
    Ok(found)
}

/// The devices that would lose their IPv6 default route with forwarding turned on: it came from a router advertisement,
/// and they listen to these only while they are no routers (`accept_ra` 1; 2 would be always).
fn ra_uplinks(routes: &[RawRoute], links: &Links) -> Result<Vec<InterfaceName>, ReadError> {
    let from_ra = |r: &&RawRoute| r.to.is_ipv6() && r.protocol == RTPROT_RA;
    let mut found = BTreeSet::new();
    for link in defaults(routes).filter(from_ra).filter_map(|r| links.get(&r.index?)) {
        let path = format!("net/ipv6/conf/{}/accept_ra", link.name);
        if Proc::SYSTEM.read(&path).map_err(|e| read_error(&path, &e.into()))?.as_deref() == Some("1") {
            found.insert(link.name);
        }
    }
    Ok(found.into_iter().collect())
}
