//! Rows C01 to C09: versions of the config that nobody can use, and the examples of `tests/config/invalid`.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use prost::Message;

use super::trial::{Trial, to};
use crate::harness::{Setup, Target, Watch};

/// Each file of `tests/config/invalid` belongs to a row.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("C01", &["empty", "syntax", "tabs", "two-documents"]),
    (
        "C02",
        &[
            "addresses",
            "choices",
            "duplicate-keys",
            "fallback-alone",
            "grpc",
            "headers",
            "inlined-secrets",
            "key-file",
            "missing",
            "missing-inside",
            "operator",
            "operator-address",
            "postgres",
            "postgres-and-disk",
            "postgres-ring",
            "references",
            "routes",
            "signing",
            "unknown-keys",
            "variables-untold",
            "wrong-types",
        ],
    ),
    ("C03", &["alias-bomb", "deep", "merge-keys", "tags"]),
    (
        "C05",
        &[
            "across-keys",
            "capacity",
            "fallback-small",
            "numbers",
            "units",
        ],
    ),
    ("C06", &["empty-lists", "names", "same-address"]),
    ("C07", &["broken-target", "networks", "urls"]),
    (
        "C09",
        &[
            "self-signed-names",
            "tls-both",
            "tls-files",
            "tls-one-of-two",
            "tls-pair",
        ],
    ),
];

