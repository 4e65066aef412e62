//! Attempts against real servers on loopback.

mod addresses;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::http::{BuildError, Options, Tls};
use super::*;
use crate::dispatch::tests::{due, name, policy};
use crate::secret::Secret;
use crate::trace::Tracer;

/// One request as it came over the wire.
struct Seen {
    /// Lines of the head, the first one apart from the sorted others.
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

/// What a server does with its nth request on any connection.
#[derive(Clone)]
enum Reply {
    /// Writes this, and waits for the next request.
    Answer(&'static str),
    /// Writes this, and closes.
    Close(&'static str),
    /// Says nothing, for ever.
    Silence,
    /// Writes this, and then bytes without end; counts them.
    Flood(&'static str, Arc<AtomicUsize>),
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let line = lines.next().unwrap();
    let mut headers: Vec<String> = lines.collect();
    headers.sort();
    let length = headers
        .iter()
        .find_map(|h| h.strip_prefix("content-length: "));
    let mut body = bytes.split_off(head_end + 4);
    let missing = length.unwrap().parse::<usize>().unwrap() - body.len();
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest).await.ok()?;
    body.extend(rest);
    Some(Seen {
        line,
        headers,
        body,
    })
}

/// Serves `replies` in order, the last one again and again; reports connections and requests.
async fn serve(replies: Vec<Reply>) -> (String, mpsc::Receiver<Seen>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://{}/notifications?key=1",
        listener.local_addr().unwrap()
    );
    let (seen, requests) = mpsc::channel(64);
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, served) = (connections.clone(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let (seen, replies, served) = (seen.clone(), replies.clone(), served.clone());
            tokio::spawn(converse(stream, seen, replies, served));
        }
    });
    (url, requests, connections)
}

async fn converse(
    mut stream: TcpStream,
    seen: mpsc::Sender<Seen>,
    replies: Vec<Reply>,
    served: Arc<AtomicUsize>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let nth = served.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1);
        let _ = seen.try_send(request);
        match &replies[nth] {
            Reply::Answer(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Reply::Close(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                return;
            }
            Reply::Silence => std::future::pending().await,
            Reply::Flood(head, written) => {
                stream.write_all(head.as_bytes()).await.unwrap();
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                    written.fetch_add(4096, Ordering::SeqCst);
                }
                return;
            }
        }
    }
}

fn target(url: &str, policy: Policy) -> Target {
    Target::http(name("ehr"), policy, Options::of(url)).unwrap()
}

async fn attempt(target: &Target) -> Outcome {
    let record = due(1, crate::clock::Timestamp::from_millis(1_765_977_748_432)).record;
    target
        .attempt(Parcel {
            record: &record,
            attempt: 1,
            replay: false,
            span: Tracer::default().attempt(record.id.as_bytes()),
        })
        .await
}

async fn outcome_of(reply: Reply, policy: Policy) -> Outcome {
    let (url, _requests, _) = serve(vec![reply]).await;
    attempt(&target(&url, policy)).await
}

fn retry(reason: Reason) -> Outcome {
    Outcome::Retry {
        reason,
        after: None,
    }
}

#[tokio::test]
async fn a_target_receives_the_exact_bytes_and_the_contracts_headers_and_no_others() {
    let (url, mut requests, connections) = serve(vec![Reply::Answer(OK)]).await;
    let mut options = Options::of(&url);
    options.headers = vec![("x-team".parse().unwrap(), "clinical".parse().unwrap())];
    options.bearer_token = Secret::from_text(b"t0ken\n".to_vec());
    let target = Target::http(name("ehr"), policy(), options).unwrap();
    let mut record = due(7, crate::clock::Timestamp::from_millis(1_765_977_748_432)).record;
    record.body = Bytes::from_static(b"{ \"a\" :\xff\x00 1}\r\n");
    for (number, replay) in [(1, false), (2, true)] {
        let parcel = Parcel {
            record: &record,
            attempt: number,
            replay,
            span: Tracer::default().attempt(record.id.as_bytes()),
        };
        assert_eq!(target.attempt(parcel).await, Outcome::Delivered);
        let Seen {
            line,
            mut headers,
            body,
        } = requests.recv().await.unwrap();
        assert_eq!(line, "POST /notifications?key=1 HTTP/1.1");
        assert_eq!(body, record.body);
        let at = headers
            .iter()
            .position(|h| h.starts_with("traceparent: "))
            .unwrap();
        let traceparent = headers.remove(at);
        let parts: Vec<&str> = traceparent["traceparent: ".len()..].split('-').collect();
        assert_eq!(
            [parts[0], parts[1], parts[3]],
            ["00", &record.id.to_string(), "01"]
        );
        assert!(parts[2].len() == 16 && parts[2] != "0000000000000000");
        let mut expected = vec![
            "authorization: Bearer t0ken".to_owned(),
            format!("content-length: {}", record.body.len()),
            "content-type: application/json".into(),
            "generated-at: 1765977748432".into(),
            format!("host: {}", url.split('/').nth(2).unwrap()),
            "idempotency-key: 00000000000000000000000000000007".into(),
            format!("suki-relay-attempt: {number}"),
            "suki-relay-received-at: 2025-12-17T13:22:28.432Z".into(),
            "suki-relay-source: suki".into(),
            concat!("user-agent: suki-relay/", env!("CARGO_PKG_VERSION")).into(),
            "webhook-id: 00000000000000000000000000000007".into(),
            format!("x-api-key: {}", "ab".repeat(32)),
            "x-team: clinical".into(),
        ];
        if replay {
            expected.insert(7, "suki-relay-replay: 1".into());
            expected.sort();
        }
        assert_eq!(headers, expected);
    }
    assert_eq!(
        connections.load(Ordering::SeqCst),
        1,
        "the connection is used again"
    );
}

