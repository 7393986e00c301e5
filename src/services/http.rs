//! HTTP to a service: requests with a time limit each, over a Unix socket of this host, TCP or TLS.
//!
//! `ureq` does the protocol and TLS; the connectors here are for Unix sockets, and for TCP so that a peer which is gone without
//! a word is noticed. Where connections come from is in [`Client`]'s constructors alone.

use std::fmt::{self, Debug};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{KeepAlive, SendTimeout, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;
use ureq::config::Config;
use ureq::http::{Response, Uri};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};
use ureq::{Agent, Body, Error, Timeout};

/// The longest answer that is read, in bytes. An engine's about a container has some ten thousand.
const LONGEST: u64 = 8 << 20;
/// After how many seconds without a word a peer is asked whether it is there, how often again, and how many seconds are between:
/// what is on the way may forget a connection within a few minutes, and a peer may be gone without a word.
const ASKED_AFTER: (u32, u32, u32) = (60, 3, 10);

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
        let connector = TcpConnector.chain(RustlsConnector::default());
        let agent = Agent::with_parts(config(tls), connector, DefaultResolver::default());
        Self { agent, base: base.trim_end_matches('/').to_owned() }
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
    type Out = SocketTransport<UnixStream>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let stream = match open(&self.path, left(details.timeout)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Timeout(details.timeout.reason));
            }
            stream => stream?,
        };
        Ok(Some(SocketTransport::new(stream, details)))
    }
}

/// Connects by TCP, to the first of the addresses that takes it, within the time limit. The peer is asked now and then whether it
/// is there.
#[derive(Debug)]
struct TcpConnector;

impl Connector for TcpConnector {
    type Out = SocketTransport<TcpStream>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let begun = Instant::now();
        let mut failed = Error::HostNotFound;
        for (number, address) in details.addrs.iter().enumerate() {
            // Those that are left share what time there is.
            let share = u32::try_from(details.addrs.len() - number).unwrap_or(1);
            let limit = left(details.timeout).map(|limit| limit.saturating_sub(begun.elapsed()) / share);
            let connected = match limit {
                Some(limit) => TcpStream::connect_timeout(address, limit.max(Duration::from_millis(1))),
                None => TcpStream::connect(address),
            };
            match connected {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    ask_now_and_then(&stream)?;
                    return Ok(Some(SocketTransport::new(stream, details)));
                }
                Err(error) => failed = timed_out(error, details.timeout),
            }
        }
        Err(failed)
    }
}

/// Has the kernel ask a silent peer whether it is there.
fn ask_now_and_then(stream: &TcpStream) -> io::Result<()> {
    let (after, times, every) = ASKED_AFTER;
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &after)?;
    setsockopt(stream, TcpKeepCount, &times)?;
    setsockopt(stream, TcpKeepInterval, &every)?;
    Ok(())
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

/// A socket that is connected.
trait Stream: Read + Write + Debug + Send + Sync + 'static {
    /// How long a read may take.
    fn limit_reading(&self, limit: Option<Duration>) -> io::Result<()>;
    /// How long a write may take.
    fn limit_writing(&self, limit: Option<Duration>) -> io::Result<()>;
    /// Whether reads wait.
    fn wait(&self, wanted: bool) -> io::Result<()>;
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            fn limit_reading(&self, limit: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(limit)
            }

            fn limit_writing(&self, limit: Option<Duration>) -> io::Result<()> {
                self.set_write_timeout(limit)
            }

            fn wait(&self, wanted: bool) -> io::Result<()> {
                self.set_nonblocking(!wanted)
            }
        }
    };
}
stream!(TcpStream);
stream!(UnixStream);

/// A connection by a socket.
struct SocketTransport<S> {
    stream: S,
    buffers: LazyBuffers,
}

impl<S> SocketTransport<S> {
    fn new(stream: S, details: &ConnectionDetails<'_>) -> Self {
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Self { stream, buffers }
    }
}

impl<S: Stream> Transport for SocketTransport<S> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.stream.limit_writing(left(timeout))?;
        self.stream.write_all(&self.buffers.output()[..amount]).map_err(|error| timed_out(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.stream.limit_reading(left(timeout))?;
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
        let idle = |stream: &mut S| {
            stream.wait(false)?;
            let read = stream.read(&mut [0]);
            stream.wait(true)?;
            Ok::<_, io::Error>(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
        };
        idle(&mut self.stream).unwrap_or(false)
    }
}

impl<S: Debug> Debug for SocketTransport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketTransport").field("stream", &self.stream).finish_non_exhaustive()
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
