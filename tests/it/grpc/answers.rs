//! Whatever a server answers, or fails to, has the outcome that the contract says, and is attempted again or not.

use std::collections::BTreeMap;

use super::{Server, attempts, delivered, post, target};
use crate::harness::{Relay, Setup, Watch, eventually};

/// Each code, the outcome of an attempt that it ends, and whether there is another.
const CODES: [(&str, bool); 17] = [
    ("delivered", false),    // OK
    ("server_error", true),  // CANCELLED
    ("server_error", true),  // UNKNOWN
    ("client_error", false), // INVALID_ARGUMENT
    ("timeout", true),       // DEADLINE_EXCEEDED
    ("client_error", true),  // NOT_FOUND
    ("delivered", false),    // ALREADY_EXISTS
    ("unauthorized", true),  // PERMISSION_DENIED
    ("throttled", true),     // RESOURCE_EXHAUSTED
    ("client_error", false), // FAILED_PRECONDITION
    ("server_error", true),  // ABORTED
    ("client_error", false), // OUT_OF_RANGE
    ("client_error", true),  // UNIMPLEMENTED
    ("server_error", true),  // INTERNAL
    ("throttled", true),     // UNAVAILABLE
    ("server_error", false), // DATA_LOSS
    ("unauthorized", true),  // UNAUTHENTICATED
];

#[tokio::test]
async fn each_code_of_a_real_server_is_retried_settled_or_given_up_on() {
    let server = Server::answers(&["127.0.0.1:0"]);
    let setup = Setup::new(&server.target());
    let relay = setup.start_at("trace");
    // Twice: it has failed, and delivered.
    post(&relay, "s", r#"{"code": 14}"#).await;
    let mut expected = BTreeMap::from([("throttled".to_owned(), 1), ("delivered".to_owned(), 1)]);
    let lines = [server.line(), server.line()];
    assert_eq!(lines, ["s attempt=1", "s attempt=2"]);
    let mut watch = Watch::begin(&relay);
    // With the head, after a message of five bytes, and after one of 10 MiB.
    for form in ["", r#", "bytes": 5"#, r#", "bytes": 10485760"#] {
        for (code, (outcome, again)) in CODES.into_iter().enumerate() {
            post(&relay, "s", &format!(r#"{{"code": {code}{form}}}"#)).await;
            *expected.entry(outcome.to_owned()).or_insert(0) += 1;
            if again {
                *expected.entry("delivered".to_owned()).or_insert(0) += 1;
            }
            let what = format!("G15: {code}{form}");
            eventually(&format!("{what}: {expected:?}"), async || {
                outcomes(&relay).await == expected
            })
            .await;
            assert_eq!(server.line(), "s attempt=1");
            if again {
                assert_eq!(server.line(), "s attempt=2");
            }
            watch.goes_on(&relay, &what).await;
            let good = server.line();
            assert!(
                good.starts_with("canary-") && good.ends_with(" attempt=1"),
                "{what}: {good}"
            );
            *expected.entry("delivered".to_owned()).or_insert(0) += 1;
        }
    }
    let refused = CODES
        .iter()
        .filter(|(what, again)| !again && *what != "delivered")
        .count();
    let dead = relay
        .metric("suki_relay_dead_letters{target=\"audit\"}")
        .await;
    assert!((dead - 3.0 * refused as f64).abs() < 0.1, "{dead}");
}

/// Of all attempts so far.
async fn outcomes(relay: &Relay) -> BTreeMap<String, u64> {
    let (_, page) = relay.admin("/metrics").await;
    let attempts = page.lines().filter_map(|line| {
        let rest = line.strip_prefix("suki_relay_attempts_total{outcome=\"")?;
        let (outcome, rest) = rest.split_once('"')?;
        let count = rest.rsplit(' ').next()?.parse().ok()?;
        (count > 0).then(|| (outcome.to_owned(), count))
    });
    attempts.collect()
}

#[tokio::test]
async fn an_answer_that_is_late_is_a_timeout_and_the_next_one_counts() {
    let server = Server::answers(&["127.0.0.1:0"]);
    let url = format!("url: 'http://127.0.0.1:{}'", server.port);
    let setup = Setup::new(&target(&url, ", timeout: 1s"));
    let relay = setup.start();
    post(&relay, "s", r#"{"late": true}"#).await;
    delivered(&relay, 1).await;
    assert!((attempts(&relay, "timeout").await - 1.0).abs() < 0.1);
    let lines = [server.line(), server.line()];
    assert_eq!(lines, ["s attempt=1", "s attempt=2"]);
}

/// The connections of one that is killed break; one that is told to stop ends its calls with UNAVAILABLE.
#[tokio::test]
async fn a_server_that_goes_away_in_mid_call_is_found_again_when_it_is_back() {
    for (signal, outcome) in [("KILL", "broken"), ("TERM", "throttled")] {
        let server = Server::answers(&["127.0.0.1:0"]);
        let address = format!("127.0.0.1:{}", server.port);
        let setup = Setup::new(&server.target());
        let relay = setup.start();
        post(&relay, "s", r#"{"late": true}"#).await;
        assert_eq!(server.line(), "s attempt=1");
        server.signal(signal);
        eventually(&format!("{signal} is {outcome}"), async || {
            attempts(&relay, outcome).await >= 1.0
        })
        .await;
        drop(server);
        let server = Server::answers(&[&address]);
        let line = server.line();
        assert!(line.starts_with("s attempt="), "{line}");
        delivered(&relay, 1).await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_http_1_is_asked_until_a_grpc_server_takes_its_place() {
    let server = Server::python(&["-m", "http.server", "--bind", "127.0.0.1", "0"]);
    let address = format!("127.0.0.1:{}", server.port);
    let setup = Setup::new(&server.target());
    let relay = setup.start();
    post(&relay, "s", "{}").await;
    eventually("it is no gRPC server", async || {
        attempts(&relay, "protocol").await >= 1.0
    })
    .await;
    drop(server);
    let _server = Server::answers(&[&address]);
    delivered(&relay, 1).await;
}
