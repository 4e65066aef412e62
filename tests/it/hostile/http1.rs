//! Rows H01 to H34: HTTP/1 framing.

use super::{FIELDS, LINE, Row, fresh, hold, post, whole};

/// A request of a stranger's, which must never be taken for one of the sender's.
const HIDDEN: &str =
    "POST /webhooks/notification HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n\r\ncanary";

const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A body as one chunk and the last.
fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// A signed request whose head is changed by a replacement.
fn reworded(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(whole("", fresh().as_bytes())).expect("text");
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways_hides_no_second_request() {
    let mut rows = Vec::new();
    let body = fresh();
    let length = format!("content-length: {}\r\n", body.len());
    let coding = "transfer-encoding: chunked\r\n";
    for fields in [format!("{length}{coding}"), format!("{coding}{length}")] {
        let body = fresh();
        let wire = chunked(&body) + HIDDEN;
        let request = post(&fields, body.as_bytes(), wire.as_bytes());
        rows.push(Row::refused("H01", request, &[200]).owed(body));
    }
    for coding in [
        "identity",
        "xchunked",
        "chunked, identity",
        "chunked;q=1",
        "chunked\x0b",
        "",
    ] {
        let body = fresh();
        let wire = chunked(&body) + HIDDEN;
        let fields = format!("transfer-encoding: {coding}\r\n");
        rows.push(Row::refused(
            "H02",
            post(&fields, body.as_bytes(), wire.as_bytes()),
            &[400],
        ));
    }
    let body = fresh();
    let two = "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n";
    let request = post(two, body.as_bytes(), chunked(&body).as_bytes());
    rows.push(Row::refused("H03", request, &[400]));
    let old = String::from_utf8(post(coding, body.as_bytes(), chunked(&body).as_bytes()));
    let old = old.expect("text").replacen("HTTP/1.1", "HTTP/1.0", 1);
    rows.push(Row::refused("H05", old, &[400]));
    let two = format!("{length}content-length: 3\r\n");
    rows.push(Row::refused(
        "H06",
        post(&two, body.as_bytes(), body.as_bytes()),
        &[400],
    ));
    for length in [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,5",
        "",
        "1e3",
        "18446744073709551616",
    ] {
        let fields = format!("content-length: {length}\r\n");
        rows.push(Row::refused(
            "H08",
            post(&fields, b"12345", b"12345"),
            &[400],
        ));
    }
    let body = fresh();
    let padded = format!("content-length: 000{}\r\n", body.len());
    let request = post(&padded, body.as_bytes(), body.as_bytes());
    rows.push(Row::refused("H09", request, &[200]).owed(body));
    let body = fresh();
    let short = [whole("", body.as_bytes()), HIDDEN.into()].concat();
    rows.push(Row::refused("H12", short, &[200, 401]).owed(body));
    hold("", rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_keep_nothing() {
    let mut rows = Vec::new();
    let body = fresh();
    let chunked_post = |wire: String| {
        post(
            "transfer-encoding: chunked\r\n",
            body.as_bytes(),
            wire.as_bytes(),
        )
    };
    let size = format!("{:x}", body.len());
    for bad in [
        format!("0x{size}"),
        format!("+{size}"),
        "-1".to_owned(),
        format!("{size} g"),
        format!("1{}", "0".repeat(16)),
        String::new(),
    ] {
        let request = chunked_post(format!("{bad}\r\n{body}\r\n0\r\n\r\n"));
        rows.push(Row::refused("H13", request, &[408]));
    }
    let line_feed = chunked_post(format!("{size};a\nb\r\n{body}\r\n0\r\n\r\n"));
    rows.push(Row::refused("H14", line_feed, &[408]));
    let long = "x".repeat(17 * 1024);
    let extended = chunked_post(format!("{size};{long}\r\n{body}\r\n0\r\n\r\n"));
    rows.push(Row::refused("H14", extended, &[408]));
    for unfinished in ["", "\r\n", "\r\n0", "\r\n0\r\n"] {
        let request = chunked_post(format!("{size}\r\n{body}{unfinished}"));
        rows.push(Row::refused("H15", request, &[408]));
    }
    let trailers = format!("{size}\r\n{body}\r\n0\r\nx: {long}\r\n\r\n");
    rows.push(Row::refused("H17", chunked_post(trailers), &[408]));
    let many: String = (0..200).map(|n| format!("t{n}: 1\r\n")).collect();
    let trailers = format!("{size}\r\n{body}\r\n0\r\n{many}\r\n");
    rows.push(Row::refused("H17", chunked_post(trailers), &[408]));
    let late = format!(
        "{LINE}{FIELDS}transfer-encoding: chunked\r\n\r\n\
         {size}\r\n{body}\r\n0\r\n{}\r\n",
        super::credentials(body.as_bytes())
    );
    rows.push(Row::refused("H17", late, &[401]));
    hold("", rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_none_are_refused() {
    let mut rows = Vec::new();
    let body = fresh();
    let line_feeds = String::from_utf8(whole("", body.as_bytes())).expect("text");
    let line_feeds = format!("\n\r\n{}", line_feeds.replace("\r\n", "\n"));
    rows.push(Row::refused("H18", line_feeds, &[200]).owed(body));
    for (from, to) in [
        ("host: l", "host: \rl"),
        ("host: l", "host: \0l"),
        ("host: l", "ho\x01st: l"),
        ("host: l", "host: \x7fl"),
        ("/notification", "/noti\0fication"),
        ("/notification", "/noti\x1bfication"),
    ] {
        rows.push(Row::refused("H19", reworded(from, to), &[400]));
    }
    for (from, to) in [
        ("host: l", "x: a\r\n b\r\nhost: l"),
        ("host: l", "host : l"),
        ("host: l", "no colon\r\nhost: l"),
        ("host: l", ": empty\r\nhost: l"),
        ("host: l", " host: l"),
    ] {
        rows.push(Row::refused("H20", reworded(from, to), &[400]));
    }
    for many in [101, 1000] {
        let fields: String = (0..many).map(|n| format!("h{n}: 1\r\n")).collect();
        rows.push(Row::refused("H21", whole(&fields, b"{}"), &[431]));
    }
    let long = format!("h: {}\r\n", "x".repeat(500 * 1024));
    rows.push(Row::refused("H21", whole(&long, b"{}"), &[431]));
    // Never whole in a buffer of 64 KiB, so that nobody sees that it is the URI that is long.
    // Its line is read whole, or is more than a head may have before its end is there.
    for (kib, answer) in [(70, &[414]), (200, &[431])] {
        let long = format!("/{}", "x".repeat(kib * 1024));
        let long = reworded("/notification", &long);
        rows.push(Row::refused("H22", long, answer).or(&[431]));
    }
    for version in ["", " HTTP/1.2", " HTTP/3.0", " http/1.1"] {
        let line = format!("POST /webhooks/notification?canary-query{version}\r\n\r\n");
        rows.push(Row::refused("H25", line, &[400]));
    }
    hold("", rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_upgrades_and_expectations_are_answered_plainly() {
    let mut rows = Vec::new();
    for method in ["GET", "PUT", "TRACE", "post", "HEAD", "CANARY"] {
        let request =
            format!("{method} /webhooks/notification?canary-query HTTP/1.1\r\n{FIELDS}\r\n");
        rows.push(Row::refused("H23", request, &[405]));
    }
    let elsewhere = format!("POST /canary-path?canary-query HTTP/1.1\r\n{FIELDS}\r\n");
    rows.push(Row::refused("H23", elsewhere, &[404]));
    let all = format!("OPTIONS * HTTP/1.1\r\n{FIELDS}\r\n");
    rows.push(Row::refused("H23", all, &[404]));
    let tunnel = format!("CONNECT canary-host:443 HTTP/1.1\r\n{FIELDS}\r\n{HIDDEN}");
    rows.push(Row::refused("H24", tunnel, &[404, 401]));
    for protocol in ["websocket", "h2c"] {
        let body = fresh();
        let fields = format!("connection: upgrade\r\nupgrade: {protocol}\r\n");
        let request = [whole(&fields, body.as_bytes()), HIDDEN.into()].concat();
        rows.push(Row::refused("H24", request, &[200, 401]).owed(body));
    }
    let (first, second) = (fresh(), fresh());
    let both = [whole("", first.as_bytes()), whole("", second.as_bytes())].concat();
    rows.push(
        Row::refused("H28", both, &[200, 200])
            .owed(first)
            .owed(second),
    );
    for expect in ["100-continue", "the unexpected"] {
        let body = fresh();
        let request = whole(&format!("expect: {expect}\r\n"), body.as_bytes());
        rows.push(Row::refused("H29", request, &[200]).owed(body));
    }
    hold("", rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_judged_by_its_bytes_and_its_length() {
    let mut rows = Vec::new();
    let coding = "transfer-encoding: chunked\r\n";
    let announced = format!(
        "content-length: {}\r\nexpect: 100-continue\r\n",
        BODY_BYTES_MAX + 1
    );
    rows.push(Row::refused("H10", post(&announced, b"", b""), &[413]));
    for coding in ["gzip", "br", "zstd"] {
        let inflatable = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03", coding.as_bytes()].concat();
        let fields = format!("content-encoding: {coding}\r\n");
        rows.push(Row::refused("H30", whole(&fields, &inflatable), &[400]).held("invalid"));
        let body = fresh();
        rows.push(Row::refused("H30", whole(&fields, body.as_bytes()), &[200]).owed(body));
    }
    for fields in [
        "",
        "content-type: text/canary-type\r\n",
        "content-type: application/json;charset=utf-16\r\n",
        "content-type: \u{fc}\r\n",
    ] {
        let body = fresh();
        rows.push(Row::refused("H31", whole(fields, body.as_bytes()), &[200]).owed(body));
    }
    let padded = |length: usize| {
        let body = fresh();
        body.clone() + &" ".repeat(length - body.len())
    };
    let unannounced = |body: &str| {
        let wire = chunked(body);
        post(coding, body.as_bytes(), wire.as_bytes())
    };
    let body = padded(BODY_BYTES_MAX);
    rows.push(Row::refused("H32", unannounced(&body), &[200]).owed(body));
    let body = padded(BODY_BYTES_MAX + 1);
    rows.push(Row::refused("H32", unannounced(&body), &[413]));
    // Each of these exchanges ends the sending side before it reads.
    let body = fresh();
    rows.push(Row::refused("H34", whole("", body.as_bytes()), &[200]).owed(body));
    hold("", rows).await;
}
