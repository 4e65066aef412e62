//! What waits for the writer: pushed by many, taken whole by one.
//!
//! What arrives while the writer is at the disk is its next batch. Senders that were answered together
//! come back together, but not at once: without a word, the first of them would get a commit of its own
//! and the others wait behind it. So after a commit for several, the next waits for three in four of them,
//! no longer than [`GATHER_WAIT`]; a sender that comes alone never waits for company. Settlements alone
//! linger for a moment, to ride with a submission's commit.
//! Bounded: submissions by [`ACCEPTS_WAITING_MAX`], settlements by the attempts in flight, operators'
//! orders by [`ORDERS_WAITING_MAX`]. An order has a commit of its own, after one of all that waits.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::spool::orders::Order;
use crate::spool::{AcceptError, CustodyError, Kept, Settlement, Submission};

/// Submissions that may wait for the disk; at the default limits their bodies are bounded by
/// `bodies_in_flight` long before.
pub(in crate::spool) const ACCEPTS_WAITING_MAX: usize = 16_384;

/// How long a submission waits for those that shared the last commit with its like: below one
/// `fdatasync` of most disks, and enough for a client on the same machine to come back.
const GATHER_WAIT: Duration = Duration::from_micros(300);

/// Settlements alone wait this long for a submission to share a sync with.
const SETTLE_LINGER: Duration = Duration::from_millis(50);

/// So many settlements are worth a sync of their own: they are few enough for a window of 256.
const SETTLEMENTS_ENOUGH: usize = 64;

/// Orders of operators that may wait for the writer.
const ORDERS_WAITING_MAX: usize = 16;

pub(in crate::spool) struct Accept {
    pub submission: Submission,
    pub answer: oneshot::Sender<Result<Kept, AcceptError>>,
}

pub(in crate::spool) struct Settle {
    pub settlement: Settlement,
    pub done: oneshot::Sender<()>,
}

/// What one commit is asked to hold.
#[derive(Default)]
pub(in crate::spool) struct Batch {
    pub accepts: Vec<Accept>,
    pub settlements: Vec<Settle>,
}

#[derive(Default)]
pub(in crate::spool) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

/// Whether more can come after what was taken.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::spool) enum Taken {
    Open,
    Closed,
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    orders: VecDeque<Order>,
    /// Submissions that the next batch is expected to hold, going by the last one.
    expected: usize,
    /// When the first submission no longer waits for the others.
    gather_ends: Option<Instant>,
    /// When the first settlement no longer waits for a submission.
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
        let submissions = waiting.batch.accepts.len();
        if submissions == 1 && waiting.expected > 1 {
            waiting.gather_ends = Some(Instant::now() + GATHER_WAIT);
        }
        if submissions == 1 || submissions == waiting.expected {
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

    pub fn order(&self, order: Order) -> Result<(), CustodyError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(CustodyError::Ended);
        }
        if waiting.orders.len() >= ORDERS_WAITING_MAX {
            return Err(CustodyError::Busy);
        }
        waiting.orders.push_back(order);
        self.arrived.notify_one();
        Ok(())
    }

    pub fn next_order(&self) -> Option<Order> {
        self.lock().orders.pop_front()
    }

    /// Waits for work, at the latest until `until`, and adds it to `batch`, which may stay empty.
    pub fn take(&self, batch: &mut Batch, until: Instant) -> Taken {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            if now >= until || waiting.is_ready(now) {
                return waiting.take(batch);
            }
            let wake_at = [waiting.gather_ends, waiting.linger_ends]
                .into_iter()
                .flatten()
                .fold(until, Instant::min);
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
            (
                mem::take(&mut waiting.batch),
                mem::take(&mut waiting.orders),
            )
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
        let over = |end: Option<Instant>| end.is_some_and(|end| now >= end);
        let gathered = self.batch.accepts.len() >= self.expected.max(1);
        self.closed
            || gathered
            || !self.orders.is_empty()
            || over(self.gather_ends)
            || self.batch.settlements.len() >= SETTLEMENTS_ENOUGH
            || over(self.linger_ends)
    }

    fn take(&mut self, batch: &mut Batch) -> Taken {
        if !self.batch.accepts.is_empty() {
            self.expected = self.batch.accepts.len() * 3 / 4;
        }
        batch.accepts.append(&mut self.batch.accepts);
        batch.settlements.append(&mut self.batch.settlements);
        self.gather_ends = None;
        self.linger_ends = None;
        if self.closed {
            Taken::Closed
        } else {
            Taken::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::submission;

    fn waiting_for(expected: usize) -> Queue {
        let queue = Queue::default();
        queue.lock().expected = expected;
        queue
    }

    fn push(queue: &Queue, label: &str) {
        queue
            .accept(submission(label, &["ehr"]))
            .expect("room in the queue");
    }

    #[test]
    fn a_sender_that_comes_alone_never_waits_for_company() {
        let queue = waiting_for(0);
        for label in ["first", "second"] {
            push(&queue, label);
            assert!(queue.lock().is_ready(Instant::now()));
            queue.take(&mut Batch::default(), Instant::now());
        }
    }

    #[test]
    fn after_a_shared_commit_the_next_waits_for_three_in_four_but_not_long() {
        let queue = waiting_for(0);
        for label in ["a", "b", "c", "d"] {
            push(&queue, label);
        }
        queue.take(&mut Batch::default(), Instant::now());
        push(&queue, "e");
        let arrived = Instant::now();
        let long_before = arrived.checked_sub(GATHER_WAIT).expect("uptime");
        push(&queue, "f");
        assert!(
            !queue.lock().is_ready(long_before),
            "two of three are there"
        );
        assert!(
            queue.lock().is_ready(arrived + GATHER_WAIT),
            "the wait is over"
        );
        push(&queue, "g");
        assert!(queue.lock().is_ready(long_before), "all three are there");
    }

    #[test]
    fn submissions_that_gather_are_taken_when_the_queue_closes() {
        let queue = waiting_for(64);
        push(&queue, "a");
        queue.close();
        let mut batch = Batch::default();
        let until = Instant::now() + Duration::from_hours(1);
        assert_eq!(queue.take(&mut batch, until), Taken::Closed);
        assert_eq!(batch.accepts.len(), 1);
    }
}
