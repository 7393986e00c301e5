//! HTTP over the socket of a service of this host: requests with a time limit each, over connections that are kept.
//!
//! `ureq` does the protocol; the connector here is for Unix sockets, beside its own for TCP and TLS. Where connections come
//! from is in [`Client`]'s constructors alone.

use std::fmt::{self, Debug};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Agent, Error};

/// The longest answer that is read, in bytes. An engine's about a container has some ten thousand.
const LONGEST: u64 = 8 << 20;

/// A service that speaks HTTP.
pub(super) struct Client {
    agent: Agent,
    limit: Duration,
}

/// What a service said.
pub(super) struct Answer {
    /// The HTTP status.
    pub status: u16,
    pub body: Vec<u8>,
}

impl Client {
    /// The one that listens on a Unix socket; each request may take as long as the limit.
    pub(super) fn unix(path: &Path, limit: Duration) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(limit))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("netrec/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = UnixConnector { path: path.to_owned() };
        Self { agent: Agent::with_parts(config, connector, Nowhere), limit }
    }

    /// Asks for a resource by its path with its query.
    pub(super) fn get(&self, path: &str) -> Result<Answer, String> {
        let asked = self.agent.get(format!("http://localhost{path}")).call();
        let mut response = asked.map_err(|error| self.why(&error))?;
        let body = response.body_mut().with_config().limit(LONGEST).read_to_vec().map_err(|error| self.why(&error))?;
        Ok(Answer { status: response.status().as_u16(), body })
    }

    /// Asks for a resource that goes on for as long as the service likes; only its beginning has the time limit.
    pub(super) fn stream(&self, path: &str) -> Result<impl Read + 'static, String> {
        let limit = Some(self.limit);
        let request = self.agent.get(format!("http://localhost{path}")).config();
        let request = request.timeout_global(None).timeout_connect(limit).timeout_recv_response(limit).build();
        let response = request.call().map_err(|error| self.why(&error))?;
        match response.status().as_u16() {
            200 => Ok(response.into_body().into_reader()),
            status => Err(format!("it answered {status}")),
        }
    }

    /// What went wrong, in a few words.
    fn why(&self, error: &Error) -> String {
        match error {
            Error::Timeout(_) => format!("no answer within {} s", self.limit.as_secs()),
            Error::Io(error) => match error.kind() {
                io::ErrorKind::NotFound => "there is no such socket".to_owned(),
                io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
                _ => error.to_string(),
            },
            other => format!("no HTTP: {other}"),
        }
    }
}

/// Connects to a Unix socket, whatever the address.
#[derive(Debug)]
struct UnixConnector {
    path: PathBuf,
}

impl Connector for UnixConnector {
    type Out = UnixTransport;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<UnixTransport>, Error> {
        let stream = match open(&self.path, left(details.timeout)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Timeout(details.timeout.reason));
            }
            stream => stream?,
        };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(UnixTransport { stream, buffers }))
    }
}

/// Connects within a time limit: a service that has hung takes no more connections once its queue is full, and the limit
/// for sending holds for the wait too (`unix_stream_connect`).
fn open(path: &Path, limit: Option<Duration>) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(limit) = limit {
        let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        setsockopt(&socket, SendTimeout, &TimeVal::new(seconds, limit.subsec_micros().into()))?;
    }
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// The time that is left, at least a little: none would be no limit.
fn left(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|left| (*left).max(Duration::from_millis(1)))
}

/// A connection by a Unix socket.
struct UnixTransport {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl Transport for UnixTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.stream.set_write_timeout(left(timeout))?;
        self.stream.write_all(&self.buffers.output()[..amount]).map_err(|error| timed_out(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.stream.set_read_timeout(left(timeout))?;
        let amount = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| timed_out(error, timeout))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Nothing is to be read from one that is open and waits for a request.
    fn is_open(&mut self) -> bool {
        let idle = |stream: &mut UnixStream| {
            stream.set_nonblocking(true)?;
            let read = stream.read(&mut [0]);
            stream.set_nonblocking(false)?;
            Ok::<_, io::Error>(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
        };
        idle(&mut self.stream).unwrap_or(false)
    }
}

impl Debug for UnixTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixTransport").field("stream", &self.stream).finish_non_exhaustive()
    }
}

fn timed_out(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

/// Finds no host: a socket has a path.
#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}
