//! The spool in PostgreSQL: many relays, one spool; any of them may die for good.
//!
//! Tables are in `postgres/schema.sql`. What makes it safe, and where it is written:
//! * What is accepted is one transaction, of all that waits at this relay (`writer.rs`, which says what a
//!   crash at each point leaves). The server's COMMIT is the promise: its settings are looked at before
//!   the first one (`inspect.rs`).
//! * A delivery is in one relay's hands at a time, by a claim that lasts as long as its relay is heard of
//!   (`claim.rs`, `lease.rs`). No transaction is open during an attempt. A settlement by a relay from which
//!   the delivery was taken changes nothing.
//! * Two transactions never wait for each other in a circle (`sheet.rs`), and relays do not wait for each
//!   other's commits: counters have slots, words are told afterwards (`attendant.rs`).
//!
//! Limits: a fixed number of connections; every question and every commit has a time limit; nothing waits
//! that its sender does not wait for. The server's room is its administrator's: when it has none, new
//! notifications are refused and settlements wait.
//!
//! [`Postgres`] owns a thread that writes and a runtime of one thread for its connections, the attendant
//! and the upkeep; a panic in any of them ends the process. Dropping it lets the writer finish what waits, once,
//! and gives back its claims. One that observes has connections alone.

mod attendant;
mod audit;
mod claim;
mod columns;
mod errands;
mod fault;
mod inspect;
mod lease;
mod ledger;
mod names;
mod options;
mod readers;
mod record;
mod select;
mod session;
mod sheet;
mod show;
mod transaction;
mod upkeep;
mod writer;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, oneshot};

pub use self::options::{CONNECTIONS_MIN, FallbackOptions, PostgresOptions, ServerTls};

use self::attendant::Announcements;
use self::fault::Error;
use self::inspect::Tables;
use self::lease::Lease;
use self::names::Names;
use self::readers::Readers;
use self::session::{Address, Role, Session};
use self::writer::Writer;
use super::disk::queue::Queue;
use super::disk::signals::{Alarm, Aside};
use super::disk::wakes::Wakes;
use super::metrics::{Metrics, Op};
use super::{AcceptError, Doorstep, Fatal, Kept, OpenError, ReadError, Settlement, Submission};
use crate::name::Name;

/// Connections that neither claim nor read: the writer's and the attendant's.
const OTHERS: usize = 2;

pub(super) struct Postgres {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    address: Address,
    runtime: Handle,
    options: PostgresOptions,
    /// The writer does not reach it.
    away: AtomicBool,
    queue: Queue,
    wakes: Wakes,
    alarm: Alarm,
    aside: Aside,
    names: Names,
    lease: Lease,
    readers: Readers,
    announcements: Announcements,
    /// Something changed that gauges show.
    gauges_stale: Notify,
    metrics: Metrics,
}

/// What makes the spool's tables in a schema, as SQL.
pub fn migration(schema: &str) -> String {
    inspect::migration(schema)
}

impl Postgres {
    /// Finds the spool, or makes it, and connects. Blocks on the server; if that is away, and there is a
    /// disk beside it, all of that is done when it is back.
    pub fn open(
        options: &PostgresOptions,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let mut postgres = Self::idle(options, metrics, on_fatal)?;
        let shared = postgres.shared.clone();
        let handle = shared.runtime.clone();
        let session = on(&handle, {
            let shared = shared.clone();
            async move { connect(&shared).await }
        })?;
        let session = match session {
            Err(error @ OpenError::ServerAway { .. }) if options.fallback.is_some() => {
                tracing::error!(%error, "the spool's server is away: {}", shared.meanwhile());
                shared.away.store(true, Ordering::Release);
                None
            }
            session => Some(session?),
        };
        shared.employ(attendant::attend(shared.clone()));
        shared.employ(upkeep::keep(shared.clone()));
        postgres.writer = Some(postgres.start_writer(session)?);
        Ok(postgres)
    }

    /// Connects to the spool that is there, to read it beside the relays that share it: nothing is made,
    /// claimed, kept or dropped. Blocks on the server.
    pub fn observe(options: &PostgresOptions, metrics: Metrics) -> Result<Self, OpenError> {
        let postgres = Self::idle(options, metrics, drop)?;
        postgres.shared.queue.close();
        let (address, options) = (postgres.shared.address.clone(), options.clone());
        on(&postgres.shared.runtime, async move {
            inspect::observe(&address, &options).await
        })??;
        Ok(postgres)
    }

    /// With nobody at work yet.
    fn idle(
        options: &PostgresOptions,
        metrics: Metrics,
        on_fatal: impl FnOnce(Fatal) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let address = address(options, handle.clone())?;
        let shared = Arc::new(Shared {
            runtime: handle,
            options: options.clone(),
            away: AtomicBool::new(false),
            queue: Queue::default(),
            wakes: Wakes::default(),
            alarm: Alarm::new(on_fatal),
            aside: Aside::default(),
            names: Names::default(),
            lease: Lease::new(options.lease),
            readers: Readers::new(address.clone(), options.connections - OTHERS),
            announcements: Announcements::default(),
            gauges_stale: Notify::new(),
            metrics,
            address,
        });
        Ok(Self {
            shared,
            writer: None,
            runtime: Some(runtime),
        })
    }

