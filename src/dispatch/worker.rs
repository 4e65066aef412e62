//! One target's worker: takes what is due, starts attempts, settles what they meant.
//!
//! Owned by the [`Dispatcher`](super::Dispatcher); ends with [`Phase::Stopping`]. It owns its attempts
//! (one task each) and the waits for settlements to become durable; both are bounded by the window. A slot
//! is free as soon as its attempt ends; the delivery stays taken until its settlement is durable, so that it
//! is not found due again in between.

mod claims;
mod doorstep;
mod settling;

use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::attempts::{Attempt, Attempts};
use super::breaker::{Allowance, Breaker, Change};
use super::decide::is_deferred;
use super::metrics::TargetMetrics;
use super::window::{FRESH_FOR, Window};
use super::{House, Phase};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::{Doorstep, DuePage, ReadError, Wanted};
use crate::target::{Outcome, Target};
use crate::trace;
use settling::{Durable, Settling};

/// How long to wait after a read of the spool that failed.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Look at least this often: the wall clock may jump, and a timer does not notice.
const LOOK_EVERY: Duration = Duration::from_mins(1);

pub struct TargetWorker {
    name: Name,
    house: House,
    reloads: watch::Receiver<()>,
    /// Open while all that is due waits here or is taken, and no longer than its target answers.
    doorstep: Arc<Doorstep>,
    metrics: TargetMetrics,
    /// As of the last reload; `None` if the config does not name it.
    target: Option<Arc<Target>>,
    breaker: Breaker,
    window: Window,
    /// Of the spool, when it handed out what waits.
    era: Option<u64>,
    /// When the spool may have something new for us.
    look_at: Instant,
    /// The last page was full: there is more behind it.
    more: bool,
    /// Something may have come in behind that.
    unseen: bool,
    reads_fail: bool,
    /// What waited here and is for others to deliver, if there are others.
    given_up: Vec<i64>,
    /// When that may be told.
    give_back_at: Instant,
    attempts: Attempts,
    settling: FuturesUnordered<Settling>,
}

enum Event {
    Attempt(Attempt, Outcome),
    Durable(Durable),
    Reloaded,
    Woken,
    /// The phase changed, or it is time to look or to probe: what the loop does anyway.
    Turn,
}

impl TargetWorker {
    pub fn new(name: Name, house: House, reloads: watch::Receiver<()>) -> Self {
        Self {
            doorstep: house.spool.doorstep(&name),
            metrics: house.metrics.target(&name),
            target: house.routing.load().target(&name).cloned(),
            name,
            house,
            reloads,
            breaker: Breaker::default(),
            window: Window::default(),
            era: None,
            look_at: Instant::now(),
            more: false,
            unseen: false,
            reads_fail: false,
            given_up: Vec::new(),
            give_back_at: Instant::now(),
            attempts: Attempts::default(),
            settling: FuturesUnordered::new(),
        }
    }

    pub async fn run(mut self) {
        loop {
            if let Phase::Stopping { deadline } = self.phase() {
                return self.stop(deadline).await;
            }
            self.look().await;
            self.begin_attempts();
            match self.next_event().await {
                Event::Attempt(attempt, outcome) => self.end_attempt(attempt, outcome),
                Event::Durable(durable) => self.release(durable),
                Event::Reloaded => self.reload(),
                Event::Woken => self.answer_the_door(),
                Event::Turn => {}
            }
        }
    }

    /// Cancellation safe: every branch is.
    async fn next_event(&mut self) -> Event {
        let timer = self.next_moment();
        tokio::select! {
            biased;
            () = changed(&mut self.house.phase) => Event::Turn,
            () = changed(&mut self.reloads) => Event::Reloaded,
            Some((attempt, outcome)) = self.attempts.next() => Event::Attempt(attempt, outcome),
            Some(durable) = self.settling.next() => Event::Durable(durable),
            () = self.doorstep.rung() => Event::Woken,
            () = sleep_until(timer) => Event::Turn,
        }
    }

