//! What each fuzz target does with one input, and what must hold of it.
//!
//! A panic anywhere ends the run: libFuzzer's hook aborts before the relay could contain it. Seeds are in `seeds/`;
//! `tests/fuzz` runs every target for a while. A finding becomes a named test beside the code that it is about.

pub mod config;
pub mod expression;
pub mod grpc_answer;
mod house;
pub mod http_answer;
pub mod inbound;
pub mod retry_after;
pub mod schema;
pub mod spool;
mod target;
pub mod verify;

use suki_relay::config::Config;
use suki_relay::name::Name;

/// The partner secret of every target here.
const SECRET: &[u8] = b"a partner secret of the fuzzers";

/// A config whose every file holds the partner secret.
fn config(text: &str) -> Result<Config, suki_relay::config::Problems> {
    Config::parse(
        text,
        std::path::Path::new("config.yaml"),
        &|name| (name == "SECRET").then(|| "from the environment".to_owned()),
        &|_| Ok(SECRET.to_vec()),
    )
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Both sides of the first byte that is zero.
fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    let at = input.iter().position(|byte| *byte == 0);
    at.map_or((input, &[]), |at| (&input[..at], &input[at + 1..]))
}
