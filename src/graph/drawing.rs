//! The picture as boxes and lines, which is what the formats that draw have in common.

use std::fmt;

use super::{Audience, Container, Door, Host, LeavesAs, Network, Picture};
use crate::state::clean;

/// The most lines of a list in a box.
const LINES: usize = 8;
/// The most names, or networks of a list of sources, in a line.
const LISTED: usize = 4;
/// The longest line of a box, in characters.
const COLUMNS: usize = 64;
/// How many of them come before a list: `in from `.
const AHEAD: usize = 8;

/// Boxes and the lines between them.
#[derive(Clone, Debug, Default)]
pub(super) struct Drawing {
    pub(super) title: String,
    /// What stands above the boxes of each host.
    pub(super) hosts: Vec<String>,
    pub(super) blocks: Vec<Block>,
    pub(super) lines: Vec<Line>,
}

/// What a box stands for; it decides on its looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    World,
    /// Ports for everybody.
    Door,
    /// Ports for a few, or for the host alone.
    Narrow,
    Container,
    Network,
    /// A network that nothing gets into or out of.
    Closed,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::World, Self::Door, Self::Narrow, Self::Container, Self::Network, Self::Closed];

    /// The column that it is drawn in, from the left.
    pub(super) const fn column(self) -> usize {
        match self {
            Self::World => 0,
            Self::Door | Self::Narrow => 1,
            Self::Container => 2,
            Self::Network | Self::Closed => 3,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::World => "world",
            Self::Door => "door",
            Self::Narrow => "narrow",
            Self::Container => "container",
            Self::Network => "network",
            Self::Closed => "closed",
        }
    }

    /// On a light ground, and on a dark one.
    pub(super) fn colours(self) -> [Colours; 2] {
        let of = |fill, stroke| Colours { fill, stroke };
        match self {
            Self::World => [of("#f3e8ff", "#7c3aed"), of("#2e1f47", "#b794f6")],
            Self::Door => [of("#dcfce7", "#15803d"), of("#12301d", "#4ade80")],
            Self::Narrow => [of("#ffedd5", "#c2410c"), of("#3a2413", "#fb923c")],
            Self::Container => [of("#ffffff", "#475569"), of("#1c2430", "#94a3b8")],
            Self::Network => [of("#dbeafe", "#1d4ed8"), of("#172a4a", "#60a5fa")],
            Self::Closed => [of("#fef9c3", "#a16207"), of("#33290c", "#facc15")],
        }
    }
}

/// The colours of a box.
#[derive(Clone, Copy, Debug)]
pub(super) struct Colours {
    pub(super) fill: &'static str,
    pub(super) stroke: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) kind: Kind,
    /// The host that it is drawn in.
    pub(super) host: Option<usize>,
    pub(super) title: Option<Words>,
    pub(super) lines: Vec<Words>,
    /// What is said with less weight.
    pub(super) notes: Vec<Words>,
}

/// A line of a box, as long as it may be.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) shown: String,
    /// All of it, where that is more.
    pub(super) whole: Option<String>,
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        match text.char_indices().nth(COLUMNS) {
            Some(_) => Self { shown: text.chars().take(COLUMNS - 1).chain(['…']).collect(), whole: Some(text) },
            None => Self { shown: text, whole: None },
        }
    }
}

/// From one box to another, by index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) sort: Sort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Who begins connections, and to whom.
    Flow,
    /// A container on a network.
    Joined,
    /// The same where the container leaves for the world by it.
    WayOut,
}

impl Drawing {
    /// The boxes from the left to the right: the world, ports, containers, networks, and the world again.
    pub(super) fn of(picture: &Picture) -> Self {
        let mut drawing = Self {
            title: picture.title.clone(),
            hosts: picture.hosts.iter().map(caption).collect(),
            ..Self::default()
        };
        let doors = || picture.containers.iter().flat_map(|container| &container.doors);
        let world = |title: &str| Block {
            kind: Kind::World,
            host: None,
            title: Some(title.to_owned().into()),
            lines: Vec::new(),
            notes: Vec::new(),
        };
        let asks = doors().any(|door| asked_by_world(&door.audience)).then(|| drawing.add(world("the world")));
        let networks: Vec<usize> = picture.networks.iter().map(|network| drawing.add(network_block(network))).collect();
        let answers = picture.networks.iter().any(Network::leaves).then(|| drawing.add(world("the world")));
        for container in &picture.containers {
            let own = drawing.add(container_block(container));
            for door in &container.doors {
                let place = drawing.add(door_block(door, container.host));
                let asks = asks.filter(|_| asked_by_world(&door.audience));
                drawing.lines.extend(asks.map(|from| Line { from, to: place, sort: Sort::Flow }));
                drawing.lines.push(Line { from: place, to: own, sort: Sort::Flow });
            }
            for link in &container.links {
                let sort = if link.way_out { Sort::WayOut } else { Sort::Joined };
                drawing.lines.extend(networks.get(link.network).map(|to| Line { from: own, to: *to, sort }));
            }
        }
        for host in 0..picture.hosts.len() {
            if picture.containers.iter().all(|container| container.host != host) {
                let notes = vec!["no containers".to_owned().into()];
                drawing.add(Block { kind: Kind::Container, host: Some(host), title: None, lines: Vec::new(), notes });
            }
        }
        for (_, place) in picture.networks.iter().zip(&networks).filter(|(network, _)| network.leaves()) {
            drawing.lines.extend(answers.map(|to| Line { from: *place, to, sort: Sort::Flow }));
        }
        drawing
    }

