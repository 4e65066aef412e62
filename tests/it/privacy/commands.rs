//! What is said of a config that is wrong: where and what, and nothing of what a file or a variable brought in.

use std::fs;
use std::process::Command;

use crate::harness::{Setup, assert_untold};

const REST: &str = "
targets: [{ name: ehr, http: { url: 'http://127.0.0.1:9/', BESIDE } }]
routes: [{ name: all, WHEN to: [ehr] }]
";

/// A config that differs from a good one by a word, and what the file `wrong` has in it.
struct Wrong {
    from: &'static str,
    to: &'static str,
    file: &'static str,
}

const fn beside(to: &'static str, file: &'static str) -> Wrong {
    Wrong {
        from: "BESIDE",
        to,
        file,
    }
}

const WRONG: &[Wrong] = &[
    beside("bearer_token: { file: wrong }", "canary \u{1}"),
    beside("bearer_token: canary", ""),
    beside("headers: { x-key: { file: wrong } }", "canary\ncanary"),
    beside("headers: { x-key: { env: TWO_LINES } }", ""),
    beside("sign: { secrets: [{ file: wrong }] }", "canary"),
    beside("sign: { secrets: [{ file: wrong }] }", "whsec_canary!"),
    beside("sign: { secrets: [{ file: wrong }] }", "whsec_canary="),
    beside("allow_addresses: ['${SECRET}']", ""),
    beside("tls: { server_name: '${SECRET} !' }", ""),
    beside("tls: { ca: wrong }", "canary"),
    Wrong {
        from: "private_key: tls.key",
        to: "private_key: wrong",
        file: "canary",
    },
    Wrong {
        from: "private_key: tls.key",
        to: "private_key: wrong",
        file: "-----BEGIN PRIVATE KEY-----\ncanary==\n-----END PRIVATE KEY-----\n",
    },
    Wrong {
        from: "certificate: tls.crt",
        to: "certificate: wrong",
        file: "canary",
    },
    Wrong {
        from: "{ path: spool }",
        to: "{ path: spool, key_file: wrong }",
        file: "canary canary!",
    },
    Wrong {
        from: "disk: { path: spool }",
        to: "postgres: { url: { file: wrong } }",
        file: "canary://canary",
    },
    Wrong {
        from: "disk: { path: spool }",
        to: "postgres: { url: { file: wrong } }",
        file: "postgres://user:canary@127.0.0.1:canary/canary",
    },
    Wrong {
        from: "disk: { path: spool }",
        to: "postgres: { url: 'postgres://user:canary@localhost/' }",
        file: "",
    },
    Wrong {
        from: "WHEN",
        to: "when: '${SECRET} ==',",
        file: "",
    },
    Wrong {
        from: "'http://127.0.0.1:9/'",
        to: "'http://user:canary@127.0.0.1:9/'",
        file: "",
    },
    Wrong {
        from: "'http://127.0.0.1:9/'",
        to: "'${SECRET}'",
        file: "",
    },
    Wrong {
        from: "address: 127.0.0.1:0\n",
        to: "address: '${SECRET}'\n",
        file: "",
    },
    Wrong {
        from: "deadline: 5s",
        to: "deadline: '${SECRET}'",
        file: "",
    },
    Wrong {
        from: "file: secret",
        to: "value: canary",
        file: "",
    },
    Wrong {
        from: "file: secret }]",
        to: "file: secret }], schema: wrong",
        file: "{\"type\": \"canary\"}",
    },
    Wrong {
        from: "file: secret }]",
        to: "file: secret }], schema: wrong",
        file: "canary",
    },
];

/// What commands say of it.
fn said(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(words).arg("--config").arg(setup.config());
    command.current_dir(setup.path());
    command
        .env("SECRET", "canary canary")
        .env("TWO_LINES", "canary\ncanary");
    let output = command.output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn of_a_secret_that_is_wrong_the_place_is_told_and_nothing_of_it() {
    for Wrong { from, to, file } in WRONG {
        let setup = Setup::new(REST);
        setup.reword(from, to);
        let config = fs::read_to_string(setup.config()).expect("readable");
        let config = config.replace(", BESIDE", "").replace("WHEN ", "");
        fs::write(setup.config(), config).expect("writable");
        fs::write(setup.path().join("wrong"), file).expect("writable");
        for words in [
            &["check"][..],
            &["explain", "--body", "wrong"],
            &["--log-level", "trace", "run"],
        ] {
            let (code, said) = said(&setup, words);
            assert_eq!(code, Some(78), "{to}: {said}");
            assert!(said.contains("config.yaml:"), "{to}: {said}");
            assert_untold(said.lines());
        }
    }
}

/// Of one that is right, and leads nowhere.
#[test]
fn of_a_server_that_is_not_there_the_password_is_not_told() {
    let setup = Setup::new(&REST.replace(", BESIDE", "").replace("WHEN ", ""));
    setup.keep_in("postgres://relay:canary@127.0.0.1:9/relay", "tls: null");
    for words in [
        &["check", "--connect"][..],
        &["--log-level", "trace", "run"],
    ] {
        let (code, said) = said(&setup, words);
        assert_eq!(code, Some(74), "{said}");
        assert_untold(said.lines());
    }
}
