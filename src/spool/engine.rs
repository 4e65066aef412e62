//! What keeps a spool: each question goes to the one that there is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::disk::Disk;
use super::disk::queue::Queue;
use super::fallback::Fallback;
use super::orders::{Errand, Plan, Stage};
use super::postgres::Postgres;
use super::{
    AcceptError, Audit, Counts, Cursor, Doorstep, DuePage, Fatal, Filter, Found, Kept, Metrics,
    OpenError, Options, Page, PostgresOptions, ReadError, Settlement, Submission, Wanted,
};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};

/// Where a spool is kept, and how.
#[derive(Clone, Debug)]
pub enum Store {
    /// On a disk of this relay's own.
    Disk(Options),
    /// In a server that many relays share.
    Postgres(PostgresOptions),
}

/// What keeps it.
#[derive(Clone)]
pub(super) enum Engine {
    Disk(Arc<Disk>),
    /// With a disk beside it, perhaps.
    Postgres(Arc<Postgres>, Option<Arc<Fallback>>),
}

impl Engine {
    /// A server that many relays share, and the disk beside it if there is one.
    pub fn connect(
        options: &PostgresOptions,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let Some(fallback) = &options.fallback else {
            let server = Postgres::open(options, metrics, on_fatal)?;
            return Ok(Self::Postgres(Arc::new(server), None));
        };
        let [of_server, of_disk] = once(on_fatal);
        let server = Arc::new(Postgres::open(options, metrics.clone(), of_server)?);
        let fallback = Fallback::open(fallback, server.clone(), &metrics, of_disk)?;
        Ok(Self::Postgres(server, Some(Arc::new(fallback))))
    }

    /// Of a server, to be read alone.
    pub fn observe(options: &PostgresOptions, metrics: Metrics) -> Result<Self, OpenError> {
        let server = Postgres::observe(options, metrics)?;
        Ok(Self::Postgres(Arc::new(server), None))
    }

    pub async fn accept(&self, submission: Submission) -> Result<Kept, AcceptError> {
        match self {
            Self::Disk(disk) => disk.accept(submission).await,
            Self::Postgres(_, Some(fallback)) => fallback.accept(submission).await,
            Self::Postgres(postgres, None) => postgres.accept(submission).await,
        }
    }

    pub fn settle(&self, settlement: Settlement) -> oneshot::Receiver<()> {
        match self {
            Self::Disk(disk) => disk.settle(settlement),
            Self::Postgres(postgres, _) => postgres.settle(settlement),
        }
    }

    pub async fn due(
        &self,
        target: &Name,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        match self {
            Self::Disk(disk) => disk.due(target, now, wanted).await,
            Self::Postgres(postgres, _) => postgres.due(target, now, wanted).await,
        }
    }

    pub async fn fresh(
        &self,
        target: &Name,
        since: Timestamp,
        now: Timestamp,
        wanted: Wanted,
    ) -> Result<DuePage, ReadError> {
        match self {
            Self::Disk(disk) => disk.fresh(target, since, now, wanted).await,
            Self::Postgres(postgres, _) => postgres.fresh(target, since, now, wanted).await,
        }
    }

    pub async fn owes(&self, target: &Name) -> Result<bool, ReadError> {
        match self {
            Self::Disk(disk) => {
                let page = disk.due(target, Timestamp::now(), 1.into()).await?;
                let due = page.deliveries.len() + page.unreadable.len() > 0;
                Ok(due || page.next_due_at.is_some())
            }
            Self::Postgres(postgres, _) => postgres.owes(target).await,
        }
    }

    pub async fn give_back(&self, target: &Name, sequences: &[i64]) -> Result<(), ReadError> {
        match self {
            Self::Disk(_) => Ok(()),
            Self::Postgres(postgres, _) => postgres.unclaim(target, sequences).await,
        }
    }

    pub fn era(&self) -> Option<u64> {
        match self {
            Self::Disk(_) => Some(0),
            Self::Postgres(postgres, _) => postgres.era(),
        }
    }

    pub fn writer_busy_for(&self) -> Option<Duration> {
        match self {
            Self::Disk(disk) => disk.writer_busy_for(),
            Self::Postgres(_, Some(fallback)) => fallback.writer_busy_for(),
            // A server that is away is no reason to restart the relay.
            Self::Postgres(_, None) => None,
        }
    }

