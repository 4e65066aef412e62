//! Versions that are refused: the last good one stays, and one line says what is wrong.

use std::fs;
use std::os::unix::fs::symlink;

use super::{IS_REFUSED, REFUSED, SUCCESSFUL, counted, lines, post, to};
use crate::harness::{Setup, Target, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_config_changes_nothing_says_so_once_and_heals() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let mut relay = setup.start();
    let sender = relay.sender();
    setup.write_config(&to("nobody", &ehr, &audit));
    counted(&relay, SUCCESSFUL, 0).await;
    let line = relay.log_line(IS_REFUSED);
    assert_eq!(line["level"], "WARN");
    let problems = line["problems"].as_str().expect("text");
    let place = format!("{}:", setup.config().display());
    assert!(problems.starts_with(&place), "{problems}");
    assert!(
        problems.contains("routes[0].to[0]: no target `nobody`"),
        "{problems}"
    );
    post(&sender, 0).await;
    eventually("the old route is in use", async || ehr.count() == 1).await;

    // Another version, wrong in the same way: counted, but nothing new to say.
    setup.write_config(&(to("nobody", &ehr, &audit) + "# still\n"));
    counted(&relay, REFUSED, 2).await;
    assert_eq!(lines(&relay, IS_REFUSED).len(), 1);

    setup.write_config(&to("audit", &ehr, &audit));
    counted(&relay, SUCCESSFUL, 1).await;
    post(&sender, 1).await;
    eventually("the new route is in use", async || audit.count() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_config_never_replaces_one() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let good = to("ehr", &ehr, &audit);
    let setup = Setup::new(&good);
    let relay = setup.start();
    let config = setup.config();
    let text = Setup::text(&good);
    let bad: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("half-written", text.as_bytes()[..text.len() / 2].to_vec()),
        ("not UTF-8", vec![0xff; 100]),
        ("too large", vec![b'#'; 3 << 20]),
        ("a key twice", format!("{text}\ndrain: {{}}\n").into_bytes()),
        (
            "an alias bomb",
            format!("{}{text}", alias_bomb()).into_bytes(),
        ),
    ];
    let mut refused = 0;
    for (what, bytes) in bad {
        fs::write(&config, bytes).expect("writable");
        refused += 1;
        counted(&relay, REFUSED, refused).await;
        eventually(what, async || lines(&relay, IS_REFUSED).len() >= refused).await;
        assert_eq!(lines(&relay, IS_REFUSED).len(), refused, "{what}");
    }
    let huge = fs::File::create(&config).expect("writable");
    huge.set_len(100 << 20).expect("a hole of 100 MiB");
    counted(&relay, REFUSED, refused + 1).await;
    let resident = relay.metric("process_resident_memory_bytes").await;
    assert!(resident < 100e6, "it was read: {resident} bytes");
    fs::remove_file(&config).expect("removed");
    fs::create_dir(&config).expect("a folder");
    counted(&relay, REFUSED, refused + 2).await;
    fs::remove_dir(&config).expect("removed");
    symlink("config.yaml", &config).expect("a link to itself");
    counted(&relay, REFUSED, refused + 3).await;
    fs::remove_file(&config).expect("removed");
    setup.write_config(&good);
    counted(&relay, SUCCESSFUL, 1).await;
    post(&relay.sender(), 0).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_that_the_config_names_changes_nothing_and_is_told_once() {
    let target = Target::accepting().await;
    let rest = to("ehr", &target, &target).replace(
        "\ntargets:",
        "
sources:
  - name: suki
    path: /webhooks/notification
    secrets: [{ name: current, file: secret }, { name: next, file: next, optional: true }]
    schema: shape.json
targets:",
    );
    let setup = Setup::new(&rest);
    let file = |name: &str| setup.path().join(name);
    let write = |name: &str, text: &str| fs::write(file(name), text).expect("writable");
    write("shape.json", r#"{"type": "object"}"#);
    write("next", "the next secret");
    let relay = setup.start();
    let sender = relay.sender();
    let mut posted = 0;
    let wrong: [(&str, &str, &str); 4] = [
        ("secret", "\n", "sources[0].secrets[0].file"),
        // Whoever writes a file in place empties it first.
        ("next", "", "sources[0].secrets[1].file"),
        ("shape.json", r#"{"type": "no type"}"#, "sources[0].schema"),
        ("shape.json", "{", "sources[0].schema"),
    ];
    for (name, text, key) in wrong {
        let good = fs::read_to_string(file(name)).expect("readable");
        let told = lines(&relay, IS_REFUSED).len();
        write(name, text);
        counted(&relay, SUCCESSFUL, 0).await;
        eventually("it is told", async || {
            lines(&relay, IS_REFUSED).len() == told + 1
        })
        .await;
        let line = lines(&relay, IS_REFUSED).pop().expect("a line");
        let problems = line["problems"].as_str().expect("text");
        assert!(problems.contains(key), "{problems}");
        post(&sender, posted).await;
        posted += 1;
        write(name, &good);
        counted(&relay, SUCCESSFUL, 1).await;
        post(&sender, posted).await;
        posted += 1;
    }
    eventually("all arrive", async || target.count() == posted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_needs_a_restart_is_refused_as_a_whole_and_named() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let mut relay = setup.start();
    let new = Setup::text(&to("audit", &ehr, &audit))
        .replace("deadline: 5s", "deadline: 6s")
        .replace(
            "private_key: tls.key",
            "private_key: tls.key, min_version: \"1.3\"",
        );
    fs::write(setup.config(), new).expect("writable");
    counted(&relay, SUCCESSFUL, 0).await;
    let line = relay.log_line(IS_REFUSED);
    let problems = line["problems"].as_str().expect("text");
    assert!(
        problems.contains("listen.tls.min_version, drain.deadline;"),
        "{problems}"
    );
    post(&relay.sender(), 0).await;
    eventually("the old route is in use", async || ehr.count() == 1).await;
    assert_eq!(audit.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_problems_are_one_line_of_a_log_that_can_be_read() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to("ehr", &target, &target));
    let mut relay = setup.start();
    let unknown: String = (0..10_000).map(|n| format!("k{n}: 1\n")).collect();
    let text = Setup::text(&to("ehr", &target, &target));
    fs::write(setup.config(), text + &unknown).expect("writable");
    counted(&relay, REFUSED, 1).await;
    let line = relay.log_line(IS_REFUSED);
    let problems = line["problems"].as_str().expect("text");
    assert!(problems.contains(" k0: "), "{problems}");
    assert!(
        problems.ends_with("and 9980 more: `suki-relay check` tells all"),
        "{problems}"
    );
}

/// A chain of fields is no nesting to CEL's parser, which calls itself for each of its links.
#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_would_overflow_a_stack_is_refused() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to("ehr", &target, &target));
    let relay = setup.start();
    for (n, link) in [".a", "+1"].into_iter().enumerate() {
        let when = format!("body{}", link.repeat(20_000));
        let route = format!("name: everything, when: '{when}'");
        let text = Setup::text(&to("ehr", &target, &target));
        let text = text.replace("name: everything", &route);
        assert!(text.contains(&when));
        fs::write(setup.config(), text).expect("writable");
        counted(&relay, REFUSED, n + 1).await;
    }
    post(&relay.sender(), 0).await;
}
