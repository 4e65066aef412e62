//! What is done beside writing: gauges are brought up to date, and what is past its time is dropped, by
//! whichever relay comes first. What is on a damaged page stays, and is in the way of nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::fault::Error;
use super::session::{Param, Session};
use super::{Shared, ledger};
use crate::clock::Timestamp;
use crate::spool::disk::upkeep::DAMAGED_MAX;
use crate::spool::metrics::Op;

/// How often gauges are looked at with nothing happening here: the other relays are at work too.
const EVERY: Duration = Duration::from_secs(1);

/// Between two looks, whatever happens.
const GAP: Duration = Duration::from_millis(100);

/// How often the counters are held against the rows, which are counted for it; and of the server's time, what
/// part each relay may take for that: one in so many.
const AUDIT_EVERY: Duration = Duration::from_mins(1);
const AUDIT_SHARE: u32 = 60;

/// Notifications dropped in one transaction.
const DROPPED_MAX: i64 = 500;

pub(super) async fn keep(shared: Arc<Shared>) {
    let mut audit_at = Instant::now();
    let mut damaged = Vec::new();
    loop {
        let began = Instant::now();
        let audit = began >= audit_at;
        let looked = look(&shared, audit, &mut damaged).await;
        if looked.is_err() {
            shared.metrics.error(Op::Read);
        }
        if audit {
            audit_at = began + AUDIT_EVERY.max(began.elapsed() * AUDIT_SHARE);
        }
        sleep(GAP).await;
        let _ = timeout(EVERY, shared.gauges_stale.notified()).await;
    }
}

async fn look(shared: &Shared, audit: bool, damaged: &mut Vec<i64>) -> Result<(), Error> {
    let mut session = shared.readers.lend_unhurried().await?;
    ledger::show(&mut session, &shared.metrics).await?;
    ledger::show_oldest(&mut session, &shared.metrics).await?;
    tidy(shared, &mut session, damaged).await?;
    if audit {
        let imbalance = ledger::imbalance(&mut session).await?;
        shared.metrics.ledger_imbalance.set(imbalance);
        shared.metrics.bytes.set(bytes(&mut session).await?);
        shared.lease.sweep(&mut session).await?;
    }
    Ok(())
}

/// Drops a bounded number of settled notifications past their time, with their marks; those that cannot be
/// dropped are found one by one.
async fn tidy(shared: &Shared, session: &mut Session, damaged: &mut Vec<i64>) -> Result<(), Error> {
    const NEXT: &str = "SELECT seq FROM notification WHERE settled_at <= $1 AND NOT seq = ANY ($3)
         ORDER BY settled_at LIMIT $2";
    match drop_past(shared, session, damaged, None).await {
        Err(error) if error.is_damage() && damaged.len() < DAMAGED_MAX => {}
        dropped => return dropped,
    }
    let past = Timestamp::now().minus(shared.options.keep_delivered);
    let past = past.as_millis();
    let rows = session
        .query(NEXT, &[&past, &DROPPED_MAX, &*damaged])
        .await?;
    for row in rows {
        let sequence = row.try_get(0)?;
        match drop_past(shared, session, damaged, Some(sequence)).await {
            Err(error) if error.is_damage() && damaged.len() < DAMAGED_MAX => {
                shared.metrics.error(Op::Read);
                tracing::error!(
                    sequence,
                    "it is past its time and stays: its record is damaged. Look at the server"
                );
                damaged.push(sequence);
            }
            dropped => dropped?,
        }
    }
    Ok(())
}

/// By the server's clock too, lest one relay whose own is ahead forgets for all.
async fn drop_past(
    shared: &Shared,
    session: &mut Session,
    damaged: &[i64],
    only: Option<i64>,
) -> Result<(), Error> {
    const TIDY: &str = "WITH gone AS MATERIALIZED (
             SELECT seq FROM notification
             WHERE settled_at <=
                   least($1, (extract(epoch FROM statement_timestamp()) * 1000)::bigint) - $4::bigint
                   AND NOT seq = ANY ($5) AND ($6::bigint IS NULL OR seq = $6)
             ORDER BY settled_at LIMIT $2
             FOR UPDATE SKIP LOCKED),
         marks AS (DELETE FROM notification AS n USING gone WHERE n.seq = gone.seq),
         contents AS (DELETE FROM content AS c USING gone WHERE c.seq = gone.seq),
         deliveries AS (DELETE FROM delivery AS d USING gone WHERE d.seq = gone.seq
                        RETURNING target, state),
         posted AS (
             INSERT INTO ledger AS l
             SELECT target, $3, 0, 0, 0, 0, 0, 0, 0, count(*) FILTER (WHERE state = 1),
                    count(*) FILTER (WHERE state = 3)
             FROM deliveries GROUP BY target ORDER BY target
             ON CONFLICT (target, slot) DO UPDATE
             SET forgotten_delivered = l.forgotten_delivered + EXCLUDED.forgotten_delivered,
                 forgotten_discarded = l.forgotten_discarded + EXCLUDED.forgotten_discarded)
         INSERT INTO tally AS t
         SELECT 2, $3, -count(*) FROM gone HAVING count(*) > 0
         ON CONFLICT (kind, slot) DO UPDATE SET count = t.count + EXCLUDED.count";
    let now = Timestamp::now().as_millis();
    let kept_for = shared.options.keep_delivered.as_millis();
    let kept_for = i64::try_from(kept_for).unwrap_or(i64::MAX);
    let slot = &shared.lease.slot;
    let params: [Param<'_>; 6] = [&now, &DROPPED_MAX, slot, &kept_for, &damaged, &only];
    session.query(TIDY, &params).await.map(drop)
}

async fn bytes(session: &mut Session) -> Result<i64, Error> {
    const BYTES: &str = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
         WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'";
    let rows = session.query(BYTES, &[]).await?;
    let row = rows.first().ok_or(Error::Foreign("a size"))?;
    Ok(row.try_get(0)?)
}
