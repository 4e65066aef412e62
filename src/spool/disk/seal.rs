//! Encryption at rest: what the database is sealed with, and whether these keys open it.
//!
//! Sealed are the body and the header fields of each notification (`spool/sealed.rs`), bound to its id, and
//! its mark. Readable stay names, times, lengths, verdicts and the history of attempts.
//!
//! A mark is a digest, and of a text with few unknowns a digest tells the text. So marks, too, are sealed: with
//! a key of their own, which is made at random once and lies in table `key`, sealed by each key of the file.
//! It never changes, so duplicates are known across a rotation; and as it opens only with the right key,
//! it is the check of the key as well. The sealing is AES-256 of the digest's two halves, each one block: the same
//! for the same bytes, which is what a mark is for, and it gives the id back when the content has gone.
//!
//! Opening changes nothing unless the keys open all that is sealed. A spool that was readable is sealed from
//! its first opening with keys on: its marks at once, in one commit; what came before stays readable until it
//! leaves. There is no way back.

use std::sync::Arc;

use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Result as Sql};
use zeroize::Zeroizing;

use crate::notification::Id;
use crate::spool::KeyFault;
use crate::spool::keys::{KEY_BYTES, Key, Keys, NONCE_BYTES, Shut};
use crate::verify::DIGEST_BYTES;

/// What the sealed key of the marks is bound to; no id is as long.
const MARKS: &[u8] = b"suki-relay: the key of the marks";

/// Marks sealed at a time when a readable spool gets its first key.
const MARKS_MAX: i64 = 1000;

/// What seals and opens; without keys, all stays as it is. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Seal(Option<Arc<Inner>>);

struct Inner {
    keys: Keys,
    marks: Marks,
}

struct Marks {
    seal: EncryptingKey,
    open: DecryptingKey,
}

/// What opening found, and is still to write.
pub(super) struct Unsealed {
    keys: Option<Keys>,
    /// The key of the marks; `None`: nothing is sealed as yet.
    marks: Option<Zeroizing<Vec<u8>>>,
    /// Keys that sealed nothing that is left, and are not in the file any more.
    gone: Vec<String>,
}

/// Why a spool does not open with these keys.
pub(super) enum Refusal {
    Key(KeyFault),
    Sql(Error),
}

impl Unsealed {
    /// Holds the keys against what is sealed. Changes nothing.
    pub fn check(connection: &Connection, keys: Option<&Keys>) -> Result<Self, Refusal> {
        let mut all = connection.prepare("SELECT name, marks FROM key")?;
        let sealed: Vec<(String, Vec<u8>)> = all
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Sql<_>>()?;
        let mut unsealed = Self {
            keys: keys.cloned(),
            marks: None,
            gone: Vec::new(),
        };
        if sealed.is_empty() {
            return Ok(unsealed);
        }
        let keys = keys.ok_or(KeyFault::None)?;
        for (name, marks) in sealed {
            match keys.find(&name) {
                Some(key) => {
                    let opened = open_marks(key, marks);
                    unsealed.marks = Some(opened.map_err(|Shut| KeyFault::Wrong(name))?);
                }
                None if seals(connection, &name)? => return Err(KeyFault::Missing(name).into()),
                None => unsealed.gone.push(name),
            }
        }
        match unsealed.marks {
            None => Err(KeyFault::Missing(unsealed.gone.join("`, `")).into()),
            Some(_) => Ok(unsealed),
        }
    }

    /// Writes what is new, in one commit.
    pub fn seal(self, connection: &Connection) -> Sql<Seal> {
        let Some(keys) = self.keys else {
            return Ok(Seal(None));
        };
        let first = self.marks.is_none();
        let key = match self.marks {
            Some(key) => key,
            None => random().map_err(unwritten)?,
        };
        let marks = Marks::new(&key).map_err(unwritten)?;
        let change = connection.unchecked_transaction()?;
        for name in self.gone {
            change.execute("DELETE FROM key WHERE name = ?1", [name])?;
        }
        let mut add = change.prepare(
            "INSERT INTO key (name, marks) VALUES (?1, ?2)
                                      ON CONFLICT (name) DO NOTHING",
        )?;
        for file_key in keys.iter() {
            let sealed = seal_marks(file_key, &key).map_err(unwritten)?;
            add.execute((file_key.name.as_str(), sealed))?;
        }
        drop(add);
        if first {
            marks.seal_all(&change)?;
        }
        change.commit()?;
        Ok(Seal(Some(Arc::new(Inner { keys, marks }))))
    }
}

