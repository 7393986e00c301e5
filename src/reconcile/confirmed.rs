//! What outlives a boot of changes that are to be confirmed: the last configuration that was, and the one that is held back,
//! since it was not, or not yet. `/run`, with all else that is known of them, is empty after a boot.

use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::guard::GuardError;
use crate::config::{Source, Sources};

/// Where the last configuration is that somebody confirmed.
fn confirmed_file() -> PathBuf {
    Path::new(files::LIB).join("confirmed.toml")
}

/// Where the one is that is held back.
fn held_file() -> PathBuf {
    Path::new(files::LIB).join("held.json")
}

fn failed(path: &Path) -> impl Fn(io::Error) -> GuardError {
    let path = path.display().to_string();
    move |error| GuardError::Io { path: path.clone(), error }
}

/// Keeps a configuration as the last confirmed one: that of a boot while another one is held back.
pub fn keep_confirmed(file: &Sources) -> Result<(), GuardError> {
    let path = confirmed_file();
    files::keep_for_good(&path, merged(file).as_bytes()).map_err(failed(&path))
}

/// The same for one that a person applied for good, where there has been a confirmed one before.
pub fn applied(file: &Sources) -> Result<(), GuardError> {
    if confirmed_file().exists() { keep_confirmed(file) } else { Ok(()) }
}

/// The last confirmed configuration; none where there has been none.
pub(super) fn last() -> Result<Option<Sources>, GuardError> {
    let path = confirmed_file();
    let Some(bytes) = files::read(&path).map_err(failed(&path))? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|error| failed(&path)(io::Error::other(error)))?;
    Ok(Some(Sources(vec![Source { name: path.display().to_string(), text }])))
}

/// Holds a configuration back, until somebody confirms it or applies another one.
pub(super) fn hold(file: &Sources) -> Result<(), GuardError> {
    let path = held_file();
    let bytes = serde_json::to_vec(file).map_err(|error| failed(&path)(error.into()))?;
    files::keep_for_good(&path, &bytes).map_err(failed(&path))
}

/// Holds none back any more.
pub(super) fn let_go() -> Result<(), GuardError> {
    let path = held_file();
    files::remove(&path).map_err(failed(&path))
}

/// Whether this configuration is held back.
pub(super) fn is_held(file: &Sources) -> Result<bool, GuardError> {
    let path = held_file();
    let Some(bytes) = files::read(&path).map_err(failed(&path))? else { return Ok(false) };
    let broken =
        |error: serde_json::Error| GuardError::Broken { path: path.display().to_string(), why: error.to_string() };
    Ok(serde_json::from_slice::<Sources>(&bytes).map_err(broken)?.has_texts_of(file))
}

/// The texts as one; several lose their comments.
fn merged(file: &Sources) -> String {
    if let [one] = file.0.as_slice() {
        return one.text.clone();
    }
    let mut whole = toml::Table::new();
    for (key, value) in file.0.iter().filter_map(|source| source.text.parse::<toml::Table>().ok()).flatten() {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(there)), toml::Value::Table(more)) => there.extend(more),
            (Some(toml::Value::Array(there)), toml::Value::Array(more)) => there.extend(more),
            (_, value) => drop(whole.insert(key, value)),
        }
    }
    whole.to_string()
}
