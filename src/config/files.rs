//! Files that the config names, and the config itself: read whole, once, within a limit.
//!
//! A folder, a pipe, a socket or a device is refused before it is opened: reading one might never end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroize;

use super::fingerprint::{Fingerprint, Tape};
use super::snapshot::Snapshot;

/// Bytes in the config, and in any file that it names, at most.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a file whole.
pub type ReadFile<'a> = dyn Fn(&Path) -> io::Result<Vec<u8>> + 'a;

/// How to get at files from the config.
pub(super) struct Files<'a> {
    /// Where relative paths begin: the config file's own folder.
    pub folder: PathBuf,
    pub read: &'a ReadFile<'a>,
    /// What was read.
    pub tape: Tape,
}

impl Files<'_> {
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path).components().collect()
    }

    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let read = (self.read)(path);
        self.tape.note(path, &read);
        read
    }
}

/// What these files hold now. The same as a [`Config`](super::Config)'s `contents` for as long as none
/// of its files changes, and far cheaper than reading it.
pub fn contents(files: &[PathBuf]) -> Fingerprint {
    let (snapshot, tape) = (Snapshot::default(), Tape::default());
    for file in files {
        let mut read = snapshot.read(file);
        tape.note(file, &read);
        // It may be a secret's, and is read again and again.
        read.iter_mut().for_each(Zeroize::zeroize);
    }
    tape.fingerprint()
}

/// Reads a file from disk.
///
/// # Errors
/// What the system says, or that it is no regular file, or larger than [`FILE_BYTES_MAX`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::other("it is a folder; name a file"));
    }
    if !metadata.is_file() {
        return Err(io::Error::other(
            "it is a socket, pipe or device; name a file",
        ));
    }
    // At once: what grows leaves copies behind, of a secret perhaps.
    let room = metadata.len().min(FILE_BYTES_MAX) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or(0));
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(
            "it is larger than 1 MiB; name the right file",
        ));
    }
    Ok(bytes)
}
