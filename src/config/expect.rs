//! `expect`: lines that say who must reach whom, and who must not. A line is refused where it can only be a mistake:
//! one that nothing could make false is as bad as one that nothing could make true, since it looks like a test.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::containers;
use super::file::{Containers, Hosts, Networks};
use super::line::{self, Part};
use super::networks::DraftDriver;
use super::reader::{Document, Fault, Item, Problems, known_ones, named, parsed, tick};
use super::report::Problem;
use super::types::{Expect, Node, Place, Protocol, Target};
use super::values;
use crate::state::ObjectName;

/// Reads the lines of all sources, in their order. Needs the hosts, networks and containers of all.
pub(super) fn read(
    documents: &[Document],
    hosts: &Hosts,
    networks: &Networks,
    containers: &Containers,
    problems: &mut Problems,
) -> Vec<Expect> {
    let reader = Reader { hosts, networks, containers };
    let mut lines = Vec::new();
    for whole in documents.iter().filter_map(|document| document.table().get("expect")) {
        // An empty list expects nothing, as no list does.
        if whole.as_list().is_some_and(|mut list| list.next().is_none()) {
            continue;
        }
        for item in whole.one_or_more("", problems) {
            if let Some(text) = item.string("a line such as `\"world -> host:8080\"`", problems) {
                lines.extend(reader.line(text, &item, problems));
            }
        }
    }
    repetitions(&lines, problems);
    lines
}

/// What the lines speak of.
struct Reader<'a> {
    hosts: &'a Hosts,
    networks: &'a Networks,
    containers: &'a Containers,
}

