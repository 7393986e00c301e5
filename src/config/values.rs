//! Texts to addresses, subnets and durations, with messages that say what the right text would be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::reader::{Fault, tick};
use crate::state::Rate;

/// An IP address, as it is used in arithmetic.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address after this one, of the same family.
pub(super) fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits().wrapping_add(1)).into(),
    }
}

/// The first and last address of a subnet.
pub(super) fn ends(net: &IpNetwork) -> (u128, u128) {
    (bits(net.network()), bits(net.broadcast()))
}

/// Whether every address of `inner` is one of `outer`.
pub(super) fn within(inner: &IpNetwork, outer: &IpNetwork) -> bool {
    inner.is_ipv4() == outer.is_ipv4() && inner.prefix() >= outer.prefix() && outer.contains(inner.network())
}

/// The piece of this prefix length and number of a subnet; none where it has fewer.
pub(super) fn piece(subnet: IpNetwork, length: u8, number: u32) -> Option<IpNetwork> {
    let count = length.checked_sub(subnet.prefix())?;
    if count < 32 && number >> count != 0 {
        return None;
    }
    let ip: IpAddr = match subnet.network() {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() | number.checked_shl(u32::from(32 - length))?).into(),
        IpAddr::V6(a) => {
            Ipv6Addr::from_bits(a.to_bits() | u128::from(number).checked_shl(u32::from(128 - length))?).into()
        }
    };
    IpNetwork::new(ip, length).ok()
}

/// Why no interface can have this address of a subnet.
pub fn unusable(address: IpAddr, net: &IpNetwork) -> Option<&'static str> {
    match address {
        IpAddr::V4(_) if address == net.network() => Some("the network address"),
        IpAddr::V4(_) if address == net.broadcast() => Some("the broadcast address"),
        // RFC 4291, 2.6.1: every router of the subnet answers to it.
        IpAddr::V6(_) if address == net.network() => Some("the subnet-router anycast address"),
        _ => None,
    }
}

/// Parses an address without a prefix length.
pub(super) fn address(text: &str) -> Result<IpAddr, Fault> {
    text.parse().map_err(|_| {
        if let Some((front, _)) = text.split_once('/')
            && front.parse::<IpAddr>().is_ok()
        {
            return Fault::new(format!("{} is an address with a prefix length", tick(text)))
                .label(format!("write `{front}`"));
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'))
            && inner.parse::<IpAddr>().is_ok()
        {
            return Fault::new(format!("{} has brackets, which belong only before a port", tick(text)))
                .label(format!("write `{inner}`"));
        }
        Fault::new(format!("{} is not an IP address", tick(text))).label(why_not_address(text))
    })
}

/// What is wrong with a text that looks like an address.
pub(super) fn why_not_address(text: &str) -> &'static str {
    if text.is_empty() {
        return "it is empty";
    }
    if text.contains('%') && text.contains(':') {
        return "a zone (`%…`) cannot be given here";
    }
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return "";
    }
    let parts: Vec<_> = text.split('.').collect();
    if parts.len() != 4 {
        "an IPv4 address has four numbers"
    } else if parts.contains(&"") {
        "a number is missing"
    } else if parts.iter().any(|p| p.len() > 1 && p.starts_with('0')) {
        "a number begins with 0"
    } else {
        "each number is at most 255"
    }
}

/// Parses a subnet as it is written, host bits and all.
pub(super) fn cidr(text: &str) -> Result<IpNetwork, Fault> {
    let no_subnet = || format!("{} is not a subnet", tick(text));
    let Some((front, prefix)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(a) => {
                let example = if a.is_ipv4() { 24 } else { 64 };
                Fault::new(format!("`{text}` has no prefix length")).label(format!("write it like `{text}/{example}`"))
            }
            Err(_) => Fault::new(no_subnet()).label("it is written like `10.20.0.0/24`"),
        });
    };
    let ip: IpAddr = front.parse().map_err(|_| {
        let why = why_not_address(front);
        let colon = if why.is_empty() { "" } else { ": " };
        Fault::new(no_subnet()).label(format!("{} is not an IP address{colon}{why}", tick(front))).part(0..front.len())
    })?;
    let digits = prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (prefix == "0" || !prefix.starts_with('0'));
    let number = if plain { prefix.parse::<u8>().ok() } else { None };
    number.and_then(|n| IpNetwork::new(ip, n).ok()).ok_or_else(|| {
        let (family, most) = if ip.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        Fault::new(no_subnet())
            .label(format!("the prefix length of {family} is a number up to {most}"))
            .part(front.len() + 1..text.len())
    })
}

/// The same subnet without host bits, and the complaint where it has some.
pub(super) fn without_host_bits(net: IpNetwork) -> (IpNetwork, Option<Fault>) {
    let Ok(right) = IpNetwork::new(net.network(), net.prefix()) else { return (net, None) };
    let fault = (right.ip() != net.ip())
        .then(|| Fault::new(format!("`{net}` has host bits set")).label(format!("it should be `{right}`")));
    (right, fault)
}

/// What a range of addresses is for, where interfaces cannot have them (the registries of RFC 6890).
const NOT_UNICAST: [(IpAddr, u8, &str); 10] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8, "\"this network\""),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback"),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16, "link-local"),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "multicast"),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4, "reserved"),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128, "the unspecified address"),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128, "loopback"),
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96, "IPv4-mapped"),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10, "link-local"),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8, "multicast"),
];

/// Why containers cannot have the addresses of a subnet.
pub(super) fn not_unicast(net: &IpNetwork) -> Option<String> {
    NOT_UNICAST.iter().find_map(|(ip, prefix, purpose)| {
        let special = IpNetwork::new(*ip, *prefix).ok()?;
        if within(net, &special) {
            Some(format!("{special} is {purpose}"))
        } else if within(&special, net) {
            Some(format!("it contains {special}, which is {purpose}"))
        } else {
            None
        }
    })
}

/// Parses `500kbit`, `10mbit` or `1gbit`: bits per second, by powers of 1000.
pub(super) fn rate(text: &str) -> Result<Rate, Fault> {
    let wrong = || {
        Fault::new(format!("{} is not a rate", tick(text)))
            .help("a rate is a whole number and a unit: `500kbit`, `10mbit`, `1gbit`, in bits per second")
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(wrong());
    }
    let Some((_, factor)) = Rate::UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() { wrong().label("the unit is missing") } else { wrong() });
    };
    // What is too much for the number is too much for a rate.
    let bits = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).unwrap_or(u64::MAX);
    let (least, most) = (Rate::LEAST, Rate::MOST);
    if bits < least.bits() {
        return Err(Fault::new(format!("{} is too low", tick(text))).label(format!("at least `{least}`")));
    }
    if bits > most.bits() {
        return Err(Fault::new(format!("{} is too high", tick(text))).label(format!("at most `{most}`")));
    }
    Ok(Rate::from_bits(bits))
}

/// The longest duration: a year, so that adding one to a clock cannot overflow.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Parses `500ms`, `10s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    let wrong = || {
        Fault::new(format!("{} is not a duration", tick(text)))
            .help("a duration is a whole number and a unit: `500ms`, `10s`, `5m`, `1h`")
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if number.is_empty() {
        return Err(wrong());
    }
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "" => return Err(wrong().label("the unit is missing")),
        _ => return Err(wrong()),
    };
    let length = number.parse::<u64>().ok().and_then(|n| n.checked_mul(milliseconds)).map(Duration::from_millis);
    length
        .filter(|d| *d <= LONGEST)
        .ok_or_else(|| Fault::new(format!("{} is too long", tick(text))).label("at most a year, `8760h`"))
}
