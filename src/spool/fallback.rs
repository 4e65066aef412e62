//! A disk beside the shared spool: what comes while the server is away is kept there, and moved over when it
//! is back.
//!
//! Promises:
//! * Whoever is told that it is kept has it on stable storage: in the server, or here.
//! * What is here is not delivered from here. Whether another relay, or the server itself, has the same bytes
//!   is known there only: so each delivery stays in one pair of hands.
//! * It is moved by submitting it to the server, whose marks for duplicates tell what is there already: by an
//!   answer that was lost, by a sender that came again elsewhere, by a move that a crash cut short. It is
//!   settled here once the server's COMMIT has returned. So a move is made twice at worst, and what it moves
//!   is delivered as if once, for as long as the mark lives.
//! * What cannot be read is told once, stays, and is in the way of nothing behind it.
//! * What is pending here moves with its targets and its reason for quarantine; dead letters, which only a
//!   folder has that was a spool of its own, stay.
//!
//! The server has `after` for a submission; then, or as soon as it is known to be away, the disk takes it. If
//! that cannot, the server is waited for after all. Once the disk has taken one, it takes all that come, until
//! the server has taken one from it.
//!
//! Limits: a move is of [`MOVED_MAX`] notifications or [`MOVED_BYTES_MAX`] of bodies, which the server commits
//! with what else waits. [`Fallback`] owns the mover's thread; dropping it ends that between two steps.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::disk::Disk;
use super::metrics::{Metrics, Op};
use super::orders::{Deed, Note, Order};
use super::postgres::Postgres;
use super::{
    AcceptError, Cursor, DeliveryKey, DeliveryState, Entry, FallbackOptions, Fatal, Filter, Kept,
    OpenError, ReadError, Settled, Settlement, State, Submission,
};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Notification;
use crate::spool::metrics;

/// Notifications moved at once.
const MOVED_MAX: usize = 100;

/// Bodies moved at once; one at least.
const MOVED_BYTES_MAX: u64 = 16 << 20;

/// After the server, or the disk, refused some: when it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// When what cannot be read is looked at again.
const UNREADABLE_AFTER: Duration = Duration::from_mins(5);

/// What became of a move, in the history of a delivery on the disk; and who let go of what is held there.
const MOVED: &str = "moved";

pub(super) struct Fallback {
    house: Arc<House>,
    mover: Option<JoinHandle<()>>,
}

struct House {
    server: Arc<Postgres>,
    disk: Disk,
    after: Duration,
    /// The disk has taken something, and the server nothing since.
    leans_on_disk: AtomicBool,
    arrived: Notify,
    end: Notify,
    /// Sequences of what cannot be read, as far as it has been told.
    told: Mutex<HashSet<i64>>,
    metrics: Metrics,
}

/// How a look at the disk went; the worst of what it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    AllMoved,
    Unreadable,
    Refused,
}

impl Fallback {
    /// Blocks on the disk. Moves begin at once if there is something on it.
    pub fn open(
        options: &FallbackOptions,
        server: Arc<Postgres>,
        metrics: &Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let failure = |cause: String| OpenError::Io {
            path: options.disk.path.clone(),
            action: "start what moves from it",
            cause,
        };
        let metrics = metrics.beside();
        let metrics = metrics.map_err(|error| failure(error.to_string()))?;
        let house = Arc::new(House {
            disk: Disk::open(&options.disk, metrics.clone(), on_fatal)?,
            after: options.after,
            leans_on_disk: AtomicBool::new(false),
            arrived: Notify::new(),
            end: Notify::new(),
            told: Mutex::default(),
            metrics,
            server,
        });
        let mover = {
            let (house, fails) = (house.clone(), house.clone());
            let work = move || house.runtime().block_on(house.work());
            start(work, move |fatal| fails.disk.fail(fatal))
        };
        let mover = mover.map_err(|error| failure(error.to_string()))?;
        Ok(Self {
            house,
            mover: Some(mover),
        })
    }

