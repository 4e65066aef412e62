//! The lease: what this relay has claimed is its own while it is heard of.
//!
//! A delivery is claimed by writing the relay's number into its row; the lease is one row a relay, renewed
//! every third of its span. So a claim costs nothing while it lasts, an attempt may take as long as it
//! likes, and a relay that dies loses all of its claims at once. What another relay has taken over bears
//! that one's number: a settlement by the first changes nothing.
//!
//! The server's clock decides when a lease is over. Here it counts from before the question was put, and
//! ends a tenth early: who is paused longer than its lease begins nothing on an old claim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fault::Error;
use super::session::Session;

/// Slots of the counters: so many relays commit side by side.
const SLOTS: i64 = 64;

pub(super) struct Lease {
    /// This process's own number.
    pub relay: i64,
    /// Where it counts.
    pub slot: i64,
    span: Duration,
    held_until: Mutex<Option<Instant>>,
    ended: AtomicBool,
}

impl Lease {
    pub fn new(span: Duration) -> Self {
        Self {
            relay: fastrand::i64(1..),
            slot: fastrand::i64(0..SLOTS),
            span,
            held_until: Mutex::new(None),
            ended: AtomicBool::new(false),
        }
    }

    /// How often it is renewed.
    pub fn beat(&self) -> Duration {
        self.span / 3
    }

    pub fn is_held(&self) -> bool {
        let held_until = self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held_until.is_some_and(|until| Instant::now() < until)
    }

    pub async fn renew(&self, session: &mut Session) -> Result<(), Error> {
        const RENEW: &str = "INSERT INTO relay (id, alive_until)
             VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2)
             ON CONFLICT (id) DO UPDATE SET alive_until = EXCLUDED.alive_until";
        if self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        let asked = Instant::now();
        let span_ms = if cfg!(sabotage = "claimed-without-a-lease") {
            0
        } else {
            i64::try_from(self.span.as_millis()).unwrap_or(i64::MAX)
        };
        session.query(RENEW, &[&self.relay, &span_ms]).await?;
        let until = asked + self.span * 9 / 10;
        *self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(until);
        Ok(())
    }

    /// Relays that have not been heard of for long, by any clock, are forgotten.
    pub async fn sweep(&self, session: &mut Session) -> Result<(), Error> {
        const SWEEP: &str = "DELETE FROM relay
             WHERE alive_until < (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 86400000";
        session.query(SWEEP, &[]).await.map(drop)
    }

    /// What is claimed is anybody's from now on.
    pub async fn end(&self, session: &mut Session) -> Result<(), Error> {
        const END: &str = "DELETE FROM relay WHERE id = $1";
        self.ended.store(true, Ordering::Release);
        *self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        session.query(END, &[&self.relay]).await.map(drop)
    }
}
