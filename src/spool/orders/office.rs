//! The office: takes operators' orders, and sees each through to its end.
//!
//! Promises:
//! * An order is carried out in commits of a bounded size. If it takes more than one, it is kept from the
//!   first on, and goes on from where it is after whatever cut it short: [`Office::carry_on`].
//! * One relay at a time is at it (`Engine::adopt_errand`); a commit of another than that one, or from another
//!   place than it had reached, changes nothing.
//! * A discard does to what was counted when it was given, and to nothing else. What is no longer as it was
//!   counted ends it, before the commit that would have held it: nothing of that is done.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{DEEDS_MAX, Deed, Errand, Note, Order, OrderLine, Owing, Plan};
use crate::clock::Timestamp;
use crate::name::Name;
use crate::notification::Record;
use crate::spool::{
    CustodyError, Discard, Done, Engine, Filter, ReadError, Release, Replay, ReplayTo, State,
};

/// Deeds whose count is exact, and which therefore are all known before the first is done: 40 MB.
const COUNTED_MAX: usize = 1_000_000;

/// How often orders that were cut short are looked for: another relay may have died.
const CARRY_ON_EVERY: Duration = Duration::from_secs(5);

/// The targets that a notification goes to by the routes of now; none if it is not to be released.
pub type Reroute = Arc<dyn Fn(&Record) -> Vec<Name> + Send + Sync>;

#[derive(Clone)]
pub(in crate::spool) struct Office {
    engine: Engine,
    /// The orders that somebody here is at.
    in_hand: Arc<Mutex<HashSet<i64>>>,
}

/// Nobody else here is at it meanwhile.
struct InHand {
    id: i64,
    all: Arc<Mutex<HashSet<i64>>>,
}

/// The deeds of a plan, of as many notifications at a time as make a commit.
struct Finder<'o> {
    engine: &'o Engine,
    filter: Filter,
    plan: Plan,
    found: VecDeque<Deed>,
    /// Notifications met since this was asked for, of which it cannot be read what is to be done.
    unreadable: u64,
    /// Where to look on; `None`: all has been looked at.
    next: Option<i64>,
}

impl Office {
    pub fn new(engine: Engine) -> Self {
        Self {
            engine,
            in_hand: Arc::default(),
        }
    }

    pub async fn replay(&self, replay: Replay) -> Result<Done, CustodyError> {
        let mut filter = replay.filter;
        if replay.to == ReplayTo::DeadLetters {
            filter.state = Some(State::DeadLetter);
        }
        let errand = Errand::new(Owing::Replay(replay.to), filter, replay.by);
        // Only a release asks for the way.
        let reroute: Reroute = Arc::new(|_| Vec::new());
        self.begin(errand, replay.dry_run, &reroute).await
    }

    pub async fn release(&self, release: Release, reroute: &Reroute) -> Result<Done, CustodyError> {
        let mut filter = release.filter;
        filter.state = Some(State::Quarantined);
        let errand = Errand::new(Owing::Release(release.to), filter, release.by);
        self.begin(errand, release.dry_run, reroute).await
    }

    pub async fn discard(&self, discard: Discard) -> Result<Done, CustodyError> {
        let ended = self.let_go(&discard).await;
        if !discard.dry_run {
            let line = OrderLine {
                what: "discarded",
                by: &discard.by,
                filter: &discard.filter,
                to: &[],
            };
            line.log(&ended);
        }
        ended
    }

    async fn let_go(&self, discard: &Discard) -> Result<Done, CustodyError> {
        let plan = match discard.filter.state {
            Some(State::DeadLetter) => Plan::Discard,
            Some(State::Quarantined) => Plan::LetGo,
            _ => return Err(CustodyError::State),
        };
        let deeds = self.count(discard.filter.clone(), plan).await?;
        let matched = deeds.len() as u64;
        if discard.dry_run {
            return Ok(Done { matched, done: 0 });
        }
        let expected = discard.count.unwrap_or_default();
        if expected != matched {
            let found = matched;
            return Err(CustodyError::Count { expected, found });
        }
        let mut done = 0;
        for deeds in deeds.chunks(DEEDS_MAX) {
            let carried_out = self.carry_out(deeds.to_vec(), &discard.by, true, Note::None);
            done += carried_out
                .await
                .map_err(|error| error.after(done, matched))?;
        }
        Ok(Done { matched, done })
    }

    /// Goes on with orders that were cut short, by a crash or for want of room, until it is dropped.
    pub async fn carry_on(&self, reroute: &Reroute) {
        loop {
            // What cannot be read now can be read later; the engine has counted it.
            for errand in self.engine.errands().await.unwrap_or_default() {
                self.resume(errand.id, reroute).await;
            }
            sleep(CARRY_ON_EVERY).await;
        }
    }

    async fn resume(&self, id: i64, reroute: &Reroute) {
        let Some(_in_hand) = self.take_in_hand(id) else {
            return;
        };
        let Ok(Some(errand)) = self.engine.adopt_errand(id).await else {
            return;
        };
        // What becomes of it is logged; nobody waits for it.
        let _ = self.see_through(errand, true, reroute).await;
    }

    async fn begin(
        &self,
        errand: Errand,
        dry_run: bool,
        reroute: &Reroute,
    ) -> Result<Done, CustodyError> {
        let _in_hand = self.take_in_hand(errand.id);
        if dry_run {
            return self.try_out(errand, reroute).await;
        }
        self.see_through(errand, false, reroute).await
    }

    /// Counts, and changes nothing.
    async fn try_out(&self, errand: Errand, reroute: &Reroute) -> Result<Done, CustodyError> {
        let mut finder = self.finder(errand.filter, Plan::Owe(errand.owing), 0)?;
        let mut would = Done::default();
        while !finder.is_at_end() {
            let (deeds, _) = finder.part().await?;
            would.matched += deeds.len() as u64 + std::mem::take(&mut finder.unreadable);
            would.done += self.addressed(deeds, reroute).await?.len() as u64;
        }
        Ok(would)
    }

