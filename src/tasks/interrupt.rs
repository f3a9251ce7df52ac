//! Ctrl-C. The first press asks the running work to end; a second one that finds it still running
//! ends the program at once. The handler is the program's: the library installs none.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;
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

/// Installs the handler.
pub fn install() {
    // SAFETY: an all-zero sigaction is a value of it: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = on_interrupt;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler touches an atomic only, and `action` outlives the call. Should it be
    // refused, Ctrl-C ends the program as it does by default.
    unsafe { libc::sigaction(libc::SIGINT, &action, null_mut()) };
}

/// Whether Ctrl-C was pressed since the last [`answered`].
pub fn pressed() -> bool {
    PRESSES.load(Ordering::Relaxed) > 0
}

/// Forgets earlier presses: the work they were meant for has ended.
pub fn answered() {
    PRESSES.store(0, Ordering::Relaxed);
}

/// Waits until `input` has something to read (or has ended); `false` where Ctrl-C is pressed instead,
/// or was before the call, unless that press was `answered_already`.
///
/// The signal is held back except while waiting, so that a press just before the wait is not lost:
/// a plain read would sleep on as if nothing had happened.
pub fn wait_for_input(input: BorrowedFd<'_>, answered_already: bool) -> bool {
    let asked = || pressed() && !answered_already;
    // SAFETY: all-zero signal sets are values of them; both are initialised by the calls below.
    let (mut held, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: the sets outlive the calls.
    unsafe {
        libc::sigemptyset(&mut held);
        libc::sigaddset(&mut held, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &held, &mut before);
    }
    let mut poll = libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    while !asked() {
        // SAFETY: one pollfd; no time limit; `before` is the mask while it waits.
        let ready = unsafe { libc::ppoll(&mut poll, 1, std::ptr::null(), &before) };
        // Other signals, such as that of a resized window, go on waiting.
        if ready >= 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            break;
        }
    }
    // SAFETY: the mask that was in force before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut()) };
    !asked()
}
