//! When to try a delivery again, and when to let it rest: pure, with time and chance passed in.
//!
//! The wait after attempt *n* is drawn evenly from zero to `initial · 2ⁿ⁻¹`, capped at `max` ("full
//! jitter", AWS Builders' Library, "Timeouts, retries, and backoff with jitter"). What a target asks
//! for with `Retry-After` is a floor under that, itself capped at [`RETRY_AFTER_MAX`].

use std::time::Duration;

use crate::clock::Timestamp;

/// A target may ask us to wait this long and no longer.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// How one target's deliveries are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Upper end of the wait after the first attempt.
    pub initial: Duration,
    /// Upper end of any wait.
    pub max: Duration,
    /// Wall clock from acceptance, after which a failed attempt is the last one.
    pub give_up_after: Duration,
}

impl Policy {
    /// How long to wait after a failed attempt.
    ///
    /// `attempt` counts from 1; `chance` is drawn evenly from `0.0..1.0`; `asked` is what the target
    /// asked for.
    pub fn wait(&self, attempt: u32, chance: f64, asked: Option<Duration>) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let ceiling = self.initial.saturating_mul(1 << doublings).min(self.max);
        let floor = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
        ceiling.mul_f64(chance.clamp(0.0, 1.0)).max(floor)
    }

    /// No wait is longer.
    pub fn wait_max(&self) -> Duration {
        self.max.max(RETRY_AFTER_MAX)
    }

    /// Whether a failed attempt was the last: it was begun after `give_up_after` had passed. A relay
    /// that was down for longer than that tries first.
    pub fn gives_up(&self, accepted_at: Timestamp, attempt_began_at: Timestamp) -> bool {
        attempt_began_at >= accepted_at.plus(self.give_up_after)
    }
}

/// Reads a `Retry-After` field (RFC 9110, 10.2.3): seconds, or an HTTP date. Anything else is no wish.
pub fn parse_retry_after(field: &str, now: Timestamp) -> Option<Duration> {
    let field = field.trim();
    if !field.is_empty() && field.bytes().all(|c| c.is_ascii_digit()) {
        // More digits than fit are still seconds: a very long wait, capped where it is used.
        return Some(Duration::from_secs(field.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(field).ok()?;
    Some(Timestamp::from(date).since(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        initial: Duration::from_secs(1),
        max: Duration::from_mins(5),
        give_up_after: Duration::from_hours(72),
    };
    const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_000);

    proptest! {
        #[test]
        fn a_wait_lies_between_the_wish_of_the_target_and_the_ceiling(
            attempt in any::<u32>(), chance in 0.0..1.0_f64, asked in prop::option::of(any::<u64>())
        ) {
            let asked = asked.map(Duration::from_secs);
            let wait = POLICY.wait(attempt, chance, asked);
            let floor = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
            prop_assert!(wait >= floor);
            prop_assert!(wait <= POLICY.max.max(floor));
            prop_assert!(wait <= POLICY.wait_max());
        }
    }

    #[test]
    fn the_ceiling_doubles_up_to_max() {
        let ceilings: Vec<u64> = (1..=10)
            .map(|n| POLICY.wait(n, 1.0, None).as_secs())
            .collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(POLICY.wait(5, 0.0, None), Duration::ZERO);
    }

    #[test]
    fn an_attempt_begun_in_time_is_never_the_last() {
        let deadline = NOW.plus(POLICY.give_up_after);
        assert!(!POLICY.gives_up(NOW, deadline.minus(Duration::from_millis(1))));
        assert!(POLICY.gives_up(NOW, deadline));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_garbage_is_no_wish() {
        let seconds = |n| Some(Duration::from_secs(n));
        let cases = [
            ("5", seconds(5)),
            ("0", seconds(0)),
            (" 7 ", seconds(7)),
            ("99999999999999999999999", seconds(u64::MAX)),
            ("Wed, 17 Dec 2025 13:23:28 GMT", seconds(60)),
            ("Wed, 17 Dec 2014 13:23:28 GMT", seconds(0)),
            ("-1", None),
            ("1e9", None),
            ("", None),
            ("soon", None),
        ];
        for (field, expected) in cases {
            assert_eq!(parse_retry_after(field, NOW), expected, "{field:?}");
        }
    }
}
