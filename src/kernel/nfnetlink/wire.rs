//! Netlink's wire format: messages, and attributes within them, written into one buffer and read in place.
//!
//! Lengths and types of netlink itself are in host byte order, the numbers inside netfilter's attributes in network
//! order (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`).

/// `NLM_F_REQUEST`.
pub(in crate::kernel) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(in crate::kernel) const ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: what is being dumped changed meanwhile.
pub(in crate::kernel) const DUMP_INTR: u16 = 0x10;
/// `NLM_F_DUMP`: `NLM_F_ROOT | NLM_F_MATCH`.
pub(in crate::kernel) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`: the object must not be there yet.
pub(in crate::kernel) const CREATE: u16 = 0x400 | 0x200;
/// `NLM_F_CREATE | NLM_F_APPEND`: a rule at the end of its chain.
pub(in crate::kernel) const APPEND: u16 = 0x400 | 0x800;

/// `NLMSG_ERROR`, with number 0 an acknowledgement.
pub(in crate::kernel) const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
pub(in crate::kernel) const DONE: u16 = 3;

/// `NLA_F_NESTED`: to be set on an attribute of attributes that is written as raw bytes.
pub(in crate::kernel) const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`.
const TYPE_MASK: u16 = 0x3fff;
/// `sizeof(struct nlmsghdr)`.
const HEADER: usize = 16;
/// `sizeof(struct nlmsghdr) + sizeof(struct nfgenmsg)`.
const NF_HEADER: usize = 20;

fn align(n: usize) -> usize {
    n.next_multiple_of(4)
}

/// Messages in the making.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(in crate::kernel) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(in crate::kernel) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A whole message of netfilter's. `resource` is the last field of `struct nfgenmsg`.
    pub(in crate::kernel) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        (family, resource): (u8, u16),
        fill: impl FnOnce(&mut Self),
    ) {
        let [high, low] = resource.to_be_bytes();
        // The version is NFNETLINK_V0.
        self.message_of(kind, flags, sequence, &[family, 0, high, low], fill);
    }

    /// A whole message of any netlink family, with that family's own header.
    pub(in crate::kernel) fn message_of(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) {
        let start = self.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]); // to the kernel
        self.bytes.extend_from_slice(header);
        fill(self);
        let len = u32::try_from(self.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Sets one more flag in the message that starts at `start`.
    pub(in crate::kernel) fn add_flag(&mut self, start: usize, flag: u16) {
        let at = start + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | flag;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// An attribute of raw bytes.
    pub(in crate::kernel) fn put(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |w| w.bytes.extend_from_slice(value));
    }

    /// A number in network byte order.
    pub(in crate::kernel) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A string with its terminating NUL.
    pub(in crate::kernel) fn put_str(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |w| {
            w.bytes.extend_from_slice(value.as_bytes());
            w.bytes.push(0);
        });
    }

    /// An attribute of attributes.
    pub(in crate::kernel) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, fill);
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let len = self.len() - start;
        debug_assert!(u16::try_from(len).is_ok(), "an attribute is at most 64 KB long");
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(align(self.len()), 0);
    }
}

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Message<'a> {
    pub(in crate::kernel) kind: u16,
    pub(in crate::kernel) flags: u16,
    pub(in crate::kernel) sequence: u32,
    /// What follows `struct nlmsghdr`.
    pub(in crate::kernel) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes of an nfnetlink message.
    pub(in crate::kernel) fn attributes(self) -> Attributes<'a> {
        attributes(self.payload.get(NF_HEADER - HEADER..).unwrap_or_default())
    }
}

/// The messages of a datagram. What is cut off or makes no sense ends the list.
pub(in crate::kernel) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(host_u32(bytes)?).ok()?;
        let message = Message {
            kind: host_u16(bytes.get(4..)?)?,
            flags: host_u16(bytes.get(6..)?)?,
            sequence: host_u32(bytes.get(8..)?)?,
            payload: bytes.get(HEADER..len)?,
        };
        bytes = bytes.get(align(len)..).unwrap_or_default();
        Some(message)
    })
}

