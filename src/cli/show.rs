//! `netrec show`: the file as netrec understands it.

use anyhow::Context;

use super::{Done, Error, Output, kernel};
use crate::desired::filled_in;
use crate::kernel::Backend;
use crate::reconcile::{PrepareError, asked};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print it as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load()?;
    // The MTU's default is the uplink's; reading it needs no privilege.
    let facts = kernel()?.facts(&asked(&config)).map_err(PrepareError::from)?;
    let document = filled_in(&config, &facts, args.host.as_deref()).map_err(PrepareError::from)?;
    if command.json {
        output.json(&document);
    } else {
        output.result(&toml::to_string_pretty(&document).context("the file cannot be shown as TOML")?);
    }
    Ok(Done::Ok)
}
