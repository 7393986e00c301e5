//! The binary under test.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::documents;
use super::space::{Machine, Output};

/// The binary's path, to spawn it.
pub const NETREC: &str = env!("CARGO_BIN_EXE_netrec");

/// A plan, or what came of it, as netrec's JSON tells it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The whole document.
    pub json: Value,
}

/// What `apply` and `destroy` say that they did.
pub type Done = Plan;

impl Plan {
    /// Its actions: `create link nr-front`, `update address 10.20.0.2/24 dev eth0 in web`, `replace …`, `delete …`.
    pub fn actions(&self) -> Vec<String> {
        let actions = self.json["actions"].as_array().expect("actions");
        actions
            .iter()
            .map(|a| {
                let op: Vec<&str> = a["op"].as_array().expect("op").iter().filter_map(Value::as_str).collect();
                let op = if op == ["delete", "create"] { "replace".to_owned() } else { op.join("+") };
                let text = |what: &str| a[what].as_str().unwrap_or_else(|| panic!("no {what} in {a}")).to_owned();
                let netns = a["netns"].as_str().map_or_else(String::new, |n| format!(" in {n}"));
                format!("{op} {} {}{netns}", text("kind"), text("name"))
            })
            .collect()
    }

    /// The codes of its warnings.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.json["warnings"].as_array().expect("warnings");
        warnings.iter().map(|w| w["code"].as_str().expect("code").to_owned()).collect()
    }
}

impl Machine {
    /// Runs netrec.
    pub fn netrec(&self, args: &[&str]) -> Output {
        self.netrec_with_env(&[], args)
    }

    /// Runs netrec with more in its environment, such as a fault.
    pub fn netrec_with_env(&self, env: &[(&str, &str)], args: &[&str]) -> Output {
        let output = self.output(Command::new(NETREC).args(args).env_remove("COLUMNS").envs(env.iter().copied()));
        // A process that is killed may print nothing.
        if args.contains(&"--json") && !output.stdout.is_empty() {
            documents::check(&output.stdout, args.contains(&"show"));
        }
        output
    }

    /// Writes the file and plans; netrec must succeed.
    pub fn plan(&self, toml: &str) -> Plan {
        self.json(toml, &["plan", "--json"])
    }

    /// Writes the file and applies it; netrec must succeed.
    pub fn apply(&self, toml: &str) -> Done {
        self.json(toml, &["apply", "-y", "--json"])
    }

    /// Writes the file and removes all that is netrec's; netrec must succeed.
    pub fn destroy(&self, toml: &str) -> Done {
        self.json(toml, &["destroy", "-y", "--json"])
    }

    /// Writes the file and runs netrec on it, as it may be.
    pub fn try_netrec(&self, toml: &str, args: &[&str]) -> Output {
        let file = self.write("netrec.toml", toml);
        self.netrec(&[&["-c", &file], args].concat())
    }

    fn json(&self, toml: &str, args: &[&str]) -> Plan {
        let output = self.try_netrec(toml, args);
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        assert_eq!(output.status, 0, "netrec {}:\n{said}", args.join(" "));
        let json = serde_json::from_str(&output.stdout);
        Plan { json: json.unwrap_or_else(|e| panic!("netrec {}: {e}:\n{}", args.join(" "), output.stdout)) }
    }
}

/// A netrec that stands still before one of its writes.
#[derive(Debug)]
pub struct Paused {
    child: Child,
    pipe: PathBuf,
    said: BufReader<ChildStderr>,
    heard: String,
}

impl Drop for Paused {
    fn drop(&mut self) {
        // A machine does not end before its last process has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Starts netrec, and returns when it stands before the first of these writes, which it must have.
    pub fn netrec_paused(&self, at: &[usize], args: &[&str]) -> Paused {
        let mut command = Command::new(NETREC);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.paused(at, &mut command)
    }

    /// The same of a command that becomes netrec, and has its streams.
    pub fn paused(&self, at: &[usize], command: &mut Command) -> Paused {
        let pipe = self.path("/run/lab/pause");
        let _ = std::fs::remove_file(&pipe);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        let faults: Vec<String> = at.iter().map(|at| format!("pause:{at}:/run/lab/pause")).collect();
        command.env("NETREC_FAULT", faults.join(","));
        let mut child = self.spawn(command).expect("netrec");
        let said = BufReader::new(child.stderr.take().expect("standard error"));
        let mut paused = Paused { child, pipe, said, heard: String::new() };
        paused.stands();
        paused
    }
}

impl Paused {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("netrec is there");
    }

    /// Waits until it says something on standard error.
    pub fn says(&mut self, words: &str) {
        while !self.heard.contains(words) {
            let read = self.said.read_line(&mut self.heard).expect("standard error");
            assert!(read > 0, "it does not say `{words}`: {}", self.heard);
        }
    }

    /// Waits until it stands before the next of its writes.
    pub fn stands(&mut self) {
        let reader = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.pipe);
        let reader = reader.expect("the pipe");
        let mut came = [PollFd::new(reader.as_fd(), PollFlags::empty())];
        // The pipe hangs up when a writer has come and gone.
        while poll(&mut came, PollTimeout::from(100u8)).expect("poll") == 0 {
            if let Some(status) = self.child.try_wait().expect("its state") {
                let mut rest = String::new();
                let _ = self.said.read_to_string(&mut rest);
                panic!("it has ended without that write, {status}: {}{rest}", self.heard);
            }
        }
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        OpenOptions::new().write(true).open(&self.pipe).expect("netrec waits");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        let mut stdout = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut stdout).expect("standard output");
        }
        self.said.read_to_string(&mut self.heard).expect("standard error");
        let status = self.child.wait().expect("its end");
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        if stdout.starts_with('{') {
            documents::check(&stdout, false);
        }
        Output { status, stdout, stderr: std::mem::take(&mut self.heard) }
    }
}
