//! Standard Webhooks signatures (standardwebhooks.com, version 1.0): what a target can check that a
//! notification comes from this relay, and when it was sent. Pure: the time is passed in.
//!
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA-256 over `id.timestamp.body`, one for each
//! secret, with spaces between: while a secret is replaced, a target may check with the old one or the new.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::notification::Record;
use crate::secret::Secret;

/// The same on every attempt.
pub(super) const ID: HeaderName = HeaderName::from_static("webhook-id");
/// Seconds since 1970, of the attempt.
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What a secret begins with, so that people and scanners know it for one.
const PREFIX: &[u8] = b"whsec_";
const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 64;

/// Signs for one target.
#[derive(Clone, Default)]
pub struct Signer(Vec<Key>);

/// One secret, ready to sign with.
#[derive(Clone)]
pub struct Key(hmac::Key);

/// Why a text is no secret to sign with. It quotes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "a signing secret begins with `whsec_`; make one: echo \"whsec_$(openssl rand -base64 32)\""
    )]
    Prefix,
    #[error(
        "what follows `whsec_` is not base64; make one: echo \"whsec_$(openssl rand -base64 32)\""
    )]
    Base64,
    #[error(
        "a signing secret of {0} bytes; it must have {KEY_BYTES_MIN} to {KEY_BYTES_MAX}, behind the base64"
    )]
    Length(usize),
}

impl Key {
    pub fn parse(secret: &Secret) -> Result<Self, KeyError> {
        let text = secret.expose().strip_prefix(PREFIX);
        let key = STANDARD.decode(text.ok_or(KeyError::Prefix)?);
        let key = Zeroizing::new(key.map_err(|_| KeyError::Base64)?);
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
            return Err(KeyError::Length(key.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }
}

impl Signer {
    /// Signs with each of these, in this order; with none, not at all.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Adds the headers of an attempt made now.
    pub fn sign(&self, record: &Record, now: Timestamp, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let id = record.id.to_string();
        let seconds = now.as_millis().div_euclid(1000).to_string();
        let signatures: Vec<String> = self
            .0
            .iter()
            .map(|key| key.sign(&id, &seconds, &record.body))
            .collect();
        // Digits, base64, commas and spaces: none can fail to be a header.
        for (name, text) in [(TIMESTAMP, seconds), (SIGNATURE, signatures.join(" "))] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

impl Key {
    fn sign(&self, id: &str, seconds: &str, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
            context.update(part);
        }
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} keys)", self.0.len())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::tests::due;

    fn key(text: &str) -> Result<Key, KeyError> {
        Key::parse(&Secret::from_text(text.into()).unwrap())
    }

    fn of_bytes(count: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![7; count]))
    }

    /// From the specification's reference implementations.
    #[test]
    fn the_example_of_the_standard_is_signed_alike() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        assert_eq!(
            key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn each_secret_signs_and_the_time_is_that_of_the_attempt() {
        let record = due(7, Timestamp::from_millis(1_765_977_748_432)).record;
        let signer = Signer::new(vec![
            key(&of_bytes(24)).unwrap(),
            key(&of_bytes(64)).unwrap(),
        ]);
        let mut headers = HeaderMap::new();
        signer.sign(
            &record,
            Timestamp::from_millis(1_765_977_999_999),
            &mut headers,
        );
        assert_eq!(headers["webhook-timestamp"], "1765977999");
        let signatures = headers["webhook-signature"].to_str().unwrap();
        let (first, second) = signatures.split_once(' ').unwrap();
        assert!(first.starts_with("v1,") && second.starts_with("v1,") && first != second);

        let mut none = HeaderMap::new();
        Signer::default().sign(&record, Timestamp::now(), &mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn what_is_no_signing_secret_says_why_and_quotes_nothing() {
        let without_prefix = of_bytes(32).replace("whsec_", "");
        let cases = [
            (of_bytes(24), None),
            (of_bytes(64), None),
            (of_bytes(23), Some(KeyError::Length(23))),
            (of_bytes(65), Some(KeyError::Length(65))),
            ("whsec_".into(), Some(KeyError::Length(0))),
            (without_prefix, Some(KeyError::Prefix)),
            (
                of_bytes(32).replace("whsec_", "whsk_"),
                Some(KeyError::Prefix),
            ),
            ("whsec_hunter2!".into(), Some(KeyError::Base64)),
            (
                format!("{}\n", of_bytes(32)).replace("BwcH", "B cH"),
                Some(KeyError::Base64),
            ),
            (of_bytes(32).replace('=', ""), Some(KeyError::Base64)),
        ];
        for (text, error) in cases {
            let found = key(&text).err();
            assert_eq!(found, error, "{text}");
            let told = found.map_or(String::new(), |error| error.to_string());
            assert!(
                !told.contains("hunter2") && !told.contains("BwcH"),
                "{told}"
            );
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let signer = Signer::new(vec![key(&of_bytes(24)).unwrap()]);
        assert_eq!(
            format!("{signer:?} {:?}", signer.0),
            "Signer(1 keys) [Key(redacted)]"
        );
    }
}
