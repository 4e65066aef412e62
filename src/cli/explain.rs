//! `suki-relay explain`: what would happen to a notification, and why.
//!
//! Runs the very code of the request path on a body from a file, or on what the spool holds. What it prints
//! may quote the body: it is for an operator's terminal.

mod cause;
mod encoding;
mod kept;
mod report;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use self::report::{Explanation, RouteVerdict, Signature, TargetMisfit, Verdict, Violation};
use super::desk::Place;
use super::{ConfigFile, Environment, Failure, check, print};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::name::Name;
use crate::routing::{Facts, Freshness, OnInvalid, Plan, Routing, Source};
use crate::verify::Signed;

/// A timestamp of so few digits counts seconds.
const SECONDS_DIGITS_MAX: usize = 10;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["body", "from_spool", "since"]))]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// File with the exact body
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
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
    /// A notification that the spool holds, at the moment it came
    #[arg(long, value_name = "ID", conflicts_with_all = ["generated_at", "headers", "source"])]
    from_spool: Option<String>,
    /// Which of the notifications kept since a moment (RFC 3339), or this long ago (24h), this config would
    /// have routed otherwise
    #[arg(long, value_name = "WHEN", conflicts_with_all = ["generated_at", "headers", "source"])]
    since: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Print JSON; with --since, a line for each
    #[arg(long)]
    json: bool,
}

/// A request as it came, or as it might come.
struct Request<'r> {
    source: &'r Source,
    body: Bytes,
    /// Text of the timestamp header.
    generated_at: Option<String>,
    /// Text of the signature header.
    signature: Option<String>,
    headers: HeaderMap,
    /// Name of the secret that signed it, if that is known otherwise than by its signature.
    secret: Option<Name>,
    received_at: Timestamp,
}

pub(super) fn run(arguments: &Arguments, environment: Environment<'_>) -> Result<(), Failure> {
    let config = check::read(&arguments.file, environment)?;
    if let Some(since) = &arguments.since {
        return kept::since(config, &arguments.place, since, arguments.json);
    }
    let explanations = match (&arguments.from_spool, &arguments.body) {
        (Some(id), _) => kept::one(config, &arguments.place, id)?,
        (None, Some(body)) => vec![from_file(&config, body, arguments)?],
        (None, None) => Vec::new(),
    };
    for explanation in explanations {
        if arguments.json {
            let json = serde_json::to_string_pretty(&explanation).context("writing JSON")?;
            print(&format!("{json}\n"))?;
        } else {
            print(&explanation.to_string())?;
        }
    }
    Ok(())
}

fn from_file(config: &Config, body: &Path, arguments: &Arguments) -> anyhow::Result<Explanation> {
    let routing = &config.routing;
    let source = source(routing, arguments.source.as_deref())?;
    let bytes_max = config.listen.limits.body_bytes;
    let Some(body) = read(body, bytes_max)? else {
        return Ok(Explanation::too_large(source, bytes_max));
    };
    Ok(explain(
        routing,
        &Request {
            source,
            body,
            generated_at: arguments.generated_at.clone(),
            signature: arguments.signature.clone(),
            headers: arguments.headers.iter().cloned().collect(),
            secret: None,
            received_at: Timestamp::now(),
        },
    ))
}

fn explain(routing: &Routing, request: &Request<'_>) -> Explanation {
    let source = request.source;
    let signature = request
        .signed()
        .map(|signed| judge_signature(routing, source, &signed));
    let generated_at = request.generated_at.as_deref();
    let freshness = generated_at.map(|at| source.freshness(at, request.received_at));
    let violations = source.schema.violations(&request.body);
    let (routes, plan) = match source.schema.parse(&request.body) {
        Ok(body) => judge_routes(routing, request, signature.as_ref(), &body),
        Err(_) => (Vec::new(), Plan::default()),
    };
    let outcome = outcome(
        source,
        signature.as_ref(),
        freshness,
        !violations.is_empty(),
        &plan,
    );
    Explanation {
        source: source.name.to_string(),
        outcome,
        signature,
        freshness: freshness.map(|freshness| timestamp_words(freshness, generated_at)),
        schema_violations: Some(violations.into_iter().map(Violation::from).collect()),
        routes,
        targets: plan.targets.iter().map(Name::to_string).collect(),
        misfits: misfits(routing, &plan, &request.body),
    }
}

fn misfits(routing: &Routing, plan: &Plan, body: &[u8]) -> Vec<TargetMisfit> {
    let targets = plan.targets.iter().filter_map(|name| routing.target(name));
    let misfits = targets.filter_map(|target| {
        Some(TargetMisfit {
            target: target.name.to_string(),
            problem: target.misfit(body)?.to_string(),
        })
    });
    misfits.collect()
}

/// What the request path would answer, by the order of its own steps.
fn outcome(
    source: &Source,
    signature: Option<&Signature>,
    freshness: Option<Freshness>,
    invalid: bool,
    plan: &Plan,
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
    match (invalid, source.on_invalid) {
        (true, OnInvalid::Reject) => "400 invalid request; kept in quarantine as `invalid`".into(),
        (true, OnInvalid::Accept) => "200; kept in quarantine as `invalid`".into(),
        (false, _) => routed(plan),
    }
}

fn routed(plan: &Plan) -> String {
    let owed = match plan.targets.len() {
        0 if plan.errors.is_empty() => return "200; kept in quarantine as `unrouted`".into(),
        0 => return "200; kept in quarantine as `route_error`".into(),
        1 => "200; owed to 1 target".to_owned(),
        count => format!("200; owed to {count} targets"),
    };
    if plan.errors.is_empty() {
        owed
    } else {
        owed + ", and kept in quarantine as `route_error`"
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
    request: &Request<'_>,
    signature: Option<&Signature>,
    body: &serde_json::Value,
) -> (Vec<RouteVerdict>, Plan) {
    let source = request.source;
    let matched = signature.and_then(|signature| signature.secret.as_deref());
    let secret = source
        .keyring
        .names()
        .find(|name| matched.is_none_or(|m| name.as_str() == m));
    let facts = Facts {
        source: &source.name,
        secret: request.secret.as_ref().or(secret).unwrap_or(&source.name),
        headers: &request.headers,
        body,
    };
    let verdicts = routing
        .verdicts(facts)
        .into_iter()
        .map(|(route, verdict)| RouteVerdict {
            route: route.name.to_string(),
            verdict: Verdict::from(verdict),
            when: route.when.as_ref().map(|when| when.text().to_owned()),
            why: route
                .when
                .as_ref()
                .map_or("it has no `when`".into(), |when| when.reason(facts)),
            targets: route.to.iter().map(Name::to_string).collect(),
        });
    (verdicts.collect(), routing.plan(facts))
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

fn timestamp_words(freshness: Freshness, generated_at: Option<&str>) -> String {
    let digits = generated_at.map_or(0, str::len);
    match freshness {
        Freshness::Fresh => "fresh".into(),
        // Milliseconds have had 13 digits since 2001, and seconds have 10 until 2286.
        Freshness::Stale if digits <= SECONDS_DIGITS_MAX => {
            "stale: it looks like seconds; the sender must write milliseconds".into()
        }
        Freshness::Stale => "stale: older than `max_age`".into(),
        Freshness::Future => {
            "future: further ahead of this machine's clock than `max_ahead`".into()
        }
        Freshness::Unreadable => "not a number of milliseconds".into(),
    }
}

impl Request<'_> {
    fn signed(&self) -> Option<Signed> {
        Some(Signed {
            generated_at: self.generated_at.clone()?,
            signature: self.signature.clone()?,
            body: self.body.clone(),
        })
    }
}
