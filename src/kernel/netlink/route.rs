//! Routes, and the addresses that local routes stand for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use nix::libc;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use super::super::transport::{DumpError, Refusal, Request, Socket};
use super::link::RawLink;
use super::{Attributes, family_of, ip_of, u32_at};
use crate::state::{self, IP6_RT_PRIO_ADDRCONF, PROTOCOL, RT_TABLE_MAIN};

// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
/// The types of routes that decide what becomes of packets.
const DECIDING: [u8; 4] = [RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT];
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_TABLE_LOCAL: u32 = 255;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `RTPROT_KERNEL`: made by the kernel along with an address.
pub(crate) const RTPROT_KERNEL: u8 = 2;
/// `RTPROT_RA`: from a router advertisement.
pub(crate) const RTPROT_RA: u8 = 9;

/// A route as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRoute {
    pub to: IpNetwork,
    pub table: u32,
    pub metric: u32,
    pub protocol: u8,
    /// What becomes of packets.
    pub kind: state::RouteType,
    pub via: Option<IpAddr>,
    /// The index of its device, or of that of its first next hop.
    pub index: Option<u32>,
    /// Whether the router is taken to be on the link.
    pub onlink: bool,
    /// The preferred source address.
    pub src: Option<IpAddr>,
    /// `rtm_scope`
    pub scope: u8,
}

impl RawRoute {
    /// Its scope, where that is not the usual one.
    pub(crate) fn unusual_scope(&self) -> Option<u8> {
        (self.to.is_ipv4() && self.scope != usual_scope(self.to, self.via, self.kind)).then_some(self.scope)
    }

    /// Whether it is one that the kernel makes along with an address, to the address's subnet.
    pub(crate) fn is_connected(&self) -> bool {
        self.protocol == RTPROT_KERNEL && self.table == RT_TABLE_MAIN && self.via.is_none()
    }

    /// Whether it is a route of the netrec that runs in the namespace of that inode number, where `dev` is its device:
    /// one by a container's end of another netrec's link is that one's.
    pub(crate) fn is_ours(&self, dev: Option<&RawLink>, inode: u64) -> bool {
        self.protocol == PROTOCOL && !dev.is_some_and(|dev| dev.is_marked() && !dev.standing(inode).is_ours())
    }
}

/// The routes of one protocol, of all tables, that decide what becomes of packets.
pub(crate) fn dump_of(socket: &mut Socket, protocol: u8) -> Result<Vec<RawRoute>, DumpError> {
    socket.dump(&request(RouteType::Unspec, Some(protocol), None), |body| parse(body, &DECIDING))
}

/// The routes of the main table that decide what becomes of packets. The kernel could sort out one type, but not several;
/// of other types it has those that it makes along with addresses, and they are in a table of their own.
pub(crate) fn dump_main(socket: &mut Socket) -> Result<Vec<RawRoute>, DumpError> {
    let main = |body: &[u8]| parse(body, &DECIDING).filter(|route| route.table == RT_TABLE_MAIN);
    socket.dump(&request(RouteType::Unspec, None, Some(RouteHeader::RT_TABLE_MAIN)), main)
}

/// The routes of all tables but the local one that decide what becomes of packets: unicast ones, and those that refuse. Of
/// the others `throw` only leaves the table.
pub(crate) fn dump_deciding(socket: &mut Socket) -> Result<Vec<RawRoute>, DumpError> {
    let deciding = |body: &[u8]| parse(body, &DECIDING).filter(|r| r.table != RT_TABLE_LOCAL);
    socket.dump(&request(RouteType::Unspec, None, None), deciding)
}

/// The routes that the kernel made along with addresses.
pub(crate) fn dump_connected(socket: &mut Socket) -> Result<Vec<RawRoute>, DumpError> {
    dump_where(socket, Some(RTPROT_KERNEL), Some(RouteHeader::RT_TABLE_MAIN))
}

/// The addresses that are the host's own (`fib daddr type local`): those on its devices, all of 127/8, and what
/// somebody has declared to be local.
pub(crate) fn dump_local(socket: &mut Socket) -> Result<Vec<IpNetwork>, DumpError> {
    let request = request(RouteType::Local, None, None);
    socket.dump(&request, |body| parse(body, &[RTN_LOCAL]).map(|route| route.to))
}

