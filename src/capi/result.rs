//! Results: a finished text, and why it ended.

use super::event::{aquila_logprob, likely};
use super::guard::{self, status_call, value_call};
use super::handles::{self, Noun, Table};
use super::options::{self, sized};
use super::status::aquila_status;
use crate::base::error::Result;
use crate::engine::params::{Finish, Generation, Timings};
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

/// A finished text. A handle, never dereferenced. It does not need its engine any more, and may be read
/// in a child process.
pub struct aquila_result;

/// Not finished, or no result.
pub const AQUILA_FINISH_NONE: u32 = 0;
/// The model's end-of-sequence id.
pub const AQUILA_FINISH_EOS: u32 = 1;
/// A stop string or stop token, or the end of what a constraint describes.
pub const AQUILA_FINISH_STOP: u32 = 2;
/// `max_tokens` were made.
pub const AQUILA_FINISH_LENGTH: u32 = 3;
/// The context is full.
pub const AQUILA_FINISH_CONTEXT: u32 = 4;
/// The caller stopped it.
pub const AQUILA_FINISH_CANCELLED: u32 = 5;
/// The deadline passed.
pub const AQUILA_FINISH_DEADLINE: u32 = 6;
/// A step failed.
pub const AQUILA_FINISH_ERROR: u32 = 7;

/// The header's number of a reason, and its name in JSON.
fn finish_entry(finish: Finish) -> (u32, &'static str) {
    match finish {
        Finish::Eos => (AQUILA_FINISH_EOS, "eos"),
        Finish::Stop => (AQUILA_FINISH_STOP, "stop"),
        Finish::Length => (AQUILA_FINISH_LENGTH, "length"),
        Finish::Context => (AQUILA_FINISH_CONTEXT, "context"),
        Finish::Cancelled => (AQUILA_FINISH_CANCELLED, "cancelled"),
        Finish::Deadline => (AQUILA_FINISH_DEADLINE, "deadline"),
        Finish::Error => (AQUILA_FINISH_ERROR, "error"),
    }
}

/// The header's number of a reason.
pub(super) fn finish_number(finish: Finish) -> u32 {
    finish_entry(finish).0
}

/// What a result's handle stands for: everything C may be given addresses of.
pub(super) struct ResultObject {
    generation: Generation,
    /// The text and a NUL.
    text: Vec<u8>,
    json: OnceLock<CString>,
}

impl Noun for ResultObject {
    const KIND: u64 = 2;
    const NAME: &'static str = "aquila_result";
    fn table() -> &'static Table<Self> {
        static TABLE: Table<ResultObject> = Table::new();
        &TABLE
    }
}

impl ResultObject {
    pub fn new(mut generation: Generation) -> Self {
        let mut text = std::mem::take(&mut generation.text).into_bytes();
        text.push(0);
        ResultObject { generation, text, json: OnceLock::new() }
    }

    fn text_size(&self) -> usize {
        self.text.len() - 1
    }

    fn json(&self) -> &CString {
        self.json.get_or_init(|| {
            let text = String::from_utf8_lossy(&self.text[..self.text_size()]);
            let timings = &self.generation.timings;
            let each = self.generation.top.len() / self.generation.tokens.len().max(1);
            let top: Vec<Vec<_>> = (self.generation.top.chunks(each.max(1)))
                .map(|place| place.iter().map(|l| serde_json::json!([l.token, l.logprob])).collect())
                .collect();
            let json = serde_json::json!({
                "text": text,
                "tokens": self.generation.tokens,
                "logprobs": self.generation.logprobs,
                "top_logprobs": top,
                "finish": finish_entry(self.generation.finish).1,
                "stats": {
                    "prompt_tokens": timings.prompt_tokens,
                    "cached_tokens": timings.cached_tokens,
                    "output_tokens": timings.output_tokens,
                    "queue_ms": timings.queue_ms,
                    "tokenize_ms": timings.tokenize_ms,
                    "prefill_ms": timings.prefill_ms,
                    "first_token_ms": timings.first_token_ms,
                    "decode_ms": timings.decode_ms,
                    "total_ms": timings.total_ms,
                    "proposed_tokens": timings.proposed_tokens,
                    "accepted_tokens": timings.accepted_tokens,
                },
            });
            // JSON escapes NUL, so there is none inside.
            CString::new(json.to_string()).unwrap_or_default()
        })
    }
}

