//! The spool: the only door between ingress and dispatch, and the only room that knows SQL.
//!
//! Kept on a disk (`disk.rs`) or in a server that many relays share (`postgres.rs`). What any spool promises:
//! * [`Spool::accept`] returns `Ok` only once the notification, the whole set of its deliveries and its
//!   mark for duplicates are on stable storage, in one commit. Requests that wait together share one.
//! * The same bytes at the same source are kept once; a second copy learns the first one's [`Verdict`],
//!   after the first one's commit, for as long as the mark lives (`keep_delivered`, or less
//!   where marks take more than a quarter of a full disk's capacity).
//! * [`Spool::due`] is how deliveries are found, live and after a crash alike. What a commit has just put there is
//!   left on its target's [`Doorstep`] as well, if that is open: the same, without being read back.
//! * [`Spool::settle`] may ride along with the next commit: a crash before it costs a duplicate attempt,
//!   never a loss. A settlement is kept in memory and tried again until it is on disk.
//! * A record that cannot be read, or is not to the bit what was received, is never delivered, and delays
//!   no other; nor does it end an order or a list for the others.
//! * Opened with [`Keys`], it keeps bodies and header fields encrypted, and opens with no others.
//! * A full disk, or a full quota, refuses new notifications and heals by itself. A failed sync of a file of
//!   ours ends the process with exit code 74: after one, nothing read back from it can be trusted.

mod audit;
mod custody;
mod disk;
mod doorstep;
mod engine;
mod error;
mod fallback;
mod keys;
mod metrics;
mod orders;
mod postgres;
mod ring;
mod sealed;
mod verdict;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Notification, Record};
pub use audit::{Audit, DISCREPANCIES_MAX, Discrepancy};
pub use custody::{
    Content, Cursor, CustodyError, Delivery, DeliveryState, Discard, Done, Entry, Event, EventKind,
    Filter, Found, IDS_MAX, PAGE_MAX, Page, Release, ReleaseTo, Replay, ReplayTo, State,
};
pub use doorstep::Doorstep;
use engine::Engine;
pub use engine::Store;
pub use error::{Fatal, KeyFault, OpenError, ReadError};
pub use keys::{Keys, KeysError};
pub use metrics::Metrics;
use orders::Office;
pub use orders::{Errand, OrderLine, Reroute};
pub use postgres::{CONNECTIONS_MIN, FallbackOptions, PostgresOptions, ServerTls, migration};
pub use ring::{Ring, UnverifiedEntry, UnverifiedRequest};
pub use verdict::{Reason, Verdict};

/// A handle on the spool; cheap to clone. The last one to go closes it: what waits is written first,
/// which takes as long as the disk does.
#[derive(Clone)]
pub struct Spool {
    /// First: it lets go of the folder before the disk unlocks it.
    ring: Ring,
    office: Office,
    engine: Engine,
}

/// How a spool is kept on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Folder of this relay's own; made if it is not there.
    pub path: PathBuf,
    /// Bytes for what is owed or held, write-ahead log included.
    pub capacity_bytes: u64,
    /// What bodies and header fields are encrypted with; `None`: nothing is.
    pub keys: Option<Keys>,
    /// How long settled notifications and the marks for duplicates stay, if they need not make room.
    pub keep_delivered: Duration,
    /// Bytes for requests whose signature matched no secret; 0: none is kept.
    pub unverified_capacity_bytes: u64,
}

/// One verified request, and what is to become of it.
#[derive(Clone, Debug)]
pub struct Submission {
    pub notification: Notification,
    pub verdict: Verdict,
    /// Targets that are owed a delivery, without repeats; may be empty if it is quarantined.
    pub targets: Vec<Name>,
    /// Kept for an operator, beside or instead of deliveries.
    pub quarantine: Option<Reason>,
}

/// What became of a submission; either way it is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Now,
    /// The same bytes were kept before, with this verdict.
    Before(Verdict),
}

/// Why a submission is not promised. It may yet turn out to be kept: then it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    #[error("the spool is at its capacity; raise `spool.disk.capacity`, or settle what it holds")]
    Full,
    #[error("more submissions wait for the disk than the spool lets wait")]
    Busy,
    #[error("the commit failed")]
    Failed,
}

