//! `apply --confirm`: a change that is taken back unless somebody confirms it. What there was before is written down
//! before anything changes, and a process of its own, the guard, brings it back when the time is over. It needs nothing of
//! the process that applied, of its terminal or of its login, and any netrec can do its work by the same file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::apply::{Undo, restore};
use super::lock::{Lock, LockError};
use super::{confirmed, files, sources};
use crate::config::Sources;
use crate::kernel::Backend;
use crate::state::{Scope, State};

/// Rises with every change of [`Journal`] that an older netrec would misread.
const FORMAT: u32 = 1;
/// How often the guard looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(200);
/// How long the guard may take to begin.
const START_LIMIT: Duration = Duration::from_secs(10);
/// What the names of journals begin with, in the folder of run-time files.
pub(super) const JOURNAL: &str = "confirm";
const WAYS_OUT: &str = "`netrec confirm` keeps it, `netrec rollback` takes it back";
/// How long the guard waits for another netrec.
const LOCK_LIMIT: Duration = Duration::from_hours(24);

/// What has been done with `--confirm`, and what it takes to undo it: `/run/netrec/confirm-INODE`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// Where it stands.
    pub stage: Stage,
    /// The configuration that was applied.
    pub file: Sources,
    /// When it is taken back, in milliseconds of `CLOCK_BOOTTIME`: nobody sets that, and it goes on while the machine sleeps.
    deadline: u64,
    before: State,
    scope: Scope,
}

/// Where a change that is to be confirmed stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It is being made, or was when its netrec died.
    Applying,
    /// It is made.
    Waiting,
    /// It was taken back.
    RolledBack,
    /// It could not all be taken back: what is left to do.
    Stuck(Vec<String>),
}

/// What becomes of a configuration that nobody stands by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is applied.
    Apply,
    /// Nothing is.
    Hold {
        /// Where the change stands that is the reason; none where a boot came over it.
        stage: Option<Stage>,
        /// The reason in words.
        notice: String,
    },
    /// The last confirmed one is, in its place.
    Confirmed {
        /// That one.
        file: Sources,
        /// The reason in words.
        notice: String,
    },
}

/// A change that is to be confirmed could not be guarded, confirmed or taken back.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{path} is no journal of this netrec ({why}): if you know that nothing waits to be confirmed, remove it")]
    Broken {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The guard did not begin.
    #[error("the guard that would take the change back did not begin, so nothing was done: {0}")]
    NoGuard(String),
    /// Another change waits.
    #[error("{0}")]
    Waits(String),
    /// There is nothing to confirm, or to take back.
    #[error("nothing waits to be confirmed on this host")]
    Nothing,
    /// It has been taken back already.
    #[error("{0} was not confirmed in time, and was taken back: apply it again")]
    TooLate(String),
    /// Its netrec died before all of it was made.
    #[error("{0} was not applied to the end, since its netrec died: `netrec rollback` takes back what was done")]
    Half(String),
    /// It is confirmed, but no copy of it could be kept.
    #[error("{name} is confirmed and stays, but could not be kept as the last confirmed configuration: {error}")]
    NotKept {
        /// Its name.
        name: String,
        /// The file, and the system's reason.
        error: String,
    },
    /// It could not all be taken back.
    #[error("{}", stuck(.0))]
    Stuck(Vec<String>),
    /// Another netrec is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
}

fn stuck(left: &[String]) -> String {
    let left: Vec<String> = left.iter().map(|line| format!("  {line}")).collect();
    format!(
        "what had been done could not all be taken back; left to do:\n{}\n`netrec rollback` tries again, `netrec confirm` \
         keeps what there is",
        left.join("\n")
    )
}

