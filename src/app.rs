//! The house, wired: what starts in which order, who owns which task, what stops in which order.
//!
//! Start: admin address (so that a long start can be watched), spool (recovered and synced before
//! anything is answered or delivered), dispatch, listener, ready.
//! Stop: not ready, still accepting for `drain.delay`; then the listener closes, requests in hand and
//! attempts in flight end, until `drain.deadline`. Nothing needs saving: a stop and a crash differ only
//! in politeness.

mod config_metrics;
mod follow;
mod metrics;
mod reload;

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::operator::{self, Desk, Guard, Operator, ReloadOrder, Reloaded, SetLogLevel};
use crate::admin::{self, Admin, Probes};
use crate::config::{self, Config, Drain};
use crate::dispatch::{self, Dispatcher, WorkerPanicked};
use crate::ingress::{self, Ingress};
use crate::name::Name;
use crate::secret::Secret;
use crate::spool::{self, Spool, Store};
use crate::trace::Tracer;

use config_metrics::ConfigMetrics;
pub use follow::{Environment, Follower, Version};
pub use metrics::LinesDropped;
use reload::Published;

/// What of the process's logging a relay reads and sets.
pub struct Logging {
    pub lines_dropped: LinesDropped,
    pub set_level: SetLogLevel,
}

/// Orders to reload that may wait; each is a look at a few files.
const RELOADS_WAITING_MAX: usize = 16;

/// How often a server that is away is asked what it owes.
const OWED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A relay at work. Dropping it stops it as a crash would.
pub struct Relay {
    sender_address: SocketAddr,
    admin_address: SocketAddr,
    admin: Arc<Admin>,
    drain: Drain,
    published: Published,
    ingress_drain: watch::Sender<Option<Instant>>,
    dispatch_phase: watch::Sender<dispatch::Phase>,
    listener: JoinHandle<()>,
    admin_task: JoinHandle<()>,
    operator_task: Option<JoinHandle<()>>,
    orders_task: JoinHandle<()>,
    reloads: mpsc::Receiver<ReloadOrder>,
    dispatcher: Dispatcher,
    /// `None` once they are known.
    owed_later: Option<JoinHandle<Vec<Name>>>,
    spool_failure: mpsc::Receiver<spool::Fatal>,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Spool(#[from] spool::OpenError),
    #[error("reading what the spool holds: {0}")]
    Read(#[from] spool::ReadError),
    #[error("listening on {address}: {cause}; change `{key}`, or stop what listens there")]
    Bind {
        key: &'static str,
        address: SocketAddr,
        cause: std::io::Error,
    },
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("opening the spool panicked; this is a defect, please report it")]
    Panicked,
}

/// Why a relay that was at work must end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Spool(spool::Fatal),
    #[error(transparent)]
    Worker(WorkerPanicked),
}

