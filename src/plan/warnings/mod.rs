//! Warnings about what the desired state meets on the host: other firewalls that drop its traffic, and processes that
//! listen at its published ports.

mod remedy;
mod traffic;
mod walk;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::state::firewall::{Concat, Datum, Element, ElementData, Hook, Policy};
use crate::state::{
    At, Entry, Facts, ForeignChain, ForeignTable, ForeignVerdict, InterfaceName, Key, Listener, Object, Owner, Process,
    Published, State, Warning,
};
use remedy::Program;
use traffic::{Flow, Traffic, Way};
use walk::{Outcome, walk};

/// The ports that a desired state publishes by rewriting destinations, each with the container's address: elements of
/// maps from `[address .] protocol . port` to an address with or without a port.
fn ports(desired: &State) -> impl Iterator<Item = (Published, IpAddr, &Entry)> {
    desired.iter().filter_map(|(key, entry)| {
        let Key::Element { key: Concat(key), .. } = key else { return None };
        let Object::Element(Element { data: Some(ElementData::Values(Concat(data))) }) = &entry.object else {
            return None;
        };
        let target = ip(data.first()?)?;
        let (at, service) = match &key[..] {
            [address, service @ ..] if service.len() == 2 => (At::One(ip(address)?), service),
            service => (At::any(target.is_ipv6()), service),
        };
        let (protocol, first, last) = match *service {
            [Datum::InetProto(protocol), Datum::InetService(port)] => (protocol, port, port),
            [Datum::InetProto(protocol), Datum::ServiceRange(first, last)] => (protocol, first, last),
            _ => return None,
        };
        Some((Published { protocol, at, first, last }, target, entry))
    })
}

fn ip(datum: &Datum) -> Option<IpAddr> {
    match *datum {
        Datum::Ipv4Addr(address) => Some(address.into()),
        Datum::Ipv6Addr(address) => Some(address.into()),
        _ => None,
    }
}

/// The ports that a desired state publishes by rewriting destinations.
pub fn published(desired: &State) -> Vec<Published> {
    ports(desired).map(|(published, ..)| published).collect()
}

/// Whether there is anything on a host that a desired state could meet: it has a network that a container is on.
pub fn meets_others(desired: &State) -> bool {
    desired.iter().any(|(key, entry)| matches!(key, Key::Link { .. }) && traffic::member(entry).is_some())
}

/// The warnings about what was found on the host.
pub fn surroundings(facts: &Facts, desired: &State) -> Vec<Warning> {
    let found = &facts.surroundings;
    let mut warnings = Vec::new();
    if !found.tables.is_empty() {
        let traffic = Traffic::of(desired, facts);
        for table in &found.tables {
            for chain in &table.chains {
                foreign_chain(&mut warnings, &traffic, table, chain);
            }
        }
    }
    listeners(&mut warnings, &found.listeners, desired);
    let not_checked = |note: &String| Warning { code: "not-checked", message: note.clone(), owner: None };
    warnings.extend(found.notes.iter().map(not_checked));
    warnings
}

