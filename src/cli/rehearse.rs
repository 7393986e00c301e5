//! `netrec rehearse`: the file tried in a throwaway world.

use std::path::PathBuf;

use serde_json::json;

use super::{Done, Error, Output};
use crate::config;
use crate::plan::{FORMAT_VERSION, Plan};
use crate::reconcile::read_sources;
use crate::reconcile::rehearse::rehearse;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to try [default: that of -c]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Leave the world up when all was tried, and say how to enter it
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let files = if command.files.is_empty() { &args.config } else { &command.files };
    let config = config::parse(read_sources(files)?)?;
    let mut say = |plan: &Plan| output.detail(&plan.to_text());
    let mut linger = |namespaces: &[String]| {
        if command.keep {
            let pid = std::process::id();
            output.note(&format_args!("the world stays up until this process ({pid}) ends; to enter it:"));
            for path in namespaces {
                let root = format!("/proc/{pid}/root{path}");
                output.note(&format_args!("  nsenter --target {pid} --user --mount --net={root}"));
            }
            nix::unistd::pause();
        }
    };
    let report = rehearse(&config, &mut say, &mut linger)?;
    if command.json {
        output.json(&json!({ "format_version": FORMAT_VERSION, "ok": report.ok(), "rows": report.rows }));
    } else {
        output.result(&report.to_text());
    }
    Ok(if report.ok() { Done::Ok } else { Done::Failed })
}
