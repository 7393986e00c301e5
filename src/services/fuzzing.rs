//! What a plugin may answer, by itself: for tests with bytes that no plugin sends.

use super::plugin::Plugin;

/// Reads an answer with a status as one to each call that answers something. Yields how many calls it answers, and what is
/// said of the others.
pub fn plugin(status: u16, body: &[u8]) -> (usize, Vec<String>) {
    Plugin::nobody().readings(status, body)
}
