//! The audit's reading, in one snapshot; see `spool/audit.rs` for what it promises. What PostgreSQL thinks
//! of its own pages is its administrator's to ask (`pg_amcheck`, data checksums).

use std::collections::HashMap;

use futures_util::TryStreamExt;
use tokio_postgres::RowStream;

use super::fault::Error;
use super::session::{Param, Session};
use super::{Postgres, ledger, record};
use crate::name::Name;
use crate::spool::disk::ledger::Standings;
use crate::spool::{Audit, Discrepancy, ReadError, Reason};

/// However long it takes; it locks nothing.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
     SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
     SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

impl Postgres {
    pub async fn audit(&self) -> Result<Audit, ReadError> {
        self.told(self.audit_all().await)
    }

    async fn audit_all(&self) -> Result<Audit, Error> {
        let mut session = self.shared.readers.lend_unhurried().await?;
        session.spoil();
        session.batch(SNAPSHOT).await?;
        let mut audit = Audit::default();
        audit_ledger(&mut session, &mut audit).await?;
        session.spoil();
        audit_notifications(&session, &mut audit).await?;
        audit_orphans(&session, &mut audit).await?;
        session.batch("COMMIT").await?;
        session.mend();
        Ok(audit)
    }
}

async fn audit_ledger(session: &mut Session, audit: &mut Audit) -> Result<(), Error> {
    const THERE: &str = "SELECT text, state, count(*) FROM delivery JOIN name ON id = target
         GROUP BY text, state";
    let counted = ledger::read(session).await?;
    let mut there: HashMap<Name, Standings> = HashMap::new();
    let mut rows = stream(session, THERE).await?;
    while let Some(row) = rows.try_next().await? {
        let (state, rows) = (record::state(&row, 1)?, row.try_get::<_, i64>(2)?);
        audit.deliveries += rows.unsigned_abs();
        there.entry(record::name(&row, 0)?).or_default()[state as usize] = rows;
    }
    audit.hold(&counted, &there);
    Ok(())
}

async fn audit_notifications(session: &Session, audit: &mut Audit) -> Result<(), Error> {
    const ALL: &str = "SELECT seq, digest, source.text, received_at, secret.text, generated_at, signature,
                content_type, body, quarantine,
                pending = (SELECT count(*) FROM delivery AS d WHERE d.seq = n.seq AND state = 0)
                AND dead = (SELECT count(*) FROM delivery AS d WHERE d.seq = n.seq AND state = 2)
                AND (settled_at IS NOT NULL) = (pending = 0 AND dead = 0 AND quarantine IS NULL)
         FROM notification AS n LEFT JOIN content AS c USING (seq)
         LEFT JOIN name AS source ON source.id = n.source LEFT JOIN name AS secret ON secret.id = c.secret";
    let mut rows = std::pin::pin!(stream(session, ALL).await?);
    while let Some(row) = rows.try_next().await? {
        audit.notifications += 1;
        let sequence = row.try_get(0)?;
        let reason: Option<&str> = row.try_get(9)?;
        if let Some(reason) = reason {
            audit.quarantined += 1;
            if Reason::parse(reason).is_none() {
                audit.note(Discrepancy::Reason { sequence });
            }
        }
        if !row.try_get::<_, bool>(10)? {
            audit.note(Discrepancy::Standing { sequence });
        }
        match record::record(&row) {
            Ok(Some(_)) => audit.bodies += 1,
            Ok(None) | Err(_) => audit.note(Discrepancy::Content { sequence }),
        }
    }
    Ok(())
}

async fn audit_orphans(session: &Session, audit: &mut Audit) -> Result<(), Error> {
    for table in ["content", "delivery"] {
        let orphans = format!(
            "SELECT count(*) FROM {table} AS t
             WHERE NOT EXISTS (SELECT 1 FROM notification AS n WHERE n.seq = t.seq)"
        );
        let mut rows = std::pin::pin!(stream(session, &orphans).await?);
        let Some(row) = rows.try_next().await? else {
            continue;
        };
        let rows = row.try_get(0)?;
        if rows > 0 {
            audit.note(Discrepancy::Orphans { table, rows });
        }
    }
    Ok(())
}

/// Row by row: a whole spool does not fit into memory.
async fn stream(session: &Session, sql: &str) -> Result<std::pin::Pin<Box<RowStream>>, Error> {
    let none: [Param<'_>; 0] = [];
    Ok(Box::pin(session.client().query_raw(sql, none).await?))
}
