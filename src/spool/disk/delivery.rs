//! One delivery's row, and what happens to it: pure.

use std::time::Duration;

use rusqlite::Result as Sql;

use super::history::{Event, History};
use super::ledger::Step;
use crate::clock::Timestamp;
use crate::spool::{DeliveryState, EventKind, Settled, Settlement};

/// A row of `delivery`, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::spool) struct Row {
    pub state: DeliveryState,
    pub attempts: u32,
    pub due_at: Timestamp,
    /// Released or last replayed then; `None`: owed since acceptance.
    pub owed_since: Option<Timestamp>,
    /// Attempts made before it was last replayed.
    pub replayed_after: Option<u32>,
    /// A replay came before an attempt that was due then.
    pub resume_at: Option<Timestamp>,
    pub first_attempt_at: Option<Timestamp>,
    pub history: History,
}

impl Row {
    /// What [`Row::read`] reads, in its order.
    pub const COLUMNS: &str = "state, attempts, due_at, owed_since, replayed_after, resume_at, \
                               first_attempt_at, history";
    /// How many these are.
    pub const COLUMN_COUNT: usize = 8;

    /// From a row that begins with [`Row::COLUMNS`].
    pub fn read(row: &rusqlite::Row<'_>) -> Sql<Self> {
        let moment = |column| -> Sql<_> {
            let millis: Option<i64> = row.get(column)?;
            Ok(millis.map(Timestamp::from_millis))
        };
        Ok(Self {
            state: state(row, 0)?,
            attempts: row.get(1)?,
            due_at: Timestamp::from_millis(row.get(2)?),
            owed_since: moment(3)?,
            replayed_after: row.get(4)?,
            resume_at: moment(5)?,
            first_attempt_at: moment(6)?,
            history: History::from_bytes(row.get_ref(7)?.as_blob_or_null()?.unwrap_or_default()),
        })
    }

    /// Owed from now on, for the first time; due at once, behind nothing that has just come in.
    pub fn owed(at: Timestamp, received_at: Timestamp, kind: EventKind, by: i64) -> Self {
        let mut row = Self {
            state: DeliveryState::Pending,
            attempts: 0,
            due_at: received_at,
            owed_since: Some(at),
            replayed_after: (kind == EventKind::Replayed).then_some(0),
            resume_at: None,
            first_attempt_at: None,
            history: History::default(),
        };
        row.note(kind, by, at);
        row
    }

    /// An attempt of a pending delivery ended; `outcome` is the number of its outcome's word.
    pub fn settle(&mut self, settlement: &Settlement, outcome: i64) -> &'static [Step] {
        let began_at = settlement.at.minus(settlement.took);
        self.attempts = self.attempts.saturating_add(1);
        self.first_attempt_at.get_or_insert(began_at);
        self.history.push(Event {
            kind: match settlement.result {
                Settled::Delivered => EventKind::Delivered,
                Settled::DeadLettered => EventKind::DeadLettered,
                Settled::Retry { .. } => EventKind::Failed,
            },
            word: outcome,
            at: began_at,
            took: settlement.took,
        });
        match (settlement.result, self.resume_at.take()) {
            (Settled::Delivered, _) => {
                self.state = DeliveryState::Delivered;
                &[Step::Delivered]
            }
            (Settled::DeadLettered, None) => {
                self.state = DeliveryState::DeadLetter;
                &[Step::DeadLettered]
            }
            (Settled::Retry { due_at }, None) => {
                self.due_at = due_at;
                &[]
            }
            (result, Some(_)) if began_at < self.due_at => self.settle_before_replay(result),
            // The replay did not succeed: the attempt that was scheduled is made.
            (_, Some(resume_at)) => {
                self.due_at = resume_at;
                &[]
            }
        }
    }

    /// The attempt that ended was under way when the operator asked for another: that one is due.
    fn settle_before_replay(&mut self, result: Settled) -> &'static [Step] {
        if let Settled::Retry { due_at } = result {
            self.resume_at = Some(due_at);
            return &[];
        }
        self.owed_since = Some(self.due_at);
        self.replayed_after = Some(self.attempts);
        &[Step::DeadLettered, Step::ReplayedDead]
    }

    /// Owed again from now on, or sooner than it was; `None` if it is due already.
    pub fn replay(&mut self, at: Timestamp, by: i64) -> Option<&'static [Step]> {
        let steps = match self.state {
            DeliveryState::Pending if self.due_at <= at => return None,
            DeliveryState::Pending => {
                self.resume_at = Some(self.due_at);
                &[]
            }
            ended => {
                self.state = DeliveryState::Pending;
                self.owed_since = Some(at);
                self.replayed_after = Some(self.attempts);
                Step::replayed(ended)
            }
        };
        self.due_at = at;
        self.note(EventKind::Replayed, by, at);
        Some(steps)
    }

    /// False if it is no dead letter.
    pub fn discard(&mut self, at: Timestamp, by: i64) -> bool {
        if self.state != DeliveryState::DeadLetter {
            return false;
        }
        self.state = DeliveryState::Discarded;
        self.note(EventKind::Discarded, by, at);
        true
    }

    fn note(&mut self, kind: EventKind, by: i64, at: Timestamp) {
        self.history.push(Event {
            kind,
            word: by,
            at,
            took: Duration::ZERO,
        });
    }
}

