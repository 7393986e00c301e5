//! `netrec validate`: the file alone.

use super::{Done, Error, Output};
use crate::desired::Chosen;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(args: &super::Args, _: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load()?;
    Chosen::new(&config)?;
    let parts =
        [("host", config.hosts.len()), ("network", config.networks.len()), ("container", config.containers.len())];
    let parts = parts.iter().filter(|(what, count)| *what != "host" || *count > 0);
    let parts: Vec<String> =
        parts.map(|(what, count)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" })).collect();
    output.note(&format_args!("{} is valid: {}", config.sources.names(), parts.join(", ")));
    Ok(Done::Ok)
}
