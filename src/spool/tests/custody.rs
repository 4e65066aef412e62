//! What operators see and do, through the spool's door.

use super::super::{
    Cursor, CustodyError, DeliveryState, Discard, Done, DuePage, Entry, EventKind, Filter, Found,
    IDS_MAX, Release, ReleaseTo, Replay, ReplayTo, Reroute, State, Wanted,
};
use super::*;
use crate::notification::Id;

on_both! {
    a_list_by_state_and_target_takes_what_stands_so,
    each_part_of_a_filter_narrows_a_list,
    a_list_read_in_pages_leaves_nothing_out,
    a_notification_is_shown_as_it_came_and_with_its_history,
    a_replayed_dead_letter_is_owed_again_and_survives_a_kill,
    a_replay_wakes_its_target_and_moves_the_oldest_pending_back,
    a_replay_goes_to_all_or_chosen_targets,
    a_failed_replay_leaves_the_scheduled_attempt,
    a_release_leaves_quarantine_for_its_targets_in_one_commit,
    a_discard_takes_the_exact_count_or_nothing,
    a_large_order_is_carried_out_to_its_end,
    what_has_just_come_in_is_found_beyond_any_backlog,
    what_is_in_hand_is_looked_at_and_not_handed_out_again,
}

pub(in crate::spool) async fn accept(spool: &Spool, submission: Submission) -> Id {
    let id = submission.notification.id;
    assert_eq!(spool.accept(submission).await, Ok(Kept::Now));
    id
}

/// All that matches, read in pages of three.
async fn list(spool: &Spool, filter: &Filter) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut cursor = Cursor::default();
    loop {
        let page = spool.list(filter, cursor, 3).await.expect("reads");
        assert!(page.entries.len() <= 3);
        entries.extend(page.entries);
        match page.next {
            Some(next) => cursor = next.to_string().parse().expect("a cursor"),
            None => return entries,
        }
    }
}

async fn listed(spool: &Spool, filter: Filter) -> Vec<Id> {
    let entries = list(spool, &filter).await;
    entries.into_iter().map(|entry| entry.id).collect()
}

