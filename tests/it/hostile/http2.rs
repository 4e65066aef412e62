//! Rows H40 to H48: HTTP/2, frame by frame.

use std::collections::BTreeSet;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::credentials;
use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, Taken, WINDOW_UPDATE, fields, frame, head, preface, taken,
};
use super::siege::{PATIENCE, Siege};

/// Error codes (RFC 9113, section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Row {
    id: &'static str,
    frames: Vec<u8>,
    taken: Taken,
}

fn row(id: &'static str, frames: impl IntoIterator<Item = Vec<u8>>, taken: Taken) -> Row {
    let frames = frames.into_iter().fold(preface(), |mut all, frame| {
        all.extend(frame);
        all
    });
    Row { id, frames, taken }
}

fn ends(code: u32) -> Taken {
    Taken::Ended(Some(code))
}

fn request(stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &head(more))
}

async fn hold(rows: Vec<Row>) {
    let mut siege = Siege::begin("").await;
    let mut wrong = Vec::new();
    for (number, row) in rows.into_iter().enumerate() {
        let tls = siege.connect(b"h2").await;
        let (mut read, mut write) = tokio::io::split(tls);
        // Told to go, the relay need not read the rest.
        let sending = async {
            let _ = write.write_all(&row.frames).await;
            let _ = write.flush().await;
        };
        let both = async { tokio::join!(sending, taken(&mut read)).1 };
        let answer = timeout(PATIENCE, both).await;
        if answer != Ok(row.taken) {
            wrong.push(format!(
                "{number}, {}: {answer:?} for {:?}",
                row.id, row.taken
            ));
        }
        drop((read, write));
        siege.goes_on(row.id).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    siege.lift(BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_own_connection() {
    let streams = (1..200_000).step_by(2);
    let reset = streams.map(|stream| {
        let refuse = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [request(stream, 0, &[]), refuse].concat()
    });
    let block = |block: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, block);
    let more = fields(&[("x", &"y".repeat(1000))]);
    let endless = (0..1000).map(|_| frame(CONTINUATION, 0, 1, &more));
    let endless = std::iter::once(frame(HEADERS, END_STREAM, 1, &head(&[]))).chain(endless);
    // One long field, put in the table once, named 10,000 times.
    let mut bomb = vec![0x40, 1, b'x', 127, 0xa1, 0x1e];
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 10_000]);
    let churn: Vec<u8> = [0x20, 0x3f, 0xe1, 0x1f].repeat(1000);
    let empty_data = (0..1_000_000).map(|_| frame(DATA, 0, 1, &[]));
    let empty_data = std::iter::once(request(1, 0, &[("x-api-key", "0"), ("generated-at", "1")]))
        .chain(empty_data);
    hold(vec![
        row("H40", reset, ends(ENHANCE_YOUR_CALM)),
        row("H42", endless, ends(ENHANCE_YOUR_CALM)),
        row("H43", [block(&bomb)], ends(ENHANCE_YOUR_CALM)),
        row("H43", [block(&churn)], Taken::Reset(PROTOCOL_ERROR)),
        row("H43", [block(&[0xff, 0xff, 0x7f])], ends(PROTOCOL_ERROR)),
        row("H44", empty_data, ends(ENHANCE_YOUR_CALM)),
        row(
            "H44",
            [frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            ends(PROTOCOL_ERROR),
        ),
        row(
            "H44",
            [frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            ends(FLOW_CONTROL_ERROR),
        ),
    ])
    .await;
}

/// What is legal in any number costs its sender as much as the relay; a request after it is answered.
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_harmless_frames_stop_nothing() {
    let after = |flood: Vec<u8>| [flood.repeat(20_000), request(1, END_STREAM, &[])];
    hold(vec![
        row(
            "H44",
            after(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
            Taken::Answered,
        ),
        row("H44", after(frame(PING, 0, 0, &[0; 8])), Taken::Answered),
        // And answers to none.
        row("H44", after(frame(PING, 1, 0, &[0; 8])), Taken::Answered),
        row("H44", after(frame(SETTINGS, 0, 0, &[])), Taken::Answered),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_is_refused() {
    let headers = |list: &[(&str, &str)], taken| {
        let block = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(list));
        row("H48", [block], taken)
    };
    let malformed = |list: &[(&str, &str)]| headers(list, Taken::Reset(PROTOCOL_ERROR));
    let method = (":method", "POST");
    let scheme = (":scheme", "https");
    let path = (":path", "/webhooks/notification?canary-query");
    let signed = credentials(b"12345");
    let signed: Vec<(&str, &str)> = signed.lines().filter_map(|l| l.split_once(": ")).collect();
    let short = [&signed[..], &[("content-length", "9")]].concat();
    let streams = (1..=203)
        .step_by(2)
        .map(|stream| request(stream, 0, &signed));
    hold(vec![
        row("H46", streams, Taken::Reset(REFUSED_STREAM)),
        row(
            "H47",
            [request(1, 0, &short), frame(DATA, END_STREAM, 1, b"12345")],
            Taken::Reset(PROTOCOL_ERROR),
        ),
        row(
            "H47",
            [
                request(1, 0, &signed),
                frame(DATA, END_STREAM, 1, b"{}"),
                frame(DATA, 0, 1, b"{}"),
            ],
            ends(PROTOCOL_ERROR),
        ),
        row("H47", [request(2, END_STREAM, &[])], ends(PROTOCOL_ERROR)),
        row(
            "H47",
            [frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4])],
            ends(PROTOCOL_ERROR),
        ),
        Row {
            id: "H47",
            frames: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX.............".to_vec(),
            taken: Taken::Ended(None),
        },
        headers(
            &[method, scheme, path, ("X-Canary", "1")],
            ends(PROTOCOL_ERROR),
        ),
        malformed(&[method, scheme, path, ("connection", "close")]),
        malformed(&[method, scheme, path, ("transfer-encoding", "chunked")]),
        malformed(&[method, scheme, path, path]),
        malformed(&[method, path]),
        malformed(&[scheme, path]),
        // Without a path it is of no source: 404.
        headers(&[method, scheme], Taken::Answered),
        malformed(&[method, scheme, (":path", "canary-path")]),
        headers(
            &[method, scheme, path, ("x", "a\r\nb: canary-value")],
            ends(PROTOCOL_ERROR),
        ),
        malformed(&[method, scheme, path, ("x", "1"), (":path", "/canary-path")]),
    ])
    .await;
}
