//! What the writer does beside writing: keeps count of the room, drops what is past its time or in
//! the way, and starts the WAL over before it grows past its cap.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::wal::CheckpointMode;
use rusqlite::{MAIN_DB, Result as Sql};

use super::fault::{Fault, is_busy, is_damage};
use super::rows::Rows;
use super::witness;
use super::writer::{TICK, Writer};
use super::{BUSY_TIMEOUT, PAGE_BYTES};
use crate::clock::Timestamp;
use crate::spool::metrics::Op;
use crate::spool::{DeliveryState, Fatal};

/// Notifications dropped in one transaction: some 2 ms of work.
const DROPPED_MAX: i64 = 500;

/// Times so many for the sake of one commit: the largest body needs some 16 MiB of them.
const DROPS_MAX: usize = 64;

/// Settled notifications on damaged pages, and settlements of damaged deliveries, that are stepped over; so many
/// are a disk to be replaced.
pub(in crate::spool) const DAMAGED_MAX: usize = 1000;

/// How long dropping rests if what is to be dropped cannot be found.
const DAMAGE_PAUSE: Duration = Duration::from_mins(5);

/// The pause between two rounds of dropping while there is more of it and others are to be served.
const DROP_PAUSE: Duration = Duration::from_millis(100);

/// How long a restart of the WAL may wait for readers, with everybody behind it.
const RESTART_PATIENCE: Duration = Duration::from_millis(50);

/// How long a restart that failed is put off.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// One that met a reader is put off by so many times what it waited.
const RESTART_REST: u32 = 2;

/// The header of a frame in the WAL (SQLite, "WAL-mode File Format", 1.2).
const FRAME_HEADER_BYTES: u64 = 24;

/// Marks alone take no more than one part in so many of the capacity while there is need of it.
const MARKS_SHARE: u64 = 4;

/// What a mark takes where no page has a gap: a row, and an entry in each of two indexes.
const MARK_BYTES_MIN: u64 = 140;

/// How one leaves: the deliveries that go with it, by target.
type Dropping<'c> = fn(&mut Rows<'c>, i64) -> Sql<Vec<(i64, DeliveryState)>>;

impl<'c> Writer<'c> {
    /// Bytes left under the capacity, as of the last measurement; with no room on the disk, what is free
    /// inside the database; with no file to keep them in, none.
    pub(super) fn room(&self) -> u64 {
        if !self.in_place {
            return 0;
        }
        let used = self.pages_bytes + self.wal_bytes;
        let left = self.limits.capacity_bytes.saturating_sub(used);
        if self.shared.ballast.is_short() {
            left.min(self.free_bytes)
        } else {
            left
        }
    }

