//! Whether the relays have delivered what was sent, by their own count.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep, timeout};

/// From the last answer to the last delivery.
const DELIVERY_WAIT: Duration = Duration::from_mins(1);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For one relay's metrics.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// All relays that the host of an admin address stands for, as behind a headless Service.
pub(super) struct Relays {
    client: Client<HttpConnector, Empty<Bytes>>,
    host: String,
    port: u16,
}

impl Relays {
    pub(super) fn at(admin: &Uri) -> anyhow::Result<Self> {
        let (Some(host), Some("http")) = (admin.host(), admin.scheme_str()) else {
            bail!("--until-delivered {admin}: write it whole, as in http://localhost:9740");
        };
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: admin.port_u16().unwrap_or(80),
        })
    }

    /// Waits until they have delivered `count` more than `before`.
    pub(super) async fn have_delivered(&self, before: u64, count: u64) -> anyhow::Result<()> {
        let until = Instant::now() + DELIVERY_WAIT;
        loop {
            let now = self.delivered().await;
            if now.as_ref().is_ok_and(|now| *now >= before + count) {
                return Ok(());
            }
            if Instant::now() >= until {
                let more = now?.saturating_sub(before);
                bail!(
                    "answered 200, but of {count} only {more} were delivered within {} s; \
                     `suki-relay spool status` tells what is pending, and for whom",
                    DELIVERY_WAIT.as_secs()
                );
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Deliveries of all of them together.
    pub(super) async fn delivered(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        let addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        for address in addresses.with_context(|| format!("looking up {}", self.host))? {
            let metrics = timeout(
                ANSWER_WAIT,
                self.metrics(format!("http://{address}/metrics")),
            );
            let metrics = metrics.await.context("no answer in time");
            let metrics = metrics
                .and_then(|metrics| metrics)
                .with_context(|| format!("asking {address} for its metrics"))?;
            sum += delivered_in(&metrics);
        }
        Ok(sum)
    }

    #[expect(clippy::disallowed_methods, reason = "bounded by Limited")]
    async fn metrics(&self, url: String) -> anyhow::Result<String> {
        let answer = self.client.get(url.parse()?).await?;
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(|cause| anyhow::anyhow!("{cause}"))?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }
}

fn delivered_in(metrics: &str) -> u64 {
    let counters = metrics.lines().filter(|line| {
        line.starts_with("suki_relay_deliveries_total{") && line.contains("result=\"delivered\"")
    });
    counters
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_delivered_is_summed_over_all_targets_and_nothing_else_is() {
        let metrics = "# TYPE suki_relay_deliveries_total counter\n\
            suki_relay_deliveries_total{result=\"dead_lettered\",target=\"a\"} 9\n\
            suki_relay_deliveries_total{result=\"delivered\",target=\"a\"} 3\n\
            suki_relay_deliveries_total{result=\"delivered\",target=\"b\"} 4\n\
            suki_relay_deliveries_pending{target=\"a\"} 5\n";
        assert_eq!(delivered_in(metrics), 7);
    }
}
