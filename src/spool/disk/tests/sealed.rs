//! Encryption at rest: what the files tell, and which keys open them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::*;
use crate::notification::Id;
use crate::spool::keys::tests::keys;
use crate::spool::{Due, KeyFault, Keys, UnverifiedRequest};
use crate::verify::Signed;

const A: (&str, u8) = ("a", 1);
const B: (&str, u8) = ("b", 2);

fn open_by(path: &Path, keys: Option<Keys>) -> Result<Spool, OpenError> {
    let options = Options {
        keys,
        ..options(path, CAPACITY)
    };
    open_with(&options).map(|(spool, _)| spool)
}

fn open_in(folder: &TempDir, lines: &[(&str, u8)]) -> Spool {
    open_by(folder.path(), Some(keys(lines))).expect("opens")
}

fn fault(opened: Result<Spool, OpenError>) -> KeyFault {
    match opened.expect_err("refused") {
        OpenError::Keys { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

/// All files of a folder, the shared memory of SQLite left out: that is an index, and made anew.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).expect("reads").map(|entry| {
        let entry = entry.expect("reads");
        let bytes = fs::read(entry.path()).expect("reads");
        (entry.file_name().into_string().expect("text"), bytes)
    });
    entries
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect()
}

fn holding(path: &Path, wanted: &[u8]) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(wanted.len()).any(|found| found == wanted);
    let files = files(path).into_iter();
    files
        .filter(|(_, bytes)| holds(bytes))
        .map(|(name, _)| name)
        .collect()
}

async fn keep(spool: &Spool, body: &str) -> Id {
    let submission = submission(body, &["ehr"]);
    let id = submission.notification.id;
    assert_eq!(spool.accept(submission).await, Ok(Kept::Now));
    id
}

async fn again(spool: &Spool, body: &str) -> Result<Kept, AcceptError> {
    spool.accept(submission(body, &["ehr"])).await
}

/// For the ring.
fn offer(spool: &Spool, body: &'static str) {
    let request = UnverifiedRequest {
        source: name("suki"),
        received_at: NOW,
        content_type: None,
        signed: Signed {
            generated_at: "1".into(),
            signature: "2".into(),
            body: body.into(),
        },
    };
    let peer = Ipv4Addr::LOCALHOST.into();
    spool.unverified().offer(peer, request);
}

/// Bodies of what is due, all of it readable.
async fn bodies(spool: &Spool) -> Vec<String> {
    let page = spool.due(&name("ehr"), NOW, 1000).await.expect("reads");
    assert_eq!(page.unreadable, []);
    let text = |due: Due| String::from_utf8(due.record.body.to_vec()).expect("text");
    page.deliveries.into_iter().map(text).collect()
}

#[tokio::test]
async fn no_file_of_an_encrypted_spool_tells_what_is_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open_in(&folder, &[A]);
    let kept = submission("CANARY in a body", &["ehr"]);
    let (record, digest) = ((*kept.notification).clone(), *kept.notification.digest());
    spool.accept(kept).await.expect("room");
    let unverified = UnverifiedRequest {
        source: name("suki"),
        received_at: NOW,
        content_type: Some("CANARY/type".into()),
        signed: Signed {
            generated_at: "CANARY time".into(),
            signature: "CANARY signature".into(),
            body: "CANARY in the ring".into(),
        },
    };
    let peer = Ipv4Addr::LOCALHOST.into();
    spool.unverified().offer(peer, unverified.clone());
    let found = spool.unverified().find(1).await.expect("reads");
    assert!(found == Some(unverified), "{found:?}");

    let secrets: [&[u8]; 7] = [
        b"CANARY",
        record.signature.as_bytes(),
        record.generated_at.as_bytes(),
        b"application/json",
        &digest,
        record.id.as_bytes(),
        record.id.to_string().as_bytes(),
    ]
    .map(|secret| &*secret.to_vec().leak());
    let names = files(folder.path());
    for file in ["spool.db", "spool.db-wal", "unverified.db"] {
        assert!(names.contains_key(file), "{file}: {:?}", names.keys());
    }
    for secret in secrets {
        assert_eq!(holding(folder.path(), secret), [""; 0], "{secret:?}");
    }
    let found = spool.find(record.id).await.expect("reads").remove(0);
    assert_eq!(found.entry.id, record.id);
    let size = record.body.len() as u64;
    assert_eq!(found.entry.content.expect("it is there").body_bytes, size);
    let opened = found.record.expect("it opens");
    assert_eq!(opened.signature, record.signature);
    assert_eq!(opened.generated_at, record.generated_at);
    assert_eq!(opened.content_type, record.content_type);
    assert_eq!(opened.body, record.body);
    drop(spool);
    for secret in secrets {
        assert_eq!(holding(folder.path(), secret), [""; 0], "{secret:?}");
    }
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open_in(&folder, &[A]);
    keep(&spool, "one").await;
    offer(&spool, "forged");
    let ring = spool.unverified().find(1).await.expect("reads");
    assert!(ring.is_some(), "it is written");
    let killed = copy_of(folder.path());
    drop(spool);
    let stopped = folder;
    for folder in [killed, stopped] {
        let kept = |path: &Path| {
            let mut files = files(path);
            // Beside it, a lock, a ballast and an empty log may be made.
            let databases = ["spool.db", "unverified.db"];
            files.retain(|name, bytes| {
                databases.iter().any(|file| name.starts_with(file)) && !bytes.is_empty()
            });
            files
        };
        let before = kept(folder.path());
        assert!(before.contains_key("unverified.db"), "{:?}", before.keys());
        let wrong = KeyFault::Wrong("a".into());
        let missing = KeyFault::Missing("a".into());
        for (found, expected) in [
            (None, KeyFault::None),
            (Some(keys(&[("a", 3)])), wrong),
            (Some(keys(&[("other", 1)])), missing),
        ] {
            assert_eq!(fault(open_by(folder.path(), found)), expected);
            assert!(kept(folder.path()) == before, "{expected} changed a file");
        }
        let spool = open_in(&folder, &[A]);
        assert_eq!(bodies(&spool).await, ["one"]);
        let ring = spool.unverified().find(1).await.expect("reads");
        assert_eq!(ring.expect("it is there").signed.body, "forged");
    }
}

