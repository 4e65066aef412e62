//! One record, read whole and held against the digest of what was received.
//!
//! SQLite keeps no checksums of its pages: a bit that has changed on the disk is a body that nobody sent. The digest tells,
//! and such a record counts as unreadable, like one on a damaged page.

use std::collections::HashMap;
use std::sync::LazyLock;

use rusqlite::{Connection, Error, ErrorCode, Result as Sql, Row};

use super::read::name;
use super::seal::Seal;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::spool::sealed::{Columns, Opened};
use crate::verify::content_digest;

/// `None` if it cannot be read, or is not what was received; an error is one of the whole database's.
///
/// Numbers of names never change their meaning: `names` remembers them.
pub(super) fn read(
    snapshot: &Connection,
    seal: &Seal,
    names: &mut HashMap<i64, Name>,
    sequence: i64,
) -> Sql<Option<Record>> {
    static FIND: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT digest, source, received_at, secret, {}
             FROM notification AS n CROSS JOIN content AS c ON c.seq = n.seq
             WHERE n.seq = ?1",
            Columns::NAMES
        )
    });
    let mut find = snapshot.prepare_cached(&FIND)?;
    match find.query_row([sequence], |row| record(snapshot, seal, names, row)) {
        Err(error) if is_of_one_record(&error) => Ok(None),
        read => read,
    }
}

/// `None` if the digest is not of what was read.
fn record(
    snapshot: &Connection,
    seal: &Seal,
    names: &mut HashMap<i64, Name>,
    row: &Row<'_>,
) -> Sql<Option<Record>> {
    let digest = seal.digest(row.get_ref(0)?.as_blob()?)?;
    let mut id = [0; Id::BYTES];
    id.copy_from_slice(&digest[..Id::BYTES]);
    let content = Opened::read(row, 4, seal.keys(), &id)?;
    let is_as_received = content_digest(&content.generated_at, &content.body) == digest;
    if !is_as_received && !cfg!(sabotage = "damage-not-looked-for") {
        return Ok(None);
    }
    Ok(Some(Record {
        id: Id::from_bytes(id),
        source: named(snapshot, names, row.get(1)?)?,
        secret: named(snapshot, names, row.get(3)?)?,
        received_at: Timestamp::from_millis(row.get(2)?),
        generated_at: content.generated_at,
        signature: content.signature,
        content_type: content.content_type,
        body: content.body.into(),
    }))
}

pub(super) fn named(snapshot: &Connection, names: &mut HashMap<i64, Name>, id: i64) -> Sql<Name> {
    if let Some(name) = names.get(&id) {
        return Ok(name.clone());
    }
    let mut find = snapshot.prepare_cached("SELECT text FROM name WHERE id = ?1")?;
    let found = find.query_row([id], |row| name(row, 0))?;
    names.insert(id, found.clone());
    Ok(found)
}

/// A page or a row of it is damaged, gone, or on a sector that cannot be read.
fn is_of_one_record(error: &Error) -> bool {
    match error {
        Error::QueryReturnedNoRows
        | Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => true,
        other => matches!(
            other.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::SystemIoFailure)
        ),
    }
}
