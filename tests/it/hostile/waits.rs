//! Row K03: waits that no clock can count, by a target's wish or by the config.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use suki_relay::clock::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::trial::Trial;
use crate::harness::{Relay, Setup, eventually};

/// What a target asks for, as seconds or a date; and the least and the most that it may wait then.
const WISHES: &[(&str, Duration, Duration)] = &[
    ("3600", HOUR, HOUR),
    ("3601", HOUR, HOUR),
    ("2147483648", HOUR, HOUR),
    ("9223372036854775807", HOUR, HOUR),
    ("18446744073709551615", HOUR, HOUR),
    ("18446744073709551616", HOUR, HOUR),
    ("99999999999999999999", HOUR, HOUR),
    ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR, HOUR),
    // Before now, or no wish at all.
    ("Thu, 01 Jan 1970 00:00:00 GMT", Duration::ZERO, SHORT),
    ("Sat, 31 Dec 2016 23:59:60 GMT", Duration::ZERO, SHORT),
    ("Fri, 31 Dec 99999 23:59:59 GMT", Duration::ZERO, SHORT),
    ("-1", Duration::ZERO, SHORT),
    ("1e308", Duration::ZERO, SHORT),
    ("0xffffffffffffffff", Duration::ZERO, SHORT),
    ("canary", Duration::ZERO, SHORT),
    ("", Duration::ZERO, SHORT),
];
const HOUR: Duration = Duration::from_hours(1);
/// The longest that the config lets anything wait.
const DAY: Duration = Duration::from_hours(24);
const SHORT: Duration = Duration::from_millis(20);
/// What all the targets take at least, with their connections.
const TARGETS_BYTES: usize = 2 << 20;
/// Between an answer and the look at what came of it.
const SLACK: Duration = Duration::from_mins(2);

/// Answers 503 to each request, with the wish that its path counts off.
async fn wishing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(wish(stream));
        }
    });
    address
}

async fn wish(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let number = line.trim_start_matches("POST /").split(' ').next();
    let number: usize = number.and_then(|it| it.parse().ok()).expect("a path");
    let (wish, ..) = WISHES[number % WISHES.len()];
    let answer = format!(
        "HTTP/1.1 503 canary-reason\r\nretry-after: {wish}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    // To the end of what is sent, so that nothing is cut.
    stream.get_mut().shutdown().await?;
    while stream.read_line(&mut line).await? > 0 {
        line.clear();
    }
    Ok(())
}

/// Two targets for each wish: one that is impatient, and one that waits as long as it may.
fn to(address: SocketAddr) -> String {
    let waits = [("short", "10ms", "20ms"), ("long", "24h", "24h")];
    let all = (0..WISHES.len()).flat_map(|n| waits.map(|wait| (n, wait)));
    let target = |(n, (kind, initial, max))| {
        let retry = format!("initial: {initial}, max: {max}, give_up_after: 8760h");
        format!(
            "  - {{ name: {kind}{n}, http: {{ url: 'http://{address}/{n}' }}, retry: {{ {retry} }}, \
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

/// When each target is due for what was posted first, once each was tried.
async fn due(relay: &Relay) -> BTreeMap<String, Timestamp> {
    let (_, page) = relay.operator("GET", "/v1/notifications?limit=1", "").await;
    let id = page["notifications"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/v1/notifications/{id}");
    let deliveries = async || {
        let (_, shown) = relay.operator("GET", &path, "").await;
        shown["notifications"][0]["deliveries"]
            .as_array()
            .expect("a list")
            .clone()
    };
    eventually("K03: each is tried", async || {
        let all = deliveries().await;
        all.iter()
            .all(|it| it["attempts"].as_u64() > Some(0) && it["due_at"].is_string())
    })
    .await;
    let due = deliveries().await.into_iter().map(|it| {
        let at = Timestamp::parse(it["due_at"].as_str().expect("a time"));
        let name = it["target"].as_str().expect("a name");
        (name.to_owned(), at.expect("RFC 3339"))
    });
    due.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_no_clock_can_count_is_the_longest_that_there_is() {
    let mut trial = Trial::begin(Setup::new(&to(wishing().await)), &[]).await;
    let (due, now) = (due(&trial.relay).await, Timestamp::now());
    assert_eq!(due.len(), 2 * WISHES.len());
    for (n, (wish, least, most)) in WISHES.iter().enumerate() {
        let short = due[&format!("short{n}")];
        assert!(
            short.plus(SLACK) >= now.plus(*least),
            "K03: {wish:?}: {short}, at {now}"
        );
        assert!(
            short <= now.plus(*most + SLACK),
            "K03: {wish:?}: {short}, at {now}"
        );
        let long = due[&format!("long{n}")];
        assert!(
            long <= now.plus(DAY + SLACK),
            "K03: {wish:?}: {long}, at {now}"
        );
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
