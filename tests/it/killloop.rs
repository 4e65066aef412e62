//! The kill loop: what was answered is where it belongs, whatever happens to the process and its targets.
//!
//! Cycles of load, reloads, and `SIGKILL` at a random moment. Senders keep a ledger of what they were answered, targets
//! of what they took; at the end both are held against each other and against all that the spool holds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::{CANARY, Relay, Setup, Target, assert_untold, eventually, knob};

const SENDERS: usize = 8;

/// What a sender was answered, by body: 200, or 400 for what is kept in quarantine.
pub type Answers = Arc<Mutex<HashMap<String, u16>>>;

/// `KILL_CYCLES` cycles (25 unless it is set).
#[tokio::test(flavor = "multi_thread")]
async fn kill_loop_loses_nothing_that_was_acknowledged() {
    let cycles: u64 = knob("KILL_CYCLES").unwrap_or(25);
    let seed = knob("KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("kill loop: seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let targets = Targets::start().await;
    let setup = Setup::new(&targets.config(0));
    let answers = Answers::default();
    let mut longest_recovery = Duration::ZERO;

    for cycle in 0..cycles {
        let started = Instant::now();
        let relay = setup.start();
        longest_recovery = longest_recovery.max(started.elapsed());
        let load = Load::start(&relay, &answers);
        for reload in 0..2 {
            tokio::time::sleep(Duration::from_millis(chance.u64(10..200))).await;
            setup.write_config(&targets.config(cycle * 2 + reload));
            relay.signal("HUP");
        }
        assert_untold(relay.written().concat());
        relay.kill();
        load.stop().await;
    }

    let relay = setup.start();
    targets.wait_for_all(&relay).await;
    assert!(relay.metric("suki_relay_ledger_imbalance").await.abs() < 0.5);
    relay.kill();
    let answers = answers.lock().expect("not poisoned").clone();
    let tally = targets.hold(&answers, &exported(&setup));
    assert!(tally.acknowledged > cycles, "{tally:?}");
    assert!(tally.quarantined > 0 && tally.dead > 0, "{tally:?}");
    setup.start().is_well("S02: SIGKILL at any time").await;
    println!(
        "kill loop: {cycles} cycles, {} reloads, {} acknowledged, 0 lost, {} duplicated, {} pending, {} dead letters, {} in quarantine, longest recovery {longest_recovery:.1?}",
        2 * cycles,
        tally.acknowledged,
        tally.duplicated,
        tally.pending,
        tally.dead,
        tally.quarantined,
    );
}

#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    duplicated: usize,
    pending: u64,
    dead: u64,
    quarantined: u64,
}

/// Those that take, each in its way, and one that never answers.
struct Targets {
    taking: BTreeMap<&'static str, Target>,
    silent: TcpListener,
}

impl Targets {
    async fn start() -> Self {
        let failing = |n| if n % 3 == 0 { 503 } else { 200 };
        let refusing = |n| if n % 5 == 0 { 422 } else { 200 };
        Self {
            taking: BTreeMap::from([
                ("good", Target::accepting().await),
                ("failing", Target::start(failing).await),
                ("refusing", Target::start(refusing).await),
                ("slow", Target::slow(Duration::from_millis(20)).await),
            ]),
            silent: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        }
    }

    /// As of so many reloads: each changes how every target is tried.
    fn config(&self, reloads: u64) -> String {
        let silent = format!("http://{}/", self.silent.local_addr().expect("an address"));
        let urls = self
            .taking
            .iter()
            .map(|(name, target)| (*name, target.url()));
        let urls: Vec<_> = urls.chain([("silent", silent)]).collect();
        let most = 500 + reloads;
        let target = |(name, url): &(&str, String)| {
            format!(
                "  - {{ name: {name}, http: {{ url: \"{url}\" }}, retry: {{ initial: 50ms, max: {most}ms }} }}\n"
            )
        };
        let targets: String = urls.iter().map(target).collect();
        let names: Vec<_> = urls.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        format!("targets:\n{targets}routes: [{{ name: all, to: [{names}] }}]\n")
    }

    /// As long as it takes: something moves at least.
    async fn wait_for_all(&self, relay: &Relay) {
        for name in self.taking.keys() {
            let pending = format!("suki_relay_deliveries_pending{{target=\"{name}\"}}");
            let mut left = relay.metric(&pending).await;
            while left > 0.5 {
                eventually("more is settled", async || {
                    relay.metric(&pending).await < left
                })
                .await;
                left = relay.metric(&pending).await;
            }
        }
    }

