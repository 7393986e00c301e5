//! Packets of TCP between two namespaces: how fast a stream is, how long a byte takes there and back, and a connection to be
//! set up.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::libc;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};
use nix::unistd::Pid;

const PIECE: usize = 256 << 10;
/// The processors that clients and servers run on: for streams and connections one each; for single bytes the same one, so
/// that the time is that of the packet's way and not that of waking the other.
const APART: [usize; 2] = [0, 1];
const TOGETHER: [usize; 2] = [0, 0];

/// From one named namespace to a server in another.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) from: String,
    pub(crate) to: String,
    /// What the client connects to.
    pub(crate) address: Ipv4Addr,
    /// The port that the client connects to, and the server's; without, one that is free.
    pub(crate) ports: Option<[u16; 2]>,
}

/// Works in a thread inside of a named namespace.
pub(crate) fn inside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu % thread::available_parallelism().unwrap().get()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

impl Way {
    /// Works with a server that listens already, and with where a client finds it.
    fn work<T: Send + 'static>(
        &self,
        [client_cpu, server_cpu]: [usize; 2],
        server: impl FnOnce(TcpListener) + Send + 'static,
        client: impl FnOnce(SocketAddrV4) -> T + Send + 'static,
    ) -> T {
        let ([asked, listen], (tell, port)) = (self.ports.unwrap_or_default(), mpsc::channel());
        let server = inside(&self.to, move || {
            pin(server_cpu);
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen)).unwrap();
            tell.send(listener.local_addr().unwrap().port()).unwrap();
            server(listener);
        });
        let port = port.recv().unwrap();
        let to = SocketAddrV4::new(self.address, if asked == 0 { port } else { asked });
        let work = move || {
            pin(client_cpu);
            client(to)
        };
        let result = inside(&self.from, work).join().unwrap();
        server.join().unwrap();
        result
    }

    /// Seconds of a stream of so many bytes, until the last is said to be there.
    pub(crate) fn stream(&self, bytes: usize) -> f64 {
        let server = |listener: TcpListener| {
            let (mut stream, mut piece) = (listener.accept().unwrap().0, vec![0; PIECE]);
            while stream.read(&mut piece).unwrap() > 0 {}
            stream.write_all(&[1]).unwrap();
        };
        self.work(APART, server, move |to| {
            let (mut stream, piece) = (TcpStream::connect(to).unwrap(), vec![0; PIECE]);
            let start = Instant::now();
            for _ in 0..bytes / PIECE {
                stream.write_all(&piece).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            start.elapsed().as_secs_f64()
        })
    }

    /// Seconds of so many single bytes there and back.
    pub(crate) fn round_trips(&self, count: u32) -> f64 {
        let server = |listener: TcpListener| {
            let (mut stream, mut byte) = (listener.accept().unwrap().0, [0]);
            stream.set_nodelay(true).unwrap();
            while stream.read(&mut byte).unwrap() > 0 {
                stream.write_all(&byte).unwrap();
            }
        };
        self.work(TOGETHER, server, move |to| {
            let (mut stream, mut byte) = (TcpStream::connect(to).unwrap(), [0]);
            stream.set_nodelay(true).unwrap();
            let start = Instant::now();
            for _ in 0..count {
                stream.write_all(&byte).unwrap();
                stream.read_exact(&mut byte).unwrap();
            }
            start.elapsed().as_secs_f64()
        })
    }

    /// The seconds that each of so many connections took to be set up.
    pub(crate) fn connects(&self, count: usize) -> Vec<f64> {
        let server = move |listener: TcpListener| {
            for _ in 0..count {
                drop(listener.accept().unwrap());
            }
        };
        self.work(APART, server, move |to| (0..count).map(|_| connected(to)).collect())
    }
}

/// Seconds that one connection takes to be set up. It ends with a reset, so that no port waits.
fn connected(to: SocketAddrV4) -> f64 {
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    let start = Instant::now();
    connect(client.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    start.elapsed().as_secs_f64()
}
