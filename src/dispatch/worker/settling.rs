//! What a worker tells the spool: what attempts meant, and what cannot be sent at all.
//!
//! Each settlement is waited for: until it is durable, or can never be, its delivery stays taken, so that it is
//! neither found due again nor attempted twice. While a disk is full, the window fills up with such deliveries,
//! and the target is paused.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::attempts::Attempt;
use super::super::decide::{Ended, decide};
use super::{LOOK_EVERY, TargetWorker};
use crate::clock::Timestamp;
use crate::spool::{DeliveryKey, Settled, Settlement};
use crate::target::Outcome;

/// How long to leave a delivery alone whose record cannot be read: for ever, unless the disk mends.
const UNREADABLE_PAUSE: Duration = Duration::from_mins(5);

/// A settlement that is on stable storage, or that a damaged row keeps from it: then the spool hands its
/// delivery out no more.
#[derive(Clone, Copy)]
pub struct Durable {
    sequence: i64,
    /// When the delivery comes back, if it does: by a clock that nobody sets.
    back_at: Option<Instant>,
}

/// The wait for one to become so.
pub struct Settling {
    durable: Durable,
    done: oneshot::Receiver<()>,
}

impl Future for Settling {
    type Output = Durable;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Durable> {
        // An error means that the spool is gone, and the process with it.
        let _ = ready!(Pin::new(&mut self.done).poll(cx));
        Poll::Ready(self.durable)
    }
}

impl TargetWorker {
    pub fn settle(&mut self, attempt: Attempt, outcome: Outcome) {
        let at = Timestamp::now();
        let ended = Ended {
            attempt: attempt.since_replay,
            owed_since: attempt.owed_since,
            resume_at: attempt.resume_at,
            began_at: attempt.began_at,
            at,
            outcome,
        };
        let result = decide(&ended, fastrand::f64(), &attempt.target.policy);
        match result {
            Settled::Delivered => {
                let latency = at.since(attempt.accepted_at).as_secs_f64();
                self.metrics.delivery_latency.observe(latency);
            }
            Settled::DeadLettered => tracing::warn!(
                notification = %attempt.id,
                target = %self.name,
                reason = outcome.label(),
                attempts = attempt.number,
                "delivery gave up; it is kept as a dead letter"
            ),
            Settled::Retry { .. } => {}
        }
        self.hand_over(Settlement {
            took: attempt.elapsed(),
            key: attempt.key,
            at,
            outcome: outcome.label(),
            result,
        });
    }

    /// Only sabotage does.
    pub fn settle_unanswered(&mut self, key: &DeliveryKey) {
        self.hand_over(Settlement {
            key: key.clone(),
            at: Timestamp::now(),
            took: Duration::ZERO,
            outcome: Outcome::Delivered.label(),
            result: Settled::Delivered,
        });
    }

    fn hand_over(&mut self, settlement: Settlement) {
        let sequence = settlement.key.sequence;
        let back_at = match settlement.result {
            Settled::Retry { due_at } => {
                let wait = due_at.since(settlement.at).min(LOOK_EVERY);
                Some(Instant::now() + wait)
            }
            Settled::Delivered | Settled::DeadLettered => None,
        };
        self.settling.push(Settling {
            durable: Durable { sequence, back_at },
            done: self.house.spool.settle(settlement),
        });
    }

    pub fn release(&mut self, durable: Durable) {
        // It may lie on the doorstep as well, if it was read just then: it is known as long as it is taken. Whatever
        // that does not find has rung, or is about to.
        self.take_in();
        self.window.release(durable.sequence);
        if let Some(back_at) = durable.back_at {
            self.look_at = self.look_at.min(back_at);
        }
    }

    /// Deliveries whose records cannot be read: they stay pending, and out of the way of the others.
    pub fn postpone(&mut self, mut unreadable: Vec<DeliveryKey>) {
        unreadable.retain(|key| self.window.hold(key.sequence));
        let Some(first) = unreadable.first() else {
            return;
        };
        tracing::error!(
            target = %self.name,
            count = unreadable.len(),
            first_sequence = first.sequence,
            "records cannot be read, or are not what was received; their deliveries wait, and are tried \
             again every 5 minutes. Look at the volume"
        );
        let at = Timestamp::now();
        let due_at = at.plus(UNREADABLE_PAUSE);
        for key in unreadable {
            self.hand_over(Settlement {
                key,
                at,
                took: Duration::ZERO,
                outcome: "unreadable",
                result: Settled::Retry { due_at },
            });
        }
    }
}
