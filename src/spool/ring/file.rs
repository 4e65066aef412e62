//! The ring's file: a SQLite database beside the spool's own.
//!
//! SQLite keeps the space of what is deleted and uses it again, so a file that is trimmed before it grows
//! stays within its quota. `synchronous = NORMAL`: a commit is no sync; a power cut loses the last ones
//! and damages nothing. The log beside it is short, but for the largest body.

use std::io;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Result as Sql, Row, params};

use super::{UnverifiedEntry, UnverifiedRequest};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::Keys;
use crate::spool::disk::{name, private_file};
use crate::spool::sealed::{Columns, Opened};
use crate::verify::Signed;

pub(super) const DATABASE: &str = "unverified.db";
pub(super) const DAMAGED: &str = "unverified.db.damaged";
const FORMAT: i64 = 1;
const PAGE_BYTES: u64 = 4096;

/// The log is copied from 256 pages on, and cut to as much when it was longer.
const PRAGMAS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA wal_autocheckpoint = 256;
    PRAGMA journal_size_limit = 1048576;
    PRAGMA cache_size = -512;
    PRAGMA temp_store = MEMORY;";

/// `AUTOINCREMENT`: a number is never used twice, so a cursor never goes astray.
const SCHEMA: &str = "
    PRAGMA page_size = 4096;
    PRAGMA auto_vacuum = INCREMENTAL;
    BEGIN;
    CREATE TABLE request (
        number       INTEGER PRIMARY KEY AUTOINCREMENT,
        source       TEXT    NOT NULL,
        received_at  INTEGER NOT NULL,
        sealed_by    TEXT,
        seal         BLOB,
        generated_at TEXT    NOT NULL,
        signature    TEXT    NOT NULL,
        content_type TEXT,
        body         BLOB    NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;
    COMMIT;";

pub struct RingFile {
    connection: Connection,
    capacity_bytes: u64,
    keys: Option<Keys>,
    count: i64,
}

/// Bytes that a request takes on disk: whole pages as a rule.
pub fn cost(request: &UnverifiedRequest) -> u64 {
    let signed = &request.signed;
    let content_type = request.content_type.as_ref().map_or(0, String::len);
    let text = signed.generated_at.len() + signed.signature.len() + content_type;
    (signed.body.len() + text) as u64 + PAGE_BYTES
}

impl RingFile {
    /// Made if it is not there; trimmed if the quota was larger before.
    pub fn open(folder: &Path, capacity_bytes: u64, keys: Option<Keys>) -> Sql<Self> {
        let path = folder.join(DATABASE);
        private_file(&path).map_err(|_| failure(ErrorCode::CannotOpen))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
            FORMAT => {}
            0 => connection.execute_batch(SCHEMA)?,
            _ => return Err(failure(ErrorCode::NotADatabase)),
        }
        connection.execute_batch(PRAGMAS)?;
        drop_shut(&connection, keys.as_ref())?;
        let count = connection.query_row("SELECT count(*) FROM request", [], |row| row.get(0))?;
        let mut file = Self {
            connection,
            capacity_bytes,
            keys,
            count,
        };
        file.make_room(0)?;
        file.shrink()?;
        Ok(file)
    }

    pub const fn count(&self) -> i64 {
        self.count
    }

    pub fn keep(&mut self, request: &UnverifiedRequest) -> Sql<()> {
        self.make_room(cost(request))?;
        let signed = &request.signed;
        let plain = Columns::plain(
            &signed.generated_at,
            &signed.signature,
            request.content_type.as_deref(),
            &signed.body,
        );
        let content = plain.sealed(self.keys.as_ref(), &bound_to(&request.source))?;
        let mut keep = self.connection.prepare_cached(&format!(
            "INSERT INTO request (source, received_at, {}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            Columns::NAMES
        ))?;
        keep.execute(params![
            request.source.as_str(),
            request.received_at.as_millis(),
            content.sealed_by,
            content.seal,
            content.generated_at,
            content.signature,
            content.content_type,
            content.body,
        ])?;
        self.count += 1;
        Ok(())
    }

    pub fn list(&self, after: i64, limit: usize) -> Sql<Vec<UnverifiedEntry>> {
        let mut list = self.connection.prepare_cached(
            "SELECT number, source, received_at, length(body) FROM request
             WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        list.query_map([after, limit], entry)?.collect()
    }

    pub fn find(&self, number: i64) -> Sql<Option<UnverifiedRequest>> {
        let mut find = self.connection.prepare_cached(&format!(
            "SELECT source, received_at, {} FROM request WHERE number = ?1",
            Columns::NAMES
        ))?;
        let keys = self.keys.as_ref();
        find.query_row([number], |row| request(row, keys))
            .optional()
    }

    pub fn remove(&mut self, number: i64) -> Sql<bool> {
        let mut remove = self
            .connection
            .prepare_cached("DELETE FROM request WHERE number = ?1")?;
        let removed = remove.execute([number])? == 1;
        self.count -= i64::from(removed);
        Ok(removed)
    }

    /// Lets the oldest go until so many bytes fit.
    fn make_room(&mut self, bytes: u64) -> Sql<()> {
        while self.count > 0 && self.used_bytes()? + bytes > self.capacity_bytes {
            let mut drop_oldest = self.connection.prepare_cached(
                "DELETE FROM request WHERE number = (SELECT min(number) FROM request)",
            )?;
            self.count -= i64::try_from(drop_oldest.execute([])?).unwrap_or(0);
        }
        Ok(())
    }

    /// Gives the space of what was deleted back to the disk.
    fn shrink(&self) -> Sql<()> {
        let mut shrink = self.connection.prepare("PRAGMA incremental_vacuum")?;
        let mut pages = shrink.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }

    fn used_bytes(&self) -> Sql<u64> {
        let pages = |sql| -> Sql<u64> {
            let mut count = self.connection.prepare_cached(sql)?;
            let pages: i64 = count.query_row([], |row| row.get(0))?;
            Ok(u64::try_from(pages).unwrap_or(0))
        };
        let free = pages("PRAGMA freelist_count")?;
        Ok(pages("PRAGMA page_count")?.saturating_sub(free) * PAGE_BYTES)
    }
}

/// Whether an error says that the file is no ring of ours, or a damaged one.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, InvalidColumnType, SqlInputError};
    match error {
        // No such table, no such column, a value that we never wrote.
        SqlInputError { .. } | FromSqlConversionFailure(..) | InvalidColumnType(..) => true,
        other => matches!(
            other.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        ),
    }
}

