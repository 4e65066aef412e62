//! What dispatch counts. Handles are looked up once a target, and never per attempt.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::name::Name;
use crate::target::{Outcome, Reason};

/// Upper ends in seconds, up to the longest timeout that makes sense.
const ATTEMPT_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];
/// From at once to three days.
const LATENCY_BUCKETS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 21_600.0, 86_400.0, 259_200.0,
];

/// The wing's metrics, over all targets.
#[derive(Clone)]
pub struct Metrics {
    attempts: IntCounterVec,
    attempt_duration: HistogramVec,
    delivery_latency: HistogramVec,
    in_flight: IntGaugeVec,
    breaker_open: IntGaugeVec,
    missing: IntGaugeVec,
}

/// One target's.
pub struct TargetMetrics {
    delivered_attempts: IntCounter,
    /// By `Reason as usize`.
    failed_attempts: [IntCounter; Reason::ALL.len()],
    pub attempt_duration: Histogram,
    pub delivery_latency: Histogram,
    pub in_flight: IntGauge,
    pub breaker_open: IntGauge,
    pub missing: IntGauge,
}

impl Metrics {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let gauge = |name, help| {
            let made = IntGaugeVec::new(Opts::new(name, help), &["target"])?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let histogram = |name, help, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let made = HistogramVec::new(options, &["target"])?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        Ok(Self {
            attempts: counter(
                "suki_relay_attempts_total",
                "Requests made to targets, by what they meant.",
                &["target", "outcome"],
            )?,
            attempt_duration: histogram(
                "suki_relay_attempt_duration_seconds",
                "Duration of one request to a target.",
                &ATTEMPT_BUCKETS,
            )?,
            delivery_latency: histogram(
                "suki_relay_delivery_latency_seconds",
                "From a notification's acceptance to its delivery.",
                &LATENCY_BUCKETS,
            )?,
            in_flight: gauge(
                "suki_relay_deliveries_in_flight",
                "Requests to a target that are under way.",
            )?,
            breaker_open: gauge(
                "suki_relay_target_breaker_open",
                "1 while a target fails and is only probed.",
            )?,
            missing: gauge(
                "suki_relay_target_missing",
                "1 while deliveries wait for a target that the config does not name.",
            )?,
        })
    }

    /// The handles of one target, with every series there from the start.
    pub fn target(&self, target: &Name) -> TargetMetrics {
        let name = [target.as_str()];
        let attempts = |outcome| self.attempts.with_label_values(&[name[0], outcome]);
        TargetMetrics {
            delivered_attempts: attempts(Outcome::DELIVERED),
            failed_attempts: Reason::ALL.map(|reason| attempts(reason.as_str())),
            attempt_duration: self.attempt_duration.with_label_values(&name),
            delivery_latency: self.delivery_latency.with_label_values(&name),
            in_flight: self.in_flight.with_label_values(&name),
            breaker_open: self.breaker_open.with_label_values(&name),
            missing: self.missing.with_label_values(&name),
        }
    }
}

impl TargetMetrics {
    pub fn attempt(&self, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => self.delivered_attempts.inc(),
            Outcome::Retry { reason, .. } | Outcome::GiveUp { reason } => {
                self.failed_attempts[reason as usize].inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_series_of_its_own_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let target = metrics.target(&Name::new("ehr").unwrap());
        for reason in Reason::ALL {
            target.attempt(Outcome::GiveUp { reason });
            let series = metrics
                .attempts
                .with_label_values(&["ehr", reason.as_str()]);
            assert_eq!(series.get(), 1, "{reason:?}");
        }
        let delivered = metrics.attempts.with_label_values(&["ehr", "delivered"]);
        assert_eq!(delivered.get(), 0);
        target.attempt(Outcome::Delivered);
        assert_eq!(delivered.get(), 1);
    }
}
