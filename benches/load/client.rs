//! The load: connections that post signed bodies one after the other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use suki_relay::clock::Timestamp;
use suki_relay::secret::Secret;
use suki_relay::verify::signature;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const BODY_BYTES: usize = 450;

pub struct Load {
    address: SocketAddr,
    tls: TlsConnector,
    secret: Secret,
    /// No two posts bear the same timestamp, so that none is a duplicate.
    clock: AtomicU64,
    body: Bytes,
    /// How long each connection rests after an answer.
    pub rest: Duration,
}

/// What came of a run.
pub struct Tally {
    pub answered: u64,
    pub refused: u64,
    elapsed: Duration,
    /// Sorted.
    pub latencies: Vec<Duration>,
}

impl Load {
    pub fn new(address: SocketAddr, certificate: &Path, secret: &str) -> Arc<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(certificate).expect("a certificate"))
            .expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Steps back a little, so that a fast run does not end in the future.
        let start = Timestamp::now().minus(Duration::from_hours(12)).as_millis();
        Arc::new(Self {
            address,
            tls: TlsConnector::from(Arc::new(config)),
            secret: Secret::from_text(secret.into()).expect("a secret"),
            clock: AtomicU64::new(start.try_into().expect("after 1970")),
            body: body(),
            rest: Duration::ZERO,
        })
    }

    pub fn run(self: &Arc<Self>, connections: usize, time: Duration) -> Tally {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let started = Instant::now();
            let mut posts = tokio::task::JoinSet::new();
            for _ in 0..connections {
                posts.spawn(self.clone().post_until(started + time));
            }
            let mut sum = Tally {
                answered: 0,
                refused: 0,
                elapsed: Duration::ZERO,
                latencies: Vec::new(),
            };
            for tally in posts.join_all().await {
                sum.answered += tally.answered;
                sum.refused += tally.refused;
                sum.latencies.extend(tally.latencies);
            }
            sum.elapsed = started.elapsed();
            sum.latencies.sort_unstable();
            sum
        })
    }

    /// One post on a connection that is there already.
    pub fn once(&self) -> Duration {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(self.one())
    }

    pub async fn one(&self) -> Duration {
        let mut connection = self.connect().await;
        let (took, status) = self.post(&mut connection).await;
        assert_eq!(status, 200);
        took
    }

    async fn post_until(self: Arc<Self>, deadline: Instant) -> Tally {
        let mut connection = self.connect().await;
        let mut tally = Tally {
            answered: 0,
            refused: 0,
            elapsed: Duration::ZERO,
            latencies: Vec::new(),
        };
        while Instant::now() < deadline {
            let (took, status) = self.post(&mut connection).await;
            tally.latencies.push(took);
            tally.answered += 1;
            tally.refused += u64::from(status != 200);
            if !self.rest.is_zero() {
                tokio::time::sleep(self.rest).await;
            }
        }
        tally
    }

    async fn post(&self, connection: &mut SendRequest<Full<Bytes>>) -> (Duration, u16) {
        let request = self.request();
        let sent = Instant::now();
        let mut answer = connection.send_request(request).await.expect("an answer");
        while let Some(frame) = answer.body_mut().frame().await {
            frame.expect("a whole answer");
        }
        (sent.elapsed(), answer.status().as_u16())
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let tcp = TcpStream::connect(self.address).await.expect("connected");
        tcp.set_nodelay(true).expect("nodelay");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = self.tls.connect(name, tcp).await.expect("a handshake");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("http");
        tokio::spawn(connection);
        sender
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let generated_at = self.clock.fetch_add(1, Ordering::Relaxed).to_string();
        Request::post("/webhooks/notification")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header(
                "x-api-key",
                signature(&self.secret, &generated_at, &self.body),
            )
            .header("generated-at", generated_at)
            .body(Full::new(self.body.clone()))
            .expect("a request")
    }
}

impl Tally {
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    pub fn p50(&self) -> Duration {
        self.latencies[self.latencies.len() / 2]
    }

    pub fn p99(&self) -> Duration {
        self.latencies[self.latencies.len() * 99 / 100]
    }
}

fn body() -> Bytes {
    let mut body = r#"{"status":"success","session_id":"20965414-929a-4f71-a3e5-b92bec07d086","encounter_id":"29de56bc-960a-4cd5-b18f-79a798d62874","_links":{"structured_data":[{"href":"/api/v1/form-filling/session/20965414-929a-4f71-a3e5-b92bec07d086/structured-data","method":"GET","name":"structured_data","type":"application/json"}]},"additional_info":{"note":""#.to_owned();
    while body.len() < BODY_BYTES - 3 {
        body.push('x');
    }
    body.push_str("\"}}");
    body.into()
}
