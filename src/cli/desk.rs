//! Who answers questions and orders about a spool: a running relay, or the folder of a stopped one.

use std::path::{Path, PathBuf};
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

use super::Failure;
use crate::admin::operator;
use crate::routing::Routing;
use crate::secret::Secret;
use crate::spool::{self, PostgresOptions, Spool, Store};

/// As long as the relay itself takes for an answer, and a little.
const ANSWER_WAIT: Duration = Duration::from_secs(610);
/// A page of bodies, as JSON in hex.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Notifications asked for at a time.
const PAGE: usize = 200;

/// Where the spool is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Operator address of a running relay
    #[arg(
        long,
        global = true,
        default_value = "http://127.0.0.1:9741",
        value_name = "URL",
        conflicts_with = "path"
    )]
    operator: Uri,
    /// File with the operator's token
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "path")]
    token_file: Option<PathBuf>,
    /// Folder of a stopped relay's spool, in place of a running one
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(super) path: Option<PathBuf>,
}

pub(super) enum Desk {
    Running {
        operator: Uri,
        bearer: Option<HeaderValue>,
    },
    Stopped(operator::Desk),
}

impl Desk {
    /// `routing` says where releases and replays go; `store` names the keys of a stopped relay's spool.
    pub fn open(place: &Place, routing: Routing, store: Option<Store>) -> Result<Self, Failure> {
        let Some(path) = &place.path else {
            let bearer = place.token_file.as_deref().map(bearer).transpose()?;
            let operator = place.operator.clone();
            return Ok(Self::Running { operator, bearer });
        };
        let keys = match store {
            Some(Store::Disk(options)) => options.keys,
            Some(Store::Postgres(options)) => {
                options.fallback.and_then(|fallback| fallback.disk.keys)
            }
            None => None,
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

    /// Every entry that the filters (`&key=value…`) leave, page by page, to the end or to the limit. Returns the
    /// numbers of those that cannot be read.
    pub async fn each(
        &self,
        filters: &str,
        limit: Option<usize>,
        mut take: impl FnMut(&Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<i64>> {
        let mut unreadable = Vec::new();
        let mut left = limit.unwrap_or(usize::MAX);
        let mut cursor = String::new();
        while left > 0 {
            let limit = left.min(PAGE);
            let target = format!("/v1/notifications?limit={limit}{filters}{cursor}");
            let page = self.ask(&Method::GET, &target, None).await?;
            let entries = page["notifications"]
                .as_array()
                .or(page["unverified"].as_array());
            let entries = entries.context("this is no operator address: its answer is no list")?;
            entries.iter().try_for_each(&mut take)?;
            let damaged = page["unreadable"].as_array().into_iter().flatten();
            unreadable.extend(damaged.filter_map(Value::as_i64));
            left = left.saturating_sub(entries.len());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        Ok(unreadable)
    }

    /// Walks the whole spool of a stopped relay.
    pub async fn audit(&self) -> anyhow::Result<()> {
        match self {
            Self::Stopped(desk) => audit(&desk.spool).await,
            Self::Running { .. } => bail!(
                "an audit is of a stopped relay's folder: give --path; or of a shared spool: give the --config \
                 that has `spool.postgres`"
            ),
        }
    }
}

/// Walks the whole of a spool that relays share, stopped or not.
pub(super) async fn audit_shared(options: PostgresOptions) -> anyhow::Result<()> {
    let metrics = spool::Metrics::new(&prometheus::Registry::new())?;
    let observe = move || Spool::observe(&options, metrics);
    let spool = tokio::task::spawn_blocking(observe).await??;
    audit(&spool).await
}

async fn audit(spool: &Spool) -> anyhow::Result<()> {
    let audit = spool.audit().await?;
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
        "{found} discrepancies: this is a defect or a damaged disk; keep the spool as it is"
    );
    Ok(())
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
