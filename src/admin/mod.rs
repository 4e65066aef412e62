//! The admin address: metrics and probes, read only, over plain HTTP. Beside it, on an address of its own,
//! what changes something: [`operator`].
//!
//! Promises and limits:
//! * It answers from the first moment of the process, so a start that takes long can be watched.
//! * One request a connection, each within [`EXCHANGE_WAIT`]; past [`CONNECTIONS_MAX`] connections the
//!   oldest that has asked nothing makes room, and if there is none, the newest is closed unanswered. A
//!   scraper that hammers or never reads costs a bounded amount.
//! * It reads no request body and changes nothing.

mod listen;
pub mod operator;
mod probes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use self::listen::Limits;
pub use probes::{Phase, Probes};

/// Connections served at a time.
pub const CONNECTIONS_MAX: usize = 256;
/// From accepted connection to answer written.
pub const EXCHANGE_WAIT: Duration = Duration::from_secs(10);

/// What the admin address shows.
pub struct Admin {
    pub registry: Registry,
    pub probes: Probes,
    /// Called before each scrape: values that are read rather than kept.
    pub refresh: Box<dyn Fn() + Send + Sync>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        exchange_wait: EXCHANGE_WAIT,
    };
    let answer = move |request| {
        let answer = admin.answer(&request);
        async move { answer }
    };
    listen::serve(listener, limits, answer).await;
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            refusal
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/livez" => verdict(self.probes.live()),
            "/readyz" => verdict(self.probes.ready()),
            "/startupz" => verdict(self.probes.started()),
            "/version" => text(StatusCode::OK, concat!(env!("CARGO_PKG_VERSION"), "\n")),
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; there are /metrics /livez /readyz /startupz /version\n",
            ),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        (self.refresh)();
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "the metrics cannot be encoded");
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the metrics cannot be encoded\n",
            );
        }
        let mut answer = text(StatusCode::OK, page);
        let format = HeaderValue::from_static(prometheus::TEXT_FORMAT);
        answer.headers_mut().insert(CONTENT_TYPE, format);
        answer
    }
}

fn verdict(verdict: Result<(), String>) -> Response<Full<Bytes>> {
    match verdict {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}
