//! What waits for the writer: pushed by many, taken whole by one.
//!
//! A submission is never made to wait for company; what arrives while the writer is at the disk is
//! its next batch. Settlements alone linger for a moment, to ride with a submission's commit.
//! Bounded: submissions by [`ACCEPTS_WAITING_MAX`], settlements by the attempts in flight.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::spool::{AcceptError, Kept, Settlement, Submission};

/// Submissions that may wait for the disk; at the default limits their bodies are bounded by
/// `bodies_in_flight` long before.
pub(super) const ACCEPTS_WAITING_MAX: usize = 16_384;

/// Settlements alone wait this long for a submission to share a sync with.
const SETTLE_LINGER: Duration = Duration::from_millis(50);

/// So many settlements are worth a sync of their own: the default `max_in_flight` of a target.
const SETTLEMENTS_ENOUGH: usize = 16;

pub(super) struct Accept {
    pub submission: Submission,
    pub answer: oneshot::Sender<Result<Kept, AcceptError>>,
}

pub(super) struct Settle {
    pub settlement: Settlement,
    pub done: oneshot::Sender<()>,
}

/// What one commit is asked to hold.
#[derive(Default)]
pub(super) struct Batch {
    pub accepts: Vec<Accept>,
    pub settlements: Vec<Settle>,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

/// Whether more can come after what was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Open,
    Closed,
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    linger_ends: Option<Instant>,
    closed: bool,
}

impl Queue {
    /// # Errors
    /// [`AcceptError::Busy`] if too many wait, [`AcceptError::Failed`] if the spool has ended.
    pub fn accept(
        &self,
        submission: Submission,
    ) -> Result<oneshot::Receiver<Result<Kept, AcceptError>>, AcceptError> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(AcceptError::Failed);
        }
        if waiting.batch.accepts.len() >= ACCEPTS_WAITING_MAX {
            return Err(AcceptError::Busy);
        }
        waiting.batch.accepts.push(Accept { submission, answer });
        if waiting.batch.accepts.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(answered)
    }

    /// The receiver fails if the spool ends before the settlement is on disk.
    pub fn settle(&self, settlement: Settlement) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.closed {
            return receiver;
        }
        waiting.batch.settlements.push(Settle { settlement, done });
        let settlements = waiting.batch.settlements.len();
        if settlements == 1 {
            waiting.linger_ends = Some(Instant::now() + SETTLE_LINGER);
        }
        if settlements == 1 || settlements == SETTLEMENTS_ENOUGH {
            self.arrived.notify_one();
        }
        receiver
    }

    /// Waits for work, at the latest until `until`, and adds it to `batch`, which may stay empty.
    pub fn take(&self, batch: &mut Batch, until: Instant) -> Taken {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            if now >= until || waiting.is_ready(now) {
                return waiting.take(batch);
            }
            let wake_at = waiting.linger_ends.unwrap_or(until).min(until);
            waiting = self
                .arrived
                .wait_timeout(waiting, wake_at - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lets nothing more in; what waits is still taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Lets nothing more in and drops what waits: nobody who asked is told that it is kept.
    pub fn abandon(&self) {
        let dropped = {
            let mut waiting = self.lock();
            waiting.closed = true;
            mem::take(&mut waiting.batch)
        };
        self.arrived.notify_one();
        drop(dropped);
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.accepts.is_empty() && self.settlements.is_empty()
    }
}

impl Waiting {
    fn is_ready(&self, now: Instant) -> bool {
        self.closed
            || !self.batch.accepts.is_empty()
            || self.batch.settlements.len() >= SETTLEMENTS_ENOUGH
            || self.linger_ends.is_some_and(|end| now >= end)
    }

    fn take(&mut self, batch: &mut Batch) -> Taken {
        batch.accepts.append(&mut self.batch.accepts);
        batch.settlements.append(&mut self.batch.settlements);
        self.linger_ends = None;
        if self.closed {
            Taken::Closed
        } else {
            Taken::Open
        }
    }
}
