//! Row G14: targets whose TLS is wrong, and is right again.

use std::convert::Infallible;
use std::fs;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::fresh;
use super::front::{Delivery, Front};
use crate::harness::Authority;

/// How it meets who connects.
#[derive(Clone)]
enum Greeting {
    /// By TLS; speaks what is agreed on, else HTTP/1.1.
    Tls(Arc<ServerConfig>),
    /// By TLS; speaks HTTP/1.1 whatever is agreed on.
    Deceives(Arc<ServerConfig>),
    /// Hears the first bytes, and says these.
    Says(Vec<u8>),
    /// Hears the first bytes, and hangs up.
    HangsUp,
}

type Heard = Arc<Mutex<Vec<Version>>>;

/// A server; its connections end when it is to greet in another way.
struct Server {
    port: u16,
    greeting: watch::Sender<Greeting>,
    heard: Heard,
}

impl Server {
    async fn start(greeting: Greeting) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let greeting = watch::Sender::new(greeting);
        let (greets, heard) = (greeting.subscribe(), Heard::default());
        let told = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut greets, told) = (greets.clone(), told.clone());
                tokio::spawn(async move {
                    let greeting = greets.borrow_and_update().clone();
                    tokio::select! {
                        _ = meet(stream, greeting, told) => {}
                        _ = greets.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            greeting,
            heard,
        }
    }

    fn greets(&self, greeting: Greeting) {
        self.greeting.send_replace(greeting);
    }

    /// By which version of HTTP each request came.
    fn heard(&self) -> Vec<Version> {
        self.heard.lock().expect("not poisoned").clone()
    }
}

async fn meet(mut stream: TcpStream, greeting: Greeting, heard: Heard) -> Option<()> {
    let deceives = matches!(greeting, Greeting::Deceives(_));
    let config = match greeting {
        Greeting::Tls(config) | Greeting::Deceives(config) => config,
        Greeting::Says(bytes) => {
            return answer_blindly(&mut stream, &bytes).await;
        }
        Greeting::HangsUp => {
            let _hello = stream.read(&mut [0; 4096]).await;
            return None;
        }
    };
    let mut stream = TlsAcceptor::from(config).accept(stream).await.ok()?;
    if deceives {
        return answer_blindly(&mut stream, b"HTTP/1.1 400 canary\r\n\r\n").await;
    }
    let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    // Good for both kinds of targets: an answer without a message, whose status is OK.
    let service = service_fn(move |request: http::Request<Incoming>| {
        let heard = heard.clone();
        async move {
            let version = request.version();
            heard.lock().expect("not poisoned").push(version);
            let mut answer = Response::builder().header("x-canary", "canary");
            if version == Version::HTTP_2 {
                answer = answer.header("grpc-status", "0");
            }
            Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).expect("an answer"))
        }
    });
    let stream = TokioIo::new(stream);
    if agreed {
        let server = http2::Builder::new(TokioExecutor::new());
        server.serve_connection(stream, service).await.ok()
    } else {
        http1::Builder::new()
            .serve_connection(stream, service)
            .await
            .ok()
    }
}

/// Whatever is said first; and leaves it to the other side to go.
async fn answer_blindly(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
) -> Option<()> {
    let _hello = stream.read(&mut [0; 4096]).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    while stream.read(&mut [0; 4096]).await.ok()? > 0 {}
    None
}

const LATEST: &[&rustls::SupportedProtocolVersion] = rustls::ALL_VERSIONS;
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

/// For this certificate, and what it agrees to speak.
fn speaking(
    (certificate, key): (rcgen::Certificate, rcgen::KeyPair),
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("a pair");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.into()
}

fn tls(pair: (rcgen::Certificate, rcgen::KeyPair)) -> Greeting {
    Greeting::Tls(speaking(pair, LATEST, BOTH))
}

/// Of a certificate for this name; its subject is nobody's business.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    let subject = &mut params.distinguished_name;
    subject.push(rcgen::DnType::CommonName, "canary-subject");
    params
}

