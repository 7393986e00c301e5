//! `[containers.NAME]` and its attachments: one container at a time.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;

use ipnetwork::IpNetwork;

use super::file::{Hosts, Networks, owner};
use super::networks::interface_name;
use super::reader::{Item, Placed, Problems, Table, known_ones, named, parsed, tick};
use super::report::Problem;
use super::sysctl::{self, Sysctls};
use super::types::{Attachment, Container, ContainerNetns, ContainerRoute, Mode, Place, of_hosts};
use super::{keys, netns, networks, ports, values};
use crate::state::{InterfaceName, Mac, Netns, ObjectName, Owner, Rate, usual_metric};

/// A container as far as it could be read, with the places that checks need.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ObjectName,
    pub(super) place: Place,
    /// Index into the hosts.
    pub(super) host: Option<Placed<usize>>,
    /// Whether it says where it lives, be it wrongly.
    pub(super) says_host: bool,
    /// With the place that gives it: the key, or the container's name.
    pub(super) netns: Placed<ContainerNetns>,
    pub(super) attachments: Vec<DraftAttachment>,
    /// Whether every attachment could be read, so that a missing one is missing for sure.
    pub(super) whole: bool,
    pub(super) ports: Vec<ports::Draft>,
    /// The attachments (by index) that give the default routes of IPv4 and IPv6.
    pub(super) default_routes: [Option<usize>; 2],
    pub(super) sysctls: Sysctls,
}

/// An attachment with its places.
#[derive(Debug)]
pub(super) struct DraftAttachment {
    /// Index into the networks.
    pub(super) network: usize,
    pub(super) place: Place,
    pub(super) addresses: Vec<Placed<IpAddr>>,
    pub(super) mac: Option<Placed<Mac>>,
    pub(super) interface: Option<Placed<InterfaceName>>,
    /// The highest gives the default routes.
    priority: i32,
    pub(super) routes: Vec<DraftRoute>,
    ingress: Option<Rate>,
    egress: Option<Rate>,
    pub(super) sysctls: Sysctls,
    owner: Owner,
}

/// A route with its places.
#[derive(Debug)]
pub(super) struct DraftRoute {
    /// The whole of it.
    pub(super) place: Place,
    pub(super) to: Placed<IpNetwork>,
    /// The router; none where packets are lost.
    pub(super) via: Option<Placed<IpAddr>>,
    pub(super) metric: u32,
}

impl Draft {
    /// Whether it has the host's own stack.
    pub(super) fn shares_host(&self) -> bool {
        self.netns.value == ContainerNetns::Host
    }

    /// The host that it lives on.
    pub(super) fn host_index(&self) -> Option<usize> {
        self.host.as_ref().map(|host| host.value)
    }

    /// The hosts (by index) that it is on, of as many: its own, or every one; the one there is where the file names none.
    pub(super) fn hosts(&self, count: usize) -> Range<usize> {
        of_hosts(self.host_index(), count)
    }

    /// The names of its interfaces, in the order of its attachments: those without a name get the first free `ethN`.
    pub(super) fn interfaces(&self) -> Vec<InterfaceName> {
        let given: HashSet<_> = self.attachments.iter().filter_map(|a| Some(a.interface.as_ref()?.value)).collect();
        let mut free = (0_u32..).filter_map(|n| format!("eth{n}").parse().ok()).filter(|name| !given.contains(name));
        let name = |a: &DraftAttachment| a.interface.as_ref().map(|i| i.value).or_else(|| free.next());
        self.attachments.iter().filter_map(name).collect()
    }

    /// The container, once nothing is wrong.
    pub(super) fn finish(self) -> Container {
        let interfaces = self.interfaces();
        let attachment = |(a, interface): (DraftAttachment, InterfaceName)| Attachment {
            network: a.network,
            owner: a.owner,
            place: a.place,
            addresses: a.addresses.into_iter().map(|a| a.value).collect(),
            mac: a.mac.map(|m| m.value),
            interface,
            priority: a.priority,
            routes: a.routes.into_iter().map(DraftRoute::finish).collect(),
            ingress: a.ingress,
            egress: a.egress,
            sysctls: a.sysctls.into_iter().map(|sysctl| sysctl.value).collect(),
        };
        Container {
            owner: owner(&["containers", self.name.as_str()]),
            name: self.name,
            place: self.place,
            host: self.host.map(|host| host.value),
            netns: self.netns.value,
            attachments: self.attachments.into_iter().zip(interfaces).map(attachment).collect(),
            ports: self.ports.into_iter().map(ports::Draft::finish).collect(),
            default_routes: self.default_routes,
            sysctls: self.sysctls.into_iter().map(|sysctl| sysctl.value).collect(),
        }
    }
}

