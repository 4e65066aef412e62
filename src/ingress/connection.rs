//! One connection, from its handshake to its last byte: one task, which owns everything of it but the requests of
//! HTTP/2 (`tasks.rs`).
//!
//! How a connection ends: the client leaves; it loses its place before it is proven (`places.rs`), in its last moments
//! too; a handshake, head, keep-alive or stall timer passes; it is past `connection_age_max` and has just been
//! answered; or the drain asks, and then what is in hand is finished first. hyper's graceful shutdown cuts an idle
//! HTTP/1 connection at once, and a sender that writes at that moment loses its notification: so it is used for the
//! drain alone.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::AlertDescription;
use tokio::net::TcpStream;
use tokio::select;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::listen::{Drain, told};
use super::metrics::HandshakeFailure;
use super::places::Place;
use super::progress::Progress;
use super::reply::Rejection;
use super::stream::Stream;
use super::tasks::Tasks;
use super::{Answer, Ingress, head, reply, tls};

/// Envoy's figures for an edge (Envoy, "Configuring Envoy as an edge proxy").
const HTTP2_STREAMS_MAX: u32 = 100;
const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const HTTP2_HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
const HTTP2_PING_EVERY: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Rapid reset (CVE-2023-44487): streams that the client reset before we took them.
const HTTP2_PENDING_RESETS_MAX: usize = 20;
/// `MadeYouReset` (CVE-2025-8671): streams that the client made us reset.
const HTTP2_LOCAL_RESETS_MAX: usize = 1024;

/// Attends to one client until its connection ends.
///
/// Cancellation: cuts the connection; commits that it asked for go on.
pub async fn attend(tcp: TcpStream, place: Place, ingress: Arc<Ingress>, mut drain: Drain) {
    let place = Arc::new(place);
    let _open = ingress.metrics.opened();
    // Answers are small and final: waiting to fill a packet only delays them.
    let _ = tcp.set_nodelay(true);
    let shaken = select! {
        shaken = handshake(tcp, &place, &ingress) => shaken,
        () = told(&mut drain) => return,
        () = place.lost() => return,
    };
    match shaken {
        Ok(tls) if tls.get_ref().1.alpn_protocol() == Some(tls::ALPN_HTTP2) => {
            http2(tls, &place, &ingress, drain).await;
        }
        Ok(tls) => http1(tls, &place, &ingress, drain).await,
        Err(reason) => {
            debug!(reason = reason.as_str(), "TLS handshake failed");
            ingress.metrics.handshake_failed(reason);
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    place: &Place,
    ingress: &Ingress,
) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
    let acceptor = TlsAcceptor::from(ingress.tls.load_full());
    let shaken = async {
        tcp.peek(&mut [0]).await?;
        place.speaks();
        acceptor.accept(tcp).await
    };
    match timeout(ingress.limits.handshake_timeout, shaken).await {
        Ok(Ok(tls)) => Ok(tls),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(HandshakeFailure::Timeout),
    }
}

async fn http1(
    tls: TlsStream<TcpStream>,
    place: &Arc<Place>,
    ingress: &Arc<Ingress>,
    mut drain: Drain,
) {
    let limits = &ingress.limits;
    let progress = Progress::new();
    let stream = Stream::new(
        tls,
        Arc::clone(&progress),
        Some(limits.header_timeout),
        limits.idle_timeout,
    );
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_headers(head::FIELDS_MAX)
        .max_buf_size(head::BYTES_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), requests(ingress, place, &progress));
    let mut connection = pin!(connection);
    select! {
        ended = connection.as_mut() => return note(ended),
        () = place.lost() => return,
        () = told(&mut drain) => {}
    }
    connection.as_mut().graceful_shutdown();
    select! {
        ended = connection => note(ended),
        () = place.lost() => {}
    }
}

