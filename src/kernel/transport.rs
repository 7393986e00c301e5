//! A blocking route socket. Many messages go out in one send with sequence numbers of their own, each is acknowledged,
//! and the answers are matched by number. An asynchronous connection drops the error code of a failed dump and the flag
//! of a torn one, both of which would read as "nothing there".

use std::io;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkMessage,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket as RawSocket, SocketAddr, protocols::NETLINK_ROUTE};

use super::fault::Writes;
use super::netlink::{Attributes, u16_at, u32_at};

/// Messages per send. An acknowledgement or the answer to a question takes about 750 bytes of the receive buffer, whose usual size holds some 250;
/// when it overflows all answers are lost.
pub(super) const BATCH: usize = 128;
/// Bytes per send, far below the usual send buffer of 208 KiB.
const BATCH_BYTES: usize = 32 * 1024;
/// Bytes of one receive: the kernel fills at most 32 KiB per part of a dump.
const RECEIVE: usize = 64 * 1024;
/// Bytes of one acknowledgement at most: a header, a number, the header that it is about, and text.
const ACKNOWLEDGEMENT: usize = 4 * 1024;
/// The receive buffer asked for; the kernel uses it up only as far as needed.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How often a dump is tried that the kernel says was torn by changes.
const DUMP_TRIES: u32 = 16;
/// How much longer each pause between tries is than the one before, the first being none: 0.42 s in all, within which a
/// burst of changes, such as a container's start, is over.
const DUMP_PAUSE: Duration = Duration::from_millis(4);

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSGERR_ATTR_MSG`: the extended acknowledgement's text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message that changes something.
pub(super) struct Request {
    /// What to send.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_CREATE` and its like, beside `REQUEST` and `ACK`.
    pub flags: u16,
}

/// The kernel's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The error number.
    pub errno: i32,
    /// The extended acknowledgement's text.
    pub kernel: Option<String>,
    /// netrec's own words.
    pub text: Option<String>,
}

impl Refusal {
    /// A refusal with netrec's own words.
    pub(super) fn new(errno: i32, text: impl Into<String>) -> Self {
        Self { errno, kernel: None, text: Some(text.into()) }
    }

    /// A refusal that its number says all about.
    pub(super) fn plain(errno: i32) -> Self {
        Self { errno, kernel: None, text: None }
    }

    /// The system's words for the error number.
    pub(super) fn reason(&self) -> &'static str {
        Errno::from_raw(self.errno).desc()
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::plain(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::plain(errno as i32)
    }
}

/// Why a dump gave nothing.
#[derive(Debug)]
pub(super) enum DumpError {
    /// It was torn by changes in each of several tries.
    Torn,
    /// The kernel refused it.
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for DumpError {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// A route socket. It stays in the namespace in which it was opened.
pub(super) struct Socket {
    inner: RawSocket,
    sequence: u32,
    /// Whether it is ready for many answers at once.
    roomy: bool,
}

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.inner.as_raw_fd()
    }
}

