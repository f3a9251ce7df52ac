//! Events: what a generation says while it runs.

use super::options::sized;
use super::result::{aquila_stats, finish_number};
use super::status::{AQUILA_OK, aquila_status};
use crate::base::error::Error;
use crate::engine::params::{Finish, Timings};
use crate::sampling::Likely;
use std::ffi::c_char;
use std::ptr;

/// A part of the prompt is computed: `prefill_done` and `prefill_total` say how much.
pub const AQUILA_EVENT_PREFILL: u32 = 1;
/// New text and its tokens.
pub const AQUILA_EVENT_TEXT: u32 = 2;
/// The last event: `finish`, `status` and `stats` say how it ended.
pub const AQUILA_EVENT_FINISH: u32 = 3;

/// A token that could have been chosen.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_logprob {
    /// Its id.
    pub token: i32,
    /// Its log-probability, by the model alone.
    pub logprob: f32,
}

const _: () = assert!(size_of::<aquila_logprob>() == size_of::<Likely>());

/// The same memory as C sees it: ids are below 2^24, so they are the same numbers with and without sign. NULL for none.
pub(super) fn likely(top: &[Likely]) -> *const aquila_logprob {
    if top.is_empty() { ptr::null() } else { top.as_ptr().cast() }
}

/// What a generation says while it runs. What it points to lives until the function that it was handed to
/// returns; with aquila_next, until the next call of that on the request, or its free. Fields that its kind does
/// not use are 0 and NULL, but `text` is never NULL.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_event {
    /// sizeof(aquila_event): of the library in a callback, where fields beyond it do not exist; with aquila_next the
    /// caller's, to be set before.
    pub struct_size: u32,
    /// AQUILA_EVENT_...
    pub kind: u32,
    /// New text: whole UTF-8 characters, NUL-terminated.
    pub text: *const c_char,
    /// Its bytes, without the NUL.
    pub text_size: usize,
    /// The tokens behind it; there may be some without text, and text without any.
    pub tokens: *const i32,
    /// Log-probability of each of the tokens; NULL where an NPU chose them, or found the logits to choose among. Asked
    /// for by `n_logprobs` they are always there.
    pub logprobs: *const f32,
    /// How many tokens.
    pub n_tokens: usize,
    /// AQUILA_FINISH_..., with AQUILA_EVENT_FINISH.
    pub finish: u32,
    /// Tokens of the prompt computed so far.
    pub prefill_done: u32,
    /// Tokens of the prompt.
    pub prefill_total: u32,
    /// What failed, with AQUILA_FINISH_ERROR.
    pub status: aquila_status,
    /// Times and counts, with AQUILA_EVENT_FINISH.
    pub stats: *const aquila_stats,
    /// The most likely tokens at the place of each token, `n_logprobs` for each, the likeliest first; NULL where none
    /// were asked for.
    pub top: *const aquila_logprob,
    /// The number that was asked for, or the vocabulary's if that is less.
    pub n_logprobs: u32,
    /// 0.
    pub reserved: u32,
}

sized!(aquila_event {
    struct_size, kind, text, text_size, tokens, logprobs, n_tokens, finish, prefill_done, prefill_total, status,
    stats, top, n_logprobs, reserved,
} aquila_event::new(0));

impl aquila_event {
    fn new(kind: u32) -> Self {
        aquila_event {
            struct_size: size_of::<aquila_event>() as u32,
            kind,
            text: c"".as_ptr(),
            text_size: 0,
            tokens: ptr::null(),
            logprobs: ptr::null(),
            n_tokens: 0,
            finish: 0,
            prefill_done: 0,
            prefill_total: 0,
            status: AQUILA_OK,
            stats: ptr::null(),
            top: ptr::null(),
            n_logprobs: 0,
            reserved: 0,
        }
    }
}

impl aquila_event {
    pub(super) fn prefill(done: u32, total: u32) -> Self {
        aquila_event { prefill_done: done, prefill_total: total, ..aquila_event::new(AQUILA_EVENT_PREFILL) }
    }
}

/// What an event points to, until the next one.
pub(super) struct Spoken {
    /// The text and a NUL.
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    top: Vec<Likely>,
    /// In a place of its own, so that it may be moved under the event.
    stats: Box<aquila_stats>,
}

impl Default for Spoken {
    fn default() -> Self {
        let stats = Box::new(aquila_stats::from(&Timings::default()));
        Spoken { text: String::new(), tokens: Vec::new(), logprobs: Vec::new(), top: Vec::new(), stats }
    }
}

impl Spoken {
    pub fn text(
        &mut self,
        text: String,
        tokens: Vec<u32>,
        logprobs: Vec<f32>,
        top: Vec<Likely>,
    ) -> aquila_event {
        let text_size = text.len();
        (self.text, self.tokens, self.logprobs, self.top) = (text, tokens, logprobs, top);
        self.text.push('\0');
        let each = self.logprobs.len() == self.tokens.len();
        aquila_event {
            text: self.text.as_ptr().cast(),
            text_size,
            // Ids are below 2^24, so they are the same numbers with and without sign.
            tokens: self.tokens.as_ptr().cast(),
            logprobs: if each { self.logprobs.as_ptr() } else { ptr::null() },
            n_tokens: self.tokens.len(),
            top: likely(&self.top),
            n_logprobs: (self.top.len() / self.tokens.len().max(1)) as u32,
            ..aquila_event::new(AQUILA_EVENT_TEXT)
        }
    }

    pub fn finish(&mut self, reason: Finish, error: Option<&Error>, timings: &Timings) -> aquila_event {
        *self.stats = aquila_stats::from(timings);
        aquila_event {
            finish: finish_number(reason),
            status: error.map_or(AQUILA_OK, |error| error.status as aquila_status),
            stats: &*self.stats,
            ..aquila_event::new(AQUILA_EVENT_FINISH)
        }
    }
}
