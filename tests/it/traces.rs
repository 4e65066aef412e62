//! Traces: what a collector that is not ours is told of a notification's way.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::{
    Authority, Killed, Relay, Request, Setup, Target, eventually, free_address, sign,
};

const BODY: &str = r#"{"status":"success","session_id":"CANARY-session","encounter_id":null,
    "error_detail":"CANARY-detail"}"#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// grpcio's server, with OpenTelemetry's own messages.
pub struct Collector {
    _process: Killed,
    port: u64,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With the files of a certificate and its key, one that speaks TLS.
    fn start_with(files: &[&Path]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("tests/python"));
        command
            .args(["tests/collector.py", "localhost:0"])
            .args(files);
        let command = command.current_dir(root).stdout(Stdio::piped());
        let mut process = command.spawn().expect("it starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut lines = output.lines().map_while(Result::ok);
        let mut next = move || serde_json::from_str::<Value>(&lines.next()?).ok();
        let port = next().expect("a line")["port"].as_u64().expect("a port");
        let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = spans.clone();
        std::thread::spawn(move || {
            while let Some(span) = next() {
                kept.lock().expect("not poisoned").push(span);
            }
        });
        Self {
            _process: Killed(process),
            port,
            spans,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("not poisoned").clone()
    }

    pub fn named(&self, name: &str) -> Vec<Value> {
        let mut spans = self.spans();
        spans.retain(|span| span["name"] == name);
        spans
    }
}

fn config(target: &Target) -> String {
    format!(
        "
targets: [{{ name: ehr, http: {{ url: '{}' }}, retry: {{ initial: 10ms, max: 10ms }} }}]
routes: [{{ name: all, to: [ehr] }}]
",
        target.url()
    )
}

/// A relay whose environment has these beside the collector's address.
fn start(setup: &Setup, port: u64, more: &[(&str, &str)]) -> Relay {
    let mut command = setup.command();
    command
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{port}"),
        )
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .envs(more.iter().copied());
    setup.spawn(command)
}

