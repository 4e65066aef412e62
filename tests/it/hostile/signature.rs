//! Rows A01 to A16: signatures and timestamps.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use suki_relay::clock::Timestamp;
use tokio::task::JoinSet;

use super::siege::{Siege, UNVERIFIED};
use super::{FIELDS, LINE, Row, fresh, hold, now};
use crate::harness::{sign, sign_by};

/// The second secret is what Cargo tells every test.
const ROTATING: &str = r"
sources:
  - name: suki
    path: /webhooks/notification
    secrets: [{ name: current, file: secret }, { name: previous, env: CARGO_MANIFEST_DIR }]
";

/// A request with this signature and this timestamp, as they are.
fn request(signature: &str, at: &str, body: &str) -> Vec<u8> {
    raw(
        format!("x-api-key: {signature}\r\ngenerated-at: {at}\r\n").as_bytes(),
        body,
    )
}

fn raw(fields: &[u8], body: &str) -> Vec<u8> {
    let length = body.len();
    let end = format!("{FIELDS}content-length: {length}\r\n\r\n{body}");
    [LINE.as_bytes(), fields, end.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_none_is_401() {
    let (at, body) = (now(), fresh());
    let good = sign(&at, body.as_bytes());
    let in_base64 = BASE64_STANDARD.encode(hex::decode(&good).expect("hex"));
    let mut rows = Vec::new();
    for bad in [
        "",
        &good[..63],
        &format!("{good}0"),
        &good[..2],
        &good.repeat(2),
        &"xy".repeat(32),
        "\u{fc}\u{fc}",
        &format!("sha256={good}"),
        "canary-signature",
        &in_base64,
    ] {
        rows.push(Row::refused("A01 A04", request(bad, &at, &body), &[401]));
    }
    let time = format!("generated-at: {at}\r\n");
    rows.push(Row::refused("A01", raw(time.as_bytes(), &body), &[401]));
    let bytes = [b"x-api-key: \xff\xfe\r\n", time.as_bytes()].concat();
    rows.push(Row::refused("A01", raw(&bytes, &body), &[401]));
    for right in 1..32 {
        let rest = "0".repeat(64 - 2 * right);
        let part = format!("{}{rest}", &good[..2 * right]);
        if part != good {
            rows.push(Row::refused("A02", request(&part, &at, &body), &[401]).held(UNVERIFIED));
        }
        let cut = request(&good[..2 * right], &at, &body);
        rows.push(Row::refused("A02", cut, &[401]));
    }
    let key = format!("x-api-key: {good}\r\n");
    rows.push(Row::refused("A06", raw(key.as_bytes(), &body), &[401]));
    let twice = format!("{key}{time}generated-at: 1\r\n");
    rows.push(Row::refused("A06", raw(twice.as_bytes(), &body), &[401]));
    let forged = sign_by("of another environment", &at, body.as_bytes());
    rows.push(Row::refused("A13", request(&forged, &at, &body), &[401]).held(UNVERIFIED));
    hold("", rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_signature_is_taken_however_it_is_written() {
    let mut rows = Vec::new();
    let written: [fn(String) -> String; 3] = [
        |good| good.to_uppercase(),
        |good| good[..32].to_uppercase() + &good[32..],
        |good| format!("  {good} \t"),
    ];
    for write in written {
        let (at, body) = (now(), fresh());
        let signature = write(sign(&at, body.as_bytes()));
        rows.push(Row::refused("A03 A04", request(&signature, &at, &body), &[200]).owed(body));
    }
    let (at, body) = (now(), fresh());
    let by_previous = sign_by(env!("CARGO_MANIFEST_DIR"), &at, body.as_bytes());
    rows.push(Row::refused("A13", request(&by_previous, &at, &body), &[200]).owed(body));
    let (at, body) = (now(), fresh());
    let signature = sign(&at, body.as_bytes());
    let once = request(&signature, &at, &body);
    let again = [once.clone(), once].concat();
    rows.push(Row::refused("A10", again, &[200, 200]).owed(body.clone()));
    let later = (at.parse::<i64>().expect("a number") + 1).to_string();
    let signature = sign(&later, body.as_bytes());
    rows.push(Row::refused("A11", request(&signature, &later, &body), &[200]).owed(body));
    let empty = request(&sign(&later, b""), &later, "");
    rows.push(Row::refused("A14", empty, &[400]).held("invalid"));
    hold(ROTATING, rows).await;
}

/// From many connections, and twenty times as many as the good ones, which nobody lets wait for good.
#[tokio::test(flavor = "multi_thread")]
async fn good_ones_are_answered_in_a_flood_of_forged_ones() {
    const FORGERS: usize = 8;
    const EACH: usize = 125;
    const GOOD: usize = 50;
    let mut siege = Siege::begin("").await;
    let mut forgers = JoinSet::new();
    for _ in 0..FORGERS {
        let sender = siege.relay.sender();
        forgers.spawn(async move {
            for _ in 0..EACH {
                let (at, body) = (now(), fresh());
                let forged = sign_by("a forger's own secret", &at, body.as_bytes());
                let answer = sender.send(&at, &forged, body).await;
                assert_eq!(answer.expect("an answer").status, 401, "A15");
            }
        });
    }
    let (sender, mut owed) = (siege.relay.sender(), BTreeSet::new());
    for _ in 0..GOOD {
        let body = fresh();
        let answer = sender.post(body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 200, "A15");
        owed.insert(body.into_bytes());
    }
    while let Some(forger) = forgers.join_next().await {
        forger.expect("all are refused");
    }
    let kept = siege.holds_of_a_flood().await;
    assert!((1..=(FORGERS * EACH) as u64).contains(&kept), "A15: {kept}");
    siege.lift(owed).await;
}

/// Only what is neither stale nor ahead is delivered; all of it is taken.
#[tokio::test(flavor = "multi_thread")]
async fn an_untimely_notification_is_never_refused() {
    let now = Timestamp::now();
    let (minute, day) = (Duration::from_mins(1), Duration::from_hours(24));
    let mut rows = Vec::new();
    for (at, untimely) in [
        (now.minus(6 * minute), None),
        (now.minus(day), None),
        (now.minus(30 * day), Some("stale")),
        (now.plus(6 * minute), None),
        (now.plus(day), Some("future")),
        (Timestamp::from_millis(253_402_300_800_000), Some("future")),
        (Timestamp::from_millis(i64::MAX), Some("future")),
        (Timestamp::from_millis(-1), Some("bad_timestamp")),
    ] {
        let (at, body) = (at.as_millis().to_string(), fresh());
        let bytes = request(&sign(&at, body.as_bytes()), &at, &body);
        let row = Row::refused("A09", bytes, &[200]);
        rows.push(match untimely {
            None => row.owed(body),
            Some(reason) => row.held(reason),
        });
    }
    for at in ["9223372036854775808", "1e12", "canary-time", "0x10"] {
        let body = fresh();
        let bytes = request(&sign(at, body.as_bytes()), at, &body);
        rows.push(Row::refused("A09", bytes, &[200]).held("bad_timestamp"));
    }
    hold("", rows).await;
}
