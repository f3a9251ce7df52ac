//! What a request asks for, and what it gives back: plain data, checked at the door.

use crate::base::error::{Error, Result};
use crate::base::limits;
use crate::sampling::{Likely, SamplingParams};
use crate::text::Constraint;
use std::time::Duration;

/// What to generate from.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Text, tokenised by the rules of the model's tokenizer.
    Text(String),
    /// Token ids as they are; nothing is added.
    Tokens(Vec<u32>),
    /// A chat in JSON, as [`crate::text::Chat::parse`] reads it, rendered by the chat template.
    Messages(String),
}

/// How to generate. The default is greedy, to the end of the text or of the context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenParams {
    /// Most new tokens; 0: what the context leaves.
    pub max_tokens: u32,
    /// New tokens before a stop id may end the text.
    pub min_tokens: u32,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Strings that end the text; they are not part of it unless `keep_stop`.
    pub stop: Vec<String>,
    /// Further token ids that end the text.
    pub stop_tokens: Vec<u32>,
    /// Go on past the model's own end-of-sequence ids.
    pub ignore_eos: bool,
    /// Put the prompt's text in front.
    pub echo: bool,
    /// Leave the stop string in the text.
    pub keep_stop: bool,
    /// Show special tokens as text.
    pub show_special: bool,
    /// Do not add what the tokenizer's post-processor adds (text input).
    pub no_add_special: bool,
    /// Do not recognise special-token text in the prompt (text input).
    pub no_parse_special: bool,
    /// Most tokens a step that are looked up in the text so far and verified beside the next one; 0: none.
    /// The text is the same, and comes sooner where it repeats itself or its prompt. The engine proposes
    /// fewer where they prove wrong, and none in steps that other work fills or on devices whose results
    /// depend on the batch.
    pub speculate: u32,
    /// Requests of higher priority go first: they are admitted before all others, and these are put back and computed
    /// again later where KV blocks or places are short.
    pub priority: i32,
    /// The text ends with what was made when so much time has passed since it was submitted; `None`: no limit.
    pub deadline: Option<Duration>,
    /// How many of the most likely tokens are told at each place; 0: none.
    pub logprobs: u32,
    /// Neither take over KV blocks of texts that begin alike nor leave them for others; on a session: those of the
    /// session and its copies alone.
    pub no_cache: bool,
    /// Where the context is full go on without the middle of the text, instead of ending there; needs `max_tokens`. A
    /// prompt that leaves no room is cut the same way.
    pub shift: bool,
    /// Tokens at the beginning that a shift leaves: at most half a context. One is left in any case where the text begins
    /// with the begin-of-sequence id.
    pub n_keep: u32,
    /// What the new text must fit. Only tokens are chosen after which it can still be completed, and the ids that end a
    /// text are among them exactly when it is complete; when nothing can follow, it ends ([`Finish::Stop`]). A stop
    /// string or token, `max_tokens`, the context and the deadline may end it before.
    pub constraint: Option<Constraint>,
}

impl GenParams {
    /// `Argument`, naming the field, unless all fields are in range for a vocabulary of `vocab` and a context of `context`
    /// tokens.
    pub fn check(&self, vocab: usize, context: u32) -> Result<()> {
        self.sampling.check(vocab)?;
        crate::ensure!(
            self.stop.len() <= limits::STOP_STRINGS_MAX,
            Argument,
            "stop: {} strings, at most {}",
            self.stop.len(),
            limits::STOP_STRINGS_MAX
        );
        for stop in &self.stop {
            crate::ensure!(
                !stop.is_empty() && stop.len() <= limits::STOP_BYTES_MAX,
                Argument,
                "stop: a string of {} bytes, expected 1 to {}",
                stop.len(),
                limits::STOP_BYTES_MAX
            );
        }
        for &id in &self.stop_tokens {
            crate::ensure!(
                (id as usize) < vocab,
                Argument,
                "stop_tokens: id {id} is not below the vocabulary's {vocab}"
            );
        }
        crate::ensure!(
            self.max_tokens == 0 || self.min_tokens <= self.max_tokens,
            Argument,
            "min_tokens {} is more than max_tokens {}",
            self.min_tokens,
            self.max_tokens
        );
        crate::ensure!(
            !self.shift || self.max_tokens > 0,
            Argument,
            "max_tokens: 0, and a text whose context shifts has no other end"
        );
        crate::ensure!(
            self.n_keep <= context / 2,
            Argument,
            "n_keep: {}, expected at most half of the context of {context}",
            self.n_keep
        );
        crate::ensure!(
            self.logprobs <= limits::LOGPROBS_MAX,
            Argument,
            "n_logprobs: {}, expected at most {}",
            self.logprobs,
            limits::LOGPROBS_MAX
        );
        crate::ensure!(
            self.speculate <= limits::SPECULATE_MAX,
            Argument,
            "speculate: {}, expected at most {}",
            self.speculate,
            limits::SPECULATE_MAX
        );
        Ok(())
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model's end-of-sequence id.
    Eos,
    /// A stop string or a stop token of the request, or the end of what its constraint describes.
    Stop,
    /// `max_tokens` were made.
    Length,
    /// The context is full.
    Context,
    /// Cancelled by the caller.
    Cancelled,
    /// The deadline passed.
    Deadline,
    /// The step failed; the error says why.
    Error,
}

/// Times and counts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens that were not computed because their KV blocks were cached.
    pub cached_tokens: u32,
    /// Tokens made, the ending one included.
    pub output_tokens: u32,
    /// From submission to the first step.
    pub queue_ms: f64,
    /// Rendering, tokenising and compiling the constraint.
    pub tokenize_ms: f64,
    /// From the first step to the first token.
    pub prefill_ms: f64,
    /// From submission to the first token.
    pub first_token_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// From submission to the end.
    pub total_ms: f64,
    /// Tokens proposed by lookup and computed.
    pub proposed_tokens: u32,
    /// Those of them that were right: so many steps were saved.
    pub accepted_tokens: u32,
}

/// What a request says while it runs.
#[derive(Clone, Debug)]
pub enum Event {
    /// A part of the prompt is computed.
    Prefill {
        /// Prompt tokens computed so far.
        done: u32,
        /// Prompt tokens in all.
        total: u32,
    },
    /// New text. Events that nobody has read yet are merged.
    Text {
        /// Whole code points; may be empty where a token gave none yet.
        text: String,
        /// The tokens behind this event, in order.
        tokens: Vec<u32>,
        /// Log-probability of each of the tokens; empty where the device chose them, or found
        /// the logits to choose among.
        logprobs: Vec<f32>,
        /// The most likely tokens at the place of each, as many as were asked for, the likeliest first.
        top: Vec<Likely>,
    },
    /// The last event.
    Finish {
        /// Why the text ended.
        reason: Finish,
        /// What failed, with [`Finish::Error`].
        error: Option<Error>,
    },
}

/// A finished text.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The text.
    pub text: String,
    /// The new tokens; the ending eos or stop token is not among them.
    pub tokens: Vec<u32>,
    /// Log-probability of each token; empty where the device chose them, or found the logits to choose among.
    pub logprobs: Vec<f32>,
    /// The most likely tokens at the place of each, as many as were asked for, the likeliest first.
    pub top: Vec<Likely>,
    /// Why it ended.
    pub finish: Finish,
    /// Times and counts.
    pub timings: Timings,
}
