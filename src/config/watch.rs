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
use std::thread;
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
    /// folder that was deleted and made again needs a new watch, and nothing tells so. Blocks.
    ///
    /// # Errors
    /// Why nothing is watched now, and only polling finds what changes.
    pub fn follow(&mut self, files: &[PathBuf]) -> notify::Result<()> {
        let folders = files.iter().map(|file| folder_of(file)).collect();
        let watched = self.rewatch(&folders);
        if watched.is_ok() {
            self.folders = folders;
        } else {
            // Half of the folders would be worse than none: it would seem to work.
            self.watcher = None;
            self.folders.clear();
        }
        watched
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
    // The crate does not look whether its own thread started, and panics at the next call if it has not.
    let thread = thread::Builder::new()
        .spawn(|| ())
        .map_err(notify::Error::io)?;
    let _ = thread.join();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How long until it is time to look, with an event every `every` for `lasting`.
    async fn waited(every: Duration, lasting: Duration) -> Duration {
        let watch = Watch::new();
        let noticed = watch.noticed.clone();
        let began = Instant::now();
        let events = async {
            while began.elapsed() < lasting {
                noticed.notify_one();
                sleep(every).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = watch.time_to_look() => began.elapsed(),
            () = events => unreachable!("they end in waiting"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_looked_at_when_it_pauses_and_one_without_end_all_the_same() {
        let millis = Duration::from_millis;
        let burst = waited(millis(100), millis(1_000)).await;
        assert!(
            (millis(1_400)..=millis(1_600)).contains(&burst),
            "{burst:?}"
        );
        let endless = waited(millis(100), Duration::from_hours(1)).await;
        assert!(
            (millis(4_900)..=millis(5_100)).contains(&endless),
            "{endless:?}"
        );
        let silent = waited(millis(100), Duration::ZERO).await;
        assert!(
            (millis(9_900)..=millis(10_100)).contains(&silent),
            "{silent:?}"
        );
    }
}
