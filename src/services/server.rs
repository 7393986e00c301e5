//! A text that is served by HTTP: one page, `/metrics`, made anew for whoever asks. Nothing happens while nobody does.

use std::fmt;
use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

/// The page.
const PATH: &str = "/metrics";
/// The longest request that is read, in bytes.
const LONGEST: usize = 8 << 10;
/// The most header lines of a request.
const HEADERS: usize = 64;
/// How long somebody may take to ask, and to take the answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Who is answered at the same time; others are turned away.
const AT_ONCE: usize = 8;
/// How long to wait where a connection cannot be taken, as for want of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Where to listen: `127.0.0.1:9464`, `[::1]:9464`, `unix:/run/netrec/metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket's path.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("the path of a socket begins with `/`, as in unix:/run/netrec/metrics".to_owned()),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "an address and a port, such as 127.0.0.1:9464 or [::1]:9464, or unix:/PATH".to_owned()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Makes the text that is served.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// A place where somebody may ask.
#[derive(Debug)]
pub struct Server(Listener);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Server {
    /// Listens. An address need not be there yet, and a socket that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// `AddrInUse` where somebody else listens.
    pub fn open(at: &Listen) -> io::Result<Self> {
        Ok(Self(match at {
            Listen::Tcp(address) => Listener::Tcp(tcp(*address)?),
            Listen::Unix(path) => Listener::Unix(unix(path)?),
        }))
    }

