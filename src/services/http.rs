//! HTTP to a service: requests with a time limit each, over a Unix socket of this host, TCP or TLS.
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
use ureq::http::{Response, Uri};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};
use ureq::{Agent, Body, Error, Timeout};

/// The longest answer that is read, in bytes. An engine's about a container has some ten thousand.
const LONGEST: u64 = 8 << 20;

/// A service that speaks HTTP.
pub(super) struct Client {
    agent: Agent,
    /// What comes before the path.
    base: String,
}

/// What a service said.
pub(super) struct Answer {
    /// The HTTP status.
    pub status: u16,
    pub body: Vec<u8>,
}

/// There is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoAnswer {
    /// Whether the request can have arrived.
    pub sent: bool,
    /// Whether time ran out.
    pub late: bool,
    /// Whether there is one, but longer than may be.
    pub long: bool,
    /// Why, in a few words.
    pub why: String,
}

impl Client {
    /// The one that listens on a Unix socket, at a host's name of its own choice; connections are kept.
    pub(super) fn unix(path: &Path, host: &str) -> Self {
        let connector = UnixConnector { path: path.to_owned() };
        let agent = Agent::with_parts(config(TlsConfig::default()), connector, Nowhere);
        Self { agent, base: format!("http://{host}") }
    }

    /// The one that listens at `http://HOST:PORT` or `https://HOST:PORT`.
    pub(super) fn tcp(base: &str, tls: TlsConfig) -> Self {
        Self { agent: Agent::new_with_config(config(tls)), base: base.trim_end_matches('/').to_owned() }
    }

    /// Asks for a resource by its path with its query.
    pub(super) fn get(&self, path: &str, limit: Duration) -> Result<Answer, NoAnswer> {
        let request = self.agent.get(format!("{}{path}", self.base)).config().timeout_global(Some(limit)).build();
        answer(request.call(), LONGEST, limit)
    }

    /// Asks for a resource that goes on for as long as the service likes; only its beginning has the time limit.
    pub(super) fn stream(&self, path: &str, limit: Duration) -> Result<impl Read + 'static, String> {
        let request = self.agent.get(format!("{}{path}", self.base)).config();
        let request =
            request.timeout_global(None).timeout_connect(Some(limit)).timeout_recv_response(Some(limit)).build();
        went_on(request.call(), limit)
    }

    /// Sends a body to a resource that answers with what goes on for as long as the service likes; only its beginning has the
    /// time limit.
    pub(super) fn stream_of_post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        limit: Duration,
    ) -> Result<impl Read + Send + 'static, String> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.config().timeout_global(None).timeout_connect(Some(limit)).timeout_recv_response(Some(limit));
        went_on(request.build().send(body), limit)
    }

    /// Sends a body to a resource, for an answer of at most so many bytes. The connection is not kept: nobody tells whether one
    /// that a restarted service forgot has taken a request.
    pub(super) fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        longest: u64,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("Connection", "close");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(limit)).build();
        answer(if body.is_empty() { request.send_empty() } else { request.send(body) }, longest, limit)
    }
}

fn config(tls: TlsConfig) -> Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .tls_config(tls)
        .user_agent(concat!("netrec/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What an answer goes on with.
fn went_on(asked: Result<Response<Body>, Error>, limit: Duration) -> Result<impl Read + Send + 'static, String> {
    let response = asked.map_err(|error| why(&error, LONGEST, limit))?;
    match response.status().as_u16() {
        200 => Ok(response.into_body().into_reader()),
        status => Err(format!("it answered {status}")),
    }
}

fn answer(asked: Result<Response<Body>, Error>, longest: u64, limit: Duration) -> Result<Answer, NoAnswer> {
    let no_answer = |error: &Error, sent| NoAnswer {
        sent,
        late: matches!(error, Error::Timeout(_)),
        long: matches!(error, Error::BodyExceedsLimit(_)),
        why: why(error, longest, limit),
    };
    let mut response = asked.map_err(|error| no_answer(&error, was_sent(&error)))?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(longest).read_to_vec();
    // Once there is a status, the request has arrived.
    let body = body.map_err(|error| no_answer(&error, true))?;
    Ok(Answer { status, body })
}

/// Whether a request can have arrived all the same.
fn was_sent(error: &Error) -> bool {
    match error {
        Error::Io(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied
        ),
        Error::Timeout(Timeout::Connect | Timeout::Resolve) => false,
        Error::HostNotFound | Error::ConnectionFailed | Error::BadUri(_) | Error::Tls(_) | Error::Rustls(_) => false,
        _ => true,
    }
}

/// What went wrong, in a few words.
fn why(error: &Error, longest: u64, limit: Duration) -> String {
    match error {
        Error::Timeout(_) => format!("no answer within {} s", limit.as_secs()),
        Error::Io(error) => match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket".to_owned(),
            io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
            io::ErrorKind::UnexpectedEof => "it closed the connection in the middle of its answer".to_owned(),
            _ => error.to_string(),
        },
        Error::HostNotFound => "there is no such host".to_owned(),
        Error::BodyExceedsLimit(_) => format!("its answer is longer than {longest} bytes"),
        Error::Rustls(error) => format!("no TLS: {error}"),
        Error::Tls(error) => format!("no TLS: {error}"),
        other => format!("no HTTP: {other}"),
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
