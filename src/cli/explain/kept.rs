//! What this config would have made of notifications that the spool holds.
//!
//! Each is judged at the moment it came, by its exact bytes, the headers that are kept and the name of the
//! secret that signed it. What an operator has released or discarded says nothing about routes, and is only
//! counted.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::Value;

use super::report::Explanation;
use super::{Request, explain};
use crate::cli::desk::{Desk, Place};
use crate::cli::{Failure, print, runtime};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::routing::{self, Routing};
use crate::spool::{EventKind, Reason};

/// A notification that would have gone elsewhere.
#[derive(Debug, Serialize)]
struct Otherwise<'e> {
    id: &'e str,
    source: &'e str,
    received_at: &'e str,
    was: Way<'e>,
    would_be: Way<'e>,
}

/// Where a notification goes.
///
/// A target that the config names no more is one of them: its deliveries are held.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Way<'e> {
    targets: BTreeSet<&'e str>,
    quarantine: Option<&'e str>,
}

/// How many were looked at.
#[derive(Debug, Default, Serialize)]
struct Tally {
    looked_at: u64,
    otherwise: u64,
    /// An operator has released or discarded them.
    moved_by_operators: u64,
    /// Their bodies have left, or cannot be read.
    without_body: u64,
    /// The config names their source no more.
    source_gone: u64,
}

/// One notification, explained: once for each source that has it.
pub(super) fn one(config: Config, place: &Place, id: &str) -> Result<Vec<Explanation>, Failure> {
    let desk = Desk::open(place, Routing::default(), Some(config.spool))?;
    let target = format!("/v1/notifications/{id}?body=1");
    let found = runtime()?.block_on(desk.ask(&Method::GET, &target, None))?;
    let entries = found["notifications"].as_array();
    let entries = entries.context("this is no operator address: its answer is no list")?;
    let explained = entries.iter().map(|entry| {
        let record = record(entry).context("its body has left, or cannot be read")?;
        explain_kept(&config.routing, record)
    });
    Ok(explained.collect::<anyhow::Result<_>>()?)
}

/// Prints those that would have gone elsewhere, and how many there are.
pub(super) fn since(
    config: Config,
    place: &Place,
    since: &str,
    as_json: bool,
) -> Result<(), Failure> {
    let desk = Desk::open(place, Routing::default(), Some(config.spool))?;
    let filters = format!("&since={since}&body=1");
    let mut tally = Tally::default();
    let compare = |entry: &Value| match tally.compare(&config.routing, entry) {
        None => Ok(()),
        Some(line) if as_json => print_json(&line),
        Some(line) => print(&line.to_string()).map_err(|failure| failure.cause),
    };
    let unreadable = runtime()?.block_on(desk.each(&filters, None, compare))?;
    let unreadable = unreadable.len() as u64;
    tally.looked_at += unreadable;
    tally.without_body += unreadable;
    if as_json {
        return Ok(print_json(&tally)?);
    }
    print(&tally.to_string())
}

fn print_json(line: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string(line).context("writing JSON")?;
    print(&format!("{json}\n")).map_err(|failure| failure.cause)
}

fn explain_kept(routing: &Routing, record: Record) -> anyhow::Result<Explanation> {
    let mut sources = routing.sources().iter();
    let Some(source) = sources.find(|source| source.name == record.source) else {
        bail!(
            "it came to `{}`, and the config names that source no more",
            record.source
        );
    };
    let headers = routing::kept_headers(source, &record);
    Ok(explain(
        routing,
        &Request {
            source,
            body: record.body,
            generated_at: Some(record.generated_at),
            signature: Some(record.signature),
            headers,
            secret: Some(record.secret),
            received_at: record.received_at,
        },
    ))
}

/// What the operator API shows with `body=1`; `None` if the body is not in it.
fn record(entry: &Value) -> Option<Record> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let name = |key: &str| Name::new(entry[key].as_str()?).ok();
    let content = &entry["content"];
    let body = match &content["body_hex"] {
        Value::String(hex) => hex::decode(hex).ok()?,
        _ => word(&content["body"])?.into_bytes(),
    };
    Some(Record {
        id: Id::parse(entry["id"].as_str()?)?,
        source: name("source")?,
        secret: name("secret")?,
        received_at: Timestamp::parse(entry["received_at"].as_str()?)?,
        generated_at: word(&content["generated_at"])?,
        signature: word(&content["signature"])?,
        content_type: word(&content["content_type"]),
        body: Bytes::from(body),
    })
}

