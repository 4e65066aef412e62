//! Which notifications a filter takes, found in bounded steps.
//!
//! Dead letters and quarantine have an index each; what else is asked for is looked for row by row. One
//! step looks at [`LOOKED_AT_MAX`] candidates, so each is a short transaction, whatever it finds.
//!
//! A row that cannot be read hides no other: where one is met, an index alone says which there are, and each is
//! looked at apart. A damaged page of that index is nobody's to step over.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Result as Sql, named_params};

use super::fault::is_damage;
use super::seal::Seal;
use crate::notification::Id;
use crate::spool::{Filter, Reason, State};

/// Candidates looked at in one step: some 20 ms. Tests take many steps over a few.
const LOOKED_AT_MAX: i64 = if cfg!(test) { 10 } else { 20_000 };

/// A filter with the numbers of its names.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    state: Option<State>,
    reason: Option<Reason>,
    source: Option<i64>,
    target: Option<i64>,
    since: Option<i64>,
    /// In order; the ids that are there.
    sequences: Option<Vec<i64>>,
}

/// What one step found.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// In order of acceptance.
    pub sequences: Vec<i64>,
    /// Whether these match cannot be read.
    pub unreadable: Vec<i64>,
    /// Where the next step begins; `None` if nothing is left to look at.
    pub next: Option<i64>,
}

impl Selector {
    /// `None` if it names what the spool has never seen: it takes nothing.
    pub fn resolve(connection: &Connection, seal: &Seal, filter: &Filter) -> Sql<Option<Self>> {
        let mut selector = Self {
            state: filter.state,
            reason: filter.reason,
            source: None,
            target: None,
            since: filter.since.map(crate::clock::Timestamp::as_millis),
            sequences: None,
        };
        for (name, number) in [
            (&filter.source, &mut selector.source),
            (&filter.target, &mut selector.target),
        ] {
            let Some(name) = name else { continue };
            *number = number_of(connection, name.as_str())?;
            if number.is_none() {
                return Ok(None);
            }
        }
        if let Some(ids) = &filter.ids {
            selector.sequences = Some(sequences_of(connection, seal, ids)?);
        }
        Ok(Some(selector))
    }

    /// The number of the target that the filter names.
    pub const fn target(&self) -> Option<i64> {
        self.target
    }

    /// The first that match after `after`, at most `limit`.
    pub fn step(&self, connection: &Connection, after: i64, limit: usize) -> Sql<Stretch> {
        if let Some(sequences) = &self.sequences {
            return self.step_through(connection, sequences, after, limit);
        }
        match self.step_at_once(connection, after, limit) {
            Err(error) if is_damage(&error) => self.step_apart(connection, after, limit),
            step => step,
        }
    }

    fn step_at_once(&self, connection: &Connection, after: i64, limit: usize) -> Sql<Stretch> {
        let mut step = Stretch {
            next: self.end_of_step(connection, after)?,
            ..Stretch::default()
        };
        let until = step.next.unwrap_or(i64::MAX);
        step.sequences = self.matching(connection, after, until, limit)?;
        if step.sequences.len() == limit {
            step.next = step.sequences.last().copied();
        }
        Ok(step)
    }

    /// By an index and, row by row, the table.
    fn step_apart(&self, connection: &Connection, after: i64, limit: usize) -> Sql<Stretch> {
        let Candidates {
            index, key, among, ..
        } = self.candidates();
        let mut find = connection.prepare_cached(&format!(
            "SELECT DISTINCT {key} FROM {index} WHERE {among} AND {key} > ?1 ORDER BY {key} LIMIT ?2"
        ))?;
        let sequences = find.query_map([after, LOOKED_AT_MAX], |row| row.get(0))?;
        let sequences: Vec<i64> = sequences.collect::<Sql<_>>()?;
        let mut step = self.step_through(connection, &sequences, after, limit)?;
        // Whether there are more is for the next step to find out.
        step.next = step.next.or(sequences.last().copied());
        Ok(step)
    }

    fn step_through(
        &self,
        connection: &Connection,
        sequences: &[i64],
        after: i64,
        limit: usize,
    ) -> Sql<Stretch> {
        let mut step = Stretch::default();
        let mut last = None;
        for sequence in sequences.iter().copied().filter(|one| *one > after) {
            if step.sequences.len() + step.unreadable.len() == limit {
                step.next = last;
                break;
            }
            match self.matching(connection, sequence - 1, sequence, 1) {
                Err(error) if is_damage(&error) => step.unreadable.push(sequence),
                matching => step.sequences.extend(matching?),
            }
            last = Some(sequence);
        }
        Ok(step)
    }

