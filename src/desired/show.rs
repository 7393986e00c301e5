//! The file with every default and chosen value filled in. What it shows is a valid file that wants the same.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Build, Chosen, ChosenAttachment, ChosenNetwork, DesiredError, Whole, here};
use crate::config::{
    Attachment, Cluster, Config, Container, ContainerRoute, Driver, Host, Network, Overlap, Overlay, Port, PortAddress,
    PortRange, Share, Subnet,
};
use crate::state::{Facts, Membership, Netns, Source, SourceKind};

/// The filled-in file, with its tables in file order; MTUs are those of this host, which is called `host` where that is not
/// the system's name.
pub fn filled_in(config: &Config, facts: &Facts, host: Option<&str>) -> Result<Value, DesiredError> {
    let config = &*config.with_members(facts.members.as_deref());
    let chosen = Chosen::new(config)?;
    let whole = here(config, facts, host)?.map(|here| Whole { config, chosen: &chosen, here });
    let build = Build::new(config, &chosen, whole, facts);
    let settings = &config.settings;
    let hosts: Map<String, Value> = config.hosts.iter().map(|h| (h.name.to_string(), self::host(h))).collect();
    let networks: Map<String, Value> = config
        .networks
        .iter()
        .zip(&chosen.networks)
        .map(|(n, chosen)| (n.name.to_string(), network(n, chosen, build.mtu(n))))
        .collect();
    let containers: Map<String, Value> = config
        .containers
        .iter()
        .zip(&chosen.containers)
        .map(|(c, chosen)| (c.name.to_string(), container(config, c, chosen)))
        .collect();
    let mut value = json!({
        "expect": config.expect.iter().map(|line| &line.text).collect::<Vec<_>>(),
        "settings": {
            "forwarding": settings.forwarding,
            "overlap": match settings.overlap { Overlap::Refuse => "refuse", Overlap::Warn => "warn" },
            "lock_timeout": format!("{}ms", settings.lock_timeout.as_millis()),
            "accounting": settings.accounting,
        },
        "networks": networks,
        "containers": containers,
    });
    match &config.cluster {
        Some(cluster) => value["cluster"] = self::cluster(config, cluster, facts.members.as_deref()),
        None if hosts.is_empty() => {}
        None => value["hosts"] = Value::Object(hosts),
    }
    Ok(value)
}

/// A line for each address of each attachment, as `/etc/hosts` has them: the address, the container, and it with its network's
/// name, by which one of several can be meant. In file order; the containers of all hosts. Where the file is of a cluster, this
/// host's piece is known from its members.
pub fn host_lines(config: &Config, members: Option<&Membership>) -> Result<String, DesiredError> {
    let config = &*config.with_members(members);
    let chosen = Chosen::new(config)?;
    let mut lines = String::new();
    for (container, chosen) in config.containers.iter().zip(&chosen.containers) {
        for (attachment, chosen) in container.attachments.iter().zip(chosen) {
            let (container, network) = (&container.name, &config.network(attachment).name);
            for address in &chosen.addresses {
                let _ = writeln!(lines, "{}\t{container} {container}.{network}", address.ip.ip());
            }
        }
    }
    Ok(lines)
}

/// The cluster, with this host's piece and address as they are.
fn cluster(config: &Config, cluster: &Cluster, members: Option<&Membership>) -> Value {
    let known = &cluster.known;
    let mut value = json!({
        "etcd": known.etcd,
        "prefix": known.prefix,
        "network": config.networks[cluster.network].name,
        "subnet_env": known.subnet_env.as_ref().map_or(json!(false), |path| json!(path)),
    });
    if let Some(ca) = &known.ca {
        value["ca"] = json!(ca);
    }
    if let Some((cert, key)) = &known.identity {
        (value["cert"], value["key"]) = (json!(cert), json!(key));
    }
    if let Some((user, file)) = &known.user {
        (value["user"], value["password_file"]) = (json!(user), json!(file));
    }
    let (public, pieces) = members.map_or((&known.public, &known.pieces), |m| (&m.own.addresses, &m.own.pieces));
    for (key, list) in [("public_address", json!(public)), ("subnet", json!(pieces))] {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            value[key] = list;
        }
    }
    value
}

