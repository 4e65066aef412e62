//! The lease: what this relay has claimed is its own while it is heard of.
//!
//! A delivery is claimed by writing the relay's number into its row; the lease is one row a relay, renewed
//! every third of its span. So a claim costs nothing while it lasts, an attempt may take as long as it
//! likes, and a relay that dies loses all of its claims at once. What another relay has taken over bears
//! that one's number: a settlement by the first changes nothing.
//!
//! The server's clock decides when a lease is over. Here it counts from before the question was put, and
//! ends a tenth early, by a clock that goes on while the machine is suspended: who is paused longer than its
//! lease begins nothing on an old claim. A lease that was over, by either clock, begins a new era when it is
//! renewed: what was claimed in the last one may have been taken over, though nobody looked in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

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
    hold: Mutex<Hold>,
    ended: AtomicBool,
}

#[derive(Default)]
struct Hold {
    /// Since the machine was started.
    until: Option<Duration>,
    era: u64,
}

impl Lease {
    pub fn new(span: Duration) -> Self {
        Self {
            relay: fastrand::i64(1..),
            slot: fastrand::i64(0..SLOTS),
            span,
            hold: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// How often it is renewed.
    pub fn beat(&self) -> Duration {
        self.span / 3
    }

    /// Of what is claimed now; `None` while the lease may be over.
    pub fn era(&self) -> Option<u64> {
        let hold = self.hold();
        hold.is_on().then_some(hold.era)
    }

    pub async fn renew(&self, session: &mut Session) -> Result<(), Error> {
        const RENEW: &str = "WITH before AS (SELECT alive_until FROM relay WHERE id = $1)
             INSERT INTO relay (id, alive_until)
             VALUES ($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2)
             ON CONFLICT (id) DO UPDATE SET alive_until = EXCLUDED.alive_until
             RETURNING EXISTS (SELECT 1 FROM before
                 WHERE alive_until > (extract(epoch FROM clock_timestamp()) * 1000)::bigint)";
        if self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        let asked = since_start();
        let span_ms = if cfg!(sabotage = "claimed-without-a-lease") {
            0
        } else {
            i64::try_from(self.span.as_millis()).unwrap_or(i64::MAX)
        };
        let rows = session.query(RENEW, &[&self.relay, &span_ms]).await?;
        let was_alive = rows.first().map_or(Ok(false), |row| row.try_get(0))?;
        let mut hold = self.hold();
        if !was_alive || !hold.is_on() {
            hold.era += 1;
        }
        hold.until = Some(asked + self.span * 9 / 10);
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
        self.hold().until = None;
        session.query(END, &[&self.relay]).await.map(drop)
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn is_on(&self) -> bool {
        self.until.is_some_and(|until| since_start() < until)
    }
}

/// Since the machine was started, suspended or not.
fn since_start() -> Duration {
    let passed = clock_gettime(ClockId::Boottime);
    Duration::try_from(passed).unwrap_or_default()
}
