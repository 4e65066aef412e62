//! The ring: the newest requests whose signature matched no secret, in a file of their own.
//!
//! A secret that is set wrong turns every notification away, and the sender posts once. What was turned
//! away is kept here as far as room and rates allow, to be verified again when the secret is right.
//!
//! Promises and limits:
//! * Best effort: nobody waits for it, and no fault of it reaches the spool. What it could not keep is
//!   counted, by cause.
//! * Bounded: by its own quota on disk, the oldest out first; by [`rates`](rate), of each peer and in
//!   all, so that a flood is sampled; by a queue.
//! * Encrypted, if the spool is. What none of its keys opens any more is dropped.
//! * Nothing in it is delivered. It holds [`Signed`], which only `verify` makes a notification of.
//! * A damaged file is set aside, and made anew. A crash loses what was in the queue; a power cut, what
//!   was not yet copied out of the log: nothing here is worth a sync of its own.
//!
//! One thread owns the file. It ends when the last handle is dropped, with what waits written.

mod file;
mod rate;

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rusqlite::Result as Sql;
use tokio::sync::{mpsc, oneshot};

use self::file::RingFile;
use self::rate::Rates;
use super::disk::cause;
use super::metrics::{Dropped, Metrics};
use super::{Keys, Options, ReadError, Spool};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::verify::Signed;

/// Requests that may wait for the disk; their bytes are bounded by the rates.
const WAITING_MAX: usize = 64;

/// A request that no secret of its source had signed.
#[derive(Clone, PartialEq, Eq)]
pub struct UnverifiedRequest {
    pub source: Name,
    pub received_at: Timestamp,
    /// The `content-type` header, as sent.
    pub content_type: Option<String>,
    pub signed: Signed,
}

/// What a list of the ring shows of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedEntry {
    /// Its number in the ring: in order of arrival, never used twice.
    pub number: i64,
    pub source: Name,
    pub received_at: Timestamp,
    pub body_bytes: u64,
}

/// A handle on the ring of unverified requests; cheap to clone.
#[derive(Clone)]
pub struct Ring(Option<Arc<Inner>>);

struct Inner {
    capacity_bytes: u64,
    /// `None` only while it is dropped.
    commands: Option<mpsc::Sender<Command>>,
    rates: Mutex<Rates>,
    metrics: Metrics,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Keep(UnverifiedRequest),
    Ask(Question),
}

type Question = Box<dyn FnOnce(&mut Keeper) + Send>;

impl Spool {
    /// Requests whose signature matched no secret.
    pub const fn unverified(&self) -> &Ring {
        &self.ring
    }
}

impl Ring {
    /// Keeps nothing.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// In the spool's folder, which is locked by now.
    pub(super) fn start(options: &Options, metrics: Metrics) -> Self {
        if options.unverified_capacity_bytes == 0 {
            return Self(None);
        }
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let keeper = Keeper {
            folder: options.path.clone(),
            capacity_bytes: options.unverified_capacity_bytes,
            keys: options.keys.clone(),
            file: None,
            fails: false,
            metrics: metrics.clone(),
        };
        let thread = thread::Builder::new().name("spool-unverified".into());
        match thread.spawn(move || keeper.run(waiting)) {
            Ok(thread) => Self(Some(Arc::new(Inner {
                capacity_bytes: options.unverified_capacity_bytes,
                commands: Some(commands),
                rates: Mutex::new(Rates::new(Instant::now())),
                metrics,
                thread: Some(thread),
            }))),
            Err(error) => {
                tracing::warn!(%error, "no thread for unverified requests: none is kept");
                Self(None)
            }
        }
    }

    /// Keeps a request if rates, queue and disk allow; returns at once either way.
    pub fn offer(&self, peer: IpAddr, request: UnverifiedRequest) {
        let Some(inner) = &self.0 else { return };
        let bytes = file::cost(&request);
        if bytes > inner.capacity_bytes {
            return inner.metrics.dropped(Dropped::Failed);
        }
        if !inner.rates().admits(peer, bytes, Instant::now()) {
            return inner.metrics.dropped(Dropped::Rate);
        }
        let sent = inner
            .commands
            .as_ref()
            .map(|to| to.try_send(Command::Keep(request)));
        match sent {
            Some(Ok(())) => {}
            Some(Err(mpsc::error::TrySendError::Full(_))) => inner.metrics.dropped(Dropped::Busy),
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => {
                inner.metrics.dropped(Dropped::Failed);
            }
        }
    }

