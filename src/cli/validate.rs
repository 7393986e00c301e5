//! `netrec validate`: the file alone.

use super::{Done, Error, Output};
use crate::desired::Chosen;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(args: &super::Args, _: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load()?;
    Chosen::new(&config)?;
    output.note(&format_args!(
        "{} is valid: {} networks, {} containers",
        config.sources.names(),
        config.networks.len(),
        config.containers.len()
    ));
    Ok(Done::Ok)
}
