//! An object as attributes with names and values: what both renderings show.

use serde_json::{Map, Value, json};

use crate::state::firewall::{BaseChain, Chain};
use crate::state::{Endpoint, Entry, Object, PluginNetwork, PluginRoute};

/// The attributes of an object, nested as in the JSON documents. Rules, sets and elements are in the syntax of `nft(8)`.
pub(super) fn attributes(object: &Object) -> Value {
    let plain = match object {
        Object::Netns(o) => serde_json::to_value(o),
        Object::Link(o) => serde_json::to_value(o),
        Object::Address(o) => serde_json::to_value(o),
        Object::Route(o) => serde_json::to_value(o),
        Object::Neighbour(o) => serde_json::to_value(o),
        Object::Fdb(o) => serde_json::to_value(o),
        Object::Sysctl(o) => serde_json::to_value(o),
        Object::Qdisc(o) => serde_json::to_value(o),
        Object::Table(o) => serde_json::to_value(o),
        Object::Set(o) => Ok(json!({ "type": o.to_string() })),
        Object::Chain(o) => Ok(chain(o)),
        Object::Element(o) => Ok(match &o.data {
            Some(data) => json!({ "data": data.to_string() }),
            None => json!({}),
        }),
        Object::Network(o) => Ok(network(o)),
        Object::Endpoint(o) => Ok(endpoint(o)),
    };
    plain.unwrap_or_default()
}

fn network(network: &PluginNetwork) -> Value {
    let PluginNetwork { plugin, ipam, options, subnets, hosts, health } = network;
    let each = |of: &dyn Fn(&crate::state::PluginSubnet) -> Option<String>| -> Option<Vec<String>> {
        let list: Vec<String> = subnets.iter().filter_map(of).collect();
        (!list.is_empty()).then_some(list)
    };
    json!({
        "plugin": plugin,
        "ipam": ipam,
        "subnet": each(&|subnet| Some(subnet.subnet.to_string())),
        "range": each(&|subnet| Some(subnet.range?.to_string())),
        "gateway": each(&|subnet| match subnet.gateway {
            None if !subnet.says_gateway => Some(LATER.to_owned()),
            gateway => Some(gateway?.to_string()),
        }),
        "reserve": each(&|subnet| {
            let list: Vec<String> = subnet.reserve.iter().map(ToString::to_string).collect();
            (!list.is_empty()).then(|| list.join(", "))
        }),
        "options": options,
        "hosts": (!hosts.is_empty()).then_some(hosts),
        "health": (!health.is_whole()).then_some(health),
    })
}

/// What stands for what a plugin alone knows, before it was asked.
const LATER: &str = "(known after apply)";

fn endpoint(endpoint: &Endpoint) -> Value {
    let Endpoint { netns, addresses, mac, external, ipv6_elsewhere, ports, health, answer } = endpoint;
    let answer = answer.as_ref();
    let route = |PluginRoute { to, via }: &PluginRoute| match via {
        Some(via) => format!("{to} via {via}"),
        None => to.to_string(),
    };
    let later = |value: Option<Value>| value.unwrap_or_else(|| json!(LATER));
    let asked = (!addresses.is_empty()).then(|| json!(addresses));
    json!({
        "netns": netns,
        "addresses": later(answer.map(|a| json!(a.addresses)).or(asked)),
        "mac": later(answer.map(|a| json!(a.mac)).or(mac.map(|mac| json!(mac)))),
        "external": external,
        "ipv6_elsewhere": ipv6_elsewhere.then_some(true),
        "ports": (!ports.is_empty()).then(|| ports.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "device": later(answer.map(|a| json!(a.device))),
        "mtu": later(answer.map(|a| json!(a.mtu))),
        "gateways": later(answer.map(|a| json!(a.gateways))),
        "routes": later(answer.map(|a| a.routes.iter().map(route).collect())),
        "health": (!health.is_whole()).then_some(health),
    })
}

fn chain(chain: &Chain) -> Value {
    let mut map = Map::new();
    if let Some(BaseChain { kind, hook, priority, policy }) = chain.base {
        map.insert("type".into(), json!(kind));
        map.insert("hook".into(), json!(hook));
        map.insert("priority".into(), json!(priority));
        map.insert("policy".into(), json!(policy));
    }
    map.insert("rules".into(), chain.rules.iter().map(|r| Value::String(r.to_string())).collect());
    map.into()
}

/// The attributes as dotted paths and values, in order; those without a value are left out.
pub(super) fn flat(entry: Option<&Entry>) -> Vec<(String, String)> {
    let mut list = Vec::new();
    if let Some(entry) = entry {
        flatten(attributes(&entry.object), String::new(), &mut list);
    }
    list
}

fn flatten(value: Value, path: String, list: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (name, value) in map {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten(value, path, list);
            }
        }
        Value::String(text) => list.push((path, text)),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            list.push((path, texts.collect::<Vec<_>>().join(", ")));
        }
        other => list.push((path, other.to_string())),
    }
}
