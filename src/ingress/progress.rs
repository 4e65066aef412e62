//! How far a connection is: what its task, its stream and its requests tell each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// One connection's requests in hand.
#[derive(Debug)]
pub struct Progress {
    opened: Instant,
    state: Mutex<State>,
    retired: Notify,
}

/// A request in hand, from its complete head to its answer, or until it is dropped.
#[derive(Debug)]
pub struct InHand(Arc<Progress>);

#[derive(Debug)]
struct State {
    begun: u64,
    in_hand: usize,
    idle_since: Instant,
}

impl Progress {
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            opened: now,
            state: Mutex::new(State {
                begun: 0,
                in_hand: 0,
                idle_since: now,
            }),
            retired: Notify::new(),
        })
    }

    pub fn begin(self: &Arc<Self>) -> InHand {
        let mut state = self.state();
        state.begun += 1;
        state.in_hand += 1;
        drop(state);
        InHand(Arc::clone(self))
    }

    /// Complete heads so far.
    pub fn begun(&self) -> u64 {
        self.state().begun
    }

    pub fn is_idle(&self) -> bool {
        self.state().in_hand == 0
    }

    pub fn is_older_than(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| self.opened.elapsed() > age)
    }

    /// Ends once no request has been in hand for this long, counted from now at the earliest.
    pub async fn idle_for(&self, wait: Duration) {
        let begun = Instant::now();
        loop {
            // A request in hand now cannot make the connection idle earlier than now.
            let since = self.idle_since().unwrap_or_else(Instant::now).max(begun);
            let end = since + wait;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// Asks the connection to end when what is in hand is done.
    pub fn retire(&self) {
        self.retired.notify_one();
    }

    pub async fn retired(&self) {
        self.retired.notified().await;
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.in_hand == 0).then_some(state.idle_since)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_hand -= 1;
        state.idle_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn idleness_counts_from_the_end_of_the_last_request() {
        let progress = Progress::new();
        let request = progress.begin();
        let work = async {
            sleep_until(Instant::now() + WAIT * 5 / 2).await;
            drop(request);
            Instant::now()
        };
        let (idle, ended) = tokio::join!(
            async {
                progress.idle_for(WAIT).await;
                Instant::now()
            },
            work
        );
        assert!(idle >= ended + WAIT, "{:?}", idle - ended);
    }
}
