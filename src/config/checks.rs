//! What only the whole shows: clashes between networks, between containers, and of one with the other. Every check is
//! near linear, by sorting or hashing: a file may have ten thousand containers.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use super::networks::DraftSubnet;
use super::reader::{Placed, Problems};
use super::report::Problem;
use super::types::{ContainerNetns, Mode, Place, PortAddress, PortRange, Protocol};
use super::{containers, networks, ports, values};
use crate::state::INTERFACE_NAME_MAX;

/// The most ports of a bridge: numbers 1 to `BR_MAX_PORTS` - 1 of the kernel's `br_private.h`.
const BRIDGE_PORTS: usize = 1023;

/// All of them.
pub(super) fn all(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    overlaps(networks, problems);
    bridges(networks, problems);
    trusted(networks, problems);
    namespaces(containers, problems);
    bridge_ports(networks, containers, problems);
    addresses(networks, containers, problems);
    macs(networks, containers, problems);
    interfaces(containers, problems);
    ports(networks, containers, problems);
    port_clashes(networks, containers, problems);
}

/// Of equal keys the second and each later one, with the place of the first.
struct Firsts<K>(HashMap<K, Place>);

impl<K: Hash + Eq> Firsts<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// The place of the same key before, if there is one.
    fn before(&mut self, key: K, place: &Place) -> Option<Place> {
        let first = self.0.entry(key).or_insert_with(|| place.clone());
        (first != place).then(|| first.clone())
    }
}

/// Whether a place comes after another.
fn later(a: &Place, b: &Place) -> bool {
    (a.source, a.span.start) > (b.source, b.span.start)
}

/// Subnets that overlap, of one network or of two. Two subnets are apart or one holds the other, so that in the order
/// of their first addresses (the larger first) it is enough to remember the one that reaches furthest.
fn overlaps(networks: &[networks::Draft], problems: &mut Problems) {
    let mut subnets: Vec<(&networks::Draft, &DraftSubnet)> =
        networks.iter().flat_map(|n| n.subnets.iter().map(move |s| (n, s))).collect();
    subnets.sort_by_key(|(_, s)| {
        let (first, last) = values::ends(&s.net);
        (s.net.is_ipv6(), first, std::cmp::Reverse(last))
    });
    let mut outer: Option<(&networks::Draft, &DraftSubnet)> = None;
    for inner in subnets {
        match outer {
            Some(outer) if values::within(&inner.1.net, &outer.1.net) => problems.push(overlap(outer, inner)),
            _ => outer = Some(inner),
        }
    }
}

fn overlap(a: (&networks::Draft, &DraftSubnet), b: (&networks::Draft, &DraftSubnet)) -> Problem {
    let ((first_of, first), (of, second)) = if later(&a.1.place, &b.1.place) { (b, a) } else { (a, b) };
    let same = first_of.name == of.name;
    let message = match (first.net == second.net, same) {
        (true, true) => format!("subnet `{}` is listed twice", second.net),
        (true, false) => format!("networks `{}` and `{}` have the same subnet `{}`", first_of.name, of.name, first.net),
        (false, true) => format!("subnets `{}` and `{}` overlap", first.net, second.net),
        (false, false) => format!(
            "subnet `{}` of network `{}` overlaps `{}` of network `{}`",
            second.net, of.name, first.net, first_of.name
        ),
    };
    let label = if same { "the first".to_owned() } else { format!("subnet of `{}`", first_of.name) };
    let problem = Problem::new(second.place.clone(), message).with_other(first.place.clone(), label);
    problem.with_label(if same { "the second".to_owned() } else { format!("subnet of `{}`", of.name) })
}

