//! Ingress through its front door: real sockets, real TLS.
//!
//! Limits are short so that what must end ends soon; nothing asserts that anything is fast.

mod answers;
mod budget;
mod connections;
mod large;
mod places;
mod protocols;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{Registry, TextEncoder};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::places::{Place, Places};
use super::{Ingress, Limits, Metrics, serve, tls};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::routing::{Expression, OnInvalid, Route, Routing, Source};
use crate::secret::Secret;
use crate::spool::{self, Spool};
use crate::trace::Tracer;
use crate::verify::{self, Keyring};

pub const SUCCESS: &str = r#"{"encounter_id":"4d753ce1-bbff-43e1-950a-82dea2d86873","session_id":"a953839a-ddcd-407d-b9b0-3ed4b6be4be2","status":"success"}"#;
pub const FAILURE: &str = r#"{"encounter_id":"4d753ce1-bbff-43e1-950a-82dea2d86873","error_code":"E","error_detail":"d","session_id":"a953839a","status":"failure"}"#;

/// Long enough for a loaded machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
pub const SOON: Duration = Duration::from_millis(300);
/// Never within a test.
pub const LATE: Duration = Duration::from_mins(10);

/// A relay's ingress that serves a port of its own.
pub struct Relay {
    pub address: SocketAddr,
    pub drain: watch::Sender<Option<Instant>>,
    pub serving: JoinHandle<()>,
    pub spool: Spool,
    pub ingress: Arc<Ingress>,
    pub folder: TempDir,
    registry: Registry,
    roots: Arc<RootCertStore>,
}

/// A program from outside that holds the spool's database: nothing is committed until it lets go,
/// or the spool has waited for 10 seconds.
pub struct Held(#[expect(dead_code, reason = "to be dropped")] rusqlite::Connection);

impl Held {
    pub fn disk_of(relay: &Relay) -> Self {
        let file = relay.folder.path().join("spool.db");
        let connection = rusqlite::Connection::open(file).expect("opens");
        connection.execute_batch("BEGIN IMMEDIATE").expect("holds");
        Self(connection)
    }
}

/// A client's end of one connection.
pub struct Wire {
    pub tls: TlsStream<TcpStream>,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    /// Lower case, with a line end after each field.
    pub head: String,
    pub body: String,
}

pub fn limits() -> Limits {
    Limits {
        connections: 64,
        connections_per_peer: None,
        body_bytes: 64 * 1024,
        bodies_in_flight_bytes: 1024 * 1024,
        handshake_timeout: LATE,
        header_timeout: LATE,
        body_timeout: LATE,
        idle_timeout: LATE,
        ack_timeout: LATE,
        connection_age_max: None,
    }
}

/// Some that are not proven, where all places are theirs.
pub async fn clients<const COUNT: usize>() -> [Arc<Place>; COUNT] {
    let metrics = Metrics::new(&Registry::new()).expect("registers");
    let places = Places::new(COUNT, None, Arc::new(metrics));
    let mut clients = Vec::new();
    for _ in 0..COUNT {
        let place = places.take(IpAddr::from([127, 0, 0, 1])).await;
        clients.push(Arc::new(place.expect("a place")));
    }
    clients.try_into().ok().expect("so many")
}

/// A spool on disk.
fn spool(capacity_bytes: u64) -> (Spool, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = spool::Options {
        path: folder.path().to_owned(),
        capacity_bytes,
        keys: None,
        keep_delivered: Duration::from_hours(72),
        unverified_capacity_bytes: 1024 * 1024,
    };
    let metrics = spool::Metrics::new(&Registry::new()).expect("registers");
    let spool = Spool::open(&options, metrics, |fatal| panic!("{fatal}"));
    (spool.expect("opens"), folder)
}

pub async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("ends at all")
}

