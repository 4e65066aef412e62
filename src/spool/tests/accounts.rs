//! Whatever happens to it, in whatever order: nothing in the spool is lost, and every delivery is
//! accounted for.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;

use super::super::{
    Cursor, DeliveryState, Discard, Filter, PAGE_MAX, Release, ReleaseTo, Replay, ReplayTo, State,
};
use super::custody::nowhere;
use super::*;
use crate::notification::Id;
use crate::spool::keys::tests::keys;

const TARGETS: [&str; 3] = ["audit", "ehr", "late"];

#[derive(Clone, Debug)]
enum Op {
    Accept {
        targets: Vec<&'static str>,
        quarantine: bool,
    },
    Settle {
        target: &'static str,
        which: Index,
        result: Settled,
    },
    Replay {
        which: Option<Index>,
        to: ReplayTo,
    },
    Release {
        which: Index,
        targets: Vec<&'static str>,
    },
    Discard {
        state: State,
        exact: bool,
    },
    /// After a kill: the files as they are.
    Reopen,
}

/// What must be there: each notification's deliveries by target, and whether it is in quarantine.
#[derive(Default)]
struct Model {
    deliveries: Vec<BTreeMap<&'static str, DeliveryState>>,
    quarantined: Vec<bool>,
}

fn some_targets() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(&TARGETS[..], 0..=TARGETS.len())
}

fn op() -> impl Strategy<Value = Op> {
    let result = prop_oneof![
        3 => Just(Settled::Delivered),
        3 => Just(Settled::DeadLettered),
        1 => Just(Settled::Retry { due_at: NOW }),
    ];
    let to = prop_oneof![
        Just(ReplayTo::DeadLetters),
        Just(ReplayTo::All),
        some_targets().prop_map(|all| ReplayTo::Targets(all.into_iter().map(name).collect())),
    ];
    prop_oneof![
        4 => (some_targets(), any::<bool>())
            .prop_map(|(targets, quarantine)| Op::Accept { targets, quarantine }),
        8 => (select(&TARGETS[..]), any::<Index>(), result)
            .prop_map(|(target, which, result)| Op::Settle { target, which, result }),
        2 => (proptest::option::of(any::<Index>()), to)
            .prop_map(|(which, to)| Op::Replay { which, to }),
        2 => (any::<Index>(), some_targets())
            .prop_map(|(which, targets)| Op::Release { which, targets }),
        2 => (select(vec![State::DeadLetter, State::Quarantined]), any::<bool>())
            .prop_map(|(state, exact)| Op::Discard { state, exact }),
        1 => Just(Op::Reopen),
    ]
}

impl Model {
    fn settle(&mut self, at: usize, target: &'static str, result: Settled) {
        let state = match result {
            Settled::Delivered => DeliveryState::Delivered,
            Settled::DeadLettered => DeliveryState::DeadLetter,
            Settled::Retry { .. } => DeliveryState::Pending,
        };
        self.deliveries[at].insert(target, state);
    }

    /// How many deliveries were not owed and are.
    fn replay(&mut self, which: Option<usize>, to: &ReplayTo) -> u64 {
        let mut owed = 0;
        for (at, deliveries) in self.deliveries.iter_mut().enumerate() {
            if which.is_some_and(|which| which != at) {
                continue;
            }
            if let ReplayTo::Targets(targets) = to {
                for target in TARGETS {
                    if targets.contains(&name(target)) {
                        let before = deliveries.insert(target, DeliveryState::Pending);
                        owed += u64::from(before != Some(DeliveryState::Pending));
                    }
                }
                continue;
            }
            for state in deliveries.values_mut() {
                let takes = match to {
                    ReplayTo::DeadLetters => *state == DeliveryState::DeadLetter,
                    _ => *state != DeliveryState::Pending,
                };
                if takes {
                    *state = DeliveryState::Pending;
                    owed += 1;
                }
            }
        }
        owed
    }

    fn release(&mut self, at: usize, targets: &[&'static str]) -> u64 {
        if !self.quarantined[at] || targets.is_empty() {
            return 0;
        }
        self.quarantined[at] = false;
        for target in targets {
            let owed = self.deliveries[at].entry(*target);
            owed.or_insert(DeliveryState::Pending);
        }
        1
    }

    fn discardable(&self, state: State) -> u64 {
        let count = if state == State::Quarantined {
            self.quarantined.iter().filter(|held| **held).count()
        } else {
            let all = self.deliveries.iter().flat_map(BTreeMap::values);
            all.filter(|state| **state == DeliveryState::DeadLetter)
                .count()
        };
        count as u64
    }

    fn discard(&mut self, state: State) {
        if state == State::Quarantined {
            return self.quarantined.fill(false);
        }
        for state in self.deliveries.iter_mut().flat_map(BTreeMap::values_mut) {
            if *state == DeliveryState::DeadLetter {
                *state = DeliveryState::Discarded;
            }
        }
    }
}

/// The spool, its model, and what it takes to go from one folder to the next.
struct Run {
    spool: Spool,
    metrics: Metrics,
    home: Home,
    model: Model,
    ids: Vec<Id>,
}

impl Run {
    async fn apply(&mut self, op: Op) {
        match op {
            Op::Accept {
                targets,
                quarantine,
            } => self.accept(targets, quarantine).await,
            Op::Settle {
                target,
                which,
                result,
            } => self.settle(target, which, result).await,
            Op::Replay { which, to } => self.replay(which, to).await,
            Op::Release { which, targets } => self.release(which, &targets).await,
            Op::Discard { state, exact } => self.discard(state, exact).await,
            Op::Reopen => {
                let spool = self.spool.clone();
                (self.spool, self.metrics) = self.home.after_a_kill(spool);
            }
        }
    }