/// Now, on the journal's clock.
fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn after(time: Duration) -> u64 {
    now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The files of a host namespace's guard.
#[derive(Clone, Debug)]
pub struct Place {
    inode: u64,
    journal: PathBuf,
    guard: PathBuf,
}

impl Place {
    /// Those of the host namespace with this inode number.
    pub fn of(host_inode: u64) -> Self {
        Self {
            inode: host_inode,
            journal: files::run_file(JOURNAL, host_inode),
            guard: files::run_file("guard", host_inode),
        }
    }

    /// What was applied with `--confirm` last, until it is confirmed or somebody applies something else.
    pub fn read(&self) -> Result<Option<Journal>, GuardError> {
        let Some(bytes) = files::read(&self.journal).map_err(|error| self.io(error))? else { return Ok(None) };
        let broken = |why: String| GuardError::Broken { path: self.journal.display().to_string(), why };
        let journal: Journal = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if journal.format == FORMAT { Ok(Some(journal)) } else { Err(broken(format!("format {}", journal.format))) }
    }

    fn write(&self, journal: &Journal) -> Result<(), GuardError> {
        let bytes = serde_json::to_vec(journal).map_err(|error| self.io(error.into()))?;
        files::keep(&self.journal, &bytes).map_err(|error| self.io(error))
    }

    fn remove(&self) -> Result<(), GuardError> {
        files::remove(&self.journal).map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> GuardError {
        GuardError::Io { path: self.journal.display().to_string(), error }
    }

    /// Whether a guard is at work.
    fn is_guarded(&self) -> bool {
        let Ok(file) = files::lock_file(&self.guard) else { return false };
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
    }

    /// What a person should know before they do anything else; none where nothing waits.
    pub fn notice(&self) -> Result<Option<String>, GuardError> {
        let Some(journal) = self.read()? else { return Ok(None) };
        let names = journal.file.names();
        Ok(Some(match &journal.stage {
            Stage::Applying => {
                format!("{names} is being applied, or its netrec died: `netrec rollback` takes back what was done")
            }
            Stage::Waiting if self.is_guarded() => {
                let left = Duration::from_millis(journal.deadline.saturating_sub(now())).as_secs();
                format!("{names} was applied and waits to be confirmed, {left} s more: {WAYS_OUT}")
            }
            Stage::Waiting => format!(
                "{names} was applied and waits to be confirmed, but its guard was killed, so that nothing takes it back by \
                 itself: {WAYS_OUT}"
            ),
            Stage::Stuck(_) => format!(
                "{names} could not all be taken back: `netrec rollback` tries again, `netrec confirm` keeps what there is"
            ),
            Stage::RolledBack => format!("{names} was not confirmed, and was taken back"),
        }))
    }

    /// Refuses while a change waits to be confirmed, whoever made it.
    pub fn refuse_while_waiting(&self) -> Result<(), GuardError> {
        match self.read()?.map(|journal| journal.stage) {
            None | Some(Stage::RolledBack) => Ok(()),
            Some(_) => Err(GuardError::Waits(self.notice()?.unwrap_or_default())),
        }
    }

    /// Forgets a change that was taken back, or that a boot came over: something has been applied for good since.
    pub fn let_go(&self) -> Result<(), GuardError> {
        match self.read()?.map(|journal| journal.stage) {
            Some(Stage::RolledBack) => self.remove()?,
            Some(_) => return Ok(()),
            None => {}
        }
        confirmed::let_go()
    }

    /// What to do with a configuration that nobody stands by, at boot or while it is watched.
    pub fn ruling(&self, file: &Sources) -> Result<Ruling, GuardError> {
        if let Some(journal) = self.read()? {
            // While one waits, all others do.
            return Ok(if journal.stage == Stage::RolledBack && !journal.file.has_texts_of(file) {
                Ruling::Apply
            } else {
                Ruling::Hold { stage: Some(journal.stage), notice: self.notice()?.unwrap_or_default() }
            });
        }
        if !confirmed::is_held(file)? {
            return Ok(Ruling::Apply);
        }
        let what = format!("{} waited to be confirmed when this host went down, or was taken back", file.names());
        let way_out = "`netrec apply` applies it";
        Ok(match confirmed::last()? {
            Some(last) => Ruling::Confirmed {
                notice: format!("{what}: {} is applied in its place; {way_out}", last.names()),
                file: last,
            },
            None => Ruling::Hold { stage: None, notice: format!("{what}, and none was confirmed before: {way_out}") },
        })
    }

    /// Keeps what was applied. Yields its name.
    pub fn confirm(&self) -> Result<String, GuardError> {
        let journal = self.read()?.ok_or(GuardError::Nothing)?;
        if journal.stage == Stage::RolledBack {
            return Err(GuardError::TooLate(journal.file.names()));
        }
        // Who has the lock is alone: the netrec that made it is gone.
        if journal.stage == Stage::Applying {
            return Err(GuardError::Half(journal.file.names()));
        }
        // It is to stay, whatever the disk says of the copy.
        self.remove()?;
        let name = journal.file.names();
        confirmed::let_go()
            .and_then(|()| confirmed::keep_confirmed(&journal.file))
            .map_err(|error| GuardError::NotKept { name: name.clone(), error: error.to_string() })?;
        Ok(name)
    }

    /// Brings back what there was before. Yields the name of what is taken back.
    pub fn roll_back(&self, backend: &mut dyn Backend) -> Result<String, GuardError> {
        let mut journal = self.read()?.ok_or(GuardError::Nothing)?;
        if journal.stage == Stage::RolledBack {
            return Err(GuardError::TooLate(journal.file.names()));
        }
        let mut before = journal.before.clone();
        // What lived in a container that has ended since cannot be brought back.
        sources::of_state(backend, &mut before);
        let undo = restore(backend, &before, &journal.scope);
        journal.stage = match &undo {
            Undo::Done | Undo::Unneeded => Stage::RolledBack,
            Undo::Left(left) => Stage::Stuck(left.clone()),
        };
        self.write(&journal)?;
        match undo {
            Undo::Done | Undo::Unneeded => Ok(journal.file.names()),
            Undo::Left(left) => Err(GuardError::Stuck(left)),
        }
    }

    /// Writes down what there is and starts a guard, before anything changes.
    pub fn guard(&self, before: &State, scope: &Scope, file: &Sources, time: Duration) -> Result<Guarded, GuardError> {
        let ours = before.iter().filter(|(_, entry)| entry.standing.is_ours());
        let journal = Journal {
            format: FORMAT,
            stage: Stage::Applying,
            file: file.clone(),
            deadline: after(time),
            before: ours.map(|(key, entry)| (key.clone(), entry.clone())).collect(),
            scope: scope.clone(),
        };
        self.write(&journal)?;
        let guarded = Guarded { place: self.clone(), journal, time };
        if let Err(error) = confirmed::hold(file) {
            self.remove()?;
            return Err(error);
        }
        match start(self) {
            Ok(()) => Ok(guarded),
            Err(why) => {
                guarded.cancel()?;
                Err(GuardError::NoGuard(why))
            }
        }
    }

    /// The guard's own work: waits until the change is confirmed, or its time is over. Yields what is to be said in the log.
    pub fn keep_watch(&self, open: &dyn Fn() -> Result<Box<dyn Backend>, String>) -> Result<String, GuardError> {
        // A unit of systemd's has a session of its own already, which cannot be left for another.
        let _ = nix::unistd::setsid();
        let _held = self.hold()?;
        let mut known = None;
        loop {
            // A full memory or too many open files are no reason to give up.
            let journal = match (self.read(), known.take()) {
                (Ok(journal), _) => journal,
                (Err(_), Some(journal)) => Some(journal),
                (Err(error), None) => return Err(error),
            };
            let Some(journal) = journal.filter(|journal| matches!(journal.stage, Stage::Applying | Stage::Waiting))
            else {
                return Ok("confirmed, or taken back by somebody".to_owned());
            };
            let left = Duration::from_millis(journal.deadline.saturating_sub(now()));
            if !left.is_zero() {
                known = Some(journal);
                thread::sleep(left.min(LOOK));
                continue;
            }
            let _lock = Lock::take(self.inode, LOCK_LIMIT)?;
            // It may have been confirmed, or its time may have begun only now, while another netrec had the lock.
            if self.read()?.is_some_and(|now| now.stage == journal.stage && now.deadline == journal.deadline) {
                let mut backend = open().map_err(|why| GuardError::Stuck(vec![why]))?;
                return Ok(format!("{} was not confirmed, and was taken back", self.roll_back(&mut *backend)?));
            }
        }
    }

    /// The guard's lock, by which others see that it lives.
    fn hold(&self) -> Result<Flock<File>, GuardError> {
        let io = |error| GuardError::Io { path: self.guard.display().to_string(), error };
        let file = files::lock_file(&self.guard).map_err(io)?;
        // Who looks whether it is held has it for a moment.
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io(errno.into()))
    }
}

/// A change under guard.
#[derive(Debug)]
pub struct Guarded {
    place: Place,
    journal: Journal,
    time: Duration,
}

impl Guarded {
    /// The change is made: its time begins.
    pub fn wait(mut self) -> Result<(), GuardError> {
        self.journal.stage = Stage::Waiting;
        self.journal.deadline = after(self.time);
        self.place.write(&self.journal)
    }

    /// There is no change to take back.
    pub fn cancel(self) -> Result<(), GuardError> {
        self.place.remove()?;
        confirmed::let_go()
    }
}

/// Starts the guard and waits until it is at work: as a unit of systemd's where that is here, since the end of a login may
/// end all that belongs to it; else in a session of its own.
fn start(place: &Place) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let inode = place.inode.to_string();
    let log = place.guard.with_extension("log");
    let ran = if is_systemds() { by_systemd(&program, &inode) } else { Err(String::new()) };
    let mut child = match ran {
        Ok(()) => None,
        Err(why) => Some(by_itself(&log, &program, &inode).map_err(|error| format!("{why}{error}"))?),
    };
    let begun = Instant::now();
    while !place.is_guarded() {
        if let Some(Ok(Some(status))) = child.as_mut().map(Child::try_wait) {
            let words = fs::read_to_string(&log).unwrap_or_default();
            return Err(format!("{status}: {}", words.trim()));
        }
        if begun.elapsed() > START_LIMIT {
            return Err(format!("it is not there after {} s", START_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether what systemd starts is in the namespaces that this process is in.
fn is_systemds() -> bool {
    let same = |what: &str| {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{what}")).ok();
        of("1").is_some_and(|first| of("self") == Some(first))
    };
    Path::new("/run/systemd/system").is_dir() && same("net") && same("mnt")
}

fn by_systemd(program: &Path, inode: &str) -> Result<(), String> {
    let output = Command::new("systemd-run")
        .args(["--quiet", "--collect", &format!("--unit=netrec-confirm-{inode}")])
        .arg("--description=Takes back what netrec applied, unless it is confirmed")
        .arg("--")
        .arg(program)
        .args(["guard", inode])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("systemd-run: {error}; "))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("systemd-run: {}; ", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn by_itself(log: &Path, program: &Path, inode: &str) -> io::Result<Child> {
    files::keep(log, b"")?;
    let log = fs::OpenOptions::new().append(true).open(log)?;
    let mut command = Command::new(program);
    command.args(["guard", inode]).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}
