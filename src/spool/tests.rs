//! The promises of a spool, through its door, on real files and a real server: each test runs on either
//! engine.

mod accounts;
pub(super) mod custody;
mod damage;
pub(super) mod errands;
mod fallback;
pub(crate) mod lines;
mod plans;
#[path = "../../tests/it/harness/postgres.rs"]
pub mod server;
mod shared;

use std::path::Path;
use std::time::Duration;

use prometheus::{IntGauge, Registry};
use tempfile::TempDir;

use super::{
    DeliveryKey, Due, Kept, Keys, Metrics, Options, PostgresOptions, Reason, Settled, Settlement,
    Spool, Submission, TargetCounts, Verdict,
};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Notification;
use crate::secret::Secret;
use crate::verify::{Keyring, Signed, signature};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);
pub(super) const CAPACITY: u64 = 64 * 1024 * 1024;

/// Runs each of these on both engines.
macro_rules! on_both {
    ($($test:ident,)*) => {
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                super::$test(crate::spool::tests::Engine::Disk).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                super::$test(crate::spool::tests::Engine::Postgres).await;
            })*
        }
    };
}
use on_both;

on_both! {
    what_is_accepted_is_due_as_it_came_until_it_is_settled,
    a_notification_is_settled_only_when_every_target_has_it,
    a_target_is_owed_while_something_is_pending_for_it,
    what_a_kill_leaves_holds_all_that_was_promised,
    a_duplicate_learns_the_first_verdict,
    a_duplicate_is_never_owed_again,
    of_racing_copies_one_is_kept,
    the_schedule_survives_a_restart,
    dead_letters_and_quarantine_are_held,
    what_is_settled_and_past_its_time_goes_with_its_mark,
    writers_share_commits_and_none_is_lost,
    a_dropped_wait_takes_nothing_back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Disk,
    Postgres,
}

struct House {
    spool: Spool,
    metrics: Metrics,
    home: Home,
}

/// Where a spool is kept, whoever has it open.
struct Home {
    place: Place,
    /// So long that [`NOW`] is never past it.
    keep_delivered: Duration,
    /// On a disk.
    keys: Option<Keys>,
}

enum Place {
    Folder(TempDir),
    Server(server::Postgres),
}

fn house(engine: Engine) -> House {
    let home = Home::new(engine);
    let (spool, metrics) = home.open();
    House {
        spool,
        metrics,
        home,
    }
}

impl Home {
    fn new(engine: Engine) -> Self {
        let place = match engine {
            Engine::Disk => Place::Folder(tempfile::tempdir().expect("a folder")),
            Engine::Postgres => Place::Server(server::Postgres::start("")),
        };
        Self {
            place,
            keep_delivered: Duration::from_hours(1_000_000),
            keys: None,
        }
    }

    fn open(&self) -> (Spool, Metrics) {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let on_fatal = |fatal| panic!("{fatal}");
        let spool = match &self.place {
            Place::Folder(folder) => {
                let options = Options {
                    keep_delivered: self.keep_delivered,
                    keys: self.keys.clone(),
                    ..options(folder.path(), CAPACITY)
                };
                Spool::open(&options, metrics.clone(), on_fatal)
            }
            Place::Server(server) => {
                let options = PostgresOptions {
                    keep_delivered: self.keep_delivered,
                    ..at(server)
                };
                Spool::connect(&options, metrics.clone(), on_fatal)
            }
        };
        (spool.expect("opens"), metrics)
    }

    /// With nothing in it any more.
    fn emptied(self) -> Self {
        match &self.place {
            Place::Folder(_) => Self::new(Engine::Disk),
            Place::Server(server) => {
                server.sql("DROP SCHEMA IF EXISTS suki_relay CASCADE");
                self
            }
        }
    }

    /// The files as they are, without their process; or the server killed, and started again.
    fn after_a_kill(&mut self, spool: Spool) -> (Spool, Metrics) {
        match &mut self.place {
            Place::Folder(folder) => {
                let copy = copy_of(folder.path());
                drop(spool);
                *folder = copy;
            }
            Place::Server(server) => {
                drop(spool);
                server.kill();
                server.run();
            }
        }
        self.open()
    }
}