    /// Cancellation: it goes on until it is kept, here or there; only a wait for the server with a disk that
    /// refuses ends with whoever waits.
    pub async fn accept(&self, submission: Submission) -> Result<Kept, AcceptError> {
        let house = self.house.clone();
        let (mut answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let kept = if let Some(kept) = house.keep(&submission).await {
                Ok(kept)
            } else {
                tokio::select! {
                    kept = house.server.accept(submission) => kept,
                    () = answer.closed() => return,
                }
            };
            // First: whoever is told may let go of the spool, and open its folder anew.
            drop(house);
            // Whoever is gone has been told nothing.
            let _ = answer.send(kept);
        });
        answered.await.unwrap_or(Err(AcceptError::Failed))
    }

    /// Notifications on the disk that are not settled.
    pub fn held(&self) -> u64 {
        let waiting = [metrics::State::Pending, metrics::State::Held];
        let waiting = waiting.map(|state| self.house.metrics.notifications(state).get());
        // Below 0 where some could not be counted, and were moved.
        u64::try_from(waiting.iter().sum::<i64>()).unwrap_or(0)
    }

    pub fn is_open(&self) -> bool {
        self.house.disk.is_open()
    }

    pub fn writer_busy_for(&self) -> Option<Duration> {
        self.house.disk.writer_busy_for()
    }
}

impl Drop for Fallback {
    fn drop(&mut self) {
        self.house.end.notify_one();
        if let Some(mover) = self.mover.take()
            // Whoever is told of its end may let go of the last handle, on that thread.
            && mover.thread().id() != thread::current().id()
        {
            let _ = mover.join();
        }
    }
}

/// The mover's thread. A panic is told: without it, what is acknowledged would stay here in silence.
fn start(
    work: impl FnOnce() + Send + 'static,
    fail: impl FnOnce(Fatal) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name("spool-mover".into());
    thread.spawn(move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            fail(Fatal::panicked());
        }
    })
}

impl House {
    fn runtime(&self) -> Handle {
        self.server.runtime()
    }