impl DraftRoute {
    fn finish(self) -> ContainerRoute {
        ContainerRoute { place: self.place, to: self.to.value, via: self.via.map(|via| via.value), metric: self.metric }
    }
}

/// Reads a container.
pub(super) fn read(
    name: ObjectName,
    item: &Item,
    hosts: &Hosts,
    networks: &Networks,
    problems: &mut Problems,
) -> Option<Draft> {
    let table = item.table(&format!("write `[containers.{name}]`"), problems)?;
    table.check_keys(&keys::CONTAINER, problems);
    let place = item.key_place();
    let netns = netns::read(&table, problems);
    let default = || Placed { value: ContainerNetns::Named(Netns::new(name.as_str())), place: place.clone() };
    let host = table.get("host").and_then(|item| read_host(&item, hosts, problems));
    let mut draft = Draft {
        host,
        says_host: table.get("host").is_some(),
        netns: netns.unwrap_or_else(default),
        attachments: Vec::new(),
        whole: true,
        ports: Vec::new(),
        default_routes: [None; 2],
        sysctls: table.get("sysctl").map(|item| sysctl::read(&item, problems)).unwrap_or_default(),
        name,
        place,
    };
    if let Some(item) = table.get("networks") {
        read_networks(&mut draft, &item, networks, problems);
    }
    alone(&mut draft, table, networks, problems);
    draft.default_routes = [false, true].map(|ipv6| {
        let leads_out = |(_, a): &(usize, &DraftAttachment)| networks.drafts[a.network].has_way_out(ipv6);
        let candidates = draft.attachments.iter().enumerate().filter(leads_out);
        // Of equal ones the first in the file.
        candidates.min_by_key(|(_, a)| Reverse(a.priority)).map(|(index, _)| index)
    });
    if let Some(item) = table.get("ports") {
        draft.ports = ports::read(&owner(&["containers", draft.name.as_str()]), &item, problems);
        let mut published = std::mem::take(&mut draft.ports);
        for port in &mut published {
            resolve_port(&draft, port, networks, problems);
        }
        draft.ports = published;
    }
    Some(draft)
}

/// Reads `host`, the name of one of the file's.
fn read_host(item: &Item, hosts: &Hosts, problems: &mut Problems) -> Option<Placed<usize>> {
    let name = item.string("the name of a host", problems)?;
    if let Some(known) = hosts.by_name.get(name) {
        return known.map(|index| item.placed(index));
    }
    let problem = Problem::new(item.place(), format!("unknown host {}", tick(name)));
    let known = hosts.drafts.iter().map(|h| h.name.as_str());
    let problem = match problems.suggest(name, known.clone()) {
        Some(meant) => problem.with_label(format!("did you mean `{meant}`?")),
        None => problem.with_help(known_ones("host", known, hosts.by_name.is_empty())),
    };
    problems.push(problem);
    None
}

/// Reads `networks`, a list of names or a table.
fn read_networks(draft: &mut Draft, item: &Item, networks: &Networks, problems: &mut Problems) {
    if let Some(items) = item.as_list() {
        read_list(draft, items, networks, problems);
    } else if let Some(table) = item.as_table() {
        for item in table.items() {
            let Some(network) = resolve(item.key(), &item.key_place(), networks, problems) else {
                draft.whole = false;
                continue;
            };
            let mut attachment = attachment(draft, network, item.key(), item.key_place());
            read_attachment(&mut attachment, &item, &networks.drafts[network], problems);
            draft.attachments.push(attachment);
        }
    } else {
        draft.whole = false;
        let problem = item.type_problem("a list of names or a table");
        problems.push(match item.as_str() {
            Some(text) if networks.by_name.contains_key(text) => {
                problem.with_help(format!("write `networks = [\"{text}\"]`"))
            }
            _ => problem,
        });
    }
}