#[tokio::test]
async fn a_record_without_content_type_is_sent_without_one() {
    let (url, mut requests, _) = serve(vec![Reply::Answer(OK)]).await;
    let mut record = due(1, crate::clock::Timestamp::from_millis(0)).record;
    record.content_type = None;
    let parcel = Parcel {
        record: &record,
        attempt: 1,
        replay: false,
        span: Tracer::default().attempt(record.id.as_bytes()),
    };
    assert_eq!(
        target(&url, policy()).attempt(parcel).await,
        Outcome::Delivered
    );
    let headers = requests.recv().await.unwrap().headers;
    assert!(!headers.iter().any(|h| h.starts_with("content-type")));
}

#[tokio::test]
async fn answers_mean_what_the_contract_says() {
    let after = |seconds, reason| Outcome::Retry {
        reason,
        after: Some(Duration::from_secs(seconds)),
    };
    let reason = Reason::ClientError;
    let cases = [
        ("204 No Content\r\n\r\n", Outcome::Delivered),
        (
            "202 Accepted\r\ncontent-length: 0\r\n\r\n",
            Outcome::Delivered,
        ),
        (
            "409 Conflict\r\ncontent-length: 0\r\n\r\n",
            Outcome::Delivered,
        ),
        (
            "410 Gone\r\ncontent-length: 0\r\n\r\n",
            Outcome::GiveUp { reason },
        ),
        ("404 Not Found\r\ncontent-length: 0\r\n\r\n", retry(reason)),
        (
            "401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
            retry(Reason::Unauthorized),
        ),
        (
            "301 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            retry(Reason::Redirect),
        ),
        (
            "500 Oops\r\ncontent-length: 0\r\n\r\n",
            retry(Reason::ServerError),
        ),
        (
            "503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            after(7, Reason::Throttled),
        ),
        (
            "503 Busy\r\nretry-after: Wed, 17 Dec 2014 13:23:28 GMT\r\ncontent-length: 0\r\n\r\n",
            after(0, Reason::Throttled),
        ),
        (
            "503 Busy\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n",
            retry(Reason::Throttled),
        ),
        (
            "503 Busy\r\nretry-after: 7\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            retry(Reason::Throttled),
        ),
    ];
    for (answer, expected) in cases {
        let text: &'static str = format!("HTTP/1.1 {answer}").leak();
        let mut policy = policy();
        policy.delivered_on.insert(409);
        assert_eq!(
            outcome_of(Reply::Answer(text), policy).await,
            expected,
            "{answer}"
        );
    }
}

