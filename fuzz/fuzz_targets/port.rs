//! The text of a published port: with its place and all messages about it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netrec::config::fuzzing::port;

fuzz_target!(|text: &str| match port(text) {
    Ok(config) => drop(config.places()),
    Err(invalid) => drop(invalid.to_string()),
});
