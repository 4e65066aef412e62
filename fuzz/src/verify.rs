//! A signature header, a timestamp header and a body, with a zero between, against a second HMAC implementation.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use suki_relay::secret::Secret;
use suki_relay::verify::{Keyring, Signed};

use crate::{SECRET, halves, name};

pub fn try_one(input: &[u8]) {
    let (header, rest) = halves(input);
    let (generated_at, body) = halves(rest);
    let (Ok(header), Ok(generated_at)) = (str::from_utf8(header), str::from_utf8(generated_at))
    else {
        return;
    };
    // Keys of every length that matters to HMAC: shorter than a block, one, and longer.
    let key = SECRET.repeat(1 + input.len() % 5);
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(format!("{generated_at}:").as_bytes());
    mac.update(body);
    let right: [u8; 32] = mac.finalize().into_bytes().into();

    let secret = Secret::from_text(key).expect("not empty");
    let keyring = Keyring::new([(name("current"), &secret)]);
    let verifies = |signature: String| {
        let signed = Signed {
            generated_at: generated_at.to_owned(),
            signature,
            body: Bytes::copy_from_slice(body),
        };
        keyring.verify(signed).is_ok()
    };
    assert!(verifies(hex::encode(right)), "theirs is refused");
    assert!(
        verifies(hex::encode_upper(right)),
        "theirs is refused in upper case"
    );
    // What the input says, and the right one with one of its bits changed.
    let same = hex::decode(header).is_ok_and(|bytes| bytes == right);
    assert_eq!(verifies(header.to_owned()), same);
    if let [at, ..] = input {
        let mut wrong = right;
        wrong[usize::from(*at) % 32] ^= 1 << (at >> 5);
        assert!(!verifies(hex::encode(wrong)), "a wrong one is taken");
    }
}
