//! The readers: a few connections of their own, so that reading never waits for the writer. Every
//! read is one short, bounded transaction; the WAL cannot start over beneath a longer one.
//!
//! What cannot be read costs nobody but itself: see `owed.rs`, `record.rs` and `select.rs`.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Result as Sql, Row};
use tokio::sync::Semaphore;

use super::fault::cause;
use super::owed::{self, Found};
use super::record;
use super::seal::Seal;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::{Counts, DeliveryKey, DuePage, ReadError, Reason, TargetCounts, Wanted};

/// Reads at the same time.
pub(super) const READERS: usize = 4;

/// A page ends with the body that reaches this; one body always fits.
pub(in crate::spool) const PAGE_BODIES_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) struct Readers {
    idle: Mutex<Vec<Reader>>,
    permits: Arc<Semaphore>,
}

pub(super) struct Reader {
    pub(super) connection: Connection,
    pub(super) seal: Seal,
    /// Numbers of names never change their meaning.
    pub(super) names: HashMap<i64, Name>,
}

impl Readers {
    pub fn new(connections: impl IntoIterator<Item = Connection>, seal: &Seal) -> Self {
        let reader = |connection| Reader::new(connection, seal.clone());
        let idle: Vec<Reader> = connections.into_iter().map(reader).collect();
        Self {
            permits: Arc::new(Semaphore::new(idle.len())),
            idle: Mutex::new(idle),
        }
    }

