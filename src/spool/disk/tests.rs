//! The promises of the spool, through its door and on real files.

mod accounts;
mod custody;
mod sealed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use prometheus::Registry;
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::{
    AcceptError, DeliveryKey, Due, Kept, Metrics, OpenError, Options, Reason, Settled, Settlement,
    Spool, Submission, TargetCounts, Verdict,
};
use super::*;
use crate::notification::Notification;
use crate::secret::Secret;
use crate::verify::{Keyring, Signed, signature};

const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);
const CAPACITY: u64 = 64 * 1024 * 1024;

struct House {
    spool: Spool,
    metrics: Metrics,
    folder: TempDir,
}

fn house() -> House {
    house_of(CAPACITY)
}

fn house_of(capacity_bytes: u64) -> House {
    let folder = tempfile::tempdir().expect("a folder");
    let (spool, metrics) = open(folder.path(), capacity_bytes).expect("opens");
    House {
        spool,
        metrics,
        folder,
    }
}

fn open(path: &Path, capacity_bytes: u64) -> Result<(Spool, Metrics), OpenError> {
    open_with(&options(path, capacity_bytes))
}

/// Keeps what is delivered for so long that [`NOW`] is never past it.
fn options(path: &Path, capacity_bytes: u64) -> Options {
    Options {
        path: path.to_owned(),
        capacity_bytes,
        keys: None,
        keep_delivered: Duration::from_hours(1_000_000),
        unverified_capacity_bytes: 1024 * 1024,
    }
}

fn open_with(options: &Options) -> Result<(Spool, Metrics), OpenError> {
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let on_fatal = |fatal| panic!("{fatal}");
    Ok((Spool::open(options, metrics.clone(), on_fatal)?, metrics))
}

/// What a power cut or a kill leaves: the files as they are, without their process.
fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in ["spool.db", "spool.db-wal"] {
        fs::copy(folder.join(file), copy.path().join(file)).expect("copies");
    }
    copy
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn notification(body: &[u8]) -> Notification {
    received_at(body, NOW)
}

fn received_at(body: &[u8], received_at: Timestamp) -> Notification {
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

fn quarantined(body: &str, reason: Reason, verdict: Verdict) -> Submission {
    Submission {
        verdict,
        quarantine: Some(reason),
        ..submission(body, &[])
    }
}

fn settlement(key: &DeliveryKey, result: Settled) -> Settlement {
    Settlement {
        key: key.clone(),
        at: NOW,
        took: Duration::from_millis(7),
        outcome: "delivered",
        result,
    }
}

async fn due(spool: &Spool, target: &str) -> Vec<Due> {
    let page = spool.due(&name(target), NOW, 1000).await;
    page.expect("reads").deliveries
}

/// What another thread does in its own time.
async fn eventually(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), so).await;
    waited.expect("comes to be so");
}

async fn settle(spool: &Spool, key: &DeliveryKey, result: Settled) {
    spool
        .settle(settlement(key, result))
        .await
        .expect("is written");
}

#[tokio::test]
async fn what_is_accepted_is_due_as_it_came_until_it_is_settled() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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

#[tokio::test]
async fn a_notification_is_settled_only_when_every_target_has_it() {
    let House {
        spool,
        metrics,
        folder: _kept,
    } = house();
    let accepted = spool.accept(submission("a", &["ehr", "audit"])).await;
    accepted.expect("room");
    let ehr = due(&spool, "ehr").await.remove(0);
    settle(&spool, &ehr.key, Settled::Delivered).await;
    settle(&spool, &ehr.key, Settled::Delivered).await; // again: changes nothing
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.settled, 0);
    assert_eq!(metrics.target(&name("ehr")).pending.get(), 0);
    assert_eq!(metrics.target(&name("audit")).pending.get(), 1);
}

#[tokio::test]
async fn a_target_is_owed_while_something_is_pending_for_it() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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
}