    /// To its end, or until something cuts it short; either is logged.
    async fn see_through(
        &self,
        mut errand: Errand,
        mut kept: bool,
        reroute: &Reroute,
    ) -> Result<Done, CustodyError> {
        let proceeded = self.proceed(&mut errand, &mut kept, reroute).await;
        let Errand { matched, done, .. } = errand;
        let ended = match proceeded {
            Ok(()) => Ok(Done { matched, done }),
            Err(error) if kept => Err(CustodyError::CutShort {
                done,
                matched,
                cause: Box::new(error),
            }),
            Err(error) => Err(error),
        };
        OrderLine::of(&errand).log(&ended);
        ended
    }

    async fn proceed(
        &self,
        errand: &mut Errand,
        kept: &mut bool,
        reroute: &Reroute,
    ) -> Result<(), CustodyError> {
        let plan = Plan::Owe(errand.owing.clone());
        let mut finder = self.finder(errand.filter.clone(), plan, errand.reached)?;
        while *kept || !finder.is_at_end() {
            let (deeds, reached) = finder.part().await?;
            let matched = deeds.len() as u64 + std::mem::take(&mut finder.unreadable);
            let deeds = self.addressed(deeds, reroute).await?;
            let from = std::mem::replace(&mut errand.reached, reached);
            errand.matched += matched;
            let note = match (*kept, finder.is_at_end()) {
                (false, true) => Note::None,
                (false, false) => Note::Begun(errand.clone()),
                (true, false) => Note::Moved {
                    from,
                    errand: errand.clone(),
                },
                (true, true) => Note::Ended {
                    from,
                    id: errand.id,
                },
            };
            let by = &errand.by;
            errand.done += self.carry_out(deeds, by, false, note).await?;
            *kept = !finder.is_at_end();
        }
        Ok(())
    }

    /// All deeds of a plan: from here on it is to these, or to none.
    async fn count(&self, filter: Filter, plan: Plan) -> Result<Vec<Deed>, CustodyError> {
        let mut finder = self.finder(filter, plan, 0)?;
        let mut all = Vec::new();
        while !finder.is_at_end() {
            all.append(&mut finder.part().await?.0);
            if all.len() > COUNTED_MAX {
                return Err(CustodyError::TooMany { max: COUNTED_MAX });
            }
        }
        Ok(all)
    }

    /// Without releases to nobody; those that go by the routes are told where to.
    async fn addressed(&self, deeds: Vec<Deed>, reroute: &Reroute) -> Result<Vec<Deed>, ReadError> {
        let mut addressed = Vec::with_capacity(deeds.len());
        for deed in deeds {
            let Deed::Release { sequence, targets } = &deed else {
                addressed.push(deed);
                continue;
            };
            let mut targets = targets.clone();
            let sequence = *sequence;
            if targets.is_empty() {
                if let Some(record) = self.engine.record(sequence).await? {
                    targets = reroute(&record);
                } else {
                    tracing::warn!(sequence, "not released: its content cannot be read");
                }
            }
            if !targets.is_empty() {
                addressed.push(Deed::Release { sequence, targets });
            }
        }
        Ok(addressed)
    }

    /// One commit: how many deeds changed something.
    pub async fn carry_out(
        &self,
        deeds: Vec<Deed>,
        by: &Name,
        all_or_none: bool,
        note: Note,
    ) -> Result<u64, CustodyError> {
        let (answer, answered) = oneshot::channel();
        self.engine.queue().order(Order {
            deeds,
            by: by.clone(),
            at: Timestamp::now(),
            all_or_none,
            note,
            answer,
        })?;
        answered.await.map_err(|_| CustodyError::Ended)?
    }

    fn finder(&self, filter: Filter, plan: Plan, after: i64) -> Result<Finder<'_>, ReadError> {
        filter.check()?;
        Ok(Finder {
            engine: &self.engine,
            filter,
            plan,
            found: VecDeque::new(),
            unreadable: 0,
            next: Some(after),
        })
    }

    fn take_in_hand(&self, id: i64) -> Option<InHand> {
        let mut all = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let all_of_them = self.in_hand.clone();
        all.insert(id).then_some(InHand {
            id,
            all: all_of_them,
        })
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.id);
    }
}

impl Finder<'_> {
    fn is_at_end(&self) -> bool {
        self.found.is_empty() && self.next.is_none()
    }

    /// Deeds of whole notifications, and the last notification that is done with then.
    async fn part(&mut self) -> Result<(Vec<Deed>, i64), ReadError> {
        let mut reached = self.next.unwrap_or(i64::MAX);
        while self.found.len() <= DEEDS_MAX
            && let Some(after) = self.next
        {
            let stage = self.engine.find_stage(&self.filter, &self.plan, after);
            let stage = stage.await?;
            self.found.extend(stage.deeds);
            self.unreadable += stage.unreadable;
            self.next = stage.next;
            reached = self.next.unwrap_or(i64::MAX);
        }
        let mut count = self.found.len().min(DEEDS_MAX);
        while let (Some(last), Some(next)) = (self.at(count.wrapping_sub(1)), self.at(count))
            && last == next
        {
            count += 1;
        }
        let deeds: Vec<_> = self.found.drain(..count).collect();
        if let (Some(last), false) = (deeds.last(), self.found.is_empty()) {
            reached = last.sequence();
        }
        Ok((deeds, reached))
    }

    fn at(&self, place: usize) -> Option<i64> {
        self.found.get(place).map(Deed::sequence)
    }
}
