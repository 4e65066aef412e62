//! Who is let in: everything about a request that can be judged before its body comes.
//!
//! Nothing here waits, and nothing of a refused request is held: thousands may come in one moment. One that is let in
//! has paid for its head, since it may hold it until its body is complete.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request};
use hyper::body::Body;
use tokio::time::Instant;

use super::budget::Share;
use super::metrics::Series;
use super::places::Place;
use super::reply::{self, Rejection};
use super::{Answer, Ingress, head};
use crate::routing::{Routing, Source};

/// A request whose body may come: it has paid for its head, or may wait until it can.
pub struct Entered<B> {
    pub begun: Instant,
    pub routing: Arc<Routing>,
    pub source: Arc<Source>,
    pub series: Arc<Series>,
    pub share: Share,
    pub head: Parts,
    pub body: B,
}

impl Ingress {
    /// Lets a request in that may have its body read, or answers it. Waits for nothing, so that the head of one that is
    /// refused is gone before the next is looked at.
    pub(super) fn let_in<B>(
        &self,
        client: &Arc<Place>,
        request: Request<B>,
    ) -> Result<Entered<B>, Answer>
    where
        B: Body<Data = Bytes>,
    {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        if head.headers.len() > head::FIELDS_MAX {
            return Err(reply::too_many_fields());
        }
        let routing = self.routing.load_full();
        let source = routing.source_at(head.uri.path()).cloned();
        let series = self.metrics.series(source.as_deref());
        match self.welcome(source, client, &head, &body) {
            Ok((source, share)) => Ok(Entered {
                begun,
                routing,
                source,
                series,
                share,
                head,
                body,
            }),
            Err(rejection) => {
                series.count(rejection.tally());
                let version = head.version;
                Err(reply::rejected(rejection, version, body.is_end_stream()))
            }
        }
    }

    fn welcome(
        &self,
        source: Option<Arc<Source>>,
        client: &Arc<Place>,
        head: &Parts,
        body: &impl Body,
    ) -> Result<(Arc<Source>, Share), Rejection> {
        let source = source.ok_or(Rejection::NotFound)?;
        if head.method != Method::POST {
            return Err(Rejection::Method);
        }
        if body.size_hint().lower() > self.limits.body_bytes as u64 {
            return Err(Rejection::TooLarge);
        }
        credentials(&source, &head.headers)?;
        let share = self.budget.share(client, head::cost_bytes(head))?;
        Ok((source, share))
    }
}

/// The signature, and when it was made.
pub fn credentials<'a>(
    source: &Source,
    headers: &'a HeaderMap,
) -> Result<(&'a str, &'a str), Rejection> {
    let signature = head::sole_text(headers, &source.signature_header)?;
    let generated_at = head::sole_text(headers, &source.timestamp_header)?;
    Ok((signature, generated_at))
}