/// Two networks whose bridges have one name, given or made from the network's.
fn bridges(networks: &[networks::Draft], problems: &mut Problems) {
    let mut made: HashMap<String, &networks::Draft> = HashMap::new();
    for network in networks.iter().filter(|n| n.bridge.is_none()) {
        let name = format!("nr-{}", network.name);
        if name.len() <= INTERFACE_NAME_MAX {
            made.insert(name, network);
        }
    }
    let mut given = Firsts::new();
    for network in networks {
        let Some(Placed { value: bridge, place }) = &network.bridge else { continue };
        if let Some(first) = given.before(bridge.as_str(), place) {
            problems.push(
                Problem::new(place.clone(), format!("two networks have the bridge `{bridge}`"))
                    .with_label("the second")
                    .with_other(first, "the first"),
            );
        } else if let Some(other) = made.get(bridge.as_str()) {
            problems.push(
                Problem::new(
                    place.clone(),
                    format!(
                        "bridge `{bridge}` of network `{}` is also the bridge of network `{}`",
                        network.name, other.name
                    ),
                )
                .with_other(other.place.clone(), format!("its bridge is `{bridge}`, made from its name")),
            );
        }
    }
}

/// Devices that are trusted and are bridges of networks.
fn trusted(networks: &[networks::Draft], problems: &mut Problems) {
    let name = |network: &networks::Draft| match &network.bridge {
        Some(given) => given.value.to_string(),
        None => format!("nr-{}", network.name),
    };
    let bridges: HashMap<String, &networks::Draft> = networks.iter().map(|network| (name(network), network)).collect();
    for Placed { value: trusted, place } in networks.iter().flat_map(|network| &network.trusted) {
        let Some(other) = bridges.get(trusted.as_str()) else { continue };
        let message = format!("`{trusted}` is the bridge of network `{}`", other.name);
        let problem = Problem::new(place.clone(), message).with_label("its containers would be let in");
        problems.push(problem.with_help("put the containers that are to reach each other on one network"));
    }
}

/// Two containers in one namespace.
fn namespaces(containers: &[containers::Draft], problems: &mut Problems) {
    let mut seen = Firsts::new();
    for container in containers {
        let Placed { value, place } = &container.netns;
        if let Some(first) = seen.before(namespace_path(value), place) {
            problems.push(
                Problem::new(place.clone(), format!("two containers have the namespace `{}`", value.netns()))
                    .with_label("the second")
                    .with_other(first, "the first"),
            );
        }
    }
}

/// The path of a namespace without what does not matter in it, so that two spellings of one are equal.
fn namespace_path(netns: &ContainerNetns) -> String {
    let label = netns.netns().label().unwrap_or_default();
    let path = match netns {
        ContainerNetns::Named(_) => format!("/run/netns/{label}"),
        ContainerNetns::Path(_) => label.to_owned(),
    };
    let parts: Vec<_> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    // `/var/run` is a link to `/run`.
    let parts = if parts.starts_with(&["var", "run"]) { &parts[1..] } else { &parts[..] };
    parts.join("/")
}

/// More containers on a network than a bridge has ports.
fn bridge_ports(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    let mut counts = vec![(0_usize, None); networks.len()];
    for attachment in containers.iter().flat_map(|c| &c.attachments) {
        let (count, excess) = &mut counts[attachment.network];
        *count += 1;
        if *count == BRIDGE_PORTS + 1 {
            *excess = Some(attachment.place.clone());
        }
    }
    for (network, (count, excess)) in networks.iter().zip(counts) {
        if let Some(place) = excess {
            problems.push(
                Problem::new(
                    place,
                    format!(
                        "network `{}` has {count} containers, but a bridge has {BRIDGE_PORTS} ports at most",
                        network.name
                    ),
                )
                .with_label("the first one too many")
                .with_other(network.place.clone(), "the network"),
            );
        }
    }
}

