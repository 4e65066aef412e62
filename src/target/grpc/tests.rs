//! Calls to real servers on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::method::tests::descriptor_set;
use super::*;
use crate::clock::Timestamp;
use crate::dispatch::tests::{due, name, policy};
use crate::notification::Record;
use crate::secret::Secret;
use crate::target::Target;
use crate::target::http::Tls;
use crate::target::tests::{Authority, acceptor};
use crate::trace::Tracer;

/// One call as it came over the wire.
struct Seen {
    head: http::request::Parts,
    body: Bytes,
}

/// What a server does with a call.
#[derive(Clone)]
enum Reply {
    /// A message of so many bytes, then trailers.
    Trailers(usize, &'static [(&'static str, &'static str)]),
    /// Nothing but a head.
    Head(u16, &'static [(&'static str, &'static str)]),
    /// A head, then `RST_STREAM`.
    Reset,
    /// A head, then `GOAWAY` that does not spare this call.
    GoAway,
    /// A head, then the connection is gone.
    Gone,
    /// Says nothing, for ever.
    Silence,
}

const OK: Reply = Reply::Trailers(0, &[("grpc-status", "0")]);

fn answer(status: u16, lines: &[(&'static str, &'static str)]) -> Response<()> {
    let mut answer = Response::builder().status(status);
    for (name, value) in lines {
        answer = answer.header(*name, *value);
    }
    answer.body(()).unwrap()
}

/// Serves every connection with what `reply` says for the nth call.
fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    reply: impl Fn(usize) -> Reply + Send + Sync + 'static,
) -> mpsc::Receiver<Seen> {
    let (seen, calls) = mpsc::channel(64);
    let (reply, count) = (Arc::new(reply), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, reply, count) = (seen.clone(), reply.clone(), count.clone());
            // As every gRPC server does: with Nagle's algorithm each window costs a delayed ACK.
            stream.set_nodelay(true).unwrap();
            let next = move || reply(count.fetch_add(1, Ordering::SeqCst));
            match tls.clone() {
                None => drop(tokio::spawn(converse(stream, seen, next))),
                Some(tls) => drop(tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, seen, next).await;
                    }
                })),
            }
        }
    });
    calls
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: mpsc::Sender<Seen>,
    next: impl Fn() -> Reply,
) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let head = answer(200, &[("content-type", "application/grpc")]);
        let reply = next();
        match reply {
            Reply::Gone => {
                let _body = respond.send_response(head, false).unwrap();
                return;
            }
            Reply::GoAway => {
                let _body = respond.send_response(head, false).unwrap();
                connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
            }
            other => drop(tokio::spawn(reply_to(
                request,
                respond,
                seen.clone(),
                other,
            ))),
        }
    }
}

