//! Why the spool does not open, cannot be read, or cannot go on.

use std::path::PathBuf;

/// Why a spool does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("spool {path}: another process holds its lock; two relays must not share one folder")]
    Locked { path: PathBuf },
    #[error(
        "spool {path}: a relay is running on it: ask the relay, with `--operator` and its operator address"
    )]
    InUse { path: PathBuf },
    #[error("spool {path}: there is none; look at `spool.disk.path` in the config")]
    Missing { path: PathBuf },
    #[error(
        "spool {path}: made by a newer suki-relay (format {found}, this one reads {known}); nothing was changed"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("spool {path}: not a spool of suki-relay; nothing was changed")]
    Foreign { path: PathBuf },
    #[error(
        "spool {path}: `spool.db` is gone, and its log `spool.db-wal` is not: part of what was promised is in each. \
         Bring `spool.db` back; if it cannot be, move the log aside to start with an empty spool. Nothing was \
         changed"
    )]
    Headless { path: PathBuf },
    #[error("spool {path}: {fault}; nothing was changed")]
    Keys { path: PathBuf, fault: KeyFault },
    #[error("spool.postgres: {what}")]
    Server { what: String },
    /// It does not answer, or not yet.
    #[error("spool.postgres: {what}")]
    ServerAway { what: String },
    #[error("spool {path}: {action}: {cause}")]
    Io {
        path: PathBuf,
        action: &'static str,
        cause: String,
    },
}

/// Why keys do not open what is sealed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error(
        "it is encrypted; the config must name the file of its keys, `spool.disk.key_file`, and a command on the \
         folder must name the config, `--config`"
    )]
    None,
    #[error("key `{0}` in `spool.disk.key_file` is not the one of that name that encrypted it")]
    Wrong(String),
    #[error(
        "`spool.disk.key_file` has no key `{0}`, and that has encrypted what is still there; add its line \
         below the first"
    )]
    Missing(String),
}

/// The spool cannot go on: the process must end with exit code 74, and start again from the disk.
#[derive(Debug, thiserror::Error)]
#[error(
    "spool: {operation}: {cause}; check the disk, then start again: what was promised is on it"
)]
pub struct Fatal {
    pub operation: &'static str,
    pub cause: String,
}

/// A read that did not work; ask again.
#[derive(Debug, thiserror::Error)]
#[error("the spool could not be read: {cause}")]
pub struct ReadError {
    pub cause: String,
}

impl ReadError {
    pub(super) fn new(cause: impl Into<String>) -> Self {
        let cause = cause.into();
        Self { cause }
    }
}