#[tokio::test]
async fn what_a_kill_leaves_holds_all_that_was_promised() {
    let House { spool, folder, .. } = house();
    for n in 0..50 {
        let kept = spool.accept(submission(n.to_string(), &["ehr"])).await;
        kept.expect("room");
    }
    let first = due(&spool, "ehr").await.remove(0);
    settle(&spool, &first.key, Settled::Delivered).await;

    let after = copy_of(folder.path());
    let (spool, metrics) = open(after.path(), CAPACITY).expect("opens");
    let left = due(&spool, "ehr").await;
    assert_eq!(left.len(), 49);
    assert!(left.iter().all(|due| due.key != first.key));
    assert_eq!(metrics.target(&name("ehr")).pending.get(), 49);
    let again = spool.accept(submission("7", &["ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
    spool
        .accept(submission("new", &["ehr"]))
        .await
        .expect("room");
    let newest = due(&spool, "ehr").await.pop().expect("due");
    assert_eq!(newest.key.sequence, first.key.sequence + 50);
}

#[tokio::test]
async fn opening_syncs_what_it_finds_before_anything_else() {
    let House { spool, folder, .. } = house();
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let after = copy_of(folder.path());
    let log = after.path().join("spool.db-wal");
    assert!(fs::metadata(&log).expect("is there").len() > 0);
    let _open = open(after.path(), CAPACITY).expect("opens");
    assert_eq!(fs::metadata(&log).expect("is there").len(), 0);
}

#[tokio::test]
async fn a_duplicate_learns_the_first_verdict() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
    let invalid = || quarantined("x", Reason::Invalid, Verdict::Invalid);
    assert_eq!(spool.accept(invalid()).await, Ok(Kept::Now));
    let again = spool.accept(submission("x", &["ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Invalid)));
    assert!(due(&spool, "ehr").await.is_empty());
}

/// Within `keep_delivered`, whatever became of the first one, and after a kill.
#[tokio::test]
async fn a_duplicate_is_never_owed_again() {
    let House { spool, folder, .. } = house();
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
    let after = copy_of(folder.path());
    let (restarted, _) = open(after.path(), CAPACITY).expect("opens");
    for spool in [spool, restarted] {
        let before = spool.counts().await.expect("reads");
        for body in bodies {
            let again = spool.accept(submission(body, &["ehr", "audit"])).await;
            assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)), "{body}");
        }
        assert_eq!(spool.counts().await.expect("reads"), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_copies_one_is_kept() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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

#[tokio::test]
async fn the_schedule_survives_a_restart() {
    let House { spool, folder, .. } = house();
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let key = due(&spool, "ehr").await.remove(0).key;
    let due_at = NOW.plus(Duration::from_mins(5));
    settle(&spool, &key, Settled::Retry { due_at }).await;
    drop(spool);

    let (spool, _) = open(folder.path(), CAPACITY).expect("opens");
    let page = spool.due(&name("ehr"), NOW, 10).await.expect("reads");
    assert!(page.deliveries.is_empty());
    assert_eq!(page.next_due_at, Some(due_at));
    let page = spool.due(&name("ehr"), due_at, 10).await.expect("reads");
    assert_eq!(page.deliveries[0].attempts, 1);
    assert_eq!(page.next_due_at, None);
}

#[tokio::test]
async fn dead_letters_and_quarantine_are_held() {
    let House {
        spool,
        metrics,
        folder: _kept,
    } = house();
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
    assert_eq!(metrics.target(&name("ehr")).dead_letters.get(), 1);
    assert_eq!(metrics.quarantine(Reason::Unrouted).get(), 1);
}

#[tokio::test]
async fn a_second_process_finds_the_folder_locked() {
    let House { spool, folder, .. } = house();
    let second = open(folder.path(), CAPACITY);
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(spool);
    assert!(open(folder.path(), CAPACITY).is_ok());
}

#[tokio::test]
async fn a_newer_or_foreign_database_is_refused_untouched() {
    let House { spool, folder, .. } = house();
    drop(spool);
    let file = folder.path().join("spool.db");
    let refused = |pragma: &str| {
        let connection = Connection::open(&file).expect("opens");
        connection.execute_batch(pragma).expect("is set");
        drop(connection);
        let before = fs::read(&file).expect("reads");
        let result = open(folder.path(), CAPACITY).map(drop);
        assert_eq!(fs::read(&file).expect("reads"), before);
        result.expect_err("refused")
    };
    let newer = refused("PRAGMA user_version = 2");
    assert!(
        matches!(newer, OpenError::Newer { found: 2, .. }),
        "{newer}"
    );
    let foreign = refused("PRAGMA application_id = 7");
    assert!(matches!(foreign, OpenError::Foreign { .. }), "{foreign}");

    fs::write(&file, b"my diary").expect("writes");
    let foreign = open(folder.path(), CAPACITY)
        .map(drop)
        .expect_err("refused");
    assert!(matches!(foreign, OpenError::Foreign { .. }), "{foreign}");
    assert_eq!(fs::read(&file).expect("reads"), b"my diary");
}

#[tokio::test]
async fn nobody_else_may_read_the_spool() {
    let House { spool, folder, .. } = house();
    drop(spool);
    let inner = folder.path().join("a/b");
    let (spool, _) = open(&inner, CAPACITY).expect("opens");
    spool.accept(submission("a", &[])).await.expect("room");
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    for file in ["spool.db", "spool.db-wal", "spool.db-shm", "spool.lock"] {
        assert_eq!(mode(&inner.join(file)), 0o600, "{file}");
    }
}

const SMALL: u64 = 3 * 1024 * 1024;

async fn fill(spool: &Spool, series: &str) -> usize {
    for n in 0..1000 {
        let body = format!("{series} {n} {}", "x".repeat(40_000));
        match spool.accept(submission(body, &["ehr"])).await {
            Ok(Kept::Now) => {}
            Err(AcceptError::Full) => return n,
            other => panic!("{other:?}"),
        }
    }
    panic!("never full")
}

#[tokio::test]
async fn a_full_spool_refuses_knows_duplicates_and_heals() {
    let House {
        spool,
        metrics,
        folder: _kept,
    } = house_of(SMALL);
    let first = || submission("first", &["ehr"]);
    spool.accept(first()).await.expect("room");
    let kept = fill(&spool, "a").await;
    assert!(kept > 10, "{kept}");
    // Whole pages are logged for a row: over by less than one commit's worth of them.
    let used = u64::try_from(metrics.bytes.get()).expect("positive");
    assert!(used < SMALL + 100_000, "{used}");
    let again = spool.accept(first()).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));

    for due in due(&spool, "ehr").await {
        settle(&spool, &due.key, Settled::Delivered).await;
    }
    let kept = fill(&spool, "b").await;
    assert!(kept > 10, "delivered ones made no room: {kept}");
    assert_eq!(due(&spool, "ehr").await.len(), kept);
    let again = spool.accept(first()).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)), "its mark stays");
    assert!(spool.audit().await.expect("reads").is_clean());
}