fn host(host: &Host) -> Value {
    let id = match host.share {
        Share::Number(id) => Some(id),
        Share::Leased(..) => None,
    };
    json!({ "id": id, "address": host.addresses })
}

fn network(network: &Network, chosen: &ChosenNetwork, mtu: u32) -> Value {
    let mut value = json!({ "driver": network.driver.as_str() });
    if !network.has_interfaces() {
        return value;
    }
    value["subnet"] = json!(network.subnets.iter().map(|s| s.whole).collect::<Vec<_>>());
    value["reserve"] = json!(network.reserve);
    // A plugin's device has the plugin's, unless the file says another.
    if network.remote().is_none() || network.mtu.is_some() {
        value["mtu"] = json!(mtu);
    }
    if !network.has_pieces() {
        // One that an IPAM plugin chooses is left out.
        let known = |s: &&Subnet| s.says_gateway || !network.has_ipam();
        let gateways: Vec<_> = network.subnets.iter().filter(known).filter_map(|s| s.gateway).collect();
        if !gateways.is_empty() {
            value["gateway"] = json!(gateways);
        } else if network.subnets.iter().any(|s| known(&s)) {
            value["gateway"] = json!(false);
        }
        value["range"] = json!(network.subnets.iter().map(|s| s.range).collect::<Vec<_>>());
    }
    match &network.driver {
        Driver::Macvlan(parent, mode) => (value["parent"], value["type"]) = (json!(parent.name), json!(mode)),
        Driver::Ipvlan(parent, mode) => (value["parent"], value["type"]) = (json!(parent.name), json!(mode)),
        Driver::Remote(remote) => {
            (value["plugin"], value["options"]) = (json!(remote.plugin), json!(remote.options));
            if let Some(ipam) = &remote.ipam {
                value["ipam"] = json!(ipam);
            }
        }
        _ => bridged(&mut value, network, chosen),
    }
    value
}

/// What is of networks that the host has a bridge for.
fn bridged(value: &mut Value, network: &Network, chosen: &ChosenNetwork) {
    value["bridge"] = json!(chosen.bridge);
    value["internal"] = json!(network.is_internal());
    value["trusted"] = json!(network.trusted);
    if let Some(overlay) = network.overlay() {
        self::overlay(value, network, overlay);
    } else {
        value["adopt"] = json!(network.adopt);
        value["icc"] = json!(network.icc);
    }
    if !network.is_internal() {
        let modes = [(false, "ipv4"), (true, "ipv6")].into_iter();
        let modes = modes.filter_map(|(ipv6, key)| Some((key.to_owned(), json!(network.mode(ipv6)?.as_str()))));
        value["mode"] = Value::Object(modes.collect());
    }
    if !network.snat.is_empty() {
        value["snat"] = json!(network.snat);
    }
}

/// What is of the overlay driver.
fn overlay(value: &mut Value, network: &Network, overlay: &Overlay) {
    value["topology"] = json!(overlay.topology.as_str());
    if let Some(vni) = overlay.vni {
        value["vni"] = json!(vni);
        value["port"] = json!(overlay.port);
        value["mss_clamp"] = json!(overlay.mss_clamp);
    }
    if let Some(underlay) = overlay.underlay {
        value["underlay"] = json!(underlay);
    }
    if network.has_pieces() {
        let lengths = [(false, "ipv4"), (true, "ipv6")].into_iter().filter(|(ipv6, _)| network.has_family(*ipv6));
        let lengths = lengths.map(|(ipv6, key)| (key.to_owned(), json!(overlay.host_prefix[usize::from(ipv6)])));
        value["host_prefix"] = Value::Object(lengths.collect());
    }
}

