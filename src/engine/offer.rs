//! Who chooses a request's tokens: the device, as far as it can, or the host.

use crate::backend::{Capabilities, Want};
use crate::engine::params::GenParams;
use crate::engine::scheduler::StepLimits;
use crate::sampling::SamplingParams;

/// What a device does of the choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// It finds the largest logit, and goes on with it by itself.
    select: bool,
    /// So many of the largest logits it finds; 0: it finds none.
    candidates: usize,
    /// Rows of a step with proposed tokens; 0 where it cannot verify them.
    pub(crate) cheap_rows: usize,
}

impl Offer {
    /// An executor's.
    pub(crate) fn of(capabilities: &Capabilities, limits: &StepLimits) -> Offer {
        Offer {
            select: capabilities.device_select,
            candidates: capabilities.candidates,
            cheap_rows: limits.cheap_rows,
        }
    }

    /// What is wanted of the rows of which a request's tokens are made: the least from which they are what they would be
    /// of whole rows. `constrained`: not every token is allowed at every place.
    pub(crate) fn want(self, params: &GenParams, constrained: bool) -> Want {
        // Log-probabilities need all logits, and so do tokens that are left out before the others are compared.
        let whole_rows = constrained || params.min_tokens > 0 || params.logprobs > 0;
        if whole_rows {
            Want::Logits
        } else if self.select && is_plain_greedy(&params.sampling) {
            Want::Select
        } else if params.sampling.needs_only_largest(self.candidates) {
            Want::Candidates
        } else {
            Want::Logits
        }
    }
}

/// Whether the largest logit is the choice, so that a device can make it.
fn is_plain_greedy(p: &SamplingParams) -> bool {
    p.temperature == 0.0
        && p.repeat_penalty == 1.0
        && p.frequency_penalty == 0.0
        && p.presence_penalty == 0.0
        && p.logit_bias.is_empty()
}
