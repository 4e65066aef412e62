//! The spool on one disk: SQLite in WAL mode, one writer thread, one commit for all that waits.
//!
//! Tables are in `schema.sql`. Pragmas of the writer: `journal_mode = WAL`, `synchronous = FULL` (the
//! log is synced inside every COMMIT), `wal_autocheckpoint = 0` (the checkpointer does it, off the
//! request path).
//!
//! One batch, in order, and what a crash leaves behind each step:
//! 1. `BEGIN IMMEDIATE`; settlements, then submissions, each a row in `notification` (which is its mark),
//!    `content` and `delivery`; the ledger. All in memory: a crash leaves nothing of the batch. Nobody
//!    has been answered.
//! 2. `COMMIT` appends the changed pages to the log and syncs it. A crash before the sync is over
//!    leaves all of the batch or nothing of it (the frames carry checksums). What is left is then
//!    delivered though its sender was not told 200: it sends again, and learns the first verdict.
//! 3. Deliveries are left on the doorsteps of workers that wait for them, gauges move, targets wake, everybody
//!    is answered. A crash here leaves a whole batch; settlements in it are remembered, answers that were not
//!    sent are asked for again, what was left is read.
//!    An operator's order is a batch of its own, of 500 deeds at most: see `orders.rs`.
//! 4. Another thread copies the log into the database: it syncs the log, writes the pages, syncs the
//!    database. A crash at any point leaves the log, and opening copies it again.
//!
//! Opening: the header is checked (foreign and newer are refused untouched), the folder locked, a
//! missing database made under another name and renamed when it is synced; the keys are held against
//! what is sealed (`seal.rs`), and nothing is changed if they do not fit; then the log is copied
//! and both files and the folder are synced, *before* anything is answered or delivered.
//!
//! A failed sync, or any other I/O error of a commit or a checkpoint, a damaged page that all need, or a
//! panic of one of the two threads is [`Fatal`]: nobody is told that it worked, nothing is tried again. What
//! is damaged of one record is not: it stays as it is, and the others go on. Nor is a full disk: the batch is
//! undone, submissions are refused (duplicates still learn their verdict), settlements wait in memory and are
//! tried again with the next batch, at least once a second. The [`ballast`] is let go of for them; until it is
//! back, a submission must fit into pages that are free inside the database.
//!
//! Limits: [`queue::ACCEPTS_WAITING_MAX`] submissions wait; the log is copied from 4 MiB on and started
//! over at 64 MiB (less under a small capacity), unless a program from outside keeps reading: then its
//! growth counts against the capacity, like all else. Beside the capacity there is the ballast, an eighth
//! of it and 64 MiB at most. All files are made at the start: a lack of inodes later is none of ours.

mod audit;
mod ballast;
pub(super) mod books;
mod checkpoint;
pub(super) mod custody;
pub(super) mod delivery;
mod errands;
mod fault;
mod folder;
pub(super) mod history;
pub(super) mod ledger;
mod orders;
pub(in crate::spool) mod owed;
pub(super) mod queue;
pub(super) mod read;
mod record;
pub(super) mod rows;
mod seal;
pub(super) mod select;
mod show;
pub(super) mod signals;
pub(super) mod upkeep;
pub(super) mod wakes;
mod witness;
mod writer;

#[cfg(test)]
pub(super) mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, Result as Sql};
use tokio::sync::oneshot;

pub(super) use self::fault::cause;
pub(super) use self::folder::private_file;
pub(super) use self::read::name;

use self::ballast::{Ballast, Volume};
use self::checkpoint::Checkpointer;
use self::fault::{Fault, classify};
use self::folder::{Folder, Role};
use self::queue::Queue;
use self::read::{READERS, Readers};
use self::seal::Seal;
use self::signals::{Alarm, Aside, Bell, Pulse, Reopened};
use self::wakes::Wakes;
use self::witness::Witness;
use self::writer::Writer;
use super::metrics::{Metrics, Op};
use super::{
    AcceptError, Audit, Counts, Doorstep, DuePage, Fatal, Kept, Keys, OpenError, Options,
    ReadError, Settlement, Submission, Wanted,
};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Record;

const PAGE_BYTES: u64 = 4096;

/// How long a connection waits for another's lock; only a program from outside ever holds one long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Owns the writer's and the checkpointer's thread; dropping it lets the writer finish what waits, and
/// waits for both.
pub(super) struct Disk {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    threads: Vec<JoinHandle<()>>,
    /// Last: the lock is let go of when everything else is closed.
    folder: Folder,
}

