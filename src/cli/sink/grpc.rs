//! The gRPC side of a sink: `suki.relay.v1.NotificationSink`, in as little as it takes.

use std::convert::Infallible;
use std::future::{Ready, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;
use tokio::sync::mpsc;

use super::{Answered, Failures, Receipt, read};
use crate::target::grpc::message::{DELIVER, DeliverRequest};

pub(super) type Answer = WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>;

const OK: Answered = Answered {
    told: "OK",
    taken: true,
};

/// Answers one call and hands on what it was.
pub(super) async fn receive(
    request: Request<Incoming>,
    failures: Failures,
    receipts: mpsc::Sender<Receipt>,
) -> Result<Response<Answer>, mpsc::error::SendError<Receipt>> {
    let (head, body) = request.into_parts();
    if head.uri.path() != DELIVER {
        return Ok(answer("12")); // UNIMPLEMENTED
    }
    let Some(body) = read(body).await else {
        return Ok(answer("8")); // RESOURCE_EXHAUSTED
    };
    let Some(message) = message(body) else {
        return Ok(answer("3")); // INVALID_ARGUMENT
    };
    let (answered, code) = if failures.take_one() {
        let unavailable = Answered {
            told: "UNAVAILABLE",
            taken: false,
        };
        (unavailable, "14")
    } else {
        (OK, "0")
    };
    let receipt = Receipt {
        id: message.id,
        source: message.source,
        attempt: message.attempt.to_string(),
        body: message.body,
        answered,
    };
    receipts.send(receipt).await?;
    Ok(answer(code))
}

/// What follows the five bytes that say whether it is compressed, and how long it is.
fn message(mut body: Bytes) -> Option<DeliverRequest> {
    let compressed = body.try_get_u8().ok()?;
    let length = usize::try_from(body.try_get_u32().ok()?).ok()?;
    let whole = compressed == 0 && body.len() == length;
    whole.then(|| DeliverRequest::decode(body).ok())?
}

/// An empty message goes along with OK alone.
fn answer(code: &'static str) -> Response<Answer> {
    let message: &'static [u8] = if code == "0" { &[0; 5] } else { &[] };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let body = Full::new(Bytes::from_static(message)).with_trailers(ready(Some(Ok(trailers))));
    let mut answer = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, grpc);
    answer
}
