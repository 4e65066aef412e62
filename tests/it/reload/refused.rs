//! Versions that are refused: the last good one stays, and one line says what is wrong.

use std::fs;

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
