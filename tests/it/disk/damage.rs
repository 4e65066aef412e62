//! What cannot be read, or is not what was written: of one record (Q03), and of files that somebody or a crash has left
//! behind (Q07).

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use super::{
    PENDING, all_arrive, all_is_settled, body, delivered, none_starts, post, probes_are_well,
    spool_of, to, told_missing,
};
use crate::harness::{Faults, Setup, Target, Watch, assert_untold, eventually};

const UNREAD: &str = "suki_relay_spool_errors_total{op=\"read\"}";

/// A sector that cannot be read, and a checksum that is wrong, as XFS and ext4 tell of it. What the writer reads
/// first is of one record: of what it settles, or of what it would drop.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_is_one_records_damage_and_ends_nothing() {
    tokio::join!(
        a_read_that_fails("EIO", "Q03: EIO on read"),
        a_read_that_fails("EBADMSG", "Q03: a wrong checksum"),
    );
}

async fn a_read_that_fails(error: &str, row: &str) {
    let target = Target::slow(Duration::from_secs(3)).await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start();
    let first = post(&relay, 1, row).await;
    relay.kill();
    let mut relay = setup.start_at("trace");
    let database = spool_of(&setup).join("spool.db");
    let failing = Faults::of_first_reads(&relay, &database, error).await;
    eventually(row, async || relay.metric(UNREAD).await > 0.5).await;
    all_arrive(&target, &[first], row).await;
    let second = post(&relay, 2, row).await;
    failing.end();
    let mut watch = Watch::begin(&relay);
    let third = watch.goes_on(&relay, row).await;
    all_arrive(&target, &[second, third], row).await;
    assert!(!relay.has_ended(), "{row}");
}

/// Bytes of two bodies are overwritten, in the database of a stopped relay: a letter of one, whole pages
/// of the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_isolated_counted_and_told_and_the_others_are_delivered() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start();
    for n in 0..40 {
        post(&relay, n, "Q07").await;
    }
    assert!(relay.terminate().await.success());
    let file = spool_of(&setup).join("spool.db");
    let mut bytes = fs::read(&file).expect("readable");
    let place = |bytes: &[u8], n: usize| {
        let mark = format!(r#""session_id":"{n}","note":"#).into_bytes();
        let found = bytes.windows(mark.len()).position(|part| part == mark);
        found.expect("the body is there") + mark.len()
    };
    let letter = place(&bytes, 7) + 10;
    bytes[letter] = b'y';
    let page = place(&bytes, 23) / 4096 * 4096;
    bytes[page..page + 4096].fill(0xa5);
    fs::write(&file, bytes).expect("writable");

    target.mend();
    let mut relay = setup.start_at("trace");
    let sound = (0..40).filter(|n| ![7, 23].contains(n));
    let sound: Vec<_> = sound.map(|n| body(n).into_bytes()).collect();
    all_arrive(&target, &sound, "Q07: the sound ones").await;
    let told = relay.log_line(
        "records cannot be read, or are not what was received; their deliveries wait, and are tried again \
         every 5 minutes. Look at the volume",
    );
    assert_eq!(told["level"], "ERROR", "Q07");
    eventually("Q07: both wait", async || relay.metric(PENDING).await < 2.5).await;
    assert!(relay.metric(UNREAD).await > 1.5, "Q07");
    assert_eq!(delivered(&target).len(), 38, "Q07");
    assert!(relay.metric(PENDING).await > 1.5, "Q07: they are held");
    probes_are_well(&relay).await;
    relay.is_well("Q07: a damaged record").await;
}

/// What a crash or a neighbour leaves behind the last record of the log, made of that.
type Tail = (&'static str, fn(&[u8]) -> Vec<u8>);

const TAILS: [Tail; 4] = [
    ("Q07: a zero tail", |_| vec![0; 70_000]),
    ("Q07: a garbage tail", |_| vec![0xa5; 70_000]),
    ("Q07: half a record", |log| {
        log[HEADER..][..FRAME / 2].into()
    }),
    ("Q07: a record twice", |log| log[HEADER..][..FRAME].into()),
];

/// Of a log, and of a page in it (SQLite, "Database File Format", 4).
const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_behind_the_last_whole_record_is_no_record() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let mut owed = Vec::new();
    for (n, (row, tail)) in TAILS.into_iter().enumerate() {
        let relay = setup.start();
        owed.push(post(&relay, n, row).await);
        relay.kill();
        let file = spool_of(&setup).join("spool.db-wal");
        let mut log = fs::read(&file).expect("readable");
        log.extend(tail(&log));
        fs::write(&file, log).expect("writable");
        setup.start_at("trace").is_well(row).await;
    }
    target.mend();
    let relay = setup.start_at("trace");
    all_arrive(&target, &owed, "Q07: all that came before").await;
    all_is_settled(&relay, "Q07").await;
    assert!(relay.metric(UNREAD).await < 0.5, "Q07");
    relay.is_well("Q07: tails").await;
}