impl Relay {
    /// Starts everything and returns once notifications are accepted.
    pub async fn start(
        config: Config,
        logging: Logging,
        tracer: Tracer,
    ) -> Result<Self, StartError> {
        let registry = Registry::new();
        let config_metrics = ConfigMetrics::new(&registry, &config)?;
        let admin = Arc::new(Admin {
            registry: registry.clone(),
            probes: Probes::default(),
            refresh: metrics::register(&registry, logging.lines_dropped)?,
        });
        let (admin_listener, admin_address) = bind("admin.address", config.admin.address).await?;
        let admin_task = tokio::spawn(admin::serve(admin_listener, admin.clone()));

        let (spool, spool_failure) = open(config.spool, spool::Metrics::new(&registry)?).await?;
        admin.probes.watch(spool.clone());
        let (owed, owed_later) = owed(&spool).await?;

        let ingress_metrics = Arc::new(ingress::Metrics::new(&registry)?);
        ingress_metrics.prepare(&config.routing);
        let routing = Arc::new(ArcSwap::from_pointee(config.routing));
        let metrics = dispatch::Metrics::new(&registry)?;
        let (dispatch_phase, phase) = watch::channel(dispatch::Phase::Running);
        let dispatcher = Dispatcher::start(&spool, &routing, metrics, tracer.clone(), phase, owed);

        let tls = Arc::new(ArcSwap::new(config.listen.tls.config));
        let state = reload::state_of(config.sha256, config.shown);
        let state = Arc::new(ArcSwap::from_pointee(state));
        let token = Arc::new(ArcSwapOption::empty());
        let (reload, reloads) = mpsc::channel(RELOADS_WAITING_MAX);
        let desk = || Desk::new(spool.clone(), routing.clone());
        let orders_task = tokio::spawn(carry_on(desk()));
        let operator = |guard| Operator {
            guard,
            desk: desk(),
            config: state.clone(),
            reload,
            set_log_level: logging.set_level,
        };
        let operator = serve_operator(config.admin.operator, token.clone(), operator).await?;
        let published = Published {
            routing: routing.clone(),
            tls: tls.clone(),
            ingress_metrics: ingress_metrics.clone(),
            metrics: config_metrics,
            outline: config.outline,
            operator_token: token,
            state,
        };
        let limits = config.listen.limits;
        let ingress = Ingress::new(routing, tls, spool, limits, ingress_metrics, tracer);
        let (listener, sender_address) = bind("listen.address", config.listen.address).await?;
        let (ingress_drain, draining) = watch::channel(None);
        let listener = tokio::spawn(ingress::serve(listener, Arc::new(ingress), draining));

        admin.probes.enter(admin::Phase::Serving);
        let (operator_address, operator_task) = operator.unzip();
        let operator = operator_address.map(tracing::field::display);
        tracing::info!(sender = %sender_address, admin = %admin_address, operator, "listening");
        Ok(Self {
            sender_address,
            admin_address,
            admin,
            drain: config.drain,
            published,
            ingress_drain,
            dispatch_phase,
            listener,
            admin_task,
            operator_task,
            orders_task,
            reloads,
            dispatcher,
            owed_later,
            spool_failure,
        })
    }

    pub const fn sender_address(&self) -> SocketAddr {
        self.sender_address
    }

    pub const fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Works, following the config, until a failure after which the relay must end.
    ///
    /// Cancellation: another version of the config may stay unnoticed until `follower` looks again.
    pub async fn work(&mut self, follower: &mut Follower) -> Failure {
        let Self {
            spool_failure,
            dispatcher,
            ..
        } = self;
        loop {
            let mut order = None;
            tokio::select! {
                failure = failed(spool_failure, dispatcher) => return failure,
                owed = known(&mut self.owed_later) => {
                    dispatcher.attend_to(owed);
                    continue;
                }
                () = follower.time_to_look() => {}
                // Never, if there is no operator's listener.
                Some(reload) = self.reloads.recv() => order = Some(reload),
            }
            let version = tokio::select! {
                failure = failed(spool_failure, dispatcher) => return failure,
                version = follower.look() => version,
            };
            self.published.metrics.watch(follower.mode());
            let reloaded = self.published.replace(version);
            if matches!(reloaded, Reloaded::Applied) {
                dispatcher.reconcile();
            }
            if let Some(order) = order {
                // Whoever asked may have left.
                let _ = order.send(reloaded);
            }
        }
    }

    /// Waits for a failure after which the relay must end.
    ///
    /// Cancellation safe.
    pub async fn failed(&mut self) -> Failure {
        failed(&mut self.spool_failure, &mut self.dispatcher).await
    }

