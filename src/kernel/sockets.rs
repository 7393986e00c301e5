//! Who listens at the host's ports: `NETLINK_SOCK_DIAG`, and the processes under `/proc`. Nothing is bound to find out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nix::libc;

use super::nfnetlink::socket::{Socket, Trouble};
use super::nfnetlink::wire::{Message, attributes, host_u32};
use crate::state::{Listener, Process, Published};

/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: isize = 4;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `TCP_CLOSE`: what an UDP socket is in unless it is connected.
const CLOSE: u32 = 7;
/// `TCP_LISTEN`.
const LISTEN: u32 = 10;
/// `sizeof(struct inet_diag_msg)`.
const ANSWER: usize = 72;

/// A socket with its inode number, by which a process has it open.
type Found = (Listener, u32);

/// The sockets of the calling thread's network namespace that published ports shadow. Where there are several alike, as
/// servers with a socket for each worker have, one for each name of a process.
pub(super) fn shadowed(published: &[Published]) -> Result<Vec<Listener>, Trouble> {
    // The lowest and the highest port of each protocol; which families matter.
    let mut wanted: BTreeMap<u8, (u16, u16, bool)> = BTreeMap::new();
    for one in published {
        let (first, last, ipv4) = wanted.entry(one.protocol).or_insert((one.first, one.last, false));
        (*first, *last) = ((*first).min(one.first), (*last).max(one.last));
        *ipv4 |= !one.at.is_ipv6();
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut socket = Socket::open_for(SOCK_DIAG)?;
    let mut found: Vec<Found> = Vec::new();
    for (protocol, (first, last, ipv4)) in wanted {
        // An IPv6 socket may take IPv4 as well.
        for family in [libc::AF_INET, libc::AF_INET6].into_iter().skip(usize::from(!ipv4)) {
            match dump(&mut socket, (family, protocol), (first, last), &mut found) {
                // No such protocol in this kernel, or none that it can list: SCTP mostly, whose sockets are rare.
                Err(Trouble::Refused(fault)) if fault.errno == libc::ENOENT => {}
                // Sockets that come or go meanwhile are seen the next time.
                Err(Trouble::Changed) => {}
                outcome => outcome?,
            }
        }
    }
    found.retain(|(listener, _)| published.iter().any(|one| listener.is_shadowed_by(one)));
    Ok(with_processes(found))
}

/// The sockets of a family and protocol that take what is sent to these ports.
fn dump(
    socket: &mut Socket,
    (family, protocol): (i32, u8),
    (first, last): (u16, u16),
    found: &mut Vec<Found>,
) -> Result<(), Trouble> {
    const BYTECODE: u16 = 1; // INET_DIAG_REQ_BYTECODE
    let ports = between(first, last);
    let take = |message: Message<'_>| found.extend(parse(protocol, message));
    socket.dump_of(BY_FAMILY, &request(family, protocol), |w| w.put(BYTECODE, &ports), take)
}

/// `struct inet_diag_req_v2`: of a family and protocol, all sockets that take what is sent to a port.
fn request(family: i32, protocol: u8) -> [u8; 56] {
    const UDP: u8 = 17;
    let states: u32 = if protocol == UDP { 1 << CLOSE } else { 1 << LISTEN };
    let mut header = [0; 56];
    header[0] = u8::try_from(family).unwrap_or(0);
    header[1] = protocol;
    header[4..8].copy_from_slice(&states.to_ne_bytes());
    header[48..56].fill(0xff); // INET_DIAG_NOCOOKIE
    header
}

/// Two comparisons of the source port (`struct inet_diag_bc_op`), each with its number in a second instruction. A `no`
/// leads four bytes beyond the end, which refuses the socket.
fn between(first: u16, last: u16) -> Vec<u8> {
    const SOURCE_AT_LEAST: u8 = 2; // INET_DIAG_BC_S_GE
    const SOURCE_AT_MOST: u8 = 3; // INET_DIAG_BC_S_LE
    let mut code = Vec::new();
    for (op, port, no) in [(SOURCE_AT_LEAST, first, 20_u16), (SOURCE_AT_MOST, last, 12)] {
        code.extend([op, 8]);
        code.extend(no.to_ne_bytes());
        code.extend([0, 0]);
        code.extend(port.to_ne_bytes());
    }
    code
}

/// Whether a message tells of a socket that listens.
#[cfg(feature = "fuzzing")]
pub(super) fn is_listener(message: Message<'_>) -> bool {
    parse(6, message).is_some()
}

/// Reads `struct inet_diag_msg` and what follows it.
fn parse(protocol: u8, message: Message<'_>) -> Option<Found> {
    const ONLY_IPV6: u16 = 11; // INET_DIAG_SKV6ONLY
    let body = message.payload;
    let bytes: [u8; 16] = body.get(8..24)?.try_into().ok()?;
    let address: IpAddr = if i32::from(*body.first()?) == libc::AF_INET6 {
        Ipv6Addr::from(bytes).into()
    } else {
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
    };
    let [high, low, far_high, far_low] = *body.get(4..)?.first_chunk()?;
    if (far_high, far_low) != (0, 0) {
        return None; // connected after all
    }
    let inode = host_u32(body.get(68..)?)?;
    let mut more = attributes(body.get(ANSWER..).unwrap_or_default());
    let only_ipv6 = more.any(|a| a.kind == ONLY_IPV6 && a.value.first() == Some(&1));
    let port = u16::from_be_bytes([high, low]);
    Some((Listener { protocol, address, port, only_ipv6, process: None }, inode))
}

/// The sockets with the processes that have them open; of those alike the one whose number is lowest.
fn with_processes(found: Vec<Found>) -> Vec<Listener> {
    let mut missing: BTreeSet<u32> = found.iter().map(|(_, inode)| *inode).collect();
    missing.remove(&0);
    let processes = holders(missing);
    let mut known: BTreeMap<(Listener, Option<String>), Option<Process>> = BTreeMap::new();
    for (listener, inode) in found {
        let process = processes.get(&inode).cloned();
        let of_this_name = known.entry((listener, process.as_ref().map(|p| p.name.clone()))).or_insert(None);
        if of_this_name.is_none() || process < *of_this_name {
            *of_this_name = process;
        }
    }
    known.into_iter().map(|((listener, _), process)| Listener { process, ..listener }).collect()
}

/// The processes that hold sockets of these inode numbers: of several the one with the lowest number, which is the one
/// that started the others. Without root only the own ones can be seen.
fn holders(mut missing: BTreeSet<u32>) -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    let Ok(dir) = fs::read_dir("/proc") else { return found };
    let mut pids: Vec<u32> = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        if missing.is_empty() {
            break;
        }
        let process = Path::new("/proc").join(pid.to_string());
        let Ok(files) = fs::read_dir(process.join("fd")) else { continue };
        for file in files.flatten() {
            let Some(inode) = fs::read_link(file.path()).ok().and_then(|to| socket_inode(to.to_str()?)) else {
                continue;
            };
            if missing.remove(&inode) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
                found.insert(inode, Process { name, pid });
            }
        }
    }
    found
}

