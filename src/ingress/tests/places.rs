//! Who has a place when there are few.

use super::*;

const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

async fn with_places(connections: usize, connections_per_peer: Option<usize>) -> Relay {
    let limits = Limits {
        connections,
        connections_per_peer,
        ..limits()
    };
    Relay::start(limits).await
}

async fn prove(wire: &mut Wire) {
    wire.send(signed("/suki", SUCCESS)).await;
    assert_eq!(wire.answer().await.status, 200);
}

/// The head of a good request, and what is to follow once it is invited.
fn in_two(request: &str) -> (String, &str) {
    let (head, body) = request.split_once("\r\n\r\n").expect("a body");
    (format!("{head}\r\nexpect: 100-continue\r\n\r\n"), body)
}

#[tokio::test]
async fn past_the_limit_a_client_waits_until_another_goes() {
    let relay = with_places(2, None).await;
    let (mut first, mut second) = (relay.connect().await, relay.connect().await);
    prove(&mut first).await;
    prove(&mut second).await;
    let third = relay.connect();
    tokio::pin!(third);
    assert!(timeout(SOON, &mut third).await.is_err(), "it must wait");
    assert!(relay.shows("connections 2"));
    drop(first);
    prove(&mut third.await).await;
    prove(&mut second).await;
    assert!(relay.shows(r#"connections_cut_total{reason="full"} 0"#));
}

/// Idle, before their handshake, inside a head, inside a body, and after a forged request.
#[tokio::test]
async fn whoever_only_holds_connections_makes_room_the_oldest_first() {
    let relay = with_places(6, None).await;
    let mut good = relay.connect().await;
    prove(&mut good).await;
    let mut mute = relay.tcp().await;
    let mut idle = relay.connect().await;
    let mut slow_head = relay.connect().await;
    slow_head.send("POST /suki HTTP/1.1\r\nx: ").await;
    let mut slow_body = relay.connect().await;
    let request = signed("/suki", SUCCESS);
    let (head, _) = in_two(&request);
    slow_body.send(head).await;
    assert_eq!(slow_body.answer().await.status, 100, "in hand");
    let mut forger = relay.connect().await;
    let bad = signed("/suki", SUCCESS).replace("success", "failure");
    forger.send(bad).await;
    assert_eq!(forger.answer().await.status, 401);

    for n in 1..=5 {
        let mut newcomer = relay.connect().await;
        prove(&mut newcomer).await;
        let cut = format!(r#"connections_cut_total{{reason="full"}} {n}"#);
        assert!(relay.shows(&cut), "{cut}");
        match n {
            1 => assert_eq!(within(mute.read(&mut [0; 1])).await.expect("an end"), 0),
            2 => idle.ended().await,
            3 => slow_head.ended().await,
            4 => slow_body.ended().await,
            _ => forger.ended().await,
        }
        // It stays, and is proven: there is one place less to make.
        std::mem::forget(newcomer);
    }
    prove(&mut good).await;
}

#[tokio::test]
async fn a_flood_of_idle_connections_keeps_nobody_out_and_cuts_nobody_proven() {
    let relay = with_places(8, None).await;
    for version in ["http/1.1", "h2"] {
        let mut proven = relay.connect().await;
        prove(&mut proven).await;
        let request = signed("/suki", FAILURE);
        let (head, body) = in_two(&request);
        proven.send(head).await;
        assert_eq!(proven.answer().await.status, 100, "in hand");
        let mut flood = Vec::new();
        for _ in 0..40 {
            flood.push(relay.connect_as(version.as_bytes()).await);
        }
        prove(&mut relay.connect().await).await;
        proven.send(body).await;
        assert_eq!(proven.answer().await.status, 200);
        prove(&mut proven).await;
    }
}

#[tokio::test]
async fn a_peer_has_its_share_and_no_more() {
    let relay = with_places(8, Some(2)).await;
    let mut oldest = relay.connect_from(HERE).await;
    let mut second = relay.connect_from(HERE).await;
    let mut other = relay.connect_from(THERE).await;
    let mut third = relay.connect_from(HERE).await;
    oldest.ended().await;
    assert!(relay.shows(r#"connections_cut_total{reason="share"} 1"#));
    prove(&mut second).await;
    prove(&mut third).await;
    let mut refused = relay.tcp().await;
    assert_eq!(within(refused.read(&mut [0; 1])).await.expect("an end"), 0);
    assert!(relay.shows(r#"connections_cut_total{reason="refused"} 1"#));
    prove(&mut other).await;
    prove(&mut relay.connect_from(THERE).await).await;

    drop(second);
    eventually(async || relay.shows("connections 2")).await;
    prove(&mut relay.connect_from(HERE).await).await;
    assert!(relay.shows(r#"connections_cut_total{reason="refused"} 1"#));
}
