//! Kills and stops: what was answered 200 is delivered, whatever happens to the process.

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
