//! How the writer carries an operator's order out: in a commit of its own. What deeds do is in
//! `spool/orders.rs`.
//!
//! A deed to what is damaged is left out, and the others are done; of an order for all or none, nothing is.

use rusqlite::Result as Sql;

use super::delivery::Row;
use super::fault::{Fault, is_damage};
use super::ledger::Step;
use super::rows::{Change, Held};
use super::writer::Writer;
use crate::clock::Timestamp;
use crate::spool::metrics::Op;
use crate::spool::orders::{Deed, Desk, Order};
use crate::spool::{CustodyError, DeliveryKey, DeliveryState, Fatal, Reason};

impl Writer<'_> {
    pub(super) fn carry_out(&mut self, mut order: Order) -> Result<(), Fatal> {
        let done = match self.transact_sound(&mut order) {
            Ok(Some(done)) => {
                self.close_books();
                Ok(done)
            }
            Ok(None) => Err(CustodyError::Changed {
                done: 0,
                matched: order.deeds.len() as u64,
            }),
            Err(error) if self.doing.take().is_some() && is_damage(&error) => {
                self.undo_read(&error)?;
                Err(CustodyError::Damaged)
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

    /// Begins anew without each deed that meets damage.
    fn transact_sound(&mut self, order: &mut Order) -> Sql<Option<u64>> {
        loop {
            self.shared.pulse.begin();
            let done = self.transact_order(order);
            let (Err(error), Some(n)) = (&done, self.doing) else {
                return done;
            };
            if !is_damage(error) {
                return done;
            }
            self.tell_of_deed(&order.deeds[n]);
            if order.all_or_none {
                return done;
            }
            order.deeds.remove(n);
            self.books.strike();
            self.rows.rollback()?;
        }
    }

    fn tell_of_deed(&self, deed: &Deed) {
        self.shared.metrics.error(Op::Read);
        let target = match deed.targets() {
            [target] => Some(tracing::field::display(target)),
            _ => None,
        };
        tracing::error!(
            sequence = deed.sequence(),
            target,
            "an operator's order cannot change it: its record is damaged. Look at the volume"
        );
    }

    /// `None`: it was for all or none, and not all can be done.
    fn transact_order(&mut self, order: &Order) -> Sql<Option<u64>> {
        self.doing = None;
        self.rows.begin()?;
        let by = self.books.name(&mut self.rows, &order.by)?;
        let mut done = 0;
        for (n, deed) in order.deeds.iter().enumerate() {
            self.doing = Some(n);
            done += u64::from(deed.carry_out(self, order.at, by)?);
        }
        self.doing = None;
        if order.all_or_none && done < order.deeds.len() as u64 {
            self.books.strike();
            self.rows.rollback()?;
            return Ok(None);
        }
        self.note(&order.note, done)?;
        self.books.post(&mut self.rows)?;
        self.rows.commit()?;
        Ok(Some(done))
    }

    pub(super) fn close_books(&mut self) {
        if let Some(oldest) = self.books.close() {
            self.shared.reopened.note(oldest);
        }
    }
}

impl Desk for Writer<'_> {
    type Error = rusqlite::Error;

    fn held(&mut self, sequence: i64) -> Sql<Option<Held>> {
        let held = self.rows.find_notification(sequence)?;
        Ok(held.filter(|held| !held.emptied))
    }

    fn find(&mut self, key: &DeliveryKey) -> Sql<Option<Row>> {
        let place = self.books.target(&mut self.rows, &key.target)?;
        let target = self.books.target_id(place);
        self.rows.find_delivery(key.sequence, target)
    }

    fn put(
        &mut self,
        key: &DeliveryKey,
        row: &Row,
        steps: &'static [Step],
        at: Timestamp,
    ) -> Sql<()> {
        let place = self.books.target(&mut self.rows, &key.target)?;
        let target = self.books.target_id(place);
        self.rows.put_delivery(key.sequence, target, row)?;
        if row.state == DeliveryState::Pending {
            self.books.hurried(place);
            self.books.reopened(key.sequence);
        }
        self.take(key.sequence, place, steps, at)
    }

    fn add(&mut self, key: &DeliveryKey, row: &Row, at: Timestamp) -> Sql<()> {
        let place = self.books.target(&mut self.rows, &key.target)?;
        let target = self.books.target_id(place);
        self.rows.add_delivery(key.sequence, target, row)?;
        self.books.reopened(key.sequence);
        self.take(key.sequence, place, &[Step::Accepted], at)
    }

    fn leave_quarantine(&mut self, sequence: i64, reason: Reason, at: Timestamp) -> Sql<()> {
        let change = Change {
            let_go: true,
            ..Change::default()
        };
        self.restand(sequence, change, at)?;
        self.books.let_go(reason);
        Ok(())
    }
}
