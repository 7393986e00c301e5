//! A file's picture.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::reach::{self, Reach};
use super::{Audience, Container, Door, Host, LeavesAs, Link, Network, Picture};
use crate::config::{self, Attachment, Config, Driver, Mode, Port, PortAddress};
use crate::desired::{Chosen, ChosenAttachment, ChosenNetwork, DesiredError};
use crate::state::{IpvlanMode, MacvlanMode, clean};

/// How many addresses of a network's are looked at, to say what holds for all.
const PROBES: usize = 2;

pub(super) fn picture(config: &Config) -> Result<Picture, DesiredError> {
    let member = reach::member(config);
    let config = &*config.with_members(member.as_ref());
    let chosen = Chosen::new(config)?;
    let states = reach::states(config)?;
    let builder = Builder { config, chosen: &chosen, reach: Reach::of(config, &states) };
    let (networks, index) = builder.networks();
    let containers = builder.containers(&networks, &index);
    let host = |host: &config::Host| Host { name: Some(host.name.clone()), addresses: host.addresses.clone() };
    let hosts = match &config.hosts[..] {
        _ if member.is_some() => vec![Host { name: None, addresses: Vec::new() }],
        [] => vec![Host { name: None, addresses: Vec::new() }],
        hosts => hosts.iter().map(host).collect(),
    };
    Ok(Picture { title: clean(&config.sources.names()), hosts, networks, containers })
}

struct Builder<'a> {
    config: &'a Config,
    chosen: &'a Chosen,
    reach: Reach<'a>,
}

/// By network and host of the file: the network of the picture.
type Index = BTreeMap<(usize, usize), usize>;

