//! The main job from outside: what is posted arrives, as it was, where the routes say.

use std::process::Command;

use crate::harness::{Setup, Target, eventually};

const FORM: &str = r#"{ "status":"success","session_id":"s-1","_links":{"structured_data":[{"href":"/x"}]}, "pad" : "ü" }"#;

fn two_targets(ehr: &Target, audit: &Target) -> String {
    format!(
        r#"
targets:
  - {{ name: ehr, http: {{ url: "{}" }}, retry: {{ initial: 100ms, max: 200ms }} }}
  - {{ name: audit, http: {{ url: "{}" }} }}
routes:
  - {{ name: everything, to: [audit] }}
  - name: finished-forms
    when: body.status == "success" && has(body._links.structured_data)
    to: [ehr]
"#,
        ehr.url(),
        audit.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_reaches_every_target_its_routes_name_and_no_other() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&two_targets(&ehr, &audit));
    let relay = setup.start();
    let sender = relay.sender();
    let answer = sender.post(FORM).await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let failure = r#"{"status":"failure","session_id":"s-2"}"#;
    assert_eq!(sender.post(failure).await.expect("an answer").status, 200);
    eventually("both arrive at audit, one at ehr", async || {
        audit.count() == 2 && ehr.count() == 1
    })
    .await;
    assert_eq!(
        ehr.requests()[0].body,
        FORM,
        "the bytes as they were signed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_delivery_keeps_its_id_and_counts_its_attempts() {
    let ehr = Target::start(|n| if n < 2 { 503 } else { 200 }).await;
    let audit = Target::accepting().await;
    let setup = Setup::new(&two_targets(&ehr, &audit));
    let relay = setup.start();
    let sender = relay.sender();
    let generated_at = sender.generated_at();
    let signature = crate::harness::sign(&generated_at, FORM.as_bytes());
    let answer = sender
        .send(&generated_at, &signature, FORM)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("the third attempt is made", async || ehr.count() == 3).await;
    let requests = ehr.requests();
    let attempts: Vec<&str> = requests
        .iter()
        .map(|r| r.header("suki-relay-attempt"))
        .collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    for request in &requests {
        assert_eq!(
            request.header("webhook-id"),
            requests[0].header("webhook-id")
        );
        assert_eq!(
            request.header("idempotency-key"),
            request.header("webhook-id")
        );
        assert_eq!(request.header("x-api-key"), signature);
        assert_eq!(request.header("generated-at"), generated_at);
        assert_eq!(request.header("suki-relay-source"), "suki");
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.body, FORM);
    }
    let delivered = "suki_relay_deliveries_total{result=\"delivered\",target=\"ehr\"}";
    eventually("it is counted", async || {
        (relay.metric(delivered).await - 1.0).abs() < 0.1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_again_are_answered_alike_and_delivered_once() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&two_targets(&ehr, &audit));
    let relay = setup.start();
    let sender = relay.sender();
    let posts = [
        (sender.generated_at(), FORM, 200),
        (sender.generated_at(), "{}", 400),
    ];
    all_are_answered(&sender, &posts).await;
    // Once it is settled on disk, no crash can deliver it again.
    eventually("it is settled", async || settled(&relay).await >= 1.0).await;
    relay.kill();
    let relay = setup.start();
    let sender = relay.sender();
    all_are_answered(&sender, &posts).await;
    let duplicates = "suki_relay_requests_total{result=\"duplicate\",source=\"suki\"}";
    assert!((relay.metric(duplicates).await - 2.0).abs() < 0.1);
    // A later notification overtakes nothing: once it is there, a second copy would be, too.
    assert_eq!(sender.post(FORM).await.expect("an answer").status, 200);
    eventually("the later one is delivered", async || audit.count() >= 2).await;
    assert_eq!(audit.count(), 2);
}

/// Posts these bytes with these timestamps, and holds each answer to its status.
async fn all_are_answered(sender: &crate::harness::Sender, posts: &[(String, &'static str, u16)]) {
    for (at, body, status) in posts {
        let signature = crate::harness::sign(at, body.as_bytes());
        let answer = sender.send(at, &signature, *body).await;
        assert_eq!(answer.expect("an answer").status, *status);
    }
}

/// Notifications on disk of which nothing is owed any more.
async fn settled(relay: &crate::harness::Relay) -> f64 {
    relay
        .metric("suki_relay_spool_notifications{state=\"settled\"}")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_are_served_on_the_admin_address() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let relay = Setup::new(&two_targets(&ehr, &audit)).start();
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(relay.admin(path).await, (200, "ok\n".to_owned()), "{path}");
    }
    assert_eq!(
        relay.admin("/version").await.1.trim(),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(relay.admin("/else").await.0, 404);
    let (status, page) = relay.admin("/metrics").await;
    assert_eq!(status, 200);
    assert!(page.contains("suki_relay_build_info{"), "{page}");
}

#[test]
fn a_config_with_a_problem_never_starts_the_relay() {
    let setup = Setup::new("targets: []\nroutes: []\n");
    let output = setup.command().output().expect("it runs");
    assert_eq!(output.status.code(), Some(78));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("config.yaml:"), "{message}");
    assert!(!setup.path().join("spool").exists(), "nothing was touched");
}

#[test]
fn the_demo_delivers_everything_and_exits_0() {
    let output = Command::new(env!("CARGO_BIN_EXE_suki-relay"))
        .arg("demo")
        .output()
        .expect("runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{shown}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(shown.contains("attempt 2: answered"), "{shown}");
    assert!(shown.contains("Every delivery arrived"), "{shown}");
}
