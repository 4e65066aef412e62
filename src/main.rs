//! The program: arguments, no core dumps, exit codes. The plot is in [`suki_relay::cli`].

use std::process::ExitCode;

use clap::Parser;
use rustix::io;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use suki_relay::cli::{self, Arguments};

fn main() -> ExitCode {
    if let Err(error) = leave_no_core() {
        eprintln!("suki-relay: a crash may write health data to a core dump: {error}");
    }
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

/// The memory holds bodies and secrets. The limit stops the kernel's own dumps, but none that it pipes to
/// a program (core(5)); the flag stops both, and other processes of the same user that would look inside.
fn leave_no_core() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one look-up that is passed to the house"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
