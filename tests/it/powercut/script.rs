//! What is done to the spool: seeded sequences, made anew from their seed wherever they are needed.
//!
//! [`driver`] runs in a process of its own, under `strace`. It opens the real spool through its door and
//! prints what it is about to do, and then what it was promised: these lines are calls to `write`, so the trace orders
//! them among those to the disk.

use std::io::{Write, stdin};
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use prometheus::Registry;
use suki_relay::clock::Timestamp;
use suki_relay::name::Name;
use suki_relay::notification::Notification;
use suki_relay::secret::Secret;
use suki_relay::spool::{
    Kept, Metrics, Options, Reason, Settled, Settlement, Spool, Submission, Verdict,
};
use suki_relay::verify::{Keyring, Signed, signature};
use tokio::task::JoinSet;

use super::ledger::{Entry, Ledger};
use crate::harness::SECRET;

pub const TARGETS: [&str; 3] = ["audit", "billing", "ehr"];
const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);
/// Past every retry.
pub const LATER: Timestamp = Timestamp::from_millis(4_000_000_000_000);

/// What one process does to a spool.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    pub seed: u64,
    pub steps: usize,
    /// Number of its first new submission. The last ones before it are submitted again.
    pub first: u32,
}

enum Step {
    /// So many at once: as a rule they share a commit.
    Accept(u32),
    Settle(usize),
    Reopen,
}

impl Script {
    fn steps(self) -> Vec<Step> {
        let mut chance = Rng::with_seed(self.seed.wrapping_add(u64::from(self.first)));
        let step = |_| match chance.u8(0..10) {
            0..6 => Step::Accept(*chance.choice(&[1, 1, 2, 5]).expect("some")),
            6..9 => Step::Settle(chance.usize(1..4)),
            _ => Step::Reopen,
        };
        (0..self.steps).map(step).collect()
    }

    pub fn to_line(self, folder: &Path) -> String {
        let Self { seed, steps, first } = self;
        format!("{seed} {steps} {first} {}\n", folder.display())
    }

    fn of_line(line: &str) -> Option<(Self, &Path)> {
        let mut words = line.trim_end().splitn(4, ' ');
        let script = Self {
            seed: words.next()?.parse().ok()?,
            steps: words.next()?.parse().ok()?,
            first: words.next()?.parse().ok()?,
        };
        Some((script, Path::new(words.next()?)))
    }
}

