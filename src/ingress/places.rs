//! Who has a place: one connection each, as many as `limits.connections` says.
//!
//! A connection is proven once something new that came on it was kept. A duplicate proves nothing, nor does what is
//! not of its time: whoever has seen a request once can send it again. But the first verified requests on a
//! connection are not cut while they are in hand, whatever they turn out to be.
//!
//! When no place is left, the oldest that is not proven makes room; where most have not said a byte, the oldest of
//! those: whoever only holds connections holds them no longer than newcomers need them, and a flood of mere connects
//! cuts no handshake. When all are proven the newcomer waits, and those behind it in the kernel's backlog.
//!
//! With `limits.connections_per_peer`, a peer that has its share makes room for itself in the same way, and is
//! turned away while all that it has are proven. A peer is an IPv4 address, or a network of 64 bits in
//! IPv6, which is what one host gets (RFC 7421).
//!
//! When the byte budget is spent (`budget.rs`), those that are not proven and hold most of it make room: for one
//! that is proven itself, or that would hold less than they. So small requests are never cut for large ones,
//! and nobody gains by being cut and coming back.
//!
//! Whether a connection is kept or loses its place is decided under one lock: of both, one happens. A proven
//! one is never cut.

use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::metrics::{Cut, Metrics};
use super::register::{Client, Register};

/// When nobody may be cut: how long until a newcomer looks whether somebody may.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub struct Places {
    free: Arc<Semaphore>,
    share_max: Option<usize>,
    register: Mutex<Register>,
    metrics: Arc<Metrics>,
}

/// A connection's place, until it is dropped.
pub struct Place {
    /// Where its client is.
    pub address: IpAddr,
    places: Arc<Places>,
    number: u64,
    peer: IpAddr,
    proven: AtomicBool,
    client: Arc<Client>,
    /// For memory, though it is not proven (`budget.rs`).
    pub waits: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

/// A verified request in hand. It proves nothing if it is dropped.
pub struct InHand<'a>(&'a Place);

impl Places {
    pub fn new(count: usize, share_max: Option<usize>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))),
            share_max,
            register: Mutex::default(),
            metrics,
        })
    }

    /// A place for a new connection, made if need be; `None` if its peer has its share.
    ///
    /// Cancellation: takes no place; who was told to go is gone all the same.
    pub async fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let peer = network(address);
        if !self.within_share(peer) {
            return None;
        }
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.freed().await?,
        };
        Some(self.enter(address, peer, permit))
    }

    async fn freed(&self) -> Option<OwnedSemaphorePermit> {
        let mut free = pin!(Arc::clone(&self.free).acquire_owned());
        while !self.make_room() {
            if let Ok(permit) = timeout(LOOK_AGAIN, free.as_mut()).await {
                return permit.ok();
            }
        }
        free.await.ok()
    }

    fn within_share(&self, peer: IpAddr) -> bool {
        let Some(share_max) = self.share_max else {
            return true;
        };
        let mut register = self.register();
        if register.open_of(peer) < share_max {
            return true;
        }
        let oldest = register.oldest_of(peer);
        let cut = match oldest {
            Some(oldest) => {
                register.tell_to_go(oldest);
                Cut::Share
            }
            None => Cut::Refused,
        };
        self.metrics.cut(cut);
        oldest.is_some()
    }

    /// False if nobody may be cut.
    fn make_room(&self) -> bool {
        let mut register = self.register();
        let Some(oldest) = register.oldest() else {
            return false;
        };
        register.tell_to_go(oldest);
        self.metrics.cut(Cut::Full);
        true
    }

    fn make_room_of(&self, bytes: usize, more_than: usize) -> bool {
        let mut register = self.register();
        let Some(largest) = register.largest(bytes, more_than) else {
            return false;
        };
        for number in largest {
            register.tell_to_go(number);
            self.metrics.cut(Cut::Bytes);
        }
        true
    }

    fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        peer: IpAddr,
        permit: OwnedSemaphorePermit,
    ) -> Place {
        let client = Arc::<Client>::default();
        let entry = Arc::clone(&client);
        let number = self.register().enter(peer, entry);
        Place {
            address,
            places: Arc::clone(self),
            number,
            peer,
            proven: AtomicBool::new(false),
            client,
            waits: AtomicBool::new(false),
            _permit: permit,
        }
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A request was verified: while it is in hand the place is not lost. `None` if it was lost before: the connection
    /// is about to end.
    pub fn verified(&self) -> Option<InHand<'_>> {
        if self.is_proven() {
            return Some(InHand(self));
        }
        let mut register = self.places.register();
        // Another request may have proven it just now.
        let known = register.verified(self.number) || self.is_proven();
        known.then(|| InHand(self))
    }

    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// The client has begun to.
    pub fn speaks(&self) {
        self.places.register().speaks(self.number);
    }

    /// Ends when the place is lost.
    pub async fn lost(&self) {
        self.client.lost.notified().await;
    }

    /// So many bytes more of the budget are held for what this client has begun to send.
    pub fn hold(&self, bytes: usize) {
        self.client.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many less.
    pub fn let_go(&self, bytes: usize) {
        self.client.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Tells others to go, so that so many bytes of the budget come back. False, and nobody goes, if those that may
    /// be cut for this client do not hold as many.
    pub fn make_room(&self, bytes: usize) -> bool {
        let more_than = if self.is_proven() {
            0
        } else {
            self.client.held() + bytes
        };
        self.places.make_room_of(bytes, more_than)
    }
}

impl InHand<'_> {
    /// It was new, and is kept.
    pub fn proves(self) {
        let place = self.0;
        if place.is_proven() {
            return;
        }
        let mut register = place.places.register();
        if register.settle(place.number) {
            place.proven.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if !self.0.is_proven() {
            self.0.places.register().doubt(self.0.number);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut register = self.places.register();
        let there = register.settle(self.number);
        if there || self.is_proven() {
            register.leave(self.peer);
        }
    }
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}
