//! The log callback: where the library's records go. Nowhere, until a host asks for them.

use super::guard::value_call;
use parking_lot::Mutex;
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Once};
use std::time::Duration;

/// How much is logged; each level includes those before it.
pub type aquila_log_level = i32;

/// Nothing.
pub const AQUILA_LOG_OFF: i32 = 0;
/// What failed.
pub const AQUILA_LOG_ERROR: i32 = 1;
/// What looks wrong and was worked around.
pub const AQUILA_LOG_WARN: i32 = 2;
/// What was loaded, and the limits that were chosen.
pub const AQUILA_LOG_INFO: i32 = 3;
/// Everything.
pub const AQUILA_LOG_DEBUG: i32 = 4;

/// Receives one log record. Runs on any thread, also on threads of the library and on several at once;
/// it must not call the library, nor longjmp or throw. `target` is the part of the library that speaks;
/// both strings are UTF-8 and live until it returns.
pub type aquila_log_fn = Option<
    unsafe extern "C" fn(
        level: aquila_log_level,
        target: *const c_char,
        message: *const c_char,
        user: *mut c_void,
    ),
>;

/// Where records go.
struct Sink {
    function: unsafe extern "C" fn(aquila_log_level, *const c_char, *const c_char, *mut c_void),
    user: *mut c_void,
}

// SAFETY: the pointer is only handed back to the host's function, which the header says is called
// from any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: Mutex<Option<Arc<Sink>>> = Mutex::new(None);

thread_local! {
    /// Inside the host's function: records made there are dropped, or they would never end.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The `log` crate's view of the sink. The copy of that crate inside `libaquila` is the library's own;
/// in a Rust host it is shared, and a logger that the host has set stays.
struct Router;

impl log::Log for Router {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let target = metadata.target();
        target == "aquila" || target.starts_with("aquila::")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) || INSIDE.try_with(Cell::get).unwrap_or(true) {
            return;
        }
        let Some(sink) = SINK.lock().clone() else { return };
        let string = |text: String| CString::new(text.replace('\0', "?")).unwrap_or_default();
        let (target, message) = (string(record.target().into()), string(record.args().to_string()));
        let level = match record.level() {
            log::Level::Error => AQUILA_LOG_ERROR,
            log::Level::Warn => AQUILA_LOG_WARN,
            log::Level::Info => AQUILA_LOG_INFO,
            log::Level::Debug | log::Level::Trace => AQUILA_LOG_DEBUG,
        };
        INSIDE.with(|inside| inside.set(true));
        // SAFETY: the host gave this function for exactly this use; no lock is held, and `set_log`
        // returns only when no call is left that could use a former `user`.
        unsafe { (sink.function)(level, target.as_ptr(), message.as_ptr(), sink.user) };
        INSIDE.with(|inside| inside.set(false));
    }

    fn flush(&self) {}
}

/// Sets where the library's log records go. Without this call there are none: the library never
/// prints.
///
/// Parameters: `max`, the most verbose level wanted (AQUILA_LOG_OFF to AQUILA_LOG_DEBUG); `log`, the
/// function, NULL for none; `user`, handed to it as it is.
/// Ownership: `user` stays the caller's. When the call returns, the function set before runs no more
/// and its `user` can be freed.
/// Threads: any, at any time, but not from inside the log function, where it does nothing. It
/// waits for running calls of the former function.
///
/// # Safety
/// `log` must be callable from any thread, with `user`, until replaced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_set_log(max: aquila_log_level, log: aquila_log_fn, user: *mut c_void) {
    value_call((), || {
        if INSIDE.try_with(Cell::get).unwrap_or(true) {
            return Ok(());
        }
        let filter = match max {
            i32::MIN..=AQUILA_LOG_OFF => log::LevelFilter::Off,
            AQUILA_LOG_ERROR => log::LevelFilter::Error,
            AQUILA_LOG_WARN => log::LevelFilter::Warn,
            AQUILA_LOG_INFO => log::LevelFilter::Info,
            _ => log::LevelFilter::Debug,
        };
        let sink = log.filter(|_| filter != log::LevelFilter::Off).map(|function| Sink { function, user });
        let quiet = sink.is_none();
        let former = {
            // Held for both, so that of two calls at once one leaves its function and its level.
            let mut current = SINK.lock();
            if install_router() {
                log::set_max_level(if quiet { log::LevelFilter::Off } else { filter });
            }
            std::mem::replace(&mut *current, sink.map(Arc::new))
        };
        while former.as_ref().is_some_and(|former| Arc::strong_count(former) > 1) {
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    })
}

/// Whether records come to the router: not where a Rust host has a logger of its own.
fn install_router() -> bool {
    static ROUTER: Router = Router;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = log::set_logger(&ROUTER);
    });
    std::ptr::addr_eq(log::logger(), &raw const ROUTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    unsafe extern "C" fn keep(level: i32, target: *const c_char, text: *const c_char, user: *mut c_void) {
        // SAFETY: the test passes a `Mutex<Vec<String>>` that outlives the calls, and strings.
        unsafe {
            let kept = &*user.cast::<Mutex<Vec<String>>>();
            let (target, text) = (CStr::from_ptr(target), CStr::from_ptr(text));
            log::error!(target: "aquila::log", "a record from inside the callback");
            kept.lock().push(format!("{level} {} {}", target.to_str().unwrap(), text.to_str().unwrap()));
        }
    }

    #[test]
    fn records_of_the_library_alone_reach_the_callback() {
        let kept: Mutex<Vec<String>> = Mutex::new(Vec::new());
        log::error!(target: "aquila::log", "before");
        // SAFETY: `kept` lives until the sink is taken away below.
        unsafe { aquila_set_log(AQUILA_LOG_WARN, Some(keep), (&raw const kept).cast_mut().cast()) };
        log::warn!(target: "aquila::log", "one\0two");
        log::info!(target: "aquila::log", "too fine");
        log::error!(target: "tokenizers", "not ours");
        log::error!(target: "aquilax", "not ours");
        // SAFETY: no sink.
        unsafe { aquila_set_log(AQUILA_LOG_OFF, None, std::ptr::null_mut()) };
        log::error!(target: "aquila::log", "after");
        let seen: Vec<String> = kept.lock().iter().filter(|l| l.contains("aquila::log")).cloned().collect();
        assert_eq!(seen, ["2 aquila::log one?two"]);
    }
}
