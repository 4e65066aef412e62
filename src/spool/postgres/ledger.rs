//! The counters in the server: written in every transaction, summed for everybody's gauges.

use std::collections::HashMap;

use super::fault::Error;
use super::session::Session;
use super::sheet::{kind, kind_of_quarantine};
use crate::name::Name;
use crate::spool::disk::ledger::{self, Posting, Standings};
use crate::spool::metrics::{Metrics, State};
use crate::spool::{DeliveryState, Reason};

use super::record;

/// Slot, targets, and a column for each step.
pub(super) const POST: &str = "INSERT INTO ledger AS l
         (slot, target, accepted, delivered, dead_lettered, discarded, replayed_delivered, replayed_dead,
          replayed_discarded, forgotten_delivered, forgotten_discarded)
     SELECT $1::bigint, i.* FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
             $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]) AS i
     ON CONFLICT (target, slot) DO UPDATE
     SET accepted = l.accepted + EXCLUDED.accepted, delivered = l.delivered + EXCLUDED.delivered,
         dead_lettered = l.dead_lettered + EXCLUDED.dead_lettered,
         discarded = l.discarded + EXCLUDED.discarded,
         replayed_delivered = l.replayed_delivered + EXCLUDED.replayed_delivered,
         replayed_dead = l.replayed_dead + EXCLUDED.replayed_dead,
         replayed_discarded = l.replayed_discarded + EXCLUDED.replayed_discarded,
         forgotten_delivered = l.forgotten_delivered + EXCLUDED.forgotten_delivered,
         forgotten_discarded = l.forgotten_discarded + EXCLUDED.forgotten_discarded";

/// Slot, kinds, and by how much each moved.
pub(super) const TALLY: &str = "INSERT INTO tally AS t (slot, kind, count)
     SELECT $1::bigint, i.* FROM unnest($2::bigint[], $3::bigint[]) AS i
     ON CONFLICT (kind, slot) DO UPDATE SET count = t.count + EXCLUDED.count";

/// What the counters say of every target that was ever owed anything.
pub(super) async fn read(session: &mut Session) -> Result<HashMap<Name, Standings>, Error> {
    const READ: &str = "SELECT text, sum(accepted)::bigint, sum(delivered)::bigint,
                sum(dead_lettered)::bigint, sum(discarded)::bigint, sum(replayed_delivered)::bigint,
                sum(replayed_dead)::bigint, sum(replayed_discarded)::bigint,
                sum(forgotten_delivered)::bigint, sum(forgotten_discarded)::bigint
         FROM ledger JOIN name ON id = target GROUP BY text";
    let mut targets = HashMap::new();
    for row in session.query(READ, &[]).await? {
        let mut posting = Posting::default();
        for (column, counter) in posting.iter_mut().enumerate() {
            *counter = row.try_get(column + 1)?;
        }
        targets.insert(record::name(&row, 0)?, ledger::standings(&posting));
    }
    Ok(targets)
}

/// How many notifications stand so, and are in quarantine for what.
pub(super) struct Tally(HashMap<i64, i64>);

impl Tally {
    pub async fn read(session: &mut Session) -> Result<Self, Error> {
        const READ: &str = "SELECT kind, sum(count)::bigint FROM tally GROUP BY kind";
        let rows = session.query(READ, &[]).await?;
        let counts = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(Self(counts.collect::<Result<_, Error>>()?))
    }

    pub fn of(&self, state: State) -> i64 {
        self.0.get(&kind(state)).copied().unwrap_or(0)
    }

    pub fn of_quarantine(&self, reason: Reason) -> i64 {
        let kind = kind_of_quarantine(reason);
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

/// Brings every gauge up to date: they are of the whole spool, the same at each relay.
pub(super) async fn show(session: &mut Session, metrics: &Metrics) -> Result<(), Error> {
    let tally = Tally::read(session).await?;
    for state in State::ALL {
        metrics.notifications(state).set(tally.of(state));
    }
    for reason in Reason::ALL {
        metrics.quarantine(reason).set(tally.of_quarantine(reason));
    }
    for (target, standings) in read(session).await? {
        let gauges = metrics.target(&target);
        gauges
            .pending
            .set(standings[DeliveryState::Pending as usize]);
        gauges
            .dead_letters
            .set(standings[DeliveryState::DeadLetter as usize]);
    }
    Ok(())
}

/// When the oldest notification was received that is still owed, by target: one step of an index each.
pub(super) async fn show_oldest(session: &mut Session, metrics: &Metrics) -> Result<(), Error> {
    // Found before it is looked up: a join would walk the notifications until one is owed to the target.
    const OLDEST: &str = "SELECT text, (
             SELECT received_at FROM notification WHERE seq = (
                 SELECT seq FROM delivery AS d
                 WHERE d.state = 0 AND d.target = l.target ORDER BY d.seq LIMIT 1))
         FROM (SELECT DISTINCT target FROM ledger) AS l JOIN name ON id = l.target";
    for row in session.query(OLDEST, &[]).await? {
        let oldest = record::moment(&row, 1)?;
        let seconds = oldest.map_or(0.0, crate::clock::Timestamp::as_seconds);
        metrics
            .target(&record::name(&row, 0)?)
            .oldest_pending
            .set(seconds);
    }
    Ok(())
}

/// How far what is pending or dead is from what the counters say, in one snapshot: 0, or a defect.
pub(super) async fn imbalance(session: &mut Session) -> Result<i64, Error> {
    const IMBALANCE: &str = "WITH counted AS (
             SELECT target,
                    sum(accepted + replayed_delivered + replayed_dead + replayed_discarded
                        - delivered - dead_lettered) AS pending,
                    sum(dead_lettered - replayed_dead - discarded) AS dead
             FROM ledger GROUP BY target),
         pending AS (SELECT target, count(*) AS rows FROM delivery WHERE state = 0 GROUP BY target),
         dead AS (SELECT target, count(*) AS rows FROM delivery WHERE state = 2 GROUP BY target)
         SELECT coalesce(sum(abs(coalesce(c.pending, 0) - coalesce(p.rows, 0))
                             + abs(coalesce(c.dead, 0) - coalesce(d.rows, 0))), 0)::bigint
         FROM counted AS c FULL JOIN pending AS p USING (target) FULL JOIN dead AS d USING (target)";
    let rows = session.query(IMBALANCE, &[]).await?;
    let row = rows.first().ok_or(Error::Foreign("a sum"))?;
    Ok(row.try_get(0)?)
}
