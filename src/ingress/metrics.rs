//! What ingress counts.
//!
//! Labels come from the config and from closed enums. The series of every configured source are there
//! from the start, at 0, and a request looks its own up once, without allocating.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::clock::Timestamp;
use crate::name::Name;
use crate::routing::{Routing, Source};
use crate::spool::{Reason, Submission};

/// `source` of requests whose path is no source's.
const NO_SOURCE: &str = "none";

/// Seconds. The first is a warm SSD's commit, the last the longest `ack_timeout` worth having.
const ACK_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// What became of a request: the `result` of `requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    Accepted,
    Duplicate,
    Invalid,
    /// Too old, too far ahead, or the timestamp is no number.
    Stale,
    /// No route took it, or none could be evaluated.
    Unrouted,
    Unauthorized,
    TooLarge,
    Timeout,
    NotFound,
    Method,
    Unavailable,
}

/// Why a TLS handshake failed: the `reason` of `tls_handshake_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    Timeout,
    /// The client went away.
    Closed,
    /// No TLS, or broken TLS.
    Protocol,
    /// No version, cipher or key exchange in common.
    Incompatible,
    /// Absent, or not by the client CA.
    ClientCertificate,
    /// The client refused us, as a rule for our certificate.
    Alert,
    Other,
}

/// Why a connection was cut, or never taken: the `reason` of `connections_cut_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It made room for a newcomer.
    Full,
    /// It made room for another of its peer's.
    Share,
    /// It held most of a byte budget that was spent.
    Bytes,
    /// Its peer has its share, all of it proven.
    Refused,
}

#[derive(Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    matched: IntCounterVec,
    last_accepted: GaugeVec,
    route_errors: IntCounterVec,
    handshake_failures: IntCounterVec,
    ack_duration: Histogram,
    connections: IntGauge,
    connections_total: IntCounter,
    connections_cut: IntCounterVec,
    unmatched: Arc<Series>,
    sources: ArcSwap<BTreeMap<Name, Arc<Series>>>,
}

/// The counters of one source.
#[derive(Debug)]
pub struct Series {
    results: [IntCounter; Tally::ALL.len()],
    secrets: Vec<(Name, IntCounter)>,
    last_accepted: Option<prometheus::Gauge>,
}

/// Counts an open connection until dropped.
#[derive(Debug)]
pub struct Open(IntGauge);

impl Tally {
    /// Of what the spool takes.
    pub fn of(submission: &Submission) -> Self {
        match submission.quarantine {
            Some(Reason::Stale | Reason::Future | Reason::BadTimestamp) => Self::Stale,
            Some(Reason::Invalid) => Self::Invalid,
            _ if submission.targets.is_empty() => Self::Unrouted,
            _ => Self::Accepted,
        }
    }

    /// Kept, and nothing that anybody had seen before.
    pub const fn is_new(self) -> bool {
        matches!(self, Self::Accepted | Self::Invalid | Self::Unrouted)
    }

    pub const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Invalid,
        Self::Stale,
        Self::Unrouted,
        Self::Unauthorized,
        Self::TooLarge,
        Self::Timeout,
        Self::NotFound,
        Self::Method,
        Self::Unavailable,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Invalid => "invalid",
            Self::Stale => "stale",
            Self::Unrouted => "unrouted",
            Self::Unauthorized => "unauthorized",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::NotFound => "not_found",
            Self::Method => "method",
            Self::Unavailable => "unavailable",
        }
    }
}

impl HandshakeFailure {
    pub const ALL: [Self; 7] = [
        Self::Timeout,
        Self::Closed,
        Self::Protocol,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::Alert,
        Self::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "alert",
            Self::Other => "other",
        }
    }
}

