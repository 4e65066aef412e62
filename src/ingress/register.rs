//! The register of places: who has one, who of them is not proven, and who of those goes first. Pure; the lock
//! around it is `places.rs`'s.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Default)]
pub struct Register {
    next: u64,
    /// Those that are neither proven nor told to go.
    unproven: HashMap<u64, Unproven>,
    crowd: Crowd,
    /// Those told to go who hold memory still.
    going: Vec<Arc<Client>>,
    peers: HashMap<IpAddr, Peer>,
}

/// What a connection and its entry share.
#[derive(Default)]
pub struct Client {
    /// Of the budget, for requests that it has not sent to their end.
    pub held_bytes: AtomicUsize,
    pub lost: Notify,
}

struct Unproven {
    peer: IpAddr,
    client: Arc<Client>,
    /// Verified requests under which it may not be cut.
    verified: usize,
    /// One of them was no proof: no further one keeps it from being cut.
    doubted: bool,
}

#[derive(Default)]
struct Peer {
    /// Connections that have a place, and are not told to go.
    open: usize,
    crowd: Crowd,
}

/// The unproven of all, or of one peer: by age.
#[derive(Default)]
struct Crowd {
    all: BTreeSet<u64>,
    /// Those that have not said a byte.
    mute: BTreeSet<u64>,
}

impl Register {
    /// A number for a new connection: the younger, the higher.
    pub fn enter(&mut self, peer: IpAddr, client: Arc<Client>) -> u64 {
        let number = self.next;
        self.next += 1;
        let unproven = Unproven {
            peer,
            client,
            verified: 0,
            doubted: false,
        };
        self.unproven.insert(number, unproven);
        let its = self.peers.entry(peer).or_default();
        its.open += 1;
        for crowd in [&mut self.crowd, &mut its.crowd] {
            crowd.all.insert(number);
            crowd.mute.insert(number);
        }
        number
    }

    pub fn open_of(&self, peer: IpAddr) -> usize {
        self.peers.get(&peer).map_or(0, |its| its.open)
    }

    pub fn speaks(&mut self, number: u64) {
        self.crowd.mute.remove(&number);
        if let Some(its) = self.peer_of(number) {
            its.crowd.mute.remove(&number);
        }
    }

    fn peer_of(&mut self, number: u64) -> Option<&mut Peer> {
        let peer = self.unproven.get(&number)?.peer;
        self.peers.get_mut(&peer)
    }

    /// The oldest that may be cut. Where most are mute, which is a flood of mere connects, the oldest of those: else
    /// whoever has just come is the only one that is mute, and may be a good one.
    pub fn oldest(&self) -> Option<u64> {
        self.oldest_in(&self.crowd)
    }

    /// As [`Register::oldest`], of this peer's.
    pub fn oldest_of(&self, peer: IpAddr) -> Option<u64> {
        self.oldest_in(&self.peers.get(&peer)?.crowd)
    }

    fn oldest_in(&self, Crowd { all, mute }: &Crowd) -> Option<u64> {
        if mute.len() * 2 > all.len() {
            return mute.first().copied();
        }
        let may_be_cut = |number: &u64| self.unproven.get(number).is_some_and(Unproven::may_be_cut);
        all.iter().copied().find(may_be_cut)
    }

    /// Those that may be cut and hold most of the budget, as many as it takes for so many bytes beside those that are
    /// on their way; none of them holds less than `more_than` and a byte. `None` if all of them together hold too little.
    pub fn largest(&self, needed_bytes: usize, more_than: usize) -> Option<Vec<u64>> {
        let going = self.going.iter().map(|client| client.held());
        let mut missing = needed_bytes.saturating_sub(going.sum());
        let all = self.unproven.iter();
        let mut holders: Vec<_> = all
            .filter(|(_, unproven)| unproven.may_be_cut())
            .map(|(number, unproven)| (Reverse(unproven.client.held()), *number))
            .filter(|(Reverse(held), _)| *held > more_than)
            .collect();
        holders.sort_unstable();
        let mut largest = Vec::new();
        for (Reverse(held), number) in holders {
            if missing == 0 {
                break;
            }
            largest.push(number);
            missing = missing.saturating_sub(held);
        }
        (missing == 0).then_some(largest)
    }

    /// A verified request is in hand on it. False if it is not unproven.
    pub fn verified(&mut self, number: u64) -> bool {
        let Some(unproven) = self.unproven.get_mut(&number) else {
            return false;
        };
        unproven.verified += 1;
        true
    }

    /// One of its verified requests has ended, and was no proof.
    pub fn doubt(&mut self, number: u64) {
        if let Some(unproven) = self.unproven.get_mut(&number) {
            unproven.verified -= 1;
            unproven.doubted = true;
        }
    }

    /// No longer unproven. False if it was not.
    pub fn settle(&mut self, number: u64) -> bool {
        self.crowd.leave(number);
        if let Some(its) = self.peer_of(number) {
            its.crowd.leave(number);
        }
        self.unproven.remove(&number).is_some()
    }

    pub fn tell_to_go(&mut self, number: u64) {
        let Some(unproven) = self.unproven.get(&number) else {
            return;
        };
        let (peer, client) = (unproven.peer, Arc::clone(&unproven.client));
        self.settle(number);
        self.leave(peer);
        client.lost.notify_one();
        self.going.retain(|client| client.held() > 0);
        self.going.push(client);
    }

    pub fn leave(&mut self, peer: IpAddr) {
        if let Some(its) = self.peers.get_mut(&peer) {
            its.open -= 1;
            if its.open == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

impl Crowd {
    fn leave(&mut self, number: u64) {
        self.all.remove(&number);
        self.mute.remove(&number);
    }
}

impl Client {
    pub fn held(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

impl Unproven {
    fn may_be_cut(&self) -> bool {
        self.verified == 0 || self.doubted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_brought_no_proof_once_is_not_kept_by_the_next_request() {
        let mut register = Register::default();
        let number = register.enter([127, 0, 0, 1].into(), Arc::default());
        register.speaks(number);
        assert!(register.verified(number));
        assert_eq!(register.oldest(), None, "it is in hand");
        register.doubt(number);
        assert!(register.verified(number));
        assert_eq!(register.oldest(), Some(number));
    }

    #[test]
    fn where_most_are_mute_those_go_before_whoever_is_older() {
        let mut register = Register::default();
        let peer = [127, 0, 0, 1].into();
        let numbers = [(); 3].map(|()| register.enter(peer, Arc::default()));
        register.speaks(numbers[0]);
        for number in [1, 0, 2].map(|n| numbers[n]) {
            assert_eq!(register.oldest(), Some(number));
            assert_eq!(register.oldest_of(peer), Some(number));
            register.tell_to_go(number);
        }
        assert_eq!(register.oldest(), None);
    }
}
