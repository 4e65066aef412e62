//! What operators are shown, and what their orders find.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::Postgres;
use super::fault::Error;
use super::ledger::{self, Tally};
use super::names::Names;
use super::record;
use super::select::Selector;
use super::session::Session;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::spool::disk::custody::NOTIFICATIONS_MAX;
use crate::spool::disk::history::Event as Written;
use crate::spool::disk::ledger::Standings;
use crate::spool::metrics::{Op, State};
use crate::spool::orders::{Plan, Stage, Wanted};
use crate::spool::{
    Content, Counts, Cursor, Delivery, DeliveryState, Entry, Event, Filter, Found, Page, ReadError,
    Reason, TargetCounts, Verdict,
};

impl Postgres {
    /// What one step finds; the page may be short, or empty, and not the last.
    pub async fn list_step(
        &self,
        filter: &Filter,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, ReadError> {
        self.told(self.list_page(filter, after, limit).await)
    }

    pub async fn find(&self, id: Id) -> Result<Vec<Found>, ReadError> {
        self.told(self.find_all(id).await)
    }

    pub async fn record(&self, sequence: i64) -> Result<Option<Record>, ReadError> {
        let record = async {
            let mut session = self.shared.readers.lend_unhurried().await?;
            let mut records = record::read(&mut session, &[sequence]).await?;
            Ok(records.remove(&sequence))
        };
        self.told(record.await)
    }

    pub async fn counts(&self) -> Result<Counts, ReadError> {
        self.told(self.count_all().await)
    }

    pub async fn targets_owed(&self) -> Result<Vec<Name>, ReadError> {
        const OWED: &str = "SELECT text FROM (SELECT DISTINCT target FROM ledger) AS l
             JOIN name ON id = l.target
             WHERE EXISTS (SELECT 1 FROM delivery AS d WHERE d.state = 0 AND d.target = l.target)
             ORDER BY text";
        let owed = async {
            let mut session = self.shared.readers.lend().await?;
            let rows = session.query(OWED, &[]).await?;
            rows.iter().map(|row| record::name(row, 0)).collect()
        };
        self.told(owed.await)
    }

    pub async fn stage(
        &self,
        filter: &Filter,
        plan: &Plan,
        after: i64,
    ) -> Result<Stage, ReadError> {
        self.told(self.find_stage(filter, plan, after).await)
    }

    async fn list_page(&self, filter: &Filter, after: Cursor, limit: usize) -> Result<Page, Error> {
        let names = &self.shared.names;
        let mut session = self.shared.readers.lend_unhurried().await?;
        let Some(selector) = Selector::resolve(&mut session, names, filter).await? else {
            return Ok(Page::default());
        };
        let step = selector.step(&mut session, after.0, limit).await?;
        let (entries, unreadable) = sound(&mut session, names, &step.sequences).await?;
        for _ in &unreadable {
            self.shared.metrics.error(Op::Read);
        }
        Ok(Page {
            entries,
            unreadable,
            next: step.next.map(Cursor),
        })
    }

    async fn find_all(&self, id: Id) -> Result<Vec<Found>, Error> {
        let names = &self.shared.names;
        let filter = Filter {
            ids: Some(vec![id]),
            ..Filter::default()
        };
        let mut session = self.shared.readers.lend_unhurried().await?;
        let Some(selector) = Selector::resolve(&mut session, names, &filter).await? else {
            return Ok(Vec::new());
        };
        let step = selector.step(&mut session, 0, usize::MAX).await?;
        let mut records = record::read(&mut session, &step.sequences).await?;
        let entries = entries(&mut session, names, &step.sequences).await?;
        let found = entries.into_iter().map(|entry| Found {
            record: records.remove(&entry.sequence),
            entry,
        });
        Ok(found.collect())
    }

    /// By the counters: rows are millions.
    async fn count_all(&self) -> Result<Counts, Error> {
        let mut session = self.shared.readers.lend_unhurried().await?;
        let tally = Tally::read(&mut session).await?;
        let standing = State::ALL.map(|state| tally.of(state).unsigned_abs());
        let quarantine = Reason::ALL.map(|reason| (reason, tally.of_quarantine(reason)));
        let mut counts = Counts {
            notifications: standing.iter().sum(),
            settled: tally.of(State::Settled).unsigned_abs(),
            quarantine: quarantine.into(),
            ..Counts::default()
        };
        for (target, standings) in ledger::read(&mut session).await? {
            let of = |state: DeliveryState| standings[state as usize];
            let there = TargetCounts {
                pending: of(DeliveryState::Pending),
                delivered: of(DeliveryState::Delivered),
                dead: of(DeliveryState::DeadLetter),
            };
            if standings != Standings::default() {
                counts.targets.insert(target, there);
            }
        }
        Ok(counts)
    }

    async fn find_stage(&self, filter: &Filter, plan: &Plan, after: i64) -> Result<Stage, Error> {
        const TARGETS: &str = "SELECT seq, text FROM delivery JOIN name ON id = target
             WHERE seq = ANY ($1) AND (NOT $2 OR state = 2) AND ($3::bigint IS NULL OR target = $3)
             ORDER BY seq, target";
        let names = &self.shared.names;
        let mut session = self.shared.readers.lend_unhurried().await?;
        let Some(selector) = Selector::resolve(&mut session, names, filter).await? else {
            return Ok(Stage::default());
        };
        let found = selector
            .step(&mut session, after, NOTIFICATIONS_MAX)
            .await?;
        let mut targets: HashMap<i64, Vec<Name>> = HashMap::new();
        if plan.wants() != Wanted::Nothing {
            let dead = plan.wants() == Wanted::Dead;
            let target = selector.target.filter(|_| dead);
            let rows = session
                .query(TARGETS, &[&found.sequences, &dead, &target])
                .await?;
            for row in rows {
                let of = targets.entry(row.try_get(0)?).or_default();
                of.push(record::name(&row, 1)?);
            }
        }
        let deeds = found.sequences.into_iter().flat_map(|sequence| {
            plan.deeds(sequence, targets.remove(&sequence).unwrap_or_default())
        });
        Ok(Stage {
            deeds: deeds.collect(),
            next: found.next,
            ..Stage::default()
        })
    }
}

/// As [`entries`], with the sequences of those that cannot be read.
async fn sound(
    session: &mut Session,
    names: &Names,
    sequences: &[i64],
) -> Result<(Vec<Entry>, Vec<i64>), Error> {
    let all = entries(session, names, sequences).await;
    if !all.as_ref().is_err_and(Error::is_damage) {
        return Ok((all?, Vec::new()));
    }
    let (mut sound, mut unreadable) = (Vec::new(), Vec::new());
    for sequence in sequences {
        match entries(session, names, &[*sequence]).await {
            Err(error) if error.is_damage() => unreadable.push(*sequence),
            one => sound.append(&mut one?),
        }
    }
    Ok((sound, unreadable))
}

/// In order of acceptance; one that left meanwhile is left out.
async fn entries(
    session: &mut Session,
    names: &Names,
    sequences: &[i64],
) -> Result<Vec<Entry>, Error> {
    const ENTRIES: &str =
        "SELECT seq, digest, source.text, received_at, verdict, quarantine, settled_at,
                secret.text, octet_length(body)
         FROM notification AS n LEFT JOIN name AS source ON source.id = n.source
         LEFT JOIN content AS c USING (seq) LEFT JOIN name AS secret ON secret.id = c.secret
         WHERE seq = ANY ($1) ORDER BY seq";
    let rows = session.query(ENTRIES, &[&sequences]).await?;
    let mut deliveries = deliveries(session, names, sequences).await?;
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut entry = entry(row)?;
        entry.deliveries = deliveries.remove(&entry.sequence).unwrap_or_default();
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(row: &Row) -> Result<Entry, Error> {
    let quarantine: Option<&str> = row.try_get(5)?;
    let body_bytes: Option<i32> = row.try_get(8)?;
    let content = match body_bytes {
        Some(bytes) => Some(Content {
            secret: record::name(row, 7)?,
            body_bytes: u64::try_from(bytes).unwrap_or(0),
        }),
        None => None,
    };
    Ok(Entry {
        sequence: row.try_get(0)?,
        id: record::id(row.try_get(1)?),
        source: record::name(row, 2)?,
        received_at: Timestamp::from_millis(row.try_get(3)?),
        verdict: Verdict::from_code(row.try_get(4)?),
        quarantine: quarantine.and_then(Reason::parse),
        settled_at: record::moment(row, 6)?,
        content,
        deliveries: Vec::new(),
    })
}

async fn deliveries(
    session: &mut Session,
    names: &Names,
    sequences: &[i64],
) -> Result<HashMap<i64, Vec<Delivery>>, Error> {
    const DELIVERIES: &str =
        "SELECT seq, text, state, attempts, due_at, owed_since, replayed_after,
                resume_at, first_attempt_at, history
         FROM delivery JOIN name ON id = target WHERE seq = ANY ($1) ORDER BY seq, target";
    let mut deliveries: HashMap<i64, Vec<Delivery>> = HashMap::new();
    for row in session.query(DELIVERIES, &[&sequences]).await? {
        let delivery = record::delivery(&row, 2)?;
        let mut history = Vec::new();
        for event in delivery.history.events() {
            history.push(told(session, names, event).await?);
        }
        let of = deliveries.entry(row.try_get(0)?).or_default();
        of.push(Delivery {
            target: record::name(&row, 1)?,
            state: delivery.state,
            attempts: delivery.attempts,
            first_attempt_at: delivery.first_attempt_at,
            due_at: (delivery.state == DeliveryState::Pending).then_some(delivery.due_at),
            history,
        });
    }
    Ok(deliveries)
}

async fn told(session: &mut Session, names: &Names, event: Written) -> Result<Event, Error> {
    Ok(Event {
        kind: event.kind,
        at: event.at,
        word: names.name(session, event.word).await?,
        took: event.took,
    })
}
