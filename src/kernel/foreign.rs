//! The rules of other programs' tables, as `nft` lists them. They make warnings more exact, and nothing else depends on
//! them, so a host without `nft` lacks nothing. One process for each table, all at once and within a time limit; the
//! `nftables` crate reads statements one by one, so that one that it does not know does not hide the others.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nftables::expr::{Expression, MetaKey, NamedExpression, SetItem};
use nftables::stmt::{Match, Operator, Reject, Statement};
use serde_json::Value;

use crate::state::{Condition, ForeignRule, ForeignTable, ForeignVerdict, OneOf};

/// How long all listings together may take. Each takes some milliseconds, or some tens where tables are large.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest listing that is read, in bytes: some ten thousand rules.
const LONGEST: u64 = 8 << 20;

/// Fills in the tables' rules; yields a sentence for each table of which they could not be had. Nothing is run without
/// tables.
pub(super) fn read_rules(tables: &mut [ForeignTable]) -> Vec<String> {
    let deadline = Instant::now() + LIMIT;
    let mut running: Vec<Option<Result<Listing, &str>>> = Vec::new();
    for table in tables.iter() {
        running.push(match Listing::start(table) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(_) => Some(Err("nft could not be started")),
            Ok(listing) => listing.map(Ok),
        });
    }
    let mut notes = Vec::new();
    for (table, listing) in tables.iter_mut().zip(running) {
        let rules = match listing {
            None => Err("its name is not one that nft takes"),
            Some(listing) => listing.and_then(|listing| listing.finish(deadline)),
        };
        if let Err(why) = rules.and_then(|text| fill_in(table, &text)) {
            notes.push(format!(
                "the rules of table {} {} could not be read ({why}), only its policies",
                table.family, table.name
            ));
        }
    }
    notes
}

/// An `nft` that lists a table.
struct Listing {
    child: Child,
    output: Receiver<Option<String>>,
}

impl Listing {
    /// Starts it in the calling thread's network namespace; none for a name that could be taken for something else, since
    /// nft reads its arguments as one text.
    fn start(table: &ForeignTable) -> std::io::Result<Option<Self>> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !table.name.chars().all(plain) || !table.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Ok(None);
        }
        // Without elements of sets (`-t`), of which a table can have thousands.
        let mut command = Command::new("nft");
        command.args(["-j", "-t", "list", "table", &table.family.to_string(), &table.name]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (sender, output) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut text = String::new();
                let whole = stdout.take(LONGEST).read_to_string(&mut text).is_ok_and(|len| (len as u64) < LONGEST);
                // Nobody waits for it after the time limit.
                let _ = sender.send(whole.then_some(text));
            });
        }
        Ok(Some(Self { child, output }))
    }

    /// What it printed.
    fn finish(mut self, deadline: Instant) -> Result<String, &'static str> {
        let outcome = self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let _ = self.child.kill();
        let _ = self.child.wait();
        match outcome {
            Ok(Some(text)) if text.is_empty() => Err("nft listed nothing"),
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err("nft listed too much"),
            Err(_) => Err("nft took too long"),
        }
    }
}

/// Fills in the rules of a listing.
fn fill_in(table: &mut ForeignTable, text: &str) -> Result<(), &'static str> {
    let strange = "nft's listing makes no sense";
    let Ok(Value::Object(mut document)) = serde_json::from_str(text) else { return Err(strange) };
    let Some(Value::Array(objects)) = document.remove("nftables") else { return Err(strange) };
    for mut object in objects {
        let Some(rule) = object.get_mut("rule").map(Value::take) else { continue };
        let chain = rule.get("chain").and_then(Value::as_str);
        // A chain that came meanwhile is not of interest.
        let Some(chain) = table.chains.iter_mut().find(|c| Some(c.name.as_str()) == chain) else { continue };
        chain.rules.push(read_rule(rule).ok_or(strange)?);
    }
    table.rules_known = true;
    Ok(())
}

fn read_rule(mut rule: Value) -> Option<ForeignRule> {
    let handle = u32::try_from(rule.get("handle")?.as_u64()?).ok()?;
    let Value::Array(statements) = rule.get_mut("expr")?.take() else { return None };
    let mut conditions = Vec::new();
    let mut verdict = ForeignVerdict::None;
    for statement in statements {
        // What the crate does not know may be a condition, or decide.
        let Ok(statement) = serde_json::from_value::<Statement<'static>>(statement) else {
            conditions.push(Condition::Other);
            continue;
        };
        match statement {
            Statement::Match(found) => conditions.push(condition(&found)),
            Statement::Accept(_) => verdict = ForeignVerdict::Accept,
            Statement::Drop(_) => verdict = ForeignVerdict::Drop,
            Statement::Reject(how) => verdict = ForeignVerdict::Reject(reject(how.as_ref())),
            Statement::Jump(to) => verdict = ForeignVerdict::Jump(to.target.into_owned()),
            Statement::Goto(to) => verdict = ForeignVerdict::Goto(to.target.into_owned()),
            Statement::Return(_) => verdict = ForeignVerdict::Return,
            // These let every packet go on to the rest of the rule.
            Statement::Counter(_) | Statement::Log(_) | Statement::Mangle(_) | Statement::Continue(_) => {}
            _ => conditions.push(Condition::Other),
        }
    }
    Some(ForeignRule { handle, conditions, verdict })
}

