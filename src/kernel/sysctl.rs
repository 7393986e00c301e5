//! Kernel parameters under `/proc/sys`, of the namespace that the thread is in.

use std::fs::File;
use std::io::{
    self,
    ErrorKind::{IsADirectory, NotADirectory, NotFound},
};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::fault::Writes;
use super::transport::Refusal;

/// Namespaces that one [`Proc`] of netrec's own is used for: few enough for a search to be short beside a mount, which
/// takes 0.1 ms.
const SEARCHED: usize = 64;

/// A `/proc` to find parameters in. One keeps the `net/ipv4` of every namespace that was asked for it, all under one name,
/// and finds the right one by going through them: 0.15 ms among a thousand.
pub(super) struct Proc(Option<OwnedFd>);

impl Proc {
    /// The system's.
    pub(super) const SYSTEM: Self = Self(None);

    /// One of netrec's own, empty, mounted nowhere and gone when dropped. The system's where there can be none: without
    /// root of the machine, and before Linux 5.8, which has one `/proc` for all mounts.
    fn new() -> Self {
        let quiet =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mounted = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, quiet)
        });
        Self(mounted.ok())
    }

    fn open(&self, path: &str, access: OFlag) -> io::Result<File> {
        let flags = access | OFlag::O_CLOEXEC;
        let opened = match &self.0 {
            Some(root) => openat(root, &*format!("sys/{path}"), flags, Mode::empty()),
            None => openat(AT_FDCWD, &*format!("/proc/sys/{path}"), flags, Mode::empty()),
        };
        Ok(opened?.into())
    }

    /// A parameter's value; none where the kernel has no such parameter.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<String>> {
        match self.open(path, OFlag::O_RDONLY).and_then(|file| value(&file)) {
            Ok(value) => Ok(Some(value)),
            // A part of the path is a parameter itself, or all of it is a folder of parameters.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | IsADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a parameter and reads it back, as some values are taken and then ignored. One that is right is not written,
    /// so that a read-only `/proc/sys` does no harm.
    pub(super) fn write(&self, path: &str, wanted: &str, writes: &mut Writes) -> Result<(), Refusal> {
        let wanted = normalised(wanted);
        let opened = self.open(path, OFlag::O_RDWR);
        let found = match &opened {
            Ok(file) => Some(value(file)?),
            Err(_) => self.read(path)?,
        };
        if found.as_deref() == Some(&wanted) {
            return Ok(());
        }
        writes.admit().map_err(Refusal::plain)?;
        let written = opened.and_then(|file| {
            file.write_all_at(wanted.as_bytes(), 0)?;
            value(&file)
        });
        let now = written.map_err(|error| {
            let found = found.unwrap_or_else(|| "nothing".into());
            Refusal::new(error.raw_os_error().unwrap_or(0), format!("/proc/sys/{path}: wanted {wanted}, found {found}"))
        })?;
        if now == wanted {
            Ok(())
        } else {
            Err(Refusal::new(0, format!("/proc/sys/{path}: wrote {wanted}, then found {now}")))
        }
    }
}

/// A [`Proc`] for each of many namespaces.
pub(super) struct Procs {
    current: Proc,
    used: usize,
}

impl Procs {
    pub(super) fn new() -> Self {
        Self { current: Proc::SYSTEM, used: 0 }
    }

    /// The one for the next namespace.
    pub(super) fn next(&mut self) -> &Proc {
        if self.used.is_multiple_of(SEARCHED) {
            self.current = Proc::new();
        }
        self.used += 1;
        &self.current
    }
}

/// A value without surrounding white space and with runs of it within as one space.
pub(super) fn normalised(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The longest value: the kernel hands out a page at most.
const VALUE_MAX: usize = 4096;

/// The value in an open file, by one system call: there is no size to ask for.
fn value(file: &File) -> io::Result<String> {
    let mut bytes = [0; VALUE_MAX];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(normalised(&String::from_utf8_lossy(&bytes[..length])))
}
