//! Texts themselves: how likely they are, and where they lie among others.

use super::engine::{aquila_engine, pin_engine};
use super::guard::{self, status_call};
use super::status::{aquila_error, aquila_status};
use crate::base::error::{Error, Result, Status};
use std::ffi::c_char;

/// Says how likely each of some continuations of a prompt is: the sum of the log-probabilities of the tokens that prompt and
/// continuation together have beyond the prompt's own. The prompt is computed once for all of them.
///
/// Parameters: `prompt`, NUL-terminated UTF-8, not empty; `choices`, `count` such strings, none empty; `logprobs`, room for
/// `count` numbers, filled.
/// Returns: AQUILA_OK; AQUILA_ERR_CONTEXT_FULL, AQUILA_ERR_OVERLOADED, AQUILA_ERR_ARGUMENT, AQUILA_ERR_UNSUPPORTED (a model
/// without tokenizer, a choice that is longer than what the device scores), AQUILA_ERR_NO_MEMORY, AQUILA_ERR_CLOSED,
/// AQUILA_ERR_FORKED, AQUILA_ERR_STATE as aquila_generate. Nothing is filled on failure.
/// Threads: any, at any time, many at once on one engine. It blocks until all are done.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_score(
    engine: *mut aquila_engine,
    prompt: *const c_char,
    choices: *const *const c_char,
    count: usize,
    logprobs: *mut f64,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let engine = pin_engine(engine)?;
            let prompt = guard::text("prompt", prompt)?;
            let choices = texts("choices", choices, count)?;
            if count > 0 {
                guard::check_pointer("logprobs", logprobs)?;
            }
            for (at, score) in engine.engine().score(prompt, &choices)?.into_iter().enumerate() {
                logprobs.add(at).write(score);
            }
            Ok(())
        })
    }
}

/// Embeds texts: the mean of a text's hidden states after the final norm, of length 1. The closer two texts, the larger the sum
/// of products of their numbers; 1 for the same.
///
/// Parameters: `texts`, `count` NUL-terminated UTF-8 strings, none empty; `vectors`, room for `capacity` numbers, where those
/// of one text follow those of the one before; `width`, NULL or where the numbers of one vector are written (`hidden` of
/// aquila_engine_info), also with AQUILA_ERR_TOO_SMALL.
/// Returns: as aquila_score; AQUILA_ERR_TOO_SMALL if `capacity` is less than `count` times `width`, nothing but that is
/// written and nothing computed then. With `vectors` NULL and `capacity` 0 it only says the width and returns AQUILA_OK.
/// Threads: any, at any time, many at once on one engine. It blocks until all are done.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_embed(
    engine: *mut aquila_engine,
    texts: *const *const c_char,
    count: usize,
    vectors: *mut f32,
    capacity: usize,
    width: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let width_out = guard::optional_out("width", width)?;
            let engine = pin_engine(engine)?;
            let width = engine.engine().info().hidden as usize;
            if let Some(out) = width_out {
                *out = width;
            }
            if vectors.is_null() && capacity == 0 {
                return Ok(());
            }
            if count > 0 {
                guard::check_pointer("vectors", vectors)?;
            }
            // Before the texts are read: a count beyond the room may be no count at all.
            if count.checked_mul(width).is_none_or(|needed| needed > capacity) {
                let message = format!("vectors: room for {capacity} numbers, expected {count} times {width}");
                return Err(Error::new(Status::TooSmall, message));
            }
            let texts = self::texts("texts", texts, count)?;
            for (at, vector) in engine.engine().embed(&texts)?.iter().enumerate() {
                vectors.add(at * width).copy_from_nonoverlapping(vector.as_ptr(), vector.len().min(width));
            }
            Ok(())
        })
    }
}

/// # Safety
/// `first`, unless NULL or misaligned, points to `count` strings as [`guard::text`] takes them.
unsafe fn texts<'a>(name: &str, first: *const *const c_char, count: usize) -> Result<Vec<&'a str>> {
    // SAFETY: the caller's promise.
    let strings = unsafe { guard::array(name, first, count) }?;
    // SAFETY: the caller's promise.
    let text = |(at, &string)| unsafe { guard::text(&format!("{name}[{at}]"), string) };
    strings.iter().enumerate().map(text).collect()
}
