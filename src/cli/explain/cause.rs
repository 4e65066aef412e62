//! Why a signature does not match: tries what commonly goes wrong, and names what would have matched.

use super::encoding;
use crate::routing::{Routing, Source};
use crate::verify::{Signed, Unverified};

/// A change to a request under which its signature would match, and what to say then.
type Repair = (&'static str, Signed);

/// The likely cause, in words that say what to do.
pub(super) fn likely(routing: &Routing, source: &Source, signed: &Signed) -> String {
    if let Err(Unverified::Malformed(_)) = source.keyring.verify(signed.clone()) {
        let digits = signed.signature.len();
        return format!(
            "the signature is not 64 hex digits but {digits} characters; Suki sends bare hex"
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
    let matches = |repaired: &Signed| {
        let keyrings = routing.sources().iter().map(|source| &source.keyring);
        keyrings
            .into_iter()
            .any(|keyring| keyring.verify(repaired.clone()).is_ok())
    };
    let found = of_the_frame(signed)
        .into_iter()
        .chain(of_the_encoding(signed))
        .find(|(_, repaired)| matches(repaired));
    let unknown = "no configured secret made it, and no common change to body or timestamp explains it; \
        compare the secret with Suki's record";
    found.map_or(unknown, |(what, _)| what).into()
}

/// Changes around the body, and to the timestamp.
fn of_the_frame(signed: &Signed) -> Vec<Repair> {
    let body = &signed.body;
    let at = &signed.generated_at;
    let mut repairs = vec![
        (
            "a trailing newline was lost on the way",
            with_body(signed, [body, b"\n".as_slice()].concat()),
        ),
        (
            "white space around the body was added on the way",
            with_body(signed, body.trim_ascii().to_vec()),
        ),
        (
            "the timestamp is in seconds; it was signed in milliseconds",
            with_timestamp(signed, format!("{at}000")),
        ),
    ];
    if let Some(bare) = body.strip_suffix(b"\n") {
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        let what = "a trailing newline was added on the way";
        repairs.insert(0, (what, with_body(signed, bare.to_vec())));
    }
    if let Some(bare) = body.strip_prefix(b"\xef\xbb\xbf") {
        let what = "a byte order mark was added on the way";
        repairs.push((what, with_body(signed, bare.to_vec())));
    }
    if let Some(seconds) = at.len().checked_sub(3).and_then(|end| at.get(..end)) {
        let what = "the timestamp is in milliseconds; it was signed in seconds";
        repairs.push((what, with_timestamp(signed, seconds.to_owned())));
    }
    repairs
}

/// The same JSON, written by another encoder. One at a time: each is as large as the body.
fn of_the_encoding(signed: &Signed) -> impl Iterator<Item = Repair> {
    let what = "the body was re-encoded on the way (same JSON, other bytes); hand on the bytes as they came";
    encoding::spellings(&signed.body).map(move |body| (what, with_body(signed, body)))
}

fn with_body(signed: &Signed, body: Vec<u8>) -> Signed {
    Signed {
        body: body.into(),
        ..signed.clone()
    }
}

fn with_timestamp(signed: &Signed, generated_at: String) -> Signed {
    Signed {
        generated_at,
        ..signed.clone()
    }
}