    fn matching(
        &self,
        connection: &Connection,
        after: i64,
        until: i64,
        limit: usize,
    ) -> Sql<Vec<i64>> {
        let Candidates {
            from,
            key,
            among,
            only,
            at_target,
            ..
        } = self.candidates();
        let mut find = connection.prepare_cached(&format!(
            "SELECT DISTINCT {key} FROM {from}
             WHERE {among} AND {only} AND {key} >= :from AND {key} <= :until
             AND (:source IS NULL OR n.source = :source)
             AND (:since IS NULL OR n.received_at >= :since)
             AND (:reason IS NULL OR n.quarantine = :reason)
             AND (:target IS NULL OR {at_target})
             ORDER BY {key} LIMIT :limit"
        ))?;
        let matching = find.query_map(
            named_params! {
                // Not the page of the one before, which may be damaged.
                ":from": after.saturating_add(1),
                ":until": until,
                ":source": self.source,
                ":target": self.target,
                ":since": self.since,
                ":reason": self.reason.map(Reason::as_str),
                ":limit": i64::try_from(limit).unwrap_or(i64::MAX),
            },
            |row| row.get(0),
        )?;
        matching.collect()
    }

    /// The candidate that is the last of the step; `None` if there are not so many.
    fn end_of_step(&self, connection: &Connection, after: i64) -> Sql<Option<i64>> {
        let Candidates {
            from, key, among, ..
        } = self.candidates();
        let mut find = connection.prepare_cached(&format!(
            "SELECT {key} FROM {from} WHERE {among} AND {key} > ?1
             ORDER BY {key} LIMIT 1 OFFSET ?2"
        ))?;
        find.query_row([after, LOOKED_AT_MAX - 1], |row| row.get(0))
            .optional()
    }

    fn candidates(&self) -> &'static Candidates {
        Candidates::of(self.state, self.reason)
    }
}

/// Where to look, as parts of a statement.
pub(in crate::spool) struct Candidates {
    pub from: &'static str,
    /// An index that has every candidate, alone.
    pub index: &'static str,
    /// The same as `from`, without the name of an index.
    pub plain: &'static str,
    pub key: &'static str,
    /// What every candidate is; an index holds just these.
    pub among: &'static str,
    /// What the state asks of a candidate.
    pub only: &'static str,
    /// That it has a delivery to the target.
    pub at_target: &'static str,
}

impl Candidates {
    pub fn of(state: Option<State>, reason: Option<Reason>) -> &'static Self {
        match (state, reason) {
            (Some(State::DeadLetter), _) => &DEAD_LETTERS,
            (Some(State::Quarantined), _) | (None, Some(_)) => &QUARANTINED,
            (Some(State::Pending), _) => &PENDING,
            (Some(State::Delivered), _) => &DELIVERED,
            (None, None) => &ALL,
        }
    }
}

const DEAD_LETTERS: Candidates = Candidates {
    from: "delivery AS d INDEXED BY dead CROSS JOIN notification AS n ON n.seq = d.seq",
    index: "delivery AS d INDEXED BY dead",
    plain: "delivery AS d JOIN notification AS n ON n.seq = d.seq",
    key: "d.seq",
    among: "d.state = 2",
    only: "TRUE",
    at_target: "d.target = :target",
};

const ALL: Candidates = Candidates {
    from: "notification AS n",
    index: "notification AS n INDEXED BY mark",
    plain: "notification AS n",
    key: "n.seq",
    among: "TRUE",
    only: "TRUE",
    at_target: "EXISTS (SELECT 1 FROM delivery AS d WHERE d.seq = n.seq AND d.target = :target)",
};

const QUARANTINED: Candidates = Candidates {
    from: "notification AS n INDEXED BY quarantined",
    index: "notification AS n INDEXED BY quarantined",
    among: "n.quarantine IS NOT NULL",
    ..ALL
};

const PENDING: Candidates = Candidates {
    only: "n.pending > 0",
    at_target: "EXISTS (SELECT 1 FROM delivery AS d
                        WHERE d.seq = n.seq AND d.target = :target AND d.state = 0)",
    ..ALL
};

const DELIVERED: Candidates = Candidates {
    only: "n.settled_at IS NOT NULL",
    ..ALL
};

fn number_of(connection: &Connection, name: &str) -> Sql<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM name WHERE text = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// Looks through the marks, the newest first, until all are found: ids have no index of their own. The
/// same bytes at two sources have one id, so an id found is not done with.
fn sequences_of(connection: &Connection, seal: &Seal, ids: &[Id]) -> Sql<Vec<i64>> {
    let wanted: HashSet<[u8; Id::BYTES]> = ids
        .iter()
        .map(|id| seal.mark_of_id(*id))
        .collect::<Sql<_>>()?;
    let mut found = Vec::new();
    let mut marks =
        connection.prepare_cached("SELECT seq, digest FROM notification INDEXED BY mark")?;
    let mut rows = marks.query([])?;
    while let Some(row) = rows.next()? {
        let digest = row.get_ref(1)?.as_blob()?;
        if digest
            .get(..Id::BYTES)
            .is_some_and(|id| wanted.contains(id))
        {
            found.push(row.get(0)?);
        }
    }
    found.sort_unstable();
    Ok(found)
}
