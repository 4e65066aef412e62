//! One transaction: two round trips, whatever is in it. Their order is in `writer.rs`.

use tokio_postgres::Row;

use super::Shared;
use super::columns::{Additions, Arrivals, Counts, Deliveries, Standings, by_mark};
use super::errands;
use super::fault::Error;
use super::session::{Param, Session};
use super::sheet::{Books, Sheet};
use crate::name::Name;
use crate::spool::disk::queue::Batch;
use crate::spool::orders::Order;
use crate::spool::{AcceptError, CustodyError, Kept, Submission, Verdict};

pub(super) type Answer = Result<Kept, AcceptError>;

/// How many deeds changed something, and how the counters moved; or why none was done.
pub(super) type Carried = Result<(u64, Books), CustodyError>;

/// A commit that wrote nothing waits for no standby. This writes, and so waits for all before it.
const MARKER: &str = "SELECT pg_logical_emit_message(true, 'suki-relay', '')";

/// Settings may have changed since the session was opened: these are in force when COMMIT is reached.
const DURABLE: &str = "SELECT current_setting('fsync') <> 'off'
     AND current_setting('synchronous_commit') <> 'off'";

/// Keeps what waits: an answer for each submission, and how the counters moved.
pub(super) async fn write(
    shared: &Shared,
    session: &mut Session,
    batch: &Batch,
) -> Result<(Vec<Answer>, Books), Error> {
    let mut sheet = Sheet::of(&shared.lease);
    let outcomes = meet(shared, session, batch, &mut sheet).await?;
    let arrivals = Arrivals::of(&batch.accepts, &sheet);
    let settled = batch.settlements.iter().map(|settle| &settle.settlement);
    let keys: Vec<_> = settled
        .clone()
        .map(|settlement| {
            (
                settlement.key.sequence,
                sheet.number(&settlement.key.target),
            )
        })
        .collect();
    let (kept, there) = begin(session, &mut sheet, &keys, &arrivals).await?;
    for (settlement, outcome) in settled.zip(outcomes) {
        sheet.settle(settlement, outcome);
    }
    let (kept, there) = (by_mark(&kept)?, by_mark(&there)?);
    let mut additions = Additions::default();
    let mut answers = Vec::with_capacity(batch.accepts.len());
    for (at, (accept, mark)) in batch.accepts.iter().zip(&arrivals.marks).enumerate() {
        let new = kept
            .get(mark)
            .filter(|_| arrivals.first.get(mark) == Some(&at));
        answers.push(match (new, there.get(mark)) {
            (Some(sequence), _) => {
                additions.add(*sequence, &accept.submission, &mut sheet);
                Ok(Kept::Now)
            }
            (None, Some(code)) => Ok(Kept::Before(Verdict::from_code(*code))),
            (None, None) => Err(AcceptError::Failed),
        });
    }
    let before = answers
        .iter()
        .any(|answer| matches!(answer, Ok(Kept::Before(_))));
    finish(shared, session, &sheet, &additions, before).await?;
    Ok((answers, sheet.books))
}

/// Carries an operator's order out.
pub(super) async fn carry_out(
    shared: &Shared,
    session: &mut Session,
    order: &Order,
) -> Result<Carried, Error> {
    let mut sheet = Sheet::of(&shared.lease);
    let by = shared.names.number(session, order.by.as_str()).await?;
    let mut keys = Vec::new();
    for deed in &order.deeds {
        // No name has the number 0: what is done to a notification alone finds no delivery.
        keys.push((deed.sequence(), 0));
        for target in deed.targets() {
            let number = shared.names.number(session, target.as_str()).await?;
            sheet.numbers.insert(target.clone(), number);
            keys.push((deed.sequence(), number));
        }
    }
    begin(session, &mut sheet, &keys, &Arrivals::default()).await?;
    let mut done = 0;
    for deed in &order.deeds {
        let Ok(changed) = deed.carry_out(&mut sheet, order.at, by);
        done += u64::from(changed);
    }
    let matched = order.deeds.len() as u64;
    let refusal = if order.all_or_none && done < matched {
        let done = 0;
        Some(CustodyError::Changed { done, matched })
    } else if errands::note(shared, session, &order.note, done).await? {
        None
    } else {
        Some(CustodyError::Taken)
    };
    if let Some(refusal) = refusal {
        session.batch("ROLLBACK").await?;
        return Ok(Err(refusal));
    }
    finish(shared, session, &sheet, &Additions::default(), false).await?;
    Ok(Ok((done, sheet.books)))
}

