//! `suki-relay sink`: a target that prints a line for what it receives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::runtime;

/// A body above this is refused with 413: a sink holds nothing else.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Receipts that may wait to be printed.
const RECEIPTS_WAITING_MAX: usize = 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to listen for HTTP
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    http: SocketAddr,
    /// Answer 503 to this many first requests
    #[arg(long, default_value_t = 0, value_name = "N")]
    fail_first: u64,
    /// Print bodies too: they hold what the notification says of a patient
    #[arg(long)]
    bodies: bool,
}

/// One request that a sink answered.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) attempt: String,
    pub(super) body: Bytes,
    pub(super) status: StatusCode,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let listener = TcpListener::bind(arguments.http).await.with_context(|| {
            format!("listening on {}; is something else there?", arguments.http)
        })?;
        println!("listening on http://{}", listener.local_addr()?);
        let (receipts, mut received) = mpsc::channel(RECEIPTS_WAITING_MAX);
        tokio::spawn(serve(listener, arguments.fail_first, receipts));
        loop {
            tokio::select! {
                receipt = received.recv() => match receipt {
                    Some(receipt) => print(&receipt, arguments.bodies),
                    None => return Ok(()),
                },
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    })
}

/// Answers each request and hands on what it was; ends when the receiver is gone.
pub(super) async fn serve(listener: TcpListener, fail_first: u64, receipts: mpsc::Sender<Receipt>) {
    let failures_left = Arc::new(AtomicU64::new(fail_first));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = receipts.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (failures_left, receipts) = (failures_left.clone(), receipts.clone());
        let service =
            service_fn(move |request| receive(request, failures_left.clone(), receipts.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn receive(
    request: Request<Incoming>,
    failures_left: Arc<AtomicU64>,
    receipts: mpsc::Sender<Receipt>,
) -> Result<Response<Empty<Bytes>>, mpsc::error::SendError<Receipt>> {
    let (head, body) = request.into_parts();
    let (body, status) = match read(body).await {
        None => (Bytes::new(), StatusCode::PAYLOAD_TOO_LARGE),
        Some(body) if take_one(&failures_left) => (body, StatusCode::SERVICE_UNAVAILABLE),
        Some(body) => (body, StatusCode::OK),
    };
    let field = |name: &str| text(&head.headers, name);
    let receipt = Receipt {
        id: field("webhook-id"),
        source: field("suki-relay-source"),
        attempt: field("suki-relay-attempt"),
        body,
        status,
    };
    receipts.send(receipt).await?;
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = status;
    Ok(answer)
}

#[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
async fn read(body: Incoming) -> Option<Bytes> {
    Some(
        Limited::new(body, BODY_BYTES_MAX)
            .collect()
            .await
            .ok()?
            .to_bytes(),
    )
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("-")
        .to_owned()
}

fn print(receipt: &Receipt, bodies: bool) {
    let Receipt {
        id,
        source,
        attempt,
        body,
        status,
    } = receipt;
    let (bytes, status) = (body.len(), status.as_u16());
    println!("id={id} source={source} attempt={attempt} bytes={bytes} answered={status}");
    if bodies {
        println!("{}", String::from_utf8_lossy(body).escape_debug());
    }
}
