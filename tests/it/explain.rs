//! `explain` from outside: what would happen to a notification, and why.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Setup, sign};

const BODY: &str = r#"{"status":"success","session_id":"s-1","note":"a \u003c b","z":1.0,"a":"ü"}"#;
const CONFIG: &str = r#"
sources:
  - { name: suki, path: /suki, secrets: [{ name: current, file: secret }] }
  - { name: other, path: /other, secrets: [{ name: elder, file: elder }] }
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:9/" } }
  - { name: audit, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: everything, to: [audit] }
  - { name: finished, when: body.status == "success", to: [ehr] }
  - { name: failed, when: body.status == "failure", to: [ehr] }
  - { name: absent, when: body.nothing.here == 2, to: [ehr] }
  - { name: broken, when: body.status > 2, to: [ehr] }
"#;

/// One question to `explain`.
struct Question<'q> {
    source: &'q str,
    at: &'q str,
    signed: &'q str,
    sent: &'q [u8],
}

fn setup() -> Setup {
    let setup = Setup::new(CONFIG);
    let elder = setup.path().join("elder");
    std::fs::write(elder, "another-partner-secret-0002").expect("writable");
    setup
}

fn now() -> String {
    suki_relay::clock::Timestamp::now().as_millis().to_string()
}

fn explain(setup: &Setup, body: &[u8], arguments: &[&str]) -> Output {
    let file = setup.path().join("body");
    std::fs::write(&file, body).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(["explain", "--config"]).arg(setup.config());
    command.arg("--body").arg(file).args(arguments);
    command.output().expect("it runs")
}

fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// `sent` is judged with the signature that `signed` had at `at`.
fn ask(setup: &Setup, question: &Question) -> String {
    let signature = sign(question.at, question.signed.as_bytes());
    let arguments = [
        "--source",
        question.source,
        "--generated-at",
        question.at,
        "--signature",
        &signature,
    ];
    text(&explain(setup, question.sent, &arguments))
}

#[test]
fn a_good_notification_is_explained_route_by_route() {
    let told = ask(
        &setup(),
        &Question {
            source: "suki",
            at: &now(),
            signed: BODY,
            sent: BODY.as_bytes(),
        },
    );
    for line in [
        "source     suki",
        "signature  matches secret `current`",
        "timestamp  fresh",
        "schema     fits",
        "route      everything holds: it has no `when`",
        "route      finished holds: evaluates to true",
        "route      failed fails: evaluates to false",
        "route      absent fails: false: a field is not there",
        "route      broken cannot be evaluated: ",
        "target     audit",
        "target     ehr",
        "outcome    200; owed to 2 targets, and kept in quarantine as `route_error`",
    ] {
        assert!(told.lines().any(|l| l.starts_with(line)), "{line}\n{told}");
    }
}

#[test]
fn a_mismatch_is_told_with_its_likely_cause() {
    let setup = setup();
    let with_newline = format!("{BODY}\n");
    let pretty = BODY.replace('{', "{\n  ").replace(",\"", ",\n  \"");
    let pretty = pretty.replace("\":", "\": ").replace('}', "\n}");
    let unescaped = BODY.replace("\\u003c", "<");
    let python = unescaped.replace(",\"", ", \"").replace("\":", "\": ");
    let python = python.replace('ü', "\\u00fc");
    let marked = format!("\u{feff}{BODY}");
    let cases = [
        (BODY, with_newline.as_str(), "a trailing newline was added"),
        (&with_newline, BODY, "a trailing newline was lost"),
        (BODY, &pretty, "the body was re-encoded"),
        (&pretty, BODY, "the body was re-encoded"),
        (BODY, &unescaped, "the body was re-encoded"),
        (&python, BODY, "the body was re-encoded"),
        (BODY, &marked, "a byte order mark was added"),
        (
            BODY,
            r#"{"status":"failure"}"#,
            "no configured secret made it",
        ),
    ];
    let at = now();
    for (signed, sent, cause) in cases {
        let told = ask(
            &setup,
            &Question {
                source: "suki",
                at: &at,
                signed,
                sent: sent.as_bytes(),
            },
        );
        let line = format!("signature  does not match: {cause}");
        assert!(told.contains(&line), "{cause}: {told}");
        assert!(told.contains("outcome    401 invalid token"), "{told}");
    }
}

#[test]
fn a_secret_of_another_source_is_recognised() {
    let told = ask(
        &setup(),
        &Question {
            source: "other",
            at: &now(),
            signed: BODY,
            sent: BODY.as_bytes(),
        },
    );
    let cause = "a secret of source `suki` would match";
    assert!(told.contains(cause), "{told}");
}

