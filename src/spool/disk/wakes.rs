//! Who wants to hear that a delivery for a target has been put on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::name::Name;
use crate::spool::Doorstep;

/// One [`Doorstep`] a target; as many as targets were ever configured.
#[derive(Default)]
pub(in crate::spool) struct Wakes {
    by_target: Mutex<HashMap<Name, Arc<Doorstep>>>,
}

impl Wakes {
    pub fn of(&self, target: &Name) -> Arc<Doorstep> {
        let mut wakes = self
            .by_target
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(wakes.entry(target.clone()).or_default())
    }

    pub fn all(&self) {
        let wakes = self.by_target.lock();
        for wake in wakes.unwrap_or_else(PoisonError::into_inner).values() {
            wake.ring();
        }
    }
}
