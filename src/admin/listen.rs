//! One request a connection, so many connections at a time, each for so long: what both addresses share.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A pause after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

pub(super) type Answer = Response<Full<Bytes>>;

#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Past these, the oldest that has asked nothing yet makes room.
    pub connections: usize,
    /// From accepted connection to answer written.
    pub exchange_wait: Duration,
}

struct Guest {
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Serves until it is dropped.
pub(super) async fn serve<F, A>(listener: TcpListener, limits: Limits, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let mut guests = VecDeque::with_capacity(limits.connections);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if guests.len() >= limits.connections && !has_made_room(&mut guests) {
            continue;
        }
        let has_asked = Arc::new(AtomicBool::new(false));
        let exchange = exchange(stream, has_asked.clone(), answer.clone());
        let task = tokio::spawn(async move {
            let _ = tokio::time::timeout(limits.exchange_wait, exchange).await;
        });
        guests.push_back(Guest {
            has_asked,
            task: task.abort_handle(),
        });
    }
}

/// False if each of them waits for its answer.
fn has_made_room(guests: &mut VecDeque<Guest>) -> bool {
    let before = guests.len();
    guests.retain(|guest| !guest.task.is_finished());
    if guests.len() < before {
        return true;
    }
    let idle = |guest: &Guest| !guest.has_asked.load(Ordering::Relaxed);
    let oldest = guests.iter().position(idle);
    let Some(guest) = oldest.and_then(|oldest| guests.remove(oldest)) else {
        return false;
    };
    guest.task.abort();
    true
}

async fn exchange<F, A>(
    stream: TcpStream,
    has_asked: Arc<AtomicBool>,
    answer: F,
) -> Result<(), hyper::Error>
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Answer>,
{
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A probe must be answered, whoever else only holds connections.
    #[tokio::test]
    async fn the_oldest_that_has_asked_nothing_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let limits = Limits {
            connections: 3,
            exchange_wait: Duration::from_hours(1),
        };
        let answer = async |request: Request<Incoming>| {
            if request.uri().path() == "/slow" {
                std::future::pending::<()>().await;
            }
            Response::new(Full::from("here"))
        };
        let serving = tokio::spawn(serve(listener, limits, answer));
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            let sent = stream.write_all(request.as_bytes()).await;
            sent.expect("sent");
            stream
        };
        let _slow = ask("/slow").await;
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(TcpStream::connect(address).await.expect("connects"));
        }
        for _ in 0..3 {
            let mut answer = String::new();
            let mut stream = ask("/").await;
            stream.read_to_string(&mut answer).await.expect("answered");
            assert!(answer.ends_with("here"), "{answer}");
        }
        assert_eq!(idle[0].read(&mut [0; 1]).await.ok(), Some(0), "closed");
        serving.abort();
    }
}
