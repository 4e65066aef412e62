//! Ingress: from a request to a promise.
//!
//! `Ingress::let_in` (`entry.rs`) finds the source, and refuses what can be refused unread; `Ingress::receive` is the
//! plot from there: read the body, verify, judge, keep, and only then answer. `reply` alone knows status codes.
//!
//! Promises and limits:
//! * An answer that keeps something is given only after the spool has it on stable storage. Once a
//!   submission is handed over it is kept or not by the spool alone: neither `ack_timeout` nor a client
//!   that goes away stops a commit.
//! * One version of the routing judges all of a request.
//! * Body bytes are judged as they came: no `Content-Encoding` is undone.
//! * Connections, requests in hand with their heads and bodies, and every wait are bounded by [`Limits`]. Strangers
//!   who hold all that there is make room (`places.rs`, `budget.rs`).
//! * A panic in one request becomes a 500, and a count once it is let in; the process and the connection live on.
//! * A large body is judged apart (`apart.rs`): it delays no other's answer.
//! * A hostile peer costs one place, for no longer than the time limits say, or until a newcomer needs it
//!   (`places.rs`). A crash leaves nothing here to recover.

mod apart;
mod body;
mod budget;
mod connection;
mod entry;
mod head;
mod listen;
pub mod metrics;
mod places;
mod progress;
mod register;
mod reply;
mod stream;
mod tasks;
pub mod tls;

#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::Full;
use hyper::body::Body;
use rustls::ServerConfig;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::clock::Timestamp;
use crate::notification::Notification;
use crate::routing::{self, Judged, Routing, Source};
use crate::spool::{Kept, Spool, Submission, UnverifiedRequest};
use crate::trace::{self, Tracer};
use crate::verify::{Signed, Unverified};

use self::apart::Apart;
use self::budget::Budget;
use self::entry::Entered;
use self::metrics::Tally;
use self::places::Place;
use self::reply::{Promise, Rejection};

pub use self::listen::{Drain, serve};
pub use self::metrics::Metrics;

/// What one listener allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections. Past them the oldest that brought nothing new makes room; further clients
    /// wait in the kernel's backlog.
    pub connections: usize,
    /// Those of them that one peer may have; `None`: all.
    pub connections_per_peer: Option<usize>,
    /// Bytes of one body.
    pub body_bytes: usize,
    /// Bytes of all requests that are being read, judged or kept: their bodies, and what their heads cost beyond
    /// what one head may, so that the largest body has room beside its own.
    pub bodies_in_flight_bytes: usize,
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to its complete head (HTTP/1).
    pub header_timeout: Duration,
    /// From the complete head to the complete body.
    pub body_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// From the complete body to stable storage.
    pub ack_timeout: Duration,
    /// Past this age a connection ends with its next answer; `None` turns that off.
    pub connection_age_max: Option<Duration>,
}

/// What a listener needs to answer requests.
pub struct Ingress {
    routing: Arc<ArcSwap<Routing>>,
    tls: Arc<ArcSwap<ServerConfig>>,
    spool: Spool,
    limits: Limits,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    budget: Arc<Budget>,
    apart: Apart,
}

/// What is sent back: empty, or a short JSON text.
type Answer = Response<Full<Bytes>>;

struct Panicked;

impl Ingress {
    /// Routing and TLS are read anew for each request and each connection.
    pub fn new(
        routing: Arc<ArcSwap<Routing>>,
        tls: Arc<ArcSwap<ServerConfig>>,
        spool: Spool,
        limits: Limits,
        metrics: Arc<Metrics>,
        tracer: Tracer,
    ) -> Self {
        // The largest body has room beside its head.
        let bytes = limits.bodies_in_flight_bytes;
        let budget = Budget::new(bytes.saturating_add(head::COST_BYTES_MAX));
        Self {
            routing,
            tls,
            spool,
            limits,
            metrics,
            tracer,
            budget,
            apart: Apart::new(),
        }
    }

    /// Answers one that is let in, whatever happens, and counts it.
    async fn answer<B>(&self, client: &Place, mut entered: Entered<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let plot = self.receive(client, &mut entered);
        let outcome = contained(plot).await.unwrap_or(Err(Rejection::Unavailable));
        let tally = outcome.map_or_else(Rejection::tally, |promise| promise.tally);
        entered.series.count(tally);
        match outcome {
            Ok(promise) => {
                self.metrics.acked(entered.begun.elapsed());
                reply::promised(promise.verdict)
            }
            // What is left of a refused body is never read, so nothing can follow it.
            Err(rejection) => {
                let (version, body_read) = (entered.head.version, entered.body.is_end_stream());
                reply::rejected(rejection, version, body_read)
            }
        }
    }

