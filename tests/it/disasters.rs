//! Three relays, one with a disk beside it, a spool in a primary with a synchronous standby, and whatever can
//! happen to them: what was answered 200 is delivered, or a dead letter.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::harness::{Passage, Postgres, Relay, Setup, Target, Way, eventually, knob};
use crate::killloop::bodies;

const RELAYS: usize = 3;
const SENDERS: usize = 2;

/// A commit is kept by both. What the standby has not got is kept for it: without, a checkpoint while it is away
/// would shut it out for good, and every commit would wait for it.
const SERVER: &str = "synchronous_standby_names = 'standby'\nwal_keep_size = 64MB\n\
    wal_receiver_timeout = 2s\nwal_retrieve_retry_interval = 100ms\n";

/// What a disaster is longer than.
const LEASE: Duration = Duration::from_secs(1);

const SPOOL: &str = "tls: null, pool: 4, lease: 1s, statement_timeout: 1s";

#[derive(Clone, Copy, Debug)]
enum Disaster {
    RelayKilled,
    ServerKilled,
    StandbyKilled,
    StandbyPromoted,
    RelayPaused,
    Partition,
    DiskFull,
    AllKilled,
}

const DISASTERS: [Disaster; 8] = [
    Disaster::RelayKilled,
    Disaster::ServerKilled,
    Disaster::StandbyKilled,
    Disaster::StandbyPromoted,
    Disaster::RelayPaused,
    Disaster::Partition,
    Disaster::DiskFull,
    Disaster::AllKilled,
];

/// Which are at it side by side, for most of a disaster is waiting.
const PLACES: u64 = 2;

/// What a campaign came to.
#[derive(Default)]
struct Outcome {
    acknowledged: usize,
    duplicated: usize,
    longest_recovery: Duration,
}

