//! Rows T01 to T11: TLS, from its first byte.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Output};
use std::sync::Arc;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::siege::{PATIENCE, Siege};
use super::{fresh, whole};
use crate::harness::{Relay, Setup, Watch};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// The first byte that comes back to these, each written alone; 0 if none does.
async fn first_byte(siege: &Siege, pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> u8 {
    let mut tcp = siege.tcp().await;
    tcp.set_nodelay(true).expect("set");
    for piece in pieces {
        let _ = tcp.write_all(piece.as_ref()).await;
    }
    let first = timeout(PATIENCE, tcp.read_u8()).await;
    first.expect("ends at all").unwrap_or(0)
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [&[kind, 3, 1], &length[..], payload].concat()
}

fn extension(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short").to_be_bytes();
    [&kind.to_be_bytes()[..], &length, payload].concat()
}

/// A `ClientHello` of this version (RFC 5246, 7.4.1.2), in one record.
fn hello(version: [u8; 2], suites: &[u16], compression: &[u8], more: &[u8]) -> Vec<u8> {
    let groups = extension(10, &[0, 2, 0, 23]);
    let schemes = extension(13, &[0, 4, 4, 3, 8, 4]);
    let extensions = [&groups[..], &schemes, &extension(11, &[1, 0]), more].concat();
    let suites: Vec<u8> = suites
        .iter()
        .flat_map(|suite| suite.to_be_bytes())
        .collect();
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(u16::try_from(suites.len()).expect("few").to_be_bytes());
    body.extend(suites);
    body.push(u8::try_from(compression.len()).expect("few"));
    body.extend(compression);
    body.extend(
        u16::try_from(extensions.len())
            .expect("short")
            .to_be_bytes(),
    );
    body.extend(extensions);
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    record(HANDSHAKE, &[&[1], &length[1..], &body].concat())
}

/// ECDHE-ECDSA with AES-128-GCM.
const GOOD: &[u16] = &[0xc02b];
const TLS_1_2: [u8; 2] = [3, 3];

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_and_weak_suites_get_an_alert() {
    let siege = Siege::begin("").await;
    let good = hello(TLS_1_2, GOOD, &[0], &[]);
    assert_eq!(
        first_byte(&siege, [good]).await,
        HANDSHAKE,
        "T02: a good one is taken"
    );
    for minor in 0..3 {
        let old = hello([3, minor], GOOD, &[0], &[]);
        assert_eq!(first_byte(&siege, [old]).await, ALERT, "T01: 3.{minor}");
    }
    // RSA key exchange, CBC with RSA and with ECDHE, RC4, export, NULL, none known.
    for weak in [0x009c, 0x002f, 0xc009, 0xc007, 0x0003, 0x0001, 0xfefe] {
        let weak = hello(TLS_1_2, &[weak], &[0], &[]);
        assert_eq!(first_byte(&siege, [&weak]).await, ALERT, "T01: {weak:x?}");
    }
    let compressing = hello(TLS_1_2, GOOD, &[1], &[]);
    assert_eq!(
        first_byte(&siege, [compressing]).await,
        ALERT,
        "T07: compression"
    );
    let heartbeat = record(24, &[1, 0x40, 0]);
    assert_eq!(
        first_byte(&siege, [heartbeat]).await,
        ALERT,
        "T07: heartbeat"
    );
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_but_lawful_hellos_are_taken() {
    let siege = Siege::begin("").await;
    let good = hello(TLS_1_2, GOOD, &[0], &[]);
    assert_eq!(
        first_byte(&siege, good.chunks(1)).await,
        HANDSHAKE,
        "T05: byte by byte"
    );
    let records = good[5..].chunks(16).map(|part| record(HANDSHAKE, part));
    assert_eq!(
        first_byte(&siege, records).await,
        HANDSHAKE,
        "T05: many records"
    );
    let grease = extension(0x0a0a, &[]);
    let greased = hello(TLS_1_2, &[0x0a0a, GOOD[0]], &[0], &grease);
    assert_eq!(
        first_byte(&siege, [greased]).await,
        HANDSHAKE,
        "T05: GREASE"
    );
    let padded = hello(TLS_1_2, GOOD, &[0], &extension(21, &[0; 15_000]));
    assert_eq!(
        first_byte(&siege, [padded]).await,
        HANDSHAKE,
        "T05: padding"
    );
    let endless = record(
        HANDSHAKE,
        &[&[1, 0xff, 0xff, 0xff][..], &[0; 10_000]].concat(),
    );
    let answer = first_byte(&siege, [endless]).await;
    assert_ne!(answer, HANDSHAKE, "T05: 16 MiB announced");
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_names_no_server_or_another_is_shown_the_certificate() {
    let siege = Siege::begin("").await;
    let at = ServerName::from(siege.relay.sender_address.ip());
    assert!(
        shaken(&siege, at, siege.client(b"h2")).await.is_ok(),
        "T03: no name"
    );
    let elsewhere = ServerName::try_from("elsewhere.example").expect("a name");
    let error = shaken(&siege, elsewhere, siege.client(b"h2"))
        .await
        .expect_err("refused here");
    assert!(error.contains("NotValidForName"), "T03: {error}");
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ticket_allows_early_data() {
    let mut siege = Siege::begin("").await;
    let mut client = siege.client(b"http/1.1");
    client.enable_early_data = true;
    let client = Arc::new(client);
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::clone(&client));
    let tls = connector.connect(name.clone(), siege.tcp().await).await;
    let mut tls = tls.expect("shakes hands");
    let request = whole("connection: close\r\n", b"not json");
    tls.write_all(&request).await.expect("writes");
    tls.read_to_end(&mut Vec::new()).await.expect("ends");
    let mut next = ClientConnection::new(client, name).expect("a connection");
    assert!(next.early_data().is_none(), "T07: early data");
    siege.holds(&["invalid"]);
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_record_within_a_body_ends_the_connection_and_keeps_nothing() {
    let siege = Siege::begin("").await;
    let mut tls = siege.connect(b"http/1.1").await;
    let body = fresh();
    let request = whole("", body.as_bytes());
    let (sent, rest) = request.split_at(request.len() - 10);
    tls.write_all(sent).await.expect("writes");
    tls.flush().await.expect("flushes");
    let (tcp, _) = tls.get_mut();
    let forged = [&[23, 3, 3, 0, 26][..], rest, &[0; 16]].concat();
    tcp.write_all(&forged).await.expect("writes");
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, tls.read_to_end(&mut answer)).await;
    assert!(ended.expect("ends at all").is_err(), "T09: {answer:?}");
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "T09");
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_still_served() {
    let expired = |rest: &str| {
        let setup = Setup::new(rest);
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(setup.path().join("tls.crt"), certificate.pem()).expect("writable");
        std::fs::write(setup.path().join("tls.key"), key.serialize_pem()).expect("writable");
        setup
    };
    let setup = expired(
        "targets: [{ name: t, http: { url: \"http://127.0.0.1:9/\" } }]\nroutes: [{ name: r, to: [t] }]\n",
    );
    let relay = setup.start();
    let not_after = relay
        .metric("suki_relay_tls_certificate_not_after_timestamp_seconds")
        .await;
    assert!(
        (not_after - 1_609_459_200.0).abs() < 1.0,
        "T11: {not_after}"
    );
    let send = || {
        let sent = send_carelessly(&setup, &relay);
        assert!(sent.status.success(), "T11: {sent:?}");
    };
    // What is done once is done by the first.
    send();
    let mut watch = Watch::begin(&relay);
    send();
    watch.is_back(&relay, "T11: expired from the start").await;
}

/// Posts one without a look at the certificate.
pub fn send_carelessly(setup: &Setup, relay: &Relay) -> Output {
    let port = relay.sender_address.port();
    let sent = Command::new(env!("CARGO_BIN_EXE_suki-relay"))
        .args(["send", "--insecure", "--example", "failure"])
        .args(["--secret-file", "secret", "--url"])
        .arg(format!("https://localhost:{port}/webhooks/notification"))
        .current_dir(setup.path())
        .output();
    sent.expect("it runs")
}

async fn shaken(
    siege: &Siege,
    name: ServerName<'static>,
    client: ClientConfig,
) -> Result<(), String> {
    let connector = TlsConnector::from(Arc::new(client));
    let shaken = connector.connect(name, siege.tcp().await).await;
    shaken
        .map(drop)
        .map_err(|error: io::Error| format!("{error:?}"))
}