/// The number in `socket:[4711]`.
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::state::At;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    // In whatever namespace the tests run in.

    #[test]
    fn the_kernel_leaves_out_what_has_another_port_or_state() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let mut socket = Socket::open_for(SOCK_DIAG).unwrap();
        let mut ports = |first: u16, last: u16| {
            let mut found = Vec::new();
            dump(&mut socket, (libc::AF_INET, TCP), (first, last), &mut found).unwrap();
            found.into_iter().map(|(listener, _)| (listener.address, listener.port)).collect::<Vec<_>>()
        };
        let (port, from) = (at.port(), client.local_addr().unwrap().port());
        assert_eq!(ports(port, port), [(at.ip(), port)]);
        assert!(ports(1, port - 1).iter().chain(&ports(port + 1, u16::MAX)).all(|(_, other)| *other != port));
        assert_eq!(ports(from, from), []); // it does not listen
    }

    #[test]
    fn a_socket_is_found_with_its_process() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let published = [Published { protocol: UDP, at: At::AnyIpv4, first: port, last: port }];
        let name = fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned();
        let process = Some(Process { name, pid: std::process::id() });
        let address = Ipv4Addr::LOCALHOST.into();
        let found = [Listener { protocol: UDP, address, port, only_ipv6: false, process }];
        assert_eq!(shadowed(&published).unwrap(), found);
        socket.connect("127.0.0.1:9").unwrap(); // now it takes nothing from others
        assert_eq!(shadowed(&published).unwrap(), []);
        assert_eq!(shadowed(&[]).unwrap(), []);
    }
}
