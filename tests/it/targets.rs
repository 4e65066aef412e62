//! What targets may rely on, and where no notification goes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::harness::{Killed, Relay, Request, Setup, Target, eventually};

const BODY: &str = r#"{"status": "success", "session_id": "s", "encounter_id": "e"}"#;

#[test]
fn a_target_that_clear_text_goes_to_is_a_warning_and_no_reason_to_refuse() {
    let setup = Setup::new(
        "
targets: [{ name: ehr, http: { url: 'http://ehr.example/' } }]
routes: [{ name: all, to: [ehr] }]
",
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(["check", "--config"]).arg(setup.config());
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"ok\n");
    let told = String::from_utf8(output.stderr).expect("text");
    let place = format!("warning: {}:", setup.config().display());
    assert!(told.starts_with(&place), "{told}");
    assert!(told.contains(": targets[0].http.url: "), "{told}");
    assert!(told.contains("clear text"), "{told}");
}

#[tokio::test]
async fn a_delivery_off_the_targets_list_waits_until_the_list_is_mended() {
    let target = Target::accepting().await;
    let config = |network: &str| {
        format!(
            "
targets:
  - name: ehr
    http: {{ url: 'http://localhost:{}/', allow_addresses: [{network}] }}
    retry: {{ initial: 10ms, max: 10ms }}
routes: [{{ name: all, to: [ehr] }}]
",
            target.address.port()
        )
    };
    let setup = Setup::new(&config("10.0.0.0/8"));
    let relay = setup.start();
    let answer = relay.sender().post(BODY).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let refused = r#"suki_relay_attempts_total{outcome="forbidden_address",target="ehr"}"#;
    eventually("attempts are refused", async || {
        relay.metric(refused).await > 0.0
    })
    .await;
    assert_eq!(target.count(), 0);

    setup.write_config(&config("127.0.0.0/8"));
    relay.signal("HUP");
    eventually("the delivery", async || target.count() > 0).await;
}

/// Whoever rotates them may take the old ones back at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_a_header_of_files_go_along_as_they_are_at_each_attempt() {
    let target = Target::broken().await;
    let setup = Setup::new(&format!(
        "
targets:
  - name: ehr
    http:
      url: '{}'
      bearer_token: {{ file: token }}
      headers: {{ x-team: {{ file: team }} }}
    retry: {{ initial: 50ms, max: 50ms }}
    breaker: {{ failures: 1000 }}
routes: [{{ name: all, to: [ehr] }}]
",
        target.url()
    ));
    let put = |which: &str| {
        for name in ["token", "team"] {
            let text = format!("{which}-{name}\n");
            fs::write(setup.path().join(name), text).expect("writable");
        }
    };
    let carries = |request: &Request, which: &str| {
        let token = format!("Bearer {which}-token");
        request.header("authorization") == token
            && request.header("x-team") == format!("{which}-team")
    };
    put("old");
    let relay = setup.start();
    let answer = relay.sender().post(BODY).await.expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("an attempt", async || target.count() > 0).await;
    assert!(carries(&target.requests()[0], "old"));

    put("new");
    let new = || {
        let mut sent = target.requests();
        let first = sent.iter().position(|request| carries(request, "new"));
        sent.split_off(first.unwrap_or(sent.len()))
    };
    eventually("attempts with the new", async || new().len() > 2).await;
    target.mend();
    eventually("the delivery", async || {
        new().iter().any(|request| request.status == 200)
    })
    .await;
    assert!(new().iter().all(|request| carries(request, "new")));
}

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD5AAmFBpYYCg=";

/// The reference library, in Python.
struct Library {
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _process: Killed,
}

impl Library {
    fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut python = Command::new(root.join("tests/python"))
            .arg(root.join("tests/standard_webhooks.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self {
            input: python.stdin.take().expect("piped"),
            answers: BufReader::new(python.stdout.take().expect("piped")).lines(),
            _process: Killed(python),
        }
    }

    /// Whether it takes a request with this body, checked with this secret, for a genuine one.
    fn believes(&mut self, request: &Request, body: &str, secret: &str) -> bool {
        let headers: serde_json::Map<_, _> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("text").into()))
            .collect();
        let line = serde_json::json!({ "headers": headers, "body": body, "secret": secret });
        writeln!(self.input, "{line}").expect("written");
        let answer = self.answers.next().expect("an answer");
        answer.expect("text") == "genuine"
    }

    fn assert_signed_by(&mut self, request: &Request, secrets: &[&str]) {
        let body = std::str::from_utf8(&request.body).expect("text");
        for secret in [OLD, NEW] {
            let genuine = self.believes(request, body, secret);
            assert_eq!(genuine, secrets.contains(&secret), "{secret}: {request:?}");
        }
        let other = body.replace("success", "failure");
        assert!(!self.believes(request, &other, secrets[0]));
        let signatures = request.header("webhook-signature").split(' ').count();
        assert_eq!(signatures, secrets.len());
    }
}

/// Posts a notification of its own, and returns how it arrives.
async fn delivered(relay: &Relay, target: &Target, session: &str) -> Request {
    let body = format!(r#"{{"status": "success", "session_id": "{session}"}}"#);
    let answer = relay.sender().post(body.clone()).await.expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("the delivery", async || {
        let received = target.requests();
        received.iter().any(|request| request.body == body)
    })
    .await;
    let mut received = target.requests().into_iter();
    received.find(|r| r.body == body).expect("just seen")
}

async fn reloaded(relay: &Relay, count: f64) {
    relay.signal("HUP");
    let applied = r#"suki_relay_config_reloads_total{result="applied"}"#;
    eventually("a reload", async || relay.metric(applied).await >= count).await;
}

/// The library that judges is the reference one, in Python.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_can_verify_each_attempt_while_secrets_are_replaced() {
    let target = Target::broken().await;
    let setup = Setup::new(&format!(
        "
targets:
  - name: ehr
    http:
      url: '{}'
      sign: {{ secrets: [{{ file: signing }}, {{ file: next, optional: true }}] }}
    retry: {{ initial: 100ms, max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
",
        target.url()
    ));
    let put = |name: &str, secret: &str| {
        fs::write(setup.path().join(name), format!("{secret}\n")).expect("writable");
    };
    put("signing", OLD);
    let relay = setup.start();
    let mut library = Library::start();

    let answer = relay.sender().post(BODY).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let times = || -> BTreeSet<String> {
        let requests = target.requests();
        let time = |request: &Request| request.header("webhook-timestamp").to_owned();
        requests.iter().map(time).collect()
    };
    eventually("attempts at another second", async || times().len() > 1).await;
    target.mend();
    let attempts = target.requests();
    let (first, last) = (&attempts[0], &attempts[attempts.len() - 1]);
    assert_eq!(first.header("webhook-id"), last.header("webhook-id"));
    library.assert_signed_by(first, &[OLD]);
    library.assert_signed_by(last, &[OLD]);

    put("next", NEW);
    reloaded(&relay, 1.0).await;
    library.assert_signed_by(&delivered(&relay, &target, "both").await, &[OLD, NEW]);

    fs::remove_file(setup.path().join("next")).expect("removed");
    put("signing", NEW);
    reloaded(&relay, 2.0).await;
    library.assert_signed_by(&delivered(&relay, &target, "new").await, &[NEW]);
}