    /// The first `limit` requests after that number, oldest first; begin after 0.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn list(&self, after: i64, limit: usize) -> Result<Vec<UnverifiedEntry>, ReadError> {
        self.ask(move |file| file.list(after, limit)).await
    }

    /// One request, with its body; `None` if it has gone, or never was.
    ///
    /// Cancellation: safe; it changes nothing.
    pub async fn find(&self, number: i64) -> Result<Option<UnverifiedRequest>, ReadError> {
        self.ask(move |file| file.find(number)).await
    }

    /// Lets go of a request: it is verified by now, or discarded. False if it had gone before.
    ///
    /// Cancellation: it may be removed all the same.
    pub async fn remove(&self, number: i64) -> Result<bool, ReadError> {
        self.ask(move |file| file.remove(number)).await
    }

    async fn ask<T: Default + Send + 'static>(
        &self,
        question: impl FnOnce(&mut RingFile) -> Sql<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let Some(inner) = &self.0 else {
            return Ok(T::default());
        };
        let (answer, answered) = oneshot::channel();
        let ask = Command::Ask(Box::new(move |keeper| {
            let found = keeper.with_file(question);
            let _ = answer.send(found.map_err(|error| ReadError::new(cause(&error))));
        }));
        let gone = || ReadError::new("the ring of unverified requests has ended");
        let commands = inner.commands.as_ref().ok_or_else(gone)?;
        commands.send(ask).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// Owned by the ring's thread.
struct Keeper {
    folder: std::path::PathBuf,
    capacity_bytes: u64,
    keys: Option<Keys>,
    /// `None` until it opens; a file that does not open is tried again with each request.
    file: Option<RingFile>,
    /// Told once, until it works again.
    fails: bool,
    metrics: Metrics,
}

impl Keeper {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        // Opened at once, so that the gauge shows what is there.
        let _ = self.with_file(|_| Ok(()));
        while let Some(command) = commands.blocking_recv() {
            let done = catch_unwind(AssertUnwindSafe(|| self.obey(command)));
            if done.is_err() {
                self.file = None;
                tracing::error!("keeping an unverified request panicked; please report this");
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Keep(request) => {
                if self.with_file(|file| file.keep(&request)).is_err() {
                    self.metrics.dropped(Dropped::Failed);
                }
            }
            Command::Ask(question) => question(self),
        }
    }

    fn with_file<T>(&mut self, work: impl FnOnce(&mut RingFile) -> Sql<T>) -> Sql<T> {
        let done = self.opened().and_then(|file| {
            let done = work(file)?;
            Ok((done, file.count()))
        });
        match done {
            Ok((done, count)) => {
                self.metrics.unverified.set(count);
                if std::mem::take(&mut self.fails) {
                    tracing::info!("unverified requests are kept again");
                }
                Ok(done)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.fails, true) {
                    let cause = cause(&error);
                    tracing::warn!(cause, "the ring of unverified requests fails; trying again");
                }
                if file::is_damage(&error) {
                    self.renew();
                }
                Err(error)
            }
        }
    }

    fn opened(&mut self) -> Sql<&mut RingFile> {
        let file = match self.file.take() {
            Some(file) => file,
            None => RingFile::open(&self.folder, self.capacity_bytes, self.keys.clone())?,
        };
        Ok(self.file.insert(file))
    }

    /// The next request opens a new file.
    fn renew(&mut self) {
        self.file = None;
        match file::set_aside(&self.folder) {
            Ok(aside) => tracing::warn!(
                file = %Path::new(aside).display(),
                "the ring of unverified requests was damaged; it is set aside, and made anew"
            ),
            Err(error) => tracing::warn!(%error, "a damaged ring cannot be set aside"),
        }
    }
}

impl Inner {
    fn rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been told.
            let _ = thread.join();
        }
    }
}

/// Shows no content.
impl fmt::Debug for UnverifiedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.signed.body.len();
        write!(f, "UnverifiedRequest({}, {bytes} body bytes)", self.source)
    }
}

#[cfg(test)]
mod tests;
