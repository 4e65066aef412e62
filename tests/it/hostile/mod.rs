//! A hostile outside: each row of the catalogue of bad inputs, over real sockets, against the running relay.
//!
//! Whatever is sent has canaries: in path, query, names and values of header fields, name of the server,
//! body; the target's answers and credentials have, too. After each row the process lives, its memory and
//! descriptors are back where they were, a good notification on a new connection is answered 200, and no
//! output has a canary; after each group of rows, the target has what was answered 200 and no more.

mod answers;
mod catalogue;
mod certificates;
mod changes;
mod clients;
pub mod clocks;
mod config;
mod foe;
mod frames;
mod front;
mod grpc_answers;
mod grpc_server;
mod hoard;
mod http1;
mod http2;
mod json;
mod names;
mod reach;
mod scarcity;
mod schemas;
mod siege;
mod signals;
mod signature;
mod stalling;
mod swaps;
mod target_tls;
mod tls;
mod trial;
mod waits;

use std::collections::BTreeSet;

use siege::Siege;

use crate::harness::{Relay, fresh, sign};

/// One bad input: the row's id, what is sent on a connection of its own, and the statuses that come back
/// before the relay ends it.
struct Row {
    id: &'static str,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    /// Or these, as its bytes happen to arrive.
    or: &'static [u16],
    /// The bodies that its target must be given.
    owed: Vec<Vec<u8>>,
    /// For which reasons of the quarantine something of it is kept.
    held: Vec<&'static str>,
}

impl Row {
    fn refused(id: &'static str, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Self {
        Self {
            id,
            bytes: bytes.into(),
            statuses,
            or: statuses,
            owed: Vec::new(),
            held: Vec::new(),
        }
    }

    fn or(mut self, statuses: &'static [u16]) -> Self {
        self.or = statuses;
        self
    }

    fn owed(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.owed.push(body.into());
        self
    }

    fn held(mut self, reason: &'static str) -> Self {
        self.held.push(reason);
        self
    }
}

/// How each request begins.
const LINE: &str = "POST /webhooks/notification?canary-query HTTP/1.1\r\n";
/// What each has beside what it is about.
const FIELDS: &str = "host: localhost.canary-host\r\nx-canary-name: canary-value\r\ncookie: canary-cookie\r\n\
    user-agent: canary-agent\r\ntracestate: canary=state\r\nforwarded: for=canary-forwarded\r\n";

fn now() -> String {
    suki_relay::clock::Timestamp::now().as_millis().to_string()
}

/// The fields that sign a body now; each ends in CRLF.
fn credentials(body: &[u8]) -> String {
    let at = now();
    format!("x-api-key: {}\r\ngenerated-at: {at}\r\n", sign(&at, body))
}

/// A request with these fields beside the signature, and the wire form of its body as given.
fn post(fields: &str, signed: &[u8], wire: &[u8]) -> Vec<u8> {
    let credentials = credentials(signed);
    let head = format!("{LINE}{FIELDS}{credentials}{fields}\r\n");
    [head.as_bytes(), wire].concat()
}

/// A request of its announced length, signed well.
fn whole(fields: &str, body: &[u8]) -> Vec<u8> {
    post(
        &format!("content-length: {}\r\n{fields}", body.len()),
        body,
        body,
    )
}

/// Sends every row, and holds each to its answers; then looks whether the relay is as it was, and gives it back.
async fn hold(config: &str, rows: Vec<Row>) -> Relay {
    assert!(!rows.is_empty());
    let mut siege = Siege::begin(config).await;
    let mut wrong = Vec::new();
    for row in rows {
        let (begun, answers) = (row.bytes.len().min(300), siege.exchange(&row.bytes).await);
        let shown = String::from_utf8_lossy(&row.bytes[..begun]).into_owned();
        if answers != row.statuses && answers != row.or {
            wrong.push(format!(
                "{}: {answers:?} for {:?} to {shown:?}",
                row.id, row.statuses
            ));
        }
        siege.owes(row.owed);
        siege.holds(&row.held);
        siege.goes_on(row.id).await;
        siege.has_kept(&format!("{}: {shown:?}", row.id)).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    siege.lift(BTreeSet::new()).await
}
