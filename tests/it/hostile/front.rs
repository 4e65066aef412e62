//! A relay among hostile targets, watched: what became of each delivery, and whether the relay is as it was.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use suki_relay::clock::Timestamp;
use suki_relay::verify::content_digest;

use crate::harness::{Relay, Setup, Watch, comes_to, eventually, sign};

pub struct Front {
    setup: Setup,
    pub relay: Relay,
    watch: Watch,
}

/// What became of what one target is owed, as the operator is told.
#[derive(Debug)]
pub struct Delivery {
    pub state: String,
    pub attempts: u64,
    /// Of the last attempt; empty before the first.
    pub outcome: String,
    /// How long the last attempt took.
    pub took: Duration,
    /// From its end to the next one, if there is to be one.
    pub wait: Option<Duration>,
}

impl Front {
    /// Reads `key` and `token`, if the config names them.
    pub fn setup(rest: &str) -> Setup {
        let setup = Setup::new(rest);
        setup.put_credentials();
        setup
    }

    pub fn begin(rest: &str) -> Self {
        let setup = Self::setup(rest);
        let relay = setup.start_at("trace");
        Self::of(setup, relay)
    }

    pub fn of(setup: Setup, relay: Relay) -> Self {
        let watch = Watch::begin(&relay);
        Self {
            setup,
            relay,
            watch,
        }
    }

    /// A delivery of this to that target fails once, as `fail` has it, and is had after `mend`: what the relay does the
    /// first time is done.
    pub async fn warm_up(
        &mut self,
        body: &str,
        target: &str,
        fail: impl FnOnce(),
        mend: impl FnOnce(),
    ) {
        fail();
        let id = self.post(body).await;
        let failed = |delivery: &Delivery| delivery.attempts > 0;
        self.comes_to("a failure", &id, target, failed).await;
        mend();
        self.comes_to("it is had", &id, target, Delivery::is_delivered)
            .await;
        self.is_warm();
    }

    /// It has done by now what it does the first time.
    pub fn is_warm(&mut self) {
        self.watch = Watch::begin(&self.relay);
    }

    /// Where its config and the files that it names are.
    pub fn path(&self) -> &Path {
        self.setup.path()
    }

    /// Posts a good notification, and gives back its id.
    pub async fn post(&self, body: &str) -> String {
        self.watch.brought(body.len());
        let sender = self.relay.sender();
        let at = sender.generated_at();
        let signature = sign(&at, body.as_bytes());
        let answer = sender.send(&at, &signature, body.to_owned()).await;
        assert_eq!(answer.expect("an answer").status, 200);
        hex::encode(&content_digest(&at, body.as_bytes())[..16])
    }

    pub async fn delivery(&self, id: &str, target: &str) -> Delivery {
        let path = format!("/v1/notifications/{id}");
        let (_, shown) = self.relay.operator("GET", &path, "").await;
        Delivery::to(target, &shown)
    }

    /// Waits until it is so.
    pub async fn comes_to(
        &self,
        what: &str,
        id: &str,
        target: &str,
        is_so: impl Fn(&Delivery) -> bool,
    ) -> Delivery {
        comes_to(what, || self.delivery(id, target), is_so).await
    }

    /// An operator has it sent again now.
    pub async fn replay(&self, id: &str) {
        let path = format!("/v1/notifications/{id}/replay");
        let (status, answer) = self.relay.operator("POST", &path, "").await;
        assert_eq!(status, 200, "{answer}");
    }

    /// The relay is as it was, and takes a good notification, which arrives.
    pub async fn goes_on(&mut self, after: &str, arrived: impl Fn(&[u8]) -> bool) {
        let body = self.watch.goes_on(&self.relay, after).await;
        eventually(&format!("a good one arrives after {after}"), async || {
            arrived(&body)
        })
        .await;
    }

    /// The most memory that it had resident since [`Front::forget_peak`], in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.relay.status_kib("VmHWM")
    }

    /// As root (proc(5), `clear_refs`): the relay lets nobody else look.
    pub fn forget_peak(&self) {
        let file = format!("/proc/{}/clear_refs", self.relay.pid());
        fs::write(file, "5").expect("writable");
    }
}

impl Delivery {
    pub fn is_delivered(&self) -> bool {
        self.state == "delivered"
    }

    /// Of one notification, as it is shown.
    pub fn to(target: &str, shown: &Value) -> Self {
        let deliveries = &shown["notifications"][0]["deliveries"];
        let mut all = deliveries.as_array().expect("a list").iter();
        let found = all.find(|delivery| delivery["target"] == target);
        Self::read(found.unwrap_or_else(|| panic!("none to {target}: {shown}")))
    }

    fn read(shown: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let time = |value: &Value| Timestamp::parse(value.as_str()?);
        let last = shown["history"].as_array().and_then(|events| events.last());
        let took_ms = last.and_then(|last| last["took_ms"].as_u64());
        let took = Duration::from_millis(took_ms.unwrap_or_default());
        // An attempt is told by its beginning.
        let ended_at = last.and_then(|last| Some(time(&last["at"])?.plus(took)));
        let wait = ended_at.and_then(|at| Some(time(&shown["due_at"])?.since(at)));
        Self {
            state: text(&shown["state"]),
            attempts: shown["attempts"].as_u64().expect("a number"),
            outcome: text(&shown["last_outcome"]),
            took,
            wait,
        }
    }
}
