//! Many relays and one spool, in a PostgreSQL server: what is true of the whole.

use std::collections::HashSet;
use std::process::Output;

use crate::harness::{CANARY, Postgres, Relay, Setup, Target, eventually};
use crate::hostile::clocks::Clock;

const IN_CLEAR: &str = "tls: null, pool: 4, lease: 2s, statement_timeout: 5s";

fn routes(target: &Target) -> String {
    let url = target.url();
    format!(
        "targets: [{{ name: ehr, http: {{ url: \"{url}\" }}, retry: {{ initial: 100ms, max: 1s }} }}]\n\
         routes: [{{ name: all, to: [ehr] }}]\n"
    )
}

fn setup(server: &Postgres, target: &Target) -> Setup {
    let setup = Setup::new(&routes(target));
    setup.keep_in(&server.url(), IN_CLEAR);
    setup
}

fn started(setup: &Setup) -> Relay {
    setup.start_at("trace")
}

fn body(n: usize) -> String {
    format!(r#"{{"status":"success","session_id":"{CANARY}-{n}"}}"#)
}

fn delivered(target: &Target) -> HashSet<Vec<u8>> {
    target.taken()
}

fn run(setup: &Setup, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args(arguments).arg(setup.config());
    command.output().expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_relay_accepts_any_delivers_and_all_know() {
    let server = Postgres::start("");
    let target = Target::accepting().await;
    let setups = [(); 3].map(|()| setup(&server, &target));
    let relays: Vec<Relay> = setups.iter().map(started).collect();
    for n in 0..60 {
        let sender = relays[n % 3].sender();
        let (at, body) = (sender.generated_at(), body(n));
        let signature = crate::harness::sign(&at, body.as_bytes());
        for relay in [&relays[n % 3], &relays[(n + 1) % 3]] {
            let answer = relay.sender().send(&at, &signature, body.clone()).await;
            assert_eq!(answer.expect("an answer").status, 200);
        }
    }
    eventually("all arrive", async || delivered(&target).len() == 60).await;
    for relay in &relays {
        let settled = "suki_relay_spool_notifications{state=\"settled\"}";
        eventually("each relay shows all of them", async || {
            (relay.metric(settled).await - 60.0).abs() < 0.5
        })
        .await;
        let (status, _) = relay.admin("/readyz").await;
        assert_eq!(status, 200);
    }
    assert_eq!(target.count(), 60, "once each");
    for relay in &relays {
        relay.is_well("a shared spool").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_for_good_takes_nothing_with_it() {
    let server = Postgres::start("");
    // It never answers the first relay's attempts.
    let target = Target::start(|_| 503).await;
    let setup = [(); 2].map(|()| setup(&server, &target));
    let first = started(&setup[0]);
    let sender = first.sender();
    for n in 0..20 {
        let answer = sender.post(body(n)).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    eventually("it tries", async || target.count() > 0).await;
    first.kill();
    let willing = Target::accepting().await;
    setup[1].write_config(&routes(&willing));
    setup[1].keep_in(&server.url(), IN_CLEAR);
    let second = started(&setup[1]);
    eventually("the other has them all", async || {
        delivered(&willing).len() == 20
    })
    .await;
    second.is_well("S02: another relay's death").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_senders_get_500_and_readiness_is_not_touched() {
    let mut server = Postgres::start("");
    let target = Target::accepting().await;
    let setup = setup(&server, &target);
    setup.reword("listen:", "listen:\n  limits: { ack_timeout: 500ms }");
    let relay = started(&setup);
    let sender = relay.sender();
    assert_eq!(sender.post(body(0)).await.expect("an answer").status, 200);
    server.kill();
    let asked = std::time::Instant::now();
    let refused = sender.post(body(1)).await.expect("an answer");
    assert_eq!(refused.status, 500);
    assert!(asked.elapsed() < std::time::Duration::from_secs(5));
    for probe in ["/readyz", "/livez"] {
        assert_eq!(relay.admin(probe).await.0, 200, "{probe}");
    }
    server.run();
    eventually("it is accepted again", async || {
        let answer = sender.post(body(2)).await;
        answer.is_some_and(|answer| answer.status == 200)
    })
    .await;
    eventually("it is delivered", async || {
        delivered(&target).contains(body(2).as_bytes())
    })
    .await;
    relay.is_well("a server that was away").await;
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_connect_asks_the_server() {
    let server = Postgres::start("");
    let target = Target::accepting().await;
    let setup = setup(&server, &target);
    let checked = run(&setup, &["check", "--connect", "--config"]);
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(
        server.sql("SELECT to_regnamespace('suki_relay') IS NULL"),
        "t"
    );
    server.sql("ALTER ROLE postgres SET synchronous_commit = off");
    for command in [
        &["check", "--connect", "--config"][..],
        &["run", "--config"],
    ] {
        let refused = run(&setup, command);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(74), "{told}");
        assert!(told.contains("`synchronous_commit` is off there"), "{told}");
    }
    assert!(run(&setup, &["check", "--config"]).status.success());
}

/// A failover may lead to a server that is there, and worse than none.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_primary_that_would_not_keep_what_it_is_given_gets_nothing() {
    const CASES: [(&str, &str, &str); 6] = [
        (
            "ALTER SYSTEM SET fsync = off",
            "ALTER SYSTEM RESET fsync",
            "`fsync` is off there",
        ),
        (
            "ALTER SYSTEM SET synchronous_commit = off",
            "ALTER SYSTEM RESET synchronous_commit",
            "`synchronous_commit` is off there",
        ),
        (STANDBY, STANDBY, "the server is a standby"),
        (
            "UPDATE suki_relay.format SET version = version + 1",
            "UPDATE suki_relay.format SET version = version - 1",
            "made by a newer suki-relay",
        ),
        (
            "ALTER TABLE suki_relay.content SET UNLOGGED",
            "ALTER TABLE suki_relay.content SET LOGGED",
            "`suki_relay.content` is unlogged",
        ),
        (
            "ALTER SCHEMA suki_relay RENAME TO elsewhere",
            "ALTER SCHEMA elsewhere RENAME TO suki_relay",
            "the spool's tables are gone",
        ),
    ];
    const STANDBY: &str = "";
    const THERE: &str = "SELECT count(*) FROM suki_relay.notification";
    let mut server = Postgres::start("");
    let signal = server.path().join("data/standby.signal");
    let target = Target::accepting().await;
    let setup = setup(&server, &target);
    setup.reword("listen:", "listen:\n  limits: { ack_timeout: 300ms }");
    let relay = started(&setup);
    let sender = relay.sender();
    let posted = std::cell::Cell::new(0);
    let post = async || {
        let new = body(posted.replace(posted.get() + 1));
        sender.post(new).await.expect("an answer").status
    };
    for (harm, mend, reason) in CASES {
        eventually("it is accepted", async || post().await == 200).await;
        let there = server.sql(THERE);
        if harm == STANDBY {
            server.kill();
            std::fs::write(&signal, "").expect("writes");
        } else {
            server.sql(harm);
            server.kill();
        }
        server.run();
        eventually(reason, async || {
            assert_eq!(post().await, 500, "{reason}");
            let is_told = |line: &serde_json::Value| line["error"].to_string().contains(reason);
            relay.log().iter().any(is_told)
        })
        .await;
        if mend == STANDBY {
            std::fs::remove_file(&signal).expect("removes");
        } else {
            server.sql(mend);
        }
        assert_eq!(server.sql(THERE), there, "{reason}");
        server.kill();
        server.run();
    }
    eventually("it is accepted", async || post().await == 200).await;
    relay.is_well("new primaries").await;
}

/// As one who applies migrations by hand has it: another role owns the tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_runs_on_printed_tables_by_a_role_that_may_make_nothing() {
    let server = Postgres::start("");
    let target = Target::accepting().await;
    let setup = Setup::new(&routes(&target));
    server.sql("CREATE ROLE guest LOGIN");
    let url = format!("postgres://guest@127.0.0.1:{}/postgres", server.port());
    setup.keep_in(&url, IN_CLEAR);
    let mut printing = std::process::Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    let printed = printing.args(["spool", "migrate", "--print"]).output();
    let printed = String::from_utf8(printed.expect("it runs").stdout).expect("text");
    server.sql(&printed);
    let refused = run(&setup, &["check", "--connect", "--config"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("lacks rights"), "{told}");
    for line in printed.lines() {
        if let Some(grant) = line.strip_prefix("--   GRANT") {
            server.sql(&format!("GRANT{}", grant.replace("...", "guest")));
        }
    }
    let may = "SELECT has_schema_privilege('guest', 'suki_relay', 'CREATE')
                   OR has_database_privilege('guest', 'postgres', 'CREATE')";
    assert_eq!(server.sql(may), "f");
    let relay = started(&setup);
    let answer = relay.sender().post(body(0)).await.expect("an answer");
    assert_eq!(answer.status, 200);
    eventually("it is delivered", async || target.count() == 1).await;
    server.sql(&printed);
    relay.is_well("tables of another role").await;
}

/// The marks are everybody's: a relay whose clock is years ahead must not let a copy through at another.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_clock_is_ahead_forgets_nothing_for_the_others() {
    let server = Postgres::start("");
    let target = Target::accepting().await;
    let setups = [(); 2].map(|()| setup(&server, &target));
    let relay = started(&setups[0]);
    let (clock, ahead) = Clock::start(setups[1].path(), &setups[1]);
    let sender = relay.sender();
    let (at, body) = (sender.generated_at(), body(1));
    let signature = crate::harness::sign(&at, body.as_bytes());
    let answer = sender.send(&at, &signature, body.clone()).await;
    assert_eq!(answer.expect("an answer").status, 200);
    eventually("it arrives", async || target.count() == 1).await;
    clock.set("+315360000");
    let settled = "SELECT count(*) FROM suki_relay.notification WHERE settled_at IS NOT NULL";
    eventually("it is settled", async || server.sql(settled) == "1").await;
    // Dropping what is past its time has its turn each second.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(server.sql(settled), "1");
    let errors = ahead.metric("suki_relay_spool_errors_total{op=\"read\"}");
    assert!(errors.await < 0.5);
    let answer = sender.send(&at, &signature, body).await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(target.count(), 1);
    for relay in [&relay, &ahead] {
        relay.told_nobody([0; 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_walks_all_that_relays_share() {
    let server = Postgres::start("");
    let target = Target::accepting().await;
    let setup = setup(&server, &target);
    setup.reword("5s } }", "5s }, keep_delivered: 8760h }");
    let relay = started(&setup);
    for n in 0..3 {
        let answer = relay.sender().post(body(n)).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    eventually("all arrive", async || delivered(&target).len() == 3).await;
    let settled = "SELECT count(*) FROM suki_relay.notification WHERE settled_at IS NOT NULL";
    eventually("all are settled", async || server.sql(settled) == "3").await;
    let audit = |setup: &Setup| run(setup, &["spool", "status", "--audit", "--config"]);
    let sound = audit(&setup);
    let said = String::from_utf8_lossy(&sound.stdout);
    assert!(
        said.starts_with("3 notifications, 3 deliveries"),
        "{sound:?}"
    );
    assert!(sound.status.success());
    // By a config that keeps them no longer.
    server.sql("UPDATE suki_relay.notification SET settled_at = settled_at - 100 * 3600000");
    let aside = self::setup(&server, &target);
    for _ in 0..3 {
        let audited = audit(&aside);
        assert!(audited.status.success(), "{audited:?}");
        assert_eq!(server.sql(settled), "3", "it drops nothing");
    }
    aside.reword("5s } }", "5s, schema: elsewhere } }");
    let none = audit(&aside);
    let told = String::from_utf8_lossy(&none.stderr);
    assert!(told.contains("holds no spool"), "{told}");
    assert_eq!(
        server.sql("SELECT to_regnamespace('elsewhere') IS NULL"),
        "t"
    );
    server.sql("DELETE FROM suki_relay.content WHERE seq = 1");
    let damaged = audit(&setup);
    let said = String::from_utf8_lossy(&damaged.stdout);
    assert!(
        said.contains("notification 1: its content is missing"),
        "{said}"
    );
    assert!(!damaged.status.success());
    relay.told_nobody([0; 2]).await;
}

/// Its config does not name the target, and only the server knows that it is owed something.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_that_was_away_owes_is_missed_once_it_is_back() {
    let mut server = Postgres::start("");
    let target = Target::start(|_| 503).await;
    let first = setup(&server, &target);
    let relay = started(&first);
    let answer = relay.sender().post(body(0)).await.expect("an answer");
    assert_eq!(answer.status, 200);
    relay.kill();
    server.kill();
    let other = Setup::new(&routes(&target).replace("ehr", "audit"));
    other.keep_in(&server.url(), IN_CLEAR);
    other.reword("5s } }", "5s }, disk: { path: spool, fallback: true } }");
    let relay = started(&other);
    let missing = "suki_relay_target_missing{target=\"ehr\"}";
    server.run();
    eventually("it is missed", async || relay.metric(missing).await > 0.5).await;
    relay.told_nobody([0; 2]).await;
}
