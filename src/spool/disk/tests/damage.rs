//! Damaged pages and rows, in real files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::spool::{Cursor, Filter, State};

const PAGE: usize = 4096;
const KEPT: usize = 60;

/// Some settled notifications in a folder that nobody has open.
async fn settled() -> TempDir {
    let House { spool, folder, .. } = house();
    for n in 0..KEPT {
        let body = format!("{n} {}", "x".repeat(20_000));
        spool
            .accept(submission(body, &["ehr"]))
            .await
            .expect("room");
    }
    for due in due(&spool, "ehr").await {
        settle(&spool, &due.key, Settled::Delivered).await;
    }
    folder
}

/// Overwrites these pages, the first of which is number 1.
pub(in crate::spool) fn damage(folder: &Path, pages: &[usize]) {
    let file = folder.join("spool.db");
    let mut bytes = fs::read(&file).expect("reads");
    for page in pages {
        bytes[(page - 1) * PAGE..page * PAGE].fill(0xa5);
    }
    fs::write(&file, bytes).expect("writes");
}

/// The pages that hold the rows of a table, or of an index, in order; of a folder that nobody has open.
pub(in crate::spool) fn leaves(folder: &Path, table: &str) -> Vec<usize> {
    let rows = Connection::open(folder.join("spool.db")).expect("opens");
    let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path";
    let mut find = rows.prepare(sql).expect("SQL");
    let pages = find.query_map([table], |row| row.get::<_, u32>(0));
    let number = |page| usize::try_from(page).expect("small");
    let pages = pages.expect("reads").map(|page| page.map(number));
    pages.collect::<Result<_, _>>().expect("numbers")
}

/// Whoever had it open has let go of it.
pub(super) async fn closed(folder: &Path) {
    within_a_minute(async || Folder::open(folder).is_ok()).await;
}

/// What became of a relay that met the damage.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    /// It lives, has dropped so many, and counts what it could not read.
    Lives {
        left: i64,
        errors: bool,
    },
    Ends(String),
}

