//! etcd, by the HTTP and JSON that it has beside gRPC (the gateway of its API of version 3, below `/v3/`).
//!
//! Bytes are base64 there, and numbers of 64 bits are texts; what is zero, false or empty is left out.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::tls::{RootCerts, TlsConfig};

use super::flannel::{self, Entry, shortened};
use crate::services::http::{Answer, Client, NoAnswer};
use crate::services::pem;
use crate::state::{Cluster, clean};

/// How long one endpoint may take to answer; an election among etcd's own takes a second or two.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes. A page of members' entries has half a megabyte.
const LONGEST: u64 = 1 << 20;
/// The same of one entry: twice what is looked at of a value.
const LONGEST_ENTRY: u64 = 128 << 10;
/// The same of one key: etcd takes no request of more than one and a half megabytes.
const LONGEST_KEY: u64 = 4 << 20;
/// Entries in one answer.
const PAGE: usize = 1000;
/// The longest line of a stream, in bytes: a change of a thousand entries at once has half a megabyte.
const LONGEST_LINE: u64 = 16 << 20;
/// gRPC's code of what is not known, and of who is not known (gRPC's `codes.proto`).
const UNAUTHENTICATED: u64 = 16;
const UNAVAILABLE: u64 = 14;

/// It did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody answers, or nobody who can.
    Away(String),
    /// It was refused, for a reason that does not go away by itself.
    Refused(String),
    /// The answer is longer than any that is read.
    Long(String),
}

impl Fault {
    /// The sentence.
    pub(super) fn text(self) -> String {
        match self {
            Self::Away(text) | Self::Refused(text) | Self::Long(text) => text,
        }
    }
}

/// The endpoint that answered last, for all who ask the same etcd.
pub(super) type Current = Arc<AtomicUsize>;

/// etcd, by all its endpoints.
pub(super) struct Etcd {
    endpoints: Vec<(String, Client)>,
    current: Current,
    user: Option<(String, String)>,
    token: RefCell<Option<String>>,
}

/// All entries below a key, as they were at one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) revision: i64,
    pub(super) entries: Vec<Entry>,
}

/// What keeps a change from being made: that something is not so any more.
pub(super) enum Unless {
    /// There is no such key yet, and below the other key none came to be after the revision.
    New(Vec<u8>, i64),
    /// There is no such key yet.
    Absent,
    /// The key was last written at the revision.
    Written(i64),
}

