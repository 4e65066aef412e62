//! What the threads of the spool tell each other and the outside.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::name::Name;
use crate::spool::{DeliveryKey, Fatal, Wanted};

/// Since when the writer has been at the disk.
pub(super) struct Pulse {
    epoch: Instant,
    /// Milliseconds after `epoch`, plus 1; 0 while idle.
    busy_since: AtomicU64,
}

/// Calls the checkpointer.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<Rung>,
    rings: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Rung {
    #[default]
    No,
    Yes,
    /// For the last time.
    End,
}

/// The oldest notification that was owed to nobody, or not to this target, and is again.
#[derive(Default)]
pub(super) struct Reopened(Mutex<Option<i64>>);

/// Deliveries by target that cannot be settled, for their rows are damaged. They are not handed out before the
/// next start: their attempts would never end.
#[derive(Default)]
pub(in crate::spool) struct Aside(Mutex<HashMap<Name, HashSet<i64>>>);

/// Tells the outside, once, that the spool cannot go on.
pub(in crate::spool) struct Alarm(Mutex<Option<OnFatal>>);

type OnFatal = Box<dyn FnOnce(Fatal) + Send>;

impl Pulse {
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            busy_since: AtomicU64::new(0),
        }
    }

    pub fn begin(&self) {
        self.busy_since.store(self.now() + 1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    pub fn busy_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.now().saturating_sub(since)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Bell {
    pub fn ring(&self) {
        self.set(Rung::Yes);
    }

    pub fn end(&self) {
        self.set(Rung::End);
    }

    /// Waits for a ring, no longer than `wait`.
    pub fn wait(&self, wait: Duration) -> Rung {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .rings
            .wait_timeout_while(state, wait, |state| *state == Rung::No)
            .unwrap_or_else(PoisonError::into_inner);
        let rung = *state;
        if rung == Rung::Yes {
            *state = Rung::No;
        }
        rung
    }

    fn set(&self, rung: Rung) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != Rung::End && *state != rung {
            *state = rung;
            self.rings.notify_one();
        }
    }
}

impl Reopened {
    pub fn note(&self, sequence: i64) {
        let mut oldest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *oldest = Some(oldest.map_or(sequence, |before| before.min(sequence)));
    }

    pub fn take(&self) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Aside {
    /// False if that would be more than `max`.
    pub fn put(&self, key: &DeliveryKey, max: usize) -> bool {
        let mut aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = aside.values().map(HashSet::len).sum::<usize>();
        let of_target = aside.entry(key.target.clone()).or_default();
        if there >= max && !of_target.contains(&key.sequence) {
            return false;
        }
        of_target.insert(key.sequence);
        true
    }

    /// The same beside them: looked at, and not handed out.
    pub fn beside(&self, target: &Name, mut wanted: Wanted) -> Wanted {
        let aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_target) = aside.get(target) {
            wanted.limit = wanted.limit.saturating_add(of_target.len());
            wanted.held.extend(of_target);
        }
        wanted
    }
}

impl Alarm {
    pub fn new(on_fatal: impl FnOnce(Fatal) + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(on_fatal))))
    }

    pub fn sound(&self, fatal: Fatal) {
        let on_fatal = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_fatal) = on_fatal {
            on_fatal(fatal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_bounded_and_asked_for_beside_what_is_wanted() {
        let aside = Aside::default();
        let ehr = Name::new("ehr").unwrap();
        let put = |sequence| {
            let target = ehr.clone();
            aside.put(&DeliveryKey { sequence, target }, 2)
        };
        assert_eq!([1, 2, 3, 2].map(put), [true, true, false, true]);
        let beside = aside.beside(&ehr, 5.into());
        assert_eq!((beside.limit, beside.held), (7, HashSet::from([1, 2])));
        let other = aside.beside(&Name::new("audit").unwrap(), 5.into());
        assert_eq!((other.limit, other.held.len()), (5, 0));
    }
}
