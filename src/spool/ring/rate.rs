//! How much of a flood is kept: pure, with time passed in.
//!
//! A bucket of bytes for all, and one for each peer. A request is admitted while both hold something, and
//! may leave them in debt, so that a large one has its turn as well. Past the rates, what arrives when a
//! bucket has something again is a sample. Peers share a fixed number of buckets by their hash, so that
//! many addresses take no more memory than one.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

const MIB: f64 = 1024.0 * 1024.0;

/// A partner's notifications, some 5 KiB each with what they cost on disk, come at a few a second at most:
/// a wrong secret loses none of them to the rates. A flood needs a quarter of an hour to go once round
/// the default ring.
const ALL: Rate = Rate {
    bytes_a_second: MIB / 16.0,
    burst_bytes: 8.0 * MIB,
};
const PEER: Rate = Rate {
    bytes_a_second: ALL.bytes_a_second / 2.0,
    burst_bytes: ALL.burst_bytes / 2.0,
};

const PEERS: usize = 256;

pub struct Rates {
    all: Bucket,
    peers: Vec<Bucket>,
    /// Keyed by chance, so that nobody can choose whose bucket to share.
    hash: RandomState,
}

struct Rate {
    bytes_a_second: f64,
    burst_bytes: f64,
}

struct Bucket {
    rate: &'static Rate,
    bytes: f64,
    at: Instant,
}

impl Rates {
    pub fn new(now: Instant) -> Self {
        Self {
            all: Bucket::full(&ALL, now),
            peers: (0..PEERS).map(|_| Bucket::full(&PEER, now)).collect(),
            hash: RandomState::new(),
        }
    }

    /// Whether to keep a request of so many bytes.
    pub fn admits(&mut self, peer: IpAddr, bytes: u64, now: Instant) -> bool {
        let place = self.hash.hash_one(network(peer)) % self.peers.len() as u64;
        let Some(peer) = usize::try_from(place)
            .ok()
            .and_then(|n| self.peers.get_mut(n))
        else {
            return false;
        };
        peer.fill(now);
        self.all.fill(now);
        let admitted = peer.bytes > 0.0 && self.all.bytes > 0.0;
        if admitted {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a body's length is far below 2^53"
            )]
            let bytes = bytes as f64;
            peer.bytes -= bytes;
            self.all.bytes -= bytes;
        }
        admitted
    }
}

impl Bucket {
    fn full(rate: &'static Rate, at: Instant) -> Self {
        Self {
            bytes: rate.burst_bytes,
            rate,
            at,
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.bytes = (self.bytes + elapsed * self.rate.bytes_a_second).min(self.rate.burst_bytes);
    }
}

/// Whom an address belongs to: a site has a /64 of IPv6 for its own (RFC 6177).
fn network(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    const SMALL: u64 = 5000;

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    /// Bytes admitted of a flood that lasts so many seconds, 1000 requests in each.
    fn admitted(
        rates: &mut Rates,
        from: Instant,
        seconds: u64,
        peer: impl Fn(u32) -> IpAddr,
    ) -> u64 {
        let mut sum = 0;
        for n in 0..seconds * 1000 {
            let now = from + Duration::from_millis(n);
            let peer = peer(u32::try_from(n).unwrap());
            sum += SMALL * u64::from(rates.admits(peer, SMALL, now));
        }
        sum
    }

    #[test]
    fn a_flood_is_kept_to_the_rates_of_its_peer_and_of_all() {
        let begin = Instant::now();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole bytes"
        )]
        let most = |rate: &Rate| (rate.burst_bytes + 600.0 * rate.bytes_a_second) as u64;
        let of_one = admitted(&mut Rates::new(begin), begin, 600, |_| v4(1));
        assert!(of_one <= most(&PEER) + SMALL, "{of_one}");
        assert!(of_one > most(&PEER) * 9 / 10, "a sample goes on: {of_one}");
        let of_many = admitted(&mut Rates::new(begin), begin, 600, v4);
        assert!(of_many <= most(&ALL) + SMALL, "{of_many}");
        assert!(of_many > most(&ALL) * 9 / 10, "{of_many}");
    }

    #[test]
    fn a_peer_that_floods_leaves_room_for_another() {
        let begin = Instant::now();
        let mut rates = Rates::new(begin);
        admitted(&mut rates, begin, 60, |_| v4(1));
        let later = begin + Duration::from_mins(1);
        // Two of a hundred may share the bucket of the first.
        let others = (2..102).filter(|n| rates.admits(v4(*n), SMALL, later));
        assert!(others.count() > 90);
    }

    #[test]
    fn a_request_larger_than_the_burst_has_its_turn_and_is_paid_for() {
        let begin = Instant::now();
        let mut rates = Rates::new(begin);
        let large = 64 * 1024 * 1024;
        assert!(rates.admits(v4(1), large, begin));
        assert!(!rates.admits(v4(1), SMALL, begin + Duration::from_mins(5)));
        assert!(rates.admits(v4(1), SMALL, begin + Duration::from_hours(1)));
    }

    #[test]
    fn the_addresses_of_a_site_are_one_peer() {
        let site = |n: u128| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
        assert_eq!(network(site(1)), network(site(0xffff)));
        assert_ne!(network(site(1)), network(site(1 << 64)));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        assert_eq!(network(mapped.into()), network(Ipv4Addr::LOCALHOST.into()));
    }
}
