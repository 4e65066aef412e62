//! What a target is owed, by the deliveries' own rows.
//!
//! A row that cannot be read costs nobody but itself: where one is met, the index alone says which there are,
//! and each is read apart. A damaged page of the index itself is nobody's to step over.

use rusqlite::{Connection, Params, Result as Sql, Row};

use super::fault::is_damage;
use crate::clock::Timestamp;
use crate::notification::Record;
use crate::spool::{DeliveryKey, Due};

/// A delivery as its own row tells, without what is to be sent.
pub(in crate::spool) struct Owed {
    pub sequence: i64,
    pub attempts: u32,
    pub due_at: Timestamp,
    pub since: Option<Timestamp>,
    pub replayed_after: Option<u32>,
    pub resume_at: Option<Timestamp>,
}

pub(super) enum Found {
    Owed(Owed),
    /// Its row cannot be read; its sequence is from the index.
    Damaged(i64),
}

impl Found {
    pub const fn sequence(&self) -> i64 {
        match self {
            Self::Owed(owed) => owed.sequence,
            Self::Damaged(sequence) => *sequence,
        }
    }
}

/// Up to this time, in two runs of the index, what was never tried and what was, merged by the time it is due.
pub(super) fn due(
    snapshot: &Connection,
    target: i64,
    now: Timestamp,
    limit: usize,
) -> Sql<Vec<Found>> {
    let sql = |columns: &str| {
        let run = |tried: u8| {
            format!(
                "SELECT {columns} FROM delivery INDEXED BY due
                 WHERE state = 0 AND target = ?1 AND (attempts > 0) = {tried} AND due_at <= ?2"
            )
        };
        format!(
            "{} UNION ALL {} ORDER BY due_at, seq LIMIT ?3",
            run(0),
            run(1)
        )
    };
    find(
        snapshot,
        target,
        sql,
        (target, now.as_millis(), rows_max(limit)),
    )
}

/// Received in this time, and never tried.
pub(super) fn fresh(
    snapshot: &Connection,
    target: i64,
    since: Timestamp,
    now: Timestamp,
    limit: usize,
) -> Sql<Vec<Found>> {
    let sql = |columns: &str| {
        format!(
            "SELECT {columns} FROM delivery INDEXED BY due
             WHERE state = 0 AND target = ?1 AND (attempts > 0) = 0 AND due_at BETWEEN ?2 AND ?3
             ORDER BY due_at, seq LIMIT ?4"
        )
    };
    let (since, now) = (since.as_millis(), now.as_millis());
    find(snapshot, target, sql, (target, since, now, rows_max(limit)))
}

fn find(
    snapshot: &Connection,
    target: i64,
    sql: impl Fn(&str) -> String,
    values: impl Params + Copy,
) -> Sql<Vec<Found>> {
    let whole = |row: &Row<'_>| Owed::read(row).map(Found::Owed);
    let all: Sql<Vec<_>> = snapshot
        .prepare_cached(&sql(Owed::COLUMNS))?
        .query_map(values, whole)?
        .collect();
    if !all.as_ref().is_err_and(is_damage) {
        return all;
    }
    let mut sequences = snapshot.prepare(&sql("seq, due_at"))?;
    let mut row = snapshot.prepare(&format!(
        "SELECT {} FROM delivery WHERE seq = ?1 AND target = ?2",
        Owed::COLUMNS
    ))?;
    let sequences = sequences.query_map(values, |row| row.get(0))?;
    let apart = sequences.map(|sequence: Sql<i64>| {
        let sequence = sequence?;
        match row.query_row((sequence, target), whole) {
            Err(error) if is_damage(&error) => Ok(Found::Damaged(sequence)),
            found => found,
        }
    });
    apart.collect()
}

fn rows_max(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Owed {
    const COLUMNS: &str = "seq, attempts, due_at, owed_since, replayed_after, resume_at";

    fn read(row: &Row<'_>) -> Sql<Self> {
        let moment = |column| -> Sql<_> {
            let millis: Option<i64> = row.get(column)?;
            Ok(millis.map(Timestamp::from_millis))
        };
        Ok(Self {
            sequence: row.get(0)?,
            attempts: row.get(1)?,
            due_at: Timestamp::from_millis(row.get(2)?),
            since: moment(3)?,
            replayed_after: row.get(4)?,
            resume_at: moment(5)?,
        })
    }

    pub fn due(self, key: DeliveryKey, record: Record) -> Due {
        Due {
            key,
            attempts: self.attempts,
            attempts_before: self.replayed_after.unwrap_or(0),
            owed_since: self.since.unwrap_or(record.received_at),
            due_at: self.due_at,
            replay: self.replayed_after.is_some() || self.resume_at.is_some(),
            resume_at: self.resume_at,
            record,
        }
    }
}