/// Addresses outside of their network, unusable ones, and ones used twice.
fn addresses(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    let mut seen = Firsts::new();
    for attachment in containers.iter().flat_map(|c| &c.attachments) {
        let network = &networks[attachment.network];
        for Placed { value: address, place } in &attachment.addresses {
            if let Some(problem) = misfit(network, *address, place) {
                problems.push(problem);
            } else if let Some(first) = seen.before((attachment.network, *address), place) {
                problems.push(
                    Problem::new(
                        place.clone(),
                        format!("address `{address}` of network `{}` is used twice", network.name),
                    )
                    .with_label("the second")
                    .with_other(first, "the first"),
                );
            }
        }
    }
}

/// Why an address cannot be a container's.
fn misfit(network: &networks::Draft, address: IpAddr, place: &Place) -> Option<Problem> {
    let Some(subnet) = network.subnet_of(address) else {
        return network.whole.then(|| network.stranger(address, place.clone(), &format!("address `{address}`")));
    };
    if let Some(why) = values::unusable(address, &subnet.net) {
        let message = format!("address `{address}` is {why} of `{}`", subnet.net);
        return Some(Problem::new(place.clone(), message).with_other(subnet.place.clone(), "the subnet"));
    }
    if subnet.gateway == Some(address) {
        let problem =
            Problem::new(place.clone(), format!("address `{address}` is the gateway of network `{}`", network.name));
        return Some(match &subnet.gateway_place {
            Some(gateway) => problem.with_other(gateway.clone(), "the gateway"),
            None => problem.with_other(subnet.place.clone(), "its first address is the gateway"),
        });
    }
    None
}

/// MAC addresses used twice on one network.
fn macs(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    let mut seen = Firsts::new();
    for attachment in containers.iter().flat_map(|c| &c.attachments) {
        let Some(Placed { value: mac, place }) = &attachment.mac else { continue };
        if let Some(first) = seen.before((attachment.network, *mac), place) {
            let name = &networks[attachment.network].name;
            problems.push(
                Problem::new(place.clone(), format!("MAC address `{mac}` is used twice on network `{name}`"))
                    .with_label("the second")
                    .with_other(first, "the first"),
            );
        }
    }
}

/// Interface names given twice in one container.
fn interfaces(containers: &[containers::Draft], problems: &mut Problems) {
    for container in containers {
        let mut seen = Firsts::new();
        for Placed { value: name, place } in container.attachments.iter().filter_map(|a| a.interface.as_ref()) {
            if let Some(first) = seen.before(*name, place) {
                problems.push(
                    Problem::new(place.clone(), format!("container `{}` has two interfaces `{name}`", container.name))
                        .with_label("the second")
                        .with_other(first, "the first"),
                );
            }
        }
    }
}

/// Ports that lead nowhere: of containers without a network, without one of the port's family, or without one that lets
/// anything in; and sources that cannot be let through.
fn ports(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    for container in containers.iter().filter(|c| c.whole) {
        if let Some(port) = container.ports.first()
            && container.attachments.is_empty()
        {
            problems.push(
                Problem::new(port.place.clone(), format!("container `{}` has a port, but no network", container.name))
                    .with_help("a published port leads to an address, which the container gets from a network"),
            );
            continue;
        }
        if container.attachments.iter().any(|a| !networks[a.network].whole) {
            continue;
        }
        for draft in &container.ports {
            if draft.port.targets == [None; 2] {
                problems.extend(leads_nowhere(networks, container, draft));
                continue;
            }
            if let (PortAddress::One(address), Some(target)) = (draft.port.address, draft.port.targets[0])
                && address.is_loopback()
            {
                problems.extend(not_loopbacks(&networks[container.attachments[target].network], address, draft));
            }
            // Several addresses of one port are of one list.
            let of_port = || container.ports.iter().filter(|other| other.port.owner == draft.port.owner);
            for Placed { value: net, place } in &draft.allow {
                let family = usize::from(net.is_ipv6());
                if of_port().all(|other| other.port.targets[family].is_none()) {
                    let family = if net.is_ipv6() { "IPv6" } else { "IPv4" };
                    let message = format!("`{net}` can allow nothing: the port is not published for {family}");
                    problems.push(Problem::new(place.clone(), message));
                }
            }
        }
    }
}

