//! Kernel parameters under `/proc/sys`, of the namespace that the thread is in.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
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
    match fs::read_to_string(file(path)) {
        Ok(value) => Ok(Some(normalised(&value))),
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
    let written = opened.and_then(|mut file| {
        file.rewind()?;
        file.write_all(wanted.as_bytes())?;
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

/// The value in an open file.
fn value(mut file: &File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(normalised(&text))
}
