//! A target reached by HTTP.
//!
//! Promises:
//! * What is sent is the body's exact bytes, the headers listed in [`headers`], the target's own
//!   static ones, and what HTTP itself needs (`host`, `content-length`). Nothing else passes.
//! * Redirects are never followed. Of an answer, the status and `retry-after` count; at most
//!   [`ANSWER_BYTES_MAX`] of its body are read, for at most [`ANSWER_TIME_MAX`], and thrown away, so
//!   that the connection can serve again. A body that is longer, slower or breaks off costs its
//!   connection, not the outcome.
//! * One immediate second try if a connection that has served before dies before it answers, or if the target
//!   refuses the request unseen (HTTP/2).
//! * Any answer of any peer becomes an [`Outcome`]; memory held for it is bounded.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::time::{Instant, timeout};

use super::address::Allowed;
use super::connect::{self, Connector, Failure, Pool, Unreached, Versions};
use super::connection::Served;
use super::outcome::from_status;
use super::sign::{self, Signer};
use super::{Outcome, Parcel, Policy, Reason};
use crate::clock::Timestamp;
use crate::retry::parse_retry_after;
use crate::secret::Secret;

/// At most this much of an answer's body is read.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// At most this long.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const GENERATED_AT: HeaderName = HeaderName::from_static("generated-at");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const SOURCE: HeaderName = HeaderName::from_static("suki-relay-source");
const ATTEMPT: HeaderName = HeaderName::from_static("suki-relay-attempt");
const RECEIVED_AT: HeaderName = HeaderName::from_static("suki-relay-received-at");
const REPLAY: HeaderName = HeaderName::from_static("suki-relay-replay");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers that a target's static ones may not name: ours, or the connection's.
const RESERVED: [&str; 19] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "generated-at",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-api-key",
];
/// Headers of our own begin with the first; what begins with the other is gRPC's.
const RESERVED_PREFIXES: [&str; 2] = ["suki-relay-", "grpc-"];

/// Whether a target's static headers may not name it.
pub fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.contains(&name)
        || RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// How to reach a target by HTTP.
#[derive(Debug)]
pub struct Options {
    /// Absolute, http or https.
    pub url: Uri,
    /// Sent with every request; a name may repeat.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub bearer_token: Option<Secret>,
    pub signer: Signer,
    /// Where it may be.
    pub allowed: Allowed,
    pub tls: Tls,
}

#[cfg(test)]
impl Options {
    /// Nothing but where.
    pub fn of(url: &str) -> Self {
        Self {
            url: url.parse().unwrap(),
            headers: Vec::new(),
            bearer_token: None,
            signer: Signer::default(),
            allowed: Allowed::default(),
            tls: Tls::default(),
        }
    }
}

/// TLS of a target with https.
#[derive(Debug, Default)]
pub struct Tls {
    /// Roots to trust, in PEM; the system's if none.
    pub ca: Option<Bytes>,
    /// Our certificate chain and its key, in PEM, for targets that ask for one.
    pub identity: Option<(Bytes, Secret)>,
    /// Name that the certificate must bear; the URL's host if none.
    pub server_name: Option<String>,
}

/// Why options make no target.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the URL must begin with http:// or https:// and name a host")]
    Url,
    #[error("the URL holds a user or password; use `bearer_token`, or a header with a file")]
    Credentials,
    #[error("header `{0}` is set by the relay itself; leave it out")]
    Reserved(HeaderName),
    #[error("the bearer token holds characters that no header can carry")]
    BearerToken,
    #[error("both `bearer_token` and a header `authorization`; leave one out")]
    TwoAuthorizations,
    #[error("`tls` settings have no effect with http://; use https://, or leave them out")]
    TlsUnused,
    #[error("`tls.ca`: {0}")]
    Ca(String),
    #[error("`tls.certificate`: {0}")]
    Certificate(String),
    #[error("`tls.private_key`: {0}")]
    PrivateKey(String),
    #[error("`tls.server_name`: `{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    #[error("this system has no root certificates; install ca-certificates, or set `tls.ca`")]
    NoRoots,
    #[error("`tls`: {0}")]
    Tls(rustls::Error),
}

