//! The command line: one file a command, each thin.
//!
//! Exit codes are from `sysexits.h`: 0 ok, 1 a command that ran and failed, 2 usage, 74 the spool is
//! unusable, 78 the config is refused.

mod check;
mod demo;
mod desk;
mod explain;
mod log;
mod run;
mod send;
mod sink;
mod spool;
mod trust;

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

/// Exit code: the spool cannot be used, or failed (`EX_IOERR`).
pub const EXIT_SPOOL: u8 = 74;
/// Exit code: the config is refused (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// How commands look things up in the environment; `None` is unset.
pub type Environment<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// Durable sidecar relay for Suki webhook notifications.
///
/// Suki posts each notification once and never repeats it. suki-relay verifies its signature, writes
/// it to disk, answers 200 only then, and delivers it to your services until each of them has it.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(flatten)]
    log: log::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    Run(run::Arguments),
    /// Read the config as `run` would and print every problem
    Check(check::Arguments),
    /// Show what would happen to a notification, and why
    Explain(explain::Arguments),
    /// Sign and post notifications as Suki does
    Send(send::Arguments),
    /// Be a target that prints a line for what it receives
    Sink(sink::Arguments),
    /// Look at what the spool holds; replay, release, discard, export
    Spool(spool::Arguments),
    /// Show the whole relay at work in this process, with nothing else needed
    Demo,
    /// Print the JSON Schema of the config file, for editors
    Schema,
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

/// A command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    pub cause: anyhow::Error,
    pub exit_code: u8,
}

/// Runs one command to its end.
pub fn run(arguments: Arguments, environment: Environment<'static>) -> Result<(), Failure> {
    log::hush_panics();
    let log = &arguments.log;
    match arguments.command {
        Command::Run(arguments) => run::run(&arguments, log, environment),
        Command::Check(arguments) => check::run(&arguments, environment),
        Command::Explain(arguments) => explain::run(&arguments, environment),
        Command::Send(arguments) => Ok(send::run(&arguments)?),
        Command::Sink(arguments) => Ok(sink::run(&arguments)?),
        Command::Spool(arguments) => spool::run(&arguments, environment),
        Command::Demo => Ok(demo::run(log)?),
        Command::Schema => print(crate::config::json_schema()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "suki-relay", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// Where the config is, unless told otherwise.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The config file
    #[arg(long, short, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

/// The cause at the bottom is the one that says what to do: "connection refused", "unknown issuer".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A reader that went away (`suki-relay schema | head`) is no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error)
                .context("writing to standard output")
                .into())
        }
        _ => Ok(()),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

impl Failure {
    fn config(cause: anyhow::Error) -> Self {
        Self {
            cause,
            exit_code: EXIT_CONFIG,
        }
    }

    fn spool(cause: anyhow::Error) -> Self {
        Self {
            cause,
            exit_code: EXIT_SPOOL,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(cause: anyhow::Error) -> Self {
        Self {
            cause,
            exit_code: 1,
        }
    }
}
