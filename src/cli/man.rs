//! `netrec man`: the manual, made of what the command line says of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;

use super::{Done, Error, Output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the pages netrec.1, netrec-apply.1 and so on
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(command: &Args, output: &Output) -> Result<Done, Error> {
    let mut program = super::Args::command().disable_help_subcommand(true);
    program.build();
    if let Some(folder) = &command.folder {
        fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(program.clone(), folder))
            .and_then(|()| with_dashes(&program, folder))
            .with_context(|| format!("cannot write the manual into {}", folder.display()))?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(program).render(&mut page).context("cannot make the page")?;
        output.result(&String::from_utf8_lossy(&page));
    }
    Ok(Done::Ok)
}

/// What comes last after `--` is said to come so: the generator leaves that out.
fn with_dashes(program: &clap::Command, folder: &Path) -> io::Result<()> {
    for command in program.get_subcommands() {
        for last in command.get_positionals().filter(|arg| arg.is_last_set()) {
            let path = folder.join(format!("{}-{}.1", program.get_name(), command.get_name()));
            let name = last.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
            let shown = format!(" <\\fI{name}\\fR>");
            let page = fs::read_to_string(&path)?.replacen(&shown, &format!(" \\-\\- <\\fI{name}\\fR>..."), 1);
            fs::write(path, page)?;
        }
    }
    Ok(())
}
