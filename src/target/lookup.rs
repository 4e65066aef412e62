//! Names looked up as the system does it, so many at a time, without where we may not connect to.
//!
//! The system's look-up holds a thread until it returns, and nobody can end it: 10 s for each name server
//! that is silent (resolv.conf(5): 5 s, twice), even if no attempt waits for it any more. Its threads are
//! tokio's blocking ones, 512 by default, and reads of the spool need them too.
//!
//! Promises:
//! * At most [`EACH_MAX`] look-ups of one target run, and at most [`ALL_MAX`] of all. A place is free again
//!   when its look-up returns, not when nobody waits for it.
//! * An address that [`Allowed`] does not permit is never among those found.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower_service::Service;

use super::Reason;
use super::address::Allowed;
use super::connect::Failure;

/// Look-ups of one target at a time.
const EACH_MAX: usize = 4;
/// Look-ups at a time, a quarter of tokio's blocking threads: 32 targets may hang before another waits.
const ALL_MAX: usize = 128;

static ALL: Semaphore = Semaphore::const_new(ALL_MAX);

type Found = io::Result<Vec<SocketAddr>>;

/// Finds the addresses of one target's names.
#[derive(Clone)]
pub struct Resolver {
    system: Arc<dyn Fn(&str) -> Found + Send + Sync>,
    places: Arc<Semaphore>,
    of_all: &'static Semaphore,
    allowed: Allowed,
}

impl Resolver {
    pub fn new(allowed: Allowed) -> Self {
        let system = |name: &str| Ok((name, 0).to_socket_addrs()?.collect());
        Self::with(allowed, &ALL, system)
    }

    fn with(
        allowed: Allowed,
        of_all: &'static Semaphore,
        system: impl Fn(&str) -> Found + Send + Sync + 'static,
    ) -> Self {
        Self {
            of_all,
            system: Arc::new(system),
            places: Arc::new(Semaphore::new(EACH_MAX)),
            allowed,
        }
    }

    /// `None` if the name does not resolve.
    ///
    /// Cancellation: one that waits for a place goes; one that runs keeps its places until it returns.
    async fn look_up(self, name: Name) -> Option<Vec<SocketAddr>> {
        // Neither is ever closed. The target's own first: those who wait for one of all are few a target.
        let own = self.places.acquire_owned().await.ok()?;
        let of_all = self.of_all.acquire().await.ok()?;
        let looking_up = spawn_blocking(move || {
            let _places = (own, of_all);
            (self.system)(name.as_str())
        });
        looking_up.await.ok()?.ok()
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Failure;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking_up = self.clone().look_up(name);
        let allowed = self.allowed.clone();
        Box::pin(async move {
            let found = looking_up.await.ok_or(Failure(Reason::Dns))?;
            let (permitted, forbidden): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|found| allowed.permits(found.ip()));
            match (permitted.is_empty(), forbidden.is_empty()) {
                (false, _) => Ok(by_chance(permitted).into_iter()),
                (true, false) => Err(Failure(Reason::Forbidden)),
                (true, true) => Err(Failure(Reason::Dns)),
            }
        })
    }
}

/// In another order each time, so that one address of a name is not pinned for ever. The family that the
/// system put first stays first: it knows which one is routed here (RFC 6724).
fn by_chance(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    fastrand::shuffle(&mut addresses);
    addresses.sort_by_key(|address| address.is_ipv4() != first_is_v4);
    addresses
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    const THERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// Addresses of a name, or why there is none.
    async fn ask(resolver: &Resolver) -> Result<Vec<SocketAddr>, Reason> {
        let mut resolver = resolver.clone();
        let found = resolver.call("sink.internal".parse().unwrap()).await;
        found.map(Iterator::collect).map_err(|failure| failure.0)
    }

    /// One whose look-ups hang until the other end is dropped, and how many have begun.
    fn silent(of_all: &'static Semaphore) -> (Resolver, SyncSender<()>, Arc<AtomicUsize>) {
        let (end, hung) = sync_channel(0);
        let (hung, begun) = (Mutex::new(hung), Arc::new(AtomicUsize::new(0)));
        let count = begun.clone();
        let system = move |_: &str| {
            count.fetch_add(1, SeqCst);
            let _ = hung.lock().unwrap().recv();
            Ok(vec![THERE])
        };
        let resolver = Resolver::with(Allowed::default(), of_all, system);
        (resolver, end, begun)
    }

    /// Attempts that begin, and give up.
    async fn attempts(resolver: &Resolver, meanwhile: impl Future<Output = ()>) {
        let attempts: Vec<_> = (0..10)
            .map(|_| {
                let resolver = resolver.clone();
                tokio::spawn(async move { ask(&resolver).await })
            })
            .collect();
        meanwhile.await;
        for attempt in attempts {
            attempt.abort();
            assert!(attempt.await.unwrap_err().is_cancelled());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn look_ups_that_hang_are_few_and_hold_up_no_other_target() {
        static OF_ALL: Semaphore = Semaphore::const_new(1000);
        let (silent, end, begun) = silent(&OF_ALL);
        let other = Resolver::with(Allowed::default(), &OF_ALL, |_| Ok(vec![THERE]));
        for _ in 0..20 {
            attempts(&silent, async {
                assert_eq!(ask(&other).await, Ok(vec![THERE]));
            })
            .await;
        }
        assert!(begun.load(SeqCst) <= EACH_MAX);
        drop(end);
        assert_eq!(ask(&silent).await, Ok(vec![THERE]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn look_ups_of_all_targets_are_few_too() {
        const FEW: usize = EACH_MAX + 2;
        static OF_ALL: Semaphore = Semaphore::const_new(FEW);
        let (one, end_one, begun_by_one) = silent(&OF_ALL);
        let (two, end_two, begun_by_two) = silent(&OF_ALL);
        let begun = || begun_by_one.load(SeqCst) + begun_by_two.load(SeqCst);
        let both_begin = async {
            attempts(&two, async {
                while begun() < FEW {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        };
        attempts(&one, both_begin).await;
        attempts(&one, async {}).await;
        assert_eq!((begun(), OF_ALL.available_permits()), (FEW, 0));
        drop((end_one, end_two));
        assert_eq!(ask(&one).await, Ok(vec![THERE]));
    }

    #[test]
    fn every_address_of_a_name_comes_first_at_times_and_the_first_family_stays() {
        let looked_up = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1"];
        let looked_up: Vec<SocketAddr> = looked_up.iter().map(|a| a.parse().unwrap()).collect();
        let mut first = BTreeSet::new();
        for _ in 0..100 {
            let order = by_chance(looked_up.clone());
            assert!(order[..2].iter().all(SocketAddr::is_ipv6), "{order:?}");
            assert_eq!(order.len(), 4);
            first.insert(order[0]);
        }
        assert_eq!(first.len(), 2);
    }
}
