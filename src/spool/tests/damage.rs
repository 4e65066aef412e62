//! Damaged rows and pages in a server: they cost nobody but themselves.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::spool::metrics::Op;
use crate::spool::{Cursor, CustodyError, Discard, Filter, Replay, ReplayTo, State};

const PAGE: usize = 8192;

struct Place {
    server: server::Postgres,
    spool: Spool,
    metrics: Metrics,
}

impl Place {
    /// A spool with these, all owed to `ehr`.
    async fn with(bodies: impl IntoIterator<Item = String>) -> Self {
        let server = server::Postgres::start("");
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let spool = Spool::connect(&at(&server), metrics.clone(), |fatal| panic!("{fatal}"));
        let place = Self {
            server,
            spool: spool.expect("opens"),
            metrics,
        };
        for body in bodies {
            place.keep(body).await;
        }
        place
    }

    async fn keep(&self, body: impl AsRef<[u8]>) {
        let kept = self.spool.accept(submission(body, &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now));
    }

    /// Nobody waits for what cannot be written.
    async fn settles(&self, sequence: i64) {
        let settled = self
            .spool
            .settle(settlement(&key(sequence), Settled::Delivered));
        let settled = tokio::time::timeout(Duration::from_secs(30), settled).await;
        settled.expect("it goes on").expect("the spool is there");
    }

    fn sql(&self, sql: &str) -> String {
        self.server
            .sql(&format!("SET search_path = suki_relay; {sql}"))
    }

    /// Sequences of what is due and sound, and of what is not.
    async fn due(&self) -> (Vec<i64>, Vec<i64>) {
        let page = self
            .spool
            .due(&name("ehr"), NOW, 1000)
            .await
            .expect("reads");
        let sound = page.deliveries.iter().map(|due| &due.key);
        let sequences =
            |keys: &mut dyn Iterator<Item = &DeliveryKey>| keys.map(|key| key.sequence).collect();
        (
            sequences(&mut sound.into_iter()),
            sequences(&mut page.unreadable.iter()),
        )
    }

    fn file(&self, relation: &str) -> PathBuf {
        let path = self.sql(&format!("SELECT pg_relation_filepath({relation})"));
        self.server.path().join("data").join(path)
    }

    /// Overwrites those pages of a file of the server's that are so, as a disk might; tells how many are.
    async fn harm(&mut self, relation: &str, is_so: impl Fn(usize, &[u8]) -> bool) -> usize {
        // What is read once is marked as such: a start has nothing to write over them again.
        for table in ["notification", "content", "delivery"] {
            self.sql(&format!("SELECT count(*) FROM {table}"));
        }
        self.server.sql("CHECKPOINT");
        let file = self.file(relation);
        self.server.kill();
        let mut bytes = fs::read(&file).expect("reads");
        let mut harmed = 0;
        for (n, page) in bytes.chunks_mut(PAGE).enumerate() {
            if is_so(n, page) {
                page.fill(0xa5);
                harmed += 1;
            }
        }
        fs::write(&file, bytes).expect("writes");
        self.server.run();
        // Each session finds out that it is over.
        let reads = async || self.spool.due(&name("nobody"), NOW, 1).await.is_ok();
        while !(reads().await && reads().await && reads().await) {}
        harmed
    }

    /// A delivery whose row is on the first page, or is not.
    fn on_first_page(&self, is_so: bool) -> i64 {
        let find = "SELECT max(seq) FROM delivery WHERE ((ctid::text::point)[0] = 0) =";
        self.sql(&format!("{find} {is_so}"))
            .parse()
            .expect("a number")
    }
}

fn key(sequence: i64) -> DeliveryKey {
    DeliveryKey {
        sequence,
        target: name("ehr"),
    }
}

fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| n.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_what_was_received_is_in_nobodys_way() {
    let place = Place::with(numbered(7)).await;
    place.sql("INSERT INTO name (text) VALUES ('no name')");
    for harm in [
        "UPDATE delivery SET attempts = -1 WHERE seq = 1",
        "UPDATE delivery SET replayed_after = 4294967296 WHERE seq = 2",
        "UPDATE content SET body = 'other' WHERE seq = 3",
        "DELETE FROM content WHERE seq = 4",
        "UPDATE notification SET source = (SELECT id FROM name WHERE text = 'no name') WHERE seq = 5",
        "UPDATE notification SET source = -1 WHERE seq = 6",
    ] {
        place.sql(harm);
    }
    let (sound, mut unreadable) = place.due().await;
    unreadable.sort_unstable();
    assert_eq!((sound, unreadable), (vec![7], (1..=6).collect()));
    assert_eq!(place.metrics.error_count(Op::Read), 6);
    let since = NOW.minus(Duration::from_secs(1));
    let fresh = place.spool.fresh(&name("ehr"), since, NOW, 9).await;
    assert_eq!(fresh.expect("reads").deliveries.len(), 1);
    let record = place.spool.record(3).await.expect("reads");
    assert!(record.is_none(), "an operator is shown nothing else");
    let all = Filter::default();
    let page = place.spool.list(&all, Cursor::default(), 9).await;
    let page = page.expect("reads");
    let shown: Vec<_> = page.entries.iter().map(|entry| entry.sequence).collect();
    assert_eq!((shown, page.unreadable), (vec![3, 4, 7], vec![1, 2, 5, 6]));
}

