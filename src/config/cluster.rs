//! `[cluster]`: where the hosts of an overlay network are known that come and go.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::file::{Hosts, Networks, twice};
use super::hosts::read_address;
use super::networks::Draft as Network;
use super::reader::{Document, Item, Placed, Problems, Table, known_ones, parsed, tick};
use super::report::Problem;
use super::types::{self, Place, Topology};
use super::{keys, values};
use crate::state::{Cluster, ClusterBackend, ClusterNetwork, Owner};

/// flannel's own.
const PREFIX: &str = "/coreos.com/network";
/// Where flannel's tools look.
const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// What could be read, with the places that checks need.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) place: Place,
    /// The index of its network; none where that is reported already.
    pub(super) network: Option<usize>,
    etcd: Vec<String>,
    prefix: String,
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    user: Option<(String, PathBuf)>,
    public: Vec<Placed<IpAddr>>,
    pieces: Vec<Placed<IpNetwork>>,
    subnet_env: Option<PathBuf>,
}

impl Draft {
    /// Whether it is of a network (by index), or could be, as far as could be read.
    pub(super) fn may_be_of(&self, network: usize) -> bool {
        self.network.is_none_or(|own| own == network)
    }

    /// The cluster of one of these networks, once nothing is wrong.
    pub(super) fn finish(self, networks: &[types::Network]) -> Option<types::Cluster> {
        let index = self.network?;
        let network = networks.get(index)?;
        let overlay = network.overlay()?;
        let subnet = |ipv6| network.subnets.iter().map(|subnet| subnet.whole).find(|net| net.is_ipv6() == ipv6);
        let cluster = Cluster {
            etcd: self.etcd,
            prefix: self.prefix,
            ca: self.ca,
            identity: self.identity,
            user: self.user,
            public: self.public.into_iter().map(|address| address.value).collect(),
            pieces: self.pieces.into_iter().map(|piece| piece.value).collect(),
            subnet_env: self.subnet_env,
            network: ClusterNetwork {
                name: network.name.clone(),
                subnets: [false, true].map(subnet),
                lengths: overlay.host_prefix,
                backend: match overlay.vni {
                    Some(vni) => ClusterBackend::Vxlan { vni, port: overlay.port },
                    None => ClusterBackend::HostGw,
                },
            },
        };
        Some(types::Cluster {
            owner: Owner::new("cluster"),
            place: self.place,
            network: index,
            known: Arc::new(cluster),
        })
    }
}

/// `[cluster]`, which one source at most has.
pub(super) fn read(
    documents: &[Document],
    hosts: &Hosts,
    networks: &Networks,
    problems: &mut Problems,
) -> Option<Draft> {
    let mut draft: Option<Draft> = None;
    for item in documents.iter().filter_map(|document| document.table().get("cluster")) {
        if let Some(first) = &draft {
            problems.push(twice(&item, "cluster", &first.place));
            continue;
        }
        let Some(table) = item.table("write `[cluster]`", problems) else { continue };
        let read = read_table(&item, table, networks, problems);
        if let Some(host) = hosts.drafts.first() {
            let problem = Problem::new(read.place.clone(), "a file has `[hosts]` or `[cluster]`, not both");
            let problem =
                problem.with_label("hosts come and go by etcd").with_other(host.place.clone(), "the first host");
            problems.push(problem.with_help("leave one of them out"));
        }
        if let Some(network) = read.network {
            checks(&read, &networks.drafts[network], problems);
        }
        draft = Some(read);
    }
    draft
}

