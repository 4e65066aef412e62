//! The config through its front door: the files of `tests/config`, and what may be put in their place.

mod addresses;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::tree::{Node, Style, Value};
use super::*;
use crate::target::grpc::method::tests::descriptor_set;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn env(name: &str) -> Option<String> {
    let value = match name {
        "SECRET" | "SUKI_SECRET" => "0123456789abcdef",
        "SHORT" => "hunter2",
        "EMPTY" => "",
        "HOST" => "127.0.0.1",
        "ODD" => "a: [b], # c",
        "ONE" => "1",
        "TIMEOUT" => "7s",
        "SIGNING" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "SIGNING_SHORT" => "whsec_aHVudGVyMg==",
        "SIGNING_WORDS" => "whsec_hunter2!",
        "LINES" => "hunter2\nhunter2",
        _ => return None,
    };
    Some(value.to_owned())
}

const INBOX: &str = include_str!("tests/inbox.proto");

/// The files that the examples name.
struct Disk(BTreeMap<&'static str, Vec<u8>>);

impl Disk {
    fn new() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let other = rcgen::KeyPair::generate().expect("a key");
        let certificate = made.cert.pem();
        let damaged = certificate.replace("MII", "M!!");
        Self(BTreeMap::from([
            ("tls.crt", certificate.clone().into_bytes()),
            ("tls.key", made.signing_key.serialize_pem().into_bytes()),
            ("other.key", other.serialize_pem().into_bytes()),
            ("ca.crt", format!("{certificate}{certificate}").into_bytes()),
            ("damaged.crt", damaged.into_bytes()),
            (
                "database",
                b"postgres://relay:hunter2@db.example:5432/spool\n".to_vec(),
            ),
            ("nearby", b"postgres://relay@localhost/spool".to_vec()),
            ("secret", b"0123456789abcdef\n".to_vec()),
            (
                "signing",
                b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".to_vec(),
            ),
            ("empty", Vec::new()),
            (
                "keys",
                b"a QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n".to_vec(),
            ),
            ("inbox.binpb", descriptor_set(INBOX)),
            ("shape.json", b"{\"required\": [\"status\"]}".to_vec()),
        ]))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        match self.0.get(name) {
            Some(bytes) => Ok(bytes.clone()),
            None if name == "folder" => Err(io::Error::other("it is a folder; name a file")),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

fn parse(text: &str, disk: &Disk) -> Result<Config, Problems> {
    Config::parse(text, Path::new("/etc/relay/config.yaml"), &env, &|path| {
        disk.read(path)
    })
}

fn examples(kind: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(ROOT).join("tests/config").join(kind);
    let files = std::fs::read_dir(folder).expect("a folder");
    let mut examples: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .map(|path| (path.clone(), std::fs::read_to_string(path).expect("text")))
        .collect();
    examples.sort();
    examples
}

fn minimal() -> String {
    let (_, text) = examples("valid")
        .into_iter()
        .find(|(path, _)| path.ends_with("minimal.yaml"))
        .expect("tests/config/valid/minimal.yaml");
    text
}

fn shipped() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("config.yaml")).expect("config.yaml")
}

#[test]
fn valid_examples_load() {
    let disk = Disk::new();
    let examples = examples("valid");
    assert!(examples.len() >= 8, "only {} examples", examples.len());
    for (path, text) in examples {
        if let Err(problems) = parse(&text, &disk) {
            panic!("{}:\n{problems}", path.display());
        }
    }
}

/// Each begins with lines of `# expect: LINE:COLUMN: path: fragment`.
#[test]
fn invalid_examples_have_exactly_the_problems_they_announce() {
    let disk = Disk::new();
    let examples = examples("invalid");
    assert!(examples.len() >= 30, "only {} examples", examples.len());
    let mut surprises = Vec::new();
    for (path, text) in examples {
        let expected: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .collect();
        let problems = parse(&text, &disk)
            .expect_err(&path.display().to_string())
            .problems;
        let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(
            !found.concat().contains("hunter2"),
            "{} tells a secret",
            path.display()
        );
        let agree = found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(found, expected)| announced(found, expected));
        if !agree || found.is_empty() {
            surprises.push(format!("{} has\n{}", path.display(), found.join("\n")));
        }
    }
    assert!(surprises.is_empty(), "\n{}", surprises.join("\n"));
}