/// Where bodies are that are too long for a row.
const LONG_BODIES: &str = "(SELECT reltoastrelid FROM pg_class WHERE oid = 'content'::regclass)";

/// Of a length that no compression takes away.
fn noise(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric)
        .take(length)
        .collect()
}

/// Bodies that are kept in the row, and bodies that are too long for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_on_a_damaged_page_is_in_nobodys_way() {
    for (of_bodies, harmed_at) in [("'content'", 100..1000), (LONG_BODIES, 10_000..20_000)] {
        let bodies = (0..60).map(|n| format!("{n} {}", noise(fastrand::usize(harmed_at.clone()))));
        let mut place = Place::with(bodies).await;
        assert_eq!(place.harm(of_bodies, |n, _| n == 1).await, 1);
        let (sound, unreadable) = place.due().await;
        assert!(
            !unreadable.is_empty() && unreadable.len() < 30,
            "{unreadable:?}"
        );
        assert_eq!(sound.len() + unreadable.len(), 60);
        for sequence in &unreadable {
            let postponed = Settled::Retry {
                due_at: Timestamp::MAX,
            };
            settle(&place.spool, &key(*sequence), postponed).await;
        }
        assert_eq!(place.due().await, (sound, Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_on_a_damaged_page_stays_and_the_others_leave() {
    let bodies = numbered(60).map(|n| format!("{n} {}", noise(10_000)));
    let mut place = Place::with(bodies).await;
    for due in due(&place.spool, "ehr").await {
        settle(&place.spool, &due.key, Settled::Delivered).await;
    }
    assert_eq!(place.harm(LONG_BODIES, |n, _| n == 1).await, 1);
    let options = PostgresOptions {
        keep_delivered: Duration::from_secs(1),
        ..at(&place.server)
    };
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let relay = Spool::connect(&options, metrics.clone(), |fatal| panic!("{fatal}"));
    let _relay = relay.expect("opens");
    let left = || {
        let left = place.sql("SELECT count(*) FROM notification");
        left.parse::<u64>().expect("a number")
    };
    eventually(|| left() < 10).await;
    let told = || metrics.error_count(Op::Read);
    eventually(|| left() > 0 && left() == told()).await;
}

/// What was sent for it is known nowhere but here, and it is sent again after the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_can_never_be_written_is_in_nobodys_way() {
    let place = Place::with(numbered(3)).await;
    assert_eq!(place.due().await.0, [1, 2, 3]);
    place.sql("UPDATE delivery SET attempts = -1 WHERE seq = 1");
    place.settles(1).await;
    place.settles(2).await;
    place.keep("another").await;
    let due = place.due().await;
    assert_eq!(due, (vec![3, 4], vec![]), "until the next start");
    assert_eq!(place.metrics.error_count(Op::Read), 1, "it is told once");
    let states = "SELECT string_agg(state::text, '' ORDER BY seq) FROM delivery";
    assert_eq!(place.sql(states), "0100");
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_on_a_damaged_page_are_in_nobodys_way() {
    let mut place = Place::with(numbered(200)).await;
    assert_eq!(place.due().await.0.len(), 200);
    let (harmed, sound) = (place.on_first_page(true), place.on_first_page(false));
    assert_eq!(place.harm("'delivery'", |n, _| n == 0).await, 1);
    for sequence in [1, harmed, sound] {
        place.settles(sequence).await;
    }
    place.keep("another").await;
    let state = "SELECT state FROM delivery WHERE seq =";
    assert_eq!(place.sql(&format!("{state} {sound}")), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_leaves_out_what_is_damaged_and_goes_on() {
    // In two commits: a kept order passes it as well.
    const COUNT: usize = 600;
    let place = Place::with(numbered(COUNT)).await;
    for due in due(&place.spool, "ehr").await {
        drop(
            place
                .spool
                .settle(settlement(&due.key, Settled::DeadLettered)),
        );
    }
    let dead = "SELECT count(*) FROM delivery WHERE state = 2";
    eventually(|| place.sql(dead) == COUNT.to_string()).await;
    let harm = "UPDATE delivery SET attempts = -1 WHERE seq IN (5, 590)";
    place.sql(harm);
    let filter = |state| Filter {
        state: Some(state),
        ..Filter::default()
    };
    let discard = Discard {
        filter: filter(State::DeadLetter),
        by: name("someone"),
        count: Some(COUNT as u64),
        dry_run: false,
    };
    let refused = place.spool.discard(discard).await;
    assert!(matches!(refused, Err(CustodyError::Damaged)), "{refused:?}");
    assert_eq!(place.sql(dead), COUNT.to_string());

    let replay = Replay {
        filter: Filter::default(),
        to: ReplayTo::DeadLetters,
        by: name("someone"),
        dry_run: false,
    };
    let done = place.spool.replay(replay).await.expect("is done");
    assert_eq!((done.matched, done.done), (COUNT as u64, COUNT as u64 - 2));
    assert_eq!(place.sql(dead), "2");
    assert!(place.spool.errands().await.expect("reads").is_empty());
    assert_eq!(place.metrics.error_count(Op::Read), 3);
}