/// As in the unit tests of the config, with canaries in the place of secrets.
const VARIABLES: &[(&str, &str)] = &[
    ("SECRET", "canary-in-a-variable"),
    ("SUKI_SECRET", "canary-in-another"),
    ("SHORT", "canary"),
    ("EMPTY", ""),
    ("HOST", "127.0.0.1"),
    ("ONE", "1"),
    ("SIGNING", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("SIGNING_SHORT", "whsec_aHVudGVyMg=="),
    ("SIGNING_WORDS", "whsec_canary!"),
    ("LINES", "canary\ncanary"),
];

/// What 100,000 values take at least.
const BOMB_BYTES: usize = 4 << 20;
/// Problems that a relay which runs tells of one version.
const TOLD_MAX: usize = 20;

/// The files that the examples name.
fn put_files(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("writable");
    let certificate = fs::read_to_string(folder.join("tls.crt")).expect("readable");
    let other = rcgen::KeyPair::generate().expect("a key");
    write("other.key", other.serialize_pem().as_bytes());
    write("ca.crt", certificate.as_bytes());
    write("damaged.crt", certificate.replace("MII", "M!!").as_bytes());
    write(
        "database",
        b"postgres://relay:canary@db.example:5432/spool\n",
    );
    write("nearby", b"postgres://relay@localhost/spool");
    write("signing", b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    write("keys", b"a QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n");
    write("shape.json", b"{\"required\": [\"status\"]}");
    write("empty", b"");
    fs::create_dir(folder.join("folder")).expect("a folder");
    // As the unit tests have it.
    let clinic = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests");
    let set = protox::compile(["inbox.proto"], [clinic]).expect("compiles");
    write("inbox.binpb", &set.encode_to_vec());
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/invalid")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invalid_example_is_refused_by_a_relay_that_runs_and_by_one_that_starts() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    put_files(setup.path());
    let mut trial = Trial::begin(setup, VARIABLES).await;
    let good = trial.text();
    let mut files: Vec<_> = fs::read_dir(examples())
        .expect("a folder")
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    // Parsers of expressions and descriptors keep what they made the first time.
    for file in &files {
        trial.write(fs::read(file).expect("readable"));
        assert!(trial.refusal().await.is_some(), "{}", file.display());
    }
    trial.watch = Watch::begin(&trial.relay);
    trial.watch.brought(BOMB_BYTES);
    let mut tried = BTreeSet::new();
    for (id, names) in EXAMPLES {
        for name in *names {
            let file = examples().join(name).with_extension("yaml");
            let text = fs::read_to_string(&file).expect(name);
            trial.write(&text);
            let problems = trial.refuses(&format!("{id}: {name}"), &[]).await;
            assert_all_told(id, name, &trial, &text, &problems);
            tried.insert(file);
        }
    }
    assert_eq!(BTreeSet::from_iter(files), tried, "each belongs to a row");
    trial.write(&good);
    trial.takes("C01 to C09: the good one again").await;
    trial.end(&target).await;
}

/// Each problem that the example announces, as far as they are told.
fn assert_all_told(id: &str, name: &str, trial: &Trial, text: &str, problems: &str) {
    assert!(!problems.contains("hunter2"), "{id}: {name}: {problems}");
    let separator = format!("; {}:", trial.setup.config().display());
    let told: Vec<_> = problems.split(&separator).collect();
    let folder = trial.setup.path().to_str().expect("text");
    let expected = text
        .lines()
        .filter_map(|line| line.strip_prefix("# expect: "));
    let expected: Vec<_> = expected
        .map(|line| line.replace("/etc/relay", folder))
        .collect();
    assert_eq!(
        told.len(),
        expected.len().min(TOLD_MAX),
        "{id}: {name}: {problems}"
    );
    for (told, expected) in told.iter().zip(&expected) {
        let (place, fragment) = expected.rsplit_once(": ").expect("a place and a fragment");
        assert!(
            told.contains(place) && told.contains(fragment),
            "{id}: {name}: {told} is not {expected}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_config_never_replaces_one() {
    let target = Target::accepting().await;
    let mut trial = Trial::begin(Setup::new(&to(&target)), VARIABLES).await;
    trial.watch.brought(BOMB_BYTES);
    let good = trial.text();
    let replaced = |from: &str, to: &str| good.replace(from, to).into_bytes();
    let bomb = alias_bomb() + &good;
    let rows: [(&str, Vec<u8>, &str); 11] = [
        ("C01: empty", Vec::new(), "the file is empty"),
        (
            "C01: half-written",
            good.as_bytes()[..good.len() / 2].into(),
            "not YAML",
        ),
        (
            "C01: not UTF-8",
            b"listen: \xff".into(),
            "not UTF-8 from byte 8 on",
        ),
        ("C01: no YAML", b"{ listen: [ }".into(), "not YAML"),
        ("C01: a tab", b"listen:\n\ttls: 1\n".into(), "a tab"),
        ("C01: too large", vec![b'#'; 3 << 20], "larger than 1 MiB"),
        (
            "C02: a key twice",
            replaced("drain:", "drain: {}\ndrain:"),
            "drain: given before",
        ),
        (
            "C03: an alias bomb",
            bomb.clone().into(),
            "more than 100000 values",
        ),
        (
            "C03: nesting",
            format!("listen: {}", "[".repeat(100_000)).into(),
            "recursion limit",
        ),
        (
            "C03: a tag",
            replaced("name: ehr", "name: !!python/object:x ehr"),
            "a tag",
        ),
        (
            "C03: a merge key",
            replaced("name: ehr", "<<: { name: ehr }"),
            "merge keys",
        ),
    ];
    for (row, bytes, words) in rows {
        trial.write(bytes);
        trial.refuses(row, &[words]).await;
        // As an editor does it: empty, and then whole.
        trial.write(&good);
        trial.takes(row).await;
    }
    for n in 0..20 {
        trial.write(format!("{bomb}\n# {n}\n"));
        trial
            .keeps_the_old("C03: a bomb again and again", &["100000 values"])
            .await;
    }
    trial.end(&target).await;
}

type Put<'a> = &'a dyn Fn(&Path) -> io::Result<()>;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_that_can_be_read_replaces_no_config() {
    let target = Target::accepting().await;
    let mut trial = Trial::begin(Setup::new(&to(&target)), VARIABLES).await;
    let (config, good) = (trial.setup.config(), trial.text());
    let socket = trial.setup.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("bound");
    let rows: [(&str, Put<'_>, &str); 6] = [
        ("C01: 100 MiB", &large, "larger than 1 MiB"),
        ("C01: a folder", &|at| fs::create_dir(at), "it is a folder"),
        ("C01: unreadable", &unreadable, "Permission denied"),
        (
            "C01: a link to itself",
            &|at| symlink(at, at),
            "cannot read",
        ),
        (
            "C01: a socket",
            &|at| symlink("socket", at),
            "it is a socket",
        ),
        ("C01: without end", &|at| symlink("/dev/zero", at), "device"),
    ];
    for (row, put, words) in rows {
        remove(&config);
        trial
            .refuses(&format!("{row}: nothing"), &["No such file"])
            .await;
        put(&config).expect(row);
        trial.refuses(row, &[words]).await;
        remove(&config);
        trial.write(&good);
        trial.takes(row).await;
    }
    trial.end(&target).await;
}

/// A hole.
fn large(at: &Path) -> io::Result<()> {
    fs::File::create(at)?.set_len(100 << 20)
}

fn unreadable(at: &Path) -> io::Result<()> {
    fs::write(at, "canary")?;
    fs::set_permissions(at, Permissions::from_mode(0o000))
}

fn remove(at: &Path) {
    let removed = if at.is_dir() {
        fs::remove_dir(at)
    } else {
        fs::remove_file(at)
    };
    removed.expect("removed");
}

/// Ten levels of ten aliases: 10^10 nodes, if each were looked at.
fn alias_bomb() -> String {
    let level = |level: usize| {
        let aliases = vec![format!("*x{}", level - 1); 10].join(", ");
        format!("x{level}: &x{level} [{aliases}]\n")
    };
    let levels: Vec<_> = (1..=10).map(level).collect();
    format!("x0: &x0 [a]\n{}", levels.concat())
}