    /// Looks at the server as a start does; makes nothing.
    pub fn inspect(options: &PostgresOptions) -> Result<(), OpenError> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let address = address(options, handle.clone())?;
        let options = options.clone();
        let inspected = on(&handle, async move {
            inspect::look(&address, &options).await?;
            let all = Readers::new(address, options.connections);
            let filled = all.fill().await;
            filled.map_err(|error| inspect::unreachable(&error, &options))
        });
        runtime.shutdown_background();
        inspected?
    }

    pub async fn accept(&self, submission: Submission) -> Result<Kept, AcceptError> {
        let answered = self.shared.queue.accept(submission)?;
        if cfg!(sabotage = "answered-before-the-servers-commit") {
            return Ok(Kept::Now);
        }
        answered.await.unwrap_or(Err(AcceptError::Failed))
    }

    pub fn settle(&self, settlement: Settlement) -> oneshot::Receiver<()> {
        self.shared.queue.settle(settlement)
    }

    pub fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    pub fn doorstep(&self, target: &Name) -> Arc<Doorstep> {
        self.shared.wakes.of(target)
    }

    pub fn watch_target(&self, target: &Name) {
        self.shared.metrics.target(target);
    }

    pub fn era(&self) -> Option<u64> {
        self.shared.lease.era()
    }

    pub fn is_open(&self) -> bool {
        !self.shared.queue.is_closed()
    }

    pub fn runtime(&self) -> Handle {
        self.shared.runtime.clone()
    }

    /// Whether the writer, when it last tried, did not reach the server.
    pub fn is_away(&self) -> bool {
        self.shared.away.load(Ordering::Acquire)
    }

    /// Counts a read that failed.
    fn told<T>(&self, result: Result<T, Error>) -> Result<T, ReadError> {
        result.map_err(|error| {
            self.shared.metrics.error(Op::Read);
            error.into()
        })
    }

    fn start_writer(&self, session: Option<Session>) -> Result<JoinHandle<()>, OpenError> {
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("spool-writer".into());
        let writer = thread.spawn(move || {
            let mut writer = Writer::new(&shared, session);
            if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                shared.give_way();
            }
        });
        writer.map_err(|error| failure(&error))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != thread::current().id()
        {
            // Its panic, if it had one, has been told by the alarm.
            let _ = writer.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Sets somebody to work for as long as the runtime lasts: without them the spool cannot go on.
    fn employ(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let (shared, work) = (self.clone(), self.runtime.spawn(work));
        self.runtime.spawn(async move {
            if work.await.is_err_and(|error| error.is_panic()) {
                shared.give_way();
            }
        });
    }

    /// Somebody has panicked.
    fn give_way(&self) {
        self.queue.abandon();
        self.alarm.sound(Fatal::panicked());
    }

    /// What becomes of what comes while the server is away.
    const fn meanwhile(&self) -> &'static str {
        if self.options.fallback.is_some() {
            "what comes is kept on the disk beside it until it is back; trying again"
        } else {
            "senders get 500 until it is back; trying again"
        }
    }
}

/// All connections, so that a server that grants fewer is known at once; and the lease, so that deliveries
/// can be claimed.
async fn connect(shared: &Shared) -> Result<Session, OpenError> {
    let mut session = inspect::writer(&shared.address, &shared.options, Tables::Make).await?;
    let connecting = async {
        // The attendant opens its own; that there is room for it is to be known now.
        let of_the_attendant = shared.address.open(Role::Reader).await?;
        shared.readers.fill().await?;
        drop(of_the_attendant);
        shared.lease.renew(&mut session).await?;
        ledger::show(&mut session, &shared.metrics).await?;
        Ok(session)
    };
    let connected: Result<_, Error> = connecting.await;
    connected.map_err(|error| inspect::unreachable(&error, &shared.options))
}

fn address(options: &PostgresOptions, runtime: Handle) -> Result<Address, OpenError> {
    Address::new(options, runtime).map_err(|what| OpenError::Server {
        what: format!("`url`: {what}"),
    })
}

fn runtime() -> Result<Runtime, OpenError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("spool-postgres")
        .enable_all()
        .build();
    runtime.map_err(|error| failure(&error))
}

/// Waits for something on the spool's runtime, from a thread that may be one of another's.
fn on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, OpenError> {
    let (done, result) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move { done.send(work.await) });
    result.recv().map_err(|error| failure(&error))
}

fn failure(error: &dyn std::error::Error) -> OpenError {
    OpenError::Server {
        what: format!("starting its threads: {error}"),
    }
}
