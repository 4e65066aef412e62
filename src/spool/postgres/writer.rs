//! The writer: one thread, one connection, one transaction for all that waits.
//!
//! A transaction in order, and what a crash of the relay, the server or the way between leaves:
//! 1. One round trip: `BEGIN`, the rows that settlements change are locked and read, new notifications get
//!    their rows, which are their marks; what was kept before is looked up. A crash leaves nothing of it.
//! 2. One more: content, deliveries, counters, `COMMIT`. A crash before its answer leaves all of it or
//!    nothing. What is left is delivered though its sender was not told 200.
//! 3. Everybody is answered, targets wake. A crash leaves a whole transaction.
//!
//! While the server is away, nothing is answered: submissions wait as long as their senders do, and are
//! tried again when it is back, for a failover may be over sooner than a sender gives up; settlements wait
//! as long as it takes. An answer that is lost on its way is not guessed at: the submission is put again,
//! and is then kept before, or now.
//!
//! A server that waits for a standby makes what it committed visible when that wait is cut short, by an
//! operator or a timeout, and warns. That is no promise. So a warning during a commit counts as no answer,
//! and what was kept before is answered only behind a commit of our own, which waits for all before it. Nor is
//! it one if `fsync` or `synchronous_commit` was turned off meanwhile, which is read just before each COMMIT.
//!
//! What rests on a row that cannot be read is left out of its transaction, and the others go on: a settlement
//! is set aside, an operator's order does without it.

use std::slice;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::fault::{Error, Fault};
use super::inspect::Tables;
use super::session::{Role, Session};
use super::sheet::Books;
use super::transaction::{self, Answer, Carried};
use super::{Shared, attendant, inspect};
use crate::name::Name;
use crate::spool::disk::ledger::Step;
use crate::spool::disk::queue::{Batch, Taken};
use crate::spool::disk::upkeep::DAMAGED_MAX;
use crate::spool::metrics::Op;
use crate::spool::orders::{Deed, Order};
use crate::spool::{AcceptError, CustodyError, OpenError};

/// How often unwritten settlements are tried again.
const TICK: Duration = Duration::from_secs(1);

/// The waits between two tries to reach the server: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Transactions that met another's are tried again so often at once.
const COLLISIONS_MAX: usize = 5;

pub(super) struct Writer<'s> {
    shared: &'s Shared,
    session: Option<Session>,
    pause: Duration,
    /// Why the server that is there is not to be used, as it was told last.
    refusal: Option<String>,
    /// It has seen the spool's tables: they are not made again.
    has_been_there: bool,
}

impl<'s> Writer<'s> {
    pub const fn new(shared: &'s Shared, session: Option<Session>) -> Self {
        Self {
            shared,
            has_been_there: session.is_some(),
            session,
            pause: PAUSE_MIN,
            refusal: None,
        }
    }

    /// Serves the queue until it is closed and empty, or closed and the server away.
    pub fn run(&mut self) {
        let runtime = self.shared.runtime.clone();
        let mut batch = Batch::default();
        loop {
            let taken = self.shared.queue.take(&mut batch, Instant::now() + TICK);
            if self.shared.away.load(Ordering::Acquire) {
                // Senders that were told 500 wait no more, and what they sent must not pile up.
                batch.accepts.retain(|accept| !accept.answer.is_closed());
            }
            if !batch.is_empty() {
                runtime.block_on(self.write(&mut batch));
            }
            if let Some(order) = self.shared.queue.next_order() {
                runtime.block_on(self.carry_out(order));
            }
            if taken == Taken::Closed {
                runtime.block_on(self.leave());
                return;
            }
            if self.session.is_none() {
                std::thread::sleep(self.pause);
            }
        }
    }