struct Shared {
    queue: Queue,
    wakes: Arc<Wakes>,
    pulse: Pulse,
    bell: Bell,
    /// The WAL is about to be started over: the checkpointer begins no copy, whose lock would be in the way.
    writers_turn: AtomicBool,
    alarm: Alarm,
    reopened: Reopened,
    aside: Aside,
    ballast: Ballast,
    witness: Witness,
    metrics: Metrics,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    capacity_bytes: u64,
    keep_delivered: Duration,
    /// The log is copied from here on …
    wal_bytes: u64,
    /// … and started over from here on.
    wal_bytes_max: u64,
}

impl Disk {
    pub fn open(
        options: &Options,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let folder = Folder::open(&options.path)?;
        let volume = folder.volume()?;
        let limits = Limits::of(options, volume.bytes);
        limits.hold_against(volume, options);
        Self::open_in(folder, limits, options.keys.as_ref(), metrics, on_fatal)
    }

    pub fn open_existing(
        options: &Options,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let folder = Folder::open_existing(&options.path)?;
        let limits = Limits::of(options, folder.volume()?.bytes);
        Self::open_in(folder, limits, options.keys.as_ref(), metrics, on_fatal)
    }

    fn open_in(
        folder: Folder,
        limits: Limits,
        keys: Option<&Keys>,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let capacity = i64::try_from(limits.capacity_bytes).unwrap_or(i64::MAX);
        metrics.capacity_bytes.set(capacity);
        let ballast = folder.ballast(limits)?;
        let connection = folder.connect(Role::Writer, limits)?;
        let unsealed = folder.unseal(&connection, keys)?;
        folder.recover(&connection)?;
        let seal = unsealed.seal(&connection);
        let seal = seal.map_err(|error| folder.error("encrypt the database", &error))?;
        ballast.restore();
        let readers = (0..READERS)
            .map(|_| folder.connect(Role::Reader, limits))
            .collect::<Result<Vec<_>, _>>()?;
        let checkpointer = folder.connect(Role::Checkpointer, limits)?;
        let mut disk = Self {
            shared: Arc::new(Shared::new(metrics, ballast, folder.witness(), on_fatal)),
            readers: Arc::new(Readers::new(readers, &seal)),
            threads: Vec::new(),
            folder,
        };
        disk.start_writer(connection, limits, seal)?;
        disk.start("spool-checkpoint", move |shared| {
            Checkpointer::new(checkpointer, shared).run()
        })?;
        Ok(disk)
    }

    pub async fn accept(&self, submission: Submission) -> Result<Kept, AcceptError> {
        let answered = self.shared.queue.accept(submission)?;
        if cfg!(sabotage = "answered-before-the-commit") {
            return Ok(Kept::Now);
        }
        answered.await.unwrap_or(Err(AcceptError::Failed))
    }

    pub fn settle(&self, settlement: Settlement) -> oneshot::Receiver<()> {
        self.shared.queue.settle(settlement)
    }

    pub async fn due(
        &self,
        target: &Name,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        let wanted = self.shared.aside.beside(target, wanted);
        let target = target.clone();
        let page = self.read(move |reader| reader.due(&target, now, &wanted));
        self.count_unreadable(page.await)
    }

    pub async fn fresh(
        &self,
        target: &Name,
        since: Timestamp,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        let wanted = self.shared.aside.beside(target, wanted);
        let target = target.clone();
        let page = self.read(move |reader| reader.fresh(&target, since, now, &wanted));
        self.count_unreadable(page.await)
    }

    fn count_unreadable(&self, page: Result<DuePage, ReadError>) -> Result<DuePage, ReadError> {
        for _ in page.iter().flat_map(|page| &page.unreadable) {
            self.shared.metrics.error(Op::Read);
        }
        page
    }

    pub async fn targets_owed(&self) -> Result<Vec<Name>, ReadError> {
        self.read(read::Reader::targets_owed).await
    }

    pub async fn record(&self, sequence: i64) -> Result<Option<Record>, ReadError> {
        self.read(move |reader| reader.record(sequence)).await
    }

