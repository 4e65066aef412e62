//! A whole relay in this process, and a client of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use suki_relay::app::{Logging, Relay};
use suki_relay::config::Config;
use suki_relay::ingress::tls::self_signed;
use suki_relay::secret::Secret;
use suki_relay::trace::Tracer;
use suki_relay::verify;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::SECRET;

/// A house is left for a new one after so many inputs: its spool only grows.
const INPUTS_MAX: u64 = 20_000;
/// No answer takes longer: the limits of the relay's config are far below.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

static HOUSE: Mutex<Option<House>> = Mutex::new(None);

/// Fields end in this order: the relay before its runtime, and that before the folder.
pub struct House {
    _relay: Relay,
    runtime: Runtime,
    address: SocketAddr,
    /// Its sessions are resumed: a whole handshake for each input would cost more than the input.
    tls: ClientConfig,
    inputs: u64,
    _folder: TempDir,
}

/// Runs with the house of now, and sees every so often that it still does its job.
pub fn with(act: impl FnOnce(&House)) {
    let mut house = HOUSE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if house.as_ref().is_none_or(|house| house.inputs > INPUTS_MAX) {
        *house = None;
        *house = Some(House::new());
    }
    let house = house.as_mut().expect("just made");
    act(house);
    house.inputs += 1;
    if house.inputs % 64 == 0 {
        let good = format!(r#"{{"status":"success","session_id":"{}"}}"#, house.inputs);
        assert_eq!(house.signed(good.as_bytes()), 200, "a good one is refused");
    }
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let pair = self_signed(&["localhost".to_owned()]).expect("a certificate");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).expect("writable");
        };
        write("tls.crt", pair.certificate.as_bytes());
        write("tls.key", pair.private_key.expose());
        write("secret", SECRET);
        write("config.yaml", CONFIG.as_bytes());
        let config = Config::read(&folder.path().join("config.yaml"), &|_| None);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let logging = Logging {
            lines_dropped: Box::new(|| 0),
            set_level: Arc::new(|_| Ok(())),
        };
        let relay = runtime.block_on(Relay::start(
            config.expect("loads"),
            logging,
            Tracer::default(),
        ));
        let relay = relay.expect("starts");
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
        roots.add(certificate.expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address: relay.sender_address(),
            _relay: relay,
            runtime,
            tls,
            inputs: 0,
            _folder: folder,
        }
    }

    /// Everything that the relay answers to these bytes on a connection of their own.
    pub fn converse(&self, alpn: &[u8], bytes: &[u8]) -> Vec<u8> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let conversation = async {
            let tcp = TcpStream::connect(self.address).await.expect("connects");
            let host = "localhost".try_into().expect("a name");
            let tls = TlsConnector::from(Arc::new(tls)).connect(host, tcp).await;
            let (read, mut write) = tokio::io::split(tls.expect("a handshake"));
            let mut answer = Vec::new();
            let mut read = read.take(ANSWER_BYTES_MAX);
            let (_, _) = tokio::join!(read.read_to_end(&mut answer), async {
                // The relay may have said its last word before it has read ours.
                let _ = write.write_all(bytes).await;
                let _ = write.shutdown().await;
            });
            answer
        };
        let done = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, conversation).await });
        done.expect("the relay ends what it does not answer")
    }

    /// The status that this body is answered with, if it is signed as it should be.
    pub fn signed(&self, body: &[u8]) -> u16 {
        let generated_at = suki_relay::clock::Timestamp::now().as_millis().to_string();
        let secret = Secret::from_text(SECRET.to_vec()).expect("not empty");
        let signature = verify::signature(&secret, &generated_at, &Bytes::copy_from_slice(body));
        let head = format!(
            "POST /webhooks/notification HTTP/1.1\r\nhost: localhost\r\nx-api-key: {signature}\r\n\
             generated-at: {generated_at}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let answer = self.converse(b"http/1.1", &[head.as_bytes(), body].concat());
        status(&answer).unwrap_or_else(|| panic!("no answer: {} bytes", answer.len()))
    }
}

/// Of an answer in HTTP/1.
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

const CONFIG: &str = r#"
listen:
  address: 127.0.0.1:0
  tls: { certificate: tls.crt, private_key: tls.key }
  limits: { header_timeout: 2s, body_timeout: 2s, idle_timeout: 2s }
admin: { address: "127.0.0.1:0", operator: null }
spool: { disk: { path: spool, capacity: 1GiB } }
drain: { delay: 0s, deadline: 1s }
sources:
  - { name: suki, path: /webhooks/notification, secrets: [{ name: current, file: secret }] }
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: finished, when: body.status == "success", to: [ehr] }
  - { name: linked, when: has(body._links.structured_data) && body._links.structured_data.size() > 1, to: [ehr] }
"#;