/// Names one delivery: one notification owed to one target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryKey {
    /// The spool's own number for the notification, in order of acceptance.
    pub sequence: i64,
    pub target: Name,
}

/// A delivery whose time has come.
#[derive(Clone, Debug)]
pub struct Due {
    pub key: DeliveryKey,
    pub record: Record,
    /// Attempts made so far.
    pub attempts: u32,
    /// Those of them that were made before an operator's replay.
    pub attempts_before: u32,
    /// When it was accepted, released or last replayed.
    pub owed_since: Timestamp,
    pub due_at: Timestamp,
    /// Owed again, or sooner, at an operator's wish.
    pub replay: bool,
    /// The replay came before an attempt that is due then: that one is made unless this one succeeds.
    pub resume_at: Option<Timestamp>,
}

/// How much of what is due to hand out.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Deliveries to look at.
    pub limit: usize,
    /// Sequences that the caller has in hand. They are looked at, and not read again.
    pub held: HashSet<i64>,
}

/// What one page of [`Spool::due`] holds.
#[derive(Debug, Default)]
pub struct DuePage {
    /// In order of due time, then acceptance.
    pub deliveries: Vec<Due>,
    /// Due as well, but what was to be sent cannot be read, or is not what was received.
    pub unreadable: Vec<DeliveryKey>,
    /// The page ended before what is due did: at its limit, or at its bytes.
    pub more: bool,
    /// When the next delivery that is not yet due comes due, if there is one; not looked for if there is more.
    pub next_due_at: Option<Timestamp>,
}

/// What an attempt did to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub key: DeliveryKey,
    /// When the attempt ended.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Label of the attempt's outcome, from a closed set.
    pub outcome: &'static str,
    pub result: Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Delivered,
    /// Gave up; kept as a dead letter.
    DeadLettered,
    /// Failed; the next attempt is due then.
    Retry {
        due_at: Timestamp,
    },
}

/// What is in the spool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that are remembered.
    pub notifications: u64,
    /// Those that every target has, and that are not in quarantine.
    pub settled: u64,
    pub quarantine: HashMap<Reason, i64>,
    pub targets: BTreeMap<Name, TargetCounts>,
}

/// One target's deliveries, by how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    pub pending: i64,
    pub delivered: i64,
    pub dead: i64,
}

impl Spool {
    /// Opens the spool, makes it if it is not there, and syncs what it finds. Blocks on the disk.
    ///
    /// `on_fatal` is called at most once, on a thread of the spool's: it makes the process end with
    /// exit code 74. From then on nothing is accepted.
    pub fn open(
        options: &Options,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let disk = disk::Disk::open(options, metrics.clone(), on_fatal)?;
        Ok(Self::on_disk(disk, options, metrics))
    }

    /// Opens the spool of a relay that does not run, for an operator. Nothing is made that is not there,
    /// and nothing leaves by age: how long it may stay is the relay's to say. Blocks on the disk.
    pub fn open_existing(
        path: &Path,
        keys: Option<Keys>,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let options = Options {
            path: path.to_owned(),
            capacity_bytes: u64::MAX,
            keys,
            keep_delivered: Duration::MAX,
            unverified_capacity_bytes: u64::MAX,
        };
        let disk = disk::Disk::open_existing(&options, metrics.clone(), on_fatal)?;
        Ok(Self::on_disk(disk, &options, metrics))
    }

    /// Opens the spool that many relays share; makes its tables if they are not there. There is no ring
    /// of unverified requests then: it is a file. Blocks on the server, and on the disk beside it.
    pub fn connect(
        options: &PostgresOptions,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let engine = Engine::connect(options, metrics, on_fatal)?;
        Ok(Self::kept_by(engine, Ring::none()))
    }

    /// Opens the spool that relays share, beside them and to read it alone: nothing is made that is not there,
    /// nothing leaves by age, and no order is taken. Blocks on the server.
    pub fn observe(options: &PostgresOptions, metrics: Metrics) -> Result<Self, OpenError> {
        let engine = Engine::observe(options, metrics)?;
        Ok(Self::kept_by(engine, Ring::none()))
    }

    /// Whether [`Spool::connect`] would open it; changes nothing. Blocks on the server.
    pub fn inspect(options: &PostgresOptions) -> Result<(), OpenError> {
        postgres::Postgres::inspect(options)
    }

