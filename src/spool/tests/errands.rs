//! Orders that take more than one commit, and what cuts them short.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::custody::nowhere;
use super::lines::Lines;
use super::*;
use crate::spool::orders::{DEEDS_MAX, Deed, Note, Owing};
use crate::spool::{
    Cursor, CustodyError, Discard, Done, Errand, EventKind, Filter, Release, ReleaseTo, Replay,
    ReplayTo, Reroute, State,
};

on_both! {
    a_replay_that_was_cut_short_goes_on_from_where_it_was,
    a_release_that_was_cut_short_goes_on_by_the_routes_of_then,
    a_dry_run_keeps_and_changes_nothing,
    an_order_that_moved_on_is_not_done_from_where_it_was,
    a_discard_does_to_what_was_counted_or_to_none_of_it,
}

/// So many that several commits are to come after the first.
const MANY: usize = 6 * DEEDS_MAX;

async fn dead_letters(spool: &Spool, count: usize) {
    let accepted = (0..count).map(|n| {
        let spool = spool.clone();
        tokio::spawn(async move { spool.accept(submission(n.to_string(), &["ehr"])).await })
    });
    for accepted in accepted.collect::<Vec<_>>() {
        assert_eq!(accepted.await.expect("ends"), Ok(Kept::Now));
    }
    loop {
        let page = spool.due(&name("ehr"), Timestamp::now(), 1000).await;
        let due = page.expect("reads").deliveries;
        if due.is_empty() {
            return;
        }
        let settled = due
            .iter()
            .map(|due| spool.settle(settlement(&due.key, Settled::DeadLettered)));
        for settled in settled.collect::<Vec<_>>() {
            settled.await.expect("is written");
        }
    }
}

pub(in crate::spool) fn replay_dead() -> Replay {
    Replay {
        filter: Filter::default(),
        to: ReplayTo::DeadLetters,
        by: name("someone"),
        dry_run: false,
    }
}

pub(in crate::spool) fn release_all(to: ReleaseTo) -> Release {
    Release {
        filter: Filter::default(),
        to,
        by: name("someone"),
        dry_run: false,
    }
}

async fn errands(spool: &Spool) -> Vec<Errand> {
    spool.errands().await.expect("reads")
}

/// Until the order has been kept, and no longer: what was doing it is dropped, as by a crash.
async fn cut_short<T>(spool: &Spool, order: impl Future<Output = T>) -> Errand {
    let kept = async { while errands(spool).await.is_empty() {} };
    tokio::select! {
        _ = order => panic!("it was faster than a look at it"),
        () = kept => {}
    }
    errands(spool).await.remove(0)
}

async fn carry_on(spool: &Spool, reroute: Reroute) {
    let done = async {
        while !errands(spool).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = spool.carry_on(reroute) => {}
        () = done => {}
    }
}

/// How often each event is in the history of each delivery to a target.
async fn events(spool: &Spool, target: &str, kind: EventKind) -> BTreeMap<usize, usize> {
    let mut times = BTreeMap::new();
    let mut next = Some(Cursor::default());
    while let Some(after) = next {
        let page = spool.list(&Filter::default(), after, 1000).await;
        let page = page.expect("reads");
        next = page.next;
        let deliveries = page.entries.into_iter().flat_map(|entry| entry.deliveries);
        for delivery in deliveries.filter(|one| one.target.as_str() == target) {
            let events = delivery.history.iter().filter(|event| event.kind == kind);
            *times.entry(events.count()).or_default() += 1;
        }
    }
    times
}

async fn a_replay_that_was_cut_short_goes_on_from_where_it_was(engine: Engine) {
    let House { spool, home, .. } = house(engine);
    dead_letters(&spool, MANY).await;
    let errand = cut_short(&spool, spool.office.replay(replay_dead())).await;
    assert_eq!(errand.what(), "replay");
    assert_eq!(errand.filter.state, Some(State::DeadLetter));
    assert_eq!(errand.done, errand.matched);
    assert!((DEEDS_MAX as u64..MANY as u64).contains(&errand.done));
    drop(spool);

    let (spool, _) = home.open();
    assert_eq!(errands(&spool).await.len(), 1, "it is kept");
    // What was replayed before the cut, and failed since, is not replayed once more.
    let page = spool.due(&name("ehr"), Timestamp::now(), 1).await;
    let first = page.expect("reads").deliveries.remove(0);
    settle(&spool, &first.key, Settled::DeadLettered).await;
    carry_on(&spool, nowhere()).await;
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.targets[&name("ehr")].dead, 1);
    let once = events(&spool, "ehr", EventKind::Replayed).await;
    assert_eq!(once, BTreeMap::from([(1, MANY)]));
    assert!(spool.audit().await.expect("reads").is_clean());
}

