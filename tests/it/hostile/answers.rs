//! Rows G06 to G12: what targets answer by HTTP.

use std::time::Duration;

use suki_relay::clock::Timestamp;

use super::foe::{Foe, Play};
use super::fresh;
use super::front::{Delivery, Front};
use crate::harness::Target;

/// What becomes of a delivery that is answered so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// Tried again until it is answered better.
    Again,
    /// At once.
    DeadLetter,
    /// Tried again, and given up on after some time.
    DeadInTheEnd,
}
use Fate::{Again, DeadInTheEnd, DeadLetter, Delivered};

struct Row {
    id: &'static str,
    answer: Play,
    /// The label of the attempt.
    outcome: &'static str,
    fate: Fate,
    /// To the target with statuses of its own.
    own: bool,
}

fn row(id: &'static str, answer: Play, outcome: &'static str, fate: Fate) -> Row {
    Row {
        id,
        answer,
        outcome,
        fate,
        own: false,
    }
}

/// By a status line, with a body.
fn status(id: &'static str, status: &str, outcome: &'static str, fate: Fate) -> Row {
    let answer = Play::answer(status, "content-length: 11\r\n", "canary-body");
    row(id, answer, outcome, fate)
}

/// One target as the config has it by itself; another, for notifications of a failure, with statuses of its
/// own, that gives up soon.
fn config(foe: &Foe) -> String {
    let target = format!(
        "http: {{ url: \"{}\", headers: {{ x-key: {{ file: key }} }}, bearer_token: {{ file: token }} }}",
        foe.url()
    );
    let often = "breaker: { failures: 1000 }, max_in_flight: 1";
    format!(
        "
targets:
  - {{ name: ehr, {target}, {often}, retry: {{ initial: 10ms, max: 10ms }} }}
  - {{ name: own, {target}, {often}, retry: {{ initial: 10ms, max: 10ms, give_up_after: 1s }},
      delivered_on: [409, 302], give_up_on: [404, 503] }}
routes:
  - {{ name: all, when: body.status == \"success\", to: [ehr] }}
  - {{ name: failures, when: body.status == \"failure\", to: [own] }}
"
    )
}

async fn begin(foe: &Foe) -> Front {
    let mut front = Front::begin(&config(foe));
    for name in ["ehr", "own"] {
        let fail = || foe.plays(Play::answer("500 canary", "content-length: 0\r\n", ""));
        let mend = || foe.plays(Play::good());
        front.warm_up(&body(name == "own"), name, fail, mend).await;
    }
    front
}

/// One for the target `own`, or for the other.
fn body(own: bool) -> String {
    let body = fresh();
    if own {
        body.replace("success", "failure")
    } else {
        body
    }
}

/// Each answer has the outcome and the fate of its row, and nobody is told a word of it.
async fn hold(foe: &Foe, rows: Vec<Row>) {
    assert!(!rows.is_empty());
    let mut front = begin(foe).await;
    for row in rows {
        let said = match &row.answer {
            Play::Says(bytes) | Play::Closes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        let (what, name) = (
            format!("{}: {said:?}", row.id),
            ["ehr", "own"][usize::from(row.own)],
        );
        foe.plays(row.answer);
        let body = body(row.own);
        let id = front.post(&body).await;
        let is_so = |delivery: &Delivery| match row.fate {
            Delivered => delivery.is_delivered(),
            Again => delivery.attempts > 1,
            DeadLetter | DeadInTheEnd => delivery.state == "dead_letter",
        };
        let delivery = front.comes_to(&what, &id, name, is_so).await;
        assert_eq!(delivery.outcome, row.outcome, "{what}");
        foe.plays(Play::good());
        if row.fate == Again {
            assert_eq!(delivery.state, "pending", "{what}");
            front
                .comes_to(&what, &id, name, Delivery::is_delivered)
                .await;
        }
        front.goes_on(&what, |body| foe.times(body) > 0).await;
        let times = foe.times(body.as_bytes());
        match row.fate {
            Delivered | DeadLetter => assert_eq!(times, 1, "{what}: and it is let alone"),
            Again | DeadInTheEnd => assert!(times > 2, "{what}: {times} times"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_target_takes_with_is_delivered_once() {
    let foe = Foe::start();
    let mut rows = vec![
        row(
            "G06",
            Play::Closes(b"HTTP/1.1 200 OK\r\n\r\ncanary without a length".into()),
            "delivered",
            Delivered,
        ),
        row(
            "G06",
            Play::Closes(b"HTTP/1.0 200 OK\r\n\r\n".into()),
            "delivered",
            Delivered,
        ),
        // Neither may have a body: what follows is no answer to anything.
        row(
            "G06",
            Play::answer("204 No Content", "", "canary-body"),
            "delivered",
            Delivered,
        ),
        row(
            "G06",
            Play::answer("204 No Content", "content-length: 11\r\n", "canary-body"),
            "delivered",
            Delivered,
        ),
        row(
            "G06",
            Play::answer("204 No Content", "", ""),
            "delivered",
            Delivered,
        ),
    ];
    for line in [
        "200 OK",
        "201 Created",
        "202 Accepted",
        "206 Partial",
        "299 canary",
        "200",
    ] {
        rows.push(status("G06", line, "delivered", Delivered));
        let empty = Play::answer(line, "content-length: 0\r\n", "");
        rows.push(row("G06", empty, "delivered", Delivered));
        let chunked = "b\r\ncanary-body\r\n0\r\nx-canary: trailer\r\n\r\n";
        let chunked = Play::answer(line, "transfer-encoding: chunked\r\n", chunked);
        rows.push(row("G06", chunked, "delivered", Delivered));
    }
    hold(&foe, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_leads_anywhere() {
    let (foe, elsewhere) = (Foe::start(), Target::accepting().await);
    let port = elsewhere.address.port();
    let places = [
        elsewhere.url(),
        format!("//127.0.0.1:{port}/canary"),
        "/canary".to_owned(),
        "http://169.254.169.254/latest/canary".to_owned(),
        "file:///etc/canary".to_owned(),
        "canary:// \t{canary}".to_owned(),
        String::new(),
    ];
    let mut rows = Vec::new();
    for (number, line) in [
        "301 Moved",
        "302 Found",
        "303 See",
        "307 Temporary",
        "308 Permanent",
    ]
    .iter()
    .enumerate()
    {
        // The watched port by all of them, each other place by some.
        for place in [&places[0], &places[1 + number], &places[6 - number % 2]] {
            let fields = format!("location: {place}\r\ncontent-length: 0\r\n");
            rows.push(row(
                "G07",
                Play::answer(line, &fields, ""),
                "redirect",
                Again,
            ));
        }
    }
    for line in ["300 Choices", "304 Not Modified", "399 canary"] {
        rows.push(row(
            "G07",
            Play::answer(line, "content-length: 0\r\n", ""),
            "redirect",
            Again,
        ));
    }
    let two = format!(
        "location: {0}\r\nlocation: {0}\r\ncontent-length: 0\r\n",
        elsewhere.url()
    );
    rows.push(row(
        "G07",
        Play::answer("307 Two", &two, ""),
        "redirect",
        Again,
    ));
    let mut had = status("G07", "302 canary", "delivered", Delivered);
    had.own = true;
    rows.push(had);
    hold(&foe, rows).await;
    assert_eq!(elsewhere.connections(), 0, "G07: nobody went there");
    let strayed = foe
        .heard()
        .iter()
        .any(|heard| !heard.head.starts_with("POST /in?canary-query "));
    assert!(!strayed, "G07: nor elsewhere at the target");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_tried_again_or_a_dead_letter_as_the_config_says() {
    let foe = Foe::start();
    let own = |mut row: Row| {
        row.own = true;
        row
    };
    let mut rows = vec![
        status("G08", "400 canary", "client_error", DeadLetter),
        status("G08", "404 canary", "client_error", Again),
        status("G08", "405 canary", "client_error", DeadLetter),
        status("G08", "409 canary", "client_error", Again),
        status("G08", "413 canary", "client_error", DeadLetter),
        status("G08", "415 canary", "client_error", DeadLetter),
        status("G08", "422 canary", "client_error", DeadLetter),
        status("G08", "499 canary", "client_error", Again),
        own(status("G08", "404 canary", "client_error", DeadLetter)),
        own(status("G08", "409 canary", "delivered", Delivered)),
        own(status("G08", "400 canary", "client_error", DeadInTheEnd)),
        status("G09", "401 canary", "unauthorized", Again),
        status("G09", "403 canary", "unauthorized", Again),
        own(status("G09", "401 canary", "unauthorized", DeadInTheEnd)),
        status("G10", "410 canary", "client_error", DeadLetter),
        own(status("G10", "410 canary", "client_error", DeadInTheEnd)),
        own(status("G11", "503 canary", "throttled", DeadLetter)),
    ];
    let later = [
        ("408", "throttled"),
        ("425", "throttled"),
        ("429", "throttled"),
        ("500", "server_error"),
        ("502", "server_error"),
        ("503", "throttled"),
        ("504", "server_error"),
        ("599", "server_error"),
        ("600", "protocol"),
        ("999", "protocol"),
    ];
    for (line, outcome) in later {
        rows.push(status("G11", line, outcome, Again));
    }
    hold(&foe, rows).await;
}

/// What a target asks for is in when the next attempt is due: nothing here waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_retry_after_asks_for_is_when_the_next_attempt_is_due() {
    const SOON: Duration = Duration::from_millis(10);
    const HOUR: Duration = Duration::from_hours(1);
    let foe = Foe::start();
    let mut front = begin(&foe).await;
    let in_100_s = httpdate::fmt_http_date(Timestamp::now().plus(Duration::from_secs(100)).into());
    let seconds = |n| (Duration::from_secs(n), Duration::from_secs(n) + SOON);
    let (none, clamped) = ((Duration::ZERO, SOON), (HOUR, HOUR + SOON));
    let rows: [(&[&str], _); 18] = [
        (&["5"], seconds(5)),
        (&[" 7 "], seconds(7)),
        (&["0"], none),
        (&["-1"], none),
        (&["1e9"], none),
        (&["1000000000"], clamped),
        (&["99999999999999999999999999"], clamped),
        (&["Sun, 06 Nov 1994 08:49:37 GMT"], none),
        (&["Fri, 06 Nov 2093 08:49:37 GMT"], clamped),
        (&["Fri Nov  6 08:49:37 2093"], clamped),
        (
            &[&in_100_s],
            (Duration::from_secs(40), Duration::from_secs(101)),
        ),
        (&["Fri, 31 Feb 2093 08:49:37 GMT"], none),
        (&["canary"], none),
        (&[""], none),
        (&["5, 7"], none),
        (&["0x10"], none),
        (&["5", "5"], none),
        (&["5", "3600"], none),
    ];
    for (wishes, (least, most)) in rows {
        let fields: String = wishes
            .iter()
            .map(|wish| format!("retry-after: {wish}\r\n"))
            .collect();
        let what = format!("G12: {fields:?}");
        foe.plays(Play::answer(
            "503 canary",
            &format!("{fields}content-length: 0\r\n"),
            "",
        ));
        let id = front.post(&fresh()).await;
        let failed = |delivery: &Delivery| delivery.attempts > 0;
        let delivery = front.comes_to(&what, &id, "ehr", failed).await;
        assert_eq!(delivery.outcome, "throttled", "{what}");
        let wait = delivery.wait.expect("another attempt");
        assert!(least <= wait && wait <= most, "{what}: {wait:?}");
        foe.plays(Play::good());
        front.replay(&id).await;
        front
            .comes_to(&what, &id, "ehr", Delivery::is_delivered)
            .await;
        front.goes_on(&what, |body| foe.times(body) > 0).await;
    }
}
