//! `[containers.NAME]` and its attachments: one container at a time.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;

use super::file::{Hosts, Networks, owner};
use super::networks::interface_name;
use super::reader::{Item, Placed, Problems, known_ones, named, parsed, tick};
use super::report::Problem;
use super::types::{Attachment, Container, ContainerNetns, Mode, Place, of_hosts};
use super::{netns, ports, sysctl, values};
use crate::state::{InterfaceName, Mac, Netns, ObjectName, Owner};

const KEYS: [&str; 10] = ["host", "netns", "docker", "podman", "pid", "machine", "unit", "networks", "ports", "sysctl"];
const ATTACHMENT_KEYS: [&str; 3] = ["address", "mac", "interface"];
const ATTACHMENT_KEYS_LATER: [&str; 5] = ["priority", "routes", "ingress", "egress", "sysctl"];

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
    sysctls: Vec<(String, String)>,
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
    owner: Owner,
}

impl Draft {
    /// The host that it lives on.
    pub(super) fn host_index(&self) -> Option<usize> {
        self.host.as_ref().map(|host| host.value)
    }

    /// The hosts (by index) that it is on, of as many: its own, or every one; the one there is where the file names none.
    pub(super) fn hosts(&self, count: usize) -> Range<usize> {
        of_hosts(self.host_index(), count)
    }

    /// The container, once nothing is wrong: interfaces without a name get the first free `ethN`.
    pub(super) fn finish(self) -> Container {
        let given: HashSet<_> = self.attachments.iter().filter_map(|a| Some(a.interface.as_ref()?.value)).collect();
        let mut free = (0_u32..).filter_map(|n| format!("eth{n}").parse().ok()).filter(|name| !given.contains(name));
        let attachment = |a: DraftAttachment| {
            Some(Attachment {
                network: a.network,
                owner: a.owner,
                place: a.place,
                addresses: a.addresses.into_iter().map(|a| a.value).collect(),
                mac: a.mac.map(|m| m.value),
                interface: a.interface.map(|i| i.value).or_else(|| free.next())?,
            })
        };
        Container {
            owner: owner(&["containers", self.name.as_str()]),
            name: self.name,
            place: self.place,
            host: self.host.map(|host| host.value),
            netns: self.netns.value,
            attachments: self.attachments.into_iter().filter_map(attachment).collect(),
            ports: self.ports.into_iter().map(ports::Draft::finish).collect(),
            default_routes: self.default_routes,
            sysctls: self.sysctls,
        }
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
    table.check_keys("a container", &KEYS, &[], problems);
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
    draft.default_routes =
        [false, true].map(|ipv6| draft.attachments.iter().position(|a| networks.drafts[a.network].has_way_out(ipv6)));
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
            read_attachment(&mut attachment, &item, problems);
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
    for ipv6 in [false, true] {
        if !port.has_family(ipv6) {
            continue;
        }
        let passes = |index: &usize| network_of(*index).mode(ipv6).is_some_and(Mode::passes);
        port.targets[usize::from(ipv6)] = match named {
            Some(index) => Some(index).filter(passes),
            None => {
                container.default_routes[usize::from(ipv6)].or_else(|| (0..container.attachments.len()).find(passes))
            }
        };
    }
}

fn attachment(container: &Draft, network: usize, name: &str, place: Place) -> DraftAttachment {
    let owner = owner(&["containers", container.name.as_str(), "networks", name]);
    DraftAttachment { network, place, addresses: Vec::new(), mac: None, interface: None, owner }
}

fn read_attachment(attachment: &mut DraftAttachment, item: &Item, problems: &mut Problems) {
    let help = "write `{ }` for an attachment without settings";
    let Some(table) = item.table(help, problems) else { return };
    table.check_keys("an attachment", &ATTACHMENT_KEYS, &ATTACHMENT_KEYS_LATER, problems);
    if let Some(item) = table.get("address") {
        for item in item.one_or_more("leave it out to have one chosen", problems) {
            if let Some(text) = item.string("an address", problems)
                && let Some(address) = parsed(values::address(text), &item, problems)
            {
                attachment.addresses.push(item.placed(address));
            }
        }
    }
    if let Some(item) = table.get("mac")
        && let Some(text) = item.string("a MAC address", problems)
    {
        attachment.mac = parsed(named(text), &item, problems).map(|mac| item.placed(mac));
    }
    if let Some(item) = table.get("interface")
        && let Some(text) = item.string("the name of an interface", problems)
    {
        attachment.interface = parsed(interface_name(text), &item, problems).map(|name| item.placed(name));
    }
}
