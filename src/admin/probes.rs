//! What the kubelet is told, each with its reason.
//!
//! * Started: config read, spool recovered, listener bound.
//! * Ready: started and not draining. Never a matter of a target, a backlog or a full disk: a sidecar
//!   that is not ready takes its whole pod out of service, and the sender does not come again.
//! * Live: the runtime answers, and the spool's writer is idle or has moved within [`WRITER_STUCK`]. A
//!   disk that is merely slow is not made faster by a restart.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::spool::Spool;

/// A writer that has been in one commit for this long is stuck.
pub const WRITER_STUCK: Duration = Duration::from_mins(2);

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    Draining,
}

/// The state that probes look at.
#[derive(Debug, Default)]
pub struct Probes {
    phase: AtomicU8,
    spool: OnceLock<Spool>,
}

impl Probes {
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The writer to watch, once there is one.
    pub fn watch(&self, spool: Spool) {
        // Set once, at start; a second spool is a defect that no probe could explain.
        let _ = self.spool.set(spool);
    }

    pub(super) fn started(&self) -> Result<(), String> {
        match self.phase() {
            Phase::Starting => Err("starting: the spool is being recovered".into()),
            Phase::Serving | Phase::Draining => Ok(()),
        }
    }

    pub(super) fn ready(&self) -> Result<(), String> {
        match self.phase() {
            Phase::Starting => Err("starting: the spool is being recovered".into()),
            Phase::Serving => Ok(()),
            Phase::Draining => {
                Err("draining: a signal to stop came; still accepting for a while".into())
            }
        }
    }

    pub(super) fn live(&self) -> Result<(), String> {
        writer_moves(self.spool.get().and_then(Spool::writer_busy_for))
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }
}

/// `busy`: how long the writer has been in its commit; `None` if it is idle.
fn writer_moves(busy: Option<Duration>) -> Result<(), String> {
    match busy {
        Some(busy) if busy > WRITER_STUCK => Err(format!(
            "the spool's writer has been in one commit for {} s; look at the volume",
            busy.as_secs()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_writer_stuck_for_long_is_told_to_die() {
        assert_eq!(writer_moves(None), Ok(()));
        assert_eq!(writer_moves(Some(Duration::from_secs(30))), Ok(()));
        assert_eq!(writer_moves(Some(WRITER_STUCK)), Ok(()));
        let stuck = writer_moves(Some(Duration::from_secs(121)));
        let reason = "the spool's writer has been in one commit for 121 s; look at the volume";
        assert_eq!(stuck, Err(reason.to_owned()));
    }

    #[test]
    fn a_start_is_alive_but_neither_started_nor_ready() {
        let probes = Probes::default();
        assert_eq!(probes.live(), Ok(()));
        assert!(
            probes
                .started()
                .is_err_and(|why| why.starts_with("starting: "))
        );
        assert!(
            probes
                .ready()
                .is_err_and(|why| why.starts_with("starting: "))
        );
        probes.enter(Phase::Serving);
        assert_eq!((probes.started(), probes.ready()), (Ok(()), Ok(())));
        probes.enter(Phase::Draining);
        assert_eq!(probes.started(), Ok(()));
        assert!(
            probes
                .ready()
                .is_err_and(|why| why.starts_with("draining: "))
        );
    }
}
