//! What `watch` counts, as Prometheus reads it. Rounds are counted as they end; connections are looked up when somebody asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Cause;
use crate::config::Config;
use crate::kernel::Linux;
use crate::reconcile::Prepared;
use crate::reconcile::entrances::{Entrance, Part, Use, entrances, use_of};
use crate::state::{Kind, Traffic};

pub(super) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// There was nothing to do.
    Unchanged,
    /// The kernel was made what the file wants.
    Changed,
    /// It could not be.
    Failed,
    /// A change waits to be confirmed, or was taken back.
    Held,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Unchanged, Self::Changed, Self::Failed, Self::Held];

    fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Failed => "failed",
            Self::Held => "held",
        }
    }
}

/// What was counted so far.
#[derive(Debug)]
pub(super) struct Metrics {
    figures: Mutex<Figures>,
    /// Whether anybody can ask: else nobody needs to know of ports.
    served: bool,
}

#[derive(Clone, Debug, Default)]
struct Figures {
    reconciles: BTreeMap<Outcome, u64>,
    repaired: BTreeMap<Kind, u64>,
    fights: u64,
    last_success: Option<SystemTime>,
    objects: BTreeMap<Kind, u64>,
    /// Failures in a row, and the pause after the last.
    failures: u64,
    pause: Duration,
    bad_file: bool,
    entrances: Arc<[Entrance]>,
}

