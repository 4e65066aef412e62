//! `sources`: where notifications come in, who may send them, and what they must look like.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;

use super::block::Block;
use super::reader::{At, Read};
use super::references;
use super::tree::Place;
use super::units::ShownDuration;
use crate::name::Name;
use crate::routing::{OnInvalid, Source};
use crate::schema::{Schema, UnknownStatus};
use crate::secret::Secret;
use crate::verify::Keyring;

const KEYS: &[&str] = &[
    "name",
    "path",
    "secrets",
    "headers",
    "max_age",
    "max_ahead",
    "schema",
    "on_invalid",
    "unknown_status",
];
const SECRET_KEYS: &[&str] = &["name", "file", "env", "optional"];
const SOURCES_MAX: usize = 256;
/// Every secret is tried for each request.
const SECRETS_MAX: usize = 16;
/// Shorter ones could be guessed; Suki chooses them, so they are no reason to refuse.
const SECRET_BYTES_MIN: usize = 16;
/// The schema that comes with the binary.
const BUILT_IN: &str = "suki";
const YEAR: Duration = Duration::from_hours(8760);

pub(super) fn read(at: &At<'_>, keep_delivered: Option<Duration>) -> Read<Vec<Source>> {
    let items = at.list(1..=SOURCES_MAX)?;
    let mut seen = Seen::default();
    let sources: Vec<_> = items
        .iter()
        .map(|item| source(item, &mut seen, keep_delivered))
        .collect();
    sources.into_iter().collect()
}

/// What must differ between sources.
#[derive(Default)]
struct Seen {
    names: BTreeMap<Name, Place>,
    paths: BTreeMap<String, Place>,
}

fn source(at: &At<'_>, seen: &mut Seen, keep_delivered: Option<Duration>) -> Read<Source> {
    let block = at.block(KEYS)?;
    let name = block
        .required("name")
        .and_then(|at| at.once(&mut seen.names, at.name()?));
    let path = block
        .required("path")
        .and_then(|at| at.once(&mut seen.paths, path(&at)?));
    let keyring = block.required("secrets").and_then(|at| keyring(&at));
    let headers = headers(&block);
    let ages = ages(&block, keep_delivered);
    let schema = schema(&block);
    let on_invalid = block.or("on_invalid", OnInvalid::Reject, |at| {
        at.choice(&[("reject", OnInvalid::Reject), ("accept", OnInvalid::Accept)])
    });
    let (signature_header, timestamp_header) = headers?;
    let (age_max, ahead_max) = ages?;
    Ok(Source {
        name: name?,
        path: path?,
        keyring: keyring?,
        signature_header,
        timestamp_header,
        schema: schema?,
        on_invalid: on_invalid?,
        age_max,
        ahead_max,
    })
}

/// An exact path, kept without a trailing slash.
fn path(at: &At<'_>) -> Read<String> {
    let text = at.text()?;
    let plain = !text.value.contains(['?', '#']);
    if !text.value.starts_with('/') || !plain || text.value.parse::<PathAndQuery>().is_err() {
        return at.problem(format!(
            "`{}` is no path; write it as it stands in the URL, from `/` on, without `?` and `#`",
            text.written
        ));
    }
    let path = text.value.strip_suffix('/').unwrap_or(&text.value);
    Ok(path.to_owned())
}

fn keyring(at: &At<'_>) -> Read<Keyring> {
    let items = at.list(1..=SECRETS_MAX)?;
    let mut names = BTreeMap::new();
    let entries: Vec<_> = items.iter().map(|item| secret(item, &mut names)).collect();
    let entries: Read<Vec<_>> = entries.into_iter().collect();
    let present: Vec<(Name, Secret)> = entries?.into_iter().flatten().collect();
    if present.is_empty() {
        return at.problem(
            "every secret is optional and none is there; without one, nobody can be verified",
        );
    }
    let keys = present.iter().map(|(name, secret)| (name.clone(), secret));
    Ok(Keyring::new(keys))
}