async fn reply_to(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: mpsc::Sender<Seen>,
    reply: Reply,
) {
    let (head, mut incoming) = request.into_parts();
    let mut body = BytesMut::new();
    while let Some(Ok(bytes)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(bytes.len());
        body.extend(bytes);
    }
    let body = body.freeze();
    let _ = seen.try_send(Seen { head, body });
    let start = answer(200, &[("content-type", "application/grpc")]);
    match reply {
        Reply::Head(status, lines) => {
            respond.send_response(answer(status, lines), true).unwrap();
        }
        Reply::Trailers(length, lines) => {
            let mut body = respond.send_response(start, false).unwrap();
            let _ = body.send_data(vec![0; length].into(), false);
            let _ = body.send_trailers(answer(200, lines).headers().clone());
        }
        Reply::Reset => {
            let mut body = respond.send_response(start, false).unwrap();
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        Reply::Silence | Reply::Gone | Reply::GoAway => std::future::pending().await,
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn target(url: &str) -> Target {
    Target::grpc(name("audit"), policy(), &Options::of(url), None).unwrap()
}

fn hasty(url: &str) -> Target {
    let mut policy = policy();
    policy.timeout = Duration::from_millis(300);
    policy.in_flight_max = 1;
    Target::grpc(name("audit"), policy, &Options::of(url), None).unwrap()
}

fn record() -> Record {
    due(7, Timestamp::from_millis(1_765_977_748_432)).record
}

async fn attempt(target: &Target) -> Outcome {
    let record = record();
    let parcel = Parcel {
        record: &record,
        attempt: 3,
        replay: false,
        span: Tracer::default().attempt(record.id.as_bytes()),
    };
    target.attempt(parcel).await
}

async fn outcome_of(reply: Reply) -> Outcome {
    let (listener, url) = listener().await;
    let _calls = serve(listener, None, move |_| reply.clone());
    attempt(&target(&url)).await
}

fn retry(reason: Reason) -> Outcome {
    let after = None;
    Outcome::Retry { reason, after }
}

#[tokio::test]
async fn a_call_carries_the_message_and_the_metadata_of_the_contract_and_no_others() {
    let (listener, url) = listener().await;
    let mut calls = serve(listener, None, |_| OK);
    let mut options = Options::of(&url);
    options.headers = vec![("x-team".parse().unwrap(), "clinical".parse().unwrap())];
    options.bearer_token = Secret::from_text(b"t0ken\n".to_vec());
    let target = Target::grpc(name("audit"), policy(), &options, None).unwrap();
    assert_eq!(attempt(&target).await, Outcome::Delivered);

    let Seen { head, body } = calls.recv().await.unwrap();
    assert_eq!(
        head.uri.to_string(),
        format!("{url}/suki.relay.v1.NotificationSink/Deliver")
    );
    assert_eq!(head.method, http::Method::POST);
    let mut metadata: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .filter(|line| !line.starts_with("traceparent: 00-00000000000000000000000000000007-"))
        .collect();
    metadata.sort();
    let agent = concat!("user-agent: suki-relay/", env!("CARGO_PKG_VERSION"));
    let expected = [
        "authorization: Bearer t0ken".to_owned(),
        format!("content-length: {}", body.len()),
        "content-type: application/grpc".into(),
        "generated-at: 1765977748432".into(),
        "grpc-timeout: 10000m".into(),
        "idempotency-key: 00000000000000000000000000000007".into(),
        "suki-relay-attempt: 3".into(),
        "suki-relay-received-at: 2025-12-17T13:22:28.432Z".into(),
        "suki-relay-source: suki".into(),
        "te: trailers".into(),
        agent.into(),
        "webhook-id: 00000000000000000000000000000007".into(),
        format!("x-api-key: {}", "ab".repeat(32)),
        "x-team: clinical".into(),
    ];
    assert_eq!(metadata, expected);

    let length = u32::from_be_bytes(body[1..5].try_into().unwrap());
    assert_eq!((body[0], length as usize), (0, body.len() - 5));
    let message = DeliverRequest::decode(&body[5..]).unwrap();
    assert_eq!(message.body, record().body);
    assert_eq!(message.attempt, 3);
}

#[tokio::test]
async fn each_of_the_codes_means_what_the_contract_says_in_trailers_and_without() {
    let gives_up = |reason| Outcome::GiveUp { reason };
    let codes = [
        Outcome::Delivered,            // OK
        retry(Reason::ServerError),    // CANCELLED
        retry(Reason::ServerError),    // UNKNOWN
        gives_up(Reason::ClientError), // INVALID_ARGUMENT
        retry(Reason::Timeout),        // DEADLINE_EXCEEDED
        retry(Reason::ClientError),    // NOT_FOUND
        Outcome::Delivered,            // ALREADY_EXISTS
        retry(Reason::Unauthorized),   // PERMISSION_DENIED
        retry(Reason::Throttled),      // RESOURCE_EXHAUSTED
        gives_up(Reason::ClientError), // FAILED_PRECONDITION
        retry(Reason::ServerError),    // ABORTED
        gives_up(Reason::ClientError), // OUT_OF_RANGE
        retry(Reason::ClientError),    // UNIMPLEMENTED
        retry(Reason::ServerError),    // INTERNAL
        retry(Reason::Throttled),      // UNAVAILABLE
        gives_up(Reason::ServerError), // DATA_LOSS
        retry(Reason::Unauthorized),   // UNAUTHENTICATED
        retry(Reason::ServerError),    // one that is not there yet
    ];
    for (code, expected) in codes.into_iter().enumerate() {
        let code: &'static str = code.to_string().leak();
        let lines: &'static [_] = vec![("grpc-status", code), ("grpc-message", "no")].leak();
        assert_eq!(
            outcome_of(Reply::Trailers(5, lines)).await,
            expected,
            "{code}"
        );
        assert_eq!(
            outcome_of(Reply::Head(200, lines)).await,
            expected,
            "{code}"
        );
    }
}

#[tokio::test]
async fn what_a_target_asks_us_to_wait_is_a_floor() {
    let lines = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "7000")];
    let expected = Outcome::Retry {
        reason: Reason::Throttled,
        after: Some(Duration::from_secs(7)),
    };
    assert_eq!(outcome_of(Reply::Trailers(0, lines)).await, expected);
    assert_eq!(
        outcome_of(Reply::Head(503, &[("retry-after", "7")])).await,
        expected,
        "a proxy in between"
    );
    // tonic's own reading of this panics.
    let hostile = &[("grpc-status", "14"), ("grpc-status-details-bin", "%%%")];
    let outcome = outcome_of(Reply::Trailers(0, hostile)).await;
    assert_eq!(outcome, retry(Reason::Throttled));
}

#[tokio::test]
async fn a_server_that_breaks_off_is_asked_again() {
    let cases = [
        (Reply::Reset, Reason::Broken),
        (Reply::GoAway, Reason::Broken),
        (Reply::Gone, Reason::Broken),
        (Reply::Trailers(5, &[]), Reason::Protocol),
        (Reply::Head(200, &[]), Reason::Protocol),
        (Reply::Head(404, &[]), Reason::ClientError),
        (
            Reply::Trailers(ANSWER_BYTES_MAX + 1, &[("grpc-status", "0")]),
            Reason::Protocol,
        ),
    ];
    for (number, (reply, reason)) in cases.into_iter().enumerate() {
        assert_eq!(outcome_of(reply).await, retry(reason), "case {number}");
    }
}

#[tokio::test]
async fn a_long_answer_is_read_past_and_its_status_counts() {
    let lines = &[("grpc-status", "0")];
    let outcome = outcome_of(Reply::Trailers(10 << 20, lines)).await;
    assert_eq!(outcome, Outcome::Delivered);
}

#[tokio::test]
async fn a_server_that_speaks_no_http_2_is_a_matter_of_protocol() {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let text = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(text).await;
            // Open until the client has gone.
            while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
        }
    });
    assert_eq!(attempt(&target(&url)).await, retry(Reason::Protocol));
}

