//! The command line: one file per command, each no more than arguments, a call, printing and an exit status.

mod apply;
mod completions;
mod confirm;
mod destroy;
mod exec;
mod graph;
mod interrupt;
mod man;
mod output;
mod pin;
mod plan;
mod reference;
mod rehearse;
mod schema;
mod show;
mod status;
mod validate;
mod watch;

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use self::output::Output;
pub use self::reference::reference;
use crate::config::{self, Config, Invalid};
use crate::plan::FORMAT_VERSION;
use crate::reconcile::rehearse::RehearseError;
use crate::reconcile::{
    ApplyError, Doubt, GuardError, InputError, Lock, LockError, Machine, PrepareError, SavedError, Stale, Undo,
    read_sources, read_trusted,
};
use crate::state::{Key, Owner};

/// Said after the options, and in the manual.
const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 failed; 2 changes (only with --detailed-exitcode); 3 the file is not valid; 4 failed and taken back; 5 \
another netrec is at work; 6 the saved plan is no longer what would be planned; 64 the command line is not valid.";

/// Networks for containers, from a file: plans the difference between the file and the kernel, and applies it.
#[derive(Debug, Parser)]
#[command(name = "netrec", version, max_term_width = 100, after_help = EXIT_STATUS)]
struct Args {
    /// The configuration: a file, a folder (all its *.toml, by name) or - for standard input; may be given several times
    /// [default: /etc/netrec/netrec.toml and /etc/netrec/netrec.d/*.toml]
    #[arg(short, long = "config", value_name = "PATH", global = true)]
    config: Vec<PathBuf>,
    /// The name of this host [default: the system's host name]
    #[arg(long, value_name = "NAME", global = true)]
    host: Option<String>,
    /// When to use colours
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: Color,
    /// Say more about what is done (on standard error)
    #[arg(short, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Say nothing but errors, and what a command is to show: what `apply` and `destroy` do is not shown
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal, unless NO_COLOR is set or the terminal is a dumb one.
    Auto,
    /// Also in pipes.
    Always,
    /// Not at all.
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read and check the file; needs neither root nor the kernel
    Validate(validate::Args),
    /// Show what apply would do; changes nothing
    Plan(plan::Args),
    /// Make the kernel what the file wants
    Apply(apply::Args),
    /// Keep what `apply --confirm` did
    Confirm(confirm::Args),
    /// Take back what `apply --confirm` did, now
    Rollback(confirm::Args),
    /// Take back what `apply --confirm` did, once its time is over
    #[command(hide = true)]
    Guard(confirm::GuardArgs),
    /// Remove all that netrec made
    Destroy(destroy::Args),
    /// Keep the kernel what the file wants: on every change of either, until it is told to end
    Watch(watch::Args),
    /// Try the file in a throwaway world: apply it, try its `expect` lines with real packets, remove it; needs no root
    Rehearse(rehearse::Args),
    /// Show what there is of the file: networks, containers, and ports with their connections; changes nothing
    Status(status::Args),
    /// Show the file with every default and chosen value filled in, or what it makes of the firewall or of names
    Show(show::Args),
    /// Run a command in a container's network namespace
    Exec(exec::Args),
    /// Draw the file: hosts, networks, containers, published ports, and what reaches what; needs neither root nor the kernel
    Graph(graph::Args),
    /// Write the chosen addresses into the file, so that they stay whatever else it comes to say; needs neither root nor the kernel
    Pin(pin::Args),
    /// Print the JSON Schema of the file, for editors
    Schema(schema::Args),
    /// Print what makes a shell complete commands and options
    Completions(completions::Args),
    /// Print the manual page, or write those of all commands into a folder
    Man(man::Args),
}

/// How a command ended, other than by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// All is well.
    Ok,
    /// There are changes, and `--detailed-exitcode` asks to say so.
    Changes,
    /// The person at the terminal said no.
    Declined,
    /// A rehearsal found what is wrong.
    Failed,
}

/// Why a command ended with an error.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("{0}")]
    Invalid(Box<Invalid>),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Saved(#[from] SavedError),
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error(transparent)]
    Rehearse(#[from] RehearseError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The same, when standard output has said so already.
    #[error(transparent)]
    Reported(Box<ApplyError>),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(Box::new(invalid))
    }
}

