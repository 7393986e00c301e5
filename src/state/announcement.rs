//! What neighbours are to hear of.

use std::net::IpAddr;

use super::{InterfaceName, Mac, Netns};

/// An address that is reached by another Ethernet address than before, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Where the device is.
    pub netns: Netns,
    /// The device.
    pub link: InterfaceName,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The address.
    pub address: IpAddr,
}
