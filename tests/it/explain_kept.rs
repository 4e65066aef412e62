//! `explain` on what a spool holds: what another config would have made of it.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Relay, Setup, eventually};

const NOW: &str = r#"
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:9/" } }
  - { name: audit, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: finished, when: body.status == "success", to: [ehr] }
"#;
const CHANGED: &str = r#"
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:9/" } }
  - { name: audit, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: finished, when: body.status == "success", to: [ehr] }
  - { name: failed, when: body.status == "failure", to: [audit] }
"#;
const SUCCESS: &str = r#"{"status":"success","session_id":"s-1"}"#;
const FAILURE: &str = r#"{"status":"failure","session_id":"s-2"}"#;

fn explain(config: &PathBuf, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command
        .args(["explain", "--config"])
        .arg(config)
        .args(words);
    command.output().expect("it runs")
}

fn told(config: &PathBuf, words: &[&str]) -> String {
    let output = explain(config, words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// A relay that has kept one that a route takes and one that none does, and a config that takes both.
async fn kept() -> (Setup, Relay, PathBuf) {
    let setup = Setup::new(NOW);
    let changed = setup.path().join("changed.yaml");
    std::fs::write(&changed, Setup::text(CHANGED)).expect("writable");
    let relay = setup.start();
    for body in [SUCCESS, FAILURE] {
        let answer = relay.sender().post(body).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    (setup, relay, changed)
}

fn operator(relay: &Relay) -> String {
    format!("http://{}", relay.operator_address)
}

/// The ids of those that are listed as `state`.
async fn ids(relay: &Relay, state: &str) -> Vec<String> {
    let path = format!("/v1/notifications?state={state}");
    let (_, page) = relay.operator("GET", &path, "").await;
    let listed = page["notifications"].as_array().expect("a list");
    let id = |entry: &Value| entry["id"].as_str().expect("an id").to_owned();
    listed.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn since_tells_what_another_config_would_have_routed_otherwise() {
    let (setup, relay, changed) = kept().await;
    let at = operator(&relay);
    let place = ["--since", "1h", "--operator", &at];

    let same = told(&setup.config(), &place);
    assert_eq!(same, "0 of 2 would have gone elsewhere\n");
    let text = told(&changed, &place);
    let unrouted = ids(&relay, "quarantined").await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with(&unrouted[0]), "{text}");
    let moved = "was: quarantine (unrouted); would be: audit";
    assert!(lines[0].ends_with(moved), "{text}");
    assert_eq!(lines[1], "1 of 2 would have gone elsewhere");

    let json = told(&changed, &[&place[..], &["--json"]].concat());
    let lines: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["would_be"]["targets"][0], "audit");
    assert_eq!(lines[0]["was"]["quarantine"], "unrouted");
    assert_eq!(
        (&lines[1]["looked_at"], &lines[1]["otherwise"]),
        (&2.into(), &1.into())
    );

    // A stopped relay's folder tells the same.
    assert!(relay.terminate().await.success());
    let folder = setup.path().join("spool");
    let folder = folder.to_str().expect("text");
    assert_eq!(told(&changed, &["--since", "1h", "--path", folder]), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_released_says_nothing_about_routes() {
    let (setup, relay, _) = kept().await;
    let order = r#"{"reason":"unrouted","action":"force","targets":["ehr"]}"#;
    let (status, answer) = relay
        .operator("POST", "/v1/quarantine/release", order)
        .await;
    assert_eq!((status, &answer["done"]), (200, &1.into()), "{answer}");
    let at = operator(&relay);
    let text = told(&setup.config(), &["--since", "1h", "--operator", &at]);
    let counted =
        "0 of 2 would have gone elsewhere; not judged: 1 released or discarded by an operator\n";
    assert_eq!(text, counted);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_kept_is_explained_at_the_moment_it_came() {
    let (_setup, relay, changed) = kept().await;
    let at = operator(&relay);
    let id = ids(&relay, "quarantined").await.remove(0);
    let text = told(&changed, &["--from-spool", &id, "--operator", &at]);
    assert!(
        text.contains("signature  matches secret `current`"),
        "{text}"
    );
    assert!(text.contains("timestamp  fresh"), "{text}");
    assert!(text.contains("route      failed holds"), "{text}");
    assert!(text.contains("outcome    200; owed to 1 target"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_told() {
    let (_setup, relay, changed) = kept().await;
    let at = operator(&relay);
    let absent = "0".repeat(32);
    for (words, wrong) in [
        (vec!["--from-spool", &absent], "no notification has this id"),
        (vec!["--from-spool", "12"], "32 hex digits"),
        (vec!["--since", "yesterday"], "since: write a moment"),
        (vec!["--since", "1h", "--body", "b"], "cannot be used with"),
        (vec![], "required"),
    ] {
        let output = explain(&changed, &[&words[..], &["--operator", &at]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}");
        assert!(errors.contains(wrong), "{words:?}: {errors}");
    }

    // A source that the config names no more.
    let id = ids(&relay, "quarantined").await.remove(0);
    let text = std::fs::read_to_string(&changed).expect("readable");
    std::fs::write(&changed, text.replace("name: suki,", "name: other,")).expect("writable");
    let output = explain(&changed, &["--from-spool", &id, "--operator", &at]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("it came to `suki`"), "{errors}");
    let text = told(&changed, &["--since", "1h", "--operator", &at]);
    assert!(
        text.contains("2 of a source that the config names no more"),
        "{text}"
    );
    eventually("the relay lives", async || {
        relay.admin("/livez").await.0 == 200
    })
    .await;
}
