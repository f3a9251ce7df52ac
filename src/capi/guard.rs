//! The door-keeper: every export runs its body inside [`status_call`], [`outcome_call`] or
//! [`value_call`].
//!
//! They catch panics (a panic that leaves `extern "C"` kills the process), fill the caller's error
//! struct, and tear down, when the outermost call of this thread returns, the engines that were freed
//! inside a callback. The functions below them turn C's pointers into checked Rust values; each names
//! the argument in its message.

use super::engine::EngineObject;
use super::handles::Pin;
use super::status::{AQUILA_OK, aquila_error, aquila_status};
use crate::base::error::{Error, Result};
use crate::base::reserve;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

thread_local! {
    /// How many library calls this thread is inside of: more than one inside a callback.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// What the outermost call found: how often this thread had needed the reserve of memory.
    static HITS: Cell<u64> = const { Cell::new(0) };
    /// Engines freed inside a callback, to be torn down when the outermost call returns.
    static FREED: RefCell<Vec<Pin<EngineObject>>> = const { RefCell::new(Vec::new()) };
    /// What the panic hook saw last on this thread.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of an export that returns a status and may take an error struct.
///
/// # Safety
/// `error` is NULL or points to an `aquila_error` that nobody else uses now (alignment is checked).
pub(super) unsafe fn status_call(
    error: *mut aquila_error,
    body: impl FnOnce() -> Result<()>,
) -> aquila_status {
    // SAFETY: the caller's promise is the same.
    unsafe { outcome_call(error, || body().map(|()| AQUILA_OK)) }
}

/// The same for an export that can succeed in more than one way.
///
/// # Safety
/// As for [`status_call`].
pub(super) unsafe fn outcome_call(
    error: *mut aquila_error,
    body: impl FnOnce() -> Result<aquila_status>,
) -> aquila_status {
    if !error.is_aligned() {
        return crate::Status::Argument as aquila_status;
    }
    let result = run(|| reserve::check().and_then(|()| body()));
    let status = result.as_ref().map_or_else(|e| e.status as aquila_status, |&status| status);
    // SAFETY: aligned as just checked, else as the caller promises.
    if let Some(error) = unsafe { error.as_mut() } {
        error.fill(result.err().as_ref());
        error.status = status;
    }
    status
}

/// Runs the body of an export that has no status: `fallback` where it fails.
pub(super) fn value_call<T>(fallback: T, body: impl FnOnce() -> Result<T>) -> T {
    run(body).unwrap_or(fallback)
}

fn run<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    install_panic_hook();
    enter();
    let result = catch(body);
    leave();
    result
}

fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // Nothing that a caught panic leaves half done is seen again: what a body builds is dropped with
    // it, and the engine guards its own state.
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panic_error(payload)))
}

fn enter() {
    let _ = DEPTH.try_with(|depth| {
        if depth.get() == 0 {
            let _ = HITS.try_with(|hits| hits.set(reserve::hits()));
        }
        depth.set(depth.get() + 1);
    });
}

/// `NoMemory` where the calls that this thread is inside of needed the reserve: nothing that will live on should be made of
/// it.
pub(super) fn check_memory() -> Result<()> {
    reserve::check_since(HITS.try_with(Cell::get).unwrap_or(0))
}

fn leave() {
    let outermost = DEPTH.try_with(|depth| {
        depth.set(depth.get().saturating_sub(1));
        depth.get() == 0
    });
    if outermost != Ok(true) {
        return;
    }
    // Taken one by one: tearing down runs no callback, yet nothing is borrowed meanwhile.
    while let Ok(Some(engine)) = FREED.try_with(|freed| freed.borrow_mut().pop()) {
        let _ = catch(|| {
            engine.tear_down();
            Ok(())
        });
    }
}

