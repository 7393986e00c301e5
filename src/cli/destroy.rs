//! `netrec destroy`: removes all that netrec made.

use std::time::Duration;

use super::apply::{ask, carry_out};
use super::{Done, Error, Output, locked};
use crate::reconcile::prepare_destroy;

/// How long to wait for another netrec; there need be no file that says so.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask
    #[arg(short = 'y', long = "yes")]
    yes: bool,
    /// Print what was done as one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let ask = ask(command.yes, command.json, output, "destroy")?;
    let (mut kernel, _lock) = locked(LOCK_TIMEOUT)?;
    let prepared = prepare_destroy(&mut kernel, args.host.as_deref())?;
    let question = ask.then_some("Remove all this?");
    carry_out(&mut kernel, &prepared, question, command.json, false, output)
}
