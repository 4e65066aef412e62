//! The writer: the one thread that changes the spool.
//!
//! Takes all that waits, puts it into one transaction, commits once, then answers everybody. When a
//! transaction fails without a failed sync it is undone, submissions are refused, and settlements stay
//! with the next batch, but for those that a damaged row refuses. A failed sync is [`Fatal`]: nobody is
//! answered, nothing is tried again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Result as Sql};

use super::books::{self, Books};
use super::fault::{Fault, is_damage};
use super::ledger::Step;
use super::queue::{Batch, Taken};
use super::rows::{Change, Rows};
use super::seal::Seal;
use super::upkeep::DAMAGED_MAX;
use super::{Limits, Shared};
use crate::clock::{Age, Timestamp};
use crate::spool::metrics::Op;
use crate::spool::{AcceptError, DeliveryState, Fatal, Kept, Reason, Settlement, Submission};

/// How often what is past its time is looked for, and unwritten settlements are tried again.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Bytes a notification takes beside its body, its header fields and its deliveries: generous.
const ROW_BYTES: u64 = 512;
const DELIVERY_BYTES: u64 = 64;

pub(super) struct Writer<'c> {
    pub(super) connection: &'c Connection,
    pub(super) shared: &'c Shared,
    pub(super) rows: Rows<'c>,
    pub(super) books: Books,
    pub(super) limits: Limits,
    pub(super) next_seq: i64,
    pub(super) pages_bytes: u64,
    /// Bytes of pages that hold nothing: what new notifications have while the disk has no room.
    pub(super) free_bytes: u64,
    pub(super) wal_bytes: u64,
    /// False while the files have been moved or removed: nothing new is promised.
    pub(super) in_place: bool,
    pub(super) restart_after: Instant,
    /// Nothing is dropped for its age before.
    pub(super) drop_after: Instant,
    /// What is past its time is so by this.
    age: Age,
    /// Settled ones that cannot leave: their pages are damaged.
    pub(super) damaged: HashSet<i64>,
    pub(super) told_of_damage: bool,
    /// The settlement that is being written, of the batch's.
    settling: Option<usize>,
    /// The deed that is being done, of the order's.
    pub(super) doing: Option<usize>,
    pub(super) answers: Vec<Result<Kept, AcceptError>>,
    pub(super) places: Vec<usize>,
}

impl<'c> Writer<'c> {
    pub fn new(
        connection: &'c Connection,
        shared: &'c Shared,
        limits: Limits,
        seal: Seal,
    ) -> Sql<Self> {
        let metrics = shared.metrics.clone();
        let mut writer = Self {
            connection,
            shared,
            rows: Rows::prepare(connection, seal)?,
            books: Books::open(connection, metrics, shared.wakes.clone())?,
            limits,
            next_seq: connection
                .query_row("SELECT next_seq FROM position", [], |row| row.get(0))?,
            pages_bytes: 0,
            free_bytes: 0,
            wal_bytes: 0,
            in_place: true,
            restart_after: Instant::now(),
            drop_after: Instant::now(),
            age: Age::begin(),
            damaged: HashSet::new(),
            told_of_damage: false,
            settling: None,
            doing: None,
            answers: Vec::new(),
            places: Vec::new(),
        };
        writer.measure()?;
        Ok(writer)
    }

    /// Serves the queue until it is closed and empty.
    pub fn run(&mut self) -> Result<(), Fatal> {
        let mut batch = Batch::default();
        let mut tidy_at = Instant::now() + TICK;
        loop {
            let taken = self.shared.queue.take(&mut batch, tidy_at);
            let idle = batch.is_empty();
            if !idle {
                self.write(&mut batch)?;
            }
            if let Some(order) = self.shared.queue.next_order() {
                self.carry_out(order)?;
            }
            if taken == Taken::Closed {
                return Ok(());
            }
            if Instant::now() >= tidy_at {
                tidy_at = Instant::now() + self.tidy(self.age.now(), idle)?;
            }
        }
    }

