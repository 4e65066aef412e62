//! What an operator asks for, read strictly: a misspelt filter must not match everything.

use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answer::Refusal;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Id;
use crate::spool::{Cursor, Filter, IDS_MAX, PAGE_MAX, Reason, State};

/// The word for what no secret signed.
pub(super) const UNVERIFIED: &str = "unverified";

/// Notifications on a page, unless it is said.
const LIMIT: usize = 100;

/// `GET /v1/notifications?…`
#[derive(Debug)]
pub(super) struct Query {
    /// `state=unverified`: what is in the ring, which no other filter narrows.
    pub unverified: bool,
    /// With exact bytes and headers.
    pub content: bool,
    pub filter: Filter,
    pub limit: usize,
    pub cursor: Cursor,
}

/// `PUT /v1/log-level`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    /// As `--log-level` takes it.
    pub level: String,
}

/// A whole body. What is wrong with it may quote it: it is told to who sent it, and never logged.
///
/// An object, and nothing in it is null: `null` for a filter would match everything.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    let wrong = |error| Refusal::bad(format!("the body: {error}"));
    let values: Map<String, Value> = serde_json::from_slice(body).map_err(wrong)?;
    if let Some((key, _)) = values.iter().find(|(_, value)| value.is_null()) {
        return Err(Refusal::bad(format!(
            "{key}: null is nothing; leave it out"
        )));
    }
    // From the text once more: a key that is there twice is refused.
    serde_json::from_slice(body).map_err(wrong)
}

impl Query {
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut parsed = Self {
            unverified: false,
            content: false,
            filter: Filter::default(),
            limit: LIMIT,
            cursor: Cursor::default(),
        };
        for (key, value) in pairs(query) {
            let value = value.as_str();
            let filter = &mut parsed.filter;
            match key.as_str() {
                "state" if value == UNVERIFIED => parsed.unverified = true,
                "state" => filter.state = Some(state(value)?),
                "reason" => filter.reason = Some(reason(value)?),
                "source" => filter.source = Some(name("source", value)?),
                "target" => filter.target = Some(name("target", value)?),
                "since" => filter.since = Some(since(value, Timestamp::now())?),
                "ids" => filter.ids = Some(ids(value.split(','))?),
                "body" if matches!(value, "0" | "1") => parsed.content = value == "1",
                "limit" => parsed.limit = limit(value)?,
                "cursor" => parsed.cursor = cursor(value)?,
                _ => {
                    return Err(Refusal::bad(format!(
                        "there is no filter `{key}`; there are state, reason, source, target, since, ids, \
                         limit, cursor, body"
                    )));
                }
            }
        }
        if parsed.unverified && parsed.filter != Filter::default() {
            return Err(Refusal::bad(
                "`state=unverified` takes no other filter: nothing of such a request is known to be true",
            ));
        }
        Ok(parsed)
    }
}

/// Whether `?body=1` is there.
pub(super) fn wants_content(query: &str) -> Result<bool, Refusal> {
    let mut wanted = false;
    for (key, value) in pairs(query) {
        wanted = match (key.as_str(), value.as_str()) {
            ("body", "1") => true,
            ("body", "0") => false,
            _ => return Err(Refusal::bad("this takes `body=1`, and nothing else")),
        };
    }
    Ok(wanted)
}

pub(super) fn state(word: &str) -> Result<State, Refusal> {
    let words = || [&State::ALL.map(State::as_str)[..], &[UNVERIFIED]].concat();
    State::parse(word).ok_or_else(|| one_of("state", word, &words()))
}

pub(super) fn reason(word: &str) -> Result<Reason, Refusal> {
    Reason::parse(word).ok_or_else(|| one_of("reason", word, &Reason::ALL.map(Reason::as_str)))
}

pub(super) fn name(key: &str, text: &str) -> Result<Name, Refusal> {
    Name::new(text).map_err(|error| Refusal::bad(format!("{key}: {error}")))
}

/// A moment (RFC 3339), or how long ago.
pub(super) fn since(text: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.minus(ago));
    }
    Timestamp::parse(text).ok_or_else(|| {
        Refusal::bad("since: write a moment, `2026-11-24T08:00:00Z`, or how long ago, `24h`")
    })
}

