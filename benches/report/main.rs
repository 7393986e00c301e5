//! What the other benches kept in `docs/performance/*.csv`, as a table of aims in `docs/performance.md` and as pictures. Measures
//! nothing; `make bench` runs it last.

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod plot;
#[path = "../shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use shared::run;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
const BEGIN: &str = "<!-- What is between these lines, `make bench` writes. -->\n";
const END: &str = "<!-- So far. -->\n";

/// Figures by bench, name and size; none of benches that did not run.
struct Figures(BTreeMap<(&'static str, String, usize), f64>);

impl Figures {
    fn read() -> Self {
        let mut figures = BTreeMap::new();
        for bench in ["apply", "size", "ports", "path", "overlay"] {
            let text = fs::read_to_string(format!("{DOCS}/performance/{bench}.csv")).unwrap_or_default();
            for line in text.lines().skip(1) {
                let [what, size, value, _unit] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
                figures.insert((bench, what.to_owned(), size.parse().unwrap()), value.parse().unwrap());
            }
        }
        Self(figures)
    }

    fn get(&self, bench: &'static str, what: &str, size: usize) -> Option<f64> {
        self.0.get(&(bench, what.to_owned(), size)).copied()
    }

    /// Of whatever size it was measured with.
    fn any(&self, bench: &'static str, what: &str) -> Option<f64> {
        self.0.iter().find(|((b, w, _), _)| *b == bench && w == what).map(|(_, value)| *value)
    }

    /// By size, in its order.
    fn curve(&self, what: &str) -> Vec<(f64, f64)> {
        #[allow(clippy::cast_precision_loss)] // thousands
        let of = |((bench, w, size), value): (&(&str, String, usize), &f64)| {
            (*bench == "size" && w == what).then_some((*size as f64, *value))
        };
        self.0.iter().filter_map(of).collect()
    }
}

/// What is aimed at.
enum Aim {
    AtMost(f64),
    AtLeast(f64),
}
use Aim::{AtLeast, AtMost};

type Line = (&'static str, Aim, &'static str, Option<f64>);

fn lines(figures: &Figures) -> Vec<Line> {
    let apply = |what| figures.any("apply", what);
    let size = |what, size| figures.get("size", what, size);
    let over = |what, plan, count| Some(size(what, count)? - size(plan, count)?);
    let linear = || Some(size("no-op plan", 5_000)? / size("no-op plan", 1_000)? / 5.0);
    let path = |way: &str| figures.any("path", &format!("{way}: netrec: stream to that by hand"));
    vec![
        (
            "apply, 1,000 containers on 10 networks, a port each",
            AtMost(1.15),
            "× the bare messages",
            apply("apply to the bare messages"),
        ),
        ("`ip -batch` and `nft -f` of the same", AtLeast(6.0), "× apply", apply("ip -batch to apply")),
        ("netavark, for 100 of them", AtLeast(50.0), "× apply", apply("netavark to apply")),
        (
            "apply, with 5 ports each, IPv4 and IPv6",
            AtMost(1.2),
            "× the bare messages",
            apply("the same with 5 ports and IPv6"),
        ),
        ("no-op plan, 10 containers", AtMost(6.0), "ms", size("no-op plan", 10)),
        ("no-op plan, 1,000 containers", AtMost(1.25), "× the bare dumps", apply("no-op plan to the bare dumps")),
        ("no-op plan, 5,000 containers, for each", AtMost(1.1), "× one of 1,000", linear()),
        (
            "one container added to 1,000, over the no-op plan",
            AtMost(5.0),
            "ms",
            over("one container added", "no-op plan", 1_000),
        ),
        ("destroy, 1,000 containers", AtMost(1_200.0), "ms", size("destroy", 1_000)),
        (
            "10,000 ports added, over the no-op plan",
            AtMost(40.0),
            "ms",
            over("ports added", "no-op plan with ports", 10_000),
        ),
        (
            "one of 10,000 ports changed, over the no-op plan",
            AtMost(2.0),
            "ms",
            over("one port changed", "no-op plan with ports", 10_000),
        ),
        ("peak memory, 1,000 containers", AtMost(40.0), "MiB", size("peak memory", 1_000)),
        ("peak memory, 5,000 containers", AtMost(150.0), "MiB", size("peak memory", 5_000)),
        ("validate, 10,000 containers", AtMost(150.0), "ms", size("validate", 10_000)),
        (
            "a connection through the last of 10,000 ports",
            AtMost(1.15),
            "× through the only one",
            figures.any("ports", "the last of 10000 ports: connection to that of one port"),
        ),
        ("a stream through a published port", AtLeast(0.97), "× by hand", path("published port")),
        ("a stream over a bridge", AtLeast(0.97), "× by hand", path("bridge")),
        (
            "a stream over VXLAN",
            AtLeast(0.97),
            "× by hand",
            figures.any("overlay", "bridged packets do not: netrec: stream to that by hand"),
        ),
        ("the program, stripped", AtMost(6.0), "MB", figures.any("size", "binary")),
    ]
}

/// Three digits, and no more than are worth something.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn aims(figures: &Figures) -> String {
    let mut text = String::from("| what | aim | measured | |\n|---|---|---|---|\n");
    for (what, aim, unit, value) in lines(figures) {
        let (word, bound) = match aim {
            AtMost(bound) => ("at most", bound),
            AtLeast(bound) => ("at least", bound),
        };
        let (value, met) = value.map_or(("not measured".into(), ""), |value| {
            let good = if matches!(aim, AtMost(_)) { value <= bound } else { value >= bound };
            (format!("{} {unit}", shown(value)), if good { "met" } else { "**missed**" })
        });
        let _ = writeln!(text, "| {what} | {word} {bound} {unit} | {value} | {met} |");
    }
    text
}

/// Who takes how long for each container.
fn contenders(figures: &Figures) -> String {
    let mut text = String::from("| | containers | median | for each | × apply |\n|---|---|---|---|---|\n");
    for (case, contender, name) in [
        ("one", "netrec", "`netrec apply -y`"),
        ("one", "bare", "the bare messages"),
        ("one", "iproute", "`ip -batch`, `nft -f`"),
        ("engines", "netrec", "`netrec apply -y`"),
        ("engines", "iproute", "`ip -batch`, `nft -f`"),
        ("engines", "netavark", "netavark"),
        ("engines", "cni", "CNI: bridge, portmap"),
        ("docker", "netrec", "`netrec apply -y`"),
        ("docker", "docker", "Docker"),
    ] {
        let of = |contender: &str| {
            let wanted = format!("{case}: apply {contender}");
            figures.0.iter().find(|((bench, what, _), _)| *bench == "apply" && *what == wanted)
        };
        let (Some(((.., size), time)), Some((_, apply))) = (of(contender), of("netrec")) else {
            let _ = writeln!(text, "| {name} | | not measured | | |");
            continue;
        };
        #[allow(clippy::cast_precision_loss)] // thousands
        let each = time / *size as f64;
        let _ =
            writeln!(text, "| {name} | {size} | {} ms | {} ms | {} |", shown(*time), shown(each), shown(time / apply));
    }
    text
}

fn ways(figures: &Figures) -> String {
    let mut text =
        String::from("| | | one TCP stream | × by hand | a connection | × by hand |\n|---|---|---|---|---|---|\n");
    for way in ["published port", "hairpin", "masquerade", "bridge"] {
        for (maker, name) in [("netrec", "netrec"), ("hand", "by hand"), ("netavark", "netavark"), ("docker", "Docker")]
        {
            let get = |what: &str| figures.any("path", &format!("{way}: {maker}: {what}"));
            let all = ["stream", "stream to that by hand", "connection", "connection to that by hand"].map(get);
            let [Some(stream), Some(speed), Some(connection), Some(time)] = all else { continue };
            let _ = writeln!(
                text,
                "| {way} | {name} | {} Gbit/s | {speed:.2} | {} µs | {time:.2} |",
                shown(stream),
                shown(connection)
            );
        }
    }
    text
}

/// When, on what, with which versions.
fn machine() -> String {
    let said = |script: &str| run(Command::new("sh").args(["-c", script])).trim().to_owned();
    let cpu = said("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1");
    let versions = said(
        "nft --version | cut -d' ' -f1,2; ip -V | sed 's/.*\\(iproute2[^,]*\\).*/\\1/'; rustc -V | cut -d' ' -f1,2
         for p in netavark containernetworking-plugins docker.io; do dpkg-query -W -f '${Package} ${Version}\\n' $p 2>/dev/null || :; done",
    );
    format!(
        "{}; {} CPUs ({cpu}), Linux {}, load {} at the end; {}.\n",
        said("date '+%-d %B %Y'"),
        said("nproc"),
        said("uname -r | cut -d- -f1"),
        said("cut -d' ' -f1 /proc/loadavg"),
        versions.lines().collect::<Vec<_>>().join(", ")
    )
}

fn main() {
    let figures = Figures::read();
    let (aims, contenders, ways) = (aims(&figures), contenders(&figures), ways(&figures));
    println!("{aims}\n{contenders}\n{ways}");
    let containers = ["apply", "destroy", "one container added", "no-op plan"].map(|what| (what, figures.curve(what)));
    plot::draw(&format!("{DOCS}/performance/containers.svg"), "containers", &containers);
    let ports = ["ports added", "one port changed", "no-op plan with ports"].map(|what| (what, figures.curve(what)));
    plot::draw(&format!("{DOCS}/performance/ports.svg"), "published ports", &ports);
    let path = format!("{DOCS}/performance.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the line where the tables begin");
    let (_, after) = rest.split_once(END).expect("the line where the tables end");
    let pictures = "![time against containers](performance/containers.svg)\n\n![time against published ports](performance/ports.svg)";
    let made = format!("\n{}\n{aims}\n{contenders}\n{ways}\n{pictures}\n\n", machine());
    fs::write(path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
}
