//! The command line: bad input, help, completions and exit codes.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Setup, Target, free_address};

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

/// Shakes hands, and offers no protocol. Ends with the runtime.
async fn serve_tls_without_alpn(setup: &Setup) -> u16 {
    let pem = |end: &str| setup.path().join(format!("tls.{end}"));
    let chain = CertificateDer::pem_file_iter(pem("crt")).expect("a file");
    let chain = chain.map(|one| one.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(pem("key")).expect("a key");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a pair")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn check_connect_tells_each_target_that_cannot_be_reached_and_sends_nothing() {
    let [http, plain] = [Target::accepting().await, Target::accepting().await];
    let setup = Setup::new("");
    let tls = serve_tls_without_alpn(&setup).await;
    let refused = free_address();
    let targets = |bad: &str| {
        format!(
            "targets:
  - {{ name: good, http: {{ url: '{}' }} }}
  - {{ name: grpc-plain, grpc: {{ url: 'http://{}' }} }}
  - {{ name: trusted, http: {{ url: 'https://localhost:{tls}/', tls: {{ ca: tls.crt }} }} }}
{bad}routes: [{{ name: all, to: [good] }}]
",
            http.url(),
            http.address,
        )
    };
    let check = || {
        relay(&[
            "check",
            "--connect",
            "--config",
            setup.config().to_str().expect("text"),
        ])
    };
    setup.write_config(&targets(""));
    let output = check();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"ok\n");

    let bad = format!(
        "  - {{ name: old-grpc, grpc: {{ url: 'https://localhost:{tls}', tls: {{ ca: tls.crt }} }} }}
  - {{ name: plain, http: {{ url: 'https://localhost:{}/', tls: {{ ca: tls.crt }} }} }}
  - {{ name: refused, http: {{ url: 'http://{refused}/?key=hidden' }} }}
  - {{ name: strange, http: {{ url: 'https://127.0.0.1:{tls}/', tls: {{ ca: tls.crt, server_name: other.test }} }} }}
",
        plain.address.port(),
    );
    setup.write_config(&targets(&bad));
    let output = check();
    assert_eq!((output.status.code(), output.stdout), (Some(1), Vec::new()));
    let told = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<_> = told
        .lines()
        .filter(|line| line.starts_with("target"))
        .collect();
    let begin = [
        "target `old-grpc` (protocol): it offers no HTTP/2",
        "target `plain` (tls): ",
        "target `refused` (connect): Connection refused",
        "target `strange` (tls): invalid peer certificate",
    ];
    assert_eq!(lines.len(), begin.len(), "{told}");
    for (line, begin) in lines.iter().zip(begin) {
        assert!(line.starts_with(begin), "{told}");
    }
    assert!(told.contains("4 targets cannot be reached"), "{told}");
    assert!(!told.contains("hidden"), "{told}");
    assert_eq!((http.count(), plain.count()), (0, 0));
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
