//! What the pure parts' tests share, and dispatch over real sockets.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::{Dispatcher, Metrics, Phase};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Record};
use crate::retry;
use crate::routing::Routing;
use crate::spool::{DeliveryKey, Due, Settled, Settlement, Spool};
use crate::target::http::{Options, Tls};
use crate::target::{Breaker, Policy, Target};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn policy() -> Policy {
    Policy {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(2),
        in_flight_max: 16,
        retry: retry::Policy {
            initial: Duration::from_secs(1),
            max: Duration::from_mins(5),
            give_up_after: Duration::from_hours(72),
        },
        breaker: Breaker {
            failures: 5,
            probe_after: Duration::from_secs(1),
            probe_max: Duration::from_mins(1),
        },
        give_up_on: BTreeSet::from([400, 405, 410, 413, 415, 422]),
        delivered_on: BTreeSet::new(),
    }
}

pub fn due(sequence: i64, received_at: Timestamp) -> Due {
    let mut id = [0; Id::BYTES];
    id[8..].copy_from_slice(&sequence.to_be_bytes());
    Due {
        key: DeliveryKey {
            sequence,
            target: name("ehr"),
        },
        record: Record {
            id: Id::from_bytes(id),
            source: name("suki"),
            secret: name("current"),
            received_at,
            generated_at: received_at.as_millis().to_string(),
            signature: "ab".repeat(32),
            content_type: Some("application/json".into()),
            body: Bytes::from_static(b"{\"status\": \"success\"}"),
        },
        attempts: 0,
        due_at: received_at,
    }
}

/// A dispatcher over real sockets and a spool, for the targets given.
struct Rig {
    spool: Spool,
    routing: Arc<ArcSwap<Routing>>,
    dispatcher: Dispatcher,
    phase: watch::Sender<Phase>,
    registry: Registry,
}

impl Rig {
    fn start(targets: Vec<Target>, dues: Vec<Due>) -> Self {
        let spool = Spool::default();
        let owed: BTreeSet<Name> = dues.iter().map(|due| due.key.target.clone()).collect();
        for due in dues {
            spool.owe(due);
        }
        let routing = Arc::new(ArcSwap::from_pointee(routing(targets)));
        let (phase, watched) = watch::channel(Phase::Running);
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let dispatcher = Dispatcher::start(spool.clone(), routing.clone(), metrics, watched, owed);
        Self {
            spool,
            routing,
            dispatcher,
            phase,
            registry,
        }
    }

    fn reload(&mut self, targets: Vec<Target>) {
        self.routing.store(Arc::new(routing(targets)));
        self.dispatcher.reconcile();
    }

    fn delivered(&self, target: &str) -> Vec<i64> {
        let of = |s: &Settlement| s.result == Settled::Delivered && s.key.target == name(target);
        let settlements = self.spool.settlements();
        settlements
            .iter()
            .filter(|s| of(s))
            .map(|s| s.key.sequence)
            .collect()
    }

    fn shown(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(f64::NAN, |value| value.trim().parse().unwrap())
    }
}

fn routing(targets: Vec<Target>) -> Routing {
    Routing::new(vec![], vec![], targets.into_iter().map(Arc::new).collect())
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(in_time.is_ok(), "never came true: {what}");
}

