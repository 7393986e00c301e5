//! Chosen addresses written into the files that leave them open, so that they stay whatever else the file comes to say.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::files::{self, Replacement};
use super::input::{InputError, read_placed};
use crate::config::{self, Addresses, Attachment, Config, Invalid, Source, Sources, with_addresses};
use crate::desired::{Chosen, DesiredError, filled_in};
use crate::state::{Facts, Owner};

/// Addresses could not be written into a file.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file could not be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The file is not valid.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The place is written in a way that cannot be followed.
    #[error("{file}: the chosen addresses cannot be written into a text like this; give each by hand:\n{}", lines(.pins))]
    Text {
        /// The name of the file.
        file: String,
        /// What was to be written.
        pins: Vec<Pin>,
    },
    /// The file could not be replaced.
    #[error("cannot write {file}: {error}{}", so_far(.done))]
    Write {
        /// The name of the file.
        file: String,
        /// The system's reason.
        error: io::Error,
        /// The files that had been replaced by then.
        done: Vec<String>,
    },
}

fn so_far(done: &[String]) -> String {
    if done.is_empty() {
        "; nothing has been written".to_owned()
    } else {
        format!("; written already: {}", done.join(", "))
    }
}

fn lines(pins: &[Pin]) -> String {
    let line = |Pin { place, owner, addresses }: &Pin| {
        let missing: Vec<String> = addresses.iter().map(|ip| format!("\"{ip}\"")).collect();
        format!("  {place}: `{owner}.address` lacks {}", missing.join(", "))
    };
    pins.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The addresses of an attachment that the file has left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// `containers.NAME.networks.NET`
    pub owner: Owner,
    /// Its file and line before: `netrec.toml:14`.
    pub place: String,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

impl Pin {
    /// Its addresses, in a line.
    pub fn listed(&self) -> String {
        self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The names of the files.
    pub files: String,
    /// What they say now that they left open, in file order.
    pub pins: Vec<Pin>,
    /// Whether addresses stay open that go with the piece of a cluster's network that the host has.
    pub leased: bool,
    /// The new text of standard input, where that was given.
    pub stdin: Option<String>,
}

/// Writes the chosen addresses into the files that the paths name, each into the one that its container stands in. No file is replaced
/// before the new text of each is known to want the same as before, and is written beside it.
pub fn pin(paths: &[PathBuf]) -> Result<Pinned, PinError> {
    let (sources, places) = read_placed(paths)?;
    let config = config::parse(sources)?;
    let chosen = Chosen::new(&config)?;
    let pins = open(&config, &chosen);
    let texts = texts(&config, &pins)?;
    let (mut stdin, mut written) = (None, Vec::new());
    for ((source, path), text) in config.sources.0.iter().zip(places).zip(texts) {
        let Some(path) = path else {
            stdin = Some(text);
            continue;
        };
        if text != source.text {
            let failed = |error| PinError::Write { file: source.name.clone(), error, done: Vec::new() };
            written.push((&source.name, replacement(&path, &source.text, &text).map_err(failed)?));
        }
    }
    let mut done = Vec::new();
    for (name, replacement) in written {
        if let Err(error) = replacement.take_place() {
            return Err(PinError::Write { file: name.clone(), error, done });
        }
        done.push(name.clone());
    }
    let of_cluster = |a: &Attachment| config.cluster.as_ref().is_some_and(|cluster| cluster.network == a.network);
    let leased = config.containers.iter().flat_map(|c| &c.attachments).any(|a| of_cluster(a) && a.addresses.is_empty());
    let pins = pins.into_iter().map(|(_, pin, _)| pin).collect();
    Ok(Pinned { files: config.sources.names(), pins, leased, stdin })
}

fn replacement(path: &Path, before: &str, after: &str) -> io::Result<Replacement> {
    if !fs::metadata(path)?.is_file() {
        let way = "`-c -` reads standard input and prints the new text";
        return Err(io::Error::other(format!("it is no regular file: {way}")));
    }
    files::replacement(path, before.as_bytes(), after.as_bytes())
}

/// What a file leaves open: the source that it stands in, what is to be said of it, and what is to be written.
type Open<'a> = (usize, Pin, Addresses<'a>);

fn open<'a>(config: &'a Config, chosen: &Chosen) -> Vec<Open<'a>> {
    let mut open = Vec::new();
    for (container, chosen) in config.containers.iter().zip(&chosen.containers) {
        for (attachment, chosen) in container.attachments.iter().zip(chosen) {
            let automatic = chosen.addresses.iter().filter(|address| address.automatic);
            let add: Vec<IpAddr> = automatic.map(|address| address.ip.ip()).collect();
            if add.is_empty() {
                continue;
            }
            let place = config.sources.line(&attachment.place);
            let pin = Pin { owner: attachment.owner.clone(), place, addresses: add.clone() };
            let network = config.network(attachment).name.as_str();
            open.push((attachment.place.source, pin, Addresses { container: container.name.as_str(), network, add }));
        }
    }
    open
}

