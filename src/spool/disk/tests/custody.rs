//! What operators see and do, through the spool's door.

use super::super::super::{Cursor, DeliveryState, Entry, EventKind, Filter, Found, IDS_MAX, State};
use super::*;

async fn accept(spool: &Spool, submission: Submission) -> Id {
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

async fn found(spool: &Spool, id: Id) -> Found {
    let mut found = spool.find(id).await.expect("reads");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn state(state: State) -> Filter {
    Filter {
        state: Some(state),
        ..Filter::default()
    }
}

/// One notification in each state that there is.
struct Mix {
    pending: Id,
    half: Id,
    dead: Id,
    done: Id,
    unrouted: Id,
    invalid: Id,
}

impl Mix {
    async fn fill(spool: &Spool) -> Self {
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

#[tokio::test]
async fn a_list_by_state_and_target_takes_what_stands_so() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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

#[tokio::test]
async fn each_part_of_a_filter_narrows_a_list() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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

#[tokio::test]
async fn a_list_read_in_pages_leaves_nothing_out() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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
    assert!(all.len() < IDS_MAX);
    assert_eq!(listed(&spool, ids).await, all[..50]);
}

#[tokio::test]
async fn a_notification_is_shown_as_it_came_and_with_its_history() {
    let House {
        spool,
        folder: _kept,
        ..
    } = house();
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
