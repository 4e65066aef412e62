//! Row G03: targets that do not come to an end.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::foe::{CANARIES, Foe, Play};
use super::fresh;
use super::front::{Delivery, Front};
use crate::harness::{MEMORY_KIB, eventually};

/// What the relay reads, and what the sockets of both sides hold.
const TAKEN_BYTES: usize = 32 << 20;
/// A second is all that the relay gives a body without end; this, a loaded machine.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// As a body without end is sent.
const PIECE_BYTES: usize = 16 << 10;

struct Row {
    what: &'static str,
    play: Play,
    /// The label of the attempt.
    outcome: &'static str,
}

fn row(what: &'static str, play: Play, outcome: &'static str) -> Row {
    Row {
        what,
        play,
        outcome,
    }
}

fn head(status: &str, fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} canary\r\n{CANARIES}{fields}").into()
}

/// Says this, and then those again and again without a pause.
fn without_end(first: Vec<u8>, again: &[u8]) -> Play {
    let pieces = again.repeat(PIECE_BYTES.div_ceil(again.len()));
    Play::Repeats(first, pieces, Duration::ZERO)
}

/// So many MiB of zeros by gzip.
fn bomb(mib: usize) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-9")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut input = gzip.stdin.take().expect("piped");
    let writing = std::thread::spawn(move || {
        let zeros = vec![0; 1 << 20];
        (0..mib).try_for_each(|_| input.write_all(&zeros))
    });
    let output = gzip.wait_with_output().expect("gzip ends");
    writing.join().expect("no panic").expect("written");
    output.stdout
}

const SELDOM: Duration = Duration::from_secs(10);
const OFTEN: Duration = Duration::from_millis(50);

fn byte() -> Vec<u8> {
    b"c".to_vec()
}

/// Without a whole head.
fn silent() -> Vec<Row> {
    vec![
        row(
            "a promise of an answer, again and again",
            without_end(
                Vec::new(),
                b"HTTP/1.1 100 canary\r\nx-canary: canary\r\n\r\n",
            ),
            "timeout",
        ),
        row("says nothing", Play::Says(Vec::new()), "timeout"),
        row(
            "a head, 1 B in 10 s",
            Play::Repeats(b"HTTP/1.1 200 ".to_vec(), byte(), SELDOM),
            "timeout",
        ),
        row(
            "a head, 1 B in 50 ms",
            Play::Repeats(head("200", "x: "), byte(), OFTEN),
            "timeout",
        ),
    ]
}

/// With a head, and a body that takes its time.
fn dripping() -> Vec<Row> {
    let body = || head("200", "content-length: 1000000000\r\n\r\n");
    vec![
        row(
            "a body, 1 B in 10 s",
            Play::Repeats(body(), byte(), SELDOM),
            "delivered",
        ),
        row(
            "a body, 1 B in 50 ms",
            Play::Repeats(body(), byte(), OFTEN),
            "delivered",
        ),
        row(
            "the body of a 503, 1 B in 50 ms",
            Play::Repeats(head("503", "content-length: 9999\r\n\r\n"), byte(), OFTEN),
            "throttled",
        ),
    ]
}

fn endless() -> Vec<Row> {
    let of_length = head("200", "content-length: 99999999999999\r\n\r\n");
    let chunked = || head("200", "transfer-encoding: chunked\r\n\r\n");
    let canaries = b"canary".repeat(700);
    let chunk = [
        format!("{:x}\r\n", canaries.len()).as_bytes(),
        &canaries,
        b"\r\n",
    ]
    .concat();
    let extension = [chunked(), b"5;canary=".to_vec()].concat();
    let trailers = [chunked(), b"0\r\n".to_vec()].concat();
    vec![
        row(
            "a body of its length",
            without_end(of_length, &canaries),
            "delivered",
        ),
        row(
            "a body to the end",
            without_end(head("200", "\r\n"), &canaries),
            "delivered",
        ),
        row(
            "a body in chunks",
            without_end(chunked(), &chunk),
            "delivered",
        ),
        row(
            "an extension of a chunk",
            without_end(extension, b"canary"),
            "delivered",
        ),
        row(
            "trailers",
            without_end(trailers, b"x-canary: canary\r\n"),
            "delivered",
        ),
        row(
            "1 GB in a field",
            without_end(head("200", "x: "), &canaries),
            "protocol",
        ),
        row(
            "1 GB of fields",
            without_end(head("200", ""), b"x-canary: canary\r\n"),
            "protocol",
        ),
        row(
            "1 GB of status line",
            without_end(b"HTTP/1.1 200 ".to_vec(), &canaries),
            "protocol",
        ),
    ]
}

