//! Who has a place when there are few.

use std::collections::VecDeque;

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
async fn what_is_sent_again_proves_nothing() {
    let relay = with_places(4, None).await;
    let request = signed("/suki", SUCCESS);
    let mut good = relay.connect().await;
    for _ in 0..2 {
        good.send(&request).await;
        assert_eq!(good.answer().await.status, 200);
    }
    let mut duplicate = relay.connect().await;
    duplicate.send(&request).await;
    assert_eq!(duplicate.answer().await.status, 200);
    let mut stale = relay.connect().await;
    stale.send(signed_at("/suki", "1", SUCCESS)).await;
    assert_eq!(stale.answer().await.status, 200);
    let mut convert = relay.connect().await;
    convert.send(&request).await;
    assert_eq!(convert.answer().await.status, 200);
    prove(&mut convert).await;

    let mut newcomer = relay.connect().await;
    prove(&mut newcomer).await;
    duplicate.ended().await;
    prove(&mut relay.connect().await).await;
    stale.ended().await;
    prove(&mut good).await;
    prove(&mut convert).await;
    assert!(relay.shows(r#"connections_cut_total{reason="full"} 2"#));
}

#[tokio::test]
async fn a_repeated_request_is_not_cut_while_it_is_in_hand() {
    let relay = with_places(2, None).await;
    let disk = Held::disk_of(&relay);
    let request = signed("/suki", SUCCESS);
    let (mut first, mut second) = (relay.connect().await, relay.connect().await);
    for (wire, count) in [(&mut first, 1), (&mut second, 2)] {
        wire.send(&request).await;
        let verified = r#"signature_matched_total{secret="current",source="suki"}"#;
        eventually(async || relay.shows(&format!("{verified} {count}"))).await;
    }
    let third = relay.connect();
    tokio::pin!(third);
    assert!(timeout(SOON * 3, &mut third).await.is_err(), "it must wait");
    drop(disk);
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(second.answer().await.status, 200);
    prove(&mut third.await).await;
    second.ended().await;
    relay.assert_counted("duplicate", 1);
}

/// A connection on which what the relay says comes so late.
async fn from_far_away(relay: &Relay, late: Duration) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("an address"));
    let (near, far) = tokio::join!(near, listener.accept());
    let (mut from_near, mut to_near) = far.expect("accepted").0.into_split();
    let (mut from_relay, mut to_relay) = relay.tcp().await.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_relay).await });
    tokio::spawn(async move {
        let _ = from_relay.peek(&mut [0]).await;
        tokio::time::sleep(late).await; // how far away it is
        tokio::io::copy(&mut from_relay, &mut to_near).await
    });
    near.expect("connects")
}

#[tokio::test]
async fn in_a_flood_of_connects_a_handshake_from_far_away_has_its_time() {
    let relay = with_places(8, None).await;
    let address = relay.address;
    let flood = tokio::spawn(async move {
        let mut held = VecDeque::new();
        loop {
            held.push_back(TcpStream::connect(address).await);
            if held.len() > 400 {
                held.pop_front();
            }
            tokio::time::sleep(Duration::from_millis(2)).await; // so many a second are the flood
        }
    });
    let full = r#"connections_cut_total{reason="full"} 0"#;
    eventually(async || !relay.shows(full)).await;
    // A busy machine may take all the time that one has.
    eventually(async || {
        let tcp = from_far_away(&relay, SOON).await;
        let Some(mut wire) = relay.try_connect_over(tcp, b"http/1.1").await else {
            return false;
        };
        let request = signed("/suki", SUCCESS);
        let sent = wire.tls.write_all(request.as_bytes());
        sent.await.is_ok() && wire.tls.read(&mut [0; 1]).await.is_ok_and(|read| read > 0)
    })
    .await;
    flood.abort();
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