#[tokio::test]
async fn a_new_key_encrypts_what_is_new_and_the_old_one_stays_until_its_own_has_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open_in(&folder, &[A]);
    keep(&spool, "by a").await;
    drop(spool);

    let spool = open_in(&folder, &[B, A]);
    let before = Ok(Kept::Before(Verdict::Accepted));
    assert_eq!(again(&spool, "by a").await, before, "marks outlive keys");
    keep(&spool, "by b").await;
    assert_eq!(bodies(&spool).await, ["by a", "by b"]);
    drop(spool);
    assert_eq!(sealed_by(&folder), ["a", "b"]);

    let early = fault(open_by(folder.path(), Some(keys(&[B]))));
    assert_eq!(early, KeyFault::Missing("a".into()));
    let connection = Connection::open(folder.path().join("spool.db")).expect("opens");
    let leaves = "DELETE FROM content WHERE sealed_by = 'a'";
    connection.execute_batch(leaves).expect("runs");
    drop(connection);
    let spool = open_in(&folder, &[B]);
    assert_eq!(again(&spool, "by a").await, before, "marks outlive keys");
    assert_eq!(again(&spool, "by b").await, before);
    drop(spool);
    let gone = fault(open_by(folder.path(), Some(keys(&[A]))));
    assert_eq!(gone, KeyFault::Missing("b".into()));
}

fn sealed_by(folder: &TempDir) -> Vec<String> {
    let connection = Connection::open(folder.path().join("spool.db")).expect("opens");
    let mut find = connection
        .prepare("SELECT coalesce(sealed_by, 'none') FROM content ORDER BY seq")
        .expect("SQL");
    let names = find.query_map([], |row| row.get(0)).expect("runs");
    names.collect::<Sql<_>>().expect("reads")
}

#[tokio::test]
async fn a_readable_spool_is_encrypted_from_its_first_key_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open_by(folder.path(), None).expect("opens");
    let old = keep(&spool, "readable").await;
    drop(spool);
    let spool = open_in(&folder, &[A]);
    let new = keep(&spool, "sealed").await;
    let before = Ok(Kept::Before(Verdict::Accepted));
    for (id, body) in [(old, "readable"), (new, "sealed")] {
        assert_eq!(again(&spool, body).await, before);
        let found = spool.find(id).await.expect("reads").remove(0);
        assert_eq!(found.record.expect("opens").body, body);
    }
    assert!(spool.audit().await.expect("reads").is_clean());
    drop(spool);
    assert_eq!(sealed_by(&folder), ["none", "a"]);
    let back = fault(open_by(folder.path(), None));
    assert_eq!(back, KeyFault::None, "there is no way back");
}

#[tokio::test]
async fn what_was_sealed_and_is_changed_is_isolated() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open_in(&folder, &[A]);
    keep(&spool, "first").await;
    keep(&spool, "second").await;
    drop(spool);
    let file = folder.path().join("spool.db");
    let whole = fs::read(&file).expect("reads");
    for damage in [
        "UPDATE content SET seal = zeroblob(length(seal)) WHERE seq = 1",
        "UPDATE content SET seal = x'00' WHERE seq = 1",
        "UPDATE content SET body = zeroblob(length(body)) WHERE seq = 1",
        "UPDATE content SET sealed_by = 'gone' WHERE seq = 1",
        "UPDATE content SET sealed_by = NULL WHERE seq = 1",
        "UPDATE notification SET digest = zeroblob(32) WHERE seq = 1",
        "UPDATE notification SET digest = x'00' WHERE seq = 1",
        // Another's whole content is not its own.
        "UPDATE content SET (seal, body) = (SELECT seal, body FROM content WHERE seq = 2)",
    ] {
        fs::write(&file, &whole).expect("writes");
        let connection = Connection::open(&file).expect("opens");
        connection.execute_batch(damage).expect(damage);
        drop(connection);
        let spool = open_in(&folder, &[A]);
        let page = spool.due(&name("ehr"), NOW, 10).await.expect("reads");
        assert_eq!(page.unreadable.len(), 1, "{damage}");
        assert_eq!(page.deliveries[0].record.body, "second", "{damage}");
        let audit = spool.audit().await.expect("reads");
        assert_eq!(audit.discrepancies.len(), 1, "{damage}");
    }
}

#[tokio::test]
async fn the_ring_drops_what_no_key_opens_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = open_in(&folder, &[A]);
    offer(&spool, "by a");
    drop(spool);
    let spool = open_in(&folder, &[B, A]);
    offer(&spool, "by b");
    let first = spool.unverified().find(1).await.expect("reads");
    assert_eq!(first.expect("its key is there").signed.body, "by a");
    drop(spool);
    let spool = open_in(&folder, &[B]);
    let left = spool.unverified().list(0, 9).await.expect("reads");
    assert_eq!(left.len(), 1);
    let second = spool.unverified().find(2).await.expect("reads");
    assert_eq!(second.expect("it is there").signed.body, "by b");
}
