//! The picture of a file: machines, networks, containers, published ports, and what reaches what. Made of the file alone; one
//! model ([`Picture`]) and a function for each format. What reaches what is asked of the very rules that each host would have.

mod build;
mod dot;
mod drawing;
mod fold;
mod layout;
mod mermaid;
mod order;
mod reach;
mod svg;
mod text;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::desired::DesiredError;
use crate::state::{InterfaceName, ObjectName};

/// What there is to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What it is a picture of: the file's name.
    pub title: String,
    /// The machines, at least one.
    pub hosts: Vec<Host>,
    /// The networks, in file order; one that does not go beyond its host is there once for each.
    pub networks: Vec<Network>,
    /// The containers, in file order.
    pub containers: Vec<Container>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name; none in a file of one host.
    pub name: Option<ObjectName>,
    /// Where its peers reach it.
    pub addresses: Vec<IpAddr>,
}

/// A network that containers have interfaces on, or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Their names, at least one.
    pub names: Vec<ObjectName>,
    /// The host (by index) that it is within; none where it is between hosts, or on a link of the world's.
    pub host: Option<usize>,
    /// What makes it: `bridge nr-front`, `macvlan on eth0`. Of several that they are.
    pub device: String,
    /// Its subnets, whole.
    pub subnets: Vec<IpNetwork>,
    /// As whom its containers leave for the world, by family, IPv4 first; none where they do not.
    pub out: [Option<LeavesAs>; 2],
    /// Whether the world gets answers to pings of its containers' own addresses, in any family.
    pub pinged: bool,
    /// Devices of the host from which its containers are reached.
    pub trusted: Vec<InterfaceName>,
    /// Whether its containers are kept from each other.
    pub apart: bool,
    /// Whether the host has a part in it: containers and host reach each other.
    pub host_inside: bool,
    /// Whether the host's rules decide about it at all; else the link's router or a plugin does.
    pub ruled: bool,
}

impl Network {
    /// Whether its containers leave for the world by any family.
    pub fn leaves(&self) -> bool {
        self.out.iter().any(Option::is_some)
    }

    /// Whether nothing gets in or out, as far as the host decides.
    pub fn is_closed(&self) -> bool {
        self.ruled && !self.leaves() && !self.pinged
    }
}

/// The source address that the world sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeavesAs {
    /// The host's, by the device that packets leave by.
    Host,
    /// This one of the host's.
    Address(IpAddr),
    /// The container's own.
    Own,
    /// The container's own, by a router on its link.
    Router,
}

/// A container, or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Their names, at least one.
    pub names: Vec<ObjectName>,
    /// The host (by index) that it is on.
    pub host: usize,
    /// What else is worth a word: whose namespace it is.
    pub note: Option<String>,
    /// Its networks, in its order.
    pub links: Vec<Link>,
    /// What it publishes, by who may use it.
    pub doors: Vec<Door>,
}

impl Container {
    /// Whether it leaves for the world.
    pub fn leaves(&self) -> bool {
        self.links.iter().any(|link| link.way_out)
    }
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The network, by index.
    pub network: usize,
    /// The interface; none where it stands for several containers.
    pub interface: Option<InterfaceName>,
    /// Its addresses; none where it stands for several containers, or where a plugin chooses.
    pub addresses: Vec<IpAddr>,
    /// Whether the container leaves for the world by it, in any family.
    pub way_out: bool,
}

/// Published ports that the same ones may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Who.
    pub audience: Audience,
    /// Where, and where it leads if that is another port: `8080/tcp → 80`.
    pub ports: Vec<String>,
}

/// Who may use a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody.
    World,
    /// Those with these addresses.
    Listed(Vec<IpNetwork>),
    /// The host itself.
    Host,
    /// Whom this plugin lets in.
    Plugin(String),
    /// Nobody.
    Nobody,
}

impl Picture {
    /// The picture of a file.
    ///
    /// # Errors
    /// What cannot be chosen for it.
    pub fn of(config: &Config) -> Result<Self, DesiredError> {
        build::picture(config)
    }

    /// A tree, for the terminal.
    pub fn to_text(&self) -> String {
        text::tree(self)
    }

    /// A flowchart of Mermaid's.
    pub fn to_mermaid(&self) -> String {
        mermaid::flowchart(&self.drawing())
    }

    /// A graph of Graphviz's.
    pub fn to_dot(&self) -> String {
        dot::digraph(&self.drawing())
    }

    /// An SVG image that needs nothing else.
    pub fn to_svg(&self) -> String {
        svg::image(&self.drawing())
    }

    /// What is drawn: networks and containers that are alike in one box, where there are many.
    fn drawing(&self) -> drawing::Drawing {
        drawing::Drawing::of(&fold::folded(self))
    }
}
