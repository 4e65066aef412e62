//! What a secret of now has signed is kept as if it had come now, and leaves the ring.

use std::sync::Arc;

use http::StatusCode;

use super::answer::Refusal;
use super::orders::Outcome;
use crate::name::Name;
use crate::notification::Notification;
use crate::routing::{self, Routing};
use crate::spool::{
    AcceptError, Done, Filter, OrderLine, ReadError, Spool, Submission, UnverifiedEntry,
    UnverifiedRequest,
};

/// Requests of the ring that are looked at together; their bodies are read one by one.
const AT_ONCE: usize = 100;

/// One order to look through the ring.
pub(super) struct Reverify {
    pub spool: Spool,
    pub routing: Arc<Routing>,
    /// By source and moment.
    pub wanted: Filter,
    pub by: Name,
    pub dry_run: bool,
}

/// Why it ends before the ring does.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Keep(#[from] AcceptError),
}

impl Reverify {
    /// A task of its own, as the spool's orders are: it ends when it is done, not when its giver has left.
    ///
    /// Cancellation: dropping the future takes nothing back; the order is carried out.
    pub async fn order(self) -> Result<Outcome, Refusal> {
        let ended = tokio::spawn(self.carry_out()).await;
        ended.unwrap_or_else(|_| Err(cut_short("it ended before its time")))
    }

    async fn carry_out(self) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        let halt = self.look_through(&mut outcome).await.err();
        let Outcome { matched, done } = outcome;
        if !self.dry_run {
            let line = OrderLine {
                what: "reverified",
                by: &self.by,
                filter: &self.wanted,
                to: &[],
            };
            let halt = halt.as_ref().map(|halt| halt as _);
            line.ended(Done { matched, done }, halt);
        }
        match halt {
            None => Ok(outcome),
            Some(halt) => Err(cut_short(&format!("{done} released, then: {halt}"))),
        }
    }

    async fn look_through(&self, outcome: &mut Outcome) -> Result<(), Halt> {
        let ring = self.spool.unverified();
        let mut after = 0;
        loop {
            let entries = ring.list(after, AT_ONCE).await?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            after = last.number;
            for entry in entries.iter().filter(|entry| self.wants(entry)) {
                outcome.matched += 1;
                let request = ring.find(entry.number).await?;
                let Some(submission) = request.and_then(|request| self.verified(request)) else {
                    continue;
                };
                if !self.dry_run {
                    self.spool.accept(submission).await?;
                }
                outcome.done += 1;
                if !self.dry_run {
                    ring.remove(entry.number).await?;
                }
            }
        }
    }

    fn wants(&self, entry: &UnverifiedEntry) -> bool {
        let Filter { source, since, .. } = &self.wanted;
        source.as_ref().is_none_or(|name| *name == entry.source)
            && since.is_none_or(|since| entry.received_at >= since)
    }

    fn verified(&self, request: UnverifiedRequest) -> Option<Submission> {
        let mut sources = self.routing.sources().iter();
        let source = sources.find(|source| source.name == request.source)?;
        let verified = source.keyring.verify(request.signed).ok()?;
        let notification = Notification::new(
            verified,
            source.name.clone(),
            request.received_at,
            request.content_type,
        );
        let headers = routing::kept_headers(source, &notification);
        Some(routing::judge(&self.routing, source, &headers, notification).submission)
    }
}

fn cut_short(what: &str) -> Refusal {
    let message = format!("{what}; give the order again");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
}