/// A target's URL, its prepared headers, what signs for it, and its connections.
pub struct Http {
    url: Uri,
    prepared: HeaderMap,
    signer: Signer,
    connector: Connector,
    pool: Pool,
}

impl Http {
    pub fn new(options: Options, policy: &Policy) -> Result<Self, BuildError> {
        check_url(&options)?;
        let prepared = prepare(&options)?;
        let connector = Connector::new(&options, policy, Versions::All)?;
        let pool = connect::pool(connector.clone(), policy);
        Ok(Self {
            url: options.url,
            prepared,
            signer: options.signer,
            connector,
            pool,
        })
    }

    pub async fn try_out(&self) -> Result<(), Unreached> {
        let connector = self.connector.clone();
        connector.try_out(self.url.clone()).await
    }

    pub async fn attempt(&self, parcel: Parcel<'_>, policy: &Policy) -> Outcome {
        let began = Instant::now();
        let answer = match self.send(parcel).await {
            Ok(answer) => answer,
            Err(error) => {
                let reason = reason_of(&error);
                return Outcome::Retry {
                    reason,
                    after: None,
                };
            }
        };
        let after = wish(answer.headers(), Timestamp::now());
        let outcome = from_status(answer.status().as_u16(), after, policy);
        // Within the attempt's own deadline, so that a slow body cannot turn an answer into a timeout.
        let left = policy.timeout.saturating_sub(began.elapsed()) / 2;
        // However the body ends, the status has told what was done with the notification.
        let _ = timeout(left.min(ANSWER_TIME_MAX), drain(answer.into_body())).await;
        outcome
    }

    /// Whether the target is in our own pod, as far as its URL tells.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.url)
    }

    async fn send(&self, parcel: Parcel<'_>) -> Result<Response<Incoming>, legacy::Error> {
        send(&self.pool, || self.request(parcel)).await
    }

    fn request(&self, parcel: Parcel<'_>) -> Request<Full<Bytes>> {
        let mut headers = headers(&self.prepared, parcel);
        self.signer
            .sign(parcel.record, Timestamp::now(), &mut headers);
        let mut request = Request::new(Full::new(parcel.record.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        request
    }
}

/// Shows where, without the query: a query may hold a key.
impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.url.authority().map_or("", |a| a.as_str());
        write!(f, "Http({authority}{})", self.url.path())
    }
}

/// Posts, and once more if the connection had served before and died before it answered, or if the request
/// was refused unseen.
pub(super) async fn send(
    pool: &Pool,
    request: impl Fn() -> Request<Full<Bytes>>,
) -> Result<Response<Incoming>, legacy::Error> {
    let result = match pool.request(request()).await {
        Err(error) if died_idle(&error) || is_unseen(&error) => pool.request(request()).await,
        other => other,
    };
    result.inspect(|answer| Served::note(answer.extensions()))
}

pub(super) fn is_loopback(url: &Uri) -> bool {
    match connect::literal_address(url) {
        Some(address) => address.to_canonical().is_loopback(),
        None => url.host() == Some("localhost"),
    }
}

/// The target's own, and those that tell of the notification and the attempt.
pub(super) fn headers(prepared: &HeaderMap, parcel: Parcel<'_>) -> HeaderMap {
    let Parcel {
        record,
        attempt,
        replay,
        span,
    } = parcel;
    let id = record.id.to_string();
    let mut headers = prepared.clone();
    // All of these came out of headers, or are made of digits and names: none can fail to be one.
    let mut set = |name: HeaderName, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    if let Some(content_type) = &record.content_type {
        set(CONTENT_TYPE, content_type);
    }
    set(X_API_KEY, &record.signature);
    set(GENERATED_AT, &record.generated_at);
    set(sign::ID, &id);
    set(IDEMPOTENCY_KEY, &id);
    set(SOURCE, record.source.as_str());
    set(ATTEMPT, &attempt.to_string());
    set(RECEIVED_AT, &record.received_at.to_string());
    set(TRACEPARENT, &span.traceparent(record.id.as_bytes()));
    if replay {
        set(REPLAY, "1");
    }
    headers
}