/// Whether the rows of a notification, and of its deliveries to these, cannot be read to be changed.
pub(super) async fn is_damaged(
    shared: &Shared,
    session: &mut Session,
    sequence: i64,
    targets: &[Name],
) -> Result<bool, Error> {
    let mut keys = vec![(sequence, 0)];
    for target in targets {
        let number = shared.names.number(session, target.as_str()).await?;
        keys.push((sequence, number));
    }
    let mut sheet = Sheet::of(&shared.lease);
    let read = begin(session, &mut sheet, &keys, &Arrivals::default()).await;
    session.batch("ROLLBACK").await?;
    match read {
        Err(error) if !error.is_damage() => Err(error),
        read => Ok(read.is_err()),
    }
}

/// Learns the numbers of all names, and of the outcomes of settlements, in their order.
async fn meet(
    shared: &Shared,
    session: &mut Session,
    batch: &Batch,
    sheet: &mut Sheet,
) -> Result<Vec<i64>, Error> {
    for accept in &batch.accepts {
        let Submission {
            notification,
            targets,
            ..
        } = &accept.submission;
        for name in targets
            .iter()
            .chain([&notification.source, &notification.secret])
        {
            if !sheet.numbers.contains_key(name) {
                let number = shared.names.number(session, name.as_str()).await?;
                sheet.numbers.insert(name.clone(), number);
            }
        }
    }
    let mut outcomes = Vec::with_capacity(batch.settlements.len());
    for settle in &batch.settlements {
        let target = &settle.settlement.key.target;
        let number = shared.names.number(session, target.as_str()).await?;
        sheet.numbers.insert(target.clone(), number);
        let outcome = settle.settlement.outcome;
        outcomes.push(shared.names.number(session, outcome).await?);
    }
    Ok(outcomes)
}

/// The first round trip. Returns rows of the marks that are new, with their sequences, and of all that are
/// there, with their verdicts.
async fn begin(
    session: &mut Session,
    sheet: &mut Sheet,
    keys: &[(i64, i64)],
    arrivals: &Arrivals<'_>,
) -> Result<(Vec<Row>, Vec<Row>), Error> {
    const NOTIFICATIONS: &str =
        "SELECT seq, received_at, quarantine, pending, dead, settled_at FROM notification
         WHERE seq = ANY ($1) ORDER BY seq FOR UPDATE";
    const DELIVERIES: &str =
        "SELECT d.seq, d.target, d.owner, d.state, d.attempts, d.due_at, d.owed_since,
                d.replayed_after, d.resume_at, d.first_attempt_at, d.history
         FROM unnest($1::bigint[], $2::bigint[]) AS k (seq, target)
         JOIN delivery AS d ON d.seq = k.seq AND d.target = k.target
         ORDER BY d.seq, d.target FOR UPDATE OF d";
    const KEEP: &str = "INSERT INTO notification
             (source, signed_at, digest, verdict, quarantine, received_at, pending, dead, settled_at)
         SELECT source, signed_at, digest, verdict, quarantine, received_at, pending, 0,
                CASE WHEN pending = 0 AND quarantine IS NULL THEN received_at END
         FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[], $5::text[], $6::bigint[],
                     $7::bigint[])
              AS i (source, signed_at, digest, verdict, quarantine, received_at, pending)
         ON CONFLICT (source, signed_at, digest) DO NOTHING
         RETURNING source, digest, seq";
    const THERE: &str = "SELECT n.source, n.digest, n.verdict
         FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS k (source, signed_at, digest)
         JOIN notification AS n
             ON n.source = k.source AND n.signed_at = k.signed_at AND n.digest = k.digest";
    let statements = [
        session.statement(NOTIFICATIONS).await?,
        session.statement(DELIVERIES).await?,
        session.statement(KEEP).await?,
        session.statement(THERE).await?,
    ];
    let (sequences, targets): (Vec<i64>, Vec<i64>) = keys.iter().copied().unzip();
    let rows: [Param<'_>; 2] = [&sequences, &targets];
    let new = arrivals.params();
    session.was_warned();
    let client = session.client();
    // Sent at once, in this order. The last sees what was committed by those that the one before waited for.
    let (began, notifications, deliveries, kept, there) = tokio::join!(
        biased;
        client.batch_execute("BEGIN"),
        client.query(&statements[0], &rows[..1]),
        client.query(&statements[1], &rows),
        client.query(&statements[2], &new),
        client.query(&statements[3], &new[..3]),
    );
    began?;
    sheet.take_notifications(&notifications?)?;
    sheet.take_deliveries(&deliveries?)?;
    Ok((kept?, there?))
}

