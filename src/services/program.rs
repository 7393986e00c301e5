//! Programs that are run for what they print, within a time limit.

use std::io::{ErrorKind, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// The longest output that is read, in bytes.
const LONGEST: u64 = 8 << 20;
/// How often a program that has said all is looked at, whether it has ended.
const LOOK: Duration = Duration::from_millis(2);

/// What a program printed; or why it did not, a few words that name it.
pub(super) fn output(program: &str, args: &[&str], limit: Duration) -> Result<String, String> {
    let deadline = Instant::now() + limit;
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("there is no program `{program}`"),
        _ => format!("{program}: {error}"),
    })?;
    let (sender, said) = channel();
    let pipes = [child.stdout.take().map(read_all), child.stderr.take().map(read_all)];
    for (index, pipe) in pipes.into_iter().enumerate() {
        let (sender, Some(read)) = (sender.clone(), pipe) else { continue };
        // Nobody waits for it after the time limit.
        thread::spawn(move || sender.send((index, read())));
    }
    drop(sender);
    let mut texts = [String::new(), String::new()];
    while let Ok((index, text)) = said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        texts[index] = text;
    }
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} took longer than {} s", limit.as_secs()));
            }
        }
    };
    let [out, complaint] = texts;
    if status.success() {
        return Ok(out);
    }
    let complaint = complaint.lines().next().unwrap_or_default();
    Err(if complaint.is_empty() { format!("{program}: {status}") } else { format!("{program}: {complaint}") })
}

fn read_all(pipe: impl Read + Send + 'static) -> Box<dyn FnOnce() -> String + Send> {
    Box::new(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(LONGEST).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
