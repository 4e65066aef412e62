//! Row H46, and strangers who send enough to be taken seriously and then hold all memory that there is: good ones are
//! answered while they do.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::frames::{DATA, END_HEADERS, GOAWAY, HEADERS, frame, head, preface, remembered};
use super::siege::Siege;
use super::{fresh, whole};
use crate::harness::{Setup, eventually};

const KIB: usize = 1024;
/// The largest body, an eighth of what all may hold; as by default, but quick to send.
const LIMITS: &str = "limits: { body: 64KiB, bodies_in_flight: 512KiB }";
/// Sent and announced: room that doubles takes all of it.
const LARGE: (usize, usize) = (32 * KIB + 1, 64 * KIB);
/// Of these there are so many that even less than a good one takes is spent.
const SMALL: (usize, usize) = (100, 1000);

const CUT: &str = "suki_relay_connections_cut_total{reason=\"bytes\"}";
const UNAVAILABLE: &str = "suki_relay_requests_total{result=\"unavailable\",source=\"suki\"}";

type Endless = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

fn narrow(rest: &str) -> Setup {
    let setup = Setup::new(rest);
    setup.reword("  tls: {", &format!("  {LIMITS}\n  tls: {{"));
    setup
}

/// Good ones, on a connection that is proven and on new ones.
struct Good<'a> {
    siege: &'a Siege,
    inside: crate::harness::Sender,
    owed: BTreeSet<Vec<u8>>,
}

impl<'a> Good<'a> {
    async fn of(siege: &'a Siege) -> Self {
        let inside = siege.relay.sender();
        let mut good = Self {
            siege,
            inside,
            owed: BTreeSet::new(),
        };
        good.post("before").await;
        good
    }

    async fn post(&mut self, when: &str) {
        let body = fresh();
        let answer = self.inside.post(body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 200, "{when}, on a proven connection");
        self.owed.insert(body.into_bytes());
        let body = fresh();
        let statuses = self.siege.exchange(&whole("", body.as_bytes())).await;
        assert_eq!(statuses, [200], "{when}, on a new connection");
        self.owed.insert(body.into_bytes());
    }
}

/// A connection whose streams send this much of an announced length, and no more; and the next when it is cut.
async fn hoard(siege: &Siege, streams: &[(usize, usize)]) {
    loop {
        let tls = siege.connect(b"h2").await;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await;
        let Ok((sender, connection)) = shaken else {
            continue;
        };
        let mut requests = JoinSet::new();
        for (sent, announced) in streams {
            requests.spawn(persist(sender.clone(), *sent, *announced));
        }
        let _ = connection.await;
    }
}

/// Once more whenever it is answered.
async fn persist(mut sender: http2::SendRequest<Endless>, sent: usize, announced: usize) {
    let mut pace = interval(Duration::from_millis(50));
    loop {
        pace.tick().await;
        let part = Frame::data(Bytes::from(vec![b' '; sent]));
        let part = stream::once(async { Ok(part) });
        let request = Request::post("https://localhost/webhooks/notification")
            .header("x-api-key", "0".repeat(64))
            .header("generated-at", "1764000000000")
            .header("content-length", announced)
            .body(StreamBody::new(part.chain(stream::pending()).boxed()));
        if sender.send_request(request.expect("one")).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_ones_are_answered_while_strangers_hold_back_their_bodies() {
    let alone: Vec<_> = [LARGE; 9].into_iter().chain([SMALL; 91]).collect();
    let one_of_many: Vec<_> = [LARGE].into_iter().chain([SMALL; 30]).collect();
    for (connections, streams) in [(1, alone), (12, one_of_many)] {
        let siege = Siege::of(narrow, "").await;
        let mut good = Good::of(&siege).await;
        let hoards = (0..connections).map(|_| hoard(&siege, &streams));
        let hoards = futures_util::future::join_all(hoards);
        let posts = async {
            eventually("all is held", async || {
                let (cut, unavailable) = (CUT, UNAVAILABLE);
                siege.relay.metric(cut).await + siege.relay.metric(unavailable).await > 0.0
            })
            .await;
            for _ in 0..20 {
                good.post("meanwhile").await;
            }
        };
        tokio::select! {
            () = posts => {}
            _ = hoards => unreachable!("endless"),
        }
        assert!(siege.relay.metric(CUT).await > 0.0, "{connections}");
        let owed = good.owed;
        siege.brought(connections * streams.len() * LARGE.0);
        siege.lift(owed).await;
    }
}

/// Heads that cost their sender a byte a field, and bodies of a byte a second.
async fn drip(siege: &Siege, streams: u32, begun: &AtomicUsize) {
    let key = "0".repeat(64);
    let names: Vec<_> = (0..58).map(|n| format!("f{n}")).collect();
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "canary-host"),
        (":path", "/webhooks/notification?canary-query"),
        ("x-api-key", &key),
        ("generated-at", "1764000000000"),
    ];
    fields.extend(names.iter().map(|name| (name.as_str(), "v")));
    let (first, others) = remembered(&fields);
    let ids = || (0..streams).map(|n| 2 * n + 1);
    let heads = ids().flat_map(|id| {
        let block = if id == 1 { &first } else { &others };
        frame(HEADERS, END_HEADERS, id, block)
    });
    let heads: Vec<_> = preface().into_iter().chain(heads).collect();
    let bytes: Vec<_> = ids().flat_map(|id| frame(DATA, 0, id, b" ")).collect();
    loop {
        let (mut read, mut write) = tokio::io::split(siege.connect(b"h2").await);
        let mut send = async |bytes: &[u8]| {
            write.write_all(bytes).await.is_ok() && write.flush().await.is_ok()
        };
        let sending = async {
            let mut second = interval(Duration::from_secs(1));
            if send(&heads).await {
                begun.fetch_add(1, Ordering::Relaxed);
                while send(&bytes).await {
                    second.tick().await;
                }
            }
        };
        let mut scratch = vec![0; 16 * KIB];
        let reading = async { while read.read(&mut scratch).await.is_ok_and(|n| n > 0) {} };
        tokio::select! {
            () = sending => {}
            () = reading => {}
        }
    }
}

