//! What an error of the database means to the spool: pure.

use rusqlite::{Error, ErrorCode, ffi};

use crate::spool::Fatal;
use crate::spool::metrics::Op;

/// Of a database in which a page that everything needs is damaged: a start changes nothing about that.
const WAY_OUT: &str = "a page of it is damaged; starting again does not mend it. Move the folder aside and keep it, \
                       start with an empty one, and see \"A record is damaged\" in the README";

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No room on the disk: undo, refuse, go on; it heals when there is room.
    Full,
    /// A write failed; no sync has. It may be for want of quota, which reads as an I/O error.
    Unwritten,
    /// This time it did not work: undo, refuse, go on.
    Failed,
    /// The file cannot be trusted any more (`PostgreSQL`'s "fsyncgate"): end the process.
    Fatal,
}

pub(super) fn classify(error: &Error) -> Fault {
    let Error::SqliteFailure(failure, _) = error else {
        return Fault::Failed;
    };
    match failure.code {
        ErrorCode::DiskFull => Fault::Full,
        // The index of the WAL could not grow: nothing has been written yet, and no sync has failed.
        _ if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE => Fault::Full,
        _ if failure.extended_code == ffi::SQLITE_IOERR_WRITE => Fault::Unwritten,
        ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            Fault::Fatal
        }
        _ => Fault::Failed,
    }
}

/// Whether what was read is not what was written: a page is damaged, gone, or on a sector that cannot be read;
/// or a value or a row on it is. For what is read of one row: a file that all need is [`classify`]'s.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(failure, _) => {
            failure.code == ErrorCode::DatabaseCorrupt
                || matches!(
                    failure.extended_code,
                    ffi::SQLITE_IOERR_READ
                        | ffi::SQLITE_IOERR_SHORT_READ
                        | ffi::SQLITE_IOERR_CORRUPTFS
                )
        }
        Error::QueryReturnedNoRows
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::FromSqlConversionFailure(..)
        | Error::Utf8Error(..) => true,
        _ => false,
    }
}

/// Whether somebody else holds what was asked for.
pub(super) fn is_busy(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// The error as SQLite's own words for its code: a message of its own may quote a statement, this
/// quotes nothing.
pub(in crate::spool) fn cause(error: &Error) -> String {
    match error {
        Error::SqliteFailure(failure, _) => {
            let code = failure.extended_code;
            let words = ffi::code_to_str(code);
            match failure.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    format!("{words} (SQLite code {code}): {WAY_OUT}")
                }
                _ => format!("{words} (SQLite code {code})"),
            }
        }
        other => other.to_string(),
    }
}

impl Fatal {
    pub(super) fn new(operation: Op, error: &Error) -> Self {
        Self {
            operation: operation.as_str(),
            cause: cause(error),
        }
    }

    /// Says nothing of the panic: its message may quote what it worked on.
    pub(in crate::spool) fn panicked() -> Self {
        Self {
            operation: "thread",
            cause: "panicked".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_fatal_and_a_full_disk_is_not() {
        let cases = [
            (ffi::SQLITE_FULL, Fault::Full),
            (ffi::SQLITE_IOERR_SHMSIZE, Fault::Full),
            (ffi::SQLITE_IOERR_FSYNC, Fault::Fatal),
            (ffi::SQLITE_IOERR_DIR_FSYNC, Fault::Fatal),
            (ffi::SQLITE_IOERR_WRITE, Fault::Unwritten),
            (ffi::SQLITE_IOERR_READ, Fault::Fatal),
            (ffi::SQLITE_CORRUPT, Fault::Fatal),
            (ffi::SQLITE_NOTADB, Fault::Fatal),
            (ffi::SQLITE_BUSY, Fault::Failed),
            (ffi::SQLITE_NOMEM, Fault::Failed),
        ];
        for (code, expected) in cases {
            let error = Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(classify(&error), expected, "{code}");
        }
    }

    #[test]
    fn what_cannot_be_read_of_one_row_is_damage_and_what_cannot_be_synced_is_not() {
        let cases = [
            (ffi::SQLITE_CORRUPT, true),
            (ffi::SQLITE_CORRUPT_INDEX, true),
            (ffi::SQLITE_IOERR_READ, true),
            (ffi::SQLITE_IOERR_SHORT_READ, true),
            (ffi::SQLITE_IOERR_CORRUPTFS, true),
            (ffi::SQLITE_IOERR_FSYNC, false),
            (ffi::SQLITE_IOERR_WRITE, false),
            (ffi::SQLITE_IOERR_SHMMAP, false),
            (ffi::SQLITE_FULL, false),
            (ffi::SQLITE_BUSY, false),
        ];
        for (code, expected) in cases {
            let error = Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(is_damage(&error), expected, "{code}");
        }
        assert!(is_damage(&Error::QueryReturnedNoRows));
    }
}