#[tokio::test]
async fn no_connection_has_its_reason() {
    let (free, refused) = listener().await;
    drop(free);
    let cases = [
        (refused.as_str(), Reason::Connect),
        ("http://nowhere.invalid", Reason::Dns),
        ("http://169.254.169.254", Reason::Forbidden),
    ];
    for (url, reason) in cases {
        assert_eq!(attempt(&target(url)).await, retry(reason), "{url}");
    }
}

/// The connection to the server that was there before stays open and mute, as that of a node that is
/// gone does: only a new connection finds the new one.
#[tokio::test]
async fn a_server_that_moved_is_found_again() {
    let (listener, url) = listener().await;
    let second = listener.into_std().unwrap();
    let first = TcpListener::from_std(second.try_clone().unwrap()).unwrap();
    tokio::spawn(async move {
        let (stream, _) = first.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        let (seen, _calls) = mpsc::channel(1);
        tokio::spawn(reply_to(request, respond, seen, OK));
        let mut unanswered = Vec::new();
        while let Some(call) = connection.accept().await {
            unanswered.push(call);
        }
    });
    let target = hasty(&url);
    assert_eq!(attempt(&target).await, Outcome::Delivered);
    let _calls = serve(TcpListener::from_std(second).unwrap(), None, |_| OK);
    for _ in 0..2 {
        assert_eq!(attempt(&target).await, retry(Reason::Timeout));
    }
    assert_eq!(attempt(&target).await, Outcome::Delivered);
}