#[tokio::test]
async fn what_is_settled_and_past_its_time_goes_with_its_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        keep_delivered: Duration::from_hours(72),
        ..options(folder.path(), CAPACITY)
    };
    let (spool, metrics) = open_with(&options).expect("opens");
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
    assert_eq!(metrics.target(&name("ehr")).dead_letters.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_share_commits_and_none_is_lost() {
    const WRITERS: usize = 64;
    const EACH: usize = 20;
    let House {
        spool,
        metrics,
        folder: _kept,
    } = house();
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

#[tokio::test]
async fn a_dropped_wait_takes_nothing_back() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
    let wake = spool.wake(&name("ehr"));
    let mut waiting = Box::pin(spool.accept(submission("a", &["ehr"])));
    let waker = std::task::Waker::noop();
    let polled = waiting
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker));
    assert!(polled.is_pending());
    drop(waiting);
    wake.notified().await;
    assert_eq!(due(&spool, "ehr").await.len(), 1);
}

#[tokio::test]
async fn the_log_stays_short_beneath_readers() {
    let House { spool, folder, .. } = house_of(CAPACITY);
    let max = Limits::of(&options(folder.path(), CAPACITY), u64::MAX).wal_bytes_max;
    let reading = {
        let spool = spool.clone();
        tokio::spawn(async move {
            loop {
                let _ = spool.due(&name("ehr"), NOW, 10).await;
            }
        })
    };
    let log = folder.path().join("spool.db-wal");
    let mut longest = 0;
    let mut written = 0;
    for n in 0..600 {
        let body = format!("{n} {}", "x".repeat(60_000));
        written += body.len() as u64;
        spool
            .accept(submission(body, &["ehr"]))
            .await
            .expect("room");
        longest = longest.max(fs::metadata(&log).expect("is there").len());
    }
    reading.abort();
    assert!(written > 4 * max);
    // Not to the byte: a restart that meets a reader is put off for a moment.
    assert!(longest < 3 * max, "{longest} of {max}");
}

