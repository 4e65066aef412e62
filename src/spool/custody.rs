//! Custody: what an operator asks of the spool, and does with what it holds.
//!
//! Promises:
//! * Nothing is left out in silence: a list is read page by page, from a [`Cursor`] that the page before
//!   it gave, to its end. What is accepted meanwhile comes last; where other relays accept as well, it may
//!   come too late for this list. What cannot be read is told beside the others.
//! * Content is read only when it is asked for.
//! * An order is carried out in commits of a bounded size, between which submissions have their turn. It
//!   goes on when whoever ordered it leaves. A replay or a release is kept meanwhile: one that a crash cut
//!   short goes on when a relay runs again, from where it was.
//! * A refused order has changed nothing.
//!
//! Limits: a page holds [`PAGE_MAX`] notifications, a filter [`IDS_MAX`] ids. Every read is one short
//! transaction, so a list is no snapshot. Finding by id reads the whole index of marks, some tenths of a
//! second a million notifications: an index by id would cost each acceptance a page.

mod words;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use super::{Errand, ReadError, Reason, Reroute, Spool, Verdict};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};

/// Notifications on one page.
pub const PAGE_MAX: usize = 1000;

/// Ids in one filter.
pub const IDS_MAX: usize = 1000;

/// How a notification stands, to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A delivery is still to be made.
    Pending,
    /// A delivery gave up.
    DeadLetter,
    /// Held, and not or not only delivered.
    Quarantined,
    /// Nothing is pending, dead or in quarantine.
    Delivered,
}

/// Which notifications; each part narrows it, and the empty filter takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One notification may be in several states: one target has it, another gave up.
    pub state: Option<State>,
    /// Why it is in quarantine.
    pub reason: Option<Reason>,
    pub source: Option<Name>,
    /// It has a delivery to this target: one in `state`, if that is pending or dead letter.
    pub target: Option<Name>,
    /// Received then or later.
    pub since: Option<Timestamp>,
    /// One of these, at most [`IDS_MAX`]; `None` is any.
    pub ids: Option<Vec<Id>>,
}

/// Where a page ended. Written and read as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub i64);

/// One page of a list, in order of acceptance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Sequences of those beside them whose records are damaged; whether they match may not be known.
    pub unreadable: Vec<i64>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

/// One notification, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The spool's own number for it, in order of acceptance.
    pub sequence: i64,
    pub id: Id,
    pub source: Name,
    pub received_at: Timestamp,
    pub verdict: Verdict,
    pub quarantine: Option<Reason>,
    /// Since when nothing is pending, dead or in quarantine.
    pub settled_at: Option<Timestamp>,
    /// `None` if only the mark for duplicates is left.
    pub content: Option<Content>,
    pub deliveries: Vec<Delivery>,
}

/// What a list tells of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Name of the secret that made the signature.
    pub secret: Name,
    pub body_bytes: u64,
}

/// One notification owed to one target, over all its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub target: Name,
    pub state: DeliveryState,
    /// All that were made, before and after a replay.
    pub attempts: u32,
    pub first_attempt_at: Option<Timestamp>,
    /// When the next attempt is due; `None` unless it is pending.
    pub due_at: Option<Timestamp>,
    /// The latest events, oldest first; acceptance is none of them.
    pub history: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    Pending,
    Delivered,
    DeadLetter,
    /// An operator let go of a dead letter.
    Discarded,
}

/// Something that happened to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// When it happened; when it began, if it is an attempt.
    pub at: Timestamp,
    /// The outcome of an attempt, or who did it.
    pub word: Name,
    /// Of an attempt.
    pub took: Duration,
}

/// What an event is: first the attempts, by what they led to, then what operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// An attempt after which another one was due.
    Failed,
    /// An attempt after which the target had it.
    Delivered,
    /// An attempt after which it was given up.
    DeadLettered,
    Replayed,
    Released,
    Discarded,
}

/// One notification with its content, if that is still there.
#[derive(Clone, Debug)]
pub struct Found {
    pub entry: Entry,
    /// `None` with an entry that has content: it cannot be read, or is not what was received.
    pub record: Option<Record>,
}

/// An order to send again what has ended, or sooner what is still to be sent.
///
/// The attempt that was scheduled for a pending delivery is made all the same, unless the replay succeeds.
#[derive(Clone, Debug)]
pub struct Replay {
    pub filter: Filter,
    pub to: ReplayTo,
    /// Who orders it: kept in the history of each delivery.
    pub by: Name,
    /// Only count.
    pub dry_run: bool,
}

/// Which deliveries of the notifications that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayTo {
    /// Dead letters, those of the filter's target if it names one.
    DeadLetters,
    /// Every one there is.
    All,
    /// To these targets, whether it was owed to them or not.
    Targets(Vec<Name>),
}

/// An order to let go of dead letters or of quarantine. What has content and is owed to nobody then
/// leaves by age, as if it had been delivered.
#[derive(Clone, Debug)]
pub struct Discard {
    /// Its state is dead letter or quarantined.
    pub filter: Filter,
    /// How many match, exactly: else nothing is discarded. Not asked for by a dry run.
    pub count: Option<u64>,
    pub by: Name,
    /// Only count.
    pub dry_run: bool,
}

