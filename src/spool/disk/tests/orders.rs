//! Orders of operators that meet damaged pages and rows.

use super::damage::{closed, damage, leaves};
use super::*;
use crate::clock::Timestamp;
use crate::spool::tests::custody::nowhere;
use crate::spool::tests::errands::{release_all, replay_dead};
use crate::spool::tests::quarantined;
use crate::spool::{
    CustodyError, Discard, Done, Filter, Reason, Release, ReleaseTo, Replay, ReplayTo, State,
};

/// So many that an order takes two commits, and is kept between them.
const MANY: usize = 501;

async fn keep(spool: &Spool, submissions: impl Iterator<Item = Submission>) {
    let kept = submissions.map(|one| {
        let spool = spool.clone();
        async move { spool.accept(one).await }
    });
    let kept = kept.collect::<JoinSet<_>>().join_all().await;
    assert!(kept.iter().all(|kept| *kept == Ok(Kept::Now)));
}

/// A folder that nobody has open, with so many in quarantine.
async fn held(count: usize) -> TempDir {
    let House { spool, folder, .. } = house();
    let one = |n: usize| quarantined(&n.to_string(), Reason::Unrouted, Verdict::Accepted);
    keep(&spool, (0..count).map(one)).await;
    drop(spool);
    closed(folder.path()).await;
    folder
}

/// As [`held`], with dead letters.
async fn dead(count: usize) -> TempDir {
    let House { spool, folder, .. } = house();
    let one = |n: usize| submission(n.to_string(), &["ehr"]);
    keep(&spool, (0..count).map(one)).await;
    let due = due(&spool, "ehr").await;
    let settled = due
        .iter()
        .map(|due| spool.settle(settlement(&due.key, Settled::DeadLettered)));
    for settled in settled.collect::<Vec<_>>() {
        settled.await.expect("is written");
    }
    drop(spool);
    closed(folder.path()).await;
    folder
}

fn change(folder: &Path, sql: &str) {
    let rows = Connection::open(folder.join("spool.db")).expect("opens");
    rows.execute_batch(sql).expect(sql);
}

fn to_ehr() -> Release {
    release_all(ReleaseTo::Targets(vec![name("ehr")]))
}

async fn owed(spool: &Spool) -> usize {
    let page = spool.due(&name("ehr"), Timestamp::MAX, 1000).await;
    page.expect("reads").deliveries.len()
}

/// It accepts, and has no order left to go on with.
async fn lives(spool: &Spool) {
    let done = within_a_minute(async || spool.errands().await.expect("reads").is_empty());
    tokio::select! {
        () = spool.carry_on(nowhere()) => {}
        () = done => {}
    }
    let new = submission(fastrand::u64(..).to_string(), &["audit"]);
    assert_eq!(spool.accept(new).await, Ok(Kept::Now));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_passes_a_damaged_page_and_every_start_after_it_works() {
    let folder = held(MANY).await;
    damage(folder.path(), &leaves(folder.path(), "notification")[1..2]);
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let Done { matched, done } = spool.release(to_ehr(), nowhere()).await.expect("is done");
    let done = usize::try_from(done).expect("few");
    assert_eq!(matched, MANY as u64);
    assert!((1..100).contains(&(MANY - done)), "{done}");
    assert!(metrics.error_count(Op::Read) > 0);
    let mut spool = spool;
    for _ in 0..2 {
        lives(&spool).await;
        assert_eq!(owed(&spool).await, done);
        drop(spool);
        closed(folder.path()).await;
        spool = open(folder.path(), CAPACITY).expect("opens").0;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_kept_passes_a_damaged_page_at_the_next_start() {
    let folder = held(MANY).await;
    change(
        folder.path(),
        r#"INSERT INTO errand VALUES
           (7, '{"what":"release_to","targets":["ehr"],"state":"quarantined"}', 'someone', 0, 0, 0, 0)"#,
    );
    damage(folder.path(), &leaves(folder.path(), "notification")[1..2]);
    for _ in 0..2 {
        let (spool, _) = open(folder.path(), CAPACITY).expect("opens");
        lives(&spool).await;
        assert!(owed(&spool).await > MANY - 100);
        drop(spool);
        closed(folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_passes_a_delivery_that_cannot_be_read() {
    let folder = dead(MANY).await;
    change(
        folder.path(),
        "UPDATE delivery SET attempts = -1 WHERE seq = 2",
    );
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let done = spool.replay(replay_dead()).await.expect("is done");
    let many = MANY as u64;
    assert_eq!((done.matched, done.done), (many, many - 1));
    assert_eq!(owed(&spool).await, MANY - 1);
    let dead = metrics.target(&name("ehr")).dead_letters.get();
    assert_eq!(dead, 1);
    lives(&spool).await;
}

/// Which of them an order is for, and to which targets, is read before it is carried out.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_passes_what_cannot_be_looked_at() {
    let folder = dead(MANY).await;
    for table in ["notification", "delivery"] {
        damage(folder.path(), &leaves(folder.path(), table)[..1]);
    }
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let replay = Replay {
        to: ReplayTo::All,
        ..replay_dead()
    };
    let Done { matched, done } = spool.replay(replay).await.expect("is done");
    assert_eq!(matched, MANY as u64, "nothing is left out in silence");
    assert!((200..MANY as u64).contains(&done), "{done}");
    assert!(metrics.error_count(Op::Read) > 0);
    lives(&spool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_passes_a_damaged_page_of_deliveries() {
    let folder = dead(MANY).await;
    damage(folder.path(), &leaves(folder.path(), "delivery")[1..2]);
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let Done { matched, done } = spool.replay(replay_dead()).await.expect("is done");
    assert_eq!(matched, MANY as u64);
    assert!((200..MANY as u64).contains(&done), "{done}");
    assert!(metrics.error_count(Op::Read) > 0);
    lives(&spool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_of_what_is_damaged_is_refused_and_nothing_is_let_go_of() {
    let discard = |state, count| Discard {
        filter: Filter {
            state: Some(state),
            ..Filter::default()
        },
        count: Some(count),
        by: name("someone"),
        dry_run: false,
    };
    let folder = held(60).await;
    // Not the last: that one is everybody's.
    damage(folder.path(), &leaves(folder.path(), "notification")[..1]);
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let refused = spool.discard(discard(State::Quarantined, 60)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(metrics.error_count(Op::Commit), 0);
    lives(&spool).await;
    assert_eq!(
        spool.counts().await.expect("reads").quarantine[&Reason::Unrouted],
        60
    );

    let folder = dead(3).await;
    change(
        folder.path(),
        "UPDATE delivery SET attempts = -1 WHERE seq = 2",
    );
    let (spool, _) = open(folder.path(), CAPACITY).expect("opens");
    let refused = spool.discard(discard(State::DeadLetter, 3)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(
        !matches!(refused, Err(CustodyError::Failed)),
        "again would be no other"
    );
    lives(&spool).await;
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.targets[&name("ehr")].dead, 3);
}
