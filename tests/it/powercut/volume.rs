//! A disk that loses power: what is on it for certain, what may be, and the images that a cut may leave.
//!
//! What was written and not synced may be there or not, each sector for itself; half a sector may be
//! there, or rubbish in the place of what was being written. A file's length may be there without its data, and the
//! data without the length. A name that was made, moved or taken away may be as before until the folder is synced,
//! and a sync of the file does nothing for its name (POSIX; some file systems do more).
//!
//! Taken for granted, as SQLite does: a rename is whole or not done, and what is written does no harm to the bytes
//! beside it ("powersafe overwrite"). And the first sector of a file holds what was or what is written, no rubbish:
//! the database would be refused as a stranger's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::choice::Choice;
use super::trace::{self, Event, What};

/// Which syncs are believed. All, but to see that the campaign can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    All,
    /// As with `synchronous = OFF`.
    None,
    /// As with `synchronous = NORMAL`.
    NotOfLog,
    NotOfFolder,
}

#[derive(Clone, Debug, Default)]
pub struct Volume {
    files: Vec<Inode>,
    /// As on the disk for certain.
    names: BTreeMap<String, usize>,
    unsynced_names: Vec<Unsynced<Naming>>,
    /// As a process sees them.
    seen: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    synced: Vec<u8>,
    unsynced: Vec<Unsynced<Change>>,
}

#[derive(Clone, Debug)]
struct Unsynced<T> {
    ended: usize,
    change: T,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Reserve(u64),
}

#[derive(Clone, Debug)]
enum Naming {
    Made(String, usize),
    Moved(String, String, usize),
    TakenAway(String),
}

/// Files by name: what is found when the power is back.
pub type Image = BTreeMap<String, Vec<u8>>;

impl Volume {
    /// One on which all of this is for certain.
    pub fn of(image: &Image) -> Self {
        let mut volume = Self::default();
        for (name, content) in image {
            volume.names.insert(name.clone(), volume.files.len());
            volume.files.push(Inode {
                synced: content.clone(),
                unsynced: Vec::new(),
            });
        }
        volume.seen = volume.names.clone();
        volume
    }

    pub fn apply(&mut self, event: &Event, syncs: Syncs) {
        match &event.what {
            What::Create(name) if !self.seen.contains_key(name) => {
                let inode = self.files.len();
                self.files.push(Inode::default());
                self.rename(event, Naming::Made(name.clone(), inode));
            }
            What::Create(_) | What::Told(_) => {}
            What::Write(name, at, bytes) => {
                self.change(event, name, Change::Write(*at, bytes.clone()));
            }
            What::Truncate(name, length) => self.change(event, name, Change::Truncate(*length)),
            What::Reserve(name, length) => self.change(event, name, Change::Reserve(*length)),
            What::Rename(from, to) => {
                let inode = self.seen[from];
                self.rename(event, Naming::Moved(from.clone(), to.clone(), inode));
            }
            What::Unlink(name) => self.rename(event, Naming::TakenAway(name.clone())),
            What::Sync(name) => {
                let believed = match syncs {
                    Syncs::None => false,
                    Syncs::NotOfLog => !name.ends_with("-wal"),
                    Syncs::All | Syncs::NotOfFolder => true,
                };
                if believed {
                    self.files[self.seen[name]].sync(event.began);
                }
            }
            What::SyncFolder => {
                if matches!(syncs, Syncs::All | Syncs::NotOfLog) {
                    for naming in synced_by(&mut self.unsynced_names, event.began) {
                        naming.apply(&mut self.names);
                    }
                }
            }
        }
    }

    fn change(&mut self, event: &Event, name: &str, change: Change) {
        let ended = event.ended;
        let file = &mut self.files[self.seen[name]];
        file.unsynced.push(Unsynced { ended, change });
    }

    fn rename(&mut self, event: &Event, change: Naming) {
        let ended = event.ended;
        change.clone().apply(&mut self.seen);
        self.unsynced_names.push(Unsynced { ended, change });
    }

    /// Whatever it did is done, when the next one begins.
    pub fn process_is_gone(&mut self) {
        for naming in &mut self.unsynced_names {
            naming.ended = 0;
        }
        for file in &mut self.files {
            for change in &mut file.unsynced {
                change.ended = 0;
            }
        }
    }

