//! What there is of a file's networks, containers and ports, as opposed to what is to be done: one line each.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::{Value, json};

use super::{PrepareError, Prepared, prepare};
use crate::config::{Attachment, Config, Container, Mode, Network, Port, PortAddress, PortRange};
use crate::desired::bridge_name;
use crate::kernel::Backend;
use crate::plan::{Action, FORMAT_VERSION, Op, Summary};
use crate::state::{Flow, InterfaceName, Key, Link, LinkKind, Mac, Netns, Object, Owner, Warning};

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
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachmentStatus {
    /// The network's name.
    pub network: String,
    /// The interface's name inside.
    pub interface: InterfaceName,
    /// Its Ethernet address; none where it has none of its own.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
    /// How much of it is there.
    pub state: Standing,
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
    pub connections: usize,
    /// How much of it is there.
    pub state: Standing,
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

impl Status {
    /// Whether the host is as the file wants it.
    pub fn matches(&self) -> bool {
        self.changes == Summary::default()
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
            "waits": self.waits,
        })
    }

    /// As tables, for people.
    pub fn to_text(&self) -> String {
        let mut text = if self.matches() {
            format!("{} matches {}.\n", self.host, self.file)
        } else {
            let Summary { create, update, replace, delete } = self.changes;
            let count = create + update + replace + delete;
            let objects = if count == 1 { "object differs" } else { "objects differ" };
            format!("{}: {count} {objects} from {}; `netrec plan` shows what and why.\n", self.host, self.file)
        };
        let warnings = self.waits.iter().chain(self.warnings.iter().map(|warning| &warning.message));
        text.extend(warnings.map(|warning| format!("! {warning}\n")));
        let rows = self.networks.iter().map(|network| {
            let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
            let NetworkStatus { name, driver, device, containers, state, .. } = network;
            [
                name.clone(),
                (*driver).to_owned(),
                device.map_or_else(|| "-".to_owned(), |device| device.to_string()),
                subnets.join(" "),
                containers.to_string(),
                state.in_words(),
            ]
        });
        text += &table(["NETWORK", "DRIVER", "DEVICE", "SUBNETS", "CONTAINERS", "STATE"], rows);
        let rows = self.containers.iter().flat_map(|container| {
            let whole = |network: String, interface: String, addresses: String, state: Standing| {
                [container.name.clone(), container.netns.to_string(), network, interface, addresses, state.in_words()]
            };
            let attachments: Vec<_> = container
                .networks
                .iter()
                .map(|attachment| {
                    let addresses: Vec<String> = attachment.addresses.iter().map(ToString::to_string).collect();
                    whole(
                        attachment.network.clone(),
                        attachment.interface.to_string(),
                        addresses.join(" "),
                        attachment.state,
                    )
                })
                .collect();
            if attachments.is_empty() {
                vec![whole("-".into(), "-".into(), "-".into(), container.state)]
            } else {
                attachments
            }
        });
        text += &table(["CONTAINER", "NETNS", "NETWORK", "INTERFACE", "ADDRESSES", "STATE"], rows);
        let rows = self.ports.iter().map(|port| {
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
                port.state.in_words(),
            ]
        });
        text += &table(["PORT", "CONTAINER", "ADDRESSES", "CONNECTIONS", "STATE"], rows);
        if !self.left.is_empty() {
            let left: Vec<&str> = self.left.iter().map(Owner::as_str).collect();
            text += &format!("\nNo longer in {}: {}\n", self.file, left.join(", "));
        }
        text
    }
}

/// Columns as wide as their widest cell; nothing without rows.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    if rows.len() == 1 {
        return String::new();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).fold("\n".to_owned(), |text, line| text + &line)
}

