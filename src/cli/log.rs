//! Logging: one line an event, to standard output, and never in anybody's way.
//!
//! Lines wait in a bounded queue for a thread that writes them; when it is full they are dropped and
//! counted, so a reader that stopped reading stops nothing else. A panic logs its place and not its
//! message, which might quote what it worked on.

use std::io::{IsTerminal, stdout};

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::app::LinesDropped;

/// Lines that may wait for the writer.
const LINES_WAITING_MAX: usize = 8192;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// How log lines look; text on a terminal, else json
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// What is logged: error, warn, info, debug, trace, or directives such as `suki_relay::ingress=debug`
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Writes out what waits when it is dropped; keep it until the end.
pub(super) struct Log {
    lines_dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl Log {
    pub(super) fn lines_dropped(&self) -> LinesDropped {
        let counter = self.lines_dropped.clone();
        Box::new(move || counter.dropped_lines() as u64)
    }
}

/// Starts logging for the whole process; once.
pub(super) fn start(options: &Options) -> anyhow::Result<Log> {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .thread_name("log")
        .finish(stdout());
    let lines_dropped = writer.error_counter();
    let filter = EnvFilter::try_new(&options.log_level)
        .map_err(|error| anyhow::anyhow!("--log-level {}: {error}", options.log_level))?;
    let terminal = stdout().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let format = options
        .log_format
        .unwrap_or(if terminal { Format::Text } else { Format::Json });
    let set = match format {
        Format::Text => subscriber.with_ansi(terminal).compact().try_init(),
        Format::Json => subscriber
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("logging is set up already: {error}"))?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(place, "a task panicked; this is a defect, please report it");
    }));
    Ok(Log {
        lines_dropped,
        _writer: guard,
    })
}
