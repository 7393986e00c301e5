//! TOML text to a checked [`Config`]: types, defaults, places, and every message about the file. No I/O.
//!
//! Three passes, each of which reports all it finds: syntax (`syntax`), then keys, types and single values (`file`,
//! `networks`, `containers`, `ports`, `sysctl`), then what only the whole shows (`checks`, `expect`). A file with syntax errors
//! stops after the first, since what is left of it would only bring errors that are none.

mod checks;
mod cluster;
mod containers;
mod driver;
mod edit;
mod expect;
mod file;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hosts;
mod keys;
mod line;
mod netns;
mod networks;
mod overlay;
mod parent;
mod ports;
mod reader;
mod reference;
mod remote;
mod render;
mod report;
mod schema;
mod syntax;
mod sysctl;
#[cfg(test)]
mod tests;
mod types;
mod values;

pub use edit::{Addresses, with_addresses};
pub(crate) use reader::closest;
pub use reference::reference;
pub use report::{Invalid, Problem, Source, Sources};
pub use schema::schema;
pub use types::{
    Attachment, Cluster, Config, Container, ContainerNetns, ContainerRoute, Driver, Expect, Host, Mode, Network, Node,
    Overlap, Overlay, Parent, Place, Port, PortAddress, PortRange, Protocol, Remote, Settings, Share, Subnet, Target,
    Topology,
};
pub use values::unusable;

/// Parses and checks the texts of one configuration.
///
/// # Errors
/// All that is wrong with them, at once.
pub fn parse(sources: Sources) -> Result<Config, Invalid> {
    match file::read(&sources) {
        Ok(file::Parts { settings, hosts, cluster, networks, containers, expect, sections }) => {
            Ok(Config { sources, settings, hosts, cluster, networks, containers, expect, sections })
        }
        Err(problems) => Err(Invalid::new(sources, problems)),
    }
}

/// Parses a duration as the file writes them: `90s`, `5m`.
///
/// # Errors
/// Why it is none, and what one looks like.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    values::duration(text).map_err(|fault| {
        let help = fault.help.unwrap_or_default();
        let more = [fault.label, help].into_iter().filter(|part| !part.is_empty());
        std::iter::once(fault.message).chain(more).collect::<Vec<_>>().join("; ")
    })
}
