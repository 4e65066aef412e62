//! Logs: they tell nobody what is in a notification, and hold nobody up.

use std::fmt::Write as _;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use http::Version;
use serde_json::Value;

use crate::harness::{Killed, Sender, Setup, Target, eventually, free_address, get, sign};

const CONFIG: &str = r#"
targets:
  - { name: ehr, http: { url: "TARGET" }, retry: { initial: 100ms, max: 100ms } }
  - { name: dead, http: { url: "http://127.0.0.1:9/" }, retry: { initial: 100ms, max: 100ms } }
routes:
  - { name: all, to: [ehr, dead] }
  - { name: broken, when: body.error_detail > 2, to: [ehr] }
  - { name: by-header, when: 'headers["x-extra"] == "CANARY-none"', to: [ehr] }
"#;

/// Of no use to anybody, and not to be seen all the same.
const KEY: &str = "a QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n";
const RELEASE: &str = "/v1/quarantine/release";
const ORDERS: [(&str, &str, &str); 9] = [
    ("GET", "/v1/notifications?state=unverified", ""),
    ("GET", "/v1/status", ""),
    ("GET", "/v1/config", ""),
    ("POST", "/v1/dead-letters/replay", "{}"),
    (
        "POST",
        RELEASE,
        r#"{"reason":"unverified","action":"reverify"}"#,
    ),
    (
        "POST",
        RELEASE,
        r#"{"reason":"route_error","action":"reroute"}"#,
    ),
    (
        "POST",
        RELEASE,
        r#"{"reason":"invalid","action":"force","targets":["dead"]}"#,
    ),
    ("POST", "/v1/dead-letters/discard", r#"{"dry_run":true}"#),
    ("POST", "/v1/reload", ""),
];

const GOOD: &str = r#"{"status":"CANARY-status","session_id":"CANARY-session",
    "encounter_id":"CANARY-encounter","error_code":"CANARY-code",
    "error_detail":"CANARY-detail","additional_info":{"CANARY-key":"CANARY-info"},
    "_links":{"contents":[{"href":"CANARY-href"}]},"CANARY-unknown":["CANARY-item"]}"#;
const INVALID: &str = r#"{"status":["CANARY-invalid"]}"#;
const NO_JSON: &str = "CANARY-no-json {";

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_notification_is_in_logs_metrics_or_answers_at_any_level() {
    let target = Target::start(|n| [503, 302, 429, 200][n % 4]).await;
    let setup = Setup::new(&CONFIG.replace("TARGET", &target.url()));
    let relay = setup.start_at("trace,h2=trace,hyper=trace,rustls=trace,suki_relay=trace");
    let mut shown = String::new();
    let mut secrets = vec!["CANARY".to_owned()];
    let certificate = setup.path().join("tls.crt");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let sender = Sender::speaking(version, relay.sender_address, &certificate);
        for body in [GOOD, INVALID, NO_JSON] {
            let (keys, answers) = post_in_every_way(&sender, body).await;
            secrets.extend(keys);
            shown += &answers;
        }
    }
    eventually("targets were tried", async || target.count() >= 4).await;
    shown += &relay.admin("/CANARY-admin?q=CANARY").await.1;
    shown += &relay.admin("/metrics").await.1;
    relay.signal("TERM");
    let mut relay = relay;
    relay.ended().await;
    let log = relay.log();
    assert!(log.iter().any(|line| line["level"] == "DEBUG"), "{log:?}");
    // None of ours is at this level: such a line is by another crate, and could say anything.
    let foreign = log.iter().find(|line| line["level"] == "TRACE");
    assert_eq!(foreign, None);
    tells_nothing(&log, &shown, &secrets);
}

/// Dead letters, what is in quarantine and what is unverified, shown and ordered about in every way but for
/// their content.
#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_notification_is_in_what_an_operator_is_shown_unasked() {
    let target = Target::start(|_| 422).await;
    // The config is the operator's own.
    let config = CONFIG.replace("CANARY-none", "none");
    let setup = Setup::new(&config.replace("TARGET", &target.url()));
    std::fs::write(setup.path().join("keys"), KEY).expect("writable");
    setup.reword("{ path: spool }", "{ path: spool, key_file: keys }");
    let mut relay = setup.start_at("trace");
    let mut secrets = vec!["CANARY".to_owned(), KEY[2..].trim().to_owned()];
    let sender = relay.sender();
    for body in [GOOD, INVALID, NO_JSON] {
        secrets.extend(post_in_every_way(&sender, body).await.0);
    }
    let count = async |series: &str| relay.metric(&format!("suki_relay_{series}")).await;
    eventually("all is held that is to be", async || {
        count("dead_letters{target=\"ehr\"}").await > 0.5
            && count("quarantine{reason=\"invalid\"}").await > 0.5
            && count("quarantine{reason=\"unverified\"}").await > 0.5
    })
    .await;

    let mut shown = String::new();
    let mut ask = async |method: &str, path: &str, body: &str| {
        let (status, answer) = relay.operator(method, path, body).await;
        writeln!(shown, "{method} {path}: {status} {answer}").expect("written");
        answer
    };
    let all = ask("GET", "/v1/notifications", "").await;
    let entries = all["notifications"].as_array().expect("a list");
    assert!(!entries.is_empty());
    for entry in entries {
        let id = entry["id"].as_str().expect("an id");
        ask("GET", &format!("/v1/notifications/{id}"), "").await;
        ask("POST", &format!("/v1/notifications/{id}/replay"), "").await;
    }
    for (method, path, body) in ORDERS {
        let answer = ask(method, path, body).await;
        assert!(answer["code"].is_null(), "{path} {body}: {answer}");
    }
    let url = format!("http://{}", relay.operator_address);
    for words in [&["status"][..], &["list"], &["list", "--json"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
        let told = command.arg("spool").args(words).args(["--operator", &url]);
        let told = told.output().expect("runs");
        assert!(told.status.success(), "{told:?}");
        shown += &String::from_utf8_lossy(&[told.stdout, told.stderr].concat());
    }
    relay.signal("TERM");
    relay.ended().await;
    tells_nothing(&relay.log(), &shown, &secrets);
}

/// None of these is in any line.
fn tells_nothing(log: &[Value], shown: &str, secrets: &[String]) {
    let log = log.iter().map(ToString::to_string);
    for line in log.chain(shown.lines().map(str::to_owned)) {
        for secret in secrets {
            assert!(!line.contains(secret.as_str()), "{secret}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_core() {
    let setup = Setup::new(&CONFIG.replace("TARGET", "http://127.0.0.1:9/"));
    let mut relay = setup.start_with_cores();
    let limits = format!("/proc/{}/limits", relay.pid());
    let limits = std::fs::read_to_string(limits).expect("it runs");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let figures: Vec<_> = core.expect("a line").split_whitespace().skip(4).collect();
    assert_eq!(figures, ["0", "0", "bytes"]);
    relay.signal("ABRT");
    let ended = relay.ended().await;
    assert_eq!(ended.signal(), Some(6), "{ended}");
    assert!(!ended.core_dumped());
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
