//! Rehearsal: a whole file tried in a throwaway world, by the same code that applies it. The hosts of the file and a world
//! outside are namespaces on one underlay; each host's part is applied and planned again, every `expect` line is tried with
//! real packets, and all is removed again.

mod lines;
mod stand_ins;
#[cfg(test)]
mod tests;
mod trace;
mod tries;
mod world;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use serde::Serialize;

use self::lines::{Reader, Seat};
use self::stand_ins::Lacking;
use self::trace::trace;
use self::tries::{Trial, Tried, transport};
use self::world::World;
use super::{PrepareError, Prepared, apply, prepare, prepare_destroy};
use crate::config::{Config, Expect, Node, Target};
use crate::desired::Chosen;
use crate::kernel::probe::{Listener, Space, Transport};
use crate::kernel::{Backend, Linux, disown, sandbox};
use crate::plan::{Plan, diff};
use crate::state::{ObjectName, Scope, State};

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
    let parameters = stand_ins::parameters(config);
    let before = sandbox::Parameters::there(parameters.iter().map(|(path, _)| path));
    let own_users = sandbox::enter()?;
    let (mut config, stood_in) = stand_ins::with_stand_ins(config);
    let mut left_out = Vec::new();
    if own_users {
        let which = sandbox::not_to_be_set(&before, &parameters)?;
        left_out = stand_ins::without_parameters(&mut config, &which);
    }
    let lacking = stand_ins::without_lacking(&mut config, sandbox::has_ipvlan());
    let mut rehearsal = Rehearsal::new(&config, lacking)?;
    for (what, note) in stood_in
        .into_iter()
        .map(|what| (what, "stood in for"))
        .chain(left_out.into_iter().map(|what| (what, "stood in for: as it is, a user namespace may not set it")))
    {
        rehearsal.row(what, Verdict::Ok, Instant::now(), note.to_owned());
    }
    for Lacking { network, driver, why } in rehearsal.lacking.clone() {
        let what = format!("{driver} network `{}`", config.networks[network].name);
        rehearsal.row(what, Verdict::NotTried, Instant::now(), why.to_owned());
    }
    rehearsal.run(say, linger)?;
    Ok(rehearsal.report)
}

struct Rehearsal<'a> {
    config: &'a Config,
    chosen: Chosen,
    world: World,
    /// The namespaces of the hosts.
    hosts: Vec<Space>,
    /// The networks that cannot be rehearsed.
    lacking: Vec<Lacking>,
    report: Report,
}

impl<'a> Rehearsal<'a> {
    /// Makes the world.
    fn new(config: &'a Config, lacking: Vec<Lacking>) -> Result<Self, RehearseError> {
        let start = Instant::now();
        let chosen = Chosen::new(config).map_err(|e| PrepareError::Invalid(Box::new(e)))?;
        let world = World::new(config, &chosen).ok_or_else(|| {
            world_error("the file uses all the networks that an underlay could have, or their addresses")
        })?;
        let mut kernel = Linux::open().map_err(world_error)?;
        bring_about(&mut kernel, &world.state).map_err(RehearseError::World)?;
        for folder in world.hosts.iter().filter_map(world::Machine::folder) {
            sandbox::make_names(&folder).map_err(world_error)?;
        }
        for (first, second) in stand_ins::second_names(config, &world) {
            sandbox::name_again(&first, &second).map_err(world_error)?;
        }
        let hosts = world.hosts.iter().map(|host| open(&host.path())).collect::<Result<Vec<_>, _>>()?;
        for host in &hosts {
            for device in world.devices() {
                host.within(|| disown(device)).map_err(world_error)?.map_err(world_error)?;
            }
        }
        let mut rehearsal = Self { config, chosen, world, hosts, lacking, report: Report::default() };
        rehearsal.row("make the world".into(), Verdict::Ok, start, String::new());
        Ok(rehearsal)
    }

    fn row(&mut self, what: String, verdict: Verdict, start: Instant, note: String) {
        self.report.rows.push(Row { what, verdict, ms: since(start), note });
    }

