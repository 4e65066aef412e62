//! Power cuts: what was answered 200 is on the disk, and not only in the page cache.
//!
//! A kill proves nothing of this: the page cache survives it. So the calls of a real process on the real
//! spool are traced, and from them are made the images that a cut could have left at any moment: see
//! [`volume`] for what a cut may do. Each image is opened with the real spool, and held against what
//! had been promised by then: every notification to the bit, its whole set of deliveries, its mark and verdict, and what
//! was settled; and nothing that nobody submitted.
//!
//! A story is what one seed makes:
//! * short ones, on a spool that was closed: every subset of what was not synced, page by page;
//! * long ones, from an empty folder, with copies of the log and restarts: by chance, sector by sector;
//! * a kill inside a sync, and a start on what the page cache then holds: cuts through both;
//! * a cut, and another one while that is recovered from.

mod check;
mod choice;
mod ledger;
mod script;
mod trace;
mod volume;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use fastrand::Rng;
use suki_relay::spool::Submission;

use self::choice::{Choice, Odometer, digest};
use self::ledger::Ledger;
use self::script::Script;
use self::trace::{Event, KillAtSync, What};
use self::volume::{Image, Syncs, Volume};

/// Images of one story, where they are made by chance.
const IMAGES: usize = 250;

/// A spool waits for its threads now and then: more than there are cores.
const TELLERS: usize = 4;

/// More things than this that may be there or not are left to chance.
const EACH_MAX: usize = 11;

/// `POWER_CUT_IMAGES` images (1,000 unless it is set) of stories from `POWER_CUT_SEED` on.
#[test]
fn power_cut_loses_nothing_that_was_acknowledged() {
    let wanted = crate::harness::knob("POWER_CUT_IMAGES").unwrap_or(1000);
    let seed = crate::harness::knob("POWER_CUT_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("power cuts: first seed {seed}");
    let began = Instant::now();
    let campaign = Campaign::run(seed, wanted, Syncs::All);
    if let Some(violation) = campaign.violation {
        panic!("{violation}");
    }
    println!(
        "power cuts: {} images of {} stories, 0 lost, 0 forged, 0 torn, in {:.0?}",
        campaign.images,
        campaign.stories,
        began.elapsed(),
    );
}

/// The campaign can fail: it does when syncs are not believed.
#[test]
fn power_cut_finds_what_is_not_synced() {
    for syncs in [Syncs::None, Syncs::NotOfLog, Syncs::NotOfFolder] {
        let campaign = Campaign::run(1, 20_000, syncs);
        let found = campaign.violation;
        let found = found.unwrap_or_else(|| panic!("{syncs:?}: {} images", campaign.images));
        println!("{syncs:?}, after {} images: {found}", campaign.images);
    }
}

struct Campaign {
    stories: u64,
    images: u64,
    violation: Option<String>,
}

impl Campaign {
    /// Threads tell stories until there are enough images, or one is wrong.
    fn run(seed: u64, wanted: u64, syncs: Syncs) -> Self {
        let (stories, images) = (AtomicU64::new(0), AtomicU64::new(0));
        let failed = AtomicBool::new(false);
        let wanted = || images.load(Ordering::Relaxed) < wanted && !failed.load(Ordering::Relaxed);
        let checked = || {
            images.fetch_add(1, Ordering::Relaxed);
            wanted()
        };
        let teller = || {
            while wanted() {
                let seed = seed + stories.fetch_add(1, Ordering::Relaxed);
                if let Err(End::Wrong(violation)) = Story::new(seed, syncs, &checked).tell() {
                    failed.store(true, Ordering::Relaxed);
                    return Some(format!("POWER_CUT_SEED={seed}: {violation}"));
                }
            }
            None
        };
        let violation = thread::scope(|scope| {
            let tellers = [(); TELLERS].map(|()| scope.spawn(teller));
            let told = tellers.map(|teller| teller.join().expect("no panic"));
            told.into_iter().flatten().next()
        });
        Self {
            stories: stories.into_inner(),
            images: images.into_inner(),
            violation,
        }
    }
}

/// Why a story ends before its end.
enum End {
    Enough,
    Wrong(String),
}

struct Story<'c> {
    seed: u64,
    syncs: Syncs,
    rng: Rng,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    /// All that is submitted in it, by number.
    sent: Vec<Submission>,
    /// Called for each image; false if no more are wanted.
    checked: &'c (dyn Fn() -> bool + Sync),
}

impl<'c> Story<'c> {
    fn new(seed: u64, syncs: Syncs, checked: &'c (dyn Fn() -> bool + Sync)) -> Self {
        Self {
            seed,
            syncs,
            rng: Rng::with_seed(seed),
            runtime: script::runtime(),
            folder: tempfile::tempdir_in(fast_folder()).expect("a folder"),
            sent: Vec::new(),
            checked,
        }
    }

    fn tell(&mut self) -> Result<(), End> {
        match self.seed % 4 {
            0 => self.short(),
            1 => self.long(),
            2 => self.kill_and_start(),
            _ => self.cut_while_recovering(),
        }
    }

    fn short(&mut self) -> Result<(), End> {
        let mut ledger = Ledger::default();
        let before = self.run(self.script(2, 0), None);
        enter(&mut ledger, &before);
        let mut volume = Volume::of(&volume::read(&self.spool()));
        let first = next(&ledger);
        let steps = self.rng.usize(1..3);
        let events = self.run(self.script(steps, first), None);
        self.cut_each(&mut volume, &mut ledger, &events)
    }

