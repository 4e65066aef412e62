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

/// By a role that owns its schema, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_brought_from_one_version_to_the_next_once() {
    let server = server::Postgres::start("");
    server.sql("CREATE ROLE relay LOGIN");
    server.sql("CREATE SCHEMA suki_relay AUTHORIZATION relay");
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", server.port());
    let options = PostgresOptions {
        url: Secret::from_text(url.into()).expect("not empty"),
        ..at(&server)
    };
    let runtime = tokio::runtime::Handle::current();
    let address = Address::new(&options, runtime).expect("a URL");
    prepare(&address, &options, Absent::Make)
        .await
        .expect("makes them");

    let steps = [STEPS[0], "ALTER TABLE relay ADD COLUMN note text;"];
    let upgrade = async || {
        let mut session = address.connect(&Role::Writer).await.expect("connects");
        migrate(&mut session, &options, &steps).await
    };
    // A second one that did the step again would fail.
    let upgraded = tokio::join!(upgrade(), upgrade(), upgrade());
    assert!(upgraded.0.is_ok() && upgraded.1.is_ok() && upgraded.2.is_ok());
    assert_eq!(server.sql("SELECT version FROM suki_relay.format"), "2");
    assert_eq!(server.sql("SELECT count(note) FROM suki_relay.relay"), "0");
    let older = prepare(&address, &options, Absent::Make).await;
    let older = older.expect_err("refused").to_string();
    assert!(older.contains("a newer suki-relay (version 2"), "{older}");
}
