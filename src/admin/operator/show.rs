//! What the operator sees, as JSON. Times are RFC 3339.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Record;
use crate::routing::Routing;
use crate::spool::{self, Counts, Errand, Found, Reason, State, UnverifiedEntry};

#[derive(Serialize)]
pub(super) struct Status<'a> {
    version: &'static str,
    notifications: u64,
    settled: u64,
    /// On this relay's disk beside a shared spool, and in none of the other numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_fallback: Option<u64>,
    quarantine: BTreeMap<&'static str, i64>,
    targets: Vec<Target<'a>>,
    orders: Vec<Order<'a>>,
}

/// An order that takes more than one commit, until its last.
#[derive(Serialize)]
struct Order<'a> {
    what: &'static str,
    given_by: &'a str,
    given_at: String,
    /// Those that it names; empty: those that were owed it, or that the routes name.
    to: Vec<&'a str>,
    state: Option<&'static str>,
    reason: Option<&'static str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    since: Option<String>,
    ids: Option<usize>,
    /// So far.
    matched: u64,
    done: u64,
}

#[derive(Serialize)]
struct Target<'a> {
    name: &'a str,
    /// False: what it is owed is held.
    in_config: bool,
    pending: i64,
    delivered: i64,
    dead_letters: i64,
}

/// Targets of the config, and those that something is remembered of.
pub(super) fn status<'a>(
    counts: &'a Counts,
    on_fallback: Option<u64>,
    errands: &'a [Errand],
    routing: &'a Routing,
) -> Status<'a> {
    let held = |reason: Reason| {
        let held = counts.quarantine.get(&reason).copied().unwrap_or_default();
        (reason.as_str(), held)
    };
    let target = |name: &'a Name| {
        let counts = counts.targets.get(name).copied().unwrap_or_default();
        Target {
            name: name.as_str(),
            in_config: routing.target(name).is_some(),
            pending: counts.pending,
            delivered: counts.delivered,
            dead_letters: counts.dead,
        }
    };
    let configured = routing.targets().map(|target| &target.name);
    let names: BTreeSet<_> = configured.chain(counts.targets.keys()).collect();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        notifications: counts.notifications,
        settled: counts.settled,
        on_fallback,
        quarantine: Reason::ALL.into_iter().map(held).collect(),
        targets: names.into_iter().map(target).collect(),
        orders: errands.iter().map(order).collect(),
    }
}

fn order(errand: &Errand) -> Order<'_> {
    let filter = &errand.filter;
    Order {
        what: errand.what(),
        given_by: errand.by.as_str(),
        given_at: errand.given_at.to_string(),
        to: errand.targets().iter().map(Name::as_str).collect(),
        state: filter.state.map(State::as_str),
        reason: filter.reason.map(Reason::as_str),
        source: filter.source.as_ref().map(Name::as_str),
        target: filter.target.as_ref().map(Name::as_str),
        since: filter.since.map(|since| since.to_string()),
        ids: filter.ids.as_ref().map(Vec::len),
        matched: errand.matched,
        done: errand.done,
    }
}

#[derive(Serialize)]
pub(super) struct Page<'a> {
    notifications: Vec<Entry<'a>>,
    /// The spool's own numbers of those beside them whose records are damaged.
    #[serde(skip_serializing_if = "<[i64]>::is_empty")]
    unreadable: &'a [i64],
    /// What to give as `cursor` for the next page; null if this is the last.
    next: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Entry<'a> {
    id: String,
    source: &'a str,
    /// Name of the secret that made the signature; null with `body_bytes` if only the mark for duplicates
    /// is left.
    secret: Option<&'a str>,
    received_at: String,
    /// What the sender was answered.
    answered: i64,
    quarantine: Option<&'static str>,
    settled_at: Option<String>,
    body_bytes: Option<u64>,
    deliveries: Vec<Delivery<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Content<'a>>,
}

