//! What the relay costs, as ratios against a bare server in the same run.
//!
//! `cargo bench --bench load [-- --seconds N] [--encrypted]` starts, one after the other on this machine,
//! * a bare hyper + tokio-rustls server that reads the body and answers 200,
//! * the relay with its target out of reach, so that it only acknowledges,
//! * the relay with one HTTP target on loopback,
//!
//! and puts the same load on each: TLS 1.3, HTTP/1.1 keep-alive, a signed body of 450 bytes. CPU is that of
//! the server's process, from `/proc`. The client runs on the same cores, so throughput is a ratio and no
//! record. With `--encrypted`, the relay's spool is encrypted at rest.

#![allow(clippy::expect_used)] // a failed measurement has nobody to recover for

mod bare;
#[allow(dead_code)] // `once` is the other bench's
mod client;
mod disk;
#[allow(dead_code)] // `peak_mib` is another bench's
mod process;

use std::fs;
use std::path::Path;
use std::time::Duration;

use client::Load;
use process::Server;

const CONNECTIONS: usize = 64;
const SECRET: &str = "whsec-bench-partner-secret-0001";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut seconds = 5;
    let mut encrypted = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bare" => return bare::serve(Path::new(&arguments.next().expect("a folder"))),
            "--target" => return bare::target(),
            "--encrypted" => encrypted = true,
            "--seconds" => {
                seconds = arguments
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("a number");
            }
            _ => {} // cargo bench passes flags of its own
        }
    }
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk to measure");
    certificate(folder.path());
    let run = Duration::from_secs(seconds);
    let sync = disk::fdatasync_p50(folder.path());
    println!("one fdatasync of 4 KiB appended: p50 {sync:.0?}");

    let bare = measure("bare server", run, &Server::bare(folder.path()));
    let alone = measure(
        "relay, acknowledging alone",
        run,
        &Server::relay(folder.path(), "alone", None, encrypted),
    );
    let target = Server::target();
    let whole = measure(
        "relay, delivering to one target",
        run,
        &Server::relay(folder.path(), "whole", Some(target.address), encrypted),
    );

    println!("\n                                            measured   at most   goal");
    let ratio = |what: &str, value: f64, bound: &str| println!("{what:<42} {value:>9.2}   {bound}");
    ratio(
        "acknowledging: CPU against bare",
        alone.cpu / bare.cpu,
        "    3.5   2.5",
    );
    ratio(
        "acknowledging: throughput against bare",
        alone.rate / bare.rate,
        "min 0.4   0.5",
    );
    let latency = alone.lone_p50.as_secs_f64() / sync.as_secs_f64();
    ratio(
        "one connection: p50 against one fdatasync",
        latency,
        "    2.5   1.9",
    );
    ratio(
        "delivering: CPU against bare",
        whole.cpu / bare.cpu,
        "    7.0",
    );
    ratio("idle resident memory, MiB", alone.idle_mib, "   20.0");
    ratio(
        "resident memory under load, MiB",
        whole.loaded_mib.max(alone.loaded_mib),
        "   48.0",
    );
}

struct Figures {
    /// CPU seconds of the server per 100,000 requests.
    cpu: f64,
    /// Requests a second with [`CONNECTIONS`] connections.
    rate: f64,
    /// Median latency with one connection.
    lone_p50: Duration,
    idle_mib: f64,
    loaded_mib: f64,
}

fn measure(what: &str, run: Duration, server: &Server) -> Figures {
    let load = Load::new(server.address, &server.certificate, SECRET);
    let idle_mib = server.resident_mib();
    load.run(CONNECTIONS, run / 5); // warm-up
    let lone = load.run(1, run / 2);
    let before = server.cpu_seconds();
    let full = load.run(CONNECTIONS, run);
    let loaded_mib = server.resident_mib();
    // What was acknowledged is still being delivered: that is part of what it costs.
    server.wait_until_settled();
    #[allow(clippy::cast_precision_loss)]
    let cpu = (server.cpu_seconds() - before) * 100_000.0 / full.answered as f64;
    let figures = Figures {
        cpu,
        rate: full.rate(),
        lone_p50: lone.p50(),
        idle_mib,
        loaded_mib,
    };
    println!(
        "{what}: {:.0} req/s at {CONNECTIONS} connections (p50 {:.1?}, p99 {:.1?}), {cpu:.2} CPU s per 100,000, p50 {:.0?} alone, {idle_mib:.1} MiB idle, {loaded_mib:.1} MiB loaded",
        figures.rate,
        full.p50(),
        full.p99(),
        figures.lone_p50,
    );
    assert_eq!(full.refused, 0, "every request is answered 200");
    figures
}

fn certificate(folder: &Path) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("tls.crt"), pair.cert.pem()).expect("writable");
    fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).expect("writable");
    fs::write(folder.join("secret"), SECRET).expect("writable");
    let key = "bench QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
    fs::write(folder.join("keys"), key).expect("writable");
}
