//! HTTP/1.1 and HTTP/2 beyond one request on one connection.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::*;

type Sender = SendRequest<Full<Bytes>>;

async fn http2(relay: &Relay) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let wire = relay.connect_as(b"h2").await;
    let io = TokioIo::new(wire.tls);
    let made = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake(io);
    let (sender, connection) = within(made).await.expect("shakes hands");
    (sender, tokio::spawn(connection))
}

fn request(at: &str) -> Request<Full<Bytes>> {
    Request::post("https://localhost/suki")
        .version(Version::HTTP_2)
        .header("x-api-key", signature(at, SUCCESS))
        .header("generated-at", at)
        .body(Full::from(SUCCESS))
        .expect("a request")
}

#[tokio::test]
async fn two_pipelined_requests_are_answered_in_order() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    wire.send(signed("/suki", SUCCESS) + &signed("/suki", "{}"))
        .await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(wire.answer().await.status, 400);
}

#[tokio::test]
async fn a_client_that_half_closes_is_still_answered() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    wire.send(signed("/suki", SUCCESS)).await;
    within(wire.tls.shutdown()).await.expect("half closes");
    assert_eq!(wire.answer().await.status, 200);
    wire.ended().await;
}

#[tokio::test]
async fn a_hundred_requests_on_one_http_2_connection() {
    let relay = Relay::start(limits()).await;
    let (sender, _connection) = http2(&relay).await;
    let start = Timestamp::now().as_millis();
    let asked = (0..100).map(|n| {
        let mut sender = sender.clone();
        tokio::spawn(async move { sender.send_request(request(&(start + n).to_string())).await })
    });
    for answer in asked.collect::<Vec<_>>() {
        let answer = within(answer).await.expect("no panic").expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), answer.version()),
            (200, Version::HTTP_2)
        );
    }
    relay.assert_counted("accepted", 100);
    assert!(relay.shows("connections_total 1"));
}

#[tokio::test]
async fn an_http_2_body_too_large_is_413_and_the_connection_stays() {
    let relay = Relay::start(limits()).await;
    let (mut sender, _connection) = http2(&relay).await;
    let mut large = request(&now());
    *large.body_mut() = Full::from(vec![b'x'; limits().body_bytes + 1]);
    let answer = within(sender.send_request(large)).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 413);
    let answer = within(sender.send_request(request(&now()))).await;
    assert_eq!(answer.expect("an answer").status().as_u16(), 200);
}

/// In HTTP/2 a field that is repeated costs its sender one byte, and the relay some seventy.
#[tokio::test]
async fn a_head_has_64_fields_at_most_in_either_protocol() {
    let relay = Relay::start(limits()).await;
    for (fields, status) in [(64, 200), (65, 431), (490, 431)] {
        let at = now();
        let more = "x: y\r\n".repeat(fields - 4);
        let one = signed_at("/suki", &at, SUCCESS).replacen("\r\n", &format!("\r\n{more}"), 1);
        assert_eq!(relay.ask(one).await.status, status, "{fields} in HTTP/1");

        let (mut sender, _connection) = http2(&relay).await;
        let mut two = request(&now());
        two.headers_mut()
            .insert("content-length", SUCCESS.len().into());
        while two.headers().len() < fields {
            two.headers_mut().append("x", "y".parse().expect("a value"));
        }
        let answer = within(sender.send_request(two)).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{fields} in HTTP/2");
    }
    eventually(async || relay.ingress.budget.free_bytes() > 1024 * 1024).await;
}

#[tokio::test]
async fn an_idle_http_2_connection_is_told_to_go() {
    ends_cleanly_after_an_answer(Limits {
        idle_timeout: SOON,
        ..limits()
    })
    .await;
}

#[tokio::test]
async fn an_old_http_2_connection_ends_after_an_answer() {
    ends_cleanly_after_an_answer(Limits {
        connection_age_max: Some(Duration::ZERO),
        ..limits()
    })
    .await;
}

/// One answer over HTTP/2, and then the relay ends the connection.
async fn ends_cleanly_after_an_answer(limits: Limits) {
    let relay = Relay::start(limits).await;
    let (mut sender, connection) = http2(&relay).await;
    let answer = within(sender.send_request(request(&now()))).await;
    assert_eq!(answer.expect("an answer").status().as_u16(), 200);
    let ended = within(connection).await.expect("no panic");
    assert!(ended.is_ok(), "a clean end: {ended:?}");
}

#[tokio::test]
async fn an_http_2_drain_lets_the_client_go_cleanly() {
    let relay = Relay::start(limits()).await;
    let (mut sender, connection) = http2(&relay).await;
    let answer = within(sender.send_request(request(&now()))).await;
    assert_eq!(answer.expect("an answer").status().as_u16(), 200);
    relay.drain.send_replace(Some(Instant::now() + LATE));
    let ended = within(connection).await.expect("no panic");
    assert!(ended.is_ok(), "a clean end: {ended:?}");
    within(relay.serving).await.expect("no panic");
}

/// HTTP/1 would not notice before it answers; HTTP/2 drops what it was asked for.
#[tokio::test]
async fn a_client_that_leaves_does_not_stop_a_commit() {
    let relay = Relay::start(limits()).await;
    let disk = Held::disk_of(&relay);
    let (mut sender, connection) = http2(&relay).await;
    let asked = tokio::spawn(async move { sender.send_request(request(&now())).await });
    let verified = r#"signature_matched_total{secret="current",source="suki"} 1"#;
    eventually(async || relay.shows(verified)).await;
    connection.abort();
    asked.abort();
    eventually(async || relay.shows("connections 0")).await;
    assert_eq!(relay.kept().await, 0, "not yet");
    drop(disk);
    eventually(async || relay.kept().await == 1).await;
}
