//! What a long backlog costs: a start, memory, and the acknowledgement of what is new.
//!
//! `cargo bench --bench backlog [-- --deliveries N]` fills a spool with a million deliveries of 450 bytes
//! that are owed to a target out of reach, through the spool's own door, and starts the relay on it; then
//! one on an empty spool. Both are measured in the same way, in the same run, with the database as the
//! filling left it in the page cache.

#![allow(clippy::expect_used)] // a failed measurement has nobody to recover for

// The other bench's parts; not all of them are for this one.
#[allow(dead_code)]
#[path = "../load/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../load/kept.rs"]
mod kept;
#[allow(dead_code)]
#[path = "../load/process.rs"]
mod process;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use suki_relay::clock::Timestamp;
use suki_relay::spool::Kept;
use tokio::task::JoinSet;

use client::Load;
use kept::{Signer, on_disk};
use process::Server;

const DELIVERIES: i64 = 1_000_000;
/// Submitted at a time: they share a few commits.
const BATCH: i64 = 8192;
const BODY_BYTES: usize = 450;
const SECRET: &str = "whsec-bench-partner-secret-0001";
const LOAD: Duration = Duration::from_secs(3);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut deliveries = DELIVERIES;
    while let Some(argument) = arguments.next() {
        if argument == "--deliveries" {
            let number = arguments.next().and_then(|n| n.parse().ok());
            deliveries = number.expect("a number");
        }
    }
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk to measure");
    prepare(folder.path());
    let began = Instant::now();
    fill(&folder.path().join("spool-backlog"), deliveries);
    println!(
        "{deliveries} deliveries put into the spool in {:.0?}",
        began.elapsed()
    );

    let empty = measure("empty spool", folder.path(), "empty");
    let backlog = measure("backlog", folder.path(), "backlog");
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    println!("\n                                            measured   at most");
    let line = |what: &str, value: f64, most: &str| println!("{what:<42} {value:>9.2}   {most}");
    line(
        "start to ready, seconds",
        backlog.start.as_secs_f64(),
        "  10.0",
    );
    line(
        "first acknowledgement against empty",
        ratio(backlog.first, empty.first),
        "",
    );
    line(
        "p50 of the acknowledgement against empty",
        ratio(backlog.p50, empty.p50),
        "   1.2",
    );
    line(
        "resident memory more than empty, MiB",
        backlog.mib - empty.mib,
        "  16.0",
    );
}

struct Figures {
    /// From the start of the process until it listens.
    start: Duration,
    first: Duration,
    p50: Duration,
    /// Resident memory after all this.
    mib: f64,
}

fn measure(what: &str, folder: &Path, name: &str) -> Figures {
    let began = Instant::now();
    let server = Server::relay(folder, name, None, false);
    let start = began.elapsed();
    let load = Load::new(server.address, &server.certificate, SECRET);
    let first = load.once();
    let lone = load.run(1, LOAD);
    assert_eq!(lone.refused, 0, "every request is answered 200");
    let figures = Figures {
        start,
        first,
        p50: lone.p50(),
        mib: server.resident_mib(),
    };
    println!(
        "{what}: ready after {start:.1?}, first acknowledgement {:.1?}, p50 {:.0?}, p99 {:.1?}, {:.1} MiB",
        figures.first,
        figures.p50,
        lone.p99(),
        figures.mib,
    );
    figures
}

/// Received over the last hours, one after the other.
fn fill(path: &Path, deliveries: i64) {
    let spool = on_disk(path);
    let runtime = tokio::runtime::Builder::new_multi_thread().build();
    let signer = Signer::new(SECRET);
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let begin = Timestamp::now().minus(Duration::from_hours(40)).as_millis();
    runtime.expect("a runtime").block_on(async {
        for first in (0..deliveries).step_by(usize::try_from(BATCH).expect("small")) {
            let mut submitted = JoinSet::new();
            for n in first..deliveries.min(first + BATCH) {
                let at = Timestamp::from_millis(begin + n * 100);
                let submission = signer.submission(body.clone(), "t", at);
                let spool = spool.clone();
                submitted.spawn(async move { spool.accept(submission).await });
            }
            for kept in submitted.join_all().await {
                assert_eq!(kept, Ok(Kept::Now));
            }
        }
    });
}

fn prepare(folder: &Path) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("tls.crt"), pair.cert.pem()).expect("writable");
    fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).expect("writable");
    fs::write(folder.join("secret"), SECRET).expect("writable");
}
