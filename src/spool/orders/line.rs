//! The log line of an order: who gave it, what it was about, and how far it came. Nothing of any content.

use std::fmt::Display;

use super::{Errand, Owing};
use crate::name::Name;
use crate::notification::Id;
use crate::spool::{CustodyError, Done, Filter, Reason, State};

/// Ids told in one line; an order may name a thousand.
const IDS_TOLD_MAX: usize = 20;

/// What is told of an order when it ends; of a dry run nothing is.
pub struct OrderLine<'o> {
    /// `replayed`, `released`, `discarded`, `reverified`.
    pub what: &'static str,
    pub by: &'o Name,
    pub filter: &'o Filter,
    /// The targets that it names, beside those of the filter.
    pub to: &'o [Name],
}

impl<'o> OrderLine<'o> {
    pub(super) fn of(errand: &'o Errand) -> Self {
        Self {
            what: match errand.owing {
                Owing::Replay(_) => "replayed",
                Owing::Release(_) => "released",
            },
            by: &errand.by,
            filter: &errand.filter,
            to: errand.targets(),
        }
    }

    pub(super) fn log(&self, ended: &Result<Done, CustodyError>) {
        match ended {
            Ok(done) => self.ended(*done, None),
            // Refused before anything was done.
            Err(
                CustodyError::Count { .. } | CustodyError::State | CustodyError::TooMany { .. },
            ) => {}
            Err(error) => self.ended(error.reached(), Some(error)),
        }
    }

    /// With an error: it ended before its time, and had come so far.
    pub fn ended(&self, Done { matched, done }: Done, error: Option<&dyn Display>) {
        let (what, by, filter) = (self.what, self.by.as_str(), self.filter);
        let of = filter.state.map(State::as_str);
        let reason = filter.reason.map(Reason::as_str);
        let source = filter.source.as_ref().map(Name::as_str);
        let target = filter.target.as_ref().map(Name::as_str);
        let since = filter.since.map(|since| since.to_string());
        let ids = filter.ids.as_deref().map(some);
        let to = (!self.to.is_empty()).then(|| joined(self.to));
        match error {
            None => tracing::info!(
                what,
                by,
                of,
                reason,
                source,
                target,
                since,
                ids,
                to,
                matched,
                done,
                "an operator's order"
            ),
            Some(error) => tracing::warn!(
                what, by, of, reason, source, target, since, ids, to, matched, done, %error,
                "an operator's order ended early"
            ),
        }
    }
}

/// The first, and how many more there are.
fn some(ids: &[Id]) -> String {
    match ids.split_at_checked(IDS_TOLD_MAX) {
        Some((first, more)) if !more.is_empty() => {
            format!("{} and {} more", joined(first), more.len())
        }
        _ => joined(ids),
    }
}

fn joined(all: &[impl Display]) -> String {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    all.join(",")
}
