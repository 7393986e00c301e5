//! `netrec plan`: what apply would do.

use super::{Done, Error, Output, kernel};
use crate::kernel::Ahead;
use crate::reconcile::{prepare, prepare_destroy};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the plan as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 2 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
    /// Plan the removal of all that netrec made
    #[arg(long)]
    destroy: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let mut kernel = kernel_for(args, command)?;
    let prepared = match &kernel.1 {
        Some(config) => prepare(&mut kernel.0, config, args.host.as_deref())?,
        None => prepare_destroy(&mut kernel.0, args.host.as_deref())?,
    };
    if command.json {
        output.json(&prepared.plan.to_json());
    } else {
        output.plan(&prepared.plan.to_text());
    }
    let done = if command.detailed_exitcode && !prepared.plan.is_empty() { Done::Changes } else { Done::Ok };
    // The process ends here. Giving back tens of thousands of objects one by one would take a twentieth of its time.
    std::mem::forget((kernel, prepared));
    Ok(done)
}

/// The file is checked before the kernel is asked, or rather before its answers are looked at; a destroy needs none.
fn kernel_for(
    args: &super::Args,
    command: &Args,
) -> Result<(crate::kernel::Linux, Option<crate::config::Config>), Error> {
    let ahead = Ahead::start();
    let config = if command.destroy { None } else { Some(args.load()?) };
    Ok((kernel()?.with(ahead), config))
}
