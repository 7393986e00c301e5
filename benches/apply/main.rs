//! How far netrec is from what the kernel itself takes, and how far ahead of others.
//!
//! Contenders take turns within each round, every one in network and mount namespaces of its own, and each is checked: who
//! takes netrec's names leaves the state that netrec leaves, at the others' last published port somebody answers. What is
//! shown are medians, of the times and of the rounds' ratios: on a busy machine times swing, ratios hardly.
//!
//! ```text
//! cargo bench --bench apply                                      # as root; 5 rounds of all
//! cargo bench --bench apply -- --only one --containers 50 --rounds 1
//! cargo bench --bench apply -- --only engines --engines 1000     # netavark, CNI and Docker with 1,000 containers
//! cargo bench --bench apply -- --check                           # exit with 1 when a ratio is missed
//! ```

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod bare;
#[path = "../shared/engines.rs"]
#[allow(dead_code)] // pairs of containers are for packets
mod engines;
mod iproute;
mod lab;
#[path = "../shared/mod.rs"]
mod shared;
mod wire;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use engines::Many;
use lab::{Lab, Size};
use shared::{Row, median};

/// Set where this program runs again inside of namespaces: what it does there.
const ROLE: &str = "NETREC_BENCH_ROLE";

struct Args {
    size: Size,
    /// Containers of those that take long.
    engines: usize,
    rounds: usize,
    only: Option<String>,
    check: bool,
}

impl Args {
    fn parse() -> Self {
        let size = Size { containers: 1000, networks: 0, ports: 1, both: false };
        let mut args = Self { size, engines: 100, rounds: 5, only: None, check: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|n| n.parse().ok()).expect("a number must follow");
            match word.as_str() {
                "--containers" => args.size.containers = number(),
                "--networks" => args.size.networks = number(),
                "--ports" => args.size.ports = number(),
                "--both" => args.size.both = true,
                "--engines" => args.engines = number(),
                "--rounds" => args.rounds = number(),
                "--only" => args.only = words.next(),
                "--check" => args.check = true,
                "--bench" => {} // cargo says so
                other => panic!("unknown argument {other}"),
            }
        }
        if args.size.networks == 0 {
            args.size.networks = args.size.containers.div_ceil(100);
        }
        args
    }

    /// What is measured: a name, how much there is to make, and who takes turns.
    fn cases(&self) -> Vec<Case> {
        let of = |containers: usize| Size { containers, networks: containers.div_ceil(100), ports: 1, both: false };
        let docker = of(self.engines.div_ceil(5));
        let cases = [
            Case { name: "one", size: self.size, roles: vec!["netrec", "bare", "iproute", "plan"] },
            Case { name: "five", size: Size { ports: 5, both: true, ..self.size }, roles: vec!["netrec", "bare"] },
            Case {
                name: "engines",
                size: of(self.engines),
                roles: vec!["netrec", "bare", "iproute", "netavark", "cni"],
            },
            Case { name: "docker", size: docker, roles: vec!["netrec", "docker"] },
        ];
        let wanted = |case: &Case| match self.only.as_deref() {
            Some("engines") => ["engines", "docker"].contains(&case.name),
            Some(only) => only == case.name,
            None => true,
        };
        cases.into_iter().filter(wanted).collect()
    }
}

struct Case {
    name: &'static str,
    size: Size,
    roles: Vec<&'static str>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Ok(role) = std::env::var(ROLE) {
        play(&role, args.size);
        return ExitCode::SUCCESS;
    }
    assert!(nix::unistd::geteuid().is_root(), "only root can make a thousand namespaces");
    let mut cases = args.cases();
    for case in &mut cases {
        case.roles.retain(|role| match engines::obstacle(role) {
            Some(why) => {
                println!("not measured: {role}: {why}");
                false
            }
            None => true,
        });
    }
    let mut times = Times::default();
    for round in 0..args.rounds {
        for case in &mut cases {
            for role in &case.roles {
                eprintln!("round {} of {}: {} {role}", round + 1, args.rounds, case.name);
                for (what, time) in lab::again(role, case.size) {
                    times.0.entry(format!("{}: {what}", case.name)).or_default().push(time);
                }
            }
            case.roles.rotate_left(1);
        }
    }
    report(&args, &cases, &times)
}

