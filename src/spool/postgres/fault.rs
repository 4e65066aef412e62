//! What an error of the server, or of the way to it, means to the spool: pure.

use std::error::Error as _;
use std::fmt;

use tokio_postgres::error::SqlState;

use crate::spool::ReadError;

/// What went wrong.
#[derive(Debug)]
pub(super) enum Error {
    Sql(tokio_postgres::Error),
    /// No answer in time. What was asked for may be done, or not.
    TimedOut,
    /// The server committed, and warned: a standby that it waits for may not have it.
    Doubtful,
    /// The server committed, and its settings say that this means nothing any more.
    Unkept,
    /// The server is a standby, or was made read-only.
    ReadOnly,
    /// A row that no version of ours wrote.
    Foreign(&'static str),
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server cannot be reached, or cannot be written to: wait for it, and keep what waits.
    Away,
    /// Two transactions met: try again at once.
    Collision,
    /// No room on the server: refuse what is new, keep settlements.
    Full,
    /// Something that is there cannot be read: do without it.
    Damaged,
    /// This time it did not work: refuse what is new, keep settlements.
    Failed,
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Sql(error) => match error.code() {
                Some(code) => fault_of(code),
                None => Fault::Away,
            },
            Self::TimedOut | Self::Doubtful | Self::Unkept | Self::ReadOnly => Fault::Away,
            Self::Foreign(_) => Fault::Damaged,
        }
    }

    pub fn is_damage(&self) -> bool {
        self.fault() == Fault::Damaged
    }

    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Sql(error) => error.code(),
            _ => None,
        }
    }
}

fn fault_of(code: &SqlState) -> Fault {
    match code.code().get(..2).unwrap_or_default() {
        "53" if *code == SqlState::TOO_MANY_CONNECTIONS => Fault::Away,
        "53" => Fault::Full,
        // Connection exceptions; shutdown and recovery; wrong or expired credentials, for they may be mended.
        "08" | "28" | "57" => Fault::Away,
        "25" if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Fault::Away,
        "40" => Fault::Collision,
        // A page with a wrong checksum, a piece of a value that is missing, an index that leads nowhere.
        "XX" => Fault::Damaged,
        _ if *code == SqlState::IO_ERROR => Fault::Damaged,
        _ if *code == SqlState::LOCK_NOT_AVAILABLE => Fault::Collision,
        _ => Fault::Failed,
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Sql(error)
    }
}

/// The server's words only where they cannot quote a value: as to connecting, rights, and resources.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::Sql(error) => error,
            Self::TimedOut => return f.write_str("no answer within `statement_timeout`"),
            Self::Doubtful => return f.write_str("a standby may not have what was committed"),
            Self::Unkept => {
                return f.write_str("`fsync` or `synchronous_commit` was turned off");
            }
            Self::ReadOnly => return f.write_str("the server is a standby, or read-only"),
            Self::Foreign(what) => return write!(f, "{what} is not what this version wrote"),
        };
        if let Some(told) = error.as_db_error() {
            let code = told.code().code();
            return match code.get(..2) {
                Some("08" | "25" | "28" | "3D" | "53" | "57") => {
                    write!(f, "{} (SQLSTATE {code})", told.message())
                }
                _ if *told.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                    write!(f, "{} (SQLSTATE {code})", told.message())
                }
                _ => write!(f, "SQLSTATE {code}"),
            };
        }
        match error.source() {
            Some(cause) => write!(f, "{cause}"),
            None => write!(f, "{error}"),
        }
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_waited_for_and_what_is_full_is_refused() {
        let cases = [
            (SqlState::ADMIN_SHUTDOWN, Fault::Away),
            (SqlState::CANNOT_CONNECT_NOW, Fault::Away),
            (SqlState::CONNECTION_FAILURE, Fault::Away),
            (SqlState::INVALID_PASSWORD, Fault::Away),
            (SqlState::READ_ONLY_SQL_TRANSACTION, Fault::Away),
            (SqlState::TOO_MANY_CONNECTIONS, Fault::Away),
            (SqlState::T_R_DEADLOCK_DETECTED, Fault::Collision),
            (SqlState::LOCK_NOT_AVAILABLE, Fault::Collision),
            (SqlState::DISK_FULL, Fault::Full),
            (SqlState::DATA_CORRUPTED, Fault::Damaged),
            (SqlState::INDEX_CORRUPTED, Fault::Damaged),
            (SqlState::INTERNAL_ERROR, Fault::Damaged),
            (SqlState::IO_ERROR, Fault::Damaged),
            (SqlState::UNDEFINED_TABLE, Fault::Failed),
        ];
        for (code, expected) in cases {
            assert_eq!(fault_of(&code), expected, "{code:?}");
        }
        assert_eq!(Error::TimedOut.fault(), Fault::Away);
        assert_eq!(Error::Doubtful.fault(), Fault::Away);
    }
}
