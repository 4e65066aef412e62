//! Addresses that no notification is sent to are refused at load, not only when connecting.

use super::*;
use crate::target::address::tests::{FORBIDDEN, FORBIDDEN_HOSTS};

fn with_target(kind: &str, url: &str) -> String {
    format!(
        "
listen: {{ tls: {{ self_signed: [localhost] }} }}
sources: [{{ name: suki, path: /in, secrets: [{{ name: a, env: SECRET }}] }}]
targets: [{{ name: ehr, {kind}: {{ url: '{url}' }} }}]
routes: [{{ name: all, to: [ehr] }}]
"
    )
}

#[test]
fn every_spelling_of_a_forbidden_address_is_refused_with_its_key() {
    let literals = FORBIDDEN.iter().map(|address| match address.parse() {
        Ok(std::net::IpAddr::V6(_)) => format!("[{address}]"),
        _ => (*address).to_owned(),
    });
    let hosts = literals.chain(FORBIDDEN_HOSTS.iter().map(|host| (*host).to_owned()));
    let mut refused = 0;
    for host in hosts {
        for (kind, url) in [
            ("http", format!("http://{host}/latest/meta-data")),
            ("http", format!("https://{host}:8443")),
            ("grpc", format!("http://{host}:50051")),
        ] {
            let text = with_target(kind, &url);
            let problems = parse(&text, &Disk::new()).expect_err(&url).problems;
            let paths: Vec<_> = problems.iter().map(|problem| &problem.path).collect();
            assert_eq!(paths, [&format!("targets[0].{kind}.url")], "{url}");
            refused += 1;
        }
    }
    assert!(refused > 120, "only {refused}");
}

#[test]
fn clear_text_off_this_machine_is_a_warning_by_either_protocol() {
    for (kind, url, warned) in [
        ("http", "http://ehr.example/", true),
        ("http", "http://10.0.0.1/", true),
        ("grpc", "http://[2001:db8::1]:50051", true),
        ("http", "https://ehr.example/", false),
        ("grpc", "https://10.0.0.1", false),
        ("http", "http://127.8.8.8:1/", false),
        ("grpc", "http://[::1]:1", false),
        ("http", "http://[::ffff:127.0.0.1]:1/", false),
        ("grpc", "http://localhost:1", false),
    ] {
        let config = parse(&with_target(kind, url), &Disk::new());
        let warnings = config
            .unwrap_or_else(|problems| panic!("{problems}"))
            .warnings;
        let clear = |warning: &&Problem| warning.what.contains("clear text");
        assert_eq!(
            warnings.iter().filter(clear).count(),
            usize::from(warned),
            "{url}"
        );
    }
}
