//! What a target answers in HTTP/1: it has the notification only if some status line says 2xx.

use suki_relay::target::Outcome;

use crate::target::HTTP;

pub fn try_one(input: &[u8]) {
    let outcome = HTTP.attempt(input.to_vec());
    if outcome == Outcome::Delivered {
        let says_2xx = |line: &[u8]| {
            line.starts_with(b"HTTP/1.") && line.get(8..10).is_some_and(|at| at == b" 2")
        };
        let lines = input.split(|byte| *byte == b'\n');
        assert!(
            lines.into_iter().any(says_2xx),
            "nobody said that it has it"
        );
    }
}