/// The capacity is so small that the log is copied at 256 KiB and started over at 1 MiB.
pub fn open(folder: &Path) -> Result<Spool, String> {
    let options = Options {
        path: folder.to_owned(),
        capacity_bytes: 8 * 1024 * 1024,
        keys: None,
        keep_delivered: Duration::from_hours(1_000_000),
        unverified_capacity_bytes: 0,
    };
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    Spool::open(&options, metrics, |_| ()).map_err(|error| error.to_string())
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// The same for the same seed and number.
pub fn submission(seed: u64, number: u32) -> Submission {
    let mut chance = Rng::with_seed(seed ^ (u64::from(number) << 32));
    let (verdict, quarantine) = match chance.u8(0..10) {
        0 => (Verdict::Invalid, Some(Reason::Invalid)),
        1 => (Verdict::Accepted, Some(Reason::Unrouted)),
        2 => (Verdict::Accepted, Some(Reason::RouteError)),
        _ => (Verdict::Accepted, None),
    };
    let routed = !matches!(quarantine, Some(Reason::Invalid | Reason::Unrouted));
    let mut targets: Vec<Name> = TARGETS.map(name).into();
    chance.shuffle(&mut targets);
    targets.truncate(if routed { chance.usize(1..=3) } else { 0 });
    Submission {
        notification: notification(number, &mut chance),
        verdict,
        targets,
        quarantine,
    }
}

fn notification(number: u32, chance: &mut Rng) -> Notification {
    let filling = match chance.u8(0..20) {
        0..13 => chance.usize(0..400),
        13..18 => chance.usize(3900..4300),
        _ => chance.usize(8000..20_000),
    };
    let mut body = format!("{{\"n\":{number}}}").into_bytes();
    let head = body.len();
    body.resize(head + filling, 0);
    chance.fill(&mut body[head..]);
    let generated_at = (NOW.as_millis() + i64::from(number)).to_string();
    let signed = Signed {
        signature: signature(&secret(), &generated_at, &body),
        generated_at,
        body: body.into(),
    };
    let types = [None, Some("application/json".into()), Some("text/x".into())];
    verified(signed, types[chance.usize(..types.len())].clone())
}

/// The same submission once more.
pub fn again(sent: &Submission) -> Submission {
    let notification = &sent.notification;
    let signed = Signed {
        generated_at: notification.generated_at.clone(),
        signature: notification.signature.clone(),
        body: notification.body.clone(),
    };
    Submission {
        notification: verified(signed, notification.content_type.clone()),
        verdict: sent.verdict,
        targets: sent.targets.clone(),
        quarantine: sent.quarantine,
    }
}

fn verified(signed: Signed, content_type: Option<String>) -> Notification {
    let keyring = Keyring::new([(name("current"), &secret())]);
    let verified = keyring.verify(signed).expect("verifies");
    Notification::new(verified, name("suki"), NOW, content_type)
}

fn secret() -> Secret {
    Secret::from_text(SECRET.into()).expect("a secret")
}

#[test]
#[ignore = "no test: the power cuts run it in a process of its own"]
fn driver() {
    let mut line = String::new();
    stdin().read_line(&mut line).expect("readable");
    let Some((script, folder)) = Script::of_line(&line) else {
        return;
    };
    runtime().block_on(run(script, folder));
}

pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
}

async fn run(script: Script, folder: &Path) {
    let mut spool = open(folder).expect("opens");
    let mut next = script.first;
    accept(&spool, script.seed, next.saturating_sub(5)..next).await;
    let mut chance = Rng::with_seed(!script.seed);
    for step in script.steps() {
        match step {
            Step::Accept(count) => {
                accept(&spool, script.seed, next..next + count).await;
                next += count;
            }
            Step::Settle(count) => settle(&spool, &mut chance, count).await,
            Step::Reopen => {
                drop(spool);
                spool = open(folder).expect("opens");
            }
        }
    }
}

async fn accept(spool: &Spool, seed: u64, numbers: std::ops::Range<u32>) {
    let mut waiting = JoinSet::new();
    for number in numbers {
        tell(&Entry::Tried(number));
        let spool = spool.clone();
        let submission = submission(seed, number);
        waiting.spawn(async move {
            let verdict = submission.verdict;
            let kept = spool.accept(submission).await.expect("is kept");
            assert!(kept == Kept::Now || kept == Kept::Before(verdict));
            tell(&Entry::Kept(number));
        });
    }
    waiting.join_all().await;
}

async fn settle(spool: &Spool, chance: &mut Rng, count: usize) {
    let target = TARGETS[chance.usize(..TARGETS.len())];
    let page = spool.due(&name(target), LATER, 100).await.expect("reads");
    for due in chance.choose_multiple(page.deliveries, count) {
        let result = match chance.u8(0..4) {
            0 => Settled::DeadLettered,
            1 => Settled::Retry { due_at: NOW },
            _ => Settled::Delivered,
        };
        let number = Ledger::number_of(&due.record.body).expect("one of ours");
        tell(&Entry::Settling(number, target, result));
        let settlement = Settlement {
            key: due.key,
            at: NOW,
            took: Duration::from_millis(5),
            outcome: "delivered",
            result,
        };
        spool.settle(settlement).await.expect("is written");
        tell(&Entry::Settled(number, target, result));
    }
}

/// One `write`, and done when this returns.
fn tell(entry: &Entry) {
    let line = format!("{entry}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("told");
}
