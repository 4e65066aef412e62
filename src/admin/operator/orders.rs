//! What changes something: replay, release, discard. Each answers how many matched, and how many it did.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::ask;
use super::desk::Desk;
use super::reverify::Reverify;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Id;
use crate::routing;
use crate::spool::{
    Discard, Done, Filter, Reason, Release, ReleaseTo, Replay, ReplayTo, Reroute, State,
};

/// Who is told in the history of a delivery: there is one token, so no names.
const BY: &str = "operator";

/// `matched` less `done` is as before: it was so already, or cannot be done, and the log says why. Of a dry
/// run, `done` is what an order would try.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Outcome {
    pub matched: u64,
    pub done: u64,
}

/// `POST /v1/notifications/ID/replay`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayOne {
    /// Every target that it was owed to, unless these are named.
    targets: Option<Vec<String>>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/dead-letters/replay`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayDead {
    target: Option<String>,
    source: Option<String>,
    since: Option<String>,
    ids: Option<Vec<String>>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/dead-letters/discard`, `POST /v1/quarantine/discard`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscardHeld {
    target: Option<String>,
    source: Option<String>,
    since: Option<String>,
    ids: Option<Vec<String>>,
    /// Of quarantine only.
    reason: Option<String>,
    count: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/quarantine/release`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseHeld {
    reason: String,
    action: Action,
    /// Of `force`.
    targets: Option<Vec<String>>,
    target: Option<String>,
    source: Option<String>,
    since: Option<String>,
    ids: Option<Vec<String>>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Action {
    /// Against the secrets of now.
    Reverify,
    /// By the routes of now.
    Reroute,
    /// To targets that are named.
    Force,
}

impl Desk {
    pub(super) async fn replay_one(&self, id: &str, order: ReplayOne) -> Result<Outcome, Refusal> {
        let to = match &order.targets {
            None => ReplayTo::All,
            Some(targets) => ReplayTo::Targets(self.configured(targets)?),
        };
        let filter = Filter {
            ids: Some(ask::ids([id].into_iter())?),
            ..Filter::default()
        };
        let outcome = self.replay(filter, to, order.dry_run).await?;
        if outcome.matched == 0 {
            return Err(Refusal::not_found(
                "nothing to replay: no notification has this id, or its content has left",
            ));
        }
        Ok(outcome)
    }

    pub(super) async fn replay_dead(&self, order: ReplayDead) -> Result<Outcome, Refusal> {
        if let Some(target) = &order.target {
            self.configured(std::slice::from_ref(target))?;
        }
        let filter = Filter {
            state: Some(State::DeadLetter),
            ..filter(order.target, order.source, order.since, order.ids)?
        };
        self.replay(filter, ReplayTo::DeadLetters, order.dry_run)
            .await
    }

    async fn replay(
        &self,
        filter: Filter,
        to: ReplayTo,
        dry_run: bool,
    ) -> Result<Outcome, Refusal> {
        let replay = Replay {
            filter,
            to,
            by: by()?,
            dry_run,
        };
        Ok(Outcome::of(self.spool.replay(replay).await?, dry_run))
    }

    pub(super) async fn discard(
        &self,
        state: State,
        order: DiscardHeld,
    ) -> Result<Outcome, Refusal> {
        if order.reason.is_some() && state != State::Quarantined {
            return Err(Refusal::bad("a dead letter has no `reason`; leave it out"));
        }
        if order.count.is_none() && !order.dry_run {
            return Err(Refusal::bad(
                "`count` is missing: say how many go for good; a `dry_run` tells how many match",
            ));
        }
        let discard = Discard {
            filter: Filter {
                state: Some(state),
                reason: order.reason.as_deref().map(ask::reason).transpose()?,
                ..filter(order.target, order.source, order.since, order.ids)?
            },
            count: order.count,
            by: by()?,
            dry_run: order.dry_run,
        };
        Ok(Outcome::of(
            self.spool.discard(discard).await?,
            order.dry_run,
        ))
    }

    pub(super) async fn release(&self, order: ReleaseHeld) -> Result<Outcome, Refusal> {
        let is_unverified = order.reason == ask::UNVERIFIED;
        if is_unverified != (order.action == Action::Reverify) {
            return Err(Refusal::bad(
                "`reverify` is for `unverified`, and nothing else is; the other reasons take `reroute` or \
                 `force`",
            ));
        }
        if order.reason == Reason::Invalid.as_str() && order.action == Action::Reroute {
            return Err(Refusal::bad(
                "what is `invalid` is of no schema that routes could read; use `force` with `targets`",
            ));
        }
        let to = match (order.action, &order.targets) {
            (Action::Force, Some(targets)) if !targets.is_empty() => {
                ReleaseTo::Targets(self.configured(targets)?)
            }
            (Action::Force, _) => return Err(Refusal::bad("`force` needs `targets`")),
            (_, None) => ReleaseTo::ByRoutes,
            (_, Some(_)) => return Err(Refusal::bad("only `force` takes `targets`")),
        };
        let wanted = filter(order.target, order.source, order.since, order.ids)?;
        if is_unverified {
            return self.reverify(wanted, order.dry_run).await;
        }
        let release = Release {
            filter: Filter {
                reason: Some(ask::reason(&order.reason)?),
                ..wanted
            },
            to,
            by: by()?,
            dry_run: order.dry_run,
        };
        let Done { matched, done } = self.spool.release(release, self.reroute()).await?;
        Ok(Outcome { matched, done })
    }

    /// What the routes of now say to a notification that is to be released.
    pub(super) fn reroute(&self) -> Reroute {
        let routing = self.routing.clone();
        Arc::new(move |record| {
            let targets = routing::reroute(&routing.load_full(), record);
            targets.unwrap_or_else(|reason| {
                tracing::info!(id = %record.id, %reason, "not released");
                Vec::new()
            })
        })
    }

    async fn reverify(&self, wanted: Filter, dry_run: bool) -> Result<Outcome, Refusal> {
        if wanted.ids.is_some() || wanted.target.is_some() {
            return Err(Refusal::bad(
                "what is `unverified` has no id and no target; filter by source and since",
            ));
        }
        let reverify = Reverify {
            spool: self.spool.clone(),
            routing: self.routing.load_full(),
            wanted,
            by: by()?,
            dry_run,
        };
        reverify.order().await
    }

    fn configured(&self, targets: &[String]) -> Result<Vec<Name>, Refusal> {
        let routing = self.routing.load();
        let configured = |text: &String| {
            let name = ask::name("targets", text)?;
            match routing.target(&name) {
                Some(_) => Ok(name),
                None => Err(Refusal::bad(format!(
                    "the config has no target `{name}`; add it, or name another"
                ))),
            }
        };
        targets.iter().map(configured).collect()
    }
}

fn filter(
    target: Option<String>,
    source: Option<String>,
    since: Option<String>,
    ids: Option<Vec<String>>,
) -> Result<Filter, Refusal> {
    let ids = ids.map(|ids| ask::ids(ids.iter().map(String::as_str)));
    let ids: Option<Vec<Id>> = ids.transpose()?;
    let since = since.map(|text| ask::since(&text, Timestamp::now()));
    Ok(Filter {
        target: target.map(|text| ask::name("target", &text)).transpose()?,
        source: source.map(|text| ask::name("source", &text)).transpose()?,
        since: since.transpose()?,
        ids,
        ..Filter::default()
    })
}

fn by() -> Result<Name, Refusal> {
    ask::name("by", BY)
}

impl Outcome {
    fn of(done: Done, dry_run: bool) -> Self {
        let Done { matched, done } = done;
        let done = if dry_run { matched } else { done };
        Self { matched, done }
    }
}
