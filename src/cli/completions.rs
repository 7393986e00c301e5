//! `netrec completions`: what makes a shell complete commands and options.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Done, Output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(command: &Args, output: &Output) -> Done {
    let whole = super::Args::command();
    // What is not for people would be completed, too.
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set());
    let mut program =
        clap::Command::new("netrec").version(env!("CARGO_PKG_VERSION")).args(whole.get_arguments()).subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut program, "netrec", &mut script);
    output.result(&String::from_utf8_lossy(&script));
    Done::Ok
}
