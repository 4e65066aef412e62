//! What operators order, whatever keeps the spool: from an order to deeds, and what a deed does.
//!
//! An order is carried out in commits of some [`DEEDS_MAX`] deeds (`orders/office.rs`): submissions that come
//! meanwhile wait no longer than one of them. One that takes several is kept between them
//! (`orders/errand.rs`). A deed looks at the rows as they are: one that is done already changes nothing.

mod errand;
mod line;
mod office;

use tokio::sync::oneshot;

pub use self::errand::Errand;
pub use self::line::OrderLine;
pub(super) use self::office::Office;
pub use self::office::Reroute;

use super::disk::delivery::Row;
use super::disk::ledger::Step;
use super::disk::rows::Held;
use super::{CustodyError, DeliveryKey, EventKind, Reason, ReleaseTo, ReplayTo};
use crate::clock::Timestamp;
use crate::name::Name;

/// Deeds in one commit, and those besides that the last notification takes: some 10 ms of work.
pub(super) const DEEDS_MAX: usize = 500;

/// Deeds for one commit.
pub(super) struct Order {
    pub deeds: Vec<Deed>,
    pub by: Name,
    pub at: Timestamp,
    /// Nothing is done unless each deed changes something.
    pub all_or_none: bool,
    /// In the same commit.
    pub note: Note,
    /// How many deeds changed something.
    pub answer: oneshot::Sender<Result<u64, CustodyError>>,
}

/// What is written down of the order that the deeds are of. What they change is yet to be counted.
pub(super) enum Note {
    /// Nothing: one commit is all of it.
    None,
    /// It is kept from now on.
    Begun(Errand),
    /// It was kept, and had reached that notification.
    Moved { from: i64, errand: Errand },
    /// It was kept, and had reached that notification; now all of it is done.
    Ended { from: i64, id: i64 },
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
    Owe(Owing),
    Discard,
    LetGo,
}

/// How what ended, or is held, comes to be owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owing {
    Replay(ReplayTo),
    Release(ReleaseTo),
}

/// The next deeds of a plan.
#[derive(Default)]
pub(super) struct Stage {
    pub deeds: Vec<Deed>,
    /// Notifications beside those, of which it cannot be read what is to be done.
    pub unreadable: u64,
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

impl Plan {
    pub const fn wants(&self) -> Wanted {
        match self {
            Self::LetGo | Self::Owe(Owing::Release(_) | Owing::Replay(ReplayTo::Targets(_))) => {
                Wanted::Nothing
            }
            Self::Owe(Owing::Replay(ReplayTo::All)) => Wanted::All,
            Self::Discard | Self::Owe(Owing::Replay(ReplayTo::DeadLetters)) => Wanted::Dead,
        }
    }

    /// What to do to one notification, whose deliveries of [`Plan::wants`] are to these targets.
    pub fn deeds(&self, sequence: i64, targets: Vec<Name>) -> Vec<Deed> {
        let key = |target| DeliveryKey { sequence, target };
        match self {
            Self::LetGo => vec![Deed::LetGo { sequence }],
            Self::Discard => targets.into_iter().map(key).map(Deed::Discard).collect(),
            Self::Owe(Owing::Replay(ReplayTo::Targets(named))) => {
                named.iter().cloned().map(key).map(Deed::Replay).collect()
            }
            Self::Owe(Owing::Replay(_)) => targets.into_iter().map(key).map(Deed::Replay).collect(),
            Self::Owe(Owing::Release(to)) => {
                let targets = match to {
                    ReleaseTo::Targets(named) => named.clone(),
                    // Where it goes is in its content, which the office reads.
                    ReleaseTo::ByRoutes => Vec::new(),
                };
                vec![Deed::Release { sequence, targets }]
            }
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