/// `DISASTERS` cycles (16 unless it is set): each has load, a disaster, and an end of it.
#[tokio::test(flavor = "multi_thread")]
async fn disasters_lose_nothing_that_was_acknowledged() {
    let cycles = knob("DISASTERS").unwrap_or(16);
    let seed = knob("DISASTERS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("disasters: seed {seed}");
    let campaigns = (0..PLACES).map(|place| {
        let cycles = (cycles + place) / PLACES;
        campaign(cycles, seed.wrapping_add(place))
    });
    let mut whole = Outcome::default();
    for outcome in campaigns.collect::<JoinSet<_>>().join_all().await {
        whole.acknowledged += outcome.acknowledged;
        whole.duplicated += outcome.duplicated;
        whole.longest_recovery = whole.longest_recovery.max(outcome.longest_recovery);
    }
    println!(
        "disasters: {cycles} cycles, {} acknowledged, 0 lost, {} duplicated, longest recovery {:.1?}",
        whole.acknowledged, whole.duplicated, whole.longest_recovery
    );
}

async fn campaign(cycles: u64, seed: u64) -> Outcome {
    let mut chance = fastrand::Rng::with_seed(seed);
    // The second target fails some requests, and refuses some for good.
    let targets = [
        Target::accepting().await,
        Target::start(|n| match n % 50 {
            49 => 400,
            n if n % 5 == 0 => 503,
            _ => 200,
        })
        .await,
    ];
    let mut place = Place::new(&targets).await;
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut order = DISASTERS;
    let mut longest_recovery = Duration::ZERO;
    for cycle in 0..cycles {
        let turn = usize::try_from(cycle).expect("small") % DISASTERS.len();
        if turn == 0 {
            chance.shuffle(&mut order);
        }
        let load = Load::start(&place.relays, &acknowledged);
        tokio::time::sleep(Duration::from_millis(chance.u64(50..200))).await;
        place.strike(order[turn], &mut chance).await;
        let ended = Instant::now();
        place.recover(order[turn]).await;
        longest_recovery = longest_recovery.max(ended.elapsed());
        load.stop().await;
    }
    let acknowledged = acknowledged.lock().expect("not poisoned").clone();
    assert!(acknowledged.len() as u64 > cycles, "{}", acknowledged.len());
    Outcome {
        acknowledged: acknowledged.len(),
        duplicated: place.account_for(&acknowledged, &targets).await,
        longest_recovery,
    }
}

/// Everything that can be struck. The primary is the first of the servers.
struct Place {
    servers: [Postgres; 2],
    passages: [Passage; 2],
    setups: [Setup; RELAYS],
    relays: Vec<Relay>,
}

impl Place {
    async fn new(targets: &[Target; 2]) -> Self {
        let (primary, standby) = tokio::task::block_in_place(|| {
            let primary = Postgres::start_on_small_disk(SERVER);
            let standby = Postgres::follow(&primary, SERVER);
            (primary, standby)
        });
        let passages = [
            Passage::to(primary.port()).await,
            Passage::to(standby.port()).await,
        ];
        let [a, b] = [&passages[0], &passages[1]].map(|passage| passage.address);
        let url = format!("postgres://postgres@{a},{b}/postgres");
        let setups = std::array::from_fn(|n| {
            let setup = Setup::new(&routes(targets));
            setup.reword("listen:", "listen:\n  limits: { ack_timeout: 1s }");
            setup.keep_in(&url, SPOOL);
            if n == 0 {
                let beside = "spool: { disk: { path: spool, fallback: true }, postgres";
                setup.reword("spool: { postgres", beside);
            }
            setup
        });
        let relays = blocking(|| start(&setups));
        Self {
            servers: [primary, standby],
            passages,
            setups,
            relays,
        }
    }

    /// Strikes, lasts, and ends.
    async fn strike(&mut self, disaster: Disaster, chance: &mut fastrand::Rng) {
        let which = chance.usize(0..RELAYS);
        let lasting = LEASE + Duration::from_millis(chance.u64(300..700));
        match disaster {
            Disaster::RelayKilled => {
                self.relays.remove(which).kill();
                let again = blocking(|| self.setups[which].start_again());
                self.relays.insert(which, again);
            }
            Disaster::ServerKilled => blocking(|| {
                self.servers[0].kill();
                self.servers[0].begin();
            }),
            Disaster::StandbyKilled => {
                blocking(|| self.servers[1].kill());
                tokio::time::sleep(lasting).await;
                self.servers[1].begin();
            }
            Disaster::StandbyPromoted => self.fail_over(),
            Disaster::RelayPaused => {
                self.relays[which].signal("STOP");
                tokio::time::sleep(lasting).await;
                self.relays[which].signal("CONT");
            }
            Disaster::Partition => {
                self.passages[0].lead(Way::Nowhere);
                tokio::time::sleep(lasting).await;
                self.passages[0].lead(Way::To(self.servers[0].port()));
            }
            Disaster::DiskFull => {
                blocking(|| self.servers[0].fill());
                tokio::time::sleep(lasting).await;
                blocking(|| {
                    self.servers[0].make_room();
                    if !self.servers[0].is_ready() {
                        // Without room for its log it ends.
                        self.servers[0].kill();
                        self.servers[0].begin();
                    }
                });
            }
            Disaster::AllKilled => {
                self.relays.drain(..).for_each(Relay::kill);
                blocking(|| self.servers.iter_mut().for_each(Postgres::kill));
                blocking(|| self.servers.iter_mut().for_each(Postgres::run));
                self.relays = blocking(|| start(&self.setups));
            }
        }
    }

    /// The primary dies, the standby takes its place, and another follows that, at another address.
    fn fail_over(&mut self) {
        blocking(|| {
            self.servers[0].kill();
            self.servers.swap(0, 1);
            self.passages.swap(0, 1);
            self.servers[0].promote();
            self.servers[1] = Postgres::follow(&self.servers[0], SERVER);
        });
        self.passages[1].lead(Way::To(self.servers[1].port()));
    }

    /// Until each relay keeps what comes.
    async fn recover(&self, disaster: Disaster) {
        for relay in &self.relays {
            let sender = relay.sender();
            eventually(&format!("{disaster:?} is over"), async || {
                let answer = sender.post(body("after")).await;
                answer.is_some_and(|answer| answer.status == 200)
            })
            .await;
        }
    }

    /// Every acknowledged notification is with each target, or its dead letter. How many came twice.
    async fn account_for(&self, acknowledged: &HashSet<String>, targets: &[Target; 2]) -> usize {
        let primary = &self.servers[0];
        for relay in &self.relays {
            runs_out("the disk beside it", async || relay.metric(WAITS).await).await;
        }
        runs_out("what is pending", async || {
            let count = "SELECT count(*) FROM suki_relay.delivery WHERE state = 0";
            blocking(|| primary.sql(count)).parse().expect("a number")
        })
        .await;
        let mut twice = 0;
        for (n, target) in targets.iter().enumerate() {
            let came = bodies(target);
            let mut there: HashSet<String> = came.iter().cloned().collect();
            twice += came.len() - there.len();
            let dead = format!(
                "SELECT convert_from(body, 'UTF8') FROM suki_relay.delivery AS d
                 JOIN suki_relay.content USING (seq) JOIN suki_relay.name AS t ON t.id = d.target
                 WHERE state = 2 AND text = 't{n}'"
            );
            there.extend(primary.sql(&dead).lines().map(str::to_owned));
            let lost: Vec<_> = acknowledged.difference(&there).collect();
            assert!(lost.is_empty(), "{} lost: {:?}", lost.len(), &lost[..1]);
        }
        for relay in &self.relays {
            let off = relay.metric("suki_relay_ledger_imbalance").await;
            assert!(off.abs() < 0.5, "the ledger is off by {off}");
        }
        twice
    }
}

/// However much there is, as long as it becomes less.
async fn runs_out<F: Future<Output = f64>>(what: &str, left: impl Fn() -> F) {
    let mut least = left().await;
    while least > 0.5 {
        eventually(&format!("{what}: less than {least}"), async || {
            left().await < least
        })
        .await;
        least = least.min(left().await);
    }
}

const WAITS: &str = "suki_relay_spool_fallback_notifications{state=\"pending\"}";

fn routes(targets: &[Target]) -> String {
    let [a, b] = [targets[0].url(), targets[1].url()];
    format!(
        "targets:\n\
         \x20 - {{ name: t0, http: {{ url: \"{a}\" }}, retry: {{ initial: 100ms, max: 1s }} }}\n\
         \x20 - {{ name: t1, http: {{ url: \"{b}\" }}, retry: {{ initial: 100ms, max: 1s }} }}\n\
         routes: [{{ name: all, to: [t0, t1] }}]\n"
    )
}

fn body(word: &str) -> String {
    let session = fastrand::u128(..);
    format!(r#"{{"status":"success","session_id":"{session:032x}","kind":"{word}"}}"#)
}

/// Blocks; what leads to the servers must go on meanwhile.
fn start(setups: &[Setup]) -> Vec<Relay> {
    setups.iter().map(Setup::start_again).collect()
}

fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Senders that post to each relay until they are stopped.
struct Load {
    stopped: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(relays: &[Relay], acknowledged: &Arc<Mutex<HashSet<String>>>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for relay in relays.iter().cycle().take(RELAYS * SENDERS) {
            let (sender, stopped, acknowledged) =
                (relay.sender(), stopped.clone(), acknowledged.clone());
            tasks.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let body = body("under way");
                    match sender.post(body.clone()).await {
                        Some(answer) if answer.status == 200 => {
                            acknowledged.lock().expect("not poisoned").insert(body);
                        }
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        Self { stopped, tasks }
    }

    async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}
