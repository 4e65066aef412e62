//! What the server does for each statement that relays ask of it, however long the backlog: told by itself.

use super::*;

/// So long that what reads all of it stands out; `PLANS_BACKLOG` asks for a longer one.
const BACKLOG: u64 = 100_000;
const RELAYS: usize = 8;

/// Each plan goes to the server's log, with the rows that it really met.
const TOLD: &str = "session_preload_libraries = auto_explain
auto_explain.log_min_duration = 0
auto_explain.log_analyze = on
auto_explain.log_timing = off
";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn plans_stay_flat_with_a_long_backlog_and_eight_relays() {
    let server = server::Postgres::start(TOLD);
    let open = || {
        let metrics = Metrics::new(&Registry::new()).expect("new names");
        let spool = Spool::connect(&at(&server), metrics, |fatal| panic!("{fatal}"));
        spool.expect("opens")
    };
    let relays: [Spool; RELAYS] = std::array::from_fn(|_| open());
    let first = relays[0].accept(submission("first", &["ehr"])).await;
    assert_eq!(first, Ok(Kept::Now));
    let backlog = backlog();
    owe_many(&server, backlog);
    let begun = server.log().len();

    let mut work = tokio::task::JoinSet::new();
    for (n, relay) in relays.iter().cloned().enumerate() {
        work.spawn(async move {
            let ehr = name("ehr");
            for round in 0..4 {
                let body = format!("{n} {round}");
                let kept = relay.accept(submission(&body, &["ehr", "audit"])).await;
                assert_eq!(kept, Ok(Kept::Now));
                let again = relay.accept(submission(&body, &["ehr", "audit"])).await;
                assert_eq!(again, Ok(Kept::Before(Verdict::Accepted)));
                let page = relay.due(&ehr, NOW, 40).await.expect("reads");
                assert_eq!(page.deliveries.len(), 40);
                for due in &page.deliveries[..30] {
                    settle(&relay, &due.key, Settled::Delivered).await;
                }
                relay.due(&name("audit"), NOW, 100).await.expect("reads");
                let left: Vec<_> = page.deliveries[30..].iter().collect();
                let left: Vec<_> = left.iter().map(|due| due.key.sequence).collect();
                relay.give_back(&ehr, &left).await.expect("is written");
                let since = NOW.minus(Duration::from_secs(1));
                let fresh = relay.fresh(&ehr, since, NOW, 5).await.expect("reads");
                assert_eq!(fresh.deliveries.len(), 5);
                assert!(relay.owes(&ehr).await.expect("reads"));
                let counts = relay.counts().await.expect("reads");
                assert!(counts.notifications > backlog);
            }
        });
    }
    work.join_all().await;
    drop(relays);

    let log = server.log();
    let plans: Vec<&str> = log[begun..].split("plan:\n").skip(1).collect();
    assert!(plans.len() > 500, "only {} plans were told", plans.len());
    let asked = |what: &str| plans.iter().filter(|plan| plan.contains(what)).count();
    for what in [
        "WITH next",
        "INSERT INTO notification",
        "INSERT INTO ledger",
        "min(due_at)",
    ] {
        assert!(asked(what) >= RELAYS, "{what}: {}", asked(what));
    }
    for plan in plans {
        for table in ["delivery", "notification", "content", "name"] {
            let reads_all = format!("Seq Scan on {table}");
            assert!(!plan.contains(&reads_all), "{plan}");
        }
        // Once a minute the ledger is held against all rows, which is what it is for.
        let most = rows(plan).fold(0.0, f64::max);
        assert!(
            most < 5_000.0 || plan.contains("WITH counted"),
            "{most}: {plan}"
        );
    }
}

fn backlog() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob")]
    let asked = std::env::var("PLANS_BACKLOG").ok();
    asked.map_or(BACKLOG, |asked| asked.parse().expect("a number"))
}

/// Puts the backlog in behind the relays' backs: as many notifications, each owed to one target, due before
/// what they accept.
fn owe_many(server: &server::Postgres, backlog: u64) {
    server.sql(&format!(
        "SET search_path = suki_relay; SET auto_explain.log_min_duration = -1;
         INSERT INTO notification (source, digest, signed_at, verdict, received_at, pending, dead)
         SELECT source, sha256(convert_to('1:' || n, 'UTF8')), 1, verdict, received_at - n, 1, 0
         FROM notification, generate_series(1, {backlog}) AS n;
         INSERT INTO content
         SELECT m.seq, c.secret, '1', c.signature, NULL, convert_to(n::text, 'UTF8')
         FROM content AS c, generate_series(1, {backlog}) AS n
         JOIN notification AS m ON m.digest = sha256(convert_to('1:' || n, 'UTF8'));
         INSERT INTO delivery (seq, target, state, attempts, due_at)
         SELECT n.seq, target, 0, 0, received_at
         FROM notification AS n, delivery AS d WHERE n.seq <> d.seq;
         UPDATE ledger SET accepted = accepted + {backlog} WHERE accepted = 1;
         UPDATE tally SET count = count + {backlog} WHERE kind = 0 AND count = 1;
         ANALYZE"
    ));
    assert_eq!(
        server.sql("SELECT count(*) FROM suki_relay.delivery WHERE state = 0"),
        (backlog + 1).to_string()
    );
}

/// Of each node, those that it gave, and those that it looked at in vain.
fn rows(plan: &str) -> impl Iterator<Item = f64> {
    let number = |text: &str| {
        let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next();
        digits.and_then(|digits| digits.parse().ok())
    };
    let lines = plan.lines().flat_map(move |line| {
        let gave = line.split_once("(actual rows=").map(|found| found.1);
        let passed = line
            .split_once("Rows Removed by Filter: ")
            .map(|found| found.1);
        [gave, passed]
    });
    lines.flatten().filter_map(number)
}
