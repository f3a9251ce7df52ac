//! A descriptor that a program can poll: readable while it is raised.

use crate::base::error::{Error, Result, Status};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An event counter of the kernel, not raised at first. Closed on exec.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// `IO` where the process has no descriptor left.
    pub fn new() -> Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            let reason = std::io::Error::last_os_error();
            return Err(Error {
                status: Status::Io,
                native_code: reason.raw_os_error().unwrap_or(0),
                message: format!("no descriptor for a queue: {reason}"),
            });
        }
        // SAFETY: just made, and nobody else's.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// For poll, select and epoll alone.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes it readable.
    pub fn raise(&self) {
        let one = 1u64;
        // It fails only where the counter is full, and then it is readable.
        // SAFETY: eight readable bytes.
        unsafe { libc::write(self.fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Makes it unreadable.
    pub fn lower(&self) {
        let mut count = 0u64;
        // It fails only where it was not readable.
        // SAFETY: eight writable bytes.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}