/// Times and counts of one generation. Set struct_size before the call that fills it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct aquila_stats {
    /// sizeof(aquila_stats).
    pub struct_size: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens that were not computed because they were cached.
    pub cached_tokens: u32,
    /// Tokens made, the ending one included.
    pub output_tokens: u32,
    /// From submission to the first step.
    pub queue_ms: f64,
    /// Rendering and tokenising.
    pub tokenize_ms: f64,
    /// From the first step to the first token.
    pub prefill_ms: f64,
    /// From submission to the first token.
    pub first_token_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// From submission to the end.
    pub total_ms: f64,
    /// Tokens proposed by lookup (`speculate`) and computed.
    pub proposed_tokens: u32,
    /// Those of them that were right: so many steps were saved.
    pub accepted_tokens: u32,
}

sized!(aquila_stats {
    struct_size, prompt_tokens, cached_tokens, output_tokens, queue_ms, tokenize_ms, prefill_ms,
    first_token_ms, decode_ms, total_ms, proposed_tokens, accepted_tokens,
} aquila_stats::from(&Timings::default()));

impl From<&Timings> for aquila_stats {
    fn from(timings: &Timings) -> Self {
        aquila_stats {
            struct_size: size_of::<aquila_stats>() as u32,
            prompt_tokens: timings.prompt_tokens,
            cached_tokens: timings.cached_tokens,
            output_tokens: timings.output_tokens,
            queue_ms: timings.queue_ms,
            tokenize_ms: timings.tokenize_ms,
            prefill_ms: timings.prefill_ms,
            first_token_ms: timings.first_token_ms,
            decode_ms: timings.decode_ms,
            total_ms: timings.total_ms,
            proposed_tokens: timings.proposed_tokens,
            accepted_tokens: timings.accepted_tokens,
        }
    }
}

/// Gives the address and length that `part` finds in a result; NULL and 0 where there is none.
///
/// # Safety
/// `length` is NULL or writable.
unsafe fn borrowed<T>(
    result: *const aquila_result,
    length: *mut usize,
    part: impl FnOnce(&ResultObject) -> (*const T, usize),
) -> *const T {
    value_call(ptr::null(), || {
        // SAFETY: the caller's promise is the same.
        let length = unsafe { guard::optional_out("length", length) }?;
        let found = handles::pin::<ResultObject, _>(result).map(|result| part(&result));
        if let Some(length) = length {
            *length = found.as_ref().map_or(0, |(_, length)| *length);
        }
        found.map(|(address, _)| address)
    })
}

/// The text of a result.
///
/// Parameters: `size`, NULL or where its bytes without the NUL are written.
/// Returns: NUL-terminated UTF-8; NULL for NULL and for a freed result.
/// Ownership: the result's, valid until aquila_result_free.
/// Threads: any, at any time.
///
/// # Safety
/// `size` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_result_text(result: *const aquila_result, size: *mut usize) -> *const c_char {
    // SAFETY: the caller's promise is the same.
    unsafe { borrowed(result, size, |result| (result.text.as_ptr().cast(), result.text_size())) }
}

/// The new tokens of a result; the ending end-of-sequence or stop token is not among them.
///
/// Parameters: `count`, NULL or where their number is written.
/// Returns: an array; NULL for NULL and for a freed result.
/// Ownership: the result's, valid until aquila_result_free.
/// Threads: any, at any time.
///
/// # Safety
/// `count` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_result_tokens(result: *const aquila_result, count: *mut usize) -> *const i32 {
    // Ids are below 2^24, so they are the same numbers with and without sign.
    // SAFETY: the caller's promise is the same.
    unsafe {
        borrowed(result, count, |result| {
            (result.generation.tokens.as_ptr().cast(), result.generation.tokens.len())
        })
    }
}

