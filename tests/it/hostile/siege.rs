//! A relay under attack, and what must hold when the attack is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{fresh, whole};
use crate::harness::{Relay, Setup, Target, Watch, assert_untold, comes_to, eventually};

/// The reason of what nobody has signed: it is kept in the ring, and is no notification.
pub const UNVERIFIED: &str = "unverified";

/// Ends at all, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub struct Siege {
    pub setup: Setup,
    pub relay: Relay,
    pub target: Target,
    watch: Watch,
    owed: BTreeSet<Vec<u8>>,
    kept: Kept,
}

/// How many notifications and requests the relay keeps: for each reason of the quarantine, and as `all`
/// the notifications that it was given and has not forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept(BTreeMap<String, u64>);

impl Kept {
    async fn by(relay: &Relay) -> Self {
        let (_, page) = relay.admin("/metrics").await;
        let mut kept = Self::default();
        for line in page.lines() {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            if let Some(reason) = series.strip_prefix("suki_relay_quarantine{reason=\"") {
                kept.add(
                    reason.trim_end_matches("\"}"),
                    value.parse().expect("a count"),
                );
            } else if series.starts_with("suki_relay_spool_notifications{") {
                kept.add("all", value.parse().expect("a count"));
            }
        }
        kept
    }

    fn add(&mut self, what: &str, count: u64) {
        *self.0.entry(what.to_owned()).or_default() += count;
    }
}

impl Siege {
    /// `config` is put beside the target and its route.
    pub async fn begin(config: &str) -> Self {
        Self::of(Setup::new, config).await
    }

    /// On a setup that was changed before the relay starts.
    pub async fn of(setup: impl FnOnce(&str) -> Setup, config: &str) -> Self {
        let target = Target::accepting().await;
        let rest = format!(
            "{config}
targets:
  - name: ehr
    http: {{ url: '{}?canary-query', headers: {{ x-key: {{ file: key }} }}, bearer_token: {{ file: token }} }}
    max_in_flight: 1
routes:
  - {{ name: all, to: [ehr] }}
",
            target.url()
        );
        let setup = setup(&rest);
        setup.put_credentials();
        let relay = setup.start_at("trace");
        let mut siege = Self {
            watch: Watch::begin(&relay),
            kept: Kept::by(&relay).await,
            setup,
            relay,
            target,
            owed: BTreeSet::new(),
        };
        siege.post_a_good_one().await;
        // The target's connection stays open for the next delivery.
        eventually("it is delivered", async || siege.target.count() > 0).await;
        siege.watch = Watch::begin(&siege.relay);
        siege
    }

    /// Sends bytes on a connection of their own, ends the sending side, and reads statuses to the end.
    pub async fn exchange(&self, bytes: &[u8]) -> Vec<u16> {
        self.brought(bytes.len());
        let mut tls = self.connect(b"http/1.1").await;
        Self::exchange_on(&mut tls, bytes).await
    }

    /// So many bytes were sent, or cost, at a time.
    pub fn brought(&self, bytes: usize) {
        self.watch.brought(bytes);
    }

    pub async fn exchange_on(tls: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Vec<u16> {
        let (mut read, mut write) = tokio::io::split(tls);
        let sending = async {
            // The relay may have said all it has to say before it was sent everything.
            let _ = write.write_all(bytes).await;
            let _ = write.shutdown().await;
        };
        let mut received = Vec::new();
        let both = async { tokio::join!(sending, read.read_to_end(&mut received)) };
        let _ = timeout(PATIENCE, both).await.expect("ends at all");
        assert_untold(String::from_utf8_lossy(&received).lines());
        statuses(&received)
    }

    pub async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("canary-sni.localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(self.client(alpn)));
        let shaken = timeout(PATIENCE, connector.connect(name, self.tcp().await)).await;
        shaken.expect("ends at all").expect("shakes hands")
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.relay.sender_address)
            .await
            .expect("connects")
    }