/// In content that nobody asked to be encoded.
fn bombs() -> Vec<Row> {
    let bomb = bomb(40);
    let fields = format!(
        "content-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        bomb.len()
    );
    let whole = |status: &str| Play::Says([head(status, &fields), bomb.clone()].concat());
    let coded = "content-encoding: gzip\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
    let chunk = [format!("{:x}\r\n", bomb.len()).as_bytes(), &bomb, b"\r\n"].concat();
    vec![
        row("a gzip bomb", whole("200"), "delivered"),
        row("a gzip bomb of a 503", whole("503"), "throttled"),
        row(
            "gzip bombs in chunks",
            without_end(head("200", coded), &chunk),
            "delivered",
        ),
    ]
}

/// With so many seconds for an attempt.
async fn begin(foe: &Foe, seconds: u64) -> Front {
    let mut front = Front::begin(&format!(
        "
targets:
  - name: ehr
    http: {{ url: \"{}\", headers: {{ x-key: {{ file: key }} }}, bearer_token: {{ file: token }} }}
    timeout: {seconds}s
    connect_timeout: 500ms
    max_in_flight: 1
    retry: {{ initial: 10ms, max: 10ms }}
    breaker: {{ failures: 1000 }}
routes: [{{ name: all, to: [ehr] }}]
",
        foe.url()
    ));
    let fail = || foe.plays(Play::answer("503 canary", "content-length: 0\r\n", ""));
    let mend = || foe.plays(Play::good());
    front.warm_up(&fresh(), "ehr", fail, mend).await;
    front
}

/// The attempt ends for its reason, and how long it took is given back; the relay has ended the connection; and the target
/// has the notification when it is well again.
async fn ends(front: &Front, foe: &Foe, row: &Row, body: &str) -> Duration {
    let (what, before) = (format!("G03: {}", row.what), foe.said());
    foe.plays(row.play.clone());
    let id = front.post(body).await;
    let tried = |delivery: &Delivery| delivery.attempts > 0;
    let delivery = front.comes_to(&what, &id, "ehr", tried).await;
    assert_eq!(delivery.outcome, row.outcome, "{what}");
    foe.plays(Play::good());
    front
        .comes_to(&what, &id, "ehr", Delivery::is_delivered)
        .await;
    eventually(&format!("{what}: its connections are closed"), async || {
        foe.open() == 0
    })
    .await;
    let said = foe.said() - before;
    // Until its deadline, an answer that has not begun may be waited for.
    let short = said < TAKEN_BYTES || row.outcome == "timeout";
    assert!(short, "{what}: {said} bytes taken");
    delivery.took
}

/// Each of these ends so soon, and without the memory that it would have.
async fn hold(id: &str, rows: impl IntoIterator<Item = Row>, seconds: u64, within: Duration) {
    let foe = Foe::start();
    let mut front = begin(&foe, seconds).await;
    for row in rows {
        let what = format!("{id}: {}", row.what);
        front.forget_peak();
        let before = front.peak_kib();
        let took = ends(&front, &foe, &row, &fresh()).await;
        assert!(took < within, "{what}: {took:?}");
        front.goes_on(&what, |body| foe.times(body) > 0).await;
        let grown = front.peak_kib().saturating_sub(before);
        assert!(grown < MEMORY_KIB, "{what}: {grown} KiB");
    }
    let heard = foe.heard();
    let asked = heard
        .iter()
        .any(|heard| heard.head.contains("accept-encoding"));
    assert!(!asked, "{id}: nothing is asked to be encoded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_silent_or_drips_costs_an_attempt_its_time_and_nothing_else() {
    hold("G03", silent(), 1, Duration::from_secs(4)).await;
    hold("G03", dripping(), 3, Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_ends_or_unpacks_to_much_costs_nothing() {
    let rows = endless().into_iter().chain(bombs());
    hold("G03", rows, 20, ANSWER_TIME).await;
}

/// More than the sockets of both sides hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_reads_nothing_costs_an_attempt_its_time_and_nothing_else() {
    let foe = Foe::start();
    let mut front = begin(&foe, 1).await;
    let padding = "canary".repeat(1_200_000);
    let large = fresh().replace('{', &format!("{{\"padding\":\"{padding}\","));
    let row = row("accepts and reads nothing", Play::Deaf, "timeout");
    let took = ends(&front, &foe, &row, &large).await;
    assert!(took < Duration::from_secs(4), "G03: {took:?}");
    assert_eq!(
        foe.times(large.as_bytes()),
        1,
        "G03: only the last attempt was heard"
    );
    front
        .goes_on("G03: reads nothing", |body| foe.times(body) > 0)
        .await;
}
