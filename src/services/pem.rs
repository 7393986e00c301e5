//! Certificates and keys in files (PEM).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
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
    let text = read(key)?;
    let private = PrivateKey::from_pem(&text).map_err(|error| no_pem(key, "key", &error))?;
    let certificates = certificates(certificate)?;
    fit(&certificates, &text).map_err(|error| {
        let (key, certificate) = (key.display(), certificate.display());
        format!("the key of {key} is none that goes with the certificate of {certificate}: {error}")
    })?;
    Ok(ClientCert::new_with_certs(&certificates, private))
}

/// Whether a client can be known by certificates and the text of a key: `ureq` panics where not.
fn fit(certificates: &[Certificate<'_>], key: &[u8]) -> Result<(), rustls::Error> {
    let chain = certificates.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| rustls::Error::General(error.to_string()))?;
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, key)
        .map(drop)
}

fn no_pem(path: &Path, what: &str, error: &ureq::Error) -> String {
    format!("{} holds no {what}: {error}", path.display())
}
