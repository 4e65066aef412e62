//! Noticing that the config, or a file that it names, is another than the one last seen.

use std::panic::{AssertUnwindSafe, catch_unwind};
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
        self.looked = true;
        let (path, environment) = (self.path.clone(), self.environment);
        let (files, seen) = (self.files.clone(), self.contents);
        let mut watch = std::mem::take(&mut self.watch);
        // Not here: a file on a network's disk may hang, and a signal to end must still be heard.
        let looking = move || {
            let mut watched = watch.follow(&files);
            let found = contents(&files);
            if found == seen {
                return (watch, watched, None);
            }
            let reading = AssertUnwindSafe(|| Config::read(&path, environment));
            let version = catch_unwind(reading)
                .unwrap_or_else(|_| Err(Problems::of_panic(&path, files.clone(), found)));
            // The files may be others now. What changes before their folders are watched is polled.
            watched = watch.follow(files_of(&version));
            (watch, watched, Some(version))
        };
        let looked = tokio::task::spawn_blocking(looking).await;
        // It does not panic; if it did, the next look would begin with a new watch.
        let (watch, watched, version) = looked.ok()?;
        self.watch = watch;
        self.note(watched);
        let version = version?;
        self.files = files_of(&version).to_vec();
        self.contents = match &version {
            Ok(config) => config.contents,
            Err(problems) => problems.contents,
        };
        Some(version)
    }

    fn note(&mut self, watched: notify::Result<()>) {
        let Err(error) = watched else {
            self.mode = WatchMode::Inotify;
            return;
        };
        if self.mode != WatchMode::Poll {
            tracing::warn!(
                %error,
                "the config's folders cannot be watched; changes are found by polling. If it is for want of inotify \
                 instances or watches, raise fs.inotify.max_user_instances or max_user_watches"
            );
        }
        self.mode = WatchMode::Poll;
    }
}

fn files_of(version: &Version) -> &[PathBuf] {
    match version {
        Ok(config) => &config.files,
        Err(problems) => &problems.files,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    static FAILS: AtomicBool = AtomicBool::new(false);

    fn environment(_: &str) -> Option<String> {
        assert!(!FAILS.load(Ordering::SeqCst), "quotes a secret");
        None
    }

    #[tokio::test]
    async fn a_panic_of_the_reading_is_a_problem_and_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.yaml");
        let text = "
listen: { address: 127.0.0.1:0, tls: { self_signed: [localhost] } }
sources: [{ name: suki, path: /x, secrets: [{ name: a, file: secret }, { name: b, env: B, optional: true }] }]
spool: { disk: { path: spool } }
targets: [{ name: t, http: { url: 'http://127.0.0.1:9/' } }]
routes: [{ name: all, to: [t] }]
";
        fs::write(&path, text).expect("writes");
        fs::write(folder.path().join("secret"), "a secret").expect("writes");
        let config = Config::read(&path, &environment).expect("a config");
        let hangups = signal(SignalKind::hangup()).expect("a handler");
        let mut follower = Follower::new(path.clone(), &environment, &config, hangups);
        assert!(follower.look().await.is_none());

        FAILS.store(true, Ordering::SeqCst);
        fs::write(folder.path().join("secret"), "another").expect("writes");
        let problems = follower.look().await.expect("seen").expect_err("it fails");
        assert!(problems.one_line().contains("defect"), "{problems}");
        assert!(follower.look().await.is_none(), "it is the same still");

        FAILS.store(false, Ordering::SeqCst);
        fs::write(folder.path().join("secret"), "a third").expect("writes");
        let config = follower.look().await.expect("the other file is followed");
        assert!(config.is_ok());
    }
}