/// Keeps what is delivered for so long that [`NOW`] is never past it.
pub(super) fn options(path: &Path, capacity_bytes: u64) -> Options {
    Options {
        path: path.to_owned(),
        capacity_bytes,
        keys: None,
        keep_delivered: Duration::from_hours(1_000_000),
        unverified_capacity_bytes: 1024 * 1024,
    }
}

pub fn at(server: &server::Postgres) -> PostgresOptions {
    PostgresOptions {
        url: Secret::from_text(server.url().into()).expect("not empty"),
        schema: "suki_relay".into(),
        connections: 4,
        tls: None,
        statement_timeout: Duration::from_secs(10),
        lease: Duration::from_secs(30),
        keep_delivered: Duration::from_hours(1_000_000),
        fallback: None,
    }
}

/// A gauge comes to show it: those of a shared spool follow what is in it.
async fn shows(gauge: &IntGauge, expected: i64) {
    eventually(|| gauge.get() == expected).await;
}

/// What a power cut or a kill leaves: the files as they are, without their process.
pub(super) fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in ["spool.db", "spool.db-wal"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).expect("copies");
    }
    // The ring makes its own when it is first needed.
    for file in ["unverified.db", "unverified.db-wal"] {
        if folder.join(file).exists() {
            std::fs::copy(folder.join(file), copy.path().join(file)).expect("copies");
        }
    }
    copy
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(super) fn notification(body: &[u8]) -> Notification {
    received_at(body, NOW)
}

pub(super) fn received_at(body: &[u8], received_at: Timestamp) -> Notification {
    let secret = Secret::from_text(b"whsec-test-partner-secret-0001".to_vec()).expect("a secret");
    let signed = Signed {
        generated_at: NOW.as_millis().to_string(),
        signature: signature(&secret, &NOW.as_millis().to_string(), body),
        body: body.to_vec().into(),
    };
    let keyring = Keyring::new([(name("current"), &secret)]);
    let verified = keyring.verify(signed).expect("verifies");
    let content_type = Some("application/json".into());
    Notification::new(verified, name("suki"), received_at, content_type)
}

pub(super) fn submission(body: impl AsRef<[u8]>, targets: &[&str]) -> Submission {
    Submission {
        notification: notification(body.as_ref()),
        verdict: Verdict::Accepted,
        targets: targets.iter().map(|target| name(target)).collect(),
        quarantine: None,
    }
}

pub(super) fn quarantined(body: &str, reason: Reason, verdict: Verdict) -> Submission {
    Submission {
        verdict,
        quarantine: Some(reason),
        ..submission(body, &[])
    }
}

pub(super) fn settlement(key: &DeliveryKey, result: Settled) -> Settlement {
    Settlement {
        key: key.clone(),
        at: NOW,
        took: Duration::from_millis(7),
        outcome: "delivered",
        result,
    }
}

pub(super) async fn due(spool: &Spool, target: &str) -> Vec<Due> {
    let page = spool.due(&name(target), NOW, 1000).await;
    page.expect("reads").deliveries
}

/// What another thread does in its own time.
pub(super) async fn eventually(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), so).await;
    waited.expect("comes to be so");
}

pub(super) async fn settle(spool: &Spool, key: &DeliveryKey, result: Settled) {
    spool
        .settle(settlement(key, result))
        .await
        .expect("is written");
}

async fn what_is_accepted_is_due_as_it_came_until_it_is_settled(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let sent = submission("{\"a\":\u{a0}1}", &["ehr", "audit"]);
    let expected = (*sent.notification).clone();
    assert_eq!(spool.accept(sent).await, Ok(Kept::Now));

    for target in ["ehr", "audit"] {
        let due = due(&spool, target).await;
        let [one] = &due[..] else {
            panic!("{} due at {target}", due.len())
        };
        assert_eq!(one.key.target, name(target));
        assert_eq!((one.attempts, one.due_at), (0, NOW));
        assert_eq!(one.record.id, expected.id);
        assert_eq!(one.record.source, expected.source);
        assert_eq!(one.record.secret, expected.secret);
        assert_eq!(one.record.received_at, expected.received_at);
        assert_eq!(one.record.generated_at, expected.generated_at);
        assert_eq!(one.record.signature, expected.signature);
        assert_eq!(one.record.content_type, expected.content_type);
        assert_eq!(one.record.body, expected.body);
        settle(&spool, &one.key, Settled::Delivered).await;
    }

    assert!(due(&spool, "ehr").await.is_empty());
    assert!(due(&spool, "audit").await.is_empty());
    let counts = spool.counts().await.expect("reads");
    assert_eq!((counts.notifications, counts.settled), (1, 1));
}

