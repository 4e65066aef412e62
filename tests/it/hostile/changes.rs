//! Rows C05 to C07, C10 and C11: what may be changed while a relay runs, and what a change means for what waits.

use std::collections::BTreeSet;
use std::fs;

use super::trial::{Trial, to};
use crate::harness::{Relay, Setup, Target, Watch, eventually};

/// What is out of bounds, or of no use, by a change of the good one.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "C05",
        "name: ehr,",
        "name: ehr, timeout: 5,",
        "targets[0].timeout: no unit",
    ),
    (
        "C05",
        "name: ehr,",
        "name: ehr, timeout: -5s,",
        "`-5s` is no duration",
    ),
    (
        "C05",
        "name: ehr,",
        "name: ehr, timeout: 0s,",
        "0s is out of bounds",
    ),
    (
        "C05",
        "name: ehr,",
        "name: ehr, timeout: 1000000000h,",
        "out of bounds",
    ),
    (
        "C05",
        "tls: {",
        "limits: { body: 10GB }\n  tls: {",
        "is out of bounds; write 1KiB to 1GiB",
    ),
    (
        "C06",
        "targets:",
        "targets: []\nno:",
        "targets: an empty list",
    ),
    (
        "C06",
        "name: unused",
        "name: ehr",
        "targets[1].name: used before",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://canary:canary@127.0.0.1:9/",
        "a user or password in a URL",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://169.254.169.254/",
        "link-local addresses",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://169.254.1.2/",
        "link-local addresses",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://[::ffff:169.254.169.254]/",
        "link-local addresses",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://2852039166/",
        "a number in place of a host",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://0xa9fea9fe/",
        "a number in place of a host",
    ),
    (
        "C07",
        "http://127.0.0.1:9/",
        "http://127.0.0.1:0/",
        "no port that can be reached",
    ),
    ("C07", "http://127.0.0.1:9/", "file:///etc/passwd", "no URL"),
    ("C10", "path: spool", "path: elsewhere", "spool.disk.path"),
    (
        "C10",
        "spool: { disk: { path: spool } }",
        "spool: { keep_delivered: 80h, disk: { path: spool } }",
        "spool.keep_delivered",
    ),
    (
        "C10",
        "tls: {",
        "limits: { body: 1MiB }\n  tls: {",
        "listen.limits.body",
    ),
    (
        "C10",
        "private_key: tls.key",
        "private_key: tls.key, min_version: \"1.3\"",
        "listen.tls.min_version",
    ),
    (
        "C10",
        "admin: { address: 127.0.0.1:0",
        "admin: { address: 127.0.0.2:0",
        "admin.address",
    ),
    ("C10", "deadline: 5s", "deadline: 6s", "drain.deadline"),
    (
        "C10",
        "listen:\n  address: 127.0.0.1:0",
        "listen:\n  address: 127.0.0.1:8",
        "listen.address",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_out_of_bounds_is_refused_and_a_doubtful_one_taken_and_told() {
    let target = Target::accepting().await;
    let mut trial = Trial::begin(Setup::new(&to(&target)), &[]).await;
    let good = trial.text();
    for (id, from, to, words) in REFUSED {
        assert!(good.contains(from), "{id}: {from}");
        trial.write(good.replacen(from, to, 1));
        let row = format!("{id}: {to}");
        if *id == "C10" {
            let words = ["only a restart can change ", words];
            trial.keeps_the_old(&row, &words).await;
        } else {
            trial.refuses(&row, &[words]).await;
        }
    }
    let same = format!("{}?canary-query", target.url());
    for (id, url, words) in [
        ("C06", same.as_str(), "the same URL as the target"),
        ("C07", "http://ehr.example/", "clear text"),
    ] {
        trial.write(good.replace("http://127.0.0.1:9/", url));
        trial.takes(&format!("{id}: {words}")).await;
        trial.has_warned(id, words).await;
    }
    trial.end(&target).await;
}

async fn forbidden(relay: &Relay) -> f64 {
    let series = "suki_relay_attempts_total{outcome=\"forbidden_address\",target=\"ehr\"}";
    relay.metric(series).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_name_leads_is_looked_at_for_each_connection() {
    let target = Target::accepting().await;
    let rest = format!(
        "
targets:
  - name: ehr
    http: {{ url: \"http://ehr.test:{}/in?canary-query\", allow_addresses: [127.0.0.0/8] }}
    retry: {{ initial: 10ms, max: 20ms }}
    breaker: {{ failures: 1000 }}
routes: [{{ name: all, to: [ehr] }}]
",
        target.address.port()
    );
    let setup = Setup::new(&rest);
    let hosts = setup.path().join("hosts");
    let lead_to = |address: &str| {
        fs::write(&hosts, format!("127.0.0.1 localhost\n{address} ehr.test\n")).expect("writable");
    };
    lead_to("127.0.0.1");
    let relay = setup.start_with_hosts(&hosts);
    let mut watch = Watch::begin(&relay);
    let mut owed = BTreeSet::from([watch.goes_on(&relay, "C07: a good one").await]);
    eventually("C07: it is delivered", async || target.count() == 1).await;
    watch = Watch::begin(&relay);
    let elsewhere = [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "10.0.0.1",
    ];
    for (n, address) in elsewhere.into_iter().enumerate() {
        lead_to(address);
        // Changed, it has new connections.
        let text = Setup::text(&rest).replace("max: 20ms", &format!("max: {}ms", 21 + n));
        fs::write(setup.config(), text).expect("writable");
        let (_, answer) = relay.operator("POST", "/v1/reload", "").await;
        assert_ne!(answer["result"], "refused", "C07: {answer}");
        let (before, taken) = (forbidden(&relay).await, target.count());
        owed.insert(watch.goes_on(&relay, &format!("C07: {address}")).await);
        eventually(&format!("C07: {address} is forbidden"), async || {
            forbidden(&relay).await > before + 1.5
        })
        .await;
        assert_eq!(target.count(), taken, "C07: {address}");
    }
    lead_to("127.0.0.1");
    eventually("C07: all is delivered", async || {
        target.count() == owed.len()
    })
    .await;
    assert_eq!(target.taken::<BTreeSet<_>>(), owed, "C07");
    watch.goes_on(&relay, "C07: all of it").await;
}

/// The first is broken, the second takes everything.
fn both(name: &str, patience: &str, to: &str, ehr: &Target, audit: &Target) -> String {
    let retry = "initial: 50ms, max: 100ms";
    let rest = format!(
        "
targets:
  - {{ name: {name}, http: {{ url: \"{}\" }}, breaker: {{ failures: 1000 }}, retry: {{ {retry}, give_up_after: {patience} }} }}
  - {{ name: audit, http: {{ url: \"{}\" }} }}
routes: [{{ name: all, to: [{to}] }}]
",
        ehr.url(),
        audit.url()
    );
    Setup::text(&rest)
}

async fn shows(relay: &Relay, gauge: &str, count: usize) {
    eventually(&format!("C11: {gauge} is {count}"), async || {
        let series = format!("suki_relay_{gauge}{{target=\"ehr\"}}");
        (relay.metric(&series).await - count as f64).abs() < 0.1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_goes_changes_its_name_or_its_patience_loses_nothing_that_waits() {
    let (ehr, audit) = (Target::broken().await, Target::accepting().await);
    let version =
        |name: &str, give_up_after: &str, to: &str| both(name, give_up_after, to, &ehr, &audit);
    let good = version("ehr", "72h", "ehr, audit");
    let setup = Setup::new("");
    fs::write(setup.config(), &good).expect("writable");
    let mut trial = Trial::begin(setup, &[]).await;
    let mut waits = trial.owed.clone();
    shows(&trial.relay, "deliveries_pending", waits.len()).await;

    let without: String = good
        .replace("ehr, audit", "audit")
        .lines()
        .filter(|line| !line.contains("name: ehr"))
        .map(|line| format!("{line}\n"))
        .collect();
    for (row, text) in [
        ("C11: removed", without),
        ("C11: renamed", version("his", "72h", "his, audit")),
    ] {
        trial.write(text);
        trial.takes(row).await;
        shows(&trial.relay, "target_missing", 1).await;
        shows(&trial.relay, "deliveries_pending", waits.len()).await;
    }
    let held = "deliveries are held: the config names no such target";
    trial.has_warned("C11", held).await;

    trial.write(&good);
    let before = trial.owed.clone();
    trial.takes("C11: back").await;
    waits.extend(trial.owed.difference(&before).cloned());
    shows(&trial.relay, "target_missing", 0).await;
    shows(&trial.relay, "deliveries_pending", waits.len()).await;

    trial.write(version("ehr", "1s", "audit"));
    trial.takes("C11: shorter than what waits is old").await;
    shows(&trial.relay, "dead_letters", waits.len()).await;
    ehr.mend();
    let (status, answer) = trial
        .relay
        .operator("POST", "/v1/dead-letters/replay", "{}")
        .await;
    assert_eq!(
        (status, &answer["done"]),
        (200, &waits.len().into()),
        "C11: {answer}"
    );
    eventually("C11: all that waited arrives", async || {
        ehr.taken::<BTreeSet<_>>() == waits
    })
    .await;
    trial.goes_on("C11").await;
    trial.end(&audit).await;
}
