//! Rows C09 and T11: certificates and keys that a running relay is to serve with from now on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, date_time_ymd};

use suki_relay::clock::Timestamp;

use super::tls::send_carelessly;
use super::trial::{Trial, to};
use crate::harness::{Authority, Sender, Setup, Target, eventually, fresh};

const NOT_AFTER: &str = "suki_relay_tls_certificate_not_after_timestamp_seconds";
const ENCRYPTED: &str =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
const ENCRYPTED_OF_OLD: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
    AAAA\n-----END RSA PRIVATE KEY-----\n";
const DAMAGED: &str = "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n";

fn since_1970() -> Duration {
    let millis = u64::try_from(Timestamp::now().as_millis());
    Duration::from_millis(millis.expect("after 1970"))
}

/// A certificate for `localhost` and its key, good for so long from now.
fn issue(by: &Authority, lasts: Duration) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970() + lasts;
    params.distinguished_name.push(DnType::CommonName, "canary");
    let (certificate, key) = by.sign(&params);
    (certificate.pem(), key.serialize_pem())
}

/// A relay that serves with these, beside what its senders trust: all authorities.
struct Served {
    trial: Trial,
    root: String,
    middle: String,
    by: Authority,
}

impl Served {
    async fn begin(target: &Target) -> Self {
        let setup = Setup::new(&to(target));
        let root = Authority::new();
        let by = root.under("middle");
        let (root, middle) = (root.pem(), by.pem());
        fs::write(setup.path().join("tls.crt"), format!("{root}{middle}")).expect("writable");
        setup.reword("tls.crt", "served.crt");
        setup.reword("tls.key", "served.key");
        let (leaf, key) = issue(&by, YEAR);
        put(setup.path(), &format!("{leaf}{middle}"), &key);
        Self {
            trial: Trial::begin(setup, &[]).await,
            root,
            middle,
            by,
        }
    }

    fn put(&self, chain: &str, key: &str) {
        put(self.trial.setup.path(), chain, key);
    }
}

const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(8760);

fn put(folder: &Path, chain: &str, key: &str) {
    fs::write(folder.join("served.crt"), chain).expect("writable");
    fs::write(folder.join("served.key"), key).expect("writable");
}

/// A certificate and a key that are too short for anybody.
fn rsa_1024(folder: &Path) -> (String, String) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:1024",
            "-nodes",
            "-days",
            "9",
            "-subj",
            "/CN=canary",
        ])
        .args(["-keyout", "short.key", "-out", "short.crt"])
        .current_dir(folder)
        .output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("readable");
    (read("short.crt"), read("short.key"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_nobody_can_serve_with_is_refused_and_the_old_one_stays() {
    let target = Target::accepting().await;
    let mut served = Served::begin(&target).await;
    let ((leaf, key), (_, other)) = (issue(&served.by, YEAR), issue(&served.by, YEAR));
    let (middle, root) = (&served.middle, &served.root);
    let (short, short_key) = rsa_1024(served.trial.setup.path());
    let good = format!("{leaf}{middle}");
    let rows: [(&str, String, &str, &str); 9] = [
        (
            "C09: mismatch",
            good.clone(),
            &other,
            "private_key: does not match the certificate",
        ),
        (
            "C09: turned round",
            format!("{middle}{leaf}"),
            &key,
            "private_key: does not match the certificate",
        ),
        (
            "C09: the root first",
            format!("{root}{leaf}{middle}"),
            &key,
            "private_key: does not match",
        ),
        (
            "C09: encrypted",
            good.clone(),
            ENCRYPTED,
            "the private key is encrypted",
        ),
        (
            "C09: encrypted of old",
            good.clone(),
            ENCRYPTED_OF_OLD,
            "the private key is encrypted",
        ),
        (
            "C09: RSA-1024",
            short,
            &short_key,
            "RSA of at least 2048 bits",
        ),
        ("C09: no key", good.clone(), &leaf, "no private key in it"),
        (
            "C09: no certificate",
            key.clone(),
            &key,
            "holds no certificate",
        ),
        (
            "C09: damaged further on",
            format!("{leaf}{DAMAGED}"),
            &key,
            "listen.tls.certificate: ",
        ),
    ];
    for (row, chain, key, words) in rows {
        put(served.trial.setup.path(), &chain, key);
        served.trial.refuses(row, &["listen.tls.", words]).await;
    }
    put(served.trial.setup.path(), &good, &key);
    served.trial.takes("C09: a good one").await;
    served.trial.end(&target).await;
}

async fn is_shown_for(trial: &Trial, row: &str, lasts: Duration) {
    let expected = (since_1970() + lasts).as_secs_f64();
    let shown = trial.relay.metric(NOT_AFTER).await;
    assert!(
        (shown - expected).abs() < 60.0,
        "{row}: {shown}, {expected}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_near_or_past_its_end_is_served_and_a_disordered_chain_is_told() {
    let target = Target::accepting().await;
    let mut served = Served::begin(&target).await;
    let (leaf, key) = issue(&served.by, 21 * DAY);
    let (middle, root) = (served.middle.clone(), served.root.clone());

    // Whether a sender has what is not in it, the relay cannot know.
    served.put(&leaf, &key);
    served.trial.takes("T11: incomplete").await;
    is_shown_for(&served.trial, "T11: 21 days", 21 * DAY).await;
    let of_root = served.trial.setup.path().join("root.crt");
    fs::write(&of_root, &root).expect("writable");
    let has_root = Sender::new(served.trial.relay.sender_address, &of_root);
    assert_eq!(has_root.post(fresh()).await, None, "T11: incomplete");

    served.put(&format!("{leaf}{root}{middle}"), &key);
    served.trial.takes("C09: a root in between").await;
    served
        .trial
        .has_warned("C09", "certificate 2 of the chain did not issue")
        .await;

    let (expired, key) = {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        let (certificate, key) = served.by.sign(&params);
        (certificate.pem(), key.serialize_pem())
    };
    served.put(&format!("{expired}{middle}"), &key);
    assert_eq!(served.trial.refusal().await, None, "T11: expired");
    served
        .trial
        .has_warned("T11", "the certificate has expired")
        .await;
    let not_after = served.trial.relay.metric(NOT_AFTER).await;
    assert!(
        (not_after - 1_609_459_200.0).abs() < 1.0,
        "T11: {not_after}"
    );
    let careful = Sender::new(served.trial.relay.sender_address, &of_root);
    assert_eq!(careful.post(fresh()).await, None, "T11: expired");
    assert_eq!(
        send_carelessly(&served.trial.setup, &served.trial.relay)
            .status
            .code(),
        Some(0),
        "T11: who does not look is served"
    );
    eventually("T11: it is delivered", async || {
        target.count() == served.trial.owed.len() + 1
    })
    .await;
    let requests = target.requests();
    served
        .trial
        .owed
        .extend(requests.iter().map(|r| r.body.to_vec()));
    served
        .trial
        .watch
        .is_back(&served.trial.relay, "T11: expired")
        .await;

    let (leaf, key) = issue(&served.by, YEAR);
    served.put(&format!("{leaf}{middle}"), &key);
    served.trial.takes("T11: a good one again").await;
    is_shown_for(&served.trial, "T11: a year", YEAR).await;
    served.trial.end(&target).await;
}
