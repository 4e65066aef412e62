//! An errand: an operator's order that takes more than one commit, as it is kept between them.
//!
//! It is written down in the commit of its first deeds, moves on in the commits of the others, and goes in
//! that of the last. So whatever cuts it short, no deed is done twice and none is left out.

use serde::{Deserialize, Serialize};

use super::Owing;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Id;
use crate::spool::{Filter, Reason, ReleaseTo, ReplayTo, State};

/// An order on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    pub id: i64,
    pub(in crate::spool) owing: Owing,
    pub filter: Filter,
    pub by: Name,
    pub given_at: Timestamp,
    /// Notifications up to here are done with.
    pub(in crate::spool) reached: i64,
    /// So far.
    pub matched: u64,
    /// Those of them that it changed.
    pub done: u64,
}

/// How an order is written down: as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wording {
    what: What,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    targets: Vec<String>,
    state: Option<String>,
    reason: Option<String>,
    source: Option<String>,
    target: Option<String>,
    since: Option<i64>,
    ids: Option<Vec<String>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    ReplayDeadLetters,
    ReplayAll,
    ReplayTo,
    ReleaseTo,
    ReleaseByRoutes,
}

impl Errand {
    pub(in crate::spool) fn new(owing: Owing, filter: Filter, by: Name) -> Self {
        Self {
            // Of its own, whichever relay gives it.
            id: fastrand::i64(1..),
            owing,
            filter,
            by,
            given_at: Timestamp::now(),
            reached: 0,
            matched: 0,
            done: 0,
        }
    }

    pub const fn what(&self) -> &'static str {
        match self.owing {
            Owing::Replay(_) => "replay",
            Owing::Release(_) => "release",
        }
    }

    /// The targets that the order names.
    pub fn targets(&self) -> &[Name] {
        match &self.owing {
            Owing::Replay(ReplayTo::Targets(targets))
            | Owing::Release(ReleaseTo::Targets(targets)) => targets,
            _ => &[],
        }
    }

    pub(in crate::spool) fn wording(&self) -> String {
        let what = match &self.owing {
            Owing::Replay(ReplayTo::DeadLetters) => What::ReplayDeadLetters,
            Owing::Replay(ReplayTo::All) => What::ReplayAll,
            Owing::Replay(ReplayTo::Targets(_)) => What::ReplayTo,
            Owing::Release(ReleaseTo::Targets(_)) => What::ReleaseTo,
            Owing::Release(ReleaseTo::ByRoutes) => What::ReleaseByRoutes,
        };
        let filter = &self.filter;
        let ids = filter.ids.as_ref();
        let wording = Wording {
            what,
            targets: self.targets().iter().map(Name::to_string).collect(),
            state: filter.state.map(|state| state.as_str().into()),
            reason: filter.reason.map(|reason| reason.as_str().into()),
            source: filter.source.as_ref().map(Name::to_string),
            target: filter.target.as_ref().map(Name::to_string),
            since: filter.since.map(Timestamp::as_millis),
            ids: ids.map(|ids| ids.iter().map(Id::to_string).collect()),
        };
        // Strings and numbers: there is nothing that JSON has no form for.
        serde_json::to_string(&wording).unwrap_or_default()
    }

    /// What was written down; `None` if it is not in words of this version.
    pub(in crate::spool) fn read(wording: &str) -> Option<(Owing, Filter)> {
        let wording: Wording = serde_json::from_str(wording).ok()?;
        let targets: Option<Vec<Name>> = wording.targets.iter().map(|name| read(name)).collect();
        let targets = targets?;
        let owing = match wording.what {
            What::ReplayDeadLetters => Owing::Replay(ReplayTo::DeadLetters),
            What::ReplayAll => Owing::Replay(ReplayTo::All),
            What::ReplayTo => Owing::Replay(ReplayTo::Targets(targets)),
            What::ReleaseTo => Owing::Release(ReleaseTo::Targets(targets)),
            What::ReleaseByRoutes => Owing::Release(ReleaseTo::ByRoutes),
        };
        let ids = wording.ids.as_deref();
        let filter = Filter {
            state: whole(wording.state.as_deref(), State::parse)?,
            reason: whole(wording.reason.as_deref(), Reason::parse)?,
            source: whole(wording.source.as_deref(), read)?,
            target: whole(wording.target.as_deref(), read)?,
            since: wording.since.map(Timestamp::from_millis),
            ids: whole(ids, |ids| ids.iter().map(|id| Id::parse(id)).collect())?,
        };
        Some((owing, filter))
    }
}

fn read(name: &str) -> Option<Name> {
    Name::new(name).ok()
}

/// What is there must be read: an order for fewer is not one for all.
#[expect(clippy::option_option, reason = "not there, or not to be read")]
fn whole<'w, W: ?Sized, T>(
    word: Option<&'w W>,
    read: impl FnOnce(&'w W) -> Option<T>,
) -> Option<Option<T>> {
    match word {
        None => Some(None),
        Some(word) => read(word).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_what_was_ordered() {
        let name = |text: &str| Name::new(text).unwrap();
        let narrow = Filter {
            state: Some(State::Quarantined),
            reason: Some(Reason::Unrouted),
            source: Some(name("suki")),
            target: Some(name("ehr")),
            since: Some(Timestamp::from_millis(1_765_977_748_432)),
            ids: Some(vec![Id::parse(&"0f".repeat(16)).unwrap()]),
        };
        let targets = vec![name("ehr"), name("audit")];
        for owing in [
            Owing::Replay(ReplayTo::DeadLetters),
            Owing::Replay(ReplayTo::All),
            Owing::Replay(ReplayTo::Targets(targets.clone())),
            Owing::Release(ReleaseTo::Targets(targets)),
            Owing::Release(ReleaseTo::ByRoutes),
        ] {
            for filter in [Filter::default(), narrow.clone()] {
                let errand = Errand::new(owing.clone(), filter.clone(), name("someone"));
                let read = Errand::read(&errand.wording());
                assert_eq!(read, Some((owing.clone(), filter)));
            }
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_widens_no_order() {
        for unread in [
            r#"{"what": "replay_all", "state": "asleep"}"#,
            r#"{"what": "replay_all", "source": "no name"}"#,
            r#"{"what": "replay_all", "ids": ["0f", "zz"]}"#,
            r#"{"what": "replay_to", "targets": ["ehr", ""]}"#,
            r#"{"what": "replay_all", "colour": "red"}"#,
            r#"{"what": "burn"}"#,
            "",
        ] {
            assert_eq!(Errand::read(unread), None, "{unread}");
        }
    }
}