    /// The server for a while, then the disk; `None` if neither has it.
    async fn keep(&self, submission: &Submission) -> Option<Kept> {
        if !self.server.is_away() && !self.leans_on_disk.load(Ordering::Acquire) {
            let kept = self.server.accept(submission.clone());
            if let Ok(Ok(kept)) = timeout(self.after, kept).await {
                return Some(kept);
            }
        }
        let kept = self.disk.accept(submission.clone()).await.ok()?;
        if !self.leans_on_disk.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "the spool's server does not take what comes: it is kept on the disk beside it"
            );
        }
        self.arrived.notify_one();
        Some(kept)
    }

    /// Moves what is there, for ever.
    async fn work(&self) {
        tokio::select! {
            () = self.end.notified() => {}
            () = self.keep_moving() => {}
        }
    }

    async fn keep_moving(&self) {
        loop {
            // By the rows, whatever the gauges show: those of a damaged page are in no gauge.
            match self.look().await.unwrap_or(Look::Refused) {
                Look::AllMoved => {
                    self.leans_on_disk.store(false, Ordering::Release);
                    self.arrived.notified().await;
                }
                Look::Unreadable => drop(timeout(UNREADABLE_AFTER, self.arrived.notified()).await),
                Look::Refused => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// Once through all that is to be moved.
    async fn look(&self) -> Result<Look, ReadError> {
        let (mut worst, mut moved) = (Look::AllMoved, 0);
        for state in [State::Pending, State::Quarantined] {
            let filter = Filter {
                state: Some(state),
                ..Filter::default()
            };
            let mut next = Some(Cursor::default());
            while let Some(after) = next {
                let page = self.disk.look_through(&filter, after, MOVED_MAX).await?;
                next = page.next;
                for sequence in &page.unreadable {
                    self.tell_unreadable(*sequence);
                    worst = worst.max(Look::Unreadable);
                }
                let mut entries = &page.entries[..];
                while !entries.is_empty() {
                    let (now, later) = entries.split_at(fitting(entries));
                    let (look, count) = self.move_over(now).await?;
                    worst = worst.max(look);
                    moved += count;
                    entries = later;
                }
            }
        }
        if moved > 0 {
            tracing::info!(moved, "what was kept on the disk is in the shared spool");
        }
        Ok(worst)
    }

    /// One move: how it went, and how many the server has.
    async fn move_over(&self, entries: &[Entry]) -> Result<(Look, usize), ReadError> {
        let mut look = Look::AllMoved;
        let mut put = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(record) = self.disk.record(entry.sequence).await? else {
                self.tell_unreadable(entry.sequence);
                look = look.max(Look::Unreadable);
                continue;
            };
            let submission = Submission {
                notification: Notification::kept(record),
                verdict: entry.verdict,
                targets: pending(entry).cloned().collect(),
                quarantine: entry.quarantine,
            };
            match self.server.queue().accept(submission) {
                Ok(answer) => put.push((entry, answer)),
                Err(_) => look = Look::Refused,
            }
        }
        let mut kept = Vec::with_capacity(put.len());
        for (entry, answer) in put {
            match answer.await {
                Ok(Ok(_)) => kept.push(entry),
                _ => look = Look::Refused,
            }
        }
        if !kept.is_empty() {
            self.leans_on_disk.store(false, Ordering::Release);
        }
        if !self.let_go(&kept).await {
            look = Look::Refused;
        }
        Ok((look, kept.len()))
    }

    fn tell_unreadable(&self, sequence: i64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(sequence) {
            self.metrics.error(Op::Read);
            tracing::error!(
                sequence,
                "not moved, and tried again with each move, or in 5 minutes: its record is damaged. Look at the volume"
            );
        }
    }

    /// They are the server's. False if the disk could not write that down: they are moved again.
    async fn let_go(&self, moved: &[&Entry]) -> bool {
        let at = Timestamp::now();
        let mut settled = Vec::new();
        for entry in moved {
            for target in pending(entry) {
                settled.push(self.disk.settle(Settlement {
                    key: DeliveryKey {
                        sequence: entry.sequence,
                        target: target.clone(),
                    },
                    at,
                    took: Duration::ZERO,
                    outcome: MOVED,
                    result: Settled::Delivered,
                }));
            }
        }
        for settled in settled {
            if settled.await.is_err() {
                return false;
            }
        }
        let held = moved.iter().filter(|entry| entry.quarantine.is_some());
        let sequences = held.map(|entry| entry.sequence);
        let deeds: Vec<_> = sequences.map(|sequence| Deed::LetGo { sequence }).collect();
        deeds.is_empty() || self.carry_out(deeds, at).await
    }

    async fn carry_out(&self, deeds: Vec<Deed>, at: Timestamp) -> bool {
        let Ok(by) = Name::new(MOVED) else {
            return false;
        };
        let (answer, answered) = oneshot::channel();
        let order = Order {
            deeds,
            by,
            at,
            all_or_none: false,
            note: Note::None,
            answer,
        };
        self.disk.queue().order(order).is_ok() && matches!(answered.await, Ok(Ok(_)))
    }
}

/// The targets that it is still owed to.
fn pending(entry: &Entry) -> impl Iterator<Item = &Name> {
    let pending = entry.deliveries.iter();
    let pending = pending.filter(|delivery| delivery.state == DeliveryState::Pending);
    pending.map(|delivery| &delivery.target)
}

/// How many of them are moved at once.
fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.content.as_ref().map_or(0, |it| it.body_bytes);
        bytes <= MOVED_BYTES_MAX
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mover_that_panics_is_told_and_not_quoted() {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let fail = move |fatal: Fatal| tell.send(fatal.to_string()).expect("waited for");
        let mover = start(|| panic!("quotes a body"), fail).expect("starts");
        let told = told.recv().expect("told");
        assert!(
            told.contains("panicked") && !told.contains("quotes"),
            "{told}"
        );
        mover.join().expect("it has been caught");
    }
}
