//! The operator address: what is in the spool, what the config is, and what to do about either. JSON over
//! plain HTTP, on an address of its own.
//!
//! Promises and limits:
//! * Whoever is not admitted by [`Guard`] learns nothing and changes nothing.
//! * One request a connection, [`CONNECTIONS_MAX`] of them; a body of at most [`BODY_BYTES_MAX`], complete
//!   within [`BODY_WAIT`]; an answer within [`EXCHANGE_WAIT`]. Lists come page by page, never cut in silence.
//! * No answer holds a body or a signature but where they are asked for, with `body=1`: of one notification,
//!   or of a page.
//! * What changes something is logged when it ends: by whom, what, with which filter, and how many. An operator
//!   who leaves stops nothing that has begun.

mod answer;
mod ask;
mod desk;
mod guard;
mod orders;
mod reverify;
mod show;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::answer::{Refusal, json, ok};
use self::ask::LogLevel;
use super::listen::{self, Answer, Limits};
pub use desk::Desk;
pub use guard::Guard;

/// Connections served at a time.
pub const CONNECTIONS_MAX: usize = 32;
/// From accepted connection to answer written: an order may go through all that the spool holds.
pub const EXCHANGE_WAIT: Duration = Duration::from_mins(10);
/// Bytes of a request's body: as many ids as a filter takes, and room for the rest.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// From the complete head to the complete body.
pub const BODY_WAIT: Duration = Duration::from_secs(10);

/// What the operator address shows and does.
pub struct Operator {
    pub guard: Guard,
    pub desk: Desk,
    pub config: Arc<ArcSwap<ConfigState>>,
    pub reload: mpsc::Sender<ReloadOrder>,
    pub set_log_level: SetLogLevel,
}

/// The config in use, and what is wrong with the version seen last.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigState {
    pub sha256: String,
    /// RFC 3339.
    pub in_use_since: String,
    /// Problems of the version seen last, with file, line and column; null if that is the one in use.
    pub refused: Option<String>,
    /// The file's keys and values as written, without what might be a credential.
    pub config: serde_json::Value,
}

/// Asks to look at the config's files now; answered once that is done.
pub type ReloadOrder = oneshot::Sender<Reloaded>;

/// What a look at the config's files led to.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Reloaded {
    /// Another version is in use.
    Applied,
    /// The files hold what they held before.
    Unchanged,
    /// The version in the files is not used, and why.
    Refused { problems: String },
}

/// Sets what is logged from now on; the error says what is wrong with the directives.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, operator: Arc<Operator>) {
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        exchange_wait: EXCHANGE_WAIT,
    };
    let answer = move |request| {
        let operator = operator.clone();
        async move { operator.answer(request).await }
    };
    listen::serve(listener, limits, answer).await;
}

impl Operator {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Err(refusal) = self.guard.admit(request.headers()) {
            return refusal.answer();
        }
        let (head, body) = request.into_parts();
        let path: Vec<_> = head.uri.path().split('/').skip(1).collect();
        let answer = match collect(body).await {
            Ok(body) => self.ask(&head, &path, &body).await,
            Err(refusal) => Err(refusal),
        };
        answer.map_or_else(|refusal| refused(&refusal, &path), ok)
    }

    async fn ask(&self, head: &Parts, path: &[&str], body: &[u8]) -> Result<Bytes, Refusal> {
        match (&head.method, path) {
            (&Method::GET, ["v1", "config"]) => Ok(json(&**self.config.load())),
            (&Method::POST, ["v1", "reload"]) => self.reload().await,
            (&Method::PUT, ["v1", "log-level"]) => self.log_level(body),
            (method, path) => {
                let query = head.uri.query().unwrap_or_default();
                self.desk.ask(method, path, query, body).await
            }
        }
    }

    async fn reload(&self) -> Result<Bytes, Refusal> {
        let (order, done) = oneshot::channel();
        let ordered = self.reload.send(order).await;
        let reloaded = match ordered {
            Ok(()) => done.await.ok(),
            Err(_) => None,
        };
        let stopping = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the relay is stopping");
        Ok(json(&reloaded.ok_or_else(stopping)?))
    }

    fn log_level(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let LogLevel { level } = ask::json(body)?;
        (self.set_log_level)(&level).map_err(Refusal::bad)?;
        tracing::info!(level, "an operator set what is logged");
        Ok(json(&LogLevel { level }))
    }
}

/// The whole body of a request.
#[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
async fn collect(body: Incoming) -> Result<Bytes, Refusal> {
    let whole = Limited::new(body, BODY_BYTES_MAX).collect();
    match timeout(BODY_WAIT, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(_)) => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {BODY_BYTES_MAX} bytes, or broke off"),
        )),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time",
        )),
    }
}

/// What there is, with the one method that each takes.
const PLACES: &[(&str, &str)] = &[
    ("v1/status", "GET"),
    ("v1/config", "GET"),
    ("v1/reload", "POST"),
    ("v1/log-level", "PUT"),
    ("v1/notifications", "GET"),
    ("v1/notifications/ID", "GET"),
    ("v1/notifications/ID/replay", "POST"),
    ("v1/dead-letters/replay", "POST"),
    ("v1/dead-letters/discard", "POST"),
    ("v1/quarantine/release", "POST"),
    ("v1/quarantine/discard", "POST"),
];

fn unknown(path: &[&str]) -> Refusal {
    if let Some(method) = method_of(path) {
        let message = format!("this takes {method}");
        return Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message);
    }
    let places = PLACES.iter().map(|(place, _)| format!("/{place}"));
    let places: Vec<_> = places.collect();
    Refusal::not_found(format!("not found; there are {}", places.join(" ")))
}

fn method_of(path: &[&str]) -> Option<&'static str> {
    let fits = |place: &str| {
        let place: Vec<_> = place.split('/').collect();
        let mut pairs = place.iter().zip(path);
        place.len() == path.len() && pairs.all(|(is, at)| *is == "ID" || is == at)
    };
    let found = PLACES.iter().find(|(place, _)| fits(place));
    found.map(|(_, method)| *method)
}

fn refused(refusal: &Refusal, path: &[&str]) -> Answer {
    let mut answer = refusal.answer();
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED
        && let Some(method) = method_of(path)
    {
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(method));
    }
    answer
}

#[cfg(test)]
mod tests;
