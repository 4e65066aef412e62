//! A sender as Suki is one: signs, posts over TLS, and posts once.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use http::Version;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use suki_relay::clock::Timestamp;
use suki_relay::secret::Secret;
use suki_relay::verify::signature;

use super::SECRET;

pub struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    last: AtomicI64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Sender {
    /// Trusts the certificates of a file, and no others.
    pub fn new(address: SocketAddr, certificate: &Path) -> Self {
        Self::speaking(Version::HTTP_11, address, certificate)
    }

    pub fn speaking(version: Version, address: SocketAddr, certificate: &Path) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(certificate).expect("a file") {
            let certificate = certificate.expect("a certificate");
            roots.add(certificate).expect("a root");
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only();
        let connector = match version {
            Version::HTTP_2 => connector.enable_http2().build(),
            _ => connector.enable_http1().build(),
        };
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let url = format!("https://localhost:{}/webhooks/notification", address.port());
        Self {
            client,
            url,
            last: AtomicI64::new(0),
        }
    }

    /// Signs now and posts; `None` if there was no answer.
    pub async fn post(&self, body: impl Into<Bytes>) -> Option<Answer> {
        let body = body.into();
        let generated_at = self.generated_at();
        let signature = sign(&generated_at, &body);
        self.send(&generated_at, &signature, body).await
    }

    /// Posts with these headers, whatever they are.
    pub async fn send(&self, at: &str, signature: &str, body: impl Into<Bytes>) -> Option<Answer> {
        let request = http::Request::post(&self.url)
            .header("content-type", "application/json")
            .header("x-api-key", signature)
            .header("generated-at", at)
            .body(Full::new(body.into()))
            .expect("a request");
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status().as_u16();
        Some(Answer {
            status,
            body: text(answer.into_body()).await?,
        })
    }

    /// Anything at all, at the path and query given.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Answer> {
        let root = self.url.trim_end_matches("/webhooks/notification");
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{root}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = text(answer.into_body()).await?;
        Some(Answer { status, body })
    }

    /// A timestamp that this sender has not used yet.
    pub fn generated_at(&self) -> String {
        let now = Timestamp::now().as_millis();
        let last = self.last.fetch_max(now, Ordering::Relaxed).max(now - 1);
        let next = if last >= now {
            self.last.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            now
        };
        next.to_string()
    }
}

pub fn sign(generated_at: &str, body: &[u8]) -> String {
    sign_by(SECRET, generated_at, body)
}

pub fn sign_by(secret: &str, generated_at: &str, body: &[u8]) -> String {
    let secret = Secret::from_text(secret.into()).expect("a secret");
    signature(&secret, generated_at, body)
}

/// `GET` over plain HTTP.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let url = format!("http://{address}{path}").parse().expect("a url");
    let answer = client.get(url).await.expect("an answer");
    (
        answer.status().as_u16(),
        text(answer.into_body()).await.expect("text"),
    )
}

/// One request over plain HTTP, answered with JSON.
pub async fn ask(request: http::request::Builder, body: &str) -> (u16, serde_json::Value) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let request = request.body(body).expect("a request");
    let answer = client.request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let text = text(answer.into_body()).await.expect("text");
    (status, serde_json::from_str(&text).expect("JSON"))
}

#[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
async fn text(body: Incoming) -> Option<String> {
    let body = Limited::new(body, 16 << 20)
        .collect()
        .await
        .ok()?
        .to_bytes();
    String::from_utf8(body.into()).ok()
}