#[tokio::test]
async fn a_late_answer_is_a_timeout_and_others_go_on() {
    let (listener, url) = listener().await;
    let replies = [OK, Reply::Silence, OK];
    let _calls = serve(listener, None, move |nth| replies[nth.min(2)].clone());
    let target = hasty(&url);
    assert_eq!(attempt(&target).await, Outcome::Delivered);
    assert_eq!(attempt(&target).await, retry(Reason::Timeout));
    assert_eq!(attempt(&target).await, Outcome::Delivered);
}

#[tokio::test]
async fn a_client_certificate_counts_if_it_is_right() {
    let authority = Authority::new();
    let (listener, url) = listener().await;
    let port = url.rsplit(':').next().unwrap().to_owned();
    let _calls = serve(listener, Some(acceptor(&authority, true)), |_| OK);
    let outcome = async |identity: Option<(rcgen::Certificate, rcgen::KeyPair)>, ca: Bytes| {
        let mut options = Options::of(&format!("https://localhost:{port}"));
        options.tls = Tls {
            ca: Some(ca),
            server_name: None,
            identity: identity.map(|(certificate, key)| {
                let key = Secret::from_text(key.serialize_pem().into_bytes()).unwrap();
                (certificate.pem().into(), key)
            }),
        };
        attempt(&Target::grpc(name("audit"), policy(), &options, None).unwrap()).await
    };
    let ca = authority.pem();
    let right = authority.issue("relay");
    assert_eq!(outcome(Some(right), ca.clone()).await, Outcome::Delivered);
    // The refusal comes once the connection is up (TLS 1.3), and h2 keeps no more of it than a text.
    let refused = [Reason::Tls, Reason::Broken].map(retry);
    let wrong = Authority::new().issue("relay");
    assert!(refused.contains(&outcome(Some(wrong), ca.clone()).await));
    let expired = authority.issue_until("relay", 2020);
    assert!(refused.contains(&outcome(Some(expired), ca.clone()).await));
    assert!(refused.contains(&outcome(None, ca).await));
    let right = authority.issue("relay");
    let strange = outcome(Some(right), Authority::new().pem()).await;
    assert_eq!(strange, retry(Reason::Tls));
}

#[tokio::test]
async fn a_method_of_the_users_own_gets_its_message_and_what_does_not_fit_is_never_sent() {
    let set = descriptor_set(
        r#"syntax = "proto3"; package clinic;
        service Inbox { rpc Put(Entry) returns (Entry); }
        message Entry { string status = 1; int32 count = 2; }"#,
    );
    let (listener, url) = listener().await;
    let mut calls = serve(listener, None, |_| OK);
    let method = Method::find(&set, "clinic.Inbox/Put").unwrap();
    let target = Target::grpc(name("audit"), policy(), &Options::of(&url), Some(method)).unwrap();
    assert_eq!(attempt(&target).await, Outcome::Delivered);
    let Seen { head, body } = calls.recv().await.unwrap();
    assert_eq!(head.uri.path(), "/clinic.Inbox/Put");
    let pool = DescriptorPool::decode(&*set).unwrap();
    let entry = pool.get_message_by_name("clinic.Entry").unwrap();
    let message = DynamicMessage::decode(entry, &body[5..]).unwrap();
    assert_eq!(message.to_string(), "status:\"success\"");

    let mut record = record();
    record.body = Bytes::from_static(br#"{"status": "success", "count": "many"}"#);
    let parcel = Parcel {
        record: &record,
        attempt: 1,
        replay: false,
        span: Tracer::default().attempt(record.id.as_bytes()),
    };
    let reason = Reason::Misfit;
    assert_eq!(target.attempt(parcel).await, Outcome::GiveUp { reason });
    assert!(calls.try_recv().is_err());
}
