//! Listeners: one thread that waits on all sockets of a set.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut, PipeReader, PipeWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, listen,
    recvmsg, sendmsg, setsockopt, sockopt,
};

use super::{Space, Transport, banner};
use crate::kernel::netns::raise_descriptor_limit;

/// Answers everybody on its ports, on every address of both families, with its name and the address that it was asked
/// from; until dropped. TCP and SCTP connections are closed after that.
#[derive(Debug)]
pub struct Listener {
    /// The other end of what the thread waits for; to be dropped before the thread is waited for.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on one port.
    ///
    /// # Errors
    /// See [`open_all`](Self::open_all).
    pub fn open(space: &Space, name: &str, transport: Transport, port: u16) -> io::Result<Self> {
        Self::open_all(space, name, &[(transport, port)])
    }

    /// Listens on many ports under one name, each of which may be listed more than once. When this returns, they
    /// answer.
    ///
    /// # Errors
    /// When one of the ports cannot be had, with the kernel's number: `EPROTONOSUPPORT` where it lacks SCTP,
    /// `EADDRINUSE` where somebody listens there. None is listened on then.
    pub fn open_all(space: &Space, name: &str, ports: &[(Transport, u16)]) -> io::Result<Self> {
        raise_descriptor_limit();
        let ports: BTreeSet<_> = ports.iter().copied().collect();
        let sockets = space.within(|| -> io::Result<Vec<Socket>> {
            let mut sockets = Vec::with_capacity(2 * ports.len());
            for (transport, port) in ports {
                for ipv6 in [false, true] {
                    match Socket::open(transport, ipv6, port) {
                        // A kernel without IPv6.
                        Err(Errno::EAFNOSUPPORT) if ipv6 => {}
                        socket => sockets.push(socket?),
                    }
                }
            }
            Ok(sockets)
        })??;
        let (stopped, stop) = io::pipe()?;
        let name = name.to_owned();
        let thread = thread::Builder::new().spawn(move || serve(&stopped, &sockets, &name))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers until the other end of the pipe is closed.
fn serve(stopped: &PipeReader, sockets: &[Socket], name: &str) {
    let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut polled = vec![wanted(stopped.as_fd())];
    polled.extend(sockets.iter().map(|socket| wanted(socket.as_fd())));
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true));
        if ready.next() == Some(true) {
            return;
        }
        for (_, socket) in ready.zip(sockets).filter(|(ready, _)| *ready) {
            socket.answer(name);
        }
    }
}

enum Socket {
    /// TCP, and SCTP in its like.
    Stream(TcpListener),
    Datagrams(OwnedFd),
}

impl Socket {
    fn open(transport: Transport, ipv6: bool, port: u16) -> Result<Self, Errno> {
        let socket = transport.socket(ipv6)?;
        if ipv6 {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let at = SockaddrStorage::from(SocketAddr::new(any, port));
        if transport == Transport::Udp {
            // What was asked at one address must not be answered from another.
            if ipv6 {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            } else {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            }
            bind(socket.as_raw_fd(), &at)?;
            return Ok(Self::Datagrams(socket));
        }
        // Or else the last connections of a listener before would keep the port for a minute.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &at)?;
        listen(&socket, Backlog::MAXALLOWABLE)?;
        Ok(Self::Stream(socket.into()))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(socket) => socket.as_fd(),
            Self::Datagrams(socket) => socket.as_fd(),
        }
    }

    /// Answers all that is waiting. What goes wrong concerns one asker, who will see that he gets no answer.
    fn answer(&self, name: &str) {
        match self {
            Self::Stream(socket) => {
                while let Ok((mut stream, asker)) = socket.accept() {
                    // It fits into the send buffer.
                    let _ = stream.write_all(banner(name, asker.ip()).as_bytes());
                }
            }
            Self::Datagrams(socket) => while answer_datagram(socket, name).is_ok() {},
        }
    }
}

/// Receives a datagram, if there is one, and answers it from the address that it was sent to.
fn answer_datagram(socket: &OwnedFd, name: &str) -> Result<(), Errno> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut question = [0; 64];
    let mut question = [IoSliceMut::new(&mut question)];
    let from = socket.as_raw_fd();
    let received = recvmsg::<SockaddrStorage>(from, &mut question, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let Some(asker) = received.address else { return Ok(()) };
    let ip: IpAddr = match (asker.as_sockaddr_in(), asker.as_sockaddr_in6()) {
        (Some(v4), _) => SockaddrIn::ip(v4).into(),
        (_, Some(v6)) => SockaddrIn6::ip(v6).into(),
        _ => return Ok(()),
    };
    let said = banner(name, ip);
    let said = [IoSlice::new(said.as_bytes())];
    let send = |at: &[ControlMessage<'_>]| sendmsg(from, &said, at, MsgFlags::MSG_DONTWAIT, Some(&asker));
    // The device is left to the routing table, as with TCP.
    let _ = match received.cmsgs()?.next() {
        Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
            send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo { ipi_ifindex: 0, ..info })])
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
            // A link-local address is one only together with its device.
            let local = Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local();
            let ipi6_ifindex = if local { info.ipi6_ifindex } else { 0 };
            send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo { ipi6_ifindex, ..info })])
        }
        _ => send(&[]),
    };
    Ok(())
}
