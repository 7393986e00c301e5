//! Carrying out a plan: phase by phase, reading back what came of it, and on any failure back to the state before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;

use crate::kernel::{Backend, ReadError, StepError};
use crate::plan::flows::{self, Change};
use crate::plan::{Action, Diff, Op, Phase, announcements, diff, phases};
use crate::state::{Endpoint, Entry, Key, Kind, Netns, Object, PluginNetwork, Qdisc, Scope, State, Step};

use super::sources::all_places;
use super::{Prepared, beside};

/// `ERESTART`: the ruleset changed since it was read (`nfnetlink` answers so to a batch with an old generation).
const ERESTART: i32 = 85;

/// How often a firewall transaction that somebody else's came before is tried again.
const FIREWALL_TRIES: usize = 10;

/// How often the way back is tried: it starts from what there really is each time.
const UNDO_TRIES: usize = 3;

/// How many steps go to the kernel between two words on progress.
const CHUNK: usize = 512;

/// Told the steps done and the steps in all, between batches; says whether to go on. When not, what was done is taken back.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// The progress of work that nobody looks at.
pub fn unwatched(_done: usize, _total: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A plan was not carried out.
#[derive(Debug)]
pub struct ApplyError {
    /// What went wrong; at least one, each with the object it went wrong with.
    pub errors: Vec<(Key, String)>,
    /// What became of what had been done.
    pub undo: Undo,
}

/// What became of a plan that failed.
#[derive(Debug)]
pub enum Undo {
    /// The state before is restored.
    Done,
    /// It is not: what is left to do, and why it could not be done.
    Left(Vec<String>),
    /// Nothing was to be taken back: what failed were plugins, of whose networks alone something is missing.
    Unneeded,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        for (_, error) in self.errors.iter().take(SHOWN) {
            writeln!(f, "{error}")?;
        }
        if self.errors.len() > SHOWN {
            writeln!(f, "and {} more like these", self.errors.len() - SHOWN)?;
        }
        match &self.undo {
            Undo::Done => f.write_str("what had been done was taken back: the host is as it was before"),
            Undo::Unneeded => f.write_str("all else is done; `netrec apply` tries again"),
            Undo::Left(left) => {
                writeln!(f, "what had been done could not all be taken back; left to do:")?;
                for line in left {
                    writeln!(f, "  {line}")?;
                }
                f.write_str("`netrec apply` brings the host to the file, `netrec destroy` removes all that is netrec's")
            }
        }
    }
}

impl std::error::Error for ApplyError {}

/// Carries out a plan. Without actions it writes nothing.
pub fn apply(backend: &mut dyn Backend, prepared: &Prepared, progress: Progress<'_>) -> Result<(), ApplyError> {
    if prepared.plan.is_empty() {
        return Ok(());
    }
    let mut apart = Apart::default();
    let mut scope = prepared.scope.clone();
    let mut next: Option<Prepared> = None;
    let mut answered = false;
    let done = loop {
        let now = next.as_ref().unwrap_or(prepared);
        let done = round(backend, now, &mut apart, progress);
        let Some(again) = now.again.as_ref() else { break done };
        match done {
            // What plugins have answered is wanted by now, once.
            Ok(()) if again.unanswered && !answered => answered = true,
            Ok(()) => break Ok(()),
            Err(errors) => {
                if let Err(errors) = set_apart(backend, now, &mut apart, errors) {
                    break Err(errors);
                }
            }
        }
        match again.prepare(backend) {
            Ok(prepared) => {
                scope = scope.and(prepared.scope.clone());
                next = Some(prepared);
            }
            Err(error) => break Err(vec![(Key::Table, format!("plan with what plugins answered: {error}"))]),
        }
    };
    match done {
        Err(errors) => Err(ApplyError { undo: restore(backend, &prepared.live, &scope), errors }),
        Ok(()) if apart.errors.is_empty() => Ok(()),
        Ok(()) => Err(ApplyError { errors: apart.errors, undo: Undo::Unneeded }),
    }
}