    /// Steps on until the page is full, or the list at its end.
    pub async fn list(
        &self,
        filter: &Filter,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, ReadError> {
        filter.check()?;
        let mut page = Page {
            next: Some(after),
            ..Page::default()
        };
        while let Some(after) = page.next {
            let left = limit.saturating_sub(page.entries.len() + page.unreadable.len());
            if left == 0 {
                break;
            }
            let mut step = match self {
                Self::Disk(disk) => disk.list_step(filter, after, left).await?,
                Self::Postgres(postgres, _) => postgres.list_step(filter, after, left).await?,
            };
            page.entries.append(&mut step.entries);
            page.unreadable.append(&mut step.unreadable);
            page.next = step.next;
        }
        Ok(page)
    }

    pub async fn targets_owed(&self) -> Result<Vec<Name>, ReadError> {
        match self {
            Self::Disk(disk) => disk.targets_owed().await,
            Self::Postgres(postgres, _) => postgres.targets_owed().await,
        }
    }

    pub fn doorstep(&self, target: &Name) -> Arc<Doorstep> {
        match self {
            Self::Disk(disk) => disk.doorstep(target),
            Self::Postgres(postgres, _) => postgres.doorstep(target),
        }
    }

    pub fn watch_target(&self, target: &Name) {
        match self {
            Self::Disk(disk) => disk.watch_target(target),
            Self::Postgres(postgres, _) => postgres.watch_target(target),
        }
    }

    pub fn is_open(&self) -> bool {
        match self {
            Self::Disk(disk) => disk.is_open(),
            Self::Postgres(postgres, fallback) => {
                postgres.is_open() && fallback.as_ref().is_none_or(|disk| disk.is_open())
            }
        }
    }

    pub fn on_fallback(&self) -> Option<u64> {
        match self {
            Self::Postgres(_, Some(fallback)) => Some(fallback.held()),
            _ => None,
        }
    }

    pub async fn counts(&self) -> Result<Counts, ReadError> {
        match self {
            Self::Disk(disk) => disk.counts().await,
            Self::Postgres(postgres, _) => postgres.counts().await,
        }
    }

    pub async fn audit(&self) -> Result<Audit, ReadError> {
        match self {
            Self::Disk(disk) => disk.audit().await,
            Self::Postgres(postgres, _) => postgres.audit().await,
        }
    }

    pub async fn record(&self, sequence: i64) -> Result<Option<Record>, ReadError> {
        match self {
            Self::Disk(disk) => disk.record(sequence).await,
            Self::Postgres(postgres, _) => postgres.record(sequence).await,
        }
    }

    pub async fn find(&self, id: Id) -> Result<Vec<Found>, ReadError> {
        match self {
            Self::Disk(disk) => disk.find(id).await,
            Self::Postgres(postgres, _) => postgres.find(id).await,
        }
    }

    pub async fn find_stage(
        &self,
        filter: &Filter,
        plan: &Plan,
        after: i64,
    ) -> Result<Stage, ReadError> {
        match self {
            Self::Disk(disk) => disk.stage(filter, plan, after).await,
            Self::Postgres(postgres, _) => postgres.stage(filter, plan, after).await,
        }
    }

    /// Operators' orders that are under way, or wait to go on; the oldest first.
    pub async fn errands(&self) -> Result<Vec<Errand>, ReadError> {
        match self {
            Self::Disk(disk) => disk.errands().await,
            Self::Postgres(postgres, _) => postgres.errands().await,
        }
    }

    /// The order as it stands, this relay's from now on; `None` if it is done, or another relay is at it.
    pub async fn adopt_errand(&self, id: i64) -> Result<Option<Errand>, ReadError> {
        match self {
            Self::Disk(disk) => {
                let mut errands = disk.errands().await?.into_iter();
                Ok(errands.find(|errand| errand.id == id))
            }
            Self::Postgres(postgres, _) => postgres.adopt_errand(id).await,
        }
    }

    pub fn queue(&self) -> &Queue {
        match self {
            Self::Disk(disk) => disk.queue(),
            Self::Postgres(postgres, _) => postgres.queue(),
        }
    }
}

/// The same for two that may call it: whoever comes first.
fn once<F: FnOnce(Fatal) + Send + 'static>(
    on_fatal: F,
) -> [impl FnOnce(Fatal) + Send + 'static; 2] {
    let waiting = Arc::new(Mutex::new(Some(on_fatal)));
    [waiting.clone(), waiting].map(|waiting| {
        move |fatal| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(on_fatal) = waiting.take() {
                on_fatal(fatal);
            }
        }
    })
}

impl Store {
    pub const fn keep_delivered(&self) -> Duration {
        match self {
            Self::Disk(options) => options.keep_delivered,
            Self::Postgres(options) => options.keep_delivered,
        }
    }
}