async fn a_notification_is_settled_only_when_every_target_has_it(engine: Engine) {
    let House {
        spool,
        metrics,
        home: _kept,
    } = house(engine);
    let accepted = spool.accept(submission("a", &["ehr", "audit"])).await;
    accepted.expect("room");
    let ehr = due(&spool, "ehr").await.remove(0);
    settle(&spool, &ehr.key, Settled::Delivered).await;
    settle(&spool, &ehr.key, Settled::Delivered).await; // again: changes nothing
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.settled, 0);
    shows(&metrics.target(&name("ehr")).pending, 0).await;
    shows(&metrics.target(&name("audit")).pending, 1).await;
}

async fn a_target_is_owed_while_something_is_pending_for_it(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    assert_eq!(spool.targets_owed().await.expect("reads"), []);
    for body in ["a", "b"] {
        let accepted = spool.accept(submission(body, &["ehr", "audit"])).await;
        accepted.expect("room");
    }
    for (delivery, result) in due(&spool, "ehr")
        .await
        .iter()
        .zip([Settled::Delivered, Settled::DeadLettered])
    {
        settle(&spool, &delivery.key, result).await;
    }
    let owed = spool.targets_owed().await.expect("reads");
    assert_eq!(owed, [name("audit")]);
    for (target, expected) in [("ehr", false), ("audit", true), ("never-seen", false)] {
        let found = spool.owes(&name(target)).await.expect("reads");
        assert_eq!(found, expected, "{target}");
    }
}

