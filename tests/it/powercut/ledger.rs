//! What was asked of the spool before the cut, and what it had promised by then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use suki_relay::clock::Timestamp;
use suki_relay::spool::Settled;

use super::script::TARGETS;

const PREFIX: &str = "ledger";

/// One line that the driver prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A submission is about to be made.
    Tried(u32),
    /// It was promised.
    Kept(u32),
    Settling(u32, &'static str, Settled),
    Settled(u32, &'static str, Settled),
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub tried: BTreeSet<u32>,
    pub kept: BTreeSet<u32>,
    deliveries: BTreeMap<(u32, &'static str), Attempts>,
}

/// Settlements of one delivery.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    pub retries: Count,
    pub delivered: Count,
    pub dead: Count,
}

/// The truth lies between the two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub tried: u32,
    pub promised: u32,
}

impl Count {
    pub fn allows(self, count: u32) -> bool {
        (self.promised..=self.tried).contains(&count)
    }

    fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.promised += other.promised;
    }
}

impl Ledger {
    pub fn enter(&mut self, entry: Entry) {
        match entry {
            Entry::Tried(number) => drop(self.tried.insert(number)),
            Entry::Kept(number) => drop(self.kept.insert(number)),
            Entry::Settling(number, target, result) => {
                self.count(number, target, result).tried += 1;
            }
            Entry::Settled(number, target, result) => {
                self.count(number, target, result).promised += 1;
            }
        }
    }

    fn count(&mut self, number: u32, target: &'static str, result: Settled) -> &mut Count {
        let attempts = self.deliveries.entry((number, target)).or_default();
        match result {
            Settled::Delivered => &mut attempts.delivered,
            Settled::DeadLettered => &mut attempts.dead,
            Settled::Retry { .. } => &mut attempts.retries,
        }
    }

    pub fn attempts(&self, number: u32, target: &str) -> Attempts {
        let found = self
            .deliveries
            .iter()
            .find(|((of, to), _)| (*of, *to) == (number, target));
        found.map_or_else(Attempts::default, |(_, attempts)| *attempts)
    }

    /// How many deliveries of a target were made, and how many gave up.
    pub fn sums(&self, target: &str) -> (Count, Count) {
        let (mut delivered, mut dead) = (Count::default(), Count::default());
        for ((_, to), attempts) in &self.deliveries {
            if *to == target {
                delivered.add(attempts.delivered);
                dead.add(attempts.dead);
            }
        }
        (delivered, dead)
    }

    /// The number that a body begins with.
    pub fn number_of(body: &[u8]) -> Option<u32> {
        let digits = body.strip_prefix(b"{\"n\":")?;
        let end = digits.iter().position(|byte| *byte == b'}')?;
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    }
}

impl Entry {
    pub fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        if words.next()? != PREFIX {
            return None;
        }
        let kind = words.next()?;
        let number = words.next()?.parse().ok()?;
        let mut delivery = || {
            let target = words.next()?;
            let target = TARGETS.into_iter().find(|known| *known == target)?;
            let result = match words.next()? {
                "delivered" => Settled::Delivered,
                "dead" => Settled::DeadLettered,
                _ => Settled::Retry {
                    due_at: Timestamp::from_millis(0),
                },
            };
            Some((target, result))
        };
        match kind {
            "tried" => Some(Self::Tried(number)),
            "kept" => Some(Self::Kept(number)),
            "settling" => delivery().map(|(target, result)| Self::Settling(number, target, result)),
            "settled" => delivery().map(|(target, result)| Self::Settled(number, target, result)),
            _ => None,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = |result: &Settled| match result {
            Settled::Delivered => "delivered",
            Settled::DeadLettered => "dead",
            Settled::Retry { .. } => "retry",
        };
        match self {
            Self::Tried(number) => write!(f, "{PREFIX} tried {number}"),
            Self::Kept(number) => write!(f, "{PREFIX} kept {number}"),
            Self::Settling(number, target, how) => {
                write!(f, "{PREFIX} settling {number} {target} {}", result(how))
            }
            Self::Settled(number, target, how) => {
                write!(f, "{PREFIX} settled {number} {target} {}", result(how))
            }
        }
    }
}