/// What an error message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kernel) struct Fault {
    /// The positive error number; 0 in an acknowledgement.
    pub(in crate::kernel) errno: i32,
    /// The kernel's own words.
    pub(in crate::kernel) text: Option<String>,
    /// Where in the refused message the offending attribute is.
    pub(in crate::kernel) offset: usize,
}

impl Fault {
    /// Of this number only.
    pub(in crate::kernel) fn new(errno: i32) -> Self {
        Self { errno, text: None, offset: 0 }
    }

    /// Reads the payload of an [`ERROR`]: number, the refused message's header, then with extended acknowledgements
    /// attributes (`NLM_F_ACK_TLVS`), before which the refused message is repeated unless `NLM_F_CAPPED`.
    pub(in crate::kernel) fn parse(message: Message<'_>) -> Option<Self> {
        const CAPPED: u16 = 0x100;
        const ACK_TLVS: u16 = 0x200;
        const ATTR_MSG: u16 = 1;
        const ATTR_OFFS: u16 = 2;
        let errno = host_u32(message.payload)?.cast_signed().checked_neg()?;
        let mut fault = Self::new(errno);
        if message.flags & ACK_TLVS != 0 {
            let repeated =
                if message.flags & CAPPED == 0 { host_u32(message.payload.get(4..)?)? as usize } else { HEADER };
            for attribute in attributes(message.payload.get(4 + align(repeated)..).unwrap_or_default()) {
                match attribute.kind {
                    ATTR_MSG => fault.text = attribute.text().map(str::to_owned),
                    ATTR_OFFS => fault.offset = host_u32(attribute.value).unwrap_or(0) as usize,
                    _ => {}
                }
            }
        }
        Some(fault)
    }
}

/// An attribute as it came.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Attribute<'a> {
    pub(in crate::kernel) kind: u16,
    pub(in crate::kernel) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A number in network byte order.
    pub(in crate::kernel) fn u32(self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    /// A string; its NUL is left out.
    pub(in crate::kernel) fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.value.strip_suffix(&[0]).unwrap_or(self.value)).ok()
    }

    /// The attributes within.
    pub(in crate::kernel) fn nested(self) -> Attributes<'a> {
        attributes(self.value)
    }
}

/// A list of attributes. What is cut off or makes no sense ends it.
#[derive(Clone, Debug)]
pub(in crate::kernel) struct Attributes<'a>(&'a [u8]);

/// The attributes in these bytes.
pub(in crate::kernel) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let len = usize::from(host_u16(self.0)?);
        let kind = host_u16(self.0.get(2..)?)? & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

/// Attributes by type, for those that come at most once and in any order.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Slots<'a> {
    slots: [Option<Attribute<'a>>; 24],
    /// Whether there was one beyond the last slot.
    pub(in crate::kernel) more: bool,
}

impl<'a> Slots<'a> {
    pub(in crate::kernel) fn new(attributes: Attributes<'a>) -> Self {
        let mut all = Self { slots: [None; 24], more: false };
        for attribute in attributes {
            match all.slots.get_mut(usize::from(attribute.kind)) {
                Some(slot) => *slot = Some(attribute),
                None => all.more = true,
            }
        }
        all
    }

    pub(in crate::kernel) fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.slots.get(usize::from(kind)).copied().flatten()
    }

    pub(in crate::kernel) fn has(&self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    pub(in crate::kernel) fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.u32()
    }

    pub(in crate::kernel) fn text(&self, kind: u16) -> Option<&'a str> {
        self.get(kind)?.text()
    }

    pub(in crate::kernel) fn value(&self, kind: u16) -> Option<&'a [u8]> {
        Some(self.get(kind)?.value)
    }

    pub(in crate::kernel) fn nested(&self, kind: u16) -> Option<Slots<'a>> {
        Some(Self::new(self.get(kind)?.nested()))
    }

    /// Whether all there is has one of these types.
    pub(in crate::kernel) fn only(&self, kinds: &[u16]) -> bool {
        !self.more && self.slots.iter().flatten().all(|a| kinds.contains(&a.kind))
    }
}

/// The first two bytes as a number in host byte order.
pub(in crate::kernel) fn host_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.first_chunk()?))
}

/// The first four bytes as a number in host byte order.
pub(in crate::kernel) fn host_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}
