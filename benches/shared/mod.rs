//! What the benches have in common: medians, and where the figures are kept.

#![allow(dead_code)] // each uses its own part

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A figure of a bench.
pub(crate) struct Row {
    pub(crate) what: String,
    /// How many there are of what it grows with: containers, ports.
    pub(crate) size: usize,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// Runs a program that must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The median; there must be a value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The median of the rounds' ratios.
pub(crate) fn ratio(values: &[f64], to: &[f64]) -> f64 {
    median(values.iter().zip(to).map(|(a, b)| a / b).collect())
}

/// Writes the figures to `docs/performance/NAME.csv` where `make bench` asks for it.
pub(crate) fn keep(name: &str, rows: &[Row]) {
    if std::env::var_os("NETREC_BENCH_KEEP").is_none() {
        return;
    }
    let mut text = String::from("what,size,value,unit\n");
    for Row { what, size, value, unit } in rows {
        let _ = writeln!(text, "{what},{size},{value:.6},{unit}");
    }
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance"));
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name).with_extension("csv"), text).unwrap();
}
