//! The picture as a tree of lines. All containers are in it, however many.

use std::collections::BTreeMap;

use super::drawing::{caption, for_whom, listed, notes};
use super::{Container, Network, Picture};
use crate::state::ObjectName;

/// A line with those below it.
struct Node {
    text: String,
    below: Vec<Node>,
}

impl Node {
    fn leaf(text: String) -> Self {
        Self { text, below: Vec::new() }
    }

    fn draw(&self, indent: &str, out: &mut String) {
        for (place, node) in self.below.iter().enumerate() {
            let last = place + 1 == self.below.len();
            let (branch, on) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            out.extend([indent, branch, &node.text, "\n"]);
            node.draw(&format!("{indent}{on}"), out);
        }
    }
}

pub(super) fn tree(picture: &Picture) -> String {
    let mut members: BTreeMap<usize, Vec<(usize, &ObjectName)>> = BTreeMap::new();
    for (place, container) in picture.containers.iter().enumerate() {
        for link in &container.links {
            members.entry(link.network).or_default().extend(container.names.iter().map(|name| (place, name)));
        }
    }
    let networks = |host: Option<usize>| picture.networks.iter().filter(move |network| network.host == host);
    let mut root = Node { text: picture.title.clone(), below: networks(None).map(network).collect() };
    for (index, host) in picture.hosts.iter().enumerate() {
        let containers = picture.containers.iter().enumerate().filter(|(_, container)| container.host == index);
        let containers = containers.map(|(place, own)| self::container(picture, &members, place, own));
        let below = networks(Some(index)).map(network).chain(containers).collect();
        root.below.push(Node { text: caption(host), below });
    }
    let mut out = format!("{}\n", root.text);
    root.draw("", &mut out);
    out
}

fn network(network: &Network) -> Node {
    let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
    Node::leaf(format!("network {}: {}", name(network), [subnets, notes(network)].concat().join(", ")))
}

fn name(network: &Network) -> String {
    listed(&network.names)
}

/// By network: its containers, by index and name.
type Members<'a> = BTreeMap<usize, Vec<(usize, &'a ObjectName)>>;

fn container(picture: &Picture, members: &Members<'_>, place: usize, container: &Container) -> Node {
    let names: Vec<&str> = container.names.iter().map(ObjectName::as_str).collect();
    let note = container.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    let mut whole = Node::leaf(names.join(", ") + &note);
    for link in &container.links {
        let network = &picture.networks[link.network];
        let interface =
            link.interface.map(|name| format!(" {}", crate::state::clean(name.as_str()))).unwrap_or_default();
        let addresses: Vec<String> = link.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { String::new() } else { format!(" {}", addresses.join(", ")) };
        let way_out = if link.way_out { ", its way out" } else { "" };
        whole.below.push(Node::leaf(format!("on {}:{interface}{addresses}{way_out}", name(network))));
    }
    for door in &container.doors {
        let whom = for_whom(&door.audience).unwrap_or_else(|| "from the world".to_owned());
        whole.below.extend(door.ports.iter().map(|port| Node::leaf(format!("{port} {whom}"))));
    }
    let mut reached: Vec<String> = container.leaves().then(|| "the world".to_owned()).into_iter().collect();
    for link in container.links.iter().filter(|link| !picture.networks[link.network].apart) {
        let others = members.get(&link.network).into_iter().flatten().filter(|(other, _)| *other != place);
        let others: Vec<&ObjectName> = others.map(|(_, name)| *name).collect();
        if !others.is_empty() {
            reached.push(format!("{} on {}", listed(&others), name(&picture.networks[link.network])));
        }
    }
    if !reached.is_empty() {
        whole.below.push(Node::leaf(format!("reaches {}", reached.join("; "))));
    }
    whole
}
