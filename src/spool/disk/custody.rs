//! How an operator's order becomes deeds: readers find what matches, page by page, the writer does it.

use std::collections::HashMap;

use rusqlite::{Connection, Result as Sql};
use tokio::sync::oneshot;

use super::Disk;
use super::orders::{DEEDS_MAX, Deed, Order};
use super::read::Reader;
use super::record::named;
use super::select::Selector;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::spool::{
    CustodyError, DeliveryKey, Discard, Done, Filter, Release, Replay, ReplayTo, State,
};

/// Notifications looked up at once.
const NOTIFICATIONS_MAX: usize = 100;

/// Deeds whose count is exact, and which therefore are all known before the first is done: 40 MB.
const COUNTED_MAX: usize = 1_000_000;

/// What is to be done to the notifications that match.
#[derive(Clone, Debug)]
enum Plan {
    Replay(ReplayTo),
    Discard,
    LetGo,
}

/// The next deeds of a plan.
#[derive(Default)]
struct Stage {
    deeds: Vec<Deed>,
    /// Where the next stage begins; `None` if this is the last.
    next: Option<i64>,
}

impl Disk {
    pub async fn replay(&self, replay: Replay) -> Result<Done, CustodyError> {
        let mut filter = replay.filter;
        if replay.to == ReplayTo::DeadLetters {
            filter.state = Some(State::DeadLetter);
        }
        let plan = Plan::Replay(replay.to);
        let mut done = Done::default();
        let mut after = Some(0);
        while let Some(from) = after {
            let stage = self.stage(&filter, &plan, from).await?;
            after = stage.next;
            done.matched += stage.deeds.len() as u64;
            if !replay.dry_run {
                done.done += self.order(stage.deeds, &replay.by).await?;
            }
        }
        Ok(done)
    }

    pub async fn discard(&self, discard: Discard) -> Result<Done, CustodyError> {
        let plan = match discard.filter.state {
            Some(State::DeadLetter) => Plan::Discard,
            Some(State::Quarantined) => Plan::LetGo,
            _ => return Err(CustodyError::State),
        };
        let mut deeds = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after {
            let mut stage = self.stage(&discard.filter, &plan, from).await?;
            after = stage.next;
            deeds.append(&mut stage.deeds);
            if deeds.len() > COUNTED_MAX {
                return Err(CustodyError::TooMany { max: COUNTED_MAX });
            }
        }
        let matched = deeds.len() as u64;
        if discard.dry_run {
            return Ok(Done { matched, done: 0 });
        }
        let expected = discard.count.unwrap_or_default();
        if expected != matched {
            let found = matched;
            return Err(CustodyError::Count { expected, found });
        }
        let done = self.order(deeds, &discard.by).await?;
        Ok(Done { matched, done })
    }

    pub async fn release(&self, releases: Vec<Release>, by: Name) -> Result<Done, CustodyError> {
        let matched = releases.len() as u64;
        let to_somebody = releases.into_iter().filter(|one| !one.targets.is_empty());
        let deeds =
            to_somebody.map(|Release { sequence, targets }| Deed::Release { sequence, targets });
        let done = self.order(deeds.collect(), &by).await?;
        Ok(Done { matched, done })
    }

    /// One order after the other: how many deeds changed something.
    async fn order(&self, deeds: Vec<Deed>, by: &Name) -> Result<u64, CustodyError> {
        let mut done = 0;
        for deeds in deeds.chunks(DEEDS_MAX) {
            let (answer, answered) = oneshot::channel();
            self.shared.queue.order(Order {
                deeds: deeds.to_vec(),
                by: by.clone(),
                at: Timestamp::now(),
                answer,
            })?;
            done += answered.await.map_err(|_| CustodyError::Ended)??;
        }
        Ok(done)
    }

    async fn stage(&self, filter: &Filter, plan: &Plan, after: i64) -> Result<Stage, CustodyError> {
        filter.check()?;
        let (filter, plan) = (filter.clone(), plan.clone());
        let stage = self.read(move |reader| reader.stage(&filter, &plan, after));
        Ok(stage.await?)
    }
}

impl Reader {
    fn stage(&mut self, filter: &Filter, plan: &Plan, after: i64) -> Sql<Stage> {
        let snapshot = self.connection.unchecked_transaction()?;
        let Some(selector) = Selector::resolve(&snapshot, &self.seal, filter)? else {
            return Ok(Stage::default());
        };
        let found = selector.step(&snapshot, after, NOTIFICATIONS_MAX)?;
        let mut stage = Stage {
            next: found.next,
            ..Stage::default()
        };
        for sequence in found.sequences {
            let key = |target| DeliveryKey { sequence, target };
            match plan {
                Plan::LetGo => stage.deeds.push(Deed::LetGo { sequence }),
                Plan::Replay(ReplayTo::Targets(targets)) => {
                    let replays = targets.iter().cloned().map(key).map(Deed::Replay);
                    stage.deeds.extend(replays);
                }
                Plan::Replay(ReplayTo::All) => {
                    let all = deliveries(&snapshot, &mut self.names, sequence, None)?;
                    stage
                        .deeds
                        .extend(all.into_iter().map(key).map(Deed::Replay));
                }
                Plan::Replay(ReplayTo::DeadLetters) => {
                    let dead = deliveries(&snapshot, &mut self.names, sequence, Some(&selector))?;
                    stage
                        .deeds
                        .extend(dead.into_iter().map(key).map(Deed::Replay));
                }
                Plan::Discard => {
                    let dead = deliveries(&snapshot, &mut self.names, sequence, Some(&selector))?;
                    stage
                        .deeds
                        .extend(dead.into_iter().map(key).map(Deed::Discard));
                }
            }
        }
        Ok(stage)
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
