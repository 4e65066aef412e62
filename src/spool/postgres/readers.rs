//! The connections that claim and read, lent one at a time.
//!
//! What deliveries wait for always finds one: whatever operators read, one stays free of it.

use std::ops::{Deref, DerefMut};

use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::fault::Error;
use super::session::{Address, Role, Session};

pub(super) struct Readers {
    address: Address,
    sessions: Vec<Mutex<Option<Session>>>,
    permits: Semaphore,
    /// Of them, those that may be at something long.
    unhurried: Semaphore,
}

/// A session. One on which something did not end is opened anew when it is lent again.
pub(super) struct Lent<'a> {
    session: MappedMutexGuard<'a, Session>,
    _permits: [Option<SemaphorePermit<'a>>; 2],
}

impl Readers {
    pub fn new(address: Address, count: usize) -> Self {
        Self {
            address,
            sessions: (0..count).map(|_| Mutex::default()).collect(),
            permits: Semaphore::new(count),
            unhurried: Semaphore::new(count.saturating_sub(1).max(1)),
        }
    }

    /// Opens all of them: whether the server grants so many is known at the start.
    pub async fn fill(&self) -> Result<(), Error> {
        for session in &self.sessions {
            *session.lock().await = Some(self.address.open(Role::Reader).await?);
        }
        Ok(())
    }

    /// For what deliveries wait for.
    pub async fn lend(&self) -> Result<Lent<'_>, Error> {
        self.lend_by(None).await
    }

    /// For what may take its time.
    pub async fn lend_unhurried(&self) -> Result<Lent<'_>, Error> {
        let permit = self.unhurried.acquire().await;
        self.lend_by(permit.ok()).await
    }

    async fn lend_by<'a>(
        &'a self,
        unhurried: Option<SemaphorePermit<'a>>,
    ) -> Result<Lent<'a>, Error> {
        let permit = timeout(self.address.patience, self.permits.acquire()).await;
        let permit = permit.map_err(|_| Error::TimedOut)?.ok();
        // Who has a permit finds one that nobody has.
        let mut free = self.sessions.iter().filter_map(|one| one.try_lock().ok());
        let mut session = free.next().ok_or(Error::TimedOut)?;
        if !session.as_ref().is_some_and(Session::is_usable) {
            *session = None;
            *session = Some(self.address.open(Role::Reader).await?);
        }
        let session = MutexGuard::try_map(session, Option::as_mut).map_err(|_| Error::TimedOut)?;
        Ok(Lent {
            session,
            _permits: [permit, unhurried],
        })
    }
}

impl Deref for Lent<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}
