//! Addresses of devices.

use ipnetwork::IpNetwork;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
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
/// `IFAPROT_KERNEL_LL`
const KERNEL_LL: u8 = 3;
/// `IFAPROT_KERNEL_LO`, `_RA`, `_LL`: the kernel made it, on `lo`, from a router advertisement, or for the link.
const KERNEL_MADE: [u8; 3] = [1, 2, KERNEL_LL];

/// An address as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawAddress {
    /// The index of its device.
    pub index: u32,
    pub ip: IpNetwork,
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
    // On a point-to-point device the address is the other side's.
    let ip = IpNetwork::new(local.or(address)?, prefix).ok()?;
    // Before Linux 5.18 there is no IFA_PROTO; a link-local address is then taken for the kernel's.
    let kernel_made = KERNEL_MADE.contains(&protocol)
        || protocol == 0 && matches!(ip, IpNetwork::V6(v6) if v6.ip().is_unicast_link_local());
    // Of IPv6 addresses the same bit says that they are temporary.
    let secondary = ip.is_ipv4() && flags & IFA_F_SECONDARY != 0;
    Some(RawAddress {
        index,
        ip,
        permanent: flags & IFA_F_PERMANENT != 0,
        // The lifetimes would not tell: those of a permanent IPv4 address are always said to be infinite.
        deprecated: flags & IFA_F_DEPRECATED != 0,
        secondary,
        kernel_made,
        protocol,
    })
}

/// Adds an address; `replace` takes the place of the same one with other lifetimes, which are infinite unless said. The route to its subnet comes along,
/// or not; of an IPv6 address also with `replace`.
pub(crate) fn add(index: u32, ip: IpNetwork, address: &Address, replace: bool) -> Request {
    let mut message = described(index, ip);
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
    let mut message = described(index, ip);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(KERNEL_LL)));
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Makes an address nobody's.
pub(crate) fn disown(index: u32, ip: IpNetwork) -> Request {
    let mut message = described(index, ip);
    if ip.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_REPLACE }
}

/// Removes an address.
pub(crate) fn delete(index: u32, ip: IpNetwork) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(described(index, ip)), flags: 0 }
}

fn described(index: u32, ip: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(ip.ip());
    message.header.prefix_len = ip.prefix();
    message.header.index = index;
    // Of an IPv4 address the kernel wants the local part, and by the other one tells two of different prefix lengths.
    message.attributes = vec![AddressAttribute::Local(ip.ip()), AddressAttribute::Address(ip.ip())];
    message
}
