//! The example plugin, on a lab's host.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::lab::{self, Lab};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/plugin/plugin.py");
/// Calls that change nothing.
pub(crate) const QUESTIONS: [&str; 6] = [
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "NetworkDriver.GwAllocCheck",
    "NetworkDriver.EndpointOperInfo",
    "IpamDriver.GetCapabilities",
    "IpamDriver.GetDefaultAddressSpaces",
];

/// The example plugin, until dropped.
pub(crate) struct Plugin<'a> {
    lab: &'a Lab,
    name: &'static str,
    child: Child,
}

/// A call: its method and its body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) body: Value,
}

impl<'a> Plugin<'a> {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(lab: &'a Lab, name: &'static str, options: &[&str]) -> Self {
        let socket = format!("/run/docker/plugins/{name}.sock");
        let _ = fs::remove_file(lab.host.path(&socket));
        let mut command = Command::new("python3");
        command.args([PROGRAM, &socket, "--log", &log(name)]).args(options);
        let child =
            lab.host.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).expect("python3");
        lab::until("the plugin listens", || UnixStream::connect(lab.host.path(&socket)).is_ok());
        Self { lab, name, child }
    }

    /// All calls since the last time that they were asked for.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let path = self.lab.host.path(log(self.name));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        let call = |line: &str| {
            let (method, body) = line.split_once(' ').expect("a call");
            Call { method: method.to_owned(), body: serde_json::from_str(body).expect("a body") }
        };
        text.lines().map(call).collect()
    }

    /// The methods of those that change something, in order.
    pub(crate) fn changes(&self) -> Vec<String> {
        let methods = self.calls().into_iter().map(|call| call.method);
        methods.filter(|method| !QUESTIONS.contains(&method.as_str())).collect()
    }

    /// Ends it. Its socket stays, as when a plugin is killed.
    pub(crate) fn end(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log(name: &str) -> String {
    format!("/run/lab/{name}.calls")
}
