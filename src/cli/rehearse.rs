//! `netrec rehearse`: the file tried in a throwaway world.

use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;
use serde_json::json;

use super::{Done, Error, Output};
use crate::config;
use crate::plan::{FORMAT_VERSION, Plan};
use crate::reconcile::read_sources;
use crate::reconcile::rehearse::{Report, rehearse};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to try [default: that of -c]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Leave the world up when all was tried, say how to enter it, and remove it when interrupted
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(args: &super::Args, command: &Args, output: &Output) -> Result<Done, Error> {
    let files = if command.files.is_empty() { &args.config } else { &command.files };
    let config = config::parse(read_sources(files)?)?;
    let root = geteuid().is_root();
    let mut say = |plan: &Plan| output.detail(&plan.to_text());
    let mut shown = 0;
    let mut linger = |report: &Report, places: &[(String, String)]| {
        if command.keep {
            if !command.json {
                shown = report.rows.len();
                output.result(&report.table(0));
            }
            wait(places, root, output);
        }
    };
    let report = rehearse(&config, &mut say, &mut linger)?;
    if command.json {
        output.json(&json!({ "format_version": FORMAT_VERSION, "ok": report.ok(), "rows": report.rows }));
    } else {
        output.result(&(report.table(shown) + &report.tally()));
    }
    Ok(if report.ok() { Done::Ok } else { Done::Failed })
}

/// Waits for the signals that ask a program to end, and says meanwhile how to look around. Once only: a second one ends the
/// process, and the world with it.
fn wait(places: &[(String, String)], root: bool, output: &Output) {
    let ends = SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]);
    // Fails on wrong arguments only; the signals would end the process then, as they do at any other time.
    let _ = ends.thread_block();
    let pid = std::process::id();
    // One's own user namespace cannot be entered, which root's is.
    let user = if root { "" } else { "--user --preserve-credentials " };
    output.note(&format_args!("the world stays up until this process ({pid}) is interrupted; to enter it:"));
    for (name, path) in places {
        output.note(&format_args!("  nsenter --target {pid} {user}--mount --net=/proc/{pid}/root{path}  # {name}"));
    }
    let _ = ends.wait();
    let _ = ends.thread_unblock();
}
