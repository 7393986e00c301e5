//! The texts of the configuration: a file, a folder's `*.toml` by name, standard input, or the default places.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::trust::{self, Doubt};
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
    #[error("cannot read {path}: {error}{}", if path == DEFAULT_FILE { ": write it, or name another with `-c`" } else { "" })]
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
    /// Others may write what is to decide over the network.
    #[error("others than root and the one who runs netrec could write this host's networks:\n{}\n`--insecure` goes on all the same", lines(.0))]
    Untrusted(Vec<Doubt>),
    /// A folder holds no `*.toml`.
    #[error("{0} holds no *.toml file")]
    Empty(String),
}

fn lines(doubts: &[Doubt]) -> String {
    doubts.iter().map(|doubt| format!("  {doubt}")).collect::<Vec<_>>().join("\n")
}

/// The files and folders that the paths name, standard input left out; without any, the default ones.
pub(super) fn places(paths: &[PathBuf]) -> Vec<PathBuf> {
    match paths {
        [] => vec![DEFAULT_FILE.into(), DEFAULT_FOLDER.into()],
        paths => paths.iter().filter(|path| !is_stdin(path)).cloned().collect(),
    }
}

/// Reads the texts that the paths name; without any, those of the default places.
pub fn read_sources(paths: &[PathBuf]) -> Result<Sources, InputError> {
    Ok(read_placed(paths)?.0)
}

/// The same with the path of each; standard input has none.
pub(super) fn read_placed(paths: &[PathBuf]) -> Result<(Sources, Vec<Option<PathBuf>>), InputError> {
    read(paths, &mut |_, _| Ok(()))
}

/// The same for a command that writes to the kernel: nobody else may be able to write the files. What there is against it
/// where `insecure` is set comes with the texts; else it is an error. Standard input is whose it is.
pub fn read_trusted(paths: &[PathBuf], insecure: bool) -> Result<(Sources, Vec<Doubt>), InputError> {
    let mut doubts = BTreeSet::new();
    let (sources, _) = read(paths, &mut |file, path| {
        doubts.extend(trust::doubts(file, path)?);
        Ok(())
    })?;
    Ok((sources, safe(doubts, insecure)?))
}

/// What there is against a file, if it may be used all the same.
pub(super) fn safe(doubts: BTreeSet<Doubt>, insecure: bool) -> Result<Vec<Doubt>, InputError> {
    let doubts: Vec<Doubt> = doubts.into_iter().collect();
    if doubts.is_empty() || insecure { Ok(doubts) } else { Err(InputError::Untrusted(doubts)) }
}

/// Looks at an open file before it is read.
type Check<'a> = &'a mut dyn FnMut(&File, &Path) -> io::Result<()>;

fn read(paths: &[PathBuf], check: Check<'_>) -> Result<(Sources, Vec<Option<PathBuf>>), InputError> {
    let mut files: Vec<Option<PathBuf>> = Vec::new();
    if paths.is_empty() {
        files.push(Some(DEFAULT_FILE.into()));
        files.extend(folder(Path::new(DEFAULT_FOLDER)).unwrap_or_default().into_iter().map(Some));
    }
    for path in paths {
        if is_stdin(path) {
            files.push(None);
        } else if path.is_dir() {
            let found = folder(path).map_err(|error| InputError::Io { path: path.display().to_string(), error })?;
            if found.is_empty() {
                return Err(InputError::Empty(path.display().to_string()));
            }
            files.extend(found.into_iter().map(Some));
        } else {
            files.push(Some(path.clone()));
        }
    }
    let mut sources = Vec::new();
    for file in &files {
        sources.push(match file {
            Some(path) => read_file(path, check)?,
            None => read_stdin()?,
        });
    }
    Ok((Sources(sources), files))
}

fn read_stdin() -> Result<Source, InputError> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).map_err(|error| InputError::Io { path: STDIN.into(), error })?;
    text(STDIN, bytes)
}

/// The `*.toml` files of a folder, by name.
pub(super) fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
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

fn read_file(path: &Path, check: Check<'_>) -> Result<Source, InputError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| {
            check(&file, path)?;
            file.read_to_end(&mut bytes)
        })
        .map_err(|error| InputError::Io { path: name.clone(), error })?;
    text(&name, bytes)
}

fn text(name: &str, bytes: Vec<u8>) -> Result<Source, InputError> {
    let text = String::from_utf8(bytes)
        .map_err(|e| InputError::NotText { path: name.to_owned(), at: e.utf8_error().valid_up_to() })?;
    Ok(Source { name: name.to_owned(), text })
}
