//! What the file wants of the kernel: `(Config, Facts) → Desired`, pure. One file per driver, one for the firewall, one
//! for what netrec chooses.

mod bridge;
mod chosen;
mod cluster;
mod container;
mod firewall;
mod on_parent;
mod overlay;
mod remote;
mod shaping;
mod show;
mod sources;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use chosen::{Chosen, ChosenAddress, ChosenAttachment, ChosenNetwork, ChosenShaper, ChosenTunnel, bridge_name};
pub use show::{filled_in, host_lines};
pub use sources::of_another_kind;

use crate::config::{Config, Container, Invalid, Network, Overlap};
use crate::state::{Facts, Key, Netns, Object, Owner, State, Sysctl, Warning, Whereabouts, facts};

/// How many hosts a message names.
const HOSTS_NAMED: usize = 8;

/// What the kernel is to hold, and what is to be said about it.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The objects.
    pub state: State,
    /// What a person should know before it is applied. What concerns the whole host is said for each network that wants it.
    pub warnings: Vec<Warning>,
    /// Keys of addresses that netrec chose.
    pub chosen: BTreeSet<Key>,
    /// Why it cannot be made on this host.
    pub refusals: Vec<Refusal>,
    /// Whether there is more to be wanted once plugins have answered.
    pub unanswered: bool,
}

/// A reason why something of the file cannot be made on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose objects cannot be made.
    pub owners: Vec<Owner>,
    /// The reason and the way out, a paragraph.
    pub text: String,
}

/// There is no desired state of this file on this host.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// The file alone is at fault.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The file is not for this host; why.
    #[error("{0}")]
    Host(String),
}

/// The desired state of a file on a host with these facts. `host` is the name by which a file of several hosts knows it,
/// else the system's.
pub fn desired(config: &Config, facts: &Facts, host: Option<&str>) -> Result<Desired, DesiredError> {
    let config = &*config.with_members(facts.members.as_deref());
    let chosen = Chosen::new(config)?;
    let Some(here) = here(config, facts, host)? else {
        return Ok(of_part(config, &chosen, None, facts));
    };
    let whole = Whole { config, chosen: &chosen, here };
    Ok(of_part(&config.on_host(here), &chosen.on_host(config, here), Some(whole), facts))
}

/// The desired state of a host's part of a file: without the containers that are waited for. Their addresses stay theirs.
fn of_part(config: &Config, chosen: &Chosen, whole: Option<Whole<'_>>, facts: &Facts) -> Desired {
    let waited_for =
        |container: &Container| facts.sources.get(container.netns.netns()).is_some_and(Whereabouts::is_waited_for);
    let warnings = config.containers.iter().filter_map(|container| sources::warning(container, facts)).collect();
    let mut desired = if config.containers.iter().any(waited_for) {
        let (mut config, mut chosen) = (config.clone(), chosen.clone());
        let mut there =
            config.containers.iter().map(|container| !waited_for(container)).collect::<Vec<_>>().into_iter();
        chosen.containers.retain(|_| there.next() == Some(true));
        config.containers.retain(|container| !waited_for(container));
        Build::new(&config, &chosen, whole, facts).finish()
    } else {
        Build::new(config, chosen, whole, facts).finish()
    };
    desired.warnings = [warnings, desired.warnings].concat();
    desired
}

/// Which of a file's hosts (by index) this is; none where it names none.
fn here(config: &Config, facts: &Facts, host: Option<&str>) -> Result<Option<usize>, DesiredError> {
    if config.hosts.is_empty() {
        return Ok(None);
    }
    let name = host.unwrap_or(&facts.host);
    let here = config.here(name);
    here.map(Some).ok_or_else(|| {
        // A few are enough to see what is meant.
        let names: Vec<String> = config.hosts.iter().take(HOSTS_NAMED).map(|h| format!("`{}`", h.name)).collect();
        let more = config.hosts.len() - names.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        DesiredError::Host(format!(
            "this host is called `{name}`, which is none of the file's: say with `--host` which one it is ({}{more})",
            names.join(", ")
        ))
    })
}

/// A file of several hosts, and the one (by index) that this is.
#[derive(Clone, Copy)]
struct Whole<'a> {
    config: &'a Config,
    chosen: &'a Chosen,
    here: usize,
}