async fn post(relay: &Relay, at: &str) -> u16 {
    let key = sign(at, BODY.as_bytes());
    let theirs = format!("00-{TRACE}-{SPAN}-00");
    let headers = [
        ("x-api-key", key.as_str()),
        ("generated-at", at),
        ("traceparent", &theirs),
        ("tracestate", "vendor=CANARY-state"),
        ("x-extra", "CANARY-extra"),
    ];
    let path = "/webhooks/notification?q=CANARY-query";
    let answer = relay.sender().request("POST", path, &headers, BODY).await;
    answer.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_of_receipt_commit_and_attempts_in_one_trace() {
    let collector = Collector::start();
    let target = Target::start(|n| [503, 503, 200][n.min(2)]).await;
    let setup = Setup::new(&config(&target));
    let environment = [("OTEL_EXPORTER_OTLP_HEADERS", "authorization=t0ken")];
    let relay = start(&setup, collector.port, &environment);
    let at = relay.sender().generated_at();
    assert_eq!(post(&relay, &at).await, 200);
    eventually("three attempts are told", async || {
        collector.named("attempt").len() == 3
    })
    .await;
    assert_eq!(post(&relay, &at).await, 200);
    eventually("the repeated one is told", async || {
        collector.named("receive").len() == 2
    })
    .await;

    let sent = target.requests();
    let id = sent[0].headers["webhook-id"].to_str().expect("text");
    assert_receipts(&collector, id);
    assert_attempts(&collector, id, &sent);
    let signature = sent[0].headers["x-api-key"].to_str().expect("text");
    for span in collector.spans() {
        let text = span["text"].as_str().expect("text");
        for secret in ["CANARY", signature, crate::harness::SECRET] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

/// The first, and the repeated one.
fn assert_receipts(collector: &Collector, id: &str) {
    let [receive, again] = <[Value; 2]>::try_from(collector.named("receive")).expect("two");
    let [commit, _] = <[Value; 2]>::try_from(collector.named("commit")).expect("two");
    assert_eq!(
        (&receive["trace"], &receive["parent"]),
        (&id.into(), &"".into())
    );
    assert_eq!(receive["span"], id[16..]);
    assert_eq!(receive["links"], serde_json::json!([[TRACE, SPAN]]));
    let told = &receive["attributes"];
    assert_eq!(told["suki_relay.source"], "suki");
    assert_eq!(told["suki_relay.result"], "accepted");
    assert_eq!(told["suki_relay.deliveries"], 1);
    assert_eq!(told["http.request.body.size"], BODY.len());
    assert_eq!(receive["resource"]["service.name"], "suki-relay");
    assert_eq!(receive["authorization"], "t0ken");
    assert_eq!(
        (&commit["trace"], &commit["parent"]),
        (&id.into(), &receive["span"])
    );
    let moment = |span: &Value, which: &str| span[which].as_u64().expect("a time");
    assert!(moment(&receive, "began") <= moment(&commit, "began"));
    assert!(moment(&commit, "began") <= moment(&commit, "ended"));
    assert_eq!(moment(&commit, "ended"), moment(&receive, "ended"));

    assert_eq!(again["attributes"]["suki_relay.result"], "duplicate");
    assert_eq!(
        (&again["trace"], &again["parent"]),
        (&id.into(), &receive["span"])
    );
    assert_ne!(again["span"], receive["span"]);
}

fn assert_attempts(collector: &Collector, id: &str, sent: &[Request]) {
    let mut seen = HashSet::new();
    let attempts = collector.named("attempt");
    for (attempt, request) in attempts.iter().zip(sent) {
        assert_eq!(
            (&attempt["trace"], &attempt["parent"]),
            (&id.into(), &id[16..].into())
        );
        let span = attempt["span"].as_str().expect("an id");
        assert!(seen.insert(span), "{span} twice");
        let told = request.headers["traceparent"].to_str().expect("text");
        assert_eq!(told, format!("00-{id}-{span}-01"));
        assert_eq!(attempt["attributes"]["suki_relay.target"], "ehr");
    }
    let facts = |span: &Value| {
        let told = &span["attributes"];
        let outcome = told["suki_relay.outcome"].as_str().map(str::to_owned);
        (
            told["suki_relay.attempt"].as_u64(),
            outcome,
            span["status"].as_u64(),
        )
    };
    let expected = [("throttled", 2), ("throttled", 2), ("delivered", 1)];
    for (n, (span, (outcome, status))) in (1..).zip(attempts.iter().zip(expected)) {
        assert_eq!(facts(span), (Some(n), Some(outcome.into()), Some(status)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_before_a_polite_end_by_the_name_that_was_given() {
    let collector = Collector::start();
    let target = Target::start(|_| 200).await;
    let setup = Setup::new(&config(&target));
    let environment = [
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_SERVICE_NAME", "clinic-relay"),
    ];
    let relay = start(&setup, collector.port, &environment);
    assert_eq!(post(&relay, &relay.sender().generated_at()).await, 200);
    eventually("it is delivered", async || target.count() == 1).await;
    assert!(relay.terminate().await.success());
    eventually("all is told", async || collector.spans().len() == 3).await;
    for span in collector.spans() {
        assert_eq!(span["resource"]["service.name"], "clinic-relay");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_told_to_the_target_and_to_no_collector() {
    let collector = Collector::start();
    let target = Target::start(|_| 200).await;
    let setup = Setup::new(&config(&target));
    let relay = start(
        &setup,
        collector.port,
        &[("OTEL_TRACES_SAMPLER", "always_off")],
    );
    assert_eq!(post(&relay, &relay.sender().generated_at()).await, 200);
    eventually("it is delivered", async || target.count() == 1).await;
    let told = target.requests()[0].headers["traceparent"].clone();
    assert!(told.to_str().expect("text").ends_with("-00"), "{told:?}");
    assert!(relay.terminate().await.success());
    assert_eq!(collector.spans(), Vec::<Value>::new());
}

/// Its certificate is signed by an authority that the relay's system knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_is_told_if_the_system_trusts_it() {
    let target = Target::start(|_| 200).await;
    let setup = Setup::new(&config(&target));
    let authority = Authority::new();
    let ca = setup.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).expect("writable");
    authority.issue(setup.path(), "collector", 2099);
    let files = ["collector.crt", "collector.key"].map(|name| setup.path().join(name));
    let collector = Collector::start_with(&[&files[0], &files[1]]);
    let url = format!("https://localhost:{}", collector.port);
    let environment = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url.as_str()),
        ("SSL_CERT_FILE", ca.to_str().expect("text")),
    ];
    let relay = start(&setup, collector.port, &environment);
    assert_eq!(post(&relay, &relay.sender().generated_at()).await, 200);
    eventually("all is told", async || collector.spans().len() == 3).await;
}

/// One is not there, the other takes connections and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_changes_nothing_and_is_told_once() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_port = mute.local_addr().expect("an address").port();
    for (port, refused) in [(free_address().port(), true), (mute_port, false)] {
        let target = Target::start(|_| 200).await;
        let setup = Setup::new(&config(&target));
        let environment = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
        ];
        let mut relay = start(&setup, port.into(), &environment);
        let sender = relay.sender();
        for _ in 0..20 {
            let answer = sender.post(BODY).await.expect("an answer");
            assert_eq!(answer.status, 200);
        }
        eventually("they are delivered", async || target.count() >= 20).await;
        if refused {
            relay.log_line("the collector takes no traces; they are dropped until it does");
        }
        relay.signal("TERM");
        assert!(relay.ended().await.success());
        let lines = relay.log().into_iter();
        let said = lines.filter(|line| line["message"].to_string().contains("collector"));
        assert!(said.count() <= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_is_not_spoken_is_told_and_the_relay_works() {
    let target = Target::start(|_| 200).await;
    let setup = Setup::new(&config(&target));
    let environment = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
    let mut relay = start(&setup, 4318, &environment);
    relay.log_line(
        "no traces are exported: OTEL_EXPORTER_OTLP_PROTOCOL asks for `http/protobuf`, and the relay speaks \
         `grpc` alone; name the collector's gRPC port",
    );
    assert_eq!(post(&relay, &relay.sender().generated_at()).await, 200);
}
