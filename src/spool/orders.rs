//! What operators order, whatever keeps the spool: from an order to deeds, and what a deed does.
//!
//! An order is carried out in commits of [`DEEDS_MAX`] deeds at most: submissions that come meanwhile wait
//! no longer than one of them. A deed looks at the rows as they are: one that is done already changes
//! nothing, so what a crash cut short is ordered again as a whole.

use tokio::sync::oneshot;

use super::disk::delivery::Row;
use super::disk::ledger::Step;
use super::disk::rows::Held;
use super::{
    CustodyError, DeliveryKey, Discard, Done, Engine, EventKind, Filter, Reason, Release, Replay,
    ReplayTo, State,
};
use crate::clock::Timestamp;
use crate::name::Name;

/// Deeds in one commit: some 10 ms of work.
pub(super) const DEEDS_MAX: usize = 500;

/// Deeds whose count is exact, and which therefore are all known before the first is done: 40 MB.
const COUNTED_MAX: usize = 1_000_000;

/// Deeds for one commit.
pub(super) struct Order {
    pub deeds: Vec<Deed>,
    pub by: Name,
    pub at: Timestamp,
    /// How many deeds changed something.
    pub answer: oneshot::Sender<Result<u64, CustodyError>>,
}

#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// The delivery is owed again; or for the first time, if there was none.
    Replay(DeliveryKey),
    /// Out of quarantine, and owed to these as well.
    Release { sequence: i64, targets: Vec<Name> },
    /// An operator lets go of a dead letter.
    Discard(DeliveryKey),
    /// Out of quarantine, and owed to nobody more.
    LetGo { sequence: i64 },
}

/// What is to be done to the notifications that match.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    Replay(ReplayTo),
    Discard,
    LetGo,
}

/// The next deeds of a plan.
#[derive(Default)]
pub(super) struct Stage {
    pub deeds: Vec<Deed>,
    /// Where the next stage begins; `None` if this is the last.
    pub next: Option<i64>,
}

/// Which of a notification's deliveries a plan has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    All,
    /// Dead letters, those of the filter's target if it names one.
    Dead,
}

/// The rows of one commit, as a deed reads and changes them. The books are the desk's to keep.
pub(super) trait Desk {
    type Error;

    /// The notification, if there is something to send.
    fn held(&mut self, sequence: i64) -> Result<Option<Held>, Self::Error>;

    fn find(&mut self, key: &DeliveryKey) -> Result<Option<Row>, Self::Error>;

    /// Changes a delivery that is there, by these steps.
    fn put(
        &mut self,
        key: &DeliveryKey,
        row: &Row,
        steps: &'static [Step],
        at: Timestamp,
    ) -> Result<(), Self::Error>;

    /// Adds a delivery that was not there.
    fn add(&mut self, key: &DeliveryKey, row: &Row, at: Timestamp) -> Result<(), Self::Error>;

    fn leave_quarantine(
        &mut self,
        sequence: i64,
        reason: Reason,
        at: Timestamp,
    ) -> Result<(), Self::Error>;
}

impl Engine {
    pub async fn replay(&self, replay: Replay) -> Result<Done, CustodyError> {
        let mut filter = replay.filter;
        if replay.to == ReplayTo::DeadLetters {
            filter.state = Some(State::DeadLetter);
        }
        let plan = Plan::Replay(replay.to);
        let mut done = Done::default();
        let mut after = Some(0);
        while let Some(from) = after {
            let stage = self.stage(&filter, &plan, from).await?;
            after = stage.next;
            done.matched += stage.deeds.len() as u64;
            if !replay.dry_run {
                done.done += self.order_all(stage.deeds, &replay.by).await?;
            }
        }
        Ok(done)
    }

    pub async fn discard(&self, discard: Discard) -> Result<Done, CustodyError> {
        let plan = match discard.filter.state {
            Some(State::DeadLetter) => Plan::Discard,
            Some(State::Quarantined) => Plan::LetGo,
            _ => return Err(CustodyError::State),
        };
        let mut deeds = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after {
            let mut stage = self.stage(&discard.filter, &plan, from).await?;
            after = stage.next;
            deeds.append(&mut stage.deeds);
            if deeds.len() > COUNTED_MAX {
                return Err(CustodyError::TooMany { max: COUNTED_MAX });
            }
        }
        let matched = deeds.len() as u64;
        if discard.dry_run {
            return Ok(Done { matched, done: 0 });
        }
        let expected = discard.count.unwrap_or_default();
        if expected != matched {
            let found = matched;
            return Err(CustodyError::Count { expected, found });
        }
        let done = self.order_all(deeds, &discard.by).await?;
        Ok(Done { matched, done })
    }

    pub async fn release(&self, releases: Vec<Release>, by: Name) -> Result<Done, CustodyError> {
        let matched = releases.len() as u64;
        let to_somebody = releases.into_iter().filter(|one| !one.targets.is_empty());
        let deeds =
            to_somebody.map(|Release { sequence, targets }| Deed::Release { sequence, targets });
        let done = self.order_all(deeds.collect(), &by).await?;
        Ok(Done { matched, done })
    }

