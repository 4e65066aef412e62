//! The listener: takes connections as long as there are permits for them.
//!
//! A permit is taken before a connection is: past the limit, clients wait in the kernel's backlog and cost
//! nothing here. Errors of accepting never end the listener and never make it spin.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, warn};

use super::Ingress;
use super::connection::attend;

/// The order to drain: `None` until it is given, then the moment by which everything must have ended.
/// A sender that is dropped gives the order for now.
pub type Drain = watch::Receiver<Option<Instant>>;

/// Out of descriptors or memory: trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves a listener until the drain is ordered and every connection has ended, or the order's time is
/// up; what is still open then is cut.
///
/// Owns a task for each connection. Cancellation: cuts all connections.
pub async fn serve(listener: TcpListener, ingress: Arc<Ingress>, mut drain: Drain) {
    let connections_max = ingress.limits.connections.min(Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let orders = drain.clone();
    loop {
        select! {
            biased;
            () = told(&mut drain) => break,
            Some(ended) = connections.join_next() => note(ended),
            (tcp, peer, permit) = next(&listener, &permits) => {
                let attended = attend(tcp, peer, Arc::clone(&ingress), orders.clone());
                connections.spawn(async move {
                    attended.await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    let deadline = drain.borrow().unwrap_or_else(Instant::now);
    let rest = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    let _ = timeout_at(deadline, rest).await;
}

/// Ends when the drain is ordered.
pub(super) async fn told(drain: &mut Drain) {
    let _ = drain.wait_for(Option::is_some).await;
}

/// The next connection, with its permit.
///
/// Cancellation: loses neither a connection nor a permit.
async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, IpAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            std::future::pending().await // never closed
        };
        match listener.accept().await {
            Ok((tcp, peer)) => return (tcp, peer.ip(), permit),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that ended before it was taken; the listener is fine (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

fn note(ended: Result<(), JoinError>) {
    if ended.is_err_and(|ended| ended.is_panic()) {
        error!("a connection's task panicked; the others go on. Please report this");
    }
}
