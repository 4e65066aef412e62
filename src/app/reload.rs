//! Publishing another version of the config: all of it, or nothing.
//!
//! Each part is one pointer that is swapped, so that nothing here waits for a request or an attempt, and
//! none of them sees two versions. A crash in between leaves nothing: the next start reads the files.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;

use super::config_metrics::ConfigMetrics;
use super::follow::Version;
use crate::admin::operator::{ConfigState, Reloaded};
use crate::clock::Timestamp;
use crate::config::{Changes, Config, Outline};
use crate::ingress;
use crate::routing::Routing;
use crate::secret::Secret;

/// The version in use.
pub(super) struct Published {
    pub routing: Arc<ArcSwap<Routing>>,
    pub tls: Arc<ArcSwap<ServerConfig>>,
    pub ingress_metrics: Arc<ingress::Metrics>,
    pub metrics: ConfigMetrics,
    pub outline: Outline,
    pub operator_token: Arc<ArcSwapOption<Secret>>,
    /// What the operator is shown, with what was said of the version seen last if it was refused.
    pub state: Arc<ArcSwap<ConfigState>>,
}

/// Of a config that is used from now on.
pub(super) fn state_of(sha256: [u8; 32], shown: serde_json::Value) -> ConfigState {
    ConfigState {
        sha256: hex::encode(sha256),
        in_use_since: Timestamp::now().to_string(),
        refused: None,
        config: shown,
    }
}

impl Published {
    /// Puts a version, if there is another, in the place of the one in use. If it is refused, nothing
    /// has changed.
    pub fn replace(&mut self, version: Option<Version>) -> Reloaded {
        let config = match version {
            Some(Ok(config)) => config,
            Some(Err(problems)) => return self.refuse(problems.one_line()),
            None => return self.unchanged(),
        };
        let changes = self.outline.changes_to(&config.outline);
        if !changes.restart.is_empty() {
            let keys = changes.restart.join(", ");
            return self.refuse(format!(
                "only a restart can change {keys}; put the old value back, or restart the relay"
            ));
        }
        self.apply(config, &changes);
        Reloaded::Applied
    }

    /// What was wrong with the files still is.
    fn unchanged(&self) -> Reloaded {
        match self.state.load().refused.clone() {
            Some(problems) => Reloaded::Refused { problems },
            None => Reloaded::Unchanged,
        }
    }

    fn refuse(&mut self, problems: String) -> Reloaded {
        self.metrics.refused();
        let state = self.state.load();
        // A file that is being written is seen in many states; saying the same of each helps nobody.
        if state.refused.as_ref() != Some(&problems) {
            tracing::warn!(
                problems,
                "the new config is refused; the old one stays in use"
            );
        }
        self.state.store(Arc::new(ConfigState {
            refused: Some(problems.clone()),
            ..ConfigState::clone(&state)
        }));
        Reloaded::Refused { problems }
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
        let token = config.admin.operator.and_then(|operator| operator.token);
        self.operator_token.store(token.map(Arc::new));
        self.outline = config.outline;
        let heals = self.state.load().refused.is_some();
        self.state
            .store(Arc::new(state_of(config.sha256, config.shown)));
        let sha256 = hex::encode(config.sha256);
        if changes.is_empty() && !heals {
            tracing::debug!(sha256, "the config reads otherwise and says the same");
            return;
        }
        tracing::info!(
            changes = changes.to_string().trim_end().replace('\n', "; "),
            sha256,
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
