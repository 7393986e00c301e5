//! What there is of a file's networks, containers and ports, as opposed to what is to be done: one line each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::{Value, json};

use super::entrances::{Entrance, Part, Use, entrances, use_of};
use super::table::{paragraph, table};
use super::{PrepareError, Prepared, Wanted, planned, read, sources, there, wanted};
use crate::config::{Attachment, Config, Container, Network};
use crate::desired::{ChosenAttachment, Desired, Refusal, bridge_name, of_another_kind};
use crate::kernel::{Backend, ReadError};
use crate::plan::{Action, Conflict, FORMAT_VERSION, LeftOut, Op, Summary};
use crate::state::{
    Endpoint, Facts, InterfaceName, Key, Link, LinkKind, Mac, Netns, Object, Owner, State, Warning, Whereabouts,
};

/// What there is of a file on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The host's name.
    pub host: String,
    /// The file's name.
    pub file: String,
    /// What an apply would do.
    pub changes: Summary,
    /// The file's networks, in its order.
    pub networks: Vec<NetworkStatus>,
    /// The containers of this host, in the file's order.
    pub containers: Vec<ContainerStatus>,
    /// Their published ports, one for each host address that the file gives.
    pub ports: Vec<PortStatus>,
    /// Owners of what an apply would remove that the file does not name.
    pub left: Vec<Owner>,
    /// What a plan would warn about.
    pub warnings: Vec<Warning>,
    /// Why an apply would be refused: a paragraph each.
    pub refusals: Vec<String>,
    /// What waits to be confirmed, in words.
    pub waits: Option<String>,
}

/// How much of what the file wants for one owner is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its objects, as the file wants them.
    pub objects: usize,
    /// How many of them are missing.
    pub missing: usize,
    /// How many are there, but otherwise.
    pub different: usize,
    /// How many are there that the file wants no more.
    pub surplus: usize,
}

