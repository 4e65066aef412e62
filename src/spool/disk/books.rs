//! What the writer knows by heart, so as not to ask the disk for each row: the numbers of names, what
//! a batch changes for each target, and how the gauges move. A batch that fails is struck out.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, Result};

use super::fault::is_damage;
use super::ledger::{self, Posting, Step};
use super::rows::{Change, Names, Rows, Standing};
use super::wakes::Wakes;
use crate::name::Name;
use crate::notification::{Notification, Record};
use crate::spool::metrics::{Metrics, Op, State, TargetMetrics};
use crate::spool::{DeliveryKey, DeliveryState, Doorstep, Due, Reason, Submission};

pub(super) struct Books {
    metrics: Metrics,
    wakes: Arc<Wakes>,
    names: HashMap<Name, i64>,
    /// Of outcomes.
    words: HashMap<&'static str, i64>,
    targets: Vec<Target>,
    by_name: HashMap<Name, usize>,
    /// Moves of the gauges in the batch at hand.
    notifications: [i64; State::ALL.len()],
    quarantine: [i64; Reason::ALL.len()],
    /// Deliveries that left, by the number of their target.
    forgotten: HashMap<i64, Posting>,
    /// The oldest notification that is owed again, or to another target.
    reopened: Option<i64>,
}

struct Target {
    id: i64,
    posting: Posting,
    /// Something new came for it.
    come: bool,
    /// Something else is due for it that was not, or not yet.
    woken: bool,
    doorstep: Arc<Doorstep>,
    metrics: TargetMetrics,
}

impl Books {
    /// Counts what is there: what the gauges show from the start.
    pub fn open(connection: &Connection, metrics: Metrics, wakes: Arc<Wakes>) -> Result<Self> {
        let books = Self {
            metrics,
            wakes,
            names: HashMap::new(),
            words: HashMap::new(),
            targets: Vec::new(),
            by_name: HashMap::new(),
            notifications: [0; State::ALL.len()],
            quarantine: [0; Reason::ALL.len()],
            forgotten: HashMap::new(),
            reopened: None,
        };
        match books.count(connection) {
            Err(error) if is_damage(&error) => {
                books.metrics.error(Op::Read);
                tracing::error!(
                    "a page of the spool is damaged: what is in it could not be counted, and its gauges are off. \
                     Look at the volume"
                );
            }
            counted => counted?,
        }
        Ok(books)
    }

    fn count(&self, connection: &Connection) -> Result<()> {
        self.count_notifications(connection)?;
        for (state, dead) in [(0, false), (2, true)] {
            let sql = format!(
                "SELECT text, count(*) FROM delivery JOIN name ON id = target
                 WHERE state = {state} GROUP BY target"
            );
            let mut counts = connection.prepare(&sql)?;
            let mut rows = counts.query([])?;
            while let Some(row) = rows.next()? {
                let text: String = row.get(0)?;
                let Ok(name) = Name::new(&text) else { continue };
                let metrics = self.metrics.target(&name);
                let gauge = if dead {
                    metrics.dead_letters
                } else {
                    metrics.pending
                };
                gauge.set(row.get(1)?);
            }
        }
        Ok(())
    }

