//! What one transaction changes: rows as they were read and locked, worked on in memory, and written back
//! with their counters in a few statements.
//!
//! Every transaction locks in one order: notifications, deliveries, new marks, counters, each by its key.
//! So two relays wait for each other and never in a circle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use tokio_postgres::Row as SqlRow;

use super::fault::Error;
use super::lease::Lease;
use super::record;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::disk::books::standing;
use crate::spool::disk::delivery::Row;
use crate::spool::disk::ledger::{Posting, Step};
use crate::spool::disk::rows::{Change, Held};
use crate::spool::metrics::State;
use crate::spool::orders::Desk;
use crate::spool::{DeliveryKey, DeliveryState, Reason, Settlement};

/// Rows and counters of one transaction.
#[derive(Default)]
pub(super) struct Sheet {
    /// The relay whose claims may be settled.
    pub relay: i64,
    /// Numbers of every name that the transaction meets.
    pub numbers: HashMap<Name, i64>,
    pub notifications: BTreeMap<i64, Notification>,
    /// By sequence and target.
    pub deliveries: BTreeMap<(i64, i64), Delivery>,
    pub books: Books,
}

/// A row of `notification`, as far as it changes.
pub(super) struct Notification {
    pub received_at: Timestamp,
    pub quarantine: Option<Reason>,
    pub pending: i64,
    pub dead: i64,
    pub settled_at: Option<Timestamp>,
    pub changed: bool,
}

pub(super) struct Delivery {
    pub row: Row,
    pub owner: Option<i64>,
    pub changed: bool,
}

/// How the counters move.
#[derive(Default)]
pub(super) struct Books {
    /// By the number of the target.
    pub postings: BTreeMap<i64, Posting>,
    /// By [`kind`].
    pub tally: BTreeMap<i64, i64>,
    /// Something is due to these that was not, or not yet.
    pub woken: BTreeSet<i64>,
}

/// The number of a state of notifications in the table `tally`.
pub(super) const fn kind(state: State) -> i64 {
    state as i64
}

/// The number of a reason of quarantine in the table `tally`.
pub(super) const fn kind_of_quarantine(reason: Reason) -> i64 {
    10 + reason as i64
}

impl Sheet {
    pub fn of(lease: &Lease) -> Self {
        Self {
            relay: lease.relay,
            ..Self::default()
        }
    }

    /// The number of a name that was met before; no name has the number 0.
    pub fn number(&self, name: &Name) -> i64 {
        self.numbers.get(name).copied().unwrap_or_default()
    }

    /// Takes in rows of `notification`: sequence, when received, quarantine, pending, dead, settled.
    pub fn take_notifications(&mut self, rows: &[SqlRow]) -> Result<(), Error> {
        for row in rows {
            let quarantine: Option<&str> = row.try_get(2)?;
            let notification = Notification {
                received_at: Timestamp::from_millis(row.try_get(1)?),
                quarantine: quarantine.and_then(Reason::parse),
                pending: row.try_get(3)?,
                dead: row.try_get(4)?,
                settled_at: record::moment(row, 5)?,
                changed: false,
            };
            self.notifications.insert(row.try_get(0)?, notification);
        }
        Ok(())
    }

    /// Takes in rows of `delivery`: sequence, target, owner, and what [`record::delivery`] reads.
    pub fn take_deliveries(&mut self, rows: &[SqlRow]) -> Result<(), Error> {
        for row in rows {
            let delivery = Delivery {
                owner: row.try_get(2)?,
                row: record::delivery(row, 3)?,
                changed: false,
            };
            let key = (row.try_get(0)?, row.try_get(1)?);
            self.deliveries.insert(key, delivery);
        }
        Ok(())
    }

