//! What is learnt of a prompt itself: how likely its tokens are, and where it lies among other texts.

use crate::base::error::Result;
use crate::sampling::logprob_of;

/// What was put together so far.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Positions before it were taken in.
    next: usize,
    /// The sum of the hidden states.
    sum: Vec<f64>,
    states: usize,
}

impl Measured {
    /// Whether the result of `position` was not taken in yet; it counts as taken in from now on.
    pub(crate) fn is_new(&mut self, position: usize) -> bool {
        let new = position >= self.next;
        self.next = self.next.max(position + 1);
        new
    }

    /// The token that follows `position` in a text, and its log-probability under the logits there.
    pub(crate) fn score(tokens: &[u32], position: usize, logits: &[f32]) -> Result<(u32, f32)> {
        let found = tokens.get(position + 1).and_then(|&id| Some((id, logprob_of(logits, id)?)));
        found.ok_or_else(|| {
            crate::error!(State, "no finite logit at position {position}: the model's output is broken")
        })
    }

    /// Adds a hidden state.
    pub(crate) fn add(&mut self, state: &[f32]) {
        self.sum.resize(state.len(), 0.0);
        self.sum.iter_mut().zip(state).for_each(|(sum, &x)| *sum += f64::from(x));
        self.states += 1;
    }

    /// The mean of the hidden states, of length 1. `None` where there are none.
    pub(crate) fn embedding(&mut self) -> Option<Vec<f32>> {
        if self.states == 0 {
            return None;
        }
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        Some(self.sum.iter().map(|x| (x * scale) as f32).collect())
    }
}
