//! That nothing is unbounded, measured: each row has a figure and what it may be at most.
//!
//! `cargo bench --bench bounds [-- PART…]` runs all parts, or those named: `judge`, `flood`, `bodies`, `outputs`. It
//! ends with 1 if a bound is missed. Who has a connection's place when all are taken is no matter of time, and
//! tested: `src/ingress/tests/places.rs`.

#![allow(clippy::expect_used)] // a failed measurement has nobody to recover for

use std::process::ExitCode;

mod bodies;
mod flood;
mod judge;
mod outputs;

// Another bench's parts; not all of them are for this one.
#[allow(dead_code)]
#[path = "../load/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../load/process.rs"]
mod process;

const SECRET: &str = "whsec-bench-partner-secret-0001";

type Measure = fn() -> Vec<Row>;

/// One figure.
pub struct Row {
    what: String,
    value: f64,
    most: f64,
}

impl Row {
    pub fn at_most(what: impl Into<String>, value: f64, most: f64) -> Self {
        let what = what.into();
        Self { what, value, most }
    }
}

fn main() -> ExitCode {
    let parts: [(&str, Measure); 4] = [
        ("judge", judge::measure),
        ("flood", flood::measure),
        ("bodies", bodies::measure),
        ("outputs", outputs::measure),
    ];
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut rows = Vec::new();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            rows.extend(measure());
        }
    }
    println!("\n{:<72} {:>9}   at most", "", "measured");
    let mut missed = 0;
    for Row { what, value, most } in rows {
        let word = if value <= most { "ok" } else { "MISSED" };
        missed += u8::from(value > most);
        println!("{what:<72} {value:>9.2}   {most:<8} {word}");
    }
    ExitCode::from(missed.min(1))
}
