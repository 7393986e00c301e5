//! One netrec at a time per host namespace: a lock on a file named by the namespace's inode number. The kernel drops it
//! when the process ends, however it ends.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::files;

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
        let path = files::run_file("lock", host_inode);
        let failed = |error: io::Error| LockError::Io { path: path.display().to_string(), error };
        let mut file = files::lock_file(&path).map_err(failed)?;
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

fn holder() -> String {
    let command = fs::read("/proc/self/cmdline").unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    format!("process {}: {command}", std::process::id())
}
