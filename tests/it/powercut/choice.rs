//! What becomes of each thing that was not synced: by chance, or each in turn.

use aws_lc_rs::digest;
use fastrand::Rng;

use super::volume::Image;

const PAGE_BYTES: usize = 4096;

pub enum Choice {
    Chance {
        rng: Rng,
        sector_bytes: usize,
        keep: f64,
        tear: f64,
    },
    /// All or nothing of each write, in every combination.
    Each(Odometer),
}

/// Counts through every sequence of yes and no, however long each turns out to be.
#[derive(Default)]
pub struct Odometer {
    digits: Vec<bool>,
    at: usize,
}

impl Odometer {
    fn next(&mut self) -> bool {
        if self.at == self.digits.len() {
            self.digits.push(false);
        }
        self.at += 1;
        self.digits[self.at - 1]
    }

    /// False once it has been through all.
    pub fn advance(&mut self) -> bool {
        self.digits.truncate(self.at);
        self.at = 0;
        while self.digits.last() == Some(&true) {
            self.digits.pop();
        }
        self.digits.last_mut().map(|digit| *digit = true).is_some()
    }

    pub fn len(&self) -> usize {
        self.digits.len()
    }
}

impl Choice {
    pub fn by_chance(rng: &mut Rng) -> Self {
        let pick = |of: &[f64], rng: &mut Rng| of[rng.usize(..of.len())];
        Self::Chance {
            sector_bytes: if rng.bool() { 512 } else { PAGE_BYTES },
            keep: pick(&[0.0, 0.1, 0.5, 0.9, 0.98, 1.0], rng),
            tear: pick(&[0.0, 0.0, 0.02, 0.3], rng),
            rng: rng.fork(),
        }
    }

    pub fn keep(&mut self) -> bool {
        match self {
            Self::Chance { rng, keep, .. } => rng.f64() < *keep,
            Self::Each(odometer) => odometer.next(),
        }
    }

    /// Place of the length that was recorded.
    pub fn length(&mut self, lengths: &[usize]) -> usize {
        let last = lengths.len() - 1;
        match self {
            Self::Chance { rng, .. } => {
                if rng.bool() {
                    rng.usize(0..=last)
                } else {
                    last
                }
            }
            Self::Each(odometer) => {
                let recorded = lengths[0] == lengths[last] || odometer.next();
                if recorded { last } else { 0 }
            }
        }
    }

    pub fn sector_bytes(&self) -> usize {
        match self {
            Self::Chance { sector_bytes, .. } => *sector_bytes,
            Self::Each(_) => PAGE_BYTES,
        }
    }

    /// Perhaps, rubbish in the place of what was being written.
    pub fn tear(&mut self, written: &mut [u8]) {
        if let Self::Chance { rng, tear, .. } = self
            && rng.f64() < *tear
        {
            let from = rng.usize(0..written.len());
            rng.fill(&mut written[from..]);
        }
    }
}

/// Two images have the same only if they are the same.
pub fn digest(image: &Image) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, content) in image {
        context.update(name.as_bytes());
        context.update(&content.len().to_be_bytes());
        context.update(content);
    }
    context.finish().as_ref().to_vec()
}
