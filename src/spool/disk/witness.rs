//! Whether the files that are written to are those that the next start will find.
//!
//! A file that was moved or removed beneath us can be read and written as before, and goes with the
//! process. So nothing more is promised, and what is there is delivered as long as the process lives.
//! Looked at once a second: what is answered 200 within that second is lost if the file stays away.
//! A database that is shorter than it was has been cut by somebody, for nothing here makes it shorter: until the next
//! start, which reads what is left, nothing more is promised either. Its log becomes shorter by itself. If the log is
//! copied into it before the next look, it is as long as before, and what was cut is zeros: that is damage, which
//! whoever reads it meets.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Witness {
    files: Vec<(PathBuf, Identity)>,
    database: PathBuf,
    /// As long as the database has been; without end once it was cut short.
    longest: AtomicU64,
}

/// What is wrong with a file.
#[derive(Clone, Copy)]
pub(super) enum Fault<'w> {
    /// Moved or removed.
    Misplaced(&'w Path),
    CutShort(&'w Path),
}

/// Device and inode.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64);

impl Witness {
    /// Of those that are there.
    pub fn of(database: PathBuf, log: PathBuf) -> Self {
        let known = |file: PathBuf| identity(&file).map(|identity| (file, identity));
        let length = fs::metadata(&database).map_or(0, |found| found.len());
        Self {
            files: [database.clone(), log]
                .into_iter()
                .filter_map(known)
                .collect(),
            database,
            longest: AtomicU64::new(length),
        }
    }

    /// A file that is not in its place, or not whole. To be asked by one at a time.
    pub fn fault(&self) -> Option<Fault<'_>> {
        self.misplaced().map(Fault::Misplaced).or_else(|| {
            self.is_cut_short()
                .then_some(Fault::CutShort(&self.database))
        })
    }

    fn is_cut_short(&self) -> bool {
        let longest = self.longest.load(Ordering::Relaxed);
        if longest == u64::MAX {
            return true;
        }
        // An error tells nothing of how long it is.
        let length = fs::metadata(&self.database).map_or(longest, |found| found.len());
        let is_cut = length < longest;
        let longest = if is_cut { u64::MAX } else { length };
        self.longest.store(longest, Ordering::Relaxed);
        is_cut
    }

    fn misplaced(&self) -> Option<&Path> {
        let missing = |(file, before): &&(PathBuf, Identity)| match fs::metadata(file) {
            Ok(found) => Identity(found.dev(), found.ino()) != *before,
            // Any other error tells nothing of where the file is.
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        self.files
            .iter()
            .find(missing)
            .map(|(file, _)| file.as_path())
    }
}

fn identity(file: &Path) -> Option<Identity> {
    let found = fs::metadata(file).ok()?;
    Some(Identity(found.dev(), found.ino()))
}
