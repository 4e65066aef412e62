//! What came with one request, as a row keeps it: readable, or sealed.
//!
//! Sealed, body and header fields are one text under one tag. It is cut in two, so that the column of the
//! body is as long as the body.

use std::borrow::Cow;

use rusqlite::types::Type;
use rusqlite::{Error, Result as Sql, Row};

use super::keys::{Keys, NONCE_BYTES, Shut};

/// The columns of a row, in the order of [`Columns::NAMES`].
pub(super) struct Columns<'a> {
    /// Name of the key; `None`: nothing is sealed.
    pub sealed_by: Option<&'a str>,
    /// The nonce, the sealed header fields, and the tag.
    pub seal: Option<Vec<u8>>,
    /// Empty if sealed, like the two below.
    pub generated_at: &'a str,
    pub signature: &'a str,
    pub content_type: Option<&'a str>,
    pub body: Cow<'a, [u8]>,
}

/// The same, opened.
pub(super) struct Opened {
    pub generated_at: String,
    pub signature: String,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

impl<'a> Columns<'a> {
    pub const NAMES: &'static str = "sealed_by, seal, generated_at, signature, content_type, body";

    /// As it is.
    pub fn plain(
        generated_at: &'a str,
        signature: &'a str,
        content_type: Option<&'a str>,
        body: &'a [u8],
    ) -> Self {
        Self {
            sealed_by: None,
            seal: None,
            generated_at,
            signature,
            content_type,
            body: body.into(),
        }
    }

    /// Sealed, if there are keys to seal with. It opens only for what it is `bound_to`.
    pub fn sealed(self, keys: Option<&'a Keys>, bound_to: &[u8]) -> Sql<Self> {
        let Some(key) = keys.and_then(Keys::first) else {
            return Ok(self);
        };
        // A header field has no line ends (RFC 9110, 5.5).
        let mut fields = format!("{}\n{}", self.generated_at, self.signature);
        if let Some(content_type) = self.content_type {
            fields = fields + "\n" + content_type;
        }
        let length = self.body.len();
        let mut text = Vec::with_capacity(length + fields.len() + TAG_BYTES);
        text.extend_from_slice(&self.body);
        text.extend_from_slice(fields.as_bytes());
        let nonce = key.seal(bound_to, &mut text).map_err(unsealed)?;
        let mut seal = nonce.to_vec();
        seal.extend_from_slice(&text[length..]);
        text.truncate(length);
        Ok(Self {
            sealed_by: Some(key.name.as_str()),
            seal: Some(seal),
            generated_at: "",
            signature: "",
            content_type: None,
            body: text.into(),
        })
    }
}

const TAG_BYTES: usize = 16;

impl Opened {
    /// Reads the columns from `first` on. What does not open is a value that nobody wrote.
    pub fn read(row: &Row<'_>, first: usize, keys: Option<&Keys>, bound_to: &[u8]) -> Sql<Self> {
        let mut body: Vec<u8> = row.get(first + 5)?;
        let Some(name) = row.get_ref(first)?.as_str_or_null()? else {
            return Ok(Self {
                generated_at: row.get(first + 2)?,
                signature: row.get(first + 3)?,
                content_type: row.get(first + 4)?,
                body,
            });
        };
        let shut = |error: Shut| Error::FromSqlConversionFailure(first, Type::Blob, error.into());
        let key = keys
            .and_then(|keys| keys.find(name))
            .ok_or(Shut)
            .map_err(shut)?;
        let seal = row.get_ref(first + 1)?.as_blob()?;
        let (nonce, fields) = seal
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(Shut)
            .map_err(shut)?;
        let length = body.len();
        body.reserve_exact(fields.len());
        body.extend_from_slice(fields);
        key.open(*nonce, bound_to, &mut body).map_err(shut)?;
        let fields = String::from_utf8(body.split_off(length)).map_err(|_| shut(Shut))?;
        let mut fields = fields.splitn(3, '\n').map(str::to_owned);
        Ok(Self {
            generated_at: fields.next().unwrap_or_default(),
            signature: fields.next().unwrap_or_default(),
            content_type: fields.next(),
            body,
        })
    }
}

fn unsealed(error: Shut) -> Error {
    Error::ToSqlConversionFailure(error.into())
}
