//! Counts the writes to the kernel and, in builds with the feature `fault-injection`, makes one of them fail or the
//! process die or wait just before it.
//!
//! The environment of such a build: `NETREC_FAULT=die:N` kills the process (SIGKILL) instead of the N-th write (from 1);
//! `NETREC_FAULT=pause:N:FIFO` opens a named pipe for writing before the N-th write, which takes until somebody reads there,
//! and then for reading, which takes until somebody writes there;
//! `NETREC_FAULT=fail:N:ERRNO` (`EPERM`, `EBUSY`, `ENOBUFS`, `EEXIST`, `ENOENT` or a number) fails it without sending it;
//! Several are joined by commas.
//! `NETREC_SINGLE=1` sends every message alone instead of in batches. A write is one netlink message that changes
//! something, one sysctl written, or one namespace's mount, unmount or file.

/// The count of writes, and in test builds the one that goes wrong.
#[derive(Debug, Default)]
pub struct Writes {
    count: u64,
    #[cfg(feature = "fault-injection")]
    faults: Vec<Fault>,
    single: bool,
}

#[cfg(feature = "fault-injection")]
#[derive(Debug)]
enum Fault {
    Die(u64),
    Pause(u64, std::path::PathBuf),
    Fail(u64, i32),
}

impl Writes {
    /// A count at zero; in test builds with what the environment asks for.
    pub fn new() -> Self {
        #[cfg(feature = "fault-injection")]
        {
            let asked = std::env::var("NETREC_FAULT").unwrap_or_default();
            Self {
                count: 0,
                faults: asked.split(',').filter_map(parse).collect(),
                single: std::env::var_os("NETREC_SINGLE").is_some(),
            }
        }
        #[cfg(not(feature = "fault-injection"))]
        Self::default()
    }

    /// Called once before every write: counts it, and says with which error number it fails without being carried out.
    pub fn admit(&mut self) -> Result<(), i32> {
        self.count += 1;
        #[cfg(feature = "fault-injection")]
        for fault in &self.faults {
            match fault {
                Fault::Die(n) if *n == self.count => {
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                }
                Fault::Pause(n, pipe) if *n == self.count => {
                    let _ = std::fs::OpenOptions::new().write(true).open(pipe);
                    let _ = std::fs::File::open(pipe);
                }
                Fault::Fail(n, errno) if *n == self.count => return Err(*errno),
                _ => {}
            }
        }
        Ok(())
    }

    /// How many writes there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether every message is to be sent alone.
    pub fn single(&self) -> bool {
        self.single
    }
}

#[cfg(feature = "fault-injection")]
fn parse(text: &str) -> Option<Fault> {
    use nix::libc;
    let mut parts = text.split(':');
    let what = parts.next()?;
    let n = parts.next()?.parse().ok()?;
    match what {
        "die" => Some(Fault::Die(n)),
        "pause" => Some(Fault::Pause(n, parts.next()?.into())),
        "fail" => {
            let errno = match parts.next()? {
                "EPERM" => libc::EPERM,
                "EBUSY" => libc::EBUSY,
                "ENOBUFS" => libc::ENOBUFS,
                "EEXIST" => libc::EEXIST,
                "ENOENT" => libc::ENOENT,
                number => number.parse().ok()?,
            };
            Some(Fault::Fail(n, errno))
        }
        _ => None,
    }
}
