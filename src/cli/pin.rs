//! `netrec pin`: chosen addresses become the file's.

use super::{Done, Error, Output};
use crate::reconcile::{PinError, pin};

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(args: &super::Args, _: &Args, output: &Output) -> Result<Done, Error> {
    let pinned = pin(&args.config).map_err(|error| match error {
        PinError::Input(error) => Error::Input(error),
        PinError::Invalid(invalid) => Error::from(invalid),
        error => Error::Other(error.into()),
    })?;
    if let Some(text) = &pinned.stdin {
        output.result(text);
    }
    for one in &pinned.pins {
        output.note(&format_args!("{}: {} has {}", one.place, one.owner, one.listed()));
    }
    let count: usize = pinned.pins.iter().map(|pin| pin.addresses.len()).sum();
    match count {
        0 if pinned.leased => output.note(&format_args!(
            "No changes. {} leaves no address open but those of this host's piece of a cluster's network, which go with the piece.",
            pinned.files
        )),
        0 => output.note(&format_args!("No changes. {} leaves no address open.", pinned.files)),
        1 => output.note(&format_args!("1 address written into {}.", pinned.files)),
        count => output.note(&format_args!("{count} addresses written into {}.", pinned.files)),
    }
    Ok(Done::Ok)
}
