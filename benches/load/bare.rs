//! The servers that the relay is measured against and delivers to: read the body, answer 200.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Over TLS; prints its address.
pub fn serve(folder: &Path) {
    let chain = vec![CertificateDer::from_pem_file(folder.join("tls.crt")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(folder.join("tls.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    block_on(async move {
        let listener = listen().await;
        loop {
            let (tcp, _) = listener.accept().await.expect("accepted");
            tcp.set_nodelay(true).expect("nodelay");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(tcp).await {
                    answer(tls).await;
                }
            });
        }
    });
}

/// Over plain TCP; prints its address.
pub fn target() {
    block_on(async {
        let listener = listen().await;
        loop {
            let (tcp, _) = listener.accept().await.expect("accepted");
            tcp.set_nodelay(true).expect("nodelay");
            tokio::spawn(answer(tcp));
        }
    });
}

async fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    listener
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|mut request: Request<Incoming>| async move {
        while let Some(Ok(_)) = request.body_mut().frame().await {}
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn block_on(server: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(server);
}
