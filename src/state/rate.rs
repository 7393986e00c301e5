//! Rates of traffic.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A rate in bits per second. The kernel counts whole bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

impl Rate {
    /// The units of the file, in bits per second: powers of 1000, as tc(8) has them.
    pub const UNITS: [(&str, u64); 3] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
    /// The lowest of a file: the bucket of a token bucket filter holds the largest packet, and the kernel fills it for 4.29
    /// seconds at most (`tbf_change`: nanoseconds in 32 bits).
    pub const LEAST: Self = Self(128_000);
    /// The highest of a file: beyond, a device without hardware behind it is no bottleneck worth a queue.
    pub const MOST: Self = Self(100_000_000_000);

    /// A rate of so many bits per second.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bits per second.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Bytes per second.
    pub fn bytes(self) -> u64 {
        self.0 / 8
    }
}

impl FromStr for Rate {
    type Err = String;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let factor = Self::UNITS.iter().chain(&[("bit", 1)]).find(|(name, _)| *name == unit).map(|(_, factor)| factor);
        let bits = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(*factor));
        bits.map(Self).ok_or_else(|| format!("`{text}` is not a rate"))
    }
}

impl fmt::Display for Rate {
    /// In the largest unit that makes a whole number: `10mbit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Self::UNITS.iter().rev().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = whole.copied().unwrap_or(("bit", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        let all =
            [(0, "0bit"), (999, "999bit"), (128_000, "128kbit"), (1_500_000, "1500kbit"), (10_000_000_000, "10gbit")];
        for (bits, text) in all {
            assert_eq!(Rate(bits).to_string(), text);
            assert_eq!(text.parse(), Ok(Rate(bits)));
        }
        for wrong in ["", "10", "mbit", "1.5mbit", "-1mbit", "1MBit", "99999999999gbit"] {
            assert_eq!(wrong.parse::<Rate>(), Err(format!("`{wrong}` is not a rate")));
        }
    }
}
