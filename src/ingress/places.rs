//! Who has a place: one connection each, as many as `limits.connections` says.
//!
//! A connection is proven once a request on it was verified. When no place is left, the oldest that is not
//! proven makes room: whoever only holds connections holds them no longer than newcomers need them. When all
//! are proven the newcomer waits, and those behind it in the kernel's backlog.
//!
//! With `limits.connections_per_peer`, a peer that has its share makes room for itself in the same way, and is
//! turned away while all that it has are proven. A peer is an IPv4 address, or a network of 64 bits in
//! IPv6, which is what one host gets (RFC 7421).
//!
//! Whether a connection is proven or loses its place is decided under one lock: of both, one happens. A proven
//! one is never cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::metrics::{Cut, Metrics};

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
    lost: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Register {
    next: u64,
    /// By age; those that are neither proven nor told to go.
    unproven: BTreeMap<u64, Unproven>,
    peers: HashMap<IpAddr, Peer>,
}

struct Unproven {
    peer: IpAddr,
    lost: Arc<Notify>,
}

#[derive(Default)]
struct Peer {
    /// Connections that have a place, and are not told to go.
    open: usize,
    unproven: BTreeSet<u64>,
}

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
        let free = Arc::clone(&self.free);
        if free.available_permits() == 0 {
            self.make_room();
        }
        let permit = free.acquire_owned().await.ok()?;
        Some(self.enter(address, peer, permit))
    }

    fn within_share(&self, peer: IpAddr) -> bool {
        let Some(share_max) = self.share_max else {
            return true;
        };
        let mut register = self.register();
        let Some(its) = register.peers.get(&peer) else {
            return true;
        };
        if its.open < share_max {
            return true;
        }
        let oldest = its.unproven.first().copied();
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

    fn make_room(&self) {
        let mut register = self.register();
        let oldest = register.unproven.keys().next().copied();
        if let Some(oldest) = oldest {
            register.tell_to_go(oldest);
            self.metrics.cut(Cut::Full);
        }
    }

    fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        peer: IpAddr,
        permit: OwnedSemaphorePermit,
    ) -> Place {
        let lost = Arc::new(Notify::new());
        let mut register = self.register();
        let number = register.next;
        register.next += 1;
        let unproven = Unproven {
            peer,
            lost: Arc::clone(&lost),
        };
        register.unproven.insert(number, unproven);
        let its = register.peers.entry(peer).or_default();
        its.open += 1;
        its.unproven.insert(number);
        drop(register);
        Place {
            address,
            places: Arc::clone(self),
            number,
            peer,
            proven: AtomicBool::new(false),
            lost,
            _permit: permit,
        }
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A request was verified. False if the place was lost before: the connection is about to end.
    pub fn prove(&self) -> bool {
        if self.proven.load(Ordering::Relaxed) {
            return true;
        }
        let proven = self.places.register().settle(self.number);
        self.proven.store(proven, Ordering::Relaxed);
        proven
    }

    /// Ends when the place is lost.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut register = self.places.register();
        let there = register.settle(self.number);
        if there || self.proven.load(Ordering::Relaxed) {
            register.leave(self.peer);
        }
    }
}

impl Register {
    /// No longer unproven. False if it was not.
    fn settle(&mut self, number: u64) -> bool {
        let Some(Unproven { peer, .. }) = self.unproven.remove(&number) else {
            return false;
        };
        if let Some(its) = self.peers.get_mut(&peer) {
            its.unproven.remove(&number);
        }
        true
    }

    fn tell_to_go(&mut self, number: u64) {
        let Some(unproven) = self.unproven.get(&number) else {
            return;
        };
        let (peer, lost) = (unproven.peer, Arc::clone(&unproven.lost));
        self.settle(number);
        self.leave(peer);
        lost.notify_one();
    }

    fn leave(&mut self, peer: IpAddr) {
        if let Some(its) = self.peers.get_mut(&peer) {
            its.open -= 1;
            if its.open == 0 {
                self.peers.remove(&peer);
            }
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
