//! `suki-relay run`: the relay, until a signal.

use std::time::Duration;

use anyhow::Context;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigFile, Environment, Failure, check, log, runtime};
use crate::app::{self, Follower, Relay, StartError};
use crate::config::{Config, mounted_alone};
use crate::trace::Tracer;

/// How long threads that hang on a disk may hold up the end of the process.
const THREADS_WAIT: Duration = Duration::from_secs(1);
/// How long a collector may: a polite end waits for the last spans to be taken.
const SPANS_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(
    arguments: &Arguments,
    options: &log::Options,
    environment: Environment<'static>,
) -> Result<(), Failure> {
    let log = log::start(options)?;
    keep_memory_private();
    let config = check::read(&arguments.file, environment)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for file in mounted_alone(&config.files) {
        tracing::warn!(
            file = %file.display(),
            "this file is mounted by itself (subPath), and so will never change; mount its folder to have \
             updates followed"
        );
    }
    let runtime = runtime()?;
    let tracer = {
        let _sender = runtime.enter();
        tracer(environment)
    };
    let ended = runtime.block_on(async {
        let hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let path = arguments.file.config.clone();
        let follower = Follower::new(path, environment, &config, hangups);
        relay(config, follower, log.logging(), tracer.clone()).await
    });
    if ended.is_ok() {
        tracer.end(SPANS_WAIT);
    }
    runtime.shutdown_timeout(THREADS_WAIT);
    ended
}

/// What this process has in hand is health data and secrets: whatever befalls it leaves no core, and no process of the
/// same user may look into it. The limit alone would not do: the kernel ignores it where cores go to a program.
fn keep_memory_private() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let kept = setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = kept {
        tracing::warn!(%error, "core dumps cannot be turned off; see to it that the host makes none");
    }
}

/// Traces are for looking on: without them the relay works.
fn tracer(environment: Environment<'_>) -> Tracer {
    Tracer::from_environment(&environment).unwrap_or_else(|error| {
        tracing::warn!("no traces are exported: {error}");
        Tracer::default()
    })
}

async fn relay(
    config: Config,
    mut follower: Follower,
    logging: app::Logging,
    tracer: Tracer,
) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    // Whoever sends one of these means another program: it must not end this one.
    let _ignored = [SignalKind::user_defined1(), SignalKind::user_defined2()].map(signal);
    let mut relay = Relay::start(config, logging, tracer)
        .await
        .map_err(start_failure)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        failure = relay.work(&mut follower) => return Err(work_failure(failure)),
    }
    // A second signal cuts the politeness short: what is on disk stays there either way.
    tokio::select! {
        drained = relay.drain() => drained.map_err(work_failure)?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Spool(_) | StartError::Read(_) => Failure::spool(error.into()),
        StartError::Bind { .. } | StartError::Metrics(_) | StartError::Panicked => {
            anyhow::Error::new(error).into()
        }
    }
}

fn work_failure(failure: app::Failure) -> Failure {
    match failure {
        app::Failure::Spool(_) => Failure::spool(failure.into()),
        app::Failure::Worker(_) => anyhow::Error::new(failure).into(),
    }
}
