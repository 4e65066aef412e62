//! What a dead and a slow target cost the others: the time from acceptance to arrival.
//!
//! `cargo bench --bench isolation [-- --rounds N]` runs the relay with one good target, then with a blackholed and a slow
//! one beside it, under the same load, in turns, and compares the p99 of the good one's latencies. A blackholed
//! target takes connections and says nothing; a slow one answers after two seconds. Both are owed a
//! backlog soon.

#![allow(clippy::expect_used)] // a failed measurement has nobody to recover for

// The other bench's parts; not all of them are for this one.
#[allow(dead_code)]
#[path = "../load/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../load/process.rs"]
mod process;

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use suki_relay::clock::Timestamp;
use tokio::net::TcpListener;

use client::Load;
use process::Server;

const ROUNDS: usize = 3;
const CONNECTIONS: usize = 4;
/// Between the posts of one connection: some 150 notifications a second in all.
const REST: Duration = Duration::from_millis(20);
const LOAD: Duration = Duration::from_secs(8);
const SLOW: Duration = Duration::from_secs(2);
const SECRET: &str = "whsec-bench-partner-secret-0001";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut rounds = ROUNDS;
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let number = arguments.next().and_then(|n| n.parse().ok());
            rounds = number.expect("a number");
        }
    }
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk to measure");
    prepare(folder.path());
    let targets = Targets::start();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        alone.extend(targets.measure(folder.path(), &format!("alone-{round}"), &["good"]));
        let all = ["good", "silent", "slow"];
        beside.extend(targets.measure(folder.path(), &format!("beside-{round}"), &all));
    }
    let (alone, beside) = (p99(&mut alone), p99(&mut beside));
    println!("p99 from acceptance to arrival: alone {alone:.1?}, beside the two {beside:.1?}");
    println!("\n                                            measured   at most");
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!(
        "{:<42} {ratio:>9.2}       1.5",
        "p99 beside a dead and a slow target"
    );
}

struct Targets {
    good: SocketAddr,
    silent: SocketAddr,
    slow: SocketAddr,
    /// What arrived at the good one took so long.
    latencies: Arc<Mutex<Vec<Duration>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Targets {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let latencies: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let listen = || {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
            let listener = listener.expect("a port");
            (listener.local_addr().expect("an address"), listener)
        };
        let (good, listener) = listen();
        runtime.spawn(serve(listener, Duration::ZERO, latencies.clone()));
        let (slow, listener) = listen();
        runtime.spawn(serve(listener, SLOW, Arc::default()));
        let (silent, listener) = listen();
        runtime.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        Self {
            good,
            silent,
            slow,
            latencies,
            _runtime: runtime,
        }
    }

    /// Latencies of the good target, among these.
    fn measure(&self, folder: &Path, name: &str, names: &[&str]) -> Vec<Duration> {
        let target = |name: &&str| {
            let address = match *name {
                "good" => self.good,
                "silent" => self.silent,
                _ => self.slow,
            };
            format!("  - {{ name: {name}, http: {{ url: 'http://{address}/' }} }}\n")
        };
        let config = format!(
            "listen: {{ address: 127.0.0.1:0, tls: {{ certificate: tls.crt, private_key: tls.key }} }}\n\
             admin: {{ address: 127.0.0.1:0, operator: null }}\n\
             spool: {{ disk: {{ path: spool-{name} }} }}\n\
             sources: [{{ name: suki, path: /webhooks/notification, secrets: [{{ name: current, file: secret }}] }}]\n\
             targets:\n{}routes: [{{ name: all, to: [{}] }}]\n",
            names.iter().map(target).collect::<String>(),
            names.join(", ")
        );
        let server = Server::configured(folder, name, &config, false);
        let load = Load::new(server.address, &server.certificate, SECRET);
        let mut load = Arc::into_inner(load).expect("the only one");
        load.rest = REST;
        let tally = Arc::new(load).run(CONNECTIONS, LOAD);
        assert_eq!(tally.refused, 0, "every request is answered 200");
        let mut latencies = std::mem::take(&mut *self.latencies.lock().expect("not poisoned"));
        println!(
            "{name}: {} answered, {} arrived, p99 {:.1?}",
            tally.answered,
            latencies.len(),
            p99(&mut latencies)
        );
        latencies
    }
}

async fn serve(listener: TcpListener, wait: Duration, latencies: Arc<Mutex<Vec<Duration>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let latencies = latencies.clone();
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let latencies = latencies.clone();
            async move {
                while let Some(Ok(_)) = request.body_mut().frame().await {}
                let received = request.headers()["suki-relay-received-at"].to_str();
                let received = received.ok().and_then(Timestamp::parse);
                let took = Timestamp::now().since(received.expect("a moment"));
                latencies.lock().expect("not poisoned").push(took);
                tokio::time::sleep(wait).await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn p99(latencies: &mut [Duration]) -> Duration {
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

fn prepare(folder: &Path) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("tls.crt"), pair.cert.pem()).expect("writable");
    fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).expect("writable");
    fs::write(folder.join("secret"), SECRET).expect("writable");
}
