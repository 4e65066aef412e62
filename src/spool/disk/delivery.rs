//! One delivery's row, and what happens to it: pure.

use rusqlite::Result as Sql;

use super::history::{Event, History};
use crate::clock::Timestamp;
use crate::spool::{DeliveryState, EventKind, Settled, Settlement};

/// A row of `delivery`, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
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
    pub const COLUMN_COUNT: usize = 8;

    /// From a row that begins with [`Row::COLUMNS`].
    pub fn read(row: &rusqlite::Row<'_>) -> Sql<Self> {
        let moment = |column| -> Sql<_> {
            let millis: Option<i64> = row.get(column)?;
            Ok(millis.map(Timestamp::from_millis))
        };
        let state: u8 = row.get(0)?;
        let state = DeliveryState::ALL.get(usize::from(state)).copied();
        Ok(Self {
            state: state.ok_or(rusqlite::Error::InvalidQuery)?,
            attempts: row.get(1)?,
            due_at: Timestamp::from_millis(row.get(2)?),
            owed_since: moment(3)?,
            replayed_after: row.get(4)?,
            resume_at: moment(5)?,
            first_attempt_at: moment(6)?,
            history: History::from_bytes(row.get_ref(7)?.as_blob_or_null()?.unwrap_or_default()),
        })
    }

    /// An attempt of a pending delivery ended; `outcome` is the number of its outcome's word.
    pub fn settle(&mut self, settlement: &Settlement, outcome: i64) {
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
        match settlement.result {
            Settled::Delivered => self.state = DeliveryState::Delivered,
            Settled::DeadLettered => self.state = DeliveryState::DeadLetter,
            Settled::Retry { due_at } => self.due_at = due_at,
        }
    }
}
