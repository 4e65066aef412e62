//! Metrics of the process and of its config; each wing has its own.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, GaugeVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use crate::clock::Timestamp;
use crate::config::Config;

/// Reads how many log lines were dropped so far.
pub type LinesDropped = Box<dyn Fn() -> u64 + Send + Sync>;

/// Registers them, and returns what brings those up to date that are read rather than kept.
pub(super) fn register(
    registry: &Registry,
    config: &Config,
    lines_dropped: LinesDropped,
) -> prometheus::Result<Box<dyn Fn() + Send + Sync>> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
    build_info(registry)?;
    config_state(registry, config)?;
    let dropped = IntCounter::with_opts(opts(
        "log_lines_dropped_total",
        "Log lines dropped because nobody read them.",
    ))?;
    add(registry, dropped.clone())?;
    Ok(Box::new(move || {
        dropped.inc_by(lines_dropped().saturating_sub(dropped.get()));
    }))
}

fn build_info(registry: &Registry) -> prometheus::Result<()> {
    let info = IntGaugeVec::new(
        opts("build_info", "1; what runs is in the labels."),
        &["version", "revision"],
    )?;
    let revision = option_env!("SUKI_RELAY_REVISION").unwrap_or("unknown");
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision])
        .set(1);
    add(registry, info)
}

fn config_state(registry: &Registry, config: &Config) -> prometheus::Result<()> {
    let successful = IntGauge::with_opts(opts(
        "config_last_reload_successful",
        "1 if the last version of the config that was seen is the one in use.",
    ))?;
    successful.set(1);
    add(registry, successful)?;
    let success_at = Gauge::with_opts(opts(
        "config_last_reload_success_timestamp_seconds",
        "When the config in use was read.",
    ))?;
    success_at.set(Timestamp::now().as_seconds());
    add(registry, success_at)?;
    let info = IntGaugeVec::new(opts("config_info", "1; the config in use."), &["sha256"])?;
    info.with_label_values(&[&hex::encode(config.sha256)])
        .set(1);
    add(registry, info)?;
    let not_after = GaugeVec::new(
        opts(
            "tls_certificate_not_after_timestamp_seconds",
            "When the certificate that is served expires.",
        ),
        &[],
    )?;
    not_after
        .with_label_values::<&str>(&[])
        .set(config.listen.tls.not_after.as_seconds());
    add(registry, not_after)
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("suki_relay")
}

fn add(registry: &Registry, collector: impl Collector + 'static) -> prometheus::Result<()> {
    registry.register(Box::new(collector))
}