impl Seal {
    pub fn keys(&self) -> Option<&Keys> {
        self.0.as_ref().map(|inner| &inner.keys)
    }

    /// The mark of a digest, as it is on disk.
    pub fn mark(&self, digest: [u8; DIGEST_BYTES]) -> Sql<[u8; DIGEST_BYTES]> {
        self.sealed(digest)
    }

    /// How the marks of an id begin on disk.
    pub fn mark_of_id(&self, id: Id) -> Sql<[u8; Id::BYTES]> {
        self.sealed(*id.as_bytes())
    }

    /// The digest of a mark on disk.
    pub fn digest(&self, mark: &[u8]) -> Sql<[u8; DIGEST_BYTES]> {
        let mut digest: [u8; DIGEST_BYTES] = mark.try_into().map_err(unread)?;
        if let Some(inner) = &self.0 {
            let open = &inner.marks.open;
            let opened = open.decrypt(&mut digest, DecryptionContext::None);
            opened.map_err(unread)?;
        }
        Ok(digest)
    }

    fn sealed<const N: usize>(&self, mut bytes: [u8; N]) -> Sql<[u8; N]> {
        if let Some(inner) = &self.0 {
            let sealed = inner.marks.seal.encrypt(&mut bytes);
            sealed.map_err(unwritten)?;
        }
        Ok(bytes)
    }
}

impl Marks {
    fn new(key: &[u8]) -> Result<Self, Unspecified> {
        Ok(Self {
            seal: EncryptingKey::ecb(UnboundCipherKey::new(&AES_256, key)?)?,
            open: DecryptingKey::ecb(UnboundCipherKey::new(&AES_256, key)?)?,
        })
    }

    fn seal_all(&self, change: &Connection) -> Sql<()> {
        let mut find = change
            .prepare("SELECT seq, digest FROM notification WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
        let mut put = change.prepare("UPDATE notification SET digest = ?2 WHERE seq = ?1")?;
        let mut after = 0;
        loop {
            let some: Vec<(i64, Vec<u8>)> = find
                .query_map((after, MARKS_MAX), |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Sql<_>>()?;
            let Some((last, _)) = some.last() else {
                return Ok(());
            };
            after = *last;
            for (seq, mut digest) in some {
                // Another length is damage, and is told when the record is read.
                if digest.len() != DIGEST_BYTES {
                    continue;
                }
                self.seal.encrypt(&mut digest).map_err(unwritten)?;
                put.execute((seq, digest))?;
            }
        }
    }
}

/// Whether content is left that this key sealed.
fn seals(connection: &Connection, name: &str) -> Sql<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM content WHERE sealed_by = ?1)",
        [name],
        |row| row.get(0),
    )
}

fn random() -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
    rand::fill(&mut key)?;
    Ok(key)
}

fn seal_marks(by: &Key, marks: &[u8]) -> Result<Vec<u8>, Shut> {
    let mut sealed = marks.to_vec();
    let nonce = by.seal(MARKS, &mut sealed)?;
    Ok([&nonce[..], &sealed].concat())
}

fn open_marks(by: &Key, sealed: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, Shut> {
    let mut sealed = Zeroizing::new(sealed);
    let nonce = *sealed.first_chunk::<NONCE_BYTES>().ok_or(Shut)?;
    sealed.drain(..NONCE_BYTES);
    by.open(nonce, MARKS, &mut sealed)?;
    Ok(sealed)
}

fn unwritten(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ToSqlConversionFailure(Box::new(error))
}

fn unread(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error))
}

impl From<KeyFault> for Refusal {
    fn from(fault: KeyFault) -> Self {
        Self::Key(fault)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}