/// Why something of the file is not made on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hindrance {
    /// Its namespace comes and goes by itself, and is waited for: why it is not there.
    Waiting(String),
    /// It cannot be made: why, and what to do.
    Refused(String),
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: &'static str,
    /// Its bridge, or the device that its containers' are on; none where it has none.
    pub device: Option<InterfaceName>,
    /// Its subnets on this host.
    pub subnets: Vec<IpNetwork>,
    /// How many containers of this host are on it.
    pub containers: usize,
    /// How much of it is there.
    pub state: Standing,
    /// What keeps it from being made.
    pub hindered: Option<Hindrance>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its networks, in the file's order.
    pub networks: Vec<AttachmentStatus>,
    /// How much of it is there, attachments and ports included.
    pub state: Standing,
    /// What keeps it from being made.
    pub hindered: Option<Hindrance>,
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachmentStatus {
    /// The network's name.
    pub network: String,
    /// The interface's name inside; none where the network gives none.
    pub interface: Option<InterfaceName>,
    /// Its Ethernet address; none where it has none of its own.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
    /// How much of it is there.
    pub state: Standing,
    /// What keeps it from being made.
    pub hindered: Option<Hindrance>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortStatus {
    /// Its owner: `containers.web.ports[0]`.
    pub owner: Owner,
    /// The host's address; none for all.
    pub address: Option<IpAddr>,
    /// The host's ports.
    pub host: String,
    /// The protocol.
    pub protocol: &'static str,
    /// The container.
    pub container: String,
    /// The addresses that it leads to.
    pub to: Vec<IpAddr>,
    /// The container's ports.
    pub container_ports: String,
    /// How many tracked connections there are by it.
    pub connections: u64,
    /// How many packets went through it, both ways; none where they are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// How many bytes they had, from the IP header on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How much of it is there.
    pub state: Standing,
    /// What keeps it from being made.
    pub hindered: Option<Hindrance>,
}

impl Standing {
    /// Whether an apply would change something of it.
    pub fn drifts(self) -> bool {
        self.missing + self.different + self.surplus > 0
    }

    /// In a few words: `ok`, `absent`, `1 missing, 2 different of 7`.
    fn in_words(self) -> String {
        if !self.drifts() {
            "ok".to_owned()
        } else if self.missing > 0 && self.missing + self.different == self.objects && self.surplus == 0 {
            // Parameters of the host are always there, in one way or another.
            "absent".to_owned()
        } else if self.objects == 0 {
            format!("{} too many", self.surplus)
        } else {
            let mut parts = Vec::new();
            for (count, what) in [(self.missing, "missing"), (self.different, "different"), (self.surplus, "too many")]
            {
                if count > 0 {
                    parts.push(format!("{count} {what}"));
                }
            }
            format!("{} of {}", parts.join(", "), self.objects)
        }
    }
}

/// What a row says of its state.
fn in_words(state: Standing, hindered: Option<&Hindrance>) -> String {
    match hindered {
        None => state.in_words(),
        Some(Hindrance::Waiting(_)) => "waiting".to_owned(),
        Some(Hindrance::Refused(why)) => format!("refused: {why}"),
    }
}

impl Status {
    /// Whether the host is as the file wants it.
    pub fn matches(&self) -> bool {
        self.changes == Summary::default() && self.refusals.is_empty()
    }

    /// As one document.
    pub fn to_json(&self) -> Value {
        json!({
            "format_version": FORMAT_VERSION,
            "host": self.host,
            "matches": self.matches(),
            "summary": self.changes,
            "networks": self.networks,
            "containers": self.containers,
            "ports": self.ports,
            "left": self.left,
            "warnings": self.warnings,
            "refusals": self.refusals,
            "waits": self.waits,
        })
    }

    /// As tables, for people. `columns` is what a line takes, where that is known: what does not fit there goes on below.
    pub fn to_text(&self, columns: Option<usize>) -> String {
        let verdict = if self.matches() {
            format!("{} matches {}.", self.host, self.file)
        } else if !self.refusals.is_empty() {
            format!("{} cannot be made as {} wants it.", self.host, self.file)
        } else {
            let Summary { create, update, replace, delete } = self.changes;
            let count = create + update + replace + delete;
            let objects = if count == 1 { "object differs" } else { "objects differ" };
            format!("{}: {count} {objects} from {}; `netrec plan` shows what and why.", self.host, self.file)
        };
        let mut text = paragraph(&verdict, columns);
        let warnings = self.waits.iter().chain(self.warnings.iter().map(|warning| &warning.message));
        let warnings = warnings.chain(self.refusals_without_a_row());
        text.extend(warnings.map(|warning| paragraph(&format!("! {warning}"), columns)));
        let rows = self.networks.iter().map(|network| {
            let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
            let NetworkStatus { name, driver, device, containers, state, hindered, .. } = network;
            [
                name.clone(),
                (*driver).to_owned(),
                device.map_or_else(|| "-".to_owned(), |device| device.to_string()),
                subnets.join(" "),
                containers.to_string(),
                in_words(*state, hindered.as_ref()),
            ]
        });
        text += &table(["NETWORK", "DRIVER", "DEVICE", "SUBNETS", "CONTAINERS", "STATE"], rows, columns);
        let rows = self.containers.iter().flat_map(|container| {
            let row = |network: &str, interface: Option<InterfaceName>, addresses: &[IpNetwork], state: String| {
                let interface = interface.map_or_else(|| "-".to_owned(), |interface| interface.to_string());
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") };
                [container.name.clone(), container.netns.to_string(), network.to_owned(), interface, addresses, state]
            };
            if container.networks.is_empty() {
                return vec![row("-", None, &[], in_words(container.state, container.hindered.as_ref()))];
            }
            let attachments = container.networks.iter().map(
                |AttachmentStatus { network, interface, addresses, state, hindered, .. }| {
                    row(network, *interface, addresses, in_words(*state, hindered.as_ref()))
                },
            );
            attachments.collect()
        });
        text += &table(["CONTAINER", "NETNS", "NETWORK", "INTERFACE", "ADDRESSES", "STATE"], rows, columns);
        let rows = self.ports.iter().map(|port| {
            let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let address = match port.address {
                None => "*".to_owned(),
                Some(IpAddr::V6(ip)) => format!("[{ip}]"),
                Some(ip) => ip.to_string(),
            };
            let to: Vec<String> = port.to.iter().map(ToString::to_string).collect();
            [
                format!("{address}:{}/{}", port.host, port.protocol),
                format!("{}:{}", port.container, port.container_ports),
                to.join(" "),
                port.connections.to_string(),
                number(port.packets),
                number(port.bytes),
                in_words(port.state, port.hindered.as_ref()),
            ]
        });
        text += &if self.ports.iter().any(|port| port.packets.is_some()) {
            table(["PORT", "CONTAINER", "ADDRESSES", "CONNECTIONS", "PACKETS", "BYTES", "STATE"], rows, columns)
        } else {
            let rows =
                rows.map(|[port, container, to, connections, _, _, state]| [port, container, to, connections, state]);
            table(["PORT", "CONTAINER", "ADDRESSES", "CONNECTIONS", "STATE"], rows, columns)
        };
        if !self.left.is_empty() {
            let left: Vec<&str> = self.left.iter().map(Owner::as_str).collect();
            text += "\n";
            text += &paragraph(&format!("No longer in {}: {}", self.file, left.join(", ")), columns);
        }
        text
    }
}

impl Status {
    /// Those that no row tells of: what concerns the host as a whole.
    fn refusals_without_a_row(&self) -> impl Iterator<Item = &String> {
        let networks = self.networks.iter().map(|network| &network.hindered);
        let attachments = self.containers.iter().flat_map(|c| c.networks.iter().map(|attachment| &attachment.hindered));
        let containers = self.containers.iter().map(|container| &container.hindered);
        let ports = self.ports.iter().map(|port| &port.hindered);
        let told: HashSet<&String> = networks
            .chain(attachments)
            .chain(containers)
            .chain(ports)
            .filter_map(|hindered| match hindered {
                Some(Hindrance::Refused(why)) => Some(why),
                _ => None,
            })
            .collect();
        self.refusals.iter().filter(move |refusal| !told.contains(refusal))
    }
}

/// Reads what there is of a file. `host` is the name of this one, else the system's; `waits` is what waits to be confirmed.
/// What cannot be made on this host is told at its place, beside what there is of the rest.
pub fn status(
    backend: &mut dyn Backend,
    config: &Config,
    host: Option<&str>,
    waits: Option<String>,
) -> Result<Status, PrepareError> {
    let (facts, Desired { state, warnings, chosen, mut refusals, .. }) = wanted(backend, config, host)?;
    let mut state = where_there_is_a_namespace(state, config, &refusals);
    let read = loop {
        match read(backend, &state) {
            // What a name leads to is seen by looking there.
            Err(ReadError::OtherKind(netns)) => {
                let refusal = of_another_kind(config, &netns).filter(|refusal| !refusals.contains(refusal));
                refusals.push(refusal.ok_or(ReadError::OtherKind(netns))?);
                state = where_there_is_a_namespace(state, config, &refusals);
            }
            read => break read?,
        }
    };
    let what = Wanted { state, warnings, chosen, targets: &[], left_out: LeftOut::default() };
    let (prepared, conflicts) = planned(backend, config, host, facts.clone(), what, read);
    let part = Part::of(config, facts.members.as_deref(), &prepared.plan.host)?;
    let entrances = entrances(&part, &prepared.desired);
    let uses = use_of(backend, &entrances)?;
    let hindered = hindrances(config, &facts, &refusals, &conflicts);
    let view = View::new(&part.config, &prepared, hindered);
    let containers = part.config.containers.iter().zip(&part.chosen.containers);
    let of_ports = part.config.containers.iter().flat_map(|c| c.ports.iter().map(move |_| c));
    let ports = of_ports.zip(entrances).zip(uses);
    Ok(Status {
        host: prepared.plan.host.clone(),
        file: prepared.plan.file.clone(),
        changes: prepared.plan.summary(),
        networks: view.config.networks.iter().enumerate().map(|(index, n)| view.network(index, n)).collect(),
        ports: ports.map(|((container, entrance), used)| view.port(container, entrance, used)).collect(),
        containers: containers.map(|(c, chosen)| view.container(c, chosen)).collect(),
        left: strangers(&prepared, config),
        warnings: prepared.plan.warnings.clone(),
        refusals: refusals.into_iter().map(|refusal| refusal.text).chain(conflicts.iter().map(there)).collect(),
        waits,
    })
}

/// What is wanted, without what is in the namespaces of containers that are refused: those may not be namespaces at all.
fn where_there_is_a_namespace(state: State, config: &Config, refusals: &[Refusal]) -> State {
    let refused = |container: &&Container| refusals.iter().any(|refusal| refusal.owners.contains(&container.owner));
    let refused: HashSet<&Netns> = config.containers.iter().filter(refused).map(|c| c.netns.netns()).collect();
    if refused.is_empty() {
        return state;
    }
    let stays = |(key, entry): &(Key, _)| {
        let is_one = matches!(key, Key::Netns { netns } if refused.contains(netns));
        !is_one && !sources::places(key, Some(entry)).any(|netns| refused.contains(netns))
    };
    state.into_iter().filter(stays).collect()
}

/// What keeps owners from being made on this host.
fn hindrances(
    config: &Config,
    facts: &Facts,
    refusals: &[Refusal],
    conflicts: &[Conflict],
) -> HashMap<Owner, Hindrance> {
    let waiting =
        config.containers.iter().filter_map(|container| match facts.sources.get(container.netns.netns())? {
            Whereabouts::Absent(why) | Whereabouts::Unknown(why) => {
                Some((container.owner.clone(), Hindrance::Waiting(why.clone())))
            }
            _ => None,
        });
    let refused = refusals.iter().flat_map(|Refusal { owners, text }| {
        owners.iter().map(|owner| (owner.clone(), Hindrance::Refused(text.clone())))
    });
    let in_the_way = conflicts.iter().map(|conflict| (conflict.owner.clone(), Hindrance::Refused(there(conflict))));
    waiting.chain(refused).chain(in_the_way).collect()
}

/// How much there is of every owner and of all that are above one.
fn standings(prepared: &Prepared) -> HashMap<Owner, Standing> {
    let mut all: HashMap<Owner, Standing> = HashMap::new();
    let mut count = |owners: &[Owner], part: fn(&mut Standing) -> &mut usize| {
        let mut counted: Vec<Owner> = Vec::new();
        for owner in owners.iter().flat_map(|owner| std::iter::once(owner.clone()).chain(owner.ancestors())) {
            if !counted.contains(&owner) {
                *part(all.entry(owner.clone()).or_default()) += 1;
                counted.push(owner);
            }
        }
    };
    for (_, entry) in &prepared.desired {
        count(&entry.owners, |standing| &mut standing.objects);
    }
    for action in &prepared.plan.actions {
        let part: fn(&mut Standing) -> &mut usize = match action.op {
            Op::Create => |standing| &mut standing.missing,
            Op::Update | Op::Replace => |standing| &mut standing.different,
            Op::Delete => |standing| &mut standing.surplus,
        };
        count(action.owners(), part);
    }
    all
}

/// Whose objects an apply would remove that the file does not name: networks and containers of an earlier file.
fn strangers(prepared: &Prepared, config: &Config) -> Vec<Owner> {
    let places = config.places();
    let named: HashSet<&Owner> = places.iter().map(|(owner, _)| owner).collect();
    let going = prepared.plan.actions.iter().filter(|action| action.op == Op::Delete).map(Action::owner);
    let top = |owner: Owner| owner.ancestors().filter(|above| above.as_str().contains('.')).last().unwrap_or(owner);
    let strangers: BTreeSet<Owner> =
        going.map(top).filter(|top| *top != Owner::netrec() && !named.contains(top)).collect();
    strangers.into_iter().collect()
}

/// What the lines are made from.
struct View<'a> {
    /// This host's part of the file.
    config: &'a Config,
    standings: HashMap<Owner, Standing>,
    macs: HashMap<(&'a Netns, InterfaceName), Mac>,
    /// What plugins gave, by container and network.
    given: HashMap<(&'a str, &'a str), &'a [IpNetwork]>,
    hindered: HashMap<Owner, Hindrance>,
}

impl<'a> View<'a> {
    fn new(config: &'a Config, prepared: &'a Prepared, hindered: HashMap<Owner, Hindrance>) -> Self {
        let (macs, given) = (HashMap::new(), HashMap::new());
        let mut view = Self { config, standings: standings(prepared), macs, given, hindered };
        for (key, entry) in &prepared.desired {
            match (key, &entry.object) {
                (_, Object::Link(Link { kind: LinkKind::Veth { peer }, .. })) => {
                    view.macs.insert((&peer.netns, peer.name), peer.device.mac);
                }
                (
                    Key::Link { netns, name },
                    Object::Link(Link { kind: LinkKind::Macvlan { .. } | LinkKind::Plugin { .. }, device, .. }),
                ) => {
                    view.macs.insert((netns, *name), device.mac);
                }
                (Key::Endpoint { network, container }, Object::Endpoint(Endpoint { answer: Some(answer), .. })) => {
                    view.given.insert((container, network), &answer.addresses);
                }
                _ => {}
            }
        }
        view
    }

    fn state(&self, owner: &Owner) -> Standing {
        self.standings.get(owner).copied().unwrap_or_default()
    }

    /// What keeps an attachment from being made: its own, the container's or the network's.
    fn hindered(&self, container: &Container, attachment: &Attachment) -> Option<Hindrance> {
        let own = self.hindered.get(&attachment.owner).or_else(|| self.hindered.get(&container.owner));
        own.cloned().or_else(|| {
            let network = self.config.network(attachment);
            let is_refused = self.hindered.contains_key(&network.owner);
            is_refused.then(|| Hindrance::Refused(format!("see network `{}`", network.name)))
        })
    }

    fn network(&self, index: usize, network: &Network) -> NetworkStatus {
        let attached = |container: &&Container| container.attachments.iter().any(|a| a.network == index);
        NetworkStatus {
            name: network.name.to_string(),
            driver: network.driver.as_str(),
            device: match network.parent() {
                Some(parent) => Some(parent.name),
                None => network.has_bridge().then(|| bridge_name(network)),
            },
            subnets: network.subnets.iter().map(|subnet| subnet.net).collect(),
            containers: self.config.containers.iter().filter(attached).count(),
            state: self.state(&network.owner),
            hindered: self.hindered.get(&network.owner).cloned(),
        }
    }

    fn container(&self, container: &Container, chosen: &[ChosenAttachment]) -> ContainerStatus {
        let attachments = container.attachments.iter().zip(chosen);
        ContainerStatus {
            name: container.name.to_string(),
            netns: container.netns.netns().clone(),
            networks: attachments.map(|(a, chosen)| self.attachment(container, a, chosen)).collect(),
            state: self.state(&container.owner),
            hindered: self.hindered.get(&container.owner).cloned(),
        }
    }

    fn attachment(
        &self,
        container: &Container,
        attachment: &Attachment,
        chosen: &ChosenAttachment,
    ) -> AttachmentStatus {
        let network = self.config.network(attachment);
        let given = self.given.get(&(container.name.as_str(), network.name.as_str()));
        let chosen = || chosen.addresses.iter().map(|address| address.ip).collect();
        AttachmentStatus {
            network: network.name.to_string(),
            interface: network.has_interfaces().then_some(attachment.interface),
            mac: self.macs.get(&(container.netns.netns(), attachment.interface)).copied(),
            addresses: given.map_or_else(chosen, |given| given.to_vec()),
            state: self.state(&attachment.owner),
            hindered: self.hindered(container, attachment),
        }
    }

    fn port(&self, container: &Container, entrance: Entrance, Use { connections, traffic }: Use) -> PortStatus {
        let address = entrance.address();
        let Entrance { port, container: name, to, .. } = entrance;
        let mut attachments = port.targets.iter().flatten().map(|index| &container.attachments[*index]);
        let below = || attachments.find_map(|attachment| self.hindered(container, attachment));
        PortStatus {
            address,
            host: port.host.to_string(),
            protocol: port.protocol.as_str(),
            container: name,
            connections,
            packets: traffic.map(|traffic| traffic.packets),
            bytes: traffic.map(|traffic| traffic.bytes),
            to,
            container_ports: port.container.to_string(),
            state: self.state(&port.owner),
            hindered: self.hindered.get(&port.owner).cloned().or_else(below),
            owner: port.owner,
        }
    }
}
