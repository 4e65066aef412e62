//! Connections to a target: look-up, TCP, TLS, and the pool that keeps them.
//!
//! Promises:
//! * No connection to an address that [`Allowed`] does not permit, however it was written: checked on what
//!   is connected to, after the look-up.
//! * Each way to fail has its [`Reason`], known here and not guessed from an error's text.
//! * TLS by aws-lc-rs with certificates always checked; HTTP/2 if the target offers it.
//! * A pool holds a bounded number of idle connections, and none for as long as the 5 s after which
//!   common servers close them.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use tower_service::Service;

use super::address::Allowed;
use super::connection::Connection;
use super::http::{BuildError, Options, Tls};
use super::lookup::Resolver;
use super::{Policy, Reason};
use crate::clock::TlsClock;
use crate::pem;

/// An answer's headers may take this much.
pub const ANSWER_HEAD_BYTES_MAX: usize = 16 << 10;

/// Shorter than the 5 s after which Node.js, and others after it, close an idle connection.
const IDLE_MAX: Duration = Duration::from_secs(4);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What was sent and is not acknowledged for so long has no peer any more (`TCP_USER_TIMEOUT`). TCP itself
/// sends it again for a quarter of an hour, and keepalive does not begin before it has (tcp(7)).
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// gRPC servers keep idle connections for minutes or for ever.
const HTTP2_IDLE_MAX: Duration = Duration::from_mins(1);
const HTTP2_KEEPALIVE: Duration = Duration::from_mins(5);
/// What a peer can make us hold of its answers, per request and per connection, over HTTP/2.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

pub type Pool = Client<Connector, Full<Bytes>>;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{}", .0.as_str())]
pub struct Failure(pub Reason);

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{}", .reason.as_str())]
pub struct Unreached {
    pub reason: Reason,
    /// What the layer that failed had to say, if it is not ours.
    #[source]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

/// What to speak with a target.
#[derive(Clone, Copy)]
pub enum Versions {
    /// HTTP/2 if it is offered, else HTTP/1.1.
    All,
    /// Nothing but HTTP/2.
    Http2,
}

/// Makes connections to one target.
#[derive(Clone)]
pub struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    allowed: Allowed,
    /// For look-up, TCP and TLS together.
    time_max: Duration,
    versions: Versions,
}

/// A pool of connections for one target.
pub fn pool(connector: Connector, policy: &Policy) -> Pool {
    bounded()
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(policy.in_flight_max)
        .http1_max_buf_size(ANSWER_HEAD_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(KEEPALIVE)
        .build(connector)
}

/// A pool that holds one connection, which all requests share.
///
/// No pings more often than gRPC servers allow (gRFC A8: they end the connection, and all its calls, of a
/// client that pings below every 5 min), so that only a call longer than that is ever under one. That a
/// peer is gone, TCP tells within 40 s, by [`KEEPALIVE`] or [`UNACKNOWLEDGED_MAX`]; that one is there and
/// does not answer, each attempt's deadline does, and two of those end the connection.
pub fn http2_pool(connector: Connector) -> Pool {
    bounded()
        .http2_only(true)
        .pool_idle_timeout(HTTP2_IDLE_MAX)
        .http2_keep_alive_interval(HTTP2_KEEPALIVE)
        .http2_keep_alive_timeout(KEEPALIVE)
        .build(connector)
}

fn bounded() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .retry_canceled_requests(true)
        .http2_max_header_list_size(16 << 10)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

impl Connector {
    /// Only a target with https asks for the system's roots.
    pub fn new(options: &Options, policy: &Policy, versions: Versions) -> Result<Self, BuildError> {
        let Options { url, tls, .. } = options;
        let allowed = options.allowed.clone();
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(allowed.clone()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Of which each address of a name has its share.
        tcp.set_connect_timeout(Some(policy.connect_timeout));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        let secure = url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let builder = HttpsConnectorBuilder::new().with_tls_config(client_config(tls, secure)?);
        let builder = if secure {
            builder.https_only()
        } else {
            builder.https_or_http()
        };
        let builder = match &tls.server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone())
                    .map_err(|_| BuildError::ServerName(name.clone()))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => builder,
        };
        let https = match versions {
            Versions::All => builder.enable_all_versions().wrap_connector(tcp),
            Versions::Http2 => builder.enable_http2().wrap_connector(tcp),
        };
        Ok(Self {
            https,
            allowed,
            time_max: policy.connect_timeout,
            versions,
        })
    }

    /// Makes a connection, sees whether it would do, and closes it.
    ///
    /// Cancellation: the connection is given up.
    pub async fn try_out(mut self, url: Uri) -> Result<(), Unreached> {
        let secure = url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let connection = self.open(url).await?;
        let is_http2 = connection.connected().is_negotiated_h2();
        if secure && !is_http2 && matches!(self.versions, Versions::Http2) {
            return Err(Reason::Protocol.into());
        }
        Ok(())
    }

    fn open(
        &mut self,
        url: Uri,
    ) -> impl Future<Output = Result<Connection, Unreached>> + Send + use<> {
        let is_forbidden = literal_address(&url).is_some_and(|it| !self.allowed.permits(it));
        let connecting = (!is_forbidden).then(|| self.https.call(url));
        let time_max = self.time_max;
        async move {
            let connecting = connecting.ok_or(Reason::Forbidden)?;
            let connected = timeout(time_max, connecting).await;
            let stream = connected.map_err(|_| Reason::Connect)?.map_err(unreached)?;
            Ok(Connection::new(stream))
        }
    }
}

