//! Files that netrec keeps: for their owner alone, whole or not at all, and never by way of a link.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// Where run-time files live. It is empty after every boot.
pub(super) const RUN: &str = "/run/netrec";
/// Where what outlives a boot lives.
pub(super) const LIB: &str = "/var/lib/netrec";

/// Writes a file of netrec's own, in a folder that is made where it is not there.
pub(super) fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    write(path, bytes)
}

/// Writes a file under another name first, so that whoever reads it finds all of it, the old one or the new one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    // One of a process of the same id, which died.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = private().write(true).create_new(true).open(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

/// A file's bytes; none where there is no such file.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match private().read(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file to hold a lock on, made where it is not there.
pub(super) fn lock_file(path: &Path) -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(RUN)?;
    private().read(true).write(true).create(true).truncate(false).open(path)
}

/// The run-time file of a host namespace.
pub(super) fn run_file(what: &str, host_inode: u64) -> PathBuf {
    Path::new(RUN).join(format!("{what}-{host_inode}"))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}
