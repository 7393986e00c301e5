//! Links, addresses, routes, neighbours, forwarding databases and queueing disciplines: of each the reading and the writing side by side. Messages that change something are
//! built from rtnetlink's types. Dumps are read by hand, as only a few of the many attributes are wanted: of a link with
//! all its statistics and settings for both families the typed parser would make hundreds of values.

pub(super) mod address;
pub(super) mod change;
pub(super) mod link;
pub(super) mod neighbour;
pub(super) mod qdisc;
pub(super) mod route;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::AddressFamily;

/// `NLA_TYPE_MASK`: the type without its two flags.
const TYPE_MASK: u16 = 0x3fff;

/// The attributes of a message or of a nest, by type.
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of a type.
    pub(super) fn value(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The u16 in host byte order at an offset.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The u32 in host byte order at an offset.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// An address of either family, by its length.
pub(super) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// The text of a NUL-terminated attribute.
pub(super) fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|b| *b == 0).next()?).ok()
}

/// The family of an address.
pub(super) fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Whether the body of a message is one of those that are read.
#[cfg(feature = "fuzzing")]
pub(super) fn is_any(body: &[u8]) -> bool {
    let found = [
        link::parse(body).is_some(),
        address::parse(body).is_some(),
        route::fields(body).is_some(),
        neighbour::parse(body, 1).is_some(),
        neighbour::parse_fdb(body).is_some(),
        qdisc::parse(body).is_some(),
        qdisc::parse_filter(body).is_some(),
    ];
    found.contains(&true)
}