/// The new texts of all sources.
fn texts(config: &Config, open: &[Open<'_>]) -> Result<Vec<String>, PinError> {
    let mut texts = Vec::new();
    for (index, source) in config.sources.0.iter().enumerate() {
        let own = || open.iter().filter(|(source, ..)| *source == index);
        let addresses: Vec<Addresses<'_>> = own().map(|(.., addresses)| addresses.clone()).collect();
        let text =
            if addresses.is_empty() { Some(source.text.clone()) } else { with_addresses(&source.text, &addresses) };
        let failed =
            || PinError::Text { file: source.name.clone(), pins: own().map(|(_, pin, _)| pin.clone()).collect() };
        texts.push(text.ok_or_else(failed)?);
    }
    let named = config.sources.0.iter().zip(&texts);
    let sources = named.map(|(source, text)| Source { name: source.name.clone(), text: text.clone() });
    if !wants_the_same(config, Sources(sources.collect())) {
        let pins = open.iter().map(|(_, pin, _)| pin.clone()).collect();
        return Err(PinError::Text { file: config.sources.names(), pins });
    }
    Ok(texts)
}

/// Whether new texts want what the old ones want, and leave no address open.
fn wants_the_same(config: &Config, sources: Sources) -> bool {
    let Ok(new) = config::parse(sources) else { return false };
    let Ok(chosen) = Chosen::new(&new) else { return false };
    let host = config.hosts.first().map(|host| host.name.as_str());
    let filled_in =
        |config: &Config| -> Result<serde_json::Value, DesiredError> { filled_in(config, &Facts::default(), host) };
    let same = matches!((filled_in(config), filled_in(&new)), (Ok(old), Ok(new)) if old == new);
    same && open(&new, &chosen).is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_with_its_place() {
        let addresses = ["10.20.0.222", "fd20::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let owner = Owner::new("containers.web.networks.front");
        let pin = Pin { owner, place: "netrec.toml:7".into(), addresses };
        let error = PinError::Text { file: "netrec.toml".into(), pins: vec![pin] };
        let told = "netrec.toml: the chosen addresses cannot be written into a text like this; give each by hand:\n  \
                    netrec.toml:7: `containers.web.networks.front.address` lacks \"10.20.0.222\", \"fd20::1\"";
        assert_eq!(error.to_string(), told);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_left_alone() {
        let path = std::env::temp_dir().join(format!("netrec-pin-race-{}", std::process::id()));
        fs::write(&path, "of somebody else").unwrap();
        let error = replacement(&path, "as it was", "as it is to be").unwrap_err();
        assert_eq!(error.to_string(), "it has changed since it was read: try again");
        assert_eq!(fs::read_to_string(&path).unwrap(), "of somebody else");
        let replacement = replacement(&path, "of somebody else", "as it is to be").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "of somebody else");
        replacement.take_place().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "as it is to be");
        fs::remove_file(&path).unwrap();
    }
}
