//! Who answers: a running relay, or the folder of a stopped one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value};

use super::Place;
use crate::admin::operator;
use crate::cli::{Environment, Failure};
use crate::config::Config;
use crate::secret::Secret;
use crate::spool::{self, Spool};

/// As long as the relay itself takes for an answer, and a little.
const ANSWER_WAIT: Duration = Duration::from_secs(610);
/// A page of bodies, as JSON in hex.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(super) enum Desk {
    Running {
        operator: Uri,
        bearer: Option<HeaderValue>,
    },
    Stopped(operator::Desk),
}

impl Desk {
    pub fn open(place: &Place, environment: Environment<'static>) -> Result<Self, Failure> {
        let Some(path) = &place.path else {
            let bearer = place.token_file.as_deref().map(bearer).transpose()?;
            let operator = place.operator.clone();
            return Ok(Self::Running { operator, bearer });
        };
        let (routing, keys) = match &place.config {
            None => Default::default(),
            Some(file) => {
                let read = Config::read(file, environment);
                let config =
                    read.map_err(|problems| Failure::config(anyhow::anyhow!("{problems}")))?;
                let keys = match config.spool {
                    spool::Store::Disk(options) => options.keys,
                    spool::Store::Postgres(options) => {
                        options.fallback.and_then(|fallback| fallback.disk.keys)
                    }
                };
                (config.routing, keys)
            }
        };
        let registry = prometheus::Registry::new();
        let metrics = spool::Metrics::new(&registry).map_err(anyhow::Error::new)?;
        let on_fatal = |fatal: spool::Fatal| eprintln!("{fatal}");
        let spool = Spool::open_existing(path, keys, metrics, on_fatal);
        let spool = spool.map_err(|error| Failure::spool(error.into()))?;
        let routing = Arc::new(ArcSwap::from_pointee(routing));
        Ok(Self::Stopped(operator::Desk::new(spool, routing)))
    }

    pub async fn order(&self, target: &str, order: Map<String, Value>) -> anyhow::Result<Value> {
        self.ask(&Method::POST, target, Some(Value::Object(order)))
            .await
    }

    /// The answer, if it is none that refuses.
    pub async fn ask(
        &self,
        method: &Method,
        target: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let (status, json) = match self {
            Self::Stopped(desk) => desk.answer(method, target, &body).await,
            Self::Running { operator, bearer } => tokio::time::timeout(
                ANSWER_WAIT,
                over_http(operator, bearer.as_ref(), method, target, body),
            )
            .await
            .context("the relay did not answer in time")??,
        };
        let answer: Value = serde_json::from_slice(&json).with_context(|| {
            format!("status {status}, and no JSON: is this an operator address?")
        })?;
        ensure!(
            status == StatusCode::OK,
            "{}",
            answer["message"].as_str().unwrap_or("refused")
        );
        Ok(answer)
    }

    /// Walks the whole spool of a stopped relay.
    pub async fn audit(&self) -> anyhow::Result<()> {
        let Self::Stopped(desk) = self else {
            bail!("an audit is of a stopped relay's folder; give --path");
        };
        let audit = desk.spool.audit().await?;
        println!(
            "{} notifications, {} deliveries, {} in quarantine, {} bodies held against their digests",
            audit.notifications, audit.deliveries, audit.quarantined, audit.bodies
        );
        for discrepancy in &audit.discrepancies {
            println!("{discrepancy}");
        }
        let found = audit.discrepancies.len() as u64 + audit.more;
        ensure!(
            found == 0,
            "{found} discrepancies: this is a defect or a damaged disk; keep the folder"
        );
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
async fn over_http(
    operator: &Uri,
    bearer: Option<&HeaderValue>,
    method: &Method,
    target: &str,
    body: Bytes,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let base = operator.to_string();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{target}", base.trim_end_matches('/')));
    if let Some(bearer) = bearer {
        request = request.header(AUTHORIZATION, bearer);
    }
    let request = request
        .body(Full::new(body))
        .context("a filter has characters that no URL has")?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.with_context(|| {
        format!("asking {base}; is the relay running, and `admin.operator` on? For a stopped one, give --path")
    })?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|cause| anyhow::anyhow!("the answer broke off: {cause}"))?;
    Ok((status, body.to_bytes()))
}

fn bearer(file: &Path) -> anyhow::Result<HeaderValue> {
    let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let token = Secret::from_text(text).with_context(|| format!("{} is empty", file.display()))?;
    let value = [b"Bearer ", token.expose()].concat();
    let mut value = HeaderValue::from_bytes(&value).context("the token is no visible ASCII")?;
    value.set_sensitive(true);
    Ok(value)
}
