//! The tokens that penalties look at: prompt and output, all or the last n.

use super::params::SamplingParams;
use crate::base::error::{Error, Result, Status};
use crate::base::limits;
use std::collections::VecDeque;

/// Counts of the tokens in the window. All memory is taken when it is made.
pub struct Window {
    /// Per id: times in the window, prompt and output.
    seen: Vec<u32>,
    /// Per id: times in the window, output only.
    generated: Vec<u32>,
    /// Ids whose `seen` is or was above 0, each once; `listed` says which.
    touched: Vec<u32>,
    listed: Vec<bool>,
    /// The window's tokens in order, with [`GENERATED`] set for output; unused where all count.
    recent: VecDeque<u32>,
    /// Most tokens in `recent`; `None`: all tokens count for ever.
    length: Option<usize>,
}

/// Ids stay below 2^24, so the top bit is free.
const GENERATED: u32 = 1 << 31;

impl Window {
    /// A window over ids below `vocab`, of `last_n` tokens (−1: all). `NoMemory`.
    pub fn new(last_n: i32, vocab: usize) -> Result<Self> {
        // A context has at most CONTEXT_MAX tokens: a longer window is all of them.
        let length = usize::try_from(last_n).ok().filter(|&n| n < limits::CONTEXT_MAX as usize);
        let mut recent = VecDeque::new();
        recent.try_reserve_exact(length.unwrap_or(0)).map_err(|_| no_memory(length.unwrap_or(0)))?;
        Ok(Window {
            seen: filled(0, vocab)?,
            generated: filled(0, vocab)?,
            touched: with_room(vocab)?,
            listed: filled(false, vocab)?,
            recent,
            length,
        })
    }

    /// Adds a token of the prompt or (`generated`) of the output; the oldest leaves a full window. Ids
    /// beyond the vocabulary have no logit to penalise and are only counted in the window's length.
    pub fn add(&mut self, id: u32, generated: bool) {
        if let Some(length) = self.length {
            if length == 0 {
                return;
            }
            if self.recent.len() >= length
                && let Some(oldest) = self.recent.pop_front()
            {
                self.forget(oldest & !GENERATED, oldest & GENERATED != 0);
            }
            self.recent.push_back(id & !GENERATED | if generated { GENERATED } else { 0 });
        }
        let at = id as usize;
        let Some(seen) = self.seen.get_mut(at) else { return };
        *seen = seen.saturating_add(1);
        self.generated[at] = self.generated[at].saturating_add(u32::from(generated));
        if !self.listed[at] {
            self.listed[at] = true;
            self.touched.push(id);
        }
    }

    fn forget(&mut self, id: u32, generated: bool) {
        let at = id as usize;
        if let Some(seen) = self.seen.get_mut(at) {
            *seen = seen.saturating_sub(1);
            self.generated[at] = self.generated[at].saturating_sub(u32::from(generated));
        }
    }

    /// Applies the penalties to `logits`, and drops ids from the list that left the window.
    pub fn penalize(&mut self, params: &SamplingParams, logits: &mut [f32]) {
        let mut at = 0;
        while let Some(&id) = self.touched.get(at) {
            let index = id as usize;
            if self.seen[index] == 0 {
                self.listed[index] = false;
                self.touched.swap_remove(at);
                continue;
            }
            at += 1;
            let Some(logit) = logits.get_mut(index) else { continue };
            if *logit > 0.0 {
                *logit /= params.repeat_penalty;
            } else {
                *logit *= params.repeat_penalty;
            }
            let times = self.generated[index];
            if times > 0 {
                *logit -= params.frequency_penalty * times as f32 + params.presence_penalty;
            }
        }
    }
}

/// `count` equal values, or `NoMemory`.
pub fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>> {
    let mut values = with_room(count)?;
    values.resize(count, value);
    Ok(values)
}

/// An empty list with room for `count` values, or `NoMemory`.
pub fn with_room<T>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| no_memory(count))?;
    Ok(values)
}

fn no_memory(count: usize) -> Error {
    Error::new(Status::NoMemory, format!("sampler: no memory for {count} entries"))
}