struct Row {
    what: &'static str,
    greeting: Greeting,
    /// Labels of the attempts by HTTP and by gRPC.
    outcomes: [&'static str; 2],
}

fn wrong(what: &'static str, greeting: Greeting) -> Row {
    Row {
        what,
        greeting,
        outcomes: ["tls"; 2],
    }
}

/// Certificates that are good for something else.
fn certificates(authority: &Authority) -> Vec<Row> {
    let signed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params("localhost");
        change(&mut params);
        tls(authority.sign(&params))
    };
    let expired = signed(&|params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = signed(&|params| params.not_before = date_time_ymd(2090, 1, 1));
    let nameless = signed(&|params| params.subject_alt_names.clear());
    let client = signed(&|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let key = rcgen::KeyPair::generate().expect("a key");
    let itself = params("localhost")
        .self_signed(&key)
        .expect("a certificate");
    vec![
        wrong("expired", expired),
        wrong("not yet valid", early),
        wrong(
            "for another name",
            tls(authority.sign(&params("canary.example"))),
        ),
        wrong("for no name", nameless),
        wrong("for clients", client),
        wrong("signed by itself", tls((itself, key))),
        wrong(
            "of another authority",
            tls(Authority::new().sign(&params("localhost"))),
        ),
    ]
}

/// Peers that speak no TLS of today.
fn handshakes(good: &dyn Fn() -> (rcgen::Certificate, rcgen::KeyPair)) -> Vec<Row> {
    // ServerHello of TLS 1.0 and 1.1 (RFC 4346, 7.4.1.3): ECDHE-ECDSA with AES-128-CBC.
    let old = |minor: u8| {
        let record = [22, 3, minor, 0, 42, 2, 0, 0, 38, 3, minor];
        Greeting::Says([&record[..], &[7; 32], &[0, 0xc0, 0x09, 0]].concat())
    };
    let alert = |code: u8| Greeting::Says(vec![21, 3, 3, 0, 2, 2, code]);
    let refusing = Greeting::Tls(speaking(good(), LATEST, &[b"canary/1"]));
    vec![
        wrong("TLS 1.0", old(1)),
        wrong("TLS 1.1", old(2)),
        wrong("the alert protocol_version", alert(70)),
        wrong("the alert internal_error", alert(80)),
        wrong(
            "HTTP without TLS",
            Greeting::Says(b"HTTP/1.1 200 canary\r\n\r\n".to_vec()),
        ),
        wrong("hanging up", Greeting::HangsUp),
        wrong("neither h2 nor http/1.1 by ALPN", refusing),
        Row {
            what: "h2 by ALPN, and HTTP/1.1 on the line",
            greeting: Greeting::Deceives(speaking(good(), LATEST, &[b"h2"])),
            outcomes: ["protocol"; 2],
        },
        Row {
            what: "never going on",
            greeting: Greeting::Says(Vec::new()),
            outcomes: ["connect"; 2],
        },
        Row {
            what: "no h2 by ALPN",
            greeting: Greeting::Tls(speaking(good(), LATEST, &[b"http/1.1"])),
            outcomes: ["delivered", "tls"],
        },
        Row {
            what: "no ALPN",
            greeting: Greeting::Tls(speaking(good(), LATEST, &[])),
            // A server that hears HTTP/2 of a sudden hangs up.
            outcomes: ["delivered", "broken"],
        },
        Row {
            what: "TLS 1.2",
            greeting: Greeting::Tls(speaking(good(), &[&rustls::version::TLS12], BOTH)),
            outcomes: ["delivered"; 2],
        },
    ]
}

const TARGETS: [&str; 2] = ["ehr", "audit"];

fn config(port: u16) -> String {
    let how = format!(
        "url: \"https://localhost:{port}/\", tls: {{ ca: ca.crt }}, bearer_token: {{ file: token }}"
    );
    let often = "connect_timeout: 500ms, max_in_flight: 1, breaker: { failures: 1000 }, retry: { initial: 10ms, max: 50ms }";
    format!(
        "
targets:
  - {{ name: ehr, http: {{ {how} }}, {often} }}
  - {{ name: audit, grpc: {{ {how} }}, {often} }}
routes: [{{ name: all, to: [ehr, audit] }}]
"
    )
}

async fn both_have(front: &Front, what: &str, id: &str) {
    for name in TARGETS {
        front.comes_to(what, id, name, Delivery::is_delivered).await;
    }
}

/// It is met so: each of both ends as the row has it, and has it once it is met well.
async fn hold(front: &mut Front, server: &Server, row: Row, good: &Greeting) {
    let (what, before) = (format!("G14: {}", row.what), server.heard().len());
    server.greets(row.greeting);
    let id = front.post(&fresh()).await;
    for (name, outcome) in TARGETS.into_iter().zip(row.outcomes) {
        // Which of two words of the same end comes first is chance.
        let ended = |delivery: &Delivery| delivery.outcome == outcome;
        front
            .comes_to(&format!("{what}: {outcome}"), &id, name, ended)
            .await;
    }
    if row.outcomes == ["tls"; 2] {
        assert_eq!(
            server.heard().len(),
            before,
            "{what}: nobody was told anything"
        );
    }
    server.greets(good.clone());
    both_have(front, &what, &id).await;
    let heard = server.heard().len();
    front
        .goes_on(&what, |_| server.heard().len() >= heard + 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_tls_is_wrong_is_told_nothing_until_it_is_right() {
    let authority = Authority::new();
    let pair = || authority.sign(&params("localhost"));
    let good = tls(pair());
    let server = Server::start(tls(Authority::new().sign(&params("localhost")))).await;
    let setup = Front::setup(&config(server.port));
    fs::write(setup.path().join("ca.crt"), authority.pem()).expect("writable");
    let relay = setup.start_at("trace");
    let mut front = Front::of(setup, relay);
    let id = front.post(&fresh()).await;
    for name in TARGETS {
        let failed = |delivery: &Delivery| delivery.attempts > 1;
        front.comes_to("G14: failures", &id, name, failed).await;
    }
    server.greets(good.clone());
    both_have(&front, "G14: what is right", &id).await;
    assert_eq!(
        server.heard(),
        [Version::HTTP_2; 2],
        "G14: h2 where it is offered"
    );
    front.is_warm();
    for row in certificates(&authority)
        .into_iter()
        .chain(handshakes(&pair))
    {
        hold(&mut front, &server, row, &good).await;
    }

    // Another key of the same authority; then another authority, which the config comes to name.
    let other = Authority::new();
    let moved = tls(other.sign(&params("localhost")));
    hold(
        &mut front,
        &server,
        wrong("moved to another authority", moved.clone()),
        &tls(pair()),
    )
    .await;
    server.greets(moved);
    let id = front.post(&fresh()).await;
    let refused = |delivery: &Delivery| delivery.outcome == "tls";
    front
        .comes_to("G14: a new authority", &id, "ehr", refused)
        .await;
    fs::write(front.path().join("ca.crt"), other.pem()).expect("writable");
    both_have(&front, "G14: a new authority", &id).await;
    let heard = server.heard().len();
    let arrived = |_: &[u8]| server.heard().len() >= heard + 2;
    front.goes_on("G14: a new authority", arrived).await;
}