impl From<Reason> for Unreached {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            cause: None,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = Failure;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Connection, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let ready = self.https.poll_ready(cx);
        ready.map_err(|error| Failure(unreached(error).reason))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let opened = self.open(url);
        Box::pin(async { opened.await.map_err(|unreached| Failure(unreached.reason)) })
    }
}

/// The address, if the URL names one in the canonical spelling. Other spellings (`0xa9fea9fe`) are
/// names to hyper, and come by the resolver.
pub fn literal_address(url: &Uri) -> Option<IpAddr> {
    let host = url.host()?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// What the layers below had to say: our own word from the resolver; a plain I/O error, which only the
/// TLS handshake returns; all else comes of TCP.
fn unreached(error: Box<dyn Error + Send + Sync>) -> Unreached {
    let ours = error.source().and_then(|cause| cause.downcast_ref());
    let reason = match ours {
        Some(Failure(reason)) => return (*reason).into(),
        None if error.is::<io::Error>() => Reason::Tls,
        None => Reason::Connect,
    };
    Unreached {
        reason,
        cause: Some(error),
    }
}

/// How a server is verified, and what is shown to it.
pub fn client_config(tls: &Tls, secure: bool) -> Result<ClientConfig, BuildError> {
    let roots = match &tls.ca {
        Some(pem) => given_roots(pem)?,
        None if secure => system_roots().clone(),
        None => RootCertStore::empty(),
    };
    if secure && roots.is_empty() {
        return Err(BuildError::NoRoots);
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_details(provider.into(), Arc::new(TlsClock))
        .with_safe_default_protocol_versions()
        .map_err(BuildError::Tls)?
        .with_root_certificates(roots);
    let Some((chain, key)) = &tls.identity else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(chain).map_err(BuildError::Certificate)?;
    let key = pem::private_key(key).map_err(|error| BuildError::PrivateKey(error.to_string()))?;
    let identity = pem::identity(chain, key).map_err(BuildError::Tls)?;
    Ok(config.with_client_cert_resolver(identity))
}

fn given_roots(pem: &[u8]) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(BuildError::Ca)? {
        roots
            .add(certificate)
            .map_err(|error| BuildError::Ca(error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("no CERTIFICATE section in it".into());
    }
    Ok(certificates)
}

/// Read once in the life of the process: some distributions take 100 ms for it.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::dispatch::tests::policy;

    #[tokio::test]
    async fn a_peer_that_acknowledges_nothing_is_given_up() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let url: Uri = url.parse().unwrap();
        let options = Options::of(&url.to_string());
        let mut connector = Connector::new(&options, &policy(), Versions::All).unwrap();
        let connection = connector.call(url).await.unwrap();
        let given = sockopt::tcp_user_timeout(connection.tcp()).unwrap();
        assert_eq!(u128::from(given), UNACKNOWLEDGED_MAX.as_millis());
        assert!(sockopt::socket_keepalive(connection.tcp()).unwrap());
    }
}
