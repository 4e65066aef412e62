//! What the pure parts' tests share, and dispatch over real sockets.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::{Dispatcher, Metrics, Phase};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::{Id, Notification, Record};
use crate::retry;
use crate::routing::Routing;
use crate::secret::Secret;
use crate::spool::{self, DeliveryKey, Due, Kept, Spool, Submission, TargetCounts, Verdict};
use crate::target::grpc::method::{Method, tests::descriptor_set};
use crate::target::http::Options;
use crate::target::{Breaker, Policy, Target};
use crate::trace::Tracer;
use crate::verify::{self, Keyring, Signed};

mod doorstep;
mod shared;

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
        attempts_before: 0,
        owed_since: received_at,
        due_at: received_at,
        replay: false,
        resume_at: None,
    }
}

/// A dispatcher over real sockets and a spool on disk, for the targets given.
struct Rig {
    spool: Spool,
    routing: Arc<ArcSwap<Routing>>,
    dispatcher: Dispatcher,
    phase: watch::Sender<Phase>,
    registry: Registry,
    folder: TempDir,
}

impl Rig {
    /// So many notifications are in the spool from the start, each owed to all that are `owed_to`.
    async fn start(targets: Vec<Target>, notifications: usize, owed_to: &[&str]) -> Self {
        let (spool, folder) = spool();
        for n in 0..notifications {
            owe(&spool, &format!("backlog {n}"), owed_to).await;
        }
        Self {
            folder,
            ..Self::on(spool, targets, owed_to)
        }
    }

