//! `netrec apply`: the plan, a question where there is somebody to ask, and the work.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Done, Error, Output, locked};
use crate::kernel::Backend;
use crate::reconcile::{ApplyError, Prepared, apply, prepare};
use crate::state::Key;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask
    #[arg(short = 'y', long = "yes")]
    yes: bool,
    /// Print what was done as one JSON document
    #[arg(long)]
    json: bool,
    /// Exit with 2 when something was changed
    #[arg(long)]
    detailed_exitcode: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load()?;
    let ask = ask(command.yes, command.json, output, "apply")?;
    let (mut kernel, _lock) = locked(config.settings.lock_timeout)?;
    let prepared = prepare(&mut kernel, &config, args.host.as_deref())?;
    let question = ask.then_some("Apply this plan?");
    carry_out(&mut kernel, &prepared, question, command.json, command.detailed_exitcode, output)
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

/// Shows a plan, asks where there is a question, does the work and says what came of it.
pub(super) fn carry_out(
    kernel: &mut dyn Backend,
    prepared: &Prepared,
    question: Option<&str>,
    json: bool,
    detailed: bool,
    output: &Output,
) -> Result<Done, Error> {
    let plan = &prepared.plan;
    if !json {
        output.plan(&plan.to_text());
    }
    if !plan.is_empty() && question.is_some_and(|question| !output.confirm(question)) {
        output.note(&"Nothing was changed.");
        return Ok(Done::Declined);
    }
    let start = Instant::now();
    let result = apply(kernel, prepared, &mut |done, total| output.progress(done, total));
    let took = start.elapsed();
    output.detail(&format_args!("{} kernel writes in {} ms", kernel.writes(), took.as_millis()));
    if json {
        output.json(&document(prepared, result.as_ref().err(), took, kernel.writes()));
    }
    result?;
    if !json && !plan.is_empty() {
        output.note(&format_args!("Done in {:.2} s.", took.as_secs_f64()));
    }
    Ok(if detailed && !plan.is_empty() { Done::Changes } else { Done::Ok })
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
