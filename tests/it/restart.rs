//! Kills and stops: what was answered 200 is delivered, whatever happens to the process.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{Relay, Setup, Target, eventually, knob};

const SENDERS: usize = 8;

/// `KILL_CYCLES` cycles (25 unless it is set) of load, `SIGKILL` at a random moment, restart.
#[tokio::test(flavor = "multi_thread")]
async fn kill_loop_loses_nothing_that_was_acknowledged() {
    let cycles: u64 = knob("KILL_CYCLES").unwrap_or(25);
    let seed = knob("KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("kill loop: seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    // The second target fails every third request, so that retries are killed too.
    let targets = [
        Target::accepting().await,
        Target::start(|n| if n % 3 == 0 { 503 } else { 200 }).await,
    ];
    let setup = Setup::new(&config(&targets));
    let acknowledged = Arc::new(Mutex::new(HashSet::new()));
    let mut longest_recovery = Duration::ZERO;

    for cycle in 0..cycles {
        let started = std::time::Instant::now();
        let relay = setup.start();
        longest_recovery = longest_recovery.max(started.elapsed());
        let load = Load::start(&relay, cycle, &acknowledged);
        tokio::time::sleep(Duration::from_millis(chance.u64(20..400))).await;
        relay.kill();
        load.stop().await;
    }

    let relay = setup.start();
    let acknowledged = acknowledged.lock().expect("not poisoned").clone();
    for target in &targets {
        eventually("every acknowledged notification is delivered", async || {
            acknowledged.is_subset(&delivered(target))
        })
        .await;
    }
    drop(relay);
    assert!(
        acknowledged.len() as u64 > cycles,
        "only {} acknowledged",
        acknowledged.len()
    );
    let mut duplicates = 0;
    for target in &targets {
        let bodies = bodies(target);
        assert!(
            bodies.iter().all(|body| body.contains("\"genuine\"")),
            "a forgery was delivered"
        );
        duplicates += bodies.len() - delivered(target).len();
        assert_ids_are_stable(target);
    }
    println!(
        "kill loop: {cycles} cycles, {} acknowledged, 0 lost, {duplicates} duplicated, longest recovery {longest_recovery:.1?}",
        acknowledged.len(),
    );
}

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
    let relay = setup.start();
    eventually("all 20 are delivered", async || target.count() >= 20).await;
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_on_one_spool_exits_74() {
    let target = Target::accepting().await;
    let setup = Setup::new(&config(std::slice::from_ref(&target)));
    let relay = setup.start();
    let second = setup.command().output().expect("it runs");
    assert_eq!(second.status.code(), Some(74));
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(message.contains("another process"), "{message}");
    drop(relay);
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
    format!(r#"{{"status":"success","session_id":"{session:032x}","kind":"{word}","n":{number}}}"#)
}

/// Senders that post until they are stopped; and one that forges.
struct Load {
    stopped: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(relay: &Relay, cycle: u64, acknowledged: &Arc<Mutex<HashSet<String>>>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..SENDERS {
            let (sender, stopped, acknowledged) =
                (relay.sender(), stopped.clone(), acknowledged.clone());
            tasks.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    if number == 0 {
                        let forged = sender
                            .send(&sender.generated_at(), &"0".repeat(64), body("forged", 0))
                            .await;
                        assert!(forged.is_none_or(|answer| answer.status == 401));
                        continue;
                    }
                    let body = body("genuine", usize::try_from(cycle).expect("small"));
                    match sender.post(body.clone()).await {
                        Some(answer) if answer.status == 200 => {
                            acknowledged.lock().expect("not poisoned").insert(body);
                        }
                        _ => tokio::task::yield_now().await,
                    }
                }
            });
        }
        Self { stopped, tasks }
    }

    async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

fn bodies(target: &Target) -> Vec<String> {
    let delivered = target
        .requests()
        .into_iter()
        .filter(|request| request.status == 200);
    delivered
        .map(|request| String::from_utf8(request.body.into()).expect("text"))
        .collect()
}

fn delivered(target: &Target) -> HashSet<String> {
    bodies(target).into_iter().collect()
}

/// The same body always bears the same id, and different ones never.
fn assert_ids_are_stable(target: &Target) {
    let pairs: HashSet<(String, bytes::Bytes)> = target
        .requests()
        .into_iter()
        .map(|request| (request.header("webhook-id").to_owned(), request.body))
        .collect();
    let ids: HashSet<&String> = pairs.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), pairs.len());
}
