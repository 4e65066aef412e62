//! Where spans go: to the collector that the environment names, by OTLP over gRPC.
//!
//! Settings are those of OpenTelemetry's own SDK, which reads them itself: `OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and its argument, `OTEL_EXPORTER_OTLP_HEADERS`,
//! `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_*`. Its thread sends what the queue holds every few seconds, a
//! batch at a time; what a collector does not take within the timeout is dropped. One with `https` is trusted by the
//! system's roots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, Key, KeyValue, Value};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Config, SpanData, SpanExporter, SpanProcessor};

use super::{Collector, Tracer};

/// Each of them turns export on.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// The second is for all signals.
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const INSECURE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_EXPORTER_OTLP_INSECURE",
];
const NAME: &str = env!("CARGO_PKG_NAME");

/// Why a collector that the environment names is told nothing.
#[derive(Debug, thiserror::Error)]
pub enum Unexported {
    #[error(
        "{0} asks for `{1}`, and the relay speaks `grpc` alone; name the collector's gRPC port"
    )]
    Protocol(&'static str, String),
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

impl Tracer {
    /// Off, unless the environment names a collector. To be called within a runtime, which does the sending.
    pub fn from_environment(
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Unexported> {
        let set = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
        if disabled || !ENDPOINTS.iter().any(|name| set(name).is_some()) {
            return Ok(Self::default());
        }
        let protocol = PROTOCOLS.iter().find_map(|name| Some((*name, set(name)?)));
        if let Some((name, protocol)) = protocol.filter(|(_, protocol)| protocol != "grpc") {
            return Err(Unexported::Protocol(name, protocol));
        }
        let mut exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic();
        if is_secure(&set) {
            // Left to itself, the exporter trusts nobody.
            exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        let exporter = exporter.build()?;
        let settings = Config::default();
        let mut queue = BatchSpanProcessor::builder(Watched::new(exporter)).build();
        queue.set_resource(&named(&settings.resource));
        let scope = InstrumentationScope::builder(NAME)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Self(Some(Arc::new(Collector {
            sampler: settings.sampler,
            queue,
            scope,
        }))))
    }

    /// Sends what waits, for at most this long; blocks. The runtime must still be there.
    pub fn end(&self, wait: Duration) {
        if let Some(collector) = &self.0 {
            // What could not be sent is told by [`Watched`].
            let _ = collector.queue.shutdown_with_timeout(wait);
        }
    }
}

/// Whether the exporter speaks TLS: with `https`, or without a scheme if the environment does not say otherwise.
fn is_secure(set: &dyn Fn(&str) -> Option<String>) -> bool {
    let endpoint = ENDPOINTS.iter().find_map(|name| set(name));
    let scheme = endpoint.as_deref().and_then(|url| url.split_once("://"));
    match scheme {
        Some((scheme, _)) => scheme.trim().eq_ignore_ascii_case("https"),
        None => !INSECURE
            .iter()
            .find_map(|name| set(name))
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("true")),
    }
}

/// With a name of ours, if the environment gives none.
fn named(resource: &Resource) -> Resource {
    let unnamed = |name: Value| name.as_str().starts_with("unknown_service");
    let ours = resource
        .get(&Key::new("service.name"))
        .is_none_or(unnamed)
        .then(|| KeyValue::new("service.name", NAME));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let given = resource
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_attribute(version)
        .with_attributes(given)
        .with_attributes(ours)
        .build()
}

/// Says once that a collector is away, and once that it is back.
#[derive(Debug)]
struct Watched {
    exporter: opentelemetry_otlp::SpanExporter,
    away: AtomicBool,
}

impl Watched {
    fn new(exporter: opentelemetry_otlp::SpanExporter) -> Self {
        let away = AtomicBool::new(false);
        Self { exporter, away }
    }
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match (&result, self.away.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "the collector takes no traces; they are dropped until it does");
            }
            (Ok(()), true) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
