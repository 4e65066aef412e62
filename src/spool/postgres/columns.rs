//! What a transaction writes, column by column: arrays that one statement takes as rows.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::fault::Error;
use super::session::Param;
use super::sheet::{Books, Sheet, kind, kind_of_quarantine};
use crate::clock::Timestamp;
use crate::notification::Notification;
use crate::spool::disk::ledger::Step;
use crate::spool::disk::queue::Accept;
use crate::spool::metrics::State;
use crate::spool::{Reason, Submission};
use crate::verify::DIGEST_BYTES;

/// Which notification: no two have the same source and digest.
pub(super) type Mark = (i64, [u8; DIGEST_BYTES]);

/// The marks that submissions want, in the order of the index: two relays that keep the same ones wait for
/// each other, and never in a circle. Each once.
#[derive(Default)]
pub(super) struct Arrivals<'a> {
    /// Of each submission.
    pub marks: Vec<Mark>,
    /// The first submission with it.
    pub first: HashMap<Mark, usize>,
    sources: Vec<i64>,
    signed_at: Vec<i64>,
    digests: Vec<&'a [u8]>,
    verdicts: Vec<i64>,
    quarantines: Vec<Option<&'static str>>,
    received_at: Vec<i64>,
    pending: Vec<i64>,
}

/// What is kept for the first time.
#[derive(Default)]
pub(super) struct Additions<'a> {
    sequences: Vec<i64>,
    secrets: Vec<i64>,
    generated_at: Vec<&'a str>,
    signatures: Vec<&'a str>,
    content_types: Vec<Option<&'a str>>,
    bodies: Vec<&'a [u8]>,
    owed: Vec<i64>,
    owed_to: Vec<i64>,
    due_at: Vec<i64>,
}

/// Deliveries that changed.
#[derive(Default)]
pub(super) struct Deliveries<'a> {
    sequences: Vec<i64>,
    targets: Vec<i64>,
    states: Vec<i64>,
    attempts: Vec<i64>,
    due_at: Vec<i64>,
    owed_since: Vec<Option<i64>>,
    replayed_after: Vec<Option<i64>>,
    resume_at: Vec<Option<i64>>,
    first_attempt_at: Vec<Option<i64>>,
    histories: Vec<&'a [u8]>,
    owners: Vec<Option<i64>>,
}

/// How notifications stand that changed.
#[derive(Default)]
pub(super) struct Standings {
    sequences: Vec<i64>,
    quarantines: Vec<Option<&'static str>>,
    pending: Vec<i64>,
    dead: Vec<i64>,
    settled_at: Vec<Option<i64>>,
}

/// How the counters moved.
pub(super) struct Counts {
    slot: i64,
    targets: Vec<i64>,
    steps: [Vec<i64>; Step::ALL.len()],
    kinds: Vec<i64>,
    moved: Vec<i64>,
}

impl<'a> Arrivals<'a> {
    pub fn of(accepts: &'a [Accept], sheet: &Sheet) -> Self {
        let mut arrivals = Self::default();
        let mut sorted = Vec::new();
        for (at, accept) in accepts.iter().enumerate() {
            let notification = &accept.submission.notification;
            let source = sheet.number(&notification.source);
            let mark = (source, *notification.digest());
            arrivals.marks.push(mark);
            if *arrivals.first.entry(mark).or_insert(at) == at {
                sorted.push((source, signed_at(notification), &accept.submission));
            }
        }
        sorted.sort_unstable_by_key(|(source, signed_at, submission)| {
            (*source, *signed_at, *submission.notification.digest())
        });
        for (source, signed_at, submission) in sorted {
            arrivals.push(source, signed_at, submission);
        }
        arrivals
    }

    fn push(&mut self, source: i64, signed_at: i64, submission: &'a Submission) {
        self.sources.push(source);
        self.signed_at.push(signed_at);
        self.digests.push(submission.notification.digest());
        self.verdicts.push(submission.verdict.code());
        self.quarantines
            .push(submission.quarantine.map(Reason::as_str));
        let received_at = submission.notification.received_at;
        self.received_at.push(received_at.as_millis());
        self.pending.push(count(targets(submission).len()));
    }

    /// Source, signed at, digest; then what else a new row has.
    pub fn params(&self) -> [Param<'_>; 7] {
        [
            &self.sources,
            &self.signed_at,
            &self.digests,
            &self.verdicts,
            &self.quarantines,
            &self.received_at,
            &self.pending,
        ]
    }
}

