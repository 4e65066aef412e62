//! Faults of the disk, on real ones, under a running relay: rows Q01 to Q04, Q07, Q09 and S04.
//!
//! After each, a good notification gets 200 and all is as it was: where a fault means that none can be kept until it
//! heals, after it has; where the relay rightly ends with 74, at the next one.

mod damage;
mod full;
mod withdrawn;

use std::collections::HashSet;
use std::process::Command;

use crate::harness::{CANARY, Relay, Setup, Target, bounded, eventually};

const PENDING: &str = "suki_relay_deliveries_pending{target=\"ehr\"}";

/// A target that is tried again soon.
pub fn to(target: &Target) -> String {
    let url = target.url();
    format!(
        "
targets:
  - name: ehr
    http: {{ url: \"{url}\" }}
    retry: {{ initial: 50ms, max: 100ms }}
    breaker: {{ probe_after: 50ms, probe_max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
"
    )
}

fn body(n: usize) -> String {
    let filling = "x".repeat(20_000);
    format!(r#"{{"status":"success","session_id":"{n}","note":"{CANARY} {filling}"}}"#)
}

/// Posts the body of this number, which is answered 200.
async fn post(relay: &Relay, n: usize, row: &str) -> Vec<u8> {
    let answer = relay.sender().post(body(n)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{row}");
    body(n).into_bytes()
}

fn delivered(target: &Target) -> HashSet<Vec<u8>> {
    target.taken()
}

async fn probes_are_well(relay: &Relay) {
    for path in ["/startupz", "/readyz", "/livez"] {
        assert_eq!(relay.admin(path).await, (200, "ok\n".to_owned()), "{path}");
    }
}

async fn all_arrive(target: &Target, owed: &[Vec<u8>], row: &str) {
    eventually(&format!("{row}: all arrive"), async || {
        let delivered = delivered(target);
        owed.iter().all(|body| delivered.contains(body))
    })
    .await;
}

/// Nothing is owed any more, by what is on the disk.
async fn all_is_settled(relay: &Relay, row: &str) {
    eventually(&format!("{row}: all is settled for good"), async || {
        relay.metric(PENDING).await < 0.5
    })
    .await;
}

/// On this folder none starts: it exits with 74 and these words, and tells nobody anything.
fn none_starts(command: &Command, why: &str, row: &str) {
    let mut command = bounded(command);
    let ended = command.args(["--log-level", "trace"]).output();
    let ended = ended.expect("it runs");
    assert_eq!(ended.status.code(), Some(74), "{row}: {ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains(why), "{row}: {said}");
    crate::harness::assert_untold(said.lines());
}

/// Lines of the log that tell of files that are not in their place.
fn told_missing(relay: &Relay) -> usize {
    let told = |line: &serde_json::Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "ERROR"
            && ["moved or removed", "cut short"]
                .iter()
                .any(|begin| message.starts_with(begin))
    };
    relay.log().iter().filter(|line| told(line)).count()
}

fn spool_of(setup: &Setup) -> std::path::PathBuf {
    setup.path().join("spool")
}
