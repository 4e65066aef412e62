//! Rows A16 and J14: a file that is replaced under load, and then goes. What is judged, is judged by one version.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use super::trial::{Trial, to};
use crate::harness::{SECRET, Sender, Setup, Target, Watch, eventually, fresh, sign_by};

const SENDERS: usize = 3;
/// Even, so that the first version is in use at the end.
const SWAPS: usize = 20;
const NEXT_SECRET: &str = "canary-secret-of-tomorrow";

/// What is good by one of two versions alone: who signs it, and its body.
type Kind = fn() -> (&'static str, String);

/// Senders that post what is good by the one version and by the other, in turn, without end.
struct Load {
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<Seen>>,
}

/// What one sender saw, one answer after the other.
#[derive(Default)]
struct Seen {
    /// By which version each answer was given.
    by: Vec<usize>,
    /// What was answered 200.
    taken: Vec<Vec<u8>>,
}

impl Load {
    fn begin(trial: &Trial, kinds: [Kind; 2], refused: u16) -> Self {
        let (stop, posted) = (Arc::default(), Arc::default());
        let certificate = trial.setup.path().join("tls.crt");
        let senders = (0..SENDERS).map(|_| {
            let sender = Sender::new(trial.relay.sender_address, &certificate);
            let (stop, posted) = (Arc::clone(&stop), Arc::clone(&posted));
            tokio::spawn(post(sender, kinds, refused, stop, posted))
        });
        let senders = senders.collect();
        Self {
            stop,
            posted,
            senders,
        }
    }

    /// Some are posted meanwhile.
    async fn goes_on(&self) {
        let before = self.posted.load(Ordering::Relaxed);
        eventually("requests go on", async || {
            self.posted.load(Ordering::Relaxed) > before + 4 * SENDERS
        })
        .await;
    }

    /// Ends it. Nobody saw more versions come than there were.
    async fn end(self, id: &str, trial: &mut Trial) {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders {
            let seen = sender.await.expect("each answer is of one of the versions");
            let changes = seen.by.windows(2).filter(|two| two[0] != two[1]).count();
            assert!((2..=SWAPS).contains(&changes), "{id}: {changes} changes");
            trial.owed.extend(seen.taken);
        }
    }
}

async fn post(
    sender: Sender,
    kinds: [Kind; 2],
    refused: u16,
    stop: Arc<AtomicBool>,
    posted: Arc<AtomicUsize>,
) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        for (version, kind) in kinds.into_iter().enumerate() {
            let ((secret, body), at) = (kind(), sender.generated_at());
            let signature = sign_by(secret, &at, body.as_bytes());
            let answer = sender.send(&at, &signature, body.clone()).await;
            let status = answer.expect("an answer").status;
            if status == 200 {
                seen.taken.push(body.into_bytes());
                seen.by.push(version);
            } else {
                assert_eq!(status, refused);
                seen.by.push(1 - version);
            }
            posted.fetch_add(1, Ordering::Relaxed);
        }
    }
    seen
}

/// Swaps the file's two versions, with requests between; then looks at the relay.
async fn swap(id: &str, trial: &mut Trial, file: &Path, versions: [&str; 2], load: Load) {
    for n in 1..=SWAPS {
        let aside = file.with_extension("aside");
        fs::write(&aside, versions[n % 2]).expect("writable");
        fs::rename(&aside, file).expect("renamed");
        assert_eq!(trial.refusal().await, None, "{id}: {n}");
        load.goes_on().await;
        if n == 2 {
            trial.watch = Watch::begin(&trial.relay);
        }
    }
    load.end(id, trial).await;
    trial.watch.kept_thousands();
    trial.goes_on(&format!("{id}: {SWAPS} swaps")).await;
}

/// A file that is emptied, locked or removed is refused, and what it held goes on.
async fn lose(id: &str, trial: &mut Trial, file: &Path, key: &str) {
    let good = fs::read(file).expect("readable");
    let mode = |mode| fs::set_permissions(file, Permissions::from_mode(mode)).expect("set");
    fs::write(file, "").expect("writable");
    trial
        .refuses(&format!("{id}: emptied"), &[key, "empty"])
        .await;
    fs::write(file, &good).expect("writable");
    mode(0o000);
    trial
        .refuses(&format!("{id}: locked"), &[key, "Permission denied"])
        .await;
    mode(0o600);
    fs::remove_file(file).expect("removed");
    trial
        .refuses(&format!("{id}: removed"), &[key, "No such file"])
        .await;
    fs::write(file, &good).expect("writable");
    trial.takes(&format!("{id}: back")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_the_old_one_or_the_new_and_one_that_goes_stays() {
    let target = Target::accepting().await;
    let mut trial = Trial::begin(Setup::new(&to(&target)), &[]).await;
    let kinds: [Kind; 2] = [|| (SECRET, fresh()), || (NEXT_SECRET, fresh())];
    let load = Load::begin(&trial, kinds, 401);
    let file = trial.setup.path().join("secret");
    swap("A16", &mut trial, &file, [SECRET, NEXT_SECRET], load).await;
    lose("A16", &mut trial, &file, "sources[0].secrets[0].file").await;
    trial.end(&target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_judged_by_the_old_schema_or_the_new_and_one_that_goes_stays() {
    let target = Target::accepting().await;
    let source = "
sources:
  - { name: suki, path: /webhooks/notification, secrets: [{ name: a, file: secret }], schema: shape.json }";
    let setup = Setup::new(&format!("{source}{}", to(&target)));
    // What neither has is good by both.
    let versions = [
        r#"{"not":{"required":["b"]}}"#,
        r#"{"not":{"required":["a"]}}"#,
    ];
    let file = setup.path().join("shape.json");
    fs::write(&file, versions[0]).expect("writable");
    let mut trial = Trial::begin(setup, &[]).await;
    let kinds: [Kind; 2] = [
        || (SECRET, fresh().replace('}', r#","a":1}"#)),
        || (SECRET, fresh().replace('}', r#","b":1}"#)),
    ];
    let load = Load::begin(&trial, kinds, 400);
    swap("J14", &mut trial, &file, versions, load).await;
    lose("J14", &mut trial, &file, "sources[0].schema").await;
    trial.end(&target).await;
}