pub async fn eventually(holds: impl AsyncFn() -> bool) {
    within(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

impl Relay {
    pub async fn start(limits: Limits) -> Self {
        Self::with_capacity(limits, 64 * 1024 * 1024).await
    }

    pub async fn with_capacity(limits: Limits, capacity_bytes: u64) -> Self {
        let (spool, folder) = spool(capacity_bytes);
        let pair = tls::self_signed(&["localhost".into()]).expect("a certificate");
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(pair.certificate.as_bytes()) {
            roots.add(der.expect("a certificate")).expect("a root");
        }
        let identity = tls::server_config(&tls::Options {
            certificate: pair.certificate.into_bytes(),
            private_key: pair.private_key,
            client_ca: None,
            version_min: tls::Version::Tls12,
        });
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).expect("registers"));
        let routing = routing();
        metrics.prepare(&routing);
        let ingress = Arc::new(Ingress::new(
            Arc::new(ArcSwap::from_pointee(routing)),
            Arc::new(ArcSwap::new(identity.expect("serves").config)),
            spool.clone(),
            limits,
            metrics,
            Tracer::default(),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (drain, order) = watch::channel(None);
        Self {
            address,
            drain,
            serving: tokio::spawn(serve(listener, Arc::clone(&ingress), order)),
            spool,
            ingress,
            folder,
            registry,
            roots: Arc::new(roots),
        }
    }

    pub async fn tcp(&self) -> TcpStream {
        within(TcpStream::connect(self.address))
            .await
            .expect("connects")
    }

    pub async fn connect(&self) -> Wire {
        self.connect_as(b"http/1.1").await
    }

    pub async fn connect_as(&self, alpn: &[u8]) -> Wire {
        self.connect_over(self.tcp().await, alpn).await
    }

    /// From another address of this machine's.
    pub async fn connect_from(&self, address: [u8; 4]) -> Wire {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("ours");
        let tcp = within(socket.connect(self.address)).await;
        self.connect_over(tcp.expect("connects"), b"http/1.1").await
    }

    async fn connect_over(&self, tcp: TcpStream, alpn: &[u8]) -> Wire {
        let shaken = self.try_connect_over(tcp, alpn).await;
        shaken.expect("shakes hands")
    }

    async fn try_connect_over(&self, tcp: TcpStream, alpn: &[u8]) -> Option<Wire> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(Arc::clone(&self.roots))
                .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let tls = within(connector.connect(name, tcp)).await.ok()?;
        Some(Wire {
            tls,
            unread: Vec::new(),
        })
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answered {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.answer().await
    }

    /// How many notifications are on disk.
    pub async fn kept(&self) -> u64 {
        self.spool.counts().await.expect("reads").notifications
    }

    /// Whether a line of the exposition is there, to the letter.
    pub fn shows(&self, line: &str) -> bool {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        let text = text.expect("text");
        text.lines().any(|l| l == format!("suki_relay_{line}"))
    }

    #[track_caller]
    pub fn assert_counted(&self, result: &str, count: u32) {
        let line = format!(r#"requests_total{{result="{result}",source="suki"}} {count}"#);
        assert!(self.shows(&line), "{line}");
    }
}

impl Wire {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.tls.write_all(bytes.as_ref()))
            .await
            .expect("writes");
        within(self.tls.flush()).await.expect("flushes");
    }

    /// Reads one answer with a `content-length`.
    pub async fn answer(&mut self) -> Answered {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await;
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().expect("a length"));
        while self.unread.len() < end + length {
            self.more().await;
        }
        let rest = self.unread.split_off(end + length);
        let body = String::from_utf8_lossy(&self.unread[end..]).into_owned();
        self.unread = rest;
        Answered {
            status: head[9..12].parse().expect("a status"),
            head,
            body,
        }
    }

    /// Waits for the end of the connection, which must come without another byte.
    pub async fn ended(&mut self) {
        assert!(self.unread.is_empty(), "an answer was not read");
        match within(self.tls.read_u8()).await {
            Ok(byte) => panic!("{byte} in place of an end"),
            Err(error) => assert!(is_end(&error), "{error}"),
        }
    }

    async fn more(&mut self) {
        let length = within(self.tls.read_buf(&mut self.unread)).await;
        assert_ne!(length.expect("reads"), 0, "ended within an answer");
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// A request's head up to the blank line, for this path; the fields end in CRLF each.
pub fn head(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n")
}

/// A body, signed, from the millisecond given.
pub fn signed_at(path: &str, generated_at: &str, body: &str) -> String {
    let signature = signature(generated_at, body);
    let length = body.len();
    let fields = format!(
        "x-api-key: {signature}\r\ngenerated-at: {generated_at}\r\ncontent-length: {length}\r\n"
    );
    head(path, &fields) + body
}

pub fn signed(path: &str, body: &str) -> String {
    signed_at(path, &now(), body)
}

/// A valid body of so many bytes, and slow to judge for its few values.
pub fn long(bytes: usize) -> String {
    let open = r#"{"status":"success","session_id":"s","additional_info":{"a":""#;
    let close = r#""}}"#;
    open.to_owned() + &"x".repeat(bytes - open.len() - close.len()) + close
}

pub fn now() -> String {
    Timestamp::now().as_millis().to_string()
}

pub fn signature(generated_at: &str, body: &str) -> String {
    verify::signature(&secret(), generated_at, body.as_bytes())
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub fn source(label: &str, on_invalid: OnInvalid) -> Source {
    Source {
        on_invalid,
        ..Source::of(label, Keyring::new([(name("current"), &secret())]))
    }
}

fn secret() -> Secret {
    Secret::from_text(b"a secret for these tests".to_vec()).expect("not empty")
}

/// `suki` refuses what is invalid, `lenient` takes it; successes alone have a route.
fn routing() -> Routing {
    let sources = vec![
        source("suki", OnInvalid::Reject),
        source("lenient", OnInvalid::Accept),
    ];
    let when = Expression::compile(r#"body.status == "success""#).expect("compiles");
    let routes = vec![Route {
        name: name("successes"),
        when: Some(when),
        to: vec![name("ehr")],
    }];
    Routing::new(sources, routes, Vec::new())
}
