//! A relay under attack, and what must hold when the attack is over.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{descriptors, fresh, resident_kib, whole};
use crate::harness::{CANARY, Relay, Setup, Target, assert_untold, eventually};

/// Ends at all, on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// What an allocator may keep of an attack. No row of small requests costs a quarter of it.
const MEMORY_KIB: u64 = 4 * 1024;
/// The same after a request that is larger than the next: what a body of 8 MiB costs, read and kept once.
const LARGE_MEMORY_KIB: u64 = 64 * 1024;
const LARGE_BYTES: usize = 1 << 20;

/// A connection that the test holds, and readers of the spool that are opened when they are first needed.
const DESCRIPTORS: usize = 8;

pub struct Siege {
    pub setup: Setup,
    pub relay: Relay,
    pub target: Target,
    good: BTreeSet<Vec<u8>>,
    resident_kib: u64,
    descriptors: usize,
    /// The most that was in hand at a time.
    largest_bytes: AtomicUsize,
    /// Of its log and of its errors.
    lines_read: [usize; 2],
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
        for secret in ["key", "token"] {
            let file = setup.path().join(secret);
            fs::write(file, format!("{CANARY}-{secret}")).expect("writable");
        }
        let relay = setup.start_at("trace");
        let mut siege = Self {
            setup,
            relay,
            target,
            good: BTreeSet::new(),
            resident_kib: 0,
            descriptors: 0,
            largest_bytes: AtomicUsize::new(0),
            lines_read: [0; 2],
        };
        siege.post_a_good_one().await;
        // The target's connection stays open for the next delivery.
        eventually("it is delivered", async || siege.target.count() > 0).await;
        siege.resident_kib = resident_kib(siege.relay.pid());
        siege.descriptors = descriptors(siege.relay.pid());
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
        self.largest_bytes.fetch_max(bytes, Ordering::Relaxed);
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

    /// The process lives, holds what it held before, and a good notification on a new connection gets 200; nobody
    /// was told anything.
    pub async fn goes_on(&mut self, after: &str) {
        self.post_a_good_one().await;
        let pid = self.relay.pid();
        eventually("its descriptors are free again", async || {
            descriptors(pid) <= self.descriptors + DESCRIPTORS
        })
        .await;
        let kept = resident_kib(pid).saturating_sub(self.resident_kib);
        let allowed = match self.largest_bytes.load(Ordering::Relaxed) {
            1..=LARGE_BYTES => MEMORY_KIB,
            _ => LARGE_MEMORY_KIB,
        };
        assert!(kept < allowed, "{kept} KiB more than before {after}");
        self.lines_read = self.relay.told_nobody(self.lines_read).await;
    }

    /// All is as it was, and the target has what it is owed and nothing else. Gives back the relay.
    pub async fn lift(mut self, mut owed: BTreeSet<Vec<u8>>) -> Relay {
        self.goes_on("all of it").await;
        owed.append(&mut self.good);
        eventually("everything owed arrives", async || {
            self.delivered().is_superset(&owed)
        })
        .await;
        let stray: Vec<_> = self.delivered().difference(&owed).cloned().collect();
        assert!(stray.is_empty(), "nobody signed this: {stray:?}");
        let log = self.relay.log();
        assert!(log.iter().any(|line| line["level"] == "DEBUG"));
        self.relay
    }

    fn delivered(&self) -> BTreeSet<Vec<u8>> {
        let requests = self.target.requests();
        requests.iter().map(|r| r.body.to_vec()).collect()
    }

    /// On a connection of its own.
    async fn post_a_good_one(&mut self) {
        let body = fresh();
        let statuses = self.exchange(&whole("", body.as_bytes())).await;
        assert_eq!(statuses, [200]);
        self.good.insert(body.into_bytes());
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
