//! Questions and orders about what the spool holds, wherever they come from: a running relay answers them over
//! HTTP, and the command line on the folder of a stopped one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, StatusCode};

use super::answer::{Refusal, json};
use super::ask::{self, Query};
use super::{show, unknown};
use crate::notification::{Id, Record};
use crate::routing::Routing;
use crate::spool::{Cursor, Page, ReadError, Spool, State};

/// Bytes of bodies on one page that is asked for with them; one body at least.
const PAGE_BODY_BYTES: u64 = 8 << 20;

/// A spool, and the config that says where things go.
pub struct Desk {
    pub spool: Spool,
    pub(super) routing: Arc<ArcSwap<Routing>>,
}

impl Desk {
    pub const fn new(spool: Spool, routing: Arc<ArcSwap<Routing>>) -> Self {
        Self { spool, routing }
    }

    /// Answers one request of the operator API: status and JSON.
    pub async fn answer(&self, method: &Method, target: &str, body: &[u8]) -> (StatusCode, Bytes) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path: Vec<_> = path.split('/').skip(1).collect();
        match self.ask(method, &path, query, body).await {
            Ok(json) => (StatusCode::OK, json),
            Err(refusal) => (refusal.status, refusal.json()),
        }
    }

    /// Goes on with orders that were cut short, until it is dropped.
    pub async fn carry_on(&self) {
        self.spool.carry_on(self.reroute()).await;
    }

    pub(super) async fn ask(
        &self,
        method: &Method,
        path: &[&str],
        query: &str,
        body: &[u8],
    ) -> Result<Bytes, Refusal> {
        match (method, path) {
            (&Method::GET, ["v1", "status"]) => self.status().await,
            (&Method::GET, ["v1", "notifications"]) => self.list(query).await,
            (&Method::GET, ["v1", "notifications", id]) => self.show(id, query).await,
            (&Method::POST, path) => self.order(path, body).await,
            (_, path) => Err(unknown(path)),
        }
    }

    async fn status(&self) -> Result<Bytes, Refusal> {
        let counts = self.spool.counts().await?;
        let errands = self.spool.errands().await?;
        let on_fallback = self.spool.on_fallback();
        let routing = self.routing.load();
        Ok(json(&show::status(
            &counts,
            on_fallback,
            &errands,
            &routing,
        )))
    }

    async fn list(&self, query: &str) -> Result<Bytes, Refusal> {
        let query = Query::parse(query)?;
        if query.unverified {
            let after = query.cursor.0;
            let entries = self.spool.unverified().list(after, query.limit).await?;
            return Ok(json(&show::unverified(&entries, query.limit)));
        }
        let mut page = self
            .spool
            .list(&query.filter, query.cursor, query.limit)
            .await?;
        let records = if query.content {
            self.records(&mut page).await?
        } else {
            Vec::new()
        };
        Ok(json(&show::page(&page, &records)))
    }

    /// What the page's entries hold; the page ends where that becomes too much.
    async fn records(&self, page: &mut Page) -> Result<Vec<Option<Record>>, ReadError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        for (at, entry) in page.entries.iter().enumerate() {
            bytes += entry.content.as_ref().map_or(0, |it| it.body_bytes);
            if at > 0 && bytes > PAGE_BODY_BYTES {
                let last = page.entries[at - 1].sequence;
                page.next = Some(Cursor(last));
                page.entries.truncate(at);
                page.unreadable.retain(|sequence| *sequence <= last);
                break;
            }
            records.push(self.spool.record(entry.sequence).await?);
        }
        Ok(records)
    }

    async fn show(&self, id: &str, query: &str) -> Result<Bytes, Refusal> {
        let id = Id::parse(id).ok_or_else(|| Refusal::bad("an id is 32 hex digits"))?;
        let with_content = ask::wants_content(query)?;
        let found = self.spool.find(id).await?;
        if found.is_empty() {
            return Err(Refusal::not_found(
                "no notification has this id; it may have left, `keep_delivered` after it was settled",
            ));
        }
        Ok(json(&show::found(&found, with_content)))
    }

    async fn order(&self, path: &[&str], body: &[u8]) -> Result<Bytes, Refusal> {
        let outcome = match path {
            ["v1", "notifications", id, "replay"] => self.replay_one(id, ask::json(body)?).await,
            ["v1", "dead-letters", "replay"] => self.replay_dead(ask::json(body)?).await,
            ["v1", "dead-letters", "discard"] => {
                self.discard(State::DeadLetter, ask::json(body)?).await
            }
            ["v1", "quarantine", "discard"] => {
                self.discard(State::Quarantined, ask::json(body)?).await
            }
            ["v1", "quarantine", "release"] => self.release(ask::json(body)?).await,
            path => Err(unknown(path)),
        };
        outcome.map(|outcome| json(&outcome))
    }
}
