//! Who gets memory when there is little, and who has to let go of some.

use super::super::budget::Budget;
use super::*;

const KIB: usize = 1024;
/// More than any head of these tests costs, with a small body.
const SMALL_BYTES: usize = 12 * KIB;
const LARGE_BYTES: usize = 64 * KIB;

fn free(relay: &Relay) -> usize {
    relay.ingress.budget.free_bytes()
}

/// A request whose last byte does not come, once the relay holds so much for it beside its head. It is signed well, but
/// who knows before it is complete?
async fn hold(relay: &Relay, bytes: usize) -> Wire {
    let mut wire = relay.connect().await;
    let request = in_hand(relay, &mut wire, bytes).await;
    drop(request);
    wire
}

/// The same on this connection; gives what is still to be sent.
async fn in_hand(relay: &Relay, wire: &mut Wire, bytes: usize) -> String {
    let request = signed("/suki", &long(bytes));
    let (begin, end) = request.split_at(request.len() - 1);
    let before = free(relay);
    wire.send(begin).await;
    eventually(async || before - free(relay).min(before) > bytes).await;
    end.to_owned()
}

/// Holds all of the budget, until not even a small request can have its share.
async fn spend(relay: &Relay, largest_bytes: usize) -> Vec<Wire> {
    let mut held = Vec::new();
    while free(relay) > SMALL_BYTES {
        let bytes = largest_bytes.min(free(relay) - SMALL_BYTES + KIB);
        held.push(hold(relay, bytes).await);
    }
    assert!(free(relay) < 8 * KIB, "{}", free(relay));
    held
}

fn cut(relay: &Relay, count: usize) -> bool {
    relay.shows(&format!(
        r#"connections_cut_total{{reason="bytes"}} {count}"#
    ))
}

#[tokio::test]
async fn strangers_who_hold_the_budget_make_room_for_good_ones() {
    let relay = Relay::start(limits()).await;
    let all = free(&relay);
    let unheld = async || eventually(async || free(&relay) == all).await;
    let mut proven = relay.connect().await;
    proven.send(signed("/suki", SUCCESS)).await;
    assert_eq!(proven.answer().await.status, 200);
    unheld().await;
    let held = spend(&relay, LARGE_BYTES).await;
    assert!(cut(&relay, 0));
    proven.send(signed("/suki", SUCCESS)).await;
    assert_eq!(proven.answer().await.status, 200);
    assert!(cut(&relay, 1), "no more than it takes");
    drop(held);
    unheld().await;

    let held = spend(&relay, LARGE_BYTES).await;
    assert_eq!(relay.ask(signed("/suki", SUCCESS)).await.status, 200);
    assert!(cut(&relay, 2));
    drop(held);
    unheld().await;

    // As many as it takes.
    let held = spend(&relay, LARGE_BYTES / 4).await;
    proven.send(signed("/suki", &long(LARGE_BYTES))).await;
    assert_eq!(proven.answer().await.status, 200);
    drop(held);
}

#[tokio::test]
async fn what_proven_ones_hold_is_left_to_them() {
    let relay = Relay::start(limits()).await;
    let all = free(&relay);
    let mut proven = Vec::new();
    for _ in 0..20 {
        let mut wire = relay.connect().await;
        wire.send(signed("/suki", SUCCESS)).await;
        assert_eq!(wire.answer().await.status, 200);
        proven.push(wire);
    }
    eventually(async || free(&relay) == all).await;
    let mut held = Vec::new();
    while free(&relay) > SMALL_BYTES {
        let mut wire = proven.pop().expect("enough");
        let bytes = LARGE_BYTES.min(free(&relay) - SMALL_BYTES + KIB);
        let rest = in_hand(&relay, &mut wire, bytes).await;
        held.push((wire, rest));
    }
    let refused = relay.ask(signed("/suki", SUCCESS)).await;
    assert_eq!(refused.status, 500);
    assert!(refused.head.contains("retry-after: 5\r\n"));
    for (mut wire, rest) in held {
        wire.send(rest).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    assert!(cut(&relay, 0));
}

#[tokio::test]
async fn whoever_holds_most_makes_room_and_a_small_one_never_for_a_large_one() {
    let relay = Relay::start(limits()).await;
    let mut small = relay.connect().await;
    let rest = in_hand(&relay, &mut small, 200).await;
    let before = free(&relay);
    let mut largest = hold(&relay, LARGE_BYTES).await;
    let its = before - free(&relay);
    let others = spend(&relay, LARGE_BYTES / 2).await;

    let left = free(&relay);
    assert_eq!(relay.ask(signed("/suki", SUCCESS)).await.status, 200);
    largest.ended().await;
    eventually(async || free(&relay) == left + its).await;
    let more = spend(&relay, LARGE_BYTES / 2).await;
    let larger = relay.ask(signed("/suki", &long(LARGE_BYTES))).await;
    assert_eq!(larger.status, 500, "it would hold more than any other");

    small.send(rest).await;
    assert_eq!(small.answer().await.status, 200);
    drop((others, more));
}

#[tokio::test]
async fn of_a_stranger_one_waits_and_the_others_are_refused_at_once() {
    let budget = Budget::new(0);
    let [client, other] = clients().await;
    let mut waits = budget.share(&client, 1).expect("waits");
    assert!(budget.share(&client, 1).is_err());
    assert!(budget.share(&other, 1).is_ok());
    assert!(waits.settle().await.is_err(), "nobody holds anything");
    assert!(budget.share(&client, 1).is_ok(), "it waits no longer");
}

#[tokio::test]
async fn what_is_on_its_way_is_waited_for_by_all_who_need_it() {
    let budget = Budget::new(100);
    let [hoard, first, second] = clients().await;
    let share = |client, bytes| budget.share(client, bytes).expect("has it, or waits");
    let (little, most) = (share(&hoard, 10), share(&hoard, 90));
    let (mut first, mut second) = (share(&first, 10), share(&second, 10));
    let ((), second) = tokio::join!(
        async {
            let lost = async {
                hoard.lost().await;
                drop(little);
            };
            let (first, ()) = tokio::join!(first.settle(), lost);
            assert!(first.is_ok());
            // The second has its turn, and finds nobody else to tell.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            drop(most);
        },
        second.settle()
    );
    assert!(second.is_ok());
}