/// The second round trip: after it, all is on stable storage. `before`: so must be what others committed
/// that was read in the first.
async fn finish(
    shared: &Shared,
    session: &mut Session,
    sheet: &Sheet,
    additions: &Additions<'_>,
    before: bool,
) -> Result<(), Error> {
    const CONTENT: &str =
        "INSERT INTO content (seq, secret, generated_at, signature, content_type, body)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bytea[])";
    const ADD: &str = "INSERT INTO delivery (seq, target, state, attempts, due_at)
         SELECT seq, target, 0, 0, due_at
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS i (seq, target, due_at)";
    const DELIVERIES: &str = "INSERT INTO delivery
             (seq, target, state, attempts, due_at, owed_since, replayed_after, resume_at,
              first_attempt_at, history, owner)
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
                 $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[], $11::bigint[])
         ON CONFLICT (seq, target) DO UPDATE
         SET state = EXCLUDED.state, attempts = EXCLUDED.attempts, due_at = EXCLUDED.due_at,
             owed_since = EXCLUDED.owed_since, replayed_after = EXCLUDED.replayed_after,
             resume_at = EXCLUDED.resume_at, first_attempt_at = EXCLUDED.first_attempt_at,
             history = EXCLUDED.history, owner = EXCLUDED.owner";
    const NOTIFICATIONS: &str = "UPDATE notification AS n
         SET quarantine = i.quarantine, pending = i.pending, dead = i.dead, settled_at = i.settled_at
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
              AS i (seq, quarantine, pending, dead, settled_at)
         WHERE n.seq = i.seq";
    let before = before && !cfg!(sabotage = "kept-before-by-a-commit-of-nothing");
    if cfg!(sabotage = "mark-in-a-transaction-apart") {
        session.batch("COMMIT; BEGIN").await?;
    }
    let statements = [
        session.statement(CONTENT).await?,
        session.statement(ADD).await?,
        session.statement(DELIVERIES).await?,
        session.statement(NOTIFICATIONS).await?,
        session.statement(super::ledger::POST).await?,
        session.statement(super::ledger::TALLY).await?,
        session.statement(DURABLE).await?,
    ];
    let (content, added) = (additions.content(), additions.deliveries());
    let (deliveries, standings) = (Deliveries::of(sheet), Standings::of(sheet));
    let counts = Counts::of(&sheet.books, shared.lease.slot);
    let (deliveries, standings) = (deliveries.params(), standings.params());
    let (ledger, tally) = (counts.ledger(), counts.tally());
    let client = session.client();
    let (content, added, changed, stood, posted, tallied, marked, durable, committed) = tokio::join!(
        biased;
        client.execute(&statements[0], &content),
        client.execute(&statements[1], &added),
        client.execute(&statements[2], &deliveries),
        client.execute(&statements[3], &standings),
        client.execute(&statements[4], &ledger),
        client.execute(&statements[5], &tally),
        client.batch_execute(if before { MARKER } else { "" }),
        client.query_one(&statements[6], &[]),
        client.batch_execute("COMMIT"),
    );
    // A COMMIT after an error rolls back and says that it went well: each answer counts.
    for done in [content, added, changed, stood, posted, tallied] {
        if !cfg!(sabotage = "rollback-taken-for-a-commit") {
            done?;
        }
    }
    marked?;
    let durable: bool = durable?.try_get(0)?;
    committed?;
    if !durable {
        return Err(Error::Unkept);
    }
    if session.was_warned() && !cfg!(sabotage = "warning-taken-for-a-promise") {
        return Err(Error::Doubtful);
    }
    Ok(())
}
