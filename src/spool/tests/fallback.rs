//! A disk beside a shared spool: what comes while the server is away is kept there, moved over when it is
//! back, and delivered as if once.

use std::path::Path;

use futures_util::FutureExt;

use super::*;
use crate::notification::Record;
use crate::spool::disk::tests::damage::{damage, leaves};
use crate::spool::{AcceptError, Cursor, FallbackOptions, Filter, OpenError, metrics};

/// A server, a folder for each of some relays, and what all of them keep.
struct Street<const N: usize> {
    server: server::Postgres,
    folders: [TempDir; N],
}

impl<const N: usize> Street<N> {
    fn new() -> Self {
        Self {
            server: server::Postgres::start(""),
            folders: std::array::from_fn(|_| tempfile::tempdir().expect("a folder")),
        }
    }

    fn options(&self, folder: &Path) -> PostgresOptions {
        PostgresOptions {
            statement_timeout: Duration::from_secs(2),
            fallback: Some(FallbackOptions {
                disk: options(folder, CAPACITY),
                after: Duration::from_millis(500),
            }),
            ..at(&self.server)
        }
    }

    fn open_in(&self, folder: &Path) -> (Spool, Metrics) {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let spool = Spool::connect(&self.options(folder), metrics.clone(), |fatal| {
            panic!("{fatal}")
        });
        (spool.expect("opens"), metrics)
    }

    fn open(&self) -> [(Spool, Metrics); N] {
        std::array::from_fn(|n| self.open_in(self.folders[n].path()))
    }

    fn notifications(&self) -> String {
        self.server
            .sql("SELECT count(*) FROM suki_relay.notification")
    }

    /// Of what a relay that has ended has on its disk: how many are pending or in quarantine.
    async fn left_in(&self, folder: &Path) -> usize {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let spool = Spool::open_existing(folder, None, metrics, |fatal| panic!("{fatal}"));
        let spool = spool.expect("opens");
        assert!(spool.audit().await.expect("reads").is_clean());
        let page = spool
            .list(&Filter::default(), Cursor::default(), 1000)
            .await;
        let entries = page.expect("reads").entries;
        entries.iter().filter(|it| it.settled_at.is_none()).count()
    }
}

fn on_disk(metrics: &Metrics) -> i64 {
    let waiting = [metrics::State::Pending, metrics::State::Held];
    let waiting = waiting.map(|state| metrics.fallback(state).get());
    waiting.iter().sum()
}

async fn keep(spool: &Spool, submission: Submission) {
    assert_eq!(spool.accept(submission).await, Ok(Kept::Now));
}