impl Tally {
    /// Counts one, and says so if it would have gone elsewhere.
    fn compare<'e>(&mut self, routing: &'e Routing, entry: &'e Value) -> Option<Otherwise<'e>> {
        self.looked_at += 1;
        let Some(was) = Way::of(entry) else {
            self.moved_by_operators += 1;
            return None;
        };
        let Some(record) = record(entry) else {
            self.without_body += 1;
            return None;
        };
        let Some(course) = routing::foresee(routing, &record) else {
            self.source_gone += 1;
            return None;
        };
        let named = |target: &Name| routing.target(target).map(|target| target.name.as_str());
        let would_be = Way {
            targets: course.targets.iter().filter_map(named).collect(),
            quarantine: course.quarantine.map(Reason::as_str),
        };
        if was == would_be {
            return None;
        }
        self.otherwise += 1;
        Some(Otherwise {
            id: entry["id"].as_str()?,
            source: entry["source"].as_str()?,
            received_at: entry["received_at"].as_str()?,
            was,
            would_be,
        })
    }
}

impl<'e> Way<'e> {
    /// Where the routes sent it; `None` if an operator has moved it since.
    fn of(entry: &'e Value) -> Option<Self> {
        let deliveries = entry["deliveries"].as_array()?;
        let mut events = deliveries
            .iter()
            .flat_map(|delivery| delivery["history"].as_array().into_iter().flatten());
        if events.any(|event| event["what"] == EventKind::Released.as_str()) {
            return None;
        }
        let targets = deliveries.iter().filter_map(|it| it["target"].as_str());
        let way = Self {
            targets: targets.collect(),
            quarantine: entry["quarantine"].as_str(),
        };
        let is_nowhere = way.targets.is_empty() && way.quarantine.is_none();
        (!is_nowhere).then_some(way)
    }
}

impl fmt::Display for Otherwise<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            source,
            received_at,
            was,
            would_be,
        } = self;
        writeln!(
            f,
            "{id}  {received_at}  {source}  was: {was}; would be: {would_be}"
        )
    }
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = self.targets.iter().copied().collect::<Vec<_>>().join(", ");
        match (targets.as_str(), self.quarantine) {
            ("", reason) => write!(f, "quarantine ({})", reason.unwrap_or("-")),
            (targets, None) => f.write_str(targets),
            (targets, Some(reason)) => write!(f, "{targets}, and quarantine ({reason})"),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = [
            (
                self.moved_by_operators,
                "released or discarded by an operator",
            ),
            (self.without_body, "without a body to judge"),
            (
                self.source_gone,
                "of a source that the config names no more",
            ),
        ];
        write!(
            f,
            "{} of {} would have gone elsewhere",
            self.otherwise, self.looked_at
        )?;
        let told = told.iter().filter(|(count, _)| *count > 0);
        for (count, what) in told {
            write!(f, "; not judged: {count} {what}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Route, Source};
    use crate::secret::Secret;
    use crate::verify::{self, Keyring};

    const LONG_AGO: Timestamp = Timestamp::from_millis(1_765_977_748_432);
    const BODY: &[u8] = br#"{"status":"success","session_id":"s-1"}"#;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn secret() -> Secret {
        Secret::from_text(b"a secret of the tests".to_vec()).expect("not empty")
    }

    fn routing() -> Routing {
        let keyring = Keyring::new([(name("current"), &secret())]);
        let route = Route {
            name: name("everything"),
            when: None,
            to: vec![name("ehr")],
        };
        Routing::new(vec![Source::of("suki", keyring)], vec![route], Vec::new())
    }

    #[test]
    fn what_came_long_ago_was_fresh_then() {
        let generated_at = LONG_AGO.as_millis().to_string();
        let record = Record {
            id: Id::from_bytes([7; Id::BYTES]),
            source: name("suki"),
            secret: name("current"),
            received_at: LONG_AGO,
            signature: verify::signature(&secret(), &generated_at, BODY),
            generated_at,
            content_type: None,
            body: Bytes::from_static(BODY),
        };
        let explained = explain_kept(&routing(), record).expect("its source is there");
        assert_eq!(explained.freshness.as_deref(), Some("fresh"));
        assert_eq!(explained.targets, ["ehr"]);
        assert_eq!(explained.outcome, "200; owed to 1 target");
    }
}
