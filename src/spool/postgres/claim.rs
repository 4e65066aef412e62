//! Claims: which deliveries are in this relay's hands.
//!
//! What is due and in nobody's hands, or in those of a relay whose lease is over, is claimed in one
//! statement, which skips what others are at: no two relays get the same, and none waits for another. It
//! walks one index in order of due time, past what is claimed already: relays hold a few hundred each,
//! however long the backlog.
//!
//! Claims are committed without waiting for the disk: should a crash of the server take one back, the
//! delivery is claimed again, and made twice at worst.
//!
//! What cannot be read costs nobody but itself: a row that no version of ours wrote, and content on a damaged
//! page. A damaged page of the deliveries themselves, or of their index, is nobody's to step over.

use std::collections::HashSet;

use tokio_postgres::Row;

use super::Postgres;
use super::fault::Error;
use super::record;
use super::session::{Param, Session};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::disk::owed::Owed;
use crate::spool::disk::read::PAGE_BODIES_BYTES_MAX;
use crate::spool::metrics::Op;
use crate::spool::{DeliveryKey, DuePage, ReadError, Wanted};

/// What both ways of claiming begin and end with; each with the bytes of bodies, and without a look at content.
macro_rules! claim {
    ($which:literal) => {
        [
            claim!(
                $which,
                "octet_length(body) FROM next LEFT JOIN content USING (seq)"
            ),
            claim!($which, "NULL::integer FROM next"),
        ]
    };
    ($which:literal, $bytes:literal) => {
        concat!(
            "WITH next AS MATERIALIZED (
                 SELECT seq, attempts, due_at, owed_since, replayed_after, resume_at, owner
                 FROM delivery
                 WHERE state = 0 AND target = $1 AND due_at <= $2 AND ",
            $which,
            " AND (owner IS NULL OR owner = $3 OR NOT owner = ANY (ARRAY(
                     SELECT id FROM relay
                     WHERE alive_until > (extract(epoch FROM clock_timestamp()) * 1000)::bigint)))
                 ORDER BY due_at, seq LIMIT $4
                 FOR UPDATE SKIP LOCKED
             ), claimed AS (
                 UPDATE delivery AS d SET owner = $3 FROM next
                 WHERE d.seq = next.seq AND d.target = $1 AND next.owner IS DISTINCT FROM $3
             )
             SELECT seq, attempts, due_at, owed_since, replayed_after, resume_at, ",
            $bytes,
            " ORDER BY due_at, seq"
        )
    };
}

const CLAIM: [&str; 2] = claim!("$5::bigint IS NULL");
const CLAIM_FRESH: [&str; 2] = claim!("attempts = 0 AND due_at >= $5");

const NEXT_DUE: &str =
    "SELECT min(due_at) FROM delivery WHERE state = 0 AND target = $1 AND due_at > $2";

impl Postgres {
    /// Claims the first that are due, those included that are claimed already.
    pub async fn due(
        &self,
        target: &Name,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        self.claim(target, now, None, wanted).await
    }

    pub async fn fresh(
        &self,
        target: &Name,
        since: Timestamp,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        self.claim(target, now, Some(since), wanted).await
    }

    /// Whether anything is owed to the target, in whose hands ever; it claims nothing.
    pub async fn owes(&self, target: &Name) -> Result<bool, ReadError> {
        const OWES: &str = "SELECT EXISTS (SELECT 1 FROM delivery WHERE state = 0 AND target = $1)";
        let owes = async {
            let mut session = self.shared.readers.lend().await?;
            let Some(number) = self
                .shared
                .names
                .find(&mut session, target.as_str())
                .await?
            else {
                return Ok(false);
            };
            let rows = session.query(OWES, &[&number]).await?;
            rows.first().map_or(Ok(false), |row| Ok(row.try_get(0)?))
        };
        self.told(owes.await)
    }

    /// Deliveries that were claimed and not begun are anybody's again.
    pub async fn unclaim(&self, target: &Name, sequences: &[i64]) -> Result<(), ReadError> {
        let unclaimed = async {
            let mut session = self.shared.readers.lend().await?;
            let names = &self.shared.names;
            let Some(number) = names.find(&mut session, target.as_str()).await? else {
                return Ok(());
            };
            self.let_go(&mut session, number, sequences).await
        };
        self.told(unclaimed.await)
    }

    async fn let_go(
        &self,
        session: &mut Session,
        target: i64,
        sequences: &[i64],
    ) -> Result<(), Error> {
        const UNCLAIM: &str = "UPDATE delivery SET owner = NULL
             WHERE target = $1 AND seq = ANY ($2) AND owner = $3 AND state = 0";
        let relay = self.shared.lease.relay;
        session
            .query(UNCLAIM, &[&target, &sequences, &relay])
            .await?;
        self.shared.announcements.note([target]);
        Ok(())
    }

