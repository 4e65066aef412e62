//! Generates the server from the proto file; protox reads it, so that no `protoc` is needed.

use std::error::Error;

/// The folder that holds `suki/relay/v1`: where you copy it to, in a crate of your own.
const PROTO: &str = "../..";
const FILE: &str = "suki/relay/v1/notification_sink.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}/{FILE}");
    let files = protox::compile([FILE], [PROTO])?;
    tonic_prost_build::configure()
        .build_client(false)
        .compile_fds(files)?;
    Ok(())
}