    /// Cancellation: dropping the future leaves the read to end by itself.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Reader) -> Sql<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let readers = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit.map_err(|_| ReadError::new("the spool has ended"))?;
            let mut reader = readers
                .lock()
                .pop()
                .ok_or_else(|| ReadError::new("no reader is left"))?;
            // A transaction that it was in has been dropped, and so ended.
            let result = catch_unwind(AssertUnwindSafe(|| read(&mut reader)));
            readers.lock().push(reader);
            let result = result.map_err(|_| ReadError::new("the read panicked"))?;
            result.map_err(|error| ReadError::new(cause(&error)))
        });
        work.await
            .unwrap_or_else(|_| Err(ReadError::new("the read did not end")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    fn new(connection: Connection, seal: Seal) -> Self {
        Self {
            connection,
            seal,
            names: HashMap::new(),
        }
    }

    pub fn due(&mut self, target: &Name, now: Timestamp, wanted: &Wanted) -> Sql<DuePage> {
        let Some(id) = self.number(target)? else {
            return Ok(DuePage::default());
        };
        let snapshot = self.connection.unchecked_transaction()?;
        let owed = owed::due(&snapshot, id, now, wanted.limit)?;
        let mut page = DuePage {
            more: owed.len() >= wanted.limit,
            ..DuePage::default()
        };
        if !page.more {
            page.next_due_at = next_due_at(&snapshot, id, now)?;
        }
        fill(
            &mut page,
            &snapshot,
            &self.seal,
            &mut self.names,
            target,
            owed,
            &wanted.held,
        )?;
        Ok(page)
    }

    pub fn fresh(
        &mut self,
        target: &Name,
        since: Timestamp,
        now: Timestamp,
        wanted: &Wanted,
    ) -> Sql<DuePage> {
        let mut page = DuePage::default();
        let Some(id) = self.number(target)? else {
            return Ok(page);
        };
        let snapshot = self.connection.unchecked_transaction()?;
        let owed = owed::fresh(&snapshot, id, since, now, wanted.limit)?;
        fill(
            &mut page,
            &snapshot,
            &self.seal,
            &mut self.names,
            target,
            owed,
            &wanted.held,
        )?;
        Ok(page)
    }

    /// Asks the index of what is due once for each target: not a matter of the backlog's length.
    pub fn targets_owed(&mut self) -> Sql<Vec<Name>> {
        let mut find = self.connection.prepare_cached(
            "SELECT text FROM ledger AS l JOIN name ON id = l.target
             WHERE EXISTS (SELECT 1 FROM delivery AS d INDEXED BY due
                           WHERE d.state = 0 AND d.target = l.target)",
        )?;
        find.query_map([], |row| name(row, 0))?.collect()
    }

    pub fn counts(&mut self) -> Sql<Counts> {
        let snapshot = self.connection.unchecked_transaction()?;
        let mut counts = Counts {
            notifications: count(&snapshot, "SELECT count(*) FROM notification")?,
            settled: count(
                &snapshot,
                "SELECT count(*) FROM notification WHERE settled_at IS NOT NULL",
            )?,
            ..Counts::default()
        };
        for reason in Reason::ALL {
            let held = snapshot.query_row(
                "SELECT count(*) FROM notification WHERE quarantine = ?1",
                [reason.as_str()],
                |row| row.get(0),
            )?;
            counts.quarantine.insert(reason, held);
        }
        let mut targets = snapshot.prepare_cached(
            "SELECT text, sum(state = 0), sum(state = 1), sum(state = 2)
             FROM delivery JOIN name ON id = target GROUP BY target",
        )?;
        let mut rows = targets.query([])?;
        while let Some(row) = rows.next()? {
            let target = TargetCounts {
                pending: row.get(1)?,
                delivered: row.get(2)?,
                dead: row.get(3)?,
            };
            counts.targets.insert(name(row, 0)?, target);
        }
        Ok(counts)
    }

    fn number(&self, name: &Name) -> Sql<Option<i64>> {
        self.connection
            .prepare_cached("SELECT id FROM name WHERE text = ?1")?
            .query_row([name.as_str()], |row| row.get(0))
            .optional()
    }
}

/// Reads the records of what is owed, until a page's bytes are full.
fn fill(
    page: &mut DuePage,
    snapshot: &Connection,
    seal: &Seal,
    names: &mut HashMap<i64, Name>,
    target: &Name,
    owed: Vec<Found>,
    held: &HashSet<i64>,
) -> Sql<()> {
    let mut bodies_bytes = 0;
    for found in owed {
        let sequence = found.sequence();
        if held.contains(&sequence) {
            continue;
        }
        if bodies_bytes >= PAGE_BODIES_BYTES_MAX {
            page.more = true;
            break;
        }
        let delivery = match found {
            Found::Owed(delivery) => Some(delivery),
            Found::Damaged(_) => None,
        };
        let key = DeliveryKey {
            sequence,
            target: target.clone(),
        };
        let record = record::read(snapshot, seal, names, sequence)?;
        match delivery.zip(record) {
            Some((delivery, record)) => {
                bodies_bytes += record.body.len();
                page.deliveries.push(delivery.due(key, record));
            }
            None => page.unreadable.push(key),
        }
    }
    Ok(())
}

fn next_due_at(snapshot: &Connection, target: i64, now: Timestamp) -> Sql<Option<Timestamp>> {
    let mut find = snapshot.prepare_cached(
        "SELECT min(due_at) FROM delivery INDEXED BY due
         WHERE state = 0 AND target = ?1 AND (attempts > 0) = ?2 AND due_at > ?3",
    )?;
    let mut next = None;
    for tried in [false, true] {
        let due_at: Option<i64> =
            find.query_row((target, tried, now.as_millis()), |row| row.get(0))?;
        next = [next, due_at].into_iter().flatten().min();
    }
    Ok(next.map(Timestamp::from_millis))
}

pub(in crate::spool) fn name(row: &Row<'_>, column: usize) -> Sql<Name> {
    let text = row.get_ref(column)?.as_str()?;
    Name::new(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

fn count(connection: &Connection, sql: &str) -> Sql<u64> {
    connection
        .query_row(sql, [], |row| row.get::<_, i64>(0))
        .map(|count| u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::super::folder::keep_plans;
    use super::*;

    /// Run so often, each time with other values.
    fn plans_made(connection: &Connection, sql: &str) -> i32 {
        let mut statement = connection.prepare(sql).expect("SQL");
        for n in 0..10 {
            let mut rows = statement.query([n, 100 - n, 10 + n]).expect("runs");
            while rows.next().expect("a row").is_some() {}
        }
        statement.get_status(StatementStatus::RePrepare)
    }

    #[test]
    fn what_is_due_is_not_planned_anew_for_each_value() {
        let sql = "SELECT seq FROM delivery INDEXED BY due
                   WHERE state = 0 AND target = ?1 AND (attempts > 0) = 0 AND due_at <= ?2
                   LIMIT ?3";
        let connection = Connection::open_in_memory().expect("opens");
        connection
            .execute_batch(super::super::folder::SCHEMA)
            .expect("the schema");
        assert!(
            plans_made(&connection, sql) > 0,
            "SQLite has changed: is this still of use?"
        );
        keep_plans(&connection).expect("set");
        assert_eq!(plans_made(&connection, sql), 0);
    }
}