impl<'a> Additions<'a> {
    /// With its deliveries, and counted.
    pub fn add(&mut self, sequence: i64, submission: &'a Submission, sheet: &mut Sheet) {
        let notification = &submission.notification;
        self.sequences.push(sequence);
        self.secrets.push(sheet.number(&notification.secret));
        self.generated_at.push(&notification.generated_at);
        self.signatures.push(&notification.signature);
        self.content_types
            .push(notification.content_type.as_deref());
        self.bodies.push(&notification.body);
        let targets = targets(submission);
        let quarantined = submission.quarantine.is_some();
        let state = State::of(count(targets.len()), 0, quarantined);
        for target in targets {
            let target = sheet.number(target);
            self.owed.push(sequence);
            self.owed_to.push(target);
            self.due_at.push(notification.received_at.as_millis());
            sheet.books.step(target, &[Step::Accepted]);
        }
        sheet.books.count(kind(state), 1);
        if let Some(reason) = submission.quarantine {
            sheet.books.count(kind_of_quarantine(reason), 1);
        }
    }

    pub fn content(&self) -> [Param<'_>; 6] {
        [
            &self.sequences,
            &self.secrets,
            &self.generated_at,
            &self.signatures,
            &self.content_types,
            &self.bodies,
        ]
    }

    pub fn deliveries(&self) -> [Param<'_>; 3] {
        [&self.owed, &self.owed_to, &self.due_at]
    }
}

impl<'a> Deliveries<'a> {
    pub fn of(sheet: &'a Sheet) -> Self {
        let mut columns = Self::default();
        let changed = sheet.deliveries.iter().filter(|(_, one)| one.changed);
        for ((sequence, target), delivery) in changed {
            let row = &delivery.row;
            columns.sequences.push(*sequence);
            columns.targets.push(*target);
            columns.states.push(row.state as i64);
            columns.attempts.push(row.attempts.into());
            columns.due_at.push(row.due_at.as_millis());
            columns.owed_since.push(millis(row.owed_since));
            columns
                .replayed_after
                .push(row.replayed_after.map(i64::from));
            columns.resume_at.push(millis(row.resume_at));
            columns.first_attempt_at.push(millis(row.first_attempt_at));
            columns.histories.push(row.history.as_bytes());
            columns.owners.push(delivery.owner);
        }
        columns
    }

    pub fn params(&self) -> [Param<'_>; 11] {
        [
            &self.sequences,
            &self.targets,
            &self.states,
            &self.attempts,
            &self.due_at,
            &self.owed_since,
            &self.replayed_after,
            &self.resume_at,
            &self.first_attempt_at,
            &self.histories,
            &self.owners,
        ]
    }
}

impl Standings {
    pub fn of(sheet: &Sheet) -> Self {
        let mut columns = Self::default();
        let changed = sheet.notifications.iter().filter(|(_, one)| one.changed);
        for (sequence, notification) in changed {
            columns.sequences.push(*sequence);
            columns
                .quarantines
                .push(notification.quarantine.map(Reason::as_str));
            columns.pending.push(notification.pending);
            columns.dead.push(notification.dead);
            columns.settled_at.push(millis(notification.settled_at));
        }
        columns
    }

    pub fn params(&self) -> [Param<'_>; 5] {
        [
            &self.sequences,
            &self.quarantines,
            &self.pending,
            &self.dead,
            &self.settled_at,
        ]
    }
}

impl Counts {
    pub fn of(books: &Books, slot: i64) -> Self {
        let mut counts = Self {
            slot,
            targets: Vec::new(),
            steps: Default::default(),
            kinds: books.tally.keys().copied().collect(),
            moved: books.tally.values().copied().collect(),
        };
        for (target, posting) in &books.postings {
            counts.targets.push(*target);
            for (column, taken) in counts.steps.iter_mut().zip(posting) {
                column.push(*taken);
            }
        }
        counts
    }

    /// Slot, targets, and a column for each step.
    pub fn ledger(&self) -> Vec<Param<'_>> {
        let steps = self.steps.iter().map(|column| column as Param<'_>);
        let head: [Param<'_>; 2] = [&self.slot, &self.targets];
        head.into_iter().chain(steps).collect()
    }

    pub fn tally(&self) -> [Param<'_>; 3] {
        [&self.slot, &self.kinds, &self.moved]
    }
}

/// From rows of source, digest and a number.
pub(super) fn by_mark(rows: &[Row]) -> Result<HashMap<Mark, i64>, Error> {
    let mut numbers = HashMap::with_capacity(rows.len());
    for row in rows {
        let digest: &[u8] = row.try_get(1)?;
        let digest = digest.try_into().map_err(|_| Error::Foreign("a digest"))?;
        numbers.insert((row.try_get(0)?, digest), row.try_get(2)?);
    }
    Ok(numbers)
}

/// Each once.
fn targets(submission: &Submission) -> Vec<&crate::name::Name> {
    let mut targets: Vec<_> = submission.targets.iter().collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// The same for the same bytes, and close together for what was signed close together.
fn signed_at(notification: &Notification) -> i64 {
    notification.generated_at.parse().unwrap_or(0)
}

fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_millis)
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
