//! A method of the user's own: its descriptor set made by protoc, its server in another language.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{Server, target};
use crate::harness::{CANARY, Relay, Setup, eventually};

async fn post(relay: &Relay, body: &Value) {
    let answer = relay.sender().post(body.to_string()).await;
    assert_eq!(answer.expect("an answer").status, 200);
}

/// What `explain` says, of a body in a file or of one that is kept.
fn explained(setup: &Setup, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(["explain", "--config"]).arg(setup.config());
    let output = command.args(arguments).output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_becomes_its_message_and_one_that_does_not_fit_a_dead_letter_with_its_field_named() {
    let setup = Setup::new("");
    let set = setup.path().join("inbox.binpb");
    let set = set.to_str().expect("text");
    let server = Server::python(&["tests/it/grpc/inbox.py", "127.0.0.1:0", set]);
    let own = "method: clinic.inbox.v1.Inbox/Put, descriptor_set: inbox.binpb";
    let url = format!("url: 'http://127.0.0.1:{}', {own}", server.port);
    setup.write_config(&target(&url, ""));
    let mut relay = setup.start();
    let links = json!({ "status": [{ "href": "/status" }] });
    let fits = json!({
        "status": "success", "session_id": "s-1", "encounter_id": null, "_links": links,
        "notes": [{ "line": 7, "by": CANARY }], "more": { "of": [CANARY] },
    });
    let told = || serde_json::from_str::<Value>(&server.line()).expect("JSON");
    post(&relay, &fits).await;
    let expected = json!({
        "status": "success", "session_id": "s-1", "links": links, "notes": [{ "line": 7 }],
    });
    assert_eq!(told(), expected);

    let mut misfit = fits.clone();
    misfit["notes"] = json!([{}, { "line": CANARY }]);
    post(&relay, &misfit).await;
    let message = "the body does not fit the method's message; it becomes a dead letter";
    let line = relay.log_line(message);
    assert_eq!(line["target"], "audit");
    assert_eq!(line["method"], "/clinic.inbox.v1.Inbox/Put");
    assert_eq!(line["misfit"], "`notes[1].line` does not fit");
    let dead = "suki_relay_dead_letters{target=\"audit\"}";
    eventually("a dead letter", async || relay.metric(dead).await > 0.5).await;
    let last = json!({ "status": "success", "session_id": "s-2" });
    post(&relay, &last).await;
    assert_eq!(told(), last, "nothing came in between");

    let why = "the body is no message of its method; a dead letter: `notes[1].line` does not fit";
    let why = format!("target     audit: {why}\n");
    let file = setup.path().join("body");
    let file = file.to_str().expect("text");
    fs::write(file, misfit.to_string()).expect("writable");
    let of_file = explained(&setup, &["--body", file]);
    assert!(of_file.contains(&why), "{of_file}");
    let id = line["notification"].as_str().expect("an id");
    let operator = format!("http://{}", relay.operator_address);
    let kept = explained(&setup, &["--from-spool", id, "--operator", &operator]);
    assert!(kept.contains(&why), "{kept}");
    fs::write(file, last.to_string()).expect("writable");
    let of_file = explained(&setup, &["--body", file]);
    assert!(of_file.contains("target     audit\n"), "{of_file}");
    relay.told_nobody([0; 2]).await;
}