#[tokio::test]
async fn a_panic_of_a_thread_is_told_once_and_ends_the_spool() {
    let folder = tempfile::tempdir().expect("a folder");
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let (told, fatal) = oneshot::channel();
    let mut disk = Disk::open(&options(folder.path(), CAPACITY), metrics, |fatal| {
        told.send(fatal).expect("waited for");
    })
    .expect("opens");
    for _ in 0..2 {
        disk.start("spool-test", |_| panic!("quotes a body"))
            .expect("starts");
    }
    let fatal = fatal.await.expect("told");
    assert!(!fatal.to_string().contains("quotes"), "{fatal}");
    assert!(!disk.is_open());
    let refused = disk.accept(submission("a", &["ehr"])).await;
    assert_eq!(refused, Err(AcceptError::Failed));
}

/// A writer with no thread of its own, on a database that may not grow by a page.
#[tokio::test]
async fn a_full_disk_refuses_keeps_settlements_and_heals() {
    let House { spool, folder, .. } = house();
    for body in ["first", "second"] {
        let kept = spool.accept(submission(body, &["ehr"])).await;
        kept.expect("room");
    }
    let key = due(&spool, "ehr").await.remove(0).key;
    drop(spool);

    let limits = Limits::of(&options(folder.path(), CAPACITY), u64::MAX);
    let folder = Folder::open(folder.path()).expect("opens");
    let connection = folder.connect(Role::Writer, limits).expect("opens");
    let shared = Shared::new(
        Metrics::new(&Registry::new()).expect("new names"),
        folder.ballast(limits).expect("opens"),
        folder.witness(),
        |fatal| panic!("{fatal}"),
    );
    let mut writer = Writer::new(&connection, &shared, limits, Seal::default()).expect("opens");
    let pages = |count: i64| {
        connection
            .pragma_update(None, "max_page_count", count)
            .expect("is set");
    };
    let mut batch = queue::Batch::default();
    let big = || submission("x".repeat(100_000), &["audit"]);

    pages(1); // SQLite takes the present size
    let new = shared.queue.accept(big()).expect("room in the queue");
    let again = shared.queue.accept(submission("second", &["ehr"]));
    let again = again.expect("room in the queue");
    let mut settled = shared.queue.settle(settlement(&key, Settled::Delivered));
    shared.queue.take(&mut batch, std::time::Instant::now());
    writer.write(&mut batch).expect("no failed sync");
    assert_eq!(new.await, Ok(Err(AcceptError::Full)));
    assert_eq!(again.await, Ok(Ok(Kept::Before(Verdict::Accepted))));
    assert!(settled.try_recv().is_err());
    assert_eq!(batch.settlements.len(), 1);

    pages(1_000_000);
    writer.tidy(NOW, true).expect("finds room");
    let new = shared.queue.accept(big()).expect("room in the queue");
    shared.queue.take(&mut batch, std::time::Instant::now());
    writer.write(&mut batch).expect("no failed sync");
    assert_eq!(new.await, Ok(Ok(Kept::Now)));
    assert_eq!(settled.await, Ok(()));
    assert_eq!(shared.metrics.target(&name("audit")).pending.get(), 1);
}

#[tokio::test]
async fn a_file_that_is_removed_is_missed_and_what_is_owed_is_still_delivered() {
    let House { spool, folder, .. } = house();
    let kept = spool.accept(submission("first", &["ehr"])).await;
    assert_eq!(kept, Ok(Kept::Now));
    let mut n = 0;
    let mut accepts = async || {
        n += 1;
        let kept = spool.accept(submission(n.to_string(), &["audit"])).await;
        kept == Ok(Kept::Now)
    };
    for file in ["spool.db", "spool.db-wal"] {
        let (place, aside) = (folder.path().join(file), folder.path().join("aside"));
        fs::rename(&place, &aside).expect("moves");
        within_a_minute(async || !accepts().await).await;
        let again = spool.accept(submission("first", &["ehr"])).await;
        assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
        assert_eq!(due(&spool, "ehr").await.len(), 1);
        fs::rename(&aside, &place).expect("moves");
        within_a_minute(&mut accepts).await;
    }
    let first = due(&spool, "ehr").await.remove(0);
    settle(&spool, &first.key, Settled::Delivered).await;
}

async fn within_a_minute(mut holds: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_mins(1), holds).await;
    in_time.expect("comes true");
}