    /// A step on a host that succeeds with a note or fails with one.
    fn step(&mut self, what: &str, host: usize, start: Instant, result: Result<String, String>) -> bool {
        let (verdict, note) = match result {
            Ok(note) => (Verdict::Ok, note),
            Err(why) => (Verdict::Failed, why),
        };
        let ok = verdict == Verdict::Ok;
        let which = self.host_name(host).map(|name| format!(" (host {name})")).unwrap_or_default();
        self.row(format!("{what}{which}"), verdict, start, note);
        ok
    }

    fn run(&mut self, say: Say<'_>, linger: Linger<'_>) -> Result<(), RehearseError> {
        for host in 0..self.hosts.len() {
            let start = Instant::now();
            let (plan, applied) = self.on_host(host, |kernel, name| {
                let prepared = prepare(kernel, self.config, name);
                carry_out(kernel, prepared)
            })?;
            say(&plan);
            if !self.step("apply", host, start, applied) {
                return Ok(());
            }
        }
        for host in 0..self.hosts.len() {
            let start = Instant::now();
            let second = self.on_host(host, |kernel, name| prepare(kernel, self.config, name).map(|p| p.plan))?;
            let second = second.map_err(|e| e.to_string()).and_then(|plan| {
                if plan.is_empty() {
                    Ok("no changes".to_owned())
                } else {
                    Err(format!("there are changes:\n{}", plan.to_text()))
                }
            });
            self.step("plan again", host, start, second);
        }
        self.lines()?;
        linger(&self.report, &self.places());
        for host in 0..self.hosts.len() {
            let start = Instant::now();
            let (plan, destroyed) = self.on_host(host, |kernel, name| {
                let prepared = prepare_destroy(kernel, name);
                carry_out(kernel, prepared)
            })?;
            say(&plan);
            self.step("destroy", host, start, destroyed);
        }
        for host in 0..self.hosts.len() {
            let start = Instant::now();
            let left = self.on_host(host, |kernel, _| match kernel.live(&Scope::default()) {
                Ok(live) if live.is_empty() => Ok("nothing is left".to_owned()),
                Ok(live) => Err(live.iter().map(|(key, _)| format!("left: {key}")).collect::<Vec<_>>().join("\n")),
                Err(error) => Err(error.to_string()),
            })?;
            self.step("look for what is left", host, start, left);
        }
        Ok(())
    }

    /// What the file calls a host.
    fn host_name(&self, host: usize) -> Option<&str> {
        self.world.hosts[host].host.as_ref().map(ObjectName::as_str)
    }

    /// Runs work in a host's namespace, with its kernel, its name, and its own `/run/netns` as each machine has one.
    fn on_host<T: Send>(
        &self,
        host: usize,
        work: impl FnOnce(&mut Linux, Option<&str>) -> T + Send,
    ) -> Result<T, RehearseError> {
        let folder = self.world.hosts[host].folder();
        let done = self.hosts[host].within(|| {
            if let Some(folder) = folder {
                sandbox::enter_names(&folder).map_err(world_error)?;
            }
            let mut kernel = Linux::open().map_err(world_error)?;
            Ok(work(&mut kernel, self.host_name(host)))
        });
        done.map_err(world_error)?
    }