pub(in crate::spool) async fn found(spool: &Spool, id: Id) -> Found {
    let mut found = spool.find(id).await.expect("reads");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// Routes that take nothing.
pub(in crate::spool) fn nowhere() -> Reroute {
    std::sync::Arc::new(|_| Vec::new())
}

fn state(state: State) -> Filter {
    Filter {
        state: Some(state),
        ..Filter::default()
    }
}

/// One notification in each state that there is.
pub(in crate::spool) struct Mix {
    pending: Id,
    half: Id,
    dead: Id,
    done: Id,
    unrouted: Id,
    invalid: Id,
}

impl Mix {
    pub(in crate::spool) async fn fill(spool: &Spool) -> Self {
        let unrouted = quarantined("unrouted", Reason::Unrouted, Verdict::Accepted);
        let invalid = quarantined("invalid", Reason::Invalid, Verdict::Invalid);
        let mix = Self {
            pending: accept(spool, submission("pending", &["ehr"])).await,
            half: accept(spool, submission("half", &["ehr", "audit"])).await,
            dead: accept(spool, submission("dead", &["audit"])).await,
            done: accept(spool, submission("done", &["audit"])).await,
            unrouted: accept(spool, unrouted).await,
            invalid: accept(spool, invalid).await,
        };
        for due in due(spool, "audit").await {
            let result = if due.record.id == mix.done {
                Settled::Delivered
            } else {
                Settled::DeadLettered
            };
            settle(spool, &due.key, result).await;
        }
        mix
    }

    fn all(&self) -> [Id; 6] {
        [
            self.pending,
            self.half,
            self.dead,
            self.done,
            self.unrouted,
            self.invalid,
        ]
    }
}

async fn a_list_by_state_and_target_takes_what_stands_so(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let mix = Mix::fill(&spool).await;
    let at = |which, target: &str| Filter {
        target: Some(name(target)),
        ..state(which)
    };
    let cases = [
        (Filter::default(), mix.all().to_vec()),
        (state(State::Pending), vec![mix.pending, mix.half]),
        (state(State::DeadLetter), vec![mix.half, mix.dead]),
        (state(State::Quarantined), vec![mix.unrouted, mix.invalid]),
        (state(State::Delivered), vec![mix.done]),
        (at(State::Pending, "ehr"), vec![mix.pending, mix.half]),
        (at(State::Pending, "audit"), vec![]),
        (at(State::DeadLetter, "audit"), vec![mix.half, mix.dead]),
        (at(State::DeadLetter, "ehr"), vec![]),
        (at(State::Delivered, "audit"), vec![mix.done]),
        (at(State::Quarantined, "audit"), vec![]),
        (at(State::Pending, "never-seen"), vec![]),
    ];
    for (filter, expected) in cases {
        assert_eq!(listed(&spool, filter.clone()).await, expected, "{filter:?}");
    }
}

type Narrow = fn(&mut Filter, &Mix);

async fn each_part_of_a_filter_narrows_a_list(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let mix = Mix::fill(&spool).await;
    let cases: [(Narrow, Vec<Id>); 10] = [
        (|f, _| f.reason = Some(Reason::Invalid), vec![mix.invalid]),
        (|f, _| f.reason = Some(Reason::Stale), vec![]),
        (|f, _| f.source = Some(name("suki")), mix.all().to_vec()),
        (|f, _| f.source = Some(name("other")), vec![]),
        (
            |f, _| f.target = Some(name("audit")),
            vec![mix.half, mix.dead, mix.done],
        ),
        (|f, _| f.since = Some(NOW), mix.all().to_vec()),
        (
            |f, _| f.since = Some(NOW.plus(Duration::from_millis(1))),
            vec![],
        ),
        (
            |f, mix| f.ids = Some(vec![mix.done, mix.pending]),
            vec![mix.pending, mix.done],
        ),
        (
            |f, mix| {
                f.ids = Some(vec![mix.done, mix.half]);
                f.state = Some(State::DeadLetter);
            },
            vec![mix.half],
        ),
        (|f, _| f.ids = Some(Vec::new()), vec![]),
    ];
    for (narrow, expected) in cases {
        let mut filter = Filter::default();
        narrow(&mut filter, &mix);
        assert_eq!(listed(&spool, filter.clone()).await, expected, "{filter:?}");
    }
}

async fn a_list_read_in_pages_leaves_nothing_out(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let mut all = Vec::new();
    for n in 0..100 {
        all.push(accept(&spool, submission(n.to_string(), &["ehr"])).await);
    }
    // One match at the end of a long walk.
    let last = due(&spool, "ehr").await.pop().expect("due");
    settle(&spool, &last.key, Settled::Delivered).await;
    assert_eq!(listed(&spool, Filter::default()).await, all);
    let delivered = listed(&spool, state(State::Delivered)).await;
    assert_eq!(delivered, [last.record.id]);
    assert_eq!(listed(&spool, state(State::Pending)).await, all[..99]);
    let ids = Filter {
        ids: Some(all[..50].to_vec()),
        ..Filter::default()
    };
    assert_eq!(listed(&spool, ids).await, all[..50]);
    let too_many = Filter {
        ids: Some(vec![all[0]; IDS_MAX + 1]),
        ..Filter::default()
    };
    let refused = spool.list(&too_many, Cursor::default(), 3).await;
    assert!(refused.is_err());
}

async fn a_notification_is_shown_as_it_came_and_with_its_history(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let sent = submission("{\"a\":\u{a0}1}", &["ehr"]);
    let expected = (*sent.notification).clone();
    let id = accept(&spool, sent).await;
    let key = due(&spool, "ehr").await.remove(0).key;
    let due_at = NOW.plus(Duration::from_mins(5));
    settle(&spool, &key, Settled::Retry { due_at }).await;

    let shown = found(&spool, id).await;
    let record = shown.record.expect("is kept");
    assert_eq!(record.body, expected.body);
    assert_eq!(record.generated_at, expected.generated_at);
    assert_eq!(record.signature, expected.signature);
    assert_eq!(record.content_type, expected.content_type);
    assert_eq!(record.secret, expected.secret);
    let content = shown.entry.content.expect("is kept");
    assert_eq!(content.body_bytes, expected.body.len() as u64);
    let [delivery] = &shown.entry.deliveries[..] else {
        panic!("one delivery")
    };
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!((delivery.attempts, delivery.due_at), (1, Some(due_at)));
    let began_at = NOW.minus(Duration::from_millis(7));
    assert_eq!(delivery.first_attempt_at, Some(began_at));
    let attempt = delivery.last_attempt().expect("was made");
    assert_eq!(attempt.kind, EventKind::Failed);
    assert_eq!(
        (attempt.at, attempt.took),
        (began_at, Duration::from_millis(7))
    );
    assert_eq!(attempt.word, name("delivered")); // what the test says

    let page = spool.due(&name("ehr"), due_at, 1).await.expect("reads");
    assert_eq!(page.deliveries[0].key, key);
    settle(&spool, &key, Settled::Delivered).await;
    let shown = found(&spool, id).await.entry;
    assert_eq!(shown.settled_at, Some(NOW));
    assert_eq!(shown.deliveries[0].due_at, None);
    let kinds = shown.deliveries[0].history.iter().map(|event| event.kind);
    let expected = [EventKind::Failed, EventKind::Delivered];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    let unknown = spool.find(Id::from_bytes([7; Id::BYTES])).await;
    assert!(unknown.expect("reads").is_empty());
}

async fn replay(spool: &Spool, filter: Filter, to: ReplayTo) -> Done {
    let replay = Replay {
        filter,
        to,
        by: name("someone"),
        dry_run: false,
    };
    spool.replay(replay).await.expect("is done")
}

fn discard(filter: Filter, count: Option<u64>) -> Discard {
    Discard {
        filter,
        count,
        by: name("someone"),
        dry_run: false,
    }
}

async fn kinds(spool: &Spool, id: Id) -> Vec<EventKind> {
    let entry = found(spool, id).await.entry;
    let [delivery] = &entry.deliveries[..] else {
        panic!("one delivery")
    };
    delivery.history.iter().map(|event| event.kind).collect()
}

async fn due_now(spool: &Spool, target: &str) -> Vec<Due> {
    let page = spool.due(&name(target), Timestamp::now(), 1000).await;
    page.expect("reads").deliveries
}

async fn a_replayed_dead_letter_is_owed_again_and_survives_a_kill(engine: Engine) {
    let House {
        spool,
        metrics,
        mut home,
    } = house(engine);
    let mix = Mix::fill(&spool).await;
    let dry = Replay {
        filter: Filter::default(),
        to: ReplayTo::DeadLetters,
        by: name("someone"),
        dry_run: true,
    };
    let counted = spool.replay(dry).await.expect("is counted");
    assert_eq!(
        counted,
        Done {
            matched: 2,
            done: 2
        }
    );
    assert!(due_now(&spool, "audit").await.is_empty());

    let before = Timestamp::now();
    let done = replay(&spool, Filter::default(), ReplayTo::DeadLetters).await;
    assert_eq!(
        done,
        Done {
            matched: 2,
            done: 2
        }
    );
    let again = replay(&spool, Filter::default(), ReplayTo::DeadLetters).await;
    assert_eq!(again, Done::default());
    shows(&metrics.target(&name("audit")).dead_letters, 0).await;
    shows(&metrics.target(&name("audit")).pending, 2).await;

    let (spool, metrics) = home.after_a_kill(spool);
    let owed = due_now(&spool, "audit").await;
    assert_eq!(owed.len(), 2);
    for due in &owed {
        assert!(due.replay && due.owed_since >= before);
        assert_eq!((due.attempts, due.attempts_before), (1, 1));
    }
    shows(&metrics.target(&name("audit")).pending, 2).await;
    let history = kinds(&spool, mix.dead).await;
    assert_eq!(history, [EventKind::DeadLettered, EventKind::Replayed]);
    let by = found(&spool, mix.dead).await.entry.deliveries[0].history[1]
        .word
        .clone();
    assert_eq!(by, name("someone"));
}

async fn a_replay_wakes_its_target_and_moves_the_oldest_pending_back(engine: Engine) {
    let House {
        spool,
        metrics,
        home: _kept,
    } = house(engine);
    let oldest = |seconds: f64| {
        let gauge = metrics.target(&name("ehr")).oldest_pending;
        eventually(move || (gauge.get() - seconds).abs() < 1e-3)
    };
    let id = accept(&spool, submission("a", &["ehr"])).await;
    let key = due(&spool, "ehr").await.remove(0).key;
    settle(&spool, &key, Settled::Delivered).await;
    let mut later = submission("b", &["ehr"]);
    later.notification = received_at(b"b", NOW.plus(Duration::from_mins(1)));
    accept(&spool, later).await;
    oldest(NOW.as_seconds() + 60.0).await;
    let step = spool.doorstep(&name("ehr"));
    step.rung().await;
    let ids = Filter {
        ids: Some(vec![id]),
        ..Filter::default()
    };
    replay(&spool, ids, ReplayTo::All).await;
    step.rung().await;
    oldest(NOW.as_seconds()).await;
}

async fn a_replay_goes_to_all_or_chosen_targets(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let mix = Mix::fill(&spool).await;
    let only = |id| Filter {
        ids: Some(vec![id]),
        ..Filter::default()
    };
    let to = ReplayTo::Targets(vec![name("ehr"), name("new")]);
    let done = replay(&spool, only(mix.done), to.clone()).await;
    assert_eq!(
        done,
        Done {
            matched: 2,
            done: 2
        }
    );
    let again = replay(&spool, only(mix.done), to).await;
    assert_eq!(
        again,
        Done {
            matched: 2,
            done: 0
        },
        "owed already"
    );
    let owed = due_now(&spool, "new").await;
    assert_eq!(owed.len(), 1);
    assert!(owed[0].replay);
    let done = replay(&spool, only(mix.done), ReplayTo::All).await;
    assert_eq!(
        done,
        Done {
            matched: 3,
            done: 1
        },
        "audit had it"
    );
    assert!(spool.audit().await.expect("reads").is_clean());
}

async fn a_failed_replay_leaves_the_scheduled_attempt(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    let id = accept(&spool, submission("a", &["ehr"])).await;
    let key = due(&spool, "ehr").await.remove(0).key;
    let due_at = Timestamp::now().plus(Duration::from_hours(1));
    settle(&spool, &key, Settled::Retry { due_at }).await;
    assert!(due_now(&spool, "ehr").await.is_empty());

    for result in [
        Settled::DeadLettered,
        Settled::Retry {
            due_at: due_at.plus(Duration::from_hours(9)),
        },
    ] {
        replay(&spool, Filter::default(), ReplayTo::All).await;
        let sooner = due_now(&spool, "ehr").await.remove(0);
        assert_eq!((sooner.replay, sooner.resume_at), (true, Some(due_at)));
        let failed = Settlement {
            at: Timestamp::now().plus(Duration::from_secs(1)),
            ..settlement(&key, result)
        };
        spool.settle(failed).await.expect("is written");
        let page = spool.due(&name("ehr"), Timestamp::now(), 10).await;
        assert_eq!(page.expect("reads").next_due_at, Some(due_at));
    }
    let entry = found(&spool, id).await.entry;
    assert_eq!(entry.deliveries[0].state, DeliveryState::Pending);
}

async fn a_release_leaves_quarantine_for_its_targets_in_one_commit(engine: Engine) {
    let House {
        spool,
        metrics,
        home: _kept,
    } = house(engine);
    let mix = Mix::fill(&spool).await;
    let release = |to| Release {
        filter: Filter {
            ids: Some(vec![mix.unrouted]),
            ..Filter::default()
        },
        to,
        by: name("someone"),
        dry_run: false,
    };
    let done = spool.release(release(ReleaseTo::ByRoutes), nowhere()).await;
    let none = Done {
        matched: 1,
        done: 0,
    };
    assert_eq!(done.expect("is done"), none);
    shows(metrics.quarantine(Reason::Unrouted), 1).await;

    for expected in [1, 0] {
        let to = ReleaseTo::Targets(vec![name("new"), name("audit")]);
        let done = spool.release(release(to), nowhere()).await;
        assert_eq!(done.expect("is done").done, expected);
    }
    shows(metrics.quarantine(Reason::Unrouted), 0).await;
    shows(metrics.notifications(crate::spool::metrics::State::Held), 2).await;
    let [owed] = &due_now(&spool, "new").await[..] else {
        panic!("one is due")
    };
    assert_eq!(owed.record.id, mix.unrouted);
    assert!(!owed.replay);
    assert!(owed.owed_since > NOW);
    let entry = found(&spool, mix.unrouted).await.entry;
    assert_eq!((entry.quarantine, entry.deliveries.len()), (None, 2));
    assert_eq!(entry.deliveries[0].history[0].kind, EventKind::Released);
    assert!(spool.audit().await.expect("reads").is_clean());
}

async fn a_discard_takes_the_exact_count_or_nothing(engine: Engine) {
    let House {
        spool,
        metrics,
        home: _kept,
    } = house(engine);
    let mix = Mix::fill(&spool).await;
    let dead = state(State::DeadLetter);
    for count in [None, Some(0), Some(1), Some(3)] {
        let refused = spool.discard(discard(dead.clone(), count)).await;
        let refused = refused.expect_err("another count");
        assert!(matches!(refused, CustodyError::Count { found: 2, .. }));
    }
    for state in [State::Pending, State::Delivered] {
        let refused = spool.discard(discard(self::state(state), Some(2))).await;
        assert!(matches!(refused, Err(CustodyError::State)));
    }
    let refused = spool.discard(discard(Filter::default(), Some(6))).await;
    assert!(matches!(refused, Err(CustodyError::State)));
    assert_eq!(listed(&spool, dead.clone()).await, [mix.half, mix.dead]);

    let done = spool.discard(discard(dead.clone(), Some(2))).await;
    assert_eq!(
        done.expect("is done"),
        Done {
            matched: 2,
            done: 2
        }
    );
    let held = spool
        .discard(discard(state(State::Quarantined), Some(2)))
        .await;
    assert_eq!(held.expect("is done").done, 2);
    assert!(listed(&spool, dead).await.is_empty());
    assert!(listed(&spool, state(State::Quarantined)).await.is_empty());
    assert_eq!(metrics.target(&name("audit")).discarded.get(), 2);
    shows(metrics.quarantine(Reason::Invalid), 0).await;
    let history = kinds(&spool, mix.dead).await;
    assert_eq!(history, [EventKind::DeadLettered, EventKind::Discarded]);
    assert!(
        found(&spool, mix.dead).await.record.is_some(),
        "until its time"
    );
    assert!(spool.audit().await.expect("reads").is_clean());
}

/// More than one order's worth of deeds, and more than one reading's worth of notifications.
async fn a_large_order_is_carried_out_to_its_end(engine: Engine) {
    const MANY: usize = crate::spool::orders::DEEDS_MAX + 100;
    let House {
        spool, home: _kept, ..
    } = house(engine);
    for n in 0..MANY / 2 {
        accept(&spool, submission(n.to_string(), &["ehr", "audit"])).await;
    }
    for target in ["ehr", "audit"] {
        let settled = due(&spool, target)
            .await
            .into_iter()
            .map(|due| spool.settle(settlement(&due.key, Settled::DeadLettered)));
        for settled in settled.collect::<Vec<_>>() {
            settled.await.expect("is written");
        }
    }
    let all = Done {
        matched: MANY as u64,
        done: MANY as u64,
    };
    let done = replay(&spool, Filter::default(), ReplayTo::DeadLetters).await;
    assert_eq!(done, all);
    for target in ["ehr", "audit"] {
        for due in due_now(&spool, target).await {
            drop(spool.settle(settlement(&due.key, Settled::DeadLettered)));
        }
    }
    let dead = state(State::DeadLetter);
    let counted = eventually_dead(&spool, MANY).await;
    assert_eq!(counted, MANY);
    let done = spool.discard(discard(dead, Some(MANY as u64))).await;
    assert_eq!(done.expect("is done"), all);
    assert!(spool.audit().await.expect("reads").is_clean());
}

async fn eventually_dead(spool: &Spool, expected: usize) -> usize {
    loop {
        let counts = spool.counts().await.expect("reads");
        let dead: i64 = counts.targets.values().map(|target| target.dead).sum();
        if dead == i64::try_from(expected).expect("small") {
            return expected;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn what_has_just_come_in_is_found_beyond_any_backlog(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    for n in 0..200 {
        accept(&spool, submission(n.to_string(), &["ehr"])).await;
    }
    let now = NOW.plus(Duration::from_hours(10));
    let mut new = submission("new", &["ehr", "audit"]);
    new.notification = received_at(b"new", now);
    let id = accept(&spool, new).await;
    let since = now.minus(Duration::from_secs(30));
    let fresh = |target: &'static str| {
        let spool = spool.clone();
        async move {
            let page = spool.fresh(&name(target), since, now, 10).await;
            page.expect("reads").deliveries
        }
    };
    let [found] = &fresh("ehr").await[..] else {
        panic!("one is fresh")
    };
    assert_eq!(found.record.id, id);
    let due_at = now.minus(Duration::from_secs(1));
    settle(&spool, &found.key, Settled::Retry { due_at }).await;
    assert!(fresh("ehr").await.is_empty(), "tried already");
    assert_eq!(fresh("audit").await.len(), 1);
    // In order of due time, whether tried or not.
    let page = spool.due(&name("ehr"), now, 1000).await.expect("reads");
    assert_eq!(page.deliveries.len(), 201);
    assert!(page.deliveries.is_sorted_by_key(|due| due.due_at));
}

async fn what_is_in_hand_is_looked_at_and_not_handed_out_again(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    for body in ["1", "2", "3", "4"] {
        accept(&spool, submission(body, &["ehr"])).await;
    }
    let sequences = |page: &DuePage| -> Vec<i64> {
        let keys = page.deliveries.iter().map(|due| &due.key);
        keys.map(|key| key.sequence).collect()
    };
    let ehr = name("ehr");
    let all = spool.due(&ehr, NOW, 10).await.expect("reads");
    let all = sequences(&all);
    let wanted = |limit| Wanted {
        limit,
        held: [all[0], all[2]].into(),
    };
    for (limit, rest, more) in [(2, vec![all[1]], true), (9, vec![all[1], all[3]], false)] {
        let page = spool.due(&ehr, NOW, wanted(limit)).await.expect("reads");
        assert_eq!((sequences(&page), page.more), (rest.clone(), more));
        let page = spool.fresh(&ehr, NOW, NOW, wanted(limit)).await;
        assert_eq!(sequences(&page.expect("reads")), rest);
    }
}
