//! `netrec show`: the file as netrec understands it.

use anyhow::Context;

use super::{Done, Error, Output, kernel};
use crate::desired::{desired, filled_in, host_lines};
use crate::kernel::Backend;
use crate::reconcile::{PrepareError, asked};
use crate::state::Ruleset;

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Args {
    /// Print it as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Print the firewall's table, as `nft -f` reads it
    #[arg(long)]
    ruleset: bool,
    /// Print the containers' names and addresses, as lines of /etc/hosts
    #[arg(long)]
    hosts: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let config = args.load()?;
    if command.hosts && config.cluster.is_none() {
        output.result(&host_lines(&config, None).map_err(PrepareError::from)?);
        return Ok(Done::Ok);
    }
    // The MTU's default is the uplink's; reading it needs no privilege.
    let facts = kernel()?.facts(&asked(&config)).map_err(PrepareError::from)?;
    if command.hosts {
        output.result(&host_lines(&config, facts.members.as_deref()).map_err(PrepareError::from)?);
        return Ok(Done::Ok);
    }
    let host = args.host.as_deref();
    if command.ruleset {
        let desired = desired(&config, &facts, host).map_err(PrepareError::from)?;
        output.result(&Ruleset(&desired.state).to_string());
        return Ok(Done::Ok);
    }
    let document = filled_in(&config, &facts, host).map_err(PrepareError::from)?;
    if command.json {
        output.json(&document);
    } else {
        output.result(&toml::to_string_pretty(&document).context("the file cannot be shown as TOML")?);
    }
    Ok(Done::Ok)
}
