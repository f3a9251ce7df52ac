//! Threads of the library: named, and deaf to signals, which belong to the host's own threads.

use crate::base::error::{Error, Result, Status};
use std::thread::JoinHandle;

/// What must be there for a thread to begin: the C library ends the process where it cannot write down what to do at a
/// thread's end.
const BEGINNING_BYTES: usize = 64 << 10;

/// Starts a thread called `name` (at most 15 bytes reach the system) with all signals blocked.
/// `NoMemory` with the `errno` where the system gives none.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    probe(name)?;
    let _mask = SignalMask::block_all();
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|cause| refused(name, &cause))
}

/// Runs on a thread of its own with `bytes` of stack, signals blocked, and waits for it: for code that goes as deep as
/// its input, whatever the caller's stack is. The inner `Err` is what a panic said. `NoMemory` where the system gives no
/// thread.
pub fn with_stack<T: Send>(
    name: &str,
    bytes: usize,
    run: impl FnOnce() -> T + Send,
) -> Result<std::thread::Result<T>> {
    probe(name)?;
    std::thread::scope(|scope| {
        let mask = SignalMask::block_all();
        let thread = std::thread::Builder::new().name(name.into()).stack_size(bytes);
        let thread = thread.spawn_scoped(scope, run).map_err(|cause| refused(name, &cause))?;
        drop(mask);
        Ok(thread.join())
    })
}

fn probe(name: &str) -> Result<()> {
    crate::base::reserve::probe(BEGINNING_BYTES).map_err(|error| error.at(format!("thread {name}")))
}

fn refused(name: &str, cause: &std::io::Error) -> Error {
    Error {
        status: Status::NoMemory,
        native_code: cause.raw_os_error().unwrap_or(0),
        message: format!("cannot start thread {name}: {cause}"),
    }
}

/// Blocks all signals of the calling thread while it lives. Threads inherit the mask of their maker, so
/// those made meanwhile never run the host's handlers, not even in their first moment. A synchronous
/// fault (SIGSEGV, SIGBUS) still ends the process, as it must.
pub struct SignalMask(libc::sigset_t);

impl SignalMask {
    /// Blocks all signals until the value is dropped.
    pub fn block_all() -> Self {
        // SAFETY: sigset_t is plain integers; sigfillset and pthread_sigmask write valid sets.
        unsafe {
            let (mut all, mut former) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut former);
            SignalMask(former)
        }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: restores the set that `block_all` read.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