/// A server that answers 200 once its gate has a permit for it, and knows how many waited at once.
struct Server {
    url: String,
    gate: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

async fn server(permits: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let gate = Arc::new(Semaphore::new(permits));
    let (waiting, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = Server {
        url,
        gate: gate.clone(),
        waiting: waiting.clone(),
        most: most.clone(),
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (gate, waiting, most) = (gate.clone(), waiting.clone(), most.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (gate, waiting, most) = (gate.clone(), waiting.clone(), most.clone());
                async move {
                    drop(request);
                    most.fetch_max(waiting.fetch_add(1, SeqCst) + 1, SeqCst);
                    gate.acquire().await.unwrap().forget();
                    waiting.fetch_sub(1, SeqCst);
                    let empty = http_body_util::Empty::<Bytes>::new();
                    Ok::<_, Infallible>(http::Response::new(empty))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    server
}

fn target(of: &str, url: &str, in_flight_max: usize) -> Target {
    let options = Options {
        url: url.parse().unwrap(),
        headers: vec![],
        bearer_token: None,
        tls: Tls::default(),
    };
    let mut policy = policy();
    policy.in_flight_max = in_flight_max;
    policy.retry.initial = Duration::from_millis(20);
    policy.retry.max = Duration::from_millis(20);
    policy.breaker.probe_after = Duration::from_millis(20);
    policy.breaker.probe_max = Duration::from_millis(20);
    policy.timeout = Duration::from_mins(1);
    Target::http(name(of), policy, options).unwrap()
}

fn owed(sequence: i64, target: &str) -> Due {
    let mut due = due(sequence, Timestamp::now());
    due.key.target = name(target);
    due
}

/// An address where nothing listens.
async fn nowhere() -> String {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", free.local_addr().unwrap())
}

#[tokio::test]
async fn a_dead_and_a_silent_target_do_not_hold_back_another() {
    let (good, silent) = (server(1000).await, server(0).await);
    let targets = vec![
        target("good", &good.url, 4),
        target("dead", &nowhere().await, 4),
        target("silent", &silent.url, 4),
    ];
    let dues = (1..=50).flat_map(|n| ["good", "dead", "silent"].map(|t| owed(n, t)));
    let rig = Rig::start(targets, dues.collect());
    eventually("all arrive", || rig.delivered("good").len() == 50).await;
    eventually("breaker opens", || {
        rig.shown("suki_relay_target_breaker_open{target=\"dead\"}") > 0.5
    })
    .await;
    assert!(rig.delivered("silent").is_empty() && rig.delivered("dead").is_empty());
}

#[tokio::test]
async fn attempts_in_flight_never_exceed_the_maximum() {
    let server = server(0).await;
    let rig = Rig::start(
        vec![target("ehr", &server.url, 3)],
        (1..=40).map(|n| owed(n, "ehr")).collect(),
    );
    eventually("slots are full", || server.waiting.load(SeqCst) == 3).await;
    server.gate.add_permits(40);
    eventually("all arrive", || rig.delivered("ehr").len() == 40).await;
    assert_eq!(server.most.load(SeqCst), 3);
    let mut once = rig.delivered("ehr");
    once.sort_unstable();
    assert_eq!(once, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reload_mends_a_wrong_url_for_what_waits() {
    let server = server(1000).await;
    let mut rig = Rig::start(
        vec![target("ehr", &nowhere().await, 4)],
        (1..=9).map(|n| owed(n, "ehr")).collect(),
    );
    eventually("it fails", || !rig.spool.settlements().is_empty()).await;
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("all arrive", || rig.delivered("ehr").len() == 9).await;
}

#[tokio::test]
async fn what_is_owed_to_a_target_that_is_gone_is_held_until_it_comes_back() {
    let server = server(1000).await;
    let missing = "suki_relay_target_missing{target=\"ehr\"}";
    let mut rig = Rig::start(vec![], vec![owed(1, "ehr")]);
    eventually("it is missed", || rig.shown(missing) > 0.5).await;
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("it arrives", || rig.delivered("ehr") == [1]).await;
    assert!(rig.shown(missing) < 0.5);
    rig.reload(vec![]);
    rig.spool.owe(owed(2, "ehr"));
    eventually("it is missed again", || rig.shown(missing) > 0.5).await;
    assert_eq!(rig.delivered("ehr"), [1]);
}

#[tokio::test]
async fn stopping_ends_what_is_in_hand_and_begins_nothing() {
    let server = server(0).await;
    let mut rig = Rig::start(
        vec![target("ehr", &server.url, 2)],
        (1..=9).map(|n| owed(n, "ehr")).collect(),
    );
    eventually("slots are full", || server.waiting.load(SeqCst) == 2).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    rig.phase.send_replace(Phase::Stopping { deadline });
    server.gate.add_permits(9);
    rig.dispatcher.ended().await.unwrap();
    assert_eq!(rig.delivered("ehr").len(), 2);
}

#[tokio::test]
async fn while_draining_a_refused_loopback_connection_spends_no_attempt() {
    let rig = Rig::start(vec![target("ehr", &nowhere().await, 2)], vec![]);
    rig.phase.send_replace(Phase::Draining);
    rig.spool.owe(owed(1, "ehr"));
    let refused = "suki_relay_attempts_total{outcome=\"connect\",target=\"ehr\"}";
    eventually("it is refused", || rig.shown(refused) > 0.5).await;
    assert!(rig.spool.settlements().is_empty());
}
