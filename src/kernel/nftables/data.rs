//! Values in the kernel's bytes: the types of sets, the keys and data of elements, the marks.
//!
//! The kernel knows only lengths; the type numbers are `nft`'s (`enum datatypes` in its `datatype.h`), stored with the
//! set so that `nft` can list it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::kernel::nfnetlink::wire::host_u32;
use crate::state::firewall::{Concat, DataType, Datum, Family, Set, SetData};
use crate::state::{InterfaceName, Owner};

/// Why something cannot be put into the kernel's terms.
pub(super) type Unfit = String;

/// `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;
/// Bits of one type in the number of joined types (`TYPE_BITS` in nft's `datatype.h`).
const TYPE_BITS: u32 = 6;

fn number(of: DataType) -> u32 {
    match of {
        DataType::Ipv4Addr => 7,
        DataType::Ipv6Addr => 8,
        DataType::InetProto => 12,
        DataType::InetService | DataType::ServiceRange => 13,
        DataType::Ifname => 41,
        DataType::Other(number) => number,
    }
}

fn from_number(number: u32) -> DataType {
    match number {
        7 => DataType::Ipv4Addr,
        8 => DataType::Ipv6Addr,
        12 => DataType::InetProto,
        13 => DataType::InetService,
        41 => DataType::Ifname,
        other => DataType::Other(other),
    }
}

fn width(of: DataType) -> Option<usize> {
    match of {
        DataType::Ipv4Addr => Some(4),
        DataType::Ipv6Addr => Some(16),
        DataType::InetProto => Some(1),
        DataType::InetService | DataType::ServiceRange => Some(2),
        DataType::Ifname => Some(IFNAMSIZ),
        DataType::Other(_) => None,
    }
}

/// Joined parts begin at multiples of a 32-bit register; a part that is alone is as long as it is.
fn padded(width: usize, parts: usize) -> usize {
    if parts > 1 { width.next_multiple_of(4) } else { width }
}

/// The number and the length in bytes of joined types.
pub(super) fn layout(types: &[DataType]) -> Result<(u32, u32), Unfit> {
    let mut id = 0;
    let mut len = 0;
    for part in types {
        let width = width(*part).ok_or_else(|| format!("the type {part} is none that netrec writes"))?;
        id = id << TYPE_BITS | number(*part);
        len += padded(width, types.len());
    }
    if types.is_empty() || len > 64 {
        return Err("a key or value has 1 to 64 bytes (NFT_DATA_VALUE_MAXLEN)".into());
    }
    if types == [DataType::ServiceRange] {
        return Err("a range of ports stands beside other parts of a key only".into());
    }
    Ok((id, u32::try_from(len).unwrap_or(u32::MAX)))
}

/// The types of a number and a length; what netrec would not make becomes one [`DataType::Other`].
pub(super) fn types(id: u32, len: u32) -> Vec<DataType> {
    let mut parts = Vec::new();
    let mut rest = id;
    while rest != 0 {
        parts.insert(0, from_number(rest & ((1 << TYPE_BITS) - 1)));
        rest >>= TYPE_BITS;
    }
    if layout(&parts) == Ok((id, len)) { parts } else { vec![DataType::Other(id)] }
}

/// The types of a key whose parts may be ranges; of netrec's only ports are.
pub(super) fn ranges(mut types: Vec<DataType>) -> Vec<DataType> {
    for part in types.iter_mut().filter(|part| **part == DataType::InetService) {
        *part = DataType::ServiceRange;
    }
    types
}

/// The length of each part of a key, in bytes.
pub(super) fn widths(types: &[DataType]) -> impl Iterator<Item = u32> {
    types.iter().filter_map(|part| u32::try_from(width(*part)?).ok())
}

/// The key of a set without the note that it has elements which netrec cannot write.
pub(super) fn key_alone(key: &[DataType]) -> &[DataType] {
    key.strip_suffix(&[DataType::Other(0)]).unwrap_or(key)
}

/// How `nft` is to understand the bytes of a set's key or data: nft's `enum byteorder`, 1 host, 2 network, 0 joined.
pub(super) fn byteorder(types: &[DataType]) -> u32 {
    match types {
        [DataType::Ifname] => 1,
        [_] => 2,
        _ => 0,
    }
}

/// Which end of a range is meant; of a single value both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    First,
    Last,
}

/// Appends the bytes of one value.
pub(super) fn put_datum(out: &mut Vec<u8>, datum: &Datum, bound: Bound) -> Result<(), Unfit> {
    match datum {
        Datum::ServiceRange(first, last) => {
            out.extend_from_slice(&if bound == Bound::First { first } else { last }.to_be_bytes());
        }
        // NFPROTO_IPV4, NFPROTO_IPV6.
        Datum::NfProto(family) => out.push(if *family == Family::Ipv4 { 2 } else { 10 }),
        Datum::Ipv4Addr(address) => out.extend_from_slice(&address.octets()),
        Datum::Ipv6Addr(address) => out.extend_from_slice(&address.octets()),
        Datum::InetProto(protocol) => out.push(*protocol),
        Datum::InetService(port) => out.extend_from_slice(&port.to_be_bytes()),
        Datum::Ifname(name) => {
            out.extend_from_slice(name.as_str().as_bytes());
            out.resize(out.len() + IFNAMSIZ - name.as_str().len(), 0);
        }
        Datum::FibType(kind) => out.extend_from_slice(&kind.to_ne_bytes()),
        Datum::Ipv4Net(..) | Datum::Ipv6Net(..) => {
            return Err(format!("the prefix {datum} stands where only one value can"));
        }
    }
    Ok(())
}

