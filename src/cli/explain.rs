//! `suki-relay explain`: what would happen to a notification, and why.
//!
//! Runs the very code of the request path on a body from a file. What it prints may quote the body: it
//! is for an operator's terminal.

mod cause;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use super::{ConfigFile, Environment, Failure, check, print};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::name::Name;
use crate::routing::{Facts, Freshness, Match, OnInvalid, Routing, Source};
use crate::verify::Signed;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// File with the exact body
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// The timestamp header, as sent
    #[arg(long, value_name = "MS", requires = "signature")]
    generated_at: Option<String>,
    /// The signature header, as sent
    #[arg(long, value_name = "HEX", requires = "generated_at")]
    signature: Option<String>,
    /// Another header of the request, for expressions that look at it
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The source it is posted to; needed where there are several
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Explanation {
    source: String,
    /// What the sender is told, and what becomes of the notification.
    outcome: String,
    signature: Option<Signature>,
    freshness: Option<&'static str>,
    schema_violations: Vec<Violation>,
    routes: Vec<RouteVerdict>,
    targets: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Signature {
    matches: bool,
    /// Name of the secret that made it.
    secret: Option<String>,
    likely_cause: Option<String>,
}

#[derive(Debug, Serialize)]
struct Violation {
    pointer: String,
    problem: String,
}

#[derive(Debug, Serialize)]
struct RouteVerdict {
    route: String,
    holds: bool,
    when: Option<String>,
    why: String,
    targets: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, environment: Environment<'_>) -> Result<(), Failure> {
    let config = check::read(&arguments.file, environment)?;
    let explanation = explain(&config, arguments)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&explanation).context("writing JSON")?;
        return print(&format!("{json}\n"));
    }
    print(&explanation.to_string())
}

fn explain(config: &Config, arguments: &Arguments) -> anyhow::Result<Explanation> {
    let routing = &config.routing;
    let source = source(routing, arguments.source.as_deref())?;
    let Some(body) = read(&arguments.body, config.listen.limits.body_bytes)? else {
        return Ok(Explanation::too_large(
            source,
            config.listen.limits.body_bytes,
        ));
    };
    let signature = arguments
        .signed(&body)
        .map(|signed| judge_signature(routing, source, &signed));
    let freshness = arguments
        .generated_at
        .as_deref()
        .map(|at| source.freshness(at, Timestamp::now()));
    let violations = source.schema.violations(&body);
    let (routes, targets) = match source.schema.parse(&body) {
        Ok(value) => judge_routes(
            routing,
            source,
            signature.as_ref(),
            &arguments.header_map(),
            &value,
        ),
        Err(_) => (Vec::new(), Vec::new()),
    };
    let outcome = outcome(
        source,
        signature.as_ref(),
        freshness,
        !violations.is_empty(),
        &targets,
    );
    Ok(Explanation {
        source: source.name.to_string(),
        outcome,
        signature,
        freshness: freshness.map(freshness_word),
        schema_violations: violations
            .into_iter()
            .map(|violation| Violation {
                pointer: violation.pointer,
                problem: violation.problem,
            })
            .collect(),
        routes,
        targets: targets.iter().map(Name::to_string).collect(),
    })
}

/// What the request path would answer, by the order of its own steps.
fn outcome(
    source: &Source,
    signature: Option<&Signature>,
    freshness: Option<Freshness>,
    invalid: bool,
    targets: &[Name],
) -> String {
    if signature.is_some_and(|signature| !signature.matches) {
        return "401 invalid token; not delivered".into();
    }
    match freshness {
        Some(Freshness::Stale) => return "200; kept in quarantine as `stale`".into(),
        Some(Freshness::Future) => return "200; kept in quarantine as `future`".into(),
        Some(Freshness::Unreadable) => return "200; kept in quarantine as `bad_timestamp`".into(),
        Some(Freshness::Fresh) | None => {}
    }
    match (invalid, source.on_invalid, targets.len()) {
        (true, OnInvalid::Reject, _) => {
            "400 invalid request; kept in quarantine as `invalid`".into()
        }
        (true, OnInvalid::Accept, _) => "200; kept in quarantine as `invalid`".into(),
        (false, _, 0) => "200; kept in quarantine as `unrouted`".into(),
        (false, _, 1) => "200; owed to 1 target".into(),
        (false, _, count) => format!("200; owed to {count} targets"),
    }
}