    /// One commit, and its answers.
    pub(super) fn write(&mut self, batch: &mut Batch) -> Result<(), Fatal> {
        let first_seq = self.next_seq;
        let began = Instant::now();
        self.shared.pulse.begin();
        let mut written = self.transact(batch);
        if cfg!(sabotage = "sync-tried-again") && written.is_err() {
            written = self.transact_anew(batch, first_seq);
        }
        while let Err(error) = &written
            && self.sets_aside(batch, error)
        {
            written = self.transact_anew(batch, first_seq);
        }
        match written {
            Ok(()) => self.committed(batch, first_seq, began.elapsed()),
            Err(error) => {
                self.next_seq = first_seq;
                let fault = self.undo(&error)?;
                self.refuse(batch, fault);
            }
        }
        self.keep_wal_short()?;
        self.shared.pulse.end();
        Ok(())
    }

    /// A settlement of a delivery whose row is damaged is in the way of all others. Nobody waits for it, and the
    /// delivery is not handed out again before the next start.
    fn sets_aside(&mut self, batch: &mut Batch, error: &rusqlite::Error) -> bool {
        let Some(n) = self.settling.take() else {
            return false;
        };
        let key = &batch.settlements[n].settlement.key;
        if !is_damage(error) || !self.shared.aside.put(key, DAMAGED_MAX) {
            return false;
        }
        self.shared.metrics.error(Op::Read);
        tracing::error!(
            sequence = key.sequence,
            target = %key.target,
            "a delivery's record is damaged: what came of it cannot be written, and it stays pending; the others \
             go on. Look at the volume"
        );
        let _ = batch.settlements.remove(n).done.send(());
        true
    }