/// Appends the bytes of joined values.
pub(super) fn put_concat(out: &mut Vec<u8>, values: &Concat, bound: Bound) -> Result<(), Unfit> {
    let start = out.len();
    for value in &values.0 {
        put_datum(out, value, bound)?;
        if values.0.len() > 1 {
            out.resize(start + (out.len() - start).next_multiple_of(4), 0);
        }
    }
    Ok(())
}

/// One value of a type, from exactly its bytes.
pub(super) fn datum(of: DataType, bytes: &[u8]) -> Option<Datum> {
    Some(match of {
        DataType::Ipv4Addr => Datum::Ipv4Addr(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        DataType::Ipv6Addr => Datum::Ipv6Addr(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        DataType::InetProto => Datum::InetProto(*<&[u8; 1]>::try_from(bytes).ok()?.first()?),
        DataType::InetService | DataType::ServiceRange => {
            Datum::InetService(u16::from_be_bytes(bytes.try_into().ok()?))
        }
        DataType::Ifname => Datum::Ifname(ifname(bytes)?),
        DataType::Other(_) => return None,
    })
}

fn ifname(bytes: &[u8]) -> Option<InterfaceName> {
    let name = <&[u8; IFNAMSIZ]>::try_from(bytes).ok()?;
    let len = name.iter().position(|b| *b == 0)?;
    let (name, rest) = name.split_at(len);
    if rest.iter().any(|b| *b != 0) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Joined values of these types, from exactly their bytes.
pub(super) fn concat(types: &[DataType], mut bytes: &[u8]) -> Option<Concat> {
    let mut values = Vec::with_capacity(types.len());
    for part in types {
        let width = width(*part)?;
        let (value, rest) = bytes.split_at_checked(padded(width, types.len()))?;
        let (value, padding) = value.split_at_checked(width)?;
        if padding.iter().any(|b| *b != 0) {
            return None;
        }
        values.push(datum(*part, value)?);
        bytes = rest;
    }
    bytes.is_empty().then_some(Concat(values))
}

/// Joined values from the bytes of their first and last ends.
pub(super) fn concat_ranges(types: &[DataType], first: &[u8], last: &[u8]) -> Option<Concat> {
    let (first, last) = (concat(types, first)?, concat(types, last)?);
    let between = |(kind, (first, last)): (&DataType, (Datum, Datum))| match (kind, first, last) {
        (_, first, last) if first == last => Some(first),
        (DataType::ServiceRange, Datum::InetService(a), Datum::InetService(b)) => Some(Datum::ServiceRange(a, b)),
        _ => None,
    };
    types.iter().zip(first.0.into_iter().zip(last.0)).map(between).collect::<Option<_>>().map(Concat)
}

/// User data is a list of type, length and value, the first two a byte each (libnftnl's `udata.h`). A comment's type
/// is 0 with tables, chains and elements (`NFTNL_UDATA_TABLE_COMMENT` and so on) ...
pub(super) const COMMENT: u8 = 0;
/// ... and 7 with sets (`NFTNL_UDATA_SET_COMMENT`).
pub(super) const SET_COMMENT: u8 = 7;
/// `NFTNL_UDATA_SET_KEYBYTEORDER`.
const SET_KEYBYTEORDER: u8 = 0;
/// `NFTNL_UDATA_SET_DATABYTEORDER`.
const SET_DATABYTEORDER: u8 = 1;
/// What a mark begins with.
const MARK: &str = "netrec ";

/// Appends an owner's mark as a comment.
pub(super) fn put_mark(out: &mut Vec<u8>, kind: u8, owner: Option<&Owner>) -> Result<(), Unfit> {
    let Some(owner) = owner else { return Ok(()) };
    let len = MARK.len() + owner.as_str().len() + 1;
    out.extend_from_slice(&[kind, u8::try_from(len).map_err(|_| "its mark is longer than 255 bytes")?]);
    out.extend_from_slice(MARK.as_bytes());
    out.extend_from_slice(owner.as_str().as_bytes());
    out.push(0);
    Ok(())
}

/// Appends what `nft` wants to know of a set to list it, then its mark.
pub(super) fn put_set_mark(out: &mut Vec<u8>, set: &Set, owner: Option<&Owner>) -> Result<(), Unfit> {
    let mut order = |kind, order: u32| {
        out.extend_from_slice(&[kind, 4]);
        out.extend_from_slice(&order.to_ne_bytes());
    };
    order(SET_KEYBYTEORDER, byteorder(key_alone(&set.key)));
    match &set.data {
        None => {}
        Some(SetData::Verdict) => order(SET_DATABYTEORDER, 0),
        Some(SetData::Values(types)) => order(SET_DATABYTEORDER, byteorder(types)),
    }
    put_mark(out, SET_COMMENT, owner)
}

/// The owner that user data name, if the comment is a mark.
pub(super) fn owner(mut userdata: &[u8], kind: u8) -> Option<Owner> {
    loop {
        let (head, rest) = userdata.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(head[1]))?;
        if head[0] == kind {
            let comment = std::str::from_utf8(value.strip_suffix(&[0])?).ok()?;
            return Some(Owner::new(comment.strip_prefix(MARK)?));
        }
        userdata = rest;
    }
}

/// A 32-bit number in a register, in host byte order.
pub(super) fn register_u32(bytes: &[u8]) -> Option<u32> {
    if bytes.len() == 4 { host_u32(bytes) } else { None }
}
