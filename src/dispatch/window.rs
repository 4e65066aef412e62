//! The part of a target's backlog that is in memory: pure, with time passed in.
//!
//! The spool holds the backlog; a window holds the next few deliveries of it, and knows which are taken:
//! in flight, or settled in a way that is not yet durable. Both are bounded: while settlements do not
//! become durable, the window runs full and no more attempts begin.
//!
//! A share of the target's slots is kept for deliveries that have just come in, so that an old backlog
//! does not delay a new notification.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::spool::{Due, Wanted};

/// No window holds more deliveries than this, nor has more of them taken.
pub const WINDOW_MAX: usize = 256;

/// A first attempt may use the reserved share until this long after acceptance.
pub const FRESH_FOR: Duration = Duration::from_secs(30);

/// The next deliveries of one target.
#[derive(Debug, Default)]
pub struct Window {
    /// In order of due time, then acceptance.
    waiting: VecDeque<Due>,
    /// Sequences in flight, or settled in a way that is not yet durable.
    taken: HashSet<i64>,
}

impl Window {
    /// What to ask the spool for of the oldest due deliveries: what is taken is among them.
    pub fn wants(&self, in_flight_max: usize) -> Wanted {
        self.beside_taken(size(in_flight_max))
    }

    /// As [`Window::wants`], if one is to be tried.
    pub fn wants_one(&self) -> Wanted {
        self.beside_taken(1)
    }

    fn beside_taken(&self, count: usize) -> Wanted {
        Wanted {
            limit: count + self.taken.len(),
            held: self.taken.clone(),
        }
    }

    /// Replaces what waits by what the spool says; returns the sequences of what waits no more.
    pub fn refill(&mut self, page: Vec<Due>) -> Vec<i64> {
        let waited = self.clear();
        self.waiting = page.into();
        self.without_waiting(waited)
    }

    /// Those of these that do not wait here.
    pub fn without_waiting(&self, mut sequences: Vec<i64>) -> Vec<i64> {
        if !sequences.is_empty() {
            let waiting = self.waiting.iter().map(|due| due.key.sequence);
            let waiting: HashSet<i64> = waiting.collect();
            sequences.retain(|sequence| !waiting.contains(sequence));
        }
        sequences
    }

    /// What to ask for of the deliveries that have just come in: what is taken or waits may be among them.
    pub fn wants_fresh(&self, in_flight_max: usize) -> Wanted {
        let mut wanted = self.beside_taken(reserve(in_flight_max));
        let waiting = self.waiting.iter().map(|due| due.key.sequence);
        wanted.held.extend(waiting);
        wanted
    }

    /// Lets deliveries that have just come in wait behind a backlog that fills the window; returns the
    /// sequences of those that are too many.
    pub fn add_fresh(&mut self, mut fresh: Vec<Due>, in_flight_max: usize) -> Vec<i64> {
        let waiting_max = size(in_flight_max) + reserve(in_flight_max);
        let room = waiting_max.saturating_sub(self.waiting.len());
        let over = fresh.split_off(room.min(fresh.len()));
        self.waiting.extend(fresh);
        over.iter().map(|due| due.key.sequence).collect()
    }

    /// Lets deliveries wait that have just come, each in its turn, and none twice that a page has brought as well;
    /// false if they are too many.
    pub fn add_left(&mut self, left: Vec<Due>) -> bool {
        let turn = |due: &Due| (due.due_at, due.key.sequence);
        for due in left {
            if self.has(due.key.sequence) {
                continue;
            }
            if self.waiting.len() >= WINDOW_MAX {
                return false;
            }
            let place = self.waiting.partition_point(|one| turn(one) < turn(&due));
            self.waiting.insert(place, due);
        }
        true
    }

    fn has(&self, sequence: i64) -> bool {
        let mut waiting = self.waiting.iter();
        self.taken.contains(&sequence) || waiting.any(|due| due.key.sequence == sequence)
    }

    /// Whether fewer wait than could all begin at once.
    pub fn is_low(&self, in_flight_max: usize) -> bool {
        self.waiting.len() < in_flight_max
    }

