//! Files that can never change are told at the start.

use std::fs;

use crate::harness::{Relay, Setup};

const REST: &str = "
targets: [{ name: ehr, http: { url: 'http://127.0.0.1:9/' } }]
routes: [{ name: all, to: [ehr] }]
";

/// The files that it warns of; all that it does is before it listens.
fn warned_of(relay: &Relay) -> Vec<String> {
    let lines = relay.log().into_iter();
    let warnings = lines.filter(|line| line["message"].to_string().contains("subPath"));
    let file = |line: serde_json::Value| line["file"].as_str().expect("a file").to_owned();
    warnings.map(file).collect()
}

#[test]
fn a_file_that_is_mounted_by_itself_is_warned_of_and_one_in_a_mounted_folder_is_not() {
    let setup = Setup::new(REST);
    let (secret, mounted) = (setup.path().join("secret"), setup.path().join("mounted"));
    fs::copy(&secret, &mounted).expect("copied");
    let relay = setup.start_with_mount(&mounted, &secret);
    assert_eq!(warned_of(&relay), [secret.to_str().expect("text")]);
    drop(relay);
    let relay = setup.start_with_mount(setup.path(), setup.path());
    assert_eq!(warned_of(&relay), Vec::<String>::new());
}
