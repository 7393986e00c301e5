//! Published ports: `"127.0.0.1:8080:80/udp"`, or a table.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnetwork::IpNetwork;

use super::reader::{Fault, Item, Placed, Problems, Table, parsed, tick};
use super::report::Problem;
use super::types::{Place, Port, PortAddress, PortRange, Protocol};
use super::{keys, values};
use crate::state::Owner;

/// A port with the place that a clash points at: its address in a list of several, else the whole port.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) port: Port,
    pub(super) place: Place,
    /// The network whose address it is to lead to, where the file says so.
    pub(super) network: Option<Placed<String>>,
    pub(super) allow: Vec<Placed<IpNetwork>>,
}

impl Draft {
    /// The port, once nothing is wrong.
    pub(super) fn finish(self) -> Port {
        Port { allow: self.allow.into_iter().map(|allow| allow.value).collect(), ..self.port }
    }
}

/// Reads `ports`. `owner` is the container's.
pub(super) fn read(owner: &Owner, item: &Item, problems: &mut Problems) -> Vec<Draft> {
    let Some(items) = item.as_list() else {
        let problem = item.type_problem("a list");
        problems.push(match item.as_str() {
            Some(text) if parse(text).is_ok() => problem.with_help(format!("write `ports = [\"{text}\"]`")),
            _ => problem.with_help("write `ports = [\"8080:80\"]`"),
        });
        return Vec::new();
    };
    let mut drafts = Vec::new();
    for (i, item) in items.enumerate() {
        let owner = Owner::new(format!("{owner}.ports[{i}]"));
        let first = drafts.len();
        if let Some(text) = item.as_str() {
            let port = parsed(parse(text), &item, problems);
            drafts.extend(port.map(|port| port.draft(owner, item.place(), item.place(), &Options::default())));
        } else if let Some(table) = item.as_table() {
            drafts.extend(read_table(&owner, &item, table, problems));
        } else {
            let problem = Problem::new(item.place(), "a port must be a string or a table");
            problems.push(problem.with_help("write it like `\"8080:80\"`: the host's port, then the container's"));
        }
        drafts.iter_mut().skip(first).for_each(|draft: &mut Draft| draft.port.index = i);
    }
    drafts
}

/// A port without its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) address: PortAddress,
    pub(super) host: PortRange,
    pub(super) container: PortRange,
    pub(super) protocol: Protocol,
}

/// What only a table can say of a port.
#[derive(Clone, Debug, Default)]
struct Options {
    network: Option<Placed<String>>,
    allow: Vec<Placed<IpNetwork>>,
}

impl Mapping {
    fn draft(self, owner: Owner, whole: Place, place: Place, options: &Options) -> Draft {
        let Self { address, host, container, protocol } = self;
        let (targets, plugin, allow) = ([None; 2], None, Vec::new());
        let port = Port { owner, place: whole, index: 0, address, host, container, protocol, targets, plugin, allow };
        let Options { network, allow } = options.clone();
        Draft { port, place, network, allow }
    }
}

/// Parses `[ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/PROTOCOL]`.
pub(super) fn parse(text: &str) -> Result<Mapping, Fault> {
    let (ports, protocol) = match text.rfind('/') {
        Some(i) => (&text[..i], protocol(&text[i + 1..]).map_err(|fault| fault.part(i + 1..text.len()))?),
        None => (text, Protocol::Tcp),
    };
    let Split { address, host, container } = split(ports)?;
    let text_of = |range: &Range<usize>| &ports[range.clone()];
    let address = match address {
        Some(range) => published_on(text_of(&range))
            .map_err(|fault| if fault.part.is_none() { fault.part(range) } else { fault })?,
        None => PortAddress::Any,
    };
    let port = |range: Range<usize>, whose: &str| {
        if range.is_empty() {
            return Err(Fault::new(format!("{} names no {whose} port", tick(text))).help(FORM));
        }
        side(text_of(&range)).map_err(|fault| fault.part(range))
    };
    let whole = host.start..container.end;
    let (host, container) = (port(host, "host")?, port(container, "container")?);
    unlike(host, container).map_or(Ok(Mapping { address, host, container, protocol }), |fault| Err(fault.part(whole)))
}

/// Why two ranges do not make a mapping.
fn unlike(host: PortRange, container: PortRange) -> Option<Fault> {
    let count = |range: PortRange| usize::from(range.last - range.first) + 1;
    let (of_host, of_container) = (count(host), count(container));
    if of_host == of_container {
        return None;
    }
    let ports = |n| if n == 1 { "1 port".to_owned() } else { format!("{n} ports") };
    let fault = Fault::new(format!(
        "the host's {host} is {}, but the container's {container} is {}",
        ports(of_host),
        ports(of_container)
    ));
    let last = usize::from(container.first) + of_host - 1;
    Some(if last > usize::from(u16::MAX) || of_host == 1 {
        fault
    } else {
        fault.help(format!("the container's would be {}-{last}", container.first))
    })
}