/// Reads what there is of a file. `host` is the name of this one, else the system's; `waits` is what waits to be confirmed.
pub fn status(
    backend: &mut dyn Backend,
    config: &Config,
    host: Option<&str>,
    waits: Option<String>,
) -> Result<Status, PrepareError> {
    let prepared = prepare(backend, config, host)?;
    let flows = if config.containers.iter().any(|c| !c.ports.is_empty()) { backend.flows()? } else { Vec::new() };
    let here = config.hosts.iter().position(|h| h.name.as_str() == prepared.plan.host);
    let part = here.map(|here| config.on_host(here));
    let view = View::new(part.as_ref().unwrap_or(config), &prepared);
    Ok(Status {
        host: prepared.plan.host.clone(),
        file: prepared.plan.file.clone(),
        changes: prepared.plan.summary(),
        networks: view.config.networks.iter().enumerate().map(|(index, n)| view.network(index, n)).collect(),
        containers: view.config.containers.iter().map(|c| view.container(c)).collect(),
        ports: view.config.containers.iter().flat_map(|c| c.ports.iter().map(|p| view.port(c, p, &flows))).collect(),
        left: strangers(&prepared, config),
        warnings: prepared.plan.warnings.clone(),
        waits,
    })
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
    addresses: HashMap<(&'a Netns, InterfaceName), Vec<IpNetwork>>,
    macs: HashMap<(&'a Netns, InterfaceName), Mac>,
}

impl<'a> View<'a> {
    fn new(config: &'a Config, prepared: &'a Prepared) -> Self {
        let mut view = Self { config, standings: standings(prepared), addresses: HashMap::new(), macs: HashMap::new() };
        for (key, entry) in &prepared.desired {
            match (key, &entry.object) {
                (Key::Address { netns, link, ip }, _) => {
                    view.addresses.entry((netns, *link)).or_default().push(*ip);
                }
                (_, Object::Link(Link { kind: LinkKind::Veth { peer }, .. })) => {
                    view.macs.insert((&peer.netns, peer.name), peer.device.mac);
                }
                (Key::Link { netns, name }, Object::Link(Link { kind: LinkKind::Macvlan { .. }, device, .. })) => {
                    view.macs.insert((netns, *name), device.mac);
                }
                _ => {}
            }
        }
        view
    }

    fn state(&self, owner: &Owner) -> Standing {
        self.standings.get(owner).copied().unwrap_or_default()
    }

    fn addresses(&self, netns: &Netns, interface: InterfaceName) -> Vec<IpNetwork> {
        self.addresses.get(&(netns, interface)).cloned().unwrap_or_default()
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
        }
    }

    fn container(&self, container: &Container) -> ContainerStatus {
        ContainerStatus {
            name: container.name.to_string(),
            netns: container.netns.netns().clone(),
            networks: container.attachments.iter().map(|a| self.attachment(container, a)).collect(),
            state: self.state(&container.owner),
        }
    }

    fn attachment(&self, container: &Container, attachment: &Attachment) -> AttachmentStatus {
        let netns = container.netns.netns();
        AttachmentStatus {
            network: self.config.network(attachment).name.to_string(),
            interface: attachment.interface,
            mac: self.macs.get(&(netns, attachment.interface)).copied(),
            addresses: self.addresses(netns, attachment.interface),
            state: self.state(&attachment.owner),
        }
    }

    fn port(&self, container: &Container, port: &Port, flows: &[Flow]) -> PortStatus {
        let netns = container.netns.netns();
        let address = |ipv6: bool| {
            let index = port.targets[usize::from(ipv6)]?;
            let addresses = self.addresses(netns, container.attachments[index].interface);
            addresses.into_iter().map(|net| net.ip()).find(|ip| ip.is_ipv6() == ipv6)
        };
        let to: Vec<IpAddr> = [false, true].into_iter().filter_map(address).collect();
        let opened = [false, true].map(|ipv6| {
            let network =
                port.targets[usize::from(ipv6)].map(|index| self.config.network(&container.attachments[index]));
            network.is_some_and(|network| network.mode(ipv6) == Some(Mode::Routed))
        });
        let asked = match port.address {
            PortAddress::One(ip) => Some(ip),
            PortAddress::AnyIpv4 => Some(IpAddr::from([0; 4])),
            PortAddress::AnyIpv6 => Some(IpAddr::from([0; 16])),
            PortAddress::Any => None,
        };
        PortStatus {
            owner: port.owner.clone(),
            address: asked,
            host: port.host.to_string(),
            protocol: port.protocol.as_str(),
            container: container.name.to_string(),
            connections: flows.iter().filter(|flow| is_by(flow, port, &to, opened)).count(),
            to,
            container_ports: port.container.to_string(),
            state: self.state(&port.owner),
        }
    }
}

/// Whether a flow came by a published port which leads to these addresses: those of the families that are `opened` by their
/// own address, and others by the host's.
fn is_by(flow: &Flow, port: &Port, to: &[IpAddr], opened: [bool; 2]) -> bool {
    let within = |number: Option<u16>, range: PortRange| number.is_some_and(|number| range.contains(number));
    if flow.protocol != port.protocol.number() || !to.contains(&flow.answers.ip) {
        return false;
    }
    if opened[usize::from(flow.answers.ip.is_ipv6())] {
        return within(flow.answers.port, port.container);
    }
    let at = match port.address {
        PortAddress::One(ip) => flow.to.ip == ip,
        _ => port.has_family(flow.to.ip.is_ipv6()),
    };
    flow.is_rewritten() && at && flow.to.port.and_then(|host| port.container_port(host)) == flow.answers.port
}
