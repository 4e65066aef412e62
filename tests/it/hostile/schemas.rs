//! Rows J12 and J13: schemas that reach outside, never end, or are too large.

use std::fs;
use std::time::{Duration, Instant};

use super::trial::{Trial, to};
use crate::harness::{Setup, Target};

/// The time that a body may take to be judged, on a loaded machine. A search that tries everything would not end in years.
const AT_ONCE: Duration = Duration::from_secs(10);
/// What a schema that is as large as it may be costs at most, read and compiled once.
const SCHEMA_BYTES: usize = 1 << 20;

/// So many bytes, and twelve.
fn large(bytes: usize) -> String {
    format!(r#"{{"title":"{}"}}"#, "x".repeat(bytes))
}

/// Refused, for what is told.
fn refused() -> Vec<(&'static str, String, &'static str)> {
    let pattern = |pattern: &str| serde_json::json!({ "pattern": pattern }).to_string();
    vec![
        (
            "J12: look-ahead",
            pattern("(?=canary)x"),
            "no pattern of the kind that always ends",
        ),
        (
            "J12: look-behind",
            pattern("(?<=canary)x"),
            "does not compile",
        ),
        (
            "J12: back-reference",
            pattern("(canary)\\1"),
            "does not compile",
        ),
        (
            "J12: a size that explodes",
            pattern("((a{1000}){1000}){1000}"),
            "does not compile",
        ),
        (
            "J13: http",
            r#"{"$ref":"http://127.0.0.1:9/a"}"#.into(),
            "does not compile",
        ),
        (
            "J13: https",
            r#"{"$ref":"https://else.example/"}"#.into(),
            "does not compile",
        ),
        (
            "J13: a file",
            r#"{"$ref":"file:///etc/passwd"}"#.into(),
            "does not compile",
        ),
        (
            "J13: a dynamic one",
            r#"{"$dynamicRef":"https://else.example/#a"}"#.into(),
            "does not compile",
        ),
        (
            "J13: nothing there",
            r##"{"$ref":"#/$defs/a"}"##.into(),
            "does not compile",
        ),
        (
            "J13: nesting",
            format!("{}{}", r#"{"not":"#.repeat(5_000), "}".repeat(5_000)),
            "not JSON",
        ),
        ("J13: 10 MB", large(10_000_000), "larger than 1 MiB"),
        (
            "J13: a byte too many",
            large((1 << 20) - 11),
            "larger than 1 MiB",
        ),
        (
            "J13: no schema",
            r#"{"type":"canary"}"#.into(),
            "not a JSON Schema",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_reaches_outside_or_has_no_end_is_refused() {
    let target = Target::accepting().await;
    let mut trial = begin(&target).await;
    trial.watch.brought(2 * SCHEMA_BYTES);
    for (row, schema, words) in refused() {
        fs::write(trial.setup.path().join("shape.json"), schema).expect("writable");
        trial.refuses(row, &["sources[0].schema", words]).await;
    }
    fs::write(trial.setup.path().join("shape.json"), "true").expect("writable");
    trial.takes("J13: a good one again").await;
    trial.end(&target).await;
}

async fn begin(target: &Target) -> Trial {
    let source = "
sources:
  - { name: suki, path: /webhooks/notification, secrets: [{ name: a, file: secret }], schema: shape.json }";
    let setup = Setup::new(&format!("{source}{}", to(target)));
    fs::write(setup.path().join("shape.json"), "true").expect("writable");
    Trial::begin(setup, &[]).await
}

/// Taken; with a body that would cost most, and its answer.
fn taken() -> Vec<(&'static str, String, String, u16)> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let long = format!(r#"{{"a":"{}!"}}"#, "a".repeat(100_000));
    let quantifiers = r#"{"properties":{"a":{"pattern":"^(a+)+$"}}}"#;
    let alternatives = r#"{"properties":{"a":{"pattern":"^(a|aa|a*)*$"}}}"#;
    let many = format!(
        r#"{{"properties":{{"a":{{"allOf":[{}]}}}}}}"#,
        vec![r#"{"pattern":"(x+x+)+y"}"#; 40].join(",")
    );
    let circle =
        r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##;
    vec![
        (
            "J12: nested quantifiers",
            quantifiers.into(),
            long.clone(),
            400,
        ),
        ("J12: alternatives", alternatives.into(), long.clone(), 400),
        ("J12: many", many, long.replace('a', "x"), 200),
        (
            "J13: another dialect",
            r#"{"$schema":"http://127.0.0.1:9/"}"#.into(),
            nested(99),
            200,
        ),
        (
            "J13: as large as it may be",
            large((1 << 20) - 12),
            nested(98),
            200,
        ),
        ("J13: itself", r##"{"$ref":"#"}"##.into(), nested(100), 200),
        ("J13: a circle", circle.into(), nested(101), 200),
        (
            "J13: a list of itself",
            r##"{"items":{"$ref":"#"}}"##.into(),
            nested(102),
            200,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_another_engine_would_not_end_on_is_answered_by_at_once() {
    let target = Target::accepting().await;
    let mut trial = begin(&target).await;
    trial.watch.brought(2 * SCHEMA_BYTES);
    let sender = trial.relay.sender();
    for (row, schema, body, status) in taken() {
        fs::write(trial.setup.path().join("shape.json"), schema).expect("writable");
        trial.takes(row).await;
        let began = Instant::now();
        let answer = sender.post(body.clone()).await.expect(row);
        assert!(began.elapsed() < AT_ONCE, "{row}: {:?}", began.elapsed());
        assert_eq!(answer.status, status, "{row}");
        if status == 200 {
            trial.owed.insert(body.into_bytes());
        }
        trial.goes_on(row).await;
    }
    trial.end(&target).await;
}