    /// One commit after the other: how many deeds changed something.
    async fn order_all(&self, deeds: Vec<Deed>, by: &Name) -> Result<u64, CustodyError> {
        let mut done = 0;
        for deeds in deeds.chunks(DEEDS_MAX) {
            let (answer, answered) = oneshot::channel();
            self.queue().order(Order {
                deeds: deeds.to_vec(),
                by: by.clone(),
                at: Timestamp::now(),
                answer,
            })?;
            done += answered.await.map_err(|_| CustodyError::Ended)??;
        }
        Ok(done)
    }

    async fn stage(&self, filter: &Filter, plan: &Plan, after: i64) -> Result<Stage, CustodyError> {
        filter.check()?;
        Ok(self.find_stage(filter, plan, after).await?)
    }
}

impl Plan {
    pub const fn wants(&self) -> Wanted {
        match self {
            Self::LetGo | Self::Replay(ReplayTo::Targets(_)) => Wanted::Nothing,
            Self::Replay(ReplayTo::All) => Wanted::All,
            Self::Discard | Self::Replay(ReplayTo::DeadLetters) => Wanted::Dead,
        }
    }

    /// What to do to one notification, whose deliveries of [`Plan::wants`] are to these targets.
    pub fn deeds(&self, sequence: i64, targets: Vec<Name>) -> Vec<Deed> {
        let key = |target| DeliveryKey { sequence, target };
        match self {
            Self::LetGo => vec![Deed::LetGo { sequence }],
            Self::Discard => targets.into_iter().map(key).map(Deed::Discard).collect(),
            Self::Replay(ReplayTo::Targets(named)) => {
                named.iter().cloned().map(key).map(Deed::Replay).collect()
            }
            Self::Replay(_) => targets.into_iter().map(key).map(Deed::Replay).collect(),
        }
    }
}

impl Deed {
    pub const fn sequence(&self) -> i64 {
        match self {
            Self::Replay(key) | Self::Discard(key) => key.sequence,
            Self::Release { sequence, .. } | Self::LetGo { sequence } => *sequence,
        }
    }

    /// The targets whose deliveries it may change.
    pub fn targets(&self) -> &[Name] {
        match self {
            Self::Replay(key) | Self::Discard(key) => std::slice::from_ref(&key.target),
            Self::Release { targets, .. } => targets,
            Self::LetGo { .. } => &[],
        }
    }

    /// False if it changed nothing. `by` is the number of the name of who ordered it.
    pub fn carry_out<D: Desk>(
        &self,
        desk: &mut D,
        at: Timestamp,
        by: i64,
    ) -> Result<bool, D::Error> {
        match self {
            Self::Replay(key) => replay(desk, key, at, by),
            Self::Release { sequence, targets } => release(desk, *sequence, targets, at, by),
            Self::Discard(key) => discard(desk, key, at, by),
            Self::LetGo { sequence } => match desk.held(*sequence)? {
                Some(held) => leave_quarantine(desk, *sequence, &held, at),
                None => Ok(false),
            },
        }
    }
}

fn replay<D: Desk>(
    desk: &mut D,
    key: &DeliveryKey,
    at: Timestamp,
    by: i64,
) -> Result<bool, D::Error> {
    let Some(held) = desk.held(key.sequence)? else {
        return Ok(false);
    };
    let Some(mut row) = desk.find(key)? else {
        let row = Row::owed(at, held.received_at, EventKind::Replayed, by);
        desk.add(key, &row, at)?;
        return Ok(true);
    };
    let Some(steps) = row.replay(at, by) else {
        return Ok(false);
    };
    desk.put(key, &row, steps, at)?;
    Ok(true)
}

fn release<D: Desk>(
    desk: &mut D,
    sequence: i64,
    targets: &[Name],
    at: Timestamp,
    by: i64,
) -> Result<bool, D::Error> {
    let held = desk.held(sequence)?;
    let Some(held) = held.filter(|held| held.quarantine.is_some()) else {
        return Ok(false);
    };
    for target in targets {
        let target = target.clone();
        let key = DeliveryKey { sequence, target };
        if desk.find(&key)?.is_none() {
            let row = Row::owed(at, held.received_at, EventKind::Released, by);
            desk.add(&key, &row, at)?;
        }
    }
    leave_quarantine(desk, sequence, &held, at)
}

fn discard<D: Desk>(
    desk: &mut D,
    key: &DeliveryKey,
    at: Timestamp,
    by: i64,
) -> Result<bool, D::Error> {
    let Some(mut row) = desk.find(key)? else {
        return Ok(false);
    };
    if !row.discard(at, by) {
        return Ok(false);
    }
    desk.put(key, &row, &[Step::Discarded], at)?;
    Ok(true)
}

fn leave_quarantine<D: Desk>(
    desk: &mut D,
    sequence: i64,
    held: &Held,
    at: Timestamp,
) -> Result<bool, D::Error> {
    let Some(reason) = held.quarantine else {
        return Ok(false);
    };
    desk.leave_quarantine(sequence, reason, at)?;
    Ok(true)
}
