//! `spool.disk.key_file`: what the disk tells of notifications, and who may open it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Sender, Setup, Target, eventually, sign};

const REST: &str = r#"
targets: [{ name: ehr, http: { url: "TARGET" }, retry: { initial: 100ms, max: 100ms } }]
routes: [{ name: all, to: [ehr] }]
"#;
const GOOD: &str = r#"{"status":"success","session_id":"CANARY-session"}"#;
const A: &str = "a QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n";
const NOT_A: &str = "a QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n";
const B: &str = "b QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n";

fn encrypted(target: &str) -> Setup {
    let setup = Setup::new(&REST.replace("TARGET", target));
    write_keys(&setup, A);
    setup.reword("{ path: spool }", "{ path: spool, key_file: keys }");
    setup
}

fn write_keys(setup: &Setup, keys: &str) {
    std::fs::write(setup.path().join("keys"), keys).expect("writable");
}

/// Signed, of no schema and forged; gives back the signatures and timestamps.
async fn post_all(sender: &Sender) -> Vec<String> {
    let mut told = vec!["CANARY".to_owned()];
    for (body, status) in [
        (GOOD, 200),
        (r#"{"CANARY-invalid":1}"#, 400),
        ("CANARY-forged", 401),
    ] {
        let at = sender.generated_at();
        let key = match status {
            401 => "ab".repeat(32),
            _ => sign(&at, body.as_bytes()),
        };
        let headers = [
            ("x-api-key", key.as_str()),
            ("generated-at", &at),
            ("content-type", "application/CANARY-type"),
        ];
        let path = "/webhooks/notification";
        let answer = sender.request("POST", path, &headers, body).await;
        assert_eq!(answer.expect("an answer").status, status, "{body}");
        told.extend([key, at]);
    }
    told
}

/// The files of the folder that hold any of these.
fn found(folder: &Path, wanted: &[String]) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-rlaF"]);
    for wanted in wanted {
        grep.args(["-e", wanted]);
    }
    let output = grep.arg(folder).output().expect("grep runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn spool(words: &[&str], setup: &Setup) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    let folder = setup.path().join("spool");
    command.arg("spool").args(words).arg("--path").arg(folder);
    command.output().expect("runs")
}

/// Runs to its end: exit code, and all that it told.
fn run(setup: &Setup) -> (Option<i32>, String) {
    let output = setup.command().stderr(Stdio::piped()).output();
    let output = output.expect("it runs");
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    (output.status.code(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_spool_tells_nothing_opens_with_its_key_alone_and_delivers() {
    let target = Target::start(|_| 200).await;
    let nobody = "http://127.0.0.1:9/";
    let setup = encrypted(nobody);
    let relay = setup.start();
    let told = post_all(&relay.sender()).await;
    let ring = "suki_relay_quarantine{reason=\"unverified\"}";
    eventually("the ring has it", async || relay.metric(ring).await > 0.5).await;
    let folder = setup.path().join("spool");
    let names = found(&folder, &["invalid".to_owned()]);
    assert!(names.contains("spool.db"), "a reason is readable: {names}");
    assert_eq!(found(&folder, &told), "", "while it runs");
    relay.kill();
    assert_eq!(found(&folder, &told), "", "after a kill");

    let config = setup.config();
    let config = config.to_str().expect("text");
    let refused = spool(&["list"], &setup);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(74), "{said}");
    assert!(said.contains("spool.disk.key_file"), "{said}");
    let shown = spool(
        &["export", "--state", "pending", "--config", config],
        &setup,
    );
    let entry: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(entry["content"]["body"], GOOD, "{entry}");
    let audit = spool(&["status", "--audit", "--config", config], &setup);
    assert!(audit.status.success(), "{audit:?}");
    assert_eq!(found(&folder, &told), "", "after commands");

    write_keys(&setup, NOT_A);
    let (code, said) = run(&setup);
    assert_eq!(code, Some(74), "{said}");
    assert!(
        said.contains("key `a`") && said.contains("nothing was changed"),
        "{said}"
    );
    setup.reword("{ path: spool, key_file: keys }", "{ path: spool }");
    let (code, said) = run(&setup);
    assert_eq!(code, Some(74), "{said}");

    setup.reword("{ path: spool }", "{ path: spool, key_file: keys }");
    setup.reword(nobody, &target.url());
    write_keys(&setup, &format!("{B}{A}"));
    let relay = setup.start();
    eventually("it is delivered", async || target.count() == 1).await;
    assert_eq!(target.requests()[0].body, GOOD);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_need_a_restart_and_are_named() {
    let setup = encrypted("http://127.0.0.1:9/");
    let mut relay = setup.start();
    write_keys(&setup, &format!("{B}{A}"));
    relay.signal("HUP");
    eventually("it is refused", async || {
        let log = relay.log();
        let told = log.iter().map(ToString::to_string);
        told.into_iter()
            .any(|line| line.contains("spool.disk.key_file"))
    })
    .await;
    let series = "suki_relay_config_last_reload_successful";
    assert!(relay.metric(series).await < 0.5);
    relay.signal("TERM");
    relay.ended().await;
    let relay = setup.start();
    assert_eq!(
        relay.sender().post(GOOD).await.expect("an answer").status,
        200
    );
}