/// Why a port of this machine alone cannot lead into a network.
fn not_loopbacks(network: &networks::Draft, address: IpAddr, draft: &ports::Draft) -> Option<Problem> {
    let (why, help) = if network.adopt {
        ("whose bridge is adopted", "the kernel's `route_localnet` of the bridge is not netrec's to set")
    } else if network.mode(false) == Some(Mode::Routed) {
        ("which is routed", "there the container's own address is reached, by everybody: use `allow`")
    } else {
        return None;
    };
    let message = format!("a port of `{address}` cannot lead into network `{}`, {why}", network.name);
    Some(Problem::new(draft.place.clone(), message).with_help(help))
}

/// Why a port leads nowhere; none where that is said already.
fn leads_nowhere(networks: &[networks::Draft], container: &containers::Draft, draft: &ports::Draft) -> Option<Problem> {
    let named = draft.network.as_ref();
    let mut candidates = container
        .attachments
        .iter()
        .map(|a| (a, &networks[a.network]))
        .filter(|(_, network)| named.is_none_or(|name| network.name.as_str() == name.value))
        .peekable();
    candidates.peek()?; // the network that it names is not the container's
    let families = [false, true].into_iter().filter(|ipv6| draft.port.has_family(*ipv6));
    let closed = candidates.clone().find_map(|(attachment, network)| {
        let mode = families.clone().find_map(|ipv6| network.mode(ipv6))?;
        Some((attachment, network, mode))
    });
    let Some((attachment, network, mode)) = closed else {
        let family = if draft.port.has_family(true) { "IPv6" } else { "IPv4" };
        let message = match named {
            Some(name) => format!("the port has an {family} address, but network `{}` has no {family}", name.value),
            None => {
                format!(
                    "the port has an {family} address, but no network of container `{}` has {family}",
                    container.name
                )
            }
        };
        return Some(Problem::new(draft.place.clone(), message));
    };
    let message = format!("a port cannot lead into network `{}`, which is {}", network.name, mode.as_str());
    let problem = Problem::new(draft.place.clone(), message).with_label("nothing gets in from outside");
    Some(problem.with_other(attachment.place.clone(), "the container's network"))
}

type Mapping<'a> = (&'a containers::Draft, &'a ports::Draft);

/// What one port is taken by so far.
#[derive(Default)]
struct Taken<'a> {
    /// Any mapping.
    first: Option<Mapping<'a>>,
    /// The one of every address.
    wide: Option<Mapping<'a>>,
    one: HashMap<IpAddr, Mapping<'a>>,
}

impl<'a> Taken<'a> {
    /// The mapping there is already for this address, or for some of all.
    fn clash(&self, address: Option<IpAddr>) -> Option<Mapping<'a>> {
        match address {
            Some(one) => self.wide.or(self.one.get(&one).copied()),
            None => self.first,
        }
    }

    fn take(&mut self, address: Option<IpAddr>, new: Mapping<'a>) {
        self.first.get_or_insert(new);
        match address {
            Some(one) => {
                self.one.entry(one).or_insert(new);
            }
            None => {
                self.wide.get_or_insert(new);
            }
        }
    }
}

/// What the ports of one protocol and family are taken by so far.
#[derive(Default)]
struct Service<'a> {
    single: BTreeMap<u16, Taken<'a>>,
    ranges: Vec<(PortRange, Option<IpAddr>, Mapping<'a>)>,
}

