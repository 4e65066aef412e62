//! `spool.disk.key_file`: what the disk tells of notifications, and who may open it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Postgres, Relay, Sender, Setup, Target, bounded, eventually, sign};

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
    let output = bounded(&setup.command()).output().expect("it runs");
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    (output.status.code(), told)
}

/// Nothing of this is in the folder, while the relay runs or once it is killed.
fn end_that_tells_nothing(relay: Relay, folder: &Path, told: &[String]) {
    let names = found(folder, &["invalid".to_owned()]);
    assert!(names.contains("spool.db"), "a reason is readable: {names}");
    assert_eq!(found(folder, told), "", "while it runs");
    relay.kill();
    assert_eq!(found(folder, told), "", "after a kill");
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
    end_that_tells_nothing(relay, &folder, &told);

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

/// The files of the databases; an empty log may come and go.
fn databases(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| {
        let entry = entry.expect("an entry");
        let bytes = std::fs::read(entry.path()).expect("readable");
        (entry.file_name(), bytes)
    });
    let kept = |(name, bytes): &(OsString, Vec<u8>)| {
        let name = name.to_string_lossy();
        name.contains(".db") && !name.ends_with("-shm") && !bytes.is_empty()
    };
    files.filter(kept).collect()
}

/// The disk beside a shared spool, with what came while the server was away.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_disk_beside_a_shared_spool_tells_nothing_and_opens_with_its_key_alone() {
    let mut server = Postgres::start("");
    let target = Target::start(|_| 200).await;
    let setup = encrypted(&target.url());
    let beside = "postgres: { url: { file: database }, tls: null, pool: 4, lease: 2s }";
    std::fs::write(setup.path().join("database"), server.url()).expect("writable");
    setup.reword(
        "{ disk: { path: spool, key_file: keys } }",
        &format!("{{ {beside}, disk: {{ path: spool, key_file: keys, fallback: true }} }}"),
    );
    setup.reword("listen:", "listen:\n  limits: { ack_timeout: 1s }");
    let relay = setup.start();
    server.kill();
    let told = post_all(&relay.sender()).await;
    let waits = "suki_relay_spool_fallback_notifications{state=\"pending\"}";
    assert!(relay.metric(waits).await > 0.5, "it is on the disk");
    let folder = setup.path().join("spool");
    end_that_tells_nothing(relay, &folder, &told);

    let before = databases(&folder);
    server.run();
    for (keys, words) in [(NOT_A, "key `a`"), (B, "key `a`")] {
        write_keys(&setup, keys);
        let (code, said) = run(&setup);
        assert_eq!(code, Some(74), "{said}");
        assert!(
            said.contains(words) && said.contains("nothing was changed"),
            "{said}"
        );
        assert!(databases(&folder) == before, "{said}");
    }
    assert_eq!(target.count(), 0);
    write_keys(&setup, A);
    let relay = setup.start_at("trace");
    eventually("it is delivered", async || target.count() == 1).await;
    assert_eq!(target.requests()[0].body, GOOD);
    relay.is_well("keys of the fallback").await;
    assert_eq!(found(&folder, &told), "", "once it was moved");
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
