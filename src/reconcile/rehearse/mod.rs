//! Rehearsal: a whole file tried in a throwaway world, by the same code that applies it. The host of the file and a world
//! outside are namespaces on one underlay; the file is applied, planned again, every `expect` line is tried with real
//! packets, and all is removed again.

mod lines;
mod world;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::lines::{Attempt, Reader, Seat, seat};
use self::world::{HOST, WORLD, World, stand_in};
use super::{PrepareError, Prepared, apply, prepare, prepare_destroy};
use crate::config::{Config, ContainerNetns, Expect, Protocol};
use crate::desired::Chosen;
use crate::kernel::nftables::{Flow, Trace};
use crate::kernel::probe::{Listener, Outcome, Space, Transport, connect, ping, source};
use crate::kernel::{Backend, Linux, sandbox};
use crate::plan::{Plan, diff};
use crate::state::firewall::Hook;
use crate::state::{Scope, State};

/// How long an answer that must come may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long one that must not come is waited for.
const SILENCE_LIMIT: Duration = Duration::from_millis(800);

/// How long what was not answered is waited for when it is asked again, and how many are asked for at once.
const TRACES: [(Duration, usize); 3] =
    [(Duration::from_millis(250), usize::MAX), (Duration::from_millis(250), 40), (SILENCE_LIMIT, 20)];

/// How a step or a line went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should.
    Ok,
    /// Not as it should.
    Failed,
    /// This kernel cannot try it.
    NotTried,
}

/// A row of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The step, or the line as the file has it.
    pub what: String,
    /// How it went.
    pub verdict: Verdict,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What there is to say about it; for a failure, why.
    pub note: String,
}

/// The result of a rehearsal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Every step and every line, in order.
    pub rows: Vec<Row>,
}

impl Report {
    /// Whether nothing failed.
    pub fn ok(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Failed)
    }

    /// As a table for people.
    pub fn to_text(&self) -> String {
        self.table(0) + &self.tally()
    }

    /// The table's rows, from one on.
    pub fn table(&self, first: usize) -> String {
        let mut out = String::new();
        for row in self.rows.iter().skip(first) {
            let word = match row.verdict {
                Verdict::Ok => "ok",
                Verdict::Failed => "FAIL",
                Verdict::NotTried => "not tried",
            };
            let _ = write!(out, "{word:<9}  {:>5} ms  {}", row.ms, row.what);
            for (i, line) in row.note.lines().enumerate() {
                let _ = if i == 0 { write!(out, "  ({line}") } else { write!(out, "\n{:22}{line}", "") };
            }
            out.push_str(if row.note.is_empty() { "\n" } else { ")\n" });
        }
        out
    }

    /// The table's last line.
    pub fn tally(&self) -> String {
        let count = |verdict: Verdict| self.rows.iter().filter(|r| r.verdict == verdict).count();
        let (ok, failed, not_tried) = (count(Verdict::Ok), count(Verdict::Failed), count(Verdict::NotTried));
        format!("{ok} ok, {failed} failed, {not_tried} not tried\n")
    }
}

/// A rehearsal could not be held.
#[derive(Debug, thiserror::Error)]
pub enum RehearseError {
    /// There is no world to hold it in.
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    /// The file does not plan.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Something of the world went wrong.
    #[error("the world of the rehearsal could not be made: {0}")]
    World(String),
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn world_error(error: impl ToString) -> RehearseError {
    RehearseError::World(error.to_string())
}

/// What a rehearsal says on its way: each plan.
pub type Say<'a> = &'a mut dyn FnMut(&Plan);

/// What is done when all lines were tried and before all is removed, with the rows so far and what there is to look at:
/// each name with the path of its namespace.
pub type Linger<'a> = &'a mut dyn FnMut(&Report, &[(String, String)]);

/// Rehearses a file. Moves this process, which must have one thread, into a world of its own for good.
pub fn rehearse(config: &Config, say: Say<'_>, linger: Linger<'_>) -> Result<Report, RehearseError> {
    let parameters = world::parameters(config);
    let before = sandbox::Parameters::there(parameters.iter().map(|(path, _)| path));
    let own_users = sandbox::enter()?;
    let (mut config, stood_in) = world::with_stand_ins(config);
    let mut left_out = Vec::new();
    if own_users {
        let which = sandbox::not_to_be_set(&before, &parameters)?;
        left_out = world::without_parameters(&mut config, &which);
    }
    let mut rehearsal = Rehearsal::new(&config)?;
    for (what, note) in stood_in
        .into_iter()
        .map(|what| (what, "stood in for"))
        .chain(left_out.into_iter().map(|what| (what, "stood in for: as it is, a user namespace may not set it")))
    {
        rehearsal.row(what, Verdict::Ok, Instant::now(), note.to_owned());
    }
    rehearsal.run(say, linger)?;
    Ok(rehearsal.report)
}

struct Rehearsal<'a> {
    config: &'a Config,
    chosen: Chosen,
    world: World,
    host: Space,
    report: Report,
}

