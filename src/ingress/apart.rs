//! Where a body is judged. A small one at once, by the worker that read it; a large one apart, on a thread
//! of its own, so that a worker which others wait for is never busy with it for long.
//!
//! [`LARGE_BYTES`] is from `cargo bench --bench bounds -- judge`: the worst body of that size takes about as
//! long as a commit does, and a larger one would be felt by others.
//!
//! Few are judged apart at a time: more would share the same cores, end no sooner, and each holds its body
//! parsed, which may be many times its bytes. The others wait, and their wait counts against `ack_timeout`.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::reply::Rejection;

/// Bodies of more bytes are judged apart.
pub const LARGE_BYTES: usize = 64 * 1024;

/// Large bodies that are judged at a time.
pub const LARGE_AT_ONCE: usize = 2;

pub struct Apart(Arc<Semaphore>);

impl Apart {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }

    /// Does the work on a thread of its own, when its turn comes.
    ///
    /// Cancellation: work that has begun goes on to its end, and keeps its turn until then.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] if it is not done by the deadline, or panicked.
    pub async fn judge<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Rejection> {
        let turns = Arc::clone(&self.0);
        let done = async {
            let turn = turns.acquire_owned().await.ok()?;
            let work = spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            work.await.ok()
        };
        let done = timeout_at(deadline, done).await;
        done.ok().flatten().ok_or(Rejection::Unavailable)
    }

    /// As if as many as may were being judged.
    #[cfg(test)]
    pub async fn full(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = u32::try_from(LARGE_AT_ONCE).expect("few");
        let turns = Arc::clone(&self.0).acquire_many_owned(all);
        turns.await.expect("never closed")
    }
}
