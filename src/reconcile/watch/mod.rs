//! `watch`: a round of read, plan, apply whenever something may have changed, and nothing in between.
//!
//! ```text
//!  files (inotify) ──┐
//!  kernel (netlink) ─┼─► triggers ─► throttle ─► round ─► report
//!  engines (HTTP) ───┤                  ▲          │
//!  plugins (inotify) ┤                  │          │
//!  etcd (HTTP) ──────┤                  │          │
//!  signals ──────────┘                  │          │
//!                                       └ failure, ┘ fight
//! ```
//!
//! Threads only wait and tell; all work is the loop's. What was read of the kernel is kept, and a round reads again what it
//! was told of. One that finds nothing to do writes nothing, so that its own changes, which are told like all others, cost one
//! more reading of these and no more.

mod files;
mod metrics;
mod throttle;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use self::files::Files;
use self::metrics::{CONTENT_TYPE, Metrics};
use self::throttle::{Due, FILE_QUIET, Throttle};
use super::apply::{ApplyError, apply, unwatched};
use super::confirmed::keep_confirmed;
use super::guard::{GuardError, Place, Ruling};
use super::input::{InputError, read_trusted};
use super::lock::{Lock, LockError};
use super::{Machine, PrepareError, Prepared, prepare, prepare_again};
use crate::config::{self, Config, Invalid, Sources};
use crate::kernel::{Backend, Events, ReadError};
use crate::plan::Plan;
use crate::services::{Listen, Server, Streams};
use crate::state::{Key, State, Warning};

/// Why a round may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Something happened in a folder of the files.
    File,
    /// The kernel told of changes, or of more than could be heard.
    Kernel,
    /// A container engine told of a container, or was not heard for a while; or a plugin was started.
    Engine,
    /// Members of the cluster came or went, or nobody tells of them any more.
    Cluster,
    /// Somebody asks for a round at once.
    Reload,
    /// Somebody asks for the end.
    Stop,
}

