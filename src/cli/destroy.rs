//! `netrec destroy`: removes all that netrec made.

use std::time::Duration;

use super::apply::{Afterwards, Order, ask};
use super::{Done, Error, Output};
use crate::reconcile::{Machine, prepare_destroy};

/// How long to wait for another netrec; there need be no file that says so.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask
    #[arg(short = 'y', long = "yes")]
    yes: bool,
    /// Print what was done as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let order = Order {
        question: ask(command.yes, command.json, output, "destroy")?.then_some("Remove all this?"),
        json: command.json,
        detailed: false,
        timeout: LOCK_TIMEOUT,
        confirm: None,
        afterwards: Afterwards::Applied,
    };
    order.carry_out(&|kernel: &mut Machine| Ok(prepare_destroy(kernel, args.host.as_deref())?), output)
}