impl Etcd {
    /// Reads what is needed to ask; asks nothing yet.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(super) fn new(cluster: &Cluster, current: Current) -> Result<Self, String> {
        let mut tls = TlsConfig::builder();
        if let Some(ca) = &cluster.ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&pem::certificates(ca)?));
        }
        if let Some((cert, key)) = &cluster.identity {
            tls = tls.client_cert(Some(pem::identity(cert, key)?));
        }
        let tls = tls.build();
        let user =
            cluster.user.as_ref().map(|(name, file)| Ok::<_, String>((name.clone(), password(file)?))).transpose()?;
        Ok(Self {
            endpoints: cluster.etcd.iter().map(|url| (url.clone(), Client::tcp(url, tls.clone()))).collect(),
            current,
            user,
            token: RefCell::new(None),
        })
    }

    /// Everything below a key. What is too large for an answer comes in smaller ones, and of a value that is too large for any
    /// it is known that it is.
    pub(super) fn list(&self, below: &str) -> Result<Listing, Fault> {
        let mut listing = Listing::default();
        let (mut from, end) = (below.as_bytes().to_vec(), end_of(below.as_bytes()));
        let (mut page, mut keys_only) = (PAGE, false);
        loop {
            let mut body = json!({
                "key": BASE64.encode(&from), "range_end": BASE64.encode(&end), "limit": page.to_string(),
                "keys_only": keys_only,
            });
            if listing.revision > 0 {
                body["revision"] = json!(listing.revision.to_string());
            }
            let longest = match page {
                1 if keys_only => LONGEST_KEY,
                1 => LONGEST_ENTRY,
                _ => LONGEST,
            };
            let said = match self.call_for("/v3/kv/range", &body, longest) {
                Err(Fault::Long(_)) if !keys_only => {
                    // etcd makes all of an answer, whoever reads it: not many are to be tried.
                    keys_only = page == 1;
                    page = 1;
                    continue;
                }
                said => said?,
            };
            if listing.revision == 0 {
                listing.revision = long(&said["header"], "revision");
            }
            let found = said["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
            let too_large = |entry| if keys_only { Entry { value: flannel::too_long(), ..entry } } else { entry };
            listing.entries.extend(found.iter().filter_map(entry).map(too_large));
            // Large ones may be beside each other.
            page = if keys_only { 1 } else { (page * 2).min(PAGE) };
            keys_only = false;
            let last = found.last().and_then(|last| bytes(&last["key"])).filter(|_| said["more"] == true);
            let Some(last) = last else { return Ok(listing) };
            from = last;
            from.push(0);
        }
    }

    /// Asks whether etcd is there, and knows its own mind.
    pub(super) fn probe(&self, key: &str) -> Result<(), Fault> {
        self.call("/v3/kv/range", &json!({ "key": BASE64.encode(key.as_bytes()), "count_only": true })).map(drop)
    }

    /// Writes a key under a lease (0 for none), unless something has changed. Yields the revision at which it did.
    pub(super) fn put(&self, key: &[u8], value: &str, lease: i64, unless: &Unless) -> Result<Option<i64>, Fault> {
        let put = json!({
            "key": BASE64.encode(key), "value": BASE64.encode(value.as_bytes()), "lease": lease.to_string(),
        });
        self.change(key, unless, &json!({ "request_put": put }))
    }

    /// Removes a key that was last written at a revision. Yields the revision at which it did.
    pub(super) fn delete(&self, key: &[u8], written: i64) -> Result<Option<i64>, Fault> {
        let delete = json!({ "request_delete_range": { "key": BASE64.encode(key) } });
        self.change(key, &Unless::Written(written), &delete)
    }

    fn change(&self, key: &[u8], unless: &Unless, what: &Value) -> Result<Option<i64>, Fault> {
        let absent = || json!({ "key": BASE64.encode(key), "target": "VERSION", "result": "EQUAL", "version": "0" });
        let compare = match unless {
            Unless::Absent => vec![absent()],
            Unless::New(below, revision) => vec![
                absent(),
                json!({
                    "key": BASE64.encode(below), "range_end": BASE64.encode(end_of(below)),
                    "target": "CREATE", "result": "LESS", "create_revision": (revision + 1).to_string(),
                }),
            ],
            Unless::Written(revision) => vec![json!({
                "key": BASE64.encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
            })],
        };
        let said = self.call("/v3/kv/txn", &json!({ "compare": compare, "success": [what] }))?;
        Ok((said["succeeded"] == true).then(|| long(&said["header"], "revision")))
    }

    /// A lease of so many seconds.
    pub(super) fn grant(&self, seconds: i64) -> Result<i64, Fault> {
        let said = self.call("/v3/lease/grant", &json!({ "TTL": seconds.to_string(), "ID": "0" }))?;
        Ok(long(&said, "ID"))
    }

    /// Ends a lease, and with it the keys that are under it. One that is not there any more is no matter.
    pub(super) fn revoke(&self, lease: i64) {
        let _ = self.call("/v3/lease/revoke", &json!({ "ID": lease.to_string() }));
    }

    /// Begins a lease's time anew. Yields how many seconds it has; none where there is no such lease.
    pub(super) fn keep_alive(&self, lease: i64) -> Result<Option<i64>, Fault> {
        let said = self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() }))?;
        Ok(Some(long(&said["result"], "TTL")).filter(|seconds| *seconds > 0))
    }

    /// All changes below a key from a revision on, until the stream ends: for each batch the revision that it leads to.
    pub(super) fn watch(&self, below: &str, from: i64) -> Result<Changes, Fault> {
        let body = json!({ "create_request": {
            "key": BASE64.encode(below.as_bytes()), "range_end": BASE64.encode(end_of(below.as_bytes())),
            "start_revision": from.to_string(), "progress_notify": true,
        }});
        let body = body.to_string().into_bytes();
        let token = self.token()?;
        // An etcd that has lost its leader says so, and does not keep silent.
        let mut headers = vec![("Grpc-Metadata-hasleader", "true")];
        headers.extend(token.as_deref().map(|token| ("Authorization", token)));
        self.first_to_answer(|url, client| {
            let stream = client.stream_of_post("/v3/watch", &headers, &body, LIMIT)?;
            Ok(Changes { url: url.to_owned(), lines: BufReader::new(Box::new(stream)) })
        })
    }

    /// Asks one endpoint after another until one can answer; it is the first one to be asked the next time.
    fn first_to_answer<T>(&self, mut ask: impl FnMut(&str, &Client) -> Result<T, String>) -> Result<T, Fault> {
        let mut reasons: Vec<String> = Vec::new();
        for _ in 0..self.endpoints.len() {
            let current = self.current.load(Ordering::Relaxed) % self.endpoints.len();
            let (url, client) = &self.endpoints[current];
            match ask(url, client) {
                Ok(answer) => return Ok(answer),
                Err(why) => reasons.push(format!("{url}: {why}")),
            }
            self.current.store((current + 1) % self.endpoints.len(), Ordering::Relaxed);
        }
        Err(Fault::Away(format!("etcd cannot be asked ({})", reasons.join("; "))))
    }

    /// What says who this host is.
    fn token(&self) -> Result<Option<String>, Fault> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        if let Some(token) = self.token.borrow().as_ref() {
            return Ok(Some(token.clone()));
        }
        let said = self.send("/v3/auth/authenticate", None, &json!({ "name": name, "password": password }), LONGEST)?;
        let token = said["token"].as_str().unwrap_or_default().to_owned();
        self.token.replace(Some(token.clone()));
        Ok(Some(token))
    }

    fn call(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.call_for(path, body, LONGEST)
    }

    /// Asks for an answer of so many bytes at most, and once more with another token where that one has run out.
    fn call_for(&self, path: &str, body: &Value, longest: u64) -> Result<Value, Fault> {
        let had_token = self.token.borrow().is_some();
        let said = self.send(path, self.token()?.as_deref(), body, longest);
        if had_token && matches!(said, Err(Fault::Refused(_))) {
            self.token.replace(None);
            return self.send(path, self.token()?.as_deref(), body, longest);
        }
        said
    }

    fn send(&self, path: &str, token: Option<&str>, body: &Value, longest: u64) -> Result<Value, Fault> {
        let body = body.to_string().into_bytes();
        let headers: Vec<(&str, &str)> = token.map(|token| ("Authorization", token)).into_iter().collect();
        self.first_to_answer(|url, client| match client.post(path, &headers, &body, longest, LIMIT) {
            Ok(answer) => match read(url, &answer) {
                Err(Fault::Away(why)) => Err(why),
                said => Ok(said),
            },
            Err(NoAnswer { long: true, why, .. }) => Ok(Err(Fault::Long(format!("etcd at {url}: {why}")))),
            Err(no_answer) => Err(no_answer.why),
        })?
    }
}

