//! Logging: one line an event, to standard output, and never in anybody's way.
//!
//! Lines wait in a bounded queue for a thread that writes them; when it is full they are dropped and
//! counted, so a reader that stopped reading stops nothing else. A panic tells its place and not its
//! message, which might quote what it worked on.
//!
//! Whatever level is asked for, other crates are heard from `warn` upwards only: what they print below
//! that is theirs to choose, and they work on header and body bytes: signatures, and what patients said.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::Arc;

use clap::ValueEnum;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use crate::admin::operator::SetLogLevel;
use crate::app::Logging;

/// Lines that may wait for the writer.
const LINES_WAITING_MAX: usize = 8192;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// How log lines look; text on a terminal, else json
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// What is logged: error, warn, info, debug, trace, or directives such as `suki_relay::ingress=debug`
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL", value_parser = directives)]
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
    set_level: SetLogLevel,
    _writer: WorkerGuard,
}

impl Log {
    /// What a relay reads and sets of it.
    pub(super) fn logging(&self) -> Logging {
        let counter = self.lines_dropped.clone();
        Logging {
            lines_dropped: Box::new(move || counter.dropped_lines() as u64),
            set_level: self.set_level.clone(),
        }
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
    let (filter, in_use) = reload::Layer::new(filter);
    let set_level: SetLogLevel = Arc::new(move |text| {
        let text = directives(text)?;
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        in_use.reload(filter).map_err(|error| error.to_string())
    });
    let terminal = stdout().is_terminal();
    let format = options
        .log_format
        .unwrap_or(if terminal { Format::Text } else { Format::Json });
    // Without the module: `target` is this house's word for where notifications go.
    let lines = fmt::layer().with_target(false).with_writer(writer);
    let lines = match format {
        Format::Text => lines.with_ansi(terminal).compact().boxed(),
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
    };
    let may_be_heard = filter_fn(|event| *event.level() <= Level::WARN || is_ours(event.target()));
    tracing_subscriber::registry()
        .with(may_be_heard)
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging is set up already: {error}"))?;
    Ok(Log {
        lines_dropped,
        set_level,
        _writer: guard,
    })
}

/// From now on a panic tells its place alone: in the log once there is one, before on standard error.
pub(super) fn hush_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, "a task panicked; this is a defect, please report it");
        } else {
            // Within a panic nothing may panic.
            let _ = writeln!(
                stderr(),
                "suki-relay: panicked at {place}; this is a defect, please report it"
            );
        }
    }));
}

/// A level is a level and not the name of a crate: `inof` would silence everything.
fn directives(text: &str) -> Result<String, String> {
    for part in text.split(',').map(str::trim) {
        // An empty text parses as a level.
        let level = !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        if !level && !part.contains(['=', '[']) {
            return Err(format!(
                "`{part}` is no level; write error, warn, info, debug, trace or off, or MODULE=LEVEL"
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn is_ours(target: &str) -> bool {
    let rest = target.strip_prefix("suki_relay");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_crate_is_ours() {
        assert!(is_ours("suki_relay") && is_ours("suki_relay::ingress"));
        assert!(!is_ours("suki_relay_spy") && !is_ours("h2::codec") && !is_ours(""));
    }

    #[test]
    fn a_panic_tells_its_place_and_nothing_of_its_message() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let lines = fmt::layer().with_writer(move || writer.try_clone().expect("a pipe"));
        let subscriber = tracing_subscriber::registry().with(lines);
        let theirs = std::panic::take_hook();
        hush_panics();
        let panicked = tracing::subscriber::with_default(subscriber, || {
            std::panic::catch_unwind(|| panic!("Jane Doe"))
        });
        std::panic::set_hook(theirs);
        assert!(panicked.is_err());
        let mut told = String::new();
        std::io::Read::read_to_string(&mut reader, &mut told).expect("text");
        assert!(told.contains(file!()) && told.contains("defect"), "{told}");
        assert!(!told.contains("Jane"), "{told}");
    }

    #[test]
    fn a_misspelt_level_is_refused_and_directives_are_not() {
        for good in ["info", "OFF", "warn,suki_relay::ingress=debug"] {
            assert_eq!(directives(good).as_deref(), Ok(good));
        }
        for bad in ["", "inof", "suki_relay=loud", "info,chatty"] {
            assert!(directives(bad).is_err(), "{bad}");
        }
    }
}