    /// On a spool that is there.
    fn on(spool: Spool, targets: Vec<Target>, owed_to: &[&str]) -> Self {
        let routing = Arc::new(ArcSwap::from_pointee(routing(targets)));
        let (phase, watched) = watch::channel(Phase::Running);
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let owed = owed_to.iter().copied().map(name);
        let dispatcher =
            Dispatcher::start(&spool, &routing, metrics, Tracer::default(), watched, owed);
        Self {
            spool,
            routing,
            dispatcher,
            phase,
            registry,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn reload(&mut self, targets: Vec<Target>) {
        self.routing.store(Arc::new(routing(targets)));
        self.dispatcher.reconcile();
    }

    async fn counts(&self, target: &str) -> TargetCounts {
        let counts = self.spool.counts().await.unwrap();
        counts
            .targets
            .get(&name(target))
            .copied()
            .unwrap_or_default()
    }

    async fn delivered(&self, target: &str) -> i64 {
        self.counts(target).await.delivered
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

fn spool() -> (Spool, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = spool::Options {
        path: folder.path().to_owned(),
        capacity_bytes: 64 * 1024 * 1024,
        keys: None,
        keep_delivered: Duration::from_hours(72),
        unverified_capacity_bytes: 1024 * 1024,
    };
    let metrics = spool::Metrics::new(&Registry::new()).unwrap();
    let spool = Spool::open(&options, metrics, |fatal| panic!("{fatal}")).unwrap();
    (spool, folder)
}

async fn owe(spool: &Spool, body: &str, targets: &[&str]) {
    owe_since(Timestamp::now(), spool, body, targets).await;
}

async fn owe_since(accepted_at: Timestamp, spool: &Spool, body: &str, targets: &[&str]) {
    let submission = Submission {
        notification: notification(body, accepted_at),
        verdict: Verdict::Accepted,
        targets: targets.iter().copied().map(name).collect(),
        quarantine: None,
    };
    assert_eq!(spool.accept(submission).await, Ok(Kept::Now));
}

fn notification(body: &str, received_at: Timestamp) -> Notification {
    let secret = Secret::from_text(b"a secret for these tests".to_vec()).unwrap();
    let generated_at = received_at.as_millis().to_string();
    let signed = Signed {
        signature: verify::signature(&secret, &generated_at, body.as_bytes()),
        generated_at,
        body: Bytes::copy_from_slice(body.as_bytes()),
    };
    let keyring = Keyring::new([(name("current"), &secret)]);
    let verified = keyring.verify(signed).unwrap();
    Notification::new(verified, name("suki"), received_at, None)
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(in_time.is_ok(), "never came true: {what}");
}

/// A server that answers, 200 at first, once its gate has a permit for it. Its 503 asks for an hour.
#[derive(Clone)]
struct Server {
    url: String,
    gate: Arc<Semaphore>,
    status: Arc<AtomicU16>,
    waiting: Arc<AtomicUsize>,
    /// How many waited at once.
    most: Arc<AtomicUsize>,
    /// The ids of all that came, in order.
    received: Arc<Mutex<Vec<String>>>,
    /// How many of them said that they were replays.
    replays: Arc<AtomicUsize>,
}

impl Server {
    async fn answer<B>(self, request: http::Request<B>) -> http::Response<Empty<Bytes>> {
        let id = request.headers()["webhook-id"].to_str().unwrap().to_owned();
        self.received.lock().unwrap().push(id);
        let replay = request.headers().contains_key("suki-relay-replay");
        self.replays.fetch_add(replay.into(), SeqCst);
        self.most
            .fetch_max(self.waiting.fetch_add(1, SeqCst) + 1, SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.waiting.fetch_sub(1, SeqCst);
        let mut answer = http::Response::new(Empty::new());
        *answer.status_mut() = self.status.load(SeqCst).try_into().unwrap();
        if answer.status() == http::StatusCode::SERVICE_UNAVAILABLE {
            let hour = http::HeaderValue::from_static("3600");
            answer.headers_mut().insert("retry-after", hour);
        }
        answer
    }

    fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }
}

async fn server(permits: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        url: format!("http://{}/", listener.local_addr().unwrap()),
        gate: Arc::new(Semaphore::new(permits)),
        status: Arc::new(AtomicU16::new(200)),
        waiting: Arc::default(),
        most: Arc::default(),
        received: Arc::default(),
        replays: Arc::default(),
    };
    let serving = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = serving.clone();
            let service = service_fn(move |request| {
                let answer = server.clone().answer::<Incoming>(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    server
}

fn target(of: &str, url: &str, in_flight_max: usize) -> Target {
    let mut policy = policy();
    policy.in_flight_max = in_flight_max;
    policy.retry.initial = Duration::from_millis(20);
    policy.retry.max = Duration::from_millis(20);
    policy.breaker.probe_after = Duration::from_millis(20);
    policy.breaker.probe_max = Duration::from_millis(20);
    policy.timeout = Duration::from_mins(1);
    Target::http(name(of), policy, Options::of(url)).unwrap()
}

/// What the spool still owes the target, oldest first: ids and attempts made.
async fn owed(rig: &Rig) -> Vec<(String, u32)> {
    let whenever = Timestamp::now().plus(Duration::from_hours(2));
    let page = rig.spool.due(&name("ehr"), whenever, 1000).await.unwrap();
    let mut deliveries = page.deliveries;
    deliveries.sort_by_key(|due| due.key.sequence);
    deliveries
        .iter()
        .map(|due| (due.record.id.to_string(), due.attempts))
        .collect()
}

const BREAKER: &str = "suki_relay_target_breaker_open{target=\"ehr\"}";
const REFUSED: &str = "suki_relay_attempts_total{outcome=\"connect\",target=\"ehr\"}";

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
    let rig = Rig::start(targets, 50, &["good", "dead", "silent"]).await;
    eventually("all arrive", async || rig.delivered("good").await == 50).await;
    eventually("breaker opens", async || {
        rig.shown("suki_relay_target_breaker_open{target=\"dead\"}") > 0.5
    })
    .await;
    assert_eq!(rig.counts("silent").await.pending, 50);
    assert_eq!(rig.counts("dead").await.pending, 50);
}

/// More of them than a target may have in hand.
#[tokio::test]
async fn deliveries_that_can_neither_be_made_nor_settled_are_in_nobodys_way() {
    let server = server(1000).await;
    let mut rig = Rig::start(vec![], 300, &["ehr"]).await;
    let file = rig.folder.path().join("spool.db");
    let rows = rusqlite::Connection::open(file).unwrap();
    let harm = "UPDATE delivery SET attempts = -1";
    rows.execute_batch(harm).unwrap();
    drop(rows);
    owe(&rig.spool, "sound", &["ehr"]).await;
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("it arrives", async || rig.delivered("ehr").await == 1).await;
    owe(&rig.spool, "sound as well", &["ehr"]).await;
    eventually("it arrives", async || rig.delivered("ehr").await == 2).await;
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn attempts_in_flight_never_exceed_the_maximum() {
    let server = server(0).await;
    let rig = Rig::start(vec![target("ehr", &server.url, 3)], 40, &["ehr"]).await;
    eventually("slots are full", async || server.waiting.load(SeqCst) == 3).await;
    server.gate.add_permits(40);
    eventually("all arrive", async || rig.delivered("ehr").await == 40).await;
    assert_eq!(server.most.load(SeqCst), 3);
    let received = server.received();
    assert_eq!(received.len(), 40, "none twice");
    assert_eq!(BTreeSet::from_iter(received).len(), 40);
}

#[tokio::test]
async fn a_reload_mends_a_wrong_url_for_what_waits() {
    let server = server(1000).await;
    let wrong = target("ehr", &nowhere().await, 4);
    let mut rig = Rig::start(vec![wrong], 9, &["ehr"]).await;
    eventually("it fails", async || rig.shown(REFUSED) > 0.5).await;
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("all arrive", async || rig.delivered("ehr").await == 9).await;
}

#[tokio::test]
async fn what_is_owed_to_a_target_that_is_gone_is_held_until_it_comes_back() {
    let server = server(1000).await;
    let missing = "suki_relay_target_missing{target=\"ehr\"}";
    let mut rig = Rig::start(vec![], 1, &["ehr"]).await;
    eventually("it is missed", async || rig.shown(missing) > 0.5).await;
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("it arrives", async || rig.delivered("ehr").await == 1).await;
    assert!(rig.shown(missing) < 0.5);
    rig.reload(vec![]);
    owe(&rig.spool, "second", &["ehr"]).await;
    eventually("it is missed again", async || rig.shown(missing) > 0.5).await;
    let held = TargetCounts {
        pending: 1,
        delivered: 1,
        dead: 0,
    };
    assert_eq!(rig.counts("ehr").await, held);
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn stopping_ends_what_is_in_hand_and_begins_nothing() {
    let server = server(0).await;
    let mut rig = Rig::start(vec![target("ehr", &server.url, 2)], 9, &["ehr"]).await;
    eventually("slots are full", async || server.waiting.load(SeqCst) == 2).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    rig.phase.send_replace(Phase::Stopping { deadline });
    server.gate.add_permits(9);
    rig.dispatcher.ended().await.unwrap();
    let left = TargetCounts {
        pending: 7,
        delivered: 2,
        dead: 0,
    };
    assert_eq!(rig.counts("ehr").await, left);
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn while_draining_a_refused_loopback_connection_spends_no_attempt() {
    let rig = Rig::start(vec![target("ehr", &nowhere().await, 2)], 0, &[]).await;
    rig.phase.send_replace(Phase::Draining);
    owe(&rig.spool, "refused", &["ehr"]).await;
    eventually("it is refused", async || rig.shown(REFUSED) > 0.5).await;
    // A commit takes along whatever was settled before it.
    owe(&rig.spool, "later", &["audit"]).await;
    let whenever = Timestamp::now().plus(Duration::from_hours(1));
    let page = rig.spool.due(&name("ehr"), whenever, 10).await.unwrap();
    let attempts: Vec<_> = page.deliveries.iter().map(|due| due.attempts).collect();
    assert_eq!(attempts, [0]);
}

#[tokio::test]
async fn a_probe_is_alone_with_the_oldest_due_and_waiting_spends_no_attempt() {
    let server = server(1000).await;
    server.status.store(503, SeqCst);
    let rig = Rig::start(vec![target("ehr", &server.url, 1)], 30, &["ehr"]).await;
    eventually("it is probed", async || server.received().len() >= 12).await;
    assert!(rig.shown(BREAKER) > 0.5);
    assert_eq!(server.most.load(SeqCst), 1);
    server.status.store(200, SeqCst);
    eventually(
        "it closes, and what had waited arrives at once",
        async || {
            let left = owed(&rig).await;
            rig.delivered("ehr").await > 0 && left.iter().all(|(_, attempts)| *attempts == 1)
        },
    )
    .await;
    assert!(rig.shown(BREAKER) < 0.5);
    let (received, left) = (server.received(), owed(&rig).await);
    // Those that failed, probes included, were the oldest, and went in order.
    let failed: Vec<_> = left.into_iter().map(|(id, _)| id).collect();
    assert_eq!(received[..failed.len()], failed);
}

#[tokio::test]
async fn a_target_that_answers_again_is_not_buried_under_what_waited() {
    let server = server(5).await;
    server.status.store(503, SeqCst);
    let rig = Rig::start(vec![target("ehr", &server.url, 8)], 5, &["ehr"]).await;
    eventually("its breaker opens", async || rig.shown(BREAKER) > 0.5).await;
    server.status.store(200, SeqCst);
    server.most.store(0, SeqCst);
    for n in 0..40 {
        owe(&rig.spool, &format!("waits {n}"), &["ehr"]).await;
    }
    for at_once in [1, 2, 4, 8] {
        server.gate.add_permits(1);
        eventually("more go at once", async || {
            server.waiting.load(SeqCst) == at_once
        })
        .await;
        assert_eq!(server.most.load(SeqCst), at_once);
    }
    server.gate.add_permits(1000);
    eventually("all the others arrive", async || {
        rig.delivered("ehr").await == 40
    })
    .await;
    assert_eq!(server.most.load(SeqCst), 8);
}

#[tokio::test]
async fn definite_answers_are_no_failures_of_the_target() {
    let server = server(1000).await;
    server.status.store(422, SeqCst);
    let rig = Rig::start(vec![target("ehr", &server.url, 1)], 20, &["ehr"]).await;
    eventually("each is a dead letter", async || {
        rig.counts("ehr").await.dead == 20
    })
    .await;
    assert!(rig.shown(BREAKER) < 0.5);
    assert_eq!(server.received().len(), 20, "one attempt each");
    server.status.store(200, SeqCst);
    owe(&rig.spool, "new", &["ehr"]).await;
    eventually("the next goes at once", async || {
        rig.delivered("ehr").await == 1
    })
    .await;
}

/// Nothing is sent of it, so it tells nothing: neither that the target lives, nor that it fails.
#[tokio::test]
async fn a_body_that_fits_no_message_does_not_close_the_breaker_of_a_dead_target() {
    let fits = r#"{"status": "success"}"#;
    let ehr = inbox(&nowhere().await);
    let mut rig = Rig::start(vec![], 0, &[]).await;
    owe(&rig.spool, fits, &["ehr"]).await;
    rig.reload(vec![ehr]);
    eventually("its breaker opens", async || rig.shown(BREAKER) > 0.5).await;
    for n in 1..=3 {
        owe(&rig.spool, &format!("{{\"status\": {n}}}"), &["ehr"]).await;
        eventually("it is a dead letter", async || {
            rig.counts("ehr").await.dead == n
        })
        .await;
        assert!(rig.shown(BREAKER) > 0.5);
    }
    assert_eq!(rig.counts("ehr").await.pending, 1);
}

/// A gRPC target whose method takes a `status` that is text.
fn inbox(url: &str) -> Target {
    let proto = r#"syntax = "proto3"; package clinic; message Entry { string status = 1; }
        service Inbox { rpc Put(Entry) returns (Entry); }"#;
    let method = Method::find(&descriptor_set(proto), "clinic.Inbox/Put").unwrap();
    let policy = target("ehr", url, 1).policy;
    Target::grpc(name("ehr"), policy, &Options::of(url), Some(method)).unwrap()
}

#[tokio::test]
async fn after_four_days_down_it_tries_before_it_gives_up() {
    let long_ago = Timestamp::now().minus(Duration::from_hours(96));
    for (status, delivered, dead) in [(200, 1, 0), (503, 0, 1)] {
        let server = server(1000).await;
        server.status.store(status, SeqCst);
        let rig = Rig::start(vec![target("ehr", &server.url, 4)], 0, &[]).await;
        owe_since(long_ago, &rig.spool, "late", &["ehr"]).await;
        let settled = TargetCounts {
            pending: 0,
            delivered,
            dead,
        };
        eventually("it is settled", async || rig.counts("ehr").await == settled).await;
        assert_eq!(server.received().len(), 1);
    }
}

#[tokio::test]
async fn a_backlog_does_not_delay_what_has_just_come_in() {
    let server = server(0).await;
    let mut rig = Rig::start(vec![], 0, &[]).await;
    let hours_ago = Timestamp::now().minus(Duration::from_hours(10));
    for n in 0..100 {
        owe_since(hours_ago, &rig.spool, &format!("old {n}"), &["ehr"]).await;
    }
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("the old fill their share", async || {
        server.received().len() == 3
    })
    .await;

    let submission = Submission {
        notification: notification("new", Timestamp::now()),
        verdict: Verdict::Accepted,
        targets: vec![name("ehr")],
        quarantine: None,
    };
    let new = submission.notification.id.to_string();
    rig.spool.accept(submission).await.unwrap();
    eventually("the new one is attempted", async || {
        server.received().contains(&new)
    })
    .await;
    assert_eq!(server.received().len(), 4);
}

#[tokio::test]
async fn a_replay_says_so_and_has_its_time_anew() {
    let server = server(100).await;
    server.status.store(500, SeqCst);
    let long_ago = Timestamp::now().minus(Duration::from_hours(100));
    let mut rig = Rig::start(vec![], 0, &[]).await;
    owe_since(long_ago, &rig.spool, "a", &["ehr"]).await;
    rig.reload(vec![target("ehr", &server.url, 4)]);
    eventually("it gave up", async || rig.counts("ehr").await.dead == 1).await;
    assert_eq!(server.replays.load(SeqCst), 0);

    server.status.store(503, SeqCst);
    let replay = spool::Replay {
        filter: spool::Filter::default(),
        to: spool::ReplayTo::DeadLetters,
        by: name("someone"),
        dry_run: false,
    };
    rig.spool.replay(replay).await.unwrap();
    eventually("it was tried again, and is to be once more", async || {
        owed(&rig).await.iter().any(|(_, attempts)| *attempts == 2)
    })
    .await;
    assert_eq!(server.replays.load(SeqCst), 1);
}
