use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::retry;
use crate::spool::{DeliveryKey, Due};
use crate::target::{Breaker, Policy};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn policy() -> Policy {
    Policy {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(2),
        in_flight_max: 16,
        retry: retry::Policy {
            initial: Duration::from_secs(1),
            max: Duration::from_mins(5),
            give_up_after: Duration::from_hours(72),
        },
        breaker: Breaker {
            failures: 5,
            probe_after: Duration::from_secs(1),
            probe_max: Duration::from_mins(1),
        },
        give_up_on: BTreeSet::from([400, 405, 410, 413, 415, 422]),
        delivered_on: BTreeSet::new(),
    }
}

pub fn due(sequence: i64, received_at: Timestamp) -> Due {
    let mut id = [0; Id::BYTES];
    id[8..].copy_from_slice(&sequence.to_be_bytes());
    Due {
        key: DeliveryKey {
            sequence,
            target: name("ehr"),
        },
        record: Record {
            id: Id::from_bytes(id),
            source: name("suki"),
            secret: name("current"),
            received_at,
            generated_at: received_at.as_millis().to_string(),
            signature: "ab".repeat(32),
            content_type: Some("application/json".into()),
            body: Bytes::from_static(b"{\"status\": \"success\"}"),
        },
        attempts: 0,
        due_at: received_at,
    }
}