/// The desired state in the making.
struct Build<'a> {
    config: &'a Config,
    facts: &'a Facts,
    chosen: &'a Chosen,
    /// What `config` and `chosen` are a host's part of, in a file of several.
    whole: Option<Whole<'a>>,
    out: Desired,
}

impl<'a> Build<'a> {
    fn new(config: &'a Config, chosen: &'a Chosen, whole: Option<Whole<'a>>, facts: &'a Facts) -> Self {
        Self { config, facts, chosen, whole, out: Desired::default() }
    }

    /// The whole of it.
    fn finish(mut self) -> Desired {
        self.namespaces();
        self.cluster();
        self.overlaps();
        self.forwarding();
        self.bridges();
        self.overlays();
        self.parents();
        self.remotes();
        self.containers();
        self.firewall();
        self.unknown_devices();
        self.out
    }
}

impl Build<'_> {
    /// Wants an object; two places of the file that want one thing each in another way are a refusal.
    fn want(&mut self, key: Key, object: Object, owner: &Owner) {
        if let Some(first) = self.out.state.get(&key).filter(|first| first.object != object) {
            let whose = first.owner().cloned().unwrap_or_else(Owner::netrec);
            let text = match (&first.object, &object) {
                (Object::Sysctl(a), Object::Sysctl(b)) => {
                    format!("{key} is to be {} for {whose}, and {} for {owner}: it can be one only", a.value, b.value)
                }
                _ => format!("{whose} and {owner} each want another {key}"),
            };
            self.refuse([&whose, owner], text);
            return;
        }
        self.out.state.want(key, object, owner);
    }

    fn want_sysctl(&mut self, netns: &Netns, path: impl Into<std::sync::Arc<str>>, value: &str, owner: &Owner) {
        let object = Object::Sysctl(Sysctl { value: value.to_owned() });
        self.want(Key::Sysctl { netns: netns.clone(), path: path.into() }, object, owner);
    }

    fn refuse<'o>(&mut self, owners: impl IntoIterator<Item = &'o Owner>, text: String) {
        self.out.refusals.push(Refusal { owners: owners.into_iter().cloned().collect(), text });
    }

    fn warn(&mut self, code: &'static str, message: String, owner: Option<&Owner>) {
        self.out.warnings.push(Warning { code, message, owner: owner.cloned() });
    }

    /// Devices and source addresses that a network names and this host lacks.
    fn unknown_devices(&mut self) {
        for network in &self.config.networks {
            for name in network.trusted.iter().filter(|name| !self.facts.devices.contains_key(name)) {
                let text = format!("{} trusts `{name}`, which is no device of this host", network.owner);
                self.warn("device-missing", text, Some(&network.owner));
            }
            let missing: Vec<IpAddr> = network.snat.iter().copied().filter(|address| !self.is_own(*address)).collect();
            for address in missing {
                let text = format!("{} leaves by {address}, which is no address of this host", network.owner);
                self.warn("address-missing", text, Some(&network.owner));
            }
        }
    }

    /// Whether an address is the host's, or will be.
    fn is_own(&self, address: IpAddr) -> bool {
        let gateways =
            self.config.networks.iter().filter(|n| n.has_bridge()).flat_map(|n| &n.subnets).filter_map(|s| s.gateway);
        self.facts.addresses.iter().map(|a| a.ip.ip()).chain(gateways).any(|ip| ip == address)
    }

    /// A subnet that the host reaches another way, or lives in itself, would be cut off by the network's own route.
    fn overlaps(&mut self) {
        let facts = self.facts;
        let addresses = facts.addresses.iter().map(|a| (a.ip, Existing::Address(a.ip, a.link.as_str())));
        let routes = facts.routes.iter().map(|r| (r.to, Existing::Route(r.to, r.dev.map(|d| d.to_string()))));
        let existing: Vec<(IpNetwork, Existing<'_>)> = addresses.chain(routes).collect();
        // What is on a device of the host's is mostly of that one's own subnet.
        for network in self.config.networks.iter().filter(|network| network.has_bridge()) {
            let mut named = BTreeSet::new();
            let bridge = bridge_name(network);
            for subnet in &network.subnets {
                let elsewhere = |what: &Existing<'_>| !network.adopt || what.device() != Some(bridge.as_str());
                for (_, what) in existing.iter().filter(|(net, what)| overlap(subnet.whole, *net) && elsewhere(what)) {
                    // An address brings a route with it: one line is enough for both.
                    if named.insert((subnet.whole, what.network())) {
                        self.overlap(network, subnet.whole, what);
                    }
                }
            }
        }
    }

    fn overlap(&mut self, network: &Network, subnet: IpNetwork, what: &Existing<'_>) {
        let text = format!("subnet {subnet} of network `{}` overlaps {what} of this host", network.name);
        match self.config.settings.overlap {
            Overlap::Warn => self.warn("overlap", text, Some(&network.owner)),
            Overlap::Refuse => {
                let line = self.config.sources.line(&network.place);
                let way = "choose another subnet, or set `overlap = \"warn\"` in [settings] if it is meant";
                self.refuse([&network.owner], format!("{text} ({line}): {way}"));
            }
        }
    }

    /// Forwarding is on for the families of the networks; turning it on is worth a word, since it is host-wide.
    fn forwarding(&mut self) {
        for (ipv6, path) in [(false, facts::IPV4_FORWARDING), (true, facts::IPV6_FORWARDING)] {
            let config = self.config;
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            if let Some(first) = config.networks.iter().find(|n| n.has_family(ipv6))
                && !self.facts.sysctls.contains_key(path)
            {
                let text = format!(
                    "network `{}` has an {family} subnet, but this kernel has no {family} (/proc/sys/{path} is missing)",
                    first.name
                );
                self.refuse(config.networks.iter().filter(|n| n.has_family(ipv6)).map(|n| &n.owner), text);
                continue;
            }
            let users: Vec<&Network> = config.networks.iter().filter(|n| n.is_routed_by_host(ipv6)).collect();
            let Some(&first) = users.first() else { continue };
            if self.facts.sysctl_on(path) {
                // Already on: still wanted, so that it is put back when somebody turns it off, unless told otherwise.
                if !config.settings.forwarding {
                    continue;
                }
            } else if config.settings.forwarding {
                for network in &users {
                    self.warn(
                        "forwarding-enabled",
                        format!(
                            "{family} forwarding will be turned on: this host then routes between its other interfaces too"
                        ),
                        Some(&network.owner),
                    );
                }
            } else {
                let text = format!(
                    "network `{}` needs {family} forwarding, which is off, and `forwarding = false` in [settings] forbids \
                     turning it on: run `sysctl -w {}=1` first",
                    first.name,
                    path.replace('/', ".")
                );
                self.refuse(users.iter().map(|network| &network.owner), text);
                continue;
            }
            for network in &users {
                self.want_sysctl(&Netns::HOST, path, "1", &network.owner);
            }
            if ipv6 {
                self.keep_router_advertisements(&users);
            }
        }
    }

    /// With forwarding on the kernel ignores router advertisements where `accept_ra` is 1; 2 keeps them.
    fn keep_router_advertisements(&mut self, users: &[&Network]) {
        for (link, network) in self.facts.ra_uplinks.iter().flat_map(|link| users.iter().map(move |user| (link, user)))
        {
            self.want_sysctl(&Netns::HOST, format!("net/ipv6/conf/{link}/accept_ra"), "2", &network.owner);
            self.warn(
                "accept-ra",
                format!(
                    "`{link}` gets its IPv6 route from router advertisements, which the kernel ignores once forwarding is \
                     on: its accept_ra is set to 2 first"
                ),
                Some(&network.owner),
            );
        }
    }
}

/// Something of the host that a subnet may overlap.
enum Existing<'a> {
    Address(IpNetwork, &'a str),
    Route(IpNetwork, Option<String>),
}

impl Existing<'_> {
    fn device(&self) -> Option<&str> {
        match self {
            Self::Address(_, link) => Some(link),
            Self::Route(_, dev) => dev.as_deref(),
        }
    }

    fn network(&self) -> IpNetwork {
        let (Self::Address(net, _) | Self::Route(net, _)) = self;
        IpNetwork::new(net.network(), net.prefix()).unwrap_or(*net)
    }
}

impl fmt::Display for Existing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, link) => write!(f, "address {ip} on `{link}`"),
            Self::Route(to, Some(dev)) => write!(f, "route {to} dev `{dev}`"),
            Self::Route(to, None) => write!(f, "route {to}"),
        }
    }
}

/// Whether two networks share an address. Halves of a family (`0.0.0.0/1`, as VPN clients set them) count as default
/// routes, which overlap nothing.
fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    b.prefix() > 1 && a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}