    /// Takes the delivery that has been due for longest.
    pub fn take_oldest(&mut self) -> Option<Due> {
        self.take(|_| true)
    }

    /// Takes the next delivery that may have one of `allowed` slots, of which so many are in use: the
    /// oldest, or only a fresh one if the reserved share is all that is left.
    pub fn take_next(&mut self, now: Timestamp, in_use: usize, allowed: usize) -> Option<Due> {
        let reserved = in_use + reserve(allowed) >= allowed;
        if in_use >= allowed {
            return None;
        }
        self.take(|due| !reserved || is_fresh(due, now))
    }

    /// Takes a delivery that never waited here; false if it is taken already, or too many are.
    pub fn hold(&mut self, sequence: i64) -> bool {
        self.taken.len() < WINDOW_MAX && self.taken.insert(sequence)
    }

    /// A taken delivery's settlement is durable, or its attempt left no trace.
    pub fn release(&mut self, sequence: i64) {
        self.taken.remove(&sequence);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets what waits, and not what is taken; returns the sequences of what waited.
    pub fn clear(&mut self) -> Vec<i64> {
        let waited = self.waiting.drain(..);
        waited.map(|due| due.key.sequence).collect()
    }

    fn take(&mut self, may: impl Fn(&Due) -> bool) -> Option<Due> {
        if self.taken.len() >= WINDOW_MAX {
            return None;
        }
        let next = self.waiting.iter().position(may)?;
        let due = self.waiting.remove(next)?;
        self.taken.insert(due.key.sequence);
        Some(due)
    }
}

fn size(in_flight_max: usize) -> usize {
    in_flight_max.saturating_mul(4).clamp(1, WINDOW_MAX)
}

/// A quarter of the slots, at least one, is for fresh deliveries; a lone slot is for all.
fn reserve(slots: usize) -> usize {
    if slots < 2 { 0 } else { (slots / 4).max(1) }
}

fn is_fresh(due: &Due, now: Timestamp) -> bool {
    due.attempts == 0 && now.since(due.record.received_at) < FRESH_FOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::tests::due;

    const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_000);

    fn old(sequence: i64) -> Due {
        let mut old = due(sequence, NOW.minus(Duration::from_hours(1)));
        old.attempts = 1;
        old
    }

    fn sequences(window: &mut Window, in_use: usize, allowed: usize) -> Vec<i64> {
        let taken = |n| window.take_next(NOW, n, allowed);
        (in_use..)
            .map_while(taken)
            .map(|due| due.key.sequence)
            .collect()
    }

    /// What a spool hands out of these.
    fn page(wanted: &Wanted, there: impl Iterator<Item = Due>) -> Vec<Due> {
        there
            .take(wanted.limit)
            .filter(|due| !wanted.held.contains(&due.key.sequence))
            .collect()
    }

    #[test]
    fn what_is_taken_is_asked_for_and_left_out() {
        let mut window = Window::default();
        let refill = |window: &mut Window, limit| {
            let wanted = window.wants(2);
            assert_eq!(wanted.limit, limit);
            window.refill(page(&wanted, (1..=20).map(old)));
            assert_eq!(window.waiting.len(), 8);
        };
        refill(&mut window, 8);
        assert_eq!(window.take_oldest().unwrap().key.sequence, 1);
        refill(&mut window, 9);
        assert_eq!(window.take_oldest().unwrap().key.sequence, 2);
        window.release(1);
        refill(&mut window, 9);
        assert_eq!(window.take_oldest().unwrap().key.sequence, 1);
    }

    #[test]
    fn an_old_backlog_leaves_a_quarter_of_the_slots_to_fresh_deliveries() {
        let mut window = Window::default();
        let fresh = (101..=103).map(|n| due(n, NOW));
        window.refill((1..=100).map(old).chain(fresh).collect());
        assert_eq!(sequences(&mut window, 0, 8), [1, 2, 3, 4, 5, 6, 101, 102]);
        assert_eq!(sequences(&mut window, 7, 8), [103]);
        assert!(sequences(&mut window, 6, 8).is_empty());
        assert!(sequences(&mut window, 8, 8).is_empty());
    }