/// Opens the spool when all of it is past its time.
async fn meet(folder: &Path) -> Met {
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let options = Options {
        keep_delivered: Duration::from_secs(1),
        ..options(folder, CAPACITY)
    };
    let ended = Arc::new(AtomicBool::new(false));
    let (tell, told) = oneshot::channel();
    let on_fatal = {
        let ended = ended.clone();
        move |fatal: Fatal| {
            ended.store(true, Ordering::SeqCst);
            let _ = tell.send(fatal.to_string());
        }
    };
    let spool = match Spool::open(&options, metrics.clone(), on_fatal) {
        Ok(spool) => spool,
        Err(error) => return Met::Ends(error.to_string()),
    };
    let errors = || metrics.error_count(Op::Read) > 0;
    let rows = Connection::open(folder.join("spool.db")).expect("opens");
    let left = || -> Option<i64> {
        let count =
            "SELECT count(*) FROM notification NOT INDEXED WHERE settled_at < 1800000000000";
        rows.query_row(count, [], |row| row.get(0)).ok()
    };
    let settled_down = || ended.load(Ordering::SeqCst) || left() == Some(0) || errors();
    within_a_minute(async || settled_down()).await;
    let kept = spool.accept(submission("new", &["audit"])).await;
    if kept != Ok(Kept::Now) {
        // Who waits is let go of before the alarm sounds.
        let told = tokio::time::timeout(Duration::from_mins(1), told).await;
        let why = told.expect("it lives, and so it accepts").expect("why");
        return Met::Ends(why);
    }
    assert_eq!(due(&spool, "audit").await.len(), 1);
    Met::Lives {
        left: left().unwrap_or(-1),
        errors: errors(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_on_a_damaged_page_stays_and_the_others_leave() {
    let folder = settled().await;
    let body = {
        let bytes = fs::read(folder.path().join("spool.db")).expect("reads");
        // Deep inside bodies there is nothing but x: pages that continue one begin with the next one's number.
        let is_body = |page: &[u8]| page[4..].iter().all(|byte| *byte == b'x');
        let mut pages = bytes.chunks(PAGE);
        pages.position(is_body).expect("a page of a body") + 1
    };
    damage(folder.path(), &[body]);
    let met = meet(folder.path()).await;
    assert_eq!(
        met,
        Met::Lives {
            left: 1,
            errors: true
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_damaged_anywhere_is_lived_with_or_told_with_a_way_out() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let sound = settled().await;
    let pages = fs::read(sound.path().join("spool.db"))
        .expect("reads")
        .len()
        / PAGE;
    let mut lived = 0;
    for _ in 0..16 {
        let folder = tempfile::tempdir().expect("a folder");
        let [from, to] = [&sound, &folder].map(|folder| folder.path().join("spool.db"));
        fs::copy(from, to).expect("copies");
        // The first page is the header's: a file without it is no spool.
        let hit: Vec<_> = (0..random.usize(1..=3))
            .map(|_| random.usize(2..=pages))
            .collect();
        damage(folder.path(), &hit);
        match meet(folder.path()).await {
            Met::Lives { .. } => lived += 1,
            Met::Ends(why) => assert!(why.contains("start with an empty one"), "{hit:?}: {why}"),
        }
    }
    assert!(lived > 4, "{lived} of 16: bodies are most of the pages");
}

/// They stay, with what is to be written of them, and the others go on.
#[tokio::test]
async fn a_delivery_whose_row_is_damaged_is_in_nobodys_way() {
    let House { spool, folder, .. } = house();
    for body in ["first", "second", "third"] {
        let kept = spool.accept(submission(body, &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now));
    }
    drop(spool);
    closed(folder.path()).await;
    let rows = Connection::open(folder.path().join("spool.db")).expect("opens");
    let harm = "UPDATE delivery SET attempts = -1 WHERE seq = 1;
        UPDATE delivery SET replayed_after = -1 WHERE seq = 2;";
    rows.execute_batch(harm).expect("writes");
    drop(rows);

    let (spool, _) = open(folder.path(), CAPACITY).expect("opens");
    let page = spool.due(&name("ehr"), NOW, 10).await.expect("reads");
    let sequences = |keys: &[crate::spool::DeliveryKey]| {
        keys.iter().map(|key| key.sequence).collect::<Vec<_>>()
    };
    assert_eq!(sequences(&page.unreadable), [1, 2]);
    let [sound] = &page.deliveries[..] else {
        panic!("{} deliveries", page.deliveries.len());
    };
    let aside = settle(&spool, &page.unreadable[0], Settled::Delivered);
    let aside = tokio::time::timeout(Duration::from_mins(1), aside).await;
    aside.expect("nobody waits for what cannot be");
    settle(&spool, &sound.key, Settled::Delivered).await;
    let kept = spool.accept(submission("fourth", &["ehr"])).await;
    assert_eq!(kept, Ok(Kept::Now));
    let page = spool.due(&name("ehr"), NOW, 10).await.expect("reads");
    assert_eq!(sequences(&page.unreadable), [2], "until the next start");
    assert_eq!(page.deliveries.len(), 1);
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.targets[&name("ehr")].pending, 3);
    drop(spool);
    closed(folder.path()).await;
    let (spool, _) = open(folder.path(), CAPACITY).expect("opens");
    let page = spool.due(&name("ehr"), NOW, 10).await.expect("reads");
    assert_eq!(sequences(&page.unreadable), [1, 2]);
}

/// Its delivery is there, and the notification is not.
#[tokio::test]
async fn a_delivery_whose_notification_is_gone_refuses_no_other() {
    let House { spool, folder, .. } = house();
    for body in ["first", "second"] {
        let kept = spool.accept(submission(body, &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now));
    }
    let due = due(&spool, "ehr").await;
    let rows = Connection::open(folder.path().join("spool.db")).expect("opens");
    rows.execute_batch("DELETE FROM notification WHERE seq = 1")
        .expect("writes");
    let _waits = spool.settle(settlement(&due[0].key, Settled::Delivered));
    let kept = spool.accept(submission("third", &["ehr"])).await;
    assert_eq!(kept, Ok(Kept::Now));
    settle(&spool, &due[1].key, Settled::Delivered).await;
}

#[tokio::test]
async fn a_list_tells_what_cannot_be_read_beside_the_others() {
    let House { spool, folder, .. } = house();
    for n in 0..100 {
        let kept = spool.accept(submission(n.to_string(), &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now));
    }
    let id = |n: usize| submission(n.to_string(), &["ehr"]).notification.id;
    drop(spool);
    closed(folder.path()).await;
    let rows = Connection::open(folder.path().join("spool.db")).expect("opens");
    let harm = "UPDATE delivery SET attempts = -1 WHERE seq = 100";
    rows.execute_batch(harm).expect("writes");
    drop(rows);
    damage(folder.path(), &leaves(folder.path(), "notification")[..1]);
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    for (state, target) in [(None, None), (Some(State::Pending), Some(name("ehr")))] {
        let filter = Filter {
            state,
            target,
            ..Filter::default()
        };
        let (mut shown, mut unreadable) = (Vec::new(), Vec::new());
        let mut next = Some(Cursor::default());
        while let Some(after) = next {
            let page = spool.list(&filter, after, 7).await.expect("reads");
            assert!(page.entries.len() + page.unreadable.len() <= 7);
            shown.extend(page.entries.iter().map(|entry| entry.sequence));
            unreadable.extend(page.unreadable);
            next = page.next;
        }
        assert!(unreadable.starts_with(&[1, 2]) && unreadable.ends_with(&[100]));
        assert!(shown.len() > 20 && shown.ends_with(&[98, 99]));
        shown.append(&mut unreadable);
        shown.sort_unstable();
        assert_eq!(shown, (1..=100).collect::<Vec<_>>(), "each once");
    }
    assert!(metrics.error_count(Op::Read) > 0);
    assert_eq!(spool.find(id(98)).await.expect("reads").len(), 1);
    let refused = spool.find(id(99)).await.expect_err("is no absence");
    assert!(refused.to_string().contains("number 100"), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_found_to_be_dropped_holds_up_nothing_else() {
    let folder = settled().await;
    closed(folder.path()).await;
    damage(folder.path(), &leaves(folder.path(), "settled"));
    let desk = Desk::in_folder(folder.path());
    let mut writer = desk.writer();
    let errors = || desk.shared.metrics.error_count(Op::Read);
    let before = errors();
    let past = NOW.plus(options(folder.path(), CAPACITY).keep_delivered * 2);
    for _ in 0..2 {
        let wait = writer.tidy(past, true).expect("no failed sync");
        assert_eq!(wait, writer::TICK);
    }
    assert_eq!(errors(), before + 1, "it is not looked for each time");
}

#[tokio::test]
async fn a_damaged_row_hides_the_oldest_of_no_other_target() {
    let House { spool, folder, .. } = house();
    for n in 0..100 {
        let kept = spool.accept(submission(n.to_string(), &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now));
    }
    let kept = spool.accept(submission("last", &["audit"])).await;
    assert_eq!(kept, Ok(Kept::Now));
    drop(spool);
    closed(folder.path()).await;
    damage(folder.path(), &leaves(folder.path(), "notification")[..1]);
    let (_spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let oldest = metrics.target(&name("audit")).oldest_pending;
    eventually(move || oldest.get() > 0.0).await;
}
