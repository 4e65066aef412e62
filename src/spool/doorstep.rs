//! A target's doorstep: where its worker hears that something has come, and finds some of it.
//!
//! What a commit has just put on disk is still in memory. Left here, it need not be read back: that is all
//! that a doorstep is for. The spool's rows alone say what is owed, and whoever finds the doorstep closed
//! asks them.
//!
//! Promises:
//! * Nothing is left before its commit is on stable storage.
//! * An open doorstep has all that came due since it was opened and has not been taken: what cannot be left
//!   closes it. So one that is opened before [`Spool::due`](super::Spool::due) is asked misses nothing; what
//!   is on it may be among what that finds.
//! * What is left is there before any settlement of it can be durable.
//!
//! Limits: [`LEFT_MAX`] deliveries, whose bodies have [`LEFT_BYTES_MAX`] at most: 1 MiB, and the few header fields that
//! are kept. Targets of one notification share a copy of its body, which holds no share of the ingress's budget. A
//! crash leaves nothing of it, and needs nothing.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Due;

/// Deliveries that may lie on one doorstep.
pub(super) const LEFT_MAX: usize = 64;

/// A larger body is not left: reading it back is little beside sending it.
pub(super) const LEFT_BYTES_MAX: usize = 16 << 10;

/// Closed at first. For one worker.
#[derive(Default)]
pub struct Doorstep {
    rings: Notify,
    /// `None` while it is closed.
    left: Mutex<Option<Vec<Due>>>,
}

impl Doorstep {
    /// Waits until something has come. One ring is remembered, so none is missed between asking the spool and
    /// waiting.
    ///
    /// Cancellation safe.
    pub async fn rung(&self) {
        self.rings.notified().await;
    }

    /// From now on, what comes is left here. What lay here is forgotten.
    pub fn open(&self) {
        *self.lock() = Some(Vec::new());
    }

    /// Nothing more is left here, and what lay here is forgotten.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// All that came since it was opened, or since this was asked last; `None` if it is closed.
    pub fn take(&self) -> Option<Vec<Due>> {
        self.lock().as_mut().map(mem::take)
    }

    /// Something is due that was not left here.
    pub(super) fn ring(&self) {
        self.close();
        self.tell();
    }

    /// Something came, and was left here if that was open.
    pub(super) fn tell(&self) {
        self.rings.notify_one();
    }

    /// Leaves a delivery, made only if there is a place for it; without one, closes.
    pub(crate) fn leave(&self, body_bytes: usize, delivery: impl FnOnce() -> Due) {
        let mut left = self.lock();
        match left.as_mut() {
            Some(there) if there.len() < LEFT_MAX && body_bytes <= LEFT_BYTES_MAX => {
                there.push(delivery());
            }
            _ => *left = None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Due>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::dispatch::tests::due;

    fn leave(step: &Doorstep, sequence: i64, body_bytes: usize) {
        step.leave(body_bytes, || due(sequence, Timestamp::from_millis(0)));
    }

    fn taken(step: &Doorstep) -> Option<Vec<i64>> {
        let taken = step.take()?;
        Some(taken.iter().map(|due| due.key.sequence).collect())
    }

    #[test]
    fn an_open_doorstep_has_all_that_came_since_and_a_closed_one_nothing() {
        let step = Doorstep::default();
        leave(&step, 1, 0);
        assert_eq!(taken(&step), None, "closed at first");
        step.open();
        leave(&step, 2, 0);
        leave(&step, 3, LEFT_BYTES_MAX);
        assert_eq!(taken(&step), Some(vec![2, 3]));
        assert_eq!(taken(&step), Some(vec![]), "each once");
        leave(&step, 4, 0);
        step.open();
        assert_eq!(taken(&step), Some(vec![]), "the spool is asked now");
        for close in [Doorstep::close, Doorstep::ring] {
            step.open();
            leave(&step, 5, 0);
            close(&step);
            assert_eq!(taken(&step), None);
        }
    }

    #[test]
    fn what_cannot_be_left_closes_it() {
        let step = Doorstep::default();
        step.open();
        leave(&step, 1, 0);
        leave(&step, 2, LEFT_BYTES_MAX + 1);
        leave(&step, 3, 0);
        assert_eq!(taken(&step), None, "a large one");
        step.open();
        let count = i64::try_from(LEFT_MAX).unwrap();
        (0..count).for_each(|n| leave(&step, n, 0));
        assert_eq!(step.take().map(|left| left.len()), Some(LEFT_MAX));
        (0..=count).for_each(|n| leave(&step, n, 0));
        assert_eq!(taken(&step), None, "too many");
    }
}
