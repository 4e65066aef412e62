//! What the spool tells a scrape. Every series of a closed set is there from the start, with 0.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, exponential_buckets,
};

use super::Reason;
use crate::name::Name;

#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) bytes: IntGauge,
    pub(super) capacity_bytes: IntGauge,
    pub(super) disk_available_bytes: IntGauge,
    pub(super) commit_seconds: Histogram,
    pub(super) commit_batch: Histogram,
    notifications: [IntGauge; State::ALL.len()],
    errors: [IntCounter; Op::ALL.len()],
    quarantine: [IntGauge; Reason::ALL.len()],
    /// As if it were one more reason of quarantine.
    pub(super) unverified: IntGauge,
    dropped: [IntCounter; Dropped::ALL.len()],
    dead_letters: IntGaugeVec,
    deliveries: IntCounterVec,
    pub(super) ledger_imbalance: IntGauge,
    pending: IntGaugeVec,
    oldest_pending: GaugeVec,
    /// Of the disk beside a shared spool.
    fallback: [IntGauge; State::ALL.len()],
}

/// The series of one target.
#[derive(Clone, Debug)]
pub(super) struct TargetMetrics {
    pub pending: IntGauge,
    pub dead_letters: IntGauge,
    pub delivered: IntCounter,
    pub dead_lettered: IntCounter,
    pub discarded: IntCounter,
    /// 0 if nothing is pending.
    pub oldest_pending: Gauge,
}

/// How a notification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A delivery is still to be made.
    Pending,
    /// A dead letter, or in quarantine: an operator's.
    Held,
    /// Every target has it.
    Settled,
}

/// What failed, in `spool_errors_total{op}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Commit,
    Checkpoint,
    Read,
    /// A submission refused for want of room.
    Full,
}

/// Why an unverified request was not kept, in `unverified_dropped_total{cause}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// More came than is kept of one peer, or of all.
    Rate,
    /// More waited for the disk than may wait.
    Busy,
    /// It could not be written, or is larger than the ring.
    Failed,
}

