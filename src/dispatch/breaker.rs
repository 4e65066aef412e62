//! When to stop asking a target that fails, and how to ask again: pure, with time passed in.
//!
//! Closed, it lets attempts through until [`Policy::failures`] of them fail in a row. Open, it lets
//! none through until a pause is over, and then a single probe. A probe that fails doubles the pause, up
//! to its maximum. One that is answered closes the breaker to a crack: one attempt at a time, then two,
//! four, …: a target that has just come up is not buried under what waited for it.
//!
//! Attempts that were on their way when the breaker opened tell of the past, and are not counted. Nor are
//! those that never left: a body that fits no message says nothing of the target.

use std::time::Duration;

use tokio::time::Instant;

pub use crate::target::Breaker as Policy;
use crate::target::{Outcome, Reason};

/// The breaker of one target.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Grows each time the breaker opens; tickets of an earlier era are not counted.
    era: u64,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        /// At most so many attempts at a time; `None` once the start was slow enough.
        allowed: Option<usize>,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    Probing {
        pause: Duration,
    },
}

/// Given to an attempt when it begins, taken back when it ends.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Ticket {
    era: u64,
}

/// What an attempt told of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An answer that it stands by.
    Answer,
    Failure,
    /// Nothing was sent.
    Nothing,
}

impl From<Outcome> for Heard {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::GiveUp {
                reason: Reason::Misfit,
            } => Self::Nothing,
            Outcome::Delivered | Outcome::GiveUp { .. } => Self::Answer,
            Outcome::Retry { .. } => Self::Failure,
        }
    }
}

/// What the end of an attempt changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The target has begun to fail.
    Opened,
    /// It answers again.
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        let state = State::Closed {
            failures: 0,
            allowed: None,
        };
        Self { state, era: 0 }
    }
}

impl Breaker {
    /// How many attempts may be in flight now, of the target's own maximum.
    pub fn allows(&self, now: Instant, in_flight_max: usize) -> Allowance {
        match self.state {
            State::Closed { allowed, .. } => {
                Allowance::Attempts(allowed.map_or(in_flight_max, |n| n.min(in_flight_max)))
            }
            State::Open { until, .. } if until <= now => Allowance::Probe,
            State::Open { .. } | State::Probing { .. } => Allowance::Nothing,
        }
    }

    /// An attempt begins, as [`Breaker::allows`] allowed.
    pub fn begin(&mut self) -> Ticket {
        if let State::Open { pause, .. } = self.state {
            self.state = State::Probing { pause };
        }
        Ticket { era: self.era }
    }

    /// An attempt ended. A probe that heard nothing is due again at once, as if it had not begun.
    pub fn end(
        &mut self,
        ticket: Ticket,
        heard: Heard,
        now: Instant,
        in_flight_max: usize,
        policy: &Policy,
    ) -> Option<Change> {
        if ticket.era != self.era {
            return None;
        }
        match (&mut self.state, heard) {
            (State::Closed { failures, allowed }, Heard::Answer) => {
                *failures = 0;
                *allowed = allowed
                    .map(|n| n.saturating_mul(2))
                    .filter(|n| *n < in_flight_max);
                None
            }
            (State::Closed { failures, .. }, Heard::Failure) => {
                *failures += 1;
                (*failures >= policy.failures).then(|| {
                    self.open(policy.probe_after, now, policy);
                    Change::Opened
                })
            }
            (State::Probing { .. }, Heard::Answer) => {
                self.state = State::Closed {
                    failures: 0,
                    allowed: Some(1),
                };
                Some(Change::Closed)
            }
            (State::Probing { pause }, Heard::Failure) => {
                let pause = pause.saturating_mul(2);
                self.open(pause, now, policy);
                None
            }
            (State::Probing { pause }, Heard::Nothing) => {
                let pause = *pause;
                self.state = State::Open { until: now, pause };
                None
            }
            (State::Closed { .. }, Heard::Nothing) | (State::Open { .. }, _) => None,
        }
    }

