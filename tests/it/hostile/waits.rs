//! Row K03: waits that no clock can count, by a target's wish or by the config.

use std::time::Duration;

use super::foe::{Foe, Play};
use super::front::Delivery;
use super::trial::Trial;
use crate::harness::{Relay, Setup, comes_to};

/// What a target asks for, as seconds or a date, and the least that it then waits; G12 has what is no wish in itself.
const WISHES: [(&str, Duration); 10] = [
    ("3600", HOUR),
    ("3601", HOUR),
    ("2147483648", HOUR),
    ("9223372036854775807", HOUR),
    ("18446744073709551615", HOUR),
    ("18446744073709551616", HOUR),
    ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR),
    // Before now, or no date.
    ("Thu, 01 Jan 1970 00:00:00 GMT", Duration::ZERO),
    ("Sat, 31 Dec 2016 23:59:60 GMT", Duration::ZERO),
    ("Fri, 31 Dec 99999 23:59:59 GMT", Duration::ZERO),
];
const HOUR: Duration = Duration::from_hours(1);
/// The longest that the config lets anything wait.
const DAY: Duration = Duration::from_hours(24);
/// More than the impatient ones wait by themselves, on a loaded machine.
const SHORT: Duration = Duration::from_secs(1);
/// What all the targets take at least, with their connections.
const TARGETS_BYTES: usize = 2 << 20;

/// Answers 503 to each request, with this wish.
fn wishing(wish: &str) -> Foe {
    let foe = Foe::start();
    let answer = format!(
        "HTTP/1.1 503 canary-reason\r\nretry-after: {wish}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    foe.plays(Play::Closes(answer.into()));
    foe
}

/// Two targets for each wish: one that is impatient, and one that waits as long as it may.
fn to(foes: &[Foe]) -> String {
    let waits = [("short", "10ms", "20ms"), ("long", "24h", "24h")];
    let all = (0..foes.len()).flat_map(|n| waits.map(|wait| (n, wait)));
    let target = |(n, (kind, initial, max))| {
        let url = Foe::url(&foes[n]);
        let retry = format!("initial: {initial}, max: {max}, give_up_after: 8760h");
        format!(
            "  - {{ name: {kind}{n}, http: {{ url: '{url}' }}, retry: {{ {retry} }}, \
             breaker: {{ failures: 1000 }} }}\n"
        )
    };
    let targets: String = all.clone().map(target).collect();
    let names: Vec<_> = all.map(|(n, (kind, ..))| format!("{kind}{n}")).collect();
    format!(
        "targets:\n{targets}routes: [{{ name: all, to: [{}] }}]\n",
        names.join(", ")
    )
}

/// How long this target waits with what was posted first, once it was tried.
async fn wait(relay: &Relay, path: &str, target: &str) -> Duration {
    let delivery = async || {
        let (_, shown) = relay.operator("GET", path, "").await;
        Delivery::to(target, &shown)
    };
    let is_tried = |delivery: &Delivery| delivery.attempts > 0 && delivery.wait.is_some();
    let tried = comes_to(&format!("K03: {target} is tried"), delivery, is_tried).await;
    tried.wait.expect("it waits")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_no_clock_can_count_is_the_longest_that_there_is() {
    let foes = WISHES.map(|(wish, _)| wishing(wish));
    let mut trial = Trial::begin(Setup::new(&to(&foes)), &[]).await;
    let (_, page) = trial
        .relay
        .operator("GET", "/v1/notifications?limit=1", "")
        .await;
    let id = page["notifications"][0]["id"].as_str().expect("an id");
    let path = format!("/v1/notifications/{id}");
    for (n, (wish, least)) in WISHES.into_iter().enumerate() {
        for (kind, most) in [("short", least + SHORT), ("long", DAY + SHORT)] {
            let wait = wait(&trial.relay, &path, &format!("{kind}{n}")).await;
            let what = format!("K03: {wish:?}, {kind}: {wait:?}");
            assert!(least <= wait && wait <= most, "{what}");
        }
    }
    trial.goes_on("K03: wishes").await;

    // Each version makes its targets anew.
    trial.watch.brought(TARGETS_BYTES);
    let good = trial.text();
    for (from, to, words) in [
        ("max: 24h", "max: 9000000000000000000s", "is no duration"),
        ("max: 24h", "max: 18446744073709551615h", "is no duration"),
        ("max: 24h", "max: 99999999999999999999ms", "is no duration"),
        ("max: 24h", "max: 24h1ms", "is out of bounds"),
        (
            "give_up_after: 8760h",
            "give_up_after: 9223372036854775807ms",
            "is out of bounds",
        ),
        (
            "give_up_after: 8760h",
            "give_up_after: 5124095576030431h",
            "is no duration",
        ),
        (
            "drain: { delay: 0s",
            "drain: { delay: 9000000000000000000s",
            "is no duration",
        ),
        (
            "path: spool }",
            "path: spool }, keep_delivered: 18446744073709551s",
            "is out of bounds",
        ),
        (
            "secrets: [",
            "max_age: 18446744073709551s, secrets: [",
            "is out of bounds",
        ),
    ] {
        assert!(good.contains(from), "K03: {from}");
        trial.write(good.replacen(from, to, 1));
        trial.refuses(&format!("K03: {to}"), &[words]).await;
    }
    trial.write(&good);
    trial.takes("K03: the good one again").await;
}
