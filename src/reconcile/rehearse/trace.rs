//! What becomes of packets that nobody answers: they are sent once more, and the firewalls of the hosts that they pass are
//! asked.

use std::fmt::Write;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::lines::Reader;
use super::tries::{SILENCE_LIMIT, Trial, Tried, transport};
use super::{Row, Verdict, since};
use crate::kernel::StepError;
use crate::kernel::nftables::{Flow, Trace};
use crate::kernel::probe::{Outcome, Space, source};
use crate::state::firewall::Hook;

/// How long what was not answered is waited for when it is asked again, and how many are asked for at once.
const TRACES: [(Duration, usize); 3] =
    [(Duration::from_millis(250), usize::MAX), (Duration::from_millis(250), 40), (SILENCE_LIMIT, 20)];

/// Sends once more what was not answered, and asks the hosts' firewalls what became of it. The row of that.
pub(super) fn trace(reader: &Reader, hosts: &[Space], results: &mut [Tried], trials: &[Trial]) -> Option<Row> {
    let start = Instant::now();
    let mut traces = Traces { of_hosts: hosts.iter().map(|_| OfHost::default()).collect() };
    let mut asks = Vec::new();
    for (index, result) in results.iter().enumerate() {
        let trial = &trials[index];
        for to in &result.silent {
            asks.push(Again { index, trial, to: *to, hops: traces.add(reader, trial, *to), answered: None });
        }
    }
    if asks.is_empty() {
        return None;
    }
    let (verdict, note) = match traces.open(hosts) {
        Ok(()) => {
            ask_again(&mut asks, &mut traces);
            for again in &asks {
                let note = &mut results[again.index].row.note;
                let _ = write!(note, "\nto {}: {}", again.to, again.fate(reader, &mut traces));
            }
            (Verdict::Ok, String::new())
        }
        // A kernel that cannot tell leaves the lines without it.
        Err(error) => (Verdict::NotTried, error.message),
    };
    Some(Row { what: "ask again, with a trace".to_owned(), verdict, ms: since(start), note })
}

/// The traces on the hosts.
struct Traces {
    of_hosts: Vec<OfHost>,
}

/// What is watched on a host.
#[derive(Default)]
struct OfHost {
    flows: Vec<Flow>,
    /// None where there is nothing to watch.
    trace: Option<Trace>,
}

/// A host that packets pass.
#[derive(Clone, Copy)]
struct Hop {
    host: usize,
    /// Their place in what is watched there.
    flow: usize,
}

/// How far packets came on a host.
enum Came {
    /// They were dropped, by what.
    Dropped(String),
    /// The host took them in.
    In,
    /// The host sent them on.
    Through,
    /// They were seen, and no more.
    Lost,
    /// They were not seen.
    Never,
}

impl Traces {
    /// Has packets watched for on all hosts that they pass.
    fn add(&mut self, reader: &Reader, trial: &Trial, to: IpAddr) -> Vec<Hop> {
        let from = trial.line.from;
        let port = trial.line.port.map(|(port, protocol)| (transport(protocol), port));
        let own = source(&trial.space, to);
        let mut hops = Vec::new();
        for host in reader.way(from, to) {
            // Others may ask for the same, and what becomes of theirs is another matter.
            let from = if hops.is_empty() { own } else { reader.source_at_host(from, to, own) };
            let flows = &mut self.of_hosts[host].flows;
            hops.push(Hop { host, flow: flows.len() });
            flows.push(Flow { from, to, port });
        }
        hops
    }

    /// Begins to watch.
    fn open(&mut self, hosts: &[Space]) -> Result<(), StepError> {
        for (of_host, space) in self.of_hosts.iter_mut().zip(hosts).filter(|(of_host, _)| !of_host.flows.is_empty()) {
            of_host.trace = Some(Trace::open(space, &of_host.flows)?);
        }
        Ok(())
    }

    fn came(&mut self, hop: Hop) -> Came {
        let Some(trace) = &mut self.of_hosts[hop.host].trace else { return Came::Never };
        match (trace.verdict(hop.flow), trace.passed(hop.flow)) {
            (Some(dropped), _) => Came::Dropped(dropped.to_string()),
            (_, Some(Hook::Input)) => Came::In,
            (_, Some(_)) => Came::Through,
            _ if trace.seen(hop.flow) => Came::Lost,
            _ => Came::Never,
        }
    }
}

/// What was not answered, to be asked again.
struct Again<'a> {
    /// Of the line.
    index: usize,
    trial: &'a Trial<'a>,
    to: IpAddr,
    /// The hosts on the way.
    hops: Vec<Hop>,
    /// Who answers this time.
    answered: Option<String>,
}

impl Again<'_> {
    fn ask(&mut self, limit: Duration) {
        if let Outcome::Answered { by, .. } = self.trial.ask(self.to, limit) {
            self.answered = Some(by);
        }
    }

    /// Whether it is known what became of it: it was dropped, or came through the last host.
    fn is_told(&self, traces: &mut Traces) -> bool {
        self.answered.is_some()
            || self.hops.iter().enumerate().any(|(place, hop)| match traces.came(*hop) {
                Came::Dropped(_) => true,
                Came::In | Came::Through => place + 1 == self.hops.len(),
                Came::Lost | Came::Never => false,
            })
    }

    /// What became of it, in words.
    fn fate(&self, reader: &Reader, traces: &mut Traces) -> String {
        if let Some(by) = &self.answered {
            return format!("asked again, `{by}` answered");
        }
        let mut told = Vec::new();
        let mut unseen = Vec::new();
        for (place, hop) in self.hops.iter().enumerate() {
            let machine = &reader.world.hosts[hop.host];
            let host = machine.called();
            let last = place + 1 == self.hops.len();
            match traces.came(*hop) {
                // Between ports of a bridge nothing may be seen of it.
                Came::Never => {
                    unseen.push(host);
                    continue;
                }
                Came::Through if !last => {
                    told.push(format!("{host} sent it on"));
                    continue;
                }
                Came::Through => told.push(format!("{host} sent it on, and no answer came")),
                Came::In => told.push(format!("{host} took it in, and did not answer")),
                Came::Lost => told.push(format!(
                    "no rule dropped it, and {host} did not send it on: it has no way there, or no way back"
                )),
                Came::Dropped(by) if machine.host.is_some() => told.push(format!("{host}: {by}")),
                Came::Dropped(by) => told.push(by),
            }
            unseen.clear();
            break;
        }
        if !unseen.is_empty() {
            told.push(format!("it never came to {}", unseen.join(" or ")));
        }
        if told.is_empty() { "no host is on its way".to_owned() } else { told.join("; ") }
    }
}

/// Asks again, at first all at once and shortly: what is dropped is told of at once. What is not told of may have come too
/// late or been lost, or the kernel's word of it, and is asked for again with fewer beside it and more time.
fn ask_again(asks: &mut [Again<'_>], traces: &mut Traces) {
    for (limit, at_once) in TRACES {
        let mut untold: Vec<&mut Again<'_>> = asks.iter_mut().filter(|again| !again.is_told(traces)).collect();
        for some in untold.chunks_mut(at_once) {
            thread::scope(|scope| {
                for again in some {
                    scope.spawn(move || again.ask(limit));
                }
            });
        }
    }
}
