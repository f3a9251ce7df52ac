//! How the next token is chosen: the options and their ranges.

use crate::base::error::Result;

/// How the next token is chosen.
///
/// The order is: `logit_bias`; penalties; temperature 0 takes the largest logit; else top-k, typical-p,
/// top-p, min-p, then temperature, then the draw. Temperature comes last, as in llama.cpp and in BAAI's
/// code for Aquila2, so that the filters mean the same at every temperature and a high one cannot bring
/// back what they removed. (transformers and BAAI's code for the first Aquila divide by the temperature
/// first: there a temperature above 1 widens top-p and min-p, one below 1 narrows them. top-k and the
/// penalties are not affected.) Each filter works on the probabilities that the one before it left.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0: greedy, the largest logit, of equal ones the lowest id. Else logits are divided by it; at
    /// most 100.
    pub temperature: f32,
    /// Keep the k largest; 0: all. Of equal ones the lower ids.
    pub top_k: u32,
    /// Keep the smallest set of likeliest tokens whose probability reaches p; 1: all. At least one is kept.
    pub top_p: f32,
    /// Keep tokens with at least this share of the best one's probability; 0: all.
    pub min_p: f32,
    /// Locally typical sampling: keep mass p nearest the entropy; 1: all. At least one is kept.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in the window (prompt and output),
    /// as in transformers; 1: off. Above 0, at most 100.
    pub repeat_penalty: f32,
    /// Subtracted once for each time a token was generated in the window; 0: off. −100 to 100.
    pub frequency_penalty: f32,
    /// Subtracted once if a token was generated in the window; 0: off. −100 to 100.
    pub presence_penalty: f32,
    /// Last tokens (prompt and output) that the penalties look at; −1: all, 0: none.
    pub penalty_last_n: i32,
    /// The seed of the draw; the same seed gives the same text.
    pub seed: u64,
    /// Added to single logits before everything else; −∞ forbids a token.
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

/// Hotter than this every distribution is flat.
const TEMPERATURE_MAX: f32 = 100.0;
/// Largest penalty: logits of real models span less.
const PENALTY_MAX: f32 = 100.0;
/// A penalty below this is zero in all but name, and would make infinities.
const REPEAT_MIN: f32 = 0.01;

impl SamplingParams {
    /// `Argument`, naming the field, the value and the range, unless every field is in range for a
    /// vocabulary of `vocab` ids.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let fields = [
            ("temperature", self.temperature, 0.0, TEMPERATURE_MAX),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, REPEAT_MIN, PENALTY_MAX),
            ("frequency_penalty", self.frequency_penalty, -PENALTY_MAX, PENALTY_MAX),
            ("presence_penalty", self.presence_penalty, -PENALTY_MAX, PENALTY_MAX),
        ];
        for (name, value, least, most) in fields {
            // NaN is in no range.
            let inside = (least..=most).contains(&value);
            crate::ensure!(inside, Argument, "{name}: expected {least} to {most}, found {value}");
        }
        let window = self.penalty_last_n;
        crate::ensure!(
            window >= -1,
            Argument,
            "penalty_last_n: expected -1 (all), 0 (none) or more, found {window}"
        );
        let biases = self.logit_bias.len();
        crate::ensure!(biases <= vocab, Argument, "logit_bias: {biases} entries, expected at most {vocab}");
        for &(id, bias) in &self.logit_bias {
            crate::ensure!((id as usize) < vocab, Argument, "logit_bias: id {id}: expected below {vocab}");
            let usable = bias.is_finite() || bias == f32::NEG_INFINITY;
            crate::ensure!(usable, Argument, "logit_bias: id {id}: expected a number or -inf, found {bias}");
        }
        Ok(())
    }

    /// Whether nothing but a row's `count` largest logits, as they are, decides about the choice: a draw among fewer of
    /// them. So is a top-k, which comes before all other filters; it is to be below `count`, because the first logit
    /// behind the k-th tells whether others equal to that are missing.
    pub fn needs_only_largest(&self, count: usize) -> bool {
        let k = self.top_k as usize;
        self.temperature > 0.0 && (1..count).contains(&k) && self.logit_bias.is_empty() && !self.penalizes()
    }

    /// Whether any penalty can change a logit.
    pub(super) fn penalizes(&self) -> bool {
        let on = self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0;
        on && self.penalty_last_n != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Status;

    #[test]
    fn each_field_is_checked_and_named() {
        type Change = fn(&mut SamplingParams);
        let wrong: [(&str, Change); 18] = [
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 1.01),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = -1.0),
            ("typical_p", |p| p.typical_p = 2.0),
            ("repeat_penalty", |p| p.repeat_penalty = 0.0),
            ("repeat_penalty", |p| p.repeat_penalty = -1.0),
            ("repeat_penalty", |p| p.repeat_penalty = 1e30),
            ("frequency_penalty", |p| p.frequency_penalty = f32::NEG_INFINITY),
            ("presence_penalty", |p| p.presence_penalty = 101.0),
            ("penalty_last_n", |p| p.penalty_last_n = -2),
            ("penalty_last_n", |p| p.penalty_last_n = i32::MIN),
            ("logit_bias: id 10", |p| p.logit_bias = vec![(10, 1.0)]),
            ("logit_bias: id 3", |p| p.logit_bias = vec![(3, f32::NAN)]),
            ("logit_bias: id 3", |p| p.logit_bias = vec![(3, f32::INFINITY)]),
            ("logit_bias: 11 entries", |p| p.logit_bias = vec![(0, 0.0); 11]),
        ];
        for (part, change) in wrong {
            let mut params = SamplingParams::default();
            change(&mut params);
            let error = params.check(10).unwrap_err();
            assert_eq!(error.status, Status::Argument);
            assert!(error.message.contains(part), "{}", error.message);
        }
        let right = SamplingParams {
            temperature: 100.0,
            top_k: u32::MAX,
            top_p: 0.0,
            min_p: 1.0,
            typical_p: 0.0,
            repeat_penalty: 0.01,
            penalty_last_n: i32::MAX,
            logit_bias: vec![(9, f32::NEG_INFINITY), (9, 5.0)],
            ..SamplingParams::default()
        };
        right.check(10).unwrap();
    }
}
