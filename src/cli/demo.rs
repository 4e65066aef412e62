//! `suki-relay demo`: the whole relay at work in one process.
//!
//! A throw-away certificate, a spool in a temporary folder and two targets of its own, one by HTTP, which
//! fails at first, and one by gRPC. The notifications go over real TLS through the relay as `run` would start it, from a
//! config file like any other. Exit code 0 only if every delivery arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::send::Sender;
use super::sink::{self, Protocol, Receipt};
use super::trust::Trust;
use super::{log, runtime};
use crate::app::Relay;
use crate::config::Config;
use crate::ingress::tls::self_signed;
use crate::schema::EXAMPLES;
use crate::secret::Secret;
use crate::trace::Tracer;

/// How long the last delivery may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first attempts at `ehr` that fail.
const FAILURES: u64 = 2;
const SECRET: &str = "the demo's own partner secret";

pub(super) fn run(options: &log::Options) -> anyhow::Result<()> {
    let log = log::start(options)?;
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    runtime()?.block_on(async {
        let (mut targets, addresses) = Targets::start().await?;
        let config = config(folder.path(), addresses)?;
        let mut relay = Relay::start(config, log.logging(), Tracer::default()).await?;
        println!(
            "suki-relay demo: the relay listens on https://{}",
            relay.sender_address()
        );
        println!(
            "  metrics and probes on http://{}/metrics\n",
            relay.admin_address()
        );
        let ids = send_examples(relay.sender_address(), &folder.path().join("tls.crt")).await?;
        let arrived = targets.wait_for(ids).await;
        relay.drain().await?;
        arrived
    })?;
    println!("\nEvery delivery arrived. Next: edit config.yaml, then `suki-relay run`.");
    Ok(())
}

/// How many notifications of each target are expected: `audit` gets all, `ehr` the finished ones.
fn expected(target: &str) -> usize {
    match target {
        "audit" => EXAMPLES.len(),
        _ => EXAMPLES
            .iter()
            .filter(|(_, body)| body.contains(r#""status":"success""#))
            .count(),
    }
}

fn config(folder: &Path, targets: [SocketAddr; 2]) -> anyhow::Result<Config> {
    let pair = self_signed(&["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    std::fs::write(folder.join("tls.crt"), pair.certificate)?;
    std::fs::write(folder.join("tls.key"), pair.private_key.expose())?;
    std::fs::write(folder.join("secret"), SECRET)?;
    let [ehr, audit] = targets;
    let text = format!(
        r#"
listen:
  address: 127.0.0.1:0
  tls: {{ certificate: tls.crt, private_key: tls.key }}
admin: {{ address: "127.0.0.1:0", operator: null }}
spool: {{ disk: {{ path: spool }} }}
drain: {{ delay: 0s, deadline: 5s }}
sources:
  - {{ name: suki, path: /webhooks/notification, secrets: [{{ name: demo, file: secret }}] }}
targets:
  - {{ name: ehr, http: {{ url: "http://{ehr}/" }}, retry: {{ initial: 500ms }} }}
  - {{ name: audit, grpc: {{ url: "http://{audit}" }} }}
routes:
  - {{ name: everything, to: [audit] }}
  - {{ name: finished, when: body.status == "success", to: [ehr] }}
"#
    );
    let file = folder.join("config.yaml");
    std::fs::write(&file, text)?;
    Config::read(&file, &|_| None).map_err(|problems| anyhow::anyhow!("{problems}"))
}

async fn send_examples(relay: SocketAddr, certificate: &Path) -> anyhow::Result<usize> {
    let url = format!("https://localhost:{}/webhooks/notification", relay.port()).parse()?;
    let secret = Secret::from_text(SECRET.into()).context("the secret is empty")?;
    let trust = Trust {
        ca: Some(certificate.to_owned()),
        insecure: false,
    };
    let sender = Sender::new(url, secret, &trust)?;
    for (name, body) in EXAMPLES {
        let answer = sender.post(Bytes::from_static(body.as_bytes())).await;
        let status = answer.map_err(|cause| anyhow::anyhow!("sending {name}: {cause}"))?;
        println!("sent {name}: {status}, on disk before the answer");
        ensure!(status == 200, "the relay answered {status}");
    }
    Ok(EXAMPLES.len())
}

/// The demo's own targets and what has arrived at them.
struct Targets {
    receipts: BTreeMap<&'static str, mpsc::Receiver<Receipt>>,
}

impl Targets {
    async fn start() -> anyhow::Result<(Self, [SocketAddr; 2])> {
        let mut receipts = BTreeMap::new();
        let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 2];
        let targets = [
            ("ehr", Protocol::Http, FAILURES),
            ("audit", Protocol::Grpc, 0),
        ];
        for (address, (name, protocol, fail_first)) in addresses.iter_mut().zip(targets) {
            let listener = TcpListener::bind(*address).await?;
            *address = listener.local_addr()?;
            let (sender, receiver) = mpsc::channel(EXAMPLES.len());
            tokio::spawn(sink::serve(protocol, listener, fail_first, sender));
            receipts.insert(name, receiver);
        }
        Ok((Self { receipts }, addresses))
    }

    async fn wait_for(&mut self, sent: usize) -> anyhow::Result<()> {
        println!("\n{sent} notifications are owed to their targets:");
        for (target, receipts) in &mut self.receipts {
            let all = collect(target, receipts);
            if tokio::time::timeout(PATIENCE, all).await.is_err() {
                bail!(
                    "not every delivery to {target} arrived within {} s",
                    PATIENCE.as_secs()
                );
            }
        }
        Ok(())
    }
}

async fn collect(target: &str, receipts: &mut mpsc::Receiver<Receipt>) {
    let mut arrived = BTreeSet::new();
    while arrived.len() < expected(target) {
        let Some(receipt) = receipts.recv().await else {
            return;
        };
        let Receipt {
            id,
            attempt,
            answered,
            ..
        } = receipt;
        println!(
            "  {target:<6} {id} attempt {attempt}: answered {}",
            answered.told
        );
        if answered.taken {
            arrived.insert(id);
        }
    }
}
