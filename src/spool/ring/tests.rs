//! The ring through its door and on real files.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use prometheus::Registry;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::secret::Secret;
use crate::verify::{Keyring, signature};

const MIB: u64 = 1024 * 1024;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);

struct House {
    ring: Ring,
    metrics: Metrics,
    folder: TempDir,
}

impl House {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().expect("a folder"), MIB)
    }

    fn in_folder(folder: TempDir, unverified_capacity_bytes: u64) -> Self {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let options = Options {
            path: folder.path().to_owned(),
            capacity_bytes: MIB,
            keys: None,
            keep_delivered: Duration::from_hours(1),
            unverified_capacity_bytes,
        };
        Self {
            ring: Ring::start(&options, metrics.clone()),
            metrics,
            folder,
        }
    }

    /// The ring is closed, and opened again in the same folder.
    fn reopened(self, unverified_capacity_bytes: u64) -> Self {
        drop(self.ring);
        Self::in_folder(self.folder, unverified_capacity_bytes)
    }

    async fn all(&self) -> Vec<UnverifiedEntry> {
        self.ring.list(0, usize::MAX).await.expect("reads")
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

fn secret() -> Secret {
    Secret::from_text(b"the secret that was meant".to_vec()).expect("a secret")
}

fn request(body: &str) -> UnverifiedRequest {
    let generated_at = NOW.as_millis().to_string();
    UnverifiedRequest {
        source: Name::new("suki").expect("a name"),
        received_at: NOW,
        content_type: Some("application/json".into()),
        signed: Signed {
            signature: signature(&secret(), &generated_at, body.as_bytes()),
            generated_at,
            body: body.as_bytes().to_vec().into(),
        },
    }
}

#[tokio::test]
async fn what_is_kept_is_listed_found_as_it_came_and_removed() {
    let house = House::new();
    for body in ["first", "second", "third"] {
        house.ring.offer(PEER, request(body));
    }
    let all = house.all().await;
    let bodies: Vec<u64> = all.iter().map(|entry| entry.body_bytes).collect();
    assert_eq!(bodies, [5, 6, 5]);
    let second = house.ring.list(all[0].number, 1).await.expect("reads");
    assert_eq!(second, all[1..2]);
    let found = house.ring.find(second[0].number).await.expect("reads");
    assert_eq!(found, Some(request("second")));
    // Once the secret is right, it is a notification like any other.
    let keyring = Keyring::new([(Name::new("mended").expect("a name"), &secret())]);
    assert!(keyring.verify(found.expect("found").signed).is_ok());

    let number = second[0].number;
    assert!(house.ring.remove(number).await.expect("writes"));
    assert!(!house.ring.remove(number).await.expect("writes"));
    assert_eq!(house.ring.find(number).await.expect("reads"), None);
    assert_eq!(house.all().await.len(), 2);
    assert_eq!(house.metrics.unverified.get(), 2);
}

#[tokio::test]
async fn it_survives_a_restart_and_never_uses_a_number_twice() {
    let house = House::new();
    house.ring.offer(PEER, request("first"));
    let first = house.all().await.remove(0);
    let house = house.reopened(MIB);
    assert_eq!(house.all().await, std::slice::from_ref(&first));
    assert_eq!(house.metrics.unverified.get(), 1);
    house.ring.remove(first.number).await.expect("writes");
    house.ring.offer(PEER, request("second"));
    assert!(house.all().await[0].number > first.number);
}

#[tokio::test]
async fn the_oldest_goes_first_and_the_file_keeps_its_quota() {
    let mut house = House::new();
    let body = |n: usize| format!("{n} {}", "x".repeat(60_000));
    for n in 0..60 {
        house.ring.offer(PEER, request(&body(n)));
        house.all().await; // behind it in the queue: none is refused as busy
    }
    let all = house.all().await;
    assert!((10..18).contains(&all.len()), "{}", all.len());
    assert_eq!(
        house.metrics.unverified.get(),
        i64::try_from(all.len()).expect("few")
    );
    let oldest = house.ring.find(all[0].number).await.expect("reads");
    assert_eq!(oldest, Some(request(&body(60 - all.len()))));

    house = house.reopened(MIB / 4);
    let left = house.all().await;
    assert_eq!(left, all[all.len() - left.len()..]);
    drop(house.ring);
    let length = fs::metadata(house.folder.path().join(file::DATABASE))
        .expect("is there")
        .len();
    assert!(length <= MIB / 4, "{length}");
}

#[tokio::test]
async fn what_is_larger_than_the_ring_drops_nothing_else() {
    let house = House::new();
    house.ring.offer(PEER, request("first"));
    house.ring.offer(PEER, request(&"x".repeat(1024 * 1024)));
    assert_eq!(house.all().await.len(), 1);
    assert_eq!(house.metrics.dropped_count(Dropped::Failed), 1);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_made_anew() {
    let mut house = House::new();
    // No database; one of ours in part; another's; a newer one.
    let damages: [fn(&Path); 4] = [
        |file| {
            let text = "no database, and long enough to be one ".repeat(200);
            fs::write(file, text).expect("writes");
        },
        |file| {
            let mut bytes = fs::read(file).expect("reads");
            bytes[4096..].fill(0xa5);
            fs::write(file, bytes).expect("writes");
        },
        |file| change(file, "DROP TABLE request; CREATE TABLE diary (entry)"),
        |file| change(file, "PRAGMA user_version = 2"),
    ];
    for damage in damages {
        house.ring.offer(PEER, request("before"));
        house.all().await;
        let file = house.file(file::DATABASE);
        drop(std::mem::replace(&mut house.ring, Ring(None)));
        damage(&file);
        let left = fs::read(&file).expect("reads");
        house = house.reopened(MIB);
        // The first to touch it learns of the damage, whoever that is.
        let _ = house.ring.list(0, 10).await;
        house.ring.offer(PEER, request("after"));
        let all = house.all().await;
        assert_eq!(all.len(), 1);
        let found = house.ring.find(all[0].number).await.expect("reads");
        assert_eq!(found, Some(request("after")));
        assert!(fs::read(house.file(file::DAMAGED)).expect("is aside") == left);
    }
}

fn change(file: &Path, sql: &str) {
    let connection = Connection::open(file).expect("opens");
    connection.execute_batch(sql).expect("is changed");
}

#[tokio::test]
async fn a_disk_that_hangs_makes_nobody_wait() {
    let house = House::new();
    house.all().await;
    // A program from outside that holds the file: nothing is written until it lets go.
    let outside = Connection::open(house.file(file::DATABASE)).expect("opens");
    outside.execute_batch("BEGIN IMMEDIATE").expect("holds");
    let offered = WAITING_MAX + 20;
    for n in 0..offered {
        house.ring.offer(PEER, request(&n.to_string()));
    }
    let busy = house.metrics.dropped_count(Dropped::Busy);
    assert!((19..=20).contains(&busy), "{busy}");
    outside.execute_batch("ROLLBACK").expect("lets go");
    let kept = house.all().await.len();
    assert_eq!(kept as u64 + busy, offered as u64);
}

#[tokio::test]
async fn a_flood_is_counted_and_not_kept() {
    let house = House::new();
    let large = "x".repeat(500_000);
    for _ in 0..40 {
        house.ring.offer(PEER, request(&large));
        house.all().await;
    }
    assert!(house.metrics.dropped_count(Dropped::Rate) > 20);
}

#[tokio::test]
async fn with_no_capacity_nothing_is_kept_and_no_file_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let house = House::in_folder(folder, 0);
    house.ring.offer(PEER, request("a"));
    assert!(house.all().await.is_empty());
    assert!(
        fs::read_dir(house.folder.path())
            .expect("is there")
            .next()
            .is_none()
    );
}
