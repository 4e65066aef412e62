//! Claims: which deliveries are in this relay's hands.
//!
//! What is due and in nobody's hands, or in those of a relay whose lease is over, is claimed in one
//! statement, which skips what others are at: no two relays get the same, and none waits for another. It
//! walks one index in order of due time, past what is claimed already: relays hold a few hundred each,
//! however long the backlog.
//!
//! Claims are committed without waiting for the disk: should a crash of the server take one back, the
//! delivery is claimed again, and made twice at worst.

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

/// What both ways of claiming begin and end with.
macro_rules! claim {
    ($which:literal) => {
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
             SELECT seq, attempts, due_at, owed_since, replayed_after, resume_at, octet_length(body)
             FROM next LEFT JOIN content USING (seq) ORDER BY due_at, seq"
        )
    };
}

const CLAIM: &str = claim!("$5::bigint IS NULL");
const CLAIM_FRESH: &str = claim!("attempts = 0 AND due_at >= $5");

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
        self.claim(target, now, None, &wanted).await
    }

    pub async fn fresh(
        &self,
        target: &Name,
        since: Timestamp,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        self.claim(target, now, Some(since), &wanted).await
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
    pub async fn unclaim(&self, target: &Name, sequences: &[i64]) {
        const UNCLAIM: &str = "UPDATE delivery SET owner = NULL
             WHERE target = $1 AND seq = ANY ($2) AND owner = $3 AND state = 0";
        let unclaimed: Result<(), Error> = async {
            let mut session = self.shared.readers.lend().await?;
            let number = self
                .shared
                .names
                .find(&mut session, target.as_str())
                .await?;
            let relay = self.shared.lease.relay;
            session
                .query(UNCLAIM, &[&number, &sequences, &relay])
                .await?;
            if let Some(number) = number {
                self.shared.announcements.note([number]);
            }
            Ok(())
        }
        .await;
        // Should it fail, they stay this relay's until it asks for them again, or its lease is over.
        let _ = self.told(unclaimed);
    }

    async fn claim(
        &self,
        target: &Name,
        now: Timestamp,
        since: Option<Timestamp>,
        wanted: &Wanted,
    ) -> Result<DuePage, ReadError> {
        if !self.shared.lease.is_held() {
            return Err(ReadError::new(
                "the server has not heard of this relay for longer than `spool.postgres.lease`",
            ));
        }
        let page = self.claim_page(target, now, since, wanted).await;
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
        let claim = if since.is_some() { CLAIM_FRESH } else { CLAIM };
        let params: [Param<'_>; 5] = [
            &number,
            &now_ms,
            &self.shared.lease.relay,
            &rows_max,
            &since_ms,
        ];
        let claimed = session.query(claim, &params).await?;
        let mut page = DuePage {
            more: claimed.len() >= wanted.limit,
            ..DuePage::default()
        };
        fill(&mut page, &mut session, target, &claimed, &wanted.held).await?;
        if since.is_none() && !page.more {
            let next = session.query(NEXT_DUE, &[&number, &now_ms]).await?;
            let next: Option<i64> = next.first().map_or(Ok(None), |row| row.try_get(0))?;
            page.next_due_at = next.map(Timestamp::from_millis);
        }
        Ok(page)
    }
}

/// Reads the records of what was claimed, until a page's bytes are full.
async fn fill(
    page: &mut DuePage,
    session: &mut Session,
    target: &Name,
    claimed: &[Row],
    held: &HashSet<i64>,
) -> Result<(), Error> {
    let mut all_owed = Vec::with_capacity(claimed.len());
    let mut bodies_bytes = 0;
    for row in claimed {
        if bodies_bytes >= PAGE_BODIES_BYTES_MAX {
            page.more = true;
            break;
        }
        let owed = owed(row)?;
        if held.contains(&owed.sequence) {
            continue;
        }
        let bytes: Option<i32> = row.try_get(6)?;
        bodies_bytes += usize::try_from(bytes.unwrap_or(0)).unwrap_or(0);
        all_owed.push(owed);
    }
    let sequences: Vec<i64> = all_owed.iter().map(|owed| owed.sequence).collect();
    let mut records = record::read(session, &sequences).await?;
    for owed in all_owed {
        let key = DeliveryKey {
            sequence: owed.sequence,
            target: target.clone(),
        };
        match records.remove(&owed.sequence) {
            Some(record) => page.deliveries.push(owed.due(key, record)),
            None => page.unreadable.push(key),
        }
    }
    Ok(())
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