/// The state that a column holds.
pub(in crate::spool) fn state(row: &rusqlite::Row<'_>, column: usize) -> Sql<DeliveryState> {
    let number: i64 = row.get(column)?;
    let known = usize::try_from(number)
        .ok()
        .and_then(|at| DeliveryState::ALL.get(at));
    known
        .copied()
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::spool::DeliveryKey;

    const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_hours(1);

    fn row() -> Row {
        Row::owed(NOW, NOW, EventKind::Released, 1)
    }

    /// Of an attempt that took a second, until `at`.
    fn ended(at: Timestamp, result: Settled) -> Settlement {
        Settlement {
            key: DeliveryKey {
                sequence: 1,
                target: Name::new("ehr").unwrap(),
            },
            at,
            took: SECOND,
            outcome: "timeout",
            result,
        }
    }

    #[test]
    fn an_attempt_leads_to_its_end_or_to_the_next() {
        let due_at = NOW.plus(HOUR);
        let cases = [
            (
                Settled::Delivered,
                DeliveryState::Delivered,
                &[Step::Delivered][..],
            ),
            (
                Settled::DeadLettered,
                DeliveryState::DeadLetter,
                &[Step::DeadLettered],
            ),
            (Settled::Retry { due_at }, DeliveryState::Pending, &[]),
        ];
        for (result, state, steps) in cases {
            let mut row = row();
            assert_eq!(row.settle(&ended(NOW.plus(HOUR), result), 7), steps);
            assert_eq!((row.state, row.attempts), (state, 1));
            let began_at = NOW.plus(HOUR).minus(SECOND);
            assert_eq!(row.first_attempt_at, Some(began_at));
            let event = row.history.events().last().unwrap();
            assert_eq!((event.at, event.took, event.word), (began_at, SECOND, 7));
        }
    }

    #[test]
    fn what_has_ended_is_owed_anew_and_what_is_due_is_not() {
        for ended in [
            DeliveryState::Delivered,
            DeliveryState::DeadLetter,
            DeliveryState::Discarded,
        ] {
            let mut row = Row {
                state: ended,
                attempts: 9,
                ..row()
            };
            let at = NOW.plus(HOUR);
            assert_eq!(row.replay(at, 1), Some(Step::replayed(ended)));
            assert_eq!((row.state, row.due_at), (DeliveryState::Pending, at));
            assert_eq!((row.owed_since, row.replayed_after), (Some(at), Some(9)));
            assert_eq!(row.replay(at, 1), None);
        }
    }

    /// A pending delivery that is due in an hour, and replayed now.
    fn sooner() -> Row {
        let mut row = row();
        row.due_at = NOW.plus(HOUR);
        assert_eq!(row.replay(NOW, 1), Some(&[][..]));
        row
    }

    #[test]
    fn a_replay_comes_before_a_scheduled_attempt_and_not_in_its_place() {
        assert_eq!(sooner().due_at, NOW);
        for result in [Settled::DeadLettered, Settled::Retry { due_at: NOW }] {
            let mut row = sooner();
            assert_eq!(row.settle(&ended(NOW.plus(SECOND), result), 7), []);
            assert_eq!((row.due_at, row.resume_at), (NOW.plus(HOUR), None));
            assert_eq!(row.state, DeliveryState::Pending);
        }
        let mut row = sooner();
        row.settle(&ended(NOW.plus(SECOND), Settled::Delivered), 7);
        assert_eq!(row.state, DeliveryState::Delivered);
    }

    #[test]
    fn an_attempt_that_was_under_way_is_not_the_replay() {
        let due_at = NOW.plus(HOUR * 2);
        let mut row = sooner();
        assert_eq!(row.settle(&ended(NOW, Settled::Retry { due_at }), 7), []);
        assert_eq!((row.due_at, row.resume_at), (NOW, Some(due_at)));

        let mut row = sooner();
        let steps = row.settle(&ended(NOW, Settled::DeadLettered), 7);
        assert_eq!(steps, [Step::DeadLettered, Step::ReplayedDead]);
        assert_eq!((row.state, row.due_at), (DeliveryState::Pending, NOW));
        assert_eq!((row.owed_since, row.replayed_after), (Some(NOW), Some(1)));
    }

    #[test]
    fn only_a_dead_letter_is_discarded() {
        for state in DeliveryState::ALL {
            let mut row = Row { state, ..row() };
            let dead = state == DeliveryState::DeadLetter;
            assert_eq!(row.discard(NOW, 1), dead);
            assert_eq!(
                row.state == DeliveryState::Discarded,
                dead || state == DeliveryState::Discarded
            );
        }
    }
}