/// Where all that a round failed at is what plugins have answered: takes the round back, and the containers off those networks.
/// All else may be done then. What has been in use before is not given up.
fn set_apart(backend: &mut dyn Backend, now: &Prepared, apart: &mut Apart, errors: Errors) -> Result<(), Errors> {
    let mut at_fault: BTreeMap<Key, &str> = BTreeMap::new();
    for (key, error) in &errors {
        match now.new_endpoint(key).filter(|endpoint| !apart.keys.contains(*endpoint)) {
            Some(endpoint) => drop(at_fault.entry(endpoint.clone()).or_insert(error)),
            None => return Err(errors),
        }
    }
    if !matches!(restore(backend, &now.live, &now.scope), Undo::Done) {
        return Err(errors);
    }
    for (key, error) in at_fault {
        let before = now.desired.get(&key).cloned();
        let step = Step { key: key.clone(), before, after: None };
        let left = backend.run(&[step]).into_iter().find_map(Result::err);
        let left = left.map(|left| format!("; it is still told of it: {}", left.message)).unwrap_or_default();
        apart.add(&key, format!("{key}: what its plugin answered cannot be: {error}{left}"));
    }
    Ok(())
}

impl Prepared {
    /// The container on a plugin's network that an object hangs on, if its device is to be moved there just now.
    fn new_endpoint(&self, key: &Key) -> Option<&Key> {
        let owner = self.desired.get(key)?.owner()?;
        let of_owner = |entry: &Entry| entry.owner() == Some(owner);
        let is_there = self.live.iter().any(|(_, entry)| {
            let is_plugins = matches!(&entry.object, Object::Link(link) if link.source().is_some());
            is_plugins && entry.standing.is_ours() && of_owner(entry)
        });
        let mut all = self.desired.iter().filter(|(key, _)| key.kind() == Kind::Endpoint);
        all.find(|(_, entry)| of_owner(entry)).map(|(key, _)| key).filter(|_| !is_there)
    }
}

/// Carries out one plan, but for what plugins fail at.
fn round(
    backend: &mut dyn Backend,
    prepared: &Prepared,
    apart: &mut Apart,
    progress: Progress<'_>,
) -> Result<(), Errors> {
    let mut run = Run { backend, desired: &prepared.desired, scope: &prepared.scope, apart, touched: BTreeSet::new() };
    let change = run.all(&prepared.plan.actions, &prepared.live, progress)?;
    run.forget(change)?;
    let news = announcements(&prepared.plan.actions, &prepared.desired);
    if !news.is_empty() {
        run.backend.announce(&news);
    }
    Ok(())
}

/// What plugins failed at. All else goes on.
#[derive(Default)]
struct Apart {
    keys: BTreeSet<Key>,
    errors: Errors,
}

impl Apart {
    /// Whether something is to be left as it is: for itself, with its network, or as the network of a container that is.
    fn has(&self, key: &Key) -> bool {
        let Some(of) = key.plugin_network().filter(|_| !self.keys.is_empty()) else { return false };
        let touches = |other: &Key| other == key || other.kind() != key.kind() && other.plugin_network() == Some(of);
        self.keys.iter().any(touches)
    }

    fn add(&mut self, key: &Key, error: String) {
        self.keys.insert(key.clone());
        self.errors.push((key.clone(), error));
    }
}

type Errors = Vec<(Key, String)>;

struct Run<'a> {
    backend: &'a mut dyn Backend,
    desired: &'a State,
    scope: &'a Scope,
    apart: &'a mut Apart,
    /// The namespaces that something is done in.
    touched: BTreeSet<Netns>,
}