    /// What an attempt did, if the delivery is still in this relay's hands. It is in nobody's then.
    pub fn settle(&mut self, settlement: &Settlement, outcome: i64) {
        let Some(key) = self.key(&settlement.key) else {
            return;
        };
        let Some(delivery) = self.deliveries.get_mut(&key) else {
            return;
        };
        let ours =
            delivery.owner == Some(self.relay) || cfg!(sabotage = "settled-though-it-was-taken");
        if !ours || delivery.row.state != DeliveryState::Pending {
            return;
        }
        let steps = delivery.row.settle(settlement, outcome);
        delivery.owner = None;
        delivery.changed = true;
        self.step(key, steps, settlement.at);
    }

    fn key(&self, key: &DeliveryKey) -> Option<(i64, i64)> {
        Some((key.sequence, *self.numbers.get(&key.target)?))
    }

    fn step(&mut self, (sequence, target): (i64, i64), steps: &[Step], at: Timestamp) {
        self.books.step(target, steps);
        self.restand(sequence, standing(steps), at);
    }

    fn restand(&mut self, sequence: i64, change: Change, at: Timestamp) {
        let Some(notification) = self.notifications.get_mut(&sequence) else {
            return;
        };
        if change == Change::default() {
            return;
        }
        self.books.count(kind(notification.state()), -1);
        notification.pending += change.pending;
        notification.dead += change.dead;
        if change.let_go {
            notification.quarantine = None;
        }
        let after = notification.state();
        notification.settled_at = (after == State::Settled).then_some(at);
        notification.changed = true;
        self.books.count(kind(after), 1);
    }
}

impl Desk for Sheet {
    type Error = Infallible;

    fn held(&mut self, sequence: i64) -> Result<Option<Held>, Infallible> {
        let held = self.notifications.get(&sequence);
        Ok(held.map(|notification| Held {
            received_at: notification.received_at,
            quarantine: notification.quarantine,
            emptied: false,
        }))
    }

    fn find(&mut self, key: &DeliveryKey) -> Result<Option<Row>, Infallible> {
        let found = self.key(key).and_then(|key| self.deliveries.get(&key));
        Ok(found.map(|delivery| delivery.row.clone()))
    }

    /// It stays in the hands that it is in: an attempt may be under way.
    fn put(
        &mut self,
        key: &DeliveryKey,
        row: &Row,
        steps: &'static [Step],
        at: Timestamp,
    ) -> Result<(), Infallible> {
        let Some(key) = self.key(key) else {
            return Ok(());
        };
        if let Some(delivery) = self.deliveries.get_mut(&key) {
            delivery.row = row.clone();
            delivery.changed = true;
        }
        if row.state == DeliveryState::Pending {
            self.books.woken.insert(key.1);
        }
        self.step(key, steps, at);
        Ok(())
    }

    fn add(&mut self, key: &DeliveryKey, row: &Row, at: Timestamp) -> Result<(), Infallible> {
        let Some(key) = self.key(key) else {
            return Ok(());
        };
        let delivery = Delivery {
            row: row.clone(),
            owner: None,
            changed: true,
        };
        self.deliveries.insert(key, delivery);
        self.step(key, &[Step::Accepted], at);
        Ok(())
    }

    fn leave_quarantine(
        &mut self,
        sequence: i64,
        reason: Reason,
        at: Timestamp,
    ) -> Result<(), Infallible> {
        let change = Change {
            let_go: true,
            ..Change::default()
        };
        self.restand(sequence, change, at);
        self.books.count(kind_of_quarantine(reason), -1);
        Ok(())
    }
}

impl Notification {
    fn state(&self) -> State {
        State::of(self.pending, self.dead, self.quarantine.is_some())
    }
}

impl Books {
    pub fn step(&mut self, target: i64, steps: &[Step]) {
        let posting = self.postings.entry(target).or_default();
        for step in steps {
            posting[*step as usize] += 1;
        }
        if standing(steps).pending > 0 {
            self.woken.insert(target);
        }
    }

    pub fn count(&mut self, kind: i64, by: i64) {
        *self.tally.entry(kind).or_default() += by;
    }
}
