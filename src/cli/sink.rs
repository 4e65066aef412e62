//! `suki-relay sink`: a target that prints a line for what it receives.

mod grpc;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::runtime;

/// Where to listen unless told.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// A body above this is refused with 413: a sink holds nothing else.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Receipts that may wait to be printed.
const RECEIPTS_WAITING_MAX: usize = 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to listen for HTTP; 127.0.0.1:8080 if no address is given at all
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Where to listen for gRPC: `suki.relay.v1.NotificationSink`
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Answer 503, or UNAVAILABLE, to this many first requests
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
    pub(super) answered: Answered,
}

/// What the relay was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// The status in its protocol's words.
    pub(super) told: &'static str,
    /// Whether that means that the sink has it.
    pub(super) taken: bool,
}

/// What a sink speaks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

/// How many requests are still to fail.
#[derive(Clone)]
struct Failures(Arc<AtomicU64>);

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let (receipts, mut received) = mpsc::channel(RECEIPTS_WAITING_MAX);
        for (protocol, address) in arguments.listeners() {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on {address}; is something else there?"))?;
            let scheme = match protocol {
                Protocol::Http => "http",
                Protocol::Grpc => "grpc",
            };
            println!("listening on {scheme}://{}", listener.local_addr()?);
            let receipts = receipts.clone();
            tokio::spawn(serve(protocol, listener, arguments.fail_first, receipts));
        }
        // The first process of a container is ended by no signal that it does not ask for.
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        loop {
            tokio::select! {
                receipt = received.recv() => match receipt {
                    Some(receipt) => print(&receipt, arguments.bodies),
                    None => return Ok(()),
                },
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    })
}

/// Answers each request and hands on what it was; ends when the receiver is gone.
pub(super) async fn serve(
    protocol: Protocol,
    listener: TcpListener,
    fail_first: u64,
    receipts: mpsc::Sender<Receipt>,
) {
    let failures = Failures(Arc::new(AtomicU64::new(fail_first)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = receipts.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        converse(protocol, stream, failures.clone(), receipts.clone());
    }
}

fn converse(
    protocol: Protocol,
    stream: TcpStream,
    failures: Failures,
    receipts: mpsc::Sender<Receipt>,
) {
    let stream = TokioIo::new(stream);
    match protocol {
        Protocol::Http => {
            let service =
                service_fn(move |request| receive(request, failures.clone(), receipts.clone()));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new());
            tokio::spawn(builder.serve_connection(stream, service));
        }
        Protocol::Grpc => {
            let service = service_fn(move |request| {
                grpc::receive(request, failures.clone(), receipts.clone())
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new());
            tokio::spawn(builder.serve_connection(stream, service));
        }
    }
}

async fn receive(
    request: Request<Incoming>,
    failures: Failures,
    receipts: mpsc::Sender<Receipt>,
) -> Result<Response<Empty<Bytes>>, mpsc::error::SendError<Receipt>> {
    let (head, body) = request.into_parts();
    let (body, status, told) = match read(body).await {
        None => (Bytes::new(), StatusCode::PAYLOAD_TOO_LARGE, "413"),
        Some(body) if failures.take_one() => (body, StatusCode::SERVICE_UNAVAILABLE, "503"),
        Some(body) => (body, StatusCode::OK, "200"),
    };
    let field = |name: &str| text(&head.headers, name);
    let receipt = Receipt {
        id: field("webhook-id"),
        source: field("suki-relay-source"),
        attempt: field("suki-relay-attempt"),
        body,
        answered: Answered {
            told,
            taken: status.is_success(),
        },
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

impl Arguments {
    fn listeners(&self) -> Vec<(Protocol, SocketAddr)> {
        let default = self.grpc.is_none().then_some(DEFAULT);
        let http = self.http.or(default).map(|at| (Protocol::Http, at));
        let grpc = self.grpc.map(|at| (Protocol::Grpc, at));
        http.into_iter().chain(grpc).collect()
    }
}

impl Failures {
    fn take_one(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }
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
        answered: Answered { told, .. },
    } = receipt;
    let bytes = body.len();
    println!("id={id} source={source} attempt={attempt} bytes={bytes} answered={told}");
    if bodies {
        println!("{}", String::from_utf8_lossy(body).escape_debug());
    }
}