const FORM_IPV6: &str = "an IPv6 address is written in brackets, such as `[fd00::1]:8080:80`";
const FORM: &str = "a port is written `HOST:CONTAINER` or `ADDRESS:HOST:CONTAINER`, such as `8080:80`";

/// The parts of a port, as bytes of its text; an address without its brackets.
struct Split {
    address: Option<Range<usize>>,
    host: Range<usize>,
    container: Range<usize>,
}

fn split(text: &str) -> Result<Split, Fault> {
    let wrong = |why: String| Fault::new(why).help(FORM);
    let wrong6 = |why: String| Fault::new(why).help(FORM_IPV6);
    let Some(last) = text.rfind(':') else {
        return Err(wrong(format!("{} has no container port", tick(text))));
    };
    let container = last + 1..text.len();
    if let Some(rest) = text.strip_prefix('[') {
        let Some(close) = rest.find(']').map(|i| i + 1) else {
            return Err(wrong6(format!("{} has no `]` after its address", tick(text))));
        };
        let after = text[close + 1..].strip_prefix(':').filter(|ports| ports.matches(':').count() == 1);
        if after.is_none() {
            return Err(wrong6(format!("{} must have two ports after its address", tick(text))));
        }
        if text[1..close].parse::<Ipv4Addr>().is_ok() {
            let fault = Fault::new("only an IPv6 address has brackets");
            return Err(fault.label(format!("write `{}{}`", &text[1..close], &text[close + 1..])));
        }
        return Ok(Split { address: Some(1..close), host: close + 2..last, container });
    }
    let Some(first) = text[..last].rfind(':') else {
        if text[..last].parse::<IpAddr>().is_ok() {
            return Err(wrong(format!("{} has an address but only one port", tick(text))));
        }
        return Ok(Split { address: None, host: 0..last, container });
    };
    let address = &text[..first];
    if address.contains(':') || text.parse::<IpAddr>().is_ok() {
        let fault = wrong(format!("{} has too many colons", tick(text)));
        return Err(match address.parse::<IpAddr>() {
            Ok(_) => {
                let label = format!("write `[{address}]{}`", &text[first..]);
                Fault { help: None, ..wrong("an IPv6 address needs brackets before a port".to_owned()).label(label) }
            }
            Err(_) => fault,
        });
    }
    Ok(Split { address: Some(0..first), host: first + 1..last, container })
}

/// Whether a text has digits and nothing else.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Parses one side of a mapping.
fn side(text: &str) -> Result<PortRange, Fault> {
    let Some((first, last)) = text.split_once('-').filter(|(first, last)| is_number(first) && is_number(last)) else {
        return number(text).map(PortRange::one);
    };
    let range = PortRange { first: number(first)?, last: number(last)? };
    if range.first > range.last {
        let fault = Fault::new(format!("port range {} runs backwards", tick(text)));
        return Err(fault.label(format!("write `{last}-{first}`")));
    }
    Ok(range)
}

/// Parses a port number.
pub(super) fn number(text: &str) -> Result<u16, Fault> {
    if !is_number(text) {
        return Err(Fault::new(format!("{} is not a port number", tick(text))).label("a number from 1 to 65535"));
    }
    match text.parse() {
        Ok(0) => Err(Fault::new("0 is not a port").label("a number from 1 to 65535")),
        Ok(port) => Ok(port),
        Err(_) => Err(Fault::new(format!("port {} is too large", tick(text))).label("at most 65535")),
    }
}

/// Parses the name of a protocol.
pub(super) fn protocol(text: &str) -> Result<Protocol, Fault> {
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    if let Some(protocol) = known.iter().find(|p| p.as_str() == text) {
        return Ok(*protocol);
    }
    let lower = text.to_lowercase();
    Err(match known.iter().find(|p| p.as_str() == lower) {
        Some(protocol) => {
            Fault::new(format!("unknown protocol {}", tick(text))).label(format!("write `{}`", protocol.as_str()))
        }
        None => Fault::new(format!("unknown protocol {}", tick(text))).label("`tcp`, `udp` or `sctp`"),
    })
}

/// Parses the host address of a port and says why it cannot be one.
fn published_on(text: &str) -> Result<PortAddress, Fault> {
    let not_address = || Fault::new(format!("{} is not an IP address", tick(text)));
    let address: IpAddr = text.parse().map_err(|_| match text {
        "" => Fault::new("the address is empty").label("leave it out for every address"),
        "*" => not_address().label("leave the address out for every address"),
        "localhost" => not_address().label("write `127.0.0.1`"),
        _ => not_address().label(values::why_not_address(text)),
    })?;
    let wrong = |why: &str| Err(Fault::new(format!("nothing can be published on `{address}`")).label(why));
    match address {
        IpAddr::V4(a) if a.is_unspecified() => Ok(PortAddress::AnyIpv4),
        IpAddr::V6(a) if a.is_unspecified() => Ok(PortAddress::AnyIpv6),
        IpAddr::V6(a) if a.is_loopback() => {
            let fault = Fault::new("nothing can be published on `::1`").label("the kernel cannot DNAT it");
            Err(fault.help("publish on `127.0.0.1`, which reaches this machine only, too"))
        }
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            wrong(&format!("it is IPv4-mapped: write `{}`", a.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED)))
        }
        _ if address.is_multicast() => wrong("it is a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => wrong("it is the broadcast address"),
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => wrong("no interface can have it"),
        _ => Ok(PortAddress::One(address)),
    }
}