    /// Serves a page of this type, on threads of its own.
    pub fn serve(self, content_type: &'static str, page: Page) -> io::Result<()> {
        let busy = Arc::new(AtomicUsize::new(0));
        thread::Builder::new().name("metrics".into()).spawn(move || {
            loop {
                let Ok(mut connection) = self.accept() else {
                    thread::sleep(PAUSE);
                    continue;
                };
                if busy.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
                    busy.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (page, asking) = (page.clone(), busy.clone());
                let answering = thread::Builder::new().name("scrape".into()).spawn(move || {
                    // Who does not listen to the answer has none.
                    let _ = answer(&mut *connection, content_type, &page);
                    asking.fetch_sub(1, Ordering::Relaxed);
                });
                if answering.is_err() {
                    busy.fetch_sub(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(())
    }

    fn accept(&self) -> io::Result<Box<dyn Connection>> {
        loop {
            let accepted = match &self.0 {
                Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Connection>),
                Listener::Unix(listener) => listener.accept().map(|(stream, _)| Box::new(stream) as _),
            };
            match accepted {
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                accepted => return accepted,
            }
        }
    }
}

/// `IP_FREEBIND`, since this may begin before the host has its addresses.
fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 16;
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// A socket stays where its process died; whatever else is there is somebody's. Its folder is made where it is not there, as `/run/netrec` is at boot.
fn unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let nobody = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if !is_socket || !UnixStream::connect(path).is_err_and(nobody) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Somebody who asks.
trait Connection: Read + Write + Send {
    /// How long to wait for words, and for room for them.
    fn limit(&self, time: Duration) -> io::Result<()>;
    /// Nothing more is said.
    fn finish(&self) -> io::Result<()>;
}

macro_rules! connection {
    ($stream:ty) => {
        impl Connection for $stream {
            fn limit(&self, time: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(time))?;
                self.set_write_timeout(Some(time))
            }

            fn finish(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    };
}
connection!(TcpStream);
connection!(UnixStream);

/// Reads one request and answers it.
fn answer(connection: &mut dyn Connection, content_type: &str, page: &Page) -> io::Result<()> {
    let until = Instant::now() + LIMIT;
    let mut head = Vec::new();
    let asked = loop {
        match asked(&head) {
            Some(asked) => break asked,
            None if head.len() >= LONGEST => break Asked::TooMuch,
            None => {}
        }
        connection.limit(left(until)?)?;
        let mut buffer = [0; 1024];
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(some) => head.extend_from_slice(&buffer[..some]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    let (status, extra, body) = match &asked {
        Asked::Page { .. } => ("200 OK", "", page()),
        Asked::Elsewhere => ("404 Not Found", "", format!("what there is: {PATH}\n")),
        Asked::OtherMethod => ("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "GET and HEAD alone\n".to_owned()),
        Asked::TooMuch => ("431 Request Header Fields Too Large", "", "a request has 8 KiB at most\n".to_owned()),
        Asked::Nonsense => ("400 Bad Request", "", "no HTTP\n".to_owned()),
    };
    let content_type = if matches!(asked, Asked::Page { .. }) { content_type } else { "text/plain; charset=utf-8" };
    let length = body.len();
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{extra}Connection: close\r\n\r\n"
    );
    if !matches!(asked, Asked::Page { head: true }) {
        text.push_str(&body);
    }
    connection.limit(LIMIT)?;
    connection.write_all(text.as_bytes())?;
    connection.finish()
}

/// The time until then; none left is an error.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What somebody asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// The page, or only what would come before it.
    Page {
        head: bool,
    },
    Elsewhere,
    OtherMethod,
    TooMuch,
    Nonsense,
}

/// What is asked for, once all of the request's head is there.
fn asked(bytes: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Some(Asked::TooMuch),
        Err(_) => return Some(Asked::Nonsense),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Some(match (request.method.unwrap_or_default(), path) {
        ("GET", PATH) => Asked::Page { head: false },
        ("HEAD", PATH) => Asked::Page { head: true },
        ("GET" | "HEAD", _) => Asked::Elsewhere,
        _ => Asked::OtherMethod,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_is_an_address_and_a_port_or_a_path() {
        for text in ["127.0.0.1:9464", "[::]:9464", "unix:/run/netrec/metrics"] {
            assert_eq!(text.parse::<Listen>().map(|listen| listen.to_string()).as_deref(), Ok(text));
        }
        let wanted = "an address and a port, such as 127.0.0.1:9464 or [::1]:9464, or unix:/PATH";
        for text in ["9464", "127.0.0.1", "localhost:9464", ""] {
            assert_eq!(text.parse::<Listen>(), Err(wanted.to_owned()));
        }
        let wanted = "the path of a socket begins with `/`, as in unix:/run/netrec/metrics";
        assert_eq!("unix:metrics".parse::<Listen>(), Err(wanted.to_owned()));
    }

    #[test]
    fn only_a_socket_that_nobody_listens_to_is_replaced() {
        let folder = std::env::temp_dir().join(format!("netrec-server-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (file, socket) = (folder.join("file"), folder.join("socket"));
        std::fs::write(&file, "somebody's").expect("a file");
        let refused = unix(&file).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::AddrInUse));
        assert_eq!(std::fs::read_to_string(&file).expect("the file"), "somebody's");
        let listener = unix(&socket).expect("a socket");
        assert_eq!(unix(&socket).map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
        drop(listener);
        drop(unix(&socket).expect("one in the place of the dead one"));
        std::fs::remove_dir_all(&folder).expect("its end");
    }

    #[test]
    fn a_request_is_understood_once_it_is_whole() {
        let request = b"GET /metrics?all HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..request.len() {
            assert_eq!(asked(&request[..cut]), None);
        }
        assert_eq!(asked(request), Some(Asked::Page { head: false }));
        for (text, wanted) in [
            ("HEAD /metrics HTTP/1.0\r\n\r\n", Asked::Page { head: true }),
            ("GET / HTTP/1.1\r\n\r\n", Asked::Elsewhere),
            ("GET /metricsx HTTP/1.1\r\n\r\n", Asked::Elsewhere),
            ("POST /metrics HTTP/1.1\r\n\r\n", Asked::OtherMethod),
            ("GET /metrics\r\n\r\n", Asked::Nonsense),
            ("\0", Asked::Nonsense),
        ] {
            assert_eq!(asked(text.as_bytes()), Some(wanted), "{text:?}");
        }
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
        assert_eq!(asked(many.as_bytes()), Some(Asked::TooMuch));
    }
}
