//! When to look at the config's files again.
//!
//! Folders are watched, not files: a file that is replaced takes its watch with it, and Kubernetes
//! replaces by renaming a link beside the file. What an event says is not believed, as filesystems differ
//! in what they say; it only means "look again". Events come in bursts, so it waits until they pause.
//! Where the system gives no watches (there are limits for each user), or forgets to tell, looking every
//! [`POLL_EVERY`] finds the change.
//!
//! Reading makes no events that count, so that looking is no reason to look.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

/// Look this often in any case.
pub const POLL_EVERY: Duration = Duration::from_secs(10);
/// Events are over when there was none for so long.
const PAUSE: Duration = Duration::from_millis(500);
/// Look after so long even if they go on.
const PAUSE_WITHIN: Duration = Duration::from_secs(5);

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Inotify,
    Poll,
}

/// Watches the folders of some files. Dropping it ends that.
pub struct Watch {
    noticed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Inotify, Self::Poll];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Poll => "poll",
        }
    }
}

impl Watch {
    /// Nothing is watched yet.
    pub fn new() -> Self {
        Self {
            noticed: Arc::default(),
            watcher: None,
            folders: BTreeSet::new(),
        }
    }

    /// Watches the folders of these files from now on, and no others. To be called before each look: a
    /// folder that was deleted and made again needs a new watch, and nothing tells so.
    pub fn follow(&mut self, files: &[PathBuf]) -> Mode {
        let folders = files.iter().map(|file| folder_of(file)).collect();
        if self.rewatch(&folders).is_ok() {
            self.folders = folders;
            return Mode::Inotify;
        }
        // Half of the folders would be worse than none: it would seem to work.
        self.watcher = None;
        self.folders.clear();
        Mode::Poll
    }

    /// Waits until it is time to look.
    ///
    /// Cancellation: may forget an event; the next poll finds what it was about.
    pub async fn time_to_look(&self) {
        tokio::select! {
            () = self.noticed.notified() => self.pause().await,
            () = sleep(POLL_EVERY) => {}
        }
    }

    fn rewatch(&mut self, folders: &BTreeSet<PathBuf>) -> notify::Result<()> {
        if self.watcher.is_none() {
            self.watcher = Some(watcher(self.noticed.clone())?);
        }
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        for folder in &self.folders {
            // Fails if the folder is gone, which is as well.
            let _ = watcher.unwatch(folder);
        }
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(())
    }

    async fn pause(&self) {
        let latest = Instant::now() + PAUSE_WITHIN;
        loop {
            let pause = (Instant::now() + PAUSE).min(latest);
            if timeout_at(pause, self.noticed.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

fn watcher(noticed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error is an overflow, or a watch that ended: all the more reason to look.
        let counts = event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_)));
        if counts {
            noticed.notify_one();
        }
    })
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
