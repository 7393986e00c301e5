//! Neighbours, and the entries of forwarding databases, which the kernel has in the same messages.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteProtocol, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::super::transport::{DumpError, Request, Socket};
use super::{Attributes, family_of, ip_of, u16_at, u32_at};
use crate::state::{Mac, PROTOCOL};

// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_PORT: u16 = 6;
const NDA_VNI: u16 = 7;
const NDA_IFINDEX: u16 = 8;
const NDA_MASTER: u16 = 9;
const NDA_SRC_VNI: u16 = 11;
const NDA_NH_ID: u16 = 13;
const NTF_SELF: u8 = 0x02;
const NTF_EXT_LEARNED: u8 = 0x10;
const NTF_STICKY: u8 = 0x40;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// `struct ndmsg`.
const HEADER: usize = 12;

/// A permanent neighbour as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawNeighbour {
    pub ip: IpAddr,
    pub mac: Mac,
}

/// The permanent neighbours behind a device, of both families.
pub(crate) fn dump(socket: &mut Socket, index: u32) -> Result<Vec<RawNeighbour>, DumpError> {
    let mut request = NeighbourMessage::default();
    request.attributes.push(NeighbourAttribute::IfIndex(index));
    socket.dump(&RouteNetlinkMessage::GetNeighbour(request), |body| parse(body, index))
}

/// A permanent neighbour behind the device of that index.
pub(super) fn parse(body: &[u8], index: u32) -> Option<RawNeighbour> {
    // Before Linux 4.20 the kernel does not sort out the others.
    let permanent = u16_at(body, 8)? & NUD_PERMANENT != 0 && u32_at(body, 4)? == index;
    let attributes = || Attributes::new(body.get(HEADER..).unwrap_or_default());
    let mac = attributes().value(NDA_LLADDR).and_then(|v| v.try_into().ok()).unwrap_or_default();
    let ip = attributes().value(NDA_DST).and_then(ip_of)?;
    permanent.then_some(RawNeighbour { ip, mac: Mac(mac) })
}

/// Makes a neighbour permanent, in place of what is known of it: mostly that it does not answer.
pub(crate) fn set(index: u32, ip: IpAddr, mac: Mac) -> Request {
    let mut message = described(family_of(ip), index);
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(address(ip)),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Removes a neighbour.
pub(crate) fn delete(index: u32, ip: IpAddr) -> Request {
    let mut message = described(family_of(ip), index);
    message.attributes = vec![NeighbourAttribute::Destination(address(ip))];
    Request { message: RouteNetlinkMessage::DelNeighbour(message), flags: 0 }
}

/// A permanent entry of a forwarding database as the kernel describes it, or one of the several that it has for one
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawFdb {
    /// The index of the device that the frames leave by.
    pub index: u32,
    pub mac: Mac,
    /// The index of the bridge whose database it is in; none in a device's own.
    pub bridge: Option<u32>,
    pub dst: Option<IpAddr>,
    /// Whether frames end in the host (`NUD_PERMANENT` in a bridge's database; `NUD_NOARP` is `static` there).
    pub local: bool,
    /// Whether no frame moves it to another port.
    pub sticky: bool,
    /// What else there is to it, in the words of `bridge fdb`.
    pub extra: Vec<String>,
}

/// Whose databases are to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Databases {
    /// The bridge's of this index, and its ports' own.
    OfBridge(u32),
    /// The device's own.
    OfDevice(u32),
}

/// The permanent entries of databases. Those of a VLAN are left out: netrec's bridges do not look at VLANs, and some
/// kernels give each entry of a bridge a twin in the default one.
pub(crate) fn dump_fdb(socket: &mut Socket, of: Databases) -> Result<Vec<RawFdb>, DumpError> {
    let mut request = described(AddressFamily::Bridge, 0);
    request.attributes.push(match of {
        Databases::OfBridge(index) => NeighbourAttribute::Controller(index),
        Databases::OfDevice(index) => NeighbourAttribute::IfIndex(index),
    });
    socket.dump(&RouteNetlinkMessage::GetNeighbour(request), parse_fdb)
}

