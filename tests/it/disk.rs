//! Faults of the disk, on real ones: a full file system, a spent quota, a read-only one, a damaged record.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{Faults, Relay, Setup, SmallDisk, Target, eventually, sign};

const REFUSED: &str = "suki_relay_spool_errors_total{op=\"full\"}";
const PENDING: &str = "suki_relay_deliveries_pending{target=\"ehr\"}";
const AVAILABLE: &str = "suki_relay_spool_disk_available_bytes";

fn to(target: &Target) -> String {
    let url = target.url();
    format!(
        "
targets:
  - name: ehr
    http: {{ url: \"{url}\" }}
    retry: {{ initial: 50ms, max: 100ms }}
    breaker: {{ probe_after: 50ms, probe_max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
"
    )
}

fn body(n: usize) -> String {
    let filling = "x".repeat(20_000);
    format!(r#"{{"status":"success","session_id":"{n}","note":"{filling}"}}"#)
}

fn delivered(target: &Target) -> HashSet<Vec<u8>> {
    let requests = target.requests();
    let taken = requests.iter().filter(|request| request.status == 200);
    taken.map(|request| request.body.to_vec()).collect()
}

async fn probes_are_well(relay: &Relay) {
    for path in ["/startupz", "/readyz", "/livez"] {
        assert_eq!(relay.admin(path).await, (200, "ok\n".to_owned()), "{path}");
    }
}

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
    let disk = SmallDisk::at(&setup.path().join("spool"), "16m");
    let mut relay = setup.start_on(&disk);
    let warned = relay.log().iter().any(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains("tmpfs, in memory")
    });
    assert!(warned, "Q09: {:?}", relay.log());
    let sender = relay.sender();
    let (at, first) = (sender.generated_at(), body(0));
    let signature = sign(&at, first.as_bytes());
    let answer = sender.send(&at, &signature, first.clone()).await;
    assert_eq!(answer.expect("an answer").status, 200);

    disk.fill();
    eventually("the gauge tells before", async || {
        let left = relay.metric(AVAILABLE).await;
        left < 4096.0 && relay.metric(REFUSED).await < 0.5
    })
    .await;
    let mut owed = post_until_refused(&relay, 1).await;
    owed.push(first.clone().into_bytes());
    assert!(relay.metric(REFUSED).await > 0.5);
    probes_are_well(&relay).await;
    let again = sender.send(&at, &signature, first).await;
    assert_eq!(again.expect("an answer").status, 200, "it is kept already");

    target.mend();
    eventually("all is delivered, and settled for good", async || {
        let delivered = delivered(&target);
        owed.iter().all(|body| delivered.contains(body)) && relay.metric(PENDING).await < 0.5
    })
    .await;
    // Still as full: in the room that the delivered ones leave.
    let n = std::sync::atomic::AtomicUsize::new(100_000);
    let post = async || {
        let n = n.fetch_add(1, Ordering::SeqCst);
        sender.post(body(n)).await.expect("an answer").status == 200
    };
    eventually("new ones take the place of delivered ones", post).await;

    disk.make_room();
    relay.log_line("the disk has room again: new notifications are accepted");
    assert!(post().await);
    probes_are_well(&relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_on_a_full_disk_and_delivers_what_it_holds() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&setup.path().join("spool"), "16m");
    let relay = setup.start_on(&disk);
    let mut owed = Vec::new();
    for n in 0..50 {
        let answer = relay.sender().post(body(n)).await.expect("an answer");
        assert_eq!(answer.status, 200);
        owed.push(body(n).into_bytes());
    }
    relay.kill();
    disk.fill();
    target.mend();
    let relay = setup.start_on(&disk);
    probes_are_well(&relay).await;
    eventually("all is delivered, and settled for good", async || {
        let delivered = delivered(&target);
        owed.iter().all(|body| delivered.contains(body)) && relay.metric(PENDING).await < 0.5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_quota_is_a_full_disk_and_heals() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start();
    let sender = relay.sender();
    let quota = Faults::of_writes(&relay, &setup.path().join("spool"), "EDQUOT").await;
    let refused = sender.post(body(1)).await.expect("an answer");
    assert_eq!(refused.status, 500);
    assert!(relay.metric(REFUSED).await > 0.5);
    probes_are_well(&relay).await;
    quota.end();
    let n = std::sync::atomic::AtomicUsize::new(2);
    eventually("it accepts again", async || {
        let n = n.fetch_add(1, Ordering::SeqCst);
        sender.post(body(n)).await.expect("an answer").status == 200
    })
    .await;
}

/// A checksum that is wrong, as XFS and ext4 tell of it. What the writer reads first is of one record: of what it
/// settles, or of what it would drop.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_is_one_records_damage_and_ends_nothing() {
    let target = Target::slow(Duration::from_secs(3)).await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start();
    let sender = relay.sender();
    assert_eq!(sender.post(body(1)).await.expect("an answer").status, 200);
    relay.kill();
    let mut relay = setup.start();
    let database = setup.path().join("spool/spool.db");
    let _failing = Faults::of_first_reads(&relay, &database, "EBADMSG").await;
    let damage = "suki_relay_spool_errors_total{op=\"read\"}";
    eventually("a read failed", async || relay.metric(damage).await > 0.5).await;
    eventually("it is delivered", async || delivered(&target).len() == 1).await;
    let answer = relay.sender().post(body(2)).await.expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("the next is delivered", async || {
        delivered(&target).len() == 2
    })
    .await;
    assert!(!relay.has_ended());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_ends_the_relay_and_no_200_is_false() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let mut relay = setup.start();
    let _failing = Faults::of_writes(&relay, &setup.path().join("spool"), "EROFS").await;
    let answer = relay.sender().post(body(1)).await;
    assert!(answer.is_none_or(|answer| answer.status == 500));
    assert_eq!(relay.ended().await.code(), Some(74));
    assert_eq!(target.count(), 0);
}

/// It exits with 74 and these words; once the disk is mended, one starts and delivers.
async fn none_starts(setup: &Setup, disk: &SmallDisk, why: &str, mend: impl FnOnce()) {
    let ended = disk.enter(&setup.command()).output().expect("it runs");
    assert_eq!(ended.status.code(), Some(74), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains(why), "{said}");
    mend();
    let relay = setup.start_on(disk);
    let answer = relay.sender().post(body(77)).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inodes_a_relay_goes_on_and_none_starts_in_silence() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&setup.path().join("spool"), "16m,nr_inodes=30");
    let relay = setup.start_on(&disk);
    disk.take_inodes();
    for n in 0..30 {
        let answer = relay.sender().post(body(n)).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    eventually("all is delivered", async || delivered(&target).len() == 30).await;
    probes_are_well(&relay).await;
    assert!(relay.terminate().await.success());

    // SQLite took its log away when it was closed: its inode is gone to the neighbour.
    disk.give_inodes();
    disk.take_inodes();
    none_starts(&setup, &disk, "spool", || disk.give_inodes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_read_only_disk_none_starts_in_silence() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&setup.path().join("spool"), "16m");
    assert!(setup.start_on(&disk).terminate().await.success());
    disk.remount("ro");
    none_starts(&setup, &disk, "Read-only file system", || {
        disk.remount("rw");
    })
    .await;
}

/// Bytes of two bodies are overwritten, in the database of a stopped relay: a letter of one, whole pages
/// of the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_isolated_counted_and_told_and_the_others_are_delivered() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start();
    for n in 0..40 {
        let answer = relay.sender().post(body(n)).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    assert!(relay.terminate().await.success());
    let file = setup.path().join("spool/spool.db");
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
    let mut relay = setup.start();
    let sound = |n: &usize| ![7, 23].contains(n);
    eventually("every sound one is delivered", async || {
        let delivered = delivered(&target);
        (0..40)
            .filter(sound)
            .all(|n| delivered.contains(body(n).as_bytes()))
    })
    .await;
    let told = relay.log_line(
        "records cannot be read, or are not what was received; their deliveries wait, and are tried again \
         every 5 minutes. Look at the volume",
    );
    assert_eq!(told["level"], "ERROR");
    eventually("both wait", async || relay.metric(PENDING).await < 2.5).await;
    assert!(
        relay
            .metric("suki_relay_spool_errors_total{op=\"read\"}")
            .await
            > 1.5
    );
    assert_eq!(delivered(&target).len(), 38);
    assert!(relay.metric(PENDING).await > 1.5, "they are held");
    probes_are_well(&relay).await;
    let answer = relay.sender().post(body(99)).await.expect("an answer");
    assert_eq!(answer.status, 200);
}
