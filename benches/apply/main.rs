//! How far netrec is from what the kernel itself takes, and how far ahead of `ip -batch`.
//!
//! Contenders take turns within each round, every one in network and mount namespaces of its own, and each is checked to
//! leave the state that the others leave. What is shown are medians, of the times and of the rounds' ratios: on a busy
//! machine times swing, ratios hardly.
//!
//! ```text
//! cargo bench --bench apply                                  # as root; 1000 containers on 10 networks, 5 rounds
//! cargo bench --bench apply -- --containers 50 --rounds 1
//! cargo bench --bench apply -- --check                       # exit with 1 when a ratio is missed
//! ```

// A program of its own that ends at the first thing that goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod iproute;
mod lab;
mod wire;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use lab::{Lab, Size};

/// Set where this program runs again inside of namespaces: what it does there.
const ROLE: &str = "NETREC_BENCH_ROLE";

struct Args {
    size: Size,
    rounds: usize,
    check: bool,
}

impl Args {
    fn parse() -> Self {
        let mut args = Self { size: Size { containers: 1000, networks: 0 }, rounds: 5, check: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|n| n.parse().ok()).expect("a number must follow");
            match word.as_str() {
                "--containers" => args.size.containers = number(),
                "--networks" => args.size.networks = number(),
                "--rounds" => args.rounds = number(),
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
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Ok(role) = std::env::var(ROLE) {
        play(&role, &args);
        return ExitCode::SUCCESS;
    }
    assert!(nix::unistd::geteuid().is_root(), "only root can make a thousand namespaces");
    let mut times = Times::default();
    let mut roles = ["apply-netrec", "apply-bare", "apply-iproute", "plan"];
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for role in roles {
            for (what, time) in lab::again(role, args.size) {
                times.0.entry(what).or_default().push(time);
            }
        }
        roles.rotate_left(1);
    }
    report(&args, &times)
}

/// What one contender does in its namespaces. Prints the name and the nanoseconds of everything it measured.
fn play(role: &str, args: &Args) {
    let lab = Lab::enter(args.size);
    match role {
        "apply-netrec" => {
            lab::say("apply netrec", lab.netrec("apply"));
            lab.check();
            lab::say("destroy netrec", lab.netrec("destroy"));
            lab.check_nothing_left();
        }
        "apply-bare" => {
            let recipe = bare::Recipe::of(&lab.desired());
            lab::say("apply bare", lab::timed(|| recipe.apply()));
            lab.check();
            lab::say("destroy bare", lab::timed(|| recipe.destroy()));
            lab.check_nothing_left();
        }
        "apply-iproute" => {
            // What the table is called in nft's own words is known to nft alone.
            lab.netrec("apply");
            let script = iproute::Script::write(&lab.desired());
            lab.netrec("destroy");
            lab::settle();
            lab::say("apply iproute", lab::timed(|| script.run()));
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
                lab::say("plan bare", lab::timed(|| reading.run()));
            }
            lab.check();
            lab.netrec("destroy");
        }
        other => panic!("no such role: {other}"),
    }
    lab::settle();
}

/// All that was measured, by name, in the order of the rounds.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<Duration>>);

impl Times {
    fn of(&self, what: &str) -> Vec<f64> {
        self.0[what].iter().map(Duration::as_secs_f64).collect()
    }

    /// The median of the rounds' ratios.
    fn ratio(&self, what: &str, to: &str) -> f64 {
        median(self.of(what).iter().zip(self.of(to)).map(|(a, b)| a / b).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn report(args: &Args, times: &Times) -> ExitCode {
    let Size { containers, networks } = args.size;
    println!("{containers} containers on {networks} networks, one published port each; {} rounds", args.rounds);
    println!("{:<16} {:>10} {:>10} {:>10}", "", "median", "least", "most");
    for what in times.0.keys() {
        let mut all = times.of(what);
        all.sort_by(f64::total_cmp);
        let [middle, least, most] = [median(all.clone()), all[0], all[all.len() - 1]].map(|s| s * 1e3);
        println!("{what:<16} {middle:>7.1} ms {least:>7.1} ms {most:>7.1} ms");
    }
    println!();
    let destroy = median(times.of("destroy netrec"));
    let rows = [
        ("apply, times the bare messages", times.ratio("apply netrec", "apply bare"), Some(("at most", 1.3))),
        ("ip -batch, times apply", times.ratio("apply iproute", "apply netrec"), Some(("at least", 5.0))),
        ("no-op plan, times the bare dumps", times.ratio("plan netrec", "plan bare"), Some(("at most", 1.5))),
        ("destroy, times the bare removal", times.ratio("destroy netrec", "destroy bare"), None),
        ("destroy, in seconds", destroy, Some(("at most", 2.0))),
    ];
    let mut missed = false;
    for (what, value, bound) in rows {
        print!("{what:<34} {value:>6.2}");
        if let Some((word, bound)) = bound {
            let good = if word == "at least" { value >= bound } else { value <= bound };
            missed |= !good;
            print!("   {word} {bound}: {}", if good { "met" } else { "MISSED" });
        }
        println!();
    }
    if args.check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
