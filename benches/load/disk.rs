//! What one sync costs on the disk that the spool is measured on.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const SYNCS: usize = 500;

pub fn fdatasync_p50(folder: &Path) -> Duration {
    let mut file = File::create(folder.join("sync")).expect("a file");
    let mut times: Vec<Duration> = (0..SYNCS)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[7; 4096]).expect("written");
            file.sync_data().expect("synced");
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[SYNCS / 2]
}