    fn long(&mut self) -> Result<(), End> {
        let steps = self.rng.usize(5..60);
        let events = self.run(self.script(steps, 0), None);
        let mut volume = Volume::default();
        self.cut_some(&mut volume, &mut Ledger::default(), &events)?;
        self.compare(&volume);
        Ok(())
    }

    fn kill_and_start(&mut self) -> Result<(), End> {
        let (mut volume, mut ledger) = (Volume::default(), Ledger::default());
        let kill = KillAtSync(self.rng.u32(1..25));
        let events = self.run(self.script(20, 0), Some(kill));
        self.cut_some(&mut volume, &mut ledger, &events)?;
        volume.process_is_gone();
        let events = self.run(self.script(5, next(&ledger)), None);
        self.cut_some(&mut volume, &mut ledger, &events)?;
        self.compare(&volume);
        Ok(())
    }

    fn cut_while_recovering(&mut self) -> Result<(), End> {
        let steps = self.rng.usize(2..30);
        let events = self.run(self.script(steps, 0), None);
        for _ in 0..3 {
            let (mut volume, mut ledger) = (Volume::default(), Ledger::default());
            let moment = self.rng.usize(0..=events.len());
            for event in &events[..moment] {
                volume.apply(event, self.syncs);
                enter(&mut ledger, std::slice::from_ref(event));
            }
            let image = volume.cut(&mut Choice::by_chance(&mut self.rng));
            volume::write(&image, &self.spool());
            let mut volume = Volume::of(&image);
            let recovery = self.run(self.script(1, next(&ledger)), None);
            self.cut_some(&mut volume, &mut ledger, &recovery)?;
            self.compare(&volume);
        }
        Ok(())
    }

    fn script(&self, steps: usize, first: u32) -> Script {
        let seed = self.seed;
        Script { seed, steps, first }
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    fn run(&self, script: Script, kill: Option<KillAtSync>) -> Vec<Event> {
        trace::of(script, &self.spool(), kill)
    }

    /// Cuts at random moments.
    fn cut_some(
        &mut self,
        volume: &mut Volume,
        ledger: &mut Ledger,
        events: &[Event],
    ) -> Result<(), End> {
        let mut moments: Vec<usize> = (0..IMAGES)
            .map(|_| self.rng.usize(0..=events.len()))
            .collect();
        moments.sort_unstable();
        for moment in 0..=events.len() {
            let here = moments.iter().filter(|at| **at == moment).count();
            for _ in 0..here {
                let image = volume.cut(&mut Choice::by_chance(&mut self.rng));
                self.check(&image, ledger, moment)?;
            }
            if let Some(event) = events.get(moment) {
                volume.apply(event, self.syncs);
                enter(ledger, std::slice::from_ref(event));
            }
        }
        Ok(())
    }

    /// Cuts at every moment, into every image that is not like another.
    fn cut_each(
        &mut self,
        volume: &mut Volume,
        ledger: &mut Ledger,
        events: &[Event],
    ) -> Result<(), End> {
        let mut seen = HashSet::new();
        let mut told = 0;
        for moment in 0..=events.len() {
            let mut choice = Choice::Each(Odometer::default());
            loop {
                let image = volume.cut(&mut choice);
                if seen.insert((digest(&image), told)) {
                    self.check(&image, ledger, moment)?;
                }
                let Choice::Each(odometer) = &mut choice else {
                    break;
                };
                if odometer.len() > EACH_MAX {
                    choice = Choice::by_chance(&mut self.rng);
                } else if !odometer.advance() {
                    break;
                }
            }
            if let Some(event) = events.get(moment) {
                volume.apply(event, self.syncs);
                told += usize::from(matches!(event.what, What::Told(_)));
                enter(ledger, std::slice::from_ref(event));
            }
        }
        Ok(())
    }

    fn check(&mut self, image: &Image, ledger: &Ledger, moment: usize) -> Result<(), End> {
        let folder = self.folder.path().join("image");
        volume::write(image, &folder);
        for number in self.sent.len()..next(ledger) as usize {
            let number = u32::try_from(number).expect("few");
            self.sent.push(script::submission(self.seed, number));
        }
        let checked = check::check(&folder, &self.sent, ledger);
        let checked = self.runtime.block_on(checked);
        checked.map_err(|violation| End::Wrong(format!("after event {moment}: {violation}")))?;
        (self.checked)().then_some(()).ok_or(End::Enough)
    }

    /// The trace was whole: the model's files are those that the process left.
    fn compare(&self, volume: &Volume) {
        let (modelled, real) = (volume.as_seen(), volume::read(&self.spool()));
        let names = |image: &Image| image.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&modelled), names(&real), "seed {}", self.seed);
        for (name, content) in &real {
            assert!(modelled[name] == *content, "seed {}: {name}", self.seed);
        }
    }
}

fn enter(ledger: &mut Ledger, events: &[Event]) {
    for event in events {
        if let What::Told(entry) = event.what {
            ledger.enter(entry);
        }
    }
}

/// The number after all that were submitted.
fn next(ledger: &Ledger) -> u32 {
    ledger.tried.last().map_or(0, |last| last + 1)
}

/// In memory, where there is such a place: what a sync costs there is no matter, that it was asked for is.
fn fast_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.into()
    } else {
        std::env::temp_dir()
    }
}