    fn on_disk(disk: disk::Disk, options: &Options, metrics: Metrics) -> Self {
        let ring = Ring::start(options, metrics);
        Self::kept_by(Engine::Disk(Arc::new(disk)), ring)
    }

    fn kept_by(engine: Engine, ring: Ring) -> Self {
        Self {
            ring,
            office: Office::new(engine.clone()),
            engine,
        }
    }

    /// Keeps a submission: `Ok` once it is on stable storage, with all its deliveries.
    ///
    /// Cancellation: dropping the future takes nothing back; the submission may be kept.
    pub async fn accept(&self, submission: Submission) -> Result<Kept, AcceptError> {
        self.engine.accept(submission).await
    }

    /// Records what an attempt did. The receiver resolves once that is on stable storage, or can never be, for
    /// the delivery's record is damaged: it is not handed out again before the next start. It fails if the spool
    /// ends before. A settlement of a delivery that is not pending changes nothing.
    ///
    /// As many may wait as attempts are in flight: the caller bounds them.
    pub fn settle(&self, settlement: Settlement) -> oneshot::Receiver<()> {
        self.engine.settle(settlement)
    }

    /// The target's first deliveries that are due, without those that the caller holds: they count for the
    /// limit, so it asks for as many more. A page also ends after 16 MiB of bodies, one body at least.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn due(
        &self,
        target: &Name,
        now: Timestamp,
        wanted: impl Into<Wanted>,
    ) -> Result<DuePage, ReadError> {
        self.engine.due(target, now, wanted.into()).await
    }

    /// The target's deliveries that were never tried and came due at `since` or later, oldest first:
    /// found at once, however much is due before them. What a replay or a release made due is not among
    /// them, if it was received before.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn fresh(
        &self,
        target: &Name,
        since: Timestamp,
        now: Timestamp,
        wanted: impl Into<Wanted>,
    ) -> Result<DuePage, ReadError> {
        self.engine.fresh(target, since, now, wanted.into()).await
    }

    /// Whether anything is owed to a target that is not ours to deliver to: it is left where it is.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn owes(&self, target: &Name) -> Result<bool, ReadError> {
        self.engine.owes(target).await
    }

    /// Gives deliveries back that [`Spool::due`] handed out and that were not begun: another relay may have
    /// them. To be awaited before `due` is asked again, and to be tried again until it works.
    pub async fn give_back(&self, target: &Name, sequences: &[i64]) -> Result<(), ReadError> {
        self.engine.give_back(target, sequences).await
    }

    /// What [`Spool::due`] handed out in another era than this may be in another relay's hands: begin none of
    /// it, ask again. `None` while all of it may be.
    pub fn era(&self) -> Option<u64> {
        self.engine.era()
    }

    /// Every target that is owed a delivery, whether the config still names it or not.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn targets_owed(&self) -> Result<Vec<Name>, ReadError> {
        self.engine.targets_owed().await
    }

    /// Rung after each commit that put deliveries for the target; has them, if it was open. For one worker a
    /// target.
    pub fn doorstep(&self, target: &Name) -> Arc<Doorstep> {
        self.engine.doorstep(target)
    }

    /// Makes the target's series, with 0 if it has nothing yet.
    pub fn watch_target(&self, target: &Name) {
        self.engine.watch_target(target);
    }

    /// How long the writer has been at the disk; `None` while it waits for work.
    pub fn writer_busy_for(&self) -> Option<Duration> {
        self.engine.writer_busy_for()
    }

    /// How many wait on the disk beside a shared spool to be moved there; `None` if there is no such disk.
    pub fn on_fallback(&self) -> Option<u64> {
        self.engine.on_fallback()
    }

    /// False after a [`Fatal`].
    pub fn is_open(&self) -> bool {
        self.engine.is_open()
    }

    /// Counts rows, not gauges: for operators and tests, it reads the whole of two indexes.
    pub async fn counts(&self) -> Result<Counts, ReadError> {
        self.engine.counts().await
    }
}

impl From<usize> for Wanted {
    /// Of a caller that has nothing in hand.
    fn from(limit: usize) -> Self {
        Self {
            limit,
            held: HashSet::new(),
        }
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spool(open: {})", self.is_open())
    }
}

#[cfg(test)]
pub mod tests;
