//! `Retry-After`, as a number or a date, and the moments that operators write.

use std::time::Duration;

use suki_relay::clock::Timestamp;
use suki_relay::retry::{Policy, RETRY_AFTER_MAX, parse_retry_after};

const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);

pub fn try_one(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let asked = parse_retry_after(text, NOW);
    let policy = Policy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(300),
        give_up_after: Duration::from_secs(72 * 3600),
    };
    for attempt in [1, 7, u32::MAX] {
        let wait = policy.wait(attempt, 0.5, asked);
        assert!(wait <= RETRY_AFTER_MAX, "{wait:?}");
    }
    if let Some(moment) = Timestamp::parse(text) {
        assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
    }
}