fn judge_signature(routing: &Routing, source: &Source, signed: &Signed) -> Signature {
    let verified = source.keyring.verify(signed.clone()).ok();
    let secret = verified.map(|verified| verified.secret().to_string());
    let matches = secret.is_some();
    let likely_cause = (!matches).then(|| cause::likely(routing, source, signed));
    Signature {
        matches,
        secret,
        likely_cause,
    }
}

fn judge_routes(
    routing: &Routing,
    source: &Source,
    signature: Option<&Signature>,
    headers: &HeaderMap,
    body: &serde_json::Value,
) -> (Vec<RouteVerdict>, Vec<Name>) {
    let matched = signature.and_then(|signature| signature.secret.as_deref());
    let secret = source
        .keyring
        .names()
        .find(|name| matched.is_none_or(|m| name.as_str() == m));
    let facts = Facts {
        source: &source.name,
        secret: secret.unwrap_or(&source.name),
        headers,
        body,
    };
    let verdicts = routing
        .verdicts(facts)
        .into_iter()
        .map(|(route, verdict)| RouteVerdict {
            route: route.name.to_string(),
            holds: verdict == Match::Holds,
            when: route.when.as_ref().map(|when| when.text().to_owned()),
            why: route
                .when
                .as_ref()
                .map_or("it has no `when`".into(), |when| when.reason(facts)),
            targets: route.to.iter().map(Name::to_string).collect(),
        });
    (verdicts.collect(), routing.plan(facts).targets)
}

fn source<'r>(routing: &'r Routing, name: Option<&str>) -> anyhow::Result<&'r Arc<Source>> {
    let sources = routing.sources();
    let names = || {
        sources
            .iter()
            .map(|source| source.name.as_str())
            .collect::<Vec<_>>()
            .join("`, `")
    };
    match (name, sources) {
        (None, [only]) => Ok(only),
        (None, _) => bail!(
            "there are several sources; choose one with --source: `{}`",
            names()
        ),
        (Some(name), _) => {
            let chosen = sources.iter().find(|source| source.name.as_str() == name);
            chosen.with_context(|| format!("no source `{name}`; there are `{}`", names()))
        }
    }
}

/// The body, or `None` if it is above the limit; never reads more than one byte beyond it.
fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Option<Bytes>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut body = Vec::new();
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut body)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok((body.len() <= bytes_max).then(|| body.into()))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `name: value`")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("`{}` is no header name", name.trim()))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "not a header value".to_owned())?;
    Ok((name, value))
}

const fn freshness_word(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Stale => "stale: older than `max_age`",
        Freshness::Future => "future: further ahead of this machine's clock than `max_ahead`",
        Freshness::Unreadable => "not a number of milliseconds",
    }
}

impl Arguments {
    fn signed(&self, body: &Bytes) -> Option<Signed> {
        Some(Signed {
            generated_at: self.generated_at.clone()?,
            signature: self.signature.clone()?,
            body: body.clone(),
        })
    }

    fn header_map(&self) -> HeaderMap {
        self.headers.iter().cloned().collect()
    }
}

impl Explanation {
    fn too_large(source: &Source, bytes_max: usize) -> Self {
        Self {
            source: source.name.to_string(),
            outcome: format!(
                "413 payload too large: above `listen.limits.body`, {bytes_max} bytes"
            ),
            signature: None,
            freshness: None,
            schema_violations: Vec::new(),
            routes: Vec::new(),
            targets: Vec::new(),
        }
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "source     {}", self.source)?;
        match &self.signature {
            None => writeln!(
                f,
                "signature  not judged; give --generated-at and --signature"
            )?,
            Some(Signature {
                secret: Some(secret),
                ..
            }) => {
                writeln!(f, "signature  matches secret `{secret}`")?;
            }
            Some(Signature { likely_cause, .. }) => {
                writeln!(
                    f,
                    "signature  does not match: {}",
                    likely_cause.as_deref().unwrap_or("-")
                )?;
            }
        }
        if let Some(freshness) = self.freshness {
            writeln!(f, "timestamp  {freshness}")?;
        }
        match self.schema_violations.as_slice() {
            [] => writeln!(f, "schema     fits")?,
            violations => {
                for Violation { pointer, problem } in violations {
                    writeln!(
                        f,
                        "schema     {}: {problem}",
                        if pointer.is_empty() { "/" } else { pointer }
                    )?;
                }
            }
        }
        for route in &self.routes {
            let verdict = if route.holds { "holds" } else { "fails" };
            writeln!(f, "route      {} {verdict}: {}", route.route, route.why)?;
        }
        for target in &self.targets {
            writeln!(f, "target     {target}")?;
        }
        writeln!(f, "outcome    {}", self.outcome)
    }
}