impl<'a> Rehearsal<'a> {
    /// Makes the world.
    fn new(config: &'a Config) -> Result<Self, RehearseError> {
        let start = Instant::now();
        let chosen = Chosen::new(config).map_err(|e| PrepareError::Invalid(Box::new(e)))?;
        let asked = Reader::asked_for(config);
        let mut world = World::new(config, &asked)
            .ok_or_else(|| world_error("the file uses all the networks that an underlay could have"))?;
        world::add_stand_ins(&mut world, config);
        let mut kernel = Linux::open().map_err(world_error)?;
        bring_about(&mut kernel, &world.state).map_err(RehearseError::World)?;
        let host = Space::open(&path(HOST)).map_err(world_error)?;
        let mut rehearsal = Self { config, chosen, world, host, report: Report::default() };
        rehearsal.row("make the world".into(), Verdict::Ok, start, String::new());
        Ok(rehearsal)
    }

    fn row(&mut self, what: String, verdict: Verdict, start: Instant, note: String) {
        self.report.rows.push(Row { what, verdict, ms: since(start), note });
    }

    /// A step that succeeds with a note or fails with one.
    fn step(&mut self, what: &str, start: Instant, result: Result<String, String>) -> bool {
        let (verdict, note) = match result {
            Ok(note) => (Verdict::Ok, note),
            Err(why) => (Verdict::Failed, why),
        };
        let ok = verdict == Verdict::Ok;
        self.row(what.to_owned(), verdict, start, note);
        ok
    }

    fn run(&mut self, say: Say<'_>, linger: Linger<'_>) -> Result<(), RehearseError> {
        let start = Instant::now();
        let applied = self.on_host(|kernel| {
            let prepared = prepare(kernel, self.config, None);
            carry_out(kernel, prepared)
        })?;
        let plan = applied.0;
        say(&plan);
        if !self.step("apply", start, applied.1) {
            return Ok(());
        }
        let start = Instant::now();
        let second =
            self.on_host(|kernel| prepare(kernel, self.config, None).map(|p| p.plan).map_err(|e| e.to_string()))?;
        let second = second.and_then(|plan| {
            if plan.is_empty() {
                Ok("no changes".to_owned())
            } else {
                Err(format!("there are changes:\n{}", plan.to_text()))
            }
        });
        self.step("plan again", start, second);
        self.lines()?;
        linger(&self.report, &self.places());
        let start = Instant::now();
        let destroyed = self.on_host(|kernel| {
            let prepared = prepare_destroy(kernel, None);
            carry_out(kernel, prepared)
        })?;
        say(&destroyed.0);
        self.step("destroy", start, destroyed.1);
        let start = Instant::now();
        let left = self.on_host(|kernel| match kernel.live(&Scope::default()) {
            Ok(live) if live.is_empty() => Ok("nothing is left".to_owned()),
            Ok(live) => Err(live.iter().map(|(key, _)| format!("left: {key}")).collect::<Vec<_>>().join("\n")),
            Err(error) => Err(error.to_string()),
        })?;
        self.step("look for what is left", start, left);
        Ok(())
    }

    /// Runs work in the host's namespace, with its kernel.
    fn on_host<T: Send>(&self, work: impl FnOnce(&mut Linux) -> T + Send) -> Result<T, RehearseError> {
        let done = self.host.within(|| Linux::open().map(|mut kernel| work(&mut kernel))).map_err(world_error)?;
        done.map_err(world_error)
    }