/// The log-probability of each new token, by the model alone: before penalties and filters. None where an NPU chose the
/// tokens, or found the logits to choose among, and `n_logprobs` was 0.
///
/// Parameters: `count`, NULL or where their number is written.
/// Returns: an array; NULL for NULL and for a freed result.
/// Ownership: the result's, valid until aquila_result_free.
/// Threads: any, at any time.
///
/// # Safety
/// `count` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_result_logprobs(
    result: *const aquila_result,
    count: *mut usize,
) -> *const f32 {
    // SAFETY: the caller's promise is the same.
    unsafe {
        borrowed(result, count, |result| {
            (result.generation.logprobs.as_ptr(), result.generation.logprobs.len())
        })
    }
}

/// The most likely tokens at the place of each new token, as many for each as `n_logprobs` of the parameters asked
/// for, the likeliest first.
///
/// Parameters: `count`, NULL or where the number of all of them is written.
/// Returns: an array; NULL where none were asked for, for NULL and for a freed result.
/// Ownership: the result's, valid until aquila_result_free.
/// Threads: any, at any time.
///
/// # Safety
/// `count` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_result_top_logprobs(
    result: *const aquila_result,
    count: *mut usize,
) -> *const aquila_logprob {
    // SAFETY: the caller's promise is the same.
    unsafe { borrowed(result, count, |result| (likely(&result.generation.top), result.generation.top.len())) }
}

/// Why the text ended.
///
/// Returns: AQUILA_FINISH_...; AQUILA_FINISH_NONE for NULL and for a freed result.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_result_finish(result: *const aquila_result) -> u32 {
    value_call(AQUILA_FINISH_NONE, || {
        Ok(finish_number(handles::pin::<ResultObject, _>(result)?.generation.finish))
    })
}

/// The whole result as a JSON object: "text", "tokens", "logprobs", "top_logprobs" (for each token an array of
/// [id, log-probability]; empty where none were asked for), "finish" and "stats".
///
/// Parameters: `size`, NULL or where its bytes without the NUL are written.
/// Returns: NUL-terminated UTF-8; NULL for NULL and for a freed result.
/// Ownership: the result's, valid until aquila_result_free.
/// Threads: any, at any time.
///
/// # Safety
/// `size` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_result_json(result: *const aquila_result, size: *mut usize) -> *const c_char {
    // SAFETY: the caller's promise is the same.
    unsafe {
        borrowed(result, size, |result| {
            let json = result.json();
            (json.as_ptr(), json.as_bytes().len())
        })
    }
}

/// Times and counts of a result.
///
/// Parameters: `stats`, filled.
/// Returns: AQUILA_OK, AQUILA_ERR_ARGUMENT or AQUILA_ERR_CLOSED.
/// Threads: any, at any time.
///
/// # Safety
/// `stats` is NULL or points to as many writable bytes as its struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_result_stats(
    result: *const aquila_result,
    stats: *mut aquila_stats,
) -> aquila_status {
    // SAFETY: the caller's promise is the same.
    unsafe { status_call(ptr::null_mut(), || write_stats(result, stats)) }
}

/// # Safety
/// As for [`aquila_result_stats`].
unsafe fn write_stats(result: *const aquila_result, stats: *mut aquila_stats) -> Result<()> {
    let result = handles::pin::<ResultObject, _>(result)?;
    // SAFETY: the caller's promise is the same.
    unsafe { options::write("stats", stats, &aquila_stats::from(&result.generation.timings)) }
}

/// Frees a result, and with it all that its functions gave.
///
/// Parameters: `result`; NULL and a freed handle are fine: nothing happens.
/// Threads: any, at any time, but what the result gave must not be in use.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_result_free(result: *mut aquila_result) {
    value_call((), || {
        drop(handles::close::<ResultObject, _>(result));
        Ok(())
    })
}
