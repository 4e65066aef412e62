//! The keys that a spool is sealed with, as `spool.disk.key_file` has them.
//!
//! The file has a key a line, a name and 32 random bytes in Base64: `2026-11 q83v…=`. The first one seals;
//! the others open what they sealed before, until nothing of it is left. Empty lines, and lines that begin
//! with `#`, are passed over.
//!
//! Sealing is AES-256-GCM with a nonce of 96 random bits. Past 2^32 seals by one key the chance that a nonce
//! came twice is no longer negligible (NIST SP 800-38D, 8.3): some four billion notifications, 136 a second
//! for a year. Give a new key before that.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::name::Name;

pub(super) const KEY_BYTES: usize = 32;
pub(super) const NONCE_BYTES: usize = NONCE_LEN;

/// More are a file that nobody tidies.
const KEYS_MAX: usize = 16;

/// One key at least; the first one seals. Cheap to clone; wiped when the last clone goes.
#[derive(Clone)]
pub struct Keys(Arc<Vec<Key>>);

pub(super) struct Key {
    pub name: Name,
    bytes: Zeroizing<Vec<u8>>,
    cipher: RandomizedNonceKey,
}

/// What is wrong with a file of keys; quotes nothing of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("no key in it; write a line `NAME BASE64`, of a name and 32 random bytes")]
    None,
    #[error("more than {KEYS_MAX} keys; remove those that sealed nothing that is left")]
    TooMany,
    #[error("line {0} is not `NAME BASE64`, a name and 32 random bytes: `openssl rand -base64 32`")]
    Line(usize),
    #[error("line {0} repeats the name or the bytes of a key above it; give each its own")]
    Repeated(usize),
}

/// It cannot be sealed, or was not sealed by this key and for this.
#[derive(Debug, thiserror::Error)]
#[error("it does not open with its key")]
pub(super) struct Shut;

impl Keys {
    /// # Errors
    /// [`KeysError`] if it is no file of keys.
    pub fn parse(file: &[u8]) -> Result<Self, KeysError> {
        let mut keys: Vec<Key> = Vec::new();
        for (n, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let key = Key::parse(line).ok_or(KeysError::Line(n + 1))?;
            let same = |other: &Key| other.name == key.name || other.bytes == key.bytes;
            if keys.iter().any(same) {
                return Err(KeysError::Repeated(n + 1));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeysError::None),
            1..=KEYS_MAX => Ok(Self(Arc::new(keys))),
            _ => Err(KeysError::TooMany),
        }
    }

    /// The same for the same keys in the same order, and of no use to anybody else: to be compared, and not
    /// shown.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for key in self.iter() {
            context.update(key.name.as_str().as_bytes());
            context.update(b" ");
            context.update(&key.bytes);
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }

    /// The key that seals what is new.
    pub(super) fn first(&self) -> Option<&Key> {
        self.0.first()
    }

    pub(super) fn find(&self, name: &str) -> Option<&Key> {
        self.iter().find(|key| key.name.as_str() == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

impl Key {
    fn parse(line: &[u8]) -> Option<Self> {
        let (name, text) = str::from_utf8(line)
            .ok()?
            .split_once(|c: char| c.is_ascii_whitespace())?;
        let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.trim_ascii_start()).ok()?);
        Some(Self {
            name: Name::new(name).ok()?,
            cipher: RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()?,
            bytes,
        })
    }

    /// In place, with the tag behind. It opens only for what it is `bound_to`.
    pub fn seal(&self, bound_to: &[u8], text: &mut Vec<u8>) -> Result<[u8; NONCE_BYTES], Shut> {
        let sealed = self
            .cipher
            .seal_in_place_append_tag(Aad::from(bound_to), text);
        sealed.map(|nonce| *nonce.as_ref()).map_err(|_| Shut)
    }

    /// Undoes [`Key::seal`].
    pub fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        bound_to: &[u8],
        sealed: &mut Vec<u8>,
    ) -> Result<(), Shut> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self
            .cipher
            .open_in_place(nonce, Aad::from(bound_to), sealed);
        let length = opened.map_err(|_| Shut)?.len();
        sealed.truncate(length);
        Ok(())
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl Eq for Keys {}

/// Shows the names.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|key| key.name.as_str()))
            .finish()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A key whose bytes are all that one.
    pub fn line(name: &str, byte: u8) -> String {
        format!("{name} {}\n", BASE64_STANDARD.encode([byte; KEY_BYTES]))
    }

    pub fn keys(lines: &[(&str, u8)]) -> Keys {
        let file: String = lines.iter().map(|(name, byte)| line(name, *byte)).collect();
        Keys::parse(file.as_bytes()).expect("keys")
    }

    #[test]
    fn a_file_of_keys_has_one_a_line_and_the_first_seals() {
        let file = format!(
            "# ours\r\n\n{}  \t{}",
            line("b", 1).replace('\n', "\r\n"),
            line("a", 2)
        );
        let keys = Keys::parse(file.as_bytes()).expect("keys");
        assert_eq!(keys.first().expect("one").name.as_str(), "b");
        assert!(keys.find("a").is_some() && keys.find("c").is_none());
        assert_eq!(format!("{keys:?}"), r#"{"b", "a"}"#);
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line_and_not_quoted() {
        let short = format!("a {}", BASE64_STANDARD.encode([1; 31]));
        let many: String = (0..17).map(|n| line(&format!("k{n}"), n)).collect();
        let cases = [
            (String::new(), KeysError::None),
            ("# a\n".into(), KeysError::None),
            ("hunter2".into(), KeysError::Line(1)),
            ("\na hunter2".into(), KeysError::Line(2)),
            (short, KeysError::Line(1)),
            (line("A", 1), KeysError::Line(1)),
            (line("a", 1) + &line("a", 2), KeysError::Repeated(2)),
            (line("a", 1) + &line("b", 1), KeysError::Repeated(2)),
            (many, KeysError::TooMany),
        ];
        for (file, expected) in cases {
            let refused = Keys::parse(file.as_bytes()).expect_err(&file);
            assert_eq!(refused, expected, "{file}");
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn keys_are_the_same_by_names_bytes_and_order() {
        let both = keys(&[("a", 1), ("b", 2)]);
        assert_eq!(both, keys(&[("a", 1), ("b", 2)]));
        for other in [
            keys(&[("a", 1)]),
            keys(&[("a", 1), ("b", 3)]),
            keys(&[("b", 2), ("a", 1)]),
        ] {
            assert_ne!(both, other);
        }
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_for_what_it_is_bound_to_and_unchanged() {
        let pair = keys(&[("a", 1), ("b", 2)]);
        let (right, wrong) = (pair.find("a").expect("a"), pair.find("b").expect("b"));
        let mut sealed = b"text".to_vec();
        let nonce = right.seal(b"id", &mut sealed).expect("sealed");
        let mut changed = sealed.clone();
        changed[0] ^= 1;
        let open = |key: &Key, nonce, id: &[u8], sealed: &[u8]| {
            let mut text = sealed.to_vec();
            key.open(nonce, id, &mut text).map(|()| text)
        };
        assert_eq!(open(right, nonce, b"id", &sealed).expect("opens"), b"text");
        assert!(open(wrong, nonce, b"id", &sealed).is_err());
        assert!(open(right, nonce, b"other", &sealed).is_err());
        assert!(open(right, [0; NONCE_BYTES], b"id", &sealed).is_err());
        assert!(open(right, nonce, b"id", &changed).is_err());
        assert!(open(right, nonce, b"id", &sealed[..3]).is_err());
    }
}
