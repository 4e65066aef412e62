//! A mapping whose keys are known, and what each of its keys may be.

use super::reader::{At, Read, Surroundings, join};
use super::tree::{Key, Node, Place};

/// A mapping whose keys are known.
pub(super) struct Block<'a> {
    entries: Vec<(&'a Key, &'a Node)>,
    keys: &'static [&'static str],
    place: Place,
    path: String,
    pub around: Surroundings<'a>,
}

impl<'a> Block<'a> {
    /// `entries` are those of the mapping at `at` whose keys are known.
    pub fn new(
        at: &At<'a>,
        entries: Vec<(&'a Key, &'a Node)>,
        keys: &'static [&'static str],
    ) -> Self {
        Self {
            entries,
            keys,
            place: at.place(),
            path: at.path.clone(),
            around: at.around,
        }
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &'static str) -> Read<At<'a>> {
        match self.optional(key) {
            Some(at) => Ok(at),
            None => self.problem(key, "missing; it must be given"),
        }
    }

    /// The value of a key, unless it is absent or null.
    pub fn optional(&self, key: &'static str) -> Option<At<'a>> {
        debug_assert!(
            self.keys.contains(&key),
            "a key that the block does not list"
        );
        let (_, node) = self.entries.iter().find(|(known, _)| known.text == key)?;
        (!node.is_null()).then(|| At::new(node, join(&self.path, key), self.around))
    }

    /// Whether a key is there, and null: to some that is not the same as absent.
    pub fn is_null(&self, key: &'static str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(known, node)| known.text == key && node.is_null())
    }

    /// The value of a key, or its default if it is absent or null.
    pub fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&At<'a>) -> Read<T>,
    ) -> Read<T> {
        match self.optional(key) {
            Some(at) => read(&at),
            None => Ok(default),
        }
    }

    /// The value of a key that may stay away: `Ok(None)` then.
    pub fn maybe<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&At<'a>) -> Read<T>,
    ) -> Read<Option<T>> {
        match self.optional(key) {
            Some(at) => read(&at).map(Some),
            None => Ok(None),
        }
    }

    /// A block inside this one; all defaults if it is absent or null.
    pub fn block(&self, key: &'static str, keys: &'static [&'static str]) -> Read<Block<'a>> {
        match self.optional(key) {
            Some(at) => at.block(keys),
            None => Ok(Block {
                entries: Vec::new(),
                keys,
                place: self.place,
                path: join(&self.path, key),
                around: self.around,
            }),
        }
    }

    /// Notes a problem between keys, at the one that most likely is to be changed.
    pub fn problem<T>(&self, key: &'static str, what: impl Into<String>) -> Read<T> {
        let found = self.entries.iter().find(|(known, _)| known.text == key);
        let place = found.map_or(self.place, |(_, node)| node.place);
        Err(self.around.note(place, &join(&self.path, key), what))
    }
}
