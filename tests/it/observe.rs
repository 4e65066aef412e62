//! What a scrape shows: every series from the start, none that a stranger can make, and the README's
//! table; judged by Prometheus' own tools.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Killed, Relay, Setup, Target, Watch, eventually, free_address, get};

const CONFIG: &str = r#"
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:9/" } }
  - { name: audit, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: everything, to: [ehr] }
  - { name: failures, when: body.status == "failure", to: [audit] }
"#;

/// What there is of each label, and each name that bears them (contract: "Metrics").
const CLOSED: [(&str, &str, &[&str]); 13] = [
    ("requests_total", "result", &RESULTS),
    (
        "tls_handshake_failures_total",
        "reason",
        &[
            "timeout",
            "closed",
            "protocol",
            "incompatible",
            "client_certificate",
            "alert",
            "other",
        ],
    ),
    ("signature_matched_total", "secret", &["current"]),
    ("last_accepted_timestamp_seconds", "source", &["suki"]),
    (
        "spool_notifications",
        "state",
        &["pending", "held", "settled"],
    ),
    (
        "spool_errors_total",
        "op",
        &["commit", "checkpoint", "read", "full"],
    ),
    (
        "quarantine",
        "reason",
        &[
            "invalid",
            "stale",
            "future",
            "bad_timestamp",
            "unrouted",
            "route_error",
            "unverified",
        ],
    ),
    (
        "unverified_dropped_total",
        "cause",
        &["rate", "busy", "failed"],
    ),
    ("deliveries_pending", "target", &["ehr", "audit"]),
    (
        "oldest_pending_timestamp_seconds",
        "target",
        &["ehr", "audit"],
    ),
    ("dead_letters", "target", &["ehr", "audit"]),
    ("deliveries_in_flight", "target", &["ehr", "audit"]),
    ("route_errors_total", "route", &["everything", "failures"]),
];
const RESULTS: [&str; 11] = [
    "accepted",
    "duplicate",
    "invalid",
    "stale",
    "unrouted",
    "unauthorized",
    "too_large",
    "timeout",
    "not_found",
    "method",
    "unavailable",
];

/// Samples by series, without those of the process.
async fn scrape(relay: &Relay) -> BTreeMap<String, f64> {
    let (status, page) = relay.admin("/metrics").await;
    assert_eq!(status, 200);
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter(|line| !line.starts_with("process_"))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn label<'s>(series: &'s str, name: &str) -> Option<&'s str> {
    let rest = series.split(&format!("{name}=\"")).nth(1)?;
    rest.split('"').next()
}