    /// Shows the certificate `client.crt`, if the setup has one.
    pub fn client(&self, alpn: &[u8]) -> ClientConfig {
        let file = self.setup.path().join("client.crt");
        self.client_with(file.exists().then_some("client"), alpn)
    }

    /// Shows the certificate of this name.
    pub fn client_with(&self, identity: Option<&str>, alpn: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let file = self.setup.path().join("tls.crt");
        for certificate in CertificateDer::pem_file_iter(file).expect("a file") {
            roots.add(certificate.expect("one")).expect("a root");
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(name) => {
                let file = |end: &str| self.setup.path().join(format!("{name}.{end}"));
                let chain = CertificateDer::pem_file_iter(file("crt")).expect("a file");
                let chain = chain.map(|one| one.expect("a certificate")).collect();
                let key = PrivateKeyDer::from_pem_file(file("key")).expect("a key");
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = vec![alpn.into()];
        config
    }

    /// Each of these is kept, a notification of its own, and the target is to be given it.
    pub fn owes(&mut self, bodies: impl IntoIterator<Item = Vec<u8>>) {
        for body in bodies {
            self.kept.add("all", 1);
            self.owed.insert(body);
        }
    }

    /// For each of these reasons something is kept for an operator.
    pub fn holds(&mut self, reasons: &[&str]) {
        for reason in reasons {
            self.kept.add(reason, 1);
            if *reason != UNVERIFIED {
                self.kept.add("all", 1);
            }
        }
    }

    /// So many were kept of a flood that nobody signed, as rates and the disk allowed.
    pub async fn holds_of_a_flood(&mut self) -> u64 {
        let kept = Kept::by(&self.relay).await.0[UNVERIFIED];
        self.kept.0.insert(UNVERIFIED.into(), kept);
        kept
    }

    /// The process lives, holds what it held before, and a good notification on a new connection gets 200; nobody
    /// was told anything.
    pub async fn goes_on(&mut self, after: &str) {
        self.post_a_good_one().await;
        self.watch.is_back(&self.relay, after).await;
    }

    /// And has kept what it owes and holds, and nothing else.
    pub async fn has_kept(&self, after: &str) {
        let what = format!("after {after}, {:?}", self.kept);
        // What nobody signed is kept aside, and what is kept is counted after it is answered.
        comes_to(&what, || Kept::by(&self.relay), |kept| *kept == self.kept).await;
    }

    /// All is as it was; these are kept, too, and the target has what it is owed and nothing else. Gives back the relay.
    pub async fn lift(mut self, owed: BTreeSet<Vec<u8>>) -> Relay {
        self.owes(owed);
        self.goes_on("all of it").await;
        self.has_kept("all of it").await;
        eventually("everything owed arrives", async || {
            self.delivered().is_superset(&self.owed)
        })
        .await;
        let stray: Vec<_> = self.delivered().difference(&self.owed).cloned().collect();
        assert!(stray.is_empty(), "nobody signed this: {stray:?}");
        let log = self.relay.log();
        assert!(log.iter().any(|line| line["level"] == "DEBUG"));
        self.relay
    }

    fn delivered(&self) -> BTreeSet<Vec<u8>> {
        self.target.taken()
    }

    /// On a connection of its own.
    async fn post_a_good_one(&mut self) {
        let body = fresh();
        let statuses = self.exchange(&whole("", body.as_bytes())).await;
        assert_eq!(statuses, [200]);
        self.owes([body.into_bytes()]);
    }
}

/// The status of each answer, one after the other; an invitation to go on is none.
fn statuses(mut bytes: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, rest) = bytes.split_at(end.expect("a whole head") + 4);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status: u16 = head[9..12].parse().expect("a status");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a length"));
        if status != 100 {
            statuses.push(status);
        }
        // The answer to HEAD tells a length and has no body.
        bytes = rest.get(length..).unwrap_or_default();
    }
    statuses
}
