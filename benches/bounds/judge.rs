//! What it costs to judge the worst body: signature, schema, and a route that looks at a field of it. One that looks
//! at all of it (`exists`) is told apart: what that costs is the route's.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use rustix::time::{ClockId, clock_gettime};
use suki_relay::clock::Timestamp;
use suki_relay::config::Config;
use suki_relay::notification::Notification;
use suki_relay::routing::{Routing, judge};
use suki_relay::schema::VALUES_MAX;
use suki_relay::secret::Secret;
use suki_relay::verify::{Signed, signature};

use super::{Row, SECRET};

const CONFIG: &str = "
listen: { address: 127.0.0.1:0, tls: { self_signed: [localhost] } }
sources: [{ name: suki, path: /in, secrets: [{ name: current, env: SECRET }] }]
targets: [{ name: t, http: { url: 'http://127.0.0.1:1/' } }]
routes: [{ name: all, when: 'body.status == \"success\"', to: [t] }]
";

/// Bodies that are valid and dense in values, of which there are as many as may be: what each repeats, and what
/// that counts for.
const DENSE: [(&str, &str, usize); 6] = [
    ("zeros", "0,", 1),
    ("empty strings", "\"\",", 1),
    ("short strings", "\"a\",", 1),
    ("empty lists", "[],", 3),
    ("lists of one", "[0],", 3),
    ("maps of one", "{\"a\":0},", 5),
];

const MIB: usize = 1 << 20;

pub fn measure() -> Vec<Row> {
    let routing = routing_of(CONFIG);
    for size in [
        16 << 10,
        32 << 10,
        64 << 10,
        128 << 10,
        256 << 10,
        512 << 10,
        MIB,
        8 * MIB,
    ] {
        let (worst, took) = worst(&routing, size);
        println!("judging {} KiB of {worst}: {took:.1?} of CPU", size >> 10);
    }
    let walking = CONFIG.replace(
        "body.status",
        "body.additional_info.a.exists(x, x == 0 && false) || body.status",
    );
    let all = routing_of(&walking);
    let (what, took) = worst(&all, MIB);
    println!("judging 1024 KiB of {what} by a route that looks at all of it: {took:.1?} of CPU");
    let (what, took) = worst(&routing, MIB);
    vec![Row::at_most(
        format!("CPU to judge the worst 1 MiB ({what}), ms"),
        took.as_secs_f64() * 1000.0,
        50.0,
    )]
}

fn routing_of(config: &str) -> Routing {
    let env = |_: &str| Some(SECRET.to_owned());
    let config = Config::parse(config, Path::new("bounds.yaml"), &env, &|_| {
        Err(std::io::ErrorKind::NotFound.into())
    });
    config.expect("a config").routing
}

fn worst(routing: &Routing, bytes: usize) -> (&'static str, Duration) {
    let bodies = DENSE.map(|(what, unit, weight)| (what, dense(unit, weight, bytes)));
    let bodies = bodies.into_iter().chain([("keys of one map", keys(bytes))]);
    let each = bodies.map(|(what, body)| {
        let mut tries: Vec<_> = (0..5).map(|_| once(routing, &body)).collect();
        tries.sort_unstable();
        (what, tries[2])
    });
    let worst = each.max_by_key(|(_, took)| *took);
    worst.expect("some")
}

/// What is left of it is one text that takes long to read.
fn dense(unit: &str, weight: usize, bytes: usize) -> Bytes {
    let open = r#"{"status":"success","session_id":"s","additional_info":{"a":["#;
    let close = r#""]}}"#;
    let room = bytes - open.len() - close.len() - 1;
    let count = ((VALUES_MAX - 20) / weight).min(room / unit.len());
    let text = r"\u00e9".repeat((room - count * unit.len()) / 6);
    (open.to_owned() + &unit.repeat(count) + "\"" + &text + close).into()
}

/// One map, with as many keys as may be.
fn keys(bytes: usize) -> Bytes {
    let open = r#"{"status":"success","session_id":"s","additional_info":{"a":{"#;
    let close = r#""k":0}}}"#;
    let room = bytes - open.len() - close.len();
    let keys = (0..(VALUES_MAX - 20) / 3).map(|n| format!("\"{n:x}\":0,"));
    let mut all = open.to_owned();
    for key in keys.take(room / 10) {
        all += &key;
    }
    (all + close).into()
}

fn once(routing: &Routing, body: &Bytes) -> Duration {
    let source = &routing.sources()[0];
    let generated_at = Timestamp::now().as_millis().to_string();
    let secret = Secret::from_text(SECRET.into()).expect("a secret");
    let signed = Signed {
        signature: signature(&secret, &generated_at, body),
        generated_at,
        body: body.clone(),
    };
    let before = cpu();
    let verified = source.keyring.verify(signed).expect("verifies");
    let name = source.name.clone();
    let notification = Notification::new(verified, name, Timestamp::now(), None);
    let judged = judge(routing, source, &HeaderMap::new(), notification);
    let took = cpu().saturating_sub(before);
    assert_eq!(
        judged.submission.targets.len(),
        1,
        "it is valid, and routed"
    );
    took
}

/// Of this thread.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.unsigned_abs(),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
