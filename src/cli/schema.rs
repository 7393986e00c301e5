//! `netrec schema`: which keys a file may have.

use super::{Done, Output};
use crate::config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(output: &Output) -> Done {
    output.json(&config::schema());
    Done::Ok
}
