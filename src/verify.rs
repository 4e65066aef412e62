//! The signature: who may hand us a notification.
//!
//! Suki signs each request with HMAC-SHA-256 over the text of its timestamp header, a colon and the
//! body, and sends the result as hex (Suki, "Signature verification"). What is hashed here is exactly
//! what came: the header's text and the body's bytes are never parsed and printed again.
//!
//! Promises:
//! * [`Keyring::verify`] is the only maker of a [`Verified`].
//! * A signature is 64 hex digits of either case, decoded to 32 bytes and compared in constant time;
//!   a shorter or longer one never reaches the comparison (CVE-2024-21491 compared the common prefix).
//! * Every key is tried each time, so timing does not tell which one matched.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac};
use bytes::Bytes;

use crate::name::Name;
use crate::secret::Secret;

/// Bytes in an HMAC-SHA-256 and in a SHA-256.
pub const DIGEST_BYTES: usize = 32;

/// The parts of a request that its sender signs, and the signature, all as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// Text of the timestamp header; visible ASCII.
    pub generated_at: String,
    /// Text of the signature header; visible ASCII.
    pub signature: String,
    pub body: Bytes,
}

/// A request whose signature matched one of the source's secrets.
#[derive(Debug)]
pub struct Verified {
    signed: Signed,
    secret: Name,
    digest: [u8; DIGEST_BYTES],
}

/// Why a request is not verified. Holds the request, for the ring of unverified ones.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    #[error("the signature is not 64 hex digits")]
    Malformed(Signed),
    #[error("the signature matches none of the source's secrets")]
    NoMatch(Signed),
}

/// The secrets of one source, ready to verify with.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    name: Name,
    hmac: hmac::Key,
}

impl Keyring {
    /// Keys are made here, once a load: verifying allocates nothing.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (Name, &'a Secret)>) -> Self {
        let keys = secrets
            .into_iter()
            .map(|(name, secret)| Key {
                name,
                hmac: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
            })
            .collect();
        Self { keys }
    }

    /// Names of the secrets, in the order they are tried.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.keys.iter().map(|key| &key.name)
    }

    /// # Errors
    /// [`Unverified`], with the request, if no secret made this signature.
    pub fn verify(&self, signed: Signed) -> Result<Verified, Unverified> {
        let Some(signature) = decode(&signed.signature) else {
            return Err(Unverified::Malformed(signed));
        };
        let matched = self
            .keys
            .iter()
            .filter(|key| {
                let expected = sign(&key.hmac, &signed.generated_at, &signed.body);
                verify_slices_are_equal(expected.as_ref(), &signature).is_ok()
            })
            .fold(None, |first, key| first.or(Some(key)));
        match matched {
            Some(key) => {
                let digest = content_digest(&signed.generated_at, &signed.body);
                Ok(Verified {
                    secret: key.name.clone(),
                    digest,
                    signed,
                })
            }
            None => Err(Unverified::NoMatch(signed)),
        }
    }
}

impl Verified {
    pub fn secret(&self) -> &Name {
        &self.secret
    }

    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// The request, the name of the secret that matched, and the SHA-256 of what was signed.
    pub fn into_parts(self) -> (Signed, Name, [u8; DIGEST_BYTES]) {
        (self.signed, self.secret, self.digest)
    }
}

/// The signature header's text for a body, in lower-case hex: what Suki sends.
pub fn signature(secret: &Secret, generated_at: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    hex::encode(sign(&key, generated_at, body))
}

fn sign(key: &hmac::Key, generated_at: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(generated_at.as_bytes());
    context.update(b":");
    context.update(body);
    context.sign()
}

