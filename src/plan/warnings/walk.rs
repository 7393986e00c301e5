//! What a foreign base chain does with a flow, as far as its rules can be judged by devices, family and connection
//! tracking. What a rule does under any other condition is neither counted on nor feared: such a rule lets some packets
//! through, or drops some.

use super::traffic::Flow;
use crate::state::firewall::Policy;
use crate::state::{Condition, ForeignChain, ForeignRule, ForeignTable, ForeignVerdict, InterfaceName, OneOf};

/// How deep chains may call each other; the kernel allows 16 (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome<'a> {
    /// It passes, or nothing is known that stops it.
    Passes,
    /// The chain's policy stops it.
    Policy,
    /// A rule stops it, of the chain of this name.
    Rule { rule: &'a ForeignRule, chain: &'a str },
}

/// The outcome of a base chain.
pub(super) fn walk<'a>(table: &'a ForeignTable, chain: &'a ForeignChain, policy: Policy, flow: &Flow) -> Outcome<'a> {
    match ask(table, chain, flow, 0) {
        End::Accepted => Outcome::Passes,
        End::Stopped(rule, chain) => Outcome::Rule { rule, chain },
        End::Through => match policy {
            Policy::Drop => Outcome::Policy,
            Policy::Accept => Outcome::Passes,
        },
    }
}

/// How a chain ends for a flow.
enum End<'a> {
    Accepted,
    Stopped(&'a ForeignRule, &'a str),
    /// It came through, or what happened to it cannot be told.
    Through,
}

fn ask<'a>(table: &'a ForeignTable, chain: &'a ForeignChain, flow: &Flow, depth: usize) -> End<'a> {
    if depth > DEEPEST {
        return End::Through;
    }
    let other = |name: &str| match table.chains.iter().find(|chain| chain.name == name) {
        Some(other) => ask(table, other, flow, depth + 1),
        None => End::Through,
    };
    for rule in &chain.rules {
        let holds = holds(rule, flow);
        if holds == Some(false) {
            continue;
        }
        match (&rule.verdict, holds) {
            // Some packets leave the chain here, so that nothing is sure about what follows.
            (ForeignVerdict::Return | ForeignVerdict::Goto(_), None) | (ForeignVerdict::Return, _) => {
                return End::Through;
            }
            (_, None) | (ForeignVerdict::None, _) => {}
            (ForeignVerdict::Accept, _) => return End::Accepted,
            (ForeignVerdict::Drop | ForeignVerdict::Reject(_), _) => return End::Stopped(rule, &chain.name),
            (ForeignVerdict::Goto(name), _) => return other(name),
            (ForeignVerdict::Jump(name), _) => match other(name) {
                End::Through => {}
                end => return end,
            },
        }
    }
    End::Through
}

/// Whether a rule is for a flow; none where that cannot be told.
fn holds(rule: &ForeignRule, flow: &Flow) -> Option<bool> {
    let answers: Vec<Option<bool>> = rule.conditions.iter().map(|condition| meets(condition, flow)).collect();
    if answers.contains(&Some(false)) {
        return Some(false);
    }
    answers.into_iter().collect::<Option<Vec<bool>>>().map(|_| true)
}

fn meets(condition: &Condition, flow: &Flow) -> Option<bool> {
    let word = |one: &OneOf, word: &str| Some(one.words.iter().any(|w| w == word) != one.negate);
    match condition {
        Condition::Incoming(names) => device(names, flow.incoming),
        Condition::Outgoing(names) => device(names, flow.outgoing),
        Condition::State(states) => word(states, "new"),
        // Of the other bits it is not known which a new flow has by then.
        Condition::Status(bits) if bits.words == ["dnat"] => Some(flow.dnat != bits.negate),
        Condition::Status(_) | Condition::Other => None,
        Condition::Ipv6(ipv6) => Some(flow.ipv6? == *ipv6),
    }
}

fn device(names: &OneOf, device: Option<InterfaceName>) -> Option<bool> {
    let device = device?;
    let is = |name: &String| match name.strip_suffix('*') {
        Some(start) => device.as_str().starts_with(start),
        None => device.as_str() == name,
    };
    Some(names.words.iter().any(is) != names.negate)
}
