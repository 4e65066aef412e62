//! The ballast: room on the disk that is held for when there is no other.
//!
//! A file of no content whose space is reserved. The first fault for want of room lets go of the space,
//! so that settlements and checkpoints go on; new notifications then have only the space that is free
//! inside the database. It is reserved again, and the shortage over, when the disk has room once more.
//!
//! It takes no more than half of what is left, so no disk is filled by it. Opening lets go of it
//! first: recovery may need the room. A file system that cannot reserve (NFS before 4.2) has no ballast.
//! A crash leaves a ballast of any length, which is no harm.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, fstatfs, fstatvfs};
use rustix::io::Errno;

use super::folder::private_file;

const BALLAST: &str = "ballast";

/// Less than this is worth no file; also what a fault asks for, to learn whether room was the matter.
const LEAST_BYTES: u64 = 64 * 1024;

pub(super) struct Ballast {
    file: File,
    most_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held_bytes: u64,
    short: bool,
    /// The file system cannot reserve.
    none: bool,
}

/// Bytes of the file system that holds a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Volume {
    pub bytes: u64,
    /// What is left for us, as far as the file system tells: a quota as a rule does not show.
    pub available_bytes: u64,
    /// What is wrong with its kind, if it is one that a spool should not be on.
    pub doubt: Option<&'static str>,
}

/// By the magic numbers of statfs(2).
const DOUBTFUL: [(u32, &str); 6] = [
    (
        0x0102_1994,
        "tmpfs, in memory: it is gone with the machine, or the pod",
    ),
    (0x8584_58f6, "ramfs, in memory: it is gone with the machine"),
    (
        0x0000_6969,
        "NFS, where locks and syncs may promise more than they hold",
    ),
    (
        0xff53_4d42,
        "CIFS, where locks and syncs may promise more than they hold",
    ),
    (
        0xfe53_4d42,
        "SMB, where locks and syncs may promise more than they hold",
    ),
    (
        0x794c_7630,
        "overlayfs, which as a rule is a container's own: it is gone with the container",
    ),
];

impl Ballast {
    /// Lets go of what an earlier process had reserved.
    pub fn open(folder: &Path, most_bytes: u64) -> io::Result<Self> {
        let file = private_file(&folder.join(BALLAST))?;
        file.set_len(0)?;
        Ok(Self {
            file,
            most_bytes,
            state: Mutex::default(),
        })
    }

    /// Whether there was no room, and there has been none since.
    pub fn is_short(&self) -> bool {
        self.state().short
    }

    /// Lets go of it. True if that is news.
    pub fn release(&self) -> bool {
        let mut state = self.state();
        if state.none {
            return false;
        }
        // Nothing to be done about an error: the disk has the room, or it has not.
        if self.file.set_len(0).is_ok() {
            state.held_bytes = 0;
        }
        !std::mem::replace(&mut state.short, true)
    }

    /// Reserves what the disk can spare. True if that ended a shortage.
    pub fn restore(&self) -> bool {
        let mut state = self.state();
        if state.none || state.held_bytes == self.most_bytes {
            return false;
        }
        let Ok(volume) = Volume::of(&self.file) else {
            return false;
        };
        let spare = u64::midpoint(volume.available_bytes, state.held_bytes);
        // A shortage ends with room for more than the next few notifications.
        let least = if state.short {
            self.most_bytes / 4
        } else {
            LEAST_BYTES
        };
        let mut wanted = spare.min(self.most_bytes);
        while wanted > state.held_bytes && wanted >= least {
            match self.reserve(0, wanted) {
                Ok(()) => {
                    state.held_bytes = wanted;
                    return std::mem::take(&mut state.short);
                }
                Err(Errno::NOSPC | Errno::DQUOT) => {
                    state.held_bytes = 0;
                    wanted /= 2;
                }
                Err(error) => return state.refused(error),
            }
        }
        false
    }

    /// Whether the disk refuses a little more: a quota that is spent fails a write like any I/O error.
    pub fn is_out_of_room(&self) -> bool {
        let held = self.state().held_bytes;
        let refusal = self.reserve(held, LEAST_BYTES);
        matches!(refusal, Err(Errno::NOSPC | Errno::DQUOT))
    }

    pub fn available_bytes(&self) -> Option<u64> {
        Volume::of(&self.file)
            .ok()
            .map(|volume| volume.available_bytes)
    }

    /// What could be reserved in part is let go of again.
    fn reserve(&self, from: u64, bytes: u64) -> Result<(), Errno> {
        let reserved = fallocate(&self.file, FallocateFlags::empty(), from, bytes);
        if reserved.is_err() || from > 0 {
            let _ = self.file.set_len(from);
        }
        reserved
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Not for want of room. True if that ended a shortage: without a ballast, none is known.
    fn refused(&mut self, error: Errno) -> bool {
        self.none = matches!(error, Errno::OPNOTSUPP | Errno::NOSYS);
        self.none && std::mem::take(&mut self.short)
    }
}

impl Volume {
    pub fn of(file: &File) -> io::Result<Self> {
        let told = fstatvfs(file)?;
        // Numbers of 32 bits, in a field that is signed here and wider there.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let kind = fstatfs(file)?.f_type as u32;
        let doubt = DOUBTFUL.iter().find(|(magic, _)| *magic == kind);
        Ok(Self {
            bytes: told.f_blocks.saturating_mul(told.f_frsize),
            available_bytes: told.f_bavail.saturating_mul(told.f_frsize),
            doubt: doubt.map(|(_, doubt)| *doubt),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_ends_where_no_room_can_be_reserved() {
        let short = || State {
            short: true,
            ..State::default()
        };
        for (error, ends) in [(Errno::OPNOTSUPP, true), (Errno::IO, false)] {
            let mut state = short();
            assert_eq!(state.refused(error), ends, "{error}");
            assert_eq!((state.none, state.short), (ends, !ends), "{error}");
        }
    }
}
