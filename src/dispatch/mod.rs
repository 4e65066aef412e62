//! Dispatch: every notification that is ours, to every target it is owed to.
//!
//! Promises:
//! * One worker a target, each with a window, slots, a breaker and connections of its own: a dead or
//!   slow target never delays another.
//! * What is due is asked of the spool, live and after a crash alike; nothing here needs saving. What has just been
//!   kept is found on the doorstep, as long as nothing waits in the spool before it: the same, without a read. A
//!   crash costs at most a second attempt of what was in flight.
//! * The way to reach a target is looked up at each attempt. What is owed to a target that the config no
//!   longer names is held until it comes back, or an operator lets go of it.
//! * A panic in an attempt is that attempt's failure, and nobody else's.
//!
//! [`Dispatcher`] owns the workers; each ends when the [`Phase`] says so.

mod attempts;
mod breaker;
mod decide;
mod metrics;
mod window;
mod worker;

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::name::Name;
use crate::routing::Routing;
use crate::spool::Spool;
use crate::trace::Tracer;
pub use metrics::Metrics;
use worker::TargetWorker;

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// Still working, while the pod around us may be going: see [`decide::is_deferred`].
    Draining,
    /// No attempt begins any more; those in flight may end until then.
    Stopping {
        deadline: Instant,
    },
}

/// All targets' workers.
pub struct Dispatcher {
    house: House,
    workers: JoinSet<()>,
    known: HashSet<Name>,
    reloads: watch::Sender<()>,
}

/// What every worker works with.
#[derive(Clone)]
struct House {
    spool: Spool,
    routing: Arc<ArcSwap<Routing>>,
    metrics: Metrics,
    tracer: Tracer,
    phase: watch::Receiver<Phase>,
}

/// A worker ended that should not have: a defect of ours.
#[derive(Debug, thiserror::Error)]
#[error("a target's worker panicked; restart the relay: what is owed is in the spool")]
pub struct WorkerPanicked;

impl Dispatcher {
    /// Starts a worker for each target of the routing, and for each name that is owed something.
    pub fn start(
        spool: &Spool,
        routing: &Arc<ArcSwap<Routing>>,
        metrics: Metrics,
        tracer: Tracer,
        phase: watch::Receiver<Phase>,
        owed: impl IntoIterator<Item = Name>,
    ) -> Self {
        let house = House {
            spool: spool.clone(),
            routing: routing.clone(),
            metrics,
            tracer,
            phase,
        };
        let mut dispatcher = Self {
            house,
            workers: JoinSet::new(),
            known: HashSet::new(),
            reloads: watch::Sender::new(()),
        };
        dispatcher.attend_to(owed);
        dispatcher.reconcile();
        dispatcher
    }

    /// Starts a worker for each name that turns out to be owed something.
    pub fn attend_to(&mut self, owed: impl IntoIterator<Item = Name>) {
        for name in owed {
            self.work_for(name);
        }
    }

    /// To be called once a new routing is in place: starts workers for new targets, and has the others
    /// look at what changed for them.
    pub fn reconcile(&mut self) {
        let routing = self.house.routing.load_full();
        for target in routing.targets() {
            self.work_for(target.name.clone());
        }
        self.reloads.send_replace(());
    }

    /// Waits until every worker has ended: some time after [`Phase::Stopping`], or for ever.
    ///
    /// Cancellation safe.
    pub async fn ended(&mut self) -> Result<(), WorkerPanicked> {
        while let Some(ended) = self.workers.join_next().await {
            ended.map_err(|_| WorkerPanicked)?;
        }
        Ok(())
    }

    fn work_for(&mut self, name: Name) {
        if self.known.insert(name.clone()) {
            self.house.spool.watch_target(&name);
            let worker = TargetWorker::new(name, self.house.clone(), self.reloads.subscribe());
            self.workers.spawn(worker.run());
        }
    }
}

#[cfg(test)]
pub mod tests;
