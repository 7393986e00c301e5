//! `netrec apply`: the plan, a question where there is somebody to ask, and the work.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::destroy::LOCK_TIMEOUT;
use super::interrupt::Interrupts;
use super::{Done, Error, Output, kernel, locked, owners, say};
use crate::config::{self, Config, Sources};
use crate::kernel::{Ahead, Backend};
use crate::plan::FORMAT_VERSION;
use crate::reconcile::{
    ApplyError, Doubt, GuardError, Guarded, Kept, Machine, Place, PrepareError, Prepared, Ruling, Saved, Undo, applied,
    apply, keep_confirmed, prepare, prepare_destroy, prepare_part,
};
use crate::state::Key;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A plan that `netrec plan -o` saved: carried out without asking, if it is still what would be planned
    #[arg(value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Do not ask
    #[arg(short = 'y', long = "yes")]
    yes: bool,
    /// Print what was done as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 2 when something was changed
    #[arg(long)]
    detailed_exitcode: bool,
    /// Take it back unless `netrec confirm` comes within this time, such as 60s or 5m
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    confirm: Option<Duration>,
    /// Only what belongs to this owner, such as `containers.web`, and what that needs; may be given several times
    #[arg(long = "target", value_name = "OWNER")]
    targets: Vec<String>,
    /// Go on when others than root and you can write the file
    #[arg(long)]
    insecure: bool,
    /// As at boot, with nobody there: a file that waits to be confirmed or was taken back is not applied, and where this host
    /// went down meanwhile the last confirmed one is, in its place
    #[arg(long, conflicts_with_all = ["plan", "confirm", "targets"])]
    boot: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    if let Some(file) = &command.plan {
        return saved(args, command, output, file);
    }
    let config = args.load_trusted(command.insecure, output)?;
    if command.boot {
        return at_boot(args, command, output, &config);
    }
    let targets = owners(&command.targets);
    let order = Order {
        question: ask(command.yes, command.json, output, "apply")?.then_some("Apply this plan?"),
        json: command.json,
        detailed: command.detailed_exitcode,
        timeout: config.settings.lock_timeout,
        confirm: command.confirm,
        afterwards: Afterwards::Applied,
    };
    // Read again, as another netrec may have been waited for.
    let plan = |kernel: &mut Machine| {
        let config = args.reload(&config, command.insecure)?;
        Ok(prepare_part(kernel, &config, args.host.as_deref(), &targets)?)
    };
    order.carry_out(&plan, output)
}

/// Applies a file that nobody stands by, or what is to be applied in its place.
fn at_boot(args: &super::Args, command: &Args, output: &Output, config: &Config) -> Result<Done, Error> {
    let place = Place::of(kernel()?.host_id().1);
    let (stand_in, afterwards) = match place.ruling(&config.sources)? {
        Ruling::Apply => (None, Afterwards::Kept),
        Ruling::Hold { notice, .. } => {
            output.note(&notice);
            if command.json {
                output.json(
                    &json!({ "format_version": FORMAT_VERSION, "changed": false, "applied": false, "held": notice }),
                );
            }
            return Ok(Done::Ok);
        }
        Ruling::Confirmed { file, notice } => {
            output.note(&notice);
            (Some(config::parse(file)?), Afterwards::Nothing)
        }
    };
    let config = stand_in.as_ref().unwrap_or(config);
    let order = Order {
        question: None,
        json: command.json,
        detailed: command.detailed_exitcode,
        timeout: config.settings.lock_timeout,
        confirm: None,
        afterwards,
    };
    order.carry_out(&|kernel| Ok(prepare(kernel, config, args.host.as_deref())?), output)
}