/// Reads the form of a table, which may give several addresses.
fn read_table(owner: &Owner, item: &Item, table: Table, problems: &mut Problems) -> Vec<Draft> {
    let meant = table.check_keys(&keys::PORT, problems);
    let host = read_number("host", item, table, &meant, problems);
    let container = read_number("container", item, table, &meant, problems);
    let protocol = match table.get("protocol") {
        Some(item) => item
            .string("`\"tcp\"`, `\"udp\"` or `\"sctp\"`", problems)
            .and_then(|text| parsed(protocol(text), &item, problems)),
        None => Some(Protocol::Tcp),
    };
    let addresses = match table.get("address") {
        Some(item) => read_addresses(&item, problems),
        None => vec![(PortAddress::Any, item.place())],
    };
    let options = read_options(table, problems);
    let (Some(host), Some(container), Some(protocol)) = (host, container, protocol) else { return Vec::new() };
    if let Some(fault) = unlike(host, container) {
        problems.push(fault.at(item));
        return Vec::new();
    }
    let mapping = |address| Mapping { address, host, container, protocol };
    let draft = |(address, place)| mapping(address).draft(owner.clone(), item.place(), place, &options);
    addresses.into_iter().map(draft).collect()
}

fn read_options(table: Table, problems: &mut Problems) -> Options {
    let mut options = Options::default();
    if let Some(item) = table.get("network") {
        let name = item.string("the name of a network", problems);
        options.network = name.map(|name| item.placed(name.to_owned()));
    }
    let allow = table.get("allow").map(|item| item.one_or_more("leave it out to allow all", problems));
    for item in allow.into_iter().flatten() {
        let Some(text) = item.string("a network such as `\"192.0.2.0/24\"`", problems) else { continue };
        // An address alone is a network of one.
        let net = text.parse::<IpAddr>().map(IpNetwork::from).or_else(|_| values::cidr(text));
        let Some(net) = parsed(net, &item, problems) else { continue };
        let (net, fault) = values::without_host_bits(net);
        problems.extend(fault.map(|fault| fault.at(&item)));
        if let IpNetwork::V6(v6) = net
            && v6.prefix() >= 96
            && let Some(v4) = v6.network().to_ipv4_mapped()
        {
            let label = format!("write `{v4}/{}`", v6.prefix() - 96);
            problems.push(Problem::new(item.place(), format!("`{net}` is IPv4-mapped")).with_label(label));
            continue;
        }
        if let Some(first) = options.allow.iter().find(|first| values::within(&net, &first.value)) {
            let message = format!("`{net}` is allowed already");
            problems.push(Problem::new(item.place(), message).with_other(first.place.clone(), "by this"));
        } else {
            options.allow.push(item.placed(net));
        }
    }
    options
}

/// Reads one of the two ports; `meant` is what unknown keys were probably meant to be.
fn read_number(key: &str, port: &Item, table: Table, meant: &[&str], problems: &mut Problems) -> Option<PortRange> {
    let Some(item) = table.get(key) else {
        if meant.contains(&key) {
            return None;
        }
        let message = format!("the port has no `{key}`");
        let help = "write it like `{ host = 8080, container = 80 }`";
        problems.push(Problem::new(port.place(), message).with_help(help));
        return None;
    };
    if let Some(text) = item.as_str() {
        return parsed(side(text), &item, problems);
    }
    let value = item.integer("a port number from 1 to 65535", 1..=65535, problems)?;
    u16::try_from(value).ok().map(PortRange::one)
}

fn read_addresses(item: &Item, problems: &mut Problems) -> Vec<(PortAddress, Place)> {
    let mut seen: HashMap<PortAddress, Place> = HashMap::new();
    let mut addresses = Vec::new();
    for item in item.one_or_more("leave it out for every address", problems) {
        let Some(text) = item.string("an address", problems) else { continue };
        // Brackets and prefix lengths have messages of their own.
        let address = match text {
            "*" | "" | "localhost" => published_on(text),
            _ => values::address(text).and_then(|address| published_on(&address.to_string())),
        };
        let Some(address) = parsed(address, &item, problems) else { continue };
        if let Some(first) = seen.get(&address) {
            problems.push(
                Problem::new(item.place(), format!("address {} is listed twice", tick(text)))
                    .with_label("the second")
                    .with_other(first.clone(), "the first"),
            );
            continue;
        }
        seen.insert(address, item.place());
        addresses.push((address, item.place()));
    }
    addresses
}
