//! Wall-clock time as the relay keeps it: whole milliseconds since the Unix epoch.
//!
//! [`wall`] is the one place that reads the wall clock; everything that decides takes a [`Timestamp`] as an
//! argument. Arithmetic saturates: a clock that jumps never panics.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The wall clock, now, as finely as it goes: for what is told of times, not for what is decided by them.
#[allow(clippy::disallowed_methods)] // the one place
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// What TLS takes for now: a clock before the epoch shows the epoch. Of its own, rustls panics on one, in each handshake.
#[derive(Debug)]
pub struct TlsClock;

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = wall().duration_since(UNIX_EPOCH);
        Some(UnixTime::since_unix_epoch(since.unwrap_or_default()))
    }
}

/// A moment, in milliseconds since the Unix epoch; negative before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Later than any other.
    pub const MAX: Self = Self(i64::MAX);

    /// The wall clock, now.
    pub fn now() -> Self {
        Self::from(wall())
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339, with or without a fraction; `None` before the epoch.
    pub fn parse(text: &str) -> Option<Self> {
        let moment = humantime::parse_rfc3339_weak(text).ok()?;
        (moment >= UNIX_EPOCH).then(|| Self::from(moment))
    }

    /// Seconds since the epoch, as Prometheus wants its `_timestamp_seconds` gauges.
    #[allow(clippy::cast_precision_loss)] // exact until the year 287,396
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e3
    }

    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis(wait)))
    }

    #[must_use]
    pub fn minus(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(millis(wait)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A wall clock that is believed only as far as time has passed since it was begun: one that is set ahead ages
/// nothing. Set back, it is believed.
#[derive(Debug)]
pub struct Age {
    began: Instant,
    at: Timestamp,
}

impl Age {
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            at: Timestamp::now(),
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::now().min(self.at.plus(self.began.elapsed()))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(millis(before.duration()).saturating_neg()),
        }
    }
}

impl From<Timestamp> for SystemTime {
    /// Moments before the epoch become the epoch: RFC 3339 and HTTP dates have no use for them.
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(time.0).unwrap_or(0))
    }
}

/// RFC 3339 in UTC with milliseconds; the last representable second for years past 9999.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const YEAR_9999_END: i64 = 253_402_300_799_999;
        let shown = Self(self.0.min(YEAR_9999_END));
        humantime::format_rfc3339_millis(shown.into()).fmt(f)
    }
}

fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_as_rfc_3339_with_milliseconds() {
        let moment = Timestamp::from_millis(1_765_977_748_432);
        assert_eq!(moment.to_string(), "2025-12-17T13:22:28.432Z");
        assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn arithmetic_at_the_ends_of_time_saturates() {
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!(last.plus(Duration::MAX), last, "K01, K03");
        assert_eq!(Timestamp::from_millis(i64::MIN).since(last), Duration::ZERO);
        assert!(!last.to_string().is_empty());
        assert!(!Timestamp::from_millis(i64::MIN).to_string().is_empty());
    }
}
