//! `netrec exec`: a command in a container's network namespace.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::anyhow;

use super::Error;
use crate::kernel::Linux;
use crate::reconcile::{PrepareError, enter};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The container, by its name in the file
    container: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Becomes the command; its exit status is netrec's. Only the network is the container's: files, processes and users are
/// those of the host.
pub(super) fn run(args: &super::Args, command: &Args) -> Result<Infallible, Error> {
    let config = args.load()?;
    let (program, rest) = command.command.split_first().ok_or_else(|| Error::Usage("no command".to_owned()))?;
    let kernel = Linux::open().map_err(PrepareError::from)?;
    enter(kernel, &config, args.host.as_deref(), &command.container)?;
    let error = Command::new(program).args(rest).exec();
    Err(Error::Other(anyhow!("`{}` cannot be run: {error}", program.to_string_lossy())))
}
