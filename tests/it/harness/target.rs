//! A target: an HTTP server that keeps what it was sent, and answers with words that are nobody's business.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What it was answered.
    pub status: u16,
}

pub struct Target {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    works: Arc<AtomicBool>,
}

impl Target {
    /// Answers the *n*-th request, from 0, with `status(n)`.
    pub async fn start(status: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Self {
        Self::after(Duration::ZERO, status).await
    }

    /// Takes everything, after this long.
    pub async fn slow(wait: Duration) -> Self {
        Self::after(wait, |_| 200).await
    }

    async fn after(wait: Duration, status: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (kept, status) = (requests.clone(), Arc::new(status));
        let connections: Arc<AtomicUsize> = Arc::default();
        let opened = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                let (kept, status) = (kept.clone(), status.clone());
                let service = service_fn(move |request| {
                    let (kept, status) = (kept.clone(), status.clone());
                    async move {
                        tokio::time::sleep(wait).await;
                        Ok::<_, Infallible>(keep(request, &kept, &*status).await)
                    }
                });
                let stream = TokioIo::new(stream);
                tokio::spawn(http1::Builder::new().serve_connection(stream, service));
            }
        });
        Self {
            address,
            requests,
            connections,
            works: Arc::default(),
        }
    }

    /// Answers 503 until it is mended.
    pub async fn broken() -> Self {
        let works = Arc::new(AtomicBool::new(false));
        let told = works.clone();
        let status = move |_| {
            if told.load(Ordering::SeqCst) {
                200
            } else {
                503
            }
        };
        Self {
            works,
            ..Self::start(status).await
        }
    }

    /// From here on it takes everything.
    pub fn mend(&self) {
        self.works.store(true, Ordering::SeqCst);
    }

    /// One that was made broken is so again.
    pub fn unmend(&self) {
        self.works.store(false, Ordering::SeqCst);
    }

    /// Takes everything.
    pub async fn accepting() -> Self {
        Self::start(|_| 200).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("not poisoned").clone()
    }

    /// The bodies that it answered 200, in their order and as often as it was sent them.
    pub fn taken<C: FromIterator<Vec<u8>>>(&self) -> C {
        let requests = self.requests.lock().expect("not poisoned");
        let taken = requests.iter().filter(|request| request.status == 200);
        taken.map(|request| request.body.to_vec()).collect()
    }

    /// How many were opened so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn count(&self) -> usize {
        self.requests.lock().expect("not poisoned").len()
    }
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }
}

#[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
async fn keep(
    request: hyper::Request<Incoming>,
    kept: &Mutex<Vec<Request>>,
    status: &(dyn Fn(usize) -> u16 + Send + Sync),
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, 16 << 20).collect().await;
    let mut answer = Response::new(Full::from("canary-answer"));
    let told = HeaderValue::from_static("canary-told");
    answer.headers_mut().insert("x-canary-name", told);
    let reason = ReasonPhrase::from_static(b"canary-reason");
    answer.extensions_mut().insert(reason);
    let Ok(body) = body else { return answer };
    let mut kept = kept.lock().expect("not poisoned");
    let status = status(kept.len());
    kept.push(Request {
        headers: head.headers,
        body: body.to_bytes(),
        status,
    });
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer
}
