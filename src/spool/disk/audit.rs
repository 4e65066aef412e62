//! The audit's reading; see `spool/audit.rs` for what it promises.

use std::collections::HashMap;

use rusqlite::{Connection, Result as Sql};

use super::delivery;
use super::ledger::{self, Standings};
use super::read::Reader;
use super::record::{self, named};
use super::seal::Seal;
use crate::name::Name;
use crate::spool::{Audit, Discrepancy, Reason};

impl Reader {
    pub fn audit(&mut self) -> Sql<Audit> {
        let snapshot = self.connection.unchecked_transaction()?;
        let mut audit = Audit::default();
        audit_ledger(&snapshot, &mut self.names, &mut audit)?;
        audit_notifications(&snapshot, &self.seal, &mut self.names, &mut audit)?;
        audit_orphans(&snapshot, &mut audit)?;
        audit_database(&snapshot, &mut audit)?;
        Ok(audit)
    }
}

fn audit_ledger(
    snapshot: &Connection,
    names: &mut HashMap<i64, Name>,
    audit: &mut Audit,
) -> Sql<()> {
    let mut counted = HashMap::new();
    for (target, posting) in ledger::read(snapshot)? {
        let target = named(snapshot, names, target)?;
        counted.insert(target, ledger::standings(&posting));
    }
    let mut there: HashMap<Name, Standings> = HashMap::new();
    let mut count = snapshot
        .prepare_cached("SELECT target, state, count(*) FROM delivery GROUP BY target, state")?;
    let mut rows = count.query([])?;
    while let Some(row) = rows.next()? {
        let state = delivery::state(row, 1)?;
        let rows: i64 = row.get(2)?;
        audit.deliveries += rows.unsigned_abs();
        let target = named(snapshot, names, row.get(0)?)?;
        there.entry(target).or_default()[state as usize] = rows;
    }
    audit.hold(&counted, &there);
    Ok(())
}

fn audit_notifications(
    snapshot: &Connection,
    seal: &Seal,
    names: &mut HashMap<i64, Name>,
    audit: &mut Audit,
) -> Sql<()> {
    let mut all = snapshot.prepare_cached(
        "SELECT seq, quarantine, emptied,
                pending = (SELECT count(*) FROM delivery AS d WHERE d.seq = n.seq AND state = 0)
                AND dead = (SELECT count(*) FROM delivery AS d WHERE d.seq = n.seq AND state = 2)
                AND (settled_at IS NOT NULL) = (pending = 0 AND dead = 0 AND quarantine IS NULL)
                AND (emptied = 0 OR settled_at IS NOT NULL)
         FROM notification AS n ORDER BY seq",
    )?;
    let mut rows = all.query([])?;
    while let Some(row) = rows.next()? {
        audit.notifications += 1;
        let sequence = row.get(0)?;
        if let Some(reason) = row.get_ref(1)?.as_str_or_null()? {
            audit.quarantined += 1;
            if Reason::parse(reason).is_none() {
                audit.note(Discrepancy::Reason { sequence });
            }
        }
        let (emptied, stands): (bool, bool) = (row.get(2)?, row.get(3)?);
        if !stands {
            audit.note(Discrepancy::Standing { sequence });
        }
        if emptied {
            continue;
        }
        match record::read(snapshot, seal, names, sequence)? {
            Some(_) => audit.bodies += 1,
            None => audit.note(Discrepancy::Content { sequence }),
        }
    }
    Ok(())
}

fn audit_orphans(snapshot: &Connection, audit: &mut Audit) -> Sql<()> {
    for table in ["content", "delivery"] {
        let rows = snapshot.query_row(
            &format!(
                "SELECT count(*) FROM {table} AS t
                 WHERE NOT EXISTS (SELECT 1 FROM notification AS n
                                   WHERE n.seq = t.seq AND n.emptied = 0)"
            ),
            [],
            |row| row.get(0),
        )?;
        if rows > 0 {
            audit.note(Discrepancy::Orphans { table, rows });
        }
    }
    Ok(())
}

fn audit_database(snapshot: &Connection, audit: &mut Audit) -> Sql<()> {
    let mut check = snapshot.prepare("PRAGMA integrity_check")?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let words: String = row.get(0)?;
        if words != "ok" {
            audit.note(Discrepancy::Database { words });
        }
    }
    Ok(())
}