/// Carries out a saved plan: what is planned anew under the lock, where it comes to the same.
fn saved(args: &super::Args, command: &Args, output: &Output, file: &Path) -> Result<Done, Error> {
    if !args.config.is_empty() || args.host.is_some() || !command.targets.is_empty() {
        let text = "a saved plan has its own configuration and options: leave out -c, --host and --target";
        return Err(Error::Usage(text.into()));
    }
    let (saved, doubts) = Saved::read(file, command.insecure)?;
    say(&doubts, output);
    let load = || -> Result<(Option<Config>, Vec<Doubt>), Error> {
        let (sources, doubts) = saved.sources(command.insecure)?;
        Ok((sources.map(config::parse).transpose()?, doubts))
    };
    let (config, doubts) = load()?;
    say(&doubts, output);
    let order = Order {
        question: None,
        json: command.json,
        detailed: command.detailed_exitcode,
        timeout: config.map_or(LOCK_TIMEOUT, |config| config.settings.lock_timeout),
        confirm: command.confirm,
        afterwards: Afterwards::Applied,
    };
    let plan = |kernel: &mut Machine| {
        let (config, _) = load()?;
        let prepared = match &config {
            Some(config) => prepare_part(kernel, config, saved.host.as_deref(), &saved.targets),
            None => prepare_destroy(kernel, saved.host.as_deref()),
        };
        let sources = config.as_ref().map(|config| &config.sources);
        match prepared {
            Ok(prepared) => {
                saved.check(sources, Ok(&prepared.plan))?;
                Ok(prepared)
            }
            // It did when the plan was made.
            Err(PrepareError::Host(reason)) => {
                saved.check(sources, Err(&reason))?;
                Err(PrepareError::Host(reason).into())
            }
            Err(error) => Err(error.into()),
        }
    };
    order.carry_out(&plan, output)
}

/// Whether to ask; without a terminal and `-y` there is no way to.
pub(super) fn ask(yes: bool, json: bool, output: &Output, command: &str) -> Result<bool, Error> {
    if yes {
        return Ok(false);
    }
    if json || !output.interactive() {
        return Err(Error::Usage(format!("nobody to ask: `netrec {command}` needs -y when it is not on a terminal")));
    }
    Ok(true)
}

/// How a plan is to be carried out.
pub(super) struct Order {
    /// What to ask before.
    pub(super) question: Option<&'static str>,
    pub(super) json: bool,
    pub(super) detailed: bool,
    /// How long to wait for another netrec.
    pub(super) timeout: Duration,
    /// How long to wait for somebody to confirm it.
    pub(super) confirm: Option<Duration>,
    pub(super) afterwards: Afterwards,
}

/// What becomes of a configuration that was applied for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It is the last confirmed one, where there has been one: somebody stands by it.
    Applied,
    /// It is the last confirmed one: this host boots by netrec, and may need it.
    Kept,
    /// It is that already.
    Nothing,
}

impl Order {
    /// Shows a plan, asks where there is a question, does the work and says what came of it. The lock is held for the
    /// work alone: a question may stand for hours.
    pub(super) fn carry_out(
        &self,
        plan: &dyn Fn(&mut Machine) -> Result<Prepared, Error>,
        output: &Output,
    ) -> Result<Done, Error> {
        let interrupts = Interrupts::listen(output, self.json)?;
        let mut agreed = None;
        if let Some(question) = self.question {
            let prepared = plan(&mut kernel()?)?;
            output.plan(&prepared.plan.to_text());
            if prepared.plan.is_empty() {
                return Ok(Done::Ok);
            }
            if !output.confirm(question) {
                output.note(&"Nothing was changed.");
                return Ok(Done::Declined);
            }
            agreed = Some((prepared.plan.actions, prepared.plan.namespaces));
        }
        let (kernel, _lock) = locked(self.timeout)?;
        let place = Place::of(kernel.host_id().1);
        place.refuse_while_waiting()?;
        // Not before there is the lock: whoever had it may have changed what there is.
        let mut kernel = kernel.with(Ahead::start());
        let prepared = plan(&mut kernel)?;
        match agreed {
            Some((actions, namespaces))
                if actions != prepared.plan.actions || namespaces != prepared.plan.namespaces =>
            {
                return Err(Error::Other(anyhow::anyhow!(
                    "the file or the kernel changed while the question stood: nothing was done, look at the plan again"
                )));
            }
            None if !self.json && !output.is_quiet() => output.plan(&prepared.plan.to_text()),
            _ => {}
        }
        // A guard, and the word of how long it waits, are part of the work.
        interrupts.begin();
        let done = self.work(&mut kernel, &prepared, &place, &interrupts, output);
        interrupts.end();
        // The process ends here. Giving back tens of thousands of objects one by one would take a thirtieth of its time.
        std::mem::forget(prepared);
        done
    }

