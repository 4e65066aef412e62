//! What a worker holds and does not begin: other relays may have it, if there are others.

use tokio::time::Instant;

use super::{READ_PAUSE, TargetWorker};

impl TargetWorker {
    /// What waits from another era of the spool may have been taken over: none of it is begun.
    pub fn keep_to_the_era(&mut self) {
        let era = self.house.spool.era();
        if era.is_some() && era == self.era {
            return;
        }
        self.era = era;
        if !self.window.is_empty() {
            self.give_up();
            self.look_at = Instant::now();
        }
    }

    /// Lets go of what waits here: another relay may have it.
    pub fn give_up(&mut self) {
        self.doorstep.close();
        self.given_up.append(&mut self.window.clear());
        self.more = true;
    }

    /// False until it works: what is given up would be handed out to us again, and then taken away.
    pub async fn gives_back(&mut self) -> bool {
        if self.given_up.is_empty() {
            return true;
        }
        if self.give_back_at > Instant::now() {
            return false;
        }
        let given_back = self.house.spool.give_back(&self.name, &self.given_up);
        if given_back.await.is_err() {
            self.give_back_at = Instant::now() + READ_PAUSE;
            self.look_at = self.give_back_at;
            return false;
        }
        self.given_up.clear();
        true
    }
}
