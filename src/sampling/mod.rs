//! From logits to a token: penalties, filters, a seeded draw. One [`Sampler`] a request; nothing here
//! knows of other requests, so the same seed gives the same text whatever else runs.

mod filter;
mod largest;
mod params;
mod random;
mod softmax;
mod window;

use crate::base::error::Result;
use filter::Candidate;
pub use largest::Largest;
pub use params::SamplingParams;
use window::{Window, filled, with_room};

/// The chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the raw logits (before bias, penalties and filters).
    pub logprob: f32,
}

/// The tokens that may be chosen: a bit for each id, the lowest ids in the low bits of the first word. Ids behind the
/// last word may not.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a>(pub &'a [u32]);

impl<'a> Allowed<'a> {
    /// The allowed ids and their logits, in the order of the ids.
    fn of(self, logits: &'a [f32]) -> impl Iterator<Item = (u32, f32)> + 'a {
        self.0.iter().zip(logits.chunks(32)).enumerate().flat_map(|(at, (&word, logits))| {
            let mut left = word;
            let bits = std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(bit)
            });
            bits.filter_map(move |bit| Some((32 * at as u32 + bit, *logits.get(bit as usize)?)))
        })
    }
}

/// A token that could have been chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Likely {
    /// Its id.
    pub token: u32,
    /// As [`Choice::logprob`].
    pub logprob: f32,
}

/// Adds the `count` most likely tokens under raw `logits` to `found`, the likeliest first; of equal ones those with
/// the lowest ids. Adds fewer where the vocabulary is smaller, and nothing where a logit is NaN or none is above −∞.
pub fn most_likely(logits: &[f32], count: usize, found: &mut Vec<Likely>) {
    let Ok(Some(largest)) = softmax::largest(logits) else { return };
    let start = found.len();
    for (token, &logit) in (0u32..).zip(logits) {
        let best = &found[start..];
        if best.len() == count && best.last().is_none_or(|last| logit <= last.logprob) {
            continue;
        }
        // Logits for now.
        let at = start + best.partition_point(|other| other.logprob >= logit);
        found.insert(at, Likely { token, logprob: logit });
        found.truncate(start + count);
    }
    if largest < f32::INFINITY {
        let lowered = f64::from(largest) + softmax::log_sum_exp(logits, largest);
        found[start..].iter_mut().for_each(|l| l.logprob = (f64::from(l.logprob) - lowered) as f32);
    } else {
        found[start..].iter_mut().for_each(|l| l.logprob = logprob(logits, largest, l.token));
    }
}

/// The log-probability of `token` under raw logits; `None` where one is NaN or none is above −∞.
pub fn logprob_of(logits: &[f32], token: u32) -> Option<f32> {
    let largest = softmax::largest(logits).ok().flatten()?;
    Some(logprob(logits, largest, token))
}

/// The state of one request's choice of tokens. All memory is taken when it is made, and only what its
/// parameters need: greedy choice without penalties needs none.
pub struct Sampler {
    params: SamplingParams,
    vocab: usize,
    window: Option<Window>,
    /// `[vocab]` logits after bias and penalties; empty where raw ones serve.
    adjusted: Vec<f32>,
    /// Room for `[vocab]` candidates; none for greedy choice.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for `vocab` logits. `Argument` for parameters out of range, `NoMemory`.
    pub fn new(params: SamplingParams, vocab: usize) -> Result<Self> {
        params.check(vocab)?;
        let window = params.penalizes().then(|| Window::new(params.penalty_last_n, vocab)).transpose()?;
        let changes = window.is_some() || !params.logit_bias.is_empty();
        let adjusted = filled(0.0, if changes { vocab } else { 0 })?;
        let candidates = with_room(if params.temperature > 0.0 { vocab } else { 0 })?;
        Ok(Sampler { params, vocab, window, adjusted, candidates })
    }

    /// Tells the sampler of the prompt, for the repetition penalty.
    pub fn see_prompt(&mut self, tokens: &[u32]) {
        if let Some(window) = &mut self.window {
            tokens.iter().for_each(|&token| window.add(token, false));
        }
    }

    /// Chooses token number `index` (0 for the first generated) from `logits` (`[vocab]`), leaving out
    /// the tokens of `banned` (stop ids before `min_tokens`), and remembers it. `State` where a logit is
    /// NaN or none is above −∞: a broken model is an error, not token 0. Where logits are +∞, one of
    /// these is chosen as if they were equal.
    pub fn choose(&mut self, logits: &[f32], banned: &[u32], index: u64) -> Result<Choice> {
        self.choose_among(logits, None, banned, index)
    }