fn condition(found: &Match<'_>) -> Condition {
    let negate = match found.op {
        Operator::EQ | Operator::IN => false,
        Operator::NEQ => true,
        _ => return Condition::Other,
    };
    let (Expression::Named(left), Some(words)) = (&found.left, words(&found.right)) else { return Condition::Other };
    match left {
        NamedExpression::Meta(meta) => match meta.key {
            MetaKey::Iifname | MetaKey::Iif => Condition::Incoming(OneOf { words, negate }),
            MetaKey::Oifname | MetaKey::Oif => Condition::Outgoing(OneOf { words, negate }),
            MetaKey::Nfproto => match &words[..] {
                [one] if one == "ipv4" => Condition::Ipv6(negate),
                [one] if one == "ipv6" => Condition::Ipv6(!negate),
                _ => Condition::Other,
            },
            _ => Condition::Other,
        },
        NamedExpression::CT(ct) if ct.key == "state" => Condition::State(OneOf { words, negate }),
        NamedExpression::CT(ct) if ct.key == "status" => Condition::Status(OneOf { words, negate }),
        _ => Condition::Other,
    }
}

/// One word, or some of which one is enough; none for anything else, a set by its name too.
fn words(right: &Expression<'_>) -> Option<Vec<String>> {
    let word = |expression: &Expression<'_>| match expression {
        Expression::String(text) if !text.starts_with('@') => Some(text.to_string()),
        _ => None,
    };
    match right {
        Expression::List(list) => list.iter().map(word).collect(),
        Expression::Named(NamedExpression::Set(items)) => items
            .iter()
            .map(|item| match item {
                SetItem::Element(element) => word(element),
                _ => None,
            })
            .collect(),
        one => word(one).map(|word| vec![word]),
    }
}

/// A reject statement in the syntax of `nft(8)`.
fn reject(how: Option<&Reject>) -> String {
    let text = |value: Result<Value, _>| value.ok().and_then(|v: Value| v.as_str().map(str::to_owned));
    let kind = how.and_then(|how| text(serde_json::to_value(how._type?)));
    let code = how.and_then(|how| text(serde_json::to_value(how.expr?)));
    match (kind, code) {
        (Some(kind), Some(code)) => format!("reject with {kind} {code}"),
        (Some(kind), None) => format!("reject with {kind}"),
        _ => "reject".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_far_as_they_are_known() {
        for (statements, wanted) in [
            (
                r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
                   {"counter": {"packets": 1, "bytes": 60}}, {"accept": null}"#,
                "ct state { established, related } accept",
            ),
            (
                r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["a", "nr-*"]}}},
                   {"match": {"op": "!=", "left": {"meta": {"key": "oif"}}, "right": "lo"}}, {"goto": {"target": "z"}}"#,
                "iifname { a, nr-* } oifname != lo goto z",
            ),
            (
                r#"{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"return": null}"#,
                "ct status dnat return",
            ),
            (
                r#"{"match": {"op": "!=", "left": {"meta": {"key": "nfproto"}}, "right": "ipv4"}}, {"jump": {"target": "six"}}"#,
                "meta nfproto ipv6 jump six",
            ),
            (r#"{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}"#, "reject with icmpx admin-prohibited"),
            (r#"{"reject": {"type": "tcp reset"}}"#, "reject with tcp reset"),
            (r#"{"log": {"prefix": "x"}}, {"reject": null}"#, "reject"),
            // What is not looked into, or not known to the crate.
            (
                r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}}, {"drop": null}"#,
                "... drop",
            ),
            (
                r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@trusted"}}, {"accept": null}"#,
                "... accept",
            ),
            (r#"{"xt": null}, {"accept": null}"#, "... accept"),
            (r#"{"limit": {"rate": 3, "per": "minute"}}, {"drop": null}"#, "... drop"),
            (r#"{"of tomorrow": {"what": [1, 2]}}, {"drop": null}"#, "... drop"),
            (
                r#"{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}]]}}}"#,
                "... ...",
            ),
        ] {
            let rule = serde_json::from_str(&format!(r#"{{"handle": 7, "expr": [{statements}]}}"#)).unwrap();
            let read = read_rule(rule).unwrap();
            assert_eq!((read.handle, read.to_string().as_str()), (7, wanted));
        }
    }
}
