//! The two places where a spool is kept, side by side in one run: a disk, and a PostgreSQL server on that
//! same disk, each empty and with a million deliveries pending.
//!
//! `cargo bench --bench spools [-- --pending N]` asks the spool's own door, without TLS and HTTP: how many
//! deliveries a second are claimed and settled by one relay, and in the server by 2, 4 and 8, which are
//! processes in all but name: each has its own connections; how long a submission that is alone waits, how many
//! a second 64 senders get kept; how long a start takes, and a look at the counts. Targets cost nothing. Server
//! and relays share the machine.

#![allow(clippy::expect_used)] // a failed measurement has nobody to recover for

// The tests' server.
#[path = "../load/kept.rs"]
mod kept;
#[path = "../../tests/it/harness/postgres.rs"]
mod server;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use suki_relay::clock::Timestamp;
use suki_relay::secret::Secret;
use suki_relay::spool::{Kept, PostgresOptions, Settled, Settlement, Spool, Submission};
use tokio::task::JoinSet;

use kept::{Signer, metrics, name, on_disk};

const PENDING: u64 = 1_000_000;
/// Submitted at a time while a backlog is made: they share a few commits.
const BATCH: u64 = 8192;
const BODY_BYTES: usize = 450;
const SENDERS: usize = 64;
const LASTING: Duration = Duration::from_secs(3);
/// Delivered for one figure.
const DELIVERED: u64 = 10_000;
/// In the hands of one relay: four targets' default `max_in_flight`.
const IN_FLIGHT: usize = 64;

/// Where submissions come from, each another.
struct Source {
    signer: Signer,
    next: AtomicU64,
}

/// One place, and a way to have one more relay there.
struct Place {
    what: &'static str,
    open: Box<dyn Fn() -> Spool>,
    relays: &'static [usize],
}

struct Figures {
    start: Duration,
    counts: Duration,
    /// Of a submission that is alone.
    p50: Duration,
    p99: Duration,
    /// A second.
    accepted: f64,
    /// A second, by so many relays.
    delivered: Vec<f64>,
}

fn main() {
    let pending = asked().unwrap_or(PENDING);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.expect("a folder on the disk to measure");
    // The server is another user.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("ours");
    let disk = folder.path().join("disk");
    let server = server::Postgres::start_in(folder.path(), "max_wal_size = 1GB\n");
    let url = server.url();
    let places = [
        Place {
            what: "disk",
            // One relay holds its folder: the last handle is let go of before the next is asked for.
            open: Box::new(move || on_disk(&disk)),
            relays: &[1],
        },
        Place {
            what: "postgres",
            open: Box::new(move || in_server(&url)),
            relays: &[1, 2, 4, 8],
        },
    ];
    let source = Arc::new(Source::new());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!(
        "place       pending     start   counts   lone p50   lone p99   accepted/s   delivered/s by 1, 2, 4, 8 relays"
    );
    for place in &places {
        let empty = runtime.block_on(measure(place, &source));
        empty.show(place.what, 0);
        let spool = (place.open)();
        let began = Instant::now();
        runtime.block_on(owe(&spool, &source, pending));
        drop(spool);
        // What the filling left to be written is no part of what comes next.
        rustix::fs::sync();
        eprintln!("{pending} more put in: {:.0?}", began.elapsed());
        let full = runtime.block_on(measure(place, &source));
        full.show(place.what, pending);
        full.show_against(&empty);
    }
}

fn asked() -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--pending");
    let number = arguments.nth(1)?.parse();
    Some(number.expect("a number"))
}

async fn measure(place: &Place, source: &Arc<Source>) -> Figures {
    let began = Instant::now();
    let spool = (place.open)();
    let start = began.elapsed();
    let began = Instant::now();
    spool.counts().await.expect("reads");
    let counts = began.elapsed();
    drop(spool);
    let mut delivered = Vec::new();
    for count in place.relays {
        let relays: Vec<Spool> = (0..*count).map(|_| (place.open)()).collect();
        delivered.push(deliveries(&relays, source).await);
    }
    let spool = (place.open)();
    let (p50, p99) = lone(&spool, source).await;
    let accepted = accepted(&spool, source).await;
    Figures {
        start,
        counts,
        p50,
        p99,
        accepted,
        delivered,
    }
}

impl Figures {
    fn show(&self, what: &str, pending: u64) {
        let delivered = self.delivered.iter().map(|figure| format!("{figure:.0}"));
        println!(
            "{what:<10} {pending:>8} {:>9.1?} {:>8.1?} {:>10.1?} {:>10.1?} {:>12.0}   {}",
            self.start,
            self.counts,
            self.p50,
            self.p99,
            self.accepted,
            delivered.collect::<Vec<_>>().join(", ")
        );
    }