impl Metrics {
    /// # Errors
    /// If `registry` already holds one of these names.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let notifications = notifications(registry)?;
        let fallback = fallback(registry)?;
        let quarantine = gauges(
            registry,
            "suki_relay_quarantine",
            "Authentic notifications held in quarantine, and requests kept as `unverified`.",
            "reason",
        )?;
        let errors = errors(registry)?;
        let dropped = counters(
            registry,
            "suki_relay_unverified_dropped_total",
            "Requests with a signature of no secret that were not kept.",
            "cause",
        )?;
        Ok(Self {
            bytes: gauge(
                registry,
                "suki_relay_spool_bytes",
                "Bytes of the spool in use: pages, and write-ahead log not yet copied into them.",
            )?,
            capacity_bytes: gauge(
                registry,
                "suki_relay_spool_capacity_bytes",
                "Bytes above which new notifications are refused.",
            )?,
            disk_available_bytes: gauge(
                registry,
                "suki_relay_spool_disk_available_bytes",
                "Bytes that the file system of the spool has left for it.",
            )?,
            commit_seconds: histogram(
                registry,
                "suki_relay_spool_commit_duration_seconds",
                "Time of one commit, its sync included.",
                exponential_buckets(50e-6, 2.0, 18)?,
            )?,
            commit_batch: histogram(
                registry,
                "suki_relay_spool_commit_batch",
                "Submissions and settlements that shared one commit.",
                exponential_buckets(1.0, 2.0, 12)?,
            )?,
            notifications: State::ALL
                .map(|state| notifications.with_label_values(&[state.as_str()])),
            errors: Op::ALL.map(|op| errors.with_label_values(&[op.as_str()])),
            quarantine: Reason::ALL.map(|reason| quarantine.with_label_values(&[reason.as_str()])),
            unverified: quarantine.with_label_values(&["unverified"]),
            dropped: Dropped::ALL.map(|cause| dropped.with_label_values(&[cause.as_str()])),
            deliveries: deliveries(registry)?,
            ledger_imbalance: gauge(
                registry,
                "suki_relay_ledger_imbalance",
                "Deliveries by which the ledger and the rows pending or dead differ: always 0.",
            )?,
            dead_letters: gauges(
                registry,
                "suki_relay_dead_letters",
                "Deliveries that gave up and wait for an operator.",
                "target",
            )?,
            pending: gauges(
                registry,
                "suki_relay_deliveries_pending",
                "Deliveries still to be made.",
                "target",
            )?,
            oldest_pending: oldest_pending(registry)?,
            fallback: State::ALL.map(|state| fallback.with_label_values(&[state.as_str()])),
        })
    }

    /// For the disk beside a shared spool: what is there has series of its own, what fails there is counted
    /// with the rest, and all else is the shared spool's to show.
    pub(super) fn beside(&self) -> prometheus::Result<Self> {
        Ok(Self {
            notifications: self.fallback.clone(),
            errors: self.errors.clone(),
            disk_available_bytes: self.disk_available_bytes.clone(),
            ..Self::new(&Registry::new())?
        })
    }

    pub(super) fn target(&self, target: &Name) -> TargetMetrics {
        let label = [target.as_str()];
        let deliveries = |result| self.deliveries.with_label_values(&[label[0], result]);
        TargetMetrics {
            pending: self.pending.with_label_values(&label),
            dead_letters: self.dead_letters.with_label_values(&label),
            delivered: deliveries("delivered"),
            dead_lettered: deliveries("dead_lettered"),
            discarded: deliveries("discarded"),
            oldest_pending: self.oldest_pending.with_label_values(&label),
        }
    }

    pub(super) fn notifications(&self, state: State) -> &IntGauge {
        &self.notifications[state as usize]
    }

    pub(super) fn quarantine(&self, reason: Reason) -> &IntGauge {
        &self.quarantine[reason as usize]
    }

    pub(super) fn error(&self, op: Op) {
        self.errors[op as usize].inc();
    }

    pub(super) fn dropped(&self, cause: Dropped) {
        self.dropped[cause as usize].inc();
    }

    #[cfg(test)]
    pub(super) fn fallback(&self, state: State) -> &IntGauge {
        &self.fallback[state as usize]
    }

    #[cfg(test)]
    pub(super) fn error_count(&self, op: Op) -> u64 {
        self.errors[op as usize].get()
    }

    #[cfg(test)]
    pub(super) fn dropped_count(&self, cause: Dropped) -> u64 {
        self.dropped[cause as usize].get()
    }
}

impl State {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Held, Self::Settled];

    /// How a notification stands with so many deliveries pending and dead.
    pub const fn of(pending: i64, dead: i64, quarantined: bool) -> Self {
        if pending > 0 {
            Self::Pending
        } else if dead > 0 || quarantined {
            Self::Held
        } else {
            Self::Settled
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Settled => "settled",
        }
    }
}

impl Op {
    pub const ALL: [Self; 4] = [Self::Commit, Self::Checkpoint, Self::Read, Self::Full];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Checkpoint => "checkpoint",
            Self::Read => "read",
            Self::Full => "full",
        }
    }
}

impl Dropped {
    pub const ALL: [Self; 3] = [Self::Rate, Self::Busy, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntGaugeVec> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn notifications(registry: &Registry) -> prometheus::Result<IntGaugeVec> {
    gauges(
        registry,
        "suki_relay_spool_notifications",
        "Notifications in the spool: pending, held for an operator, or settled.",
        "state",
    )
}

fn fallback(registry: &Registry) -> prometheus::Result<IntGaugeVec> {
    gauges(
        registry,
        "suki_relay_spool_fallback_notifications",
        "Notifications on the disk beside a shared spool: those not settled wait to be moved there.",
        "state",
    )
}

fn deliveries(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let opts = Opts::new(
        "suki_relay_deliveries_total",
        "Deliveries that came to their end, each time they did.",
    );
    let counters = IntCounterVec::new(opts, &["target", "result"])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn errors(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    counters(
        registry,
        "suki_relay_spool_errors_total",
        "Operations of the spool that failed.",
        "op",
    )
}

fn oldest_pending(registry: &Registry) -> prometheus::Result<GaugeVec> {
    let opts = Opts::new(
        "suki_relay_oldest_pending_timestamp_seconds",
        "When the oldest notification still owed to the target was received; 0 if none is.",
    );
    let gauges = GaugeVec::new(opts, &["target"])?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> prometheus::Result<Histogram> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}