/// Tears an engine down: now, or when the outermost call of this thread returns if it is inside one.
pub(super) fn tear_down_outermost(engine: Pin<EngineObject>) {
    let inside = DEPTH.try_with(Cell::get).unwrap_or(0) > 1;
    if inside {
        // Where the thread is too far gone to remember it, the engine is dropped with its last clone.
        let _ = FREED.try_with(|freed| freed.borrow_mut().push(engine));
    } else {
        engine.tear_down();
    }
}

/// A panic hook prints, and this library never does. The standard library inside `libaquila` is its
/// own copy, so this hook is private to it; in a Rust host, panics outside of library calls still go
/// to the hook that was there before.
fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let inside = DEPTH.try_with(Cell::get).unwrap_or(0) > 0;
            let ours = std::thread::current().name().is_some_and(|name| name.starts_with("aquila-"));
            if !inside && !ours {
                return before(info);
            }
            let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let message = format!("{} at {place}", payload_text(info.payload()));
            log::error!("panic: {message}");
            let _ = PANIC.try_with(|last| last.replace(Some(message)));
        }));
    });
}

fn panic_error(payload: Box<dyn Any + Send>) -> Error {
    let seen = PANIC.try_with(RefCell::take).ok().flatten();
    let text = seen.unwrap_or_else(|| payload_text(payload.as_ref()).to_owned());
    crate::error!(Internal, "a bug in the library, caught: {text}")
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// A required out-pointer.
///
/// # Safety
/// `place`, unless NULL or misaligned, points to a writable `T` that nobody else uses for `'a`.
pub(super) unsafe fn out<'a, T>(name: &str, place: *mut T) -> Result<&'a mut T> {
    check_pointer(name, place)?;
    // SAFETY: not NULL and aligned as just checked; the rest is the caller's promise.
    Ok(unsafe { &mut *place })
}

/// Clears an out-pointer, first thing of all: a failure leaves NULL there, even one that is found before
/// the body of the call runs.
///
/// # Safety
/// As for [`out`].
pub(super) unsafe fn clear<T>(place: *mut *mut T) {
    // SAFETY: the caller's promise is the same; what cannot be written is refused by `out` later.
    if let Ok(place) = unsafe { out("out", place) } {
        *place = std::ptr::null_mut();
    }
}

/// An optional out-pointer.
///
/// # Safety
/// As for [`out`].
pub(super) unsafe fn optional_out<'a, T>(name: &str, place: *mut T) -> Result<Option<&'a mut T>> {
    if place.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    unsafe { out(name, place) }.map(Some)
}

/// An array of `count` elements; NULL is allowed where `count` is 0.
///
/// # Safety
/// `first`, unless NULL or misaligned, points to `count` readable elements, unchanged for `'a`.
pub(super) unsafe fn array<'a, T>(name: &str, first: *const T, count: usize) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    check_pointer(name, first)?;
    crate::ensure!(
        count.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok()),
        Argument,
        "{name}: {count} elements do not fit in memory"
    );
    // SAFETY: not NULL, aligned, and no longer than isize::MAX bytes; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(first, count) })
}

/// How long to wait: `None` without limit, for AQUILA_FOREVER.
pub(super) fn timeout(milliseconds: i64) -> Result<Option<Duration>> {
    crate::ensure!(
        milliseconds >= -1,
        Argument,
        "timeout_ms: {milliseconds}, expected -1 (AQUILA_FOREVER) or more"
    );
    Ok(u64::try_from(milliseconds).ok().map(Duration::from_millis))
}

/// A required NUL-terminated UTF-8 string.
///
/// # Safety
/// `text`, unless NULL, is a NUL-terminated string, unchanged for `'a`.
pub(super) unsafe fn text<'a>(name: &str, text: *const c_char) -> Result<&'a str> {
    // SAFETY: the caller's promise is the same.
    utf8(name, unsafe { c_string(name, text) }?.to_bytes())
}

/// An optional NUL-terminated UTF-8 string.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn optional_text<'a>(name: &str, string: *const c_char) -> Result<Option<&'a str>> {
    if string.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same.
    unsafe { text(name, string) }.map(Some)
}