pub(super) fn ids<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Vec<Id>, Refusal> {
    let ids: Option<Vec<_>> = texts.map(Id::parse).collect();
    match ids {
        None => Err(Refusal::bad("ids: each is 32 hex digits")),
        Some(ids) if ids.len() > IDS_MAX => Err(Refusal::bad(format!(
            "ids: more than {IDS_MAX}; ask in parts"
        ))),
        Some(ids) => Ok(ids),
    }
}

fn limit(text: &str) -> Result<usize, Refusal> {
    match text.parse() {
        Ok(limit @ 1..=PAGE_MAX) => Ok(limit),
        _ => Err(Refusal::bad(format!(
            "limit: a number from 1 to {PAGE_MAX}"
        ))),
    }
}

fn cursor(text: &str) -> Result<Cursor, Refusal> {
    let wrong = || Refusal::bad("cursor: what `next` of the page before said");
    text.parse().map_err(|_| wrong())
}

fn one_of(key: &str, word: &str, words: &[&str]) -> Refusal {
    Refusal::bad(format!("{key}: `{word}` is none of {}", words.join(", ")))
}

/// Keys and values, written as in a form. What is no UTF-8 is none of their words, whatever stands for it.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let text = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(move |part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (text(key), text(value))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_filter_is_read_whole() {
        let id = "0123456789abcdef0123456789abcdef";
        let query = format!(
            "state=dead_letter&source=suki&target=ehr&since=2026-11-24T08:00:00Z&ids={id}&limit=7&cursor=42"
        );
        let query = Query::parse(&query).expect("valid");
        let filter = &query.filter;
        assert_eq!(filter.state, Some(State::DeadLetter));
        assert_eq!(filter.source.as_ref().map(Name::as_str), Some("suki"));
        assert_eq!(filter.target.as_ref().map(Name::as_str), Some("ehr"));
        assert_eq!(
            filter.since,
            Some(Timestamp::from_millis(1_795_507_200_000))
        );
        assert_eq!(filter.ids.as_ref().map(Vec::len), Some(1));
        assert_eq!((query.limit, query.cursor.to_string()), (7, "42".into()));
    }

    /// As `URLSearchParams` or `urllib.parse.urlencode` writes it.
    #[test]
    fn a_filter_may_be_written_as_in_a_form() {
        let id = "0123456789abcdef0123456789abcdef";
        let query = format!("%73ince=2026-11-24T08%3A00%3A00Z&ids={id}%2C{id}&state=dead%5fletter");
        let filter = Query::parse(&query).expect("valid").filter;
        let since = Timestamp::from_millis(1_795_507_200_000);
        assert_eq!(filter.since, Some(since));
        assert_eq!(filter.ids.map(|ids| ids.len()), Some(2));
        assert_eq!(filter.state, Some(State::DeadLetter));
        assert!(Query::parse("since=1h+30m").is_ok());
        assert_eq!(wants_content("body=%31"), Ok(true));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_never_ignored() {
        for query in [
            "stat=dead_letter",
            "state=dead",
            "reason=stale+",
            "source=no%20name",
            "source=%ff",
            "source=%6",
            "source=a%00",
            "source%3Dsuki",
            "since=yesterday",
            "ids=1234",
            "limit=0",
            "limit=1001",
            "cursor=a",
            "state",
        ] {
            let refusal = Query::parse(query).expect_err(query);
            assert_eq!(refusal.status.as_u16(), 400, "{query}");
        }
        assert!(wants_content("bod=1").is_err());
    }

    #[test]
    fn a_body_is_an_object_in_which_each_key_says_something_once() {
        for good in ["", "{}", r#" {"level": "info"} "#] {
            assert!(json::<BTreeMap<String, String>>(good.as_bytes()).is_ok());
        }
        for bad in [
            r#"["info"]"#,
            r#"{"level": null}"#,
            r#"{"level": "info", "level": "off"}"#,
            r#"{"level": "info"} {}"#,
            "null",
            "\"info\"",
        ] {
            assert!(json::<LogLevel>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn since_may_be_a_time_ago() {
        let now = Timestamp::from_millis(100_000_000);
        assert_eq!(since("24h", now), Ok(Timestamp::from_millis(13_600_000)));
    }
}
