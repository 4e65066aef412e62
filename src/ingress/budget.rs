//! The memory that all requests in hand may take together: `limits.bodies_in_flight`.
//!
//! A request pays for its head before it is held, and for its body as room is made for it. When all is taken, whoever
//! needs some waits for a moment while others make room: clients that are not proven, those first that hold most
//! (`places.rs`). What proven ones hold, or what is being judged or kept, is left to them; if nothing else is held,
//! there is nothing to wait for.
//!
//! Who waits holds what it has not paid for. So a client that is not proven has one request waiting at most, all that
//! are proven have [`WAITING_MAX`] together, and nobody waits for longer than [`WAIT`]; others are refused. One at a
//! time makes room, so that nobody is cut for bytes that are on their way already; and of those that are not proven
//! one at a time is next, so that a proven one never stands behind a crowd of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::places::Place;
use super::reply::Rejection;

/// Whoever is told to go is gone within milliseconds.
const WAIT: Duration = Duration::from_secs(1);

/// Each with a head, and a window of HTTP/2 that is not read meanwhile: 100 KiB, when it comes to the worst.
const WAITING_MAX: usize = 256;

pub struct Budget {
    free: Arc<Semaphore>,
    /// Leaves to wait, for those that are proven.
    leaves: Arc<Semaphore>,
    turn: Semaphore,
    next_stranger: Semaphore,
}

/// What one request has of the budget, until dropped. As long as its client has not sent all of it, it counts among
/// what that client holds.
pub struct Share {
    budget: Arc<Budget>,
    client: Arc<Place>,
    paid: Option<OwnedSemaphorePermit>,
    due: Option<Due>,
}

/// What is asked for and not paid for.
struct Due {
    bytes: u32,
    _leave: Leave,
}

/// The leave to wait, until dropped.
enum Leave {
    Proven(#[expect(dead_code, reason = "to be dropped")] OwnedSemaphorePermit),
    Unproven(Arc<Place>),
}

impl Budget {
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
            leaves: Arc::new(Semaphore::new(WAITING_MAX)),
            turn: Semaphore::new(1),
            next_stranger: Semaphore::new(1),
        })
    }

    /// The share of a new request. Waits for nothing: what is not there yet is waited for at [`Share::settle`].
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] if the budget is spent, and as many of this client's wait as may.
    pub fn share(self: &Arc<Self>, client: &Arc<Place>, bytes: usize) -> Result<Share, Rejection> {
        let mut share = Share {
            budget: Arc::clone(self),
            client: Arc::clone(client),
            paid: None,
            due: None,
        };
        share.ask(bytes)?;
        Ok(share)
    }

    fn at_once(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        let free = Arc::clone(&self.free);
        free.try_acquire_many_owned(bytes).ok()
    }

    fn leave(&self, client: &Arc<Place>) -> Option<Leave> {
        if client.is_proven() {
            let leave = Arc::clone(&self.leaves).try_acquire_owned();
            return leave.ok().map(Leave::Proven);
        }
        let its_only = !client.waits.swap(true, Ordering::Relaxed);
        its_only.then(|| Leave::Unproven(Arc::clone(client)))
    }

    /// Cancellation: takes nothing; who was told to go is gone all the same.
    async fn wait(&self, bytes: u32, client: &Place) -> Option<OwnedSemaphorePermit> {
        let _next = if client.is_proven() {
            None
        } else {
            Some(self.next_stranger.acquire().await.ok()?)
        };
        let _turn = self.turn.acquire().await.ok()?;
        if let Some(free) = self.at_once(bytes) {
            return Some(free);
        }
        if !client.make_room(bytes as usize) {
            return None;
        }
        let free = Arc::clone(&self.free);
        free.acquire_many_owned(bytes).await.ok()
    }

    #[cfg(test)]
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits()
    }
}

impl Share {
    /// Takes more.
    ///
    /// # Errors
    /// [`Rejection::Unavailable`] if the budget is spent and nobody makes room in time.
    pub async fn add(&mut self, bytes: usize) -> Result<(), Rejection> {
        self.ask(bytes)?;
        self.settle().await
    }

    /// Waits for what it was not given at once.
    ///
    /// # Errors
    /// As [`Share::add`].
    pub async fn settle(&mut self) -> Result<(), Rejection> {
        let Some(due) = self.due.take() else {
            return Ok(());
        };
        let more = timeout(WAIT, self.budget.wait(due.bytes, &self.client)).await;
        let more = more.ok().flatten().ok_or(Rejection::Unavailable)?;
        self.take(more);
        Ok(())
    }

    fn ask(&mut self, bytes: usize) -> Result<(), Rejection> {
        let bytes = u32::try_from(bytes).map_err(|_| Rejection::Unavailable)?;
        if let Some(more) = self.budget.at_once(bytes) {
            self.take(more);
            return Ok(());
        }
        let leave = self.budget.leave(&self.client);
        let leave = leave.ok_or(Rejection::Unavailable)?;
        self.due = Some(Due {
            bytes,
            _leave: leave,
        });
        Ok(())
    }

    /// The client has sent all of it: it holds nothing up any more.
    pub fn complete(&mut self) -> Option<OwnedSemaphorePermit> {
        let paid = self.paid.take()?;
        self.client.let_go(paid.num_permits());
        Some(paid)
    }

    fn take(&mut self, more: OwnedSemaphorePermit) {
        self.client.hold(more.num_permits());
        match &mut self.paid {
            Some(paid) => paid.merge(more),
            None => self.paid = Some(more),
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Self::Unproven(client) = self {
            client.waits.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.complete());
    }
}