/// What a base chain of another program stops, by what stops it.
fn foreign_chain(warnings: &mut Vec<Warning>, traffic: &Traffic, table: &ForeignTable, chain: &ForeignChain) {
    let Some((hook, policy)) = chain.base else { return };
    let flows = traffic.flows(table.family, hook);
    let mut stopped: Vec<(Outcome<'_>, Vec<&Flow>)> = Vec::new();
    for flow in &flows {
        let outcome = match (table.rules_known, policy) {
            (true, _) => walk(table, chain, policy, flow),
            (false, Policy::Drop) => Outcome::Policy,
            (false, Policy::Accept) => Outcome::Passes,
        };
        if outcome != Outcome::Passes {
            match stopped.iter_mut().find(|(other, _)| *other == outcome) {
                Some((_, flows)) => flows.push(flow),
                None => stopped.push((outcome, vec![flow])),
            }
        }
    }
    for (outcome, flows) in stopped {
        let owner = flows.first().map(|flow| flow.owner.clone());
        let message = foreign_drop(table, chain, hook, &outcome, &flows);
        warnings.push(Warning { code: "foreign-drop", message, owner });
    }
}

fn foreign_drop(
    table: &ForeignTable,
    chain: &ForeignChain,
    hook: Hook,
    outcome: &Outcome<'_>,
    flows: &[&Flow],
) -> String {
    let program = Program::of(table, hook);
    let whose = program.map(|program| format!("{program}, ")).unwrap_or_default();
    let hook_name = if hook == Hook::Input { "input" } else { "forward" };
    let mut text = format!("chain {} of table {} {} ({whose}hook {hook_name}", chain.name, table.family, table.name);
    let verb = match outcome {
        Outcome::Rule { rule, .. } if rule.verdict != ForeignVerdict::Drop => "rejects",
        _ => "drops",
    };
    if *outcome == Outcome::Policy {
        text.push_str(", policy drop");
    }
    let _ = write!(text, ") {verb} {}", what(flows));
    if let Outcome::Rule { rule, chain: within } = outcome {
        let _ = write!(text, " by `{rule}` (handle {} of chain {within})", rule.handle);
    }
    let mut devices: Vec<InterfaceName> = flows.iter().flat_map(|flow| flow.devices.iter().copied()).collect();
    devices.sort_unstable();
    devices.dedup();
    let command = remedy::command(program, table, chain, hook, &devices);
    let _ = write!(text, "; to let it through: {command}");
    text
}

/// What is stopped: `traffic out of nr-back, nr-front and published ports into nr-front`.
fn what(flows: &[&Flow]) -> String {
    let mut ways: BTreeMap<Way, Vec<InterfaceName>> = BTreeMap::new();
    for flow in flows {
        let bridges = ways.entry(flow.way).or_default();
        if !bridges.contains(&flow.bridge) {
            bridges.push(flow.bridge);
        }
    }
    let parts: Vec<String> = ways.into_iter().map(|(way, bridges)| format!("{way} {}", some(&bridges))).collect();
    parts.join(" and ")
}

/// A list that does not grow beyond a line.
fn some(names: &[InterfaceName]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} (and {more} more)", shown.join(", ")) } else { shown.join(", ") }
}

/// Processes that listen where a port is published: one line for each address and port.
fn listeners(warnings: &mut Vec<Warning>, listeners: &[Listener], desired: &State) {
    if listeners.is_empty() {
        return;
    }
    let ports: Vec<(Published, IpAddr, &Entry)> = ports(desired).collect();
    let mut seen: BTreeMap<Listener, Vec<&Process>> = BTreeMap::new();
    for listener in listeners {
        let processes = seen.entry(Listener { process: None, ..listener.clone() }).or_default();
        processes.extend(&listener.process);
    }
    for (listener, processes) in seen {
        let mut owners: Vec<&Owner> = Vec::new();
        for owner in ports.iter().filter(|(port, ..)| listener.is_shadowed_by(port)).flat_map(|(.., e)| &e.owners) {
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        let Some(first) = owners.first() else { continue };
        let who = match &processes[..] {
            [] => "an unknown process".to_owned(),
            known => known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let names: Vec<&str> = owners.iter().map(|owner| owner.as_str()).collect();
        let verb = if names.len() == 1 { "publishes" } else { "publish" };
        let message = format!(
            "{}/{} is in use by {who}, and {} {verb} it: new flows go to the container",
            SocketAddr::new(listener.address, listener.port),
            protocol(listener.protocol),
            names.join(", "),
        );
        warnings.push(Warning { code: "port-in-use", message, owner: Some((*first).clone()) });
    }
}

fn protocol(number: u8) -> &'static str {
    match number {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        _ => "?",
    }
}
