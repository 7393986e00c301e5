//! `netrec plan`: what apply would do.

use std::path::PathBuf;

use super::{Done, Error, Output, kernel, owners};
use crate::config::{self, Config};
use crate::kernel::Ahead;
use crate::reconcile::{Machine, Origin, Place, Saved, prepare_destroy, prepare_part, read_sources};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the plan as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Exit with 2 when there are changes
    #[arg(long)]
    detailed_exitcode: bool,
    /// Plan the removal of all that netrec made
    #[arg(long, conflicts_with = "targets")]
    destroy: bool,
    /// Save the plan, for `netrec apply FILE`
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only what belongs to this owner, such as `containers.web`, and what that needs; may be given several times
    #[arg(long = "target", value_name = "OWNER")]
    targets: Vec<String>,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let mut kernel = kernel_for(args, command)?;
    let place = Place::of(kernel.0.host_id().1);
    // Without root it cannot be read, and a plan is for looking.
    if let Ok(Some(notice)) = place.notice() {
        output.note(&notice);
    }
    let (host, targets) = (args.host.as_deref(), owners(&command.targets));
    let prepared = match &kernel.1 {
        Some(config) => prepare_part(&mut kernel.0, config, host, &targets)?,
        None => prepare_destroy(&mut kernel.0, host)?,
    };
    if let Some(out) = &command.out {
        let sources = kernel.1.as_ref().map(|config| &config.sources);
        let origin = Origin { config: &args.config, sources, host, targets: &targets };
        Saved::new(&origin, &prepared.plan)?.write(out)?;
    }
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

/// The kernel is read ahead once the text is there: who writes it may change the kernel until then. What is wrong with the
/// file is said before what is wrong with the kernel. A destroy needs no file.
fn kernel_for(args: &super::Args, command: &Args) -> Result<(Machine, Option<Config>), Error> {
    if command.destroy {
        return Ok((kernel()?, None));
    }
    let sources = read_sources(&args.config)?;
    let ahead = Ahead::start();
    let config = config::parse(sources)?;
    Ok((kernel()?.with(ahead), Some(config)))
}
