//! Rows S01 and S02: signals, and deaths of every kind, under load. What was answered 200 is delivered, by this relay
//! or by the next one.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use crate::disk::to;
use crate::harness::{CANARY, Relay, Setup, Target, Watch, assert_untold, eventually};
use crate::killloop::{Answers, Load};

/// More answers than this make a load.
const ANSWERS: usize = 50;

struct Place {
    target: Target,
    setup: Setup,
    answers: Answers,
}

impl Place {
    async fn new() -> Self {
        let target = Target::broken().await;
        let setup = Setup::new(&to(&target));
        let answers = Answers::default();
        Self {
            target,
            setup,
            answers,
        }
    }

    fn answered(&self) -> usize {
        self.answers.lock().expect("not poisoned").len()
    }

    async fn more_are_answered(&self, row: &str) {
        let before = self.answered();
        eventually(&format!("{row}: it answers"), async || {
            self.answered() > before + ANSWERS
        })
        .await;
    }

    /// At a relay that has what the ones before it answered 200.
    async fn nothing_is_lost(&self, row: &str) {
        let owed = self.answers.lock().expect("not poisoned").clone();
        let owed = owed.into_iter().filter(|(_, status)| *status == 200);
        let owed: HashSet<Vec<u8>> = owed.map(|(body, _)| body.into_bytes()).collect();
        eventually(
            &format!("{row}: what was answered 200 arrives"),
            async || self.target.taken::<HashSet<_>>().is_superset(&owed),
        )
        .await;
    }
}

/// So many signals of a kind, as fast as they can be sent.
fn send(relay: &Relay, name: &str, count: u32) {
    let script = format!(
        "for n in $(seq {count}); do kill -s {name} {}; done",
        relay.pid()
    );
    let sent = Command::new("sh").args(["-c", &script]).status();
    assert!(sent.expect("sh runs").success());
}

/// Those that mean nothing, or a reload of what has not changed.
const PASSING: [(&str, &str, u32); 5] = [
    ("S01: SIGHUP, a thousand times", "HUP", 1000),
    ("S01: SIGPIPE", "PIPE", 1),
    ("S01: SIGUSR1", "USR1", 1),
    ("S01: SIGUSR2", "USR2", 1),
    ("S01: SIGWINCH", "WINCH", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_end_nothing_disturb_no_load() {
    let place = Place::new().await;
    place.target.mend();
    let relay = place.setup.start_at("trace");
    let load = Load::start(&relay, &place.answers);
    place.more_are_answered("before").await;
    load.stop().await;
    send(&relay, "HUP", 1);
    let mut watch = Watch::begin(&relay);
    watch.kept_thousands();
    for (row, name, count) in PASSING {
        let load = Load::start(&relay, &place.answers);
        send(&relay, name, count);
        place.more_are_answered(row).await;
        load.stop().await;
        watch.goes_on(&relay, row).await;
    }
    place.nothing_is_lost("S01").await;
}

/// What ends a relay, and how it then ends.
type End = (
    &'static str,
    &'static [&'static str],
    fn(ExitStatus) -> bool,
);

const ENDS: [End; 6] = [
    ("S01: SIGTERM", &["TERM"], |ended| ended.success()),
    ("S01: SIGTERM twice", &["TERM", "TERM"], |ended| {
        ended.success()
    }),
    ("S01: SIGINT", &["INT"], |ended| ended.success()),
    ("S01: SIGINT twice", &["INT", "INT"], |ended| {
        ended.success()
    }),
    ("S02: SIGKILL", &["KILL"], |ended| ended.signal() == Some(9)),
    ("S02: SIGABRT", &["ABRT"], |ended| ended.signal() == Some(6)),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_relay_under_load_loses_nothing_that_was_answered_200() {
    let place = Place::new().await;
    for (row, signals, expected) in ENDS {
        place.target.unmend();
        if signals.len() > 1 {
            place
                .setup
                .reword("delay: 0s, deadline: 5s", "delay: 10m, deadline: 1h");
        }
        let mut relay = place.setup.start_at("trace");
        let load = Load::start(&relay, &place.answers);
        place.more_are_answered(row).await;
        for (n, signal) in signals.iter().enumerate() {
            if n > 0 {
                relay.log_line("draining: not ready any more, still accepting");
                place.more_are_answered(row).await;
            }
            relay.signal(signal);
        }
        let ended = relay.ended().await;
        load.stop().await;
        assert!(expected(ended), "{row}: {ended:?}");
        assert_untold(relay.written().concat());
        if signals.len() > 1 {
            place
                .setup
                .reword("delay: 10m, deadline: 1h", "delay: 0s, deadline: 5s");
        }
        place.target.mend();
        let next = place.setup.start_at("trace");
        place.nothing_is_lost(row).await;
        next.is_well(row).await;
    }
}

/// The system maps no more memory for it: who allocates aborts, SQLite cannot map its index, no thread begins. However it
/// ends, it does not say that all is well. (What a cgroup does at its limit is `SIGKILL`.)
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_given_no_memory_ends_and_loses_nothing_that_was_answered_200() {
    const ROW: &str = "S02: no memory";
    let place = Place::new().await;
    let mut relay = place.setup.start_at("trace");
    let load = Load::start(&relay, &place.answers);
    place.more_are_answered(ROW).await;
    let pid = relay.pid().to_string();
    let limit = format!("--as={}:", relay.status_kib("VmSize") * 1024);
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(set.expect("prlimit runs").success(), "{ROW}");
    let large = format!(
        r#"{{"status":"success","session_id":"{CANARY}{}"}}"#,
        "x".repeat(7 << 20)
    );
    let sender = relay.sender();
    let mut posts = 0;
    while relay.end().is_none() {
        let _ = sender.post(large.clone()).await;
        posts += 1;
        assert!(posts < 100, "{ROW}: it lives");
    }
    load.stop().await;
    let ended = relay.ended().await;
    assert!(!ended.success(), "{ROW}: {ended:?}");
    assert_untold(relay.written().concat());
    place.target.mend();
    let next = place.setup.start_at("trace");
    place.nothing_is_lost(ROW).await;
    next.is_well(ROW).await;
}
