//! Plans in files. A saved plan holds the texts it was made from and what it would do, and neither is ever carried out: who
//! applies it plans anew, and does so only where that comes to the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files;
use super::input::{InputError, STDIN, is_stdin, read_trusted, safe};
use super::stale::{self, Stale};
use super::trust::{self, Doubt};
use crate::config::{Source, Sources};
use crate::plan::Plan;
use crate::state::clean;
use crate::state::{Netns, Owner};

/// The version of the format.
const FORMAT: u64 = 1;
/// What every saved plan begins with.
const BEGINNING: &str = "{\"netrec_saved_plan\":";
/// The largest file that is read, in bytes: some ten times that of a plan of ten thousand containers.
const LARGEST: u64 = 1 << 30;
/// A plan with what it was made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    // The first, as the file begins with it.
    netrec_saved_plan: u64,
    /// The version of netrec that made it.
    netrec: String,
    /// The system's host name.
    system: String,
    /// Where the configuration is: absolute paths, `-` for standard input; none for the default places.
    config: Vec<PathBuf>,
    /// Its texts.
    sources: Vec<Source>,
    /// The name by which the file knows the host.
    pub host: Option<String>,
    /// The owners that it is for; none where it is for all.
    pub targets: Vec<Owner>,
    /// Whether it removes all that is netrec's.
    pub destroy: bool,
    /// Its actions, as in the JSON of a plan.
    actions: Vec<Value>,
    /// The namespaces of others that they are in, by numbers that tell each from those that come after it.
    namespaces: Vec<(Netns, (u64, u64))>,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The paths of the configuration as given.
    pub config: &'a [PathBuf],
    /// Its texts; none for a plan that removes all.
    pub sources: Option<&'a Sources>,
    /// The name by which the file knows the host.
    pub host: Option<&'a str>,
    /// The owners that it is for.
    pub targets: &'a [Owner],
}

/// A plan could not be saved, or a file holds none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The system refused.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// There is something else of that name.
    #[error("{path} is {what}, so no plan is written there: name another file")]
    Taken {
        /// The file.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// It is something else.
    #[error("{0} is no saved plan of netrec's: to apply a configuration use `-c {0}`")]
    NotOne(String),
    /// It could be somebody else's by now.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Another version made it.
    #[error(
        "{path} has format {found} of saved plans, and this netrec reads format {FORMAT}: make the plan anew with `netrec plan -o {path}`"
    )]
    Version {
        /// The file.
        path: String,
        /// Its format.
        found: String,
    },
    /// It is cut short or was written to.
    #[error("{path} is a damaged plan ({why}): make it anew with `netrec plan -o {path}`")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// It is another host's.
    #[error("{path} is a plan for host `{of}`, and this is `{here}`: make one here")]
    OtherHost {
        /// The file.
        path: String,
        /// That host.
        of: String,
        /// This one.
        here: String,
    },
}

impl Saved {
    /// A plan to be saved.
    pub fn new(origin: &Origin<'_>, plan: &Plan) -> Result<Self, SavedError> {
        let whole = |path: &PathBuf| if is_stdin(path) { Ok(path.clone()) } else { absolute(path) };
        let paths = origin.config.iter().map(|path| whole(path).map_err(failed("find", path)));
        let texts = origin.sources.map_or(&[][..], |sources| &sources.0);
        let source = |source: &Source| -> Result<Source, SavedError> {
            match source.name.as_str() {
                STDIN => Ok(source.clone()),
                name => {
                    let path = absolute(name).map_err(failed("find", Path::new(name)))?;
                    Ok(Source { name: path.display().to_string(), text: source.text.clone() })
                }
            }
        };
        Ok(Self {
            netrec_saved_plan: FORMAT,
            netrec: env!("CARGO_PKG_VERSION").into(),
            system: system(),
            config: if origin.sources.is_some() { paths.collect::<Result<_, _>>()? } else { Vec::new() },
            sources: texts.iter().map(source).collect::<Result<_, _>>()?,
            host: origin.host.map(str::to_owned),
            targets: origin.targets.to_vec(),
            destroy: origin.sources.is_none(),
            actions: actions(plan),
            namespaces: plan.namespaces.clone().into_iter().collect(),
        })
    }

    /// Writes it to a file, whole or not at all, for its owner alone. What is there is replaced only where it is a saved
    /// plan, or empty.
    pub fn write(&self, path: &Path) -> Result<(), SavedError> {
        let text = serde_json::to_string(self).map_err(|error| failed("write", path)(error.into()))?;
        free(path)?;
        if path.file_name().is_none() {
            return Err(taken(path, "no name of a file"));
        }
        files::write(path, format!("{text}\n").as_bytes()).map_err(failed("write", path))
    }

