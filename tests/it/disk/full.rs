//! No room: bytes, inodes or a quota (Q01, Q02), as the relay runs and as it starts (S04).

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{all_arrive, all_is_settled, body, none_starts, post, probes_are_well, spool_of, to};
use crate::harness::{Faults, Relay, Setup, SmallDisk, Target, Watch, eventually, sign};

const REFUSED: &str = "suki_relay_spool_errors_total{op=\"full\"}";
const AVAILABLE: &str = "suki_relay_spool_disk_available_bytes";

/// Posts until one is refused; returns what was acknowledged.
async fn post_until_refused(relay: &Relay, from: usize) -> Vec<Vec<u8>> {
    let sender = relay.sender();
    let mut acknowledged = Vec::new();
    for n in from..from + 5000 {
        let answer = sender.post(body(n)).await.expect("an answer");
        match answer.status {
            200 => acknowledged.push(body(n).into_bytes()),
            500 => return acknowledged,
            other => panic!("{other}"),
        }
    }
    panic!("never full")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_delivers_what_it_holds_and_heals() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&spool_of(&setup), "16m");
    let mut relay = setup.start_on(&disk);
    let sender = relay.sender();
    let (at, first) = (sender.generated_at(), body(0));
    let signature = sign(&at, first.as_bytes());
    let answer = sender.send(&at, &signature, first.clone()).await;
    assert_eq!(answer.expect("an answer").status, 200);
    let mut watch = Watch::begin(&relay);

    disk.fill();
    eventually("Q01: the gauge tells before", async || {
        let left = relay.metric(AVAILABLE).await;
        left < 4096.0 && relay.metric(REFUSED).await < 0.5
    })
    .await;
    let mut owed = post_until_refused(&relay, 1).await;
    owed.push(first.clone().into_bytes());
    assert!(relay.metric(REFUSED).await > 0.5, "Q01");
    probes_are_well(&relay).await;
    let again = sender.send(&at, &signature, first).await;
    let again = again.expect("an answer").status;
    assert_eq!(again, 200, "Q01: it is kept already");

    target.mend();
    all_arrive(&target, &owed, "Q01").await;
    all_is_settled(&relay, "Q01").await;
    // Still as full: in the room that the delivered ones leave.
    let n = AtomicUsize::new(100_000);
    eventually(
        "Q01: new ones take the place of delivered ones",
        async || {
            let n = n.fetch_add(1, Ordering::SeqCst);
            sender.post(body(n)).await.expect("an answer").status == 200
        },
    )
    .await;

    disk.make_room();
    relay.log_line("the disk has room again: new notifications are accepted");
    owed = vec![watch.goes_on(&relay, "Q01").await];
    all_arrive(&target, &owed, "Q01: it has healed").await;
    probes_are_well(&relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_on_a_full_disk_and_delivers_what_it_holds() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&spool_of(&setup), "16m");
    let relay = setup.start_on(&disk);
    let mut owed = Vec::new();
    for n in 0..50 {
        owed.push(post(&relay, n, "S04").await);
    }
    relay.kill();
    disk.fill();
    target.mend();
    let relay = setup.start_on(&disk);
    probes_are_well(&relay).await;
    all_arrive(&target, &owed, "S04").await;
    all_is_settled(&relay, "S04").await;
    disk.make_room();
    relay.is_well("S04: a start on a full disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_quota_is_a_full_disk_and_heals() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start_at("trace");
    post(&relay, 0, "Q01: EDQUOT").await;
    let mut watch = Watch::begin(&relay);
    let sender = relay.sender();
    let quota = Faults::of_writes(&relay, &spool_of(&setup), "EDQUOT").await;
    let refused = sender.post(body(1)).await.expect("an answer");
    assert_eq!(refused.status, 500, "Q01: EDQUOT");
    assert!(relay.metric(REFUSED).await > 0.5, "Q01: EDQUOT");
    probes_are_well(&relay).await;
    quota.end();
    let n = AtomicUsize::new(2);
    eventually("Q01: EDQUOT: it accepts again", async || {
        let n = n.fetch_add(1, Ordering::SeqCst);
        sender.post(body(n)).await.expect("an answer").status == 200
    })
    .await;
    let body = watch.goes_on(&relay, "Q01: EDQUOT").await;
    all_arrive(&target, &[body], "Q01: EDQUOT").await;
}

/// What is made at a start, in this order, and how making it fails; the last is the sync of the folder.
const MADE: [(&str, &str, &str, &str); 7] = [
    ("Q01: ENOSPC", "mkdir", "", "ENOSPC"),
    ("Q02: no inode", "openat", "spool.lock", "ENOSPC"),
    ("Q01: EDQUOT", "openat", "spool.db.new", "EDQUOT"),
    ("Q01: ENOSPC", "rename", "spool.db.new", "ENOSPC"),
    ("Q01: ENOSPC", "openat", "ballast", "ENOSPC"),
    ("Q02: no inode", "openat", "spool.db-wal", "ENOSPC"),
    ("Q01: ENOSPC", "fsync", "", "ENOSPC"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_cannot_make_or_sync_is_told_and_the_next_one_makes_it() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    for (row, call, file, error) in MADE {
        let mut fault = None;
        let file = match file {
            "" => spool_of(&setup),
            file => spool_of(&setup).join(file),
        };
        let relay = setup.start_halted(|pid| {
            fault = Some(Faults::at_start(pid, call, error, &file));
        });
        assert!(relay.is_none(), "{row}: {call} of {}", file.display());
    }
    let relay = setup.start_at("trace");
    relay.is_well("Q01, Q02: starts that failed").await;
    eventually("Q01: it is delivered", async || target.count() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inodes_a_relay_goes_on_and_none_starts_in_silence() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&spool_of(&setup), "16m,nr_inodes=30");
    let relay = setup.start_on(&disk);
    post(&relay, 100, "Q02").await;
    let mut watch = Watch::begin(&relay);
    disk.take_inodes();
    let mut owed = HashSet::new();
    for n in 0..30 {
        owed.insert(post(&relay, n, "Q02").await);
    }
    owed.insert(watch.goes_on(&relay, "Q02: while there is none").await);
    let owed: Vec<_> = owed.into_iter().collect();
    all_arrive(&target, &owed, "Q02").await;
    probes_are_well(&relay).await;
    assert!(relay.terminate().await.success(), "Q02");

    // SQLite took its log away when it was closed: its inode is gone to the neighbour.
    disk.give_inodes();
    disk.take_inodes();
    none_starts(&disk.enter(&setup.command()), "spool", "Q02");
    disk.give_inodes();
    let relay = setup.start_on(&disk);
    relay.is_well("Q02: a start without inodes").await;
    assert!(relay.terminate().await.success(), "Q02");
}

/// Row Q09: file systems that may be gone with the pod, and how that is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_on_what_goes_with_the_pod_is_warned_of() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let folder = spool_of(&setup);
    for (disk, words) in [
        (SmallDisk::at(&folder, "16m"), "tmpfs, in memory"),
        (SmallDisk::overlay_at(&folder), "overlayfs, which"),
    ] {
        let relay = setup.start_on(&disk);
        let warned = relay.log().iter().any(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == "WARN" && message.contains(words)
        });
        assert!(warned, "Q09: {words}: {:?}", relay.log());
        relay.is_well(&format!("Q09: {words}")).await;
        assert!(relay.terminate().await.success(), "Q09");
    }
}
