//! What bodies cost in memory: a few that are held back before their last byte, and thousands at once. And whom they
//! cost an answer: good ones, while others hold all that there is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::client::Load;
use super::flood::certificate;
use super::process::Server;
use super::{Row, SECRET};

const KIB: f64 = 1.0 / 1024.0;
const SMALL_BYTES: usize = 16 * 1024;
const LARGE_BYTES: usize = 8 * 1024 * 1024;
/// Room that doubles goes far past it.
const ODD_BYTES: usize = 5 * 1024 * 1024;
/// Below the default of `listen.limits.bodies_in_flight`.
const LARGE_HELD: usize = 7;
const SMALL_HELD: usize = 1000;
const CONNECTIONS: usize = 50;
/// As many as the relay takes of one connection.
const STREAMS: usize = 100;
/// Of strangers who hold back bodies, each of as many as fill the budget.
const HOARDS: usize = 4;
const HOARD_STREAMS: usize = 8;
const GOOD_CONNECTIONS: usize = 4;
const HOARD_RUN: Duration = Duration::from_secs(10);
const CROWD_LIMIT_BYTES: u64 = 256 * 1024 * 1024;
/// As many as the relay takes by default, but for the good one's.
const WIDE_CONNECTIONS: usize = 1023;
/// The chart's `resources.limits.memory`.
const WIDE_LIMIT_BYTES: u64 = 512 * 1024 * 1024;
const SETTLE: Duration = Duration::from_secs(2);

pub fn measure() -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut rows = Vec::new();
        #[allow(clippy::cast_precision_loss)]
        for (what, bytes, count, announced) in [
            ("16 KiB", SMALL_BYTES, SMALL_HELD, true),
            ("8 MiB", LARGE_BYTES, LARGE_HELD, true),
            ("5 MiB, unannounced,", ODD_BYTES, LARGE_HELD, false),
        ] {
            let most = bytes as f64 * 2.0 * KIB + 64.0;
            let held = held(bytes, count, announced).await;
            rows.push(Row::at_most(
                format!("memory for one of {count} bodies of {what} in hand, KiB"),
                held,
                most,
            ));
        }
        let (peak, answered) = crowd().await;
        println!(
            "{} full-size bodies at once: {answered:?} by status",
            CONNECTIONS * STREAMS
        );
        rows.push(Row::at_most(
            "most memory with 5,000 full-size bodies at once, limited to 256, MiB",
            peak,
            256.0,
        ));
        rows.push(Row::at_most(
            "most memory with 100 requests at once on each of 1,023 connections, limited to 512, MiB",
            wide().await,
            512.0,
        ));
        rows.push(Row::at_most(
            "good ones that fail while strangers hold back bodies, %",
            beside_hoards().await,
            0.1,
        ));
        rows
    })
}

/// KiB of memory for each of so many requests, whose last byte has not come.
#[allow(clippy::cast_precision_loss)]
async fn held(bytes: usize, count: usize, announced: bool) -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    certificate(folder.path());
    let relay = Server::relay(folder.path(), "held", None, false);
    let client = Client::new(folder.path(), &relay);
    let mut connections = Vec::new();
    for _ in 0..count.div_ceil(STREAMS) {
        connections.push(client.connect().await);
    }
    let before = relay.resident_mib();
    let mut requests = JoinSet::new();
    for n in 0..count {
        let part = Bytes::from(vec![b' '; bytes - 1]);
        let part = stream::iter([Ok::<_, Infallible>(Frame::data(part))]);
        let body = StreamBody::new(part.chain(stream::pending()));
        requests.spawn(post(
            connections[n / STREAMS].clone(),
            body.boxed_unsync(),
            announced.then_some(bytes),
        ));
    }
    tokio::time::sleep(SETTLE).await;
    assert_eq!(requests.len(), count);
    assert!(requests.try_join_next().is_none(), "all are in hand");
    (relay.resident_mib() - before) * 1024.0 / count as f64
}

/// The most that the relay ever took, in MiB, and how its answers were. One that takes more than it may is
/// gone, and with it the answers.
async fn crowd() -> (f64, BTreeMap<u16, usize>) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    certificate(folder.path());
    let relay = Server::relay(folder.path(), "crowd", None, false);
    relay.limit_memory(CROWD_LIMIT_BYTES);
    let client = Client::new(folder.path(), &relay);
    let good = Load::new(relay.address, &relay.certificate, SECRET);
    let whole = Bytes::from(vec![b' '; LARGE_BYTES]);
    let mut requests = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let connection = client.connect().await;
        for _ in 0..STREAMS {
            let body = Full::new(whole.clone()).boxed_unsync();
            requests.spawn(post(connection.clone(), body, Some(LARGE_BYTES)));
        }
    }
    let mut answered = BTreeMap::new();
    while let Some(status) = requests.join_next().await {
        *answered.entry(status.expect("no panic")).or_default() += 1;
    }
    // Who holds most has to go when another needs room: 0.
    assert!(answered.keys().all(|s| [0, 401, 500].contains(s)));
    good.one().await;
    (relay.peak_mib(), answered)
}

