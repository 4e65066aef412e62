//! The listener: takes connections as long as there are places for them.
//!
//! Past the limit one client is taken and waits for a place (`places.rs`); those behind it wait in the kernel's
//! backlog and cost nothing here. Errors of accepting never end the listener and never make it spin.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, warn};

use super::Ingress;
use super::connection::attend;
use super::places::{Place, Places};

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
    let limits = &ingress.limits;
    let metrics = Arc::clone(&ingress.metrics);
    let places = Places::new(limits.connections, limits.connections_per_peer, metrics);
    let mut connections = JoinSet::new();
    let orders = drain.clone();
    {
        let mut next_one = pin!(next(&listener, &places));
        loop {
            select! {
                biased;
                () = told(&mut drain) => break,
                Some(ended) = connections.join_next() => note(ended),
                (tcp, place) = &mut next_one => {
                    connections.spawn(attend(tcp, place, Arc::clone(&ingress), orders.clone()));
                    next_one.set(next(&listener, &places));
                }
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

/// The next connection that has a place.
///
/// Cancellation: cuts a connection that waits for its place.
async fn next(listener: &TcpListener, places: &Arc<Places>) -> (TcpStream, Place) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                if let Some(place) = places.take(peer.ip()).await {
                    return (tcp, place);
                }
            }
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