fn read_list<'a>(
    draft: &mut Draft,
    items: impl Iterator<Item = Item<'a>>,
    networks: &Networks,
    problems: &mut Problems,
) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for item in items {
        let Some(name) = item.as_str() else {
            draft.whole = false;
            let problem = item.type_problem("the name of a network");
            problems.push(match item.as_table() {
                Some(_) => problem.with_help("attachments with settings are written `networks.NAME = { … }`"),
                None => problem,
            });
            continue;
        };
        if let Some(first) = seen.get(name) {
            problems.push(
                Problem::new(item.place(), format!("network {} is listed twice", tick(name)))
                    .with_label("the second")
                    .with_other(first.clone(), "the first"),
            );
            continue;
        }
        seen.insert(name, item.place());
        match resolve(name, &item.place(), networks, problems) {
            Some(network) => draft.attachments.push(attachment(draft, network, name, item.place())),
            None => draft.whole = false,
        }
    }
}

/// The index of a network; none where it is unknown, or known but not readable.
fn resolve(name: &str, place: &Place, networks: &Networks, problems: &mut Problems) -> Option<usize> {
    if let Some(known) = networks.by_name.get(name) {
        return *known;
    }
    let problem = Problem::new(place.clone(), format!("unknown network {}", tick(name)));
    let known = networks.drafts.iter().map(|n| n.name.as_str());
    let problem = match problems.suggest(name, known.clone()) {
        Some(meant) => problem.with_label(format!("did you mean `{meant}`?")),
        None => problem.with_help(known_ones("network", known, networks.by_name.is_empty())),
    };
    problems.push(problem);
    None
}

/// Finds the attachments that a port leads to: the one it names, else that of the default route, else the first that
/// lets anything in.
fn resolve_port(container: &Draft, draft: &mut ports::Draft, networks: &Networks, problems: &mut Problems) {
    let network_of = |index: usize| &networks.drafts[container.attachments[index].network];
    let named = match &draft.network {
        None => None,
        Some(Placed { value: name, place }) => {
            let Some(network) = resolve(name, place, networks, problems) else { return };
            let Some(index) = container.attachments.iter().position(|a| a.network == network) else {
                if container.whole {
                    let message = format!("container `{}` is not on network `{name}`", container.name);
                    let names: Vec<String> =
                        (0..container.attachments.len()).map(|i| format!("`{}`", network_of(i).name)).collect();
                    let help = format!("it is on {}", if names.is_empty() { "none".into() } else { names.join(", ") });
                    problems.push(Problem::new(place.clone(), message).with_help(help));
                }
                return;
            };
            Some(index)
        }
    };
    let port = &mut draft.port;
    let families: Vec<bool> = [false, true].into_iter().filter(|ipv6| port.has_family(*ipv6)).collect();
    let takes = |index: &usize| {
        let network = network_of(*index);
        network.is_remote() && network.subnets.iter().any(|subnet| families.contains(&subnet.net.is_ipv6()))
    };
    let mut default_routes = families.iter().filter_map(|ipv6| container.default_routes[usize::from(*ipv6)]);
    let default_route = default_routes.next().filter(|first| default_routes.all(|other| other == *first));
    if named.is_none() && default_route.as_ref().is_some_and(takes) {
        port.plugin = default_route;
        return;
    }
    for ipv6 in families.iter().copied() {
        let passes = |index: &usize| network_of(*index).mode(ipv6).is_some_and(Mode::passes);
        let default = || container.default_routes[usize::from(ipv6)].filter(passes);
        port.targets[usize::from(ipv6)] = if let Some(index) = named {
            Some(index).filter(passes)
        } else {
            default().or_else(|| (0..container.attachments.len()).find(passes))
        };
    }
    if port.targets == [None; 2] {
        port.plugin =
            named.or_else(|| default_route.or_else(|| (0..container.attachments.len()).find(takes))).filter(takes);
    }
}

