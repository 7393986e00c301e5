//! A throwaway world for this process: user, mount and network namespaces of its own, gone when it ends, however it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::fault::Writes;
use super::netlink::link;
use super::netns::RUN_NETNS;
use super::sysctl::Proc;
use super::transport::Socket;

/// What forbids user namespaces to all but root: a parameter, the value that forbids, and one that allows. The first is the
/// kernel's (namespaces(7)), the others are Debian's and Ubuntu's additions.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("user.max_user_namespaces", "0", "10000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// The world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The system lets nobody but root make user namespaces.
    #[error(
        "this system lets only root make user namespaces ({error}): allow it with {remedy}, or rehearse as root",
        error = .error.desc()
    )]
    Forbidden {
        /// The system's reason.
        error: Errno,
        /// The commands that allow it.
        remedy: String,
    },
    /// Something else was refused.
    #[error("cannot make namespaces to rehearse in: {what}: {error}")]
    Other {
        /// What was refused.
        what: &'static str,
        /// The system's reason.
        error: io::Error,
    },
}

/// What a refusal of user namespaces comes of, from what the system says of itself.
fn forbidden(error: Errno) -> SandboxError {
    let value = |name: &str| Proc::SYSTEM.read(&name.replace('.', "/")).ok().flatten();
    let command = |(name, _, allows): &(&str, &str, &str)| format!("`sysctl -w {name}={allows}`");
    let set: Vec<_> = SWITCHES.iter().filter(|(name, forbids, _)| value(name).as_deref() == Some(*forbids)).collect();
    let remedy = if set.is_empty() {
        SWITCHES.iter().map(command).collect::<Vec<_>>().join(" or ")
    } else {
        set.into_iter().map(command).collect::<Vec<_>>().join(" and ")
    };
    SandboxError::Forbidden { error, remedy }
}

fn other(what: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |error| SandboxError::Other { what, error }
}

/// AppArmor lets a user namespace be made and then denies all that it is for.
fn refused(what: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |error| match error.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::EPERM | Errno::EACCES)) => forbidden(errno),
        _ => other(what)(error),
    }
}

/// Moves this process, which must have one thread, into namespaces of its own, with an empty `/run`. Root needs no user
/// namespace for it; anybody else is root in a new one, over the new namespaces and nothing else. Says whether it took one.
pub fn enter() -> Result<bool, SandboxError> {
    let (uid, gid) = (geteuid(), getegid());
    let own_users = !uid.is_root();
    if own_users {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::ENOSYS | Errno::EINVAL => forbidden(errno),
            errno => other("a user namespace")(errno.into()),
        })?;
        // user_namespaces(7): without setgroups a single line may be written for the own group.
        let maps =
            [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))];
        for (file, text) in maps {
            fs::write(format!("/proc/self/{file}"), text).map_err(refused("the identity map of a user namespace"))?;
        }
    }
    let both = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    unshare(both).map_err(|e| refused("a mount and a network namespace")(e.into()))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, private, nothing).map_err(|e| refused("mounts of its own")(e.into()))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("netrec"), "/run", Some("tmpfs"), quiet, Some("mode=755"))
        .map_err(|e| other("an empty /run")(e.into()))?;
    Ok(own_users)
}

/// Makes a folder that is `/run/netns` to one of several hosts of this world, for [`enter_names`]. What is mounted in it by
/// that name is seen under its own everywhere.
pub fn make_names(folder: &Path) -> io::Result<()> {
    let nothing = None::<&str>;
    fs::create_dir_all(folder)?;
    mount(Some(folder), folder, nothing, MsFlags::MS_BIND, nothing)?;
    mount(nothing, folder, nothing, MsFlags::MS_SHARED, nothing)?;
    Ok(())
}

/// Gives a namespace a second name.
pub fn name_again(first: &Path, second: &Path) -> io::Result<()> {
    fs::File::create_new(second)?;
    mount(Some(first), second, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Moves the calling thread, which must end there, into a mount namespace of its own, in which `/run/netns`, which must be
/// a mount point already, is a folder of [`make_names`].
pub fn enter_names(folder: &Path) -> io::Result<()> {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted on a shared mount is mounted for all who share it.
    mount(nothing, RUN_NETNS, nothing, MsFlags::MS_PRIVATE, nothing)?;
    mount(Some(folder), RUN_NETNS, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)?;
    Ok(())
}

/// Parameters that namespaces of a network have, and those of a user namespace's own do not: the kernel hides them there
/// ("Don't export sysctls to unprivileged users"), which of them depends on its version.
const HIDDEN: [&str; 7] = [
    "net/core/xfrm_",
    "net/ipv4/route/",
    "net/ipv6/route/",
    "net/ipv4/neigh/",
    "net/ipv6/neigh/",
    "net/netfilter/",
    "net/unix/",
];

/// Whether only root of the machine may give a parameter this value: groups that a user namespace does not know, an
/// algorithm whose module is not loaded.
fn privileged(path: &str, value: &str) -> bool {
    match path {
        "net/ipv4/ping_group_range" => value.split_whitespace().all(|group| group.parse::<u32>().is_ok()),
        "net/ipv4/tcp_congestion_control" => true,
        _ => false,
    }
}

/// The parameters of the namespace that the caller is in, as far as it matters which there are: to be taken before
/// [`enter`].
#[derive(Debug)]
pub struct Parameters(BTreeSet<String>);

impl Parameters {
    /// Those of some that there are.
    pub fn there(paths: impl Iterator<Item = impl Into<String>>) -> Self {
        Self(paths.map(Into::into).filter(|path: &String| matches!(Proc::SYSTEM.read(path), Ok(Some(_)))).collect())
    }
}

/// Those of some parameters, with the values that they are to get, that a network namespace of root would take and one of
/// this user namespace does not. To be called after [`enter`].
pub fn not_to_be_set(before: &Parameters, wanted: &[(String, String)]) -> Result<Vec<bool>, SandboxError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    // On a thread that ends there: what is tried does not matter to anybody.
    let tried = thread::scope(|scope| {
        let tries = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let refused = |(path, value): &(String, String)| {
                if HIDDEN.iter().any(|prefix| path.starts_with(prefix)) {
                    before.0.contains(path) && matches!(Proc::SYSTEM.read(path), Ok(None))
                } else {
                    privileged(path, value) && Proc::SYSTEM.write(path, value, &mut Writes::default()).is_err()
                }
            };
            Ok(wanted.iter().map(refused).collect())
        });
        tries.join().unwrap_or(Err(Errno::EIO))
    });
    tried.map_err(|errno: Errno| other("a network namespace")(errno.into()))
}

/// Whether the kernel has ipvlans. It is asked for one on `lo`, which it never makes.
pub fn has_ipvlan() -> bool {
    let Ok(mut socket) = Socket::open() else { return false };
    let answers = link::ask_for_ipvlan().map(|request| socket.batch(vec![request], &mut Writes::default()));
    answers.is_ok_and(|answers| !answers.iter().any(|a| matches!(a, Err(refusal) if refusal.errno == libc::EOPNOTSUPP)))
}
