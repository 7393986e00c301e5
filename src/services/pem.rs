//! Certificates and keys in files (PEM).

use std::fs;
use std::path::Path;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, parse_pem};

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// The certificates of a file.
///
/// # Errors
/// That it cannot be read, or that there is none.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in parse_pem(&read(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| no_pem(path, "certificate", &error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(format!("{} holds no certificate", path.display())) } else { Ok(found) }
}

/// A client's certificates with their key.
///
/// # Errors
/// Which file cannot be used, and why.
pub(super) fn identity(certificate: &Path, key: &Path) -> Result<ClientCert, String> {
    let private = PrivateKey::from_pem(&read(key)?).map_err(|error| no_pem(key, "key", &error))?;
    Ok(ClientCert::new_with_certs(&certificates(certificate)?, private))
}

fn no_pem(path: &Path, what: &str, error: &ureq::Error) -> String {
    format!("{} holds no {what}: {error}", path.display())
}
