//! TOML text to a checked [`Config`]: types, defaults, places, and every message about the file. No I/O.

mod report;
mod types;

pub use report::{Invalid, Problem, Source, Sources};
pub use types::{
    Attachment, Config, Container, ContainerNetns, Network, Overlap, Place, Port, PortAddress, Protocol, Settings,
    Subnet,
};

/// Parses and checks the texts of one configuration.
pub fn parse(_sources: Sources) -> Result<Config, Invalid> {
    todo!()
}

impl Config {
    /// Where owners stand.
    pub fn places(&self) -> Vec<(crate::state::Owner, String)> {
        Vec::new()
    }
}
