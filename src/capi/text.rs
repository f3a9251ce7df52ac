//! Text: tokenizer and chat template. Buffers are the caller's, by the two-call protocol.

use super::engine::{aquila_engine, pin_engine};
use super::guard::{self, status_call};
use super::library::AQUILA_NTS;
use super::options::check_flags;
use super::status::{aquila_error, aquila_status};
use crate::base::error::Result;
use crate::base::limits;
use crate::text::tokenizer::EncodeOptions;
use std::ffi::c_char;

/// Add what the tokenizer's own rules add, such as a begin-of-sequence id.
pub const AQUILA_TOK_ADD_SPECIAL: u32 = 1;
/// Recognise special-token text such as "</s>" in the input.
pub const AQUILA_TOK_PARSE_SPECIAL: u32 = 2;
/// Show special tokens as text (aquila_detokenize).
pub const AQUILA_TOK_SHOW_SPECIAL: u32 = 4;

/// Turns text into token ids.
///
/// Parameters: `text` and `size`, UTF-8 and its bytes, or AQUILA_NTS for a NUL-terminated string;
/// `flags`, AQUILA_TOK_ADD_SPECIAL and AQUILA_TOK_PARSE_SPECIAL; `ids`, room for `capacity` ids; `count`,
/// NULL or where the number of ids is written, also with AQUILA_ERR_TOO_SMALL.
/// Returns: AQUILA_OK; AQUILA_ERR_TOO_SMALL if `capacity` is less than `count`, nothing but that is
/// written then. With `ids` NULL and `capacity` 0 it only counts and returns AQUILA_OK.
/// AQUILA_ERR_UNSUPPORTED for a model without tokenizer.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_tokenize(
    engine: *mut aquila_engine,
    text: *const c_char,
    size: usize,
    flags: u32,
    ids: *mut i32,
    capacity: usize,
    count: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let count = guard::optional_out("count", count)?;
            let engine = pin_engine(engine)?;
            check_flags("flags", flags, AQUILA_TOK_ADD_SPECIAL | AQUILA_TOK_PARSE_SPECIAL)?;
            let options = EncodeOptions {
                add_special: flags & AQUILA_TOK_ADD_SPECIAL != 0,
                parse_special: flags & AQUILA_TOK_PARSE_SPECIAL != 0,
            };
            let text = sized_text("text", text, size)?;
            let found = engine.engine().tokenizer()?.encode(text, options)?;
            let found: Vec<i32> = found.into_iter().map(|id| id as i32).collect();
            put("ids", &found, ids, capacity, count)
        })
    }
}

/// Turns token ids into text. Bytes that form no character become U+FFFD.
///
/// Parameters: `ids` and `count`, the ids, each below the `vocab` of aquila_engine_info (one that the
/// tokenizer does not know has no text); `flags`, AQUILA_TOK_SHOW_SPECIAL or 0; `text`, room for
/// `capacity` bytes; `size`, NULL or where the bytes of the text without its NUL are written, also with
/// AQUILA_ERR_TOO_SMALL.
/// Returns: AQUILA_OK; AQUILA_ERR_TOO_SMALL if `capacity` is less than `size` + 1 (the NUL), nothing but
/// the size is written then. With `text` NULL and `capacity` 0 it only measures and returns AQUILA_OK.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_detokenize(
    engine: *mut aquila_engine,
    ids: *const i32,
    count: usize,
    flags: u32,
    text: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let size = guard::optional_out("size", size)?;
            let engine = pin_engine(engine)?;
            check_flags("flags", flags, AQUILA_TOK_SHOW_SPECIAL)?;
            let tokenizer = engine.engine().tokenizer()?;
            // Whatever the model can generate: its embedding may have more rows than the tokenizer has ids.
            let vocab = engine.engine().info().vocab as usize;
            let ids = token_ids("ids", guard::array("ids", ids, count)?, vocab)?;
            put_text(&tokenizer.decode(&ids, flags & AQUILA_TOK_SHOW_SPECIAL != 0), text, capacity, size)
        })
    }
}

/// Renders a chat to a prompt by the model's chat template, as transformers' apply_chat_template does. To
/// generate from messages, prefer AQUILA_GEN_MESSAGES: there, text of the messages never becomes a special
/// token.
///
/// Parameters: `messages_json`, a chat: a JSON array of messages, or an object with options. A message is an
/// object with a "role" and, as the template wants them, "content" (a string, or an array of parts such as
/// {"type": "text", "text": "..."}), "tool_calls" and others. The object has the keys
///   "messages"               the array; the only key that must be there
///   "tools"                  an array of objects: functions that the model may call, as JSON schema
///   "documents"              an array of objects to answer from
///   "add_generation_prompt"  whether the assistant's turn is opened, instead of `add_prompt`
///   "continue_final_message" true: the prompt ends where the last message's text ends, for the model to go
///                            on with it, and no turn is opened
///   "chat_template"          the name of one of the model's templates, where it has several; by itself it
///                            takes "tool_use" where there are tools and such a template, else "default"
///   "template_args"          an object of further variables for the template, such as enable_thinking
///   "chat_template_kwargs"   another name for the same
/// Any other key is refused. `tools_json`, a JSON array, or NULL: the tools, where the object has none;
/// `add_prompt`, non-zero to open the assistant's turn; text is returned as by aquila_detokenize.
/// Returns: as aquila_detokenize; AQUILA_ERR_ARGUMENT for JSON that is no such chat, with the path of what is
/// wrong, and for messages that the template refuses, with its words; AQUILA_ERR_FORMAT for a template that
/// fails or asks for too much memory or time; AQUILA_ERR_UNSUPPORTED for a model without chat template, and
/// for tools or documents where a built-in template has none.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_apply_template(
    engine: *mut aquila_engine,
    messages_json: *const c_char,
    tools_json: *const c_char,
    add_prompt: u32,
    text: *mut c_char,
    capacity: usize,
    size: *mut usize,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        status_call(error, || {
            let size = guard::optional_out("size", size)?;
            let engine = pin_engine(engine)?;
            let messages = guard::text("messages_json", messages_json)?;
            let tools = guard::optional_text("tools_json", tools_json)?;
            let rendered = engine.engine().chat_template()?.render(messages, tools, add_prompt != 0)?;
            put_text(&rendered.text, text, capacity, size)
        })
    }
}