async fn a_release_that_was_cut_short_goes_on_by_the_routes_of_then(engine: Engine) {
    let to = |target: &'static str| -> Reroute { Arc::new(move |_| vec![name(target)]) };
    let House { spool, home, .. } = house(engine);
    let accepted = (0..MANY).map(|n| {
        let spool = spool.clone();
        let held = quarantined(&n.to_string(), Reason::Unrouted, Verdict::Accepted);
        tokio::spawn(async move { spool.accept(held).await })
    });
    for accepted in accepted.collect::<Vec<_>>() {
        assert_eq!(accepted.await.expect("ends"), Ok(Kept::Now));
    }
    let before = to("before");
    let order = spool
        .office
        .release(release_all(ReleaseTo::ByRoutes), &before);
    let errand = cut_short(&spool, order).await;
    assert_eq!((errand.what(), errand.by.as_str()), ("release", "someone"));
    drop(spool);

    let (spool, _) = home.open();
    carry_on(&spool, to("after")).await;
    let counts = spool.counts().await.expect("reads");
    assert_eq!(counts.quarantine[&Reason::Unrouted], 0);
    let [before, after] = ["before", "after"].map(|target| counts.targets[&name(target)].pending);
    assert_eq!(before + after, i64::try_from(MANY).expect("few"));
    assert!(after > 0);
    assert!(spool.audit().await.expect("reads").is_clean());
}

async fn a_dry_run_keeps_and_changes_nothing(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    dead_letters(&spool, DEEDS_MAX + 1).await;
    let before = spool.counts().await.expect("reads");
    let order = Replay {
        dry_run: true,
        ..replay_dead()
    };
    let done = spool.replay(order).await.expect("is counted");
    assert_eq!((done.matched, done.done), (501, 501));
    assert!(errands(&spool).await.is_empty());
    assert_eq!(spool.counts().await.expect("reads"), before);
}

/// Another relay may have gone on with it meanwhile; on a disk there is no other.
async fn an_order_that_moved_on_is_not_done_from_where_it_was(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    if engine == Engine::Disk {
        return;
    }
    dead_letters(&spool, 3).await;
    let owing = Owing::Replay(ReplayTo::DeadLetters);
    let mut errand = Errand::new(owing, Filter::default(), name("someone"));
    errand.reached = 7;
    let carry_out = async |deeds, note| {
        let office = &spool.office;
        office.carry_out(deeds, &name("someone"), false, note).await
    };
    let begun = carry_out(Vec::new(), Note::Begun(errand.clone())).await;
    assert_eq!(begun.expect("is kept"), 0);
    let counts = spool.counts().await.expect("reads");
    let deeds = || {
        (1..=3).map(|sequence| {
            let target = name("ehr");
            Deed::Replay(DeliveryKey { sequence, target })
        })
    };
    for (from, id) in [(6, errand.id), (8, errand.id), (7, errand.id ^ 1)] {
        let moved = Note::Moved {
            from,
            errand: Errand {
                id,
                reached: 9,
                ..errand.clone()
            },
        };
        for note in [moved, Note::Ended { from, id }] {
            let refused = carry_out(deeds().collect(), note).await;
            assert!(matches!(refused, Err(CustodyError::Taken)), "{refused:?}");
        }
    }
    assert_eq!(errands(&spool).await, [errand.clone()]);
    assert_eq!(spool.counts().await.expect("reads"), counts);
    let ended = Note::Ended {
        from: 7,
        id: errand.id,
    };
    assert_eq!(carry_out(deeds().collect(), ended).await.expect("ends"), 3);
    assert!(errands(&spool).await.is_empty());
}