/// What the kernel says of an address that it has no route to (`ip route get`): no route or one that throws, one that is
/// unreachable, one that prohibits, a blackhole. Without IPv6 in the kernel nobody answers for it.
const NO_WAY: [i32; 6] =
    [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];

/// How packets of this namespace's go to addresses: the route that the kernel would take, with its device and router. There
/// is none for those that have no unicast route, or that are the namespace's own.
pub(crate) fn ways(
    socket: &mut Socket,
    addresses: &BTreeSet<IpAddr>,
) -> Result<BTreeMap<IpAddr, (u32, Option<IpAddr>)>, Refusal> {
    let question = |ip: &IpAddr| {
        let mut question = RouteMessage::default();
        question.header.address_family = family_of(*ip);
        question.header.destination_prefix_length = IpNetwork::from(*ip).prefix();
        question.attributes = vec![RouteAttribute::Destination((*ip).into())];
        RouteNetlinkMessage::GetRoute(question)
    };
    let answers = socket.ask(addresses.iter().map(question).collect(), |body| {
        let unicast = *body.get(7)? == RTN_UNICAST;
        let route = fields(body).filter(|_| unicast)?;
        Some((route.index?, route.via))
    })?;
    let mut ways = BTreeMap::new();
    for (ip, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(way) => ways.extend(way.map(|way| (*ip, way))),
            Err(refusal) if NO_WAY.contains(&refusal.errno) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(ways)
}

fn dump_where(socket: &mut Socket, protocol: Option<u8>, table: Option<u8>) -> Result<Vec<RawRoute>, DumpError> {
    socket.dump(&request(RouteType::Unicast, protocol, table), |body| parse(body, &[RTN_UNICAST]))
}

fn request(kind: RouteType, protocol: Option<u8>, table: Option<u8>) -> RouteNetlinkMessage {
    let mut request = RouteMessage::default();
    request.header.kind = kind;
    request.header.protocol = RouteProtocol::from(protocol.unwrap_or(0));
    request.header.table = table.unwrap_or(0);
    RouteNetlinkMessage::GetRoute(request)
}

/// A route of a dump. Other types, other families and cached routes are left out.
fn parse(body: &[u8], wanted: &[u8]) -> Option<RawRoute> {
    let (kind, flags) = (*body.get(7)?, u32_at(body, 8)?);
    if wanted.contains(&kind) && flags & RTM_F_CLONED == 0 { fields(body) } else { None }
}

/// `struct rtmsg` and its attributes. Other families are left out.
pub(super) fn fields(body: &[u8]) -> Option<RawRoute> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    let (table, protocol, kind, flags) = (*body.get(4)?, *body.get(5)?, *body.get(7)?, u32_at(body, 8)?);
    let scope = *body.get(6)?;
    let unspecified: IpAddr = match family {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut to = unspecified;
    let mut route = RawRoute {
        to: unspecified.into(),
        table: table.into(),
        metric: 0,
        protocol,
        kind: match kind {
            RTN_BLACKHOLE => state::RouteType::Blackhole,
            RTN_UNREACHABLE => state::RouteType::Unreachable,
            RTN_PROHIBIT => state::RouteType::Prohibit,
            _ => state::RouteType::Unicast,
        },
        via: None,
        index: None,
        onlink: flags & RTNH_F_ONLINK != 0,
        src: None,
        scope,
    };
    for (kind, value) in Attributes::new(body.get(12..)?) {
        match kind {
            RTA_DST => to = ip_of(value)?,
            RTA_OIF => route.index = u32_at(value, 0),
            RTA_GATEWAY => route.via = ip_of(value),
            // A family as a u16, then the address: an IPv4 route by an IPv6 router.
            RTA_VIA => route.via = value.get(2..).and_then(ip_of),
            RTA_PREFSRC => route.src = ip_of(value),
            RTA_PRIORITY => route.metric = u32_at(value, 0)?,
            RTA_TABLE => route.table = u32_at(value, 0)?,
            // `struct rtnexthop`: length, flags and hops, then the index.
            RTA_MULTIPATH => route.index = u32_at(value, 4),
            _ => {}
        }
    }
    route.to = IpNetwork::new(to, prefix).ok()?;
    Some(route)
}

/// A route to write; `index` is its device's.
#[derive(Clone, Debug)]
pub(crate) struct NewRoute {
    pub to: IpNetwork,
    pub table: u32,
    pub metric: u32,
    pub protocol: u8,
    pub via: Option<IpAddr>,
    pub index: Option<u32>,
    pub onlink: bool,
    pub src: Option<IpAddr>,
    /// None for the usual one.
    pub scope: Option<u8>,
    pub kind: state::RouteType,
}

/// The scope of a route that nobody gave another: without a router what it leads to is on the link. IPv6 knows no scopes
/// of routes.
fn usual_scope(to: IpNetwork, via: Option<IpAddr>, kind: state::RouteType) -> u8 {
    if via.is_none() && to.is_ipv4() && kind.is_unicast() { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE }
}

/// Adds a route, or puts it in the place of the one to the same destination with the same metric, if that is there: it may
/// have gone with its device.
pub(crate) fn add(route: &NewRoute, replace: bool) -> Request {
    let mut message = described(route);
    message.header.scope =
        RouteScope::from(route.scope.unwrap_or_else(|| usual_scope(route.to, route.via, route.kind)));
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    message.attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    let flags = if replace { NLM_F_CREATE | NLM_F_REPLACE } else { NLM_F_CREATE | NLM_F_EXCL };
    Request { message: RouteNetlinkMessage::NewRoute(message), flags }
}

/// Puts back the route that the kernel makes along with an IPv4 address, beside routes to the same subnet by other
/// devices. (That of an IPv6 address comes back when the address is added once more.)
pub(crate) fn restore_connected(index: u32, subnet: IpNetwork, src: IpAddr) -> Request {
    let mut message = described(&connected(index, subnet));
    message.header.scope = RouteScope::from(RT_SCOPE_LINK);
    message.attributes.push(RouteAttribute::PrefSource(src.into()));
    Request { message: RouteNetlinkMessage::NewRoute(message), flags: NLM_F_CREATE | NLM_F_APPEND }
}

/// The route that the kernel makes along with an address, to its subnet.
pub(crate) fn connected(index: u32, subnet: IpNetwork) -> NewRoute {
    let metric = if subnet.is_ipv6() { IP6_RT_PRIO_ADDRCONF } else { 0 };
    NewRoute {
        to: subnet,
        table: RT_TABLE_MAIN,
        metric,
        protocol: RTPROT_KERNEL,
        via: None,
        index: Some(index),
        onlink: false,
        src: None,
        scope: None,
        kind: state::RouteType::Unicast,
    }
}

/// Removes a route, if it is still of that protocol.
pub(crate) fn delete(route: &NewRoute) -> Request {
    let mut message = described(route);
    message.header.scope = RouteScope::NoWhere; // any
    Request { message: RouteNetlinkMessage::DelRoute(message), flags: 0 }
}

fn described(route: &NewRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.to.ip());
    message.header.destination_prefix_length = route.to.prefix();
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.kind = match route.kind {
        state::RouteType::Unicast => RouteType::Unicast,
        state::RouteType::Blackhole => RouteType::BlackHole,
        state::RouteType::Unreachable => RouteType::Unreachable,
        state::RouteType::Prohibit => RouteType::Prohibit,
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.to.prefix() > 0 {
        attributes.push(RouteAttribute::Destination(route.to.network().into()));
    }
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(index) = route.index {
        attributes.push(RouteAttribute::Oif(index));
    }
    match route.via {
        Some(via) if via.is_ipv4() == route.to.is_ipv4() => attributes.push(RouteAttribute::Gateway(via.into())),
        Some(via) => attributes.push(RouteAttribute::Via(RouteVia::from(via))),
        None => {}
    }
    message
}

/// The name of a protocol number, as `ip route` shows it (`/etc/iproute2/rt_protos`).
pub(crate) fn protocol_name(number: u8) -> Cow<'static, str> {
    let name = match number {
        0 => "unspec",
        1 => "redirect",
        RTPROT_KERNEL => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        RTPROT_RA => "ra",
        10 => "mrt",
        11 => "zebra",
        12 => "bird",
        13 => "dnrouted",
        14 => "xorp",
        15 => "ntk",
        16 => "dhcp",
        17 => "mrouted",
        18 => "keepalived",
        42 => "babel",
        99 => "openr",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        _ => return number.to_string().into(),
    };
    name.into()
}
