//! What only the whole shows: clashes between networks, between containers, and of one with the other. Every check is
//! near linear, by sorting or hashing: a file may have ten thousand containers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use super::networks::DraftSubnet;
use super::overlay::OverlayDraft;
use super::reader::{Placed, Problems};
use super::report::Problem;
use super::sysctl::{self, Decided};
use super::types::{ContainerNetns, Mode, Place, PortAddress, PortRange, Protocol};
use super::{cluster, containers, hosts, networks, ports, values};
use crate::state::{INTERFACE_NAME_MAX, IP6_RT_PRIO_ADDRCONF, InterfaceName, WAY_METRIC, usual_metric};

/// The most ports of a bridge: numbers 1 to `BR_MAX_PORTS` - 1 of the kernel's `br_private.h`.
const BRIDGE_PORTS: usize = 1023;

/// All of them. The cluster's network has hosts that the file does not name.
pub(super) fn all(
    hosts: &[hosts::Draft],
    cluster: Option<&cluster::Draft>,
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    self::hosts(hosts, problems);
    overlays(hosts, cluster, networks, containers, problems);
    overlaps(networks, problems);
    bridges(networks, problems);
    trusted(networks, problems);
    parents(hosts, networks, containers, problems);
    namespaces(hosts, containers, problems);
    bridge_ports(hosts, networks, containers, problems);
    addresses(hosts, networks, containers, problems);
    macs(networks, containers, problems);
    interfaces(containers, problems);
    sysctls(networks, containers, problems);
    routes(hosts, networks, containers, problems);
    ports(networks, containers, problems);
    port_clashes(hosts, networks, containers, problems);
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

/// Two hosts with one number or one address.
fn hosts(hosts: &[hosts::Draft], problems: &mut Problems) {
    let (mut ids, mut addresses) = (Firsts::new(), Firsts::new());
    for host in hosts {
        let id = ids.before(host.id.value, &host.id.place).map(|first| (&host.id.place, first, "number"));
        let taken = host.addresses.iter().filter_map(|Placed { value, place }| {
            let first = addresses.before(*value, place)?;
            Some((place, first, "address"))
        });
        for (place, first, what) in id.into_iter().chain(taken) {
            problems.push(
                Problem::new(place.clone(), format!("two hosts have one {what}"))
                    .with_label("the second")
                    .with_other(first, "the first"),
            );
        }
    }
}

/// Overlay networks without hosts, with one VNI, with too few pieces, and containers on them that live nowhere.
fn overlays(
    hosts: &[hosts::Draft],
    cluster: Option<&cluster::Draft>,
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    let mut vnis = Firsts::new();
    host_addresses(hosts, networks, problems);
    for (index, network) in networks.iter().enumerate() {
        let Some(overlay) = network.overlay() else { continue };
        out_of_reach(network, overlay, hosts, problems);
        if hosts.is_empty() && cluster.is_none_or(|cluster| !cluster.may_be_of(index)) {
            let problem =
                Problem::new(network.place.clone(), format!("overlay network `{}` has no hosts", network.name));
            problems.push(problem.with_help("name them: `[hosts.a]` with `id = 1` and `address = \"192.0.2.1\"`"));
        }
        if let Some(Placed { value: vni, place }) = &overlay.vni
            && let Some(first) = vnis.before(*vni, place)
        {
            problems.push(
                Problem::new(place.clone(), format!("two networks have the VNI {vni}"))
                    .with_label("the second")
                    .with_other(first, "the first"),
            );
        }
        for subnet in network.subnets.iter().filter(|_| overlay.topology.has_pieces()) {
            let length = overlay.host_prefix[usize::from(subnet.net.is_ipv6())];
            let Some(bits) = length.checked_sub(subnet.net.prefix()) else { continue };
            for host in hosts.iter().filter(|host| bits < 32 && host.id.value >> bits != 0) {
                let message = format!(
                    "host `{}` has no piece of `{}`: the last /{length} is number {}",
                    host.name,
                    subnet.net,
                    (1_u64 << bits) - 1
                );
                let problem = Problem::new(host.id.place.clone(), message);
                problems.push(problem.with_other(subnet.place.clone(), format!("of network `{}`", network.name)));
            }
        }
    }
    for container in containers.iter().filter(|c| !c.says_host) {
        let mut attachments = container.attachments.iter();
        if let Some(attachment) = attachments.find(|a| {
            networks[a.network].overlay().is_some() && cluster.is_none_or(|cluster| !cluster.may_be_of(a.network))
        }) {
            let name = &networks[attachment.network].name;
            let message = format!("container `{}` is on overlay network `{name}`, but on no host", container.name);
            let problem = Problem::new(attachment.place.clone(), message);
            problems.push(problem.with_help("say where it lives, as its peers have to know: `host = \"NAME\"`"));
        }
    }
}

/// Hosts that their peers know by an address of a network, and tunnels between addresses of two families.
fn host_addresses(hosts: &[hosts::Draft], networks: &[networks::Draft], problems: &mut Problems) {
    for Placed { value: address, place } in hosts.iter().flat_map(|host| &host.addresses) {
        if let Some((network, subnet)) = networks.iter().find_map(|n| Some((n, n.subnet_of(*address)?))) {
            let message = format!("the host's address `{address}` is in a subnet of network `{}`", network.name);
            let problem = Problem::new(place.clone(), message).with_other(subnet.place.clone(), "the subnet");
            problems.push(problem.with_help("it is where packets between containers go, so it is outside of them"));
        }
    }
    let mut tunnels = networks.iter().filter(|n| n.overlay().is_some_and(OverlayDraft::has_tunnel));
    let Some(network) = tunnels.next() else { return };
    let mut ends = hosts.iter().filter_map(|host| host.addresses.first());
    let Some(first) = ends.next() else { return };
    for other in ends.filter(|end| end.value.is_ipv6() != first.value.is_ipv6()) {
        let message = format!("tunnels cannot lead from `{}` to `{}`", first.value, other.value);
        let problem = Problem::new(other.place.clone(), message).with_other(first.place.clone(), "of another family");
        let problem = problem.with_other(network.place.clone(), "a network with tunnels");
        problems.push(problem.with_help("a tunnel ends at the first address of a host: list that of one family first"));
    }
}

/// Pieces that other hosts do not reach: without a gateway, or by a link that a host has no address of the family on.
fn out_of_reach(network: &networks::Draft, overlay: &OverlayDraft, hosts: &[hosts::Draft], problems: &mut Problems) {
    if overlay.is_bridged() {
        return;
    }
    for ipv6 in [false, true].into_iter().filter(|ipv6| network.mode(*ipv6).is_some()) {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        if network.subnets.iter().any(|s| s.net.is_ipv6() == ipv6 && s.gateway.is_none()) {
            let message = format!("the hosts of network `{}` have no {family} address on it", network.name);
            let problem = Problem::new(network.place.clone(), message);
            problems.push(problem.with_help(
                "each host routes to the others' containers, by its gateway: for a network that nothing leaves, write \
                 `internal = true`",
            ));
        }
        if overlay.has_tunnel() {
            continue;
        }
        for host in hosts.iter().filter(|host| !host.addresses.iter().any(|a| a.value.is_ipv6() == ipv6)) {
            let message = format!("host `{}` has no {family} address", host.name);
            let problem = Problem::new(host.place.clone(), message);
            let problem =
                problem.with_other(network.place.clone(), format!("its {family} is routed by the hosts' own"));
            problems.push(problem.with_help("list both: `address = [\"192.0.2.1\", \"2001:db8::1\"]`"));
        }
    }
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
    for network in networks.iter().filter(|n| n.has_bridge() && n.bridge.is_none()) {
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

/// Devices that are trusted, or that a tunnel is to run over, and are netrec's own: bridges and tunnels of networks.
fn trusted(networks: &[networks::Draft], problems: &mut Problems) {
    let bridge = |network: &networks::Draft| match &network.bridge {
        Some(given) => given.value.to_string(),
        None => format!("nr-{}", network.name),
    };
    let bridges = networks.iter().filter(|network| network.has_bridge());
    let bridges = bridges.map(|network| (bridge(network), ("bridge", network)));
    let tunnels = networks.iter().filter(|n| n.overlay().is_some_and(OverlayDraft::has_tunnel));
    let tunnels = tunnels.map(|network| (format!("vx-{}", network.name), ("tunnel", network)));
    let devices: HashMap<String, (&str, &networks::Draft)> = bridges.chain(tunnels).collect();
    for Placed { value: trusted, place } in networks.iter().flat_map(|network| &network.trusted) {
        let Some((what, other)) = devices.get(trusted.as_str()) else { continue };
        let message = format!("`{trusted}` is the {what} of network `{}`", other.name);
        let problem = Problem::new(place.clone(), message).with_label("its containers would be let in");
        problems.push(problem.with_help("put the containers that are to reach each other on one network"));
    }
    for Placed { value: underlay, place } in networks.iter().filter_map(|n| n.overlay()?.underlay.as_ref()) {
        let Some((what, other)) = devices.get(underlay.as_str()) else { continue };
        let message = format!("`{underlay}` is the {what} of network `{}`", other.name);
        problems.push(Problem::new(place.clone(), message).with_label("it does not lead to other hosts"));
    }
    for (Placed { value: parent, place }, _) in networks.iter().filter_map(networks::Draft::parent) {
        let below = parent.vlan.map_or(parent.name, |(below, _)| below);
        let own = [parent.name, below].into_iter().find_map(|name| Some((name, devices.get(name.as_str())?)));
        let Some((name, (what, other))) = own else { continue };
        let message = format!("`{name}` is the {what} of network `{}`", other.name);
        let problem = Problem::new(place.clone(), message).with_label("its rules would be got around");
        problems.push(problem.with_help(format!("put the containers on network `{}` itself", other.name)));
    }
}

/// Networks on one device that exclude each other, and a second container on one that is handed on as a whole. Hosts have
/// devices of their own, so that only those count that have containers on both.
fn parents(
    hosts: &[hosts::Draft],
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    let mut users: HashMap<usize, BTreeSet<usize>> = HashMap::new();
    let mut whole = Firsts::new();
    for container in containers {
        for attachment in &container.attachments {
            let network = &networks[attachment.network];
            let on = container.hosts(hosts.len());
            users.entry(attachment.network).or_default().extend(on.clone());
            if !network.is_passthru() {
                continue;
            }
            let firsts = on.map(|host| whole.before((attachment.network, host), &attachment.place));
            if let Some(first) = firsts.fold(None, Option::or) {
                let message = format!("network `{}` takes one container only", network.name);
                let problem = Problem::new(attachment.place.clone(), message).with_label("the second");
                let problem = problem.with_other(first, "the first");
                problems.push(problem.with_help("with type `passthru` it has the whole device: use type `bridge`"));
            }
        }
    }
    // On each host's device, the first network of each sort.
    let mut on_device: HashMap<(&str, usize), Vec<&networks::Draft>> = HashMap::new();
    for (index, network) in networks.iter().enumerate() {
        let Some((parent, _)) = network.parent() else { continue };
        let of_file = BTreeSet::from([0]);
        let on = if hosts.is_empty() { Some(&of_file) } else { users.get(&index) };
        let mut found = None;
        for host in on.into_iter().flatten() {
            let earlier = on_device.entry((parent.value.name.as_str(), *host)).or_default();
            found = found.or_else(|| earlier.iter().find_map(|other| Some((*other, not_beside(other, network)?))));
            if !earlier.iter().any(|other| not_beside(other, network).is_none()) {
                earlier.push(network);
            }
        }
        let Some((other, why)) = found else { continue };
        let name = &parent.value.name;
        let message = format!("networks `{}` and `{}` cannot both be on `{name}`", other.name, network.name);
        let problem = Problem::new(parent.place.clone(), message).with_label(why);
        problems.push(match other.parent() {
            Some((first, _)) => problem.with_other(first.place.clone(), "the first"),
            None => problem,
        });
    }
}

/// Why two networks cannot be on one device.
fn not_beside(first: &networks::Draft, second: &networks::Draft) -> Option<String> {
    let ((_, kind), (_, other)) = (first.parent()?, second.parent()?);
    if kind != other {
        return Some(format!("a device takes either macvlans or ipvlans: network `{}` has {kind}s on it", first.name));
    }
    if let Some(passthru) = [second, first].into_iter().find(|network| network.is_passthru()) {
        return Some(format!("network `{}` has the whole device (type `passthru`)", passthru.name));
    }
    let differ = first.ipvlan_mode() != second.ipvlan_mode();
    differ.then(|| format!("all ipvlans on a device are of one type: network `{}` is of another", first.name))
}

/// Two containers in one namespace.
fn namespaces(hosts: &[hosts::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    let mut seen = Firsts::new();
    for container in containers {
        let Placed { value, place } = &container.netns;
        let Some(path) = namespace_path(value) else { continue };
        let firsts = container.hosts(hosts.len()).map(|host| seen.before((host, path.clone()), place));
        if let Some(first) = firsts.fold(None, Option::or) {
            let message = match value.netns().source() {
                Some(source) => format!("two containers have the namespace of {source}"),
                None => format!("two containers have the namespace `{}`", value.netns()),
            };
            problems.push(Problem::new(place.clone(), message).with_label("the second").with_other(first, "the first"));
        }
    }
}

/// The path of a namespace without what does not matter in it, so that two spellings of one are equal; none of the host's,
/// which any number may have.
fn namespace_path(netns: &ContainerNetns) -> Option<String> {
    let label = netns.netns().label().unwrap_or_default();
    let path = match netns {
        ContainerNetns::Named(_) => format!("/run/netns/{label}"),
        ContainerNetns::Path(_) => label.to_owned(),
        ContainerNetns::Host => return None,
        // No path begins so.
        ContainerNetns::Source(_) => return Some(label.to_owned()),
    };
    let parts: Vec<_> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    // `/var/run` is a link to `/run`.
    let parts = if parts.starts_with(&["var", "run"]) { &parts[1..] } else { &parts[..] };
    Some(parts.join("/"))
}

/// More containers on a network than a bridge has ports, on one host.
fn bridge_ports(
    hosts: &[hosts::Draft],
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    // A tunnel is a port too.
    let tunnels = networks.iter().map(|n| usize::from(n.overlay().is_some_and(OverlayDraft::is_bridged)));
    let tunnels: Vec<usize> = tunnels.collect();
    let mut counts: BTreeMap<(usize, usize), (usize, Option<Place>)> = BTreeMap::new();
    for container in containers {
        for (attachment, host) in
            container.attachments.iter().flat_map(|a| container.hosts(hosts.len()).map(move |host| (a, host)))
        {
            let (count, excess) = counts.entry((attachment.network, host)).or_default();
            *count += 1;
            if *count == BRIDGE_PORTS + 1 - tunnels[attachment.network] {
                *excess = Some(attachment.place.clone());
            }
        }
    }
    for ((index, _), (count, excess)) in counts {
        let network = &networks[index];
        if let Some(place) = excess.filter(|_| network.has_bridge()) {
            problems.push(
                Problem::new(
                    place,
                    format!(
                        "network `{}` has {count} containers{}, but a bridge has {BRIDGE_PORTS} ports at most",
                        network.name,
                        if tunnels[index] == 0 { "" } else { " on a host, and a tunnel" }
                    ),
                )
                .with_label("the first one too many")
                .with_other(network.place.clone(), "the network"),
            );
        }
    }
}

/// Addresses outside of their network, unusable ones, and ones used twice.
fn addresses(
    hosts: &[hosts::Draft],
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    let mut seen = Firsts::new();
    let attachments = containers.iter().flat_map(|c| c.attachments.iter().map(move |attachment| (c, attachment)));
    for (container, attachment) in attachments {
        let network = &networks[attachment.network];
        let host = container.host_index().map(|host| &hosts[host]);
        for Placed { value: address, place } in &attachment.addresses {
            if let Some(problem) =
                misfit(network, *address, place).or_else(|| elsewhere(network, host?, *address, place))
            {
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

/// Why an address cannot be a container's on a host: it is of another host's piece, or the piece's own.
fn elsewhere(network: &networks::Draft, host: &hosts::Draft, address: IpAddr, place: &Place) -> Option<Problem> {
    let subnet = network.subnet_of(address)?;
    let piece = network.overlay()?.piece(subnet.net, host.id.value)?;
    if piece == subnet.net {
        return None;
    }
    let problem = if !piece.contains(address) {
        let message = format!("address `{address}` is not in the piece of host `{}`, which is {piece}", host.name);
        Problem::new(place.clone(), message)
    } else if let Some(why) = values::unusable(address, &piece) {
        Problem::new(
            place.clone(),
            format!("address `{address}` is {why} of the piece of host `{}`, {piece}", host.name),
        )
    } else if address == values::next(piece.network()) {
        Problem::new(place.clone(), format!("address `{address}` is the gateway of the piece of host `{}`", host.name))
    } else {
        return None;
    };
    Some(problem.with_other(host.place.clone(), "the host"))
}

/// MAC addresses used twice on one network, or on one device by which several are.
fn macs(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    let mut seen = Firsts::new();
    for attachment in containers.iter().flat_map(|c| &c.attachments) {
        let Some(Placed { value: mac, place }) = &attachment.mac else { continue };
        let network = &networks[attachment.network];
        let parent = network.parent().map(|(parent, _)| parent.value.name);
        let link = (parent, if parent.is_some() { 0 } else { attachment.network });
        if let Some(first) = seen.before((link, *mac), place) {
            let on =
                parent.map_or_else(|| format!("network `{}`", network.name), |parent| format!("device `{parent}`"));
            problems.push(
                Problem::new(place.clone(), format!("MAC address `{mac}` is used twice on {on}"))
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

/// Parameters of interfaces that netrec itself decides.
fn sysctls(networks: &[networks::Draft], containers: &[containers::Draft], problems: &mut Problems) {
    for container in containers {
        let of = |index: usize| &networks[container.attachments[index].network];
        let own = (0..container.attachments.len())
            .flat_map(|index| container.attachments[index].sysctls.iter().map(move |sysctl| (sysctl, vec![index])));
        let interfaces = if container.sysctls.is_empty() { Vec::new() } else { container.interfaces() };
        // What is said of all devices, or of those to come, is said of each, where the kernel passes it on.
        let named = |device: &str, parameter: &str| -> Vec<usize> {
            let passed_on =
                matches!(device, "all" | "default") && matches!(parameter, "addr_gen_mode" | "disable_ipv6");
            let is_meant = |name: &InterfaceName| passed_on || name.as_str() == device;
            let meant = interfaces.iter().enumerate().filter(|(_, name)| is_meant(name));
            meant.map(|(index, _)| index).collect()
        };
        let general = container.sysctls.iter().filter_map(|sysctl| {
            let mut parts = sysctl.value.0.split('/').skip(3);
            Some((sysctl, named(parts.next()?, parts.next()?)))
        });
        for (Placed { value: (path, value), place }, meant) in own.chain(general) {
            let mut parts = path.split('/').skip(1);
            let (Some(family), Some("conf"), Some(parameter)) = (parts.next(), parts.next(), parts.nth(1)) else {
                continue;
            };
            let problem = |message| Problem::new(place.clone(), message);
            match sysctl::decided(family, parameter, value) {
                Some(Decided::Never(why)) => {
                    let message = format!("`{parameter}` cannot be set by a file");
                    problems.push(problem(message).with_help(why));
                }
                Some(Decided::Always(how)) if !meant.is_empty() => {
                    let message = format!("`{parameter}` of an interface is netrec's to decide");
                    problems.push(problem(message).with_help(how));
                }
                Some(Decided::WithIpv6) => {
                    let mut networks = meant.into_iter().map(of);
                    let ipv6 = networks.find_map(|n| Some((n, n.subnets.iter().find(|s| s.net.is_ipv6())?)));
                    if let Some((network, subnet)) = ipv6 {
                        let message =
                            format!("`{parameter}` would take away the container's IPv6 on `{}`", network.name);
                        let problem = problem(message).with_other(subnet.place.clone(), "it has this subnet");
                        problems.push(problem.with_help("put the container on networks without IPv6"));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Routes by routers that their network does not have, and two of a container's to one place.
fn routes(
    hosts: &[hosts::Draft],
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    for container in containers {
        let mut seen = Firsts::new();
        for attachment in &container.attachments {
            let network = &networks[attachment.network];
            for route in &attachment.routes {
                let host = container.host_index().map(|host| &hosts[host]);
                problems.extend(route.via.as_ref().and_then(|via| no_router(network, host, via, route)));
                if let Some(first) = seen.before((route.to.value, route.metric), &route.place) {
                    let message = format!(
                        "container `{}` has two routes to `{}` of one metric ({})",
                        container.name, route.to.value, route.metric
                    );
                    let problem = Problem::new(route.place.clone(), message).with_label("the second");
                    let problem = problem.with_other(first, "the first");
                    problems.push(problem.with_help("the one of the lower `metric` is used"));
                } else {
                    problems.extend(taken_route(networks, container, route));
                }
            }
        }
    }
}

/// Why an address cannot be the router of a route.
fn no_router(
    network: &networks::Draft,
    host: Option<&hosts::Draft>,
    via: &Placed<IpAddr>,
    route: &containers::DraftRoute,
) -> Option<Problem> {
    let Placed { value: address, place } = via;
    if address.is_ipv6() != route.to.value.is_ipv6() {
        let family = |ipv6| if ipv6 { "IPv6" } else { "IPv4" };
        let (to, router) = (family(route.to.value.is_ipv6()), family(address.is_ipv6()));
        let message = format!("an {to} route cannot lead by an {router} router");
        return Some(Problem::new(place.clone(), message).with_other(route.to.place.clone(), format!("it is {to}")));
    }
    // One by its link-local address is on every link that has IPv6.
    if let IpAddr::V6(ip) = address
        && ip.is_unicast_link_local()
        && network.subnets.iter().any(|subnet| subnet.net.is_ipv6())
    {
        return None;
    }
    let Some(subnet) = network.subnet_of(*address) else {
        return network.whole.then(|| network.stranger(*address, place.clone(), &format!("the router `{address}`")));
    };
    if let Some(why) = values::unusable(*address, &subnet.net) {
        let message = format!("the router `{address}` is {why} of `{}`", subnet.net);
        return Some(Problem::new(place.clone(), message).with_other(subnet.place.clone(), "the subnet"));
    }
    let piece = network.overlay()?.piece(subnet.net, host?.id.value)?;
    (!piece.contains(*address)).then(|| {
        let host = host.map(|host| host.name.to_string()).unwrap_or_default();
        let message = format!("the router `{address}` is not in the piece of host `{host}`, which is {piece}");
        Problem::new(place.clone(), message)
    })
}

/// Why a route cannot be, where another one has its place: a default route, or one to a subnet that the container is in.
fn taken_route(
    networks: &[networks::Draft],
    container: &containers::Draft,
    route: &containers::DraftRoute,
) -> Option<Problem> {
    let (to, ipv6) = (route.to.value, route.to.value.is_ipv6());
    if to.prefix() == 0
        && route.metric == usual_metric(to)
        && let Some(default) = container.default_routes[usize::from(ipv6)].map(|index| &container.attachments[index])
    {
        let name = &networks[default.network].name;
        let message = format!("the default route of container `{}` leads by network `{name}`", container.name);
        let problem = Problem::new(route.place.clone(), message).with_other(default.place.clone(), "the network");
        let help = format!("give this one a `metric` other than {}, which is the other's", route.metric);
        return Some(problem.with_help(help));
    }
    let subnets = container.attachments.iter().flat_map(|a| networks[a.network].subnets.iter().map(move |s| (a, s)));
    let (attachment, subnet) = subnets.into_iter().find(|(attachment, subnet)| {
        let overlay = networks[attachment.network].overlay();
        let by_hosts = overlay.is_some_and(|overlay| overlay.topology.has_pieces() && route.metric == WAY_METRIC);
        subnet.net == to && (by_hosts || route.metric == if ipv6 { IP6_RT_PRIO_ADDRCONF } else { 0 })
    })?;
    let message = format!("container `{}` is in `{to}` itself, by a route of that metric", container.name);
    let problem = Problem::new(route.place.clone(), message).with_other(attachment.place.clone(), "by this network");
    let problem = problem.with_other(subnet.place.clone(), "its subnet");
    Some(problem.with_help("give the route another `metric`"))
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
            if draft.port.plugin.is_some() {
                let message = "a plugin cannot be told who may use a port";
                problems.extend(draft.allow.first().map(|net| Problem::new(net.place.clone(), message)));
                continue;
            }
            if draft.port.targets == [None; 2] {
                problems.extend(leads_nowhere(networks, container, draft));
                continue;
            }
            problems.extend(answers_elsewhere(networks, container, draft));
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

/// Why the answers of a port would not pass the host that translates them: the container sends them to a router outside.
fn answers_elsewhere(
    networks: &[networks::Draft],
    container: &containers::Draft,
    draft: &ports::Draft,
) -> Option<Problem> {
    let network = |index: usize| &networks[container.attachments[index].network];
    let (target, default) = draft.port.targets.iter().zip(container.default_routes).find_map(|(target, default)| {
        let default = default.filter(|index| !network(*index).has_bridge())?;
        Some(((*target)?, default))
    })?;
    let (by, to) = (&network(default).name, &network(target).name);
    let message = format!("answers of the port would leave container `{}` by network `{by}`", container.name);
    let problem = Problem::new(draft.place.clone(), message).with_label("and not by the host, which has to see them");
    let problem = problem.with_other(container.attachments[default].place.clone(), "it has the default route");
    Some(problem.with_help(format!("give it a higher `priority` on `{to}`, or write `gateway = false` for `{by}`")))
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
    let outside = candidates.clone().find(|(_, network)| !network.has_bridge());
    if let Some((attachment, network)) = outside.filter(|_| candidates.all(|(_, network)| !network.has_bridge())) {
        let driver = network.driver_name();
        let (message, why) = match network.parent() {
            Some((parent, _)) => (
                format!("a port cannot lead into network `{}`, which is not the host's", network.name),
                format!(
                    "{driver}: the container is reached by its own address, on the link of `{}`",
                    parent.value.name
                ),
            ),
            None if network.is_remote() => {
                let family = if draft.port.has_family(true) { "IPv6" } else { "IPv4" };
                (
                    format!("the port has an {family} address, but network `{}` has no {family}", network.name),
                    "its plugin would be told of a port that leads nowhere".to_owned(),
                )
            }
            None if network.is_host() => (
                format!("container `{}` has the host's own stack, so that nothing has to lead to it", container.name),
                "what listens in it listens on the host".to_owned(),
            ),
            None => (
                format!("container `{}` is on network `{}`, by which nothing reaches it", container.name, network.name),
                "it has `lo` alone".to_owned(),
            ),
        };
        let problem = Problem::new(draft.place.clone(), message).with_label(why);
        return Some(problem.with_other(attachment.place.clone(), format!("its driver is `{driver}`")));
    }
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
fn port_clashes(
    hosts: &[hosts::Draft],
    networks: &[networks::Draft],
    containers: &[containers::Draft],
    problems: &mut Problems,
) {
    let mut published: HashMap<(usize, Protocol, bool), Service> = HashMap::new();
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
                let by_plugin = port.plugin.filter(|_| port.has_family(ipv6));
                let Some(target) = port.targets[usize::from(ipv6)].or(by_plugin) else { continue };
                if networks[container.attachments[target].network].mode(ipv6) == Some(Mode::Routed) {
                    let service = opened.entry((target, port.protocol, ipv6)).or_default();
                    again = again.or(service.take(port.container, None, new));
                    continue;
                }
                for host in container.hosts(hosts.len()) {
                    let service = published.entry((host, port.protocol, ipv6)).or_default();
                    twice = twice.or(service.take(port.host, address, new));
                }
            }
            problems.extend(twice.map(|first| published_twice(first, new)));
            let again = again.filter(|(_, first)| !opens_the_same(first, draft));
            problems.extend(again.map(|(_, first)| opened_twice(container, first, draft)));
            problems.extend(the_tunnels(networks, draft));
        }
    }
}

/// A host port that is a tunnel's.
fn the_tunnels(networks: &[networks::Draft], draft: &ports::Draft) -> Option<Problem> {
    let is_meant = |overlay: &OverlayDraft| overlay.has_tunnel() && draft.port.host.contains(overlay.port);
    let (network, overlay) = networks
        .iter()
        .filter(|_| draft.port.protocol == Protocol::Udp)
        .find_map(|network| Some((network, network.overlay().filter(|overlay| is_meant(overlay))?)))?;
    let message = format!("host port {}/udp is the tunnel's of network `{}`", overlay.port, network.name);
    Some(Problem::new(draft.place.clone(), message).with_other(network.place.clone(), "the network"))
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
