//! The audit: the whole spool held against itself.
//!
//! It reads every row and every byte of content once, in one transaction: minutes for many gigabytes, and
//! meanwhile the log of a running relay only grows. It changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::disk::ledger::Standings;
use super::{DeliveryState, ReadError, Spool};
use crate::name::Name;

/// Discrepancies that are told one by one; more are counted.
pub const DISCREPANCIES_MAX: usize = 1000;

/// What an audit read, and what did not fit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub notifications: u64,
    pub deliveries: u64,
    pub quarantined: u64,
    /// Bodies whose digest was computed again.
    pub bodies: u64,
    /// The first [`DISCREPANCIES_MAX`].
    pub discrepancies: Vec<Discrepancy>,
    /// How many there are beside those.
    pub more: u64,
}

/// Two things in the spool that should agree and do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discrepancy {
    /// The target's counters say other than its rows.
    Ledger {
        target: Name,
        state: DeliveryState,
        counted: i64,
        rows: i64,
    },
    /// What a notification's row says of its deliveries, or of its being settled, is not so.
    Standing { sequence: i64 },
    /// It is in quarantine for a reason that this version does not know.
    Reason { sequence: i64 },
    /// Its content is missing, cannot be read, or is not what was received.
    Content { sequence: i64 },
    /// Rows of a notification that is not there.
    Orphans { table: &'static str, rows: i64 },
    /// What SQLite finds wrong with its own pages and indexes, in its words.
    Database { words: String },
}

impl Spool {
    /// Holds the counters against the rows, the rows against each other, and the content against the
    /// digest of what was received.
    ///
    /// Cancellation: safe; the audit ends by itself.
    pub async fn audit(&self) -> Result<Audit, ReadError> {
        self.engine.audit().await
    }
}

impl Audit {
    pub const fn is_clean(&self) -> bool {
        self.discrepancies.is_empty()
    }

    /// Notes where the counters say other than the rows, target by target.
    pub(super) fn hold(
        &mut self,
        counted: &HashMap<Name, Standings>,
        there: &HashMap<Name, Standings>,
    ) {
        let targets: BTreeSet<&Name> = counted.keys().chain(there.keys()).collect();
        for target in targets {
            let counted = counted.get(target).copied().unwrap_or_default();
            let there = there.get(target).copied().unwrap_or_default();
            for state in DeliveryState::ALL {
                let (counted, rows) = (counted[state as usize], there[state as usize]);
                if counted != rows {
                    self.note(Discrepancy::Ledger {
                        target: target.clone(),
                        state,
                        counted,
                        rows,
                    });
                }
            }
        }
    }

    pub(super) fn note(&mut self, discrepancy: Discrepancy) {
        if self.discrepancies.len() < DISCREPANCIES_MAX {
            self.discrepancies.push(discrepancy);
        } else {
            self.more += 1;
        }
    }
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ledger {
                target,
                state,
                counted,
                rows,
            } => {
                let state = state.as_str();
                write!(
                    f,
                    "target {target}: {rows} {state}, but {counted} by the ledger"
                )
            }
            Self::Standing { sequence } => write!(
                f,
                "notification {sequence}: its row does not say how its deliveries stand"
            ),
            Self::Reason { sequence } => write!(
                f,
                "notification {sequence}: in quarantine for a reason that this version does not know"
            ),
            Self::Content { sequence } => write!(
                f,
                "notification {sequence}: its content is missing, unreadable, or not what was received"
            ),
            Self::Orphans { table, rows } => {
                write!(
                    f,
                    "{table}: {rows} rows of notifications that are not there"
                )
            }
            Self::Database { words } => write!(f, "database: {words}"),
        }
    }
}
