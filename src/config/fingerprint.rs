//! Fingerprints: whether something is the same as before, without keeping what it was.
//!
//! They may be of secrets, so they are compared and never shown.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::interpolate::{Lookup, fill};
use super::reader::At;
use super::tree::{Node, Value};

/// SHA-256 of something, in an unambiguous form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// What each file held when it was first read in a load.
#[derive(Default)]
pub(super) struct Tape(RefCell<BTreeMap<PathBuf, Fingerprint>>);

impl Fingerprint {
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let mut writer = Writer::new();
        writer.part(bytes);
        writer.end()
    }

    /// Of a value of the config: its text with variables filled in, and what its references brought in.
    /// Neither its place nor the order of its keys counts.
    pub(super) fn of_value(at: &At<'_>) -> Self {
        let mut writer = Writer::new();
        writer.node(at.node, at.around.env);
        for (path, brought_in) in at.around.report.brought_in() {
            if let Some(inside) = path.strip_prefix(&at.path) {
                writer.part(inside.as_bytes());
                writer.part(&brought_in.0);
            }
        }
        writer.end()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

impl Tape {
    /// A file that is read twice counts as it was first: should it have changed in between, the next
    /// look at it tells.
    pub fn note(&self, path: &Path, read: &io::Result<Vec<u8>>) {
        let mut files = self.0.borrow_mut();
        files.entry(path.to_owned()).or_insert_with(|| match read {
            Ok(bytes) => Fingerprint::of_bytes(bytes),
            Err(error) => Fingerprint::of_bytes(format!("unreadable: {error}").as_bytes()),
        });
    }

    /// Of all files, their names included.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut writer = Writer::new();
        for (path, file) in self.0.borrow().iter() {
            writer.part(path.as_os_str().as_encoded_bytes());
            writer.part(&file.0);
        }
        writer.end()
    }
}

/// Every part goes in with its length, so that no two values write the same.
struct Writer(digest::Context);

impl Writer {
    fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    fn part(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_le_bytes());
    }

    fn node(&mut self, node: &Node, env: &Lookup<'_>) {
        match &node.value {
            Value::Scalar(scalar) => {
                self.part(b"scalar");
                let filled = fill(&scalar.text, env);
                self.part(filled.as_deref().unwrap_or(&scalar.text).as_bytes());
            }
            Value::Sequence(items) => {
                self.part(b"sequence");
                self.count(items.len());
                for item in items {
                    self.node(item, env);
                }
            }
            Value::Mapping(entries) => {
                self.part(b"mapping");
                self.count(entries.len());
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
                for (key, value) in entries {
                    self.part(key.text.as_bytes());
                    self.node(value, env);
                }
            }
        }
    }

    fn end(self) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Fingerprint(bytes)
    }
}
