//! The choice among a row's largest logits, where a device has found them and the rest of the row stays there.
//!
//! With a top-k below their number the token is that of the whole row, from the same random number. A device may keep
//! any of the logits that are equal at the last place, so it is looked at whether the k-th is larger than that: then all
//! that can be among the first k are there, and are put in the order that the sampler itself would have them in.

use super::Sampler;
use super::filter::Candidate;
use crate::base::error::Result;

/// The largest logits of a row, falling, and the id of each.
#[derive(Clone, Copy, Debug)]
pub struct Largest<'a> {
    /// The logits.
    pub logits: &'a [f32],
    /// Their ids, as many.
    pub ids: &'a [u32],
}

impl Largest<'_> {
    /// `Internal` unless they are what a device is to give of `vocab` logits; `State` where one is NaN or none is above
    /// −∞, as of a whole row. NaN that a device sorts behind all others is not seen.
    fn check(&self, vocab: usize) -> Result<()> {
        let Largest { logits, ids } = *self;
        crate::ensure!(
            logits.len() == ids.len(),
            Internal,
            "sampler: {} largest logits with {} ids",
            logits.len(),
            ids.len()
        );
        if let Some(at) = logits.iter().position(|logit| logit.is_nan()) {
            crate::bail!(
                State,
                "no finite logit: that of token {} is NaN, the model's output is broken",
                ids[at]
            );
        }
        crate::ensure!(
            logits.first().is_some_and(|&logit| logit > f32::NEG_INFINITY),
            State,
            "no finite logit: the model's output is broken"
        );
        let exist = ids.iter().all(|&id| (id as usize) < vocab);
        crate::ensure!(
            exist && logits.is_sorted_by(|a, b| a >= b),
            Internal,
            "sampler: the largest logits are to fall, with ids below {vocab}"
        );
        Ok(())
    }
}

impl Sampler {
    /// As [`Sampler::choose`] from the whole row, without its log-probability, which needs all logits. The parameters are to
    /// [need no more](super::SamplingParams::needs_only_largest). `None` where the last one is as large as the k-th, so
    /// that it is not known which ids are the first k: only the whole row tells.
    pub fn choose_largest(&mut self, largest: Largest<'_>, index: u64) -> Result<Option<u32>> {
        largest.check(self.vocab)?;
        let Largest { logits, ids } = largest;
        crate::ensure!(
            self.params.needs_only_largest(logits.len()),
            Internal,
            "sampler: {} largest logits are not enough for these parameters",
            logits.len()
        );
        let (kth, last) = (logits[self.params.top_k as usize - 1], logits[logits.len() - 1]);
        if kth == last && last > f32::NEG_INFINITY {
            return Ok(None);
        }
        let all = logits.iter().zip(ids).map(|(&logit, &id)| Candidate { logit, id });
        self.candidates.clear();
        self.candidates.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
        Ok(self.draw(index))
    }
}
