//! Outputs: they tell nobody what is in a notification, or what a secret is; and logs hold nobody up.

mod commands;
mod memory;
mod operators;
mod shared;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use http::Version;

use self::operators::{see_as_an_operator_does, see_what_is_left};
use crate::harness::{
    Killed, Relay, Sender, Setup, Target, assert_untold, eventually, free_address, get, sign,
};
use crate::traces::Collector;

const CONFIG: &str = r#"
targets:
  - name: ehr
    http:
      url: "TARGET?canary-query"
      headers: { x-key: { file: key }, x-team: "${TEAM}" }
      bearer_token: { file: token }
      sign: { secrets: [{ file: signing }] }
    retry: { initial: 100ms, max: 100ms }
  - { name: dead, http: { url: "http://127.0.0.1:9/" }, retry: { initial: 100ms, max: 100ms } }
routes:
  - { name: all, to: [ehr, dead] }
  - { name: broken, when: body.error_detail > 2, to: [ehr] }
  - { name: by-header, when: 'headers["x-extra"] == "${TEAM}"', to: [ehr] }
"#;
/// Base64 of `canary canary canary canary`, and of 32 bytes.
const SIGNING: &str = "whsec_Y2FuYXJ5IGNhbmFyeSBjYW5hcnkgY2FuYXJ5";
const KEYS: &str = "a Y2FuYXJ5IGNhbmFyeSBjYW5hcnkgY2FuYXJ5MTIzNDU=\n";
const IN_BASE64: &str = "Y2FuYXJ5";
/// The operator's.
const TOKEN: &str = "canary-operator-token";

/// Each secret has a canary.
fn setup(target: &Target) -> Setup {
    let setup = Setup::new(&CONFIG.replace("TARGET", &target.url()));
    for (name, text) in [
        ("key", "canary-key"),
        ("token", "canary-token"),
        ("signing", SIGNING),
        ("keys", KEYS),
        ("operator", TOKEN),
    ] {
        fs::write(setup.path().join(name), text).expect("writable");
    }
    setup.reword("{ path: spool }", "{ path: spool, key_file: keys }");
    setup.reword(
        "operator: { address: 127.0.0.1:0 }",
        "operator: { address: 127.0.0.1:0, token: { file: operator } }",
    );
    setup
}

fn untold(text: &str) {
    assert_untold(text.lines());
    assert!(!text.contains(IN_BASE64), "{text}");
}

fn command(setup: &Setup, collector: &Collector, format: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(["run", "--log-format", format, "--config"]);
    command.arg(setup.config()).current_dir(setup.path());
    command
        .args([
            "--log-level",
            "trace,h2=trace,hyper=trace,rustls=trace,tokio_postgres=trace,suki_relay=trace",
        ])
        .env("TEAM", "canary-variable")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=canary-collector",
        )
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sent_and_no_secret_is_in_any_output_at_any_level() {
    let target = Target::start(|n| [503, 302, 429, 200][n % 4]).await;
    let (setup, collector) = (setup(&target), Collector::start());
    let relay = setup.spawn(command(&setup, &collector, "json"));
    let certificate = setup.path().join("tls.crt");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let sender = Sender::speaking(version, relay.sender_address, &certificate);
        post_everything(&sender).await;
    }
    eventually("targets were tried", async || target.count() >= 4).await;
    see_as_an_operator_does(&setup, &relay).await;
    it_ends_untold(relay, &setup, &collector).await;
    see_what_is_left(&setup);
}

/// Pages, a reload that is refused, an end; and all that was written and told until then.
async fn it_ends_untold(mut relay: Relay, setup: &Setup, collector: &Collector) {
    for page in [
        "/canary-path?canary-query",
        "/metrics",
        "/livez",
        "/readyz",
        "/startupz",
        "/version",
    ] {
        untold(&relay.admin(page).await.1);
    }
    fs::write(setup.path().join("signing"), "canary").expect("writable");
    relay.signal("HUP");
    relay.log_line("the new config is refused; the old one stays in use");
    let told = async || {
        ["attempt", "commit"]
            .iter()
            .all(|name| !collector.named(name).is_empty())
    };
    eventually("attempts are told", told).await;
    relay.signal("TERM");
    relay.ended().await;
    for span in collector.spans() {
        untold(span["text"].as_str().expect("text"));
    }
    let [log, errors] = relay.written();
    untold(&[log, errors].concat().join("\n"));
    let log = relay.log();
    assert!(log.iter().any(|line| line["level"] == "DEBUG"), "{log:?}");
    // None of ours is at this level: such a line is by another crate, and could say anything.
    let foreign = log.iter().find(|line| line["level"] == "TRACE");
    assert_eq!(foreign, None);
    fs::write(setup.path().join("signing"), SIGNING).expect("writable");
}

