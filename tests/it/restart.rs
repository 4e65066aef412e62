//! Starts and stops: what was answered 200 is delivered, whoever runs (S01, S04, Q09). Under load, it is
//! `hostile/signals.rs`.

#[path = "../../benches/load/kept.rs"]
mod kept;

use std::path::Path;
use std::time::Duration;

use suki_relay::clock::Timestamp;
use suki_relay::spool::Kept;
use tokio::task::JoinSet;

use crate::harness::{CANARY, SECRET, Setup, Target, Watch, bounded, eventually, fresh};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_hand_and_exits_0() {
    let target = Target::accepting().await;
    let setup = Setup::new(&config(std::slice::from_ref(&target)));
    let relay = setup.start();
    let sender = relay.sender();
    for _ in 0..20 {
        let answer = sender.post(body("term", 0)).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    assert!(relay.terminate().await.success());
    let relay = setup.start_at("trace");
    eventually("S01: all 20 are delivered", async || target.count() >= 20).await;
    relay.is_well("S01: SIGTERM").await;
}

/// SIGUSR1 and SIGUSR2 mean another program; SIGINT ends as SIGTERM does; a second signal does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn signals_end_politely_at_once_or_not_at_all() {
    let target = Target::slow(Duration::from_hours(1)).await;
    let setup = Setup::new(&config(std::slice::from_ref(&target)));
    setup.reword(
        "drain: { delay: 0s, deadline: 5s }",
        "drain: { delay: 10m, deadline: 1h }",
    );
    let mut relay = setup.start_at("trace");
    for name in ["USR1", "USR2"] {
        relay.signal(name);
    }
    let answer = relay.sender().post(body("usr", 0)).await;
    assert_eq!(answer.expect("an answer").status, 200, "S01");
    relay.signal("INT");
    relay.log_line("draining: not ready any more, still accepting");
    let answer = relay.sender().post(body("int", 1)).await;
    assert_eq!(answer.expect("an answer").status, 200, "S01");
    relay.told_nobody([0; 2]).await;
    assert!(relay.terminate().await.success(), "S01: the second signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_on_one_spool_exits_74() {
    let target = Target::accepting().await;
    let setup = Setup::new(&config(std::slice::from_ref(&target)));
    let relay = setup.start_at("trace");
    let answer = relay.sender().post(body("first", 0)).await;
    assert_eq!(answer.expect("an answer").status, 200, "Q09");
    let mut watch = Watch::begin(&relay);
    let second = bounded(&setup.command()).output().expect("it runs");
    assert_eq!(second.status.code(), Some(74), "Q09");
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(message.contains("another process"), "Q09: {message}");
    watch.goes_on(&relay, "Q09: a second relay").await;
    eventually("Q09: all is delivered", async || target.count() == 2).await;
}

/// `cargo bench --bench backlog` starts one on a million.
const BACKLOG: i64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_starts_on_a_long_backlog_and_takes_what_is_new() {
    let target = Target::broken().await;
    let setup = Setup::new(&config(std::slice::from_ref(&target)));
    fill(&setup.path().join("spool"), "t0").await;
    // Within the patience of the harness; how long it takes, a bench tells.
    let relay = setup.start_at("trace");
    let pending = "suki_relay_deliveries_pending{target=\"t0\"}";
    assert!(relay.metric(pending).await > BACKLOG as f64 - 0.5, "S04");
    for probe in ["/startupz", "/readyz", "/livez"] {
        assert_eq!(relay.admin(probe).await.0, 200, "S04: {probe}");
    }
    relay.is_well("S04: a long backlog").await;
    target.mend();
    eventually("S04: it is delivered in its turn", async || {
        target.count() > 1000
    })
    .await;
    // What it keeps of the spool in memory grows meanwhile: for the whole look it has to be done.
    let answer = relay.sender().post(fresh()).await;
    assert_eq!(answer.expect("an answer").status, 200, "S04: meanwhile");
    relay.told_nobody([0; 2]).await;
    for step in 1..=BACKLOG / 1000 {
        eventually(&format!("S04: {step} thousand arrive"), async || {
            relay.metric(pending).await < ((BACKLOG - step * 1000) as f64 + 0.5)
        })
        .await;
    }
    relay.is_well("S04: all of it is delivered").await;
}

/// Received over the last hours, by the spool's own door.
async fn fill(folder: &Path, target: &'static str) {
    let spool = kept::on_disk(folder);
    let signer = kept::Signer::new(SECRET);
    let begin = Timestamp::now().minus(Duration::from_hours(40));
    let mut submitted = JoinSet::new();
    for n in 0..BACKLOG {
        let at = Timestamp::from_millis(begin.as_millis() + n * 1000);
        let submission = signer.submission(fresh().into(), target, at);
        let spool = spool.clone();
        submitted.spawn(async move { spool.accept(submission).await });
        if submitted.len() == 4096 {
            while let Some(kept) = submitted.join_next().await {
                assert_eq!(kept.expect("no panic"), Ok(Kept::Now));
            }
        }
    }
    for kept in submitted.join_all().await {
        assert_eq!(kept, Ok(Kept::Now));
    }
}

fn config(targets: &[Target]) -> String {
    let mut text = "targets:\n".to_owned();
    for (number, target) in targets.iter().enumerate() {
        let url = target.url();
        let line = format!(
            "  - {{ name: t{number}, http: {{ url: \"{url}\" }}, retry: {{ initial: 100ms, max: 1s }} }}\n"
        );
        text.push_str(&line);
    }
    let names: Vec<String> = (0..targets.len())
        .map(|number| format!("t{number}"))
        .collect();
    text + &format!("routes:\n  - {{ name: all, to: [{}] }}\n", names.join(", "))
}

fn body(word: &str, number: usize) -> String {
    let session = fastrand::u128(..);
    format!(
        r#"{{"status":"success","session_id":"{CANARY}-{session:032x}","kind":"{word}","n":{number}}}"#
    )
}
