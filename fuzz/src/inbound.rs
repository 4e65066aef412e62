//! The whole inbound path, over real TLS into a real spool. The first byte says how: the rest is an HTTP/1
//! connection, an HTTP/2 connection, or a body that is signed as it should be.

use std::sync::LazyLock;

use suki_relay::schema::{Schema, UnknownStatus};

use crate::house::{status, with};

/// What may be answered to anybody, hyper's own words for what is no request included.
const ANSWERS: [u16; 8] = [400, 401, 404, 405, 408, 413, 414, 431];
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::built_in(UnknownStatus::Accept).expect("compiles"));

pub fn try_one(input: &[u8]) {
    let Some((how, input)) = input.split_first() else {
        return;
    };
    with(|house| match how % 3 {
        0 => {
            let answer = house.converse(b"http/1.1", input);
            if !answer.is_empty() {
                let status = status(&answer).expect("HTTP/1");
                assert!(ANSWERS.contains(&status), "{status} without a signature");
            }
            let mut lines = answer.split(|byte| *byte == b'\n');
            assert!(
                !lines.any(|line| line.starts_with(b"HTTP/1.1 200")),
                "200 without a signature"
            );
        }
        1 => {
            let answer = house.converse(b"h2", &[HTTP2_PREFACE, input].concat());
            assert!(!has_http2_ok(&answer), "200 without a signature");
        }
        _ => {
            let expected = if SCHEMA.parse(input).is_ok() {
                200
            } else {
                400
            };
            assert_eq!(house.signed(input), expected);
        }
    });
}

/// Whether a frame of headers begins with the status 200, which is one byte (RFC 7541, appendix A).
fn has_http2_ok(mut answer: &[u8]) -> bool {
    const HEADERS: u8 = 1;
    const STATUS_200: u8 = 0x88;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answer {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == HEADERS && rest.first() == Some(&STATUS_200) {
            return true;
        }
        answer = rest.get(length..).unwrap_or_default();
    }
    false
}
