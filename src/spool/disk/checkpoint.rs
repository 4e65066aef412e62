//! The checkpointer: copies the WAL into the database off the request path, on a connection of its
//! own, looks once a second for the oldest delivery that each target is still owed, and holds the ledger
//! against the rows now and then.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB, OptionalExtension, Result as Sql};

use super::Shared;
use super::fault::{Fault, is_busy, is_damage};
use super::ledger;
use super::signals::Rung;
use super::writer::TICK;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::Fatal;
use crate::spool::metrics::Op;

/// Deliveries looked at for one target in one second: some 10 ms.
const SWEEP_MAX: i64 = 100_000;

/// The ledger is held against the rows no more often than this …
const BALANCE_PAUSE_MIN: Duration = Duration::from_secs(10);

/// … and takes no more than one part in so many of one core.
const BALANCE_SHARE: u32 = 100;

pub(super) struct Checkpointer<'c> {
    connection: Connection,
    shared: &'c Shared,
    /// By target: nothing up to this number is pending. Only an operator makes an old delivery pending
    /// again, and then that is told: else each row is looked at once.
    swept: HashMap<i64, i64>,
}

impl<'c> Checkpointer<'c> {
    pub fn new(connection: Connection, shared: &'c Shared) -> Self {
        Self {
            connection,
            shared,
            swept: HashMap::new(),
        }
    }

    /// Serves the bell until it ends.
    pub fn run(&mut self) -> Result<(), Fatal> {
        let mut copy_after = Instant::now();
        let mut look_after = Instant::now();
        let mut balance_after = Instant::now();
        loop {
            let rung = self.shared.bell.wait(TICK);
            let now = Instant::now();
            if rung == Rung::End {
                return Ok(());
            }
            if rung == Rung::Yes && now >= copy_after && !self.copy()? {
                copy_after = now + TICK;
            }
            if now >= balance_after {
                balance_after = self.balance() + BALANCE_PAUSE_MIN;
            }
            if now >= look_after {
                look_after = now + TICK;
                if self.find_oldest().is_err() {
                    self.shared.metrics.error(Op::Read);
                }
            }
        }
    }

    /// False if it did not work this time.
    fn copy(&self) -> Result<bool, Fatal> {
        if self.shared.writers_turn.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let Err(error) = self
            .connection
            .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE)
        else {
            return Ok(true);
        };
        // The writer is restarting the WAL: it has done our work.
        if is_busy(&error) {
            return Ok(true);
        }
        self.shared.metrics.error(Op::Checkpoint);
        match self.shared.judge(&error) {
            Fault::Fatal | Fault::Unwritten => Err(Fatal::new(Op::Checkpoint, &error)),
            Fault::Full | Fault::Failed => Ok(false),
        }
    }

    /// Holds the ledger against the rows; returns when that may be done again, but for a pause.
    fn balance(&self) -> Instant {
        let began = Instant::now();
        let gauge = &self.shared.metrics.ledger_imbalance;
        match ledger::imbalance(&self.connection) {
            Ok(off) if off == gauge.get() => {}
            Ok(off) => {
                if off > 0 {
                    tracing::error!(
                        deliveries = off,
                        "the ledger and the rows of the spool differ: please report it, with what an audit of \
                         the stopped relay's folder says"
                    );
                }
                gauge.set(off);
            }
            Err(_) => self.shared.metrics.error(Op::Read),
        }
        Instant::now() + began.elapsed() * BALANCE_SHARE
    }

    fn find_oldest(&mut self) -> Sql<()> {
        if let Some(reopened) = self.shared.reopened.take() {
            for swept in self.swept.values_mut() {
                *swept = (*swept).min(reopened - 1);
            }
        }
        let snapshot = self.connection.unchecked_transaction()?;
        let newest: i64 =
            snapshot.query_row("SELECT coalesce(max(seq), 0) FROM delivery", [], |row| {
                row.get(0)
            })?;
        let first: i64 =
            snapshot.query_row("SELECT coalesce(min(seq), 1) FROM delivery", [], |row| {
                row.get(0)
            })?;
        let mut targets =
            snapshot.prepare_cached("SELECT target, text FROM ledger JOIN name ON id = target")?;
        // NOT INDEXED: in order of the primary key, not of the index by due time.
        let mut find = snapshot.prepare_cached(
            "SELECT seq, received_at FROM notification JOIN (
                 SELECT seq FROM delivery NOT INDEXED
                 WHERE seq > ?1 AND seq <= ?2 AND target = ?3 AND state = 0
                 ORDER BY seq LIMIT 1
             ) USING (seq)",
        )?;
        let mut rows = targets.query([])?;
        while let Some(row) = rows.next()? {
            let (target, text): (i64, String) = (row.get(0)?, row.get(1)?);
            let Ok(name) = Name::new(&text) else { continue };
            let swept = self.swept.entry(target).or_insert(0);
            let from = (*swept).max(first - 1);
            let to = newest.min(from.saturating_add(SWEEP_MAX));
            let oldest = find.query_row([from, to, target], |row| Ok((row.get(0)?, row.get(1)?)));
            let oldest: Option<(i64, i64)> = match oldest.optional() {
                // Its gauge stays as it is; the others move.
                Err(error) if is_damage(&error) => {
                    self.shared.metrics.error(Op::Read);
                    continue;
                }
                oldest => oldest?,
            };
            let gauge = self.shared.metrics.target(&name).oldest_pending;
            if let Some((seq, received_at)) = oldest {
                *swept = seq - 1;
                gauge.set(Timestamp::from_millis(received_at).as_seconds());
            } else {
                *swept = to.max(from);
                if to >= newest {
                    gauge.set(0.0);
                }
            }
        }
        Ok(())
    }
}