    /// The plot of a request that is let in.
    async fn receive<B>(
        &self,
        client: &Place,
        entered: &mut Entered<B>,
    ) -> Result<Promise, Rejection>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let begun = self.tracer.moment();
        let body = body::read(&mut entered.body, &self.limits, &mut entered.share).await?;
        let (routing, source) = (&entered.routing, &entered.source);
        let (series, head) = (&entered.series, &entered.head);
        let deadline = Instant::now() + self.limits.ack_timeout;

        let (signature, generated_at) = entry::credentials(source, &head.headers)?;
        let signed = Signed {
            generated_at: generated_at.to_owned(),
            signature: signature.to_owned(),
            body,
        };
        let judged = self.judge(routing, source, &head.headers, signed, deadline);
        let judged = match judged.await? {
            Ok(judged) => judged,
            Err(unverified) => {
                self.offer_to_ring(client.address, source, &head.headers, unverified);
                return Err(Rejection::Unauthorized);
            }
        };
        let in_hand = client.verified().ok_or(Rejection::Unavailable)?;
        series.matched(&judged.submission.notification.secret);
        self.metrics.route_errors(&judged.route_errors);
        let about = about(&judged.submission);
        let receipt = self.tracer.committing(begun, &head.headers, &about);
        let kept = self.keep(judged, deadline).await;
        if let Some(receipt) = receipt {
            receipt.ended(ended(kept));
        }
        let promise = kept?;
        if promise.tally.is_new() {
            in_hand.proves();
        }
        if promise.tally == Tally::Accepted {
            series.accepted_at(Timestamp::now());
        }
        Ok(promise)
    }

    /// At once, or apart and within the deadline.
    async fn judge(
        &self,
        routing: &Arc<Routing>,
        source: &Arc<Source>,
        headers: &HeaderMap,
        signed: Signed,
        deadline: Instant,
    ) -> Result<Result<Judged, Unverified>, Rejection> {
        if signed.body.len() <= apart::LARGE_BYTES {
            return Ok(judge(routing, source, headers, signed));
        }
        let (routing, source) = (Arc::clone(routing), Arc::clone(source));
        let headers = headers.clone();
        let work = move || judge(&routing, &source, &headers, signed);
        self.apart.judge(deadline, work).await
    }

    /// Should a secret be set wrong, what it would have verified is not lost. Waits for nothing.
    fn offer_to_ring(
        &self,
        peer: IpAddr,
        source: &Source,
        headers: &HeaderMap,
        unverified: Unverified,
    ) {
        // What is no signature at all will never be one of a secret's.
        let Unverified::NoMatch(signed) = unverified else {
            return;
        };
        let request = UnverifiedRequest {
            source: source.name.clone(),
            received_at: Timestamp::now(),
            content_type: head::content_type(headers),
            signed,
        };
        self.spool.unverified().offer(peer, request);
    }

    /// Hands a submission to the spool and waits for its word, for a while. Whoever stops waiting takes
    /// nothing back: the commit goes on, and the body keeps its share of the budget until it has ended.
    async fn keep(&self, judged: Judged, deadline: Instant) -> Result<Promise, Rejection> {
        let submission = judged.submission;
        let tally = Tally::of(&submission);
        let (id, verdict) = (submission.notification.id, submission.verdict);
        let promise = match timeout_at(deadline, self.spool.accept(submission)).await {
            Ok(Ok(Kept::Now)) => Promise { verdict, tally },
            Ok(Ok(Kept::Before(verdict))) => Promise {
                verdict,
                tally: Tally::Duplicate,
            },
            Ok(Err(error)) => {
                debug!(%id, %error, "not promised");
                return Err(Rejection::Unavailable);
            }
            Err(_) => {
                debug!(%id, "not promised in time; the commit goes on");
                return Err(Rejection::Unavailable);
            }
        };
        debug!(%id, result = promise.tally.as_str(), "kept");
        Ok(promise)
    }
}

/// Verifies, and only then looks at what it says.
fn judge(
    routing: &Routing,
    source: &Source,
    headers: &HeaderMap,
    signed: Signed,
) -> Result<Judged, Unverified> {
    let verified = source.keyring.verify(signed)?;
    let notification = Notification::new(
        verified,
        source.name.clone(),
        Timestamp::now(),
        head::content_type(headers),
    );
    Ok(routing::judge(routing, source, headers, notification))
}

fn about(submission: &Submission) -> trace::About<'_> {
    trace::About {
        notification: submission.notification.id.as_bytes(),
        source: &submission.notification.source,
        body_bytes: submission.notification.body.len(),
        deliveries: submission.targets.len(),
    }
}

fn ended(kept: Result<Promise, Rejection>) -> trace::Ended {
    let tally = kept.map_or_else(Rejection::tally, |promise| promise.tally);
    trace::Ended {
        result: tally.as_str(),
        promised: kept.is_ok(),
        repeated: tally == Tally::Duplicate,
    }
}

/// Runs a future and turns a panic in it into a value.
async fn contained<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        // A future that panicked is never polled again, and what it borrowed is only counted and closed.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}