async fn all_due(spool: &Spool, target: &str) -> Vec<Record> {
    let page = spool.due(&name(target), NOW, 1000).await.expect("reads");
    page.deliveries.into_iter().map(|due| due.record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_comes_while_the_server_is_away_is_moved_there_as_it_came() {
    let mut street = Street::<1>::new();
    let [(spool, metrics)] = street.open();
    keep(&spool, submission("before", &["ehr"])).await;
    street.server.kill();
    for n in 0..30 {
        keep(&spool, submission(format!("away {n}"), &["audit", "ehr"])).await;
    }
    let stale = quarantined("held", Reason::Stale, Verdict::Accepted);
    keep(&spool, stale).await;
    let again = spool.accept(submission("away 3", &["audit", "ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
    assert_eq!((on_disk(&metrics), spool.on_fallback()), (31, Some(31)));
    let here = spool.due(&name("audit"), NOW, 9).await;
    assert!(here.is_err(), "nothing is delivered from here");

    street.server.run();
    eventually(|| on_disk(&metrics) == 0).await;
    let came = all_due(&spool, "audit").await;
    assert_eq!(came.len(), 30);
    for record in &came {
        let text = std::str::from_utf8(&record.body).expect("text");
        let sent = submission(text, &["ehr"]).notification;
        assert_eq!(record.id, sent.id);
        assert_eq!(record.received_at, sent.received_at);
        assert_eq!(record.signature, sent.signature);
        assert_eq!(record.content_type, sent.content_type);
        assert_eq!(
            (&record.source, &record.secret),
            (&sent.source, &sent.secret)
        );
    }
    assert_eq!(all_due(&spool, "ehr").await.len(), 31);
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.notifications, 32);
    assert_eq!(counts.quarantine[&Reason::Stale], 1);
    assert!(spool.audit().await.expect("reads").is_clean());
    keep(&spool, submission("after", &["ehr"])).await;
    assert_eq!(on_disk(&metrics), 0, "the server has it");
    drop(spool);
    assert_eq!(street.left_in(street.folders[0].path()).await, 0);
}

/// A row, and a page of which the gauges are counted: they show nothing then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_damaged_keeps_nothing_behind_it_on_the_disk() {
    for damages_a_page in [false, true] {
        let mut street = Street::<1>::new();
        let folder = street.folders[0].path().to_owned();
        let [(spool, _)] = street.open();
        street.server.kill();
        for n in 0..100 {
            keep(&spool, submission(n.to_string(), &["ehr"])).await;
        }
        let stale = quarantined("held", Reason::Stale, Verdict::Accepted);
        keep(&spool, stale).await;
        drop(spool);
        let rows = rusqlite::Connection::open(folder.join("spool.db")).expect("opens");
        let harm = "UPDATE delivery SET attempts = -1 WHERE seq = 1";
        rows.execute_batch(harm).expect("writes");
        let first = "SELECT ncell FROM dbstat WHERE name = 'notification' AND pagetype = 'leaf' ORDER BY path";
        let on_page: usize = rows
            .query_row(first, [], |row| row.get::<_, u16>(0))
            .expect("reads")
            .into();
        drop(rows);
        let mut moved = 100;
        if damages_a_page {
            damage(&folder, &leaves(&folder, "notification")[..1]);
            moved = 101 - on_page;
        }
        street.server.run();
        let [(spool, metrics)] = street.open();
        eventually(|| street.notifications() == moved.to_string()).await;
        assert_eq!(all_due(&spool, "ehr").await.len(), moved - 1);
        let errors = || metrics.error_count(metrics::Op::Read);
        assert!(errors() > 0);
        // The server was away, and is back.
        street.server.kill();
        keep(&spool, submission("late", &["ehr"])).await;
        street.server.run();
        eventually(|| street.notifications() == (moved + 1).to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_nobody_waited_for_is_moved_as_well() {
    let mut street = Street::<1>::new();
    let [(spool, metrics)] = street.open();
    street.server.kill();
    keep(&spool, submission("first", &["ehr"])).await;
    street.server.run();
    eventually(|| on_disk(&metrics) == 0).await;
    street.server.kill();
    // The disk's own mark: the server is known to be away now, and nothing is to be moved.
    let again = spool.accept(submission("first", &["ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
    let late = spool.accept(submission("late", &["ehr"]));
    assert_eq!(late.now_or_never(), None, "its sender does not wait");
    eventually(|| on_disk(&metrics) == 1).await;
    street.server.run();
    eventually(|| on_disk(&metrics) == 0).await;
    assert_eq!(street.notifications(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_server_or_another_disk_has_as_well_is_kept_and_delivered_once() {
    let mut street = Street::<2>::new();
    let [(a, a_metrics), (b, b_metrics)] = street.open();
    keep(&a, submission("before", &["ehr"])).await;
    let before = due(&a, "ehr").await.remove(0);
    settle(&a, &before.key, Settled::Delivered).await;
    street.server.kill();
    for spool in [&a, &b] {
        // Only the server knows better.
        keep(spool, submission("before", &["ehr"])).await;
        for n in 0..20 {
            keep(spool, submission(n.to_string(), &["ehr"])).await;
        }
    }
    street.server.run();
    eventually(|| on_disk(&a_metrics) + on_disk(&b_metrics) == 0).await;
    let owed = all_due(&a, "ehr").await.len() + all_due(&b, "ehr").await.len();
    assert_eq!(owed, 20);
    assert_eq!(street.notifications(), "21");
    assert!(a.audit().await.expect("reads").is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_a_crash_cut_short_is_made_again_and_nothing_delivered_again() {
    let mut street = Street::<1>::new();
    let [(spool, metrics)] = street.open();
    keep(&spool, submission("before", &["ehr"])).await;
    street.server.kill();
    for n in 0..20 {
        keep(&spool, submission(n.to_string(), &["ehr"])).await;
    }
    let held = quarantined("held", Reason::Stale, Verdict::Accepted);
    keep(&spool, held).await;
    let cut = copy_of(street.folders[0].path());
    street.server.run();
    eventually(|| on_disk(&metrics) == 0).await;
    for due in due(&spool, "ehr").await {
        settle(&spool, &due.key, Settled::Delivered).await;
    }
    drop(spool);

    let (again, metrics) = street.open_in(cut.path());
    eventually(|| on_disk(&metrics) == 0).await;
    assert_eq!(street.notifications(), "22");
    assert!(all_due(&again, "ehr").await.is_empty(), "all are delivered");
    drop(again);
    assert_eq!(street.left_in(cut.path()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relay_starts_while_the_server_is_away_and_makes_its_tables_later() {
    let mut street = Street::<1>::new();
    street.server.kill();
    let folder = street.folders[0].path();
    let alone = PostgresOptions {
        fallback: None,
        ..street.options(folder)
    };
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let refused = Spool::connect(&alone, metrics, |fatal| panic!("{fatal}"));
    assert!(matches!(refused, Err(OpenError::ServerAway { .. })));

    let (spool, metrics) = street.open_in(folder);
    assert!(spool.targets_owed().await.is_err());
    keep(&spool, submission("early", &["ehr"])).await;
    drop(spool);
    let (spool, again) = street.open_in(folder);
    assert_eq!((on_disk(&metrics), on_disk(&again)), (1, 1));
    street.server.run();
    eventually(|| on_disk(&again) == 0).await;
    eventually(|| spool.era().is_some()).await;
    assert_eq!(all_due(&spool, "ehr").await.len(), 1);
    assert_eq!(spool.targets_owed().await.expect("reads"), [name("ehr")]);
}

/// What is wrong and does not pass by itself is refused at the start, whatever is beside.
#[test]
fn a_disk_beside_it_excuses_no_wrong_server() {
    let street = Street::<1>::new();
    let url = format!(
        "postgres://nobody@127.0.0.1:{}/postgres",
        street.server.port()
    );
    let options = PostgresOptions {
        url: Secret::from_text(url.into()).expect("not empty"),
        ..street.options(street.folders[0].path())
    };
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let refused = Spool::connect(&options, metrics, |fatal| panic!("{fatal}"));
    let refused = refused.expect_err("refused").to_string();
    assert!(refused.contains("look at the user"), "{refused}");
}

/// It neither answers nor ends: what it is asked to keep may be kept there as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_does_not_answer_is_left_alone_and_what_it_kept_is_known() {
    let street = Street::<1>::new();
    let [(spool, metrics)] = street.open();
    keep(&spool, submission("before", &["ehr"])).await;
    let lock = "BEGIN; LOCK TABLE suki_relay.notification IN ACCESS EXCLUSIVE MODE;
                SELECT pg_sleep(3); COMMIT";
    std::thread::scope(|scope| {
        scope.spawn(|| street.server.sql(lock));
        let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted
                      AND relation = 'suki_relay.notification'::regclass";
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                eventually(|| street.server.sql(locked) == "1").await;
                for n in 0..10 {
                    keep(&spool, submission(n.to_string(), &["ehr"])).await;
                }
                assert_eq!(on_disk(&metrics), 10);
            });
        });
    });
    eventually(|| on_disk(&metrics) == 0).await;
    assert_eq!(all_due(&spool, "ehr").await.len(), 11);
    assert_eq!(street.notifications(), "11");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_cannot_leaves_it_to_the_server() {
    let mut street = Street::<1>::new();
    let mut options = street.options(street.folders[0].path());
    if let Some(fallback) = &mut options.fallback {
        fallback.disk.capacity_bytes = 1 << 20;
    }
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let spool = Spool::connect(&options, metrics.clone(), |fatal| panic!("{fatal}"));
    let spool = spool.expect("opens");
    street.server.kill();
    let large = |n: usize| submission(format!("{n}{}", "x".repeat(100_000)), &["ehr"]);
    let mut kept = 0;
    let refused = loop {
        let kept_here = tokio::time::timeout(Duration::from_secs(1), spool.accept(large(kept)));
        match kept_here.await {
            Ok(Ok(Kept::Now)) => kept += 1,
            other => break other,
        }
        assert!(kept < 100, "a MiB holds less");
    };
    assert!(refused.is_err(), "it waits for the server: {refused:?}");
    let waiting = {
        let spool = spool.clone();
        tokio::spawn(async move { spool.accept(large(1000)).await })
    };
    street.server.run();
    assert_eq!(
        waiting.await.expect("ends"),
        Ok::<_, AcceptError>(Kept::Now)
    );
    eventually(|| on_disk(&metrics) == 0).await;
    assert!(kept > 0);
    eventually(|| street.notifications() == (kept + 1).to_string()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_server_refuses_stays_on_the_disk_until_it_takes_it() {
    let street = Street::<1>::new();
    let [(spool, metrics)] = street.open();
    keep(&spool, submission("before", &["ehr"])).await;
    let table = "ALTER TABLE suki_relay.notification";
    street.server.sql(&format!(
        "{table} ADD CONSTRAINT none CHECK (received_at = 0) NOT VALID"
    ));
    for n in 0..5 {
        keep(&spool, submission(n.to_string(), &["ehr"])).await;
    }
    let held = quarantined("held", Reason::Stale, Verdict::Accepted);
    keep(&spool, held).await;
    let refused = metrics.error_count(metrics::Op::Commit);
    eventually(|| metrics.error_count(metrics::Op::Commit) > refused + 1).await;
    assert_eq!(on_disk(&metrics), 6, "it was tried, and stays");
    street.server.sql(&format!("{table} DROP CONSTRAINT none"));
    eventually(|| on_disk(&metrics) == 0).await;
    assert_eq!(all_due(&spool, "ehr").await.len(), 6);
    assert_eq!(street.notifications(), "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_was_a_spool_of_its_own_moves_what_is_owed_or_held_and_keeps_dead_letters() {
    let street = Street::<1>::new();
    let folder = street.folders[0].path();
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let alone = Spool::open(&options(folder, CAPACITY), metrics, |fatal| {
        panic!("{fatal}")
    });
    let alone = alone.expect("opens");
    for body in ["half", "dead", "done"] {
        keep(&alone, submission(body, &["audit", "ehr"])).await;
    }
    let held = quarantined("held", Reason::Stale, Verdict::Accepted);
    keep(&alone, held).await;
    let audit = due(&alone, "audit").await;
    let ehr = due(&alone, "ehr").await;
    settle(&alone, &audit[0].key, Settled::Delivered).await;
    for dues in [&audit, &ehr] {
        settle(&alone, &dues[1].key, Settled::DeadLettered).await;
        settle(&alone, &dues[2].key, Settled::Delivered).await;
    }
    drop(alone);

    let [(spool, metrics)] = street.open();
    eventually(|| on_disk(&metrics) == 1).await;
    let owed = all_due(&spool, "ehr").await;
    assert_eq!(owed.len(), 1);
    assert_eq!(owed[0].body, "half");
    assert!(all_due(&spool, "audit").await.is_empty(), "it had it");
    let counts = spool.counts().await.expect("reads");
    assert_eq!(
        (counts.notifications, counts.quarantine[&Reason::Stale]),
        (2, 1)
    );
}