/// Takes a damaged file out of the way, in place of one that was damaged before. Returns its new name.
pub fn set_aside(folder: &Path) -> io::Result<&'static str> {
    std::fs::rename(folder.join(DATABASE), folder.join(DAMAGED))?;
    for log in ["unverified.db-wal", "unverified.db-shm"] {
        match std::fs::remove_file(folder.join(log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(DAMAGED)
}

fn entry(row: &Row<'_>) -> Sql<UnverifiedEntry> {
    Ok(UnverifiedEntry {
        number: row.get(0)?,
        source: name(row, 1)?,
        received_at: Timestamp::from_millis(row.get(2)?),
        body_bytes: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
    })
}

fn request(row: &Row<'_>, keys: Option<&Keys>) -> Sql<UnverifiedRequest> {
    let source = name(row, 0)?;
    let content = Opened::read(row, 2, keys, &bound_to(&source))?;
    Ok(UnverifiedRequest {
        source,
        received_at: Timestamp::from_millis(row.get(1)?),
        signed: Signed {
            generated_at: content.generated_at,
            signature: content.signature,
            body: content.body.into(),
        },
        content_type: content.content_type,
    })
}

/// What is kept of a request opens only in a ring, and for its source: never as a notification's content,
/// which is bound to 16 bytes.
fn bound_to(source: &Name) -> Vec<u8> {
    [b"suki-relay: unverified ", source.as_str().as_bytes()].concat()
}

/// What was sealed by a key that has since been taken out of the file can only be dropped.
fn drop_shut(connection: &Connection, keys: Option<&Keys>) -> Sql<()> {
    let mut find =
        connection.prepare("SELECT DISTINCT sealed_by FROM request WHERE sealed_by IS NOT NULL")?;
    let names: Vec<String> = find.query_map([], |row| row.get(0))?.collect::<Sql<_>>()?;
    for name in names {
        if keys.is_none_or(|keys| keys.find(&name).is_none()) {
            let dropped =
                connection.execute("DELETE FROM request WHERE sealed_by = ?1", [&name])?;
            tracing::warn!(
                key = name,
                dropped,
                "unverified requests are dropped: `spool.disk.key_file` has the key no more"
            );
        }
    }
    Ok(())
}

fn failure(code: ErrorCode) -> rusqlite::Error {
    let extended_code = 0;
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error {
            code,
            extended_code,
        },
        None,
    )
}
