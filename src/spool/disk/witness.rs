//! Whether the files that are written to are those that the next start will find.
//!
//! A file that was moved or removed beneath us can be read and written as before, and goes with the
//! process. So nothing more is promised, and what is there is delivered as long as the process lives.
//! Looked at once a second: what is answered 200 within that second is lost if the file stays away.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(super) struct Witness {
    files: Vec<(PathBuf, Identity)>,
}

/// Device and inode.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64);

impl Witness {
    /// Of those that are there.
    pub fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let known = |file: PathBuf| identity(&file).map(|identity| (file, identity));
        Self {
            files: files.into_iter().filter_map(known).collect(),
        }
    }

    /// A file that is not in its place.
    pub fn misses(&self) -> Option<&Path> {
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
