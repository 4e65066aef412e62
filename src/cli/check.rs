//! `suki-relay check`: every problem of a config, at once.

use super::{ConfigFile, Environment, Failure, print};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments, environment: Environment<'_>) -> Result<(), Failure> {
    let config = read(&arguments.file, environment)?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    print("ok\n")
}

/// The config of a command, or its problems, one a line.
pub(super) fn read(file: &ConfigFile, environment: Environment<'_>) -> Result<Config, Failure> {
    Config::read(&file.config, environment).map_err(|problems| {
        let count = problems.problems.len();
        let problem = if count == 1 { "problem" } else { "problems" };
        Failure::config(anyhow::anyhow!(
            "the config is refused, {count} {problem}:\n{problems}"
        ))
    })
}
