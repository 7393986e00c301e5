//! Kernel parameters under `/proc/sys`, of the namespace that the thread is in.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
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
    let found = read(path)?;
    if found.as_deref() == Some(&wanted) {
        return Ok(());
    }
    writes.admit().map_err(Refusal::plain)?;
    let written = OpenOptions::new().write(true).open(file(path)).and_then(|mut f| f.write_all(wanted.as_bytes()));
    written.map_err(|error| {
        let found = found.unwrap_or_else(|| "nothing".into());
        Refusal::new(error.raw_os_error().unwrap_or(0), format!("/proc/sys/{path}: wanted {wanted}, found {found}"))
    })?;
    match read(path)? {
        Some(now) if now == wanted => Ok(()),
        now => {
            let now = now.unwrap_or_else(|| "nothing".into());
            Err(Refusal::new(0, format!("/proc/sys/{path}: wrote {wanted}, then found {now}")))
        }
    }
}
