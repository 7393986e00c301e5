//! The texts of the configuration: a file, a folder's `*.toml` by name, standard input, or the default places.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::{Source, Sources};

/// The default file.
const DEFAULT_FILE: &str = "/etc/netrec/netrec.toml";
/// The default folder, read after the default file.
const DEFAULT_FOLDER: &str = "/etc/netrec/netrec.d";

/// The name of what came by standard input.
pub(super) const STDIN: &str = "<stdin>";

/// Whether a path stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A file or folder could not be read.
    #[error("cannot read {path}: {error}")]
    Io {
        /// Its path.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A text is not UTF-8.
    #[error("{path} is not UTF-8 text (byte {at})")]
    NotText {
        /// Its path.
        path: String,
        /// The offset of the first wrong byte.
        at: usize,
    },
    /// A folder holds no `*.toml`.
    #[error("{0} holds no *.toml file")]
    Empty(String),
}

/// Reads the texts that the paths name; without any, those of the default places.
pub fn read_sources(paths: &[PathBuf]) -> Result<Sources, InputError> {
    let mut sources = Vec::new();
    if paths.is_empty() {
        sources.push(read_file(Path::new(DEFAULT_FILE))?);
        for file in folder(Path::new(DEFAULT_FOLDER)).unwrap_or_default() {
            sources.push(read_file(&file)?);
        }
    }
    for path in paths {
        if is_stdin(path) {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(|error| InputError::Io { path: STDIN.into(), error })?;
            sources.push(text(STDIN, bytes)?);
        } else if path.is_dir() {
            let files = folder(path).map_err(|error| InputError::Io { path: path.display().to_string(), error })?;
            if files.is_empty() {
                return Err(InputError::Empty(path.display().to_string()));
            }
            for file in files {
                sources.push(read_file(&file)?);
            }
        } else {
            sources.push(read_file(path)?);
        }
    }
    Ok(Sources(sources))
}

/// The `*.toml` files of a folder, by name.
fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "toml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Source, InputError> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| InputError::Io { path: name.clone(), error })?;
    text(&name, bytes)
}

fn text(name: &str, bytes: Vec<u8>) -> Result<Source, InputError> {
    let text = String::from_utf8(bytes)
        .map_err(|e| InputError::NotText { path: name.to_owned(), at: e.utf8_error().valid_up_to() })?;
    Ok(Source { name: name.to_owned(), text })
}