    fn committed(&mut self, batch: &mut Batch, first_seq: i64, took: Duration) {
        let size = batch.accepts.len() + batch.settlements.len();
        let metrics = &self.shared.metrics;
        metrics.commit_seconds.observe(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss)] // a few thousand
        metrics.commit_batch.observe(size as f64);
        self.leave(batch, first_seq);
        self.close_books();
        self.answer(batch);
        for settle in batch.settlements.drain(..) {
            // Whoever does not wait for it has let go of the receiver.
            let _ = settle.done.send(());
        }
    }

    /// Before anything of the next batch: what is left is on its doorstep before it can be settled.
    fn leave(&self, batch: &Batch, first_seq: i64) {
        let answers = batch.accepts.iter().zip(&self.answers);
        let new = answers.filter(|(_, answer)| **answer == Ok(Kept::Now));
        for (seq, (accept, _)) in (first_seq..).zip(new) {
            self.books.leave(seq, &accept.submission);
        }
    }

    fn answer(&mut self, batch: &mut Batch) {
        for (accept, answer) in batch.accepts.drain(..).zip(self.answers.drain(..)) {
            if answer == Err(AcceptError::Full) {
                self.shared.metrics.error(Op::Full);
            }
            let _ = accept.answer.send(answer);
        }
    }

    fn transact_anew(&mut self, batch: &Batch, first_seq: i64) -> Sql<()> {
        self.next_seq = first_seq;
        self.books.strike();
        self.rows.rollback()?;
        self.transact(batch)
    }

    fn transact(&mut self, batch: &Batch) -> Sql<()> {
        self.answers.clear();
        let incoming: u64 = batch.accepts.iter().map(|a| cost(&a.submission)).sum();
        let full = incoming > 0 && incoming > self.room() && {
            self.measure()?;
            incoming > self.room()
        };
        self.rows.begin()?;
        if full && self.in_place {
            self.make_room(incoming)?;
        }
        for (n, settle) in batch.settlements.iter().enumerate() {
            self.settling = Some(n);
            self.settle(&settle.settlement)?;
        }
        self.settling = None;
        let first_seq = self.next_seq;
        let mut room = self.room();
        for accept in &batch.accepts {
            let answer = self.accept(&accept.submission, &mut room)?;
            self.answers.push(answer);
        }
        if self.next_seq != first_seq {
            self.rows.advance(self.next_seq)?;
        }
        self.books.post(&mut self.rows)?;
        self.rows.commit()
    }

    fn accept(
        &mut self,
        submission: &Submission,
        room: &mut u64,
    ) -> Sql<Result<Kept, AcceptError>> {
        let notification = &submission.notification;
        let names = self.books.names(&mut self.rows, notification)?;
        let Some(left) = room.checked_sub(cost(submission)) else {
            let before = self.rows.verdict(names.source, notification)?;
            return Ok(before.map(Kept::Before).ok_or(AcceptError::Full));
        };
        self.books
            .targets(&mut self.rows, &submission.targets, &mut self.places)?;
        let seq = self.next_seq;
        let pending = i64::try_from(self.places.len()).unwrap_or(i64::MAX);
        let quarantine = submission.quarantine.map(Reason::as_str);
        let new = self.rows.keep_notification(
            seq,
            names.source,
            notification,
            submission.verdict,
            quarantine,
            pending,
        )?;
        if !new {
            let before = self.rows.verdict(names.source, notification)?;
            return Ok(before.map(Kept::Before).ok_or(AcceptError::Failed));
        }
        if cfg!(sabotage = "mark-before-the-record") {
            self.commit_in_parts(seq)?;
        }
        self.rows.keep_content(seq, names.secret, notification)?;
        if cfg!(sabotage = "deliveries-apart") {
            self.commit_in_parts(seq)?;
        }
        for place in &self.places {
            let target = self.books.target_id(*place);
            self.rows
                .keep_delivery(seq, target, notification.received_at)?;
        }
        self.books.kept(submission, &self.places);
        if cfg!(sabotage = "left-before-the-commit") {
            self.books.leave(seq, submission);
        }
        self.next_seq += 1;
        *room = left;
        Ok(Ok(Kept::Now))
    }

    /// Only sabotage does.
    fn commit_in_parts(&mut self, seq: i64) -> Sql<()> {
        self.rows.advance(seq + 1)?;
        self.rows.commit()?;
        self.rows.begin()
    }

    fn settle(&mut self, settlement: &Settlement) -> Sql<()> {
        let seq = settlement.key.sequence;
        let place = self.books.target(&mut self.rows, &settlement.key.target)?;
        let target = self.books.target_id(place);
        let found = self.rows.find_delivery(seq, target)?;
        let Some(mut delivery) = found.filter(|row| row.state == DeliveryState::Pending) else {
            return Ok(());
        };
        let outcome = self.books.word(&mut self.rows, settlement.outcome)?;
        let steps = delivery.settle(settlement, outcome);
        self.rows.put_delivery(seq, target, &delivery)?;
        self.take(seq, place, steps, settlement.at)
    }

    /// Writes what steps of one delivery mean to its notification and the books.
    pub(super) fn take(
        &mut self,
        seq: i64,
        place: usize,
        steps: &[Step],
        at: Timestamp,
    ) -> Sql<()> {
        self.books.step(place, steps);
        self.restand(seq, books::standing(steps), at)
    }

    pub(super) fn restand(&mut self, seq: i64, change: Change, at: Timestamp) -> Sql<()> {
        if change == Change::default() {
            return Ok(());
        }
        let after = self.rows.stand(seq, change, at)?;
        self.books.restood(change, after);
        Ok(())
    }

    pub(super) fn undo(&mut self, error: &rusqlite::Error) -> Result<Fault, Fatal> {
        self.shared.metrics.error(Op::Commit);
        let fault = self.shared.judge(error);
        if matches!(fault, Fault::Fatal | Fault::Unwritten) {
            return Err(Fatal::new(Op::Commit, error));
        }
        self.books.strike();
        self.rows
            .rollback()
            .map_err(|error| Fatal::new(Op::Commit, &error))?;
        Ok(fault)
    }

    /// Answers for a batch that was undone: what was kept before it still is. Its settlements stay.
    fn refuse(&mut self, batch: &mut Batch, fault: Fault) {
        let refusal = match fault {
            Fault::Full => AcceptError::Full,
            Fault::Failed | Fault::Unwritten | Fault::Fatal => AcceptError::Failed,
        };
        if !cfg!(sabotage = "part-of-a-batch-answered") {
            self.answers.clear();
        }
        for accept in batch.accepts.iter().skip(self.answers.len()) {
            let notification = &accept.submission.notification;
            let before = self.rows.find_verdict(notification);
            let kept = before.ok().flatten().map(Kept::Before);
            self.answers.push(kept.ok_or(refusal));
        }
        self.answer(batch);
        self.shared.bell.ring();
    }
}

/// Bytes that a submission takes until the log is copied: in the log, and in the pages it grows.
fn cost(submission: &Submission) -> u64 {
    let notification = &submission.notification;
    let text = notification.generated_at.len()
        + notification.signature.len()
        + notification.content_type.as_ref().map_or(0, String::len);
    let bytes = (notification.body.len() + text) as u64;
    2 * (bytes + ROW_BYTES + DELIVERY_BYTES * submission.targets.len() as u64)
}
