//! Large bodies, and who waits for them.

use super::super::apart::LARGE_BYTES;
use super::*;

const MIB: usize = 1024 * 1024;

/// Valid, and slow to judge for its size.
fn dense(bytes: usize) -> String {
    let open = r#"{"status":"success","session_id":"s","additional_info":{"a":["#;
    let close = "0]}}";
    let count = (bytes - open.len() - close.len()) / 4;
    open.to_owned() + &"[0],".repeat(count) + close
}

fn for_large() -> Limits {
    Limits {
        body_bytes: 8 * MIB,
        bodies_in_flight_bytes: 64 * MIB,
        ..limits()
    }
}

/// This test's clients and the relay are on one thread: were large bodies judged on it, nothing else would
/// go on, and the first large one would be answered before the small one was so much as sent. As it is, a busy
/// machine may judge one before this thread has its turn, but not each time.
#[tokio::test]
async fn while_large_bodies_are_judged_a_small_one_is_answered() {
    let body = long(8 * MIB);
    // Another timestamp makes it another notification.
    let mut at = (0..).map(|n| (Timestamp::now().as_millis() - n).to_string());
    let mut at = || at.next().expect("endless");
    for _ in 0..20 {
        let relay = Relay::start(for_large()).await;
        let mut large = tokio::task::JoinSet::new();
        let mut small = relay.connect().await;
        for _ in 0..3 {
            let mut wire = relay.connect().await;
            wire.send(signed_at("/suki", &at(), &body)).await;
            large.spawn(async move { wire.answer().await.status });
        }
        small.send(signed_at("/suki", &at(), SUCCESS)).await;
        let came_first = tokio::select! {
            biased;
            status = large.join_next() => {
                assert_eq!(status.expect("three").expect("no panic"), 200);
                false
            }
            answer = small.answer() => {
                assert_eq!(answer.status, 200);
                true
            }
        };
        while let Some(status) = large.join_next().await {
            assert_eq!(status.expect("no panic"), 200);
        }
        assert_eq!(relay.kept().await, 4);
        if came_first {
            return;
        }
    }
    panic!("a large one came first each time");
}

#[tokio::test]
async fn a_large_body_waits_for_its_turn_and_small_ones_do_not() {
    let relay = Relay::start(for_large()).await;
    let turns = relay.ingress.apart.full().await;
    let mut wire = relay.connect().await;
    wire.send(signed("/suki", &dense(LARGE_BYTES + 8))).await;
    let small = relay.ask(signed("/suki", &dense(LARGE_BYTES))).await;
    assert_eq!(small.status, 200);
    let answer = wire.answer();
    tokio::pin!(answer);
    assert!(timeout(SOON, &mut answer).await.is_err(), "it must wait");
    drop(turns);
    assert_eq!(answer.await.status, 200);
    assert_eq!(relay.kept().await, 2);
}

#[tokio::test]
async fn a_large_body_whose_turn_comes_too_late_is_not_promised() {
    let relay = Relay::start(Limits {
        ack_timeout: SOON,
        ..for_large()
    })
    .await;
    let turns = relay.ingress.apart.full().await;
    let late = relay.ask(signed("/suki", &dense(MIB))).await;
    assert_eq!(late.status, 500);
    assert!(late.head.contains("retry-after: 5"), "{}", late.head);
    drop(turns);
    relay.assert_counted("unavailable", 1);
    assert_eq!(relay.kept().await, 0);
}

#[tokio::test]
async fn a_large_forged_body_is_401_and_kept_in_the_ring() {
    let relay = Relay::start(for_large()).await;
    let forged = signed("/suki", &dense(MIB / 4)).replacen("[0]", "[1]", 1);
    assert_eq!(relay.ask(forged).await.status, 401);
    let ring = relay.spool.unverified();
    eventually(async || ring.list(0, 9).await.expect("reads").len() == 1).await;
    assert_eq!(relay.kept().await, 0);
}
