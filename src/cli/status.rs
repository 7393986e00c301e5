//! `netrec status`: what there is of the file.

use super::{Done, Error, Output, kernel};
use crate::reconcile::{Place, status};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print it as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load()?;
    let mut kernel = kernel()?;
    // Without root it cannot be read.
    let waits = Place::of(kernel.host_id().1).notice().unwrap_or_default();
    let status = status(&mut kernel, &config, args.host.as_deref(), waits)?;
    if command.json {
        output.json(&status.to_json());
    } else {
        output.status(&status.to_text(output.columns()));
    }
    Ok(Done::Ok)
}
