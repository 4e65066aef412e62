//! What the writer leaves on doorsteps, and when.

use super::super::super::doorstep::LEFT_BYTES_MAX;
use super::super::super::{Due, Filter, Reason, Replay, ReplayTo, Submission};
use super::*;

/// All that a worker is told of a delivery.
fn told(due: &Due) -> impl PartialEq + std::fmt::Debug + use<> {
    let Due { key, record, .. } = due.clone();
    (
        key,
        (record.id, record.source, record.secret),
        (record.received_at, record.generated_at, record.signature),
        (record.content_type, record.body),
        (due.attempts, due.attempts_before, due.owed_since),
        (due.due_at, due.replay, due.resume_at),
    )
}

#[tokio::test]
async fn what_is_left_is_what_would_be_read_and_is_still_owed() {
    let House { spool, folder, .. } = house();
    let steps = ["ehr", "audit"].map(|target| spool.doorstep(&name(target)));
    for step in &steps {
        step.open();
    }
    let with_doubt = Submission {
        quarantine: Some(Reason::RouteError),
        ..submission("b", &["ehr"])
    };
    for sent in [submission("a", &["ehr", "audit"]), with_doubt] {
        spool.accept(sent).await.expect("room");
    }
    let again = spool.accept(submission("a", &["ehr"])).await;
    assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
    let left = steps.map(|step| step.take().expect("open"));
    assert_eq!(left.each_ref().map(Vec::len), [2, 1]);
    let after = copy_of(folder.path());
    let (reopened, _) = open(after.path(), CAPACITY).expect("opens");
    for (target, left) in ["ehr", "audit"].into_iter().zip(&left) {
        let left: Vec<_> = left.iter().map(told).collect();
        for spool in [&spool, &reopened] {
            let read: Vec<_> = due(spool, target).await.iter().map(told).collect();
            assert_eq!(left, read, "{target}");
        }
    }
}

/// Its body would hold a share of the ingress's budget, for as long as a target takes.
#[tokio::test]
async fn what_is_left_is_a_copy_and_a_large_one_is_not_left() {
    let House { spool, .. } = house();
    let step = spool.doorstep(&name("ehr"));
    step.open();
    let sent = submission("x".repeat(LEFT_BYTES_MAX), &["ehr"]);
    let body = sent.notification.body.clone();
    spool.accept(sent).await.expect("room");
    let left = step.take().expect("open").remove(0).record.body;
    assert_eq!(left, body);
    assert_ne!(left.as_ptr(), body.as_ptr());
    eventually(|| body.is_unique()).await;
    let large = submission("x".repeat(LEFT_BYTES_MAX + 1), &["ehr"]);
    spool.accept(large).await.expect("room");
    assert!(step.take().is_none(), "it is to be read");
}

#[tokio::test]
async fn nothing_is_left_before_it_is_on_disk_nor_of_what_is_undone() {
    let House { spool, folder, .. } = house();
    drop(spool);
    let desk = Desk::in_folder(folder.path());
    let mut writer = desk.writer();
    let mut batch = queue::Batch::default();
    let step = desk.shared.wakes.of(&name("ehr"));
    let left = || step.take().map(|left| left.len());
    step.open();
    let now = std::time::Instant::now();
    let _kept = desk.submit("kept".into());
    desk.shared.queue.take(&mut batch, now);
    assert_eq!(left(), Some(0), "it is not written yet");
    writer.write(&mut batch).expect("no failed sync");
    assert_eq!(left(), Some(1));

    desk.pages(1);
    let _refused = [
        desk.submit("small".into()),
        desk.submit("x".repeat(100_000)),
    ];
    desk.shared.queue.take(&mut batch, now);
    writer.write(&mut batch).expect("no failed sync");
    assert_eq!(left(), Some(0), "it was undone");
}

/// A worker that read nothing of it would not find it before it looks the next time.
#[tokio::test]
async fn what_an_operator_makes_due_closes_the_doorstep() {
    let House { spool, .. } = house();
    spool.accept(submission("a", &["ehr"])).await.expect("room");
    let key = due(&spool, "ehr").await.remove(0).key;
    settle(&spool, &key, Settled::DeadLettered).await;
    let step = spool.doorstep(&name("ehr"));
    step.rung().await;
    step.open();
    let replay = Replay {
        filter: Filter::default(),
        to: ReplayTo::DeadLetters,
        by: name("someone"),
        dry_run: false,
    };
    spool.replay(replay).await.expect("is done");
    step.rung().await;
    assert!(step.take().is_none());
}