    /// One commit, and its answers. What could not be written stays in the batch.
    async fn write(&mut self, batch: &mut Batch) {
        let began = Instant::now();
        let mut written = self.transact(batch).await;
        while matches!(written, Err(Fault::Damaged)) && self.sets_aside(batch).await {
            written = self.transact(batch).await;
        }
        match written {
            Ok((answers, books)) => {
                let size = batch.accepts.len() + batch.settlements.len();
                let metrics = &self.shared.metrics;
                metrics
                    .commit_seconds
                    .observe(began.elapsed().as_secs_f64());
                #[allow(clippy::cast_precision_loss)] // a few thousand
                metrics.commit_batch.observe(size as f64);
                self.close(&books);
                for (accept, answer) in batch.accepts.drain(..).zip(answers) {
                    let _ = accept.answer.send(answer);
                }
                for settle in batch.settlements.drain(..) {
                    // Whoever does not wait for it has let go of the receiver.
                    let _ = settle.done.send(());
                }
            }
            Err(Fault::Away | Fault::Collision) => {}
            Err(Fault::Full) => self.refuse(batch, AcceptError::Full),
            Err(Fault::Failed | Fault::Damaged) => self.refuse(batch, AcceptError::Failed),
        }
    }

    async fn transact(&mut self, batch: &Batch) -> Result<(Vec<Answer>, Books), Fault> {
        let written = self
            .within_time(async |shared, session| transaction::write(shared, session, batch).await);
        written.await
    }

    /// A settlement of a delivery whose row is damaged is in the way of all others. Nobody waits for it, and the
    /// delivery is not handed out again before the next start.
    async fn sets_aside(&mut self, batch: &mut Batch) -> bool {
        let before = batch.settlements.len();
        for settle in std::mem::take(&mut batch.settlements) {
            let key = &settle.settlement.key;
            let targets = slice::from_ref(&key.target);
            if !self.is_damaged(key.sequence, targets).await
                || !self.shared.aside.put(key, DAMAGED_MAX)
            {
                batch.settlements.push(settle);
                continue;
            }
            self.shared.metrics.error(Op::Read);
            tracing::error!(
                sequence = key.sequence,
                target = %key.target,
                "a delivery's record is damaged: what came of it cannot be written, and it stays pending; the \
                 others go on. Look at the server"
            );
            let _ = settle.done.send(());
        }
        batch.settlements.len() < before
    }

    /// Whether what is to be changed of a notification, and of its deliveries to these, cannot be read.
    async fn is_damaged(&mut self, sequence: i64, targets: &[Name]) -> bool {
        let damaged = self.within_time(async |shared, session| {
            transaction::is_damaged(shared, session, sequence, targets).await
        });
        damaged.await == Ok(true)
    }

    fn refuse(&self, batch: &mut Batch, refusal: AcceptError) {
        for accept in batch.accepts.drain(..) {
            if refusal == AcceptError::Full {
                self.shared.metrics.error(Op::Full);
            }
            let _ = accept.answer.send(Err(refusal));
        }
    }

