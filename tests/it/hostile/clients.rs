//! Row T10: clients that must show a certificate.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::siege::Siege;
use super::{fresh, whole};
use crate::harness::Setup;

const FAILED: &str = "suki_relay_tls_handshake_failures_total{reason=\"client_certificate\"}";

/// Writes a client's certificate by this authority, good until the end of that year.
fn issue(setup: &Setup, name: &str, by: &Issuer<'_, KeyPair>, until: i32) {
    let mut params = CertificateParams::new([format!("{name}.example")]).expect("a name");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 12, 31);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, by).expect("a certificate");
    let write = |end: &str, text: String| {
        let file = setup.path().join(format!("{name}.{end}"));
        fs::write(file, text).expect("writable");
    };
    write("crt", certificate.pem());
    write("key", key.serialize_pem());
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), Issuer::new(params, key))
}

fn demanding(rest: &str) -> Setup {
    let setup = Setup::new(rest);
    let ((pem, ours), (_, another)) = (authority(), authority());
    fs::write(setup.path().join("clients.crt"), pem).expect("writable");
    issue(&setup, "client", &ours, 2999);
    issue(&setup, "expired", &ours, 2021);
    issue(&setup, "foreign", &another, 2999);
    setup.reword(
        "private_key: tls.key",
        "private_key: tls.key, client_ca: clients.crt",
    );
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_good_certificate_gets_an_alert_and_is_not_heard() {
    // The good ones that it answers before, between and after show `client.crt`.
    let mut siege = Siege::of(demanding, "").await;
    for (turned_away, identity) in [None, Some("foreign"), Some("expired")]
        .into_iter()
        .enumerate()
    {
        let connector = TlsConnector::from(Arc::new(siege.client_with(identity, b"http/1.1")));
        let name = ServerName::try_from("localhost").expect("a name");
        let request = whole("", fresh().as_bytes());
        let exchange = async {
            // In TLS 1.3 the client is done before the relay has looked at its certificate.
            match connector.connect(name, siege.tcp().await).await {
                Ok(mut tls) => Siege::exchange_on(&mut tls, &request).await,
                Err(_) => Vec::new(),
            }
        };
        let answered = timeout(Duration::from_mins(1), exchange).await;
        assert_eq!(answered, Ok(vec![]), "T10: {identity:?}");
        let failed = siege.relay.metric(FAILED).await;
        assert!(
            (failed - (turned_away + 1) as f64).abs() < 0.1,
            "T10: {identity:?}: {failed}"
        );
        siege.goes_on("T10").await;
    }
    siege.lift(BTreeSet::new()).await;
}