    fn count_notifications(&self, connection: &Connection) -> Result<()> {
        let (all, pending, settled): (i64, i64, i64) = connection.query_row(
            "SELECT count(*), coalesce(sum(pending > 0), 0), coalesce(sum(settled_at IS NOT NULL), 0)
             FROM notification",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        self.metrics.notifications(State::Pending).set(pending);
        self.metrics.notifications(State::Settled).set(settled);
        let held = all - pending - settled;
        self.metrics.notifications(State::Held).set(held);
        let mut count =
            connection.prepare("SELECT count(*) FROM notification WHERE quarantine = ?1")?;
        for reason in Reason::ALL {
            let held = count.query_row([reason.as_str()], |row| row.get(0))?;
            self.metrics.quarantine(reason).set(held);
        }
        Ok(())
    }

    /// Numbers of the source and the secret.
    pub fn names(&mut self, rows: &mut Rows<'_>, notification: &Notification) -> Result<Names> {
        Ok(Names {
            source: self.name(rows, &notification.source)?,
            secret: self.name(rows, &notification.secret)?,
        })
    }

    /// Places in these books of the targets, each once.
    pub fn targets(
        &mut self,
        rows: &mut Rows<'_>,
        names: &[Name],
        places: &mut Vec<usize>,
    ) -> Result<()> {
        places.clear();
        for name in names {
            let place = self.target(rows, name)?;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Ok(())
    }

    /// Place of one target.
    pub fn target(&mut self, rows: &mut Rows<'_>, name: &Name) -> Result<usize> {
        if let Some(place) = self.by_name.get(name) {
            return Ok(*place);
        }
        let id = self.name(rows, name)?;
        let place = self.targets.len();
        self.targets.push(Target {
            id,
            posting: Posting::default(),
            come: false,
            woken: false,
            doorstep: self.wakes.of(name),
            metrics: self.metrics.target(name),
        });
        self.by_name.insert(name.clone(), place);
        Ok(place)
    }

    pub fn target_id(&self, place: usize) -> i64 {
        self.targets[place].id
    }

    pub fn kept(&mut self, submission: &Submission, places: &[usize]) {
        for place in places {
            let target = &mut self.targets[*place];
            target.posting[Step::Accepted as usize] += 1;
            target.come = true;
        }
        if let Some(reason) = submission.quarantine {
            self.quarantine[reason as usize] += 1;
        }
        let quarantined = submission.quarantine.is_some();
        let state = State::of(i64::from(!places.is_empty()), 0, quarantined);
        self.notifications[state as usize] += 1;
    }

    /// This is on disk as that number: workers that wait for it need not read it back.
    pub fn leave(&self, sequence: i64, submission: &Submission) {
        let notification = &submission.notification;
        let body_bytes = notification.body.len();
        // The body as it came holds a share of the ingress's budget: one copy is for all targets.
        let mut copy = None;
        for name in &submission.targets {
            if let Some(place) = self.by_name.get(name) {
                let delivery = || {
                    let body =
                        copy.get_or_insert_with(|| Bytes::copy_from_slice(&notification.body));
                    delivery(sequence, name, notification, body.clone())
                };
                self.targets[*place].doorstep.leave(body_bytes, delivery);
            }
        }
    }

    /// A delivery took these steps.
    pub fn step(&mut self, place: usize, steps: &[Step]) {
        let target = &mut self.targets[place];
        for step in steps {
            target.posting[*step as usize] += 1;
        }
        target.woken |= standing(steps).pending > 0;
    }

    /// A delivery is due sooner than it was.
    pub fn hurried(&mut self, place: usize) {
        self.targets[place].woken = true;
    }

    /// A notification that had been looked at is owed again.
    pub fn reopened(&mut self, seq: i64) {
        let oldest = self.reopened.map_or(seq, |before| before.min(seq));
        self.reopened = Some(oldest);
    }

    /// A notification changed in how it stands, to this.
    pub fn restood(&mut self, change: Change, after: Standing) {
        let pending = after.pending - change.pending;
        let dead = after.dead - change.dead;
        let before = State::of(pending, dead, after.quarantined || change.let_go);
        let after = State::of(after.pending, after.dead, after.quarantined);
        self.notifications[before as usize] -= 1;
        self.notifications[after as usize] += 1;
    }

    /// A notification is no longer in quarantine.
    pub fn let_go(&mut self, reason: Reason) {
        self.quarantine[reason as usize] -= 1;
    }

    /// Settled deliveries are gone for good.
    pub fn forgotten(&mut self, deliveries: &[(i64, DeliveryState)]) {
        for (target, state) in deliveries {
            if let Some(step) = Step::forgotten(*state) {
                self.forgotten.entry(*target).or_default()[step as usize] += 1;
            }
        }
    }

    /// Notifications that are settled.
    pub fn settled(&self) -> u64 {
        let gauge = self.metrics.notifications(State::Settled);
        let settled = gauge.get() + self.notifications[State::Settled as usize];
        u64::try_from(settled).unwrap_or(0)
    }

    /// So many settled notifications are gone for good.
    pub fn unmarked(&mut self, count: usize) {
        self.notifications[State::Settled as usize] -= i64::try_from(count).unwrap_or(i64::MAX);
    }

    /// Writes the batch's sums into the ledger.
    pub fn post(&self, rows: &mut Rows<'_>) -> Result<()> {
        for target in &self.targets {
            if target.posting != Posting::default() {
                rows.post(target.id, &target.posting)?;
            }
        }
        for (target, posting) in &self.forgotten {
            rows.post(*target, posting)?;
        }
        Ok(())
    }

    /// The batch is on disk: moves the gauges and wakes the targets that got something. Returns the
    /// oldest notification that is owed again.
    pub fn close(&mut self) -> Option<i64> {
        for target in &mut self.targets {
            let posting = std::mem::take(&mut target.posting);
            let moved = ledger::standings(&posting);
            let metrics = &target.metrics;
            metrics.pending.add(moved[DeliveryState::Pending as usize]);
            metrics
                .dead_letters
                .add(moved[DeliveryState::DeadLetter as usize]);
            for (counter, step) in [
                (&metrics.delivered, Step::Delivered),
                (&metrics.dead_lettered, Step::DeadLettered),
                (&metrics.discarded, Step::Discarded),
            ] {
                counter.inc_by(posting[step as usize].unsigned_abs());
            }
            let come = std::mem::take(&mut target.come);
            if std::mem::take(&mut target.woken) {
                target.doorstep.ring();
            } else if come {
                target.doorstep.tell();
            }
        }
        for state in State::ALL {
            let moved = std::mem::take(&mut self.notifications[state as usize]);
            self.metrics.notifications(state).add(moved);
        }
        for reason in Reason::ALL {
            let moved = std::mem::take(&mut self.quarantine[reason as usize]);
            self.metrics.quarantine(reason).add(moved);
        }
        self.forgotten.clear();
        self.reopened.take()
    }

    /// The batch was undone, and with it numbers that names got in it.
    pub fn strike(&mut self) {
        self.names.clear();
        self.words.clear();
        self.targets.clear();
        self.by_name.clear();
        self.notifications = [0; State::ALL.len()];
        self.quarantine = [0; Reason::ALL.len()];
        self.forgotten.clear();
        self.reopened = None;
    }

    /// Number of an outcome's word.
    pub fn word(&mut self, rows: &mut Rows<'_>, word: &'static str) -> Result<i64> {
        if let Some(id) = self.words.get(word) {
            return Ok(*id);
        }
        let id = rows.name(word)?;
        self.words.insert(word, id);
        Ok(id)
    }

    /// Number of a name.
    pub fn name(&mut self, rows: &mut Rows<'_>, name: &Name) -> Result<i64> {
        if let Some(id) = self.names.get(name) {
            return Ok(*id);
        }
        let id = rows.name(name.as_str())?;
        self.names.insert(name.clone(), id);
        Ok(id)
    }
}

/// As a reader would find it.
fn delivery(sequence: i64, target: &Name, record: &Record, body: Bytes) -> Due {
    Due {
        key: DeliveryKey {
            sequence,
            target: target.clone(),
        },
        record: Record {
            body,
            ..record.clone()
        },
        attempts: 0,
        attempts_before: 0,
        owed_since: record.received_at,
        due_at: record.received_at,
        replay: false,
        resume_at: None,
    }
}

/// What steps of one delivery change in how its notification stands.
pub(in crate::spool) fn standing(steps: &[Step]) -> Change {
    let mut posting = Posting::default();
    for step in steps {
        posting[*step as usize] += 1;
    }
    let moved = ledger::standings(&posting);
    Change {
        pending: moved[DeliveryState::Pending as usize],
        dead: moved[DeliveryState::DeadLetter as usize],
        let_go: false,
    }
}
