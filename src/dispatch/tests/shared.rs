//! Dispatch beside another relay, on a spool that they share.

use super::*;
use crate::spool::PostgresOptions;
use crate::spool::tests::{at, server as postgres};

/// A relay's spool on this server.
fn relay(server: &postgres::Postgres, lease: Duration) -> Spool {
    let options = PostgresOptions {
        lease,
        ..at(server)
    };
    let metrics = spool::Metrics::new(&Registry::new()).unwrap();
    Spool::connect(&options, metrics, |fatal| panic!("{fatal}")).unwrap()
}

/// How many this relay has in its hands then, of those that are due.
async fn claims(spool: &Spool) -> usize {
    let page = spool.due(&name("ehr"), Timestamp::now(), 100).await;
    page.map_or(0, |page| page.deliveries.len())
}

async fn owe_some(spool: &Spool, count: usize) {
    for n in 0..count {
        owe(spool, &n.to_string(), &["ehr"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_given_back_at_once_is_given_back_later() {
    let mut postgres = postgres::Postgres::start("");
    let lease = Duration::from_mins(10);
    let spool = relay(&postgres, lease);
    owe_some(&spool, 6).await;
    let server = server(0).await;
    server.status.store(503, SeqCst);
    let mut ehr = target("ehr", &server.url, 1);
    ehr.policy.breaker = Breaker {
        failures: 1,
        probe_after: Duration::from_mins(10),
        probe_max: Duration::from_mins(10),
    };
    let rig = Rig::on(spool, vec![ehr], &[]);
    eventually("it begins", async || server.waiting.load(SeqCst) == 1).await;
    // This commit takes the claims along: a crash would take them back otherwise.
    owe(&rig.spool, "another", &["audit"]).await;
    postgres.kill();
    server.gate.add_permits(1);
    eventually("its breaker opens", async || rig.shown(BREAKER) > 0.5).await;
    postgres.run();
    let other = relay(&postgres, lease);
    eventually("another has them", async || claims(&other).await == 5).await;
}

/// Its slots are full all the while: it looks at nothing, and finds its lease as it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_over_unseen_is_not_begun() {
    let postgres = postgres::Postgres::start("");
    let spool = relay(&postgres, Duration::from_secs(3));
    owe_some(&spool, 4).await;
    let server = server(0).await;
    let rig = Rig::on(spool, vec![target("ehr", &server.url, 1)], &[]);
    eventually("it begins", async || server.waiting.load(SeqCst) == 1).await;
    let own = postgres.sql("SELECT id FROM suki_relay.relay");
    let other = relay(&postgres, Duration::from_mins(10));
    eventually("another takes all over", async || {
        let lapse = "UPDATE suki_relay.relay SET alive_until = 0 WHERE id =";
        postgres.sql(&format!("{lapse} {own}"));
        claims(&other).await == 4
    })
    .await;
    let renewed = || {
        let alive = "SELECT alive_until FROM suki_relay.relay WHERE id =";
        postgres.sql(&format!("{alive} {own}"))
    };
    for _ in 0..2 {
        let before = renewed();
        eventually("its lease is renewed", async || renewed() != before).await;
    }
    owe(&rig.spool, "new", &["ehr"]).await;
    server.gate.add_permits(10);
    eventually("the new one arrives", async || {
        rig.delivered("ehr").await == 1
    })
    .await;
    assert_eq!(server.received().len(), 2);
}
