//! A target that answers what the input says, and an attempt at it.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use suki_relay::clock::Timestamp;
use suki_relay::notification::{Id, Record};
use suki_relay::retry::RETRY_AFTER_MAX;
use suki_relay::target::{Outcome, Parcel, Target};
use suki_relay::trace::Tracer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::{config, name};

pub struct Rig {
    runtime: Runtime,
    target: Arc<Target>,
    answer: Arc<Mutex<Vec<u8>>>,
}

pub static HTTP: LazyLock<Rig> = LazyLock::new(|| Rig::new("http"));
pub static GRPC: LazyLock<Rig> = LazyLock::new(|| Rig::new("grpc"));

impl Rig {
    fn new(protocol: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
        let said = Arc::clone(&answer);
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let said = Arc::clone(&said);
                tokio::spawn(async move {
                    // Once something was asked, everything is said at once, and nothing after it.
                    let mut asked = [0; 4096];
                    let _ = stream.read(&mut asked).await;
                    let bytes = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                    while stream.read(&mut asked).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        let text = format!(
            r#"
listen: {{ tls: {{ self_signed: [localhost] }} }}
sources: [{{ name: suki, path: /in, secrets: [{{ name: current, env: SECRET }}] }}]
targets: [{{ name: ehr, timeout: 2s, {protocol}: {{ url: "http://{address}" }} }}]
routes: [{{ name: all, to: [ehr] }}]
"#
        );
        let config = config(&text).unwrap_or_else(|problems| panic!("{problems}"));
        let target = Arc::clone(config.routing.target(&name("ehr")).expect("named"));
        Self {
            runtime,
            target,
            answer,
        }
    }

    /// What an attempt means that is answered with these bytes.
    pub fn attempt(&self, answer: Vec<u8>) -> Outcome {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
        let record = Record {
            id: Id::from_bytes([7; Id::BYTES]),
            source: name("suki"),
            secret: name("current"),
            received_at: Timestamp::from_millis(1_765_977_748_432),
            generated_at: "1765977748432".into(),
            signature: "00".repeat(32),
            content_type: Some("application/json".into()),
            body: Bytes::from_static(br#"{"status":"success","session_id":"s-1"}"#),
        };
        let parcel = Parcel {
            record: &record,
            attempt: 1,
            replay: false,
            span: Tracer::default().attempt(record.id.as_bytes()),
        };
        let outcome = self.runtime.block_on(self.target.attempt(parcel));
        if let Outcome::Retry {
            after: Some(after), ..
        } = outcome
        {
            assert!(after <= RETRY_AFTER_MAX, "{after:?}");
        }
        outcome
    }
}
