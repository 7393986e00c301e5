//! An object as attributes with names and values: what both renderings show.

use serde_json::{Map, Value, json};

use crate::state::firewall::{BaseChain, Chain};
use crate::state::{Entry, Object};

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
    };
    plain.unwrap_or_default()
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