/// What one contender does in its namespaces. Prints the name and the nanoseconds of everything it measured.
fn play(role: &str, size: Size) {
    let lab = Lab::enter(size);
    let many = Many { containers: size.containers, networks: size.networks };
    match role {
        "netrec" => {
            lab::say("apply netrec", lab.netrec("apply"));
            lab.check();
            lab::say("destroy netrec", lab.netrec("destroy"));
            lab.check_nothing_left();
        }
        "bare" => {
            let recipe = bare::Recipe::of(&lab.desired());
            lab::say("apply bare", shared::timed(|| recipe.apply()));
            lab.check();
            lab::say("destroy bare", shared::timed(|| recipe.destroy()));
            lab.check_nothing_left();
        }
        "iproute" => {
            // What the table is called in nft's own words is known to nft alone.
            lab.netrec("apply");
            let script = iproute::Script::write(&lab.desired());
            lab.netrec("destroy");
            lab::settle();
            lab::say("apply iproute", shared::timed(|| script.run()));
            lab.check_all_but("promote_secondaries");
            lab.netrec("destroy");
        }
        "plan" => {
            lab.netrec("apply");
            let reading = bare::Reading::of(&lab.desired());
            // The first run finds cold caches, whosever it is.
            reading.run();
            lab.netrec("plan");
            for _ in 0..3 {
                lab::say("plan netrec", lab.netrec("plan"));
                lab::say("plan bare", shared::timed(|| reading.run()));
            }
            lab.check();
            lab.netrec("destroy");
        }
        "netavark" => lab::say("apply netavark", engines::netavark(many)),
        "cni" => lab::say("apply cni", engines::cni(many)),
        "docker" => match engines::docker(many) {
            Ok(time) => lab::say("apply docker", time),
            Err(why) => eprintln!("not measured: docker: {why}"),
        },
        other => panic!("no such role: {other}"),
    }
    if !["netavark", "cni", "docker"].contains(&role) {
        lab::settle();
    }
}

/// All that was measured, by name, in the order of the rounds.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<Duration>>);

impl Times {
    /// Seconds; empty where it was not measured.
    fn of(&self, what: &str) -> Vec<f64> {
        self.0.get(what).into_iter().flatten().map(Duration::as_secs_f64).collect()
    }

    /// The median of the rounds' ratios.
    fn ratio(&self, what: &str, to: &str) -> Option<f64> {
        let (what, to) = (self.of(what), self.of(to));
        (!what.is_empty() && !to.is_empty()).then(|| shared::ratio(&what, &to))
    }
}

fn report(args: &Args, cases: &[Case], times: &Times) -> ExitCode {
    let mut kept = Vec::new();
    for case in cases {
        let Size { containers, networks, ports, both } = case.size;
        let families = if both { "IPv4 and IPv6" } else { "IPv4" };
        println!("{containers} containers on {networks} networks, {ports} published ports each, {families}");
        println!(
            "{:<16} {:>10} {:>10} {:>10} {:>14} {:>12}",
            "", "median", "least", "most", "per container", "to apply"
        );
        let prefix = format!("{}: ", case.name);
        for (name, all) in &times.0 {
            let Some(what) = name.strip_prefix(&prefix) else { continue };
            let mut all: Vec<f64> = all.iter().map(|time| time.as_secs_f64() * 1e3).collect();
            all.sort_by(f64::total_cmp);
            let [middle, least, most] = [median(all.clone()), all[0], all[all.len() - 1]];
            #[allow(clippy::cast_precision_loss)] // thousands
            let each = middle / containers as f64;
            print!("{what:<16} {middle:>7.1} ms {least:>7.1} ms {most:>7.1} ms {each:>11.2} ms");
            match times.ratio(name, &format!("{prefix}apply netrec")) {
                Some(ratio) if what.starts_with("apply") => println!(" {ratio:>12.2}"),
                _ => println!(),
            }
            kept.push(Row { what: name.clone(), size: containers, value: middle, unit: "ms" });
        }
        println!();
    }
    let destroy = times.of("one: destroy netrec");
    let rows = [
        ("apply to the bare messages", times.ratio("one: apply netrec", "one: apply bare"), Some(("at most", 1.15))),
        (
            "the same with 5 ports and IPv6",
            times.ratio("five: apply netrec", "five: apply bare"),
            Some(("at most", 1.2)),
        ),
        ("ip -batch to apply", times.ratio("one: apply iproute", "one: apply netrec"), Some(("at least", 6.0))),
        (
            "netavark to apply",
            times.ratio("engines: apply netavark", "engines: apply netrec"),
            Some(("at least", 50.0)),
        ),
        ("CNI plugins to apply", times.ratio("engines: apply cni", "engines: apply netrec"), None),
        ("Docker to apply", times.ratio("docker: apply docker", "docker: apply netrec"), None),
        ("no-op plan to the bare dumps", times.ratio("one: plan netrec", "one: plan bare"), Some(("at most", 1.25))),
        ("destroy to the bare removal", times.ratio("one: destroy netrec", "one: destroy bare"), None),
        ("destroy in seconds", (!destroy.is_empty()).then(|| median(destroy)), Some(("at most", 1.2))),
    ];
    let mut missed = false;
    for (what, value, bound) in rows {
        let Some(value) = value else { continue };
        print!("{what:<34} {value:>6.2}");
        if let Some((word, bound)) = bound {
            let good = if word == "at least" { value >= bound } else { value <= bound };
            missed |= !good;
            print!("   {word} {bound}: {}", if good { "met" } else { "MISSED" });
        }
        println!();
        kept.push(Row { what: what.into(), size: args.size.containers, value, unit: "times" });
    }
    shared::keep("apply", &kept);
    if args.check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