/// A string with its size, or NUL-terminated.
///
/// # Safety
/// `text`, unless NULL, points to `size` readable bytes, or is NUL-terminated, unchanged for `'a`.
pub(super) unsafe fn sized_text<'a>(name: &str, text: *const c_char, size: usize) -> Result<&'a str> {
    let bytes = match size {
        // SAFETY: the caller's promise is the same.
        AQUILA_NTS => unsafe { guard::c_string(name, text) }?.to_bytes(),
        // SAFETY: as above.
        _ => unsafe { guard::array(name, text.cast::<u8>(), size) }?,
    };
    crate::ensure!(
        bytes.len() <= limits::PROMPT_BYTES_MAX,
        Argument,
        "{name}: {} bytes, at most {}",
        bytes.len(),
        limits::PROMPT_BYTES_MAX
    );
    guard::utf8(name, bytes)
}

/// C's ids as the library's, each checked to be in `0..vocab`. More than any context has are refused before they are
/// looked at: such a count is a mistake.
pub(super) fn token_ids(name: &str, ids: &[i32], vocab: usize) -> Result<Vec<u32>> {
    let (count, most) = (ids.len(), limits::CONTEXT_MAX);
    crate::ensure!(count <= most as usize, Argument, "{name}: {count} ids, expected at most {most}");
    let mut checked = Vec::new();
    let room = checked.try_reserve_exact(count);
    room.map_err(|_| crate::error!(NoMemory, "{name}: no memory for {count} ids"))?;
    for (at, &id) in ids.iter().enumerate() {
        match u32::try_from(id) {
            Ok(known) if (known as usize) < vocab => checked.push(known),
            _ => crate::bail!(Argument, "{name}[{at}]: id {id}, expected 0 to {}", vocab.saturating_sub(1)),
        }
    }
    Ok(checked)
}

/// Gives text by the two-call protocol: its size always, the text and a NUL where both fit.
///
/// # Safety
/// `to`, unless NULL, points to `capacity` writable bytes.
pub(super) unsafe fn put_text(
    text: &str,
    to: *mut c_char,
    capacity: usize,
    size: Option<&mut usize>,
) -> Result<()> {
    if let Some(size) = size {
        *size = text.len();
    }
    if to.is_null() && capacity == 0 {
        return Ok(());
    }
    guard::check_pointer("text", to)?;
    crate::ensure!(
        text.len() < capacity,
        TooSmall,
        "text: room for {capacity} bytes, expected {} and a NUL",
        text.len()
    );
    // SAFETY: `capacity` bytes are writable by the caller's promise, and the text and a NUL fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), to, text.len());
        *to.add(text.len()) = 0;
    }
    Ok(())
}

/// Gives elements by the two-call protocol.
///
/// # Safety
/// `to`, unless NULL or misaligned, points to `capacity` writable elements.
pub(super) unsafe fn put<T: Copy>(
    name: &str,
    found: &[T],
    to: *mut T,
    capacity: usize,
    count: Option<&mut usize>,
) -> Result<()> {
    if let Some(count) = count {
        *count = found.len();
    }
    if to.is_null() && capacity == 0 {
        return Ok(());
    }
    guard::check_pointer(name, to)?;
    crate::ensure!(
        found.len() <= capacity,
        TooSmall,
        "{name}: room for {capacity}, expected {}",
        found.len()
    );
    // SAFETY: aligned, `capacity` elements are writable by the caller's promise, and all fit.
    unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), to, found.len()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn buffers_get_all_or_nothing() {
        let mut room = [b'?' as c_char; 8];
        let mut size = 0;
        // SAFETY: the room has 8 bytes, never less than claimed.
        unsafe {
            put_text("模x", std::ptr::null_mut(), 0, Some(&mut size)).unwrap();
            assert_eq!(size, 4);
            let error = put_text("模x", room.as_mut_ptr(), 4, Some(&mut size)).unwrap_err();
            assert_eq!(error.status, Status::TooSmall);
            assert_eq!(room, [b'?' as c_char; 8]);
            put_text("模x", room.as_mut_ptr(), 5, None).unwrap();
            assert_eq!(room[3..6].iter().map(|&c| c.to_ne_bytes()[0]).collect::<Vec<_>>(), b"x\0?");
            assert!(put_text("x", std::ptr::null_mut(), 9, None).is_err());
            let mut ids = [0; 2];
            assert!(put("ids", &[1, 2, 3], ids.as_mut_ptr(), 2, Some(&mut size)).is_err());
            assert_eq!((ids, size), ([0, 0], 3));
            put("ids", &[1, 2], ids.as_mut_ptr(), 2, None).unwrap();
            assert_eq!(ids, [1, 2]);
        }
    }

    #[test]
    fn ids_out_of_range_are_named() {
        assert_eq!(token_ids("ids", &[0, 9], 10).unwrap(), [0, 9]);
        for bad in [-1, 10, i32::MIN] {
            let message = token_ids("ids", &[3, bad], 10).unwrap_err().message;
            assert_eq!(message, format!("ids[1]: id {bad}, expected 0 to 9"));
        }
    }
}