impl Builder<'_> {
    fn hosts(&self) -> usize {
        self.config.hosts.len().max(1)
    }

    /// The networks, and which is which.
    fn networks(&self) -> (Vec<Network>, Index) {
        let (mut networks, mut index) = (Vec::new(), Index::new());
        for (number, network) in self.config.networks.iter().enumerate().filter(|(_, n)| n.has_interfaces()) {
            let several = self.hosts() > 1 || self.config.cluster.is_some();
            let between = network.parent().is_some() || network.overlay().is_some() && several;
            let used: Vec<usize> = (0..self.hosts()).filter(|host| self.is_used(number, *host)).collect();
            let all: Vec<usize> = (0..self.hosts()).collect();
            if between {
                index.extend(all.iter().map(|host| ((number, *host), networks.len())));
                networks.push(self.network(number, used.first().copied().unwrap_or(0), None));
                continue;
            }
            for host in if used.is_empty() { all } else { used } {
                index.insert((number, host), networks.len());
                networks.push(self.network(number, host, Some(host)));
            }
        }
        (networks, index)
    }

    fn is_used(&self, network: usize, host: usize) -> bool {
        let mut there = self.config.containers.iter().filter(|container| container.is_on(host));
        there.any(|container| container.attachments.iter().any(|attachment| attachment.network == network))
    }

    /// A network as the rules of a host have it.
    fn network(&self, number: usize, at: usize, host: Option<usize>) -> Network {
        let network = &self.config.networks[number];
        let probes = [false, true].map(|ipv6| self.probes(number, at, ipv6));
        let out = [false, true].map(|ipv6| self.leaves_as(network, &probes[usize::from(ipv6)], at, ipv6));
        let apart = match network.driver {
            Driver::Macvlan(_, mode) => mode == MacvlanMode::Private,
            _ if network.has_bridge() => {
                probes.iter().any(|all| matches!(all[..], [a, b] if !self.reach.meets(at, a, b)))
            }
            _ => false,
        };
        let pinged = |probes: &Vec<IpAddr>| probes.first().is_some_and(|ip| self.reach.pinged(at, *ip));
        Network {
            names: vec![network.name.clone()],
            host,
            device: device(network, &self.chosen.networks[number], self.config.cluster.is_some()),
            subnets: network.subnets.iter().map(|subnet| subnet.whole).collect(),
            out,
            pinged: network.has_bridge() && probes.iter().any(pinged),
            trusted: network.trusted.clone(),
            apart,
            host_inside: network.has_bridge() && network.subnets.iter().any(|subnet| subnet.gateway.is_some()),
            ruled: network.has_bridge(),
        }
    }

    /// A few addresses of a network on a host: of its containers, and if those are not enough, such as they might have where the
    /// host would know its way to them.
    fn probes(&self, number: usize, host: usize, ipv6: bool) -> Vec<IpAddr> {
        let containers = self.config.containers.iter().zip(&self.chosen.containers);
        let there = containers.filter(|(container, _)| container.is_on(host));
        let attachments = there.flat_map(|(container, chosen)| container.attachments.iter().zip(chosen));
        let on_it = attachments.filter(|(attachment, _)| attachment.network == number);
        let real = on_it.flat_map(|(_, chosen)| &chosen.addresses).map(|address| address.ip.ip());
        let network = &self.config.networks[number];
        let part = self.config.hosts.get(host).map_or_else(|| network.clone(), |host| network.on_host(host));
        let known = part.subnets.iter().filter(|subnet| subnet.gateway.is_some());
        let possible = known.flat_map(|subnet| {
            let all = subnet.net.iter().skip(1).take(PROBES + 1);
            all.filter(|ip| Some(*ip) != subnet.gateway).collect::<Vec<_>>()
        });
        let mut probes: Vec<IpAddr> = real.filter(|ip| ip.is_ipv6() == ipv6).take(PROBES).collect();
        for ip in possible.filter(|ip| ip.is_ipv6() == ipv6) {
            if probes.len() < PROBES && !probes.contains(&ip) {
                probes.push(ip);
            }
        }
        probes
    }

    /// As whom containers with such addresses leave for the world.
    fn leaves_as(&self, network: &config::Network, probes: &[IpAddr], host: usize, ipv6: bool) -> Option<LeavesAs> {
        let router = || network.subnets.iter().any(|s| s.net.is_ipv6() == ipv6 && s.gateway.is_some());
        match &network.driver {
            Driver::Macvlan(..) | Driver::Ipvlan(..) => {
                let leaves = network.has_family(ipv6) && (router() || network.routes_by_device());
                return leaves.then_some(LeavesAs::Router);
            }
            Driver::Remote(_) | Driver::Host | Driver::Null => return None,
            Driver::Bridge | Driver::Overlay(_) => {}
        }
        if !router() || !self.reach.leaves(host, *probes.first()?) {
            return None;
        }
        match network.mode(ipv6)? {
            Mode::Nat => Some(network.snat_of(ipv6).map_or(LeavesAs::Host, LeavesAs::Address)),
            Mode::Routed => Some(LeavesAs::Own),
            Mode::Isolated | Mode::Internal => None,
        }
    }

    fn containers(&self, networks: &[Network], index: &Index) -> Vec<Container> {
        let all = self.config.containers.iter().enumerate();
        all.flat_map(|(number, container)| {
            container.hosts(self.config).map(move |host| self.container(number, host, networks, index))
        })
        .collect()
    }

    fn container(&self, number: usize, host: usize, networks: &[Network], index: &Index) -> Container {
        let (container, chosen) = (&self.config.containers[number], &self.chosen.containers[number]);
        let is_way_out = |attachment: usize, network: &Network| {
            (0..2).any(|family| container.default_routes[family] == Some(attachment) && network.out[family].is_some())
        };
        let attachments = container.attachments.iter().zip(chosen).enumerate();
        let links = attachments.filter_map(|(place, (attachment, chosen))| {
            let network = *index.get(&(attachment.network, host))?;
            Some(Link {
                network,
                interface: Some(attachment.interface),
                addresses: self.known(attachment, chosen),
                way_out: is_way_out(place, &networks[network]),
            })
        });
        let note = if container.shares_host() {
            Some("the host's own stack".to_owned())
        } else if container.attachments.iter().all(|a| !self.config.network(a).has_interfaces()) {
            Some("no network".to_owned())
        } else {
            let netns = container.netns.netns();
            netns.source().map(|source| clean(&source.to_string()))
        };
        let doors = self.doors(number, host);
        Container { names: vec![container.name.clone()], host, note, links: links.collect(), doors }
    }

    /// The addresses of an attachment that the file alone tells: none of a piece that is leased.
    fn known(&self, attachment: &Attachment, chosen: &ChosenAttachment) -> Vec<IpAddr> {
        let leased = self.is_leased(attachment);
        let addresses = chosen.addresses.iter().filter(|address| !leased || !address.automatic);
        addresses.map(|address| address.ip.ip()).collect()
    }

    fn is_leased(&self, attachment: &Attachment) -> bool {
        self.config.cluster.as_ref().is_some_and(|cluster| cluster.network == attachment.network)
    }

    /// What a container publishes on a host.
    fn doors(&self, number: usize, host: usize) -> Vec<Door> {
        let mut doors: Vec<Door> = Vec::new();
        for (port, ipv6) in self.config.containers[number].ports.iter().flat_map(|port| [(port, false), (port, true)]) {
            let Some((text, audience)) = self.published(number, host, port, ipv6) else { continue };
            match doors.iter_mut().find(|door| door.audience == audience) {
                Some(door) if door.ports.contains(&text) => {}
                Some(door) => door.ports.push(text),
                None => doors.push(Door { audience, ports: vec![text] }),
            }
        }
        // One list of sources may be of both families: they are one door, where the ports are the same.
        let mut joined: Vec<Door> = Vec::new();
        for door in doors {
            let same = joined.iter_mut().find(|first| first.ports == door.ports);
            match (same.map(|first| &mut first.audience), &door.audience) {
                (Some(Audience::Listed(first)), Audience::Listed(more)) => first.extend(more),
                _ => joined.push(door),
            }
        }
        joined
    }

    /// A port of a family: how it is written, and who may use it.
    fn published(&self, number: usize, host: usize, port: &Port, ipv6: bool) -> Option<(String, Audience)> {
        let container = &self.config.containers[number];
        let network = |attachment: usize| self.config.network(&container.attachments[attachment]);
        if let Some(remote) = port.plugin.and_then(|attachment| network(attachment).remote()) {
            return Some((written(port), Audience::Plugin(clean(&remote.plugin))));
        }
        let attachment = port.targets[usize::from(ipv6)]?;
        let mut addresses = self.chosen.containers[number][attachment].addresses.iter().map(|address| address.ip.ip());
        let address = addresses.find(|ip| ip.is_ipv6() == ipv6)?;
        let translated = network(attachment).mode(ipv6) == Some(Mode::Nat);
        let audience = self.reach.audience(host, port, address, translated);
        let text = if translated {
            written(port)
        } else if self.is_leased(&container.attachments[attachment]) {
            format!("{}/{} of its own address", port.container, port.protocol.as_str())
        } else {
            format!("{}{}/{}", before_port(address), port.container, port.protocol.as_str())
        };
        Some((text, audience))
    }
}

