//! Row T10: clients that must show a certificate, and authorities that change.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::siege::{PATIENCE, Siege};
use super::{fresh, whole};
use crate::harness::{Authority, Setup};

const FAILED: &str = "suki_relay_tls_handshake_failures_total{reason=\"client_certificate\"}";

/// There was no answer.
const NOT_HEARD: [u16; 0] = [];

/// Writes a client's certificate by this authority, good until the end of that year.
fn issue(setup: &Setup, name: &str, by: &Authority, until: i32) {
    let mut params = CertificateParams::new([format!("{name}.example")]).expect("a name");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 12, 31);
    let (certificate, key) = by.sign(&params);
    let write = |end: &str, text: String| {
        let file = setup.path().join(format!("{name}.{end}"));
        fs::write(file, text).expect("writable");
    };
    write("crt", certificate.pem());
    write("key", key.serialize_pem());
}

fn demanding(rest: &str) -> Setup {
    let setup = Setup::new(rest);
    let (ours, another) = (Authority::new(), Authority::new());
    fs::write(setup.path().join("clients.crt"), ours.pem()).expect("writable");
    fs::write(setup.path().join("others.crt"), another.pem()).expect("writable");
    issue(&setup, "client", &ours, 2999);
    issue(&setup, "expired", &ours, 2021);
    issue(&setup, "foreign", &another, 2999);
    setup.reword(
        "private_key: tls.key",
        "private_key: tls.key, client_ca: clients.crt",
    );
    setup
}

/// What this client is answered, on a connection of its own.
async fn answered(siege: &Siege, client: &Arc<ClientConfig>, body: &str) -> Vec<u16> {
    let connector = TlsConnector::from(Arc::clone(client));
    let name = ServerName::try_from("localhost").expect("a name");
    let request = whole("connection: close\r\n", body.as_bytes());
    let exchange = async {
        // In TLS 1.3 the client is done before the relay has looked at its certificate.
        match connector.connect(name, siege.tcp().await).await {
            Ok(mut tls) => Siege::exchange_on(&mut tls, &request).await,
            Err(_) => Vec::new(),
        }
    };
    let answered = timeout(PATIENCE, exchange).await;
    answered.expect("ends at all")
}

async fn turned_away_are(siege: &Siege, count: usize, row: &str) {
    let failed = siege.relay.metric(FAILED).await;
    assert!((failed - count as f64).abs() < 0.1, "{row}: {failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_good_certificate_gets_an_alert_and_is_not_heard() {
    // The good ones that it answers before, between and after show `client.crt`.
    let mut siege = Siege::of(demanding, "").await;
    for (turned_away, identity) in [None, Some("foreign"), Some("expired")]
        .into_iter()
        .enumerate()
    {
        let client = Arc::new(siege.client_with(identity, b"http/1.1"));
        let answered = answered(&siege, &client, &fresh()).await;
        assert_eq!(answered, NOT_HEARD, "T10: {identity:?}");
        turned_away_are(&siege, turned_away + 1, &format!("T10: {identity:?}")).await;
        siege.goes_on("T10").await;
    }
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_come_is_decided_by_the_authorities_of_now() {
    let mut siege = Siege::of(demanding, "").await;
    let file = |name: &str| siege.setup.path().join(name);
    let [clients, others, nonsense] = ["clients.crt", "others.crt", "tls.key"].map(file);
    let ours = fs::read(&clients).expect("readable");
    let [client, foreign] =
        ["client", "foreign"].map(|name| Arc::new(siege.client_with(Some(name), b"http/1.1")));
    let reload = async |siege: &Siege, expected: &str| {
        let (_, answer) = siege.relay.operator("POST", "/v1/reload", "").await;
        assert_eq!(answer["result"], expected, "T10: {answer}");
    };
    // It has a ticket then, and another connection that it has begun.
    let body = fresh();
    assert_eq!(answered(&siege, &client, &body).await, [200], "T10: ours");
    siege.owes([body.into_bytes()]);
    let mut begun = siege.connect(b"http/1.1").await;

    // A bundle that is none changes nobody's right.
    fs::copy(nonsense, &clients).expect("copied");
    reload(&siege, "refused").await;
    siege.goes_on("T10: no bundle").await;
    assert_eq!(
        answered(&siege, &foreign, &fresh()).await,
        NOT_HEARD,
        "T10: no bundle"
    );

    fs::copy(others, &clients).expect("copied");
    reload(&siege, "applied").await;
    for (who, client) in [
        ("ours, by its ticket", &client),
        ("ours, anew", &Arc::new(siege.client(b"http/1.1"))),
    ] {
        assert_eq!(
            answered(&siege, client, &fresh()).await,
            NOT_HEARD,
            "T10: {who}"
        );
    }
    turned_away_are(&siege, 3, "T10: ours").await;
    for (client, who) in [
        (Some(&foreign), "theirs"),
        (None, "a connection from before"),
    ] {
        let body = fresh();
        let statuses = match client {
            Some(client) => answered(&siege, client, &body).await,
            None => Siege::exchange_on(&mut begun, &whole("", body.as_bytes())).await,
        };
        assert_eq!(statuses, [200], "T10: {who}");
        siege.owes([body.into_bytes()]);
    }

    fs::write(&clients, ours).expect("writable");
    reload(&siege, "applied").await;
    assert_eq!(
        answered(&siege, &foreign, &fresh()).await,
        NOT_HEARD,
        "T10: theirs, by its ticket"
    );
    turned_away_are(&siege, 4, "T10: theirs").await;
    siege.goes_on("T10: ours again").await;
    siege.lift(BTreeSet::new()).await;
}