    pub async fn audit(&self) -> Result<Audit, ReadError> {
        self.read(read::Reader::audit).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut read::Reader) -> Sql<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let answer = self.readers.read(read).await;
        answer.inspect_err(|_| self.shared.metrics.error(Op::Read))
    }

    pub async fn counts(&self) -> Result<Counts, ReadError> {
        self.read(read::Reader::counts).await
    }

    pub fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    /// Something beside it cannot go on: nothing more is accepted, and the process is to end.
    pub fn fail(&self, fatal: Fatal) {
        self.shared.fail(fatal);
    }

    pub fn doorstep(&self, target: &Name) -> Arc<Doorstep> {
        self.shared.wakes.of(target)
    }

    pub fn watch_target(&self, target: &Name) {
        self.shared.metrics.target(target);
    }

    pub fn writer_busy_for(&self) -> Option<Duration> {
        self.shared.pulse.busy_for()
    }

    pub fn is_open(&self) -> bool {
        !self.shared.queue.is_closed()
    }

    /// The writer reads its books before this returns: what the gauges show is right from the start.
    fn start_writer(
        &mut self,
        connection: Connection,
        limits: Limits,
        seal: Seal,
    ) -> Result<(), OpenError> {
        let (opened, opening) = std::sync::mpsc::sync_channel(1);
        self.start("spool-writer", move |shared| {
            match Writer::new(&connection, shared, limits, seal) {
                Ok(mut writer) => {
                    let _ = opened.send(Ok(()));
                    writer.run()
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    Ok(())
                }
            }
        })?;
        match opening.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.folder.error("read the database", &error)),
            Err(_) => Err(self.folder.failure("read the database", "its thread ended")),
        }
    }

    fn start(
        &mut self,
        name: &str,
        work: impl FnOnce(&Shared) -> Result<(), Fatal> + Send + 'static,
    ) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| work(&shared)));
            if let Err(fatal) = ended.unwrap_or_else(|_| Err(Fatal::panicked())) {
                shared.fail(fatal);
            }
        });
        match thread {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                return Err(self.folder.failure("start a thread", &error.to_string()));
            }
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.queue.close();
        self.shared.bell.end();
        let here = thread::current().id();
        for thread in self.threads.drain(..) {
            // `on_fatal` may let go of the last handle, on one of these threads.
            if thread.thread().id() != here {
                // Its panic, if it had one, has been told by the alarm.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn new(
        metrics: Metrics,
        ballast: Ballast,
        witness: Witness,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Self {
        Self {
            queue: Queue::default(),
            wakes: Arc::default(),
            pulse: Pulse::new(),
            bell: Bell::default(),
            writers_turn: AtomicBool::new(false),
            alarm: Alarm::new(on_fatal),
            reopened: Reopened::default(),
            aside: Aside::default(),
            ballast,
            witness,
            metrics,
        }
    }

    fn fail(&self, fatal: Fatal) {
        self.queue.abandon();
        self.alarm.sound(fatal);
    }

    /// What an error means. Want of room is acted on.
    fn judge(&self, error: &rusqlite::Error) -> Fault {
        let fault = match classify(error) {
            Fault::Unwritten if self.ballast.is_out_of_room() => Fault::Full,
            fault => fault,
        };
        if fault == Fault::Full && self.ballast.release() {
            tracing::error!(
                "the disk is full: new notifications are refused, and deliveries go on; make room on it"
            );
        }
        fault
    }
}

impl Limits {
    fn of(options: &Options, volume_bytes: u64) -> Self {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        // The log must fit the volume as well, however large the capacity.
        let capacity_bytes = options.capacity_bytes.min(volume_bytes);
        Self {
            capacity_bytes: options.capacity_bytes,
            keep_delivered: options.keep_delivered,
            wal_bytes: (capacity_bytes / 64).clamp(256 * KIB, 4 * MIB),
            wal_bytes_max: (capacity_bytes / 8).clamp(MIB, 64 * MIB),
        }
    }

    /// Says so if the volume is smaller than what it is asked to hold.
    fn hold_against(&self, volume: Volume, options: &Options) {
        if let Some(doubt) = volume.doubt {
            tracing::warn!(
                path = %options.path.display(),
                "`spool.disk.path` is on {doubt}; what is answered 200 is as safe as that: put it on a disk"
            );
        }
        let beside = [self.wal_bytes_max, options.unverified_capacity_bytes];
        let needed_bytes = beside
            .into_iter()
            .fold(self.capacity_bytes, u64::saturating_add);
        if needed_bytes > volume.bytes {
            tracing::warn!(
                volume_bytes = volume.bytes,
                needed_bytes,
                "the volume is smaller than what `spool` may take: it will be full before the capacity is reached"
            );
        }
    }
}
