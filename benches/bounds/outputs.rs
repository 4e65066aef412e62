//! What watches the relay: a standard output that nobody reads, a thousand scrapes a second, scrapers that never
//! come to an end. Good ones are posted at a pace of their own meanwhile, in turns with nothing else going on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::interval;

use super::client::Load;
use super::flood::certificate;
use super::process::{SCRAPE, Server};
use super::{Row, SECRET};

const ROUNDS: usize = 4;
const RUN: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 4;
/// Between the posts of one connection.
const REST: Duration = Duration::from_millis(4);
const SCRAPES_A_SECOND: u64 = 1000;
/// Scrapes that may be under way.
const SCRAPES_AT_ONCE: usize = 64;
/// Fewer than the admin address takes at a time.
const SLOW_SCRAPERS: usize = 200;
const DRIBBLE_EVERY: Duration = Duration::from_millis(100);
/// Half as much again.
const MOST: f64 = 1.5;

pub fn measure() -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    certificate(folder.path());
    let config = Server::config("outputs", None, false);
    // At the default level there would be nothing to say of a notification.
    let relay = Server::logging("debug", folder.path(), "outputs", &config, true);
    let load = Load::new(relay.address, &relay.certificate, SECRET);
    let mut load = Arc::into_inner(load).expect("the only one");
    load.rest = REST;
    let bench = Bench {
        load: Arc::new(load),
        admin: relay.admin.expect("it tells"),
        relay,
    };
    let mut took: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        took[0].extend(bench.post());
        took[1].extend(bench.unread());
        took[2].extend(bench.beside(scrape_often));
        took[3].extend(bench.beside(scrape_slowly));
    }
    let [alone, others @ ..] = took.map(p99);
    println!("p99 alone {alone:.1?}, and then {others:.1?}");
    let names = [
        "p99 while nobody reads standard output, against alone",
        "p99 beside a thousand scrapes a second, against alone",
        "p99 beside 200 slow scrapers, against alone",
    ];
    let rows = names.into_iter().zip(others);
    rows.map(|(name, p99)| Row::at_most(name, p99.as_secs_f64() / alone.as_secs_f64(), MOST))
        .collect()
}

struct Bench {
    load: Arc<Load>,
    admin: SocketAddr,
    relay: Server,
}

impl Bench {
    fn post(&self) -> Vec<Duration> {
        let tally = self.load.run(CONNECTIONS, RUN);
        assert_eq!(tally.refused, 0, "every good one is answered 200");
        tally.latencies
    }

    /// First fills all that is between the relay and a reader, then measures.
    fn unread(&self) -> Vec<Duration> {
        let _unread = self.relay.unread();
        let lost = || self.relay.number("suki_relay_log_lines_dropped_total");
        let before = lost();
        while lost() <= before {
            self.load.run(CONNECTIONS * 16, RUN / 4);
        }
        self.post()
    }

    /// Measures while this goes on.
    fn beside(&self, disturb: fn(SocketAddr, &AtomicBool)) -> Vec<Duration> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let disturbing = scope.spawn(|| disturb(self.admin, &over));
            let took = self.post();
            over.store(true, Ordering::Relaxed);
            disturbing.join().expect("it was disturbed");
            took
        })
    }
}

fn scrape_often(admin: SocketAddr, over: &AtomicBool) {
    let (answered, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    runtime().block_on(async {
        let may = Arc::new(Semaphore::new(SCRAPES_AT_ONCE));
        let mut next =
            interval(Duration::from_secs(1) / u32::try_from(SCRAPES_A_SECOND).expect("few"));
        while !over.load(Ordering::Relaxed) {
            next.tick().await;
            let turn = Arc::clone(&may)
                .acquire_owned()
                .await
                .expect("never closed");
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let mut page = Vec::new();
                let mut stream = TcpStream::connect(admin).await.expect("connects");
                stream.write_all(SCRAPE).await.expect("sent");
                stream.read_to_end(&mut page).await.expect("an answer");
                assert!(page.starts_with(b"HTTP/1.1 200"));
                answered.fetch_add(1, Ordering::Relaxed);
                drop(turn);
            });
        }
    });
    let asked = begun.elapsed().as_secs() * SCRAPES_A_SECOND;
    let answered = answered.load(Ordering::Relaxed);
    assert!(
        answered * 10 >= asked * 9,
        "{answered} of {asked} scrapes: this machine is too busy"
    );
}

/// One half never ends its request, the other never reads the answer.
fn scrape_slowly(admin: SocketAddr, over: &AtomicBool) {
    runtime().block_on(async {
        let mut scrapers = Vec::new();
        for n in 0..SLOW_SCRAPERS {
            let mut stream = TcpStream::connect(admin).await.expect("connects");
            let said = if n % 2 == 0 { &SCRAPE[..1] } else { SCRAPE };
            stream.write_all(said).await.expect("sent");
            scrapers.push(stream);
        }
        for byte in SCRAPE[1..].iter().cycle() {
            if over.load(Ordering::Relaxed) {
                return;
            }
            for dribbling in scrapers.iter_mut().step_by(2) {
                // The relay may have had enough of it.
                let _ = dribbling.write_all(&[*byte]).await;
            }
            tokio::time::sleep(DRIBBLE_EVERY).await;
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() * 99 / 100]
}