    async fn carry_out(&mut self, mut order: Order) {
        let mut done = self.transact_order(&order).await;
        if matches!(done, Err(Fault::Damaged)) {
            done = match (self.leaves_out(&mut order.deeds).await, order.all_or_none) {
                (false, _) => done,
                (true, true) => Ok(Err(CustodyError::Damaged)),
                (true, false) => self.transact_order(&order).await,
            };
        }
        let done = match done {
            Ok(Ok((done, books))) => {
                self.close(&books);
                Ok(done)
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(Fault::Full) => Err(CustodyError::Full),
            Err(_) => Err(CustodyError::Failed),
        };
        let _ = order.answer.send(done);
    }

    async fn transact_order(&mut self, order: &Order) -> Result<Carried, Fault> {
        let done = self.within_time(async |shared, session| {
            transaction::carry_out(shared, session, order).await
        });
        done.await
    }

    /// Deeds to rows that are damaged are in the way of all others.
    async fn leaves_out(&mut self, deeds: &mut Vec<Deed>) -> bool {
        let mut damaged = Vec::new();
        for deed in std::mem::take(deeds) {
            if self.is_damaged(deed.sequence(), deed.targets()).await {
                self.shared.metrics.error(Op::Read);
                damaged.push(deed.sequence());
            } else {
                deeds.push(deed);
            }
        }
        if let Some(first_sequence) = damaged.first() {
            tracing::error!(
                count = damaged.len(),
                first_sequence,
                "an operator's order cannot change them: their records are damaged. Look at the server"
            );
        }
        !damaged.is_empty()
    }

    /// What this relay has claimed is the others' at once.
    async fn leave(&mut self) {
        // If it does not work, they are the others' when the lease is over.
        let _ = self
            .within_time(async |shared, session| {
                shared.lease.end(session).await?;
                attendant::say_goodbye(shared, session).await
            })
            .await;
    }

    /// Does one thing on a session, tries again what met another's transaction, and tells what failed.
    async fn within_time<T>(
        &mut self,
        work: impl AsyncFn(&Shared, &mut Session) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let mut collisions = 0;
        loop {
            let Some(mut session) = self.session().await else {
                return Err(Fault::Away);
            };
            let patience = self.shared.address.patience;
            let done = timeout(patience, work(self.shared, &mut session)).await;
            let error = match done.unwrap_or(Err(Error::TimedOut)) {
                Ok(done) => {
                    self.session = Some(session);
                    return Ok(done);
                }
                Err(error) => error,
            };
            let fault = error.fault();
            self.shared.metrics.error(Op::Commit);
            if fault == Fault::Away {
                self.tell_away(&error, None);
                session.abandon(&self.shared.runtime);
                return Err(fault);
            }
            if session.batch("ROLLBACK").await.is_ok() {
                self.session = Some(session);
            }
            collisions += 1;
            if fault != Fault::Collision || collisions > COLLISIONS_MAX {
                tracing::warn!(%error, "a commit failed");
                return Err(fault);
            }
        }
    }

    /// The session, opened anew if it has ended.
    async fn session(&mut self) -> Option<Session> {
        if let Some(session) = self.session.take().filter(Session::is_usable) {
            return Some(session);
        }
        match self.reconnect().await {
            Ok(session) => {
                if self.shared.away.swap(false, Ordering::AcqRel) {
                    tracing::info!("the spool's server is back");
                }
                self.pause = PAUSE_MIN;
                self.refusal = None;
                self.has_been_there = true;
                Some(session)
            }
            Err(error) => {
                let refusal = match &error {
                    OpenError::Server { what } => Some(what.as_str()),
                    _ => None,
                };
                self.tell_away(&error, refusal);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                None
            }
        }
    }

    async fn reconnect(&self) -> Result<Session, OpenError> {
        let Shared {
            address, options, ..
        } = self.shared;
        if cfg!(sabotage = "new-primary-not-looked-at") {
            let session = address.open(Role::Writer).await;
            return session.map_err(|error| inspect::unreachable(&error, options));
        }
        let tables = if self.has_been_there {
            Tables::Expect
        } else {
            Tables::Make
        };
        inspect::writer(address, options, tables).await
    }

    /// Once, until it is back; and each reason not to use the one that is there.
    fn tell_away(&mut self, error: &dyn std::fmt::Display, refusal: Option<&str>) {
        let was_away = self.shared.away.swap(true, Ordering::AcqRel);
        let is_news = refusal.is_some() && refusal != self.refusal.as_deref();
        if is_news {
            self.refusal = refusal.map(str::to_owned);
        }
        if is_news || !was_away {
            let meanwhile = self.shared.meanwhile();
            tracing::error!(%error, "the spool's server is away: {meanwhile}");
        }
    }

    /// It is on stable storage: counts what this relay did, and wakes whom it concerns.
    fn close(&self, books: &Books) {
        for (number, posting) in &books.postings {
            let Some(name) = self.shared.names.met(*number) else {
                continue;
            };
            let metrics = self.shared.metrics.target(&name);
            for (counter, step) in [
                (&metrics.delivered, Step::Delivered),
                (&metrics.dead_lettered, Step::DeadLettered),
                (&metrics.discarded, Step::Discarded),
            ] {
                counter.inc_by(posting[step as usize].unsigned_abs());
            }
        }
        for number in &books.woken {
            if let Some(name) = self.shared.names.met(*number) {
                self.shared.wakes.of(&name).ring();
            }
        }
        self.shared.announcements.note(books.woken.iter().copied());
        self.shared.gauges_stale.notify_one();
    }
}
