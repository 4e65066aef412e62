//! The program: arguments, exit codes. The plot is in [`suki_relay::cli`].

use std::process::ExitCode;

use clap::Parser;
use suki_relay::cli::{self, Arguments};

fn main() -> ExitCode {
    // One provider, chosen here: rustls panics at first use if features leave it two or none.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    match cli::run(arguments, &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("suki-relay: {:#}", failure.cause);
            ExitCode::from(failure.exit_code)
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one look-up that is passed to the house"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