impl Reader<'_> {
    fn line(&self, text: &str, item: &Item, problems: &mut Problems) -> Option<Expect> {
        let line = parsed(line::parse(text), item, problems)?;
        // Both sides, so that what is wrong with either is said.
        let from = parsed(line.from.word("before"), item, problems).and_then(|part| self.from(part, item, problems));
        let to = parsed(line.to.word("after").and_then(line::to), item, problems)
            .and_then(|to| Some((self.to(&to, item, problems)?, to)));
        let (from, (target, to)) = (from?, to?);
        let arrow = if line.reach { "->" } else { "-/>" };
        let text = format!("{} {arrow} {}", line.from.text, line.to.text);
        let expect = Expect { place: item.place(), text, from, to: target, port: to.port, reach: line.reach };
        let host = if self.hosts.by_name.len() > 1 { "host.NAME" } else { "host" };
        let ends = [self.stack(from), if let Target::Node(node) = target { self.stack(node) } else { Node::World }];
        let fault = pointless(&expect, ends, (line.from, &to), host);
        parsed(fault.map_or(Ok(()), Err), item, problems)?;
        if expect.reach {
            self.unreachable(&expect, item, (line.from, to.name), problems);
        }
        Some(expect)
    }

    /// Whose stack somebody has: a container may have the host's.
    fn stack(&self, node: Node) -> Node {
        let Node::Container(index) = node else { return node };
        let draft = self.containers.drafts.get(index).filter(|draft| draft.shares_host());
        draft.map_or(node, |draft| Node::Host(draft.host_index().unwrap_or(0)))
    }

    /// Who begins a line.
    fn from(&self, part: Part, item: &Item, problems: &mut Problems) -> Option<Node> {
        let text = part.text;
        if !self.containers.by_name.contains_key(text) {
            let bare = text.split([':', '/']).next().unwrap_or(text);
            if text.starts_with('[') || text.parse::<IpAddr>().is_ok() || bare.parse::<IpAddr>().is_ok() {
                let fault = Fault::new("a line cannot begin with an address").label("a container, `host` or `world`");
                return parsed(Err(part.wrong(fault)), item, problems);
            }
            if bare != text {
                let fault = Fault::new("a port or protocol stands after the arrow only").part(bare.len()..text.len());
                return parsed(Err(part.wrong(fault.label("leave it out"))), item, problems);
            }
        }
        self.node(part, item, problems)
    }

    /// Whom a line leads to.
    fn to(&self, to: &line::To, item: &Item, problems: &mut Problems) -> Option<Target> {
        let known = self.containers.by_name.contains_key(to.name.text);
        match to.address {
            Some(_) if known => self.ambiguous(to.name, "an address", item, problems),
            Some(address) => {
                let result = unicast(address).map_err(|fault| to.name.wrong(fault));
                parsed(result, item, problems).map(|()| Target::Address(address))
            }
            // `10.0.0.300` is a wrong address rather than a name.
            None if !known && to.name.text.contains('.') && !values::why_not_address(to.name.text).is_empty() => {
                let fault = values::address(to.name.text).map_err(|fault| to.name.wrong(fault));
                parsed(fault, item, problems).map(Target::Address)
            }
            None => self.node(to.name, item, problems).map(Target::Node),
        }
    }

    /// Whom a name means. `host`, `host.NAME` and `world` are words of `expect` before they are names of containers.
    fn node(&self, name: Part, item: &Item, problems: &mut Problems) -> Option<Node> {
        let known = self.containers.by_name.get(name.text);
        let what = match name.text {
            "host" => "the host",
            "world" => "the world",
            text if text.starts_with(HOST_DOT) => "a host",
            _ => {
                // What is wrong with a container that cannot be read is said already.
                if let Some(index) = known {
                    return (*index).and_then(|index| self.container(index, name, item, problems));
                }
                let problem = self.unknown(name, item, problems);
                problems.push(problem);
                return None;
            }
        };
        if known.is_some() {
            return self.ambiguous(name, what, item, problems);
        }
        match name.text.strip_prefix(HOST_DOT) {
            Some(host) => self.named_host(host, name, item, problems),
            None if name.text == "world" => Some(Node::World),
            None => self.only_host(name, item, problems),
        }
    }

    /// `host`, which there is but one of.
    fn only_host(&self, name: Part, item: &Item, problems: &mut Problems) -> Option<Node> {
        if self.hosts.by_name.len() > 1 {
            const LISTED: usize = 6;
            let ways = self.hosts.drafts.iter().map(|host| format!("`{HOST_DOT}{}`", host.name));
            let mut ways: Vec<String> = ways.take(LISTED + 1).collect();
            if let Some(more) = ways.get_mut(LISTED) {
                "…".clone_into(more);
            }
            let fault = Fault::new("the file has several hosts").label("which one?");
            let fault = if ways.is_empty() { fault } else { fault.help(format!("write one of {}", ways.join(", "))) };
            return parsed(Err(name.wrong(fault)), item, problems);
        }
        // A host that cannot be read is complained of already.
        self.hosts.by_name.values().next().copied().unwrap_or(Some(0)).map(Node::Host)
    }

    /// `host.NAME`
    fn named_host(&self, host: &str, name: Part, item: &Item, problems: &mut Problems) -> Option<Node> {
        if let Some(index) = self.hosts.by_name.get(host) {
            return index.map(Node::Host);
        }
        let fault = named::<ObjectName>(host).map_or_else(|fault| fault, |_| self.unknown_host(host, problems));
        let fault = fault.part(HOST_DOT.len()..name.text.len());
        parsed(Err(name.wrong(fault)), item, problems)
    }

    fn unknown_host(&self, name: &str, problems: &mut Problems) -> Fault {
        let names = || self.hosts.drafts.iter().map(|host| host.name.as_str());
        let fault = Fault::new(format!("unknown host {}", tick(name)));
        match problems.suggest(name, names()) {
            Some(meant) => fault.label(format!("did you mean `{meant}`?")),
            None if self.hosts.by_name.is_empty() => fault.help("no hosts are defined: write `host`"),
            None => fault.help(known_ones("host", names(), false)),
        }
    }

    /// A container by its name, which must mean one: without a `host` it lives on each of the file's.
    fn container(&self, index: usize, name: Part, item: &Item, problems: &mut Problems) -> Option<Node> {
        let draft = self.containers.drafts.get(index)?;
        if draft.says_host || self.hosts.by_name.len() < 2 {
            return Some(Node::Container(index));
        }
        let fault = Fault::new(format!("container `{}` lives on every host of the file", draft.name));
        let fault = fault.label("which one is meant?");
        let problem = name.wrong(fault.help("give it a `host`, or try what it publishes as `host.NAME:PORT`")).at(item);
        problems.push(problem.with_other(draft.place.clone(), "the container"));
        None
    }

    /// Complains of a word that is also the name of a container; there is nothing to return then.
    fn ambiguous<T>(&self, name: Part, what: &str, item: &Item, problems: &mut Problems) -> Option<T> {
        let message = format!("{} means {what} here, but a container has that name too", tick(name.text));
        let mut problem = name.wrong(Fault::new(message).help("rename the container")).at(item);
        if let Some(Some(index)) = self.containers.by_name.get(name.text) {
            problem = problem.with_other(self.containers.drafts[*index].place.clone(), "the container");
        }
        problems.push(problem);
        None
    }

    fn unknown(&self, name: Part, item: &Item, problems: &mut Problems) -> Problem {
        let text = name.text;
        let known = || self.containers.drafts.iter().map(|c| c.name.as_str());
        let meant = if text == "localhost" { Some("host") } else { problems.suggest(text, known().chain(WORDS)) };
        let fault = Fault::new(format!("unknown container {}", tick(text)));
        let fault = if self.networks.by_name.contains_key(text) {
            fault.label("it is a network")
        } else if let Some(meant) = meant {
            fault.label(format!("did you mean `{meant}`?"))
        } else {
            fault.help(known_ones("container", known(), self.containers.by_name.is_empty()))
        };
        name.wrong(fault).at(item)
    }

    /// Complains of a line with `->` whose ends cannot have packets to or from each other.
    fn unreachable(&self, expect: &Expect, item: &Item, parts: (Part, Part), problems: &mut Problems) {
        let container = |node: Node| match node {
            Node::Container(index) => self.containers.drafts.get(index).filter(|c| c.whole),
            Node::Host(_) | Node::World => None,
        };
        let (from, to) = parts;
        let target = match expect.to {
            Target::Node(node) => container(node),
            Target::Address(_) => None,
        };
        for (part, container) in [(from, container(expect.from)), (to, target)] {
            let is_null = |c: &containers::Draft| {
                c.attachments.iter().all(|a| matches!(self.networks.drafts[a.network].driver, DraftDriver::Null))
            };
            if let Some(container) = container.filter(|c| is_null(c)) {
                let place = item.part(&part.bytes());
                let problem = Problem::new(place, format!("container `{}` has no network", container.name));
                let problem = problem.with_label("nothing reaches it, and it reaches nothing");
                problems.push(problem.with_other(container.place.clone(), "the container"));
            }
        }
        if let (Some(container), Target::Address(address)) = (container(expect.from), expect.to)
            && self.lacks(container, address)
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("no network of container `{}` has {family}", container.name);
            problems.push(Problem::new(item.part(&to.bytes()), message).with_label("it has no way to this address"));
        }
    }

    /// Whether a container has networks, but surely none of an address's family.
    fn lacks(&self, container: &containers::Draft, address: IpAddr) -> bool {
        let mut networks = container.attachments.iter().map(|a| &self.networks.drafts[a.network]).peekable();
        networks.peek().is_some()
            && networks
                .all(|n| !n.is_host() && n.whole && !n.subnets.iter().any(|s| s.net.is_ipv4() == address.is_ipv4()))
    }
}