    /// What a process sees, and what a kill leaves.
    pub fn as_seen(&self) -> Image {
        let seen = self.seen.iter();
        seen.map(|(name, inode)| (name.clone(), self.files[*inode].as_seen()))
            .collect()
    }

    /// One of the images that a cut at this moment may leave.
    pub fn cut(&self, choice: &mut Choice) -> Image {
        let mut names = self.names.clone();
        for naming in &self.unsynced_names {
            if choice.keep() {
                naming.change.clone().apply(&mut names);
            }
        }
        let mut image = Image::new();
        for (name, inode) in names {
            image.insert(name, self.files[inode].cut(choice));
        }
        image
    }
}

/// Those that had ended before the sync began.
fn synced_by<T>(unsynced: &mut Vec<Unsynced<T>>, began: usize) -> Vec<T> {
    let ended = |change: &mut Unsynced<T>| change.ended < began;
    let synced = unsynced.extract_if(.., ended);
    synced.map(|unsynced| unsynced.change).collect()
}

impl Naming {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, inode) => drop(names.insert(name, inode)),
            Self::Moved(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
            Self::TakenAway(name) => drop(names.remove(&name)),
        }
    }
}

impl Inode {
    fn sync(&mut self, began: usize) {
        for change in synced_by(&mut self.unsynced, began) {
            change.apply(&mut self.synced);
        }
    }

    fn as_seen(&self) -> Vec<u8> {
        let mut content = self.synced.clone();
        for unsynced in &self.unsynced {
            unsynced.change.apply(&mut content);
        }
        content
    }

    fn cut(&self, choice: &mut Choice) -> Vec<u8> {
        let mut content = self.synced.clone();
        let mut lengths = vec![content.len()];
        for unsynced in &self.unsynced {
            let before = *lengths.last().expect("one");
            lengths.push(unsynced.change.length_after(before));
        }
        // Lengths are recorded in order, apart from the data.
        let recorded = choice.length(&lengths);
        for (at, unsynced) in self.unsynced.iter().enumerate() {
            match &unsynced.change {
                Change::Write(offset, bytes) => write_some(&mut content, *offset, bytes, choice),
                Change::Truncate(_) | Change::Reserve(_) if at >= recorded => {}
                change => change.apply(&mut content),
            }
        }
        content.resize(lengths[recorded], 0);
        content
    }
}

fn write_some(content: &mut Vec<u8>, offset: u64, bytes: &[u8], choice: &mut Choice) {
    let sector = choice.sector_bytes();
    let start = usize::try_from(offset).expect("small");
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes
            .len()
            .min((start + from) / sector * sector + sector - start);
        if choice.keep() {
            let at = start + from;
            content.resize(content.len().max(start + to), 0);
            content[at..start + to].copy_from_slice(&bytes[from..to]);
            if at > 0 {
                choice.tear(&mut content[at..start + to]);
            }
        }
        from = to;
    }
}

impl Change {
    fn length_after(&self, before: usize) -> usize {
        let length = |bytes: u64| usize::try_from(bytes).expect("small");
        match self {
            Self::Write(offset, bytes) => before.max(length(*offset) + bytes.len()),
            Self::Truncate(bytes) => length(*bytes),
            Self::Reserve(bytes) => before.max(length(*bytes)),
        }
    }

    fn apply(&self, content: &mut Vec<u8>) {
        content.resize(self.length_after(content.len()), 0);
        if let Self::Write(offset, bytes) = self {
            let at = usize::try_from(*offset).expect("small");
            content[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

/// What is in a folder and matters.
pub fn read(folder: &Path) -> Image {
    let mut image = Image::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if trace::matters(&name) {
            image.insert(name, fs::read(&path).expect("readable"));
        }
    }
    image
}

/// Makes the folder hold this and nothing else, and rubbish where SQLite looks for its index of the log.
pub fn write(image: &Image, folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).expect("made");
    fs::write(folder.join("spool.db-shm"), vec![0xa5; 32 * 1024]).expect("writable");
    for (name, content) in image {
        let file = File::create(folder.join(name)).expect("made");
        file.write_all_at(content, 0).expect("writable");
    }
}
