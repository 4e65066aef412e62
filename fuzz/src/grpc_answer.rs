//! What a target answers in HTTP/2, after settings that are in order. It has the notification only if a frame of
//! headers came.

use suki_relay::target::Outcome;

use crate::target::GRPC;

/// The server's settings, none of them, and its word that ours were heard.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
const HEADERS: u8 = 1;

pub fn try_one(input: &[u8]) {
    let outcome = GRPC.attempt([SETTINGS, input].concat());
    if outcome == Outcome::Delivered {
        assert!(has_headers(input), "nobody said that it has it");
    }
}

/// Walks the frames: length (3 bytes), type, flags, stream (4 bytes), payload.
fn has_headers(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, ..] = *frames {
        if kind == HEADERS {
            return true;
        }
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    false
}
