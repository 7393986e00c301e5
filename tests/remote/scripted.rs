//! A plugin that answers as a test says, well or badly.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::plugin::{Call, QUESTIONS};

/// How it answers a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Properly.
    Json(Value),
    /// With this status and body.
    Status(u16, &'static str),
    /// Not at all.
    Hang,
    /// With the beginning of a body.
    Half,
    /// With this many bytes.
    Long(usize),
}

/// A plugin that answers some methods as it is told, and all others properly.
pub(crate) struct Scripted {
    calls: Receiver<Call>,
}

impl Scripted {
    pub(crate) fn start(lab: &Lab, name: &str, replies: &[(&str, Reply)]) -> Self {
        let path = lab.host.path(format!("/run/docker/plugins/{name}.sock"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let (tell, calls) = channel();
        let replies = replies.iter().map(|(method, reply)| ((*method).to_owned(), reply.clone())).collect();
        thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                serve(stream, &replies, &tell);
            }
        });
        Self { calls }
    }

    /// All calls since the last time that they were asked for.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.try_iter().collect()
    }

    /// The methods of those that change something, without their interfaces.
    pub(crate) fn changes(&self) -> Vec<String> {
        let changes = self.calls.try_iter().filter(|call| !QUESTIONS.contains(&call.method.as_str()));
        changes.filter_map(|call| Some(call.method.split_once('.')?.1.to_owned())).collect()
    }
}

fn serve(mut stream: UnixStream, replies: &BTreeMap<String, Reply>, tell: &Sender<Call>) {
    let Some(call) = call_of(&mut stream) else { return };
    let reply = replies.get(&call.method).cloned().unwrap_or_else(|| Reply::Json(proper(&call.method)));
    let _ = tell.send(call);
    let head = |status: u16, length: usize| format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n\r\n");
    let _ = match reply {
        Reply::Json(body) => stream.write_all(format!("{}{body}", head(200, body.to_string().len())).as_bytes()),
        Reply::Status(status, body) => stream.write_all(format!("{}{body}", head(status, body.len())).as_bytes()),
        Reply::Half => stream.write_all(format!("{}{{\"Inter", head(200, 100)).as_bytes()),
        Reply::Long(length) => {
            let part = [b' '; 16384];
            let mut sent = stream.write_all(head(200, length).as_bytes());
            for _ in 0..length / part.len() {
                sent = sent.and_then(|()| stream.write_all(&part));
            }
            sent
        }
        Reply::Hang => {
            // In a thread of its own, so that others are answered.
            thread::spawn(move || {
                thread::sleep(Duration::from_mins(1));
                drop(stream);
            });
            Ok(())
        }
    };
}

/// Reads a request.
fn call_of(stream: &mut UnixStream) -> Option<Call> {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        text.extend_from_slice(part.get(..count)?);
        let read = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            let method = head.split_whitespace().nth(1)?.trim_start_matches('/').to_owned();
            return Some(Call { method, body: serde_json::from_str(body).unwrap_or_default() });
        }
    }
}

fn proper(method: &str) -> Value {
    match method {
        "Plugin.Activate" => json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
        "NetworkDriver.GetCapabilities" => json!({ "Scope": "local" }),
        "NetworkDriver.CreateEndpoint" => json!({}),
        "NetworkDriver.Join" => {
            json!({ "InterfaceName": { "SrcName": "dev0", "DstPrefix": "eth" }, "Gateway": "10.50.0.1" })
        }
        "IpamDriver.GetDefaultAddressSpaces" => {
            json!({ "LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "everywhere" })
        }
        "IpamDriver.RequestPool" => json!({ "PoolID": "pool", "Pool": "10.50.0.0/24" }),
        "IpamDriver.RequestAddress" => json!({ "Address": "10.50.0.200/24" }),
        _ => json!({}),
    }
}
