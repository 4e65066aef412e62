//! What the spool on a disk promises beside what any spool does (`spool/tests.rs`): of its files.

mod custody;
pub(in crate::spool) mod damage;
mod doorstep;
mod orders;
mod sealed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use prometheus::Registry;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::super::tests::{
    CAPACITY, NOW, copy_of, due, eventually, name, options, settle, settlement, submission,
};
use super::super::{AcceptError, Kept, Metrics, OpenError, Options, Settled, Spool, Verdict};
use super::*;

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

fn open_with(options: &Options) -> Result<(Spool, Metrics), OpenError> {
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let on_fatal = |fatal| panic!("{fatal}");
    Ok((Spool::open(options, metrics.clone(), on_fatal)?, metrics))
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
async fn a_second_process_finds_the_folder_locked() {
    let House { spool, folder, .. } = house();
    let second = open(folder.path(), CAPACITY);
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(spool);
    assert!(open(folder.path(), CAPACITY).is_ok());
}

/// What it holds may be of another database, and SQLite would read it into a new one.
#[tokio::test]
async fn a_log_without_its_database_is_refused_untouched() {
    let House { spool, folder, .. } = house();
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let after = copy_of(folder.path());
    let [file, log] = ["spool.db", "spool.db-wal"].map(|file| after.path().join(file));
    fs::remove_file(&file).expect("removed");
    let before = fs::read(&log).expect("reads");
    let refused = open(after.path(), CAPACITY).map(drop);
    let refused = refused.expect_err("refused").to_string();
    assert!(refused.contains("spool.db-wal"), "{refused}");
    assert!(!file.exists());
    assert_eq!(fs::read(&log).expect("reads"), before);
}

#[test]
fn sizes_without_end_are_no_overflow() {
    let options = Options {
        unverified_capacity_bytes: u64::MAX,
        ..options(Path::new("."), u64::MAX)
    };
    let volume = Volume {
        bytes: 1 << 30,
        available_bytes: 1 << 30,
        doubt: None,
    };
    Limits::of(&options, volume.bytes).hold_against(volume, &options);
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

async fn fill_with_small(spool: &Spool) {
    let mut full = false;
    while !full {
        let all = (0..500).map(|_| {
            let (spool, body) = (spool.clone(), fastrand::u64(..).to_string());
            async move { spool.accept(submission(body, &["ehr"])).await }
        });
        let answers = all.collect::<JoinSet<_>>().join_all().await;
        full = answers.contains(&Err(AcceptError::Full));
    }
}

async fn settle_all(spool: &Spool) -> usize {
    let mut settled = 0;
    loop {
        let page = due(spool, "ehr").await;
        if page.is_empty() {
            break;
        }
        settled += page.len();
        let all = page
            .into_iter()
            .map(|due| spool.settle(settlement(&due.key, Settled::Delivered)));
        for settled in all.collect::<Vec<_>>() {
            settled.await.expect("durable");
        }
    }
    settled
}

/// Each small one that leaves makes a little room, and its mark is the last of it to leave.
#[tokio::test]
async fn a_large_body_has_the_room_of_very_many_small_ones() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house_of(SMALL);
    let first = || submission("first", &["ehr"]);
    spool.accept(first()).await.expect("room");
    let mut all = 0;
    while all < 20_000 {
        fill_with_small(&spool).await;
        let settled = settle_all(&spool).await;
        assert!(settled > 500, "{settled} after {all}");
        all += settled;
    }
    let large = "x".repeat(usize::try_from(SMALL / 8).expect("small"));
    let answer = spool.accept(submission(large, &["ehr"])).await;
    assert_eq!(answer, Ok(Kept::Now));
    let again = spool.accept(first()).await;
    assert_eq!(again, Ok(Kept::Now), "its mark made room");
    assert!(spool.audit().await.expect("reads").is_clean());
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
    for n in 0..800 {
        let body = format!("{n} {}", "x".repeat(60_000));
        written += body.len() as u64;
        spool
            .accept(submission(body, &["ehr"]))
            .await
            .expect("room");
        longest = longest.max(fs::metadata(&log).expect("is there").len());
    }
    reading.abort();
    assert!(written > 5 * max);
    // Not to the byte: a restart that meets a reader, or a copy, is put off for a moment.
    assert!(longest < 4 * max, "{longest} of {max}");
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

/// What a writer needs that has no thread of its own.
struct Desk {
    /// Locked while this lives.
    _folder: Folder,
    limits: Limits,
    shared: Shared,
    connection: Connection,
}

impl Desk {
    fn in_folder(path: &Path) -> Self {
        let limits = Limits::of(&options(path, CAPACITY), u64::MAX);
        let folder = Folder::open(path).expect("opens");
        let connection = folder.connect(Role::Writer, limits).expect("opens");
        let shared = Shared::new(
            Metrics::new(&Registry::new()).expect("new names"),
            folder.ballast(limits).expect("opens"),
            folder.witness(),
            |fatal| panic!("{fatal}"),
        );
        Self {
            _folder: folder,
            limits,
            shared,
            connection,
        }
    }

    fn writer(&self) -> Writer<'_> {
        let seal = Seal::default();
        Writer::new(&self.connection, &self.shared, self.limits, seal).expect("opens")
    }

    /// Hands a notification for `ehr` to the writer's queue, and gives back its answer to come.
    fn submit(&self, body: String) -> oneshot::Receiver<Result<Kept, AcceptError>> {
        let waiting = self.shared.queue.accept(submission(body, &["ehr"]));
        waiting.expect("room in the queue")
    }

    /// The database may have so many pages; 1: as many as it has.
    fn pages(&self, count: i64) {
        let set = self.connection.pragma_update(None, "max_page_count", count);
        set.expect("is set");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_keeps_settlements_and_heals() {
    let House { spool, folder, .. } = house();
    for body in ["first", "second"] {
        let kept = spool.accept(submission(body, &["ehr"])).await;
        kept.expect("room");
    }
    let key = due(&spool, "ehr").await.remove(0).key;
    drop(spool);

    let desk = Desk::in_folder(folder.path());
    let shared = &desk.shared;
    let mut writer = desk.writer();
    let pages = |count| desk.pages(count);
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

/// The first of the two has room in the transaction, and the second has none.
#[tokio::test]
async fn of_a_batch_that_fails_at_its_end_nothing_is_promised() {
    let House { spool, folder, .. } = house();
    drop(spool);
    let desk = Desk::in_folder(folder.path());
    let mut writer = desk.writer();
    let mut batch = queue::Batch::default();
    desk.pages(1);
    let answers = [
        desk.submit("small".into()),
        desk.submit("x".repeat(100_000)),
    ];
    desk.shared
        .queue
        .take(&mut batch, std::time::Instant::now());
    writer.write(&mut batch).expect("no failed sync");
    for answer in answers {
        assert_eq!(answer.await, Ok(Err(AcceptError::Full)));
    }
    drop(writer);
    let rows = |table| {
        let count = format!("SELECT count(*) FROM {table}");
        let counted = desk.connection.query_row(&count, [], |row| row.get(0));
        counted.unwrap_or(-1)
    };
    for table in ["notification", "content", "delivery"] {
        assert_eq!(rows(table), 0, "{table}");
    }
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
