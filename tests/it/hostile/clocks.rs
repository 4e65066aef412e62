//! Row K01: a wall clock that is set while the relay runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fresh;
use crate::harness::{Passage, Relay, Setup, Target, Watch, Way, eventually, sign};

/// What Debian's package `libfaketime` installs, whatever the machine.
fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("readable").flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.into_iter().find(|file| file.exists());
    found.expect("libfaketime: tests/install")
}

/// The relay's wall clock alone; the monotonic one is the kernel's.
pub struct Clock(PathBuf);

impl Clock {
    pub fn start(folder: &Path, setup: &Setup) -> (Self, Relay) {
        let clock = Self(folder.join("clock"));
        clock.set("+0");
        let mut command = setup.command();
        command
            .args(["--log-level", "trace"])
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", &clock.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let relay = setup.start_by(command);
        (clock, relay)
    }

    /// How far from the real time it is.
    pub fn set(&self, offset: &str) {
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
    retry: {{ initial: 1s, max: 1s, give_up_after: 24h }}
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
    let (at, first) = (sender.generated_at(), fresh());
    let signature = sign(&at, first.as_bytes());
    let send_first = async || {
        let answer = sender.send(&at, &signature, first.clone()).await;
        assert_eq!(answer.expect("an answer").status, 200, "K01");
    };
    send_first().await;
    eventually("K01: the first arrives", async || target.count() == 1).await;
    let mut watch = Watch::begin(&relay);
    clock.set("+315360000");
    // Dropping what is past its time has its turn each second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    clock.set("+0");
    send_first().await;
    let mut owed = BTreeSet::from([first.clone().into_bytes()]);
    // The sender's clock is right. A relay that is a day late, or years ahead, keeps it in quarantine.
    for (offset, timely) in [
        ("+0", true),
        ("+7200", true),
        ("-1800", true),
        ("+315360000", false),
        ("-86400", false),
        ("-2000000000", false),
        ("+0", true),
    ] {
        clock.set(offset);
        let body = watch.goes_on(&relay, &format!("K01: {offset}")).await;
        if timely {
            owed.insert(body);
        }
        let (status, reason) = relay.admin("/livez").await;
        assert_eq!(status, 200, "K01: {offset}: {reason}");
    }
    eventually("K01: what was timely arrives", async || {
        target.taken::<BTreeSet<_>>() == owed
    })
    .await;
    assert_eq!(target.count(), owed.len(), "K01: none of them twice");
    for (reason, count) in [("stale", 1.0), ("future", 2.0)] {
        let series = format!("suki_relay_quarantine{{reason=\"{reason}\"}}");
        let kept = relay.metric(&series).await;
        assert!((kept - count).abs() < 0.1, "K01: {reason}: {kept}");
    }
}

/// Posts one, and waits until an attempt has failed and the next is waited for: from then on it is watched.
async fn post_in_vain(relay: &Relay) -> Watch {
    let answer = relay.sender().post(fresh()).await.expect("an answer");
    assert_eq!(answer.status, 200, "K01");
    let failed = "suki_relay_attempts_total{outcome=\"throttled\",target=\"ehr\"}";
    eventually("K01: an attempt fails", async || {
        relay.metric(failed).await > 0.5
    })
    .await;
    Watch::begin(relay)
}

/// By the clock that it was set by, the next attempt is two hours away.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_waits_when_the_clock_is_set_back_does_not_wait_for_the_clock() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let (clock, relay) = Clock::start(setup.path(), &setup);
    clock.set("+7200");
    let mut watch = post_in_vain(&relay).await;
    clock.set("+0");
    target.mend();
    let delivered = "suki_relay_deliveries_total{result=\"delivered\",target=\"ehr\"}";
    eventually("K01: it is delivered", async || {
        relay.metric(delivered).await > 0.5
    })
    .await;
    watch.goes_on(&relay, "K01: set back").await;
}

/// It gives up before its time, and what it gave up on is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_far_ahead_makes_dead_letters_and_loses_nothing() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let (clock, relay) = Clock::start(setup.path(), &setup);
    let mut watch = post_in_vain(&relay).await;
    clock.set("+315360000");
    let dead = "suki_relay_dead_letters{target=\"ehr\"}";
    eventually("K01: it gives up", async || relay.metric(dead).await > 0.5).await;
    clock.set("+0");
    target.mend();
    let tried = target.count();
    let (status, answer) = relay
        .operator("POST", "/v1/dead-letters/replay", "{}")
        .await;
    assert_eq!(status, 200, "K01: {answer}");
    eventually("K01: it is delivered", async || target.count() > tried).await;
    watch.goes_on(&relay, "K01: set far ahead").await;
}

/// Its target is another relay, which has a certificate: of no use before 1970, and none the worse for it after.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_before_1970_trusts_no_target_and_ends_nothing() {
    const ROW: &str = "K01: before 1970";
    let last = Target::accepting().await;
    let beyond = Setup::new(&to(&last));
    let other = beyond.start();
    let passage = Passage::to(9).await;
    let setup = Setup::new(&format!(
        "
targets:
  - name: ehr
    http:
      url: https://localhost:{}/webhooks/notification
      tls: {{ ca: {} }}
    retry: {{ initial: 100ms, max: 100ms }}
    breaker: {{ probe_after: 50ms, probe_max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
",
        passage.address.port(),
        beyond.path().join("tls.crt").display()
    ));
    let (clock, relay) = Clock::start(setup.path(), &setup);
    let answer = relay.sender().post(fresh()).await.expect("an answer");
    assert_eq!(answer.status, 200, "{ROW}");
    clock.set("-2000000000");
    passage.lead(Way::To(other.sender_address.port()));
    let untrusted = "suki_relay_attempts_total{outcome=\"tls\",target=\"ehr\"}";
    eventually(&format!("{ROW}: it trusts nobody"), async || {
        relay.metric(untrusted).await > 0.5
    })
    .await;
    assert_eq!(last.count(), 0, "{ROW}");
    let mut watch = Watch::begin(&relay);
    clock.set("+0");
    eventually(&format!("{ROW}: it arrives"), async || last.count() == 1).await;
    watch.goes_on(&relay, ROW).await;
    eventually(&format!("{ROW}: the next, too"), async || last.count() == 2).await;
}