async fn http2(
    tls: TlsStream<TcpStream>,
    place: &Arc<Place>,
    ingress: &Arc<Ingress>,
    mut drain: Drain,
) {
    let limits = &ingress.limits;
    let progress = Progress::new();
    let stream = Stream::new(tls, Arc::clone(&progress), None, limits.idle_timeout);
    let connection = http2::Builder::new(Tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HTTP2_HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(HTTP2_PING_EVERY)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(HTTP2_LOCAL_RESETS_MAX)
        .serve_connection(TokioIo::new(stream), requests(ingress, place, &progress));
    let mut connection = pin!(connection);
    select! {
        ended = connection.as_mut() => return note(ended),
        () = place.lost() => return,
        () = told(&mut drain) => {}
        () = progress.retired() => {}
        () = progress.idle_for(limits.idle_timeout) => {}
    }
    // GOAWAY first, so that the client knows which requests were not taken. One that does not answer it
    // is cut off when nothing has been in hand for a while.
    connection.as_mut().graceful_shutdown();
    select! {
        ended = connection => note(ended),
        () = place.lost() => {}
        () = progress.idle_for(limits.header_timeout) => {}
    }
}

/// Answers the requests of one connection.
fn requests(
    ingress: &Arc<Ingress>,
    place: &Arc<Place>,
    progress: &Arc<Progress>,
) -> impl HttpService<
    Incoming,
    ResBody = http_body_util::Full<bytes::Bytes>,
    Error = Infallible,
    Future: Future<Output = Result<Answer, Infallible>> + Send + 'static,
> + use<> {
    let (ingress, progress) = (Arc::clone(ingress), Arc::clone(progress));
    let place = Arc::clone(place);
    service_fn(move |request: Request<Incoming>| {
        let (ingress, in_hand) = (Arc::clone(&ingress), progress.begin());
        let (progress, place) = (Arc::clone(&progress), Arc::clone(&place));
        let version = request.version();
        let let_in = AssertUnwindSafe(|| ingress.let_in(&place, request));
        // What it panicked over is its own request, which nobody has any more.
        let entered = catch_unwind(let_in)
            .unwrap_or_else(|_| Err(reply::rejected(Rejection::Unavailable, version, false)));
        async move {
            let mut answer = match entered {
                Ok(entered) => {
                    if version == Version::HTTP_2 {
                        // Into a task of its own (`tasks.rs`), before there is work to do.
                        yield_now().await;
                    }
                    ingress.answer(&place, entered).await
                }
                Err(answer) => answer,
            };
            drop(in_hand);
            if progress.is_older_than(ingress.limits.connection_age_max) {
                reply::close(&mut answer, version);
                if version == Version::HTTP_2 {
                    progress.retire();
                }
            }
            Ok(answer)
        }
    })
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        // hyper's errors name what went wrong in the protocol, never what was sent.
        debug!(%error, "connection ended early");
    }
}

fn failure(error: &io::Error) -> HandshakeFailure {
    use rustls::Error as Tls;
    let cause = error.get_ref().and_then(|e| e.downcast_ref::<Tls>());
    match cause {
        None if error.kind() == io::ErrorKind::InvalidData => HandshakeFailure::Protocol,
        None | Some(Tls::AlertReceived(AlertDescription::CloseNotify)) => HandshakeFailure::Closed,
        Some(Tls::AlertReceived(_)) => HandshakeFailure::Alert,
        Some(Tls::NoCertificatesPresented | Tls::InvalidCertificate(_)) => {
            HandshakeFailure::ClientCertificate
        }
        Some(Tls::PeerIncompatible(_) | Tls::NoApplicationProtocol) => {
            HandshakeFailure::Incompatible
        }
        Some(
            Tls::InvalidMessage(_)
            | Tls::InappropriateMessage { .. }
            | Tls::InappropriateHandshakeMessage { .. }
            | Tls::PeerMisbehaved(_)
            | Tls::DecryptError,
        ) => HandshakeFailure::Protocol,
        Some(_) => HandshakeFailure::Other,
    }
}
