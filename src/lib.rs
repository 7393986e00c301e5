//! netrec: container networks from a TOML file. The library behind the binary of the same name.
//!
//! ```text
//! TOML text ──► config ────────────┐
//!                                  ├──► desired ──┐
//! kernel, services (read) ─► facts ┘              ├──► plan ──► reconcile ──► kernel (write)
//! kernel (read) ─► live ──────────────────────────┘
//!
//! config, desired, plan ──► graph: the picture of a file
//! ```

pub mod cli;
pub mod config;
pub mod desired;
pub mod graph;
pub mod kernel;
pub mod plan;
pub mod reconcile;
pub mod services;
pub mod state;
