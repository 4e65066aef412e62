//! Kills and stops: what was answered 200 is delivered, whatever happens to the process.

use std::time::Duration;

use crate::harness::{Setup, Target, eventually};

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

/// SIGUSR1 and SIGUSR2 mean another program; SIGINT ends as SIGTERM does; a second signal does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn signals_end_politely_at_once_or_not_at_all() {
    let target = Target::slow(Duration::from_hours(1)).await;
    let setup = Setup::new(&config(std::slice::from_ref(&target)));
    setup.reword(
        "drain: { delay: 0s, deadline: 5s }",
        "drain: { delay: 10m, deadline: 1h }",
    );
    let mut relay = setup.start();
    for name in ["USR1", "USR2"] {
        relay.signal(name);
    }
    let answer = relay.sender().post(body("usr", 0)).await;
    assert_eq!(answer.expect("an answer").status, 200, "S01");
    relay.signal("INT");
    relay.log_line("draining: not ready any more, still accepting");
    let answer = relay.sender().post(body("int", 1)).await;
    assert_eq!(answer.expect("an answer").status, 200, "S01");
    assert!(relay.terminate().await.success(), "S01: the second signal");
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