impl Metrics {
    pub(super) fn new(served: bool) -> Self {
        Self { figures: Mutex::default(), served }
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        // They are whole whenever the lock is let go.
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A round went well.
    pub(super) fn converged(&self, config: &Config, prepared: &Prepared, cause: Cause) {
        let actions = &prepared.plan.actions;
        let mut figures = self.figures();
        let outcome = if actions.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
        *figures.reconciles.entry(outcome).or_default() += 1;
        (figures.last_success, figures.failures, figures.pause) = (Some(SystemTime::now()), 0, Duration::ZERO);
        if cause == Cause::Drift {
            for action in actions {
                *figures.repaired.entry(action.key.kind()).or_default() += 1;
            }
        }
        if self.served && (cause == Cause::File || !actions.is_empty()) {
            figures.objects.clear();
            for (key, _) in &prepared.desired {
                *figures.objects.entry(key.kind()).or_default() += 1;
            }
            // What has been planned has a part.
            let part = Part::of(config, prepared.facts.members.as_deref(), &prepared.plan.host);
            figures.entrances = part.map(|part| entrances(&part, &prepared.desired)).unwrap_or_default().into();
        }
    }

    /// A round failed, and is tried again after this pause.
    pub(super) fn failed(&self, pause: Duration) {
        let mut figures = self.figures();
        *figures.reconciles.entry(Outcome::Failed).or_default() += 1;
        figures.failures += 1;
        figures.pause = pause;
    }

    /// Nothing had happened: all is as it was left.
    pub(super) fn at_rest(&self) {
        let mut figures = self.figures();
        *figures.reconciles.entry(Outcome::Unchanged).or_default() += 1;
        figures.last_success = Some(SystemTime::now());
    }

    /// Nothing was to be done.
    pub(super) fn held(&self) {
        *self.figures().reconciles.entry(Outcome::Held).or_default() += 1;
    }

    /// Whether the files can be used.
    pub(super) fn file(&self, bad: bool) {
        self.figures().bad_file = bad;
    }

    /// Somebody undoes what is repaired.
    pub(super) fn fight(&self) {
        self.figures().fights += 1;
    }

    /// All of it as text, with the connections that there are now.
    pub(super) fn text(&self) -> String {
        let figures = self.figures().clone();
        let entrances = figures.entrances.clone();
        let uses = Linux::open().and_then(|mut kernel| use_of(&mut kernel, &entrances)).ok();
        let mut registry = Registry::with_prefix("netrec");
        registry.register_collector(Box::new(Page { figures, uses }));
        let mut text = String::new();
        // Into a text nothing can fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// One page, with how each port is used; none where that could not be read.
#[derive(Debug)]
struct Page {
    figures: Figures,
    uses: Option<Vec<Use>>,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = &self.figures;
        let e = &mut encoder;
        let reconciles = Outcome::ALL.map(|outcome| {
            (vec![("result", outcome.as_str())], figures.reconciles.get(&outcome).copied().unwrap_or_default())
        });
        counters(e, "reconciles", "Rounds of read, plan and apply, by how they ended", reconciles)?;
        // A series should be there before it first counts something.
        let kinds: BTreeSet<Kind> = figures.objects.keys().chain(figures.repaired.keys()).copied().collect();
        let of = |counts: &BTreeMap<Kind, u64>, kind: &Kind| counts.get(kind).copied().unwrap_or_default();
        let by_kind = |counts: &BTreeMap<Kind, u64>| -> Vec<(Labels<'_>, u64)> {
            kinds.iter().map(|kind| (vec![("kind", kind.as_str())], of(counts, kind))).collect()
        };
        let help = "Objects that others had changed and that were put right, by kind";
        counters(e, "drift_repaired", help, by_kind(&figures.repaired))?;
        let help = "Pauses taken because somebody undid each repair of the same objects";
        counters(e, "fights", help, [(vec![], figures.fights)])?;
        let last = figures.last_success.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let help = "When the kernel was last found or made what the file wants, in seconds since 1970; 0 for never";
        gauges(e, "last_success_timestamp_seconds", help, [(vec![], last.unwrap_or_default().as_secs_f64())])?;
        gauges(e, "objects", "Objects that the file wants on this host, by kind", by_kind(&figures.objects))?;
        let help = "Rounds that failed since the last that went well";
        gauges(e, "consecutive_failures", help, [(vec![], figures.failures)])?;
        let help = "The pause between the last failure and the next try";
        gauges(e, "retry_seconds", help, [(vec![], figures.pause.as_secs())])?;
        let help = "1 while the files cannot be used, so that the last good ones stay in force";
        gauges(e, "file_unusable", help, [(vec![], u64::from(figures.bad_file))])?;
        let version = [(vec![("version", env!("CARGO_PKG_VERSION"))], 1u64)];
        gauges(e, "build_info", "The running netrec", version)?;
        let help = "1 where connections and counters could not be read, so that there are no figures of ports";
        gauges(e, "ports_unreadable", help, [(vec![], u64::from(self.uses.is_none()))])?;
        self.ports(e)
    }
}

impl Page {
    fn ports(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(uses) = &self.uses else { return Ok(()) };
        let names: Vec<[String; 3]> = self.figures.entrances.iter().map(names).collect();
        // Two of one container may differ in nothing that is said of them.
        let mut connections: BTreeMap<Labels<'_>, u64> = BTreeMap::new();
        let mut traffic: BTreeMap<Labels<'_>, Traffic> = BTreeMap::new();
        for ((entrance, [address, host, to]), used) in self.figures.entrances.iter().zip(&names).zip(uses) {
            let labels = vec![
                ("container", entrance.container.as_str()),
                ("address", address),
                ("port", host),
                ("protocol", entrance.port.protocol.as_str()),
                ("container_port", to),
            ];
            if let Some(Traffic { packets, bytes }) = used.traffic {
                let sum = traffic.entry(labels.clone()).or_default();
                (sum.packets, sum.bytes) = (sum.packets.saturating_add(packets), sum.bytes.saturating_add(bytes));
            }
            *connections.entry(labels).or_default() += used.connections;
        }
        gauges(encoder, "port_connections", "Tracked connections by each published port", connections)?;
        if traffic.is_empty() {
            return Ok(());
        }
        let of = |what: fn(&Traffic) -> u64| traffic.iter().map(move |(labels, one)| (labels.clone(), what(one)));
        let help = "Packets of flows to each published port, both ways";
        counters(encoder, "port_packets", help, of(|one| one.packets))?;
        let help = "Bytes of flows to each published port, both ways, from the IP header on";
        counters(encoder, "port_bytes", help, of(|one| one.bytes))
    }
}

/// The host's address and ports, and the container's ports.
fn names(entrance: &Entrance) -> [String; 3] {
    let address = entrance.address().map_or_else(|| "*".to_owned(), |ip| ip.to_string());
    [address, entrance.port.host.to_string(), entrance.port.container.to_string()]
}

fn counters<'a, N: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels<'a>, N)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    values.into_iter().try_for_each(|(labels, value)| ConstCounter::new(value).encode(metric.encode_family(&labels)?))
}

fn gauges<'a, N: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels<'a>, N)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    values.into_iter().try_for_each(|(labels, value)| ConstGauge::new(value).encode(metric.encode_family(&labels)?))
}
