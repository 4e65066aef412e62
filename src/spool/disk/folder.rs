//! The folder on disk: whose it is, how a spool is made in it, and how connections to it are opened.
//!
//! A database is made under another name and renamed when it is whole, so one that has the name is
//! whole. One that is not ours, or newer, is refused from its header, before SQLite opens it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB, OpenFlags, Result as Sql};

use super::ballast::{Ballast, Volume};
use super::fault::cause;
use super::seal::{Refusal, Unsealed};
use super::witness::Witness;
use super::{BUSY_TIMEOUT, Limits, PAGE_BYTES};
use crate::spool::{Keys, OpenError};

const DATABASE: &str = "spool.db";
const LOG: &str = "spool.db-wal";
const UNFINISHED: &str = "spool.db.new";
const LOCK: &str = "spool.lock";

/// "suki" in the header of the database (SQLite, "Database File Format", 1.3.19).
const APPLICATION_ID: i64 = 0x7375_6b69;
const FORMAT: i64 = 1;
pub(super) const SCHEMA: &str = include_str!("../schema.sql");

const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Checkpointer,
    Reader,
}

pub(super) struct Folder {
    path: PathBuf,
    /// Held as long as the spool is open; the kernel lets go of it when the process dies.
    _lock: File,
}

impl Folder {
    /// Makes the folder and the database if they are not there, and locks them.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        make_folder(path).map_err(|error| io_error(path, "make the folder", &error))?;
        // A stranger's folder is left without so much as a lock.
        check_header(path)?;
        let lock = lock(path)?;
        if !path.join(DATABASE).exists() {
            // SQLite would read it into the new database, or throw it away.
            if path.join(LOG).exists() {
                return Err(OpenError::Headless { path: path.into() });
            }
            make_database(path)?;
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// As [`Folder::open`], but makes nothing.
    pub fn open_existing(path: &Path) -> Result<Self, OpenError> {
        if !path.join(DATABASE).exists() {
            return Err(OpenError::Missing { path: path.into() });
        }
        check_header(path)?;
        let lock = lock(path).map_err(|error| match error {
            OpenError::Locked { path } => OpenError::InUse { path },
            other => other,
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Refuses keys that do not open what is sealed, and leaves the files as they are.
    pub fn unseal(&self, writer: &Connection, keys: Option<&Keys>) -> Result<Unsealed, OpenError> {
        Unsealed::check(writer, keys).map_err(|refusal| {
            // Closing would copy the log. Should this fail, it is copied, and no more.
            let _ = writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            match refusal {
                Refusal::Sql(error) => self.error("read the database", &error),
                Refusal::Key(fault) => OpenError::Keys {
                    path: self.path.clone(),
                    fault,
                },
            }
        })
    }

    /// Everything found goes from the log into the database, and both to stable storage: a process
    /// that was killed inside its sync leaves rows that can be read and are on no disk yet.
    pub fn recover(&self, writer: &Connection) -> Result<(), OpenError> {
        writer
            .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::TRUNCATE)
            .map_err(|error| self.error("sync what is there", &error))?;
        sync_folder(&self.path).map_err(|error| io_error(&self.path, "sync the folder", &error))
    }

    /// What the file system of the folder is like.
    pub fn volume(&self) -> Result<Volume, OpenError> {
        let told = File::open(&self.path).and_then(|folder| Volume::of(&folder));
        told.map_err(|error| io_error(&self.path, "ask for the size of the volume", &error))
    }

    /// To be asked once the log is there.
    pub fn witness(&self) -> Witness {
        Witness::of(self.path.join(DATABASE), self.path.join(LOG))
    }

    pub fn ballast(&self, limits: Limits) -> Result<Ballast, OpenError> {
        Ballast::open(&self.path, limits.wal_bytes_max)
            .map_err(|error| io_error(&self.path, "open the ballast", &error))
    }

    pub fn connect(&self, role: Role, limits: Limits) -> Result<Connection, OpenError> {
        let connect = || -> Sql<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(self.path.join(DATABASE), flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch(&pragmas(role, limits))?;
            keep_plans(&connection)?;
            Ok(connection)
        };
        connect().map_err(|error| self.error("open the database", &error))
    }

    pub fn error(&self, action: &'static str, error: &rusqlite::Error) -> OpenError {
        self.failure(action, &cause(error))
    }

    pub fn failure(&self, action: &'static str, cause: &str) -> OpenError {
        OpenError::Io {
            path: self.path.clone(),
            action,
            cause: cause.into(),
        }
    }
}

/// A statement is planned once. Without this, one whose terms SQLite holds against the expression of an index
/// (`due` has one) is planned anew whenever another value is bound, which is each time: half of what a
/// delivery costs.
pub(super) fn keep_plans(connection: &Connection) -> Sql<()> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

fn pragmas(role: Role, limits: Limits) -> String {
    let cache_kib = match role {
        Role::Writer => 4096,
        Role::Checkpointer | Role::Reader => 512,
    };
    let synchronous = if cfg!(sabotage = "nothing-synced") {
        "OFF"
    } else if cfg!(sabotage = "commits-not-synced") {
        "NORMAL"
    } else {
        "FULL"
    };
    format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = {synchronous};
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = {};
         PRAGMA foreign_keys = OFF;
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -{cache_kib};
         PRAGMA query_only = {};",
        limits.wal_bytes_max,
        role == Role::Reader,
    )
}

fn make_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    for folder in missing.into_iter().rev() {
        if folder.as_os_str().is_empty() {
            continue;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(parent(folder))?,
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut file = match File::open(path.join(DATABASE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(path, "read the database", &error)),
    };
    let mut header = [0; HEADER_BYTES];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(OpenError::Foreign { path: path.into() });
        }
        Err(error) => return Err(io_error(path, "read the database", &error)),
    }
    let ours = header.starts_with(MAGIC) && number(&header, APPLICATION_ID_AT) == APPLICATION_ID;
    if !ours {
        return Err(OpenError::Foreign { path: path.into() });
    }
    let found = number(&header, USER_VERSION_AT);
    if found > FORMAT {
        return Err(OpenError::Newer {
            path: path.into(),
            found,
            known: FORMAT,
        });
    }
    Ok(())
}

fn number(header: &[u8; HEADER_BYTES], at: usize) -> i64 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    i64::from(i32::from_be_bytes(bytes))
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = private_file(&path.join(LOCK))
        .map_err(|error| io_error(path, "open the lock file", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.into() }),
        Err(TryLockError::Error(error)) => Err(io_error(path, "lock the folder", &error)),
    }
}

fn make_database(path: &Path) -> Result<(), OpenError> {
    let unfinished = path.join(UNFINISHED);
    let make = || -> io::Result<()> {
        for leftover in [unfinished.clone(), path.join("spool.db.new-journal")] {
            match fs::remove_file(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        private_file(&unfinished)?;
        fill_database(&unfinished).map_err(|error| io::Error::other(cause(&error)))?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path.join(DATABASE))?;
        sync_folder(path)
    };
    make().map_err(|error| io_error(path, "make the database", &error))
}

fn fill_database(file: &Path) -> Sql<()> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES};
         BEGIN;
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {FORMAT};
         {SCHEMA}
         COMMIT;"
    ))?;
    connection.close().map_err(|(_, error)| error)
}

/// SQLite gives its own files the mode of the database.
pub(in crate::spool) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn io_error(path: &Path, action: &'static str, error: &io::Error) -> OpenError {
    OpenError::Io {
        path: path.into(),
        action,
        cause: error.to_string(),
    }
}