    /// Stops politely: `Ok` once everything in hand has ended, or `drain.deadline` has passed; a failure
    /// of the spool cuts it short.
    pub async fn drain(&mut self) -> Result<(), Failure> {
        let signal = Instant::now();
        let deadline = signal + self.drain.deadline;
        self.admin.probes.enter(admin::Phase::Draining);
        self.dispatch_phase.send_replace(dispatch::Phase::Draining);
        // Nobody follows the config any more: who asks for that is told so.
        self.reloads.close();
        while self.reloads.try_recv().is_ok() {}
        tracing::info!("draining: not ready any more, still accepting");
        let accepting = tokio::time::sleep_until(signal + self.drain.delay);
        tokio::select! {
            Some(fatal) = self.spool_failure.recv() => return Err(Failure::Spool(fatal)),
            () = accepting => {}
        }
        self.ingress_drain.send_replace(Some(deadline));
        self.dispatch_phase
            .send_replace(dispatch::Phase::Stopping { deadline });
        let ended = async {
            let _ = (&mut self.listener).await;
            let _ = self.dispatcher.ended().await;
        };
        tokio::select! {
            Some(fatal) = self.spool_failure.recv() => return Err(Failure::Spool(fatal)),
            () = ended => tracing::info!("drained"),
            () = tokio::time::sleep_until(deadline) => {
                tracing::info!("the drain's deadline has passed; what is owed is in the spool");
            }
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listener.abort();
        self.admin_task.abort();
        self.orders_task.abort();
        if let Some(owed_later) = &self.owed_later {
            owed_later.abort();
        }
        if let Some(operator) = &self.operator_task {
            operator.abort();
        }
    }
}

/// Cancellation safe.
async fn failed(
    spool_failure: &mut mpsc::Receiver<spool::Fatal>,
    dispatcher: &mut Dispatcher,
) -> Failure {
    tokio::select! {
        Some(fatal) = spool_failure.recv() => Failure::Spool(fatal),
        Err(panicked) = dispatcher.ended() => Failure::Worker(panicked),
    }
}

async fn open(
    store: Store,
    metrics: spool::Metrics,
) -> Result<(Spool, mpsc::Receiver<spool::Fatal>), StartError> {
    let (sender, failure) = mpsc::channel(1);
    let on_fatal = move |fatal: spool::Fatal| {
        tracing::error!(%fatal, "the relay ends");
        let _ = sender.try_send(fatal);
    };
    let opening = move || match &store {
        Store::Disk(options) => Spool::open(options, metrics, on_fatal),
        Store::Postgres(options) => Spool::connect(options, metrics, on_fatal),
    };
    let spool = tokio::task::spawn_blocking(opening)
        .await
        .map_err(|_| StartError::Panicked)??;
    Ok((spool, failure))
}

/// The targets that are owed something; those of a server with a disk beside it later, for it may be away.
async fn owed(
    spool: &Spool,
) -> Result<(Vec<Name>, Option<JoinHandle<Vec<Name>>>), spool::ReadError> {
    if spool.on_fallback().is_none() {
        return Ok((spool.targets_owed().await?, None));
    }
    let spool = spool.clone();
    let later = tokio::spawn(async move {
        loop {
            if let Ok(owed) = spool.targets_owed().await {
                return owed;
            }
            tokio::time::sleep(OWED_AGAIN_AFTER).await;
        }
    });
    Ok((Vec::new(), Some(later)))
}

/// Those, once; then never.
///
/// Cancellation safe.
async fn known(later: &mut Option<JoinHandle<Vec<Name>>>) -> Vec<Name> {
    let Some(asking) = later else {
        return pending().await;
    };
    let owed = asking.await.unwrap_or_default();
    *later = None;
    owed
}

/// With orders that were cut short.
async fn carry_on(desk: Desk) {
    desk.carry_on().await;
}

/// Where the operator is heard, and the task that hears; `None` if the config turns it off.
async fn serve_operator(
    options: Option<config::Operator>,
    token: Arc<ArcSwapOption<Secret>>,
    operator: impl FnOnce(Guard) -> Operator,
) -> Result<Option<(SocketAddr, JoinHandle<()>)>, StartError> {
    let Some(options) = options else {
        return Ok(None);
    };
    let (listener, address) = bind("admin.operator.address", options.address).await?;
    token.store(options.token.map(Arc::new));
    let operator = Arc::new(operator(Guard { address, token }));
    let task = tokio::spawn(operator::serve(listener, operator));
    Ok(Some((address, task)))
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|cause| StartError::Bind {
        key,
        address,
        cause,
    })
}
