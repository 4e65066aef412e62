//! Publishing another version of the config: all of it, or nothing.
//!
//! Each part is one pointer that is swapped, so that nothing here waits for a request or an attempt, and
//! none of them sees two versions. A crash in between leaves nothing: the next start reads the files.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::config_metrics::ConfigMetrics;
use super::follow::Version;
use crate::config::{Changes, Config, Outline, Problems};
use crate::ingress;
use crate::routing::Routing;

/// The version in use.
pub(super) struct Published {
    pub routing: Arc<ArcSwap<Routing>>,
    pub tls: Arc<ArcSwap<ServerConfig>>,
    pub ingress_metrics: Arc<ingress::Metrics>,
    pub metrics: ConfigMetrics,
    pub outline: Outline,
    /// What was said of the version seen last, if it was refused.
    pub refusal: Option<String>,
}

impl Published {
    /// Puts a version in the place of the one in use; `false` if it is refused, and nothing has changed.
    pub fn replace(&mut self, version: Version) -> bool {
        let config = match version {
            Ok(config) => config,
            Err(problems) => {
                self.refuse(one_line(&problems));
                return false;
            }
        };
        let changes = self.outline.changes_to(&config.outline);
        if !changes.restart.is_empty() {
            let keys = changes.restart.join(", ");
            self.refuse(format!(
                "only a restart can change {keys}; put the old value back, or restart the relay"
            ));
            return false;
        }
        self.apply(config, &changes);
        true
    }

    fn refuse(&mut self, problems: String) {
        self.metrics.refused();
        // A file that is being written is seen in many states; saying the same of each helps nobody.
        if self.refusal.as_ref() != Some(&problems) {
            tracing::warn!(
                problems,
                "the new config is refused; the old one stays in use"
            );
        }
        self.refusal = Some(problems);
    }

    fn apply(&mut self, config: Config, changes: &Changes) {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let not_after = config.listen.tls.not_after;
        let routing = self.with_unchanged_targets(config.routing, &config.outline);
        self.ingress_metrics.prepare(&routing);
        self.routing.store(Arc::new(routing));
        if changes.tls {
            self.tls.store(config.listen.tls.config);
        }
        // Without new files, `not_after` is that of a certificate made for this load, and not served.
        let served = changes.tls.then_some(not_after);
        self.metrics.applied(&config.sha256, served);
        self.outline = config.outline;
        self.refusal = None;
        tracing::info!(
            changes = changes.to_string().trim_end().replace('\n', "; "),
            sha256 = hex::encode(config.sha256),
            "the new config is in use"
        );
    }

    /// Targets with the same settings stay the same, with their connections.
    fn with_unchanged_targets(&self, mut routing: Routing, outline: &Outline) -> Routing {
        for target in self.routing.load().targets() {
            if self.outline.shares_target(outline, &target.name) {
                routing.keep(target.clone());
            }
        }
        routing
    }
}

fn one_line(problems: &Problems) -> String {
    problems.to_string().replace('\n', "; ")
}
