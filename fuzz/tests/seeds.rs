//! The seeds of every target, once each: what was found before stays found, and the targets stay whole.

use std::path::Path;
use std::{fs, panic, process};

use suki_relay_fuzz::{
    config, expression, grpc_answer, http_answer, inbound, retry_after, schema, spool, verify,
};

const TARGETS: [(&str, fn(&[u8])); 9] = [
    ("config", config::try_one),
    ("expression", expression::try_one),
    ("grpc_answer", grpc_answer::try_one),
    ("http_answer", http_answer::try_one),
    ("inbound", inbound::try_one),
    ("retry_after", retry_after::try_one),
    ("schema", schema::try_one),
    ("spool", spool::try_one),
    ("verify", verify::try_one),
];

#[test]
fn every_seed_of_every_target_holds() {
    // As under libFuzzer, a panic that the relay would contain is a finding too.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        tell(panic);
        process::abort();
    }));
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (target, try_one) in TARGETS {
        let of_target = fs::read_dir(seeds.join(target)).expect("seeds");
        let mut tried = 0;
        for seed in of_target {
            let path = seed.expect("readable").path();
            eprintln!("{}", path.display());
            try_one(&fs::read(path).expect("readable"));
            tried += 1;
        }
        assert!(tried > 0, "{target} has no seeds");
    }
}
