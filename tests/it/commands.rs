//! The command line: bad input, help, completions and exit codes.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::Setup;

const REST: &str = "
targets: [{ name: ehr, http: { url: 'http://127.0.0.1:9/' } }]
routes: [{ name: all, to: [ehr] }]
";
const COMMANDS: [&str; 8] = [
    "run",
    "check",
    "explain",
    "send",
    "sink",
    "demo",
    "schema",
    "completions",
];

fn relay(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(arguments).output().expect("it runs")
}

fn check(config: &Path) -> (Option<i32>, String) {
    let output = relay(&["check", "--config", config.to_str().expect("text")]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), told)
}

#[test]
fn what_is_no_config_file_is_refused_in_a_clear_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let _socket = UnixListener::bind(at("socket")).expect("bound");
    let large = File::create(at("large")).expect("created");
    large.set_len(100 << 20).expect("as large");
    std::fs::write(at("latin1"), b"# caf\xe9\n").expect("writable");
    std::fs::write(at("empty"), "").expect("writable");
    for (name, words) in [
        ("", "folder"),
        ("socket", "it is a socket"),
        ("large", "1 MiB"),
        ("latin1", "UTF-8"),
        ("empty", "empty"),
        ("missing", "No such file"),
    ] {
        let (code, told) = check(&at(name));
        assert_eq!(code, Some(78), "{name}: {told}");
        assert!(told.contains(words), "{name}: {told}");
        assert!(told.len() < 1000, "{name}: {told}");
    }
}

#[test]
fn a_device_that_never_ends_is_refused_too() {
    let (code, told) = check(Path::new("/dev/zero"));
    assert_eq!(code, Some(78), "{told}");
}

#[test]
fn the_schema_command_prints_a_schema_of_every_section() {
    let output = relay(&["schema"]);
    assert!(output.status.success());
    let schema = serde_json::from_slice(&output.stdout).expect("JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    let empty = serde_json::json!({});
    assert!(!validator.is_valid(&empty), "it asks for something");
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    for section in [
        "listen", "admin", "spool", "drain", "sources", "targets", "routes",
    ] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = relay(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout).expect("text");
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn every_command_and_every_option_says_what_it_is_for() {
    let top = relay(&["--help"]);
    let top = String::from_utf8(top.stdout).expect("text");
    for command in COMMANDS {
        assert!(top.contains(&format!("\n  {command} ")), "{command}: {top}");
        let help = relay(&[command, "-h"]);
        assert!(help.status.success());
        let help = String::from_utf8(help.stdout).expect("text");
        assert!(help.starts_with(|c: char| c.is_uppercase()), "{help}");
        let options = help.split("Options:\n").nth(1).expect("options");
        let mut seen = 0;
        for line in options.lines() {
            let Some((option, text)) = line.trim_start().split_once("  ") else {
                continue;
            };
            if option.starts_with('-') {
                seen += 1;
                let told = text.trim().starts_with(|c: char| c.is_uppercase());
                assert!(told, "{command} {option}: {text}");
            }
        }
        assert!(seen >= 3, "{help}");
    }
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let setup = Setup::new(REST);
    let config = setup.config();
    let config = config.to_str().expect("text");
    let code = |arguments: &[&str]| relay(arguments).status.code();
    assert_eq!(code(&["check", "--config", config]), Some(0));
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&["chekc"]), Some(2));
    assert_eq!(code(&["run", "--log-level", "inof"]), Some(2));
    assert_eq!(code(&["check", "--config", "/nowhere"]), Some(78));
    assert_eq!(code(&["run", "--config", "/nowhere"]), Some(78));
    // A file where the spool's folder should be.
    std::fs::write(setup.path().join("spool"), "").expect("writable");
    let output = relay(&["run", "--config", config]);
    assert_eq!(output.status.code(), Some(74));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("spool"), "{told}");
}
