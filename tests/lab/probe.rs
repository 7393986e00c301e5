//! Real packets between namespaces: listeners that say who they are and whom they saw, and clients that say what came
//! back.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, recvfrom, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::space::Space;

/// How long a probe waits before it calls the way blocked. The kernel answers within microseconds, and a lost SYN is sent
/// again after a second.
pub(super) const LIMIT: Duration = Duration::from_millis(2500);
/// How long a peer that is known to be there may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often datagrams are repeated within [`LIMIT`].
pub(super) const AGAIN: Duration = Duration::from_millis(400);

/// Somebody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The listener's name.
    pub name: String,
    /// The client's address as the listener saw it.
    pub seen: IpAddr,
}

impl Answer {
    /// From a banner, `NAME ADDRESS`.
    pub(super) fn parse(banner: &str) -> Option<Self> {
        let (name, seen) = banner.trim_end().split_once(' ')?;
        Some(Self { name: name.to_owned(), seen: seen.parse().ok()? })
    }

    pub(super) fn banner(name: &str, seen: IpAddr) -> String {
        format!("{name} {}", seen.to_canonical())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sees {}", self.name, self.seen)
    }
}

/// Nobody did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nothing came back in time, or the own firewall refused to send.
    Blocked,
    /// A reset, or "port unreachable".
    Refused,
    /// Any other "unreachable", by its error number.
    Unreachable(Errno),
    /// The connection was made, and broke before its banner.
    Broken,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("blocked"),
            Self::Refused => f.write_str("refused"),
            Self::Unreachable(e) => write!(f, "unreachable ({})", e.desc()),
            Self::Broken => f.write_str("broken"),
        }
    }
}

impl From<io::Error> for NoAnswer {
    fn from(e: io::Error) -> Self {
        match (e.kind(), e.raw_os_error().map(Errno::from_raw)) {
            (ErrorKind::TimedOut | ErrorKind::WouldBlock, _) | (_, Some(Errno::EPERM)) => Self::Blocked,
            (ErrorKind::ConnectionRefused, _) => Self::Refused,
            (_, Some(e @ (Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL))) => {
                Self::Unreachable(e)
            }
            (ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, _) => Self::Broken,
            _ => panic!("a probe failed in an unforeseen way: {e}"),
        }
    }
}

/// What a probe brought.
pub type Reply = Result<Answer, NoAnswer>;