/// The same place and path, and the fragment somewhere in what is said.
fn announced(found: &str, expected: &str) -> bool {
    let (place, fragment) = expected
        .rsplit_once(": ")
        .expect("`LINE:COLUMN: path: fragment`");
    found
        .strip_prefix(place)
        .is_some_and(|what| what.starts_with(':') && what.contains(fragment))
}

fn on_disk(config: &Config) -> &crate::spool::Options {
    match &config.spool {
        Store::Disk(options) => options,
        Store::Postgres(_) => panic!("on a disk"),
    }
}

#[test]
fn the_shipped_config_loads_on_a_laptop() {
    let path = Path::new(ROOT).join("config.yaml");
    let config = Config::read(&path, &env).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.listen.address.ip().is_loopback() && config.admin.address.ip().is_loopback());
    assert_eq!(on_disk(&config).path, Path::new(ROOT).join("spool"));
    assert_eq!(config.warnings, []);
    assert_eq!(config.files, [path]);
}

#[test]
fn the_shipped_config_shows_the_defaults() {
    let disk = Disk::new();
    let shipped = parse(&shipped(), &disk).expect("config.yaml");
    let minimal = parse(&minimal(), &disk).expect("minimal.yaml");
    assert_eq!(shipped.listen.limits, minimal.listen.limits);
    assert_eq!(shipped.drain, minimal.drain);
    assert_eq!(
        on_disk(&shipped).capacity_bytes,
        on_disk(&minimal).capacity_bytes
    );
    assert_eq!(
        shipped.spool.keep_delivered(),
        minimal.spool.keep_delivered()
    );
    let ring = |config: &Config| on_disk(config).unverified_capacity_bytes;
    assert_eq!(ring(&shipped), ring(&minimal));
    let policy = |config: &Config| {
        config
            .routing
            .targets()
            .map(|t| t.policy.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(policy(&shipped), policy(&minimal));
    let source = |config: &Config| {
        let s = config.routing.sources()[0].clone();
        (
            s.signature_header.clone(),
            s.timestamp_header.clone(),
            s.age_max,
            s.ahead_max,
            s.on_invalid,
        )
    };
    assert_eq!(source(&shipped), source(&minimal));
}

#[test]
fn files_are_found_from_the_folder_of_the_config_and_listed_there_or_not() {
    let (_, text) = examples("valid")
        .into_iter()
        .find(|(path, _)| path.ends_with("full.yaml"))
        .expect("full.yaml");
    let config = parse(&text, &Disk::new()).unwrap_or_else(|problems| panic!("{problems}"));
    let names = [
        "config.yaml",
        "tls.crt",
        "tls.key",
        "ca.crt",
        "secret",
        "signing",
        "not-there",
        "shape.json",
        "inbox.binpb",
        "keys",
    ];
    let expected: BTreeSet<PathBuf> = names
        .iter()
        .map(|name| Path::new("/etc/relay").join(name))
        .collect();
    assert_eq!(
        config.files.iter().cloned().collect::<BTreeSet<_>>(),
        expected
    );
    assert_eq!(config.files.len(), expected.len());

    let broken = text.replace("file: secret", "file: gone");
    let problems = parse(&broken, &Disk::new()).expect_err("refused");
    assert!(problems.files.contains(&PathBuf::from("/etc/relay/gone")));
}

#[test]
fn a_status_that_means_delivered_is_no_reason_to_give_up() {
    let (_, text) = examples("valid")
        .into_iter()
        .find(|(path, _)| path.ends_with("delivered-beats-default.yaml"))
        .expect("the example");
    let config = parse(&text, &Disk::new()).unwrap_or_else(|problems| panic!("{problems}"));
    let policy = &config.routing.targets().next().expect("a target").policy;
    assert_eq!(policy.delivered_on, [400, 409].into());
    assert_eq!(policy.give_up_on, [405, 410, 413, 415, 422].into());
}

#[test]
fn values_of_headers_are_sensitive() {
    let node = tree::parse("{ url: 'http://127.0.0.1/', headers: { x-a: b } }").expect("YAML");
    let report = Report::default();
    let around = Surroundings {
        report: &report,
        env: &env,
        files: &Files {
            folder: PathBuf::new(),
            read: &|_| Err(ErrorKind::NotFound.into()),
            tape: Tape::default(),
        },
    };
    let http = outbound::read(&At::root(&node, around)).expect("a target");
    assert!(http.headers.iter().all(|(_, value)| value.is_sensitive()));
    assert_eq!(http.headers.len(), 1);
}

#[test]
fn what_is_doubtful_is_a_warning() {
    let text = "
listen: { tls: { self_signed: [localhost] } }
sources: [{ name: suki, path: /in, secrets: [{ name: a, env: SHORT }] }]
targets:
  - { name: ehr, http: { url: http://ehr.example/ } }
  - { name: other, http: { url: http://ehr.example } }
  - { name: own, grpc: { url: https://a, method: clinic.inbox.v1.Inbox/Put, descriptor_set: inbox.binpb } }
  - { name: blind, grpc: { url: https://b, method: clinic.inbox.v1.Inbox/Blind, descriptor_set: inbox.binpb } }
routes: [{ name: all, to: [ehr] }]
";
    let config = parse(text, &Disk::new()).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let warnings = warnings.join("\n");
    for fragment in [
        "shorter than 16 bytes",
        "clear text",
        "the same URL",
        "no route leads to target `other`",
        "targets[3].grpc.method: its message has no field of a notification",
    ] {
        assert!(
            warnings.contains(fragment),
            "{fragment} is not in\n{warnings}"
        );
    }
    assert!(!warnings.contains("hunter2"));
    assert!(!warnings.contains("targets[2].grpc.method"), "{warnings}");
}

#[test]
fn what_is_no_config_file_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let sparse = put("sparse.yaml", b"");
    std::fs::File::options()
        .write(true)
        .open(&sparse)
        .and_then(|file| file.set_len(100 << 20))
        .expect("100 MiB of nothing");
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let circle = folder.path().join("circle");
    std::os::unix::fs::symlink(&circle, &circle).expect("a link to itself");
    let at_limit = format!("{}# {}", minimal(), "x".repeat(1 << 20));
    let cases = [
        (folder.path().to_owned(), "it is a folder"),
        (socket, "it is a socket"),
        (circle, "cannot read the config"),
        (folder.path().join("gone"), "No such file"),
        (sparse, "larger than 1 MiB"),
        (
            put("large.yaml", &at_limit.as_bytes()[..=1 << 20]),
            "larger than 1 MiB",
        ),
        (
            put("latin.yaml", b"listen: \xe4\n"),
            "not UTF-8 from byte 8 on",
        ),
        (put("empty.yaml", b""), "the file is empty"),
        (put("nul.yaml", b"\0"), "control character"),
    ];
    for (path, fragment) in cases {
        let problems = Config::read(&path, &env).expect_err(fragment).to_string();
        assert!(problems.contains(fragment), "{problems}");
        assert!(
            problems.starts_with(&format!("{}:1:1: ", path.display())),
            "{problems}"
        );
        assert_eq!(problems.lines().count(), 1);
    }
    let path = put("largest.yaml", &at_limit.as_bytes()[..1 << 20]);
    assert!(Config::read(&path, &env).is_ok());
}

#[test]
fn the_digest_is_that_of_the_text() {
    let disk = Disk::new();
    let text = minimal();
    let digest = |text: &str| parse(text, &disk).expect("valid").sha256;
    assert_eq!(digest(&text), digest(&text));
    assert_ne!(digest(&text), digest(&format!("{text}#")));
}

/// Every key that a block of the file may have, as `sources[].secrets[].name`.
fn known_keys() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (_, text) in examples("valid") {
        let disk = Disk::new();
        let report = Report::default();
        let root = tree::parse(&text).expect("YAML");
        let around = Surroundings {
            report: &report,
            env: &env,
            files: &Files {
                folder: PathBuf::new(),
                read: &|path| disk.read(path),
                tape: Tape::default(),
            },
        };
        let root = At::root(&root, around).block(KEYS).expect("a mapping");
        assert!(Parts::read(&root).is_ok());
        // The keys of this one mapping are the user's.
        let keys = report.known_keys().into_iter();
        known.extend(keys.map(|key| key.replace(".x-key.", ".*.").replace(".x-none.", ".*.")));
    }
    known
}

/// The same for a JSON Schema.
fn schema_keys(schema: &Json, root: &Json, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let definition = root
            .pointer(name.trim_start_matches('#'))
            .expect("a definition");
        schema_keys(definition, root, path, keys);
    }
    for choice in schema["oneOf"].as_array().into_iter().flatten() {
        schema_keys(choice, root, path, keys);
    }
    if schema["items"].is_object() {
        schema_keys(&schema["items"], root, &format!("{path}[]"), keys);
    }
    if schema["additionalProperties"].is_object() {
        schema_keys(
            &schema["additionalProperties"],
            root,
            &format!("{path}.*"),
            keys,
        );
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        schema_keys(inner, root, &path, keys);
        keys.insert(path);
    }
}

/// YAML as an editor's schema check sees it.
fn as_json(node: &Node) -> Json {
    match &node.value {
        _ if node.is_null() => Json::Null,
        Value::Sequence(items) => items.iter().map(as_json).collect(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| (key.text.clone(), as_json(value)))
            .collect(),
        Value::Scalar(scalar) if scalar.style == Style::Quoted => scalar.text.clone().into(),
        Value::Scalar(scalar) => {
            serde_json::from_str(&scalar.text).unwrap_or(scalar.text.clone().into())
        }
    }
}

fn schema() -> Json {
    serde_json::from_str(json_schema()).expect("JSON")
}

#[test]
fn the_schema_and_the_reader_know_the_same_keys() {
    let schema = schema();
    let mut keys = BTreeSet::new();
    schema_keys(&schema, &schema, "", &mut keys);
    assert!(keys.len() > 50, "only {} keys", keys.len());
    assert_eq!(keys, known_keys());
}

#[test]
fn what_loads_is_valid_by_the_schema_too() {
    let validator = jsonschema::draft202012::new(&schema()).expect("a schema");
    let mut valid = examples("valid");
    valid.push((PathBuf::from("config.yaml"), shipped()));
    for (path, text) in valid {
        let json = as_json(&tree::parse(&text).expect("YAML"));
        let errors: Vec<_> = validator
            .iter_errors(&json)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
}

/// Those that the schema can see; the rest is between keys, or in other files.
#[test]
fn what_is_of_the_wrong_shape_is_invalid_by_the_schema_too() {
    let validator = jsonschema::draft202012::new(&schema()).expect("a schema");
    let shapes = [
        "choices",
        "empty-lists",
        "missing",
        "missing-inside",
        "numbers",
        "units",
        "unknown-keys",
        "wrong-types",
    ];
    let invalid = examples("invalid");
    for shape in shapes {
        let file = format!("{shape}.yaml");
        let (_, text) = invalid
            .iter()
            .find(|(path, _)| path.ends_with(&file))
            .expect(shape);
        let json = as_json(&tree::parse(text).expect("YAML"));
        assert!(!validator.is_valid(&json), "{shape}");
    }
}

/// `config.yaml` and the schema document the same defaults, key by key.
#[test]
fn the_schema_has_the_defaults_of_the_shipped_config() {
    const OF_A_LAPTOP: [&str; 3] = ["/listen/address", "/admin/address", "/spool/disk/path"];
    let schema = schema();
    let mut compared = 0;
    let config = as_json(&tree::parse(&shipped()).expect("YAML"));
    let mut open = vec![(String::new(), &config, &schema)];
    while let Some((path, value, rule)) = open.pop() {
        if !rule["default"].is_null() && !OF_A_LAPTOP.contains(&path.as_str()) {
            assert_eq!(value, &rule["default"], "{path}");
            compared += 1;
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            open.push((format!("{path}/{key}"), value, &rule["properties"][key]));
        }
        for value in value.as_array().into_iter().flatten() {
            open.push((path.clone(), value, &rule["items"]));
        }
    }
    assert!(compared > 30, "only {compared} defaults compared");
}

/// Each key is in it, in use or as a comment.
#[test]
fn the_shipped_config_mentions_every_key() {
    let shipped = shipped();
    for path in known_keys() {
        let key = path.rsplit('.').next().expect("a key");
        assert!(shipped.contains(&format!("{key}:")), "{path}");
    }
    assert!(shipped.lines().all(|line| line.chars().count() <= 110));
}
