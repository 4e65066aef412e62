//! A watch over a running relay: what it held when it had nothing to do is what it holds after each bad input.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Relay, eventually, fresh};

/// What an allocator may keep of an attack, and what an answer may cost while it is read. No row of small requests costs a
/// quarter of it.
pub const MEMORY_KIB: u64 = 4 * 1024;
/// The same after a request that is larger than the next: what a body of 8 MiB costs, read and kept once.
const LARGE_MEMORY_KIB: u64 = 64 * 1024;
const LARGE_BYTES: usize = 1 << 20;
/// What the spool's caches take until they are full: 4 MiB of its writer's and half of one of each reader's, and what
/// an allocator adds.
const CACHES_KIB: u64 = 8 * 1024;

/// A connection that the test holds, and readers of the spool that are opened when they are first needed.
const DESCRIPTORS: usize = 8;

pub struct Watch {
    resident_kib: u64,
    descriptors: usize,
    /// The most that was in hand at a time.
    largest_bytes: AtomicUsize,
    caches_kib: u64,
    /// Of its log and of its errors.
    lines_read: [usize; 2],
}

impl Watch {
    /// Takes for its base what the relay holds now: it has done by now what it does the first time.
    pub fn begin(relay: &Relay) -> Self {
        Self {
            resident_kib: relay.resident_kib(),
            descriptors: relay.descriptors(),
            largest_bytes: AtomicUsize::new(0),
            caches_kib: 0,
            lines_read: [0; 2],
        }
    }

    /// So many bytes were sent, or cost, at a time.
    pub fn brought(&self, bytes: usize) {
        self.largest_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Thousands were kept meanwhile.
    pub fn kept_thousands(&mut self) {
        self.caches_kib = CACHES_KIB;
    }

    /// A good notification on a new connection gets 200, and all is as it was. Gives back what was posted.
    pub async fn goes_on(&mut self, relay: &Relay, after: &str) -> Vec<u8> {
        let body = fresh();
        let answer = relay.sender().post(body.clone()).await;
        let status = answer.map(|answer| answer.status);
        assert_eq!(status, Some(200), "a good one after {after}");
        self.is_back(relay, after).await;
        body.into_bytes()
    }

    /// The process lives, holds what it held before, and nobody was told anything.
    pub async fn is_back(&mut self, relay: &Relay, after: &str) {
        let most = self.descriptors + DESCRIPTORS;
        eventually(&format!("no descriptor is left of {after}"), async || {
            relay.descriptors() <= most
        })
        .await;
        let allowed = match self.largest_bytes.load(Ordering::Relaxed) {
            0..=LARGE_BYTES => MEMORY_KIB,
            _ => LARGE_MEMORY_KIB,
        } + self.caches_kib;
        let kept = relay.resident_kib().saturating_sub(self.resident_kib);
        assert!(kept < allowed, "{kept} KiB more than before {after}");
        self.lines_read = relay.told_nobody(self.lines_read).await;
    }
}

impl Relay {
    /// The whole look at one that was started again, after what ended or harmed the one before: it does what it does the
    /// first time, and then once more.
    pub async fn is_well(&self, after: &str) {
        let answer = self.sender().post(fresh()).await;
        let status = answer.map(|answer| answer.status);
        assert_eq!(status, Some(200), "the first after {after}");
        self.told_nobody([0; 2]).await;
        Watch::begin(self).goes_on(self, after).await;
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS")
    }

    /// What the system says of it by this name, in KiB (proc(5), `status`).
    pub fn status_kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.expect("a line").trim().trim_end_matches(" kB");
        number.parse().expect("a number")
    }

    pub fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("it lives").count()
    }
}