fn secret(at: &At<'_>, names: &mut BTreeMap<Name, Place>) -> Read<Option<(Name, Secret)>> {
    if !at.is_mapping() {
        return at.problem("a secret is never written here; refer to it: `{ name: …, file: … }` or `{ name: …, env: … }`");
    }
    let block = at.block(SECRET_KEYS)?;
    let name = block
        .required("name")
        .and_then(|at| at.once(names, at.name()?));
    let secret = references::secret_of(&block)?;
    if secret
        .as_ref()
        .is_some_and(|secret| secret.expose().len() < SECRET_BYTES_MIN)
    {
        at.warning(format!(
            "this secret is shorter than {SECRET_BYTES_MIN} bytes; ask for a longer one"
        ));
    }
    let name = name?;
    Ok(secret.map(|secret| (name, secret)))
}

fn headers(source: &Block<'_>) -> Read<(HeaderName, HeaderName)> {
    let block = source.block("headers", &["signature", "timestamp"])?;
    let signature = block.or(
        "signature",
        HeaderName::from_static("x-api-key"),
        header_name,
    );
    let timestamp = block.or(
        "timestamp",
        HeaderName::from_static("generated-at"),
        header_name,
    );
    let (signature, timestamp) = (signature?, timestamp?);
    if signature == timestamp {
        return block.problem(
            "timestamp",
            "the same header as `signature`; each has its own",
        );
    }
    Ok((signature, timestamp))
}

fn header_name(at: &At<'_>) -> Read<HeaderName> {
    let text = at.text()?;
    match text.value.parse() {
        Ok(name) => Ok(name),
        Err(_) => at.problem(format!("`{}` is no name of a header", text.written)),
    }
}

/// How old, and how far ahead of our clock, a notification may be.
fn ages(block: &Block<'_>, keep_delivered: Option<Duration>) -> Read<(Option<Duration>, Duration)> {
    let bounds = Duration::ZERO..=YEAR;
    let age_max = block.or("max_age", Duration::from_hours(48), |at| {
        at.duration(bounds.clone())
    });
    let ahead_max = block.or("max_ahead", Duration::from_hours(1), |at| {
        at.duration(bounds)
    });
    let (age_max, ahead_max) = (age_max?, ahead_max?);
    if age_max.is_zero() {
        return Ok((None, ahead_max));
    }
    if let Some(kept) = keep_delivered.filter(|kept| age_max + ahead_max >= *kept) {
        let sum = ShownDuration(age_max + ahead_max);
        return block.problem(
            "max_age",
            format!(
                "with `max_ahead` {sum}, which is not below `spool.keep_delivered`, {}: a replay would outlive \
                 its mark and be delivered again; shorten it, or keep longer",
                ShownDuration(kept)
            ),
        );
    }
    Ok((Some(age_max), ahead_max))
}

/// `suki`, built in, or a file of the user's own.
fn schema(block: &Block<'_>) -> Read<Schema> {
    let unknown_status = block.or("unknown_status", UnknownStatus::Accept, |at| {
        at.choice(&[
            ("accept", UnknownStatus::Accept),
            ("reject", UnknownStatus::Reject),
        ])
    });
    let own = block.optional("schema").filter(|at| !at.is_word(BUILT_IN));
    let Some(at) = own else {
        return built_in(block, unknown_status?);
    };
    let (path, text) = references::file(&at)?;
    match Schema::compile(&text, unknown_status?) {
        Ok(schema) => Ok(schema),
        Err(error) => at.problem(format!("{}: {error}", path.display())),
    }
}

fn built_in(block: &Block<'_>, unknown_status: UnknownStatus) -> Read<Schema> {
    match Schema::built_in(unknown_status) {
        Ok(schema) => Ok(schema),
        Err(error) => block.problem("schema", error.to_string()),
    }
}
