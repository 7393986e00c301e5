//! The plan as JSON, format 1.1.

use serde_json::{Value, json};

use super::view::attributes;
use super::{Action, Op, Plan};
use crate::state::{Entry, Key, Kind, Owner};

/// The version of the format. Minor bumps add fields only.
pub const FORMAT_VERSION: &str = "1.1";

impl Plan {
    /// The plan as one document.
    pub fn to_json(&self) -> Value {
        json!({
            "format_version": FORMAT_VERSION,
            "host": self.host,
            "changed": !self.is_empty(),
            "summary": self.summary(),
            "actions": self.actions.iter().map(|a| action(self, a)).collect::<Vec<_>>(),
            "warnings": self.warnings,
            "left_out": self.left_out.changes,
            "diff": self.to_text(),
        })
    }
}

fn action(plan: &Plan, action: &Action) -> Value {
    let op: &[&str] = match action.op {
        Op::Create => &["create"],
        Op::Update => &["update"],
        Op::Replace => &["delete", "create"],
        Op::Delete => &["delete"],
    };
    json!({
        "op": op,
        "kind": action.key.kind(),
        "name": action.key.name(),
        "netns": action.key.netns(),
        "owner": action.owner(),
        "owners": action.owners(),
        "before": value(&action.key, action.before.as_ref()),
        "after": value(&action.key, action.after.as_ref()),
        "reason": plan.reason(action),
        "replace": action.replace,
    })
}

/// An object's attributes, with those of its key that programs would else have to cut out of its name.
fn value(key: &Key, entry: Option<&Entry>) -> Value {
    let Some(entry) = entry else { return Value::Null };
    let mut value = attributes(&entry.object);
    let Value::Object(map) = &mut value else { return value };
    match key {
        Key::Address { link, ip, peer, .. } => {
            map.insert("link".into(), json!(link));
            map.insert("ip".into(), json!(ip));
            map.extend(peer.map(|peer| ("peer".into(), json!(peer))));
        }
        Key::Neighbour { link, ip, .. } => {
            map.insert("link".into(), json!(link));
            map.insert("ip".into(), json!(ip));
        }
        Key::Fdb { link, mac, .. } => {
            map.insert("link".into(), json!(link));
            // The key's; a neighbour's is its attribute.
            map.insert("mac".into(), json!(mac));
        }
        Key::Route { table, to, metric, .. } => {
            map.insert("to".into(), json!(to));
            map.insert("table".into(), json!(table));
            map.insert("metric".into(), json!(metric));
        }
        Key::Qdisc { link, hook, .. } => {
            map.insert("link".into(), json!(link));
            map.insert("hook".into(), json!(hook));
        }
        Key::Element { set, key } => {
            map.insert("set".into(), json!(set));
            map.insert("key".into(), json!(key.to_string()));
        }
        _ => {}
    }
    if key.kind().is_marked() && key.kind() != Kind::Netns {
        map.insert("mark".into(), json!(entry.owner().map(Owner::as_str)));
    }
    value
}