    fn add(&mut self, block: Block) -> usize {
        self.blocks.push(block);
        self.blocks.len() - 1
    }
}

/// Whether packets of the world's get there, if only of some of it.
fn asked_by_world(audience: &Audience) -> bool {
    matches!(audience, Audience::World | Audience::Listed(_))
}

/// `host a, 192.0.2.1`
pub(super) fn caption(host: &Host) -> String {
    let name = host.name.as_ref().map(|name| format!("host {name}"));
    let addresses = host.addresses.iter().map(ToString::to_string);
    name.or_else(|| Some("host".to_owned())).into_iter().chain(addresses).collect::<Vec<_>>().join(", ")
}

fn container_block(container: &Container) -> Block {
    let (title, lines) = match &container.names[..] {
        [one] => (one.to_string(), container.links.iter().flat_map(|link| &link.addresses).map(text).collect()),
        several => (format!("{} containers", several.len()), limited(several)),
    };
    Block {
        kind: Kind::Container,
        host: Some(container.host),
        title: Some(title.into()),
        lines: words(lines),
        notes: container.note.iter().cloned().map(Words::from).collect(),
    }
}

fn network_block(network: &Network) -> Block {
    Block {
        kind: if network.is_closed() { Kind::Closed } else { Kind::Network },
        host: network.host,
        title: Some(match &network.names[..] {
            [one] => one.to_string().into(),
            several => format!("{} networks", several.len()).into(),
        }),
        lines: words(if network.names.len() > 1 { limited(&network.names) } else { limited(&network.subnets) }),
        notes: words(notes(network)),
    }
}

fn door_block(door: &Door, host: usize) -> Block {
    Block {
        kind: if door.audience == Audience::World { Kind::Door } else { Kind::Narrow },
        host: Some(host),
        title: None,
        lines: words(limited(&door.ports)),
        notes: for_whom(&door.audience).into_iter().map(Words::from).collect(),
    }
}

/// Who may use a port, where that is not everybody.
pub(super) fn for_whom(audience: &Audience) -> Option<String> {
    match audience {
        Audience::World => None,
        Audience::Listed(list) => Some(format!("from {}", listed(list))),
        Audience::Host => Some("from this host only".to_owned()),
        Audience::Plugin(name) => Some(format!("as plugin {name} lets in")),
        Audience::Nobody => Some("from nowhere".to_owned()),
    }
}

/// What there is to say of a network beside its name and subnets.
pub(super) fn notes(network: &Network) -> Vec<String> {
    let mut notes = vec![network.device.clone()];
    notes.extend(out(network));
    if network.ruled && !network.host_inside {
        notes.push("not even the host".to_owned());
    }
    if network.pinged {
        notes.push("in by own addresses".to_owned());
    }
    if !network.trusted.is_empty() {
        let names: Vec<String> = network.trusted.iter().map(|name| clean(name.as_str())).collect();
        notes.push(format!("in from {}", listed(&names)));
    }
    if network.apart {
        notes.push("containers kept apart".to_owned());
    }
    notes
}

/// How containers of a network leave for the world: in one line, where that is the same for both families.
fn out(network: &Network) -> Vec<String> {
    let words = |leaves: Option<LeavesAs>| match leaves {
        None => "no way out".to_owned(),
        Some(LeavesAs::Host) => "out as the host".to_owned(),
        Some(LeavesAs::Address(ip)) => format!("out as {ip}"),
        Some(LeavesAs::Own) => "out by own addresses".to_owned(),
        Some(LeavesAs::Router) => "out by the link's router".to_owned(),
    };
    if network.is_closed() {
        return vec!["no way in or out".to_owned()];
    }
    if !network.ruled && !network.leaves() {
        return vec!["what passes is not netrec's to say".to_owned()];
    }
    let has = |ipv6: bool| network.subnets.iter().any(|subnet| subnet.is_ipv6() == ipv6);
    match network.out {
        [ipv4, ipv6] if has(false) && has(true) && ipv4 != ipv6 => {
            vec![format!("IPv4: {}", words(ipv4)), format!("IPv6: {}", words(ipv6))]
        }
        [ipv4, ipv6] => vec![words(ipv4.or(ipv6))],
    }
}

fn words(texts: Vec<String>) -> Vec<Words> {
    texts.into_iter().map(Words::from).collect()
}

fn text(item: &impl ToString) -> String {
    item.to_string()
}

/// A line for each, up to a number.
fn limited<T: fmt::Display>(items: &[T]) -> Vec<String> {
    if items.len() <= LINES {
        return items.iter().map(text).collect();
    }
    let shown = LINES - 1;
    items.iter().take(shown).map(text).chain([format!("and {} more", items.len() - shown)]).collect()
}

/// In one line, as many as fit there, up to a number.
pub(super) fn listed<T: fmt::Display>(items: &[T]) -> String {
    let first: Vec<String> = items.iter().take(LISTED).map(text).collect();
    let some = (1..=first.len()).rev().map(|shown| {
        let more = items.len() - shown;
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        first[..shown].join(", ") + &more
    });
    let fits = |line: &String| line.chars().count() <= COLUMNS - AHEAD;
    some.clone().find(fits).or_else(|| some.last()).unwrap_or_default()
}
