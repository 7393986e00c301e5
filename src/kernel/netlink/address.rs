//! Addresses of devices.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};

use super::super::transport::{DumpError, Request, Socket};
use super::{Attributes, family_of, ip_of, u32_at};
use crate::state::{Address, PROTOCOL};

// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_SECONDARY: u32 = 0x01;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_PERMANENT: u32 = 0x80;
/// `INFINITY_LIFE_TIME`
const FOREVER: u32 = u32::MAX;
// linux/rtnetlink.h
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_HOST: u8 = 254;
/// `IFAPROT_KERNEL_LO`
const KERNEL_LO: u8 = 1;
/// `IFAPROT_KERNEL_LL`
const KERNEL_LL: u8 = 3;
/// `IFAPROT_KERNEL_LO`, `_RA`, `_LL`: the kernel made it, on `lo`, from a router advertisement, or for the link.
const KERNEL_MADE: [u8; 3] = [KERNEL_LO, 2, KERNEL_LL];

/// An address with its prefix length, and the other end's where that is another one.
pub(crate) type Ends = (IpNetwork, Option<IpAddr>);

/// What the kernel gives `lo`, the first device of each namespace.
const LOOPBACK: Ends = (IpNetwork::V4(LOOPBACK_NETWORK), None);
const LOOPBACK_NETWORK: Ipv4Network = match Ipv4Network::new_checked(Ipv4Addr::LOCALHOST, 8) {
    Some(network) => network,
    None => unreachable!(),
};
/// `LOOPBACK_IFINDEX`
const LOOPBACK_INDEX: u32 = 1;

/// An address as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawAddress {
    /// The index of its device.
    pub index: u32,
    pub ip: IpNetwork,
    /// The other end's address, whose subnet it is then.
    pub peer: Option<IpAddr>,
    /// `ifa_scope`; of IPv6 the address itself says it.
    pub scope: Option<u8>,
    pub permanent: bool,
    /// Whether its preferred lifetime is over.
    pub deprecated: bool,
    /// Whether it is an IPv4 address in the subnet of an earlier one of its device, whose route serves both.
    pub secondary: bool,
    /// Whether the kernel made it by itself.
    pub kernel_made: bool,
    /// Who made it (`IFA_PROTO`); 0 where that is not said.
    pub protocol: u8,
}

impl RawAddress {
    /// The subnet that it is in, to which a route comes along.
    pub(crate) fn subnet(&self) -> IpNetwork {
        subnet(self.ip, self.peer)
    }

    /// Whether its subnet is the address itself, so that no route comes with it.
    pub(crate) fn is_single(&self) -> bool {
        self.peer.is_none() && self.ip.prefix() == if self.ip.is_ipv4() { 32 } else { 128 }
    }
}

/// The subnet of an address: of two ends it is the other one's.
pub(crate) fn subnet(ip: IpNetwork, peer: Option<IpAddr>) -> IpNetwork {
    let of = IpNetwork::new(peer.unwrap_or(ip.ip()), ip.prefix()).unwrap_or(ip);
    IpNetwork::new(of.network(), of.prefix()).unwrap_or(of)
}

/// All addresses of a namespace.
pub(crate) fn dump(socket: &mut Socket) -> Result<Vec<RawAddress>, DumpError> {
    socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), parse)
}

/// `struct ifaddrmsg` and its attributes.
pub(super) fn parse(body: &[u8]) -> Option<RawAddress> {
    let (prefix, mut flags, index) = (*body.get(1)?, u32::from(*body.get(2)?), u32_at(body, 4)?);
    let (mut address, mut local, mut protocol) = (None, None, 0);
    for (kind, value) in Attributes::new(body.get(8..)?) {
        match kind {
            IFA_ADDRESS => address = ip_of(value),
            IFA_LOCAL => local = ip_of(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            IFA_PROTO => protocol = *value.first()?,
            _ => {}
        }
    }
    // Where there are two, one is the other end's.
    let own = local.or(address)?;
    let ip = IpNetwork::new(own, prefix).ok()?;
    let scope = *body.get(3)?;
    // Before Linux 5.18 there is no IFA_PROTO; a link-local address is then taken for the kernel's.
    let kernel_made = KERNEL_MADE.contains(&protocol)
        || protocol == 0 && matches!(ip, IpNetwork::V6(v6) if v6.ip().is_unicast_link_local());
    // Of IPv6 addresses the same bit says that they are temporary.
    let secondary = ip.is_ipv4() && flags & IFA_F_SECONDARY != 0;
    Some(RawAddress {
        index,
        ip,
        peer: address.filter(|other| *other != own),
        scope: Some(scope).filter(|scope| ip.is_ipv4() && *scope != RT_SCOPE_UNIVERSE),
        permanent: flags & IFA_F_PERMANENT != 0,
        // The lifetimes would not tell: those of a permanent IPv4 address are always said to be infinite.
        deprecated: flags & IFA_F_DEPRECATED != 0,
        secondary,
        kernel_made,
        protocol,
    })
}

/// Adds an address; `replace` takes the place of the same one with other lifetimes, which are infinite unless said. The route
/// to its subnet comes along, or not; of an IPv6 address also with `replace`.
pub(crate) fn add(index: u32, (ip, peer): Ends, address: &Address, replace: bool) -> Request {
    let mut message = described(index, (ip, peer));
    message.header.scope = AddressScope::from(address.scope.unwrap_or(RT_SCOPE_UNIVERSE));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    let mut flags = AddressFlags::empty();
    if ip.is_ipv6() {
        // Addresses come from the file; waiting a second for somebody to object would only delay the first packets.
        message.header.flags = AddressHeaderFlags::Nodad;
        flags |= AddressFlags::Nodad;
    }
    if address.no_prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    if address.deprecated {
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, FOREVER);
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    let flags = if replace { NLM_F_REPLACE } else { NLM_F_CREATE | NLM_F_EXCL };
    Request { message: RouteNetlinkMessage::NewAddress(message), flags }
}

/// Adds a device's link-local address, as the kernel does when the device goes up.
pub(crate) fn add_link_local(index: u32, ip: IpNetwork) -> Request {
    let mut message = described(index, (ip, None));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(KERNEL_LL)));
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Removes it.
pub(crate) fn delete_link_local(index: u32, ip: IpNetwork) -> Request {
    delete(index, (ip, None))
}

/// Adds 127.0.0.1, as the kernel does when `lo` goes up for the first time.
pub(crate) fn add_loopback() -> Request {
    let mut message = described(LOOPBACK_INDEX, LOOPBACK);
    message.header.scope = AddressScope::from(RT_SCOPE_HOST);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(KERNEL_LO)));
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Removes 127.0.0.1.
pub(crate) fn delete_loopback() -> Request {
    delete(LOOPBACK_INDEX, LOOPBACK)
}

/// Makes an address nobody's.
pub(crate) fn disown(index: u32, (ip, peer): Ends) -> Request {
    let mut message = described(index, (ip, peer));
    if ip.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_REPLACE }
}

/// Removes an address.
pub(crate) fn delete(index: u32, ends: Ends) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(described(index, ends)), flags: 0 }
}

fn described(index: u32, (ip, peer): Ends) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(ip.ip());
    message.header.prefix_len = ip.prefix();
    message.header.index = index;
    // Of an IPv4 address the kernel wants the local part, and by the other one tells two of different subnets.
    message.attributes = vec![AddressAttribute::Local(ip.ip()), AddressAttribute::Address(peer.unwrap_or(ip.ip()))];
    message
}
