//! Asking: connections, datagrams and echo requests, each with a time limit.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockProtocol, SockType, SockaddrStorage, setsockopt, sockopt};

use super::{Outcome, Space, Transport, open_socket, parse_banner};

/// The name of one who answers otherwise than a [`Listener`](super::Listener) does, or takes a connection and is silent.
pub const STRANGER: &str = "an unknown service";

/// How often a datagram is sent within its limit: the first one may be lost while neighbours are being resolved.
const TRIES: u32 = 4;
/// How long one who took a connection may take to say his name: far longer than a listener needs on a busy machine, as
/// the way is known not to be blocked by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest banner: a name and an address.
const BANNER_MAX: usize = 1024;

/// Asks whoever is at an address and a port. What is blocked takes the whole limit, everything else as long as the
/// kernel does.
pub fn connect(space: &Space, to: SocketAddr, transport: Transport, limit: Duration) -> Outcome {
    let socket = match in_space(space, || transport.socket(to.is_ipv6())) {
        Ok(socket) => socket,
        Err(why) => return Outcome::NotTried(format!("{transport}: {why}")),
    };
    let outcome = match transport {
        Transport::Tcp | Transport::Sctp => ask_stream(socket.into(), to, limit),
        Transport::Udp => ask_datagrams(&socket.into(), to, limit),
    };
    outcome.unwrap_or_else(|error| unanswered(&error))
}

/// Sends echo requests to an address until one is answered.
pub fn ping(space: &Space, to: IpAddr, limit: Duration) -> Outcome {
    let protocol = if to.is_ipv6() { SockProtocol::IcmpV6 } else { SockProtocol::Icmp };
    match in_space(space, || open_socket(to.is_ipv6(), SockType::Raw, protocol)) {
        Ok(socket) => ask_echo(&socket.into(), to, limit).unwrap_or_else(|error| unanswered(&error)),
        Err(why) => Outcome::NotTried(format!("ping: {why}")),
    }
}

/// The address that packets to an address are sent from. None where there is no way.
pub fn source(space: &Space, to: IpAddr) -> Option<IpAddr> {
    const DISCARD: u16 = 9; // any port would do: connecting a socket of UDP sends nothing
    let socket = in_space(space, || Transport::Udp.socket(to.is_ipv6())).ok()?;
    connect_datagrams(&socket.into(), SocketAddr::new(to, DISCARD)).ok()
}

fn in_space(space: &Space, open: impl FnOnce() -> Result<OwnedFd, Errno> + Send) -> Result<OwnedFd, String> {
    let words = |error: &io::Error| error.raw_os_error().map_or_else(|| error.to_string(), words);
    space.within(open).and_then(|opened| Ok(opened?)).map_err(|error| words(&error))
}

fn words(errno: i32) -> String {
    Errno::from_raw(errno).desc().to_owned()
}

/// What an error means of one who has not answered.
fn unanswered(error: &io::Error) -> Outcome {
    let Some(errno) = error.raw_os_error() else { return Outcome::Silent };
    match Errno::from_raw(errno) {
        // EPERM: what is sent is dropped on its way out.
        Errno::EPERM | Errno::ETIMEDOUT => Outcome::Silent,
        Errno::ECONNREFUSED | Errno::ECONNRESET => Outcome::Refused,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS => Outcome::NotTried(words(errno)),
        _ => Outcome::Unreachable(words(errno)),
    }
}

/// Waits until a socket can be read or written, or has an error. False when it is too late.
fn wait(socket: &impl AsFd, what: PollFlags, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent in going round.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), what)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn ask_stream(mut stream: TcpStream, to: SocketAddr, limit: Duration) -> io::Result<Outcome> {
    let until = Instant::now() + limit;
    match nix::sys::socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => {
            if !wait(&stream, PollFlags::POLLOUT, until)? {
                return Ok(Outcome::Silent);
            }
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Err(errno) => return Err(errno.into()),
    }
    let own = stream.local_addr()?.ip();
    Ok(answered(&read_banner(&mut stream), own))
}

/// What is said first on a connection, up to a line feed; less than that where it ends before or takes too long.
fn read_banner(stream: &mut TcpStream) -> Vec<u8> {
    let until = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    let mut buffer = [0; BANNER_MAX];
    while said.len() < BANNER_MAX
        && !said.ends_with(b"\n")
        && matches!(wait(stream, PollFlags::POLLIN, until), Ok(true))
    {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => said.extend_from_slice(&buffer[..len]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    said
}

fn answered(said: &[u8], own: IpAddr) -> Outcome {
    let (by, seen_from) = parse_banner(said).unwrap_or_else(|| (STRANGER.to_owned(), own));
    Outcome::Answered { by, seen_from }
}

fn ask_datagrams(socket: &UdpSocket, to: SocketAddr, limit: Duration) -> io::Result<Outcome> {
    let own = connect_datagrams(socket, to)?;
    let said = exchange(socket, b"?", limit, |answer| Some(answer.to_vec()))?;
    Ok(said.map_or(Outcome::Silent, |said| answered(&said, own)))
}

/// Has a socket send to and hear of one address only, and hear of every ICMP error, not only of those that end a
/// connection. Yields the address that it sends from.
fn connect_datagrams(socket: &UdpSocket, to: SocketAddr) -> io::Result<IpAddr> {
    if to.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    }
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Sends a packet, again and again, until one comes that is the answer.
fn exchange<T>(
    socket: &UdpSocket,
    packet: &[u8],
    limit: Duration,
    answer: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    let start = Instant::now();
    let mut buffer = [0; BANNER_MAX];
    for tries in 1..=TRIES {
        socket.send(packet)?;
        while wait(socket, PollFlags::POLLIN, start + limit * tries / TRIES)? {
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    if let Some(answer) = answer(&buffer[..len]) {
                        return Ok(Some(answer));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// A raw socket is used like one of UDP. Every raw socket gets every echo reply, so each probe has a number of its own.
fn ask_echo(socket: &UdpSocket, to: IpAddr, limit: Duration) -> io::Result<Outcome> {
    // RFC 792 and RFC 4443: type, code, checksum, identifier, sequence number, data.
    let (request, reply) = if to.is_ipv6() { (128, 129) } else { (8, 0) };
    let own = connect_datagrams(socket, SocketAddr::new(to, 0))?;
    let number = RandomState::new().build_hasher().finish().to_ne_bytes();
    let mut echo = vec![request, 0, 0, 0, number[0], number[1], 0, 1];
    echo.extend_from_slice(&number);
    if to.is_ipv4() {
        let sum = internet_checksum(&echo).to_be_bytes();
        echo[2..4].copy_from_slice(&sum); // that of ICMPv6 is the kernel's work
    }
    let answer = exchange(socket, &echo, limit, |packet| {
        // Only IPv4's raw sockets get the IP header too.
        let header = if to.is_ipv4() { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
        let packet = packet.get(header..)?;
        (packet.first() == Some(&reply) && packet.get(4..) == echo.get(4..)).then_some(())
    })?;
    Ok(match answer {
        Some(()) => Outcome::Answered { by: to.to_string(), seen_from: own },
        None => Outcome::Silent,
    })
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}
