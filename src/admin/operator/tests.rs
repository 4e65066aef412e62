//! Orders whose giver leaves, or which end early: what is done, answered and logged.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use prometheus::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Desk;
use crate::clock::Timestamp;
use crate::name::Name;
use crate::routing::{Expression, Route, Routing, Source};
use crate::secret::Secret;
use crate::spool::tests::lines::Lines;
use crate::spool::{self, Filter, Spool, State, UnverifiedRequest};
use crate::verify::{Keyring, Signed, signature};

const SECRET: &str = "a secret of the tests";
const REVERIFY: &str = r#"{"reason":"unverified","action":"reverify"}"#;

/// A desk whose one route takes what came as JSON.
struct House {
    desk: Arc<Desk>,
    spool: Spool,
    folder: TempDir,
}

/// A program from outside that holds the spool's database: nothing is committed until it lets go.
struct Held(#[expect(dead_code, reason = "to be dropped")] rusqlite::Connection);

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn secret() -> Secret {
    Secret::from_text(SECRET.into()).expect("a secret")
}

fn routing() -> Routing {
    let when = Expression::compile("headers['content-type'] == 'application/json'");
    let route = Route {
        name: name("json"),
        when: Some(when.expect("compiles")),
        to: vec![name("ehr")],
    };
    let source = Source {
        age_max: None,
        ..Source::of("suki", Keyring::new([(name("current"), &secret())]))
    };
    Routing::new(vec![source], vec![route], Vec::new())
}

impl House {
    fn new() -> Self {
        Self::with_capacity(64 << 20)
    }

    fn with_capacity(capacity_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = spool::Options {
            path: folder.path().to_owned(),
            capacity_bytes,
            keys: None,
            keep_delivered: Duration::from_hours(72),
            unverified_capacity_bytes: 16 << 20,
        };
        let metrics = spool::Metrics::new(&Registry::new()).expect("registers");
        let spool = Spool::open(&options, metrics, |fatal| panic!("{fatal}")).expect("opens");
        let routing = Arc::new(ArcSwap::from_pointee(routing()));
        Self {
            desk: Arc::new(Desk::new(spool.clone(), routing)),
            spool,
            folder,
        }
    }

    /// Turned away, as if its secret had not been known when it came.
    async fn turned_away(&self, body: &str) {
        let before = self.in_ring().await;
        let generated_at = Timestamp::now().as_millis().to_string();
        let request = UnverifiedRequest {
            source: name("suki"),
            received_at: Timestamp::now(),
            content_type: Some("application/json".into()),
            signed: Signed {
                signature: signature(&secret(), &generated_at, body.as_bytes()),
                generated_at,
                body: body.to_owned().into(),
            },
        };
        let peer = Ipv4Addr::LOCALHOST.into();
        self.spool.unverified().offer(peer, request);
        eventually(async || self.in_ring().await == before + 1).await;
    }

    async fn in_ring(&self) -> usize {
        let entries = self.spool.unverified().list(0, 100).await;
        entries.expect("reads").len()
    }

    /// How many are in this state.
    async fn held(&self, state: State) -> usize {
        let filter = Filter {
            state: Some(state),
            ..Filter::default()
        };
        let page = self.spool.list(&filter, spool::Cursor::default(), 100);
        page.await.expect("reads").entries.len()
    }

    async fn order(&self, path: &str, body: &str) -> (u16, Value) {
        let (status, json) = self.desk.answer(&Method::POST, path, body.as_bytes()).await;
        let json = serde_json::from_slice(&json).expect("JSON");
        (status.as_u16(), json)
    }

    /// Gives an order, and leaves once the spool's writer is at something: most likely at the order.
    async fn order_and_leave(&self, path: &str, body: &str) {
        let held = self.hold();
        let begun = eventually(async || self.spool.writer_busy_for().is_some());
        tokio::select! {
            // The order is given first, whatever else the writer is at by then.
            biased;
            answer = self.order(path, body) => panic!("nothing is committed yet: {answer:?}"),
            () = begun => {}
        }
        drop(held);
    }

    fn hold(&self) -> Held {
        let file = self.folder.path().join("spool.db");
        let connection = rusqlite::Connection::open(file).expect("opens");
        connection.execute_batch("BEGIN IMMEDIATE").expect("holds");
        Held(connection)
    }
}

async fn eventually(holds: impl AsyncFn() -> bool) {
    let so = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), so).await;
    waited.expect("comes to be so");
}

#[tokio::test]
async fn an_order_whose_giver_leaves_is_done_and_logged() {
    let (house, lines) = (House::new(), Lines::keep());
    house.turned_away("{}").await;
    assert_eq!(house.order("/v1/quarantine/release", REVERIFY).await.0, 200);
    assert_eq!(house.held(State::Quarantined).await, 1);

    let discard = r#"{"reason":"invalid","source":"suki","count":1}"#;
    house
        .order_and_leave("/v1/quarantine/discard", discard)
        .await;
    eventually(async || lines.of_orders().len() == 2).await;
    assert_eq!(house.held(State::Quarantined).await, 0);
    let line = &lines.of_orders()[1];
    for (field, value) in [
        ("level", json!("INFO")),
        ("what", json!("discarded")),
        ("by", json!("operator")),
        ("of", json!("quarantined")),
        ("reason", json!("invalid")),
        ("source", json!("suki")),
        ("matched", json!(1)),
        ("done", json!(1)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(line.get("target").is_none(), "{line}");
}

#[tokio::test]
async fn a_reverify_whose_giver_leaves_is_done_and_logged() {
    let (house, lines) = (House::new(), Lines::keep());
    for n in 0..3 {
        let body = format!(r#"{{"status":"success","session_id":"s-{n}"}}"#);
        house.turned_away(&body).await;
    }
    house
        .order_and_leave("/v1/quarantine/release", REVERIFY)
        .await;
    eventually(async || house.in_ring().await == 0).await;
    // They came as JSON, which is what the route asks for.
    assert_eq!(house.held(State::Pending).await, 3);
    eventually(async || !lines.of_orders().is_empty()).await;
    let line = &lines.of_orders()[0];
    assert_eq!(
        (&line["what"], &line["matched"], &line["done"]),
        (&json!("reverified"), &json!(3), &json!(3)),
        "{line}"
    );
}

#[tokio::test]
async fn a_reverify_that_ends_early_tells_how_far_it_came() {
    let (house, lines) = (House::with_capacity(1 << 20), Lines::keep());
    house.turned_away("{}").await;
    house.turned_away(&" ".repeat(2 << 20)).await;
    house.turned_away("[]").await;
    let (status, answer) = house.order("/v1/quarantine/release", REVERIFY).await;
    assert_eq!(status, 503, "{answer}");
    let told = answer["message"].as_str().expect("text");
    assert!(told.starts_with("1 released, then: "), "{told}");
    assert_eq!(house.in_ring().await, 2);
    let line = &lines.of_orders()[0];
    assert_eq!(
        (&line["level"], &line["matched"], &line["done"]),
        (&json!("WARN"), &json!(2), &json!(1)),
        "{line}"
    );
    assert!(line["error"].as_str().is_some(), "{line}");

    let dry = r#"{"reason":"unverified","action":"reverify","dry_run":true}"#;
    let would = json!({ "matched": 2, "done": 2 });
    let answer = house.order("/v1/quarantine/release", dry).await;
    assert_eq!(answer, (200, would));
    assert_eq!(lines.of_orders().len(), 1, "of a dry run nothing is told");
}