async fn what_a_kill_leaves_holds_all_that_was_promised(engine: Engine) {
    let House {
        spool, mut home, ..
    } = house(engine);
    for n in 0..50 {
        let kept = spool.accept(submission(n.to_string(), &["ehr"])).await;
        kept.expect("room");
    }
    let first = due(&spool, "ehr").await.remove(0);
    settle(&spool, &first.key, Settled::Delivered).await;

    let (spool, metrics) = home.after_a_kill(spool);
    let left = due(&spool, "ehr").await;
    assert_eq!(left.len(), 49);
    assert!(left.iter().all(|due| due.key != first.key));
    shows(&metrics.target(&name("ehr")).pending, 49).await;
    let again = spool.accept(submission("7", &["ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
    spool
        .accept(submission("new", &["ehr"]))
        .await
        .expect("room");
    let newest = due(&spool, "ehr").await.pop().expect("due");
    assert!(
        left.iter()
            .all(|due| due.key.sequence < newest.key.sequence)
    );
}

async fn a_duplicate_learns_the_first_verdict(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let invalid = || quarantined("x", Reason::Invalid, Verdict::Invalid);
    assert_eq!(spool.accept(invalid()).await, Ok(Kept::Now));
    let again = spool.accept(submission("x", &["ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Invalid)));
    assert!(due(&spool, "ehr").await.is_empty());
}

/// Within `keep_delivered`, whatever became of the first one, and after a kill.
async fn a_duplicate_is_never_owed_again(engine: Engine) {
    let House {
        mut spool,
        mut home,
        ..
    } = house(engine);
    let bodies = ["delivered", "dead", "pending", "quarantined"];
    let copy = |body: &str| {
        if body == "quarantined" {
            quarantined(body, Reason::Stale, Verdict::Accepted)
        } else {
            submission(body, &["ehr"])
        }
    };
    for body in bodies {
        spool.accept(copy(body)).await.expect("room");
    }
    for (due, result) in due(&spool, "ehr")
        .await
        .iter()
        .zip([Settled::Delivered, Settled::DeadLettered])
    {
        settle(&spool, &due.key, result).await;
    }
    for _ in 0..2 {
        let before = spool.counts().await.expect("reads");
        for body in bodies {
            let again = spool.accept(submission(body, &["ehr", "audit"])).await;
            assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)), "{body}");
        }
        assert_eq!(spool.counts().await.expect("reads"), before);
        (spool, _) = home.after_a_kill(spool);
    }
}

async fn of_racing_copies_one_is_kept(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let copies = (0..32).map(|_| {
        let spool = spool.clone();
        tokio::spawn(async move { spool.accept(submission("same", &["ehr"])).await })
    });
    let mut kept = Vec::new();
    for copy in copies.collect::<Vec<_>>() {
        kept.push(copy.await.expect("ends").expect("room"));
    }
    let now = kept.iter().filter(|kept| **kept == Kept::Now).count();
    assert_eq!(now, 1);
    assert_eq!(due(&spool, "ehr").await.len(), 1);
}

async fn the_schedule_survives_a_restart(engine: Engine) {
    let House { spool, home, .. } = house(engine);
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let key = due(&spool, "ehr").await.remove(0).key;
    let due_at = NOW.plus(Duration::from_mins(5));
    settle(&spool, &key, Settled::Retry { due_at }).await;
    drop(spool);

    let (spool, _) = home.open();
    let page = spool.due(&name("ehr"), NOW, 10).await.expect("reads");
    assert!(page.deliveries.is_empty());
    assert_eq!(page.next_due_at, Some(due_at));
    let page = spool.due(&name("ehr"), due_at, 10).await.expect("reads");
    assert_eq!(page.deliveries[0].attempts, 1);
    assert_eq!(page.next_due_at, None);
}

async fn dead_letters_and_quarantine_are_held(engine: Engine) {
    let House {
        spool,
        metrics,
        home: _kept,
    } = house(engine);
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let key = due(&spool, "ehr").await.remove(0).key;
    settle(&spool, &key, Settled::DeadLettered).await;
    let unrouted = quarantined("b", Reason::Unrouted, Verdict::Accepted);
    spool.accept(unrouted).await.expect("room");

    assert!(due(&spool, "ehr").await.is_empty());
    let counts = spool.counts().await.expect("reads");
    assert_eq!((counts.notifications, counts.settled), (2, 0));
    assert_eq!(counts.quarantine[&Reason::Unrouted], 1);
    let ehr = TargetCounts {
        dead: 1,
        ..TargetCounts::default()
    };
    assert_eq!(counts.targets[&name("ehr")], ehr);
    shows(&metrics.target(&name("ehr")).dead_letters, 1).await;
    shows(metrics.quarantine(Reason::Unrouted), 1).await;
}

async fn what_is_settled_and_past_its_time_goes_with_its_mark(engine: Engine) {
    let mut home = Home::new(engine);
    home.keep_delivered = Duration::from_hours(72);
    let (spool, metrics) = home.open();
    // Settled in 2025.
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let dead = submission("b", &["ehr"]);
    spool.accept(dead).await.expect("room");
    let both = due(&spool, "ehr").await;
    settle(&spool, &both[0].key, Settled::Delivered).await;
    settle(&spool, &both[1].key, Settled::DeadLettered).await;
    tokio::time::timeout(Duration::from_mins(1), async {
        while spool.counts().await.expect("reads").notifications > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("goes");
    assert_eq!(spool.accept(submission("a", &[])).await, Ok(Kept::Now));
    let again = spool.accept(submission("b", &[])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)), "held");
    assert!(spool.audit().await.expect("reads").is_clean());
    shows(&metrics.target(&name("ehr")).dead_letters, 1).await;
}

async fn writers_share_commits_and_none_is_lost(engine: Engine) {
    const WRITERS: usize = 64;
    const EACH: usize = 20;
    let House {
        spool,
        metrics,
        home: _kept,
    } = house(engine);
    let writers = (0..WRITERS).map(|writer| {
        let spool = spool.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                let body = format!("{writer} {n}");
                let kept = spool.accept(submission(body, &["ehr"])).await;
                assert_eq!(kept, Ok(Kept::Now));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("ends");
    }
    let page = spool.due(&name("ehr"), NOW, WRITERS * EACH + 1).await;
    assert_eq!(page.expect("reads").deliveries.len(), WRITERS * EACH);
    let commits = metrics.commit_batch.get_sample_count();
    assert!(commits < (WRITERS * EACH) as u64 / 2, "{commits} commits");
}

async fn a_dropped_wait_takes_nothing_back(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let step = spool.doorstep(&name("ehr"));
    let mut waiting = Box::pin(spool.accept(submission("a", &["ehr"])));
    let waker = std::task::Waker::noop();
    let polled = waiting
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker));
    assert!(polled.is_pending());
    drop(waiting);
    while due(&spool, "ehr").await.is_empty() {
        step.rung().await;
    }
}