    fn reader(&self) -> Reader<'_> {
        Reader { config: self.config, chosen: &self.chosen, world: &self.world }
    }

    /// Opens the listeners and tries every line, all at once.
    fn lines(&mut self) -> Result<(), RehearseError> {
        let reader = self.reader();
        let start = Instant::now();
        let mut listening = Vec::new();
        let mut count = 0;
        for (seat, services) in reader.listeners() {
            let space = open(&self.path(seat))?;
            // What the kernel lacks is not tried.
            let ports = services.into_iter().map(|(protocol, port)| (transport(protocol), port));
            let ports: Vec<(Transport, u16)> = ports.filter(|(transport, _)| transport.supported()).collect();
            listening.push(Listener::open_all(&space, &reader.name(seat), &ports).map_err(world_error)?);
            count += ports.len();
        }
        let opened = (count > 0).then(|| Row {
            what: "listen".to_owned(),
            verdict: Verdict::Ok,
            ms: since(start),
            note: format!("{count} service{}", if count == 1 { "" } else { "s" }),
        });
        let trials: Vec<Trial> = self
            .config
            .expect
            .iter()
            .map(|line| {
                let space = open(&self.path(reader.seat(line.from)))?;
                let lacks = self.lacks(line).map(str::to_owned);
                Ok(Trial { line, space, attempts: reader.attempts(line), lacks })
            })
            .collect::<Result<_, RehearseError>>()?;
        let mut results: Vec<Tried> = thread::scope(|scope| {
            let running: Vec<_> = trials.iter().map(|trial| scope.spawn(|| trial.run())).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let traced = trace(&reader, &self.hosts, &mut results, &trials);
        drop(listening);
        self.report.rows.extend(opened);
        self.report.rows.extend(results.into_iter().map(|result| result.row));
        self.report.rows.extend(traced);
        Ok(())
    }

    /// Why a line cannot be tried, as it is about a container on a network that cannot be rehearsed.
    fn lacks(&self, line: &Expect) -> Option<&'static str> {
        let to = match line.to {
            Target::Node(node) => Some(node),
            Target::Address(ip) => {
                let is_of = |lacking: &&Lacking| {
                    self.config.networks[lacking.network].subnets.iter().any(|s| s.net.contains(ip))
                };
                let of_address = self.lacking.iter().find(is_of).map(|lacking| lacking.why);
                return of_address.or_else(|| self.is_lacking(line.from));
            }
        };
        self.is_lacking(line.from).or_else(|| self.is_lacking(to?))
    }

    fn is_lacking(&self, node: Node) -> Option<&'static str> {
        let Node::Container(index) = node else { return None };
        let on = |network| self.config.containers[index].attachments.iter().any(|a| a.network == network);
        self.lacking.iter().find(|lacking| on(lacking.network)).map(|lacking| lacking.why)
    }

    /// What there is to look at: the machines and the containers.
    fn places(&self) -> Vec<(String, String)> {
        let reader = self.reader();
        let seats = reader.seats().into_iter();
        seats.map(|seat| (reader.name(seat), self.path(seat).display().to_string())).collect()
    }

    fn path(&self, seat: Seat) -> PathBuf {
        match seat {
            Seat::Host(host) => self.world.hosts[host].path(),
            Seat::World => self.world.outside.path(),
            Seat::Container(index, host) => self.world.hosts[host].path_of(&self.config.containers[index]),
        }
    }
}

fn open(path: &Path) -> Result<Space, RehearseError> {
    Space::open(path).map_err(|e| world_error(format!("{}: {e}", path.display())))
}

/// In milliseconds.
fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Applies a state where there is nothing yet.
fn bring_about(kernel: &mut Linux, wanted: &State) -> Result<(), String> {
    let scope = Scope::of(wanted);
    let live = kernel.live(&scope).map_err(|e| e.to_string())?;
    let plan = Plan { actions: diff(wanted, &live).actions, ..Plan::default() };
    let prepared = Prepared { desired: wanted.clone(), live, scope, plan, ..Prepared::default() };
    apply(kernel, &prepared, &mut super::unwatched).map_err(|e| e.to_string())
}

/// Applies a plan, and says how many changes it took.
fn carry_out(kernel: &mut Linux, prepared: Result<Prepared, PrepareError>) -> (Plan, Result<String, String>) {
    match prepared {
        Ok(prepared) => {
            let result = apply(kernel, &prepared, &mut super::unwatched);
            let count = prepared.plan.actions.len();
            (prepared.plan, result.map(|()| format!("{count} changes")).map_err(|e| e.to_string()))
        }
        Err(error) => (Plan::default(), Err(error.to_string())),
    }
}