/// With what the config gives up on by itself.
#[tokio::test]
async fn each_status_is_tried_again_or_given_up_for_its_reason() {
    let given_up = |reason| Outcome::GiveUp { reason };
    let cases = [
        (400, given_up(Reason::ClientError)),
        (403, retry(Reason::Unauthorized)),
        (405, given_up(Reason::ClientError)),
        (408, retry(Reason::Throttled)),
        (413, given_up(Reason::ClientError)),
        (415, given_up(Reason::ClientError)),
        (422, given_up(Reason::ClientError)),
        (425, retry(Reason::Throttled)),
        (429, retry(Reason::Throttled)),
        (502, retry(Reason::ServerError)),
        (504, retry(Reason::ServerError)),
    ];
    for (status, expected) in cases {
        let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
        let mut policy = policy();
        policy.give_up_on = [400, 405, 410, 413, 415, 422].into();
        let outcome = outcome_of(Reply::Answer(text.leak()), policy).await;
        assert_eq!(outcome, expected, "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let moved = "HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let (url, mut requests, _) = serve(vec![Reply::Answer(moved), Reply::Answer(OK)]).await;
    assert_eq!(
        attempt(&target(&url, policy())).await,
        retry(Reason::Redirect)
    );
    assert!(requests.recv().await.is_some());
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn broken_silent_and_senseless_answers_are_told_apart() {
    let mut hasty = policy();
    hasty.timeout = Duration::from_millis(200);
    assert_eq!(
        outcome_of(Reply::Silence, hasty).await,
        retry(Reason::Timeout)
    );
    let big: &'static str =
        format!("HTTP/1.1 200 OK\r\nbig: {}\r\n\r\n", "x".repeat(64 << 10)).leak();
    let cases = [
        (Reply::Close(""), Reason::Broken),
        (
            Reply::Close("HTTP/1.1 200 OK\r\ncontent-le"),
            Reason::Broken,
        ),
        (
            Reply::Answer("220 smtp.example.org ESMTP\r\n\r\n"),
            Reason::Protocol,
        ),
        (Reply::Answer(big), Reason::Protocol),
    ];
    for (reply, reason) in cases {
        assert_eq!(
            outcome_of(reply, policy()).await,
            retry(reason),
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_without_end_keeps_its_meaning_and_costs_its_connection() {
    let written = Arc::new(AtomicUsize::new(0));
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
    let reply = Reply::Flood(endless, written.clone());
    let (url, _requests, connections) = serve(vec![reply, Reply::Answer(OK)]).await;
    let target = target(&url, policy());
    assert_eq!(attempt(&target).await, Outcome::Delivered);
    assert_eq!(attempt(&target).await, Outcome::Delivered);
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    // What we read, and what the sockets of both sides hold.
    assert!(written.load(Ordering::SeqCst) < 32 << 20);
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_change_what_the_status_says() {
    let reason = Reason::ClientError;
    let cases = [
        ("200 OK", Outcome::Delivered),
        ("409 Conflict", Outcome::Delivered),
        ("422 No", Outcome::GiveUp { reason }),
        ("404 Not Found", retry(reason)),
    ];
    for (status, expected) in cases {
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: 9\r\n\r\nhal");
        let mut policy = policy();
        policy.delivered_on.insert(409);
        let outcome = outcome_of(Reply::Close(text.leak()), policy).await;
        assert_eq!(outcome, expected, "{status}");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_turn_an_answer_into_a_timeout() {
    let mut hasty = policy();
    hasty.timeout = Duration::from_millis(300);
    let stuck = Reply::Answer("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal");
    assert_eq!(outcome_of(stuck, hasty).await, Outcome::Delivered);
}

#[tokio::test]
async fn a_connection_that_served_before_gets_one_second_try_and_a_new_one_none() {
    let (url, _requests, connections) =
        serve(vec![Reply::Answer(OK), Reply::Close(""), Reply::Answer(OK)]).await;
    let stale = target(&url, policy());
    assert_eq!(attempt(&stale).await, Outcome::Delivered);
    assert_eq!(attempt(&stale).await, Outcome::Delivered);
    assert_eq!(connections.load(Ordering::SeqCst), 2);

    let (url, _requests, connections) = serve(vec![Reply::Answer(OK), Reply::Close("")]).await;
    let dying = target(&url, policy());
    assert_eq!(attempt(&dying).await, Outcome::Delivered);
    assert_eq!(attempt(&dying).await, retry(Reason::Broken));
    assert_eq!(
        connections.load(Ordering::SeqCst),
        2,
        "one second try, and no third"
    );

    let (url, _requests, connections) = serve(vec![Reply::Close("")]).await;
    assert_eq!(
        attempt(&target(&url, policy())).await,
        retry(Reason::Broken)
    );
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_connection_has_its_reason() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = format!("http://{}/", free.local_addr().unwrap());
    drop(free);
    let cases = [
        (refused.as_str(), Reason::Connect),
        ("http://nowhere.invalid/", Reason::Dns),
        ("https://169.254.169.254/", Reason::Forbidden),
    ];
    for (url, reason) in cases {
        let mut options = Options::of(url);
        if url.starts_with("https") {
            options.tls.ca = Some(Authority::new().pem());
        }
        let target = Target::http(name("ehr"), policy(), options).unwrap();
        assert_eq!(attempt(&target).await, retry(reason), "{url}");
    }
}

/// One that takes connections, and never says a word of TLS.
#[tokio::test]
async fn a_handshake_that_never_ends_has_no_more_than_the_time_to_connect() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", mute.local_addr().unwrap());
    let mut options = Options::of(&url);
    options.tls.ca = Some(Authority::new().pem());
    let mut policy = policy();
    policy.timeout = Duration::from_secs(30);
    policy.connect_timeout = Duration::from_millis(50);
    let target = Target::http(name("ehr"), policy, options).unwrap();
    assert_eq!(attempt(&target).await, retry(Reason::Connect));
}

#[test]
fn options_that_make_no_target_say_why() {
    let build = |change: &dyn Fn(&mut Options)| {
        let mut options = Options::of("http://127.0.0.1/");
        change(&mut options);
        Target::http(name("ehr"), policy(), options).unwrap_err()
    };
    let url = |text: &'static str| move |o: &mut Options| o.url = text.parse().unwrap();
    assert!(matches!(build(&url("ftp://a/")), BuildError::Url));
    assert!(matches!(build(&url("/path")), BuildError::Url));
    assert!(matches!(
        build(&url("http://u:p@a/")),
        BuildError::Credentials
    ));
    let header = |o: &mut Options| {
        o.headers = vec![("webhook-id".parse().unwrap(), "1".parse().unwrap())];
    };
    assert!(matches!(build(&header), BuildError::Reserved(_)));
    let token = |o: &mut Options| o.bearer_token = Secret::from_text(b"a\nb".to_vec());
    assert!(matches!(build(&token), BuildError::BearerToken));
    let unused = |o: &mut Options| o.tls.server_name = Some("a".into());
    assert!(matches!(build(&unused), BuildError::TlsUnused));
    let ca = |o: &mut Options| {
        o.url = "https://a/".parse().unwrap();
        o.tls.ca = Some(Bytes::from_static(b"no certificate"));
    };
    assert!(matches!(build(&ca), BuildError::Ca(_)));
}

#[test]
fn debug_shows_no_query_and_no_token() {
    let mut options = Options::of("http://127.0.0.1/hook?key=hunter2");
    options.bearer_token = Secret::from_text(b"hunter2".to_vec());
    let target = Target::http(name("ehr"), policy(), options).unwrap();
    let shown = format!("{target:?}");
    assert!(
        shown.contains("/hook") && !shown.contains("hunter2"),
        "{shown}"
    );
}

/// A certificate authority made for one test.
pub(super) struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    pub(super) fn pem(&self) -> Bytes {
        self.certificate.pem().into()
    }

    pub(super) fn issue(&self, host: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
        self.issue_until(host, 2099)
    }

    /// Good until the first of January of that year.
    pub(super) fn issue_until(
        &self,
        host: &str,
        year: i32,
    ) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// TLS for `localhost` with HTTP/2, for clients that this authority knows, or for all.
pub(super) fn acceptor(authority: &Authority, clients: bool) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (certificate, key) = authority.issue("localhost");
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if clients {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut config = builder
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// An HTTP/2 server; answers 200, and says by which version.
async fn serve_tls(authority: &Authority, clients: bool) -> (u16, mpsc::Receiver<::http::Version>) {
    let acceptor = acceptor(authority, clients);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, versions) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let seen = seen.clone();
            let service = service_fn(move |request: ::http::Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                let _ = seen.try_send(request.version());
                let answer = ::http::Response::new(http_body_util::Empty::<Bytes>::new());
                async { Ok::<_, std::convert::Infallible>(answer) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, versions)
}

fn tls_target(port: u16, tls: Tls) -> Target {
    let mut options = Options::of(&format!("https://localhost:{port}/"));
    options.tls = tls;
    Target::http(name("ehr"), policy(), options).unwrap()
}

#[tokio::test]
async fn tls_checks_the_certificate_and_speaks_http_2_where_it_is_offered() {
    let authority = Authority::new();
    let (port, mut versions) = serve_tls(&authority, false).await;
    let ca = Some(authority.pem());
    let tls = |ca, server_name: Option<&str>| Tls {
        ca,
        server_name: server_name.map(str::to_owned),
        identity: None,
    };
    let good = tls_target(port, tls(ca.clone(), None));
    assert_eq!(attempt(&good).await, Outcome::Delivered);
    assert_eq!(versions.recv().await, Some(::http::Version::HTTP_2));
    let wrong_name = tls_target(port, tls(ca, Some("other.example.org")));
    assert_eq!(attempt(&wrong_name).await, retry(Reason::Tls));
    let wrong_ca = tls_target(port, tls(Some(Authority::new().pem()), None));
    assert_eq!(attempt(&wrong_ca).await, retry(Reason::Tls));
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_target_that_asks() {
    let authority = Authority::new();
    let (port, _versions) = serve_tls(&authority, true).await;
    let (certificate, key) = authority.issue("relay");
    let key = Secret::from_text(key.serialize_pem().into_bytes()).unwrap();
    let with = Tls {
        ca: Some(authority.pem()),
        identity: Some((certificate.pem().into(), key)),
        server_name: None,
    };
    assert_eq!(attempt(&tls_target(port, with)).await, Outcome::Delivered);
    let without = Tls {
        ca: Some(authority.pem()),
        ..Tls::default()
    };
    // Over HTTP/2 the alert comes once the connection is up, and h2 keeps no more of it than a text.
    let refused = attempt(&tls_target(port, without)).await;
    assert!(
        [Reason::Tls, Reason::Broken].map(retry).contains(&refused),
        "{refused:?}"
    );
}
