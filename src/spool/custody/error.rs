//! Why an order is refused or ends early, and how far it had come.

use super::Done;
use crate::spool::ReadError;

/// Why an order is refused, or was cut short.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "{found} match, not {expected}: nothing was discarded; look again, then give that count"
    )]
    Count { expected: u64, found: u64 },
    #[error(
        "only dead letters and what is in quarantine can be discarded; name one of these states"
    )]
    State,
    #[error("more than {max} match; narrow the filter")]
    TooMany { max: usize },
    #[error("other orders wait for the spool; try again in a moment")]
    Busy,
    #[error("the disk is full; make room, then give the order again")]
    Full,
    #[error("the commit failed; give the order again, unless `spool status` shows it")]
    Failed,
    #[error(
        "the spool has ended; give the order again when it runs, unless `spool status` shows it"
    )]
    Ended,
    /// Only of a discard.
    #[error(
        "{done} of {matched} were discarded; others are no longer as they were counted, and stay: look again, \
         then give the new count"
    )]
    Changed { done: u64, matched: u64 },
    /// Only of a discard, after its first commit.
    #[error("{done} of {matched} were discarded, the others stay and want a new count: {cause}")]
    Stopped {
        done: u64,
        matched: u64,
        cause: Box<Self>,
    },
    #[error(
        "a record that it would change is damaged, and nothing of that commit is done; the relay's log names it: \
         leave it out, by the `ids` of the others"
    )]
    Damaged,
    /// Another may be at it.
    #[error(
        "{done} are done, then: {cause}. Do not give it again: the relay goes on with it as soon as it can, \
         `spool status` shows it"
    )]
    CutShort {
        done: u64,
        matched: u64,
        cause: Box<Self>,
    },
    #[error("another relay is at it")]
    Taken,
}

impl CustodyError {
    /// How far the order had come, as far as that is known.
    pub const fn reached(&self) -> Done {
        match self {
            Self::Changed { done, matched }
            | Self::Stopped { done, matched, .. }
            | Self::CutShort { done, matched, .. } => Done {
                matched: *matched,
                done: *done,
            },
            _ => Done {
                matched: 0,
                done: 0,
            },
        }
    }

    /// Of a discard that had come so far.
    pub(in crate::spool) fn after(self, done: u64, matched: u64) -> Self {
        match self {
            Self::Changed { .. } => Self::Changed { done, matched },
            error if done > 0 => Self::Stopped {
                done,
                matched,
                cause: Box::new(error),
            },
            error => error,
        }
    }
}
