//! What operators see and do, where it is a matter of the files.

use super::*;
use crate::spool::tests::custody::{Mix, accept, found};

#[tokio::test]
async fn a_stopped_relays_folder_opens_and_a_running_ones_does_not() {
    let House { spool, folder, .. } = house();
    let id = accept(&spool, submission("a", &["ehr"])).await;
    let existing = |path: &Path| {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        Spool::open_existing(path, None, metrics, |fatal| panic!("{fatal}"))
    };
    let refused = existing(folder.path()).expect_err("it runs");
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("--operator"), "{refused}");
    drop(spool);

    let spool = existing(folder.path()).expect("opens");
    assert_eq!(found(&spool, id).await.entry.id, id);
    assert!(spool.audit().await.expect("reads").is_clean());
    drop(spool);
    let nowhere = folder.path().join("nowhere");
    let refused = existing(&nowhere).expect_err("nothing is there");
    assert!(matches!(refused, OpenError::Missing { .. }), "{refused}");
    assert!(!nowhere.exists());
    let empty = tempfile::tempdir().expect("a folder");
    assert!(existing(empty.path()).is_err());
    assert_eq!(fs::read_dir(empty.path()).expect("reads").count(), 0);
}

#[tokio::test]
async fn an_audit_tells_each_discrepancy() {
    let House { spool, folder, .. } = house();
    Mix::fill(&spool).await;
    drop(spool);
    let file = folder.path().join("spool.db");
    let whole = fs::read(&file).expect("reads");
    let cases = [
        (
            "UPDATE delivery SET state = 1 WHERE seq = 1",
            "by the ledger",
        ),
        ("UPDATE ledger SET accepted = accepted + 1", "by the ledger"),
        ("UPDATE ledger SET forgotten_delivered = 5", "by the ledger"),
        ("DELETE FROM delivery WHERE seq = 4", "by the ledger"),
        (
            "UPDATE notification SET pending = 3 WHERE seq = 1",
            "does not say",
        ),
        (
            "UPDATE notification SET dead = 0 WHERE seq = 3",
            "does not say",
        ),
        (
            "UPDATE notification SET settled_at = 5 WHERE seq = 1",
            "does not say",
        ),
        (
            "UPDATE notification SET emptied = 1 WHERE seq = 1",
            "does not say",
        ),
        (
            "UPDATE notification SET quarantine = 'other' WHERE seq = 5",
            "reason",
        ),
        ("DELETE FROM content WHERE seq = 2", "missing"),
        (
            "UPDATE content SET body = x'00' WHERE seq = 2",
            "not what was received",
        ),
        ("DELETE FROM notification WHERE seq = 1", "not there"),
    ];
    for (damage, expected) in cases {
        fs::write(&file, &whole).expect("writes");
        let connection = Connection::open(&file).expect("opens");
        connection.execute_batch(damage).expect(damage);
        drop(connection);
        let (spool, _) = open(folder.path(), CAPACITY).expect("opens");
        let audit = spool.audit().await.expect("reads");
        let told = audit.discrepancies.iter().map(ToString::to_string);
        let told: Vec<String> = told.collect();
        assert!(
            told.iter().any(|one| one.contains(expected)),
            "{damage}: {told:?}"
        );
    }
}

#[tokio::test]
async fn the_gauge_of_the_ledger_tells_what_is_not_accounted_for() {
    let House { spool, folder, .. } = house();
    Mix::fill(&spool).await;
    drop(spool);
    let (spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    metrics.ledger_imbalance.set(-1);
    let gauge = metrics.ledger_imbalance.clone();
    eventually(move || gauge.get() == 0).await;
    drop(spool);
    let connection = Connection::open(folder.path().join("spool.db")).expect("opens");
    connection
        .execute_batch("UPDATE ledger SET dead_lettered = dead_lettered + 1")
        .expect("is set");
    drop(connection);
    let (_spool, metrics) = open(folder.path(), CAPACITY).expect("opens");
    let gauge = metrics.ledger_imbalance.clone();
    // Two targets, each one dead letter too many and one pending too few.
    eventually(move || gauge.get() == 4).await;
}
