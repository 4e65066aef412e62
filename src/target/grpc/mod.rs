//! A target reached by gRPC: one unary call.
//!
//! Promises:
//! * The request is a `DeliverRequest` with the body's exact bytes, or the message that the user's own
//!   method takes, made of the JSON body. Its metadata are the headers of an HTTP target.
//! * Of an answer only the status counts, which comes last: messages before it are read and thrown away
//!   as they come, at most [`ANSWER_BYTES_MAX`], within the attempt's deadline. No answer is held whole.
//! * The deadline goes along as `grpc-timeout`.
//! * Any answer of any peer becomes an [`Outcome`]; memory held for it is bounded.
//!
//! No gRPC library is below: the framing of one message is five bytes, hyper speaks HTTP/2, and our own
//! connector brings the checks of addresses and the reasons of failures that HTTP targets have.

mod lanes;
pub mod message;
pub mod method;
mod status;

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;

use self::lanes::Lanes;
use self::message::{DELIVER, DeliverRequest};
use self::method::{Method, Misfit};
use super::connect::{Connector, Unreached, Versions};
use super::http::{self as post, BuildError, Options};
use super::{Outcome, Parcel, Policy, Reason};
use crate::clock::Timestamp;
use crate::name::Name;

/// At most this much of an answer's body is read.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2).
const PREFIX_BYTES: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A target's method, its prepared metadata, and its connections.
pub struct Grpc {
    url: Uri,
    prepared: HeaderMap,
    /// The user's own; ours if there is none.
    method: Option<Method>,
    lanes: Lanes,
}

impl Grpc {
    /// `options.url` names the server; its path is the method's.
    pub fn new(
        options: &Options,
        method: Option<Method>,
        policy: &Policy,
    ) -> Result<Self, BuildError> {
        post::check_url(options)?;
        let mut prepared = post::prepare(options)?;
        prepared.insert(GRPC_TIMEOUT, timeout_of(policy.timeout));
        prepared.insert(TE, TRAILERS);
        let connector = Connector::new(options, policy, Versions::Http2)?;
        let path = match &method {
            Some(method) => method.path().clone(),
            None => PathAndQuery::from_static(DELIVER),
        };
        let mut parts = options.url.clone().into_parts();
        parts.path_and_query = Some(path);
        Ok(Self {
            url: Uri::from_parts(parts).map_err(|_| BuildError::Url)?,
            prepared,
            method,
            lanes: Lanes::new(connector, policy),
        })
    }

    /// For the target of this name.
    pub async fn attempt(&self, target: &Name, parcel: Parcel<'_>) -> Outcome {
        let message = match self.message(parcel) {
            Ok(message) => message,
            Err(misfit) => return self.misfits(target, parcel, &misfit),
        };
        let answered = self.call(parcel, message).await;
        answered.unwrap_or_else(|reason| Outcome::Retry {
            reason,
            after: None,
        })
    }

    pub fn misfit(&self, body: &[u8]) -> Option<Misfit> {
        self.method.as_ref()?.message(body).err()
    }

    pub async fn try_out(&self) -> Result<(), Unreached> {
        let connector = self.lanes.connector.clone();
        connector.try_out(self.url.clone()).await
    }

    /// Whether the target is in our own pod, as far as its URL tells.
    pub fn is_loopback(&self) -> bool {
        post::is_loopback(&self.url)
    }

    async fn call(&self, parcel: Parcel<'_>, message: Bytes) -> Result<Outcome, Reason> {
        let mut call = self.lanes.call();
        let request = || self.request(parcel, message.clone());
        let answer = post::send(&call.pool, request)
            .await
            .map_err(|error| post::reason_of(&error))?;
        let (head, body) = answer.into_parts();
        let retry_after = post::wish(&head.headers, Timestamp::now());
        let trailers = drain(body).await?;
        call.answered();
        let trailers = trailers.as_ref();
        Ok(status::meaning(
            head.status,
            &head.headers,
            trailers,
            retry_after,
        ))
    }

    fn message(&self, parcel: Parcel<'_>) -> Result<Bytes, Misfit> {
        match &self.method {
            None => framed(&DeliverRequest::from(parcel)),
            Some(method) => framed(&method.message(&parcel.record.body)?),
        }
    }

    fn misfits(&self, target: &Name, parcel: Parcel<'_>, misfit: &Misfit) -> Outcome {
        tracing::warn!(
            notification = %parcel.record.id,
            %target,
            method = self.url.path(),
            %misfit,
            "the body does not fit the method's message; it becomes a dead letter"
        );
        Outcome::GiveUp {
            reason: Reason::Misfit,
        }
    }

    fn request(&self, parcel: Parcel<'_>, message: Bytes) -> Request<Full<Bytes>> {
        let mut headers = post::headers(&self.prepared, parcel);
        headers.insert(CONTENT_TYPE, GRPC);
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = self.url.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        request
    }
}

/// Shows where.
impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.url.authority().map_or("", |a| a.as_str());
        write!(f, "Grpc({authority}{})", self.url.path())
    }
}

/// One message, uncompressed. One that is longer than the prefix can tell fits no call.
fn framed(message: &impl Message) -> Result<Bytes, Misfit> {
    let too_long = Misfit { field: None };
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).map_err(|_| too_long.clone())?);
    message.encode(&mut framed).map_err(|_| too_long)?;
    Ok(framed.freeze())
}

/// At most eight digits and a unit: milliseconds go up to a day.
fn timeout_of(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis().min(99_999_999);
    HeaderValue::from_str(&format!("{millis}m")).unwrap_or(HeaderValue::from_static("10S"))
}

/// Reads a body to its end, for the trailers.
async fn drain(mut body: Incoming) -> Result<Option<HeaderMap>, Reason> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Reason::Broken)?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER_BYTES_MAX {
            return Err(Reason::Protocol);
        }
        if let Ok(trailers) = frame.into_trailers() {
            return Ok(Some(trailers));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
