//! `netrec apply`: the plan, a question where there is somebody to ask, and the work.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::interrupt::Interrupts;
use super::{Done, Error, Output, kernel, locked};
use crate::kernel::{Backend, Linux};
use crate::reconcile::{ApplyError, Kept, Prepared, apply, prepare};
use crate::state::Key;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask
    #[arg(short = 'y', long = "yes")]
    yes: bool,
    /// Print what was done as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 2 when something was changed
    #[arg(long)]
    detailed_exitcode: bool,
    /// Go on when others than root and you can write the file
    #[arg(long)]
    insecure: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load_trusted(command.insecure, output)?;
    let order = Order {
        question: ask(command.yes, command.json, output, "apply")?.then_some("Apply this plan?"),
        json: command.json,
        detailed: command.detailed_exitcode,
        timeout: config.settings.lock_timeout,
    };
    // Read again, as another netrec may have been waited for.
    let plan =
        |kernel: &mut Linux| Ok(prepare(kernel, &*args.reload(&config, command.insecure)?, args.host.as_deref())?);
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
}

impl Order {
    /// Shows a plan, asks where there is a question, does the work and says what came of it. The lock is held for the
    /// work alone: a question may stand for hours.
    pub(super) fn carry_out(
        &self,
        plan: &dyn Fn(&mut Linux) -> Result<Prepared, Error>,
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
            agreed = Some(prepared.plan.actions);
        }
        let (mut kernel, _lock) = locked(self.timeout)?;
        let prepared = plan(&mut kernel)?;
        match agreed {
            Some(actions) if actions != prepared.plan.actions => {
                return Err(Error::Other(anyhow::anyhow!(
                    "the file or the kernel changed while the question stood: nothing was done, look at the plan again"
                )));
            }
            None if !self.json => output.plan(&prepared.plan.to_text()),
            _ => {}
        }
        let done = self.work(&mut kernel, &prepared, &interrupts, output);
        // The process ends here. Giving back tens of thousands of objects one by one would take a thirtieth of its time.
        std::mem::forget(prepared);
        done
    }

    fn work(
        &self,
        kernel: &mut Linux,
        prepared: &Prepared,
        interrupts: &Interrupts,
        output: &Output,
    ) -> Result<Done, Error> {
        let start = Instant::now();
        let mut progress = |done, total| {
            output.progress(done, total);
            interrupts.go_on()
        };
        interrupts.begin();
        let result = apply(&mut Kept::new(kernel, &prepared.live, interrupts.books()), prepared, &mut progress);
        interrupts.end();
        let took = start.elapsed();
        output.detail(&format_args!("{} kernel writes in {} ms", kernel.writes(), took.as_millis()));
        if self.json {
            output.json(&document(prepared, result.as_ref().err(), took, kernel.writes()));
        }
        result.map_err(|error| if self.json { Error::Reported(Box::new(error)) } else { Error::Apply(error) })?;
        let changed = !prepared.plan.is_empty();
        if !self.json && changed {
            output.note(&format_args!("Done in {:.2} s.", took.as_secs_f64()));
        }
        Ok(if self.detailed && changed { Done::Changes } else { Done::Ok })
    }
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
