//! Servers too old, and tables of one version after the other.

use super::*;
use crate::secret::Secret;
use crate::spool::tests::{at, server};

#[test]
fn a_server_too_old_is_refused_with_its_version() {
    for version in [130_000, 150_018, 180_001] {
        assert!(recent(version).is_ok(), "{version}");
    }
    for (version, named) in [(120_022, "PostgreSQL 12;"), (90_624, "PostgreSQL 9;")] {
        let refused = recent(version).expect_err("too old").to_string();
        assert!(refused.contains(named), "{refused}");
        assert!(refused.contains("upgrade it to 13 or newer"), "{refused}");
    }
}

const NEXT: &str = "ALTER TABLE relay ADD COLUMN note text;";

/// By a role that owns its schema, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_brought_from_one_version_to_the_next_once() {
    let server = server::Postgres::start("");
    server.sql("CREATE ROLE relay LOGIN");
    server.sql("CREATE SCHEMA suki_relay AUTHORIZATION relay");
    let (address, options) = by("relay", &server);
    drop(
        writer(&address, &options, Tables::Make)
            .await
            .expect("makes them"),
    );

    let steps = [STEPS[0], NEXT];
    let upgrade = async || {
        let mut session = address.connect(&Role::Writer).await.expect("connects");
        migrate(&mut session, &options, &steps).await
    };
    // A second one that did the step again would fail.
    let upgraded = tokio::join!(upgrade(), upgrade(), upgrade());
    assert!(upgraded.0.is_ok() && upgraded.1.is_ok() && upgraded.2.is_ok());
    assert_eq!(server.sql("SELECT version FROM suki_relay.format"), "2");
    assert_eq!(server.sql("SELECT count(note) FROM suki_relay.relay"), "0");
    let older = writer(&address, &options, Tables::Make).await;
    let older = older.err().expect("refused").to_string();
    assert!(older.contains("a newer suki-relay (version 2"), "{older}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_leads_from_any_version_and_away_from_none() {
    let server = server::Postgres::start("");
    for from in 0..=2 {
        let schema = format!("from_{from}");
        let all = [STEPS[0], NEXT];
        if from > 0 {
            server.sql(&script(&schema, &all[..from]));
            server.sql(&format!(
                "INSERT INTO {schema}.relay (id, alive_until) VALUES (1, 2)"
            ));
        }
        for _ in 0..2 {
            server.sql(&script(&schema, &all));
        }
        let found = server.sql(&format!(
            "SELECT version, (SELECT count(*) FROM {schema}.relay WHERE note IS NULL)
             FROM {schema}.format"
        ));
        assert_eq!(found, format!("2|{}", from.min(1)));
    }
    server.sql("CREATE SCHEMA theirs");
    server.sql("CREATE TABLE theirs.patients (id integer)");
    let (address, _) = by("postgres", &server);
    let session = address.connect(&Role::Writer).await.expect("connects");
    for (schema, refusal) in [("from_2", "P0001"), ("theirs", "42P01")] {
        let refused = session.batch(&script(schema, &STEPS)).await;
        let refused = refused.expect_err("refused");
        assert_eq!(refused.code().expect("a code").code(), refusal, "{schema}");
        session.batch("ROLLBACK").await.expect("is over");
    }
    assert_eq!(server.sql("SELECT version FROM from_2.format"), "2");
}

fn by(role: &str, server: &server::Postgres) -> (Address, PostgresOptions) {
    let url = format!("postgres://{role}@127.0.0.1:{}/postgres", server.port());
    let options = PostgresOptions {
        url: Secret::from_text(url.into()).expect("not empty"),
        ..at(server)
    };
    let runtime = tokio::runtime::Handle::current();
    (Address::new(&options, runtime).expect("a URL"), options)
}