/// The exit status of an error; the one place that decides it.
fn exit_status(error: &Error) -> u8 {
    match error {
        Error::Invalid(_)
        | Error::Input(_)
        | Error::Saved(SavedError::Input(_))
        | Error::Prepare(PrepareError::Invalid(_)) => 3,
        Error::Apply(error) if matches!(error.undo, Undo::Done) => 4,
        Error::Reported(error) if matches!(error.undo, Undo::Done) => 4,
        Error::Lock(LockError::Held { .. }) | Error::Guard(GuardError::Lock(LockError::Held { .. })) => 5,
        Error::Stale(_) => 6,
        Error::Usage(_) => 64,
        Error::Prepare(_)
        | Error::Guard(_)
        | Error::Saved(_)
        | Error::Rehearse(_)
        | Error::Lock(_)
        | Error::Apply(_)
        | Error::Reported(_)
        | Error::Other(_) => 1,
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let output = Output::new(args.color, args.quiet, args.verbose);
    let result = match &args.command {
        Command::Validate(command) => validate::run(&args, command, &output),
        Command::Plan(command) => plan::run(&args, command, &output),
        Command::Apply(command) => apply::run(&args, command, &output),
        Command::Confirm(_) => confirm::confirm(&output),
        Command::Rollback(_) => confirm::rollback(&output),
        Command::Guard(command) => confirm::guard(command, &output),
        Command::Destroy(command) => destroy::run(&args, command, &output),
        Command::Watch(command) => watch::run(&args, command),
        Command::Rehearse(command) => rehearse::run(&args, command, &output),
        Command::Status(command) => status::run(&args, command, &output),
        Command::Show(command) => show::run(&args, command, &output),
        Command::Exec(command) => exec::run(&args, command).map(|never| match never {}),
        Command::Graph(command) => graph::run(&args, command, &output),
        Command::Pin(command) => pin::run(&args, command, &output),
        Command::Schema(_) => Ok(schema::run(&output)),
        Command::Completions(command) => Ok(completions::run(command, &output)),
        Command::Man(command) => man::run(command, &output),
    };
    // Work that is done is done; a command that is all words has failed when they are lost.
    let only_words = matches!(
        args.command,
        Command::Validate(_)
            | Command::Plan(_)
            | Command::Rehearse(_)
            | Command::Status(_)
            | Command::Show(_)
            | Command::Graph(_)
            | Command::Pin(_)
            | Command::Schema(_)
            | Command::Completions(_)
            | Command::Man(_)
    );
    let result = match output.lost() {
        Some(kind) if only_words => {
            result.and(Err(Error::Other(anyhow::anyhow!("the result could not be written: {kind}"))))
        }
        _ => result,
    };
    match result {
        Ok(Done::Ok) => ExitCode::SUCCESS,
        Ok(Done::Declined | Done::Failed) => ExitCode::from(1),
        Ok(Done::Changes) => ExitCode::from(2),
        Err(error) => {
            let status = exit_status(&error);
            if args.command.json() && !matches!(error, Error::Reported(_)) {
                let text = error.to_string();
                output.json(&json!({ "format_version": FORMAT_VERSION, "error": text, "exit_status": status }));
            }
            output.error(&error);
            ExitCode::from(status)
        }
    }
}

impl Command {
    /// Whether standard output is to be one JSON document.
    fn json(&self) -> bool {
        match self {
            Self::Validate(_)
            | Self::Confirm(_)
            | Self::Rollback(_)
            | Self::Guard(_)
            | Self::Watch(_)
            | Self::Exec(_)
            | Self::Graph(_)
            | Self::Pin(_)
            | Self::Schema(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
            Self::Plan(args) => args.json,
            Self::Apply(args) => args.json,
            Self::Destroy(args) => args.json,
            Self::Rehearse(args) => args.json,
            Self::Status(args) => args.json,
            Self::Show(args) => args.json,
        }
    }
}

impl Args {
    /// The checked configuration.
    fn load(&self) -> Result<Config, Error> {
        Ok(config::parse(read_sources(&self.config)?)?)
    }

    /// The same for a command that writes to the kernel: others must not be able to write the file, or it is `insecure`.
    fn load_trusted(&self, insecure: bool, output: &Output) -> Result<Config, Error> {
        let (sources, doubts) = read_trusted(&self.config, insecure)?;
        say(&doubts, output);
        Ok(config::parse(sources)?)
    }

    /// The same at a later time: the files may have changed. Standard input can be read once only.
    fn reload<'a>(&self, before: &'a Config, insecure: bool) -> Result<Cow<'a, Config>, Error> {
        if self.config.iter().any(|path| path.as_os_str() == "-") {
            return Ok(Cow::Borrowed(before));
        }
        let (sources, _) = read_trusted(&self.config, insecure)?;
        Ok(if sources == before.sources { Cow::Borrowed(before) } else { Cow::Owned(config::parse(sources)?) })
    }
}

/// How many objects a sentence names.
const NAMED: usize = 5;

/// The first few of these, by name.
fn named<'a>(keys: impl ExactSizeIterator<Item = &'a Key>) -> String {
    let more = keys.len().saturating_sub(NAMED);
    let names: Vec<String> = keys.take(NAMED).map(ToString::to_string).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

/// Says what there is against a file that is used all the same.
fn say(doubts: &[Doubt], output: &Output) {
    for doubt in doubts {
        output.note(&format_args!("warning: {doubt}"));
    }
}

/// What a command is for, where not for all.
fn owners(targets: &[String]) -> Vec<Owner> {
    targets.iter().map(|target| Owner::new(target.as_str())).collect()
}

/// The kernel, as far as this process may use it.
fn kernel() -> Result<Machine, Error> {
    Ok(Machine::open().map_err(PrepareError::from)?)
}

/// The kernel, and the lock of its host namespace.
fn locked(timeout: std::time::Duration) -> Result<(Machine, Lock), Error> {
    let kernel = kernel()?.joining();
    let lock = Lock::take(kernel.host_id().1, timeout)?;
    Ok((kernel, lock))
}
