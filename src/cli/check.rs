//! `suki-relay check`: every problem of a config, at once, and what it would change.

use std::error::Error;
use std::path::PathBuf;

use futures_util::future::ready;
use futures_util::stream::{self, StreamExt};

use super::{ConfigFile, Environment, Failure, innermost, print, runtime};
use crate::config::Config;
use crate::routing::Routing;
use crate::spool::{Spool, Store};
use crate::target::{Reason, Unreached};

/// Connections that are tried at a time.
const AT_ONCE: usize = 16;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Also print what a reload would change where this older version is in use
    ///
    /// Relative paths in it begin at its own folder: keep it beside the new one.
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// Also connect to each target, and send it nothing (one that wants our certificate may refuse it later); and to
    /// the server of `spool.postgres`, and see whether it would keep what it is given
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
    if arguments.connect {
        connect(&config)?;
    }
    print("ok\n")
}

/// Tells of each target that cannot be reached, and then of the spool's server.
fn connect(config: &Config) -> Result<(), Failure> {
    let runtime = runtime()?;
    let unreached = runtime.block_on(unreached(&config.routing));
    // A look-up that nobody waits for any more may take its time still.
    runtime.shutdown_background();
    for told in &unreached {
        eprintln!("{told}");
    }
    if let Store::Postgres(options) = &config.spool {
        Spool::inspect(options).map_err(|refusal| Failure::spool(refusal.into()))?;
    }
    match unreached.len() {
        0 => Ok(()),
        1 => Err(anyhow::anyhow!("a target cannot be reached").into()),
        count => Err(anyhow::anyhow!("{count} targets cannot be reached").into()),
    }
}

/// Those targets that no connection can be made to now, each with what is wrong, by name.
async fn unreached(routing: &Routing) -> Vec<String> {
    let tried = routing.targets().map(|target| async {
        let unreached = target.try_out().await.err()?;
        let (reason, why) = (unreached.reason.as_str(), why(&unreached));
        Some(format!("target `{}` ({reason}): {why}", target.name))
    });
    let tried = stream::iter(tried).buffer_unordered(AT_ONCE);
    let mut told: Vec<_> = tried.filter_map(ready).collect().await;
    told.sort_unstable();
    told
}

fn why(unreached: &Unreached) -> String {
    match (unreached.reason, unreached.source()) {
        (_, Some(cause)) => innermost(cause),
        (Reason::Dns, None) => "its name does not resolve".into(),
        (Reason::Forbidden, None) => {
            "its address is one that is never connected to, or not in its `allow_addresses`".into()
        }
        (Reason::Protocol, None) => "it offers no HTTP/2, which gRPC needs".into(),
        _ => "no connection within its `connect_timeout`".into(),
    }
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
