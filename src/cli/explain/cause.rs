//! Why a signature does not match: tries what commonly goes wrong, and names what would have matched.

use std::borrow::Cow;

use bytes::Bytes;

use crate::routing::{Routing, Source};
use crate::verify::{Signed, Unverified};

/// A change to a request under which its signature would match.
struct Repair {
    what: &'static str,
    signed: Signed,
}

/// The likely cause, in words that say what to do.
pub(super) fn likely(routing: &Routing, source: &Source, signed: &Signed) -> String {
    if let Err(Unverified::Malformed(_)) = source.keyring.verify(signed.clone()) {
        let digits = signed.signature.len();
        return format!(
            "the signature is not 64 hex digits ({digits} characters); Suki sends bare hex"
        );
    }
    let elsewhere = routing
        .sources()
        .iter()
        .find(|other| other.keyring.verify(signed.clone()).is_ok());
    if let Some(other) = elsewhere {
        return format!(
            "a secret of source `{}` would match; was it posted to the wrong path?",
            other.name
        );
    }
    let found = repairs(signed).into_iter().find(|repair| {
        routing
            .sources()
            .iter()
            .any(|source| source.keyring.verify(repair.signed.clone()).is_ok())
    });
    found.map_or_else(
        || {
            "no configured secret made it, and no common change to body or timestamp explains it; \
            compare the secret with Suki's record"
                .into()
        },
        |repair| repair.what.to_owned(),
    )
}

fn repairs(signed: &Signed) -> Vec<Repair> {
    let body = signed.body.as_ref();
    let mut repairs = Vec::new();
    let mut with_body = |what, body: Cow<'_, [u8]>| {
        let body = Bytes::from(body.into_owned());
        repairs.push(Repair {
            what,
            signed: Signed {
                body,
                ..signed.clone()
            },
        });
    };
    with_body(
        "a trailing newline was lost on the way",
        [body, b"\n"].concat().into(),
    );
    if let Some(rest) = body
        .strip_suffix(b"\r\n")
        .or_else(|| body.strip_suffix(b"\n"))
    {
        with_body("a trailing newline was added on the way", rest.into());
    }
    with_body(
        "white space around the body was added on the way",
        body.trim_ascii().into(),
    );
    if let Some(rest) = body.strip_prefix(b"\xef\xbb\xbf") {
        with_body("a byte order mark was added on the way", rest.into());
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) {
        let what = "the body was re-encoded on the way; hand on the bytes as they came";
        let compact = value.to_string();
        with_body(what, escape_as_go(&compact).into_bytes().into());
        with_body(what, compact.into_bytes().into());
        with_body(what, format!("{value:#}").into_bytes().into());
    }
    let at = &signed.generated_at;
    let mut with_timestamp = |what, generated_at: String| {
        repairs.push(Repair {
            what,
            signed: Signed {
                generated_at,
                ..signed.clone()
            },
        });
    };
    with_timestamp(
        "the timestamp is in seconds; it was signed in milliseconds",
        format!("{at}000"),
    );
    if let Some(seconds) = at.len().checked_sub(3).and_then(|end| at.get(..end)) {
        with_timestamp(
            "the timestamp is in milliseconds; it was signed in seconds",
            seconds.into(),
        );
    }
    repairs
}

/// Go's JSON encoder, which Suki's schema names point to, escapes what HTML would mistake.
fn escape_as_go(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}
