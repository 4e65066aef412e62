//! A flood of forged requests, ten for each good one: the good ones are answered 200 all the same.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::client::Load;
use super::process::Server;
use super::{Row, SECRET};

const RUN: Duration = Duration::from_secs(10);
const GOOD_CONNECTIONS: usize = 4;
/// Each forged one costs its sender a signature too; the answer comes without a commit to wait for.
const FORGED_CONNECTIONS: usize = 64;
/// Forged ones for each good one, at least.
const TIMES: f64 = 10.0;

pub fn measure() -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    certificate(folder.path());
    let relay = Server::relay(folder.path(), "flood", None, false);
    let good = Load::new(relay.address, &relay.certificate, SECRET);
    let forged = Load::new(relay.address, &relay.certificate, "no-secret-of-this-relay");
    let alone = good.run(GOOD_CONNECTIONS, RUN / 3);
    let (good, forged) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| forged.run(FORGED_CONNECTIONS, RUN));
        let good = good.run(GOOD_CONNECTIONS, RUN);
        (good, flood.join().expect("it ends"))
    });
    println!(
        "good ones, alone and in the flood: {:.0} and {:.0} a second, p99 {:.1?} and {:.1?}; forged: {:.0} a second",
        alone.rate(),
        good.rate(),
        alone.p99(),
        good.p99(),
        forged.rate(),
    );
    assert_eq!(forged.refused, forged.answered, "no forged one is taken");
    #[allow(clippy::cast_precision_loss)]
    let failed = good.refused as f64 * 100.0 / good.answered as f64;
    vec![
        Row::at_most("good ones that fail in the flood, %", failed, 0.1),
        Row::at_most(
            "good ones for each 10 forged ones of that flood",
            good.rate() * TIMES / forged.rate(),
            1.0,
        ),
    ]
}

pub fn certificate(folder: &Path) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(folder.join("tls.crt"), pair.cert.pem()).expect("writable");
    fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).expect("writable");
    fs::write(folder.join("secret"), SECRET).expect("writable");
}