    /// Opens the listeners and tries every line, all at once.
    fn lines(&mut self) -> Result<(), RehearseError> {
        let reader = Reader { config: self.config, chosen: &self.chosen, world: &self.world };
        let start = Instant::now();
        let mut listening = Vec::new();
        let mut count = 0;
        for (seat, services) in reader.listeners() {
            let space = self.space(seat)?;
            // What the kernel lacks is not tried.
            let ports = services.into_iter().map(|(protocol, port)| (transport(protocol), port));
            let ports: Vec<(Transport, u16)> = ports.filter(|(transport, _)| transport.supported()).collect();
            listening.push(Listener::open_all(&space, &self.name(seat), &ports).map_err(world_error)?);
            count += ports.len();
        }
        let opened = (count > 0).then(|| Row {
            what: "listen".to_owned(),
            verdict: Verdict::Ok,
            ms: since(start),
            note: format!("{count} service{}", if count == 1 { "" } else { "s" }),
        });
        let tries: Vec<(&Expect, Space, Vec<Attempt>)> = self
            .config
            .expect
            .iter()
            .map(|line| Ok((line, self.space(seat(line.from))?, reader.attempts(line))))
            .collect::<Result<_, RehearseError>>()?;
        let mut results: Vec<Tried> = thread::scope(|scope| {
            let running: Vec<_> = tries
                .iter()
                .map(|(line, space, attempts)| scope.spawn(move || try_line(line, space, attempts)))
                .collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let traced = self.trace(&mut results, &tries);
        drop(listening);
        self.report.rows.extend(opened);
        self.report.rows.extend(results.into_iter().map(|result| result.row));
        self.report.rows.extend(traced);
        Ok(())
    }

    /// Sends once more what was not answered, and asks the host's firewall what became of it. The row of that.
    fn trace(&self, results: &mut [Tried], tries: &[(&Expect, Space, Vec<Attempt>)]) -> Option<Row> {
        let start = Instant::now();
        let mut asks = Vec::new();
        let mut flows = Vec::new();
        for (index, result) in results.iter().enumerate() {
            let (line, space, _) = &tries[index];
            for to in &result.silent {
                let port = line.port.map(|(port, protocol)| (transport(protocol), port));
                // Others may ask for the same, and what becomes of theirs is another matter.
                flows.push(Flow { from: source(space, *to), to: *to, port });
                asks.push((index, Again { line, space, to: *to, answered: None }));
            }
        }
        if asks.is_empty() {
            return None;
        }
        let (verdict, note) = match Trace::open(&self.host, &flows) {
            Ok(mut trace) => {
                ask_again(&mut asks, &mut trace);
                for (flow, (index, again)) in asks.iter().enumerate() {
                    let note = &mut results[*index].row.note;
                    let _ = write!(note, "\nto {}: {}", again.to, again.fate(&mut trace, flow));
                }
                (Verdict::Ok, String::new())
            }
            // A kernel that cannot tell leaves the lines without it.
            Err(error) => (Verdict::NotTried, error.message),
        };
        Some(Row { what: "ask again, with a trace".to_owned(), verdict, ms: since(start), note })
    }

    /// What there is to look at: the machines and the containers.
    fn places(&self) -> Vec<(String, String)> {
        let containers = (0..self.config.containers.len()).map(Seat::Container);
        let seats = [Seat::Host, Seat::World].into_iter().chain(containers);
        seats.map(|seat| (self.name(seat), self.path(seat).display().to_string())).collect()
    }

    fn name(&self, seat: Seat) -> String {
        match seat {
            Seat::Host => "host".to_owned(),
            Seat::World => "world".to_owned(),
            Seat::Container(index) => self.config.containers[index].name.to_string(),
        }
    }

    fn path(&self, seat: Seat) -> PathBuf {
        match seat {
            Seat::Host => path(HOST),
            Seat::World => path(WORLD),
            Seat::Container(index) => match &self.config.containers[index].netns {
                ContainerNetns::Named(netns) => path(&netns.to_string()),
                ContainerNetns::Path(_) => path(&stand_in(self.config.containers[index].name.as_str()).to_string()),
            },
        }
    }

    fn space(&self, seat: Seat) -> Result<Space, RehearseError> {
        let path = self.path(seat);
        Space::open(&path).map_err(|e| world_error(format!("{}: {e}", path.display())))
    }
}

/// What was not answered, to be asked again.
struct Again<'a> {
    line: &'a Expect,
    space: &'a Space,
    to: IpAddr,
    /// Who answers this time.
    answered: Option<String>,
}

impl Again<'_> {
    fn ask(&mut self, limit: Duration) {
        if let Outcome::Answered { by, .. } = ask(self.line, self.space, self.to, limit) {
            self.answered = Some(by);
        }
    }

