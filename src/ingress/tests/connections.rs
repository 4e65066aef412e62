//! The life of a connection: who may have one, and when it ends.

use super::*;

#[tokio::test]
async fn a_client_that_says_nothing_before_tls_is_gone_at_its_timeout() {
    let relay = Relay::start(Limits {
        handshake_timeout: SOON,
        ..limits()
    })
    .await;
    let begun = Instant::now();
    let mut tcp = relay.tcp().await;
    assert_eq!(within(tcp.read(&mut [0; 1])).await.expect("an end"), 0);
    assert!(begun.elapsed() >= SOON);
    assert!(relay.shows(r#"tls_handshake_failures_total{reason="timeout"} 1"#));
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_is_refused() {
    let relay = Relay::start(limits()).await;
    let mut tcp = relay.tcp().await;
    within(tcp.write_all(b"GET / HTTP/1.1\r\n\r\n"))
        .await
        .expect("writes");
    let _ = within(tcp.read_to_end(&mut Vec::new())).await;
    assert!(relay.shows(r#"tls_handshake_failures_total{reason="protocol"} 1"#));
}

#[tokio::test]
async fn a_client_that_says_nothing_after_tls_is_gone_at_its_timeout() {
    let relay = Relay::start(Limits {
        idle_timeout: SOON,
        header_timeout: SOON,
        ..limits()
    })
    .await;
    for alpn in ["http/1.1", "h2"] {
        let begun = Instant::now();
        let mut wire = relay.connect_as(alpn.as_bytes()).await;
        // The HTTP/2 server may say its own preface first.
        let _ = within(wire.tls.read_to_end(&mut Vec::new())).await;
        assert!(begun.elapsed() >= SOON, "{alpn}");
    }
}

#[tokio::test]
async fn a_head_that_dribbles_is_cut_at_its_timeout() {
    let relay = Relay::start(Limits {
        header_timeout: SOON,
        ..limits()
    })
    .await;
    let mut wire = relay.connect().await;
    // The second head counts as much as the first.
    wire.send(signed("/suki", SUCCESS)).await;
    assert_eq!(wire.answer().await.status, 200);
    let begun = Instant::now();
    wire.send("POST /suki HTTP/1.1\r\nx-long: ").await;
    let (mut reader, mut writer) = tokio::io::split(wire.tls);
    let dribble = async {
        let mut every = tokio::time::interval(SOON / 10);
        loop {
            every.tick().await;
            if writer.write_all(b"x").await.is_err() || writer.flush().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let ended = async {
        let _ = reader.read_to_end(&mut Vec::new()).await;
    };
    within(async {
        tokio::select! {
            () = ended => {}
            () = dribble => {}
        }
    })
    .await;
    assert!(begun.elapsed() >= SOON);
}

#[tokio::test]
async fn a_connection_between_requests_is_not_held_to_the_header_timeout() {
    let relay = Relay::start(Limits {
        header_timeout: SOON,
        ..limits()
    })
    .await;
    let mut wire = relay.connect().await;
    for _ in 0..2 {
        wire.send(signed("/suki", SUCCESS)).await;
        assert_eq!(wire.answer().await.status, 200);
        tokio::time::sleep(SOON * 2).await; // the time itself is what is tested
    }
}

#[tokio::test]
async fn an_old_connection_ends_with_its_next_answer_and_not_before() {
    let relay = Relay::start(Limits {
        connection_age_max: Some(SOON),
        ..limits()
    })
    .await;
    let mut wire = relay.connect().await;
    tokio::time::sleep(SOON * 2).await; // its age is what is tested
    wire.send(signed("/suki", SUCCESS)).await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    wire.ended().await;
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_lets_a_request_in_hand_finish() {
    let relay = Relay::start(limits()).await;
    let mut idle = relay.connect().await;
    idle.send(signed("/suki", SUCCESS)).await;
    assert_eq!(idle.answer().await.status, 200);
    let mut busy = relay.connect().await;
    let request = signed("/suki", SUCCESS);
    let (head, body) = request.split_once("\r\n\r\n").expect("a body");
    busy.send(format!("{head}\r\nexpect: 100-continue\r\n\r\n"))
        .await;
    assert_eq!(busy.answer().await.status, 100, "in hand");

    relay.drain.send_replace(Some(Instant::now() + LATE));
    idle.ended().await;
    drop(idle);
    busy.send(body).await;
    assert_eq!(busy.answer().await.status, 200);
    drop(busy);
    within(relay.serving).await.expect("no panic");
    let refused = TcpStream::connect(relay.address).await;
    assert!(refused.is_err(), "no longer listening");
}

#[tokio::test]
async fn a_drain_cuts_what_is_left_at_its_deadline() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    let request = signed("/suki", SUCCESS);
    let (head, _) = request.split_once("\r\n\r\n").expect("a body");
    wire.send(format!("{head}\r\nexpect: 100-continue\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.status, 100, "in hand");
    relay.drain.send_replace(Some(Instant::now() + SOON));
    within(relay.serving).await.expect("no panic");
    let _ = within(wire.tls.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn a_panic_in_one_request_is_contained() {
    let outcome = super::super::contained(async { panic!("on purpose") }).await;
    let outcome: Result<(), _> = outcome;
    assert!(outcome.is_err());
    let fine = super::super::contained(async { 7 }).await;
    assert_eq!(fine.ok(), Some(7));
}