    #[test]
    fn what_has_just_come_in_waits_once_behind_a_full_window() {
        let mut window = Window::default();
        window.refill((1..=8).map(old).collect());
        let add = |window: &mut Window, limit| {
            let wanted = window.wants_fresh(2);
            assert_eq!(wanted.limit, limit);
            let fresh = page(&wanted, (101..=103).map(|n| due(n, NOW)));
            assert!(window.add_fresh(fresh, 2).is_empty());
            assert_eq!(window.waiting.len(), 9);
        };
        add(&mut window, 1);
        assert_eq!(window.take_next(NOW, 1, 2).unwrap().key.sequence, 101);
        add(&mut window, 2);
        assert_eq!(window.take_next(NOW, 1, 2).unwrap().key.sequence, 102);
        assert!(window.take_next(NOW, 1, 2).is_none());
        add(&mut window, 3);
        add(&mut window, 3);
        assert_eq!(window.take_next(NOW, 1, 2).unwrap().key.sequence, 103);
    }

    #[test]
    fn what_waits_no_more_is_told() {
        let mut window = Window::default();
        assert!(window.refill((1..=8).map(old).collect()).is_empty());
        let fresh = (101..=103).map(|n| due(n, NOW));
        assert_eq!(window.add_fresh(fresh.collect(), 2), [102, 103]);
        assert_eq!(window.take_oldest().unwrap().key.sequence, 1);
        let dropped = window.refill((3..=10).map(old).collect());
        assert_eq!(dropped, [2, 101]);
        window.add_fresh(vec![due(101, NOW)], 2);
        assert_eq!(window.without_waiting(dropped), [2]);
    }

    #[test]
    fn what_was_left_waits_in_its_turn_and_not_twice() {
        let mut window = Window::default();
        window.refill(vec![old(1), due(5, NOW)]);
        assert_eq!(window.take_oldest().unwrap().key.sequence, 1);
        let second = NOW.plus(Duration::from_secs(1));
        let left = [
            due(7, second),
            due(5, NOW),
            due(6, NOW),
            old(1),
            due(8, NOW),
        ];
        assert!(window.add_left(left.to_vec()));
        assert_eq!(sequences(&mut window, 0, 16), [5, 6, 8, 7]);
    }

    #[test]
    fn what_was_left_fills_the_window_and_no_more() {
        let mut window = Window::default();
        let count = i64::try_from(WINDOW_MAX).unwrap();
        assert!(window.add_left((1..=count).map(|n| due(n, NOW)).collect()));
        assert!(window.add_left(vec![due(1, NOW)]), "it waits already");
        assert!(!window.add_left(vec![due(count + 1, NOW)]));
        assert_eq!(window.waiting.len(), WINDOW_MAX);
    }

    #[test]
    fn a_lone_slot_serves_old_and_fresh_alike() {
        let mut window = Window::default();
        window.refill(vec![old(1), due(2, NOW)]);
        assert_eq!(sequences(&mut window, 0, 1), [1]);
        assert_eq!(sequences(&mut window, 0, 1), [2]);
    }

    #[test]
    fn fresh_is_a_first_attempt_soon_after_acceptance() {
        assert!(is_fresh(&due(1, NOW), NOW));
        assert!(!is_fresh(&due(1, NOW.minus(FRESH_FOR)), NOW));
        let mut tried = due(1, NOW);
        tried.attempts = 1;
        assert!(!is_fresh(&tried, NOW));
    }

    #[test]
    fn settlements_that_never_become_durable_stop_it() {
        let mut window = Window::default();
        let count = i64::try_from(WINDOW_MAX).unwrap();
        window.refill((1..=count + 1).map(old).collect());
        let begun = std::iter::from_fn(|| window.take_oldest()).count();
        assert_eq!(begun, WINDOW_MAX);
        window.release(1);
        assert!(window.take_oldest().is_some());
        assert!(window.take_oldest().is_none());
    }
}