pub(super) fn check_url(options: &Options) -> Result<(), BuildError> {
    let url = &options.url;
    let secure = url.scheme_str() == Some("https");
    if !secure && url.scheme_str() != Some("http") || url.host().is_none_or(str::is_empty) {
        return Err(BuildError::Url);
    }
    if url.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(BuildError::Credentials);
    }
    let Tls {
        ca,
        identity,
        server_name,
    } = &options.tls;
    if !secure && (ca.is_some() || identity.is_some() || server_name.is_some()) {
        return Err(BuildError::TlsUnused);
    }
    Ok(())
}

pub(super) fn prepare(options: &Options) -> Result<HeaderMap, BuildError> {
    let mut prepared = HeaderMap::new();
    for (name, value) in &options.headers {
        if is_reserved(name) {
            return Err(BuildError::Reserved(name.clone()));
        }
        prepared.append(name.clone(), value.clone());
    }
    if let Some(token) = &options.bearer_token {
        let text = [b"Bearer ", token.expose()].concat();
        let mut value = HeaderValue::from_bytes(&text).map_err(|_| BuildError::BearerToken)?;
        value.set_sensitive(true);
        if prepared.insert(AUTHORIZATION, value).is_some() {
            return Err(BuildError::TwoAuthorizations);
        }
    }
    let agent = concat!("suki-relay/", env!("CARGO_PKG_VERSION"));
    prepared.insert(USER_AGENT, HeaderValue::from_static(agent));
    Ok(prepared)
}

/// What the target asks us to wait. Two wishes are none.
pub(super) fn wish(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let mut wishes = headers.get_all(RETRY_AFTER).iter();
    match (wishes.next(), wishes.next()) {
        (Some(wish), None) => parse_retry_after(wish.to_str().ok()?, now),
        _ => None,
    }
}

/// Reads a body to its end, or to where it breaks off or is not worth it: then its connection is dropped
/// with it.
async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER_BYTES_MAX {
            break;
        }
    }
}

fn died_idle(error: &legacy::Error) -> bool {
    let reset = cause::<h2::Error>(error).is_some_and(h2::Error::is_reset);
    !reset && reason_of(error) == Reason::Broken && error.connect_info().is_some_and(Served::before)
}

/// `REFUSED_STREAM`: the peer has not begun with it (RFC 9113, 8.7).
fn is_unseen(error: &legacy::Error) -> bool {
    let reset = cause::<h2::Error>(error).filter(|error| error.is_reset() && error.is_remote());
    reset.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM)
}

pub(super) fn reason_of(error: &legacy::Error) -> Reason {
    if let Some(Failure(reason)) = cause(error) {
        return *reason;
    }
    if error.is_connect() {
        return Reason::Connect;
    }
    // A client certificate that the target refuses is told only once the handshake is over (TLS 1.3).
    let inner = cause::<std::io::Error>(error).and_then(std::io::Error::get_ref);
    if inner.is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>) {
        return Reason::Tls;
    }
    match (cause::<h2::Error>(error), cause::<hyper::Error>(error)) {
        (Some(h2), _) if !h2.is_io() && !h2.is_remote() => Reason::Protocol,
        (None, Some(hyper)) if hyper.is_parse() => Reason::Protocol,
        _ => Reason::Broken,
    }
}

/// The first of an error's causes that is an `E`.
fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    std::iter::successors(error.source(), |&error| error.source()).find_map(|e| e.downcast_ref())
}
