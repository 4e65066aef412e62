//! A spool's file with bytes of it changed: it opens or is refused; what it gives out is what was put in, to the
//! bit, or nothing.
//!
//! The input is a list of changes, five bytes each: where (four bytes, big-endian, taken modulo the file's length)
//! and what is written there.

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
const FILE: &str = "spool.db";

/// A folder with some notifications in it, and what they are.
struct Good {
    files: Vec<(String, Vec<u8>)>,
    bodies: BTreeMap<Id, Bytes>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| runtime().block_on(Good::new()));
static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

pub fn try_one(input: &[u8]) {
    let folder = folder();
    for (name, bytes) in &GOOD.files {
        let mut bytes = bytes.clone();
        if name == FILE {
            for change in input.chunks_exact(5) {
                let [a, b, c, d, value] = *change else {
                    continue;
                };
                let at = u32::from_be_bytes([a, b, c, d]) as usize % bytes.len();
                bytes[at] = value;
            }
        }
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
        drop(spool);
        Self {
            files: files(folder.path()),
            bodies,
        }
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
    // The ballast is only room.
    files.filter(|(name, _)| name != "ballast").collect()
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