    /// What became of it, in words.
    fn fate(&self, trace: &mut Trace, flow: usize) -> String {
        match (&self.answered, trace.verdict(flow), trace.passed(flow)) {
            (Some(by), ..) => format!("asked again, `{by}` answered"),
            (_, Some(dropped), _) => dropped.to_string(),
            (_, _, Some(Hook::Input)) => "the host took it in, and did not answer".to_owned(),
            (_, _, Some(_)) => "the host sent it on, and no answer came".to_owned(),
            _ if trace.seen(flow) => {
                "no rule dropped it, and the host did not send it on: it has no way there, or no way back".to_owned()
            }
            _ => "it never came to the host".to_owned(),
        }
    }
}

/// Asks again, at first all at once and shortly: what is dropped is told of at once. What is not told of may have come too
/// late or been lost, or the kernel's word of it, and is asked for again with fewer beside it and more time.
fn ask_again(asks: &mut [(usize, Again<'_>)], trace: &mut Trace) {
    for (limit, at_once) in TRACES {
        let mut untold: Vec<&mut Again<'_>> = asks
            .iter_mut()
            .enumerate()
            .filter(|(flow, (_, again))| {
                again.answered.is_none() && trace.verdict(*flow).is_none() && trace.passed(*flow).is_none()
            })
            .map(|(_, (_, again))| again)
            .collect();
        for some in untold.chunks_mut(at_once) {
            thread::scope(|scope| {
                for again in some {
                    scope.spawn(move || again.ask(limit));
                }
            });
        }
    }
}

/// In milliseconds.
fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

/// Applies a state where there is nothing yet.
fn bring_about(kernel: &mut Linux, wanted: &State) -> Result<(), String> {
    let scope = Scope::of(wanted);
    let live = kernel.live(&scope).map_err(|e| e.to_string())?;
    let plan = Plan { actions: diff(wanted, &live).actions, ..Plan::default() };
    let prepared = Prepared { desired: wanted.clone(), live, scope, plan };
    apply(kernel, &prepared, &mut |_, _| {}).map_err(|e| e.to_string())
}

/// Applies a plan, and says how many changes it took.
fn carry_out(kernel: &mut Linux, prepared: Result<Prepared, PrepareError>) -> (Plan, Result<String, String>) {
    match prepared {
        Ok(prepared) => {
            let result = apply(kernel, &prepared, &mut |_, _| {});
            let count = prepared.plan.actions.len();
            (prepared.plan, result.map(|()| format!("{count} changes")).map_err(|e| e.to_string()))
        }
        Err(error) => (Plan::default(), Err(error.to_string())),
    }
}

/// A line that was tried.
struct Tried {
    row: Row,
    /// The addresses from which an answer had to come and did not.
    silent: Vec<IpAddr>,
}

/// Asks once.
fn ask(line: &Expect, space: &Space, to: IpAddr, limit: Duration) -> Outcome {
    match line.port {
        Some((port, protocol)) => connect(space, (to, port).into(), transport(protocol), limit),
        None => ping(space, to, limit),
    }
}

/// Tries one line: all its addresses at once.
fn try_line(line: &Expect, space: &Space, attempts: &[Attempt]) -> Tried {
    let start = Instant::now();
    let limit = if line.reach { ANSWER_LIMIT } else { SILENCE_LIMIT };
    let outcomes: Vec<(&Attempt, Outcome)> = thread::scope(|scope| {
        let running: Vec<_> = attempts
            .iter()
            .map(|attempt| (attempt, scope.spawn(move || ask(line, space, attempt.to, limit))))
            .collect();
        running.into_iter().filter_map(|(attempt, thread)| Some((attempt, thread.join().ok()?))).collect()
    });
    let (verdict, note) = judge(line, &outcomes);
    let unanswered = |outcome: &Outcome| line.reach && matches!(outcome, Outcome::Silent | Outcome::Unreachable(_));
    let silent = outcomes.iter().filter(|(_, outcome)| unanswered(outcome)).map(|(attempt, _)| attempt.to).collect();
    Tried { row: Row { what: line.text.clone(), verdict, ms: since(start), note }, silent }
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