    async fn claim(
        &self,
        target: &Name,
        now: Timestamp,
        since: Option<Timestamp>,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        if self.shared.lease.era().is_none() {
            return Err(ReadError::new(
                "the server has not heard of this relay for longer than `spool.postgres.lease`",
            ));
        }
        let wanted = self.shared.aside.beside(target, wanted);
        let page = self.claim_page(target, now, since, &wanted).await;
        for _ in page.iter().flat_map(|page| &page.unreadable) {
            self.shared.metrics.error(Op::Read);
        }
        self.told(page)
    }

    async fn claim_page(
        &self,
        target: &Name,
        now: Timestamp,
        since: Option<Timestamp>,
        wanted: &Wanted,
    ) -> Result<DuePage, Error> {
        let mut session = self.shared.readers.lend().await?;
        let names = &self.shared.names;
        let Some(number) = names.find(&mut session, target.as_str()).await? else {
            return Ok(DuePage::default());
        };
        let (now_ms, since_ms) = (now.as_millis(), since.map(Timestamp::as_millis));
        let rows_max = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        let [claim, apart] = if since.is_some() { CLAIM_FRESH } else { CLAIM };
        let params: [Param<'_>; 5] = [
            &number,
            &now_ms,
            &self.shared.lease.relay,
            &rows_max,
            &since_ms,
        ];
        let claimed = match session.query(claim, &params).await {
            Err(error) if error.is_damage() => session.query(apart, &params).await?,
            claimed => claimed?,
        };
        let mut page = DuePage {
            more: claimed.len() >= wanted.limit,
            ..DuePage::default()
        };
        let rest = fill(&mut page, &mut session, target, &claimed, &wanted.held).await?;
        if !rest.is_empty() {
            self.let_go(&mut session, number, &rest).await?;
        }
        if since.is_none() && !page.more {
            let next = session.query(NEXT_DUE, &[&number, &now_ms]).await?;
            let next: Option<i64> = next.first().map_or(Ok(None), |row| row.try_get(0))?;
            page.next_due_at = next.map(Timestamp::from_millis);
        }
        Ok(page)
    }
}

/// Reads the records of what was claimed, until a page's bytes are full; returns what is left over.
async fn fill(
    page: &mut DuePage,
    session: &mut Session,
    target: &Name,
    claimed: &[Row],
    held: &HashSet<i64>,
) -> Result<Vec<i64>, Error> {
    let key = |sequence| DeliveryKey {
        sequence,
        target: target.clone(),
    };
    let mut all_owed = Vec::with_capacity(claimed.len());
    let mut bodies_bytes = 0;
    let mut rest = Vec::new();
    for row in claimed {
        let sequence = row.try_get(0)?;
        if held.contains(&sequence) {
            continue;
        }
        if bodies_bytes >= PAGE_BODIES_BYTES_MAX {
            page.more = true;
            rest.push(sequence);
            continue;
        }
        bodies_bytes += match row.try_get(6)? {
            Some(bytes) => body_bytes(bytes),
            None => ask_body_bytes(session, sequence).await?,
        };
        match owed(row) {
            Ok(owed) => all_owed.push(owed),
            Err(_) => page.unreadable.push(key(sequence)),
        }
    }
    let sequences: Vec<i64> = all_owed.iter().map(|owed| owed.sequence).collect();
    let mut records = record::read(session, &sequences).await?;
    for owed in all_owed {
        let key = key(owed.sequence);
        match records.remove(&owed.sequence) {
            Some(record) => page.deliveries.push(owed.due(key, record)),
            None => page.unreadable.push(key),
        }
    }
    Ok(rest)
}

/// Of a body that was not looked at; 0 if that cannot be read, or is not there: nothing is sent then.
async fn ask_body_bytes(session: &mut Session, sequence: i64) -> Result<usize, Error> {
    const BYTES: &str = "SELECT octet_length(body) FROM content WHERE seq = $1";
    match session.query(BYTES, &[&sequence]).await {
        Err(error) if error.is_damage() => Ok(0),
        rows => match rows?.first() {
            Some(row) => Ok(body_bytes(row.try_get(0)?)),
            None => Ok(0),
        },
    }
}

fn body_bytes(length: i32) -> usize {
    usize::try_from(length).unwrap_or(0)
}

fn owed(row: &Row) -> Result<Owed, Error> {
    Ok(Owed {
        sequence: row.try_get(0)?,
        attempts: record::count(row, 1)?,
        due_at: Timestamp::from_millis(row.try_get(2)?),
        since: record::moment(row, 3)?,
        replayed_after: record::maybe_count(row, 4)?,
        resume_at: record::moment(row, 5)?,
    })
}
