//! The attendant: one connection that hears, tells, and renews the lease.
//!
//! What has become due is told to the other relays after the commit, on a connection that waits for no
//! disk: PostgreSQL lets transactions that notify commit only one at a time. A word may be lost; every
//! beat, each target is looked at all the same, and so is what a relay that died has left.
//!
//! Ends with the spool's runtime; owns nothing but its connection.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::fault::Error;
use super::session::{Role, Session};

/// Words that may wait to be read; more say nothing new.
const HEARD_MAX: usize = 64;

/// Between two words: what is told within it is told at once.
const TELL_EVERY: Duration = Duration::from_millis(20);

/// After a connection that ended, or was not made.
const PAUSE: Duration = Duration::from_millis(200);

/// After the teller's number: look at all targets.
const EVERYTHING: &str = " *";

/// So many targets fit into one word (8000 bytes).
const TARGETS_MAX: usize = 300;

/// What the other relays are to be told.
#[derive(Default)]
pub(super) struct Announcements {
    targets: Mutex<BTreeSet<i64>>,
    noted: Notify,
}

impl Announcements {
    /// Something has become due for these, by their numbers.
    pub fn note(&self, targets: impl IntoIterator<Item = i64>) {
        let mut waiting = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.len();
        waiting.extend(targets);
        if waiting.len() > before {
            self.noted.notify_one();
        }
    }

    fn take(&self) -> BTreeSet<i64> {
        std::mem::take(&mut *self.targets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) async fn attend(shared: Arc<Shared>) {
    loop {
        let (heard, mut words) = mpsc::channel(HEARD_MAX);
        if let Ok(mut session) = shared.address.open(Role::Listener(heard)).await {
            // Whatever ended it, the writer tells that the server is away.
            let _ = serve(&shared, &mut session, &mut words).await;
        }
        sleep(PAUSE).await;
    }
}

async fn serve(
    shared: &Shared,
    session: &mut Session,
    words: &mut mpsc::Receiver<String>,
) -> Result<(), Error> {
    let mut beat = Instant::now();
    let mut tell = Instant::now();
    let mut untold = false;
    loop {
        tokio::select! {
            () = sleep_until(beat) => {
                shared.lease.renew(session).await?;
                shared.wakes.all();
                beat = Instant::now() + shared.lease.beat();
            }
            word = words.recv() => match word {
                Some(word) => obey(shared, &word),
                None => return Ok(()),
            },
            () = shared.announcements.noted.notified() => untold = true,
            () = sleep_until(tell), if untold => {
                untold = false;
                tell = Instant::now() + TELL_EVERY;
                announce(shared, session).await?;
            }
        }
    }
}

async fn announce(shared: &Shared, session: &mut Session) -> Result<(), Error> {
    let targets = shared.announcements.take();
    let mut word = shared.lease.relay.to_string();
    if targets.len() > TARGETS_MAX {
        word.push_str(EVERYTHING);
    } else {
        for target in targets {
            word.push(' ');
            word.push_str(&target.to_string());
        }
    }
    say(shared, session, &word).await
}

/// This relay has let go of all that it had claimed.
pub(super) async fn say_goodbye(shared: &Shared, session: &mut Session) -> Result<(), Error> {
    let word = format!("{}{EVERYTHING}", shared.lease.relay);
    say(shared, session, &word).await
}

async fn say(shared: &Shared, session: &mut Session, word: &str) -> Result<(), Error> {
    const TELL: &str = "SELECT pg_notify($1, $2)";
    session
        .query(TELL, &[&shared.options.schema, &word])
        .await
        .map(drop)
}

/// Who told it has looked already.
fn obey(shared: &Shared, word: &str) {
    let mut parts = word.split(' ');
    if parts.next() == Some(shared.lease.relay.to_string().as_str()) {
        return;
    }
    for part in parts {
        match part.parse() {
            Ok(number) => {
                // A target that was never met here has no worker that could wake.
                if let Some(name) = shared.names.met(number) {
                    shared.wakes.of(&name).ring();
                }
            }
            Err(_) => shared.wakes.all(),
        }
    }
    shared.gauges_stale.notify_one();
}
