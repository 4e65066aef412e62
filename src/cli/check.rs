//! `suki-relay check`: every problem of a config, at once, and what it would change.

use std::path::PathBuf;

use super::{ConfigFile, Environment, Failure, print};
use crate::config::Config;
use crate::spool::{Spool, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Also print what a reload would change where this older version is in use
    ///
    /// Relative paths in it begin at its own folder: keep it beside the new one.
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// Also connect to the server of `spool.postgres`, and see whether it would keep what it is given
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(arguments: &Arguments, environment: Environment<'_>) -> Result<(), Failure> {
    let config = read(&arguments.file, environment)?;
    for warning in &config.warnings {
        eprintln!("warning: {}", warning.in_file(&arguments.file.config));
    }
    if let Some(old) = &arguments.against {
        let old = ConfigFile {
            config: old.clone(),
        };
        let old = read(&old, environment)?;
        print(&changes(&old, &config))?;
    }
    if let (true, Store::Postgres(options)) = (arguments.connect, &config.spool) {
        Spool::inspect(options).map_err(|refusal| Failure::spool(refusal.into()))?;
    }
    print("ok\n")
}

fn changes(old: &Config, new: &Config) -> String {
    let changes = old.outline.changes_to(&new.outline).to_string();
    if changes.is_empty() {
        return "changes nothing\n".to_owned();
    }
    changes
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
