//! Threads of the library: named, and deaf to signals, which belong to the host's own threads.

use crate::base::error::{Error, Result, Status};
use std::thread::JoinHandle;

/// Starts a thread called `name` (at most 15 bytes reach the system) with all signals blocked.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            block_signals();
            run();
        })
        .map_err(|cause| Error {
            status: Status::NoMemory,
            native_code: cause.raw_os_error().unwrap_or(0),
            message: format!("cannot start thread {name}: {cause}"),
        })
}

/// Blocks all signals in the calling thread. A synchronous fault (SIGSEGV, SIGBUS) still ends the
/// process, as it must.
fn block_signals() {
    // SAFETY: `all` is a plain set that sigfillset initialises; pthread_sigmask reads it only.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}
