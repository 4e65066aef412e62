//! The attempts of one worker that are under way: a task each, so that a panic stays where it happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use super::breaker::Ticket;
use crate::clock::Timestamp;
use crate::notification::Id;
use crate::spool::{DeliveryKey, Due};
use crate::target::{Outcome, Parcel, Reason, Target};
use crate::trace::Span;

/// As many as its owner begins; dropping it abandons them.
#[derive(Default)]
pub struct Attempts {
    tasks: JoinSet<Outcome>,
    under_way: HashMap<task::Id, Attempt>,
}

/// One request of a delivery.
pub struct Attempt {
    pub key: DeliveryKey,
    pub id: Id,
    /// Counts from 1.
    pub number: u32,
    /// As `number`, but counted from an operator's replay.
    pub since_replay: u32,
    pub accepted_at: Timestamp,
    /// When it was accepted, released or last replayed.
    pub owed_since: Timestamp,
    /// When the attempt is due that a replay came before.
    pub resume_at: Option<Timestamp>,
    pub began_at: Timestamp,
    began: Instant,
    pub ticket: Ticket,
    pub span: Span,
    pub target: Arc<Target>,
}

impl Attempts {
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    pub fn begin(&mut self, due: Due, target: Arc<Target>, ticket: Ticket, span: Span) {
        let record = due.record;
        let number = due.attempts.saturating_add(1);
        let attempt = Attempt {
            key: due.key,
            id: record.id,
            number,
            since_replay: number.saturating_sub(due.attempts_before),
            accepted_at: record.received_at,
            owed_since: due.owed_since,
            resume_at: due.resume_at,
            began_at: Timestamp::now(),
            began: Instant::now(),
            ticket,
            span,
            target: target.clone(),
        };
        let task = self.tasks.spawn(async move {
            let parcel = Parcel {
                record: &record,
                attempt: number,
                replay: due.replay,
                span,
            };
            target.attempt(parcel).await
        });
        self.under_way.insert(task.id(), attempt);
    }

    /// The next to end; `None` if none is under way. Cancellation safe.
    pub async fn next(&mut self) -> Option<(Attempt, Outcome)> {
        loop {
            let (task, outcome) = match self.tasks.join_next_with_id().await? {
                Ok(ended) => ended,
                Err(panicked) => (panicked.id(), PANICKED),
            };
            if let Some(attempt) = self.under_way.remove(&task) {
                return Some((attempt, outcome));
            }
        }
    }
}

impl Attempt {
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

const PANICKED: Outcome = Outcome::Retry {
    reason: Reason::Panic,
    after: None,
};