#[derive(Serialize)]
struct Delivery<'a> {
    target: &'a str,
    state: &'static str,
    attempts: u32,
    first_attempt_at: Option<String>,
    due_at: Option<String>,
    last_outcome: Option<&'a str>,
    /// The latest events, oldest first.
    history: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    what: &'static str,
    at: String,
    /// The outcome of an attempt, or who did it.
    word: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u128>,
}

/// The exact bytes and headers of a notification.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the header's own name")]
struct Content<'a> {
    generated_at: &'a str,
    signature: &'a str,
    content_type: Option<&'a str>,
    /// If it is UTF-8, else null.
    body: Option<&'a str>,
    body_hex: Option<String>,
}

/// `records` are what its entries hold, in the same order, as far as it is asked for.
pub(super) fn page<'a>(page: &'a spool::Page, records: &'a [Option<Record>]) -> Page<'a> {
    let record = |at: usize| records.get(at).and_then(Option::as_ref);
    let entries = page.entries.iter().enumerate();
    Page {
        notifications: entries.map(|(at, it)| entry(it, record(at))).collect(),
        unreadable: &page.unreadable,
        next: page.next.map(|cursor| cursor.to_string()),
    }
}

/// Those of one id: one for each source that has it.
pub(super) fn found(found: &[Found], with_content: bool) -> Page<'_> {
    Page {
        notifications: found
            .iter()
            .map(|it| entry(&it.entry, it.record.as_ref().filter(|_| with_content)))
            .collect(),
        unreadable: &[],
        next: None,
    }
}

#[derive(Serialize)]
pub(super) struct Unverified<'a> {
    unverified: Vec<Turned<'a>>,
    next: Option<String>,
}

/// A request that was turned away.
#[derive(Serialize)]
struct Turned<'a> {
    number: i64,
    source: &'a str,
    received_at: String,
    body_bytes: u64,
}

/// A page of the ring; there may be more if it is as long as was asked for.
pub(super) fn unverified(entries: &[UnverifiedEntry], limit: usize) -> Unverified<'_> {
    let last = entries.last().filter(|_| entries.len() >= limit);
    Unverified {
        unverified: entries
            .iter()
            .map(|entry| Turned {
                number: entry.number,
                source: entry.source.as_str(),
                received_at: entry.received_at.to_string(),
                body_bytes: entry.body_bytes,
            })
            .collect(),
        next: last.map(|entry| entry.number.to_string()),
    }
}

fn entry<'a>(entry: &'a spool::Entry, record: Option<&'a Record>) -> Entry<'a> {
    let content = entry.content.as_ref();
    Entry {
        id: entry.id.to_string(),
        source: entry.source.as_str(),
        secret: content.map(|content| content.secret.as_str()),
        received_at: entry.received_at.to_string(),
        answered: entry.verdict.code(),
        quarantine: entry.quarantine.map(Reason::as_str),
        settled_at: text(entry.settled_at),
        body_bytes: content.map(|content| content.body_bytes),
        deliveries: entry.deliveries.iter().map(delivery).collect(),
        content: record.map(the_content),
    }
}

fn delivery(delivery: &spool::Delivery) -> Delivery<'_> {
    Delivery {
        target: delivery.target.as_str(),
        state: delivery.state.as_str(),
        attempts: delivery.attempts,
        first_attempt_at: text(delivery.first_attempt_at),
        due_at: text(delivery.due_at),
        last_outcome: delivery.last_attempt().map(|event| event.word.as_str()),
        history: delivery.history.iter().map(event).collect(),
    }
}

fn event(event: &spool::Event) -> Event<'_> {
    Event {
        what: event.kind.as_str(),
        at: event.at.to_string(),
        word: event.word.as_str(),
        took_ms: event.kind.is_attempt().then_some(event.took.as_millis()),
    }
}

fn the_content(record: &Record) -> Content<'_> {
    let body = std::str::from_utf8(&record.body).ok();
    Content {
        generated_at: &record.generated_at,
        signature: &record.signature,
        content_type: record.content_type.as_deref(),
        body,
        body_hex: body.is_none().then(|| hex::encode(&record.body)),
    }
}

fn text(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}
