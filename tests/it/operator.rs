//! The operator address: who is heard, what is shown, and what orders do.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Relay, SECRET, Setup, Target, ask, eventually, sign_by};

/// `ehr` gives up at once on what it refuses; nobody is sent what has no status.
fn rest(ehr: &str, when: &str) -> String {
    format!(
        "
targets:
  - {{ name: ehr, http: {{ url: \"{ehr}\" }}, retry: {{ initial: 50ms, max: 100ms }} }}
routes:
  - {{ name: some, when: '{when}', to: [ehr] }}
"
    )
}

fn body(n: usize) -> String {
    format!(r#"{{"status":"success","session_id":"s-{n}"}}"#)
}

async fn post(relay: &Relay, n: usize) {
    let answer = relay.sender().post(body(n)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Posts so many, which their target refuses for good.
async fn dead_letters(relay: &Relay, count: usize) {
    for n in 0..count {
        post(relay, n).await;
    }
    eventually("all are dead letters", async || {
        list(relay, "state=dead_letter").await.len() == count
    })
    .await;
}

async fn list(relay: &Relay, query: &str) -> Vec<Value> {
    let path = format!("/v1/notifications?{query}");
    let (status, page) = relay.operator("GET", &path, "").await;
    assert_eq!(status, 200, "{page}");
    page["notifications"].as_array().expect("a list").clone()
}

/// An operator is heard who says `open-sesame`.
fn with_token() -> Setup {
    let setup = Setup::new(&rest("http://127.0.0.1:9/", "true"));
    fs::write(setup.path().join("token"), "open-sesame\n").expect("writable");
    setup.reword(
        "operator: { address: 127.0.0.1:0 }",
        "operator: { address: 127.0.0.1:0, token: { file: token } }",
    );
    setup
}

fn done(matched: u64, done: u64) -> (u16, Value) {
    (200, json!({ "matched": matched, "done": done }))
}

/// The log comes to have a line of an order with these fields.
async fn logged(relay: &Relay, fields: Value) {
    let fields = fields.as_object().expect("fields");
    let has_all = |line: &Value| fields.iter().all(|(name, value)| line[name] == *value);
    eventually(&format!("{fields:?} are logged"), async || {
        let log = relay.log();
        let mut lines = log.iter();
        lines.any(|line| line["message"] == "an operator's order" && has_all(line))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_operator_learns_and_changes_nothing() {
    let setup = with_token();
    let relay = setup.start();
    let status = async |fields: &[(&str, &str)]| {
        let url = format!("http://{}/v1/status", relay.operator_address);
        let mut request = http::Request::builder().uri(url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        ask(request, "").await
    };
    let bearer = ("authorization", "Bearer open-sesame");
    assert_eq!(status(&[bearer]).await.0, 200);
    for (refused, code) in [
        (vec![], 401),
        (vec![("authorization", "Bearer wrong")], 401),
        (vec![bearer, ("host", "evil.example")], 403),
        (vec![bearer, ("origin", "http://localhost")], 403),
    ] {
        let (status, answer) = status(&refused).await;
        assert_eq!(
            (status, &answer["code"]),
            (code, &json!(code)),
            "{refused:?}"
        );
        assert!(answer.get("targets").is_none(), "{answer}");
    }

    fs::write(setup.path().join("token"), "another\n").expect("writable");
    relay.signal("HUP");
    eventually("the new token is asked for", async || {
        status(&[bearer]).await.0 == 401
    })
    .await;
    assert_eq!(status(&[("authorization", "Bearer another")]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_listed_page_by_page_and_shown_with_its_history() {
    let target = Target::start(|_| 422).await;
    let setup = Setup::new(&rest(&target.url(), "true"));
    let relay = setup.start();
    dead_letters(&relay, 5).await;

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/notifications?state=dead_letter&limit=2{cursor}");
        let (_, page) = relay.operator("GET", &path, "").await;
        let entries = page["notifications"].as_array().expect("a list");
        assert!(entries.len() <= 2);
        seen.extend(entries.iter().map(|entry| entry["id"].clone()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5, "none left out, none twice: {seen:?}");

    let id = seen[0].as_str().expect("an id");
    let (_, shown) = relay
        .operator("GET", &format!("/v1/notifications/{id}"), "")
        .await;
    let shown = &shown["notifications"][0];
    assert!(shown.get("content").is_none(), "only if it is asked for");
    assert!(!shown.to_string().contains("session_id"));
    let delivery = &shown["deliveries"][0];
    assert_eq!(delivery["target"], "ehr");
    assert_eq!(delivery["state"], "dead_letter");
    assert_eq!(delivery["attempts"], 1);
    assert_eq!(delivery["history"][0]["what"], "dead_lettered");
    let (_, whole) = relay
        .operator("GET", &format!("/v1/notifications/{id}?body=1"), "")
        .await;
    assert_eq!(whole["notifications"][0]["content"]["body"], body(0));

    let escaped = format!("since=2025-01-01T00%3A00%3A00Z&ids={id}%2C{id}");
    assert_eq!(list(&relay, &escaped).await.len(), 1);
    for (path, code) in [
        ("/v1/notifications/0123456789abcdef0123456789abcdef", 404),
        ("/v1/notifications/short", 400),
        ("/v1/notifications?sate=dead_letter", 400),
        ("/v1/nothing", 404),
    ] {
        let (status, answer) = relay.operator("GET", path, "").await;
        assert_eq!(status, code, "{path}: {answer}");
        assert!(answer["message"].as_str().expect("text").len() > 10);
    }
    assert_eq!(relay.operator("DELETE", "/v1/status", "").await.0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_when_the_target_is_well_again() {
    let target = Target::start(|n| if n < 3 { 422 } else { 200 }).await;
    let setup = Setup::new(&rest(&target.url(), "true"));
    let relay = setup.start();
    dead_letters(&relay, 3).await;
    let order = async |body: &str| {
        relay
            .operator("POST", "/v1/dead-letters/replay", body)
            .await
    };
    assert_eq!(order(r#"{"dry_run":true}"#).await, done(3, 3));
    assert_eq!(target.count(), 3, "a dry run sends nothing");
    assert_eq!(order(r#"{"source":"another"}"#).await, done(0, 0));
    assert_eq!(order(r#"{"target":"gone"}"#).await.0, 400);
    assert_eq!(order(r#"{"tarket":"ehr"}"#).await.0, 400);
    let narrow = r#"{"target":"ehr","source":"suki","since":"1h"}"#;
    assert_eq!(order(narrow).await, done(3, 3));
    logged(
        &relay,
        json!({"what": "replayed", "by": "operator", "of": "dead_letter", "target": "ehr",
            "source": "suki", "matched": 3, "done": 3}),
    )
    .await;
    eventually("all arrive", async || target.count() == 6).await;
    let replayed = &target.requests()[3];
    assert_eq!(replayed.headers["suki-relay-replay"], "1");
    eventually("none is dead", async || {
        list(&relay, "state=delivered").await.len() == 3
    })
    .await;

    let id = list(&relay, "limit=1").await[0]["id"].clone();
    let path = format!("/v1/notifications/{}/replay", id.as_str().expect("an id"));
    let to = r#"{"targets":["ehr"]}"#;
    assert_eq!(relay.operator("POST", &path, to).await, done(1, 1));
    logged(&relay, json!({"what": "replayed", "ids": id, "to": "ehr"})).await;
    eventually("delivered once more", async || target.count() == 7).await;
    let gone = "/v1/notifications/0123456789abcdef0123456789abcdef/replay";
    assert_eq!(relay.operator("POST", gone, "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_is_as_many_as_was_said() {
    let target = Target::start(|_| 422).await;
    let setup = Setup::new(&rest(&target.url(), "true"));
    let relay = setup.start();
    dead_letters(&relay, 3).await;
    let discard = async |body: &str| {
        relay
            .operator("POST", "/v1/dead-letters/discard", body)
            .await
    };
    assert_eq!(discard("").await.0, 400, "no count");
    assert_eq!(discard(r#"{"count":2}"#).await.0, 409, "a wrong count");
    assert_eq!(discard(r#"{"count":3,"reason":"stale"}"#).await.0, 400);
    assert_eq!(discard(r#"{"dry_run":true}"#).await.0, 200);
    assert_eq!(list(&relay, "state=dead_letter").await.len(), 3);
    assert_eq!(discard(r#"{"count":3}"#).await, done(3, 3));
    assert_eq!(list(&relay, "state=dead_letter").await.len(), 0);
    logged(
        &relay,
        json!({"what": "discarded", "by": "operator", "of": "dead_letter", "done": 3}),
    )
    .await;
    assert!(
        (relay
            .metric("suki_relay_dead_letters{target=\"ehr\"}")
            .await)
            .abs()
            < 0.1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quarantined_is_released_by_the_routes_of_now_or_by_force() {
    let target = Target::accepting().await;
    let setup = Setup::new(&rest(&target.url(), "false"));
    let relay = setup.start();
    post(&relay, 0).await;
    assert_eq!(
        relay.sender().post("{}").await.expect("an answer").status,
        400
    );
    let release = async |body: &str| relay.operator("POST", "/v1/quarantine/release", body).await;

    let unrouted = r#"{"reason":"unrouted","action":"reroute"}"#;
    assert_eq!(release(unrouted).await, done(1, 0), "no route takes it yet");
    setup.write_config(&rest(&target.url(), "true"));
    let (status, reloaded) = relay.operator("POST", "/v1/reload", "").await;
    assert_eq!((status, &reloaded["result"]), (200, &json!("applied")));
    let dry = r#"{"reason":"unrouted","action":"reroute","dry_run":true}"#;
    assert_eq!(release(dry).await, done(1, 1));
    assert_eq!(release(unrouted).await, done(1, 1));
    eventually("it is delivered", async || target.count() == 1).await;
    assert_eq!(target.requests()[0].body, body(0));

    for wrong in [
        r#"{"reason":"invalid","action":"reroute"}"#,
        r#"{"reason":"invalid","action":"force"}"#,
        r#"{"reason":"invalid","action":"force","targets":["gone"]}"#,
        r#"{"reason":"invalid","action":"reverify"}"#,
        r#"{"reason":"nothing","action":"force","targets":["ehr"]}"#,
        r#"{"reason":"unrouted","action":"reroute","targets":["ehr"]}"#,
        r#"{"reason":"unverified","action":"reverify","target":"ehr"}"#,
    ] {
        assert_eq!(release(wrong).await.0, 400, "{wrong}");
    }
    // It is owed to nobody yet.
    let owed = r#"{"reason":"invalid","action":"force","targets":["ehr"],"target":"ehr"}"#;
    assert_eq!(release(owed).await, done(0, 0));
    let force = r#"{"reason":"invalid","action":"force","targets":["ehr"]}"#;
    assert_eq!(release(force).await, done(1, 1));
    eventually("it is delivered as it came", async || target.count() == 2).await;
    assert_eq!(target.requests()[1].body, "{}");
    assert_eq!(release(force).await, done(0, 0));
    for (reason, to) in [("unrouted", Value::Null), ("invalid", json!("ehr"))] {
        logged(
            &relay,
            json!({"what": "released", "by": "operator", "of": "quarantined", "reason": reason,
                "to": to, "matched": 1, "done": 1}),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_secret_turned_away_is_verified_again_by_the_right_one() {
    let target = Target::accepting().await;
    let setup = Setup::new(&rest(&target.url(), "true"));
    fs::write(setup.path().join("secret"), "not-the-partner-secret").expect("writable");
    let relay = setup.start();
    let (sender, text) = (relay.sender(), body(0));
    let generated_at = sender.generated_at();
    let signature = sign_by(SECRET, &generated_at, text.as_bytes());
    let answer = sender.send(&generated_at, &signature, text.clone()).await;
    assert_eq!(answer.expect("an answer").status, 401);
    let turned = async || {
        let (_, page) = relay
            .operator("GET", "/v1/notifications?state=unverified", "")
            .await;
        page["unverified"].as_array().expect("a list").len()
    };
    eventually("the ring has it", async || turned().await == 1).await;

    let reverify = async || {
        let order = r#"{"reason":"unverified","action":"reverify"}"#;
        relay
            .operator("POST", "/v1/quarantine/release", order)
            .await
    };
    assert_eq!(
        reverify().await,
        done(1, 0),
        "still not signed by any secret"
    );
    fs::write(setup.path().join("secret"), SECRET).expect("writable");
    let (_, reloaded) = relay.operator("POST", "/v1/reload", "").await;
    assert_eq!(reloaded["result"], "applied");
    assert_eq!(reverify().await, done(1, 1));
    eventually("it is delivered", async || target.count() == 1).await;
    assert_eq!(target.requests()[0].body, text);
    assert_eq!(turned().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_is_shown_without_credentials_and_with_what_is_wrong() {
    let target = Target::accepting().await;
    let setup = Setup::new(&rest(&target.url(), "true"));
    let relay = setup.start();
    let (_, unchanged) = relay.operator("POST", "/v1/reload", "").await;
    assert_eq!(unchanged["result"], "unchanged");
    let (_, shown) = relay.operator("GET", "/v1/config", "").await;
    assert_eq!(shown["refused"], Value::Null);
    assert_eq!(shown["config"]["targets"][0]["name"], "ehr");
    assert!(!shown.to_string().contains(SECRET));

    setup.write_config("targets: [oops]\nroutes: []\n");
    let (_, refused) = relay.operator("POST", "/v1/reload", "").await;
    assert_eq!(refused["result"], "refused");
    let problems = refused["problems"].as_str().expect("text");
    assert!(problems.contains("config.yaml:"), "{problems}");
    let (_, still) = relay.operator("GET", "/v1/config", "").await;
    assert_eq!(still["refused"], refused["problems"]);
    assert_eq!(
        still["config"]["targets"][0]["name"], "ehr",
        "the old one is in use"
    );
    let (_, status) = relay.operator("GET", "/v1/status", "").await;
    assert_eq!(status["targets"][0]["in_config"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_is_set_while_it_runs() {
    let setup = Setup::new(&rest("http://127.0.0.1:9/", "true"));
    let relay = setup.start();
    post(&relay, 0).await;
    let debug = |line: &Value| line["level"] == "DEBUG";
    assert!(!relay.log().iter().any(debug));
    let set = async |level: &str| {
        let body = json!({ "level": level }).to_string();
        relay.operator("PUT", "/v1/log-level", &body).await.0
    };
    assert_eq!(set("inof").await, 400);
    assert_eq!(set("debug").await, 200);
    post(&relay, 1).await;
    eventually("debug lines come", async || relay.log().iter().any(debug)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_token_is_followed_and_told() {
    let setup = with_token();
    let mut relay = setup.start();
    let status = async |token: &str| {
        let request = http::Request::builder()
            .uri(format!("http://{}/v1/status", relay.operator_address))
            .header("authorization", format!("Bearer {token}"));
        ask(request, "").await.0
    };
    assert_eq!(status("open-sesame").await, 200);
    fs::write(setup.path().join("token"), "close-sesame\n").expect("writable");
    eventually("the new token counts", async || {
        status("close-sesame").await == 200
    })
    .await;
    assert_eq!(status("open-sesame").await, 401);
    let line = relay.log_line("the new config is in use");
    assert_eq!(line["changes"], "changes the operator's token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_says_so_to_who_asks_for_a_reload() {
    let setup = Setup::new(&rest("http://127.0.0.1:9/", "true"));
    setup.reword(
        "drain: { delay: 0s, deadline: 5s }",
        "drain: { delay: 1m, deadline: 2m }",
    );
    let mut relay = setup.start();
    relay.signal("TERM");
    relay.log_line("draining: not ready any more, still accepting");
    let asking = relay.operator("POST", "/v1/reload", "");
    let answer = tokio::time::timeout(Duration::from_secs(30), asking).await;
    let (status, answer) = answer.expect("long before it ends");
    assert_eq!(status, 503, "{answer}");
}