/// The same in words, for a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sent_and_no_secret_is_in_a_log_in_words() {
    let target = Target::start(|n| [503, 302, 429, 200][n % 4]).await;
    let (setup, collector) = (setup(&target), Collector::start());
    let address = free_address();
    setup.reword("address: 127.0.0.1:0\n", &format!("address: {address}\n"));
    let mut command = command(&setup, &collector, "text");
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut relay = Killed(command.spawn().expect("it starts"));
    eventually("it listens", async || TcpStream::connect(address).is_ok()).await;
    post_everything(&Sender::new(address, &setup.path().join("tls.crt"))).await;
    eventually("targets were tried", async || target.count() >= 4).await;
    relay.0.kill().expect("killed");
    let (mut log, mut errors) = (String::new(), String::new());
    let child = &mut relay.0;
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut log)
        .expect("text");
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut errors)
        .expect("text");
    assert!(log.contains(" DEBUG "), "{log}");
    untold(&log);
    untold(&errors);
}

/// Whatever may be sent, in every way that it may.
async fn post_everything(sender: &Sender) {
    const GOOD: &str = r#"{"status":"canary-status","session_id":"canary-session",
        "encounter_id":"canary-encounter","error_code":"canary-code",
        "error_detail":"canary-detail","additional_info":{"canary-key":"canary-info"},
        "_links":{"contents":[{"href":"canary-href"}]},"canary-unknown":["canary-item"]}"#;
    const INVALID: &str = r#"{"status":["canary-invalid"]}"#;
    const NO_JSON: &str = "canary-no-json {";
    for body in [GOOD, INVALID, NO_JSON] {
        post_in_every_way(sender, body).await;
    }
}

/// Signed, with a signature of no kind, at no time and forged; by a right and a wrong path and method.
async fn post_in_every_way(sender: &Sender, body: &'static str) {
    let at = sender.generated_at();
    for (at, key) in [
        (at.as_str(), sign(&at, body.as_bytes())),
        (&at, sign(&at, body.as_bytes())),
        (&at, "canary-signature".to_owned()),
        ("canary-time", sign("canary-time", body.as_bytes())),
        (&at, "ab".repeat(32)),
    ] {
        let headers = [
            ("x-api-key", key.as_str()),
            ("generated-at", at),
            ("content-type", "application/canary-type"),
            ("x-extra", "canary-extra"),
            ("x-canary-name", "canary-value"),
            ("cookie", "canary-cookie"),
            ("user-agent", "canary-agent"),
            ("tracestate", "vendor=canary-state"),
        ];
        for (method, path) in [
            ("POST", "/webhooks/notification?q=canary-query"),
            ("POST", "/canary-path?q=canary-query"),
            ("CANARY", "/webhooks/notification"),
        ] {
            let answer = sender.request(method, path, &headers, body).await;
            untold(&answer.expect("an answer").body);
        }
    }
}

const QUIET: &str = "
targets: [{ name: dead, http: { url: 'http://127.0.0.1:9/' } }]
routes: [{ name: all, to: [dead] }]
";

/// The other end of its pipe is held open and never read.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing_and_counts_what_it_drops() {
    let setup = Setup::new(QUIET);
    let (sender, admin) = (free_address(), free_address());
    setup.reword("address: 127.0.0.1:0\n", &format!("address: {sender}\n"));
    setup.reword(
        "admin: { address: 127.0.0.1:0",
        &format!("admin: {{ address: {admin}"),
    );
    let mut command = setup.command();
    command
        .args(["--log-level", "trace"])
        .stdout(Stdio::piped());
    let _child = Killed(command.spawn().expect("it starts"));
    eventually("it listens", async || TcpStream::connect(sender).is_ok()).await;
    let dropped = async || {
        let (status, page) = get(admin, "/metrics").await;
        assert_eq!(status, 200);
        !page.contains("\nsuki_relay_log_lines_dropped_total 0\n")
    };
    let mut rounds = 0..60;
    while !dropped().await {
        assert!(rounds.next().is_some(), "60,000 lines, and none dropped");
        for _ in 0..1000 {
            // Each is a failed handshake, and a line of it.
            let mut stream = TcpStream::connect(sender).expect("connected");
            stream.write_all(b"no TLS at all\r\n\r\n").expect("written");
        }
    }
    let client = Sender::new(sender, &setup.path().join("tls.crt"));
    let answer = client
        .post(r#"{"status":"success","session_id":"s"}"#)
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
}