/// An answer's document.
fn read(url: &str, answer: &Answer) -> Result<Value, Fault> {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
    if answer.status == 200 {
        return said.filter(Value::is_object).ok_or_else(|| Fault::Away("its answer is not etcd's".to_owned()));
    }
    let said = said.unwrap_or_default();
    let words = said["error"].as_str().or(said["message"].as_str()).map(clean);
    let words = words.unwrap_or_else(|| format!("it answered {}", answer.status));
    match said["code"].as_u64() {
        Some(UNAVAILABLE) => Err(Fault::Away(words)),
        Some(UNAUTHENTICATED) => Err(Fault::Refused(format!("etcd at {url} does not know this host: {words}"))),
        Some(_) => Err(Fault::Refused(format!("etcd at {url} refuses: {words}"))),
        None => Err(Fault::Away(words)),
    }
}

/// The password in a file: one that is no path is a credential's name (`LoadCredential=`, systemd.exec(5)).
fn password(file: &Path) -> Result<String, String> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY");
    let path = match folder {
        _ if file.is_absolute() => file.to_owned(),
        Some(folder) => Path::new(&folder).join(file),
        None => return Err(format!("systemd has given no credential `{}` for `password_file`", file.display())),
    };
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mode = fs::metadata(&path).map_err(failed)?.mode();
    if mode & 0o007 != 0 {
        return Err(format!("{} holds a password, and anybody can read it: chmod 600 it", path.display()));
    }
    Ok(fs::read_to_string(&path).map_err(failed)?.trim_end_matches(['\n', '\r']).to_owned())
}

/// The end of the range of all keys that begin so.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// A number of 64 bits; 0 where there is none.
fn long(value: &Value, name: &str) -> i64 {
    let value = &value[name];
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    if value.is_null() { Some(Vec::new()) } else { BASE64.decode(value.as_str()?).ok() }
}

fn entry(value: &Value) -> Option<Entry> {
    Some(Entry {
        key: bytes(&value["key"])?,
        value: bytes(&value["value"]).map(flannel::cut)?,
        created: long(value, "create_revision"),
        modified: long(value, "mod_revision"),
        lease: long(value, "lease"),
    })
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was written.
    Put(Entry),
    /// It is gone.
    Gone(Vec<u8>),
}

/// Changes as they come.
pub(super) struct Changes {
    url: String,
    lines: BufReader<Box<dyn Read + Send>>,
}

impl Changes {
    /// Waits for what comes next: what happened, and the revision that it leads to.
    ///
    /// # Errors
    /// Why there is no more: all has to be listed again.
    pub(super) fn next(&mut self) -> Result<(Vec<Change>, i64), String> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LONGEST_LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|error| format!("etcd at {} told no more ({error})", self.url))?;
        if read == 0 {
            return Err(format!("etcd at {} told no more", self.url));
        }
        self.read(&line)
    }

    fn read(&self, line: &[u8]) -> Result<(Vec<Change>, i64), String> {
        let nonsense = || format!("etcd at {} told something that makes no sense", self.url);
        let said: Value = serde_json::from_slice(line).map_err(|_| nonsense())?;
        let result = &said["result"];
        if !result.is_object() {
            let words = said["error"]["message"].as_str().or(said["error"].as_str()).unwrap_or("no reason is given");
            return Err(format!("etcd at {} tells no more: {}", self.url, shortened(words)));
        }
        if result["canceled"] == true {
            let why = result["cancel_reason"].as_str().map(shortened);
            let why = why.unwrap_or_else(|| match long(result, "compact_revision") {
                0 => "no reason is given".to_owned(),
                revision => format!("what was before revision {revision} is forgotten"),
            });
            return Err(format!("etcd at {} tells no more: {why}", self.url));
        }
        let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        let change = |event: &Value| match event["type"].as_str() {
            Some("DELETE") => Some(Change::Gone(bytes(&event["kv"]["key"])?)),
            _ => entry(&event["kv"]).map(Change::Put),
        };
        let changes: Option<Vec<Change>> = events.iter().map(change).collect();
        Ok((changes.ok_or_else(nonsense)?, long(&result["header"], "revision")))
    }
}
