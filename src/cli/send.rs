//! `suki-relay send`: signs and posts notifications as Suki does.

mod delivered;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use indicatif::{ProgressBar, ProgressStyle};

use self::delivered::Relays;
use super::trust::Trust;
use super::{innermost, runtime};
use crate::clock::Timestamp;
use crate::schema::EXAMPLES;
use crate::secret::Secret;
use crate::verify::signature;

/// A sender that waits longer than this for an answer has given up.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to post, for example `https://localhost:8443/webhooks/notification`
    #[arg(long)]
    url: Uri,
    /// File with the secret to sign with
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    #[command(flatten)]
    payload: Payload,
    /// How many to send
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Send no more than this many a second
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How many wait for their answers at a time
    #[arg(long, default_value_t = 1, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    #[command(flatten)]
    trust: Trust,
    /// Then wait until the relays at this admin address have delivered as many, at most 60 s
    ///
    /// Every address that its host stands for is asked for its metrics. It counts deliveries, and does not know
    /// whose they are: other senders' help to reach the number.
    #[arg(long, value_name = "URL")]
    until_delivered: Option<Uri>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Payload {
    /// File with the exact body
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// A body as Suki sends it
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(EXAMPLES.map(|(name, _)| name)))]
    example: Option<String>,
}

/// Signs and posts; shared by all that send at once.
pub(super) struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    secret: Secret,
    last_generated_at: AtomicI64,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let secret = std::fs::read(&arguments.secret_file)
        .with_context(|| format!("reading {}", arguments.secret_file.display()))?;
    let secret = Secret::from_text(secret)
        .with_context(|| format!("{} is empty", arguments.secret_file.display()))?;
    let body = arguments.payload.read()?;
    let sender = Sender::new(arguments.url.clone(), secret, &arguments.trust)?;
    runtime()?.block_on(async {
        let relays = arguments.until_delivered.as_ref().map(Relays::at);
        let watched = match relays.transpose()? {
            None => None,
            Some(relays) => Some((relays.delivered().await?, relays)),
        };
        let tally = send_all(Arc::new(sender), body, arguments).await;
        tally.print();
        ensure!(
            tally.accepted() == arguments.count,
            "not every notification was answered 200"
        );
        if let Some((before, relays)) = watched {
            relays.have_delivered(before, arguments.count).await?;
            println!("delivered");
        }
        Ok(())
    })
}

impl Payload {
    fn read(&self) -> anyhow::Result<Bytes> {
        if let Some(path) = &self.body {
            let body =
                std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            return Ok(body.into());
        }
        let example = EXAMPLES
            .iter()
            .find(|(name, _)| Some(*name) == self.example.as_deref());
        let (_, body) = example.context("--body or --example is needed")?;
        Ok(Bytes::from_static(body.as_bytes()))
    }
}

impl Sender {
    pub(super) fn new(url: Uri, secret: Secret, trust: &Trust) -> anyhow::Result<Self> {
        if url.host().is_none() || !matches!(url.scheme_str(), Some("http" | "https")) {
            bail!(
                "--url {url}: write it whole, as in https://localhost:8443/webhooks/notification"
            );
        }
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(trust.client_config()?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self {
            client,
            url,
            secret,
            last_generated_at: AtomicI64::new(0),
        })
    }

    /// Posts one body; the status of the answer, or why there is none.
    ///
    /// No two posts of one sender bear the same timestamp: each is a notification of its own.
    pub(super) async fn post(&self, body: Bytes) -> Result<u16, String> {
        let generated_at = self.next_generated_at().to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header("content-type", "application/json")
            .header("x-api-key", signature(&self.secret, &generated_at, &body))
            .header("generated-at", generated_at)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| innermost(&error))?;
            let status = answer.status().as_u16();
            let mut rest = answer.into_body();
            while let Some(frame) = rest.frame().await {
                frame.map_err(|error| innermost(&error))?;
            }
            Ok(status)
        };
        tokio::time::timeout(ANSWER_WAIT, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_WAIT.as_secs())))
    }

    fn next_generated_at(&self) -> i64 {
        let now = Timestamp::now().as_millis();
        let step = |last: i64| Some(now.max(last + 1));
        let last = self
            .last_generated_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        now.max(last.unwrap_or(now) + 1)
    }
}

async fn send_all(sender: Arc<Sender>, body: Bytes, arguments: &Arguments) -> Tally {
    let started = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let progress = progress(arguments.count);
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..arguments.concurrency {
        let (sender, body, next, progress) =
            (sender.clone(), body.clone(), next.clone(), progress.clone());
        let (count, rate) = (arguments.count, arguments.rate);
        posts.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return tally;
                }
                if let Some(rate) = rate {
                    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 posts")]
                    let at = Duration::from_secs(1).mul_f64(number as f64 / f64::from(rate));
                    tokio::time::sleep_until((started + at).into()).await;
                }
                let sent = Instant::now();
                tally.note(sender.post(body.clone()).await, sent.elapsed());
                progress.inc(1);
            }
        });
    }
    let tallies = posts.join_all().await;
    progress.finish_and_clear();
    tallies.into_iter().fold(Tally::default(), Tally::plus)
}

/// Answers by kind, and how long each took.
#[derive(Debug, Default)]
struct Tally {
    answers: BTreeMap<String, u64>,
    latencies: Vec<Duration>,
}

impl Tally {
    fn note(&mut self, answer: Result<u16, String>, latency: Duration) {
        let kind = answer.map_or_else(|cause| cause, |status| status.to_string());
        *self.answers.entry(kind).or_default() += 1;
        self.latencies.push(latency);
    }

    fn plus(mut self, other: Self) -> Self {
        for (kind, count) in other.answers {
            *self.answers.entry(kind).or_default() += count;
        }
        self.latencies.extend(other.latencies);
        self
    }

    fn accepted(&self) -> u64 {
        self.answers.get("200").copied().unwrap_or(0)
    }

    fn print(&self) {
        for (kind, count) in &self.answers {
            println!("{count} × {kind}");
        }
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        };
        if let (Some(p50), Some(p99), Some(max)) = (at(50), at(99), sorted.last()) {
            println!("latency: p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}");
        }
    }
}

fn progress(count: u64) -> ProgressBar {
    if count == 1 {
        return ProgressBar::hidden();
    }
    // indicatif draws on standard error, and only on a terminal.
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} eta {eta}");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
