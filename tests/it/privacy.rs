//! Logs: they tell nobody what is in a notification, and hold nobody up.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use http::Version;

use crate::harness::{Killed, Relay, Sender, Setup, Target, eventually, free_address, get, sign};

const CONFIG: &str = r#"
targets:
  - { name: ehr, http: { url: "TARGET" }, retry: { initial: 100ms, max: 100ms } }
  - { name: dead, http: { url: "http://127.0.0.1:9/" }, retry: { initial: 100ms, max: 100ms } }
routes:
  - { name: all, to: [ehr, dead] }
  - { name: broken, when: body.error_detail > 2, to: [ehr] }
  - { name: by-header, when: 'headers["x-extra"] == "CANARY-none"', to: [ehr] }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_notification_is_in_logs_metrics_or_answers_at_any_level() {
    let target = Target::start(|n| [503, 302, 429, 200][n % 4]).await;
    let setup = Setup::new(&CONFIG.replace("TARGET", &target.url()));
    let relay = setup.start_at("trace,h2=trace,hyper=trace,rustls=trace,suki_relay=trace");
    let good = r#"{"status":"CANARY-status","session_id":"CANARY-session",
        "encounter_id":"CANARY-encounter","error_code":"CANARY-code",
        "error_detail":"CANARY-detail","additional_info":{"CANARY-key":"CANARY-info"},
        "_links":{"contents":[{"href":"CANARY-href"}]},"CANARY-unknown":["CANARY-item"]}"#;
    let invalid = r#"{"status":["CANARY-invalid"]}"#;
    let no_json = "CANARY-no-json {";
    let mut shown = String::new();
    let mut secrets = vec!["CANARY".to_owned()];
    let certificate = setup.path().join("tls.crt");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let sender = Sender::speaking(version, relay.sender_address, &certificate);
        for body in [good, invalid, no_json] {
            let (keys, answers) = post_in_every_way(&sender, body).await;
            secrets.extend(keys);
            shown += &answers;
        }
    }
    eventually("targets were tried", async || target.count() >= 4).await;
    shown += &relay.admin("/CANARY-admin?q=CANARY").await.1;
    shown += &relay.admin("/metrics").await.1;
    shown += &what_operators_see(&relay).await;
    relay.signal("TERM");
    let mut relay = relay;
    relay.ended().await;
    let log = relay.log();
    assert!(log.iter().any(|line| line["level"] == "DEBUG"), "{log:?}");
    // None of ours is at this level: such a line is by another crate, and could say anything.
    let foreign = log.iter().find(|line| line["level"] == "TRACE");
    assert_eq!(foreign, None);
    let lines = log.iter().map(ToString::to_string);
    for line in lines.chain(shown.lines().map(str::to_owned)) {
        for secret in &secrets {
            assert!(!line.contains(secret.as_str()), "{secret}: {line}");
        }
    }
}

/// Lists and orders, over HTTP and by the command; nobody asked for content.
async fn what_operators_see(relay: &Relay) -> String {
    let mut seen = String::new();
    let release = "/v1/quarantine/release";
    for (method, path, order) in [
        ("GET", "/v1/status", ""),
        ("GET", "/v1/notifications?limit=1000", ""),
        ("GET", "/v1/notifications?reason=unverified", ""),
        (
            "POST",
            release,
            r#"{"reason":"unverified","action":"reverify"}"#,
        ),
        (
            "POST",
            release,
            r#"{"reason":"unrouted","action":"reroute"}"#,
        ),
        (
            "POST",
            release,
            r#"{"reason":"invalid","action":"force","targets":["dead"]}"#,
        ),
        ("POST", "/v1/dead-letters/replay", "{}"),
        ("POST", "/v1/quarantine/discard", r#"{"count":7777}"#),
    ] {
        seen += &relay.operator(method, path, order).await.1.to_string();
    }
    assert!(
        seen.contains("\"quarantine\""),
        "it saw what there is: {seen}"
    );
    let url = format!("http://{}", relay.operator_address);
    for words in [
        &["status"][..],
        &["list"],
        &["list", "--reason", "unverified"],
        &["replay"],
        &["discard", "--count", "7777"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
        command.args(["--log-level", "trace", "spool"]).args(words);
        let said = command.args(["--operator", &url]).output().expect("runs");
        for said in [said.stdout, said.stderr] {
            seen += &String::from_utf8_lossy(&said);
        }
    }
    seen
}

/// Signed, with a signature of no kind, at no time and forged; by a right and a wrong path and method.
/// Gives back the signatures and what was answered.
async fn post_in_every_way(sender: &Sender, body: &'static str) -> (Vec<String>, String) {
    let at = sender.generated_at();
    let (mut keys, mut answers) = (Vec::new(), String::new());
    for (at, key) in [
        (at.as_str(), sign(&at, body.as_bytes())),
        (&at, sign(&at, body.as_bytes())),
        (&at, "CANARY-signature".to_owned()),
        ("CANARY-time", sign("CANARY-time", body.as_bytes())),
        (&at, "ab".repeat(32)),
    ] {
        let headers = [
            ("x-api-key", key.as_str()),
            ("generated-at", at),
            ("content-type", "application/CANARY-type"),
            ("x-extra", "CANARY-extra"),
            ("cookie", "CANARY-cookie"),
        ];
        for (method, path) in [
            ("POST", "/webhooks/notification?q=CANARY-query"),
            ("POST", "/CANARY-path?q=CANARY-query"),
            ("CANARY", "/webhooks/notification"),
        ] {
            let answer = sender.request(method, path, &headers, body).await;
            answers += &answer.expect("an answer").body;
        }
        keys.push(key);
    }
    (keys, answers)
}

/// The other end of its pipe is held open and never read.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing_and_counts_what_it_drops() {
    let setup = Setup::new(&CONFIG.replace("TARGET", "http://127.0.0.1:9/"));
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