impl Cut {
    pub const ALL: [Self; 4] = [Self::Full, Self::Share, Self::Bytes, Self::Refused];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Share => "share",
            Self::Bytes => "bytes",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// # Errors
    /// If the registry has a metric of one of these names already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let requests = counters(
            "requests_total",
            "Requests answered.",
            &["source", "result"],
        )?;
        let matched = counters(
            "signature_matched_total",
            "Requests verified, by the secret that made the signature.",
            &["source", "secret"],
        )?;
        let last_accepted = GaugeVec::new(
            opts(
                "last_accepted_timestamp_seconds",
                "When a notification of this source was last accepted for delivery.",
            ),
            &["source"],
        )?;
        let unmatched = Arc::new(Series {
            results: results(&requests, NO_SOURCE),
            secrets: Vec::new(),
            last_accepted: None,
        });
        let metrics = Self {
            requests,
            matched,
            last_accepted,
            route_errors: counters(
                "route_errors_total",
                "Routes that could not be evaluated.",
                &["route"],
            )?,
            handshake_failures: counters(
                "tls_handshake_failures_total",
                "TLS handshakes that failed.",
                &["reason"],
            )?,
            ack_duration: Histogram::with_opts(HistogramOpts {
                common_opts: opts(
                    "ack_duration_seconds",
                    "From a request's head to its answer, for what is kept.",
                ),
                buckets: ACK_BUCKETS.into(),
            })?,
            connections: IntGauge::with_opts(opts("connections", "Open connections."))?,
            connections_total: IntCounter::with_opts(opts(
                "connections_total",
                "Connections accepted.",
            ))?,
            connections_cut: counters(
                "connections_cut_total",
                "Connections that had to go, or were not taken, for others.",
                &["reason"],
            )?,
            unmatched,
            sources: ArcSwap::default(),
        };
        for reason in Cut::ALL {
            metrics
                .connections_cut
                .with_label_values(&[reason.as_str()]);
        }
        for reason in HandshakeFailure::ALL {
            let labels = [reason.as_str()];
            metrics.handshake_failures.with_label_values(&labels);
        }
        metrics.register(registry)?;
        Ok(metrics)
    }

    /// Makes the series of all that is configured. Call it before the routing is first used, and
    /// before each new version of it is.
    pub fn prepare(&self, routing: &Routing) {
        for route in routing.routes() {
            self.route_errors.with_label_values(&[route.name.as_str()]);
        }
        let sources = routing
            .sources()
            .iter()
            .map(|source| (source.name.clone(), Arc::new(self.make(source))));
        self.sources.store(Arc::new(sources.collect()));
    }

    /// The series of a source, or of requests that match none.
    pub(super) fn series(&self, source: Option<&Source>) -> Arc<Series> {
        let Some(source) = source else {
            return Arc::clone(&self.unmatched);
        };
        let known = self.sources.load().get(&source.name).cloned();
        // Only a request that still runs on the routing before a reload looks up by label.
        known.unwrap_or_else(|| Arc::new(self.make(source)))
    }

    pub(super) fn acked(&self, took: Duration) {
        self.ack_duration.observe(took.as_secs_f64());
    }

    pub(super) fn route_errors(&self, routes: &[Name]) {
        for route in routes {
            let counter = self.route_errors.with_label_values(&[route.as_str()]);
            counter.inc();
        }
    }

    pub(super) fn handshake_failed(&self, reason: HandshakeFailure) {
        let labels = [reason.as_str()];
        self.handshake_failures.with_label_values(&labels).inc();
    }

    pub(super) fn cut(&self, reason: Cut) {
        self.connections_cut
            .with_label_values(&[reason.as_str()])
            .inc();
    }

    pub(super) fn opened(&self) -> Open {
        self.connections_total.inc();
        self.connections.inc();
        Open(self.connections.clone())
    }

    fn make(&self, source: &Source) -> Series {
        let name = source.name.as_str();
        let matched = |secret: &Name| {
            let labels = [name, secret.as_str()];
            (secret.clone(), self.matched.with_label_values(&labels))
        };
        Series {
            results: results(&self.requests, name),
            secrets: source.keyring.names().map(matched).collect(),
            last_accepted: Some(self.last_accepted.with_label_values(&[name])),
        }
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.matched.clone()))?;
        registry.register(Box::new(self.last_accepted.clone()))?;
        registry.register(Box::new(self.route_errors.clone()))?;
        registry.register(Box::new(self.handshake_failures.clone()))?;
        registry.register(Box::new(self.ack_duration.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.connections_total.clone()))?;
        registry.register(Box::new(self.connections_cut.clone()))
    }
}

impl Series {
    pub(super) fn count(&self, tally: Tally) {
        self.results[tally as usize].inc();
    }

    pub(super) fn matched(&self, secret: &Name) {
        let series = self.secrets.iter().find(|(name, _)| name == secret);
        if let Some((_, counter)) = series {
            counter.inc();
        }
    }

    pub(super) fn accepted_at(&self, now: Timestamp) {
        if let Some(gauge) = &self.last_accepted {
            gauge.set(now.as_seconds());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("suki_relay")
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(opts(name, help), labels)
}

fn results(requests: &IntCounterVec, source: &str) -> [IntCounter; Tally::ALL.len()] {
    Tally::ALL.map(|tally| requests.with_label_values(&[source, tally.as_str()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_in_its_own_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("registers");
        for (index, tally) in Tally::ALL.into_iter().enumerate() {
            assert_eq!(tally as usize, index);
            metrics.series(None).count(tally);
            let labels = [NO_SOURCE, tally.as_str()];
            assert_eq!(metrics.requests.with_label_values(&labels).get(), 1);
        }
    }

    #[test]
    fn an_open_connection_is_counted_until_it_is_dropped() {
        let metrics = Metrics::new(&Registry::new()).expect("registers");
        let open = metrics.opened();
        assert_eq!(metrics.connections.get(), 1);
        drop(open);
        assert_eq!(metrics.connections.get(), 0);
        assert_eq!(metrics.connections_total.get(), 1);
    }
}