fn read_table(item: &Item, table: Table, networks: &Networks, problems: &mut Problems) -> Draft {
    let meant = table.check_keys(&keys::CLUSTER, problems);
    let place = item.key_place();
    if table.get("etcd").is_none() && !meant.contains(&"etcd") {
        let problem = Problem::new(place.clone(), "`[cluster]` has no `etcd`");
        problems.push(problem.with_help("say where it is, such as `etcd = [\"http://192.0.2.1:2379\"]`"));
    }
    let etcd = table.get("etcd").map(|item| item.one_or_more("at least one is needed", problems)).unwrap_or_default();
    let etcd = etcd.iter().filter_map(|item| endpoint(item, problems)).collect();
    let ca = path(table, "ca", problems);
    let identity = both(table, ["cert", "key"], problems, absolute);
    let identity = identity.map(|(cert, key)| (cert.value, key.value));
    let user = both(table, ["user", "password_file"], problems, |item, problems| {
        item.string("a text", problems).filter(|text| !text.is_empty()).map(str::to_owned)
    });
    let user = user.and_then(|(user, file)| {
        // The name of a credential is no path.
        if file.value.contains('/') && !file.value.starts_with('/') {
            let problem = Problem::new(file.place, format!("{} is a relative path", tick(&file.value)));
            problems.push(problem.with_help("write an absolute one, or the name of a credential of systemd's"));
            return None;
        }
        Some((user.value, PathBuf::from(file.value)))
    });
    Draft {
        network: network(&place, table, networks, problems),
        place,
        etcd,
        prefix: table.get("prefix").and_then(|item| prefix(&item, problems)).unwrap_or_else(|| PREFIX.to_owned()),
        ca,
        identity,
        user,
        public: of_each_family(table, "public_address", "address", problems, |item, problems| {
            read_address(item, problems).map(|address| address.value)
        }),
        pieces: of_each_family(table, "subnet", "piece", problems, |item, problems| {
            let net = parsed(values::cidr(item.string("a subnet", problems)?), item, problems)?;
            let (net, fault) = values::without_host_bits(net);
            problems.extend(fault.map(|fault| fault.at(item)));
            Some(net)
        }),
        subnet_env: match table.get("subnet_env") {
            Some(item) if item.as_bool() == Some(false) => None,
            Some(item) => absolute(&item, problems),
            None => Some(SUBNET_ENV.into()),
        },
    }
}

/// A place where etcd listens for HTTP.
fn endpoint(item: &Item, problems: &mut Problems) -> Option<String> {
    const EXAMPLE: &str = "write it like `http://192.0.2.1:2379` or `https://etcd.example.com:2379`";
    let text = item.string("a URL", problems)?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let good = |rest: &&str| {
        let Some((host, port)) = rest.rsplit_once(':') else { return false };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_good = match inner {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)),
        };
        host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if !rest.as_ref().is_some_and(good) {
        let problem = Problem::new(item.place(), format!("{} is no endpoint of etcd's", tick(text)));
        problems.push(problem.with_help(EXAMPLE));
        return None;
    }
    Some(text.strip_suffix('/').unwrap_or(text).to_owned())
}

fn prefix(item: &Item, problems: &mut Problems) -> Option<String> {
    let text = item.string("a key such as `\"/coreos.com/network\"`", problems)?;
    let trimmed = text.trim_end_matches('/');
    if !trimmed.starts_with('/') || trimmed.chars().any(char::is_control) {
        let problem = Problem::new(item.place(), format!("{} is no prefix of keys", tick(text)));
        problems.push(problem.with_help(format!("it begins with a slash, as `{PREFIX}` does")));
        return None;
    }
    Some(trimmed.to_owned())
}

fn path(table: Table, key: &str, problems: &mut Problems) -> Option<PathBuf> {
    table.get(key).and_then(|item| absolute(&item, problems))
}

fn absolute(item: &Item, problems: &mut Problems) -> Option<PathBuf> {
    let text = item.string("a file's path", problems)?;
    if !text.starts_with('/') {
        problems.push(Problem::new(item.place(), format!("{} is no absolute path", tick(text))));
        return None;
    }
    Some(text.into())
}

/// Two keys that make sense together only.
fn both<T>(
    table: Table,
    names: [&str; 2],
    problems: &mut Problems,
    read: impl Fn(&Item, &mut Problems) -> Option<T>,
) -> Option<(Placed<T>, Placed<T>)> {
    let items = names.map(|name| table.get(name));
    match items {
        [Some(first), Some(second)] => {
            let (a, b) = (read(&first, problems), read(&second, problems));
            Some((first.placed(a?), second.placed(b?)))
        }
        [Some(one), None] | [None, Some(one)] => {
            let missing = names.into_iter().find(|name| *name != one.key()).unwrap_or_default();
            let problem = Problem::new(one.key_place(), format!("{} needs `{missing}` beside it", tick(one.key())));
            problems.push(problem);
            None
        }
        [None, None] => None,
    }
}

/// One value of a family at most.
fn of_each_family<T: Copy + Into<IpNetwork>>(
    table: Table,
    key: &str,
    what: &str,
    problems: &mut Problems,
    read: impl Fn(&Item, &mut Problems) -> Option<T>,
) -> Vec<Placed<T>> {
    let mut found: Vec<Placed<T>> = Vec::new();
    let items = table.get(key).map(|item| item.one_or_more("leave it out to have one chosen", problems));
    for item in items.unwrap_or_default() {
        let Some(value) = read(&item, problems) else { continue };
        let is_ipv6 = |value: T| Into::<IpNetwork>::into(value).is_ipv6();
        if let Some(first) = found.iter().find(|first| is_ipv6(first.value) == is_ipv6(value)) {
            let family = if is_ipv6(value) { "IPv6" } else { "IPv4" };
            let problem = Problem::new(item.place(), format!("a member has one {family} {what}"));
            problems.push(problem.with_label("the second").with_other(first.place.clone(), "the first"));
        } else {
            found.push(item.placed(value));
        }
    }
    found
}