/// Told to go since it was idle, it answers no PING, and begins a request each time the last one has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_take_its_leave_loses_its_place() {
    let lone = |rest: &str| {
        let setup = Setup::new(rest);
        let limits = "limits: { connections: 1, header_timeout: 1s, idle_timeout: 1s }";
        setup.reword("  tls: {", &format!("  {limits}\n  tls: {{"));
        setup
    };
    let siege = Siege::of(lone, "").await;
    let mut tls = siege.connect(b"h2").await;
    tls.write_all(&preface()).await.expect("written");
    let mut said = Vec::new();
    while !said
        .windows(5)
        .any(|head| head[..3] == [0, 0, 8] && head[3] == GOAWAY)
    {
        let more = tls.read_buf(&mut said).await.expect("readable");
        assert!(more > 0, "it ended without a word");
    }
    let key = "0".repeat(64);
    let head = head(&[("x-api-key", &key), ("generated-at", "1764000000000")]);
    let begun = frame(HEADERS, END_HEADERS, 1, &head);
    tls.write_all(&begun).await.expect("written");
    tls.flush().await.expect("written");

    let body = fresh();
    let post = whole("", body.as_bytes());
    let statuses = timeout(Duration::from_secs(10), siege.exchange(&post)).await;
    assert_eq!(
        statuses.expect("a place, long before a body is late"),
        [200]
    );
    drop(tls);
    siege.lift(BTreeSet::from([body.into_bytes()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_drip_have_no_more_memory_than_all_may_hold() {
    const CONNECTIONS: usize = 40;
    const STREAMS: u32 = 100;
    /// What all may hold, and the connections themselves.
    const ALLOWED_KIB: u64 = 24 * 1024;
    let siege = Siege::of(narrow, "").await;
    let mut good = Good::of(&siege).await;
    let before = siege.relay.resident_kib();
    let begun = Arc::new(AtomicUsize::new(0));
    let drips = (0..CONNECTIONS).map(|_| drip(&siege, STREAMS, &begun));
    let drips = futures_util::future::join_all(drips);
    let posts = async {
        eventually("all have begun", async || {
            begun.load(Ordering::Relaxed) >= CONNECTIONS
        })
        .await;
        let mut pace = interval(Duration::from_millis(100));
        for _ in 0..30 {
            pace.tick().await;
            good.post("meanwhile").await;
            let more = siege.relay.resident_kib().saturating_sub(before);
            assert!(more < ALLOWED_KIB, "H46: {more} KiB more than before");
        }
    };
    tokio::select! {
        () = posts => {}
        _ = drips => unreachable!("endless"),
    }
    let owed = good.owed;
    siege.brought(CONNECTIONS * STREAMS as usize * 20 * KIB);
    siege.lift(owed).await;
}
