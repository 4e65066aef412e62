//! Every line of the table of answers.

use super::*;

#[tokio::test]
async fn a_verified_notification_gets_200_with_an_empty_body() {
    let relay = Relay::start(limits()).await;
    let answer = relay.ask(signed("/suki", SUCCESS)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    relay.assert_counted("accepted", 1);
    assert!(relay.shows(r#"signature_matched_total{secret="current",source="suki"} 1"#));
    assert!(relay.shows("ack_duration_seconds_count 1"));
}

#[tokio::test]
async fn every_configured_series_is_there_from_the_start() {
    let relay = Relay::start(limits()).await;
    for source in ["suki", "lenient", "none"] {
        let line = format!(r#"requests_total{{result="unavailable",source="{source}"}} 0"#);
        assert!(relay.shows(&line), "{line}");
    }
    assert!(relay.shows(r#"signature_matched_total{secret="current",source="lenient"} 0"#));
    assert!(relay.shows(r#"route_errors_total{route="successes"} 0"#));
    assert!(relay.shows(r#"tls_handshake_failures_total{reason="timeout"} 0"#));
}

#[tokio::test]
async fn a_path_of_no_source_is_404() {
    let relay = Relay::start(limits()).await;
    for path in ["/", "/other", "/suki/x", "/suki//", "/SUKI"] {
        let answer = relay.ask(signed(path, SUCCESS)).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.body, r#"{"code": 404, "message": "not found"}"#);
    }
    assert!(relay.shows(r#"requests_total{result="not_found",source="none"} 5"#));
}

#[tokio::test]
async fn a_trailing_slash_and_a_query_make_no_difference() {
    let relay = Relay::start(limits()).await;
    for path in ["/suki/", "/suki?a=b", "/suki/?"] {
        assert_eq!(relay.ask(signed(path, SUCCESS)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn any_method_but_post_is_405_and_the_connection_stays() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    for method in ["GET", "PUT", "OPTIONS", "post"] {
        wire.send(format!(
            "{method} /suki HTTP/1.1\r\nhost: localhost\r\n\r\n"
        ))
        .await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: post\r\n"), "{}", answer.head);
    }
    wire.send("HEAD /suki HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await;
    let mut text = String::new();
    within(wire.tls.read_to_string(&mut text))
        .await
        .expect("ends");
    assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "no body: {text}");
    relay.assert_counted("method", 5);
}

#[tokio::test]
async fn a_body_at_the_limit_is_read_and_one_byte_more_is_413() {
    let relay = Relay::start(limits()).await;
    let limit = limits().body_bytes;
    let padded = |length: usize| SUCCESS.to_owned() + &" ".repeat(length - SUCCESS.len());
    let answer = relay.ask(signed("/suki", &padded(limit))).await;
    assert_eq!(answer.status, 200);

    let answer = relay.ask(signed("/suki", &padded(limit + 1))).await;
    assert_eq!(answer.status, 413);
    assert_eq!(
        answer.body,
        r#"{"code": 413, "message": "payload too large"}"#
    );

    for (length, status) in [(limit, 200), (limit + 1, 413)] {
        let (body, at) = (padded(length), now());
        let fields = format!(
            "x-api-key: {}\r\ngenerated-at: {at}\r\ntransfer-encoding: chunked\r\n",
            signature(&at, &body)
        );
        let request = format!(
            "{}{length:x}\r\n{body}\r\n0\r\n\r\n",
            head("/suki", &fields)
        );
        assert_eq!(relay.ask(request).await.status, status, "chunked {length}");
    }
    relay.assert_counted("too_large", 2);
}

#[tokio::test]
async fn an_announced_length_is_refused_unread_and_never_invited() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    let fields = "content-length: 99999999\r\nexpect: 100-continue\r\n";
    wire.send(head("/suki", fields)).await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 413, "and no 100 before it");
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    wire.ended().await;
}

#[tokio::test]
async fn a_body_that_is_welcome_is_invited() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    let request = signed("/suki", SUCCESS);
    let (head, body) = request.split_once("\r\n\r\n").expect("a body");
    wire.send(format!("{head}\r\nexpect: 100-continue\r\n\r\n"))
        .await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(body).await;
    assert_eq!(wire.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_writes_all_before_it_reads_still_reads_its_answer() {
    let relay = Relay::start(limits()).await;
    let body = vec![b'x'; 9 * 1024 * 1024];
    let length = body.len();
    let refusals = [
        (format!("content-length: {length}\r\n"), 413),
        ("transfer-encoding: chunked\r\n".to_owned(), 401),
    ];
    for (fields, status) in refusals {
        let mut wire = relay.connect().await;
        wire.send(head("/suki", &fields)).await;
        if status == 401 {
            wire.send(format!("{length:x}\r\n")).await;
        }
        wire.send(&body).await;
        assert_eq!(wire.answer().await.status, status);
    }
}

#[tokio::test]
async fn a_body_that_dribbles_is_408() {
    let relay = Relay::start(Limits {
        body_timeout: SOON,
        ..limits()
    })
    .await;
    let request = signed("/suki", SUCCESS);
    let answer = relay.ask(&request[..request.len() - 1]).await;
    assert_eq!(answer.status, 408);
    assert_eq!(
        answer.body,
        r#"{"code": 408, "message": "request timeout"}"#
    );
    relay.assert_counted("timeout", 1);
}

#[tokio::test]
async fn bad_credentials_are_401_before_the_body_is_read() {
    let relay = Relay::start(limits()).await;
    let (key, at) = (
        format!("x-api-key: {}\r\n", "0".repeat(64)),
        "generated-at: 1\r\n",
    );
    let bad = [
        at.to_owned(),
        key.clone(),
        format!("x-api-key:\r\n{at}"),
        format!("{key}generated-at: \r\n"),
        format!("{key}x-api-key: {}\r\n{at}", "1".repeat(64)),
        format!("{key}{at}generated-at: 2\r\n"),
        format!("x-api-key: ü\r\n{at}"),
    ];
    for fields in &bad {
        // The body never comes.
        let answer = relay
            .ask(head("/suki", &format!("{fields}content-length: 5\r\n")))
            .await;
        assert_eq!(answer.status, 401, "{fields}");
        assert_eq!(answer.body, r#"{"code": 401, "message": "invalid token"}"#);
    }
    relay.assert_counted("unauthorized", 7);
}

#[tokio::test]
async fn a_signature_that_matches_no_secret_is_401() {
    let relay = Relay::start(limits()).await;
    let mut wire = relay.connect().await;
    let good = signed("/suki", SUCCESS);
    wire.send(good.replace("success", "failure")).await;
    assert_eq!(wire.answer().await.status, 401);
    wire.send(good.replace("x-api-key: ", "x-api-key: sha256="))
        .await;
    assert_eq!(wire.answer().await.status, 401);
    wire.send(good).await;
    assert_eq!(wire.answer().await.status, 200, "the connection stays");
}

#[tokio::test]
async fn credentials_may_be_repeated_and_of_either_case() {
    let relay = Relay::start(limits()).await;
    let at = now();
    let hex = signature(&at, SUCCESS);
    let length = SUCCESS.len();
    let common = format!("generated-at: {at}\r\ncontent-length: {length}\r\n");
    let upper = hex.to_uppercase();
    let request = head("/suki", &format!("X-API-Key: {upper}\r\n{common}")) + SUCCESS;
    assert_eq!(relay.ask(request).await.status, 200);
    let twice = format!("x-api-key: {hex}\r\nx-api-key: {hex}\r\ngenerated-at: {at}\r\n{common}");
    assert_eq!(relay.ask(head("/suki", &twice) + SUCCESS).await.status, 200);
}

#[tokio::test]
async fn a_second_copy_gets_the_first_ones_answer() {
    let relay = Relay::start(limits()).await;
    let cases = [
        (signed("/suki", SUCCESS), 200),
        (signed("/suki", "{}"), 400),
    ];
    for (request, status) in cases {
        for _ in 0..2 {
            assert_eq!(relay.ask(&request).await.status, status);
        }
    }
    relay.assert_counted("duplicate", 2);
    relay.assert_counted("accepted", 1);
    relay.assert_counted("invalid", 1);
}

#[tokio::test]
async fn untimely_notifications_are_kept_and_200() {
    let relay = Relay::start(limits()).await;
    let ahead = Timestamp::now().plus(Duration::from_hours(2)).as_millis();
    for at in ["1", &ahead.to_string(), "yesterday"] {
        let answer = relay.ask(signed_at("/suki", at, SUCCESS)).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{at}");
    }
    relay.assert_counted("stale", 3);
}

#[tokio::test]
async fn what_is_invalid_is_400_or_200_as_the_source_says() {
    let relay = Relay::start(limits()).await;
    for body in ["", "not json", "{}", "[]"] {
        let answer = relay.ask(signed("/suki", body)).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(
            answer.body,
            r#"{"code": 400, "message": "invalid request"}"#
        );
        assert_eq!(relay.ask(signed("/lenient", body)).await.status, 200);
    }
    assert!(relay.shows(r#"requests_total{result="invalid",source="lenient"} 4"#));
}

#[tokio::test]
async fn a_coded_body_is_judged_by_its_bytes() {
    let relay = Relay::start(limits()).await;
    let request = signed("/suki", SUCCESS).replace("host:", "content-encoding: gzip\r\nhost:");
    assert_eq!(relay.ask(request).await.status, 200);
}

#[tokio::test]
async fn what_no_route_takes_is_200() {
    let relay = Relay::start(limits()).await;
    assert_eq!(relay.ask(signed("/suki", FAILURE)).await.status, 200);
    relay.assert_counted("unrouted", 1);
}

#[tokio::test]
async fn a_full_spool_is_500_whatever_the_verdict() {
    let relay = Relay::with_capacity(limits(), 0).await;
    for body in [SUCCESS, "{}"] {
        let answer = relay.ask(signed("/suki", body)).await;
        assert_eq!(answer.status, 500);
        assert!(
            answer.head.contains("retry-after: 5\r\n"),
            "{}",
            answer.head
        );
        let text = r#"{"code": 500, "message": "internal server error"}"#;
        assert_eq!(answer.body, text);
    }
    relay.assert_counted("unavailable", 2);
    assert_eq!(relay.kept().await, 0);
}

#[tokio::test]
async fn a_spent_byte_budget_is_500() {
    let relay = Relay::start(Limits {
        body_bytes: 256 * 1024,
        bodies_in_flight_bytes: 100,
        ..limits()
    })
    .await;
    let large = signed("/suki", &long(128 * 1024));
    assert_eq!(relay.ask(large).await.status, 500);
    let small = signed("/suki", SUCCESS);
    assert_eq!(relay.ask(small).await.status, 200);
}

#[tokio::test]
async fn a_commit_that_is_late_is_500_and_goes_on() {
    let relay = Relay::start(Limits {
        ack_timeout: Duration::ZERO,
        ..limits()
    })
    .await;
    let disk = Held::disk_of(&relay);
    for body in [SUCCESS, "{}"] {
        let answer = relay.ask(signed("/suki", body)).await;
        assert_eq!(answer.status, 500, "{body}");
        assert!(
            answer.head.contains("retry-after: 5\r\n"),
            "{}",
            answer.head
        );
    }
    relay.assert_counted("unavailable", 2);
    assert_eq!(relay.kept().await, 0, "not yet");
    drop(disk);
    eventually(async || relay.kept().await == 2).await;
}

#[tokio::test]
async fn a_body_keeps_its_share_of_the_budget_until_its_commit_has_ended() {
    let relay = Relay::start(Limits {
        ack_timeout: Duration::from_mins(1),
        bodies_in_flight_bytes: 40 * 1024,
        ..limits()
    })
    .await;
    let disk = Held::disk_of(&relay);
    let mut first = relay.connect().await;
    first.send(signed("/suki", &long(60 * 1024))).await;
    let stuck = Some(Duration::from_millis(50));
    eventually(async || relay.spool.writer_busy_for() > stuck).await;
    drop(first);
    let second = "{}".to_owned() + &" ".repeat(60 * 1024);
    let second = || relay.ask(signed("/suki", &second));
    assert_eq!(second().await.status, 500);
    drop(disk);
    eventually(async || relay.kept().await == 1).await;
    eventually(async || second().await.status == 400).await;
}

#[tokio::test]
async fn what_no_secret_signed_is_401_and_kept_in_the_ring_alone() {
    let relay = Relay::start(limits()).await;
    let others = verify::signature(
        &Secret::from_text(b"of another house".to_vec()).expect("not empty"),
        "1765977748432",
        SUCCESS.as_bytes(),
    );
    let post = |signature: &str| {
        let fields = format!(
            "x-api-key: {signature}\r\ngenerated-at: 1765977748432\r\ncontent-type: text/plain\r\n\
             content-length: {}\r\n",
            SUCCESS.len()
        );
        head("/suki", &fields) + SUCCESS
    };
    assert_eq!(relay.ask(post(&others)).await.status, 401);
    // Never a signature of any secret's: nothing to verify again.
    assert_eq!(relay.ask(post("sha256=ab")).await.status, 401);
    assert_eq!(
        relay
            .ask(head("/suki", "content-length: 0\r\n"))
            .await
            .status,
        401
    );

    let ring = relay.spool.unverified();
    let all = ring.list(0, 10).await.expect("reads");
    assert_eq!(all.len(), 1);
    let found = ring
        .find(all[0].number)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(found.source, name("suki"));
    assert_eq!(found.content_type.as_deref(), Some("text/plain"));
    assert_eq!(found.signed.signature, others);
    assert_eq!(found.signed.body, SUCCESS);
    assert_eq!(relay.kept().await, 0);
    relay.assert_counted("unauthorized", 3);
}