/// The network that the members share: the one that is named, else the only overlay network there is.
fn network(place: &Place, table: Table, networks: &Networks, problems: &mut Problems) -> Option<usize> {
    let overlays: Vec<usize> =
        (0..networks.drafts.len()).filter(|index| networks.drafts[*index].overlay().is_some()).collect();
    let Some(item) = table.get("network") else {
        match overlays[..] {
            [one] => return Some(one),
            // What cannot be read is reported already.
            [] if networks.by_name.values().any(Option::is_none) => {}
            [] => {
                let problem = Problem::new(place.clone(), "`[cluster]` has no network to be of");
                let help = "define one: `[networks.wide]` with `driver = \"overlay\"` and `topology = \"routed\"`";
                problems.push(problem.with_help(help));
            }
            _ => {
                let problem = Problem::new(place.clone(), "`[cluster]` does not say which overlay network it is of");
                problems.push(problem.with_help("write `network = \"NAME\"`"));
            }
        }
        return None;
    };
    let text = item.string("the name of a network", problems)?;
    let Some(found) = networks.by_name.get(text) else {
        let names = || networks.drafts.iter().map(|draft| draft.name.as_str());
        let problem = Problem::new(item.place(), format!("there is no network {}", tick(text)));
        let problem = match problems.suggest(text, names()) {
            Some(meant) => problem.with_label(format!("did you mean `{meant}`?")),
            None => problem.with_help(known_ones("network", names(), networks.by_name.is_empty())),
        };
        problems.push(problem);
        return None;
    };
    let index = (*found)?;
    if networks.drafts[index].overlay().is_none() {
        let problem = Problem::new(item.place(), format!("network {} is no overlay network", tick(text)));
        problems.push(problem.with_other(networks.drafts[index].place.clone(), "the network"));
        return None;
    }
    Some(index)
}

/// What flannel's format can say, and what the network is.
fn checks(draft: &Draft, network: &Network, problems: &mut Problems) {
    let Some(overlay) = network.overlay() else { return };
    let of_network = |message: String| {
        Problem::new(network.place.clone(), message).with_other(draft.place.clone(), "its hosts come and go")
    };
    if overlay.topology == Topology::Switched {
        let problem = of_network(format!("network `{}` of `[cluster]` is `switched`", network.name));
        problems
            .push(problem.with_help("each member has a piece of it: write `topology = \"routed\"` or `\"direct\"`"));
        return;
    }
    let of = |ipv6: bool| network.subnets.iter().find(|subnet| subnet.net.is_ipv6() == ipv6);
    if of(false).is_none() && network.whole {
        let problem = of_network(format!("network `{}` of `[cluster]` has no IPv4 subnet", network.name));
        problems.push(problem.with_help("flannel's format knows members by IPv4"));
    }
    for (ipv6, longest) in [(false, 30), (true, 126)] {
        let Some(subnet) = of(ipv6) else { continue };
        let (length, whole) = (overlay.host_prefix[usize::from(ipv6)], subnet.net.prefix());
        if length > longest || length < whole + 2 {
            let message = format!("pieces of `{}` cannot be /{length}", subnet.net);
            let problem =
                Problem::new(subnet.place.clone(), message).with_other(draft.place.clone(), "flannel's format");
            let help = format!("`host_prefix` is from {} to {longest} there", whole + 2);
            problems.push(problem.with_help(help));
        }
    }
    for Placed { value: piece, place } in &draft.pieces {
        let ipv6 = piece.is_ipv6();
        let length = overlay.host_prefix[usize::from(ipv6)];
        match of(ipv6) {
            Some(subnet) if values::within(piece, &subnet.net) && piece.prefix() == length => {}
            Some(subnet) => {
                let message = format!("`{piece}` is no piece of `{}`, whose pieces are /{length}", subnet.net);
                problems.push(Problem::new(place.clone(), message).with_other(subnet.place.clone(), "the subnet"));
            }
            None => {
                let message = format!("`{piece}` is of a family that network `{}` has not", network.name);
                problems.push(Problem::new(place.clone(), message).with_other(network.place.clone(), "the network"));
            }
        }
    }
    for Placed { value: address, place } in &draft.public {
        if let Some(subnet) = network.subnet_of(*address) {
            let message = format!("the host's address `{address}` is in a subnet of network `{}`", network.name);
            let problem = Problem::new(place.clone(), message).with_other(subnet.place.clone(), "the subnet");
            problems.push(problem.with_help("it is where packets between containers go, so it is outside of them"));
        }
    }
}