/// SHA-256 of what a sender signs.
pub fn content_digest(generated_at: &str, body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(generated_at.as_bytes());
    context.update(b":");
    context.update(body);
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

fn decode(signature: &str) -> Option<[u8; DIGEST_BYTES]> {
    let mut bytes = [0; DIGEST_BYTES];
    hex::decode_to_slice(signature, &mut bytes).ok()?;
    Some(bytes)
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} body bytes)", self.body.len())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"whsec-test-partner-secret-0001";
    const GENERATED_AT: &str = "1765977748432";
    const V1_BODY: &str = r#"{"encounter_id":"29de56bc-960a-4cd5-b18f-79a798d62874","error_code":"ERROR_CODE_TRANSCRIPTION","error_detail":"Error in transcription","session_id":"20965414-929a-4f71-a3e5-b92bec07d086","status":"failure"}"#;
    const V1: &str = "fdcff4e8a414ec6a386d49b35a7d61addbed4b8e9fdefdb6b6df9ed6d3c92fa0";
    const V2_BODY: &str = r#"{"encounter_id":"4d753ce1-bbff-43e1-950a-82dea2d86873","session_id":"a953839a-ddcd-407d-b9b0-3ed4b6be4be2","status":"success"}"#;
    const V2: &str = "ffea5fcff1539dc8bd5106fd0585ee46faea304bccd9b2cd7fefb2eac164e543";
    const V3: &str = "c442ed17c0723d827160a4c61b930f8b939fb5fa7ddc0636c2781075f178411d";
    const V4: &str = "1b21b64e070cbafef5c4529c55a716071afca753563bfd8d6c631b04c6e9153e";
    const V6: &str = "0f8bb271d93f4ba9d297799a4b66ce3713d6ec1d0480bfefd1139e461cfd1fae";

    fn secret(bytes: &[u8]) -> Secret {
        Secret::from_text(bytes.to_vec()).expect("not empty")
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn keyring() -> Keyring {
        Keyring::new([(name("current"), &secret(SECRET))])
    }

    fn signed(generated_at: &str, signature: &str, body: impl Into<Bytes>) -> Signed {
        Signed {
            generated_at: generated_at.into(),
            signature: signature.into(),
            body: body.into(),
        }
    }

    #[test]
    fn the_six_vectors() {
        let v4_body = V1_BODY.replace("Error in transcription", "Fehler – übersetzung");
        let good = [
            (V1_BODY.to_owned(), V1),
            (V2_BODY.to_owned(), V2),
            (format!("{V1_BODY}\n"), V3),
            (v4_body, V4),
            (String::new(), V6),
        ];
        for (body, expected) in good {
            assert_eq!(
                signature(&secret(SECRET), GENERATED_AT, body.as_bytes()),
                expected
            );
            assert!(
                keyring()
                    .verify(signed(GENERATED_AT, expected, body))
                    .is_ok(),
                "{expected}"
            );
        }
        let value: serde_json::Value = serde_json::from_str(V1_BODY).expect("json");
        let v5_body = serde_json::to_string_pretty(&value).expect("json");
        assert!(keyring().verify(signed(GENERATED_AT, V1, v5_body)).is_err());
    }

    #[test]
    fn hex_of_either_case_verifies() {
        let upper = V1.to_uppercase();
        assert!(
            keyring()
                .verify(signed(GENERATED_AT, &upper, V1_BODY))
                .is_ok()
        );
    }

    #[test]
    fn a_signature_of_any_other_length_is_malformed() {
        for length in (0..=128).filter(|length| *length != V1.len()) {
            let text: String = V1.chars().cycle().take(length).collect();
            let verdict = keyring().verify(signed(GENERATED_AT, &text, V1_BODY));
            assert!(
                matches!(verdict, Err(Unverified::Malformed(_))),
                "{length} digits"
            );
        }
        let prefixed = format!("sha256={V1}");
        assert!(
            keyring()
                .verify(signed(GENERATED_AT, &prefixed, V1_BODY))
                .is_err()
        );
    }

    #[test]
    fn the_timestamp_is_taken_as_text() {
        assert!(
            keyring()
                .verify(signed("01765977748432", V1, V1_BODY))
                .is_err()
        );
    }

    #[test]
    fn every_secret_is_tried_and_the_one_that_matched_is_named() {
        let (old, new) = (secret(b"an old secret of some length"), secret(SECRET));
        let keyring = Keyring::new([(name("old"), &old), (name("new"), &new)]);
        let verified = keyring
            .verify(signed(GENERATED_AT, V1, V1_BODY))
            .expect("verifies");
        assert_eq!(verified.secret().as_str(), "new");
        let by_old = signature(&old, GENERATED_AT, V1_BODY.as_bytes());
        let verified = keyring
            .verify(signed(GENERATED_AT, &by_old, V1_BODY))
            .expect("verifies");
        assert_eq!(verified.secret().as_str(), "old");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_single_bit_changed_is_refused(part in 0..3_u8, at: prop::sample::Index, bit in 0..8_u8) {
            let mut parts = [GENERATED_AT.as_bytes().to_vec(), hex::decode(V1).expect("hex"), V1_BODY.into()];
            let bytes = &mut parts[usize::from(part)];
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let [generated_at, tag, body] = parts;
            // A header is visible ASCII before it reaches the keyring; other bytes never get here.
            if let Ok(generated_at) = String::from_utf8(generated_at) {
                let verdict = keyring().verify(signed(&generated_at, &hex::encode(tag), body));
                prop_assert!(verdict.is_err());
            }
        }
    }
}
