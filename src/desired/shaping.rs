//! Limits of traffic: what leaves by a device waits in a token bucket filter (`tbf`) of its own; what comes in by it is
//! sent through a device made for that (`ifb`), and waits in that one's. The same for a veth's end in the host, and, with the
//! directions changed over, for a device inside of a container.

use super::{Build, ChosenShaper};
use crate::state::{Device, Hook, InterfaceName, Key, Link, LinkKind, Netns, Object, Owner, Qdisc, Rate};

/// How long a full bucket lasts at the rate, in microseconds, at least. The kernel fills it when packets are to be sent, and
/// wakes up for that by a timer: on a busy or virtual machine some milliseconds late, which the bucket makes up for.
const BURST_US: u64 = 10_000;
/// How long packets wait at most, in microseconds. With less TCP loses packets before it is as fast as it may be on ways that
/// take that long; a longer queue delays everything else that goes through it.
const WAIT_US: u64 = 50_000;
/// What a bucket, and the queue before it, holds at least, in bytes: ten full Ethernet frames. More, and low rates would be
/// exceeded for seconds by what may pass at once; less, and TCP would lose a frame of each burst that it sends.
const LEAST: u64 = 16 * 1024;
/// What a packet may be longer than its MTU, in bytes: headers of Ethernet, and of two VLANs.
const HEADERS: u64 = 14 + 2 * 4;

/// Where traffic is limited.
#[derive(Clone, Copy)]
pub(super) struct Point<'a> {
    pub(super) netns: &'a Netns,
    pub(super) link: InterfaceName,
    /// The MTU of the link, in bytes.
    pub(super) mtu: u32,
}

/// The most that passes a point in each direction.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of what leaves by the link.
    pub(super) out: Option<Rate>,
    /// Of what comes in by it.
    pub(super) into: Option<Rate>,
}

impl Build<'_> {
    /// Limits the traffic at a point. `shaper` is the device that what comes in waits at, where that is limited.
    pub(super) fn shape(&mut self, at: Point<'_>, limits: Limits, shaper: Option<ChosenShaper>, owner: &Owner) {
        let Point { netns, mtu, .. } = at;
        let key = |link, hook| Key::Qdisc { netns: netns.clone(), link, hook };
        if let Some(rate) = limits.out {
            self.want(key(at.link, Hook::Root), Object::Qdisc(bucket(rate, mtu)), owner);
        }
        let (Some(rate), Some(ChosenShaper { name, mac })) = (limits.into, shaper) else { return };
        let link = Link {
            kind: LinkKind::Ifb,
            // Nobody is spoken to on it.
            device: Device { mac, mtu, up: true, link_local: false, promote_secondaries: true, no_arp: true },
            master: None,
            port: None,
            leaving: false,
        };
        self.want(Key::Link { netns: netns.clone(), name }, Object::Link(link), owner);
        self.want(key(name, Hook::Root), Object::Qdisc(bucket(rate, mtu)), owner);
        let redirect = Qdisc::Clsact { redirect: Some(name) };
        self.want(key(at.link, Hook::Ingress), Object::Qdisc(redirect), owner);
    }
}

/// The token bucket filter for a rate. From some 56 Mbit/s on the bucket holds the largest packet that segmentation offload
/// makes (64 KiB and the headers of all its segments), which then needs no cutting.
fn bucket(rate: Rate, mtu: u32) -> Qdisc {
    let least = LEAST.max(u64::from(mtu) + HEADERS);
    let bytes = |us: u64| rate.bytes().saturating_mul(us) / 1_000_000;
    // Rounded up, so that the largest packet fits.
    let time = |bytes: u64| (bytes * 1_000_000).div_ceil(rate.bytes().max(1));
    let burst_us = BURST_US.max(time(least));
    let limit = bytes(burst_us) + least.max(bytes(WAIT_US));
    Qdisc::Tbf {
        rate,
        burst_us: u32::try_from(burst_us).unwrap_or(u32::MAX),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rate, MTU, microseconds of the bucket, bytes of the queue.
    #[test]
    fn buckets_hold_ten_milliseconds_or_ten_frames_or_the_largest_one() {
        let all = [
            ("128kbit", 1500, 1_024_000, 16_384 + 16_384),
            ("1mbit", 1500, 131_072, 16_384 + 16_384),
            ("10mbit", 1500, 13_108, 16_385 + 62_500),
            ("50mbit", 1500, 10_000, 62_500 + 312_500),
            ("1gbit", 1500, 10_000, 1_250_000 + 6_250_000),
            ("100gbit", 1500, 10_000, 125_000_000 + 625_000_000),
            ("10mbit", 65_535, 52_446, 65_557 + 65_557),
            // 4.29 s is what the kernel keeps (32 bits of nanoseconds).
            ("128kbit", 65_535, 4_097_313, 65_557 + 65_557),
        ];
        for (rate, mtu, burst_us, limit) in all {
            let rate = rate.parse().unwrap();
            assert_eq!(bucket(rate, mtu), Qdisc::Tbf { rate, burst_us, limit }, "{rate} {mtu}");
        }
    }
}