async fn a_discard_does_to_what_was_counted_or_to_none_of_it(engine: Engine) {
    let House {
        spool, home: _kept, ..
    } = house(engine);
    dead_letters(&spool, 3).await;
    let all = Filter::default();
    let page = spool.list(&all, Cursor::default(), 3).await;
    let entries = page.expect("reads").entries;
    let sequences: Vec<_> = entries.iter().map(|entry| entry.sequence).collect();
    let counted = sequences.iter().map(|sequence| {
        Deed::Discard(DeliveryKey {
            sequence: *sequence,
            target: name("ehr"),
        })
    });
    let counted: Vec<_> = counted.collect();
    // One is replayed between the count and the commit.
    let replayed = vec![Deed::Replay(DeliveryKey {
        sequence: sequences[1],
        target: name("ehr"),
    })];
    let carry_out = async |deeds, all_or_none| {
        let by = name("someone");
        let done = spool.office.carry_out(deeds, &by, all_or_none, Note::None);
        done.await
    };
    assert_eq!(carry_out(replayed, false).await.expect("is done"), 1);
    let refused = carry_out(counted, true).await;
    assert!(
        matches!(refused, Err(CustodyError::Changed { .. })),
        "{refused:?}"
    );
    let counts = spool.counts().await.expect("reads");
    let ehr = counts.targets[&name("ehr")];
    assert_eq!((ehr.dead, ehr.pending), (2, 1));
    assert!(spool.audit().await.expect("reads").is_clean());
}

/// Of a discard of more than one commit: one of those counted is replayed when the first is done.
#[tokio::test]
async fn a_discard_that_ends_early_tells_how_far_it_came() {
    let House { spool, home, .. } = house(Engine::Disk);
    let matched = DEEDS_MAX as u64 + 1;
    dead_letters(&spool, DEEDS_MAX + 1).await;
    let page = spool
        .list(&Filter::default(), Cursor::default(), 1000)
        .await;
    let last = page.expect("reads").entries.pop().expect("there");
    let replayed = vec![Deed::Replay(DeliveryKey {
        sequence: last.sequence,
        target: name("ehr"),
    })];
    let Place::Folder(folder) = &home.place else {
        panic!("it is on a disk")
    };
    let held = rusqlite::Connection::open(folder.path().join("spool.db")).expect("opens");
    held.execute_batch("BEGIN IMMEDIATE").expect("holds");
    let lines = Lines::keep();
    let discard = spool.office.discard(Discard {
        filter: Filter {
            state: Some(State::DeadLetter),
            ..Filter::default()
        },
        count: Some(matched),
        by: name("someone"),
        dry_run: false,
    });
    let meanwhile = async {
        eventually(|| spool.writer_busy_for().is_some()).await;
        let by = name("another");
        let replay = spool.office.carry_out(replayed, &by, false, Note::None);
        let let_go = async { drop(held) };
        tokio::join!(replay, let_go).0.expect("is done");
    };
    let (ended, ()) = tokio::join!(discard, meanwhile);
    let done = DEEDS_MAX as u64;
    let error = ended.expect_err("one is no longer as it was counted");
    assert_eq!(error.reached(), Done { matched, done });
    let line = &lines.of_orders()[0];
    assert_eq!(
        (&line["level"], &line["what"], &line["of"], &line["by"]),
        (
            &"WARN".into(),
            &"discarded".into(),
            &"dead_letter".into(),
            &"someone".into()
        ),
        "{line}"
    );
    assert_eq!(
        (&line["matched"], &line["done"]),
        (&matched.into(), &done.into())
    );
}

#[test]
fn a_discard_that_fails_midway_tells_how_far_it_came() {
    let (done, matched) = (500, 3000);
    let error = CustodyError::Full.after(done, matched);
    assert_eq!(error.reached(), Done { matched, done });
    assert!(
        error.to_string().starts_with("500 of 3000 were discarded"),
        "{error}"
    );
    let error = CustodyError::Full.after(0, matched);
    assert!(matches!(error, CustodyError::Full), "{error}");
}
