//! What a bench submits through the spool's own door.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use suki_relay::clock::Timestamp;
use suki_relay::name::Name;
use suki_relay::notification::Notification;
use suki_relay::secret::Secret;
use suki_relay::spool::{Metrics, Options, Spool, Submission, Verdict};
use suki_relay::verify::{Keyring, Signed, signature};

pub struct Signer {
    secret: Secret,
    keyring: Keyring,
}

impl Signer {
    pub fn new(secret: &str) -> Self {
        let secret = Secret::from_text(secret.into()).expect("a secret");
        let keyring = Keyring::new([(name("current"), &secret)]);
        Self { secret, keyring }
    }

    /// Generated and received at this time.
    pub fn submission(&self, body: Bytes, target: &str, at: Timestamp) -> Submission {
        let generated_at = at.as_millis().to_string();
        let signed = Signed {
            signature: signature(&self.secret, &generated_at, &body),
            generated_at,
            body,
        };
        let verified = self.keyring.verify(signed).expect("verifies");
        Submission {
            notification: Notification::new(verified, name("suki"), at, None),
            verdict: Verdict::Accepted,
            targets: vec![name(target)],
            quarantine: None,
        }
    }
}

pub fn on_disk(path: &Path) -> Spool {
    let options = Options {
        path: path.to_owned(),
        capacity_bytes: 64 << 30,
        keys: None,
        keep_delivered: Duration::from_hours(72),
        unverified_capacity_bytes: 0,
    };
    Spool::open(&options, metrics(), |fatal| panic!("{fatal}")).expect("opens")
}

pub fn metrics() -> Metrics {
    Metrics::new(&Registry::new()).expect("new names")
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