#[test]
fn seconds_for_milliseconds_are_recognised() {
    let setup = setup();
    let millis = now();
    let seconds = &millis[..10];
    let whole = format!("{seconds}000");
    let told = |signed_at: &str, sent_at: &str| {
        let signature = sign(signed_at, BODY.as_bytes());
        let arguments = ["--source", "suki", "--generated-at", sent_at, "--signature"];
        let arguments = [&arguments[..], &[&signature]].concat();
        text(&explain(&setup, BODY.as_bytes(), &arguments))
    };
    let cause = "the timestamp is in seconds; it was signed in milliseconds";
    assert!(told(&whole, seconds).contains(cause));
    let cause = "the timestamp is in milliseconds; it was signed in seconds";
    assert!(told(seconds, &millis).contains(cause));
    let both = told(seconds, seconds);
    assert!(both.contains("matches secret `current`"), "{both}");
    assert!(both.contains("stale: it looks like seconds"), "{both}");
    assert!(told(&millis, "soon").contains("not a number of milliseconds"));
}

#[test]
fn a_signature_that_is_none_is_told_so() {
    let at = now();
    let arguments = ["--source", "suki", "--generated-at", &at, "--signature"];
    let arguments = [&arguments[..], &["sha256=00"]].concat();
    let told = text(&explain(&setup(), BODY.as_bytes(), &arguments));
    assert!(
        told.contains("not 64 hex digits but 9 characters"),
        "{told}"
    );
}

#[test]
fn violations_are_told_by_json_pointer_and_as_json() {
    let body = br#"{"status":1,"session_id":"s","_links":{"structured_data":[{"href":7}]}}"#;
    let output = explain(&setup(), body, &["--source", "suki", "--json"]);
    let told: Value = serde_json::from_str(&text(&output)).expect("JSON");
    let violations = told["schema_violations"].as_array().expect("a list");
    let pointers: Vec<_> = violations.iter().map(|v| &v["pointer"]).collect();
    assert!(pointers.contains(&&Value::from("/status")), "{told:#}");
    let deep = Value::from("/_links/structured_data/0/href");
    assert!(pointers.contains(&&deep), "{told:#}");
    let outcome = "400 invalid request; kept in quarantine as `invalid`";
    assert_eq!(told["outcome"], outcome);
    assert_eq!(told["signature"], Value::Null);
    let output = explain(&setup(), BODY.as_bytes(), &["--source", "suki", "--json"]);
    let told: Value = serde_json::from_str(&text(&output)).expect("JSON");
    assert_eq!(told["targets"], serde_json::json!(["audit", "ehr"]));
    assert_eq!(told["routes"][4]["verdict"], "error");
    assert_eq!(told["routes"][1]["when"], r#"body.status == "success""#);
}

#[test]
fn a_body_at_the_limit_is_read_and_one_above_it_is_not() {
    const LIMIT: usize = 8 << 20;
    let setup = setup();
    let wrong = "0".repeat(64);
    let at = now();
    let arguments = [
        "--source",
        "suki",
        "--generated-at",
        &at,
        "--signature",
        &wrong,
    ];
    let mut body = BODY.to_owned();
    body.push_str(&" ".repeat(LIMIT - body.len()));
    let told = text(&explain(&setup, body.as_bytes(), &arguments));
    assert!(told.contains("no configured secret made it"), "{told}");
    body.push(' ');
    let told = text(&explain(&setup, body.as_bytes(), &arguments));
    let expected = "source     suki\noutcome    413 payload too large: above `listen.limits.body`, 8388608 bytes\n";
    assert_eq!(told, expected);
}

#[test]
fn what_cannot_be_answered_says_why() {
    let setup = setup();
    let fails = |arguments: &[&str], code: i32, words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
        command.args(["explain", "--config"]).arg(setup.config());
        let output = command.args(arguments).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(words), "{words}: {told}");
    };
    let body = setup.config();
    let body = body.to_str().expect("text");
    let choose = "choose one with --source: `suki`, `other`";
    fails(&["--body", body], 1, choose);
    let unknown = "no source `x`; there are `suki`, `other`";
    fails(&["--body", body, "--source", "x"], 1, unknown);
    let missing = ["--body", "/nowhere/body", "--source", "suki"];
    fails(&missing, 1, "opening /nowhere/body: No such file");
    let folder = ["--body", "/", "--source", "suki"];
    fails(&folder, 1, "reading /: Is a directory");
    fails(&["--body", body, "--signature", "00"], 2, "--generated-at");
    fails(
        &["--body", body, "--header", "x"],
        2,
        "write it as `name: value`",
    );
}