impl<'a> Service<'a> {
    /// The mapping there is already for some of the ports at an address, or at all of them; the new one is taken down.
    fn take(&mut self, ports: PortRange, address: Option<IpAddr>, new: Mapping<'a>) -> Option<Mapping<'a>> {
        let overlaps = |(other, at, _): &&(PortRange, Option<IpAddr>, Mapping<'a>)| {
            other.overlap(ports).is_some() && (*at == address || at.is_none() || address.is_none())
        };
        let clash = self.single.range(ports.ports()).find_map(|(_, taken)| taken.clash(address));
        let clash = clash.or_else(|| self.ranges.iter().find(overlaps).map(|(.., mapping)| *mapping));
        if ports.is_one() {
            self.single.entry(ports.first).or_default().take(address, new);
        } else {
            self.ranges.push((ports, address, new));
        }
        clash
    }
}

/// Two mappings of one host port on addresses that overlap. Where a family is routed, a mapping takes no host port, but
/// opens one of the container's; two that do are a clash unless they say the same.
fn port_clashes(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    let mut published: HashMap<(Protocol, bool), Service> = HashMap::new();
    for container in containers {
        let mut opened: HashMap<(usize, Protocol, bool), Service> = HashMap::new();
        for draft in &container.ports {
            let (port, new) = (&draft.port, (container, draft));
            let address = match port.address {
                PortAddress::One(one) => Some(one),
                _ => None,
            };
            let (mut twice, mut again) = (None, None);
            for ipv6 in [false, true] {
                let Some(target) = port.targets[usize::from(ipv6)] else { continue };
                if networks[container.attachments[target].network].mode(ipv6) == Some(Mode::Routed) {
                    let service = opened.entry((target, port.protocol, ipv6)).or_default();
                    again = again.or(service.take(port.container, None, new));
                } else {
                    let service = published.entry((port.protocol, ipv6)).or_default();
                    twice = twice.or(service.take(port.host, address, new));
                }
            }
            problems.extend(twice.map(|first| published_twice(first, new)));
            let again = again.filter(|(_, first)| !opens_the_same(first, draft));
            problems.extend(again.map(|(_, first)| opened_twice(container, first, draft)));
        }
    }
}

/// Whether two mappings open the same ports for the same sources.
fn opens_the_same(a: &ports::Draft, b: &ports::Draft) -> bool {
    let list = |draft: &ports::Draft| draft.allow.iter().map(|net| net.value).collect::<Vec<_>>();
    a.port.container == b.port.container && list(a) == list(b)
}

/// `port 80`, `ports 80-89`, and the verb.
fn in_words(ports: Option<PortRange>) -> (String, &'static str) {
    match ports {
        Some(range) if !range.is_one() => (format!("ports {range}"), "are"),
        range => (format!("port {}", range.map(|range| range.to_string()).unwrap_or_default()), "is"),
    }
}

fn opened_twice(container: &containers::Draft, first: &ports::Draft, draft: &ports::Draft) -> Problem {
    let (ports, are) = in_words(first.port.container.overlap(draft.port.container));
    let protocol = draft.port.protocol.as_str();
    let message = format!("{ports}/{protocol} of container `{}` {are} opened twice", container.name);
    Problem::new(draft.place.clone(), message)
        .with_label("the second")
        .with_other(first.place.clone(), "the first")
        .with_help("on a routed network a mapping opens the container's port: say it once, with one list")
}

fn published_twice((first_of, first): Mapping, (container, draft): Mapping) -> Problem {
    let (ports, are) = in_words(first.port.host.overlap(draft.port.host));
    let message = format!("host {ports}/{} {are} published twice", draft.port.protocol.as_str());
    Problem::new(draft.place.clone(), message)
        .with_label(format!("by container `{}`{}", container.name, on(draft.port.address)))
        .with_other(first.place.clone(), format!("by container `{}`{}", first_of.name, on(first.port.address)))
}

/// The addresses of a mapping in words.
fn on(address: PortAddress) -> String {
    match address {
        PortAddress::Any => ", on every address".to_owned(),
        PortAddress::AnyIpv4 => ", on every IPv4 address".to_owned(),
        PortAddress::AnyIpv6 => ", on every IPv6 address".to_owned(),
        PortAddress::One(one) => format!(", on {one}"),
    }
}