pub(super) fn parse_fdb(body: &[u8]) -> Option<RawFdb> {
    let (index, state, flags) = (u32_at(body, 4)?, u16_at(body, 8)?, *body.get(10)?);
    if state & (NUD_PERMANENT | NUD_NOARP) == 0 && flags & NTF_EXT_LEARNED == 0 {
        return None;
    }
    let mut entry =
        RawFdb { index, mac: Mac([0; 6]), bridge: None, dst: None, local: false, sticky: false, extra: Vec::new() };
    for (kind, value) in Attributes::new(body.get(HEADER..)?) {
        match kind {
            NDA_LLADDR => entry.mac = Mac(value.try_into().ok()?),
            NDA_DST => entry.dst = ip_of(value),
            NDA_MASTER => entry.bridge = u32_at(value, 0),
            NDA_VLAN => return None,
            // In network byte order.
            NDA_PORT => entry.extra.push(format!("port {}", u16::from_be_bytes(value.try_into().ok()?))),
            NDA_VNI => entry.extra.push(format!("vni {}", u32_at(value, 0)?)),
            NDA_SRC_VNI => entry.extra.push(format!("src_vni {}", u32_at(value, 0)?)),
            NDA_IFINDEX => entry.extra.push(format!("via {}", u32_at(value, 0)?)),
            NDA_NH_ID => entry.extra.push(format!("nhid {}", u32_at(value, 0)?)),
            _ => {}
        }
    }
    entry.local = entry.bridge.is_some() && state & NUD_PERMANENT != 0;
    // Without either it is in neither database: an address that the device itself listens to.
    if entry.bridge.is_none() && flags & NTF_SELF == 0 {
        return None;
    }
    entry.sticky = flags & NTF_STICKY != 0;
    if flags & NTF_EXT_LEARNED != 0 {
        entry.extra.push("extern_learn".into());
    }
    Some(entry)
}

/// Where an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the database of the VXLAN device of that index.
    Vxlan(u32),
    /// In that of the bridge whose port has that index.
    Port(u32),
    /// In that of the bridge of that index, for the bridge itself.
    Bridge(u32),
}

/// Makes an entry, in place of what there is for the address: what was learned, another port, another VTEP. `dst` is for
/// a VXLAN device, `sticky` for a bridge (since Linux 4.20).
pub(crate) fn set_fdb(place: Place, mac: Mac, dst: Option<IpAddr>, sticky: bool) -> Request {
    let mut message = of_place(place, mac);
    if sticky {
        message.header.flags |= NeighbourFlags::Sticky;
    }
    // `permanent` in a bridge's database would mean that the address is the host's own.
    message.header.state = if let Place::Port(_) = place { NeighbourState::Noarp } else { NeighbourState::Permanent };
    message.attributes.extend(dst.map(|dst| NeighbourAttribute::Destination(address(dst))));
    // Of those that frames for many go to, a VXLAN device cannot replace any.
    let flags = if mac.is_for_many() { NLM_F_CREATE | NLM_F_EXCL } else { NLM_F_CREATE | NLM_F_REPLACE };
    Request { message: RouteNetlinkMessage::NewNeighbour(message), flags }
}

/// Removes an entry, with all its destinations.
pub(crate) fn delete_fdb(place: Place, mac: Mac) -> Request {
    Request { message: RouteNetlinkMessage::DelNeighbour(of_place(place, mac)), flags: 0 }
}

fn of_place(place: Place, mac: Mac) -> NeighbourMessage {
    let (index, flags) = match place {
        Place::Vxlan(index) | Place::Bridge(index) => (index, NeighbourFlags::Own),
        Place::Port(index) => (index, NeighbourFlags::Controller),
    };
    let mut message = described(AddressFamily::Bridge, index);
    message.header.flags = flags;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

fn described(family: AddressFamily, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.kind = RouteType::Unspec;
    message
}

fn address(ip: IpAddr) -> NeighbourAddress {
    match ip {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }
}
