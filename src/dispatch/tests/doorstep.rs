//! What has just come, and is on the doorstep of its worker.

use super::*;

/// A rig on a spool that holds nothing, with a worker that has looked.
async fn rig(server: &Server, in_flight_max: usize) -> Rig {
    let (spool, folder) = spool();
    let targets = vec![target("ehr", &server.url, in_flight_max)];
    let rig = Rig {
        folder,
        ..Rig::on(spool, targets, &[])
    };
    owe(&rig.spool, "first", &["ehr"]).await;
    eventually("it arrives", async || rig.delivered("ehr").await == 1).await;
    rig
}

/// From now on, nothing that is due can be read.
fn read_nothing(rig: &Rig) {
    let rows = rusqlite::Connection::open(rig.folder.path().join("spool.db")).unwrap();
    rows.execute_batch("DROP INDEX due").unwrap();
}

#[tokio::test]
async fn what_has_just_come_is_delivered_without_being_read() {
    let server = server(1000).await;
    let rig = rig(&server, 4).await;
    read_nothing(&rig);
    for n in 2..=50 {
        owe(&rig.spool, &n.to_string(), &["ehr"]).await;
    }
    let all = "each arrives";
    eventually(all, async || rig.delivered("ehr").await == 50).await;
    assert_eq!(server.received().len(), 50, "none twice");
}

/// What a reader met between its commit and its being left is on the doorstep as well.
#[tokio::test]
async fn what_is_left_while_it_is_in_hand_is_not_sent_again() {
    let server = server(1).await;
    let rig = rig(&server, 4).await;
    owe(&rig.spool, "a", &["ehr"]).await;
    eventually("it begins", async || server.waiting.load(SeqCst) == 1).await;
    let again = rig.spool.due(&name("ehr"), Timestamp::now(), 1).await;
    let again = again.unwrap().deliveries.remove(0);
    let mut is_left = false;
    let leave = || {
        is_left = true;
        again
    };
    rig.spool.doorstep(&name("ehr")).leave(0, leave);
    assert!(is_left, "it is open");
    server.gate.add_permits(1000);
    eventually("it arrives", async || rig.delivered("ehr").await == 2).await;
    for n in 3..=5 {
        owe(&rig.spool, &n.to_string(), &["ehr"]).await;
    }
    eventually("all arrive", async || rig.delivered("ehr").await == 5).await;
    assert_eq!(server.received().len(), 5, "none twice");
}

/// More than the window, the doorstep and the slots have room for.
#[tokio::test]
async fn what_finds_no_room_is_read_when_there_is_some() {
    let server = server(1).await;
    let rig = rig(&server, 4).await;
    for n in 0..4 {
        let bodies: Vec<String> = (0..100).map(|k| format!("{n} {k}")).collect();
        let owed = bodies.iter().map(|body| owe(&rig.spool, body, &["ehr"]));
        futures_util::future::join_all(owed).await;
    }
    server.gate.add_permits(1000);
    eventually("all arrive", async || rig.delivered("ehr").await == 401).await;
    let received = server.received();
    assert_eq!(received.len(), 401, "none twice");
    assert_eq!(BTreeSet::from_iter(received).len(), 401);
    assert!(server.most.load(SeqCst) <= 4);
}

/// Its breaker has opened: what comes is for a probe, and the oldest goes first.
#[tokio::test]
async fn nothing_is_taken_from_the_doorstep_of_a_target_that_fails() {
    let server = server(1000).await;
    let rig = rig(&server, 1).await;
    server.status.store(500, SeqCst);
    let step = rig.spool.doorstep(&name("ehr"));
    for n in 0..10 {
        owe(&rig.spool, &format!("fails {n}"), &["ehr"]).await;
    }
    eventually("it opens", async || rig.shown(BREAKER) > 0.5).await;
    assert!(step.take().is_none(), "it is closed");
    server.status.store(200, SeqCst);
    eventually("all arrive", async || rig.delivered("ehr").await == 11).await;
}