    /// Not inside a transaction. Returns the frames in the WAL, copied ones included.
    pub(super) fn measure(&mut self) -> Sql<u64> {
        let (frames, copied) = self
            .connection
            .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::NOOP)?;
        let waiting = u64::try_from(frames - copied).unwrap_or(0);
        self.wal_bytes = waiting * (PAGE_BYTES + FRAME_HEADER_BYTES);
        self.measure_pages()?;
        if self.wal_bytes >= self.limits.wal_bytes {
            self.shared.bell.ring();
        }
        Ok(u64::try_from(frames).unwrap_or(0))
    }

    /// Drops the oldest settled notifications before their time, and leaves their marks, until there are so
    /// many bytes of room or nothing more to drop. Then the oldest marks, while they take more than their share:
    /// better to take a repetition for new than to refuse what is new.
    pub(super) fn make_room(&mut self, bytes: u64) -> Sql<()> {
        for _ in 0..DROPS_MAX {
            let mut dropped = self.drop_early(false, Rows::empty)?;
            if dropped == 0 && self.marks_bytes() > self.limits.capacity_bytes / MARKS_SHARE {
                dropped = self.drop_early(true, Rows::forget)?;
            }
            self.measure_pages()?;
            if dropped == 0 || bytes <= self.room() {
                break;
            }
        }
        Ok(())
    }

    /// At least, once nothing else is left of what is settled.
    fn marks_bytes(&self) -> u64 {
        self.books.settled() * MARK_BYTES_MIN
    }

    fn drop_early(&mut self, emptied: bool, drop: Dropping<'c>) -> Sql<usize> {
        let old = match self.oldest_settled(emptied, Timestamp::MAX) {
            // What is damaged makes no room: it leaves as little as it can be read.
            Err(error) if is_damage(&error) => return Ok(0),
            old => old?,
        };
        let dropped = self.drop_sound(&old, drop)?;
        if emptied {
            self.books.unmarked(dropped);
        }
        Ok(dropped)
    }

    /// Drops a bounded number of settled notifications past their time, with their marks; returns
    /// how long to wait before the next round.
    pub(super) fn tidy(&mut self, now: Timestamp, idle: bool) -> Result<Duration, Fatal> {
        let past = now.minus(self.limits.keep_delivered);
        self.shared.pulse.begin();
        let dropped = if Instant::now() < self.drop_after {
            Ok(0)
        } else {
            self.drop_settled(past)
        };
        let wait = match dropped {
            Ok(dropped) => {
                self.close_books();
                let more = dropped >= DROPPED_MAX;
                if more && idle {
                    Duration::ZERO
                } else if more {
                    DROP_PAUSE
                } else {
                    TICK
                }
            }
            Err(error) if is_damage(&error) => {
                self.tell_of_damage();
                self.undo_read(&error)?;
                self.drop_after = Instant::now() + DAMAGE_PAUSE;
                TICK
            }
            Err(error) => {
                self.undo(&error)?;
                TICK
            }
        };
        self.keep_wal_short()?;
        self.look_at_the_disk();
        self.shared.pulse.end();
        Ok(wait)
    }

    fn look_at_the_disk(&mut self) {
        let fault = self.shared.witness.fault();
        match fault {
            Some(witness::Fault::Misplaced(file)) if self.in_place => tracing::error!(
                file = %file.display(),
                "moved or removed while the relay runs: new notifications are refused, what is owed is \
                 delivered; bring the file back, or let deliveries end before the relay does"
            ),
            Some(witness::Fault::CutShort(file)) if self.in_place => tracing::error!(
                file = %file.display(),
                "cut short while the relay runs: new notifications are refused, what can be read is delivered; \
                 find out who did it, and restart the relay"
            ),
            None if !self.in_place => tracing::info!("the spool's files are back in their place"),
            _ => {}
        }
        self.in_place = fault.is_none();
        if self.shared.ballast.restore() {
            tracing::info!("the disk has room again: new notifications are accepted");
        }
        if let Some(bytes) = self.shared.ballast.available_bytes() {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.shared.metrics.disk_available_bytes.set(bytes);
        }
    }

    fn drop_settled(&mut self, past: Timestamp) -> Sql<i64> {
        let mut old = self.oldest_settled(true, past)?;
        if old.is_empty() {
            old = self.oldest_settled(false, past)?;
        }
        if old.is_empty() {
            return Ok(0);
        }
        self.rows.begin()?;
        let dropped = self.drop_sound(&old, Rows::forget)?;
        self.books.unmarked(dropped);
        self.books.post(&mut self.rows)?;
        self.rows.commit()?;
        Ok(i64::try_from(old.len()).unwrap_or(DROPPED_MAX))
    }

    /// Without those that cannot leave.
    fn oldest_settled(&mut self, emptied: bool, until: Timestamp) -> Sql<Vec<i64>> {
        let damaged = i64::try_from(self.damaged.len()).unwrap_or(i64::MAX);
        let mut old = self
            .rows
            .oldest_settled(emptied, until, DROPPED_MAX + damaged)?;
        old.retain(|seq| !self.damaged.contains(seq));
        Ok(old)
    }

    /// Drops those of these that can be read; how many. It is the first thing in its transaction, which is
    /// begun anew for each that is damaged: that one stays as it is, and is in nobody's way.
    fn drop_sound(&mut self, old: &[i64], drop: Dropping<'c>) -> Sql<usize> {
        loop {
            let sound: Vec<_> = old
                .iter()
                .filter(|seq| !self.damaged.contains(seq))
                .collect();
            let mut damaged = None;
            for seq in &sound {
                match drop(&mut self.rows, **seq) {
                    Ok(gone) => self.books.forgotten(&gone),
                    Err(error) if is_damage(&error) && self.damaged.len() < DAMAGED_MAX => {
                        damaged = Some(**seq);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(seq) = damaged else {
                return Ok(sound.len());
            };
            self.damaged.insert(seq);
            self.tell_of_damage();
            self.books.strike();
            self.rows.rollback()?;
            self.rows.begin()?;
        }
    }

    fn tell_of_damage(&mut self) {
        self.shared.metrics.error(Op::Read);
        if !std::mem::replace(&mut self.told_of_damage, true) {
            tracing::error!(
                "settled notifications on damaged pages cannot be dropped; they stay, and the others go on. \
                 Look at the volume"
            );
        }
    }

    /// Nothing was written: what could not be read is no reason to end.
    pub(super) fn undo_read(&mut self, error: &rusqlite::Error) -> Result<(), Fatal> {
        self.books.strike();
        let undone = self.rows.rollback();
        undone.map_err(|_| Fatal::new(Op::Commit, error))
    }

    /// The checkpointer copies while we write, and under load never quite catches up. Past the cap it leaves
    /// the WAL to the writer, who copies the little that is left, and the next commit starts the WAL over.
    pub(super) fn keep_wal_short(&mut self) -> Result<(), Fatal> {
        let frames = match self.measure() {
            Ok(frames) => frames,
            Err(error) => return self.bad_checkpoint(&error),
        };
        self.shared
            .metrics
            .bytes
            .set(i64::try_from(self.pages_bytes + self.wal_bytes).unwrap_or(i64::MAX));
        let too_long = frames * (PAGE_BYTES + FRAME_HEADER_BYTES) >= self.limits.wal_bytes_max;
        self.shared.writers_turn.store(too_long, Ordering::Relaxed);
        let began = Instant::now();
        if !too_long || began < self.restart_after {
            return Ok(());
        }
        let Err(error) = self.restart_wal() else {
            self.shared.writers_turn.store(false, Ordering::Relaxed);
            return Ok(());
        };
        let now = Instant::now();
        self.restart_after = if is_busy(&error) {
            // No wait at all for a copy in hand, which is the last: the next commit tries again.
            now + (now - began) * RESTART_REST
        } else {
            now + RESTART_PAUSE
        };
        self.bad_checkpoint(&error)
    }

    fn restart_wal(&self) -> Sql<()> {
        self.connection.busy_timeout(RESTART_PATIENCE)?;
        let restarted = self
            .connection
            .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::RESTART);
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        restarted.map(drop)
    }

    fn bad_checkpoint(&self, error: &rusqlite::Error) -> Result<(), Fatal> {
        // A reader or a copy in the way is no error; the next try may find it gone.
        if is_busy(error) {
            return Ok(());
        }
        self.shared.metrics.error(Op::Checkpoint);
        match self.shared.judge(error) {
            Fault::Fatal | Fault::Unwritten => Err(Fatal::new(Op::Checkpoint, error)),
            Fault::Full | Fault::Failed => Ok(()),
        }
    }

    fn measure_pages(&mut self) -> Sql<()> {
        let (used, free) = self.rows.pages()?;
        self.pages_bytes = u64::try_from(used).unwrap_or(0) * PAGE_BYTES;
        self.free_bytes = u64::try_from(free).unwrap_or(0) * PAGE_BYTES;
        Ok(())
    }
}
