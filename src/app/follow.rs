//! Noticing that the config, or a file that it names, is another than the one last seen.

use std::path::PathBuf;

use tokio::signal::unix::Signal;

use crate::config::{Config, Fingerprint, Problems, Watch, WatchMode, contents};

/// The environment, for as long as the process lives.
pub type Environment = &'static (dyn Fn(&str) -> Option<String> + Sync);

/// A version of the config that was not seen before, or why it is none.
pub type Version = Result<Config, Problems>;

/// Follows the files of a config.
pub struct Follower {
    path: PathBuf,
    environment: Environment,
    hangups: Signal,
    watch: Watch,
    mode: WatchMode,
    /// Of the version seen last, good or bad.
    files: Vec<PathBuf>,
    contents: Fingerprint,
    /// The first look is due at once: something may have changed since the config was read.
    looked: bool,
}

impl Follower {
    /// `config` is what was read from `path`; a signal of `hangups` asks to look at once.
    pub fn new(path: PathBuf, environment: Environment, config: &Config, hangups: Signal) -> Self {
        Self {
            path,
            environment,
            hangups,
            watch: Watch::new(),
            mode: WatchMode::Inotify,
            files: config.files.clone(),
            contents: config.contents,
            looked: false,
        }
    }

    /// How changes are noticed, as of the last look.
    pub const fn mode(&self) -> WatchMode {
        self.mode
    }

    /// Waits until something may have changed.
    ///
    /// Cancellation: what changed is found by the next look.
    pub async fn time_to_look(&mut self) {
        if self.looked {
            tokio::select! {
                () = self.watch.time_to_look() => {}
                Some(()) = self.hangups.recv() => {}
            }
        }
    }

    /// Looks: `None` if nothing has changed since the last look.
    ///
    /// Cancellation: what would have been returned is found by the next look.
    pub async fn look(&mut self) -> Option<Version> {
        self.follow();
        self.looked = true;
        let (path, environment) = (self.path.clone(), self.environment);
        let (files, seen) = (self.files.clone(), self.contents);
        // Not here: a file on a network's disk may hang, and a signal to end must still be heard.
        let reading = move || {
            let changed = contents(&files) != seen;
            changed.then(|| Config::read(&path, environment))
        };
        let version = tokio::task::spawn_blocking(reading).await.ok().flatten()?;
        (self.files, self.contents) = match &version {
            Ok(config) => (config.files.clone(), config.contents),
            Err(problems) => (problems.files.clone(), problems.contents),
        };
        // The files may be others now. What changes before their folders are watched is polled.
        self.follow();
        Some(version)
    }

    fn follow(&mut self) {
        let mode = self.watch.follow(&self.files);
        if mode == WatchMode::Poll && self.mode != mode {
            tracing::warn!(
                "the system gives no inotify watches; changes of the config are found by polling: raise \
                 fs.inotify.max_user_instances and max_user_watches to have them noticed at once"
            );
        }
        self.mode = mode;
    }
}
