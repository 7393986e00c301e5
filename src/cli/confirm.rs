//! `netrec confirm`, `netrec rollback`, and the guard of `apply --confirm`.

use std::time::Duration;

use super::{Done, Error, Output, locked};
use crate::kernel::Backend;
use crate::reconcile::{Machine, Place};

/// How long to wait for another netrec: a change may be under way.
const LOCK_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[derive(Debug, clap::Args)]
pub(super) struct GuardArgs {
    /// The inode number of the host's network namespace
    namespace: u64,
}

/// Keeps what `apply --confirm` did.
pub(super) fn confirm(output: &Output) -> Result<Done, Error> {
    let (kernel, _lock) = locked(LOCK_TIMEOUT)?;
    let name = Place::of(kernel.host_id().1).confirm()?;
    output.note(&format_args!("{name} is confirmed: it stays."));
    Ok(Done::Ok)
}

/// Takes it back.
pub(super) fn rollback(output: &Output) -> Result<Done, Error> {
    let (mut kernel, _lock) = locked(LOCK_TIMEOUT)?;
    let name = Place::of(kernel.host_id().1).roll_back(&mut kernel)?;
    output.note(&format_args!("{name} is taken back: the host is as it was before."));
    Ok(Done::Ok)
}

/// Waits, and takes it back unless somebody has confirmed it. Its words go to the log.
pub(super) fn guard(args: &GuardArgs, output: &Output) -> Result<Done, Error> {
    let open = || match Machine::open() {
        Ok(kernel) => Ok(Box::new(kernel) as Box<dyn Backend>),
        Err(error) => Err(error.to_string()),
    };
    let word = Place::of(args.namespace).keep_watch(&open)?;
    output.note(&format_args!("netrec: {word}"));
    Ok(Done::Ok)
}
