//! What targets may rely on, and where no notification goes.

use std::process::Command;

use crate::harness::{Setup, Target, eventually};

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
