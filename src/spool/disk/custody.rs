//! How an operator's order becomes deeds: readers find what matches, page by page, the writer does it.

use std::collections::HashMap;

use rusqlite::{Connection, Result as Sql};

use super::Disk;
use super::fault::is_damage;
use super::read::Reader;
use super::record::named;
use super::select::Selector;
use crate::name::Name;
use crate::spool::metrics::Op;
use crate::spool::orders::{Plan, Stage, Wanted};
use crate::spool::{Filter, ReadError};

/// Notifications looked up at once.
pub(in crate::spool) const NOTIFICATIONS_MAX: usize = 100;

impl Disk {
    pub async fn stage(
        &self,
        filter: &Filter,
        plan: &Plan,
        after: i64,
    ) -> Result<Stage, ReadError> {
        let (filter, plan) = (filter.clone(), plan.clone());
        let staged = self.read(move |reader| reader.stage(&filter, &plan, after));
        let (stage, unreadable) = staged.await?;
        for sequence in unreadable {
            self.shared.metrics.error(Op::Read);
            tracing::error!(
                sequence,
                "an operator's order passes over it: its record is damaged. Look at the volume"
            );
        }
        Ok(stage)
    }
}

impl Reader {
    /// With what cannot be read.
    fn stage(&mut self, filter: &Filter, plan: &Plan, after: i64) -> Sql<(Stage, Vec<i64>)> {
        let snapshot = self.connection.unchecked_transaction()?;
        let Some(selector) = Selector::resolve(&snapshot, &self.seal, filter)? else {
            return Ok(Default::default());
        };
        let found = selector.step(&snapshot, after, NOTIFICATIONS_MAX)?;
        let mut stage = Stage {
            next: found.next,
            ..Stage::default()
        };
        let mut unreadable = found.unreadable;
        for sequence in found.sequences {
            let names = &mut self.names;
            let targets = match plan.wants() {
                Wanted::Nothing => Ok(Vec::new()),
                Wanted::All => deliveries(&snapshot, names, sequence, None),
                Wanted::Dead => deliveries(&snapshot, names, sequence, Some(&selector)),
            };
            match targets {
                Err(error) if is_damage(&error) => unreadable.push(sequence),
                targets => stage.deeds.extend(plan.deeds(sequence, targets?)),
            }
        }
        stage.unreadable = unreadable.len() as u64;
        Ok((stage, unreadable))
    }
}

/// The targets of a notification's deliveries; of its dead letters that a selector takes, given one.
fn deliveries(
    snapshot: &Connection,
    names: &mut HashMap<i64, Name>,
    sequence: i64,
    dead: Option<&Selector>,
) -> Sql<Vec<Name>> {
    let mut find = snapshot.prepare_cached(
        "SELECT target FROM delivery
         WHERE seq = ?1 AND (NOT ?2 OR state = 2) AND (?3 IS NULL OR target = ?3)",
    )?;
    let target = dead.and_then(Selector::target);
    let mut rows = find.query((sequence, dead.is_some(), target))?;
    let mut targets = Vec::new();
    while let Some(row) = rows.next()? {
        targets.push(named(snapshot, names, row.get(0)?)?);
    }
    Ok(targets)
}