    /// Reads one, of this version and for this host, that nobody else may have written to. What there is against it where
    /// `insecure` is set comes with it.
    pub fn read(path: &Path, insecure: bool) -> Result<(Self, Vec<Doubt>), SavedError> {
        let shown = || clean(&path.display().to_string());
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_CLOEXEC).open(path);
        let file = file.map_err(failed("read", path))?;
        let about = file.metadata().map_err(failed("read", path))?;
        let doubts = trust::doubts(&file, path).map_err(failed("read", path))?;
        let mut bytes = Vec::new();
        if about.is_file() {
            file.take(LARGEST).read_to_end(&mut bytes).map_err(failed("read", path))?;
        }
        if !bytes.starts_with(BEGINNING.as_bytes()) {
            return Err(SavedError::NotOne(shown()));
        }
        let doubts = safe(doubts, insecure)?;
        Ok((Self::parse(&bytes, &shown())?, doubts))
    }

    /// Reads the text of a saved plan, of this version and for this host. Errors name it by a path.
    pub(super) fn parse(bytes: &[u8], path: &str) -> Result<Self, SavedError> {
        let shown = || path.to_owned();
        if !bytes.starts_with(BEGINNING.as_bytes()) {
            return Err(SavedError::NotOne(shown()));
        }
        let damaged = |why: String| SavedError::Damaged { path: shown(), why: clean(&why) };
        let value: Value = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let format = &value["netrec_saved_plan"];
        if *format != FORMAT {
            return Err(SavedError::Version { path: shown(), found: clean(&format.to_string()) });
        }
        let saved: Self = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        let here = system();
        if saved.system != here {
            return Err(SavedError::OtherHost { path: shown(), of: clean(&saved.system), here });
        }
        Ok(saved)
    }

    /// The configuration's texts as they are now, with what there is against them where `insecure` is set; what came by
    /// standard input is as it was. None of a plan that removes all.
    pub fn sources(&self, insecure: bool) -> Result<(Option<Sources>, Vec<Doubt>), InputError> {
        if self.destroy {
            return Ok((None, Vec::new()));
        }
        if self.config.is_empty() {
            let (sources, doubts) = read_trusted(&[], insecure)?;
            return Ok((Some(sources), doubts));
        }
        let mut doubts = BTreeSet::new();
        let mut piped = self.sources.iter().filter(|source| source.name == STDIN);
        let mut sources = Vec::new();
        for path in &self.config {
            if is_stdin(path) {
                sources.extend(piped.next().cloned());
            } else {
                let (read, against) = read_trusted(std::slice::from_ref(path), insecure)?;
                sources.extend(read.0);
                doubts.extend(against);
            }
        }
        Ok((Some(Sources(sources)), doubts.into_iter().collect()))
    }

    /// Whether what would be planned now is what was saved. In place of a plan there may be the reason why there is none.
    pub fn check(&self, sources: Option<&Sources>, now: Result<&Plan, &str>) -> Result<(), Stale> {
        let mut news = stale::texts(&self.sources, sources.map_or(&[], |sources| &sources.0));
        match now {
            Ok(plan) => {
                news += &stale::namespaces(&self.namespaces, &plan.namespaces);
                news += &stale::objects(&self.actions, &actions(plan));
            }
            Err(reason) => {
                let _ = writeln!(news, "{reason}");
            }
        }
        let made_by = env!("CARGO_PKG_VERSION");
        if !news.is_empty() && self.netrec != made_by {
            let _ = writeln!(news, "netrec {} made the plan, and this is {made_by}", clean(&self.netrec));
        }
        if news.is_empty() { Ok(()) } else { Err(Stale(news)) }
    }
}

/// The system's host name.
fn system() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(|_| String::new(), |system| system.nodename().to_string_lossy().into_owned())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SavedError {
    let path = clean(&path.display().to_string());
    move |error| SavedError::Io { what, path, error }
}

fn taken(path: &Path, what: &'static str) -> SavedError {
    SavedError::Taken { path: clean(&path.display().to_string()), what }
}

/// Whether a plan may be written to a path.
fn free(path: &Path) -> Result<(), SavedError> {
    let about = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about.map_err(failed("write", path))?,
    };
    if about.is_symlink() {
        return Err(taken(path, "a symbolic link"));
    }
    if !about.is_file() {
        return Err(taken(path, if about.is_dir() { "a folder" } else { "no regular file" }));
    }
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC).open(path);
    let mut beginning = Vec::new();
    let length = BEGINNING.len() as u64;
    file.and_then(|file| file.take(length).read_to_end(&mut beginning)).map_err(failed("read", path))?;
    if beginning.is_empty() || beginning == BEGINNING.as_bytes() { Ok(()) } else { Err(taken(path, "no saved plan")) }
}

/// A plan's actions, without the reasons, which name lines of the file as it was called.
fn actions(plan: &Plan) -> Vec<Value> {
    let mut document = plan.to_json();
    let Some(Value::Array(mut actions)) = document.get_mut("actions").map(Value::take) else { return Vec::new() };
    for action in &mut actions {
        action.as_object_mut().map(|action| action.shift_remove("reason"));
    }
    actions
}