fn container(config: &Config, container: &Container, chosen: &[ChosenAttachment]) -> Value {
    let networks: Map<String, Value> = container
        .attachments
        .iter()
        .zip(chosen)
        .map(|(a, chosen)| (config.network(a), a, chosen))
        .map(|(n, a, chosen)| (n.name.to_string(), attachment(n, a, chosen)))
        .collect();
    let sysctl: Map<String, Value> = container.sysctls.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let (key, netns) = namespace(container.netns.netns());
    let mut value = json!({
        "networks": networks,
        "ports": container
            .ports
            .chunk_by(|a, b| a.owner == b.owner)
            .map(|addresses| port(config, container, addresses))
            .collect::<Vec<_>>(),
    });
    if !container.shares_host() {
        value[key] = netns;
        value["sysctl"] = Value::Object(sysctl);
    }
    if let Some(host) = container.host.filter(|_| config.cluster.is_none()) {
        value["host"] = json!(config.hosts[host].name);
    }
    value
}

/// The key that names a namespace, and its value.
fn namespace(netns: &Netns) -> (&'static str, Value) {
    match netns.source() {
        Some(Source { kind: SourceKind::Pid, name }) => ("pid", json!(name.parse::<u32>().ok())),
        Some(Source { kind, name }) => (kind.key(), json!(name)),
        None => ("netns", json!(netns)),
    }
}

fn attachment(network: &Network, attachment: &Attachment, chosen: &ChosenAttachment) -> Value {
    if !network.has_interfaces() {
        return json!({});
    }
    let addresses: Vec<_> = chosen.addresses.iter().map(|a| a.ip.ip()).collect();
    let mut value = json!({
        "address": addresses,
        "interface": attachment.interface,
        "priority": attachment.priority,
        "routes": attachment.routes.iter().map(route).collect::<Vec<_>>(),
    });
    // What a plugin is to choose is left out.
    if let Some(map) = value.as_object_mut().filter(|_| addresses.is_empty()) {
        map.shift_remove("address");
    }
    for (key, rate) in [("ingress", attachment.ingress), ("egress", attachment.egress)] {
        if let Some(rate) = rate {
            value[key] = json!(rate);
        }
    }
    let mac = if network.remote().is_some() { attachment.mac } else { Some(chosen.mac) };
    if let Some(mac) = mac.filter(|_| !network.shares_mac()) {
        value["mac"] = json!(mac);
    }
    let sysctl = attachment.sysctls.iter().map(|(path, value)| (path.clone(), json!(value)));
    value["sysctl"] = Value::Object(sysctl.collect());
    value
}

fn route(route: &ContainerRoute) -> Value {
    match route.via {
        Some(via) => json!({ "to": route.to, "via": via, "metric": route.metric }),
        None => json!({ "to": route.to, "type": "blackhole", "metric": route.metric }),
    }
}

fn range(range: PortRange) -> Value {
    if range.is_one() { json!(range.first) } else { json!(range.to_string()) }
}

/// A port, which is one for each of its addresses.
fn port(config: &Config, container: &Container, addresses: &[Port]) -> Value {
    let Some(port) = addresses.first() else { return Value::Null };
    let mut value = json!({
        "host": range(port.host),
        "container": range(port.container),
        "protocol": port.protocol.as_str(),
    });
    if !port.allow.is_empty() {
        value["allow"] = json!(port.allow);
    }
    // The two families may lead to two networks; then the file cannot say it in one word, and has not.
    let mut targets: Vec<usize> =
        addresses.iter().flat_map(|port| port.targets.into_iter().chain([port.plugin])).flatten().collect();
    targets.dedup();
    if let [one] = targets[..] {
        value["network"] = json!(config.network(&container.attachments[one]).name);
    }
    let address = |port: &Port| match port.address {
        PortAddress::Any => None,
        PortAddress::AnyIpv4 => Some("0.0.0.0".to_owned()),
        PortAddress::AnyIpv6 => Some("::".to_owned()),
        PortAddress::One(ip) => Some(ip.to_string()),
    };
    let listed: Vec<String> = addresses.iter().filter_map(address).collect();
    match &listed[..] {
        [] => {}
        [one] => value["address"] = json!(one),
        several => value["address"] = json!(several),
    }
    value
}
