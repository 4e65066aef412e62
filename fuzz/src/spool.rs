//! A spool's files with bytes of them changed, the log among them: it opens or is refused; what it gives out is what
//! was put in, to the bit, or nothing.
//!
//! The input is a list of changes, five bytes each: where (four bytes, big-endian, taken modulo the length of all
//! files in a row) and what is written there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use suki_relay::clock::Timestamp;
use suki_relay::notification::{Id, Notification};
use suki_relay::secret::Secret;
use suki_relay::spool::{self, Cursor, Filter, Metrics, Options, Spool, Submission, Verdict};
use suki_relay::verify::{self, Keyring, Signed};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{SECRET, name};

const KEPT: usize = 12;

/// A folder with some notifications in it, and what they are.
struct Good {
    files: Vec<(String, Vec<u8>)>,
    bodies: BTreeMap<Id, Bytes>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| runtime().block_on(Good::new()));
static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

pub fn try_one(input: &[u8]) {
    let folder = folder();
    let mut files = GOOD.files.clone();
    let all: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    for change in input.chunks_exact(5) {
        let [a, b, c, d, value] = *change else {
            continue;
        };
        let mut at = u32::from_be_bytes([a, b, c, d]) as usize % all;
        for (_, bytes) in &mut files {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
                break;
            }
            at -= bytes.len();
        }
    }
    for (name, bytes) in &files {
        fs::write(folder.path().join(name), bytes).expect("writable");
    }
    let metrics = Metrics::new(&Registry::new()).expect("registers");
    let Ok(spool) = Spool::open_existing(folder.path(), None, metrics, |_| {}) else {
        return;
    };
    RUNTIME.block_on(GOOD.compare(&spool));
}

impl Good {
    async fn new() -> Self {
        let folder = folder();
        let options = Options {
            path: folder.path().to_owned(),
            capacity_bytes: 64 << 20,
            keys: None,
            keep_delivered: Duration::from_secs(3600),
            unverified_capacity_bytes: 0,
        };
        let metrics = Metrics::new(&Registry::new()).expect("registers");
        let spool = Spool::open(&options, metrics, |fatal| panic!("{fatal}")).expect("opens");
        let mut bodies = BTreeMap::new();
        for n in 0..KEPT {
            let submission = submission(n);
            let notification = &submission.notification;
            bodies.insert(notification.id, notification.body.clone());
            spool.accept(submission).await.expect("room");
        }
        // Before it closes, which would leave no log.
        let files = files(folder.path());
        drop(spool);
        Self { files, bodies }
    }

    /// Everything that may be asked, and whether what is told was ever put in.
    async fn compare(&self, spool: &Spool) {
        let _ = spool.counts().await;
        let _ = spool.targets_owed().await;
        let _ = spool.audit().await;
        let now = Timestamp::now().plus(Duration::from_secs(60));
        if let Ok(page) = spool.due(&name("ehr"), now, 100).await {
            for due in page.deliveries {
                assert_eq!(self.bodies.get(&due.record.id), Some(&due.record.body));
            }
        }
        let page = spool.list(&Filter::default(), Cursor::default(), 100).await;
        for entry in page.map(|page| page.entries).unwrap_or_default() {
            if let Ok(Some(record)) = spool.record(entry.sequence).await {
                assert_eq!(self.bodies.get(&record.id), Some(&record.body));
            }
        }
    }
}

fn submission(n: usize) -> Submission {
    let secret = Secret::from_text(SECRET.to_vec()).expect("not empty");
    let keyring = Keyring::new([(name("current"), &secret)]);
    let body = Bytes::from(format!("{n} {}", "x".repeat(n * 700)));
    let generated_at = Timestamp::now().as_millis().to_string();
    let signed = Signed {
        signature: verify::signature(&secret, &generated_at, &body),
        generated_at,
        body,
    };
    let verified = keyring.verify(signed).expect("verifies");
    Submission {
        notification: Notification::new(verified, name("suki"), Timestamp::now(), None),
        verdict: Verdict::Accepted,
        targets: vec![name("ehr")],
        quarantine: n.is_multiple_of(3).then_some(spool::Reason::RouteError),
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder).expect("readable").map(|entry| {
        let path = entry.expect("readable").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, fs::read(path).expect("readable"))
    });
    // The ballast is only room, and the log's index is made anew.
    let mut files: Vec<_> = files
        .filter(|(name, _)| name != "ballast" && !name.ends_with("-shm"))
        .collect();
    files.sort();
    files
}

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a folder in memory")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}
