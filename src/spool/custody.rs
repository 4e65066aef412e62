//! Custody: what an operator asks of the spool, and does with what it holds.
//!
//! Promises:
//! * Nothing is left out in silence: a list is read page by page, from a [`Cursor`] that the page before
//!   it gave, to its end. What is accepted meanwhile comes last.
//! * Content is read only when it is asked for.
//!
//! Limits: a page holds [`PAGE_MAX`] notifications, a filter [`IDS_MAX`] ids. Every read is one short
//! transaction, so a list is no snapshot. Finding by id reads the whole index of marks, some tenths of a
//! second a million notifications: an index by id would cost each acceptance a page.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use super::{ReadError, Reason, Spool, Verdict};
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
pub struct Cursor(pub(super) i64);

/// One page of a list, in order of acceptance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
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

impl Spool {
    /// The notifications that match, after a cursor, at most `limit` or [`PAGE_MAX`] of them.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn list(
        &self,
        filter: &Filter,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, ReadError> {
        self.disk
            .list(filter, after, limit.clamp(1, PAGE_MAX))
            .await
    }

    /// The notification of this id with its exact bytes and headers: one for each source that has it,
    /// oldest first.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn find(&self, id: Id) -> Result<Vec<Found>, ReadError> {
        self.disk.find(id).await
    }
}

impl Delivery {
    /// The latest attempt that is remembered.
    pub fn last_attempt(&self) -> Option<&Event> {
        let mut latest_first = self.history.iter().rev();
        latest_first.find(|event| event.kind.is_attempt())
    }
}

impl State {
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::DeadLetter,
        Self::Quarantined,
        Self::Delivered,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::DeadLetter => "dead_letter",
            Self::Quarantined => "quarantined",
            Self::Delivered => "delivered",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl DeliveryState {
    /// By the number that each has on disk.
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::Delivered,
        Self::DeadLetter,
        Self::Discarded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::DeadLetter => "dead_letter",
            Self::Discarded => "discarded",
        }
    }
}

impl EventKind {
    /// By the number that each has on disk.
    pub const ALL: [Self; 6] = [
        Self::Failed,
        Self::Delivered,
        Self::DeadLettered,
        Self::Replayed,
        Self::Released,
        Self::Discarded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::DeadLettered => "dead_lettered",
            Self::Replayed => "replayed",
            Self::Released => "released",
            Self::Discarded => "discarded",
        }
    }

    pub const fn is_attempt(self) -> bool {
        matches!(self, Self::Failed | Self::Delivered | Self::DeadLettered)
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
