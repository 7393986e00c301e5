//! A line of `expect`: with its place and all messages about it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netrec::config::fuzzing::expect;

fuzz_target!(|text: &str| match expect(text) {
    Ok(config) => drop(config.places()),
    Err(invalid) => drop(invalid.to_string()),
});