    /// Every answer against every place where what it promised may be.
    fn hold(&self, answers: &HashMap<String, u16>, spool: &HashMap<String, Value>) -> Tally {
        let mut tally = Tally::default();
        let taken: BTreeMap<_, _> = self.taking.iter().map(|(n, t)| (*n, taken(t))).collect();
        for (body, status) in answers {
            let kept = spool.get(body).unwrap_or_else(|| panic!("lost: {body}"));
            if *status == 400 {
                assert_eq!(kept["quarantine"], "invalid", "{body}");
                tally.quarantined += 1;
                continue;
            }
            tally.acknowledged += 1;
            let deliveries = kept["deliveries"].as_array().expect("a list");
            assert_eq!(deliveries.len(), self.taking.len() + 1, "{body}");
            for delivery in deliveries {
                let target = delivery["target"].as_str().expect("text");
                let arrived = taken.get(target).is_some_and(|taken| taken.contains(body));
                match (target, delivery["state"].as_str()) {
                    ("silent", Some("pending")) => tally.pending += 1,
                    ("refusing", Some("dead_letter")) => tally.dead += 1,
                    (_, state) => assert!(
                        state == Some("delivered") && arrived,
                        "{body}, {target}: {state:?}, arrived: {arrived}"
                    ),
                }
            }
        }
        for target in self.taking.values() {
            let bodies = bodies(target);
            tally.duplicated += bodies.len() - taken_of(&bodies).len();
            assert!(bodies.iter().all(|body| body.contains("\"genuine\"")));
            assert_ids_are_stable(target);
        }
        tally
    }
}

/// All that a stopped relay's folder holds, by body; its audit is clean.
fn exported(setup: &Setup) -> HashMap<String, Value> {
    let spool = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
        let command = command.arg("spool").args(words).arg("--path");
        let output = command.arg(setup.path().join("spool")).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    spool(&["status", "--audit"]);
    let entries = spool(&["export"]);
    let entries = entries.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let body = entry["content"]["body"].as_str().expect("a body");
        (body.to_owned(), entry)
    });
    entries.collect()
}

fn body(word: &str, status: &str) -> String {
    let session = fastrand::u128(..);
    format!(r#"{{"{status}":"success","session_id":"{CANARY}-{session:032x}","kind":"{word}"}}"#)
}

/// Senders that post until they are stopped: one forges, one sends what is no notification.
pub struct Load {
    stopped: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn start(relay: &Relay, answers: &Answers) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..SENDERS {
            let (sender, stopped) = (relay.sender(), stopped.clone());
            let answers = answers.clone();
            tasks.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let (body, due) = match number {
                        0 => {
                            let none = "0".repeat(64);
                            let at = sender.generated_at();
                            let answer = sender.send(&at, &none, body("forged", "status")).await;
                            assert!(answer.is_none_or(|answer| answer.status == 401));
                            continue;
                        }
                        1 => (body("invalid", "state"), 400),
                        _ => (body("genuine", "status"), 200),
                    };
                    match sender.post(body.clone()).await {
                        Some(answer) if answer.status == due => {
                            answers.lock().expect("not poisoned").insert(body, due);
                        }
                        Some(answer) => assert_eq!(answer.status, 500, "{answer:?}"),
                        None => tokio::task::yield_now().await,
                    }
                }
            });
        }
        Self { stopped, tasks }
    }

    pub async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

/// What a target took, as often as it took it.
pub fn bodies(target: &Target) -> Vec<String> {
    let taken: Vec<_> = target.taken();
    let text = |body| String::from_utf8(body).expect("text");
    taken.into_iter().map(text).collect()
}

fn taken(target: &Target) -> HashSet<String> {
    bodies(target).into_iter().collect()
}

fn taken_of(bodies: &[String]) -> HashSet<&String> {
    bodies.iter().collect()
}

/// The same body always bears the same id, and different ones never.
fn assert_ids_are_stable(target: &Target) {
    let pairs: HashSet<(String, bytes::Bytes)> = target
        .requests()
        .into_iter()
        .map(|request| (request.header("webhook-id").to_owned(), request.body))
        .collect();
    let ids: HashSet<&String> = pairs.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), pairs.len());
}
