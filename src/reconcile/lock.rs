//! One netrec at a time per host namespace: a lock on a file named by the namespace's inode number. The kernel drops it
//! when the process ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

/// Where run-time files live.
const FOLDER: &str = "/run/netrec";

/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another netrec has it.
    #[error("another netrec ({holder}) is at work on this host and did not finish within {}", pretty(*.waited))]
    Held {
        /// Its process id and command line.
        holder: String,
        /// How long this one waited.
        waited: Duration,
    },
    /// The lock's file could not be opened.
    #[error("cannot lock {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
}

fn pretty(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

impl Lock {
    /// Takes the lock of the host namespace with this inode number, waiting for another netrec at most so long.
    pub fn take(host_inode: u64, timeout: Duration) -> Result<Self, LockError> {
        let name = format!("lock-{host_inode}");
        let path = PathBuf::from(FOLDER).join(&name);
        let failed = |error: io::Error| LockError::Io { path: path.display().to_string(), error };
        let mut file = open(&name).map_err(failed)?;
        let start = Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) => {
                    // Who holds it is a help to others, no part of the lock: a full disk is no reason to stop.
                    let _ =
                        held.set_len(0).and_then(|()| held.rewind()).and_then(|()| write!(&mut *held, "{}", holder()));
                    return Ok(Self { _file: held });
                }
                Err((mut again, nix::errno::Errno::EWOULDBLOCK)) => {
                    if start.elapsed() >= timeout {
                        let mut holder = String::new();
                        let _ = again.rewind().and_then(|()| again.read_to_string(&mut holder));
                        if holder.is_empty() {
                            holder = "its name is not known".into();
                        }
                        return Err(LockError::Held { holder, waited: timeout });
                    }
                    file = again;
                    thread::sleep(RETRY.min(timeout.saturating_sub(start.elapsed())));
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }
}

fn open(name: &str) -> io::Result<File> {
    match fs::DirBuilder::new().mode(0o755).create(FOLDER) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = folder()?;
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(&folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
}

/// The folder of run-time files, if it is one's own: in a folder of somebody else's a file could be anything.
fn folder() -> io::Result<File> {
    let not_own = |what: &str| {
        let text = format!("{FOLDER} {what}: remove it, netrec makes its own");
        io::Error::new(io::ErrorKind::PermissionDenied, text)
    };
    let found = fs::symlink_metadata(FOLDER)?;
    if !found.is_dir() {
        return Err(not_own(if found.is_symlink() { "is a symbolic link" } else { "is no folder" }));
    }
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(FOLDER)?;
    let found = folder.metadata()?;
    if found.uid() != geteuid().as_raw() {
        return Err(not_own(&format!("belongs to user {}", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(not_own(&format!("can be written by others (mode {:o})", found.mode() & 0o7777)));
    }
    Ok(folder)
}

fn holder() -> String {
    let command = fs::read("/proc/self/cmdline").unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    format!("process {}: {command}", std::process::id())
}