    fn show_against(&self, empty: &Self) {
        let times = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        let delivered = self.delivered.iter().zip(&empty.delivered);
        let delivered = delivered.map(|(a, b)| format!("{:.2}", a / b));
        println!(
            "           against 0 {:>8.2} {:>8.2} {:>10.2} {:>10.2} {:>12.2}   {}",
            times(self.start, empty.start),
            times(self.counts, empty.counts),
            times(self.p50, empty.p50),
            times(self.p99, empty.p99),
            self.accepted / empty.accepted,
            delivered.collect::<Vec<_>>().join(", ")
        );
    }
}

/// Submissions a second that many senders, each of which waits for its answer, get kept.
async fn accepted(spool: &Spool, source: &Arc<Source>) -> f64 {
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (spool, source) = (spool.clone(), source.clone());
        senders.spawn(async move {
            let mut kept = 0_u32;
            while began.elapsed() < LASTING {
                keep(&spool, source.submission("elsewhere")).await;
                kept += 1;
            }
            kept
        });
    }
    let kept: u32 = senders.join_all().await.iter().sum();
    f64::from(kept) / began.elapsed().as_secs_f64()
}

/// How long a sender waits that is alone: the median, and what one in a hundred exceeds.
async fn lone(spool: &Spool, source: &Source) -> (Duration, Duration) {
    let began = Instant::now();
    let mut waits = Vec::new();
    while began.elapsed() < LASTING {
        let submission = source.submission("elsewhere");
        let asked = Instant::now();
        keep(spool, submission).await;
        waits.push(asked.elapsed());
    }
    waits.sort_unstable();
    (waits[waits.len() / 2], waits[waits.len() * 99 / 100])
}

/// Deliveries a second that these relays claim and settle, of as many as there are at least.
async fn deliveries(relays: &[Spool], source: &Arc<Source>) -> f64 {
    owe(&relays[0], source, DELIVERED).await;
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut work = JoinSet::new();
    for relay in relays {
        let (relay, done) = (relay.clone(), done.clone());
        work.spawn(async move {
            while done.load(Ordering::Relaxed) < DELIVERED {
                done.fetch_add(deliver_some(&relay).await, Ordering::Relaxed);
            }
        });
    }
    work.join_all().await;
    #[allow(clippy::cast_precision_loss)] // a few thousand
    let count = done.load(Ordering::Relaxed) as f64;
    count / began.elapsed().as_secs_f64()
}

/// One window of a worker: each is settled as its attempt would end.
async fn deliver_some(relay: &Spool) -> u64 {
    let page = relay.due(&name("ehr"), Timestamp::now(), IN_FLIGHT).await;
    let page = page.expect("reads");
    let settled: Vec<_> = page
        .deliveries
        .iter()
        .map(|due| {
            relay.settle(Settlement {
                key: due.key.clone(),
                at: Timestamp::now(),
                took: Duration::from_millis(1),
                outcome: "delivered",
                result: Settled::Delivered,
            })
        })
        .collect();
    let count = settled.len() as u64;
    for settled in settled {
        settled.await.expect("is written");
    }
    count
}

/// Puts deliveries to `ehr` in.
async fn owe(spool: &Spool, source: &Source, count: u64) {
    for first in (0..count).step_by(usize::try_from(BATCH).expect("small")) {
        let mut waiting = JoinSet::new();
        for _ in first..count.min(first + BATCH) {
            let (spool, submission) = (spool.clone(), source.submission("ehr"));
            waiting.spawn(async move { keep(&spool, submission).await });
        }
        waiting.join_all().await;
    }
}

async fn keep(spool: &Spool, submission: Submission) {
    assert_eq!(spool.accept(submission).await, Ok(Kept::Now));
}

impl Source {
    fn new() -> Self {
        Self {
            signer: Signer::new("whsec-bench-partner-secret-0001"),
            next: AtomicU64::new(0),
        }
    }

    fn submission(&self, target: &str) -> Submission {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let body = format!("{n:0BODY_BYTES$}");
        let body = Bytes::from(body.into_bytes());
        self.signer.submission(body, target, Timestamp::now())
    }
}

fn in_server(url: &str) -> Spool {
    let options = PostgresOptions {
        url: Secret::from_text(url.as_bytes().to_vec()).expect("not empty"),
        schema: "suki_relay".into(),
        connections: 6,
        tls: None,
        statement_timeout: Duration::from_mins(1),
        lease: Duration::from_secs(30),
        keep_delivered: Duration::from_hours(72),
        fallback: None,
    };
    Spool::connect(&options, metrics(), |fatal| panic!("{fatal}")).expect("opens")
}
