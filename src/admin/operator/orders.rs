//! What changes something: replay, release, discard. Each answers how many matched, and how many it did.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::ask;
use super::desk::Desk;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Notification};
use crate::routing::{self, Routing};
use crate::spool::{
    Discard, Done, Filter, Reason, Release, ReleaseTo, Replay, ReplayTo, Reroute, State,
    Submission, UnverifiedRequest,
};

/// Who is told in the history of a delivery: there is one token, so no names.
const BY: &str = "operator";

/// Requests of the ring that a release looks at together; their bodies are read one by one.
const RELEASED_AT_ONCE: usize = 100;

/// `matched` less `done` is as before: it was so already, or cannot be done, and the log says why. Of a dry
/// run, `done` is what an order would try.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Outcome {
    matched: u64,
    done: u64,
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
        let target = order.target.as_deref();
        if let Some(target) = target {
            self.configured(&[target.to_owned()])?;
        }
        let filter = Filter {
            state: Some(State::DeadLetter),
            target: target.map(|text| ask::name("target", text)).transpose()?,
            ..filter(order.source, order.since, order.ids)?
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
        let outcome = Outcome::of(self.spool.replay(replay).await?, dry_run);
        outcome.log("replayed", dry_run);
        Ok(outcome)
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
                target: order
                    .target
                    .as_deref()
                    .map(|text| ask::name("target", text))
                    .transpose()?,
                ..filter(order.source, order.since, order.ids)?
            },
            count: order.count,
            by: by()?,
            dry_run: order.dry_run,
        };
        let outcome = Outcome::of(self.spool.discard(discard).await?, order.dry_run);
        outcome.log("discarded", order.dry_run);
        Ok(outcome)
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
        let wanted = filter(order.source, order.since, order.ids)?;
        let outcome = if is_unverified {
            self.reverify(&wanted, order.dry_run).await?
        } else {
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
            Outcome { matched, done }
        };
        outcome.log("released", order.dry_run);
        Ok(outcome)
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

    /// What a secret of now has signed is kept as if it had come now, and leaves the ring.
    async fn reverify(&self, wanted: &Filter, dry_run: bool) -> Result<Outcome, Refusal> {
        if wanted.ids.is_some() {
            return Err(Refusal::bad(
                "what is `unverified` has no id; filter by source and since",
            ));
        }
        let routing = self.routing.load_full();
        let ring = self.spool.unverified();
        let mut outcome = Outcome::default();
        let mut after = 0;
        loop {
            let entries = ring.list(after, RELEASED_AT_ONCE).await?;
            let Some(last) = entries.last() else {
                return Ok(outcome);
            };
            after = last.number;
            let matches = entries.iter().filter(|entry| {
                wanted
                    .source
                    .as_ref()
                    .is_none_or(|name| *name == entry.source)
                    && wanted.since.is_none_or(|since| entry.received_at >= since)
            });
            for entry in matches {
                outcome.matched += 1;
                let request = ring.find(entry.number).await?;
                let Some(verified) = request.and_then(|request| verified(&routing, request)) else {
                    continue;
                };
                outcome.done += 1;
                if !dry_run {
                    self.spool.accept(verified).await.map_err(|error| {
                        let done = outcome.done - 1;
                        Refusal::new(
                            http::StatusCode::SERVICE_UNAVAILABLE,
                            format!("{done} released, then: {error}; give the order again"),
                        )
                    })?;
                    ring.remove(entry.number).await?;
                }
            }
        }
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

fn verified(routing: &Arc<Routing>, request: UnverifiedRequest) -> Option<Submission> {
    let mut sources = routing.sources().iter();
    let source = sources.find(|source| source.name == request.source)?;
    let verified = source.keyring.verify(request.signed).ok()?;
    let notification = Notification::new(
        verified,
        source.name.clone(),
        request.received_at,
        request.content_type,
    );
    let headers = http::HeaderMap::new();
    Some(routing::judge(routing, source, &headers, notification).submission)
}

fn filter(
    source: Option<String>,
    since: Option<String>,
    ids: Option<Vec<String>>,
) -> Result<Filter, Refusal> {
    let ids = ids.map(|ids| ask::ids(ids.iter().map(String::as_str)));
    let ids: Option<Vec<Id>> = ids.transpose()?;
    let since = since.map(|text| ask::since(&text, Timestamp::now()));
    Ok(Filter {
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

    fn log(self, what: &'static str, dry_run: bool) {
        let Self { matched, done } = self;
        if !dry_run {
            tracing::info!(what, matched, done, "an operator's order");
        }
    }
}