    async fn accept(&mut self, targets: Vec<&'static str>, quarantine: bool) {
        let body = self.ids.len().to_string();
        let submission = Submission {
            quarantine: quarantine.then_some(Reason::RouteError),
            ..submission(body, &targets)
        };
        self.ids.push(submission.notification.id);
        assert_eq!(self.spool.accept(submission).await, Ok(Kept::Now));
        let owed = targets
            .into_iter()
            .map(|target| (target, DeliveryState::Pending));
        self.model.deliveries.push(owed.collect());
        self.model.quarantined.push(quarantine);
    }

    async fn settle(&mut self, target: &'static str, which: Index, result: Settled) {
        let due = self.spool.due(&name(target), Timestamp::now(), 1000).await;
        let mut due = due.expect("reads").deliveries;
        if due.is_empty() {
            return;
        }
        let one = due.swap_remove(which.index(due.len()));
        settle(&self.spool, &one.key, result).await;
        let at = self.ids.iter().position(|id| *id == one.record.id);
        self.model.settle(at.expect("was accepted"), target, result);
    }

    async fn replay(&mut self, which: Option<Index>, to: ReplayTo) {
        let which = which.filter(|_| !self.ids.is_empty());
        let which = which.map(|which| which.index(self.ids.len()));
        let order = Replay {
            filter: Filter {
                ids: which.map(|at| vec![self.ids[at]]),
                ..Filter::default()
            },
            to: to.clone(),
            by: name("someone"),
            dry_run: false,
        };
        let done = self.spool.replay(order).await.expect("is done");
        assert_eq!(done.done, self.model.replay(which, &to));
    }

    async fn release(&mut self, which: Index, targets: &[&'static str]) {
        if self.ids.is_empty() {
            return;
        }
        let at = which.index(self.ids.len());
        let release = Release {
            filter: Filter {
                ids: Some(vec![self.ids[at]]),
                ..Filter::default()
            },
            to: ReleaseTo::Targets(targets.iter().map(|target| name(target)).collect()),
            by: name("someone"),
            dry_run: false,
        };
        let done = self.spool.release(release, nowhere()).await;
        assert_eq!(done.expect("is done").done, self.model.release(at, targets));
    }

    async fn discard(&mut self, state: State, exact: bool) {
        let count = self.model.discardable(state);
        let order = Discard {
            filter: Filter {
                state: Some(state),
                ..Filter::default()
            },
            count: Some(count + u64::from(!exact)),
            by: name("someone"),
            dry_run: false,
        };
        match self.spool.discard(order).await {
            Ok(done) if exact => {
                assert_eq!((done.matched, done.done), (count, count));
                self.model.discard(state);
            }
            refused => assert!(refused.is_err() && !exact),
        }
    }

    async fn check(&self) {
        let audit = self.spool.audit().await.expect("reads");
        assert!(audit.is_clean(), "{:?}", audit.discrepancies);
        let all = Filter::default();
        let page = self.spool.list(&all, Cursor::default(), PAGE_MAX).await;
        let entries = page.expect("reads").entries;
        assert_eq!(entries.len(), self.ids.len(), "nothing is lost");
        for (at, entry) in entries.iter().enumerate() {
            assert_eq!(entry.id, self.ids[at]);
            assert!(entry.content.is_some());
            let there = entry.deliveries.iter();
            let there = there.map(|delivery| (delivery.target.as_str(), delivery.state));
            assert_eq!(there.collect::<BTreeMap<_, _>>(), self.model.deliveries[at]);
            assert_eq!(entry.quarantine.is_some(), self.model.quarantined[at]);
        }
        for target in TARGETS {
            let count = |wanted| {
                let all = self.model.deliveries.iter().filter_map(|of| of.get(target));
                i64::try_from(all.filter(|state| **state == wanted).count()).expect("few")
            };
            let gauges = self.metrics.target(&name(target));
            shows(&gauges.pending, count(DeliveryState::Pending)).await;
            shows(&gauges.dead_letters, count(DeliveryState::DeadLetter)).await;
        }
        let settled = entries
            .iter()
            .filter(|entry| entry.settled_at.is_some())
            .count();
        let gauge = self
            .metrics
            .notifications(crate::spool::metrics::State::Settled);
        shows(gauge, i64::try_from(settled).expect("few")).await;
    }
}

fn run(engine: Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let ops = proptest::collection::vec(op(), 1..40);
    let cases = (any::<bool>(), ops);
    let home = std::cell::RefCell::new(Some(Home::new(engine)));
    let ran = runner.run(&cases, |(encrypted, ops)| {
        let mut home = home.borrow_mut();
        runtime.block_on(async {
            let mut fresh = home.take().map_or_else(|| Home::new(engine), Home::emptied);
            fresh.keys = encrypted.then(|| keys(&[("a", 1)]));
            let (spool, metrics) = fresh.open();
            let (model, ids) = (Model::default(), Vec::new());
            let mut run = Run {
                spool,
                metrics,
                home: fresh,
                model,
                ids,
            };
            for op in ops {
                run.apply(op).await;
            }
            run.check().await;
            let Run {
                spool, home: used, ..
            } = run;
            drop(spool);
            *home = Some(used);
        });
        Ok(())
    });
    ran.expect("every account is right");
}

#[test]
fn nothing_is_lost_and_every_delivery_is_accounted_for() {
    run(Engine::Disk, 24);
}

#[test]
fn nothing_is_lost_in_a_server_and_every_delivery_is_accounted_for() {
    run(Engine::Postgres, 8);
}
