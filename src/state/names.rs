//! Names and addresses that can be wrong, as types that cannot: what is parsed once is never checked again.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// FNV-1a, 64 bits, of UTF-8 text (Fowler, Noll, Vo: offset basis 14695981039346656037, prime 1099511628211).
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A network device's name: 1 to 15 bytes, none of `/`, `:`, `%`, white space or control characters, and not one of
/// `.`, `..`, `all`, `default` (the last two are directories of `/proc/sys/net/*/conf`).
///
/// The kernel's own rule is `dev_valid_name()`; `%` would make it number the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName {
    // Zero-padded, so that byte order is name order.
    bytes: [u8; 15],
    len: u8,
}

/// The longest device name in bytes (`IFNAMSIZ` less its NUL).
pub const INTERFACE_NAME_MAX: usize = 15;

impl InterfaceName {
    /// The loopback device's name.
    pub const LO: Self = Self { bytes: *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0", len: 2 };

    /// A prefix (at most 3 bytes), the first six bytes of a name and the low six hex digits of a hash.
    pub fn hashed(prefix: &str, name: &ObjectName, hash: u64) -> Self {
        let digits = format!("{:06x}", hash & 0xff_ffff);
        let text = prefix.bytes().take(3).chain(name.as_str().bytes().take(6)).chain(digits.bytes());
        let mut result = Self { bytes: [0; INTERFACE_NAME_MAX], len: 0 };
        for byte in text {
            result.bytes[usize::from(result.len)] = byte;
            result.len += 1;
        }
        result
    }

    /// `?`: the name of a device that cannot be seen.
    pub const UNKNOWN: Self = Self { bytes: [b'?', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], len: 1 };

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an interface name cannot be empty".into());
        }
        if text.len() > INTERFACE_NAME_MAX {
            return Err(format!(
                "an interface name has at most {INTERFACE_NAME_MAX} bytes, `{text}` has {}",
                text.len()
            ));
        }
        if matches!(text, "." | ".." | "all" | "default") {
            return Err(format!("`{text}` is reserved and cannot name an interface"));
        }
        if let Some(c) = text.chars().find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control()) {
            return Err(format!("an interface name cannot contain {c:?}"));
        }
        let mut bytes = [0; INTERFACE_NAME_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        #[allow(clippy::cast_possible_truncation)] // at most 15
        Ok(Self { bytes, len: text.len() as u8 })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl Serialize for InterfaceName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for InterfaceName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// An Ethernet address, printed as `02:00:00:00:00:01`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads any address, for one host or for many: a forwarding database may hold those too.
    fn any(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a MAC address: write six pairs of hex digits, as in `02:00:00:00:00:01`");
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(mac))
    }

    /// A locally administered one: `02:` and the low five bytes of the text's hash.
    pub(crate) fn hashed(text: &str) -> Self {
        let h = hash(text).to_be_bytes();
        Self([0x02, h[3], h[4], h[5], h[6], h[7]])
    }

    /// The IPv6 address that the kernel makes of it on a link (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let words = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
        Ipv6Addr::new(0xfe80, 0, 0, 0, words[0], words[1], words[2], words[3])
    }

    /// Whether it is no device's own: one for several receivers, or for nobody in particular.
    pub fn is_for_many(self) -> bool {
        self.0[0] & 1 == 1 || self.0 == [0; 6]
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Reads one that a device can have.
    fn from_str(text: &str) -> Result<Self, String> {
        let Self(mac) = Self::any(text)?;
        if mac[0] & 1 == 1 {
            return Err(format!(
                "`{text}` is a multicast MAC address: an interface needs one whose first byte is even"
            ));
        }
        if mac == [0; 6] {
            return Err(format!("`{text}` is the all-zeros MAC address, which no interface can have"));
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    /// Takes any that may have been found.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::any(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// The name of a network or a container: `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = text.len() <= 63
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(format!("`{text}` is not a name: 1 to 63 letters, digits, `_`, `.` or `-`, a letter or digit first"))
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for ObjectName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ObjectName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// A network namespace as state names it: the host's own, a name under `/run/netns`, an absolute path, or what somebody else
/// made it for (`docker:web`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Netns(Option<Arc<str>>);

impl Netns {
    /// The namespace netrec runs in.
    pub const HOST: Self = Self(None);

    /// A namespace by its name under `/run/netns` or by its absolute path.
    pub fn new(label: impl Into<Arc<str>>) -> Self {
        Self(Some(label.into()))
    }

    /// The name, path or source; none for the host.
    pub fn label(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether this is the namespace netrec runs in.
    pub fn is_host(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label().unwrap_or("host"))
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Netns {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.label().serialize(s)
    }
}

impl<'de> Deserialize<'de> for Netns {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<Arc<str>>::deserialize(d)?))
    }
}

/// The place in the file an object exists for: `networks.front`, `containers.web`, `containers.web.ports[0]`, or
/// `netrec` for what exists because netrec does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Arc<str>);

impl Owner {
    /// The owner of the firewall table and its fixed chains.
    pub fn netrec() -> Self {
        Self("netrec".into())
    }

    /// An owner from its dotted path.
    pub fn new(path: impl Into<Arc<str>>) -> Self {
        Self(path.into())
    }

    /// The dotted path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path up to its list index: `containers.web.ports` of `containers.web.ports[1]`.
    ///
    /// Marks in the kernel are compared by this, so that a port put in front of another does not rewrite both.
    pub fn stem(&self) -> &str {
        self.0.split_once('[').map_or(&*self.0, |(stem, _)| stem)
    }

    /// Whether it is another, or below it: `containers.web.ports[1]` is within `containers.web`.
    pub fn is_within(&self, other: &Self) -> bool {
        let below = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        self.0.strip_prefix(&*other.0).is_some_and(below)
    }

    /// The enclosing owners, nearest first: `containers.web` of `containers.web.ports[1]`, and so on up.
    pub fn ancestors(&self) -> impl Iterator<Item = Owner> + '_ {
        let mut rest: &str = &self.0;
        std::iter::from_fn(move || {
            rest = &rest[..rest.rfind(['.', '['])?];
            Some(Owner(rest.into()))
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::<str>::deserialize(d)?))
    }
}
