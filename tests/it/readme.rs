//! The README, walked as a newcomer would.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The second block of the quick start, as written, on this build's binary and in a folder of its own.
///
/// Its ports are those of the shipped config: the one test that binds fixed ones.
#[test]
fn the_quick_start_works_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("readable");
    let quick_start = section(&readme, "## Quick start");
    let block = quick_start
        .split("```sh\n")
        .nth(2)
        .and_then(|rest| rest.split("```").next());
    let script = block.expect("a second block");
    assert!(script.contains("suki-relay run"), "{script}");

    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(root.join("config.yaml"), folder.path().join("config.yaml")).expect("copied");
    let binary = env!("CARGO_BIN_EXE_suki-relay");
    let script = script
        .replace("cargo build --release\n", "")
        .replace("./target/release/suki-relay", binary)
        .replace("/tmp/suki-secret", "suki-secret")
        .replace("sleep 1\n", &format!("{UNTIL_IT_LISTENS}\n"));
    let script = format!("set -eu\ntrap 'kill $(jobs -p)' EXIT\n{script}{UNTIL_IT_IS_DELIVERED}\n");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .expect("bash runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{errors}");
    assert!(shown.contains("1 × 200"), "{shown}\n{errors}");
    assert!(shown.contains("answered=200"), "{shown}\n{errors}");
}

#[test]
fn the_readme_is_short_enough_to_read() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let lines = readme.expect("readable").lines().count();
    assert!(lines < 300, "{lines} lines");
}

const UNTIL_IT_LISTENS: &str = "for _ in $(seq 600); do \
    curl -sf http://127.0.0.1:9740/readyz && break; sleep 0.05; done";
const UNTIL_IT_IS_DELIVERED: &str = "for _ in $(seq 600); do \
    curl -s http://127.0.0.1:9740/metrics | grep -q 'deliveries_total.*delivered.* 1$' && break; \
    sleep 0.05; done";

fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let rest = text.split(heading).nth(1).expect("the section");
    rest.split("\n## ").next().expect("its text")
}
