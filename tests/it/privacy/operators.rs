//! What an operator is shown, and told of orders: nothing of what is in a notification, unless asked for it.

use std::fmt::Write;
use std::process::Command;

use serde_json::Value;

use super::{TOKEN, untold};
use crate::harness::{Relay, Setup, ask};

/// Asked by who has the token.
async fn asked(relay: &Relay, method: &str, path: &str, order: &str) -> Value {
    let url = format!("http://{}{path}", relay.operator_address);
    let request = http::Request::builder().method(method).uri(url);
    let request = request.header("authorization", format!("Bearer {TOKEN}"));
    ask(request, order).await.1
}

/// Lists and orders, over HTTP and by the command; nobody asked for content.
pub async fn see_as_an_operator_does(setup: &Setup, relay: &Relay) {
    let release = "/v1/quarantine/release";
    let mut seen = String::new();
    for (method, path, order) in [
        ("GET", "/v1/status", ""),
        ("GET", "/v1/config", ""),
        ("GET", "/v1/notifications?limit=1000", ""),
        ("GET", "/v1/notifications?state=unverified", ""),
        (
            "POST",
            release,
            r#"{"reason":"unverified","action":"reverify"}"#,
        ),
        (
            "POST",
            release,
            r#"{"reason":"unrouted","action":"reroute"}"#,
        ),
        (
            "POST",
            release,
            r#"{"reason":"invalid","action":"force","targets":["dead"]}"#,
        ),
        ("POST", "/v1/dead-letters/replay", "{}"),
        ("POST", "/v1/quarantine/discard", r#"{"count":7777}"#),
    ] {
        let told = asked(relay, method, path, order).await;
        // And as who is none.
        let refused = relay.operator(method, path, order).await.1;
        writeln!(seen, "{told}\n{refused}").expect("written");
    }
    assert!(
        seen.contains("\"quarantine\""),
        "it saw what there is: {seen}"
    );
    untold(&seen);
    let url = format!("http://{}", relay.operator_address);
    let token = setup.path().join("operator");
    let token = token.to_str().expect("text");
    for words in [
        &["status"][..],
        &["list"],
        &["list", "--json"],
        &["list", "--state", "unverified"],
        &["replay"],
        &["discard", "--count", "7777"],
    ] {
        let words = [&["--log-level", "trace", "spool"], words].concat();
        untold(&said(&words, &["--operator", &url, "--token-file", token]));
        untold(&said(&words, &["--operator", &url]));
    }
    discard_what_is_held(relay, &url, token).await;
}

/// Of one reason, for good: one notification over HTTP, and the others by the command.
async fn discard_what_is_held(relay: &Relay, url: &str, token: &str) {
    let discard = "/v1/quarantine/discard";
    let held = r#"{"reason":"bad_timestamp","dry_run":true}"#;
    let held = asked(relay, "POST", discard, held).await;
    let matched = held["matched"].as_u64().expect("a number");
    assert!(matched > 1, "{held}");
    let which = "/v1/notifications?state=quarantined&reason=bad_timestamp&limit=1";
    let first = asked(relay, "GET", which, "").await;
    let id = first["notifications"][0]["id"].as_str().expect("an id");
    let order = format!(r#"{{"ids":["{id}"],"count":1}}"#);
    let done = asked(relay, "POST", discard, &order).await;
    assert_eq!(done["done"], 1, "it is discarded");
    untold(&format!("{held}\n{first}\n{done}"));
    let rest = (matched - 1).to_string();
    let words = ["discard", "--quarantine", "--reason", "bad_timestamp"];
    let words = [
        &["--log-level", "trace", "spool"],
        &words[..],
        &["--count", &rest],
    ]
    .concat();
    let told = said(&words, &["--operator", url, "--token-file", token]);
    untold(&told);
    let left = asked(relay, "GET", which, "").await;
    assert_eq!(left["notifications"], serde_json::json!([]), "{told}");
}

/// In the folder of a relay that has ended.
pub fn see_what_is_left(setup: &Setup) {
    let (folder, config) = (setup.path().join("spool"), setup.config());
    let place = [
        "--path",
        folder.to_str().expect("text"),
        "--config",
        config.to_str().expect("text"),
    ];
    let listed = said(&["spool", "list", "--json"], &place);
    let first: Value = listed
        .lines()
        .next()
        .and_then(|line| serde_json::from_str(line).ok())
        .expect("one");
    let id = first["id"].as_str().expect("an id");
    untold(&listed);
    for words in [
        &["status", "--audit"][..],
        &["list"],
        &["show", id],
        &["replay", "--dry-run"],
        &["discard", "--count", "7777"],
    ] {
        untold(&said(&[&["spool"], words].concat(), &place));
    }
}

/// What a command printed.
pub fn said(words: &[&str], more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.env("TEAM", "canary-variable");
    let output = command.args(words).args(more).output().expect("it runs");
    [output.stdout, output.stderr]
        .map(|said| String::from_utf8_lossy(&said).into_owned())
        .concat()
}
