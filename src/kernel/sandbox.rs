//! A throwaway world for this process: user, mount and network namespaces of its own, gone when it ends, however it ends.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// The world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The system lets nobody but root make user namespaces.
    #[error(
        "this system lets only root make user namespaces ({0}): allow it with `sysctl -w user.max_user_namespaces=10000` \
         (on Debian also `kernel.unprivileged_userns_clone=1`, on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`), \
         or run this as root"
    )]
    Forbidden(Errno),
    /// Something else was refused.
    #[error("cannot make namespaces to rehearse in: {what}: {error}")]
    Other {
        /// What was refused.
        what: &'static str,
        /// The system's reason.
        error: io::Error,
    },
}

fn other(what: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |error| SandboxError::Other { what, error }
}

/// Moves this process, which must have one thread, into namespaces of its own, with an empty `/run`. Root needs no user
/// namespace for it; anybody else is root in a new one, over the new namespaces and nothing else.
pub fn enter() -> Result<(), SandboxError> {
    let (uid, gid) = (geteuid(), getegid());
    if !uid.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::ENOSYS | Errno::EINVAL => {
                SandboxError::Forbidden(errno)
            }
            errno => other("a user namespace")(errno.into()),
        })?;
        // user_namespaces(7): without setgroups a single line may be written for the own group.
        let maps =
            [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))];
        for (file, text) in maps {
            fs::write(format!("/proc/self/{file}"), text).map_err(other("the identity map of a user namespace"))?;
        }
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        // AppArmor lets the user namespace be made and then denies all that it is for.
        Errno::EPERM | Errno::EACCES => SandboxError::Forbidden(errno),
        errno => other("a mount and a network namespace")(errno.into()),
    })?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, private, nothing).map_err(|e| other("mounts of its own")(e.into()))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("netrec"), "/run", Some("tmpfs"), quiet, Some("mode=755")).map_err(|e| other("an empty /run")(e.into()))
}