/// What happens, for whoever tells of it.
#[derive(Debug)]
pub enum News<'a> {
    /// A round begins because somebody asked for it.
    Reloading,
    /// A round has ended well: what it did, for which reason.
    Converged(&'a Prepared, Cause, Duration),
    /// A new file cannot be used; the last good one stays in force, if there was one.
    BadFile(&'a FileError, bool),
    /// A round failed, and is tried again after the pause.
    Failed(&'a RoundError, Duration),
    /// The file is not applied: a change of it waits to be confirmed, or was taken back.
    Held(&'a str),
    /// Another configuration is applied in the file's place: this host went down while the file waited, or after it was taken
    /// back.
    Instead(&'a str),
    /// Somebody undoes what netrec does, each time: these objects, and for how long nothing is done about it.
    Fight(&'a [Key], Duration),
    /// More was told than could be heard, so that all of the kernel was read.
    Lost,
    /// Something happened to the cluster that somebody should know.
    Cluster(&'a Warning),
    /// Something beside the round does not work; what then.
    Amiss(&'a str),
    /// The loop is alive.
    Alive,
}

/// Why a round did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The file is another one than before.
    File,
    /// The file is the same: others changed the kernel.
    Drift,
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or not be trusted.
    #[error(transparent)]
    Input(#[from] InputError),
    /// It is not valid.
    #[error("{0}")]
    Invalid(Box<Invalid>),
}

/// A round failed.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// There is no plan.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The plan could not be carried out.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Another netrec is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What waits to be confirmed could not be read.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The files and folders; none for the default ones.
    pub paths: Vec<PathBuf>,
    /// The name of this host, where it is not the system's.
    pub host: Option<String>,
    /// Whether files that others may write are used all the same.
    pub insecure: bool,
    /// How often the loop is to show that it is alive.
    pub alive: Option<Duration>,
    /// Where it is to be asked what it has counted.
    pub metrics: Option<Listen>,
}

/// Watches until somebody asks for the end. `triggers` is where signals are told; what happens is told to `tell`.
///
/// # Errors
/// When the kernel or the files cannot be listened to at all. A bad file or a failed round is none.
pub fn watch(
    watched: &Watched,
    (sender, triggers): (Sender<Trigger>, Receiver<Trigger>),
    tell: &mut dyn FnMut(News<'_>),
) -> Result<(), WatchError> {
    let metrics = Arc::new(Metrics::new(watched.metrics.is_some()));
    if let Some(listen) = &watched.metrics {
        let (metrics, failed) = (metrics.clone(), |error| WatchError::Metrics { at: listen.clone(), error });
        let server = Server::open(listen).map_err(failed)?;
        server.serve(CONTENT_TYPE, Arc::new(move || metrics.text())).map_err(failed)?;
    }
    let (engines, members) = (sender.clone(), sender.clone());
    let sockets = Files::of_plugins(sender.clone()).map_err(|error| WatchError::Files(error.to_string()))?;
    // Before the first reading, so that nothing is missed between.
    let events = Arc::new(Events::open().map_err(WatchError::Kernel)?);
    let kernel = Machine::open().map_err(WatchError::Kernel)?.listening(events.clone());
    let kernel = kernel.following(Arc::new(move || {
        let _ = members.send(Trigger::Cluster);
    }));
    let files = Files::new(sender.clone()).map_err(|error| WatchError::Files(error.to_string()))?;
    thread::Builder::new()
        .name("kernel".into())
        .spawn(move || listen(&events, &sender))
        .map_err(|error| WatchError::Kernel(ReadError::Other(format!("start a thread: {error}"))))?;
    Loop {
        watched,
        files,
        sockets,
        kernel,
        last: None,
        lost: 0,
        throttle: Throttle::new(Instant::now()),
        good: None,
        bad: String::new(),
        failure: String::new(),
        held: String::new(),
        put_off: 0,
        metrics,
        told: false,
        waited: Duration::ZERO,
        engines: Streams::new(Arc::new(move || {
            // Without a loop there is nobody to tell.
            let _ = engines.send(Trigger::Engine);
        })),
    }
    .run(&triggers, tell);
    Ok(())
}

/// The watching could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel's notifications.
    #[error("{0}")]
    Kernel(ReadError),
    /// The files' folders.
    #[error("watch the folders of the configuration: {0}")]
    Files(String),
    /// The place where it was to be asked what it has counted.
    #[error("listen at {at} for who asks for metrics: {error}{}", if error.kind() == io::ErrorKind::AddrInUse { ": another process listens there" } else { "" })]
    Metrics {
        /// The place.
        at: Listen,
        /// The system's reason.
        error: io::Error,
    },
}

/// The channel by which all is told.
pub fn triggers() -> (Sender<Trigger>, Receiver<Trigger>) {
    channel()
}

/// Tells of what the kernel tells, until the loop is gone.
fn listen(events: &Events, triggers: &Sender<Trigger>) {
    loop {
        match events.wait() {
            Ok(false) => {}
            Ok(true) if triggers.send(Trigger::Kernel).is_ok() => {}
            // A socket that fails tells nothing more: the full reading goes on finding what there is.
            Ok(true) | Err(_) => return,
        }
    }
}

struct Loop<'a> {
    watched: &'a Watched,
    files: Files,
    /// Of the file's plugins.
    sockets: Files,
    kernel: Machine,
    /// The last round, if it went well.
    last: Option<Prepared>,
    /// How often more was told than could be heard.
    lost: u64,
    throttle: Throttle,
    /// The last file that could be used, and whether it has been applied.
    good: Option<Good>,
    /// What was told of last, so that it is told once.
    bad: String,
    failure: String,
    held: String,
    /// How often what was asked for has waited for the files.
    put_off: u32,
    metrics: Arc<Metrics>,
    engines: Streams,
    /// Whether an engine or a cluster has told of something since the last round: nothing of the kernel need have changed.
    told: bool,
    /// For how long the round has waited for another netrec.
    waited: Duration,
}

/// How often that is done at most: a file that is written all the time is read in the end.
const PUT_OFF: u32 = 10;

struct Good {
    config: Config,
    applied: bool,
}

/// How a round ended that did not fail.
enum Outcome {
    /// Nothing had happened since the last one.
    AtRest,
    /// Nothing was to be done.
    Held,
    /// The kernel is what the file wants, or what this one does that stands in for it.
    Made(Box<Prepared>, Option<Box<Config>>),
}

impl Loop<'_> {
    fn run(&mut self, triggers: &Receiver<Trigger>, tell: &mut dyn FnMut(News<'_>)) {
        let mut alive = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(every) = self.watched.alive
                && now >= alive
            {
                tell(News::Alive);
                alive = now + every;
            }
            if let Some(due) = self.throttle.due(now) {
                self.round(due, tell);
                continue;
            }
            let next = self.watched.alive.map_or(self.throttle.next(), |_| self.throttle.next().min(alive));
            match triggers.recv_timeout(next.saturating_duration_since(now)) {
                Ok(Trigger::File) => self.throttle.file(Instant::now()),
                Ok(Trigger::Kernel) => self.throttle.kernel(Instant::now()),
                Ok(Trigger::Engine) => {
                    self.told = true;
                    self.throttle.kernel(Instant::now());
                }
                Ok(Trigger::Cluster) => {
                    for news in self.kernel.cluster_news() {
                        tell(News::Cluster(&news));
                    }
                    self.told = true;
                    self.throttle.kernel(Instant::now());
                }
                Ok(Trigger::Reload) => {
                    tell(News::Reloading);
                    // It is said again, for whoever asks.
                    self.bad.clear();
                    self.failure.clear();
                    self.held.clear();
                    self.throttle.at_once(Instant::now());
                }
                Ok(Trigger::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// One round. What goes wrong is told, and tried again in time.
    fn round(&mut self, due: Due, tell: &mut dyn FnMut(News<'_>)) {
        let start = Instant::now();
        // An editor that writes in place empties the file first, and an empty one is valid.
        if due.asked && self.put_off < PUT_OFF && files::are_fresh(&self.watched.paths, FILE_QUIET) {
            self.put_off += 1;
            self.throttle.later(start);
            return;
        }
        self.put_off = 0;
        if due.file {
            self.read(tell);
        }
        let same = |good: &Good| good.applied && self.held.is_empty();
        if !due.kernel && self.good.as_ref().is_none_or(same) {
            return;
        }
        let Some(mut good) = self.good.take() else { return };
        if due.full {
            self.kernel.doubt();
        }
        self.waited = Duration::ZERO;
        let outcome = self.converge(&good, tell);
        self.throttle.took(start.elapsed().saturating_sub(self.waited), Instant::now());
        // Open namespaces would live on.
        self.kernel.rest();
        let lost = self.kernel.losses();
        if std::mem::replace(&mut self.lost, lost) != lost {
            tell(News::Lost);
        }
        match outcome {
            Ok(Outcome::AtRest) => {
                self.throttle.went_well();
                self.metrics.at_rest();
            }
            Ok(Outcome::Held) => {
                self.throttle.went_well();
                self.metrics.held();
            }
            Ok(Outcome::Made(prepared, stand_in)) => {
                self.failure.clear();
                self.throttle.went_well();
                let cause = if good.applied { Cause::Drift } else { Cause::File };
                good.applied = true;
                self.metrics.converged(stand_in.as_deref().unwrap_or(&good.config), &prepared, cause);
                tell(News::Converged(&prepared, cause, start.elapsed()));
                if cause == Cause::Drift {
                    let keys = prepared.plan.actions.iter().map(|action| &action.key);
                    if let Some((keys, pause)) = self.throttle.repaired(keys, Instant::now()) {
                        self.metrics.fight();
                        tell(News::Fight(&keys, pause));
                    }
                }
                // The rest is read and made anew each time.
                self.last = Some(Prepared { live: State::new(), plan: Plan::default(), ..*prepared });
            }
            Err(error) => {
                self.kernel.doubt();
                let pause = self.throttle.failed(Instant::now());
                self.metrics.failed(pause);
                let text = error.to_string();
                if text != self.failure {
                    tell(News::Failed(&error, pause));
                    self.failure = text;
                }
            }
        }
        self.good = Some(good);
    }

    /// Whether the reason why a file is not applied is another one than before.
    fn is_news(&mut self, kind: String) -> bool {
        let is_news = kind != self.held;
        self.held = kind;
        is_news
    }

    /// Reads the files again. What cannot be used changes nothing.
    fn read(&mut self, tell: &mut dyn FnMut(News<'_>)) {
        let read = read_trusted(&self.watched.paths, self.watched.insecure);
        let read = read.map_err(FileError::from).and_then(|(sources, _)| self.parse(sources));
        // After the reading: a folder that is there now is watched from now on.
        if let Err(error) = self.files.follow(&self.watched.paths) {
            tell(News::Amiss(&format!("watch the folders of the configuration: {error}")));
        }
        self.metrics.file(read.is_err());
        match read {
            Ok(None) => self.bad.clear(),
            Ok(Some(config)) => {
                self.bad.clear();
                self.failure.clear();
                if let Err(error) = self.engines.follow(config.containers.iter().map(|c| c.netns.netns())) {
                    tell(News::Amiss(&format!("listen to container engines: {error}")));
                }
                let plugins = config.networks.iter().filter_map(|network| network.remote());
                let plugins = plugins.flat_map(|remote| [Some(&remote.plugin), remote.ipam.as_ref()]).flatten();
                if let Err(error) = self.sockets.follow_plugins(plugins.map(String::as_str)) {
                    tell(News::Amiss(&format!("watch the folders of plugins: {error}")));
                }
                self.good = Some(Good { config, applied: false });
            }
            Err(error) => {
                let text = error.to_string();
                if text != self.bad {
                    tell(News::BadFile(&error, self.good.is_some()));
                    self.bad = text;
                }
            }
        }
    }

    /// The configuration, where it is another one than before.
    fn parse(&self, sources: Sources) -> Result<Option<Config>, FileError> {
        if self.good.as_ref().is_some_and(|good| good.config.sources == sources) {
            return Ok(None);
        }
        Ok(Some(config::parse(sources).map_err(|invalid| FileError::Invalid(Box::new(invalid)))?))
    }

    /// Makes the kernel what the file wants, or another configuration in its place, where that is to be done now.
    fn converge(&mut self, good: &Good, tell: &mut dyn FnMut(News<'_>)) -> Result<Outcome, RoundError> {
        let last = self.last.take();
        let told = std::mem::take(&mut self.told);
        // All is as it was left.
        if good.applied && last.is_some() && !told && !self.kernel.has_stirred() {
            self.last = last;
            return Ok(Outcome::AtRest);
        }
        let config = &good.config;
        let inode = self.kernel.host_id().1;
        let begun = Instant::now();
        let lock = Lock::take(inode, config.settings.lock_timeout);
        self.waited = begun.elapsed();
        let _lock = lock?;
        let place = Place::of(inode);
        let was_held = !self.held.is_empty();
        let stand_in = match place.ruling(&config.sources)? {
            Ruling::Apply => {
                self.held.clear();
                None
            }
            Ruling::Hold { stage, notice } => {
                // How long it still waits is no other notice.
                if self.is_news(format!("{stage:?} {}", config.sources.names())) {
                    tell(News::Held(&notice));
                }
                return Ok(Outcome::Held);
            }
            Ruling::Confirmed { file, notice } => {
                if self.is_news(notice.clone()) {
                    tell(News::Instead(&notice));
                }
                let parsed = config::parse(file).map_err(|invalid| PrepareError::Invalid(Box::new(invalid)))?;
                Some(Box::new(parsed))
            }
        };
        let same = good.applied && stand_in.is_none() && !was_held;
        let config = stand_in.as_deref().unwrap_or(config);
        let host = self.watched.host.as_deref();
        let backend: &mut dyn Backend = &mut self.kernel;
        let prepared = match last.filter(|_| same) {
            Some(last) => prepare_again(backend, config, host, last)?,
            None => prepare(backend, config, host)?,
        };
        apply(backend, &prepared, &mut unwatched)?;
        if let Err(error) = prepared.tell_others() {
            tell(News::Amiss(&error));
        }
        // What the disk has to say about it changes nothing here.
        if !good.applied
            && stand_in.is_none()
            && let Err(error) = place.let_go().and_then(|()| keep_confirmed(&prepared.file))
        {
            tell(News::Amiss(&error.to_string()));
        }
        Ok(Outcome::Made(Box::new(prepared), stand_in))
    }
}
