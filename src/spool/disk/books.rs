//! What the writer knows by heart, so as not to ask the disk for each row: the numbers of names, what
//! a batch changes for each target, and how the gauges move. A batch that fails is struck out.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, Result};
use tokio::sync::Notify;

use super::rows::{Entry, Names, Rows, Standing};
use super::wakes::Wakes;
use crate::name::Name;
use crate::notification::Notification;
use crate::spool::metrics::{Metrics, State, TargetMetrics};
use crate::spool::{Reason, Settled, Submission};

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
}

struct Target {
    id: i64,
    entry: Entry,
    wake: Arc<Notify>,
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
        };
        books.count_notifications(connection)?;
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
                let metrics = books.metrics.target(&name);
                let gauge = if dead {
                    metrics.dead_letters
                } else {
                    metrics.pending
                };
                gauge.set(row.get(1)?);
            }
        }
        Ok(books)
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
            entry: Entry::default(),
            wake: self.wakes.of(name),
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
            self.targets[*place].entry.accepted += 1;
        }
        if let Some(reason) = submission.quarantine {
            self.quarantine[reason as usize] += 1;
        }
        let quarantined = submission.quarantine.is_some();
        let state = State::of(i64::from(!places.is_empty()), 0, quarantined);
        self.notifications[state as usize] += 1;
    }

    /// A delivery stopped being pending, and left its notification like that.
    pub fn settled(&mut self, place: usize, result: Settled, standing: Standing) {
        let entry = &mut self.targets[place].entry;
        match result {
            Settled::Retry { .. } => return,
            Settled::Delivered => entry.delivered += 1,
            Settled::DeadLettered => entry.dead_lettered += 1,
        }
        let state = State::of(standing.pending, standing.dead, standing.quarantined);
        self.notifications[State::Pending as usize] -= 1;
        self.notifications[state as usize] += 1;
    }

    /// A settled notification is gone for good.
    pub fn forgotten(&mut self) {
        self.notifications[State::Settled as usize] -= 1;
    }

    /// Writes the batch's sums into the ledger.
    pub fn post(&self, rows: &mut Rows<'_>) -> Result<()> {
        let touched = |target: &&Target| target.entry != Entry::default();
        for target in self.targets.iter().filter(touched) {
            rows.post(target.id, target.entry)?;
        }
        Ok(())
    }

    /// The batch is on disk: moves the gauges and wakes the targets that got something.
    pub fn close(&mut self) {
        for target in &mut self.targets {
            let entry = std::mem::take(&mut target.entry);
            let gone = entry.delivered + entry.dead_lettered;
            target.metrics.pending.add(entry.accepted - gone);
            target.metrics.dead_letters.add(entry.dead_lettered);
            if entry.accepted > 0 {
                target.wake.notify_one();
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
    }

    /// The batch was undone, and with it numbers that names got in it.
    pub fn strike(&mut self) {
        self.names.clear();
        self.words.clear();
        self.targets.clear();
        self.by_name.clear();
        self.notifications = [0; State::ALL.len()];
        self.quarantine = [0; Reason::ALL.len()];
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

    fn name(&mut self, rows: &mut Rows<'_>, name: &Name) -> Result<i64> {
        if let Some(id) = self.names.get(name) {
            return Ok(*id);
        }
        let id = rows.name(name.as_str())?;
        self.names.insert(name.clone(), id);
        Ok(id)
    }
}