/// A port of the host's, and where it leads if that is another one.
fn written(port: &Port) -> String {
    let at = match port.address {
        PortAddress::Any => String::new(),
        PortAddress::AnyIpv4 => "0.0.0.0:".to_owned(),
        PortAddress::AnyIpv6 => "[::]:".to_owned(),
        PortAddress::One(ip) => before_port(ip),
    };
    let leads = if port.host == port.container { String::new() } else { format!(" → {}", port.container) };
    format!("{at}{}/{}{leads}", port.host, port.protocol.as_str())
}

fn before_port(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]:") } else { format!("{ip}:") }
}

/// What makes a network, in a few words.
fn device(network: &config::Network, chosen: &ChosenNetwork, cluster: bool) -> String {
    let bridge = chosen.bridge;
    let words = match &network.driver {
        Driver::Bridge if network.adopt => format!("bridge {bridge} of the host's"),
        Driver::Bridge => format!("bridge {bridge}"),
        Driver::Overlay(overlay) => {
            let tunnel = overlay.vni.map(|vni| format!(", VXLAN {vni}")).unwrap_or_default();
            let members = if cluster { ", members from etcd" } else { "" };
            format!("{} overlay{tunnel}{members}", overlay.topology.as_str())
        }
        Driver::Macvlan(parent, MacvlanMode::Bridge) => format!("macvlan on {}", parent.name),
        Driver::Macvlan(parent, mode) => format!("macvlan on {}, {}", parent.name, mode.as_str()),
        Driver::Ipvlan(parent, IpvlanMode::L2) => format!("ipvlan on {}", parent.name),
        Driver::Ipvlan(parent, mode) => format!("ipvlan on {}, {}", parent.name, mode.as_str()),
        Driver::Remote(remote) => format!("plugin {}", remote.plugin),
        driver @ (Driver::Host | Driver::Null) => driver.as_str().to_owned(),
    };
    clean(&words)
}