/// What is no spool, or a newer one's, made of ours.
type Other = (&'static str, fn(&mut Vec<u8>), &'static str);

const OTHERS: [Other; 4] = [
    (
        "Q07: no database",
        |file| *file = b"canary".into(),
        "not a spool",
    ),
    (
        "Q07: cut short",
        |file| file.truncate(file.len() / 2),
        "damaged",
    ),
    (
        "Q07: of another program",
        |file| file[71] = 7,
        "not a spool",
    ),
    ("Q07: of a newer relay", |file| file[63] = 2, "newer"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_ours_is_refused_and_left_as_it_is() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start();
    let owed = post(&relay, 0, "Q07").await;
    assert!(relay.terminate().await.success());
    let file = spool_of(&setup).join("spool.db");
    let ours = fs::read(&file).expect("readable");
    for (row, change, why) in OTHERS {
        let mut other = ours.clone();
        change(&mut other);
        fs::write(&file, &other).expect("writable");
        none_starts(&setup.command(), why, row);
        assert!(fs::read(&file).expect("readable") == other, "{row}");
    }
    fs::write(&file, ours).expect("writable");
    target.mend();
    let relay = setup.start_at("trace");
    all_arrive(&target, &[owed], "Q07: ours is back").await;
    relay.is_well("Q07: ours is back").await;
}

/// Q04: somebody cuts the database while the relay runs: what is lost of it, no relay can bring back.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_cut_short_takes_nothing_more() {
    let (works, broken) = (Target::accepting().await, Target::broken().await);
    a_cut(&works, |length| length - 4096, "Q04: of what is settled").await;
    a_cut(&broken, |length| length / 2, "Q04: of what is owed").await;
}

async fn a_cut(target: &Target, cut: impl Fn(u64) -> u64, row: &str) {
    let setup = Setup::new(&to(target));
    let relay = setup.start();
    let mut owed = HashSet::new();
    for n in 0..40 {
        owed.insert(post(&relay, n, row).await);
    }
    if delivered(target).contains(body(0).as_bytes()) {
        all_is_settled(&relay, row).await;
    }
    assert!(relay.terminate().await.success(), "{row}");
    let mut relay = setup.start_at("trace");
    // While its log is empty, SQLite holds the file against the length that it tells.
    owed.insert(post(&relay, 40, row).await);
    let file = spool_of(&setup).join("spool.db");
    let file = fs::File::options().write(true).open(file).expect("opens");
    let length = file.metadata().expect("a file").len();
    file.set_len(cut(length)).expect("cut");
    let takes = async || {
        let answer = relay.sender().post(body(100)).await;
        answer.is_some_and(|answer| answer.status == 200)
    };
    eventually(row, async || !takes().await).await;
    assert!(!takes().await, "{row}");
    assert!(told_missing(&relay) == 1 || relay.has_ended(), "{row}");
    assert_untold(relay.written().concat());
    relay.kill();
    target.mend();
    let relay = setup.start_at("trace");
    eventually(&format!("{row}: what is left arrives"), async || {
        delivered(target).len() > 2
    })
    .await;
    relay.is_well(row).await;
    owed.insert(body(100).into());
    let mut delivered = delivered(target);
    delivered.retain(|body| !body.starts_with(br#"{"status":"success","session_id":"canary"#));
    assert!(delivered.is_subset(&owed), "{row}: as they were");
}

/// Q04: the index of the log, which is mapped: the kernel ends whoever looks beyond its end.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_cut_short_costs_a_start_and_no_notification() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let mut relay = setup.start_at("trace");
    let owed = post(&relay, 0, "Q04").await;
    let index = spool_of(&setup).join("spool.db-shm");
    let index = fs::File::options().write(true).open(index).expect("opens");
    index.set_len(0).expect("cut");
    relay.ended().await;
    assert_untold(relay.written().concat());
    target.mend();
    let relay = setup.start_at("trace");
    all_arrive(&target, &[owed], "Q04: an index cut short").await;
    relay.is_well("Q04: an index cut short").await;
}