/// A container with the host's own stack has nothing of its own to set, and one with none has no second network.
fn alone(draft: &mut Draft, table: Table, networks: &Networks, problems: &mut Problems) {
    let network = |attachment: &DraftAttachment| &networks.drafts[attachment.network];
    let Some(only) = draft.attachments.iter().find(|a| !network(a).has_interfaces()) else { return };
    let (name, driver) = (&network(only).name, network(only).driver_name());
    for other in draft.attachments.iter().filter(|other| other.network != only.network) {
        let message = format!("container `{}` is on network `{name}`, and so on no other", draft.name);
        let why = if network(only).is_host() { "the host's own stack is all it has" } else { "it is to have none" };
        let problem = Problem::new(other.place.clone(), message).with_label(why);
        problems.push(problem.with_other(only.place.clone(), format!("its driver is `{driver}`")));
    }
    if !network(only).is_host() {
        return;
    }
    for item in
        ["netns", "docker", "podman", "pid", "machine", "unit", "sysctl"].into_iter().filter_map(|key| table.get(key))
    {
        let message = format!("{} is of a namespace of the container's own", tick(item.key()));
        let problem = Problem::new(item.key_place(), message);
        let what = format!("on network `{name}` it has the host's");
        problems.push(problem.with_other(only.place.clone(), what));
    }
    draft.netns.value = ContainerNetns::Host;
    draft.sysctls.clear();
}

fn attachment(container: &Draft, network: usize, name: &str, place: Place) -> DraftAttachment {
    let owner = owner(&["containers", container.name.as_str(), "networks", name]);
    DraftAttachment {
        network,
        place,
        addresses: Vec::new(),
        mac: None,
        interface: None,
        priority: 0,
        routes: Vec::new(),
        ingress: None,
        egress: None,
        sysctls: Vec::new(),
        owner,
    }
}

fn read_attachment(attachment: &mut DraftAttachment, item: &Item, network: &networks::Draft, problems: &mut Problems) {
    let help = "write `{ }` for an attachment without settings";
    let Some(table) = item.table(help, problems) else { return };
    table.check_keys(&keys::ATTACHMENT, problems);
    if !network.has_interfaces() {
        for item in keys::ATTACHMENT.names().filter_map(|key| table.get(key)) {
            let message = format!("{} is of an interface, and network `{}` gives none", tick(item.key()), network.name);
            let problem = Problem::new(item.key_place(), message);
            problems.push(problem.with_label(format!("its driver is `{}`", network.driver_name())));
        }
        return;
    }
    if let Some(item) = table.get("address") {
        for item in item.one_or_more("leave it out to have one chosen", problems) {
            if let Some(text) = item.string("an address", problems)
                && let Some(address) = parsed(values::address(text), &item, problems)
            {
                attachment.addresses.push(item.placed(address));
            }
        }
    }
    if network.is_remote() {
        one_of_a_family(attachment, network, problems);
    }
    if let Some((parent, kind)) = network.parent().filter(|_| network.shares_mac())
        && let Some(item) = table.get("mac")
    {
        let message = format!("a container on network `{}` has no `mac` of its own", network.name);
        let passthru = if kind == "macvlan" { " of type `passthru`" } else { "" };
        let problem = Problem::new(item.key_place(), message);
        problems.push(problem.with_label(format!("{kind}{passthru}: it has that of `{}`", parent.value.name)));
        return;
    }
    if let Some(item) = table.get("mac")
        && let Some(text) = item.string("a MAC address", problems)
    {
        attachment.mac = parsed(named(text), &item, problems).map(|mac| item.placed(mac));
    }
    if let Some(item) = table.get("interface")
        && let Some(text) = item.string("the name of an interface", problems)
    {
        // What another one is to be called is called so meanwhile.
        let name = if text.starts_with('~') {
            Err("an interface name cannot begin with `~`, as those do that give way to others".to_owned().into())
        } else {
            interface_name(text)
        };
        attachment.interface = parsed(name, &item, problems).map(|name| item.placed(name));
    }
    if let Some(item) = table.get("priority") {
        let (least, most) = (i32::MIN.into(), i32::MAX.into());
        let number = item.integer("a whole number of 32 bits, which may be negative", least..=most, problems);
        attachment.priority = number.and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
    }
    if let Some(item) = table.get("routes") {
        read_routes(attachment, &item, problems);
    }
    attachment.ingress = table.get("ingress").and_then(|item| read_rate(&item, problems));
    attachment.egress = table.get("egress").and_then(|item| read_rate(&item, problems));
    if let Some(item) = table.get("sysctl") {
        attachment.sysctls = sysctl::read_for_interface(&item, problems);
    }
}