/// A server that answers until dropped.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<AtomicBool>,
    tcp: Option<(TcpListener, Arc<Mutex<Vec<TcpStream>>>)>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Serves datagrams by a function that waits for one at most [`AGAIN`].
    pub(super) fn datagrams(mut serve: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                serve();
            }
        });
        Self { stop, tcp: None, thread: Some(thread) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some((listener, streams)) = &self.tcp {
            // SAFETY: the descriptor is open. `accept` returns after this.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
            for stream in streams.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A TCP connection that lives until dropped.
#[derive(Debug)]
pub struct Conn {
    reader: BufReader<TcpStream>,
    /// What the listener said at the beginning.
    pub answer: Answer,
}

impl Conn {
    /// Sends a line and returns what comes back.
    pub fn echo(&mut self, line: &str) -> Result<String, NoAnswer> {
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes())?;
        read_line(&mut self.reader)
    }

    /// Makes a broken way show after [`LIMIT`] instead of the long time one has on a busy machine.
    pub fn impatient(self) -> Self {
        self.reader.get_ref().set_read_timeout(Some(LIMIT)).unwrap();
        self
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String, NoAnswer> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(NoAnswer::Broken);
    }
    Ok(line.trim_end().to_owned())
}

/// A UDP client with one socket.
#[derive(Debug)]
pub struct UdpFlow {
    socket: UdpSocket,
}

impl UdpFlow {
    /// Sends a datagram every [`AGAIN`] until an answer comes, at most [`LIMIT`] long.
    pub fn ask(&self) -> Reply {
        let start = Instant::now();
        let mut buffer = [0; 256];
        while start.elapsed() < LIMIT {
            self.socket.send(b"?")?;
            match self.socket.recv(&mut buffer) {
                Ok(n) => {
                    let banner = String::from_utf8_lossy(&buffer[..n]);
                    return Ok(Answer::parse(&banner).unwrap_or_else(|| panic!("not a banner: {banner}")));
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(NoAnswer::Blocked)
    }
}

pub(super) fn parse_target(target: &str) -> SocketAddr {
    target.parse().unwrap_or_else(|_| panic!("`{target}` is not ADDRESS:PORT"))
}

impl Space {
    /// Answers every connection to `ADDRESS:PORT` with `NAME PEER`, and then every line with the same line.
    pub fn listen_tcp(&self, name: &str, at: &str) -> Listener {
        let addr = parse_target(at);
        let listener =
            self.enter(|| TcpListener::bind(addr)).unwrap_or_else(|e| panic!("tcp {at} on {}: {e}", self.name()));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (accepting, kept, name) = (listener.try_clone().unwrap(), streams.clone(), name.to_owned());
        let thread = thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                kept.lock().unwrap().push(stream.try_clone().unwrap());
                let banner = Answer::banner(&name, peer.ip());
                thread::spawn(move || serve(stream, &banner));
            }
        });
        Listener { stop: Arc::default(), tcp: Some((listener, streams)), thread: Some(thread) }
    }

    /// Answers every datagram to `ADDRESS:PORT` with `NAME PEER`.
    pub fn listen_udp(&self, name: &str, at: &str) -> Listener {
        let addr = parse_target(at);
        let socket =
            self.enter(|| UdpSocket::bind(addr)).unwrap_or_else(|e| panic!("udp {at} on {}: {e}", self.name()));
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        let name = name.to_owned();
        Listener::datagrams(move || {
            if let Ok((_, peer)) = socket.recv_from(&mut [0; 2048]) {
                let _ = socket.send_to(Answer::banner(&name, peer.ip()).as_bytes(), peer);
            }
        })
    }

    /// Connects to `ADDRESS:PORT` of a [`Space::listen_tcp`].
    pub fn connect(&self, target: &str) -> Result<Conn, NoAnswer> {
        let addr = parse_target(target);
        let stream = self.enter(|| TcpStream::connect_timeout(&addr, LIMIT))?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = BufReader::new(stream);
        let banner = read_line(&mut reader)?;
        let answer = Answer::parse(&banner).unwrap_or_else(|| panic!("not a banner: {banner}"));
        Ok(Conn { reader, answer })
    }

    /// Connects, and says who answered.
    pub fn tcp(&self, target: &str) -> Reply {
        self.connect(target).map(|c| c.answer)
    }

    /// A UDP client from any port.
    pub fn udp_flow(&self, target: &str) -> Result<UdpFlow, NoAnswer> {
        self.udp_flow_from(0, target)
    }

    /// A UDP client from a port of its choice.
    pub fn udp_flow_from(&self, port: u16, target: &str) -> Result<UdpFlow, NoAnswer> {
        let addr = parse_target(target);
        let any: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.enter(|| UdpSocket::bind((any, port)).and_then(|s| s.connect(addr).map(|()| s)))?;
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        Ok(UdpFlow { socket })
    }

    /// Sends datagrams, and says who answered.
    pub fn udp(&self, target: &str) -> Reply {
        self.udp_flow(target)?.ask()
    }

    /// Sends ICMP echo requests until an answer comes. A link-local target needs a device: `fe80::1%eth0`.
    pub fn ping(&self, target: &str) -> Result<(), NoAnswer> {
        static ID: AtomicU16 = AtomicU16::new(1);
        let (target, device) = target.split_once('%').map_or((target, None), |(t, d)| (t, Some(d)));
        let addr: IpAddr = target.parse().unwrap_or_else(|_| panic!("`{target}` is not an address"));
        let (protocol, request, reply) =
            if addr.is_ipv4() { (libc::IPPROTO_ICMP, 8, 0) } else { (libc::IPPROTO_ICMPV6, 128, 129) };
        let socket = self.enter(|| {
            let socket = RawSocket::open(addr.is_ipv6(), protocol);
            if let Some(device) = device {
                setsockopt(&socket.fd, sockopt::BindToDevice, &device.into()).expect("such a device");
            }
            socket
        });
        let id = ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut echo = vec![request, 0, 0, 0, id[0], id[1], 0, 1];
        if addr.is_ipv4() {
            let sum = internet_checksum(&echo).to_be_bytes();
            echo[2..4].copy_from_slice(&sum); // of ICMPv6 the kernel makes it
        }
        socket.ask(&echo, addr, |from, packet| {
            let ours = packet.len() >= 8 && packet[0] == reply && packet[4..6] == id;
            (ours && from == addr).then_some(())
        })
    }

    /// Whether a datagram that makes an IP packet of so many bytes gets to an address of another space in one piece. What is
    /// too large for this space's own device is refused by the kernel.
    pub fn sends_whole(&self, to: &Space, ip: IpAddr, size: usize) -> bool {
        let (any, headers, level, option) = match ip {
            IpAddr::V4(_) => ("0.0.0.0", 28, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            IpAddr::V6(_) => ("::", 48, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        let there = to.enter(|| UdpSocket::bind((ip, 0))).unwrap();
        let here = self.enter(|| UdpSocket::bind((any, 0))).unwrap();
        let never: libc::c_int = libc::IP_PMTUDISC_DO; // IPv6's has the same number
        // SAFETY: an open descriptor, and an option of the size that is told.
        let set = unsafe { libc::setsockopt(here.as_raw_fd(), level, option, (&raw const never).cast(), 4) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        let payload = vec![7; size - headers];
        match here.send_to(&payload, there.local_addr().unwrap()) {
            Ok(_) => {
                there.set_read_timeout(Some(PATIENCE)).unwrap();
                there.recv(&mut vec![0; 0x1_0000]).unwrap() == payload.len()
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
                false
            }
        }
    }

    /// A plain HTTP request: the status and the body.
    pub fn http_get(&self, target: &str, path: &str) -> Result<(u16, String), NoAnswer> {
        let addr = parse_target(target);
        let mut stream = self.enter(|| TcpStream::connect_timeout(&addr, LIMIT))?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?; // at once: a server may answer and close after its first read
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split_whitespace().nth(1).and_then(|w| w.parse().ok());
        Ok((status.unwrap_or_else(|| panic!("not HTTP: {head}")), body.to_owned()))
    }
}

fn serve(stream: TcpStream, banner: &str) {
    let mut reader = BufReader::new(stream);
    let mut line = banner.to_owned() + "\n";
    // Ends when the client, or the drop of the listener, ends the connection.
    while reader.get_mut().write_all(line.as_bytes()).is_ok() {
        line.clear();
        if !matches!(reader.read_line(&mut line), Ok(n) if n > 0) {
            break;
        }
    }
}

/// A raw IP socket of one protocol.
pub(super) struct RawSocket {
    fd: OwnedFd,
    ipv6: bool,
}

impl RawSocket {
    /// In the namespace of the calling thread.
    pub(super) fn open(ipv6: bool, protocol: i32) -> Self {
        let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        // SAFETY: plain system call. `nix` has no way to name SCTP.
        let fd = unsafe {
            let fd = libc::socket(family as i32, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
            std::os::fd::FromRawFd::from_raw_fd(fd)
        };
        let wait = TimeVal::new(0, i64::from(AGAIN.subsec_micros()));
        setsockopt(&fd, sockopt::ReceiveTimeout, &wait).unwrap();
        Self { fd, ipv6 }
    }

    pub(super) fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        sendto(self.fd.as_raw_fd(), packet, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty())?;
        Ok(())
    }

    /// The next packet's source and payload; none after [`AGAIN`].
    pub(super) fn receive(&self) -> Option<(IpAddr, Vec<u8>)> {
        let mut buffer = vec![0; 4096];
        let (n, from) = recvfrom::<SockaddrStorage>(self.fd.as_raw_fd(), &mut buffer).ok()?;
        buffer.truncate(n);
        if !self.ipv6 {
            // Raw IPv4 sockets get the IP header too.
            let header = usize::from(buffer.first()? & 15) * 4;
            buffer.drain(..header.min(n));
        }
        let from = from?;
        let ip = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        Some((ip, buffer))
    }

    /// Sends a packet every [`AGAIN`] until one comes that `wanted` takes, at most [`LIMIT`] long.
    pub(super) fn ask<T>(
        &self,
        packet: &[u8],
        to: IpAddr,
        wanted: impl Fn(IpAddr, &[u8]) -> Option<T>,
    ) -> Result<T, NoAnswer> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            self.send(packet, to)?;
            let sent = Instant::now();
            while sent.elapsed() < AGAIN {
                let Some((from, answer)) = self.receive() else { break };
                if let Some(good) = wanted(from, &answer) {
                    return Ok(good);
                }
            }
        }
        Err(NoAnswer::Blocked)
    }
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Whether a socket of this kind can be made at all.
pub(super) fn has_socket(protocol: i32) -> bool {
    // SAFETY: plain system calls on a descriptor of our own.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol);
        fd >= 0 && libc::close(fd) == 0
    }
}

/// A netlink socket, in the namespace of the calling thread.
pub(super) fn netlink(protocol: nix::sys::socket::SockProtocol) -> OwnedFd {
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("a netlink socket")
}
