//! Metrics of the process; each wing has its own.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};

/// Reads how many log lines were dropped so far.
pub type LinesDropped = Box<dyn Fn() -> u64 + Send + Sync>;

/// Registers them, and returns what brings those up to date that are read rather than kept.
pub(super) fn register(
    registry: &Registry,
    lines_dropped: LinesDropped,
) -> prometheus::Result<Box<dyn Fn() + Send + Sync>> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
    build_info(registry)?;
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

pub(super) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("suki_relay")
}

fn add(registry: &Registry, collector: impl Collector + 'static) -> prometheus::Result<()> {
    registry.register(Box::new(collector))
}
