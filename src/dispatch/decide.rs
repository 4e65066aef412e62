//! What an attempt's outcome does to its delivery: pure.

use crate::clock::Timestamp;
use crate::spool::Settled;
use crate::target::{Outcome, Policy, Reason};

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Counts from 1, and anew from an operator's replay.
    pub attempt: u32,
    /// When the delivery was accepted, released or last replayed.
    pub owed_since: Timestamp,
    /// When the attempt is due that a replay came before.
    pub resume_at: Option<Timestamp>,
    pub began_at: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    pub outcome: Outcome,
}

/// `chance` is drawn evenly from `0.0..1.0`.
pub fn decide(ended: &Ended, chance: f64, policy: &Policy) -> Settled {
    match (ended.outcome, ended.resume_at) {
        (Outcome::Delivered, _) => Settled::Delivered,
        // A replay cancels no scheduled attempt unless it succeeds.
        (_, Some(due_at)) => Settled::Retry { due_at },
        (Outcome::GiveUp { .. }, None) => Settled::DeadLettered,
        (Outcome::Retry { .. }, None)
            if policy.retry.gives_up(ended.owed_since, ended.began_at) =>
        {
            Settled::DeadLettered
        }
        (Outcome::Retry { after, .. }, None) => Settled::Retry {
            due_at: ended
                .at
                .plus(policy.retry.wait(ended.attempt, chance, after)),
        },
    }
}

/// Whether a failed attempt says nothing of its delivery: while the pod goes down, the application
/// beside us may be gone first, and its port refuses. The delivery keeps its place for the next start.
pub fn is_deferred(outcome: Outcome, draining: bool, loopback: bool) -> bool {
    let refused = matches!(
        outcome,
        Outcome::Retry {
            reason: Reason::Connect,
            ..
        }
    );
    refused && draining && loopback
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dispatch::tests::policy;

    const ACCEPTED: Timestamp = Timestamp::from_millis(1_765_977_748_000);

    fn ended(attempt: u32, began_after: Duration, outcome: Outcome) -> Ended {
        let began_at = ACCEPTED.plus(began_after);
        Ended {
            attempt,
            owed_since: ACCEPTED,
            resume_at: None,
            began_at,
            at: began_at.plus(Duration::from_secs(10)),
            outcome,
        }
    }

    fn retry(after: Option<u64>) -> Outcome {
        Outcome::Retry {
            reason: Reason::ServerError,
            after: after.map(Duration::from_secs),
        }
    }

    #[test]
    fn outcomes_become_settlements() {
        let day = Duration::from_hours(24);
        let last = policy().retry.give_up_after;
        let almost = last.saturating_sub(Duration::from_millis(1));
        let reason = Reason::ClientError;
        // attempt, begun so long after acceptance, outcome, seconds to wait or the end
        let cases = [
            (1, day, Outcome::Delivered, Ok(Settled::Delivered)),
            (9, last * 2, Outcome::Delivered, Ok(Settled::Delivered)),
            (
                1,
                day,
                Outcome::GiveUp { reason },
                Ok(Settled::DeadLettered),
            ),
            (1, day, retry(None), Err(1)),
            (4, day, retry(None), Err(8)),
            (40, day, retry(None), Err(300)),
            (1, day, retry(Some(7)), Err(7)),
            (4, day, retry(Some(7)), Err(8)),
            (1, day, retry(Some(999_999)), Err(3600)),
            (1, almost, retry(None), Err(1)),
            (1, last, retry(None), Ok(Settled::DeadLettered)),
            (1, last, retry(Some(7)), Ok(Settled::DeadLettered)),
        ];
        for (attempt, began_after, outcome, expected) in cases {
            let ended = ended(attempt, began_after, outcome);
            let expected = expected.unwrap_or_else(|seconds| Settled::Retry {
                due_at: ended.at.plus(Duration::from_secs(seconds)),
            });
            assert_eq!(decide(&ended, 1.0, &policy()), expected, "{ended:?}");
        }
    }

    #[test]
    fn a_replay_that_fails_leaves_the_scheduled_attempt_where_it_was() {
        let reason = Reason::ClientError;
        let resume_at = ACCEPTED.plus(Duration::from_hours(2));
        for (outcome, expected) in [
            (Outcome::Delivered, Settled::Delivered),
            (retry(None), Settled::Retry { due_at: resume_at }),
            (
                Outcome::GiveUp { reason },
                Settled::Retry { due_at: resume_at },
            ),
        ] {
            let ended = Ended {
                resume_at: Some(resume_at),
                ..ended(3, Duration::from_hours(100), outcome)
            };
            assert_eq!(decide(&ended, 1.0, &policy()), expected, "{outcome:?}");
        }
    }

    #[test]
    fn only_a_refused_loopback_connection_is_deferred_and_only_while_draining() {
        let refused = Outcome::Retry {
            reason: Reason::Connect,
            after: None,
        };
        assert!(is_deferred(refused, true, true));
        assert!(!is_deferred(refused, false, true));
        assert!(!is_deferred(refused, true, false));
        assert!(!is_deferred(retry(None), true, true));
        assert!(!is_deferred(Outcome::Delivered, true, true));
    }
}