    /// Ends the attempts in hand, and waits for what was settled, as long as there is time.
    async fn stop(mut self, deadline: Instant) {
        self.give_up();
        self.gives_back().await;
        while self.attempts.len() + self.settling.len() > 0 {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => return,
                Some((attempt, outcome)) = self.attempts.next() => self.end_attempt(attempt, outcome),
                Some(_) = self.settling.next() => {}
            }
        }
    }

    /// Fills the window, if there may be something new and room for it.
    async fn look(&mut self) {
        self.keep_to_the_era();
        if !self.gives_back().await {
            return;
        }
        let Some(target) = &self.target else {
            return self.look_for_held().await;
        };
        let in_flight_max = target.policy.in_flight_max;
        let low = self.window.is_low(in_flight_max);
        let news = self.look_at <= Instant::now() && (low || !self.more);
        if self.room() == 0 {
            return;
        }
        let mut dropped = Vec::new();
        if news || self.more && low {
            let wanted = if self.breaker.is_open() {
                self.window.wants_one()
            } else {
                self.doorstep.open();
                self.window.wants(in_flight_max)
            };
            let page = self.read(wanted).await;
            if page.as_ref().is_none_or(|page| page.more) {
                self.doorstep.close();
            }
            let Some(page) = page else {
                return;
            };
            self.more = page.more;
            self.unseen = page.more;
            dropped = self.window.refill(page.deliveries);
            self.postpone(page.unreadable);
        }
        if self.more && !self.breaker.is_open() && mem::take(&mut self.unseen) {
            dropped.append(&mut self.look_for_fresh(in_flight_max).await);
        }
        self.given_up = self.window.without_waiting(dropped);
    }

    /// What has just come in is behind all that is due, and does not wait for it. Returns what is too much.
    async fn look_for_fresh(&mut self, in_flight_max: usize) -> Vec<i64> {
        let now = Timestamp::now();
        let since = now.minus(FRESH_FOR);
        let wanted = self.window.wants_fresh(in_flight_max);
        // A read that fails is told when the next page is read.
        let Ok(page) = self.house.spool.fresh(&self.name, since, now, wanted).await else {
            return Vec::new();
        };
        self.postpone(page.unreadable);
        self.window.add_fresh(page.deliveries, in_flight_max)
    }

    /// A target that the config does not name: what it is owed is held.
    async fn look_for_held(&mut self) {
        if self.look_at > Instant::now() {
            return;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        let Ok(held) = self.house.spool.owes(&self.name).await else {
            self.look_at = Instant::now() + READ_PAUSE;
            return;
        };
        if held && self.metrics.missing.get() == 0 {
            tracing::warn!(
                target = %self.name,
                "deliveries are held: the config names no such target; bring it back, or discard them"
            );
        }
        self.metrics.missing.set(held.into());
    }

    /// Reads a page, and notes when to look again.
    async fn read(&mut self, wanted: Wanted) -> Option<DuePage> {
        let now = Timestamp::now();
        match self.due(now, wanted).await {
            Ok(page) => {
                if mem::take(&mut self.reads_fail) {
                    tracing::info!(target = %self.name, "the spool can be read again");
                }
                let wait = page.next_due_at.map_or(LOOK_EVERY, |at| at.since(now));
                self.look_at = Instant::now() + wait.min(LOOK_EVERY);
                Some(page)
            }
            Err(error) => {
                if !mem::replace(&mut self.reads_fail, true) {
                    tracing::warn!(target = %self.name, %error, "deliveries wait; trying again");
                }
                self.more = false;
                self.look_at = Instant::now() + READ_PAUSE;
                None
            }
        }
    }

    /// What is due; if that leaves only what is later than any wait of ours ends, all of it: the clock was set
    /// back.
    async fn due(&self, now: Timestamp, wanted: Wanted) -> Result<DuePage, ReadError> {
        let spool = &self.house.spool;
        let page = spool.due(&self.name, now, wanted.clone()).await?;
        let wait_max = self
            .target
            .as_ref()
            .map(|target| target.policy.retry.wait_max());
        let latest = wait_max.map_or(Timestamp::MAX, |wait| now.plus(wait));
        if page.next_due_at.is_none_or(|next| next <= latest) {
            return Ok(page);
        }
        spool.due(&self.name, Timestamp::MAX, wanted).await
    }

    fn begin_attempts(&mut self) {
        let Some(target) = self.target.clone() else {
            return;
        };
        self.keep_to_the_era();
        loop {
            let in_flight_max = target.policy.in_flight_max;
            let next = match self.breaker.allows(Instant::now(), in_flight_max) {
                Allowance::Nothing => None,
                Allowance::Probe => self.window.take_oldest(),
                Allowance::Attempts(allowed) => {
                    let in_use = self.attempts.len();
                    self.window.take_next(Timestamp::now(), in_use, allowed)
                }
            };
            match next {
                Some(due) => {
                    if cfg!(sabotage = "settled-before-the-answer") {
                        self.settle_unanswered(&due.key);
                    }
                    let ticket = self.breaker.begin();
                    let span = self.house.tracer.attempt(due.record.id.as_bytes());
                    self.attempts.begin(due, target.clone(), ticket, span);
                    self.metrics.in_flight.inc();
                }
                None => return,
            }
        }
    }

    fn end_attempt(&mut self, attempt: Attempt, outcome: Outcome) {
        let took = attempt.elapsed();
        self.metrics.in_flight.dec();
        self.metrics.attempt(outcome);
        self.metrics.attempt_duration.observe(took.as_secs_f64());
        tracing::debug!(
            notification = %attempt.id,
            target = %self.name,
            outcome = outcome.label(),
            attempt = attempt.number,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "attempt ended"
        );
        let told = trace::Attempt {
            notification: attempt.id.as_bytes(),
            target: &self.name,
            number: attempt.number,
            outcome: outcome.label(),
            delivered: outcome == Outcome::Delivered,
            took,
        };
        self.house.tracer.attempt_ended(attempt.span, &told);
        self.tell_breaker(&attempt, outcome);
        let draining = self.phase() != Phase::Running;
        if is_deferred(outcome, draining, attempt.target.is_loopback()) {
            return; // it stays taken: not tried again by this process, and not settled either
        }
        self.settle(attempt, outcome);
    }

    fn tell_breaker(&mut self, attempt: &Attempt, outcome: Outcome) {
        let policy = &attempt.target.policy;
        let change = self.breaker.end(
            attempt.ticket,
            outcome.into(),
            Instant::now(),
            policy.in_flight_max,
            &policy.breaker,
        );
        match change {
            Some(Change::Opened) => {
                self.give_up();
                tracing::warn!(
                    target = %self.name,
                    reason = outcome.label(),
                    "the target fails; its deliveries wait, and single attempts probe it"
                );
            }
            Some(Change::Closed) => tracing::info!(target = %self.name, "the target answers again"),
            None => {}
        }
        self.metrics.breaker_open.set(self.breaker.is_open().into());
    }

    fn reload(&mut self) {
        let target = self.house.routing.load().target(&self.name).cloned();
        let same = match (&self.target, &target) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        // Reached in another way now: what was known of its failing is of the past.
        self.breaker.forget();
        self.metrics.breaker_open.set(0);
        self.metrics.missing.set(0);
        self.give_up();
        self.look_at = Instant::now();
        self.target = target;
    }

    /// How many attempts could begin now.
    fn room(&self) -> usize {
        let Some(target) = &self.target else {
            return 0;
        };
        match self
            .breaker
            .allows(Instant::now(), target.policy.in_flight_max)
        {
            Allowance::Attempts(allowed) => allowed.saturating_sub(self.attempts.len()),
            Allowance::Probe => 1,
            Allowance::Nothing => 0,
        }
    }

    /// When to wake up if nothing happens: to look, if an attempt could begin then; or to probe.
    fn next_moment(&self) -> Instant {
        let now = Instant::now();
        match self.breaker.probe_at() {
            Some(probe_at) if probe_at > now => probe_at,
            _ if self.look_at > now => self.look_at,
            // Nothing can begin: the end of an attempt, or of a settlement, is what we wait for.
            _ => now + LOOK_EVERY,
        }
    }

    fn phase(&self) -> Phase {
        *self.house.phase.borrow()
    }
}

/// The next change; never, if nobody is left to make one.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        pending::<()>().await;
    }
}
