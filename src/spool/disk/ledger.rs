//! The ledger: what ever happened to each target's deliveries, in counters that only grow.
//!
//! Every step that a delivery takes from one state to another is counted, in the commit that takes it. So
//! what must be there follows from the counters alone, state by state: what came into it less what left
//! it. For each target, of all that was ever accepted,
//!
//! ```text
//! pending      = accepted + replayed (delivered, dead, discarded) − delivered − dead-lettered
//! dead letters = dead_lettered − replayed_dead − discarded
//! delivered    = delivered − replayed_delivered − forgotten_delivered
//! discarded    = discarded − replayed_discarded − forgotten_discarded
//! ```
//!
//! and so `accepted = delivered + pending + dead-lettered + discarded`, each less what a replay took back,
//! the forgotten ones included: rows leave by age, or to make room, only when they are at their end. A
//! delivery that is released from quarantine, or replayed to a target that it was not owed to, is
//! accepted then.
//!
//! What is pending and what is dead is counted against the rows now and then (`checkpoint.rs`), all of it
//! by an audit.

use std::collections::HashMap;

use rusqlite::{Connection, Result as Sql};

use crate::spool::DeliveryState;

/// A step of one delivery. The order is that of [`Step::COLUMNS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::spool) enum Step {
    Accepted,
    Delivered,
    DeadLettered,
    Discarded,
    ReplayedDelivered,
    ReplayedDead,
    ReplayedDiscarded,
    ForgottenDelivered,
    ForgottenDiscarded,
}

/// How often each step was taken, by `Step as usize`.
pub(in crate::spool) type Posting = [i64; Step::ALL.len()];

/// Deliveries by state, by `DeliveryState as usize`.
pub(in crate::spool) type Standings = [i64; DeliveryState::ALL.len()];

impl Step {
    pub const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Delivered,
        Self::DeadLettered,
        Self::Discarded,
        Self::ReplayedDelivered,
        Self::ReplayedDead,
        Self::ReplayedDiscarded,
        Self::ForgottenDelivered,
        Self::ForgottenDiscarded,
    ];

    /// Of the table `ledger`.
    pub const COLUMNS: [&str; Self::ALL.len()] = [
        "accepted",
        "delivered",
        "dead_lettered",
        "discarded",
        "replayed_delivered",
        "replayed_dead",
        "replayed_discarded",
        "forgotten_delivered",
        "forgotten_discarded",
    ];

    /// How a delivery of that state is owed again; one that is pending already takes no step.
    pub const fn replayed(from: DeliveryState) -> &'static [Self] {
        match from {
            DeliveryState::Pending => &[],
            DeliveryState::Delivered => &[Self::ReplayedDelivered],
            DeliveryState::DeadLetter => &[Self::ReplayedDead],
            DeliveryState::Discarded => &[Self::ReplayedDiscarded],
        }
    }

    /// How a delivery of that state leaves; one that is owed or held never does.
    pub const fn forgotten(from: DeliveryState) -> Option<Self> {
        match from {
            DeliveryState::Delivered => Some(Self::ForgottenDelivered),
            DeliveryState::Discarded => Some(Self::ForgottenDiscarded),
            DeliveryState::Pending | DeliveryState::DeadLetter => None,
        }
    }

    /// The state it leaves and the state it comes to; `None` is not being there.
    const fn between(self) -> (Option<DeliveryState>, Option<DeliveryState>) {
        use DeliveryState as State;
        match self {
            Self::Accepted => (None, Some(State::Pending)),
            Self::Delivered => (Some(State::Pending), Some(State::Delivered)),
            Self::DeadLettered => (Some(State::Pending), Some(State::DeadLetter)),
            Self::Discarded => (Some(State::DeadLetter), Some(State::Discarded)),
            Self::ReplayedDelivered => (Some(State::Delivered), Some(State::Pending)),
            Self::ReplayedDead => (Some(State::DeadLetter), Some(State::Pending)),
            Self::ReplayedDiscarded => (Some(State::Discarded), Some(State::Pending)),
            Self::ForgottenDelivered => (Some(State::Delivered), None),
            Self::ForgottenDiscarded => (Some(State::Discarded), None),
        }
    }
}

/// The deliveries in each state after so many steps.
pub(in crate::spool) fn standings(posting: &Posting) -> Standings {
    let mut standings = Standings::default();
    for (step, taken) in Step::ALL.into_iter().zip(posting) {
        let (from, to) = step.between();
        if let Some(from) = from {
            standings[from as usize] -= taken;
        }
        if let Some(to) = to {
            standings[to as usize] += taken;
        }
    }
    standings
}

/// Every target's number with its counters.
pub(in crate::spool) fn read(connection: &Connection) -> Sql<Vec<(i64, Posting)>> {
    let columns = Step::COLUMNS.join(", ");
    let mut find = connection.prepare_cached(&format!("SELECT target, {columns} FROM ledger"))?;
    let targets = find.query_map([], |row| {
        let mut posting = Posting::default();
        for (column, counter) in posting.iter_mut().enumerate() {
            *counter = row.get(column + 1)?;
        }
        Ok((row.get(0)?, posting))
    })?;
    targets.collect()
}

/// How far what is pending or dead is from what the counters say: 0, or there is a defect. One look at
/// two indexes, in one transaction.
pub(in crate::spool) fn imbalance(connection: &Connection) -> Sql<i64> {
    let snapshot = connection.unchecked_transaction()?;
    let mut off: HashMap<i64, Standings> = read(&snapshot)?
        .into_iter()
        .map(|(target, posting)| (target, standings(&posting)))
        .collect();
    for (state, index) in [
        (DeliveryState::Pending, "due"),
        (DeliveryState::DeadLetter, "dead"),
    ] {
        let mut count = snapshot.prepare_cached(&format!(
            "SELECT target, count(*) FROM delivery INDEXED BY {index}
             WHERE state = {} GROUP BY target",
            state as usize
        ))?;
        let mut rows = count.query([])?;
        while let Some(row) = rows.next()? {
            let there: i64 = row.get(1)?;
            off.entry(row.get(0)?).or_default()[state as usize] -= there;
        }
    }
    let open = [DeliveryState::Pending, DeliveryState::DeadLetter];
    let off = off
        .values()
        .flat_map(|off| open.map(|state| off[state as usize].abs()));
    Ok(off.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equation_of_the_header_follows_from_the_steps() {
        // Any counters will do; these are all different.
        let posting: Posting = [1009, 503, 251, 127, 61, 31, 17, 7, 3];
        let [
            accepted,
            delivered,
            dead,
            discarded,
            again_delivered,
            again_dead,
            again_discarded,
            gone_delivered,
            gone_discarded,
        ] = posting;
        let again = again_delivered + again_dead + again_discarded;
        let [pending_rows, delivered_rows, dead_rows, discarded_rows] = standings(&posting);
        assert_eq!(pending_rows, accepted + again - delivered - dead);
        assert_eq!(dead_rows, dead - again_dead - discarded);
        assert_eq!(delivered_rows, delivered - again_delivered - gone_delivered);
        assert_eq!(discarded_rows, discarded - again_discarded - gone_discarded);
        assert_eq!(
            accepted,
            pending_rows
                + dead_rows
                + delivered_rows
                + gone_delivered
                + discarded_rows
                + gone_discarded
        );
    }

    #[test]
    fn each_step_has_its_column() {
        let schema = include_str!("../schema.sql");
        for (at, step) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, at);
            let column = format!("\n    {} ", Step::COLUMNS[at]);
            assert!(schema.contains(&column), "{column}");
        }
    }
}
