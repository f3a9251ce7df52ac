//! Ctrl-C. The first press asks the running work to end; a second one that finds it still running
//! ends the program at once. The handler is the program's: the library installs none.

use std::sync::atomic::{AtomicU32, Ordering};

/// Presses that nothing has answered yet.
static PRESSES: AtomicU32 = AtomicU32::new(0);

/// Only an atomic and `_exit`: both may be used in a signal handler.
extern "C" fn on_interrupt(_signal: libc::c_int) {
    if PRESSES.fetch_add(1, Ordering::Relaxed) >= 1 {
        // SAFETY: `_exit` may be called from a signal handler.
        unsafe { libc::_exit(libc::c_int::from(super::EXIT_INTERRUPTED)) };
    }
}

/// Installs the handler. A read that waits when the signal comes returns `Interrupted`.
pub fn install() {
    // SAFETY: an all-zero sigaction is a value of it: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = on_interrupt;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler touches an atomic only, and `action` outlives the call. Should it be
    // refused, Ctrl-C ends the program as it does by default.
    unsafe { libc::sigaction(libc::SIGINT, &action, std::ptr::null_mut()) };
}

/// Whether Ctrl-C was pressed since the last [`answered`].
pub fn pressed() -> bool {
    PRESSES.load(Ordering::Relaxed) > 0
}

/// Forgets earlier presses: the work they were meant for has ended.
pub fn answered() {
    PRESSES.store(0, Ordering::Relaxed);
}
