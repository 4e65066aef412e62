//! The house itself: who may import whom, and what must not come in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rooms by floor, from the ground up; a room may import those below its own floor.
const FLOORS: [&[&str]; 10] = [
    &["clock", "name", "secret"],
    &["pem", "retry", "schema", "verify"],
    &["notification", "trace"],
    &["spool", "target"],
    &["routing"],
    &["admin", "dispatch", "ingress"],
    &["config"],
    &["app"],
    &["cli"],
    &["main"],
];

#[test]
fn no_room_imports_one_beside_or_above_it() {
    let mut files_read = 0;
    for file in product_files() {
        let room = room_of(&file);
        if room == "lib" {
            continue;
        }
        files_read += 1;
        let text = fs::read_to_string(&file).expect("readable");
        for imported in imports(without_tests(&text)) {
            let allowed = imported == room || floor_of(&imported) < floor_of(&room);
            assert!(
                allowed,
                "{}: `{room}` must not import `{imported}`",
                file.display()
            );
        }
    }
    assert!(files_read > 20, "only {files_read} files found");
}

#[test]
fn every_file_keeps_its_wall() {
    for file in product_files() {
        let text = fs::read_to_string(&file).expect("readable");
        let lines = text
            .lines()
            .take_while(|line| *line != "#[cfg(test)]")
            .count();
        assert!(
            lines <= 400,
            "{}: {lines} lines; the wall is 400",
            file.display()
        );
    }
}

/// The chart's values hold the schema of the relay's config: whoever changes that one makes the other anew.
#[test]
fn what_is_made_of_the_chart_is_current() {
    let made = Command::new("tests/python")
        .args(["tests/helm/make.py", "--check"])
        .current_dir(root())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{told}");
}

#[test]
fn every_test_named_by_a_promise_exists() {
    let sources = all_sources();
    for (file, least) in [("src/lib.rs", 8), ("README.md", 5)] {
        let text = fs::read_to_string(root().join(file)).expect("readable");
        let named: Vec<_> = text
            .split('`')
            .filter_map(|word| word.strip_prefix("test:"))
            .collect();
        for test in &named {
            let it = format!("fn {test}(");
            let is_there = sources.iter().any(|source| source.contains(&it));
            assert!(is_there, "no test `{test}`");
        }
        assert!(named.len() >= least, "{file} names only {named:?}");
    }
}

#[test]
fn no_second_cryptography_is_in_the_house() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8(output.stdout).expect("text");
    assert!(
        tree.contains("aws-lc-rs v"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for unwanted in ["ring v", "openssl v", "openssl-sys v", "native-tls v"] {
        let found = tree.lines().find(|line| line.starts_with(unwanted));
        assert_eq!(found, None);
    }
}

#[test]
fn no_code_of_ours_may_be_unsafe() {
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("readable");
        let forbids = text.contains("[lints.rust]\nunsafe_code = \"forbid\"\n");
        assert!(forbids, "{manifest}");
    }
}

/// The text of every Rust file of the program and its tests.
pub fn all_sources() -> Vec<String> {
    [root().join("src"), root().join("tests")]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .map(|file| fs::read_to_string(file).expect("readable"))
        .collect()
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// What is built into the program: `src/` without its files of tests.
fn product_files() -> Vec<PathBuf> {
    let mut files = rust_files(&root().join("src"));
    let of_tests = |file: &PathBuf| {
        file.ends_with("tests.rs") || file.parent().is_some_and(|p| p.ends_with("tests"))
    };
    files.retain(|file| !of_tests(file));
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn room_of(file: &Path) -> String {
    let relative = file.strip_prefix(root().join("src")).expect("under src");
    let first = relative.components().next().expect("a part").as_os_str();
    Path::new(first)
        .file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

/// Every `crate::room` and `suki_relay::room` in the code, and every room of a `use crate::{…}`.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    assert!(
        !code.contains("use crate::{"),
        "write one `use crate::room` a line, for this test's sake"
    );
    ["crate::", "suki_relay::"]
        .iter()
        .flat_map(|prefix| code.split(prefix).skip(1))
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .filter(|room: &String| FLOORS.iter().any(|floor| floor.contains(&room.as_str())))
        .collect()
}

fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {")
        .map_or(text, |at| &text[..at])
}

fn floor_of(room: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&room));
    floor.unwrap_or_else(|| panic!("`{room}` has no floor; add it to FLOORS and to lib.rs"))
}
