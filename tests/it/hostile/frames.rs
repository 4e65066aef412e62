//! HTTP/2 frames by hand (RFC 9113, section 4; RFC 7541 for header fields), wrong ones too.

use tokio::io::{AsyncRead, AsyncReadExt};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection's beginning: the preface and empty settings.
pub fn preface() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Header fields, each a literal that is not indexed.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    literals(0, fields)
}

/// Header fields, each a literal that is put into the table; and the block that names them all again, in a byte each.
pub fn remembered(fields: &[(&str, &str)]) -> (Vec<u8>, Vec<u8>) {
    /// The newest has index 62, the first behind the static table.
    const NEWEST: u8 = 0xbe;
    let oldest = NEWEST + u8::try_from(fields.len()).expect("few") - 1;
    assert!(oldest < 0xff, "an index of one byte");
    (literals(0x40, fields), (NEWEST..=oldest).rev().collect())
}

fn literals(kind: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(kind);
        for text in [name, value] {
            length(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of 7 bits (RFC 7541, 5.1).
fn length(mut length: usize, block: &mut Vec<u8>) {
    if let Some(short) = u8::try_from(length).ok().filter(|&short| short < 127) {
        return block.push(short);
    }
    block.push(127);
    length -= 127;
    while length >= 128 {
        block.push(u8::try_from(length % 128).expect("7 bits") | 128);
        length /= 128;
    }
    block.push(u8::try_from(length).expect("7 bits"));
}

/// The head of a request to the source, and more fields.
pub fn head(more: &[(&str, &str)]) -> Vec<u8> {
    let common = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "canary-host"),
        (":path", "/webhooks/notification?canary-query"),
        ("x-canary-name", "canary-value"),
    ];
    fields(&[&common, more].concat())
}

/// How the relay took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The stream got an answer, whatever it says.
    Answered,
    /// `RST_STREAM` with this error code.
    Reset(u32),
    /// GOAWAY with this error code, unless it is 0, or the connection's end without one.
    Ended(Option<u32>),
}

/// The first word about a stream or the connection.
pub async fn taken(read: &mut (impl AsyncRead + Unpin)) -> Taken {
    loop {
        let mut head = [0; 9];
        if read.read_exact(&mut head).await.is_err() {
            return Taken::Ended(None);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if read.read_exact(&mut payload).await.is_err() {
            return Taken::Ended(None);
        }
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("4"));
        match head[3] {
            HEADERS => return Taken::Answered,
            RST_STREAM => return Taken::Reset(code(0)),
            GOAWAY if code(4) != 0 => return Taken::Ended(Some(code(4))),
            _ => {}
        }
    }
}
