//! A configuration: with its ports, expectations and all messages about it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netrec::config::{Source, Sources, parse};

fuzz_target!(|text: &str| {
    let source = Source { name: "netrec.toml".into(), text: text.into() };
    match parse(Sources(vec![source])) {
        Ok(config) => drop(config.places()),
        Err(invalid) => drop(invalid.to_string()),
    }
});