fn series_names(samples: &BTreeMap<String, f64>) -> BTreeSet<&str> {
    samples.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_of_what_is_configured_is_there_from_the_start_with_0() {
    let setup = Setup::new(CONFIG);
    let relay = setup.start();
    let samples = scrape(&relay).await;
    for (name, key, values) in CLOSED {
        let prefix = format!("suki_relay_{name}{{");
        let of_this = samples.iter().filter(|(s, _)| s.starts_with(&prefix));
        let mut seen = BTreeSet::new();
        for (series, value) in of_this {
            assert!(value.abs() < f64::EPSILON, "{series} {value}");
            seen.extend(label(series, key));
        }
        assert_eq!(seen, values.iter().copied().collect(), "{name}");
    }
    for source in ["suki", "none"] {
        for result in RESULTS {
            let series =
                format!("suki_relay_requests_total{{result=\"{result}\",source=\"{source}\"}}");
            assert!(samples.contains_key(&series), "{series}");
        }
    }
    for target in ["ehr", "audit"] {
        for (name, other) in [
            ("attempts_total", "outcome=\"delivered\","),
            ("deliveries_total", "result=\"delivered\","),
            ("deliveries_total", "result=\"dead_lettered\","),
            ("deliveries_total", "result=\"discarded\","),
            ("attempt_duration_seconds_count", ""),
            ("delivery_latency_seconds_count", ""),
            ("target_breaker_open", ""),
            ("target_missing", ""),
        ] {
            let series = format!("suki_relay_{name}{{{other}target=\"{target}\"}}");
            let value = samples.get(&series);
            assert!(value.is_some_and(|v| v.abs() < f64::EPSILON), "{series}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_stranger_sends_makes_a_series() {
    let setup = Setup::new(CONFIG);
    let relay = setup.start_at("trace");
    relay.is_well("a start").await;
    let mut watch = Watch::begin(&relay);
    let before = scrape(&relay).await;
    let sender = relay.sender();
    for n in 0..50 {
        let (path, method) = (
            format!("/canary{n}?canary{n}=%22%7D%0A"),
            format!("CANARY{n}"),
        );
        let signature = format!("{n:064x}");
        let at = n.to_string();
        let headers = [("x-api-key", signature.as_str()), ("generated-at", &at)];
        let known = "/webhooks/notification";
        let answer = sender.request("POST", &path, &headers, "{}").await;
        assert_eq!(answer.expect("an answer").status, 404);
        let answer = sender.request(&method, known, &headers, "").await;
        assert_eq!(answer.expect("an answer").status, 405);
        let answer = sender.request("POST", known, &headers, at.clone()).await;
        assert_eq!(answer.expect("an answer").status, 401);
        let answer = sender
            .post(format!("{{\"status\":\"canary{n}\\n# HELP\"}}"))
            .await;
        assert_eq!(answer.expect("an answer").status, 400);
    }
    watch.goes_on(&relay, "O02: hostile values").await;
    let after = scrape(&relay).await;
    assert_eq!(series_names(&before), series_names(&after));
    let refused = "suki_relay_requests_total{result=\"unauthorized\",source=\"suki\"}";
    assert!((after[refused] - 50.0).abs() < 0.1, "{}", after[refused]);
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_say() {
    let target = Target::accepting().await;
    let setup = Setup::new(&CONFIG.replace("http://127.0.0.1:9/", &target.url()));
    let relay = setup.start();
    let body = r#"{"status":"failure","session_id":"s"}"#;
    assert_eq!(
        relay.sender().post(body).await.expect("an answer").status,
        200
    );
    eventually("it is delivered twice", async || target.count() == 2).await;
    let (_, page) = relay.admin("/metrics").await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs; tests/install installs it");
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(page.as_bytes()).expect("written");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "");
    assert!(output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_it() {
    let setup = Setup::new(CONFIG);
    let relay = setup.start();
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "scrape_configs: [{{ job_name: relay, scrape_interval: 1s, \
         static_configs: [{{ targets: ['{}'] }}] }}]",
        relay.admin_address
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).expect("writable");
    let address = free_address();
    let prometheus = Command::new("prometheus")
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address={address}"))
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _prometheus = Killed(prometheus.expect("prometheus runs; tests/install installs it"));
    let finds = async |query: &str| {
        // It takes a while to listen.
        let listens = tokio::net::TcpStream::connect(address).await.is_ok();
        listens
            && get(address, &format!("/api/v1/query?query={query}"))
                .await
                .1
                .contains("\"1\"]")
    };
    eventually("the relay is up", async || {
        finds("up%7Bjob%3D%22relay%22%7D").await
    })
    .await;
    let ours = async || finds("suki_relay_build_info").await;
    eventually("its metrics are there", ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_lists_exactly_what_is_exported() {
    let setup = Setup::new(CONFIG);
    let relay = setup.start();
    let exported: BTreeSet<_> = scrape(&relay).await.keys().map(|s| family(s)).collect();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("readable");
    let section = readme.split("\n## Metrics\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let listed: BTreeSet<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').step_by(2))
        .map(|name| sorted(name.split_once('{').unwrap_or((name, "}"))))
        .collect();
    assert!(listed.len() > 20, "{listed:?}");
    assert_eq!(listed, exported);
}

/// A series' name without prefix and its labels, in order.
fn family(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let name = name.strip_prefix("suki_relay_").expect("our prefix");
    let name = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    let keys: Vec<_> = labels
        .split("\",")
        .filter_map(|label| Some(label.split_once('=')?.0))
        .filter(|key| *key != "le")
        .collect();
    sorted((name, &format!("{}}}", keys.join(","))))
}

fn sorted((name, labels): (&str, &str)) -> String {
    let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}