/// What stands before the name of a host.
const HOST_DOT: &str = "host.";

/// The words that are no names of containers.
const WORDS: [&str; 2] = ["host", "world"];

/// Complains of addresses that no single machine answers at. Loopback ones are looked at with the line's other end;
/// IPv4's link-local ones are worth a line, since clouds serve secrets at 169.254.169.254.
fn unicast(address: IpAddr) -> Result<(), Fault> {
    let fine = address.is_loopback() || matches!(address, IpAddr::V4(a) if a.is_link_local());
    match values::not_unicast(&IpNetwork::from(address)) {
        Some(why) if !fine => Err(Fault::new(format!("a line cannot lead to `{address}`")).label(why)),
        _ => Ok(()),
    }
}

/// Why a line is always true or never: it leads to where it begins. Only the host's way to its own ports is worth one. The
/// nodes are those whose stacks the two ends have, and `host` is the word for a host.
fn pointless(expect: &Expect, [stack, other]: [Node; 2], (from, to): (Part, &line::To), host: &str) -> Option<Fault> {
    match expect.to {
        Target::Node(Node::Host(_)) if to.port.is_some() => None,
        Target::Node(node) if stack == other => {
            let fault = Fault::new(format!("{} always reaches itself", tick(from.text))).label("a line needs two ends");
            Some(match node {
                Node::Container(_) => fault.help(format!("a port that the host publishes is tried as `{host}:PORT`")),
                Node::Host(_) => fault.help(format!("a port of the host is tried as `{}:PORT`", from.text)),
                Node::World => fault,
            })
        }
        Target::Address(address) if address.is_loopback() && !matches!(stack, Node::Host(_)) => {
            let port = to.port.map(port_text).unwrap_or_default();
            let fault = Fault::new(format!("`{address}` is {} itself here", tick(from.text)));
            Some(to.name.wrong(fault.help(format!("to try the host, write `{host}{port}`"))))
        }
        _ => None,
    }
}

/// `:80`, `:53/udp`
fn port_text((port, protocol): (u16, Protocol)) -> String {
    match protocol {
        Protocol::Tcp => format!(":{port}"),
        _ => format!(":{port}/{}", protocol.as_str()),
    }
}

/// Lines that say the same as another, and lines that say the opposite.
fn repetitions(lines: &[Expect], problems: &mut Problems) {
    type Key = (Node, Target, Option<(u16, Protocol)>);
    // The places of the first line with `-/>` and of the first with `->`.
    let mut seen: HashMap<Key, [Option<&Place>; 2]> = HashMap::new();
    for line in lines {
        let firsts = seen.entry((line.from, line.to, line.port)).or_default();
        let (same, opposite) = (firsts[usize::from(line.reach)], firsts[usize::from(!line.reach)]);
        if let Some(first) = same {
            problems.push(
                Problem::new(line.place.clone(), format!("{} is listed twice", tick(&line.text)))
                    .with_label("the second")
                    .with_other(first.clone(), "the first"),
            );
            continue;
        }
        firsts[usize::from(line.reach)] = Some(&line.place);
        if let Some(opposite) = opposite {
            let words = |reach| if reach { "must answer" } else { "must not answer" };
            problems.push(
                Problem::new(line.place.clone(), format!("{} contradicts another line", tick(&line.text)))
                    .with_label(words(line.reach))
                    .with_other(opposite.clone(), words(!line.reach)),
            );
        }
    }
}