impl<'a> Run<'a> {
    /// Carries out all steps, reads back what came of it, and says what it means for flows.
    fn all(
        &mut self,
        actions: &[Action],
        before: &'a State,
        progress: Progress<'_>,
    ) -> Result<Option<Change<'a>>, Errors> {
        let phases = phases(actions);
        self.touched.extend(all_places(actions).cloned());
        let total = phases.iter().map(|(_, steps)| steps.len()).sum();
        let mut done = 0;
        let mut verified = true;
        let mut go_on = |done| match progress(done, total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(vec![(Key::Table, format!("interrupted after {done} of {total} steps"))]),
        };
        go_on(done)?;
        for (phase, steps) in &phases {
            if phase.removes() && !verified {
                self.verify(true)?;
                verified = true;
            }
            for chunk in chunks(*phase, steps) {
                if chunk.iter().any(|step| step.key.kind().is_of_plugin()) {
                    self.plugins_steps(chunk);
                } else {
                    self.steps(*phase, chunk)?;
                }
                done += chunk.len();
                go_on(done)?;
            }
            verified &= phase.removes();
        }
        let concerned = flows::concern(actions);
        if concerned {
            self.backend.look_at_flows();
        }
        let desired = self.desired;
        let change = if concerned {
            let (change, verified) = beside(|| Change::between(before, desired), || self.verify(false));
            verified?;
            change
        } else {
            self.verify(false)?;
            None
        };
        // What follows cannot be taken back.
        go_on(done)?;
        Ok(change)
    }

    /// Steps of plugins', one by one. Where one fails, that is no matter of the others'.
    fn plugins_steps(&mut self, steps: &[Step]) {
        for step in steps {
            if self.apart.has(&step.key) {
                if step.key.kind() == Kind::Network && self.desired.get(&step.key).is_none() {
                    self.apart.add(&step.key, format!("remove {}: a container on it is still there", step.key));
                }
                continue;
            }
            for error in self.backend.run(std::slice::from_ref(step)).into_iter().filter_map(Result::err) {
                self.apart.add(&step.key, error.message);
            }
        }
    }

    fn steps(&mut self, phase: Phase, steps: &[Step]) -> Result<(), Errors> {
        let mut results = self.backend.run(steps);
        for _ in 1..FIREWALL_TRIES {
            if !results.iter().any(|r| matches!(r, Err(e) if e.errno == ERESTART)) {
                break;
            }
            // Somebody changed some table meanwhile. If it was not ours, the same steps are still right.
            if !self.still_right(phase, steps) {
                break;
            }
            results = self.backend.run(steps);
        }
        let errors: Errors = steps
            .iter()
            .zip(results)
            .filter_map(|(step, result)| result.err().map(|StepError { message, .. }| (step.key.clone(), message)))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Reads the kernel again, and says whether a plan made now has the same steps in this phase.
    fn still_right(&mut self, phase: Phase, steps: &[Step]) -> bool {
        let Ok(live) = self.backend.live(self.scope) else { return false };
        let actions = diff(self.desired, &live).actions;
        phases(&actions).iter().any(|(p, now)| *p == phase && now == steps)
    }

    /// Reads back what was made. What is to go may still be there while removals are `pending`.
    fn verify(&mut self, pending: bool) -> Result<(), Errors> {
        let failed = |message: String| vec![(Key::Table, message)];
        let live = self
            .backend
            .read_back(self.scope, &self.touched)
            .map_err(|e| failed(format!("reading back failed: {e}")))?;
        let Diff { mut actions, conflicts } = diff(self.desired, &live);
        actions.retain(|action| !self.apart.has(&action.key));
        let mut errors: Errors = actions
            .iter()
            .filter(|a| !pending || a.op != Op::Delete && !a.waits)
            .map(|a| (a.key.clone(), a.shortfall()))
            .collect();
        errors.extend(conflicts.into_iter().map(|c| {
            let text = format!("read back: {} is not netrec's ({})", c.key, c.why);
            (c.key, text)
        }));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Ends the flows that the change leaves behind. It cannot be undone and harms nobody before all else has succeeded,
    /// so it comes last. When it fails, so does the apply: the next one would see no difference and leave these flows be,
    /// and a mapping that was taken away would still be used.
    fn forget(&mut self, change: Option<Change<'_>>) -> Result<(), Errors> {
        forget(self.backend, change).map_err(|error| vec![(Key::Table, error.message)])
    }
}

/// Goes back to what there was: the difference between that and what there is now, carried out like any other. So it
/// also brings back what the kernel dropped on its own, such as the routes of a device that went down. Flows that came
/// up meanwhile end where the rules of before would not have had them.
pub(super) fn restore(backend: &mut dyn Backend, before: &State, scope: &Scope) -> Undo {
    let before: State = before.iter().filter_map(|(k, e)| Some((k.clone(), restored(e)?))).collect();
    let scope = Scope::of(&before).and(scope.clone());
    let mut refused = Vec::new();
    // A state whose flows are still to end.
    let mut left_behind: Option<State> = None;
    for attempt in 1..=UNDO_TRIES {
        refused.clear();
        let live = match backend.live(&scope) {
            Ok(live) => live,
            Err(error) => {
                refused.push(unread(&error));
                continue;
            }
        };
        let Diff { actions, conflicts } = diff(&before, &live);
        if left_behind.is_none() && Change::between(&live, &before).is_some() {
            left_behind = Some(live);
        }
        if actions.is_empty() && conflicts.is_empty() && left_behind.is_none() {
            return Undo::Done;
        }
        for (phase, steps) in phases(&actions) {
            for chunk in chunks(phase, &steps) {
                let failed = backend.run(chunk).into_iter().filter_map(Result::err);
                refused.extend(failed.map(|e| e.message));
            }
            // What comes up before it is as it should be may get what nobody takes away again, such as a link-local address.
            // Only the last time as much as can be is done.
            if !refused.is_empty() && attempt < UNDO_TRIES {
                break;
            }
        }
        if let Some(changed) = &left_behind {
            match forget(backend, Change::between(changed, &before)) {
                Ok(()) => left_behind = None,
                Err(error) => refused.push(error.message),
            }
        }
    }
    // What is left is what there is to be seen, whatever the last try came to.
    let left = match backend.live(&scope) {
        Ok(live) => {
            let Diff { actions, conflicts } = diff(&before, &live);
            let conflicts = conflicts.iter().map(|c| format!("{} is not netrec's ({})", c.key, c.why));
            actions.iter().map(Action::shortfall).chain(conflicts).collect()
        }
        Err(error) => vec![unread(&error)],
    };
    if left.is_empty() && left_behind.is_none() { Undo::Done } else { Undo::Left([left, refused].concat()) }
}

fn unread(error: &ReadError) -> String {
    format!("the state could not be read: {error}")
}

/// An object as undoing brings it back, if it does: what is netrec's, without what somebody else made of it that netrec
/// cannot make.
fn restored(entry: &Entry) -> Option<Entry> {
    let mut entry = entry.standing.is_ours().then(|| entry.clone())?;
    match &mut entry.object {
        Object::Netns(netns) if netns.unbound => return None,
        Object::Fdb(fdb) if fdb.extra.iter().any(|word| word == "local") => return None,
        Object::Fdb(fdb) => fdb.extra.clear(),
        Object::Qdisc(Qdisc::Other { .. }) => return None,
        Object::Network(PluginNetwork { health, .. }) | Object::Endpoint(Endpoint { health, .. })
            if !health.is_whole() =>
        {
            return None;
        }
        _ => {}
    }
    Some(entry)
}

/// Ends the flows that a change which has been made leaves behind. Where none can be concerned, the kernel is not asked.
fn forget(backend: &mut dyn Backend, change: Option<Change<'_>>) -> Result<(), StepError> {
    let Some(change) = change else { return Ok(()) };
    backend.forget(&|flow, local| change.leaves(flow, local)).map(drop)
}

/// The firewall's steps are one transaction, and links go many at a time; all else may go in pieces.
fn chunks(phase: Phase, steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    let whole = matches!(phase, Phase::Firewall | Phase::Unguard | Phase::Unlink | Phase::Remove);
    steps.chunks(if whole { steps.len().max(1) } else { CHUNK })
}