/// A plugin is asked for one address of a family.
fn one_of_a_family(attachment: &DraftAttachment, network: &networks::Draft, problems: &mut Problems) {
    for (ipv6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let mut addresses = attachment.addresses.iter().filter(|address| address.value.is_ipv6() == ipv6);
        if let (Some(first), Some(second)) = (addresses.next(), addresses.next()) {
            let message = format!("a container has one {family} address on network `{}`", network.name);
            let problem = Problem::new(second.place.clone(), message).with_label("the second");
            let problem = problem.with_other(first.place.clone(), "the first");
            problems.push(problem.with_help("a plugin gives a container one address of a family"));
        }
    }
}

fn read_rate(item: &Item, problems: &mut Problems) -> Option<Rate> {
    let text = item.string("a rate such as `10mbit`", problems)?;
    parsed(values::rate(text), item, problems)
}

fn read_routes(attachment: &mut DraftAttachment, item: &Item, problems: &mut Problems) {
    let Some(items) = item.as_list() else {
        let help = "write `routes = [{ to = \"10.9.0.0/16\", via = \"10.20.0.5\" }]`";
        problems.push(item.type_problem("a list of routes").with_help(help));
        return;
    };
    for item in items {
        let help = "write `{ to = \"10.9.0.0/16\", via = \"10.20.0.5\" }`";
        let Some(table) = item.table(help, problems) else { continue };
        attachment.routes.extend(read_route(&item, table, problems));
    }
}

fn read_route(item: &Item, table: Table, problems: &mut Problems) -> Option<DraftRoute> {
    let meant = table.check_keys(&keys::ROUTE, problems);
    let lost = match table.get("type") {
        None => false,
        Some(item) => {
            let text = item.string("`\"blackhole\"`", problems)?;
            if text != "blackhole" {
                let problem = Problem::new(item.place(), format!("unknown type {} of a route", tick(text)));
                let help = "the only one is `blackhole`; a route without a type leads to its `via`";
                problems.push(problem.with_help(help));
                return None;
            }
            true
        }
    };
    let to = match table.get("to") {
        Some(item) => read_destination(&item, problems),
        None if meant.contains(&"to") => None,
        None => {
            let problem = Problem::new(item.place(), "the route leads nowhere: `to` is missing");
            problems.push(problem.with_help("`to` is where it leads, such as `10.9.0.0/16`, or `0.0.0.0/0`"));
            None
        }
    };
    let via = match table.get("via") {
        Some(item) if lost => {
            let problem = Problem::new(item.key_place(), "a blackhole has no router");
            problems.push(problem.with_help("leave out `via`, or `type`"));
            return None;
        }
        Some(item) => {
            let address = parsed(values::address(item.string("an address", problems)?), &item, problems)?;
            Some(item.placed(address))
        }
        None if !lost => {
            if !meant.contains(&"via") {
                let problem = Problem::new(item.place(), "the route has no router: `via` is missing");
                problems.push(problem.with_help("name an address of the network, or write `type = \"blackhole\"`"));
            }
            return None;
        }
        None => None,
    };
    let metric = match table.get("metric") {
        Some(item) => {
            let number = item.integer("a number from 0 to 4294967295", 0..=u32::MAX.into(), problems)?;
            u32::try_from(number).ok()
        }
        None => Some(0),
    };
    let (to, metric) = (to?, metric?);
    // IPv6 has no metric 0: the kernel takes it for its usual one.
    let metric = if metric == 0 { usual_metric(to.value) } else { metric };
    Some(DraftRoute { place: item.place(), to, via, metric })
}

fn read_destination(item: &Item, problems: &mut Problems) -> Option<Placed<IpNetwork>> {
    let net = parsed(values::cidr(item.string("a subnet", problems)?), item, problems)?;
    let (net, fault) = values::without_host_bits(net);
    problems.extend(fault.map(|fault| fault.at(item)));
    Some(item.placed(net))
}