impl Socket {
    /// A socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let inner = RawSocket::new(NETLINK_ROUTE)?;
        inner.connect(&SocketAddr::new(0, 0))?;
        inner.set_ext_ack(true)?;
        inner.set_netlink_get_strict_chk(true)?;
        Ok(Self { inner, sequence: 0, roomy: false })
    }

    /// Gets ready for many answers at once, as well as it can be had: to read there is no need of it.
    fn make_room(&mut self) {
        if std::mem::replace(&mut self.roomy, true) {
            return;
        }
        let _ = self.inner.set_cap_ack(true);
        // Beyond the system's limit only with CAP_NET_ADMIN; without, as much as it gives.
        if setsockopt(&self.inner, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(&self.inner, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
    }

    /// Sends messages, up to [`BATCH`] at once, and says of each what the kernel answered. The kernel goes on with the
    /// next one after a failure, so none may depend on another.
    pub(super) fn batch(&mut self, requests: Vec<Request>, writes: &mut Writes) -> Vec<Result<(), Refusal>> {
        let mut results: Vec<Result<(), Refusal>> = Vec::with_capacity(requests.len());
        let mut out = Vec::new();
        let mut first = results.len();
        for request in requests {
            if let Err(errno) = writes.admit() {
                results.push(Err(Refusal::plain(errno)));
                // Its number is used up, so that numbers go on matching indices.
                self.sequence = self.sequence.wrapping_add(1);
            } else {
                let flags = request.flags | NLM_F_REQUEST | NLM_F_ACK;
                self.append(&mut out, request.message, flags);
                // What it is until its acknowledgement comes.
                results.push(Err(Refusal::new(libc::ENOBUFS, "the kernel's answer was lost")));
            }
            if writes.single() || results.len() - first >= BATCH || out.len() >= BATCH_BYTES {
                self.exchange(&mut out, &mut results[first..]);
                first = results.len();
            }
        }
        self.exchange(&mut out, &mut results[first..]);
        results
    }

    /// Sends what is in `out` and fills in the answers; the last message sent has the current sequence number.
    fn exchange(&mut self, out: &mut Vec<u8>, results: &mut [Result<(), Refusal>]) {
        if out.is_empty() {
            return;
        }
        self.make_room();
        let mut waiting = messages(out).count();
        let first = self.sequence.wrapping_sub(u32::try_from(results.len()).unwrap_or(0)).wrapping_add(1);
        let sent = self.send(out);
        out.clear();
        if let Err(error) = sent {
            let refusal = Refusal::from(error);
            results.iter_mut().filter(|r| lost(r)).for_each(|r| *r = Err(refusal.clone()));
            return;
        }
        let mut buffer = Vec::with_capacity(ACKNOWLEDGEMENT);
        while waiting > 0 {
            // After ENOBUFS the answers are gone, and which messages did their work is not known: they stay "lost", and
            // reading back tells.
            if self.receive(&mut buffer).is_err() {
                return;
            }
            for (header, body) in messages(&buffer) {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind != NLMSG_ERROR {
                    continue;
                }
                if let Some(result) = results.get_mut(index) {
                    *result = acknowledgement(header.flags, body);
                    waiting = waiting.saturating_sub(1);
                }
            }
        }
    }

    /// Reads a table: what `parse` makes of each message's body. Never a part of it: an error of the kernel's in
    /// `NLMSG_DONE` counts, and a dump torn by changes is tried again.
    pub(super) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, DumpError> {
        let mut buffer = Vec::with_capacity(RECEIVE);
        for failed in 0..DUMP_TRIES {
            if failed > 1 {
                thread::sleep(pause(failed));
            }
            let mut out = Vec::new();
            self.append(&mut out, message.clone(), NLM_F_REQUEST | NLM_F_DUMP);
            self.send(&out)?;
            let mut found = Vec::new();
            if self.collect(&mut buffer, |body| found.extend(parse(body)))? {
                return Ok(found);
            }
        }
        Err(DumpError::Torn)
    }

    /// Receives a dump to its end; false when it was torn.
    fn collect(&mut self, buffer: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> Result<bool, Refusal> {
        let mut whole = true;
        loop {
            self.receive(buffer)?;
            for (header, body) in messages(buffer) {
                if header.sequence != self.sequence {
                    continue;
                }
                whole &= header.flags & NLM_F_DUMP_INTR == 0;
                match header.kind {
                    NLMSG_DONE => return done(body).map(|()| whole),
                    NLMSG_ERROR => return acknowledgement(header.flags, body).map(|()| whole),
                    _ => each(body),
                }
            }
        }
    }

    /// Asks for one object and hands its body to `parse`.
    pub(super) fn get<T>(
        &mut self,
        message: RouteNetlinkMessage,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, Refusal> {
        let mut out = Vec::new();
        self.append(&mut out, message, NLM_F_REQUEST);
        self.send(&out)?;
        let mut buffer = Vec::with_capacity(RECEIVE);
        loop {
            self.receive(&mut buffer)?;
            for (header, body) in messages(&buffer) {
                if header.sequence != self.sequence {
                    continue;
                }
                if header.kind == NLMSG_ERROR {
                    acknowledgement(header.flags, body)?;
                    continue;
                }
                return parse(body).ok_or_else(|| Refusal::new(libc::EPROTO, "an answer that cannot be read"));
            }
        }
    }

    /// Asks many questions, up to [`BATCH`] at once: what `parse` makes of each answer's body, or the kernel's no. Each has
    /// one answer.
    ///
    /// # Errors
    /// When answers are lost.
    pub(super) fn ask<T>(
        &mut self,
        questions: Vec<RouteNetlinkMessage>,
        mut parse: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<Result<Option<T>, Refusal>>, Refusal> {
        self.make_room();
        let mut answers: Vec<Result<Option<T>, Refusal>> = questions.iter().map(|_| Ok(None)).collect();
        let mut questions = questions.into_iter();
        let mut out = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE);
        for answers in answers.chunks_mut(BATCH) {
            let first = self.sequence.wrapping_add(1);
            out.clear();
            for question in questions.by_ref().take(answers.len()) {
                self.append(&mut out, question, NLM_F_REQUEST);
            }
            self.send(&out)?;
            let mut waiting = answers.len();
            while waiting > 0 {
                self.receive(&mut buffer)?;
                for (header, body) in messages(&buffer) {
                    let Some(answer) = answers.get_mut(header.sequence.wrapping_sub(first) as usize) else { continue };
                    *answer = match header.kind {
                        NLMSG_ERROR => acknowledgement(header.flags, body).map(|()| None),
                        _ => Ok(parse(body)),
                    };
                    waiting = waiting.saturating_sub(1);
                }
            }
        }
        Ok(answers)
    }

    fn append(&mut self, out: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = out.len();
        out.resize((start + message.header.length as usize).next_multiple_of(4), 0);
        message.serialize(&mut out[start..]);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        retry(|| self.inner.send(bytes, 0)).map(|_| ())
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let length = retry(|| {
            buffer.clear();
            self.inner.recv(buffer, libc::MSG_TRUNC)
        })?;
        if length > buffer.len() {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        Ok(())
    }
}

/// How long to wait before the next try of a dump that was torn so many times; not at all after the first.
fn pause(failed: u32) -> Duration {
    DUMP_PAUSE * failed.saturating_sub(1)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn lost(result: &Result<(), Refusal>) -> bool {
    matches!(result, Err(refusal) if refusal.errno == libc::ENOBUFS)
}

/// What is needed of `struct nlmsghdr`.
pub(super) struct Header {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
}

/// The messages of one datagram.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let header = Header { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)? };
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// The outcome in an `NLMSG_ERROR`: a negative error number, the header of the message it is about (the whole of it
/// where the kernel did not cap it), then attributes.
fn acknowledgement(flags: u16, body: &[u8]) -> Result<(), Refusal> {
    let errno = errno_of(body);
    if errno == 0 {
        return Ok(());
    }
    let about =
        if flags & NLM_F_CAPPED == 0 { u32_at(body, 4).unwrap_or(0) as usize } else { HEADER }.next_multiple_of(4);
    Err(Refusal { errno, kernel: text(body.get(4 + about..).unwrap_or_default()), text: None })
}

/// The outcome in an `NLMSG_DONE`: an error number, then attributes.
fn done(body: &[u8]) -> Result<(), Refusal> {
    match errno_of(body) {
        0 => Ok(()),
        errno => Err(Refusal { errno, kernel: text(body.get(4..).unwrap_or_default()), text: None }),
    }
}

fn errno_of(body: &[u8]) -> i32 {
    // An i32 in two's complement; negative is an error, and a dump's positive length is none.
    let code = u32_at(body, 0).unwrap_or(0).cast_signed();
    if code < 0 { code.wrapping_neg() } else { 0 }
}

fn text(attributes: &[u8]) -> Option<String> {
    let (_, value) = Attributes::new(attributes).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    #[test]
    fn a_dump_that_stays_torn_is_given_up_within_half_a_second() {
        let pauses: Vec<u128> = (0..DUMP_TRIES).map(|failed| pause(failed).as_millis()).collect();
        assert_eq!((&pauses[..4], pauses.iter().sum::<u128>()), (&[0, 0, 4, 8][..], 420));
    }

    // Reads only, in whatever namespace the tests run in.

    #[test]
    fn a_refused_dump_is_an_error_and_not_nothing() {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::Group(1));
        let outcome = Socket::open().unwrap().dump(&RouteNetlinkMessage::GetLink(request), |_| Some(()));
        let Err(DumpError::Refused(refusal)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(refusal.errno, libc::EINVAL);
        assert_eq!(refusal.kernel.as_deref(), Some("Unsupported attribute in link dump request"));
    }

    #[test]
    fn one_object_is_read_or_refused() {
        let mut socket = Socket::open().unwrap();
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName("lo".into()));
        let index = socket.get(RouteNetlinkMessage::GetLink(request.clone()), |body| u32_at(body, 4));
        assert_eq!(index, Ok(1));
        request.attributes = vec![LinkAttribute::IfName("no-such-device".into())];
        let nothing = socket.get(RouteNetlinkMessage::GetLink(request), |body| u32_at(body, 4));
        assert_eq!(nothing.map_err(|r| r.errno), Err(libc::ENODEV));
    }

    #[test]
    fn answers_are_read_capped_and_whole() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend(20u32.to_ne_bytes()); // the length of the message it is about, 4 bytes beyond its header
        body.extend([0; 12]);
        let text = [8u8, 0, 1, 0, b'h', b'i', b'!', 0];
        let (mut capped, mut whole) = (body.clone(), body);
        capped.extend(text);
        whole.extend([9; 4]);
        whole.extend(text);
        let expected = Err(Refusal { errno: 17, kernel: Some("hi!".into()), text: None });
        assert_eq!(acknowledgement(NLM_F_CAPPED, &capped), expected);
        assert_eq!(acknowledgement(0, &whole), expected);
        assert_eq!(acknowledgement(0, &[0; 20]), Ok(()));
    }
}