    fn work(
        &self,
        kernel: &mut Machine,
        prepared: &Prepared,
        place: &Place,
        interrupts: &Interrupts,
        output: &Output,
    ) -> Result<Done, Error> {
        let changed = !prepared.plan.is_empty();
        let time = self.confirm.filter(|_| changed);
        let guarded = time
            .map(|time| {
                place.guard(&prepared.live, &prepared.scope, &prepared.file, time).map(|guarded| (guarded, time))
            })
            .transpose()?;
        let start = Instant::now();
        let mut progress = |done, total| {
            output.progress(done, total);
            interrupts.go_on()
        };
        let result = apply(&mut Kept::new(kernel, &prepared.live, interrupts.books()), prepared, &mut progress);
        let took = start.elapsed();
        output.detail(&format_args!("{} kernel writes in {} ms", kernel.writes(), took.as_millis()));
        if self.json {
            output.json(&document(prepared, result.as_ref().err(), took, kernel.writes()));
        }
        if let Err(error) = result {
            match guarded {
                Some((guarded, time)) if matches!(error.undo, Undo::Unneeded) => wait(guarded, time, output)?,
                Some((guarded, _)) => guarded.cancel()?,
                None => {}
            }
            return Err(if self.json { Error::Reported(Box::new(error)) } else { Error::Apply(error) });
        }
        if !self.json && changed {
            output.note(&format_args!("Done in {:.2} s.", took.as_secs_f64()));
        }
        prepared.tell_others().unwrap_or_else(|error| output.note(&error));
        if let Some((guarded, time)) = guarded {
            wait(guarded, time, output)?;
        } else {
            // What the disk has to say about it changes nothing here.
            self.for_good(place, &prepared.file).unwrap_or_else(|error| output.note(&error));
        }
        Ok(if self.detailed && changed { Done::Changes } else { Done::Ok })
    }

    /// What was applied stays.
    fn for_good(&self, place: &Place, file: &Sources) -> Result<(), GuardError> {
        match self.afterwards {
            Afterwards::Applied => place.let_go().and_then(|()| applied(file)),
            Afterwards::Kept => place.let_go().and_then(|()| keep_confirmed(file)),
            Afterwards::Nothing => Ok(()),
        }
    }
}

/// Leaves the guard waiting for somebody to confirm.
fn wait(guarded: Guarded, time: Duration, output: &Output) -> Result<(), Error> {
    guarded.wait()?;
    output.note(&format_args!(
        "It is taken back in {} s, unless `netrec confirm` comes: from a new connection, to see that there can be one.",
        time.as_secs()
    ));
    Ok(())
}

/// The plan's document with what came of it: `applied`, `duration_ms`, `writes` (kernel writes, undoing included) and
/// for each action its `error`.
fn document(prepared: &Prepared, error: Option<&ApplyError>, took: Duration, writes: u64) -> Value {
    let mut document = prepared.plan.to_json();
    document["applied"] = json!(error.is_none());
    document["duration_ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    document["writes"] = json!(writes);
    let errors: HashMap<&Key, &String> =
        error.into_iter().flat_map(|e| &e.errors).rev().map(|(key, message)| (key, message)).collect();
    if let Some(actions) = document["actions"].as_array_mut() {
        for (value, action) in actions.iter_mut().zip(&prepared.plan.actions) {
            value["error"] = json!(errors.get(&action.key));
        }
    }
    if let Some(error) = error {
        document["error"] = json!(error.to_string());
    }
    document
}
