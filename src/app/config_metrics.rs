//! What the metrics say of the config in use, and of those that came after it.

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::metrics::opts;
use crate::clock::Timestamp;
use crate::config::{Config, WatchMode};

const APPLIED: &str = "applied";
const REFUSED: &str = "refused";

pub(super) struct ConfigMetrics {
    successful: IntGauge,
    success_at: Gauge,
    reloads: IntCounterVec,
    info: IntGaugeVec,
    watch: IntGaugeVec,
    not_after: Gauge,
}

impl ConfigMetrics {
    pub fn new(registry: &Registry, config: &Config) -> prometheus::Result<Self> {
        let metrics = Self {
            successful: IntGauge::with_opts(opts(
                "config_last_reload_successful",
                "1 if the last version of the config that was seen is the one in use.",
            ))?,
            success_at: Gauge::with_opts(opts(
                "config_last_reload_success_timestamp_seconds",
                "When the config in use was read.",
            ))?,
            reloads: IntCounterVec::new(
                opts(
                    "config_reloads_total",
                    "Versions of the config that were seen, by what became of them.",
                ),
                &["result"],
            )?,
            info: IntGaugeVec::new(opts("config_info", "1; the config in use."), &["sha256"])?,
            watch: IntGaugeVec::new(
                opts(
                    "config_watch",
                    "1 for how changes of the config are noticed.",
                ),
                &["mode"],
            )?,
            not_after: Gauge::with_opts(opts(
                "tls_certificate_not_after_timestamp_seconds",
                "When the certificate that is served expires.",
            ))?,
        };
        metrics.register(registry)?;
        metrics.use_version(&config.sha256);
        metrics
            .not_after
            .set(config.listen.tls.not_after.as_seconds());
        for result in [APPLIED, REFUSED] {
            metrics.reloads.with_label_values(&[result]);
        }
        metrics.watch(WatchMode::Poll);
        Ok(metrics)
    }

    /// `not_after` is that of a certificate that is served from now on.
    pub fn applied(&self, sha256: &[u8; 32], not_after: Option<Timestamp>) {
        self.use_version(sha256);
        if let Some(not_after) = not_after {
            self.not_after.set(not_after.as_seconds());
        }
        self.reloads.with_label_values(&[APPLIED]).inc();
    }

    pub fn refused(&self) {
        self.successful.set(0);
        self.reloads.with_label_values(&[REFUSED]).inc();
    }

    pub fn watch(&self, mode: WatchMode) {
        for other in WatchMode::ALL {
            let gauge = self.watch.with_label_values(&[other.as_str()]);
            gauge.set((other == mode).into());
        }
    }

    fn use_version(&self, sha256: &[u8; 32]) {
        self.successful.set(1);
        self.success_at.set(Timestamp::now().as_seconds());
        // Only one version is in use; a series for each that ever was would grow without end.
        self.info.reset();
        self.info.with_label_values(&[&hex::encode(sha256)]).set(1);
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(self.successful.clone()),
            Box::new(self.success_at.clone()),
            Box::new(self.reloads.clone()),
            Box::new(self.info.clone()),
            Box::new(self.watch.clone()),
            Box::new(self.not_after.clone()),
        ];
        collectors
            .into_iter()
            .try_for_each(|collector| registry.register(collector))
    }
}
