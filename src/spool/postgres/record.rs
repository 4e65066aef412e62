//! Rows as values; records are held against the digest of what was received.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::fault::Error;
use super::session::Session;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::spool::DeliveryState;
use crate::spool::disk::delivery;
use crate::spool::disk::history::History;
use crate::verify::content_digest;

/// The records of these notifications; one that is not there, cannot be read, or is not to the bit what was
/// received, is left out.
pub(super) async fn read(
    session: &mut Session,
    sequences: &[i64],
) -> Result<HashMap<i64, Record>, Error> {
    let all = read_at_once(session, sequences).await;
    if !all.as_ref().is_err_and(Error::is_damage) {
        return all;
    }
    let mut records = HashMap::with_capacity(sequences.len());
    for sequence in sequences {
        match read_at_once(session, &[*sequence]).await {
            Err(error) if error.is_damage() => {}
            one => records.extend(one?),
        }
    }
    Ok(records)
}

async fn read_at_once(
    session: &mut Session,
    sequences: &[i64],
) -> Result<HashMap<i64, Record>, Error> {
    const READ: &str = "SELECT seq, digest, source.text, received_at, secret.text, generated_at,
                signature, content_type, body
         FROM notification AS n JOIN content AS c USING (seq)
         JOIN name AS source ON source.id = n.source JOIN name AS secret ON secret.id = c.secret
         WHERE seq = ANY ($1)";
    if sequences.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = session.query(READ, &[&sequences]).await?;
    let mut records = HashMap::with_capacity(rows.len());
    for row in rows {
        // Whatever is wrong with it, the row is here: the others are sound.
        if let Ok(Some(record)) = record(&row) {
            records.insert(row.try_get(0)?, record);
        }
    }
    Ok(records)
}

/// `None` if the digest is not of what was read.
pub(super) fn record(row: &Row) -> Result<Option<Record>, Error> {
    let generated_at: String = row.try_get(5)?;
    let body: Vec<u8> = row.try_get(8)?;
    if row.try_get::<_, &[u8]>(1)? != content_digest(&generated_at, &body) {
        return Ok(None);
    }
    Ok(Some(Record {
        id: id(row.try_get(1)?),
        source: name(row, 2)?,
        received_at: Timestamp::from_millis(row.try_get(3)?),
        secret: name(row, 4)?,
        generated_at,
        signature: row.try_get(6)?,
        content_type: row.try_get(7)?,
        body: body.into(),
    }))
}

/// A row of `delivery`, from a column on: state, attempts, due, owed since, replayed after, resume, first
/// attempt, history.
pub(super) fn delivery(row: &Row, at: usize) -> Result<delivery::Row, Error> {
    let history: Option<&[u8]> = row.try_get(at + 7)?;
    Ok(delivery::Row {
        state: state(row, at)?,
        attempts: count(row, at + 1)?,
        due_at: Timestamp::from_millis(row.try_get(at + 2)?),
        owed_since: moment(row, at + 3)?,
        replayed_after: maybe_count(row, at + 4)?,
        resume_at: moment(row, at + 5)?,
        first_attempt_at: moment(row, at + 6)?,
        history: History::from_bytes(history.unwrap_or_default()),
    })
}

/// The id in a digest.
pub(super) fn id(digest: &[u8]) -> Id {
    let mut id = [0; Id::BYTES];
    if let Some(start) = digest.get(..Id::BYTES) {
        id.copy_from_slice(start);
    }
    Id::from_bytes(id)
}

pub(super) fn state(row: &Row, column: usize) -> Result<DeliveryState, Error> {
    let number: i64 = row.try_get(column)?;
    let known = usize::try_from(number).ok();
    let known = known.and_then(|at| DeliveryState::ALL.get(at).copied());
    known.ok_or(Error::Foreign("a delivery's state"))
}

pub(super) fn name(row: &Row, column: usize) -> Result<Name, Error> {
    // No text at all is none either.
    let text: Option<&str> = row.try_get(column).ok();
    let name = text.and_then(|text| Name::new(text).ok());
    name.ok_or(Error::Foreign("a name"))
}

pub(super) fn moment(row: &Row, column: usize) -> Result<Option<Timestamp>, Error> {
    let millis: Option<i64> = row.try_get(column)?;
    Ok(millis.map(Timestamp::from_millis))
}

pub(super) fn count(row: &Row, column: usize) -> Result<u32, Error> {
    let count: i64 = row.try_get(column)?;
    u32::try_from(count).map_err(|_| Error::Foreign("a count"))
}

pub(super) fn maybe_count(row: &Row, column: usize) -> Result<Option<u32>, Error> {
    let count: Option<i64> = row.try_get(column)?;
    let count = count.map(u32::try_from).transpose();
    count.map_err(|_| Error::Foreign("a count"))
}
