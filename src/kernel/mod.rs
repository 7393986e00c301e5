//! Linux: one file per subsystem, its reading and its writing side by side. The only place with sockets, message formats
//! and `unsafe`.

pub mod fault;

use crate::state::{Facts, Scope, State, Step};

/// Where state is read from and steps go to: the kernel, or in tests a stand-in that refuses illegal steps.
pub trait Backend {
    /// Reads the facts and the live state: all that is netrec's, and what foreign objects the scope asks for.
    fn facts(&mut self) -> Result<Facts, ReadError>;

    /// Reads the live state: all that carries netrec's mark, and those foreign objects that are in the way of the scope.
    fn live(&mut self, scope: &Scope) -> Result<State, ReadError>;

    /// Carries out steps of one phase, which do not depend on each other, and says of each how it went, in their order.
    /// A failed step does not keep the others from being tried; firewall steps succeed or fail together.
    fn run(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;

    /// How many messages or files were written since the beginning.
    fn writes(&self) -> u64;
}

/// Live state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Everything else.
    #[error("{0}")]
    Other(String),
}

/// A step failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// The kernel's error number, 0 where there is none.
    pub errno: i32,
    /// Operation, object and the kernel's own text.
    pub message: String,
}

/// The kernel.
#[derive(Debug)]
pub struct Linux {}
#[allow(missing_docs, clippy::todo)]
impl Linux {
    pub fn open() -> Result<Self, ReadError> {
        todo!()
    }
    pub fn host_id(&self) -> (u64, u64) {
        todo!()
    }
}
impl Backend for Linux {
    fn facts(&mut self) -> Result<Facts, ReadError> {
        todo!()
    }
    fn live(&mut self, _: &Scope) -> Result<State, ReadError> {
        todo!()
    }
    fn run(&mut self, _: &[Step]) -> Vec<Result<(), StepError>> {
        todo!()
    }
    fn writes(&self) -> u64 {
        todo!()
    }
}
