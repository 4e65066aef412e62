//! The short history of a delivery, as one column of its row: pure.
//!
//! Each event takes 16 bytes: its kind (1), the number of its word (3), how long it took in milliseconds
//! (4), when it began (8), all big-endian. The oldest go when there are more than [`EVENTS_MAX`]: a row
//! stays small, however often a delivery is tried. How many attempts there were is a column of its own.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::spool::EventKind;

/// Events that a delivery remembers.
pub(in crate::spool) const EVENTS_MAX: usize = 16;

const EVENT_BYTES: usize = 16;
const WORD_MAX: i64 = 0xff_ffff;

/// The latest events of one delivery, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::spool) struct History(Vec<u8>);

/// An event with the number of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::spool) struct Event {
    pub kind: EventKind,
    pub word: i64,
    pub at: Timestamp,
    pub took: Duration,
}

impl History {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn push(&mut self, event: Event) {
        let over = (self.0.len() + EVENT_BYTES).saturating_sub(EVENTS_MAX * EVENT_BYTES);
        self.0.drain(..over.min(self.0.len()));
        let word = u32::try_from(event.word.clamp(0, WORD_MAX)).unwrap_or(0);
        let took_ms = u32::try_from(event.took.as_millis()).unwrap_or(u32::MAX);
        self.0.push(event.kind as u8);
        self.0.extend_from_slice(&word.to_be_bytes()[1..]);
        self.0.extend_from_slice(&took_ms.to_be_bytes());
        self.0
            .extend_from_slice(&event.at.as_millis().to_be_bytes());
    }

    /// What is no event, in a damaged row, is left out.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.0.chunks_exact(EVENT_BYTES).filter_map(decode)
    }
}

fn decode(bytes: &[u8]) -> Option<Event> {
    let (kind, rest) = bytes.split_first()?;
    let (word, rest) = rest.split_first_chunk::<3>()?;
    let (took_ms, rest) = rest.split_first_chunk::<4>()?;
    let at = rest.first_chunk::<8>()?;
    Some(Event {
        kind: *EventKind::ALL.get(usize::from(*kind))?,
        word: i64::from(u32::from_be_bytes([0, word[0], word[1], word[2]])),
        at: Timestamp::from_millis(i64::from_be_bytes(*at)),
        took: Duration::from_millis(u32::from_be_bytes(*took_ms).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: i64) -> Event {
        Event {
            kind: EventKind::ALL[usize::try_from(n).unwrap() % EventKind::ALL.len()],
            word: WORD_MAX - n,
            at: Timestamp::from_millis(1_765_977_748_432 + n),
            took: Duration::from_millis(n.unsigned_abs()),
        }
    }

    #[test]
    fn the_latest_events_are_remembered_as_they_were() {
        let mut history = History::default();
        for n in 0..40 {
            history.push(event(n));
            let first = (n + 1 - 16).max(0);
            let expected: Vec<Event> = (first..=n).map(event).collect();
            assert_eq!(history.events().collect::<Vec<_>>(), expected);
        }
        assert_eq!(history.as_bytes().len(), EVENTS_MAX * EVENT_BYTES);
        let read = History::from_bytes(history.as_bytes());
        assert_eq!(read, history);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_not_wrapped() {
        let mut history = History::default();
        history.push(Event {
            word: WORD_MAX + 5,
            took: Duration::MAX,
            ..event(1)
        });
        let read = history.events().next().unwrap();
        assert_eq!(read.word, WORD_MAX);
        assert_eq!(read.took, Duration::from_millis(u32::MAX.into()));
    }

    #[test]
    fn a_damaged_row_has_a_shorter_history() {
        let mut history = History::default();
        history.push(event(1));
        let mut bytes = history.as_bytes().to_vec();
        bytes.extend([0xff; EVENT_BYTES + 3]);
        let read = History::from_bytes(&bytes);
        assert_eq!(read.events().collect::<Vec<_>>(), [event(1)]);
    }
}
