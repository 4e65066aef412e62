//! `suki-relay spool`, on a running relay and on the folder of a stopped one: the same questions and orders.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use super::harness::{Relay, Setup, Target, eventually};

const HELD: usize = 3;

fn spool(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.arg("spool").args(words).output().expect("runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it printed, if it succeeded.
fn ok(words: &[&str]) -> String {
    let output = spool(words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    told(&output)
}

/// What it said, if it did not.
fn refused(words: &[&str]) -> String {
    let output = spool(words);
    assert!(!output.status.success(), "{words:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config(target: &Target) -> String {
    format!(
        "
targets:
  - {{ name: ehr, http: {{ url: \"{}\" }} }}
routes:
  - {{ name: all, to: [ehr] }}
",
        target.url()
    )
}

async fn with_dead_letters(setup: &Setup) -> Relay {
    let relay = setup.start();
    for n in 0..HELD {
        let body = format!(r#"{{"status":"success","session_id":"s-{n}"}}"#);
        let answer = relay.sender().post(body).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let dead = "suki_relay_dead_letters{target=\"ehr\"}";
    eventually("all are dead letters", async || {
        (relay.metric(dead).await - HELD as f64).abs() < 0.1
    })
    .await;
    relay
}

/// All that does not depend on a target that answers.
fn ask_and_discard(place: [&str; 2]) {
    fn at<'a>(words: &[&'a str], place: &[&'a str]) -> Vec<&'a str> {
        [words, place].concat()
    }
    let list = ok(&at(&["list", "--state", "dead_letter"], &place));
    assert_eq!(list.lines().count(), HELD, "{list}");
    assert!(list.contains("ehr: dead_letter after 1 attempts"), "{list}");
    assert_eq!(ok(&at(&["list", "--since", "1h 30m"], &place)), list);
    let two = ok(&at(&["list", "--limit", "2"], &place));
    assert_eq!(two.lines().count(), 2);
    let id = list.split("  ").next().expect("an id");
    assert!(
        !ok(&at(&["show", id], &place)).contains("s-0"),
        "no body unasked"
    );
    assert!(ok(&at(&["show", id, "--body"], &place)).contains("s-0"));
    let export = ok(&at(&["export"], &place));
    for (n, line) in export.lines().enumerate() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let body = entry["content"]["body"].as_str().expect("a body");
        assert!(body.contains(&format!("s-{n}")), "{line}");
    }
    assert_eq!(export.lines().count(), HELD);
    let status = ok(&at(&["status"], &place));
    assert!(status.contains("\"dead_letters\": 3"), "{status}");
    assert!(status.contains("\"orders\": []"), "{status}");

    let nobody = "0123456789abcdef0123456789abcdef";
    for (words, why) in [
        (vec!["show", nobody], "no notification has this id"),
        (vec!["replay", nobody], "no notification has this id"),
        (vec!["replay", "--source", "another"], "nothing matches"),
        (vec!["replay", "--ids", nobody], "nothing matches"),
        (vec!["replay", id, "--to", "gone"], "no target `gone`"),
        (vec!["replay", "--target", "gone"], "no target `gone`"),
        (
            vec!["discard", "--source", "another", "--count", "0"],
            "nothing matches",
        ),
        (
            vec!["release", "--reason", "unrouted", "--action", "reroute"],
            "nothing matches",
        ),
        (vec!["list", "--state", "dead"], "`dead` is none of"),
        (vec!["discard"], "`count` is missing"),
        (vec!["discard", "--count", "2"], "3 match, not 2"),
        (
            vec!["release", "--reason", "invalid", "--action", "reroute"],
            "use `force`",
        ),
    ] {
        let said = refused(&at(&words, &place));
        assert!(said.contains(why), "{words:?}: {said}");
    }
    let dry = ok(&at(&["discard", "--dry-run", "--ids", id], &place));
    assert_eq!(dry, "{\"done\":1,\"matched\":1}\n");
    assert_eq!(
        ok(&at(&["list", "--state", "dead_letter"], &place))
            .lines()
            .count(),
        HELD
    );
    ok(&at(&["discard", "--count", "1", "--ids", id], &place));
    assert_eq!(
        ok(&at(&["list", "--state", "dead_letter"], &place))
            .lines()
            .count(),
        HELD - 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_relay_is_asked_over_http() {
    let target = Target::start(|n| if n < HELD { 422 } else { 200 }).await;
    let setup = Setup::new(&config(&target));
    let relay = with_dead_letters(&setup).await;
    let url = format!("http://{}", relay.operator_address);
    ask_and_discard(["--operator", &url]);
    let folder = setup.path().join("spool");
    let folder = folder.to_str().expect("text");
    let before = ok(&["export", "--operator", &url]);
    for words in [
        &["status"][..],
        &["replay"],
        &["discard", "--count", "2"],
        &["release", "--reason", "unrouted", "--action", "reroute"],
    ] {
        let said = refused(&[words, &["--path", folder]].concat());
        assert!(said.contains("--operator"), "{words:?}: {said}");
    }
    assert_eq!(ok(&["export", "--operator", &url]), before);

    ok(&["replay", "--target", "ehr", "--operator", &url]);
    eventually("the rest arrives", async || target.count() == 2 * HELD - 1).await;
    drop(relay);
    let said = refused(&["status", "--operator", &url]);
    assert!(said.contains("is the relay running"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_relays_folder_is_asked_directly() {
    let target = Target::start(|n| if n < HELD { 422 } else { 200 }).await;
    let setup = Setup::new(&config(&target));
    with_dead_letters(&setup).await.kill();
    let folder = setup.path().join("spool");
    let folder = folder.to_str().expect("text");
    ask_and_discard(["--path", folder]);
    let audit = ok(&["status", "--audit", "--path", folder]);
    assert!(
        audit.starts_with("3 notifications, 3 deliveries"),
        "{audit}"
    );
    ok(&["replay", "--path", folder]);
    let relay = setup.start();
    eventually("the relay sends it on", async || {
        target.count() == 2 * HELD - 1
    })
    .await;
    drop(relay);

    let nowhere = setup.path().join("nowhere");
    let said = refused(&["list", "--path", nowhere.to_str().expect("text")]);
    assert!(said.contains("nowhere"), "{said}");
    assert!(!nowhere.exists(), "looking makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_told_beside_the_others() {
    let target = Target::start(|_| 422).await;
    let setup = Setup::new(&config(&target));
    assert!(with_dead_letters(&setup).await.terminate().await.success());
    let folder = setup.path().join("spool");
    let rows = rusqlite::Connection::open(folder.join("spool.db")).expect("opens");
    let harm = "UPDATE delivery SET attempts = -1 WHERE seq = 2";
    rows.execute_batch(harm).expect("writes");
    drop(rows);
    let folder = folder.to_str().expect("text");
    for command in ["list", "export"] {
        let output = spool(&[command, "--path", folder]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(told(&output).lines().count(), HELD - 1, "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("(numbers 2)"), "{said}");
    }
    let said = refused(&["discard", "--count", "3", "--path", folder]);
    assert!(said.contains("damaged") && said.contains("`ids`"), "{said}");
    let said = refused(&["replay", "--path", folder]);
    assert!(said.contains("1 of 3 stay"), "{said}");
}

/// In the header of the database: SQLite, "Database File Format", 1.3.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_or_another_program_is_refused_and_left_as_it_is() {
    const USER_VERSION: usize = 60;
    const APPLICATION_ID: usize = 68;
    let target = Target::start(|_| 422).await;
    let setup = Setup::new(&config(&target));
    assert!(with_dead_letters(&setup).await.terminate().await.success());
    let folder = setup.path().join("spool");
    let file = folder.join("spool.db");
    let sound = fs::read(&file).expect("readable");
    let folder = folder.to_str().expect("text");
    for (place, why) in [
        (USER_VERSION, "made by a newer suki-relay"),
        (APPLICATION_ID, "not a spool of suki-relay"),
    ] {
        let mut bytes = sound.clone();
        bytes[place..place + 4].copy_from_slice(&7_u32.to_be_bytes());
        fs::write(&file, &bytes).expect("writable");
        for words in [&["status"][..], &["replay"], &["discard", "--count", "3"]] {
            let said = refused(&[words, &["--path", folder]].concat());
            assert!(said.contains(why), "{words:?}: {said}");
            assert!(said.contains("nothing was changed"), "{said}");
        }
        assert!(fs::read(&file).expect("readable") == bytes, "{why}");
    }
    fs::write(&file, &sound).expect("writable");
    let dead = ok(&["list", "--state", "dead_letter", "--path", folder]);
    assert_eq!(dead.lines().count(), HELD);
}
