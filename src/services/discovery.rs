//! Where a plugin of Docker's listens: by its name, in the places where Docker looks.
//!
//! A socket under `/run/docker/plugins` comes first, then a file that holds the address, `NAME.spec` (a line) or `NAME.json`
//! (with certificates for TLS), each also in a folder of the plugin's name.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use ureq::tls::{RootCerts, TlsConfig};

use super::http::Client;
use super::pem;
use crate::state::clean;

/// Where sockets are.
const SOCKETS: &str = "/run/docker/plugins";
/// Where files with addresses are.
const FILES: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
/// The host's name in requests by a Unix socket, as Docker has it.
const HOST: &str = "plugin.moby.localhost";

/// The folders in which a plugin's socket would be.
pub(super) fn folders(name: &str) -> Vec<PathBuf> {
    if name.starts_with('/') {
        return Path::new(name).parent().map(Path::to_path_buf).into_iter().collect();
    }
    vec![PathBuf::from(SOCKETS), Path::new(SOCKETS).join(name)]
}

/// A plugin's client.
///
/// # Errors
/// Why there is none, and what to do: a few sentences.
pub(super) fn find(name: &str) -> Result<Client, String> {
    if name.starts_with('/') {
        return if is_socket(Path::new(name)) { Ok(Client::unix(Path::new(name), HOST)) } else { Err(no_socket(name)) };
    }
    let sockets = Path::new(SOCKETS);
    for path in [sockets.join(format!("{name}.sock")), sockets.join(name).join(format!("{name}.sock"))] {
        if is_socket(&path) {
            return Ok(Client::unix(&path, HOST));
        }
    }
    for folder in FILES.map(Path::new) {
        for path in both(folder, name, "spec") {
            if let Some(text) = text(&path)? {
                return spec(text.trim(), &path);
            }
        }
        for path in both(folder, name, "json") {
            if let Some(text) = text(&path)? {
                return json(&text, &path);
            }
        }
    }
    let files = FILES.join(" or ");
    Err(format!(
        "there is no plugin `{name}`: neither {SOCKETS}/{name}.sock nor {name}.spec or {name}.json in {files}; start it first"
    ))
}

fn both(folder: &Path, name: &str, ending: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{ending}");
    [folder.join(&file), folder.join(name).join(file)]
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn no_socket(path: &str) -> String {
    format!("there is no plugin: {path} is no socket; start it first")
}

/// A file's text; none where there is no such.
fn text(path: &Path) -> Result<Option<String>, String> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(format!("{} is no file", path.display())),
        _ => {}
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// The client of an address that a file `.spec` holds. Certificates are not looked at: there are none to compare them with.
fn spec(address: &str, path: &Path) -> Result<Client, String> {
    at(address, path, || Ok(TlsConfig::builder().disable_verification(true).build()))
}

/// A client by an address: `unix:///PATH`, `tcp://HOST:PORT`, `http://…`, `https://…`.
fn at(address: &str, path: &Path, tls: impl FnOnce() -> Result<TlsConfig, String>) -> Result<Client, String> {
    if let Some(rest) = address.strip_prefix("unix://") {
        return if is_socket(Path::new(rest)) { Ok(Client::unix(Path::new(rest), HOST)) } else { Err(no_socket(rest)) };
    }
    if let Some(rest) = address.strip_prefix("tcp://") {
        return Ok(Client::tcp(&format!("http://{rest}"), TlsConfig::default()));
    }
    if address.starts_with("http://") {
        return Ok(Client::tcp(address, TlsConfig::default()));
    }
    if address.starts_with("https://") {
        return Ok(Client::tcp(address, tls()?));
    }
    Err(format!(
        "{} holds the address `{}`: write unix:///PATH, tcp://HOST:PORT, http://… or https://…",
        path.display(),
        clean(address)
    ))
}

/// A file `.json`. Its `Name` means nothing: the file's counts.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    addr: String,
    #[serde(rename = "TLSConfig")]
    tls: Option<Tls>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Tls {
    insecure_skip_verify: bool,
    #[serde(rename = "CAFile")]
    ca_file: String,
    cert_file: String,
    key_file: String,
}

fn json(text: &str, path: &Path) -> Result<Client, String> {
    let wrong = |error| format!("{} is not what Docker writes for a plugin: {error}", path.display());
    let Described { addr, tls } = serde_json::from_str(text).map_err(wrong)?;
    at(&addr, path, || tls.unwrap_or_default().config())
}

impl Tls {
    /// Without a CA's certificate nobody's is looked at, as Docker has it.
    fn config(&self) -> Result<TlsConfig, String> {
        let mut config = TlsConfig::builder();
        config = config.disable_verification(self.insecure_skip_verify || self.ca_file.is_empty());
        if !self.ca_file.is_empty() {
            config = config.root_certs(RootCerts::new_with_certs(&pem::certificates(Path::new(&self.ca_file))?));
        }
        if !self.cert_file.is_empty() {
            let (certificate, key) = (Path::new(&self.cert_file), Path::new(&self.key_file));
            config = config.client_cert(Some(pem::identity(certificate, key)?));
        }
        Ok(config.build())
    }
}
