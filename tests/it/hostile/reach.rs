//! Rows G01 and G17: targets that cannot be reached, and one that is back after a long time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::clocks::Clock;
use super::foe::{Foe, Play};
use super::fresh;
use super::front::{Delivery, Front};
use crate::harness::{Relay, eventually};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);

/// A port that is ours, and refuses who comes until it listens.
fn closed() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// A port that answers no SYN: its backlog is full, and nobody accepts.
struct BlackHole {
    address: SocketAddr,
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    async fn open() -> Self {
        let (socket, address) = closed();
        let listener = socket.listen(1).expect("listens");
        let mut waiting = Vec::new();
        let patience = Duration::from_millis(300);
        while let Ok(connected) = timeout(patience, TcpStream::connect(address)).await {
            waiting.push(connected.expect("connects"));
        }
        Self {
            address,
            listener,
            _waiting: waiting,
        }
    }
}

fn target(name: &str, address: impl std::fmt::Display) -> String {
    format!(
        "  - name: {name}
    http: {{ url: \"http://{address}/in?canary-query\", bearer_token: {{ file: token }} }}
    timeout: 20s
    connect_timeout: 400ms
    retry: {{ initial: 10ms, max: 100ms }}
    breaker: {{ failures: 1000 }}\n"
    )
}

/// Of a network without a way there, the broadcast address of loopback serves for one: connect(2) has
/// ENETUNREACH for it on any machine.
const NO_ROUTE: &str = "127.255.255.255:80";

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_tried_again_within_the_time_to_connect() {
    let (good, hole, (later, refused)) = (Foe::start(), BlackHole::open().await, closed());
    let mut rest = "targets:\n".to_owned();
    rest += &target("good", good.address);
    rest += &target("refused", refused);
    rest += &target("unroutable", NO_ROUTE);
    rest += &target("blackhole", hole.address);
    rest += "routes: [{ name: all, to: [good, refused, unroutable, blackhole] }]\n";
    let mut front = Front::begin(&rest);
    let rows = [
        ("refused", Duration::ZERO),
        ("unroutable", Duration::ZERO),
        ("blackhole", CONNECT_TIMEOUT),
    ];
    let body = fresh();
    let id = front.post(&body).await;
    front
        .comes_to("G01: the good one", &id, "good", Delivery::is_delivered)
        .await;
    for (name, _) in rows {
        let again = |delivery: &Delivery| delivery.attempts > 1;
        front
            .comes_to(&format!("G01: {name}"), &id, name, again)
            .await;
    }
    front.is_warm();
    for (name, least) in rows {
        let what = format!("G01: {name}");
        let before = front.delivery(&id, name).await.attempts;
        let again = |delivery: &Delivery| delivery.attempts > before;
        let delivery = front.comes_to(&what, &id, name, again).await;
        assert_eq!(delivery.outcome, "connect", "{what}");
        assert_eq!(delivery.state, "pending", "{what}");
        let most = least + Duration::from_secs(2);
        assert!(
            delivery.took >= least && delivery.took < most,
            "{what}: {:?}",
            delivery.took
        );
        front.goes_on(&what, |body| good.times(body) > 0).await;
    }
    let back = [
        Foe::at(hole.listener),
        Foe::at(later.listen(1024).expect("listens")),
    ];
    front
        .comes_to(
            "G01: back from the hole",
            &id,
            "blackhole",
            Delivery::is_delivered,
        )
        .await;
    front
        .comes_to(
            "G01: no more refused",
            &id,
            "refused",
            Delivery::is_delivered,
        )
        .await;
    for foe in &back {
        assert_eq!(foe.times(body.as_bytes()), 1, "G01: once");
    }
    front
        .goes_on("G01: all of it", |body| {
            back.iter().all(|foe| foe.times(body) > 0)
        })
        .await;
}

/// What waits for the target when it is back.
const BACKLOG: usize = 2000;
/// What comes in meanwhile.
const FRESH: usize = 8;
/// No more of the old may arrive before what has just come in.
const BEFORE_FRESH: usize = 200;
const IN_FLIGHT_MAX: usize = 16;

/// Takes everything, if not at once.
fn slowly() -> Play {
    let answer = b"HTTP/1.1 200 canary\r\ncontent-length: 0\r\n\r\n";
    Play::Late(Duration::from_millis(20), answer.to_vec())
}

/// Posts so many, some at a time.
async fn backlog(relay: &Relay, count: usize) -> BTreeSet<Vec<u8>> {
    let sender = Arc::new(relay.sender());
    let mut posting = JoinSet::new();
    for _ in 0..32 {
        let sender = sender.clone();
        posting.spawn(async move {
            let mut posted = Vec::new();
            for _ in 0..count / 32 {
                let body = fresh();
                let answer = sender.post(body.clone()).await.expect("an answer");
                assert_eq!(answer.status, 200);
                posted.push(body.into_bytes());
            }
            posted
        });
    }
    posting.join_all().await.into_iter().flatten().collect()
}

/// For three days less an hour: `give_up_after` is 72 h. How fast a million are worked off, `cargo bench
/// --bench backlog` measures.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_away_for_days_gets_old_and_new_in_turns_and_is_not_buried() {
    let (socket, away) = closed();
    let setup = Front::setup(&format!(
        "
sources:
  - {{ name: suki, path: /webhooks/notification, secrets: [{{ name: current, file: secret }}], max_age: 0s }}
targets:
  - name: ehr
    http: {{ url: \"http://{away}/in\", bearer_token: {{ file: token }} }}
    max_in_flight: {IN_FLIGHT_MAX}
    retry: {{ initial: 100ms, max: 1s }}
    breaker: {{ probe_after: 50ms, probe_max: 100ms }}
routes: [{{ name: all, to: [ehr] }}]
"
    ));
    let (clock, relay) = Clock::start(setup.path(), &setup);
    let mut front = Front::of(setup, relay);
    let mut owed = backlog(&front.relay, BACKLOG).await;
    clock.set("+71h");

    let foe = Foe::at(socket.listen(1024).expect("listens"));
    foe.plays(slowly());
    let mut posted = Vec::new();
    for number in 1..=FRESH {
        eventually("G17: old ones arrive", async || foe.count() > 100 * number).await;
        let (body, before) = (fresh(), foe.count());
        front.post(&body).await;
        owed.insert(body.clone().into_bytes());
        posted.push((body.into_bytes(), before));
    }
    eventually("G17: all arrive", async || foe.count() >= owed.len()).await;
    let heard = foe.heard();
    for (body, before) in posted {
        let place = heard.iter().position(|heard| heard.body == body);
        let behind = place.expect("G17: it arrives") - before;
        assert!(behind < BEFORE_FRESH, "G17: behind {behind} old ones");
    }
    let bodies: BTreeSet<_> = heard.iter().map(|heard| heard.body.clone()).collect();
    assert_eq!(
        (bodies == owed, heard.len()),
        (true, owed.len()),
        "G17: each once"
    );
    let at_once = heard.iter().map(|heard| heard.at_once);
    let beginning: Vec<_> = at_once.clone().take(4).collect();
    assert!(
        beginning[..2] == [1, 1] && beginning[3] <= 2,
        "G17: {beginning:?}"
    );
    let most = at_once.max().unwrap_or_default();
    assert!(most <= IN_FLIGHT_MAX, "G17: {most} at once");
    front.is_warm();
    front.goes_on("G17", |body| foe.times(body) > 0).await;
}
