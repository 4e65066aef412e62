//! Row K01: a wall clock that is set while the relay runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::fresh;
use crate::harness::{Relay, Setup, Target, eventually};

/// What Debian's package `libfaketime` installs, whatever the machine.
fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("readable").flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.into_iter().find(|file| file.exists());
    found.expect("libfaketime: tests/install")
}

/// The relay's wall clock alone; the monotonic one is the kernel's.
struct Clock(PathBuf);

impl Clock {
    fn start(folder: &Path, setup: &Setup) -> (Self, Relay) {
        let clock = Self(folder.join("clock"));
        clock.set("+0");
        let mut command = setup.command();
        command
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", &clock.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let relay = setup.start_by(command);
        (clock, relay)
    }

    /// How far from the real time it is.
    fn set(&self, offset: &str) {
        let next = self.0.with_extension("next");
        fs::write(&next, offset).expect("writable");
        fs::rename(next, &self.0).expect("renamed");
    }
}

fn to(target: &Target) -> String {
    format!(
        "
targets:
  - name: ehr
    http: {{ url: \"{}\" }}
    retry: {{ initial: 50ms, max: 100ms }}
    breaker: {{ probe_after: 50ms, probe_max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
",
        target.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_stops_nothing_and_refuses_nobody() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let (clock, relay) = Clock::start(setup.path(), &setup);
    let sender = relay.sender();
    let mut owed = BTreeSet::new();
    let mut post = async |timely: bool, offset: &str| {
        let body = fresh();
        let answer = sender.post(body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 200, "K01: {offset}");
        if timely {
            owed.insert(body.into_bytes());
        }
    };
    // The sender's clock is right. A relay that is a day late, or years ahead, keeps it in quarantine.
    for (offset, timely) in [
        ("+0", true),
        ("+3600", true),
        ("-1800", true),
        ("+315360000", false),
        ("-86400", false),
        ("-2000000000", false),
        ("+0", true),
    ] {
        clock.set(offset);
        post(timely, offset).await;
        let (status, reason) = relay.admin("/livez").await;
        assert_eq!(status, 200, "K01: {offset}: {reason}");
    }
    eventually("K01: what was timely arrives", async || {
        let requests = target.requests();
        let taken: BTreeSet<_> = requests.iter().map(|r| r.body.to_vec()).collect();
        taken == owed
    })
    .await;
    for (reason, count) in [("stale", 1.0), ("future", 2.0)] {
        let series = format!("suki_relay_quarantine{{reason=\"{reason}\"}}");
        let kept = relay.metric(&series).await;
        assert!((kept - count).abs() < 0.1, "K01: {reason}: {kept}");
    }
}
