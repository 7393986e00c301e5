//! The tries of a line, and what they say of it.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::lines::Attempt;
use super::{Row, Verdict, since};
use crate::config::{Expect, Protocol};
use crate::kernel::probe::{Outcome, Space, Transport, connect, ping};

/// How long an answer that must come may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long one that must not come is waited for.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_millis(800);

/// A line that is to be tried.
pub(super) struct Trial<'a> {
    pub line: &'a Expect,
    /// Where it begins.
    pub space: Space,
    pub attempts: Vec<Attempt>,
    /// Why it cannot be tried here.
    pub lacks: Option<String>,
}

/// A line that was tried.
pub(super) struct Tried {
    pub row: Row,
    /// The addresses from which an answer had to come and did not.
    pub silent: Vec<IpAddr>,
}

pub(super) fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

impl Trial<'_> {
    /// Tries the line: all its addresses at once.
    pub(super) fn run(&self) -> Tried {
        let Self { line, attempts, .. } = self;
        let start = Instant::now();
        if let Some(why) = &self.lacks {
            let row = Row { what: line.text.clone(), verdict: Verdict::NotTried, ms: 0, note: why.clone() };
            return Tried { row, silent: Vec::new() };
        }
        let limit = if line.reach { ANSWER_LIMIT } else { SILENCE_LIMIT };
        let outcomes: Vec<(&Attempt, Outcome)> = thread::scope(|scope| {
            let running: Vec<_> =
                attempts.iter().map(|attempt| (attempt, scope.spawn(move || self.ask(attempt.to, limit)))).collect();
            running.into_iter().filter_map(|(attempt, thread)| Some((attempt, thread.join().ok()?))).collect()
        });
        let (verdict, note) = judge(line, &outcomes);
        let unanswered = |outcome: &Outcome| line.reach && matches!(outcome, Outcome::Silent | Outcome::Unreachable(_));
        let silent =
            outcomes.iter().filter(|(_, outcome)| unanswered(outcome)).map(|(attempt, _)| attempt.to).collect();
        Tried { row: Row { what: line.text.clone(), verdict, ms: since(start), note }, silent }
    }

    /// Asks once.
    pub(super) fn ask(&self, to: IpAddr, limit: Duration) -> Outcome {
        match self.line.port {
            Some((port, protocol)) => connect(&self.space, (to, port).into(), transport(protocol), limit),
            None => ping(&self.space, to, limit),
        }
    }
}

/// Whether a line holds, and if not, what speaks against it.
fn judge(line: &Expect, outcomes: &[(&Attempt, Outcome)]) -> (Verdict, String) {
    let mut against = Vec::new();
    for (attempt, outcome) in outcomes {
        let to = attempt.to;
        match (line.reach, outcome) {
            (_, Outcome::NotTried(why)) => return (Verdict::NotTried, why.clone()),
            (true, Outcome::Answered { by, seen_from }) => {
                if let Some(wanted) = &attempt.by
                    && wanted != by
                {
                    against.push(format!("at {to} `{by}` answered instead of `{wanted}`"));
                } else if let Some(wanted) = attempt.seen_from
                    && wanted != *seen_from
                {
                    against.push(format!("at {to} the source address was {seen_from} instead of {wanted}"));
                }
            }
            (true, Outcome::Refused) => against.push(format!("{to} refused")),
            (true, Outcome::Unreachable(why)) => against.push(format!("{to}: {why}")),
            (true, Outcome::Silent) => against.push(format!("no answer from {to}")),
            (false, Outcome::Answered { by, .. }) => against.push(format!("at {to} `{by}` answered")),
            (false, _) => {}
        }
    }
    if outcomes.is_empty() && line.reach {
        against.push("there is no address of a family that both have".to_owned());
    }
    if against.is_empty() { (Verdict::Ok, String::new()) } else { (Verdict::Failed, against.join("\n")) }
}