/// The most that the relay ever took, in MiB, for the tables of HTTP/2 and for heads whose bodies never come: each
/// connection brings as many requests as it may in one moment, to be refused unread, and then as many to be held. As
/// [`crowd`], it answers a good one after all that.
async fn wide() -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    certificate(folder.path());
    let relay = Server::relay(folder.path(), "wide", None, false);
    relay.limit_memory(WIDE_LIMIT_BYTES);
    let client = Client::new(folder.path(), &relay);
    let good = Load::new(relay.address, &relay.certificate, SECRET);
    let (mut connections, mut requests) = (Vec::new(), JoinSet::new());
    for _ in 0..WIDE_CONNECTIONS {
        connections.push(client.connect().await);
    }
    for bytes in [LARGE_BYTES + 1, LARGE_BYTES] {
        for connection in &connections {
            for _ in 0..STREAMS {
                let body = StreamBody::new(stream::pending()).boxed_unsync();
                requests.spawn(post(connection.clone(), body, Some(bytes)));
            }
        }
        tokio::time::sleep(SETTLE).await;
        good.one().await;
    }
    relay.peak_mib()
}

/// Per cent of the good ones that are not answered 200.
#[allow(clippy::cast_precision_loss)]
async fn beside_hoards() -> f64 {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    certificate(folder.path());
    let relay = Server::relay(folder.path(), "hoards", None, false);
    relay.limit_memory(CROWD_LIMIT_BYTES);
    let client = Arc::new(Client::new(folder.path(), &relay));
    let good = Load::new(relay.address, &relay.certificate, SECRET);
    let mut hoards = JoinSet::new();
    for _ in 0..HOARDS {
        hoards.spawn(hoard(Arc::clone(&client)));
    }
    tokio::time::sleep(SETTLE).await;
    let run = tokio::task::spawn_blocking(move || good.run(GOOD_CONNECTIONS, HOARD_RUN));
    let run = run.await.expect("it ends");
    assert_eq!(hoards.len(), HOARDS);
    assert!(hoards.try_join_next().is_none(), "they hold on to the end");
    println!(
        "good ones beside hoards: {:.0} a second, p99 {:.1?}",
        run.rate(),
        run.p99()
    );
    run.refused as f64 * 100.0 / run.answered as f64
}

/// Sends a little more than half of each body, so that room for all of it is made, and comes back when it is cut.
async fn hoard(client: Arc<Client>) {
    loop {
        let connection = client.connect().await;
        let mut requests = JoinSet::new();
        for _ in 0..HOARD_STREAMS {
            let part = Bytes::from(vec![b' '; LARGE_BYTES / 2 + 1]);
            let part = stream::iter([Ok::<_, Infallible>(Frame::data(part))]);
            let body = StreamBody::new(part.chain(stream::pending()));
            let (connection, body) = (connection.clone(), body.boxed_unsync());
            requests.spawn(post(connection, body, Some(LARGE_BYTES)));
        }
        while requests.join_next().await.is_some() {}
    }
}

struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Client {
    fn new(folder: &Path, relay: &Server) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let own = CertificateDer::from_pem_file(folder.join("tls.crt")).expect("a certificate");
        roots.add(own).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            address: relay.address,
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    async fn connect(&self) -> SendRequest<UnsyncBoxBody<Bytes, Infallible>> {
        let tcp = TcpStream::connect(self.address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = self.tls.connect(name, tcp).await.expect("a handshake");
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await;
        let (sender, connection) = shaken.expect("http");
        tokio::spawn(connection);
        sender
    }
}

/// With a signature that no secret made: all of the body is read before that is known. 0: no answer.
async fn post(
    mut connection: SendRequest<UnsyncBoxBody<Bytes, Infallible>>,
    body: UnsyncBoxBody<Bytes, Infallible>,
    announced: Option<usize>,
) -> u16 {
    let mut request = Request::post("https://localhost/webhooks/notification")
        .header("x-api-key", "0".repeat(64))
        .header("generated-at", "1764000000000");
    if let Some(bytes) = announced {
        request = request.header("content-length", bytes);
    }
    let request = request.body(body).expect("a request");
    let answer = connection.send_request(request).await;
    answer.map_or(0, |answer| answer.status().as_u16())
}
