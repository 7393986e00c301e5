//! Kernel parameters under `/proc/sys`, of the namespace that the thread is in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::fault::Writes;
use super::transport::Refusal;

fn file(path: &str) -> PathBuf {
    Path::new("/proc/sys").join(path)
}

/// A value without surrounding white space and with runs of it within as one space.
pub(super) fn normalised(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A parameter's value; none where the kernel has no such parameter.
pub(super) fn read(path: &str) -> io::Result<Option<String>> {
    match File::open(file(path)).and_then(|file| value(&file)) {
        Ok(value) => Ok(Some(value)),
        // ENOTDIR: a part of the path is a parameter itself.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a parameter and reads it back, as some values are taken and then ignored. One that is right is not written, so
/// that a read-only `/proc/sys` does no harm.
pub(super) fn write(path: &str, wanted: &str, writes: &mut Writes) -> Result<(), Refusal> {
    let wanted = normalised(wanted);
    // Opened once: among the parameters of a thousand namespaces the kernel finds a path by going through all of them,
    // as they have one name and one folder.
    let opened = OpenOptions::new().read(true).write(true).open(file(path));
    let found = match &opened {
        Ok(file) => Some(value(file)?),
        Err(_) => read(path)?,
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

/// The longest value: the kernel hands out a page at most.
const VALUE_MAX: usize = 4096;

/// The value in an open file, by one system call: there is no size to ask for.
fn value(file: &File) -> io::Result<String> {
    let mut bytes = [0; VALUE_MAX];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(normalised(&String::from_utf8_lossy(&bytes[..length])))
}
