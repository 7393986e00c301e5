//! What may talk to what, as a table that is tried with real packets.

use std::fmt::Write as _;
use std::thread;

use super::{Lab, Space, difference};

impl Lab {
    /// Tries every line of a table, as [`expect`] does; FROM is `world`, `host` or a container.
    pub fn expect(&self, table: &str) {
        expect(&|name| self.space(name), table);
    }
}

/// Tries every line, all at once, and compares what came of it. A line is `FROM tcp|udp|sctp ADDRESS:PORT -> OUTCOME` or
/// `FROM ping ADDRESS -> OUTCOME`; OUTCOME is `NAME sees ADDRESS`, `answer` (of a ping), `blocked`, `refused`,
/// `unreachable (…)`. Empty lines and what follows a `#` do not count.
pub fn expect(space: &(dyn Fn(&str) -> Space + Sync), table: &str) {
    let lines: Vec<(&str, &str)> = table
        .lines()
        .map(|line| line.split_once('#').map_or(line, |(l, _)| l).trim())
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once("->").unwrap_or_else(|| panic!("no `->` in `{line}`")))
        .map(|(probe, outcome)| (probe.trim(), outcome.trim()))
        .collect();
    assert!(!lines.is_empty(), "nothing to try");
    let outcomes: Vec<String> = thread::scope(|s| {
        let tried: Vec<_> = lines.iter().map(|(probe, _)| s.spawn(|| try_probe(space, probe))).collect();
        tried.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    let (mut wanted, mut got) = (String::new(), String::new());
    for ((probe, outcome), came) in lines.iter().zip(&outcomes) {
        let _ = writeln!(wanted, "{probe} -> {outcome}");
        let _ = writeln!(got, "{probe} -> {came}");
    }
    let wrong = difference(&wanted, &got);
    assert!(wrong.is_empty(), "expected (-) and tried (+):\n{wrong}");
}

fn try_probe(space: &(dyn Fn(&str) -> Space + Sync), probe: &str) -> String {
    let words: Vec<&str> = probe.split_whitespace().collect();
    let [from, how, target] = words[..] else { panic!("not `FROM HOW TARGET`: `{probe}`") };
    let from = space(from);
    let reply = match how {
        "tcp" => from.tcp(target),
        "udp" => from.udp(target),
        "sctp" => from.sctp(target),
        "ping" => return from.ping(target).map_or_else(|no| no.to_string(), |()| "answer".into()),
        _ => panic!("no way to try `{how}`"),
    };
    reply.map_or_else(|no| no.to_string(), |yes| yes.to_string())
}
