//! Files that netrec keeps: for their owner alone, whole or not at all, and never by way of a link.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

/// Where run-time files live. It is empty after every boot.
pub(super) const RUN: &str = "/run/netrec";
/// What is said to whoever may not use what netrec keeps.
const ROOT: &str = "run netrec as root";
/// Where what outlives a boot lives.
pub(super) const LIB: &str = "/var/lib/netrec";

/// Writes a file of netrec's own, in a folder that is made where it is not there.
pub(super) fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    write(path, bytes)
}

/// The same for one that is to be there even when the machine loses power the next moment.
pub(super) fn keep_for_good(path: &Path, bytes: &[u8]) -> io::Result<()> {
    keep(path, bytes)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Writes a file under another name first, so that whoever reads it finds all of it, the old one or the new one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_for(0o600, path, bytes)
}

/// Writes a file that is for others to read, whatever the umask is, in a folder that is made where it is not there.
pub(super) fn tell(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        fs::DirBuilder::new().recursive(true).create(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    write_for(0o644, path, bytes)
}

fn write_for(mode: u32, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path);
    remove(&new)?;
    let written = private().write(true).create_new(true).open(&new).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

/// The name under which a file is written first. One that is there already is of a process of the same id, which died.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// Other bytes that are to come in the place of those of a file that is somebody else's. They are written already, under another
/// name that goes with this.
#[derive(Debug)]
pub(super) struct Replacement {
    new: PathBuf,
    real: PathBuf,
}

impl Replacement {
    /// Puts them there.
    pub(super) fn take_place(self) -> io::Result<()> {
        fs::rename(&self.new, &self.real)?;
        File::open(self.real.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        let _ = remove(&self.new);
    }
}

/// Writes what is to come in a file's place: all or none, with the owner and the mode that it has, and only where it still says
/// what it said. Of a link, what it leads to is replaced.
pub(super) fn replacement(path: &Path, before: &[u8], after: &[u8]) -> io::Result<Replacement> {
    let real = path.canonicalize()?;
    // Whoever may not write it may not replace it.
    let mut old = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&real)?;
    let was = old.metadata()?;
    let mut found = Vec::new();
    old.read_to_end(&mut found)?;
    if found != before {
        return Err(io::Error::other("it has changed since it was read: try again"));
    }
    let new = beside(&real);
    remove(&new)?;
    let replacement = Replacement { new, real };
    let mut file = private().write(true).create_new(true).open(&replacement.new)?;
    file.write_all(after)?;
    let is = file.metadata()?;
    if (is.uid(), is.gid()) != (was.uid(), was.gid()) {
        fchown(&file, Some(was.uid()), Some(was.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(was.mode() & 0o7777))?;
    file.sync_all()?;
    Ok(replacement)
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

/// A run-time file to hold a lock on, made where it is not there.
pub(super) fn lock_file(path: &Path) -> io::Result<File> {
    match fs::DirBuilder::new().mode(0o755).create(RUN) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !geteuid().is_root() => {
            return Err(io::Error::new(error.kind(), format!("{error}: {ROOT}")));
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = run_folder()?;
    let name = path.file_name().unwrap_or_default();
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(&folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
}

/// The folder of run-time files, if it is one's own: in a folder of somebody else's a file could be anything.
fn run_folder() -> io::Result<File> {
    let not_own = |what: &str| {
        let hint = if geteuid().is_root() { "remove it, netrec makes its own" } else { ROOT };
        let text = format!("{RUN} {what}: {hint}");
        io::Error::new(io::ErrorKind::PermissionDenied, text)
    };
    let found = fs::symlink_metadata(RUN)?;
    if !found.is_dir() {
        return Err(not_own(if found.is_symlink() { "is a symbolic link" } else { "is no folder" }));
    }
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(RUN)?;
    let found = folder.metadata()?;
    if found.uid() != geteuid().as_raw() {
        return Err(not_own(&format!("belongs to user {}", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(not_own(&format!("can be written by others (mode {:o})", found.mode() & 0o7777)));
    }
    Ok(folder)
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
