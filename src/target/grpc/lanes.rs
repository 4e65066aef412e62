//! The connections of one gRPC target.
//!
//! HTTP/2 carries every call on one connection, and so pins one address of a name for as long as that
//! lives. Instead there are a few lanes, each with a connection of its own, and calls take turns. A lane
//! is given up after [`AGE_MAX`], and after [`FAILURES_MAX`] calls in a row that brought no answer: the
//! next call on it looks the name up anew and connects to one of its addresses by chance. So a pod that
//! moved is found again, and one that is new gets its share.
//!
//! Calls under way on a lane that is given up go on; its connection ends with the last of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::target::Policy;
use crate::target::connect::{Connector, Pool, http2_pool};

/// Connections to one target, at most.
const LANES_MAX: usize = 4;
/// Less a tenth by chance, so that lanes do not all begin anew at once.
const AGE_MAX: Duration = Duration::from_mins(5);
const FAILURES_MAX: u32 = 2;

pub struct Lanes {
    all: Vec<Mutex<Lane>>,
    next: AtomicUsize,
    pub connector: Connector,
}

struct Lane {
    pool: Pool,
    until: Instant,
    /// Calls in a row without an answer.
    failures: u32,
    /// Grows each time the lane begins anew; calls of an earlier time are not counted.
    era: u64,
}

/// One call on a lane. Dropped before [`Call::answered`], it counts as a failure.
pub struct Call<'a> {
    lane: &'a Mutex<Lane>,
    era: u64,
    answered: bool,
    pub pool: Pool,
}

impl Lanes {
    pub fn new(connector: Connector, policy: &Policy) -> Self {
        let lane = || Mutex::new(Lane::new(&connector, 0));
        let count = policy.in_flight_max.clamp(1, LANES_MAX);
        Self {
            all: std::iter::repeat_with(lane).take(count).collect(),
            next: AtomicUsize::new(0),
            connector,
        }
    }

    pub fn call(&self) -> Call<'_> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let lane = &self.all[turn % self.all.len()];
        let mut open = lock(lane);
        if open.failures >= FAILURES_MAX || Instant::now() >= open.until {
            *open = Lane::new(&self.connector, open.era + 1);
        }
        Call {
            lane,
            era: open.era,
            answered: false,
            pool: open.pool.clone(),
        }
    }
}

impl Lane {
    fn new(connector: &Connector, era: u64) -> Self {
        Self {
            pool: http2_pool(connector.clone()),
            until: Instant::now() + AGE_MAX.mul_f64(1.0 - fastrand::f64() / 10.0),
            failures: 0,
            era,
        }
    }
}

impl Call<'_> {
    /// The connection brought an answer, whatever it was.
    pub fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut lane = lock(self.lane);
        if lane.era == self.era {
            lane.failures = if self.answered { 0 } else { lane.failures + 1 };
        }
    }
}

/// Nothing that holds the lock can panic.
fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::tests::policy;
    use crate::target::connect::Versions;
    use crate::target::http::Options;

    fn lanes(in_flight_max: usize) -> Lanes {
        let options = Options::of("http://127.0.0.1:1/");
        let mut policy = policy();
        policy.in_flight_max = in_flight_max;
        let connector = Connector::new(&options, &policy, Versions::Http2);
        Lanes::new(connector.unwrap(), &policy)
    }

    fn era(lanes: &Lanes, answered: bool) -> u64 {
        let mut call = lanes.call();
        if answered {
            call.answered();
        }
        call.era
    }

    #[tokio::test]
    async fn calls_take_turns_on_no_more_lanes_than_they_need() {
        assert_eq!(lanes(1).all.len(), 1);
        let lanes = lanes(16);
        assert_eq!(lanes.all.len(), LANES_MAX);
        let calls: Vec<_> = (0..5).map(|_| lanes.call()).collect();
        assert!(!std::ptr::eq(calls[0].lane, calls[1].lane));
        assert!(std::ptr::eq(calls[0].lane, calls[4].lane));
    }

    #[tokio::test]
    async fn a_lane_begins_anew_after_failures_in_a_row() {
        let lanes = lanes(1);
        for answered in [false, true, false, false] {
            assert_eq!(era(&lanes, answered), 0);
        }
        let old = lanes.all[0].lock().unwrap().era;
        assert_eq!(old, 0, "not before it is needed");
        assert_eq!(era(&lanes, true), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_begins_anew_when_it_is_old_even_if_all_is_well() {
        let lanes = lanes(1);
        assert_eq!(era(&lanes, true), 0);
        tokio::time::advance(AGE_MAX.mul_f64(0.89)).await;
        assert_eq!(era(&lanes, true), 0);
        tokio::time::advance(AGE_MAX.mul_f64(0.12)).await;
        assert_eq!(lanes.call().era, 1);
    }
}
