//! `netrec watch`: the file kept true.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{debug, error, info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Done, Error, named};
use crate::plan::Plan;
use crate::reconcile::PrepareError;
use crate::reconcile::watch::{Cause, News, Trigger, WatchError, Watched, triggers, watch};
use crate::services::Listen;
use crate::state::clean;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Use files that others could write
    #[arg(long)]
    insecure: bool,
    /// Serve what was counted as Prometheus text at http://ADDR/metrics: an address and a port, such as 127.0.0.1:9464,
    /// or unix:/PATH
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Listen>,
}

pub(super) fn run(args: &super::Args, command: &Args) -> Result<Done, Error> {
    if args.config.iter().any(|path| path.as_os_str() == "-") {
        return Err(Error::Usage("standard input cannot be watched: name a file or a folder".to_owned()));
    }
    log(args.verbose > 0);
    let (sender, receiver) = triggers();
    listen(sender.clone()).context("listen to signals")?;
    let watched = Watched {
        paths: args.config.clone(),
        host: args.host.clone(),
        insecure: command.insecure,
        // Twice within the time after which systemd takes it for stuck.
        alive: sd_notify::watchdog_enabled().map(|time| time / 2),
        metrics: command.metrics.clone(),
    };
    let mut teller = Teller { ready: false, reloading: false };
    watch(&watched, (sender, receiver), &mut |news| teller.tell(&news)).map_err(|error| match error {
        WatchError::Kernel(error) => Error::Prepare(PrepareError::from(error)),
        error @ (WatchError::Files(_) | WatchError::Metrics { .. }) => Error::Other(error.into()),
    })?;
    info!("stopping; the network stays as it is");
    notify(&[NotifyState::Stopping]);
    Ok(Done::Ok)
}

/// Where the log goes: to the journal with fields where standard error is the journal's, else there as lines.
fn log(verbose: bool) {
    let level = if verbose { tracing::Level::DEBUG } else { tracing::Level::INFO };
    let filter = tracing_subscriber::filter::LevelFilter::from_level(level);
    let registry = tracing_subscriber::registry().with(filter);
    if let Some(journal) = journald() {
        registry.with(journal).init();
    } else {
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false).without_time();
        registry.with(lines.with_ansi(false)).init();
    }
}

/// The journal, where systemd says that it is what standard error leads to (`JOURNAL_STREAM`, systemd.exec(5)).
fn journald() -> Option<tracing_journald::Layer> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let stderr = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    if stream != format!("{}:{}", stderr.st_dev(), stderr.st_ino()) {
        return None;
    }
    tracing_journald::layer().ok().map(|layer| layer.with_field_prefix(Some("NETREC".to_owned())))
}

/// Tells of signals: SIGHUP asks for a round, SIGINT and SIGTERM for the end once the round under way is over.
fn listen(triggers: Sender<Trigger>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let trigger = if signal == SIGHUP { Trigger::Reload } else { Trigger::Stop };
            if triggers.send(trigger).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Tells systemd. Where there is none, or it does not listen, that is no matter.
fn notify(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Says what happens, in the log and to systemd.
struct Teller {
    ready: bool,
    /// Whether systemd waits for the end of a reload, however it ends.
    reloading: bool,
}

impl Teller {
    fn tell(&mut self, news: &News<'_>) {
        match news {
            News::Alive => notify(&[NotifyState::Watchdog]),
            News::Reloading => {
                info!("reloading");
                if let Ok(now) = NotifyState::monotonic_usec_now() {
                    notify(&[NotifyState::Reloading, now]);
                    self.reloading = true;
                }
            }
            News::Converged(prepared, cause, took) => self.converged(&prepared.plan, *cause, *took),
            News::BadFile(bad, goes_on) => {
                let rest = if *goes_on { "the last good file stays in force" } else { "there was no good one yet" };
                let text = bad.to_string();
                error!("{}\n{rest}", text.strip_prefix("error: ").unwrap_or(&text).trim_end());
                status(&format!("the file cannot be used; {rest}"));
                self.reloaded();
            }
            News::Failed(failure, pause) => {
                error!(retry_s = pause.as_secs(), "{failure}\ntried again in {} s", pause.as_secs());
                status(&format!("failed, tried again in {} s", pause.as_secs()));
                self.reloaded();
            }
            News::Held(why) => {
                warn!("the file is not applied: {why}");
                // The boot goes on, and whoever is to confirm may come by the network that there is.
                status(&format!("held: {why}"));
                self.up();
            }
            News::Instead(why) => warn!("{why}"),
            News::Fight(keys, pause) => {
                let names = named(keys.iter());
                warn!(
                    pause_s = pause.as_secs(),
                    "somebody undoes this each time it is repaired: {names}; nothing is done about it for {} s",
                    pause.as_secs()
                );
                status(&format!("somebody fights over {names}"));
            }
            News::Lost => debug!("more was told than could be heard; all of the kernel was read"),
            News::Cluster(news) => warn!(code = news.code, "{}", clean(&news.message)),
            News::Amiss(why) => warn!("{why}"),
        }
    }

    fn converged(&mut self, plan: &Plan, cause: Cause, took: Duration) {
        let (changes, ms) = (plan.actions.len(), took.as_millis());
        for warning in plan.warnings.iter().filter(|_| cause == Cause::File) {
            warn!(code = warning.code, "{}", clean(&warning.message));
        }
        if changes > 0 {
            let names = named(plan.actions.iter().map(|action| &action.key));
            match cause {
                Cause::File => info!(changes, ms, "applied {}: {names}", plan.file),
                Cause::Drift => info!(changes, ms, "repaired {names}"),
            }
        } else if cause == Cause::File {
            info!(changes, ms, "{} matches {}", plan.host, plan.file);
        }
        status(&format!("{} matches {}", plan.host, plan.file));
        self.up();
    }

    /// What it is there for is done.
    fn up(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.reloading = false;
            notify(&[NotifyState::Ready]);
        }
        self.reloaded();
    }

    /// A reload has ended.
    fn reloaded(&mut self) {
        if std::mem::replace(&mut self.reloading, false) {
            notify(&[NotifyState::Ready]);
        }
    }
}

/// The line that `systemctl status` shows.
fn status(text: &str) {
    notify(&[NotifyState::Status(text.lines().next().unwrap_or_default())]);
}