/// An order to take notifications out of quarantine. What has nowhere to go stays.
#[derive(Clone, Debug)]
pub struct Release {
    pub filter: Filter,
    pub to: ReleaseTo,
    pub by: Name,
    /// Only count.
    pub dry_run: bool,
}

/// Where what leaves quarantine goes, beside those that it is owed to already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseTo {
    Targets(Vec<Name>),
    /// By the routes of the moment at which it is looked at.
    ByRoutes,
}

/// What became of an order: deliveries, or notifications in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub matched: u64,
    /// Those that it changed: what was as ordered already is not among them. Of a dry run of a replay or a
    /// release: those that it would try to change.
    pub done: u64,
}

/// Why an order is refused, or was cut short.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "{found} match, not {expected}: nothing was discarded; look again, then give that count"
    )]
    Count { expected: u64, found: u64 },
    #[error(
        "only dead letters and what is in quarantine can be discarded; name one of these states"
    )]
    State,
    #[error("more than {max} match; narrow the filter")]
    TooMany { max: usize },
    #[error("other orders wait for the spool; try again in a moment")]
    Busy,
    #[error(
        "a record that it would change is damaged, and nothing of that commit is done; the relay's log names it: \
         leave it out, by the `ids` of the others"
    )]
    Damaged,
    #[error("the disk is full; make room, then give the order again")]
    Full,
    #[error("the commit failed; give the order again, unless `spool status` shows it")]
    Failed,
    #[error(
        "the spool has ended; give the order again when it runs, unless `spool status` shows it"
    )]
    Ended,
    /// Only of a discard.
    #[error(
        "{done} of {matched} were discarded; others are no longer as they were counted, and stay: look again, \
         then give the new count"
    )]
    Changed { done: u64, matched: u64 },
    /// Another may be at it.
    #[error(
        "{done} are done, then: {cause}. Do not give it again: the relay goes on with it as soon as it can, \
         `spool status` shows it"
    )]
    CutShort { done: u64, cause: Box<Self> },
    #[error("another relay is at it")]
    Taken,
}

impl Spool {
    /// Sends again what matches.
    ///
    /// Cancellation: dropping the future takes nothing back; the order is carried out.
    pub async fn replay(&self, replay: Replay) -> Result<Done, CustodyError> {
        let office = self.office.clone();
        ordered(async move { office.replay(replay).await }).await
    }

    /// Lets go of what matches, if it is as many as the order says. One of more than 500 may end before it
    /// has let go of all: when something is no longer as it was counted, or at a crash.
    ///
    /// Cancellation: dropping the future takes nothing back; the order is carried out.
    pub async fn discard(&self, discard: Discard) -> Result<Done, CustodyError> {
        let office = self.office.clone();
        ordered(async move { office.discard(discard).await }).await
    }

    /// Takes what matches out of quarantine, each with its deliveries in one commit.
    ///
    /// Cancellation: dropping the future takes nothing back; the order is carried out.
    pub async fn release(&self, release: Release, reroute: Reroute) -> Result<Done, CustodyError> {
        let office = self.office.clone();
        ordered(async move { office.release(release, &reroute).await }).await
    }

    /// The orders that are under way, or wait to go on.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn errands(&self) -> Result<Vec<Errand>, ReadError> {
        self.engine.errands().await
    }

    /// Goes on with orders that were cut short, until it is dropped.
    ///
    /// Cancellation: safe; they wait for the next who calls this.
    pub async fn carry_on(&self, reroute: Reroute) {
        self.office.carry_on(&reroute).await;
    }

    /// The notifications that match, after a cursor, at most `limit` or [`PAGE_MAX`] of them, those that cannot
    /// be read included.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn list(
        &self,
        filter: &Filter,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let limit = limit.clamp(1, PAGE_MAX);
        self.engine.list(filter, after, limit).await
    }

    /// The exact bytes and headers of one; `None` if they have left, cannot be read, or are not what was
    /// received.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn record(&self, sequence: i64) -> Result<Option<Record>, ReadError> {
        self.engine.record(sequence).await
    }

    /// The notification of this id with its exact bytes and headers: one for each source that has it,
    /// oldest first. An error if there is none but what cannot be read.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn find(&self, id: Id) -> Result<Vec<Found>, ReadError> {
        self.engine.find(id).await
    }
}

impl Filter {
    pub(super) fn check(&self) -> Result<(), ReadError> {
        if self.ids.as_ref().is_some_and(|ids| ids.len() > IDS_MAX) {
            let cause = format!("a filter takes {IDS_MAX} ids at most; ask for the rest apart");
            return Err(ReadError::new(cause));
        }
        Ok(())
    }
}

/// An order is a task of its own: it ends when it is done, not when its giver has left.
async fn ordered(
    order: impl Future<Output = Result<Done, CustodyError>> + Send + 'static,
) -> Result<Done, CustodyError> {
    tokio::spawn(order)
        .await
        .unwrap_or(Err(CustodyError::Ended))
}

impl Delivery {
    /// The latest attempt that is remembered.
    pub fn last_attempt(&self) -> Option<&Event> {
        let mut latest_first = self.history.iter().rev();
        latest_first.find(|event| event.kind.is_attempt())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}
