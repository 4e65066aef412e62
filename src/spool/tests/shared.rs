//! What a spool promises that many relays share, and what it asks of the server.

use std::collections::BTreeSet;

use super::*;
use crate::spool::orders::{Note, Owing};
use crate::spool::{
    AcceptError, CustodyError, DeliveryState, Errand, Filter, OpenError, Replay, ReplayTo,
};

/// A server, and as many relays on it.
fn relays<const N: usize>() -> (server::Postgres, [Spool; N]) {
    let home = Home::new(Engine::Postgres);
    let relays = std::array::from_fn(|_| home.open().0);
    match home.place {
        Place::Server(server) => (server, relays),
        Place::Folder(_) => unreachable!("a server was asked for"),
    }
}

async fn fill(spool: &Spool, count: usize) {
    for n in 0..count {
        let kept = spool.accept(submission(n.to_string(), &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now));
    }
}

async fn sequences(spool: &Spool, limit: usize) -> BTreeSet<i64> {
    let page = spool.due(&name("ehr"), NOW, limit).await.expect("reads");
    page.deliveries.iter().map(|due| due.key.sequence).collect()
}

async fn pending(spool: &Spool) -> i64 {
    let counts = spool.counts().await.expect("reads");
    counts.targets[&name("ehr")].pending
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_in_one_relays_hands() {
    let (_server, [a, b, c]) = relays();
    fill(&a, 100).await;
    let (of_a, of_b) = tokio::join!(sequences(&a, 30), sequences(&b, 30));
    assert_eq!((of_a.len(), of_b.len()), (30, 30));
    assert!(of_a.is_disjoint(&of_b));
    assert_eq!(sequences(&a, 30).await, of_a, "what it has comes first");
    let since = NOW.minus(Duration::from_secs(30));
    let fresh = c.fresh(&name("ehr"), since, NOW, 1000).await;
    assert_eq!(fresh.expect("reads").deliveries.len(), 40);

    let given: Vec<i64> = of_a.iter().copied().collect();
    a.give_back(&name("ehr"), &given).await.expect("is written");
    assert_eq!(sequences(&b, 1000).await.len(), 60);
    assert!(sequences(&a, 1000).await.is_empty());
    drop(b);
    assert_eq!(
        sequences(&a, 1000).await.len(),
        60,
        "who ends keeps nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_a_page_is_left_to_the_others() {
    let (_server, [a, b]) = relays();
    for byte in ["a", "b", "c", "d"] {
        let body = byte.repeat(9 << 20);
        assert_eq!(a.accept(submission(body, &["ehr"])).await, Ok(Kept::Now));
    }
    let page = a.due(&name("ehr"), NOW, 9).await.expect("reads");
    assert_eq!((page.deliveries.len(), page.more), (2, true));
    assert_eq!(sequences(&b, 9).await, [3, 4].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_not_heard_of_settles_nothing_that_was_taken_from_it() {
    let (server, [a, b]) = relays();
    fill(&a, 2).await;
    let both = due(&a, "ehr").await;
    assert!(due(&b, "ehr").await.is_empty());
    server.sql("UPDATE suki_relay.relay SET alive_until = 0");
    let page = b.due(&name("ehr"), NOW, 1).await.expect("reads");
    let [taken] = &page.deliveries[..] else {
        panic!("one was asked for")
    };
    assert_eq!(taken.key, both[0].key);

    settle(&a, &both[0].key, Settled::Delivered).await;
    assert_eq!(pending(&a).await, 2, "it was another's");
    settle(&a, &both[1].key, Settled::Delivered).await;
    assert_eq!(pending(&a).await, 1, "it was nobody else's");
    settle(&b, &taken.key, Settled::Delivered).await;
    assert_eq!(pending(&b).await, 0);
    assert!(a.audit().await.expect("reads").is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_copies_at_many_relays_one_is_kept() {
    let (_server, relays) = relays::<3>();
    for round in 0..20 {
        // Each in another order, so that they would wait for each other in a circle.
        let copies = (0..30).map(|n| {
            let spool = relays[n % 3].clone();
            let body = format!("{round} {}", if n % 2 == 0 { n / 3 } else { 9 - n / 3 });
            tokio::spawn(async move { spool.accept(submission(body, &["ehr"])).await })
        });
        let mut kept = 0;
        for copy in copies.collect::<Vec<_>>() {
            match copy.await.expect("ends").expect("is kept") {
                Kept::Now => kept += 1,
                Kept::Before(verdict) => assert_eq!(verdict, Verdict::Accepted),
            }
        }
        let counts = relays[0].counts().await.expect("reads");
        assert_eq!(counts.notifications % 10, 0, "{kept} kept");
        assert_eq!(kept, 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_at_one_relay_wakes_the_others() {
    let (_server, [a, b]) = relays();
    let step = b.doorstep(&name("ehr"));
    let patience = Duration::from_secs(5); // below the 10 s after which all look
    fill(&a, 1).await;
    // The name is met by being asked for.
    assert_eq!(due(&b, "ehr").await.len(), 1);
    tokio::time::timeout(Duration::from_millis(300), step.rung())
        .await
        .ok();
    a.accept(submission("new", &["ehr"]))
        .await
        .expect("is kept");
    let woken = tokio::time::timeout(patience, step.rung()).await;
    woken.expect("is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_and_do_the_same_at_each_relay() {
    let (_server, [a, b]) = relays();
    fill(&a, 3).await;
    for due in due(&a, "ehr").await {
        settle(&a, &due.key, Settled::DeadLettered).await;
    }
    let counts = (a.counts().await, b.counts().await);
    assert_eq!(counts.0.expect("reads"), counts.1.expect("reads"));
    for (relay, expected) in [(&b, 3), (&a, 0)] {
        let replay = Replay {
            filter: Filter::default(),
            to: ReplayTo::DeadLetters,
            by: name("someone"),
            dry_run: false,
        };
        assert_eq!(relay.replay(replay).await.expect("is done").done, expected);
    }
    let all = Filter::default();
    let page = a.list(&all, crate::spool::Cursor::default(), 9).await;
    for entry in page.expect("reads").entries {
        assert_eq!(entry.deliveries[0].state, DeliveryState::Pending);
    }
    assert!(b.audit().await.expect("reads").is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_while_the_server_is_away_is_kept_when_it_is_back() {
    let (mut server, [a]) = relays();
    fill(&a, 1).await;
    let first = due(&a, "ehr").await.remove(0);
    // Its commit takes the claim along: a crash would take that back otherwise.
    let kept = a.accept(submission("second", &["ehr"])).await;
    assert_eq!(kept, Ok(Kept::Now));
    server.kill();
    let settled = a.settle(settlement(&first.key, Settled::Delivered));
    let waiting = {
        let a = a.clone();
        tokio::spawn(async move { a.accept(submission("late", &["ehr"])).await })
    };
    let gave_up = tokio::time::timeout(
        Duration::from_millis(200),
        a.accept(submission("given up", &["ehr"])),
    );
    assert!(gave_up.await.is_err(), "nothing is promised");
    assert!(a.due(&name("ehr"), NOW, 1).await.is_err());
    assert_eq!(a.writer_busy_for(), None, "no reason to restart");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.run();
    assert_eq!(waiting.await.expect("ends"), Ok(Kept::Now));
    settled.await.expect("is written");
    // What its sender was told 500 of waits no more.
    assert_eq!(a.counts().await.expect("reads").notifications, 3);
    assert_eq!(pending(&a).await, 2);
}

/// A wait for a standby that is cut short leaves a commit that it may not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_standby_may_not_have_is_no_promise() {
    const CUT: &str = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                       WHERE wait_event = 'SyncRep' AND application_name = 'suki-relay'";
    let (server, [a]) = relays();
    fill(&a, 1).await;
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    let mut waiting = {
        let a = a.clone();
        tokio::spawn(async move { a.accept(submission("a", &["ehr"])).await })
    };
    for _ in 0..2 {
        // Cut the first time it is new; the second time it is known, and still no promise.
        eventually(|| server.sql(CUT) == "1").await;
        let answered = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(answered.is_err(), "{answered:?}");
    }
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    let kept = waiting.await.expect("ends");
    assert_eq!(kept, Ok(Kept::Before(Verdict::Accepted)));
    assert_eq!(a.counts().await.expect("reads").notifications, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_turned_off_under_a_relay_ends_its_promise() {
    let (server, [a]) = relays();
    for setting in ["fsync", "synchronous_commit"] {
        let set = async |to: &str| {
            server.sql(&format!("ALTER SYSTEM SET {setting} = {to}"));
            server.sql("SELECT pg_reload_conf()");
            eventually(|| server.sql(&format!("SHOW {setting}")) == to).await;
        };
        let before = a.accept(submission(format!("before {setting}"), &["ehr"]));
        assert_eq!(before.await, Ok(Kept::Now));
        set("off").await;
        let mut waiting = {
            let a = a.clone();
            tokio::spawn(async move { a.accept(submission(setting, &["ehr"])).await })
        };
        let answered = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
        assert!(answered.is_err(), "{setting}: {answered:?}");
        set("on").await;
        assert!(waiting.await.expect("ends").is_ok(), "{setting}");
    }
}

/// Whichever of a transaction's statements fails.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_the_server_leaves_nothing_and_is_no_promise() {
    let (server, [a]) = relays();
    fill(&a, 1).await;
    server.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'",
    );
    for table in ["notification", "content", "delivery", "ledger", "tally"] {
        let table = format!("suki_relay.{table}");
        server.sql(&format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON {table} EXECUTE FUNCTION refuse()"
        ));
        let refused = a.accept(submission(&table, &["ehr"])).await;
        assert_eq!(refused, Err(AcceptError::Failed), "{table}");
        server.sql(&format!("DROP TRIGGER refuse ON {table}"));
        let kept = a.accept(submission(&table, &["ehr"])).await;
        assert_eq!(kept, Ok(Kept::Now), "{table}");
    }
    assert_eq!(due(&a, "ehr").await.len(), 6);
    assert!(a.audit().await.expect("reads").is_clean());
}

/// What a failover leaves to a standby that had not heard of the last names: the server's numbers begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_names_are_not_carried_from_one_server_to_the_next() {
    let (mut server, [a]) = relays();
    fill(&a, 1).await;
    server.sql("DROP SCHEMA suki_relay CASCADE");
    server.sql(&crate::spool::migration("suki_relay"));
    server.kill();
    server.run();
    let other = a.accept(submission("first there", &["audit", "ehr"])).await;
    assert_eq!(other, Ok(Kept::Now));
    let record_of = async |target: &str| loop {
        // The first question finds out that its session is over.
        if let Ok(page) = a.due(&name(target), NOW, 9).await {
            break page.deliveries.into_iter().next().map(|due| due.record);
        }
    };
    for target in ["audit", "ehr"] {
        let found = record_of(target).await.expect("is owed to it");
        assert_eq!(&found.body[..], b"first there", "{target}");
        assert_eq!(found.source, name("suki"), "{target}");
    }
}

fn refusal(options: &PostgresOptions) -> String {
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let refused = Spool::connect(options, metrics, |fatal| panic!("{fatal}"));
    let refused = refused.expect_err("refused");
    let inspected = Spool::inspect(options).expect_err("refused").to_string();
    assert!(
        matches!(
            refused,
            OpenError::Server { .. } | OpenError::ServerAway { .. }
        ),
        "{refused}"
    );
    assert!(!inspected.contains("hunter2"), "{inspected}");
    assert_eq!(refused.to_string(), inspected);
    inspected
}

#[test]
fn a_server_that_cannot_keep_the_promise_is_refused_with_the_reason() {
    let server = server::Postgres::start("");
    let options = at(&server);
    Spool::inspect(&options).expect("it can be made");
    let opened = || {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        Spool::connect(&options, metrics, |fatal| panic!("{fatal}"))
    };
    drop(opened().expect("opens"));
    let cases = [
        (
            "ALTER SYSTEM SET fsync = off",
            "`fsync = on`",
            "ALTER SYSTEM RESET fsync",
        ),
        (
            "ALTER ROLE postgres SET synchronous_commit = off",
            "`synchronous_commit` is off",
            "ALTER ROLE postgres RESET synchronous_commit",
        ),
        (
            "ALTER ROLE postgres SET default_transaction_read_only = on",
            "read-only",
            "BEGIN READ WRITE; ALTER ROLE postgres RESET ALL; COMMIT",
        ),
        (
            "ALTER TABLE suki_relay.content SET UNLOGGED",
            "`suki_relay.content` is unlogged",
            "ALTER TABLE suki_relay.content SET LOGGED",
        ),
        (
            "UPDATE suki_relay.format SET version = 2",
            "made by a newer suki-relay (version 2",
            "UPDATE suki_relay.format SET version = 1",
        ),
        (
            "UPDATE suki_relay.format SET application = 'other'",
            "not a spool of suki-relay",
            "UPDATE suki_relay.format SET application = 'suki-relay'",
        ),
    ];
    let settings = |sql: &str| {
        server.sql(sql);
        server.sql("SELECT pg_reload_conf()");
        // The server takes a moment to read them.
        std::thread::sleep(Duration::from_millis(100));
    };
    for (set, expected, reset) in cases {
        settings(set);
        let told = refusal(&options);
        assert!(told.contains(expected), "{set}: {told}");
        settings(reset);
        drop(opened().unwrap_or_else(|error| panic!("after {reset}: {error}")));
    }
}

#[test]
fn a_role_that_may_not_and_a_place_that_is_anothers_are_refused_with_the_reason() {
    let server = server::Postgres::start("");
    server.sql("CREATE ROLE guest LOGIN PASSWORD 'hunter2'");
    server.sql("CREATE SCHEMA theirs");
    server.sql("CREATE TABLE theirs.patients (id integer)");
    server.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0");
    let port = server.port();
    let by = |url: &str| PostgresOptions {
        url: Secret::from_text(url.into()).expect("not empty"),
        ..at(&server)
    };
    let place = format!("127.0.0.1:{port}");
    let cases = [
        (
            format!("postgres://guest@{place}/postgres"),
            "`CREATE SCHEMA suki_relay AUTHORIZATION",
        ),
        (
            format!("postgres://nobody@{place}/postgres"),
            "look at the user and password",
        ),
        (
            format!("postgres://postgres@{place}/nowhere"),
            "make the database",
        ),
        (
            format!("postgres://postgres@{place}/ascii"),
            "`ENCODING 'UTF8'`",
        ),
        (
            "postgres://postgres@127.0.0.1:1/postgres".to_owned(),
            "look at the host and port",
        ),
    ];
    for (url, expected) in cases {
        let told = refusal(&by(&url));
        assert!(told.contains(expected), "{url}: {told}");
    }
    let theirs = PostgresOptions {
        schema: "theirs".into(),
        ..at(&server)
    };
    let told = refusal(&theirs);
    assert!(told.contains("not a spool of suki-relay"), "{told}");

    server.sql("CREATE SCHEMA suki_relay AUTHORIZATION guest");
    let guest = by(&format!("postgres://guest@{place}/postgres"));
    Spool::inspect(&guest).expect("its own schema");
    server.sql("ALTER ROLE guest CONNECTION LIMIT 3");
    let told = refusal(&guest);
    assert!(told.contains("this relay needs 4"), "{told}");
    server.sql("ALTER ROLE guest CONNECTION LIMIT 9");
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    drop(Spool::connect(&guest, metrics, |fatal| panic!("{fatal}")).expect("opens"));
    server.sql("CREATE ROLE reader LOGIN");
    let told = refusal(&by(&format!("postgres://reader@{place}/postgres")));
    assert!(told.contains("lacks rights"), "{told}");

    // With a password asked for.
    std::fs::write(
        server.path().join("data/pg_hba.conf"),
        "host all guest all scram-sha-256\nhost all all all trust\n",
    )
    .expect("writes");
    server.sql("SELECT pg_reload_conf()");
    std::thread::sleep(Duration::from_millis(200));
    let told = refusal(&by(&format!("postgres://guest:hunter3@{place}/postgres")));
    assert!(told.contains("look at the user and password"), "{told}");
    Spool::inspect(&by(&format!("postgres://guest:hunter2@{place}/postgres"))).expect("opens");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_of_a_shared_spool_tells_each_discrepancy() {
    let (server, [a]) = relays();
    let dead = submission("dead", &["ehr"]);
    a.accept(dead).await.expect("is kept");
    let key = due(&a, "ehr").await.remove(0).key;
    settle(&a, &key, Settled::DeadLettered).await;
    fill(&a, 2).await;
    let held = quarantined("held", Reason::Stale, Verdict::Accepted);
    a.accept(held).await.expect("is kept");
    assert!(a.audit().await.expect("reads").is_clean());
    let cases = [
        (
            "UPDATE delivery SET state = 1 WHERE seq = 2",
            "by the ledger",
        ),
        ("UPDATE ledger SET accepted = accepted + 1", "by the ledger"),
        (
            "UPDATE notification SET pending = 3 WHERE seq = 2",
            "does not say",
        ),
        (
            "UPDATE notification SET settled_at = 5 WHERE seq = 2",
            "does not say",
        ),
        (
            "UPDATE notification SET quarantine = 'other' WHERE seq = 4",
            "reason",
        ),
        ("DELETE FROM content WHERE seq = 2", "missing"),
        (
            "UPDATE content SET body = 'other' WHERE seq = 2",
            "not what was received",
        ),
        ("DELETE FROM notification WHERE seq = 2", "not there"),
    ];
    server.sql("CREATE SCHEMA aside");
    let tables = ["delivery", "ledger", "notification", "content"];
    for table in tables {
        server.sql(&format!(
            "CREATE TABLE aside.{table} AS TABLE suki_relay.{table}"
        ));
    }
    for (damage, expected) in cases {
        server.sql(&format!("SET search_path = suki_relay; {damage}"));
        let audit = a.audit().await.expect("reads");
        let told: Vec<_> = audit
            .discrepancies
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            told.iter().any(|one| one.contains(expected)),
            "{damage}: {told:?}"
        );
        for table in tables {
            server.sql(&format!(
                "BEGIN; DELETE FROM suki_relay.{table};
                 INSERT INTO suki_relay.{table} OVERRIDING SYSTEM VALUE TABLE aside.{table}; COMMIT"
            ));
        }
        assert!(a.audit().await.expect("reads").is_clean(), "{damage}");
    }
}

#[test]
fn the_printed_migration_makes_what_a_relay_makes() {
    let server = server::Postgres::start("");
    server.sql("CREATE ROLE relay LOGIN");
    server.sql("CREATE SCHEMA printed AUTHORIZATION relay");
    let printed = crate::spool::migration("printed");
    server.sql_by("relay", &printed);
    server.sql("GRANT CREATE ON DATABASE postgres TO relay");
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", server.port());
    let options = |schema: &str| PostgresOptions {
        url: Secret::from_text(url.clone().into()).expect("not empty"),
        schema: schema.into(),
        ..at(&server)
    };
    for schema in ["printed", "made"] {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let opened = Spool::connect(&options(schema), metrics, |fatal| panic!("{fatal}"));
        drop(opened.expect("opens"));
    }
    let columns = |schema: &str| {
        server.sql(&format!(
            "SELECT string_agg(table_name || column_name || data_type, ',' ORDER BY table_name, column_name)
             FROM information_schema.columns WHERE table_schema = '{schema}'"
        ))
    };
    server.sql_by("relay", &crate::spool::migration("alone"));
    assert_eq!(columns("alone"), columns("made"));
    assert!(columns("made").contains("deliveryowner"));
    assert_eq!(columns("printed"), columns("made"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relay_at_a_time_is_at_an_order_and_the_next_goes_on_with_it() {
    let (server, [a, b]) = relays();
    let owing = Owing::Replay(ReplayTo::All);
    let errand = Errand::new(owing, Filter::default(), name("someone"));
    let begun = Note::Begun(errand.clone());
    let by = name("someone");
    let kept = a.office.carry_out(Vec::new(), &by, false, begun).await;
    assert_eq!(kept.expect("is kept"), 0);
    let adopt = async |relay: &Spool| relay.engine.adopt_errand(errand.id).await.expect("reads");
    assert_eq!(adopt(&b).await, None, "it is another's");
    assert_eq!(adopt(&a).await, Some(errand.clone()), "it is its own");

    server.sql("UPDATE suki_relay.relay SET alive_until = 0");
    assert_eq!(adopt(&b).await, Some(errand.clone()));
    let (from, id) = (errand.reached, errand.id);
    let ended = Note::Ended { from, id };
    let refused = a.office.carry_out(Vec::new(), &by, false, ended).await;
    assert!(matches!(refused, Err(CustodyError::Taken)), "{refused:?}");
    assert_eq!(b.errands().await.expect("reads"), [errand]);
}

#[test]
fn a_standby_is_refused_and_of_several_hosts_the_primary_is_taken() {
    let primary = server::Postgres::start_on_small_disk("");
    let standby = server::Postgres::follow(&primary, "");
    let told = refusal(&at(&standby));
    assert!(told.contains("the server is a standby"), "{told}");
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", standby.port(), primary.port());
    let url = format!("postgres://postgres@{hosts}/postgres");
    let both = PostgresOptions {
        url: Secret::from_text(url.into()).expect("not empty"),
        ..at(&primary)
    };
    Spool::inspect(&both).expect("takes the primary");
}
