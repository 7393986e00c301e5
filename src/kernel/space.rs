//! A namespace as its listings show it: read when it is asked for, or ahead of that.

use std::collections::HashMap;
use std::thread::{self, JoinHandle};

use super::ReadError;
use super::events::HostEars;
use super::live::dump_error;
use super::netlink::address::{self, RawAddress};
use super::netlink::link::{self, Mark, RawLink};
use super::netlink::route::{self, RawRoute};
use super::netns::{self, Handle, Id};
use super::nftables::Firewall;
use super::transport::Socket;
use crate::state::{GROUP, Netns, PROTOCOL};

/// What was found in one namespace.
#[derive(Clone)]
pub(super) struct Space {
    pub netns: Netns,
    pub id: Id,
    /// The number that the host has for it, where that was asked for.
    pub number: Option<u32>,
    pub links: Vec<RawLink>,
    /// Whether addresses and routes were read: they are of interest in some namespaces only.
    pub whole: bool,
    pub addresses: Vec<RawAddress>,
    pub routes: Vec<RawRoute>,
}

impl Space {
    /// A namespace with nothing but its devices.
    pub(super) fn with_links(netns: Netns, id: Id, links: Vec<RawLink>) -> Self {
        Self { netns, id, number: None, links, whole: false, addresses: Vec::new(), routes: Vec::new() }
    }

    /// Reads the namespace that the socket is in: the whole of it where it is `wanted`, or it or a device in it is marked by
    /// the netrec that runs in the namespace of the inode number `inode`.
    pub(super) fn read(
        socket: &mut Socket,
        netns: &Netns,
        id: Id,
        inode: u64,
        wanted: bool,
    ) -> Result<Self, ReadError> {
        let links = link::dump(socket).map_err(|e| dump_error("links", netns, e))?;
        let mut space = Self::with_links(netns.clone(), id, links);
        let marked = |link: &RawLink| {
            let mark =
                if link.loopback { namespace_mark(link) } else { link.mark.as_ref().filter(|_| link.is_marked()) };
            mark.is_some_and(|mark| mark.inode == Some(inode))
        };
        if !wanted && !space.links.iter().any(marked) {
            space.read_left_over(socket)?;
            return Ok(space);
        }
        space.read_addresses(socket)?;
        space.read_routes(socket)?;
        space.whole = true;
        Ok(space)
    }

    /// Reads its addresses.
    pub(super) fn read_addresses(&mut self, socket: &mut Socket) -> Result<(), ReadError> {
        self.addresses = address::dump(socket).map_err(|e| dump_error("addresses", &self.netns, e))?;
        Ok(())
    }

    /// Reads its routes, as far as they are of interest.
    pub(super) fn read_routes(&mut self, socket: &mut Socket) -> Result<(), ReadError> {
        let failed = |e| dump_error("routes", &self.netns, e);
        if self.netns.is_host() {
            self.routes = route::dump_of(socket, PROTOCOL).map_err(failed)?;
            self.routes.extend(route::dump_connected(socket).map_err(failed)?);
        } else {
            // Those of others are in the way here; of its own netrec has none in other tables.
            self.routes = route::dump_main(socket).map_err(failed)?;
        }
        Ok(())
    }
}

impl Space {
    /// Reads what stays of an attachment when its device goes by itself, along with the one that it was on: routes that
    /// refuse, which have no device. Only the protocol tells that they are a netrec's, so that a mark of any host's netrec in
    /// the namespace leaves them to that one.
    pub(super) fn read_left_over(&mut self, socket: &mut Socket) -> Result<(), ReadError> {
        let marked = |link: &RawLink| link.is_marked() || link.loopback && namespace_mark(link).is_some();
        if !self.links.iter().any(marked) {
            let routes = route::dump_of(socket, PROTOCOL).map_err(|e| dump_error("routes", &self.netns, e))?;
            self.routes = routes.into_iter().filter(|route| !route.kind.is_unicast()).collect();
        }
        Ok(())
    }
}

/// The mark of a namespace, on its `lo`.
pub(super) fn namespace_mark(lo: &RawLink) -> Option<&Mark> {
    lo.mark.as_ref().filter(|_| lo.group == GROUP)
}

/// Reading ahead: the host, the namespaces of `/run/netns` and the firewall need nothing from the file, and take longer than
/// it does. One thread for all namespaces, not several: the kernel lists devices under one lock.
pub struct Ahead {
    ears: Option<HostEars>,
    spaces: JoinHandle<HashMap<Netns, Space>>,
    firewall: JoinHandle<Option<Firewall>>,
}

impl Ahead {
    /// Starts to read; none where there can be no threads. What cannot be read is left out, for who needs it to come to
    /// the same error.
    pub fn start() -> Option<Self> {
        // Before the first reading, so that nothing is missed between.
        let ears = HostEars::open().ok();
        let spaces = thread::Builder::new().spawn(read_all).ok()?;
        let firewall = thread::Builder::new().spawn(read_firewall).ok()?;
        Some(Self { ears, spaces, firewall })
    }

    /// What hears of the host since then, what was found in namespaces, and the firewall as it was read.
    pub(super) fn found(self) -> (Option<HostEars>, HashMap<Netns, Space>, Option<Firewall>) {
        (self.ears, self.spaces.join().unwrap_or_default(), self.firewall.join().unwrap_or_default())
    }
}

fn read_firewall() -> Option<Firewall> {
    let mut firewall = Firewall::open().ok()?;
    firewall.read().ok()?;
    Some(firewall)
}

/// Goes from namespace to namespace, and not home again: the thread ends in the last.
fn read_all() -> HashMap<Netns, Space> {
    let Ok(Some(home)) = Handle::own() else { return HashMap::new() };
    let read = |netns: Netns, id, wanted| {
        let space = Space::read(&mut Socket::open().ok()?, &netns, id, home.id.1, wanted).ok()?;
        Some((netns, space))
    };
    let mut found: HashMap<Netns, Space> = read(Netns::HOST, home.id, true).into_iter().collect();
    for netns in netns::names().unwrap_or_default() {
        if let Ok(Some(handle)) = Handle::open(&netns::path(&netns))
            && handle.enter().is_ok()
        {
            found.extend(read(netns, handle.id, false));
        }
    }
    found
}
