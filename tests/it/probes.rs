//! What the probes say on bad days, and the admin address under fire.

use std::net::TcpStream;

use crate::harness::{Relay, Setup, Target, Watch, eventually, get};

const BODY: &str = r#"{"status":"success","session_id":"canary-s-1"}"#;

fn to(url: &str) -> String {
    format!(
        "\ntargets: [{{ name: ehr, http: {{ url: \"{url}\" }} }}]\n\
         routes: [{{ name: all, to: [ehr] }}]\n"
    )
}

const DEAD: &str = "http://127.0.0.1:9/";

async fn all_is_well(relay: &Relay) {
    for path in ["/startupz", "/readyz", "/livez"] {
        assert_eq!(relay.admin(path).await, (200, "ok\n".to_owned()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_not_ready_with_its_reason_and_still_accepts() {
    let setup = Setup::new(&to(DEAD));
    setup.reword("delay: 0s, deadline: 5s", "delay: 60s, deadline: 90s");
    let relay = setup.start();
    all_is_well(&relay).await;
    relay.signal("TERM");
    eventually("it is not ready", async || {
        relay.admin("/readyz").await.0 == 503
    })
    .await;
    let (_, reason) = relay.admin("/readyz").await;
    assert!(reason.starts_with("draining: "), "{reason}");
    assert_eq!(relay.admin("/livez").await.0, 200);
    assert_eq!(relay.admin("/startupz").await.0, 200);
    let answer = relay.sender().post(BODY).await;
    assert_eq!(answer.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_target_changes_no_probe() {
    let setup = Setup::new(&to(DEAD));
    let relay = setup.start();
    assert_eq!(
        relay.sender().post(BODY).await.expect("an answer").status,
        200
    );
    let failed = "suki_relay_attempts_total{outcome=\"connect\",target=\"ehr\"}";
    eventually("an attempt fails", async || {
        relay.metric(failed).await > 0.5
    })
    .await;
    all_is_well(&relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_changes_no_probe() {
    let setup = Setup::new(&to(DEAD));
    setup.reword("path: spool", "path: spool, capacity: 1MiB");
    setup.reword("tls: {", "limits: { body: 256KiB }\n  tls: {");
    let relay = setup.start();
    let sender = relay.sender();
    let body = BODY.replace("canary-s-1", &"s".repeat(200 << 10));
    let mut refused = false;
    for _ in 0..20 {
        let status = sender.post(body.clone()).await.expect("an answer").status;
        refused |= status == 500;
    }
    assert!(refused, "the spool never filled");
    all_is_well(&relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapers_that_hammer_hang_or_never_read_cost_the_sender_nothing() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target.url()));
    let relay = setup.start_at("trace");
    let sender = relay.sender();
    assert_eq!(sender.post(BODY).await.expect("an answer").status, 200);
    assert_eq!(relay.admin("/metrics").await.0, 200);
    let mut watch = Watch::begin(&relay);
    let deaf: Vec<_> = (0..50).map(|_| ask_and_never_read(&relay)).collect();
    let mute: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(relay.admin_address).expect("connected"))
        .collect();
    let address = relay.admin_address;
    let scrapers: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..100 {
                    assert_eq!(get(address, "/metrics").await.0, 200);
                }
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(sender.post(BODY).await.expect("an answer").status, 200);
    }
    for scraper in scrapers {
        scraper.await.expect("every scrape is answered");
    }
    watch
        .goes_on(&relay, "O02: scrapers, a thousand times")
        .await;
    drop((deaf, mute));
    watch.goes_on(&relay, "O02: scrapers that have left").await;
}

/// Open for as long as it is kept.
fn ask_and_never_read(relay: &Relay) -> TcpStream {
    use std::io::Write;
    let mut stream = TcpStream::connect(relay.admin_address).expect("connected");
    let request = b"GET /metrics HTTP/1.1\r\nhost: relay\r\n\r\n";
    stream.write_all(request).expect("written");
    stream
}