    /// When a probe may begin, if that is what the target waits for.
    pub fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::Probing { .. } => None,
        }
    }

    /// Closes it without a probe: the target is reached in another way from now on.
    pub fn forget(&mut self) {
        let era = self.era + 1;
        *self = Self {
            era,
            ..Self::default()
        };
    }

    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    fn open(&mut self, pause: Duration, now: Instant, policy: &Policy) {
        let pause = pause.min(policy.probe_max);
        let until = now + pause;
        self.era += 1;
        self.state = State::Open { until, pause };
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Up to so many at a time.
    Attempts(usize),
    /// One, with the delivery that has been due for longest.
    Probe,
    Nothing,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Heard::{Answer, Failure, Nothing};
    use super::*;

    const POLICY: Policy = Policy {
        failures: 3,
        probe_after: Duration::from_secs(1),
        probe_max: Duration::from_mins(1),
    };
    const MAX: usize = 16;

    /// One attempt, begun and ended now.
    fn attempt(breaker: &mut Breaker, heard: Heard, now: Instant) -> Option<Change> {
        let ticket = breaker.begin();
        breaker.end(ticket, heard, now, MAX, &POLICY)
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!(attempt(&mut breaker, Failure, now), None);
        assert_eq!(attempt(&mut breaker, Failure, now), None);
        assert_eq!(attempt(&mut breaker, Failure, now), Some(Change::Opened));
        breaker
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for heard in [Failure, Failure, Answer, Failure, Failure, Answer] {
            assert_eq!(attempt(&mut breaker, heard, now), None);
        }
        assert_eq!(breaker.allows(now, MAX), Allowance::Attempts(MAX));
    }

    #[test]
    fn pauses_between_probes_double_up_to_their_maximum() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(breaker.probe_at(), Some(now + pause));
            let just_before = now + pause.saturating_sub(Duration::from_nanos(1));
            assert_eq!(breaker.allows(just_before, MAX), Allowance::Nothing);
            now += pause;
            assert_eq!(breaker.allows(now, MAX), Allowance::Probe);
            assert_eq!(attempt(&mut breaker, Failure, now), None);
        }
    }

    #[test]
    fn a_probe_is_alone_and_its_answer_begins_a_slow_start() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + POLICY.probe_after;
        let probe = breaker.begin();
        assert_eq!(breaker.allows(later, MAX), Allowance::Nothing);
        let change = breaker.end(probe, Answer, later, MAX, &POLICY);
        assert_eq!(change, Some(Change::Closed));
        for allowed in [1, 2, 4, 8, 16, 16] {
            assert_eq!(breaker.allows(later, MAX), Allowance::Attempts(allowed));
            assert_eq!(attempt(&mut breaker, Answer, later), None);
        }
    }

    #[test]
    fn attempts_from_before_it_opened_are_not_counted() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let early: Vec<Ticket> = (0..10).map(|_| breaker.begin()).collect();
        let mut ends = early.into_iter();
        for ticket in ends.by_ref().take(3) {
            breaker.end(ticket, Failure, now, MAX, &POLICY);
        }
        let later = now + POLICY.probe_after;
        assert_eq!(attempt(&mut breaker, Answer, later), Some(Change::Closed));
        for ticket in ends {
            assert_eq!(breaker.end(ticket, Failure, later, MAX, &POLICY), None);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn an_attempt_that_heard_nothing_is_as_if_it_had_not_been() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for heard in [Failure, Nothing, Failure, Nothing] {
            assert_eq!(attempt(&mut breaker, heard, now), None);
        }
        assert_eq!(attempt(&mut breaker, Failure, now), Some(Change::Opened));
        let later = now + POLICY.probe_after;
        for _ in 0..3 {
            assert_eq!(attempt(&mut breaker, Nothing, later), None);
            assert_eq!(breaker.allows(later, MAX), Allowance::Probe);
        }
        assert_eq!(attempt(&mut breaker, Failure, later), None);
        let twice = POLICY.probe_after * 2;
        assert_eq!(breaker.probe_at(), Some(later + twice));
        let then = later + twice;
        assert_eq!(attempt(&mut breaker, Answer, then), Some(Change::Closed));
        for heard in [Nothing, Nothing, Nothing] {
            assert_eq!(attempt(&mut breaker, heard, then), None);
        }
        assert_eq!(breaker.allows(then, MAX), Allowance::Attempts(1));
    }

    proptest! {
        /// Whatever ends in whatever order: it opens only at enough failures in a row, never holds a
        /// target for longer than the longest pause, and never lets two probes run.
        #[test]
        fn it_holds_its_promises_in_any_order_of_events(
            steps in prop::collection::vec((0_usize..4, any::<prop::sample::Index>(), 0_u64..5_000), 1..300)
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut in_flight: Vec<Ticket> = Vec::new();
            for (step, which, millis) in steps {
                now += Duration::from_millis(millis);
                let (was_open, was_in_flight) = (breaker.is_open(), in_flight.len());
                if step == 0 {
                    let room = match breaker.allows(now, MAX) {
                        Allowance::Attempts(n) => was_in_flight < n,
                        Allowance::Probe => true,
                        Allowance::Nothing => false,
                    };
                    if room {
                        in_flight.push(breaker.begin());
                        let allowance = breaker.allows(now, MAX);
                        prop_assert!(!was_open || allowance == Allowance::Nothing);
                    }
                } else if !in_flight.is_empty() {
                    let ticket = in_flight.swap_remove(which.index(was_in_flight));
                    let was_allowed = breaker.allows(now, MAX);
                    let heard = [Answer, Failure, Nothing][step - 1];
                    let change = breaker.end(ticket, heard, now, MAX, &POLICY);
                    if heard == Nothing {
                        let held = was_allowed == Allowance::Nothing;
                        let allowed = breaker.allows(now, MAX);
                        let due_again = held && allowed == Allowance::Probe;
                        prop_assert!(allowed == was_allowed || due_again);
                    }
                    match change {
                        Some(Change::Opened) => prop_assert!(!was_open && step == 2),
                        Some(Change::Closed) => prop_assert!(was_open && step == 1),
                        None => prop_assert_eq!(was_open, breaker.is_open()),
                    }
                }
                let held = breaker.probe_at().map_or(Duration::ZERO, |at| at - now.min(at));
                prop_assert!(held <= POLICY.probe_max);
            }
        }
    }
}
