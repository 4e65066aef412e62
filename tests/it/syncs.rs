//! Syncs of the real binary that fail or linger: no 200 rests on one that did not work (Q01, Q03).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::harness::{CANARY, Faults, Relay, Setup, Target, Watch, assert_untold, eventually};

const PENDING: &str = "suki_relay_deliveries_pending{target=\"ehr\"}";

fn setup(target: &Target) -> Setup {
    let url = target.url();
    Setup::new(&format!(
        "
targets:
  - name: ehr
    http: {{ url: \"{url}\" }}
    retry: {{ initial: 50ms, max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
"
    ))
}

fn body(n: usize) -> String {
    let filling = "x".repeat(20_000);
    format!(r#"{{"status":"success","session_id":"{n}","note":"{CANARY} {filling}"}}"#)
}

/// One that has accepted, delivered and settled the first body, and is idle.
async fn idle(setup: &Setup) -> Relay {
    let relay = setup.start_at("trace");
    let answer = relay.sender().post(body(0)).await.expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("it is settled", async || {
        let page = relay.admin("/metrics").await.1;
        page.contains("deliveries_total{result=\"delivered\",target=\"ehr\"} 1")
            && relay.metric(PENDING).await < 0.5
    })
    .await;
    relay
}

/// At the next relay, after one that has told nobody anything.
async fn all_arrive(ended: &Relay, setup: &Setup, target: &Target, owed: &[String], row: &str) {
    assert_untold(ended.written().concat());
    let relay = setup.start_at("trace");
    eventually(row, async || {
        let requests = target.requests().into_iter();
        let delivered: HashSet<Vec<u8>> = requests.map(|request| request.body.into()).collect();
        let mut owed = owed.iter();
        owed.all(|body| delivered.contains(body.as_bytes()))
    })
    .await;
    relay.is_well(row).await;
}

/// How the sync of a commit fails, once: after it, it would work, and prove nothing.
const ONCE: [(&str, &str); 3] = [
    ("Q03: EIO on fdatasync", "EIO"),
    ("Q01: ENOSPC on fdatasync", "ENOSPC"),
    ("Q01: EDQUOT on fdatasync", "EDQUOT"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_once_is_no_200_and_ends_the_relay_with_74() {
    for (row, error) in ONCE {
        let target = Target::accepting().await;
        let setup = setup(&target);
        let mut relay = idle(&setup).await;
        let log = setup.path().join("spool/spool.db-wal");
        let fault = format!("error={error}:when=1");
        let _fault = Faults::of_syncs(&relay, &log, &fault).await;
        let answer = relay.sender().post(body(1)).await;
        assert!(answer.is_none_or(|answer| answer.status == 500), "{row}");
        assert_eq!(relay.ended().await.code(), Some(74), "{row}");
        all_arrive(&relay, &setup, &target, &[body(0)], row).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_while_draining_is_no_200_and_ends_the_relay_with_74() {
    const ROW: &str = "Q03: EIO on fdatasync while draining";
    let target = Target::accepting().await;
    let setup = setup(&target);
    setup.reword("delay: 0s, deadline: 5s", "delay: 20s, deadline: 25s");
    let mut relay = idle(&setup).await;
    let log = setup.path().join("spool/spool.db-wal");
    let _fault = Faults::of_syncs(&relay, &log, "error=EIO:when=1").await;
    relay.signal("TERM");
    eventually("it drains", async || relay.admin("/readyz").await.0 == 503).await;
    let answer = relay.sender().post(body(1)).await;
    assert!(answer.is_none_or(|answer| answer.status == 500), "{ROW}");
    assert_eq!(relay.ended().await.code(), Some(74), "{ROW}");
    all_arrive(&relay, &setup, &target, &[body(0)], ROW).await;
}

/// The database itself is synced by copies of the log alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_in_a_checkpoint_ends_the_relay_with_74_and_loses_nothing() {
    let target = Target::accepting().await;
    let setup = setup(&target);
    setup.reword("path: spool }", "path: spool, capacity: 16MiB }");
    let mut relay = idle(&setup).await;
    let database = setup.path().join("spool/spool.db");
    let _fault = Faults::of_syncs(&relay, &database, "error=EIO:when=1").await;
    let sender = relay.sender();
    let mut acknowledged = vec![body(0)];
    for n in 1..200 {
        match sender.post(body(n)).await {
            Some(answer) if answer.status == 200 => acknowledged.push(body(n)),
            Some(answer) => assert_eq!(answer.status, 500),
            None => break,
        }
    }
    assert_eq!(relay.ended().await.code(), Some(74), "Q03: a checkpoint");
    assert!(acknowledged.len() > 2, "{}", acknowledged.len());
    let row = "Q03: EIO in a checkpoint";
    all_arrive(&relay, &setup, &target, &acknowledged, row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_comes_before_a_slow_sync_has_ended() {
    const SLOW: Duration = Duration::from_millis(1500);
    let target = Target::accepting().await;
    let setup = setup(&target);
    let relay = idle(&setup).await;
    let log = setup.path().join("spool/spool.db-wal");
    let delay = format!("delay_enter={}", SLOW.as_micros());
    let mut watch = Watch::begin(&relay);
    let fault = Faults::of_syncs(&relay, &log, &delay).await;
    let began = Instant::now();
    let answer = relay.sender().post(body(1)).await.expect("an answer");
    assert!(began.elapsed() >= SLOW, "{} at once", answer.status);
    fault.end();
    watch.goes_on(&relay, "a slow sync").await;
}