    /// The same among the tokens of `allowed` alone, as if there were no others; `None`: all. `Constraint` where
    /// none of them can be chosen.
    pub fn choose_among(
        &mut self,
        logits: &[f32],
        allowed: Option<Allowed<'_>>,
        banned: &[u32],
        index: u64,
    ) -> Result<Choice> {
        let (found, vocab) = (logits.len(), self.vocab);
        crate::ensure!(found == vocab, Internal, "sampler: {found} logits, expected {vocab}");
        let largest = match softmax::largest(logits) {
            Ok(Some(largest)) => largest,
            Ok(None) => crate::bail!(State, "no finite logit: the model's output is broken"),
            Err(at) => crate::bail!(
                State,
                "no finite logit: that of token {at} is NaN, the model's output is broken"
            ),
        };
        let token = self.pick(logits, allowed, banned, index);
        let token = token.ok_or_else(|| match allowed {
            None => crate::error!(State, "no finite logit is left: all are banned by bias or stop"),
            Some(_) => crate::error!(
                Constraint,
                "constraint: no token that it allows here has a finite logit, with bias and min_tokens"
            ),
        })?;
        if let Some(window) = &mut self.window {
            window.add(token, true);
        }
        Ok(Choice { token, logprob: logprob(logits, largest, token) })
    }

    fn pick(&mut self, raw: &[f32], allowed: Option<Allowed<'_>>, banned: &[u32], index: u64) -> Option<u32> {
        let logits = if self.adjusted.is_empty() {
            raw
        } else {
            self.adjusted.copy_from_slice(raw);
            for &(id, bias) in &self.params.logit_bias {
                self.adjusted[id as usize] += bias;
            }
            if let Some(window) = &mut self.window {
                window.penalize(&self.params, &mut self.adjusted);
            }
            &self.adjusted
        };
        if self.params.temperature == 0.0 {
            return match allowed {
                None => greedy(logits, banned),
                Some(allowed) => greedy_among(logits, allowed, banned),
            };
        }
        match (allowed, self.params.top_k as usize) {
            (Some(allowed), _) => filter::gather_among(logits, allowed, banned, &mut self.candidates),
            // Twice k must fit into the room for candidates.
            (None, k) if k > 0 && k <= logits.len() / 2 => {
                filter::gather_top(logits, banned, k, &mut self.candidates)
            }
            (None, _) => filter::gather(logits, banned, &mut self.candidates),
        }
        self.draw(index)
    }

    /// Filters what was gathered, and draws. The numbers are summed in the order of the candidates, so the same ones give
    /// the same token however they were gathered.
    fn draw(&mut self, index: u64) -> Option<u32> {
        filter::level_infinite(&mut self.candidates);
        filter::apply(&self.params, &mut self.candidates);
        filter::draw(&self.candidates, self.params.temperature, random::uniform(self.params.seed, index))
    }
}

/// The largest logit that is not banned; of equal ones the lowest id. Bias against an infinite logit can
/// make NaN, which is never larger.
fn greedy(logits: &[f32], banned: &[u32]) -> Option<u32> {
    let best = softmax::largest(logits).ok().flatten();
    let first = best.and_then(|best| logits.iter().position(|&logit| logit == best));
    if let Some(id) = first.map(|at| at as u32).filter(|id| !banned.contains(id)) {
        return Some(id);
    }
    let mut best: Option<(f32, u32)> = None;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.map_or(f32::NEG_INFINITY, |(largest, _)| largest) && !banned.contains(&id) {
            best = Some((logit, id));
        }
    }
    best.map(|(_, id)| id)
}

/// The same among the allowed ones.
fn greedy_among(logits: &[f32], allowed: Allowed<'_>, banned: &[u32]) -> Option<u32> {
    let mut best: Option<(f32, u32)> = None;
    for (id, logit) in allowed.of(logits) {
        if logit > best.map_or(f32::NEG_INFINITY, |(largest, _)| largest) && !banned.contains(&id) {
            best = Some((logit, id));
        }
    }
    best.map(|(_, id)| id)
}

/// Log-softmax of one raw logit. Infinite logits share all probability.
fn logprob(logits: &[f32], largest: f32, token: u32) -> f32 {
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    if largest == f32::INFINITY {
        let count = logits.iter().filter(|&&logit| logit == f32::INFINITY).count();
        return if logit == f32::INFINITY { -(count as f64).ln() as f32 } else { f32::NEG_INFINITY };
    }
    (f64::from(logit) - f64::from(largest) - softmax::log_sum_exp(logits, largest)) as f32
}