/// A required NUL-terminated string of any bytes, such as a path.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn c_string<'a>(name: &str, text: *const c_char) -> Result<&'a CStr> {
    crate::ensure!(!text.is_null(), Argument, "{name}: NULL, expected a NUL-terminated string");
    // SAFETY: not NULL; that it is NUL-terminated is the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// A copy of a text of any length.
pub(super) fn owned(name: &str, text: &str) -> Result<String> {
    let mut copy = String::new();
    let room = copy.try_reserve_exact(text.len());
    room.map_err(|_| crate::error!(NoMemory, "{name}: no memory for {} bytes", text.len()))?;
    copy.push_str(text);
    Ok(copy)
}

/// A required path: a NUL-terminated string of any bytes, at least one.
///
/// # Safety
/// As for [`text`].
pub(super) unsafe fn path<'a>(name: &str, path: *const c_char) -> Result<&'a Path> {
    // SAFETY: the caller's promise is the same.
    let bytes = unsafe { c_string(name, path) }?.to_bytes();
    crate::ensure!(!bytes.is_empty(), Argument, "{name}: empty, expected a path");
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// Bytes that must be UTF-8.
pub(super) fn utf8<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|e| crate::error!(Argument, "{name}: no UTF-8 from byte {} on", e.valid_up_to()))
}

/// `Argument` for NULL and for a misaligned address.
pub(super) fn check_pointer<T>(name: &str, pointer: *const T) -> Result<()> {
    crate::ensure!(!pointer.is_null(), Argument, "{name}: NULL, expected an address");
    crate::ensure!(
        pointer.is_aligned(),
        Argument,
        "{name}: address {:#x} is misaligned, expected a multiple of {}",
        pointer.addr(),
        align_of::<T>()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    fn message(error: &aquila_error) -> String {
        // SAFETY: `fill` always ends the message with NUL.
        unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_with_its_place() {
        let mut error = aquila_error::empty();
        // SAFETY: the error is a live local.
        let status = unsafe { status_call(&mut error, || panic!("index 7 of {}", 3)) };
        assert_eq!(status, Status::Internal as i32);
        assert_eq!(error.status, status);
        let message = message(&error);
        assert!(message.contains("index 7 of 3 at src/capi/guard.rs:"), "{message}");
        assert_eq!(value_call(5, || panic!("again")), 5);
        // SAFETY: as above; and NULL is allowed.
        assert_eq!(unsafe { status_call(&mut error, || Ok(())) }, AQUILA_OK);
        assert_eq!((error.status, error.message[0]), (AQUILA_OK, 0));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { status_call(std::ptr::null_mut(), || panic!("x")) }, Status::Internal as i32);
    }

    #[test]
    fn a_misaligned_error_is_not_written() {
        let mut room = [aquila_error::empty(), aquila_error::empty()];
        let odd = room.as_mut_ptr().cast::<u8>().wrapping_add(1).cast::<aquila_error>();
        // SAFETY: inside `room`; the alignment is what is tested.
        let status = unsafe { status_call(odd, || Ok(())) };
        assert_eq!(status, Status::Argument as i32);
    }

    #[test]
    fn pointers_are_checked_before_use() {
        // SAFETY: every pointer here is refused or points to a live local.
        unsafe {
            let word = 0u64;
            let odd = (&raw const word).cast::<u8>().wrapping_add(1).cast::<u32>();
            assert!(array("ids", odd, 1).unwrap_err().message.contains("misaligned"));
            assert!(array::<u32>("ids", std::ptr::null(), 0).unwrap().is_empty());
            assert!(array::<u32>("ids", std::ptr::null(), 1).unwrap_err().message.contains("ids: NULL"));
            assert!(array("ids", &word, usize::MAX).is_err());
            assert!(out::<u32>("out", std::ptr::null_mut()).is_err());
            let bad = c"ab\xFF";
            assert!(text("prompt", bad.as_ptr()).unwrap_err().message.contains("from byte 2"));
            assert_eq!(optional_text("x", std::ptr::null()).unwrap(), None);
        }
    }
}
