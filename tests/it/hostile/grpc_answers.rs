//! Row G15: what targets answer by gRPC, frame by frame. What each status means, a server that is not ours
//! tells (`grpc/answers.rs`).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::Reason;

use super::fresh;
use super::front::{Delivery, Front};
use super::grpc_server::{Play, Server, fields, status};
use crate::harness::MEMORY_KIB;

struct Row {
    what: String,
    play: Play,
    /// The label of the attempt.
    outcome: &'static str,
}

fn row(what: impl Into<String>, play: Play, outcome: &'static str) -> Row {
    Row {
        what: what.into(),
        play,
        outcome,
    }
}

async fn begin(server: &Server) -> Front {
    let port = server.port;
    let mut front = Front::begin(&format!(
        "
targets:
  - name: audit
    grpc: {{ url: \"http://127.0.0.1:{port}\", headers: {{ x-key: {{ file: key }} }}, bearer_token: {{ file: token }} }}
    timeout: 2s
    max_in_flight: 1
    retry: {{ initial: 10ms, max: 10ms }}
    breaker: {{ failures: 1000 }}
routes: [{{ name: all, to: [audit] }}]
"
    ));
    let fail = || server.plays(Play::Head(200, status("14")), usize::MAX);
    let mend = || server.is_good();
    front.warm_up(&fresh(), "audit", fail, mend).await;
    front
}

/// OK, after a message that is none of ours, or is too long to be read past.
fn messages() -> impl Iterator<Item = Row> {
    let framed =
        |flag: u8, length: u32, bytes: &[u8]| [&[flag], &length.to_be_bytes()[..], bytes].concat();
    let has_it = [
        ("no message", Vec::new()),
        ("another's message", framed(0, 6, b"canary")),
        ("half a message", framed(0, 1000, b"canary")),
        ("what is compressed", framed(1, 6, b"canary")),
        ("no frame", b"can".to_vec()),
        ("10 MiB", vec![b'c'; 10 << 20]),
    ];
    let has_it = has_it.map(|(what, bytes)| (what, bytes, "delivered"));
    let all = has_it
        .into_iter()
        .chain([("17 MiB", vec![b'c'; 17 << 20], "protocol")]);
    all.map(|(what, bytes, outcome)| {
        let play = Play::Says(bytes, Some(status("0")));
        row(format!("OK and {what}"), play, outcome)
    })
}

/// Statuses in strange places, and none.
fn statuses() -> Vec<Row> {
    let head = |status, lines: &[_]| Play::Head(status, fields(lines));
    let bare = |trailers| Play::Says(vec![0; 5], trailers);
    let twice = Play::Twice(status("0"), status("14"));
    let moved = head(307, &[("location", "/canary")]);
    vec![
        row("OK in the head", Play::Head(200, status("0")), "delivered"),
        row("UNAVAILABLE after OK", twice, "throttled"),
        row(
            "a code to come",
            Play::Head(200, status("17")),
            "server_error",
        ),
        row("no code", Play::Head(200, status("canary")), "protocol"),
        row("no trailers", bare(None), "protocol"),
        row("bare trailers", bare(Some(fields(&[]))), "protocol"),
        row("a bare head", head(200, &[]), "protocol"),
        row("404 of HTTP", head(404, &[]), "client_error"),
        row("503 of HTTP", head(503, &[]), "throttled"),
        row("a redirect", moved, "redirect"),
        row("silence", Play::Silence, "timeout"),
    ]
}

fn broken() -> Vec<Row> {
    let mut rows = vec![
        row("GOAWAY in mid-call", Play::GoAway, "broken"),
        row("gone in mid-call", Play::Gone, "broken"),
    ];
    for reason in [
        Reason::NO_ERROR,
        Reason::PROTOCOL_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::CANCEL,
        Reason::ENHANCE_YOUR_CALM,
        Reason::HTTP_1_1_REQUIRED,
        Reason::REFUSED_STREAM,
        Reason::from(0xcafe),
    ] {
        rows.push(row(format!("{reason:?}"), Play::Reset(reason), "broken"));
        let late = format!("{reason:?} after the head");
        rows.push(row(late, Play::ResetLate(reason), "broken"));
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_does_to_a_call_it_is_called_again_unless_it_has_it() {
    let server = Server::start().await;
    let mut front = begin(&server).await;
    for row in messages().chain(statuses()).chain(broken()) {
        let what = format!("G15: {}", row.what);
        front.forget_peak();
        let peak = front.peak_kib();
        server.plays(row.play, usize::MAX);
        let body = fresh();
        let id = front.post(&body).await;
        let tried = |delivery: &Delivery| delivery.attempts > 0;
        let delivery = front.comes_to(&what, &id, "audit", tried).await;
        assert_eq!(delivery.outcome, row.outcome, "{what}");
        let has_it = row.outcome == "delivered";
        assert_eq!(delivery.is_delivered(), has_it, "{what}");
        server.is_good();
        front
            .comes_to(&what, &id, "audit", Delivery::is_delivered)
            .await;
        front.goes_on(&what, |body| server.times(body) > 0).await;
        if has_it {
            assert_eq!(server.times(body.as_bytes()), 1, "{what}: once");
        }
        let grown = front.peak_kib().saturating_sub(peak);
        assert!(grown < MEMORY_KIB, "{what}: {grown} KiB");
    }
}

/// It has not begun (RFC 9113, 8.7): once more, within the attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_refused_unseen_is_made_once_more_at_once() {
    let server = Server::start().await;
    let mut front = begin(&server).await;
    let body = fresh();
    server.plays(Play::Reset(Reason::REFUSED_STREAM), 1);
    let id = front.post(&body).await;
    let tried = |delivery: &Delivery| delivery.attempts > 0;
    let delivery = front.comes_to("G15", &id, "audit", tried).await;
    assert_eq!(
        (delivery.outcome.as_str(), delivery.attempts),
        ("delivered", 1),
        "G15"
    );
    assert_eq!(
        server.times(body.as_bytes()),
        2,
        "G15: one refused, and one taken"
    );
    front
        .goes_on("G15: REFUSED_STREAM", |body| server.times(body) > 0)
        .await;
}

/// `google.rpc.Status` with a `RetryInfo` of so many seconds, less than 128.
fn retry_info(seconds: u8) -> String {
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let info = [0x0a, 2, 8, seconds];
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
    let any = [
        &[0x0a, length(url)],
        &url[..],
        &[0x12, length(&info)],
        &info,
    ]
    .concat();
    STANDARD.encode([&[0x1a, length(&any)], &any[..]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pushback_asks_for_is_when_the_next_call_is_due() {
    const SOON: Duration = Duration::from_millis(10);
    let server = Server::start().await;
    let mut front = begin(&server).await;
    let (pushback, details) = ("grpc-retry-pushback-ms", "grpc-status-details-bin");
    let ten_years = (10_u64 * 365 * 24 * 3600 * 1000).to_string();
    let (hour, five) = (Duration::from_hours(1), Duration::from_secs(5));
    let (seven, none) = (retry_info(7), Duration::ZERO);
    let rows = [
        (pushback, "-1", none),
        (pushback, "5000", five),
        (pushback, &ten_years, hour),
        (pushback, "99999999999999999999999", none),
        (pushback, "canary", none),
        (details, &seven, Duration::from_secs(7)),
        (details, "%%%canary", none),
        ("retry-after", "5", none),
    ];
    for (name, value, floor) in rows {
        let what = format!("G15: {name}: {value}");
        let asked = [status("14"), fields(&[(name, value)])].concat();
        for play in [
            Play::Head(200, asked.clone()),
            Play::Says(vec![0; 5], Some(asked)),
        ] {
            let in_trailers = matches!(play, Play::Says(..));
            // A proxy's word, as HTTP has it, is in the head.
            let floor = if name == "retry-after" && !in_trailers {
                five
            } else {
                floor
            };
            server.plays(play, usize::MAX);
            let id = front.post(&fresh()).await;
            let tried = |delivery: &Delivery| delivery.attempts > 0;
            let delivery = front.comes_to(&what, &id, "audit", tried).await;
            let wait = delivery.wait.expect("another attempt");
            assert!(wait >= floor && wait <= floor + SOON, "{what}: {wait:?}");
            server.is_good();
            front.replay(&id).await;
            front
                .comes_to(&what, &id, "audit", Delivery::is_delivered)
                .await;
            front.goes_on(&what, |body| server.times(body) > 0).await;
        }
    }
}
