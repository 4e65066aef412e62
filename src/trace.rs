//! Traces: what is told of a notification's way to whoever collects that.
//!
//! A notification's context follows from its id, and is so stored with it: the trace id is the id, and the
//! id of the span of its receipt is the id's second half. It is the same on each attempt, after each
//! restart and in every relay that shares a spool. What a sender says of a trace of its own is linked, and
//! decides nothing: neither what is exported nor what a target is told.
//!
//! Promises:
//! * Off unless the environment names a collector ([`Tracer::from_environment`]): then no span is built.
//! * A span that ended goes into a bounded queue, or nowhere if that is full. Nobody waits for a collector.
//! * A span holds ids, sizes, names of the config and words of closed sets; nothing that anybody sent.
//! * Only what was verified has spans: who cannot sign cannot fill the queue.
//! * A crash loses the spans of its last seconds, and nothing else.

mod export;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
    SpanProcessor,
};
use tokio::time::Instant;

use crate::clock;
use crate::name::Name;

pub use export::Unexported;

/// A trace's id: a notification's.
type Id = [u8; 16];

/// Who is told of spans; nobody by default. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Collector>>);

struct Collector {
    sampler: Box<dyn ShouldSample>,
    queue: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// An attempt's place in the trace of its notification.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    id: u64,
    sampled: bool,
}

/// What is told of an attempt.
pub struct Attempt<'a> {
    pub notification: &'a Id,
    pub target: &'a Name,
    /// Counts from 1.
    pub number: u32,
    pub outcome: &'static str,
    pub delivered: bool,
    pub took: Duration,
}

/// What is told of a notification that comes in.
pub struct About<'a> {
    pub notification: &'a Id,
    pub source: &'a Name,
    pub body_bytes: usize,
    pub deliveries: usize,
}

/// A notification that is being committed. Dropped before it is known what came of it (its sender left),
/// it is told as `abandoned`.
pub struct Receipt {
    collector: Arc<Collector>,
    trace: Id,
    begun: Instant,
    commit_begun: Instant,
    attributes: Vec<KeyValue>,
    sender: Option<SpanContext>,
    ended: Ended,
}

/// What came of a notification.
#[derive(Clone, Copy)]
pub struct Ended {
    pub result: &'static str,
    pub promised: bool,
    /// The same bytes were kept before: the trace begins with those.
    pub repeated: bool,
}

impl Tracer {
    /// When something began, if that will be asked for.
    pub fn moment(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// To be called when the commit begins.
    pub fn committing(
        &self,
        begun: Option<Instant>,
        headers: &HeaderMap,
        about: &About<'_>,
    ) -> Option<Receipt> {
        let (collector, begun) = (self.0.as_ref()?, begun?);
        let trace = *about.notification;
        collector.samples(&trace).then(|| Receipt {
            collector: collector.clone(),
            trace,
            begun,
            commit_begun: Instant::now(),
            attributes: vec![
                KeyValue::new("suki_relay.source", about.source.to_string()),
                KeyValue::new("suki_relay.deliveries", count(about.deliveries)),
                KeyValue::new("http.request.body.size", count(about.body_bytes)),
            ],
            sender: senders(headers),
            ended: Ended {
                result: "abandoned",
                promised: false,
                repeated: false,
            },
        })
    }

    /// To be called when an attempt begins.
    pub fn attempt(&self, notification: &Id) -> Span {
        Span {
            id: fastrand::u64(1..),
            // If there are no traces of ours, a target's own are for the target to decide on.
            sampled: self.0.as_ref().is_none_or(|c| c.samples(notification)),
        }
    }

    /// To be called when it ended.
    pub fn attempt_ended(&self, span: Span, attempt: &Attempt<'_>) {
        let Some(collector) = self.0.as_ref().filter(|_| span.sampled) else {
            return;
        };
        let end_time = clock::wall();
        collector.queue.on_end(SpanData {
            parent_span_id: receipt(attempt.notification),
            // Another process may have received it.
            parent_span_is_remote: true,
            span_kind: SpanKind::Client,
            start_time: end_time.checked_sub(attempt.took).unwrap_or(end_time),
            end_time,
            attributes: vec![
                KeyValue::new("suki_relay.target", attempt.target.to_string()),
                KeyValue::new("suki_relay.attempt", i64::from(attempt.number)),
                KeyValue::new("suki_relay.outcome", attempt.outcome),
            ],
            status: status(attempt.delivered, attempt.outcome),
            ..collector.span("attempt", attempt.notification, span.id.into())
        });
    }
}

impl Span {
    /// The header that tells a target.
    pub fn traceparent(self, notification: &Id) -> String {
        let trace = hex::encode(notification);
        format!("00-{trace}-{:016x}-{:02x}", self.id, u8::from(self.sampled))
    }
}

impl Receipt {
    pub fn ended(mut self, ended: Ended) {
        self.ended = ended;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Ended {
            result,
            promised,
            repeated,
        } = self.ended;
        let (end, end_time) = (Instant::now(), clock::wall());
        let before = |moment| end_time.checked_sub(end - moment).unwrap_or(end_time);
        let first = receipt(&self.trace);
        let (id, parent_span_id) = if repeated {
            (fastrand::u64(1..).into(), first)
        } else {
            (first, SpanId::INVALID)
        };
        self.collector.queue.on_end(SpanData {
            parent_span_id: id,
            start_time: before(self.commit_begun),
            end_time,
            status: status(promised, result),
            ..self
                .collector
                .span("commit", &self.trace, fastrand::u64(1..).into())
        });
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.push(KeyValue::new("suki_relay.result", result));
        let mut links = SpanLinks::default();
        links
            .links
            .extend(self.sender.take().map(Link::with_context));
        self.collector.queue.on_end(SpanData {
            parent_span_id,
            parent_span_is_remote: repeated,
            span_kind: SpanKind::Server,
            start_time: before(self.begun),
            end_time,
            attributes,
            links,
            status: status(promised, result),
            ..self.collector.span("receive", &self.trace, id)
        });
    }
}

impl Collector {
    /// By the trace's id alone, so that all relays decide alike, and at each attempt as at the receipt.
    fn samples(&self, trace: &Id) -> bool {
        let trace = TraceId::from_bytes(*trace);
        let kind = SpanKind::Server;
        let result = (self.sampler).should_sample(None, trace, "receive", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// With all that spans have in common.
    fn span(&self, name: &'static str, trace: &Id, id: SpanId) -> SpanData {
        let trace = TraceId::from_bytes(*trace);
        let flags = TraceFlags::SAMPLED;
        SpanData {
            span_context: SpanContext::new(trace, id, flags, false, TraceState::NONE),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// The span of a notification's receipt.
fn receipt(notification: &Id) -> SpanId {
    let mut half = [0; 8];
    half.copy_from_slice(&notification[8..]);
    SpanId::from_bytes(half)
}

fn status(good: bool, word: &'static str) -> Status {
    if good {
        Status::Ok
    } else {
        Status::error(word)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The trace that the sender says this belongs to: ids, and none of its texts.
fn senders(headers: &HeaderMap) -> Option<SpanContext> {
    let context = TraceContextPropagator::new().extract(&Traceparent(headers));
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Headers with no `tracestate`, which is free text. Two `traceparent`s are none.
struct Traceparent<'a>(&'a HeaderMap);

impl Extractor for Traceparent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        match (key, values.next(), values.next()) {
            ("traceparent", Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

#[cfg(test)]
mod tests;
