//! What a worker finds on its doorstep: what has just come, without a look into the spool.

use tokio::time::Instant;

use super::TargetWorker;

impl TargetWorker {
    /// Something has come: it is here now, or it is time to look.
    pub fn answer_the_door(&mut self) {
        if !self.take_in() {
            self.look_at = Instant::now();
            self.unseen = true;
        }
    }

    /// Lets what was left wait here. False if that is not all that came: the spool has it.
    pub fn take_in(&mut self) -> bool {
        let Some(left) = self.doorstep.take() else {
            return false;
        };
        let all = self.window.add_left(left);
        if !all {
            self.doorstep.close();
            // Not before what waits here has become little: a page would take its place.
            self.more = true;
            self.unseen = true;
        }
        all
    }
}
