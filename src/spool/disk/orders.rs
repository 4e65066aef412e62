//! What operators order, as the writer carries it out.
//!
//! An order is at most [`DEEDS_MAX`] deeds, done in one commit of its own, some 10 ms: submissions that
//! come meanwhile wait no longer than that, for between two orders everything else has its turn. A deed
//! looks at the row as it is: one that is done already changes nothing, so what a crash cut short is
//! ordered again as a whole.

use rusqlite::Result as Sql;
use tokio::sync::oneshot;

use super::delivery::Row;
use super::fault::Fault;
use super::ledger::Step;
use super::rows::{Change, Held};
use super::writer::Writer;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::{CustodyError, DeliveryKey, EventKind, Fatal};

/// Deeds in one order.
pub(super) const DEEDS_MAX: usize = 500;

pub(super) struct Order {
    pub deeds: Vec<Deed>,
    pub by: Name,
    pub at: Timestamp,
    /// How many deeds changed something.
    pub answer: oneshot::Sender<Result<u64, CustodyError>>,
}

#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// The delivery is owed again; or for the first time, if there was none.
    Replay(DeliveryKey),
    /// Out of quarantine, and owed to these as well.
    Release { sequence: i64, targets: Vec<Name> },
    /// An operator lets go of a dead letter.
    Discard(DeliveryKey),
    /// Out of quarantine, and owed to nobody more.
    LetGo { sequence: i64 },
}

impl Writer<'_> {
    pub(super) fn carry_out(&mut self, order: Order) -> Result<(), Fatal> {
        self.shared.pulse.begin();
        let done = match self.transact_order(&order) {
            Ok(done) => {
                self.close_books();
                Ok(done)
            }
            Err(error) => Err(match self.undo(&error)? {
                Fault::Full => CustodyError::Full,
                _ => CustodyError::Failed,
            }),
        };
        // Whoever does not wait for it has let go of the receiver.
        let _ = order.answer.send(done);
        self.keep_wal_short()?;
        self.shared.pulse.end();
        Ok(())
    }

    fn transact_order(&mut self, order: &Order) -> Sql<u64> {
        self.rows.begin()?;
        let by = self.books.name(&mut self.rows, &order.by)?;
        let mut done = 0;
        for deed in &order.deeds {
            done += u64::from(match deed {
                Deed::Replay(key) => self.replay(key, order.at, by)?,
                Deed::Release { sequence, targets } => {
                    self.release(*sequence, targets, order.at, by)?
                }
                Deed::Discard(key) => self.discard(key, order.at, by)?,
                Deed::LetGo { sequence } => self.let_go(*sequence, order.at)?,
            });
        }
        self.books.post(&mut self.rows)?;
        self.rows.commit()?;
        Ok(done)
    }

    fn replay(&mut self, key: &DeliveryKey, at: Timestamp, by: i64) -> Sql<bool> {
        let Some(held) = self.held(key.sequence)? else {
            return Ok(false);
        };
        let place = self.books.target(&mut self.rows, &key.target)?;
        let target = self.books.target_id(place);
        let Some(mut row) = self.rows.find_delivery(key.sequence, target)? else {
            return self.owe(key.sequence, place, &held, EventKind::Replayed, at, by);
        };
        let Some(steps) = row.replay(at, by) else {
            return Ok(false);
        };
        self.rows.put_delivery(key.sequence, target, &row)?;
        self.books.hurried(place);
        self.books.reopened(key.sequence);
        self.take(key.sequence, place, steps, at)?;
        Ok(true)
    }

    fn release(&mut self, sequence: i64, targets: &[Name], at: Timestamp, by: i64) -> Sql<bool> {
        let held = self.held(sequence)?;
        let Some(held) = held.filter(|held| held.quarantine.is_some()) else {
            return Ok(false);
        };
        for name in targets {
            let place = self.books.target(&mut self.rows, name)?;
            self.owe(sequence, place, &held, EventKind::Released, at, by)?;
        }
        self.leave_quarantine(sequence, &held, at)
    }

    fn discard(&mut self, key: &DeliveryKey, at: Timestamp, by: i64) -> Sql<bool> {
        let place = self.books.target(&mut self.rows, &key.target)?;
        let target = self.books.target_id(place);
        let Some(mut row) = self.rows.find_delivery(key.sequence, target)? else {
            return Ok(false);
        };
        if !row.discard(at, by) {
            return Ok(false);
        }
        self.rows.put_delivery(key.sequence, target, &row)?;
        self.take(key.sequence, place, &[Step::Discarded], at)?;
        Ok(true)
    }

    fn let_go(&mut self, sequence: i64, at: Timestamp) -> Sql<bool> {
        match self.held(sequence)? {
            Some(held) => self.leave_quarantine(sequence, &held, at),
            None => Ok(false),
        }
    }

    /// A new delivery, unless there is one for the target already.
    fn owe(
        &mut self,
        sequence: i64,
        place: usize,
        held: &Held,
        kind: EventKind,
        at: Timestamp,
        by: i64,
    ) -> Sql<bool> {
        let target = self.books.target_id(place);
        if self.rows.find_delivery(sequence, target)?.is_some() {
            return Ok(false);
        }
        let row = Row::owed(at, held.received_at, kind, by);
        self.rows.add_delivery(sequence, target, &row)?;
        self.books.reopened(sequence);
        self.take(sequence, place, &[Step::Accepted], at)?;
        Ok(true)
    }

    fn leave_quarantine(&mut self, sequence: i64, held: &Held, at: Timestamp) -> Sql<bool> {
        let Some(reason) = held.quarantine else {
            return Ok(false);
        };
        let change = Change {
            let_go: true,
            ..Change::default()
        };
        self.restand(sequence, change, at)?;
        self.books.let_go(reason);
        Ok(true)
    }

    /// The notification, if there is something to send.
    fn held(&mut self, sequence: i64) -> Sql<Option<Held>> {
        let held = self.rows.find_notification(sequence)?;
        Ok(held.filter(|held| !held.emptied))
    }

    pub(super) fn close_books(&mut self) {
        if let Some(oldest) = self.books.close() {
            self.shared.reopened.note(oldest);
        }
    }
}
