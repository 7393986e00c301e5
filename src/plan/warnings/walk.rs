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

#[cfg(test)]
mod tests {
    use super::super::traffic::Way;
    use super::*;
    use crate::state::{Owner, TableFamily};

    /// A rule in few words: `i:NAME` and `o:NAME` are devices (`!` before a name for others), `s:STATE`, `dnat`, `v6`, `?`
    /// for what is not known; then what happens.
    fn rule(handle: u32, text: &str) -> ForeignRule {
        let one = |word: &str| OneOf {
            words: word.trim_start_matches('!').split(',').map(str::to_owned).collect(),
            negate: word.starts_with('!'),
        };
        let mut rule = ForeignRule { handle, conditions: Vec::new(), verdict: ForeignVerdict::None };
        for word in text.split(' ') {
            let condition = match word.split_once(':') {
                Some(("i", names)) => Condition::Incoming(one(names)),
                Some(("o", names)) => Condition::Outgoing(one(names)),
                Some(("s", states)) => Condition::State(one(states)),
                Some(("jump", chain)) => {
                    rule.verdict = ForeignVerdict::Jump(chain.to_owned());
                    continue;
                }
                Some(("goto", chain)) => {
                    rule.verdict = ForeignVerdict::Goto(chain.to_owned());
                    continue;
                }
                _ => match word {
                    "dnat" => Condition::Status(one("dnat")),
                    "v6" => Condition::Ipv6(true),
                    "?" => Condition::Other,
                    verdict => {
                        rule.verdict = match verdict {
                            "accept" => ForeignVerdict::Accept,
                            "drop" => ForeignVerdict::Drop,
                            "return" => ForeignVerdict::Return,
                            "reject" => ForeignVerdict::Reject("reject".to_owned()),
                            _ => ForeignVerdict::None,
                        };
                        continue;
                    }
                },
            };
            rule.conditions.push(condition);
        }
        rule
    }

    /// What stops what leaves by the uplink, and what comes to a published port: `pass`, `policy` or the rule's handle.
    fn stops(policy: Policy, chains: &[(&str, &[&str])]) -> [String; 2] {
        let rules = |texts: &[&str]| (1..).zip(texts).map(|(handle, text)| rule(handle, text)).collect();
        let chain = |(name, texts): &(&str, &[&str])| ForeignChain {
            name: (*name).to_owned(),
            base: None,
            rules: rules(texts),
        };
        let table = ForeignTable {
            family: TableFamily::Inet,
            name: "t".to_owned(),
            chains: chains.iter().map(chain).collect(),
            rules_known: true,
        };
        let name = |name: &str| name.parse::<InterfaceName>().unwrap();
        let flow = |way, incoming, outgoing| Flow {
            way,
            bridge: name("nr-a"),
            owner: Owner::netrec(),
            devices: Vec::new(),
            incoming: Some(name(incoming)),
            outgoing: Some(name(outgoing)),
            dnat: way == Way::In,
            ipv6: Some(false),
        };
        [flow(Way::Out, "nr-a", "eth0"), flow(Way::In, "eth0", "nr-a")].map(|flow| {
            match walk(&table, &table.chains[0], policy, &flow) {
                Outcome::Passes => "pass".to_owned(),
                Outcome::Policy => "policy".to_owned(),
                Outcome::Rule { rule, chain } => format!("{chain} {}", rule.handle),
            }
        })
    }

    #[test]
    fn what_is_sure_to_pass_passes() {
        let drop = |rules: &[&str]| stops(Policy::Drop, &[("base", rules)]);
        assert_eq!(drop(&[]), ["policy", "policy"]);
        assert_eq!(drop(&["s:established,related accept", "v6 accept", "i:docker0 accept"]), ["policy", "policy"]);
        assert_eq!(drop(&["i:nr-a accept"]), ["pass", "policy"]);
        assert_eq!(drop(&["o:nr-* accept"]), ["policy", "pass"]);
        assert_eq!(drop(&["i:!eth0 accept"]), ["pass", "policy"]);
        assert_eq!(drop(&["s:!new drop", "dnat accept"]), ["policy", "pass"]);
        assert_eq!(drop(&["i:nr-a ? accept"]), ["policy", "policy"], "it may be for others");
        assert_eq!(drop(&["? drop", "accept"]), ["pass", "pass"], "some are dropped, not all");
        assert_eq!(drop(&["s:new,untracked accept"]), ["pass", "pass"]);
    }

    #[test]
    fn a_rule_that_is_sure_to_stop_it_is_named() {
        let accept = |rules: &[&str]| stops(Policy::Accept, &[("base", rules)]);
        assert_eq!(accept(&[]), ["pass", "pass"]);
        assert_eq!(accept(&["dnat accept", "s:invalid drop", "reject"]), ["base 3", "pass"]);
        assert_eq!(accept(&["? accept", "drop"]), ["base 2", "base 2"], "what is left is dropped");
        assert_eq!(accept(&["? return", "drop"]), ["pass", "pass"], "nobody knows how many get there");
        assert_eq!(accept(&["? drop"]), ["pass", "pass"]);
    }

    #[test]
    fn chains_call_each_other() {
        let zones: [(&str, &[&str]); 4] = [
            ("base", &["jump:zones", "drop"]),
            ("zones", &["i:nr-a goto:trusted", "goto:public"]),
            ("trusted", &["accept"]),
            ("public", &["? accept", "reject"]),
        ];
        assert_eq!(stops(Policy::Accept, &zones), ["pass", "public 2"]);
        let back: [(&str, &[&str]); 3] =
            [("base", &["jump:sub", "accept"]), ("sub", &["i:nr-a return", "goto:on"]), ("on", &[])];
        assert_eq!(stops(Policy::Drop, &back), ["pass", "pass"]);
        let round: [(&str, &[&str]); 1] = [("base", &["jump:base"])];
        assert_eq!(stops(Policy::Drop, &round), ["policy", "policy"]);
        assert_eq!(stops(Policy::Drop, &[("base", &["jump:gone", "? jump:gone"])]), ["policy", "policy"]);
    }
}
