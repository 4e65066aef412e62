//! A notification: what a sender told us, once its signature has been verified.
//!
//! [`Record`] is plain data: what the spool keeps and what a target is sent. [`Notification`] is a
//! record that may be spooled, and the only way to one is [`Notification::new`], which consumes a
//! [`Verified`]; beside it, a spool may hand over to another what it has kept. So the order verify, then keep,
//! then deliver is held by types.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::name::Name;
use crate::verify::{DIGEST_BYTES, Verified, content_digest};

/// A notification's id: the first 16 bytes of SHA-256 over what was signed, shown as hex. The same on
/// every attempt, after every restart and on every replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; Id::BYTES]);

/// Everything kept of one request.
#[derive(Clone)]
pub struct Record {
    pub id: Id,
    pub source: Name,
    /// Name of the secret that made the signature.
    pub secret: Name,
    pub received_at: Timestamp,
    /// Text of the timestamp header, as sent.
    pub generated_at: String,
    /// Text of the signature header, as sent.
    pub signature: String,
    /// The `content-type` header, as sent.
    pub content_type: Option<String>,
    /// The exact bytes that were verified.
    pub body: Bytes,
}

/// A verified request that the spool may keep.
#[derive(Clone, Debug)]
pub struct Notification {
    record: Record,
    digest: [u8; DIGEST_BYTES],
}

impl Id {
    pub const BYTES: usize = 16;

    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Reads the hex form, of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl Notification {
    pub fn new(
        verified: Verified,
        source: Name,
        received_at: Timestamp,
        content_type: Option<String>,
    ) -> Self {
        let (signed, secret, digest) = verified.into_parts();
        let mut id = [0; Id::BYTES];
        id.copy_from_slice(&digest[..Id::BYTES]);
        let record = Record {
            id: Id(id),
            source,
            secret,
            received_at,
            generated_at: signed.generated_at,
            signature: signed.signature,
            content_type,
            body: signed.body,
        };
        Self { record, digest }
    }

    /// Of a record that one spool has kept and read back, for another to keep.
    pub(crate) fn kept(record: Record) -> Self {
        let digest = content_digest(&record.generated_at, &record.body);
        Self { record, digest }
    }

    /// SHA-256 of what was signed: two notifications of one source with the same digest are one.
    pub fn digest(&self) -> &[u8; DIGEST_BYTES] {
        &self.digest
    }
}

impl Deref for Notification {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// Shows the id and no content.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, {} body bytes)", self.id, self.body.len())
    }
}
